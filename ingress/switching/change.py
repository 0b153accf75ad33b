"""The stages of a change of an organization's active config, and why one is refused.

Requested ──▶ Begun ──▶ Ready ──▶ Switched
                └── the switch waits for a phone ──▶ Switched, with ``waits_until``
"""

from datetime import datetime
from uuid import UUID

import msgspec

from providers import Check, ProviderStatus

from ..accounts.config import ChangeRefused, Config, NewConfig
from ..audit.trail import Actor
from ..storage.statements.switches import OpenSwitch, Standing
from ..validation import sentence

NO_FORMER_CONFIG = "There is no former config to return to. Switch to one of provider/configs instead."


class VersionConflict(ChangeRefused):
    """The organization is not at the version that was expected; it is at ``version``, with ``active_config_id``."""

    code = "version_conflict"

    def __init__(self, version: int, active_config_id: UUID | None) -> None:
        super().__init__(f"The organization is at version {version}. Look at what is active now, and decide again.")
        self.version = version
        self.active_config_id = active_config_id


class NoFormerConfig(ChangeRefused):
    """There is none to return to."""

    code = "no_former_config"

    def __init__(self) -> None:
        super().__init__(NO_FORMER_CONFIG)


class NotPaired(ChangeRefused):
    """No phone is linked to the account."""

    code = "not_paired"


class TooSlow(ChangeRefused):
    """The account was not tested and set up in time."""

    code = "too_slow"


class NotReceiving(ChangeRefused):
    """What people write to the account would not arrive here. ``checks`` say what to do."""

    code = "webhook_not_set"

    def __init__(self, failed: Check, checks: list[Check]) -> None:
        super().__init__(" ".join(map(sentence, filter(None, [failed.detail, failed.fix]))))
        self.checks = checks


class StandIn(msgspec.Struct, frozen=True):
    """That another config stands in for ``primary`` since ``at``, and the fallbacks of it then."""

    primary: UUID
    order: list[UUID]
    at: datetime


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A change that somebody asks for: to a config that is stored, to a new one, or (None) to the one before this.

    ``force``: without a test. ``order``: the fallbacks from then on, None: as `order_after` has them.
    """

    organization_id: UUID
    target: UUID | NewConfig | None
    actor: Actor
    kind: str = "switch"
    expected_version: int | None = None  # None: any
    force: bool = False
    reason: str | None = None
    order: list[UUID] | None = None
    stand_in: StandIn | None = None
    expected_entries: int | None = None  # of the trail: what failed meanwhile is in it, and changed no version

    def check_version(self, standing: Standing) -> None:
        """Raises `VersionConflict` where the organization is at another version, or entry, than is expected."""
        is_at_version = self.expected_version in (None, standing.version)
        if not is_at_version or self.expected_entries not in (None, standing.audit_entries):
            raise VersionConflict(standing.version, standing.active_config_id)

    def __repr__(self) -> str:
        return f"Requested({self.organization_id}, {self.kind})"


def as_asked(organization_id: UUID, waited: OpenSwitch) -> Requested:
    """The request that a switch which waits was begun with."""
    return Requested(
        organization_id=organization_id,
        # Of a rollback the former config is this one still, and the fallbacks of then are its own again.
        target=None if waited.kind == "rollback" else waited.config_id,
        actor=Actor(waited.actor, waited.address),
        kind=waited.kind,
        expected_version=waited.expected_version,
        reason=waited.reason,
    )


class Begun(msgspec.Struct, frozen=True):
    """One whose config is in `switching`, for everybody to see; in ``former_state`` again where it is not made.

    A new configuration was tested before it was saved: its ``checks``, None where it is to be tested yet.
    """

    request: Requested
    standing: Standing
    order: list[UUID]
    config: Config
    former_state: str
    checks: list[Check] | None = None
    status: ProviderStatus | None = None

    def __repr__(self) -> str:
        return f"Begun({self.config!r})"


class Ready(msgspec.Struct, frozen=True):
    """One whose account was tested and set up, or is not to be: all that is left is the transaction that makes it."""

    begun: Begun
    checks: list[Check]
    status: ProviderStatus | None

    def __repr__(self) -> str:
        return f"Ready({self.begun!r})"


class Unpaired(msgspec.Struct, frozen=True):
    """One whose account was set up, and has no phone linked to it."""

    begun: Begun
    checks: list[Check]

    def __repr__(self) -> str:
        return f"Unpaired({self.begun!r})"


class Switched(msgspec.Struct, frozen=True):
    """What is in force now. ``changed`` False: it was before, or the switch waits for a phone until ``waits_until``.

    ``entry`` is its number in the trail.
    """

    config: Config
    version: int
    former_config_id: UUID | None
    checks: list[Check]
    fallback_config_ids: list[UUID]  # once it is made
    changed: bool = False
    waits_until: datetime | None = None
    entry: int | None = None


def order_after(request: Requested, standing: Standing, config: Config | None) -> list[UUID]:
    """The fallbacks once it is made: where nothing else is asked for, the config that is left takes the other's place.

    That of a further config is the end, unless it shall have none; *config* None: it is not stored. After a rollback
    they are those of then, unless somebody has set others since.
    """
    if request.order is not None:
        return request.order
    order, target = _order_before(request, standing), config.id if config else None
    if _joins(request, config) and target not in order:
        order.append(target)
    order_then = [standing.active_config_id if config_id == target else config_id for config_id in order]
    return [config_id for config_id in order_then if config_id is not None]


def _order_before(request: Requested, standing: Standing) -> list[UUID | None]:
    former = standing.former_fallback_ids if request.target is None else None
    return [*(standing.fallback_config_ids if former is None else former)]


def _joins(request: Requested, config: Config | None) -> bool:
    return request.target.as_fallback if isinstance(request.target, NewConfig) else bool(config and config.joins_order)
