"""How posts ended, written for all conversations at once: what ends while a write is under way waits for the next one.

A conversation goes on meanwhile, for a bit: a post whose result is not written yet is made again if this process dies.
"""

import asyncio
from collections import deque
from time import monotonic

from ..storage.database import Database
from ..storage.statements import deliveries
from ..storage.statements.deliveries import LEASE_S, PostResult
from ..storage.statements.outages import endpoints_succeeded
from .outages import Outages

# Results of one conversation that may be unwritten while its next event is posted.
AHEAD = 16
# With a lease that old, nothing is posted before it is known that the lease still holds.
FRESH_S = LEASE_S / 3
MOST_ROWS = 256


class ResultWriter:
    """Writes what was delivered. One write at a time."""

    def __init__(self, database: Database, outages: Outages) -> None:
        self._database = database
        self._outages = outages
        self._waiting: list[tuple[PostResult, str, asyncio.Future[bool]]] = []
        self._writing: asyncio.Task[None] | None = None

    def submit(self, result: PostResult, url: str) -> asyncio.Future[bool]:
        """Write that *url* has taken an event: whether the lease was not lost. Raises what writing raises."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((result, url, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return future

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_ROWS], self._waiting[MOST_ROWS:]
            results, endpoints = [result for result, _, _ in batch], {(result[0], url) for result, url, _ in batch}
            try:
                async with self._database.worker() as connection:
                    self._outages.ended(await endpoints_succeeded(connection, endpoints))
                    written = await deliveries.finish(connection, results)
            except Exception as error:  # noqa: BLE001  (whoever submitted one gets it)
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # whoever waited may be gone; that is no unhandled error
                continue
            for result, _, future in batch:
                if not future.done():
                    future.set_result(result.sequence in written)
        self._writing = None


class Ahead:
    """The results of one conversation that are not written yet, since it was claimed."""

    def __init__(self) -> None:
        self.last = 0  # the sequence of the last one
        self._unwritten: deque[tuple[float, asyncio.Future[bool]]] = deque()
        self._leased_at = monotonic()

    def add(self, sequence: int, written: asyncio.Future[bool]) -> None:
        self.last = sequence
        self._unwritten.append((monotonic(), written))

    async def may_go_on(self) -> bool:
        """Wait until another event may be posted. False: the lease was lost. Raises `StoreUnavailable`."""
        is_fresh = monotonic() - self._leased_at < FRESH_S
        return await self.are_written(AHEAD - 1 if is_fresh else 0)

    async def are_written(self, but: int = 0) -> bool:
        """Wait until all but so many results are written. False, and raises, as above."""
        while len(self._unwritten) > but or (self._unwritten and self._unwritten[0][1].done()):
            at, written = self._unwritten.popleft()
            if not await written:
                return False
            self._leased_at = at  # renewed then or later
        return True
