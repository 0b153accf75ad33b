"""Batches of deletion: never more of them than a bounded share of the time."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from .. import metrics

Done = TypeVar("Done")

# Of one connection, and so of a core of the database at most: the rest belongs to who receives and sends.
SHARE = 0.2
RENEW_EVERY_S = 30.0


class Pace:
    """Runs batches one after the other, and pauses after each for as long as makes them a *share* of the time.

    *renew* is called now and then, so that nobody else begins the same meanwhile; what it raises ends the work.
    """

    def __init__(self, share: float, renew: Callable[[], Awaitable[None]] | None) -> None:
        self._share = share
        self._renew = renew
        self._renewed_at = monotonic()
        self.deleted: dict[str, int] = {}
        self.took_s = 0.0  # the last batch

    async def run(self, batch: Callable[[], Awaitable[Done]]) -> Done:
        began = monotonic()
        if self._renew and began - self._renewed_at > RENEW_EVERY_S:
            self._renewed_at = began
            await self._renew()
        done = await batch()
        self.took_s = monotonic() - began
        await asyncio.sleep(self.took_s * (1 / self._share - 1))
        return done

    def count(self, table: str, rows: int) -> None:
        """*rows* of *table* are gone."""
        metrics.retention_deleted.labels(table).inc(rows)
        self.deleted[table] = self.deleted.get(table, 0) + rows
