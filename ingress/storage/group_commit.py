"""Group commit: many requests, one statement, one flush to disk.

A row is written at once when nothing is being written, and waits for the running flush otherwise, so that a
quiet service has the latency of a single insert and a busy one the throughput of a batch. There is no timer, but where
several processes divide what comes in: each would write batches of a part of the size, and so many more of them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

import asyncpg
import msgspec

from .. import metrics
from .database import CONNECTION_ERRORS, Database, StoreUnavailable, is_data_error

logger = logging.getLogger("ingress.storage.group_commit")

Row = TypeVar("Row")
Result = TypeVar("Result")
Reply = Callable[[Result | Exception], None]

MAX_BATCH_ROWS = 128
# With a flush under way a second one begins for no less: small batches cost more than a short wait.
COALESCE_ROWS = MAX_BATCH_ROWS // 2
# One of several processes waits for no longer than that, after a flush, for more rows.
MOST_GATHER_S = 0.010
MAX_BATCH_BYTES = 256 * 1024
MAX_PENDING_ROWS = 2_000
MAX_PENDING_BYTES = 64 * 1024 * 1024
# One organization may fill this share of the queue, rows and bytes, so that a flood sheds itself and nobody else.
ORGANIZATION_SHARE = 0.25
MAX_WAIT_S = 2.0
WRITE_TIMEOUT_S = 3.0


class Overloaded(Exception):
    """The queue is full; the caller should come back in a moment."""


class Unconfirmed(StoreUnavailable):
    """The store was given the row, and did not confirm that it is committed."""


class RowRefused(Exception):
    """The database will never take this row; its neighbours are in."""


class _Share(msgspec.Struct, eq=False):
    """What one organization has queued, in order; ``weight`` and ``size_bytes`` are with what is being written."""

    organization: object
    queue: "deque[_Pending[Any, Any]]"
    weight: int = 0
    size_bytes: int = 0

    def __repr__(self) -> str:
        return f"_Share({self.weight})"


class _Pending(msgspec.Struct, Generic[Row, Result], eq=False):
    row: Row
    share: _Share
    weight: int
    size_bytes: int
    reply: "Reply[Result]"
    since: float
    answered: bool = False

    def __repr__(self) -> str:
        return f"_Pending({self.weight})"

    def answer(self, result: Result | Exception) -> None:
        """Once: of a batch that fails halfway, some rows have their answer already. Raises nothing, for the flusher."""
        if self.answered:
            return
        self.answered = True
        try:
            self.reply(result)
        except Exception:  # its neighbours wait for theirs, and the flusher must live on
            logger.exception("the outcome of a row could not be passed on")


def _settle(future: "asyncio.Future[Result]", result: Result | Exception) -> None:
    if future.done():  # whoever waited is gone
        return
    if isinstance(result, Exception):
        future.set_exception(result)
        future.exception()  # whoever waited may still go; that is no unhandled error
    else:
        future.set_result(result)


class GroupCommit(Generic[Row, Result]):
    """Writes rows through *write*, which gets a connection for the use *name* and returns a result or an error a row,
    in order.

    It may take the first of the rows only, at least one: the others are given to it again. Organizations take turns,
    row by row, each with its own in order. A batch ends with the row that makes its weight *batch_weight*.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        write: Callable[[asyncpg.Connection, Sequence[Row]], Awaitable[Sequence[Result | Exception]]],
        *,
        flushers: int = 1,
        batch_weight: int = MAX_BATCH_ROWS,
    ) -> None:
        self.name = name
        self._database = database
        self._write = write
        self._flusher_count = flushers
        self._batch_weight = batch_weight
        self._shares: dict[object, _Share] = {}
        self._turns: deque[_Share] = deque()  # those with something to be written, the next one first
        self._waiting = 0
        self._taken_at = 0.0
        self._pending_rows = 0
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._flushers: list[asyncio.Task[None]] = []
        self._closing = False
        self._writing = 0
        self._flush_again_at = 0.0
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> "GroupCommit[Row, Result]":
        self._loop = asyncio.get_running_loop()  # kept, for finding it asks the system for the process each time
        self._flushers = [
            asyncio.create_task(self._flush_forever(), name=f"{self.name}-{number}")
            for number in range(self._flusher_count)
        ]
        metrics.watch_queue(self.name, self)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is queued, then stop."""
        self._closing = True
        self._arrived.set()
        await asyncio.gather(*self._flushers, return_exceptions=True)

    @property
    def pending_rows(self) -> int:
        return self._pending_rows

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    @property
    def oldest_s(self) -> float:
        return monotonic() - min(share.queue[0].since for share in self._turns) if self._turns else 0.0

    def submit(
        self, row: Row, *, organization: object, weight: int = 1, size_bytes: int = 0
    ) -> "asyncio.Future[Result]":
        """As `enqueue`, but the result, or the error, is a future's."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self.enqueue(row, partial(_settle, future), organization, weight, size_bytes)
        return future

    def enqueue(
        self, row: Row, reply: "Reply[Result]", organization: object, weight: int = 1, size_bytes: int = 0
    ) -> None:
        """Call *reply* once, with *row*'s result when it is committed, or with what went wrong.

        That is `StoreUnavailable` where the store did not confirm, `Unconfirmed` where it may have committed all the
        same, `RowRefused`. Raises `Overloaded` instead of queueing too much.
        """
        share, now = self._shares.get(organization) or _Share(organization, deque()), monotonic()
        # What is alone is always taken, however large it is.
        if self._waiting and (
            self._pending_rows + weight > MAX_PENDING_ROWS
            or self._pending_bytes + size_bytes > MAX_PENDING_BYTES
            or now - self._taken_at > MAX_WAIT_S
            or (share.queue and now - share.queue[0].since > MAX_WAIT_S)
            or (share.weight and share.weight + weight > MAX_PENDING_ROWS * ORGANIZATION_SHARE)
            or (share.size_bytes and share.size_bytes + size_bytes > MAX_PENDING_BYTES * ORGANIZATION_SHARE)
        ):
            raise Overloaded
        if self._closing:
            raise StoreUnavailable("shutting down")
        pending = _Pending(row, share, weight, size_bytes, reply, now)
        if not share.weight:
            self._shares[organization] = share
        if not self._waiting:
            self._taken_at = now
        if not share.queue:
            self._turns.append(share)
        share.queue.append(pending)
        share.weight += weight
        share.size_bytes += size_bytes
        self._waiting += 1
        self._pending_rows += weight
        self._pending_bytes += size_bytes
        if not self._writing or self._waiting >= COALESCE_ROWS:
            self._arrived.set()

    # -- flushing

    async def _flush_forever(self) -> None:
        while True:
            await self._arrived.wait()
            if self._waiting < COALESCE_ROWS and (gather_s := self._flush_again_at - monotonic()) > 0:
                await asyncio.sleep(gather_s)
            if not self._waiting:
                if self._closing:
                    break
                self._arrived.clear()
                continue
            if not self._closing:
                self._arrived.clear()
            self._writing += 1
            batch: list[_Pending[Row, Result]] = []
            started = monotonic()
            try:
                async with self._database.connection(self.name) as connection:
                    # Taken now: while this one waits for a connection, another flusher may take what it came for.
                    if batch := self._take():
                        await self._write_batch(connection, batch)
            except StoreUnavailable as error:
                stalls = not batch and isinstance(error.__cause__, TimeoutError)
                batch = batch or self._take()
                self._fail(batch, error)
                if stalls:
                    self._fail_queue()
            except Exception as error:  # noqa: BLE001  (whoever submitted gets it; the flusher must live on)
                self._fail(batch, error)
            finally:
                self._writing -= 1
                now = monotonic()
                # As seldom as makes its batches as large as those of a process that gets all of the rows.
                self._flush_again_at = now + min(self._database.neighbours * (now - started), MOST_GATHER_S)
                if self._waiting:
                    self._arrived.set()
                self._release(batch)
                metrics.batch_rows[self.name].observe(len(batch))
                metrics.flush_seconds[self.name].observe(now - started)
                batch = []  # what people wrote, and a config, would be kept until the next one

    async def _write_batch(self, connection: asyncpg.Connection, batch: "list[_Pending[Row, Result]]") -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                left = await self._flush(connection, batch)
        except CONNECTION_ERRORS as error:
            self._fail(batch, Unconfirmed(type(error).__name__))
            if isinstance(error, TimeoutError):  # it stalls: who waits behind would only wait as long again
                self._fail_queue()
            raise
        if left:
            del batch[-len(left) :]
            self._put_back(left)

    def _take(self) -> "list[_Pending[Row, Result]]":
        batch: list[_Pending[Row, Result]] = []
        weight = size_bytes = 0
        self._taken_at = monotonic()
        while self._turns and weight < self._batch_weight and size_bytes < MAX_BATCH_BYTES:
            pending = self._next()
            weight += pending.weight
            size_bytes += pending.size_bytes
            batch.append(pending)
        self._waiting -= len(batch)
        return batch

    def _next(self) -> "_Pending[Row, Result]":
        """The first row of whose turn it is, who comes last then."""
        queue = self._turns[0].queue
        pending = queue.popleft()
        if queue:
            self._turns.rotate(-1)
        else:
            self._turns.popleft()
        return pending

    def _put_back(self, rows: "list[_Pending[Row, Result]]") -> None:
        """What was not written goes before all that waits, in its order."""
        for pending in reversed(rows):
            if pending.share.queue:
                self._turns.remove(pending.share)
            pending.share.queue.appendleft(pending)
            self._turns.appendleft(pending.share)
        self._waiting += len(rows)

    async def _flush(
        self, connection: asyncpg.Connection, batch: "list[_Pending[Row, Result]]"
    ) -> "list[_Pending[Row, Result]]":
        """Write *batch*, and return what is left of it."""
        try:
            results = await self._write(connection, [pending.row for pending in batch])
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not is_data_error(error):
                raise
            await self._flush_singly(connection, batch, error)
            return []
        for pending, result in zip(batch, results, strict=False):
            pending.answer(result)
        return batch[len(results) :]

    async def _flush_singly(
        self, connection: asyncpg.Connection, batch: "list[_Pending[Row, Result]]", error: Exception
    ) -> None:
        """A row that the database refuses, with *error*, must not fail its neighbours."""
        if len(batch) == 1:
            self._fail(batch, RowRefused(type(error).__name__))
            return
        for pending in batch:
            await self._flush(connection, [pending])

    def _fail(self, batch: "list[_Pending[Row, Result]]", error: Exception) -> None:
        for pending in batch:
            pending.answer(error)

    def _fail_queue(self) -> None:
        while waiting := self._take():
            self._fail(waiting, StoreUnavailable("stalled"))
            self._release(waiting)

    def _release(self, batch: "list[_Pending[Row, Result]]") -> None:
        for pending in batch:
            self._pending_rows -= pending.weight
            self._pending_bytes -= pending.size_bytes
            share = pending.share
            share.weight -= pending.weight
            share.size_bytes -= pending.size_bytes
            if not share.weight:
                del self._shares[share.organization]
