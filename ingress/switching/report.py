"""What a change leaves in the log and in metrics, and shows meanwhile: how far it came, how long each phase took."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeAlias
from uuid import UUID

from providers import Check

from .. import log, metrics
from ..accounts.config import ChangeRefused, NotFound
from ..storage.database import Busy, LockLost, StoreUnavailable
from ..storage.statements.switches import Confirmed
from ..validation import Unlogged
from .change import Begun, Requested, Switched, VersionConflict

_Position = tuple[UUID | None, UUID | None, int | None]
_OUTCOMES = {LockLost: "lock_lost", Busy: "busy", StoreUnavailable: "unavailable", NotFound: "not_found"}


class Phase(Unlogged, frozen=True):
    """A part of a change that has ended: lock, test, set_up, commit or propagate; and how long it took."""

    name: str
    ms: float


# What a change shows while it is made: phases that ended, checks that are done, which processes use it.
Step: TypeAlias = Phase | Check | Confirmed
Show: TypeAlias = Callable[[Step], None]


class Report:
    """Of one change: ``stage`` is the last one that it reached. Logged when it ends, however it ends.

    ``phases`` that have ended, in milliseconds; *show* gets each of them.
    """

    def __init__(self, request: Requested, show: Show | None = None) -> None:
        self.stage: Requested | Begun | Switched = request
        self.phases: dict[str, float] = {}
        self.show = show
        self._request = request
        self._started = monotonic()

    @property
    def request(self) -> Requested:
        """The request; of a switch that waited, the one that it was begun with."""
        return self.stage.request if isinstance(self.stage, Begun) else self._request

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure one part of the change."""
        with phase(name, self._ended):
            yield

    def _ended(self, phase: Phase) -> None:
        self.phases[phase.name] = phase.ms
        if self.show is not None:
            self.show(phase)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        request, outcome = self.request, self._outcome(error)
        elapsed = monotonic() - self._started
        metrics.switch_seconds.labels(request.kind, outcome).observe(elapsed)
        if (request.kind, outcome) == ("rollback", "switched"):
            metrics.switch_rollbacks.labels("asked").inc()
        self._log(request, outcome, self._position(error), elapsed)

    def _log(self, request: Requested, outcome: str, position: _Position, elapsed: float) -> None:
        config_id, former, version = position
        log.wide(
            "switch",
            organization=request.organization_id,
            kind=request.kind,
            outcome=outcome,
            actor=request.actor.name,
            config=config_id,
            former=former,
            version=version,
            ms=round(elapsed * 1000, 1),
        )

    def _outcome(self, error: BaseException | None) -> str:
        if isinstance(error, ChangeRefused):
            return error.code
        if isinstance(error, Exception):
            return _OUTCOMES.get(type(error), "error")
        if error is not None:
            return "error"
        if isinstance(self.stage, Switched) and self.stage.changed:
            return "switched"
        return "waiting" if isinstance(self.stage, Switched) and self.stage.waits_until else "unchanged"

    def _position(self, error: BaseException | None) -> _Position:
        """The config that it is about, the one before, and the version."""
        match self.stage:
            case Switched() as switched:
                return switched.config.id, switched.former_config_id, switched.version
            case Begun(config=config, standing=standing):
                return config.id, standing.active_config_id, standing.version
        target = self._request.target
        target = target if isinstance(target, UUID) else None
        if isinstance(error, VersionConflict):
            return target, error.active_config_id, error.version
        return target, None, None


@contextmanager
def phase(name: str, ended: Callable[[Phase], None] | None = None) -> Iterator[None]:
    """Measure one part of a change; *ended* gets it."""
    started = monotonic()
    try:
        yield
    finally:
        elapsed = monotonic() - started
        metrics.switch_phase_seconds.labels(name).observe(elapsed)
        if ended is not None:
            ended(Phase(name, round(elapsed * 1000, 1)))
