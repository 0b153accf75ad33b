"""Calls to providers that are under way in this process, by config: what a switch finds at the flip, and waits out."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from uuid import UUID

from .. import metrics


class InFlight:
    """Counts. Calls through a config that is left end where they began; nobody waits for that."""

    def __init__(self) -> None:
        self._calls: Counter[UUID] = Counter()
        self._draining: dict[UUID, float] = {}

    def of(self, config_id: UUID) -> int:
        return self._calls[config_id]  # of a Counter: nothing is added by looking

    @contextmanager
    def call(self, config_id: UUID) -> Iterator[None]:
        """A call through the config is under way in the block."""
        self._calls[config_id] += 1
        try:
            yield
        finally:
            self._calls[config_id] -= 1
            if not self._calls[config_id]:
                del self._calls[config_id]
                if (since := self._draining.pop(config_id, None)) is not None:
                    metrics.switch_phase_seconds.labels("drain").observe(monotonic() - since)

    def flip(self, former: UUID | None, active: UUID | None) -> None:
        """This process sends through *active* from now on: measure what is under way through *former*, and how long."""
        if former is not None and former != active:
            metrics.switch_in_flight.observe(self._calls[former])
            if self._calls[former]:
                self._draining[former] = monotonic()
            else:
                metrics.switch_phase_seconds.labels("drain").observe(0.0)
        if active is not None:
            self._draining.pop(active, None)  # it is sent through again
