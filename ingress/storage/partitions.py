"""Partitions: made ahead of what comes, dropped when all that is in them is past its time; by one process at a time.

Tables that grow are partitioned (schema.sql): by day or week where their key says a time, by blocks of sequences where
it is a sequence, which says none. Marks, an hour apart, say where the stream was when: so long a block is to be.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg

from .. import metrics
from ..identifiers import id_at
from .database import Database
from .statements.lifetime import partitions as statements
from .statements.lifetime.partitions import Partition, StreamMark

logger = logging.getLogger("ingress.storage.partitions")

# Of those who make partitions, and of those who drop some: any numbers.
_LOCK, _DROP_LOCK = 0x77_70_61_72, 0x77_70_61_73
HOUR, WEEK = timedelta(hours=1), timedelta(days=7)
BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
# What is near enough for somebody to be woken.
NEAR = timedelta(hours=6)
# Of facts without a time: it is never dropped.
UNTIMED = "inbound_dedup_untimed"
DROP_TIMEOUT_S = 120.0
# How often a partition that is in use is tried to be detached, before it is left to the next round.
DETACH_TRIES, DETACH_EVERY_S = 60, 0.1


class Grid(NamedTuple):
    """A table with a partition for so many ``days``, made from ``back`` days ago to ``ahead`` days from now."""

    table: str
    days: int
    bound: Callable[[datetime], object]
    back: int
    ahead: int

    def begin(self, moment: datetime) -> datetime:
        """Of the day, or of the week: a Monday."""
        day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day - timedelta(days=(day.toordinal() - 1) % self.days)

    def end(self, moment: datetime) -> datetime:
        return self.begin(moment) + timedelta(days=self.days)


# A week back: ids are made by the clock of a process. Of facts as far as their keys have a day (`day_of`).
GRIDS = (
    Grid("inbound_webhooks", 1, datetime.isoformat, back=1, ahead=3),
    Grid("inbound_dedup", 1, datetime.date, back=2, ahead=3),
    Grid("quarantine", 7, id_at, back=7, ahead=14),
    Grid("messages", 7, id_at, back=7, ahead=14),
    Grid("attempts", 7, id_at, back=7, ahead=14),
    Grid("message_statuses", 7, datetime.isoformat, back=7, ahead=14),
)
# `events` is last: where one of them has a block, the other one has it, too.
BY_SEQUENCE = ("deliveries", "events")
# The sequences of so many transactions: a server makes some ten thousand a second, and blocks are made each minute.
SMALLEST_BLOCK, LARGEST_BLOCK = 2**23 << 16, 2**36 << 16
BLOCKS_AHEAD = 2


async def keep_ahead(connection: asyncpg.Connection, now: datetime | None = None, *, has_leapt: bool = False) -> None:
    """Make the partitions that are needed soon, and note where the stream is (worker).

    *has_leapt*: the clock was just set ahead, so that there are none where it is now is nobody's neglect.
    """
    async with connection.transaction():
        await statements.wait_for_turn(connection, _LOCK)
        existing = await statements.all_of(connection)
        here, now = await statements.here(connection), now or datetime.now(UTC)
        block = await _block(connection, StreamMark(here, now))
        if not has_leapt:
            _watch(existing, StreamMark(here, now), block)
        missing = [*_missing_by_time(existing, now), *_missing_by_sequence(existing, here, block)]
        for each in missing:
            await statements.make(connection, *each)
        last = await statements.mark_before(connection, now)
        if last is None or now - last.at >= HOUR:
            await statements.mark(connection, StreamMark(here, now))
        if missing:
            _watch(await statements.all_of(connection), StreamMark(here, now), block)
    if made := Counter(each.table for each in missing):
        logger.info("made partitions: %s", ", ".join(f"{count} of {table}" for table, count in made.items()))


async def _block(connection: asyncpg.Connection, here: StreamMark) -> int:
    """How many sequences a block is to have: as many as a week takes at the pace of the last week."""
    past = await statements.mark_after(connection, here.at - WEEK)
    if past is None or here.at - past.at < HOUR:
        return SMALLEST_BLOCK
    pace = (here.sequence - past.sequence) / (here.at - past.at).total_seconds()
    return min(max(round(pace * WEEK.total_seconds()), SMALLEST_BLOCK), LARGEST_BLOCK)


class _Missing(NamedTuple):
    table: str
    suffix: str
    low: str
    high: str


def _missing_by_time(existing: Sequence[Partition], now: datetime) -> Iterator[_Missing]:
    tables = {part.table for part in existing}
    for grid in GRIDS:
        if grid.table in tables:  # else it is not partitioned yet
            yield from _missing_of(grid, _end_at(existing, grid.table), now)


def _missing_of(grid: Grid, end: datetime, now: datetime) -> Iterator[_Missing]:
    """What *grid* needs behind the *end* of what it has."""
    end = max(grid.begin(now - timedelta(days=grid.back)), end)
    while end < now + timedelta(days=grid.ahead):
        low, end = end, grid.end(end)
        yield _Missing(grid.table, f"p{low:%Y%m%d}", str(grid.bound(low)), str(grid.bound(end)))


def _missing_by_sequence(existing: Sequence[Partition], here: int, block: int) -> Iterator[_Missing]:
    tables = {part.table for part in existing}
    for table in BY_SEQUENCE:
        end = _end_sequence(existing, table)
        while table in tables and end < here + BLOCKS_AHEAD * block:
            low, end = end, max(end, here) + block
            yield _Missing(table, f"p{low}", str(low), str(end))


def _end_at(existing: Sequence[Partition], table: str) -> datetime:
    return max((part.until_at for part in existing if part.table == table and part.until_at), default=BEGIN)


def _end_sequence(existing: Sequence[Partition], table: str) -> int:
    return max((part.until_sequence for part in existing if part.table == table and part.until_sequence), default=0)


def _watch(existing: Sequence[Partition], here: StreamMark, block: int) -> None:
    """Say how far partitions reach, in a metric, and loudly where that is not far any more."""
    made = {part.table for part in existing if part.name not in ("", UNTIMED)}
    ends = {table: end for table, end in _ends(existing, here, block).items() if table in made}
    for table, end in ends.items():
        if end < here.at + NEAR:
            logger.error("the table %s has partitions until %s only: nothing can be stored there then", table, end)
    if first := min(ends.values(), default=None):
        metrics.partitions_ahead.set_function(lambda: first.timestamp() - time.time())


def _ends(existing: Sequence[Partition], here: StreamMark, block: int) -> dict[str, datetime]:
    """Until when each partitioned table has partitions: one that has none, until long ago."""
    ends = {grid.table: _end_at(existing, grid.table) for grid in GRIDS}
    for table in BY_SEQUENCE:
        end = _end_sequence(existing, table)
        ends[table] = here.at + (end - here.sequence) / block * WEEK if end else BEGIN
    partitioned = {part.table for part in existing}
    return {table: end for table, end in ends.items() if table in partitioned}


async def reach(connection: asyncpg.Connection) -> dict[str, datetime]:
    """Until when each partitioned table can store what comes, at the pace of the last week (worker)."""
    here = StreamMark(await statements.here(connection), datetime.now(UTC))
    return _ends(await statements.all_of(connection), here, await _block(connection, here))


# ------------------------------------------------------------------ what is gone


async def drop_before(database: Database, table: str, moment: datetime) -> list[str]:
    """Drop the partitions of *table* in which all is older than *moment*; which. Raises `StoreUnavailable`.

    One that is in use all the time is left to the next round, as all are while another process drops some.
    """
    async with database.worker() as connection:
        parts = [part for part in await statements.all_of(connection) if part.table == table]
        gone = await past(connection, parts, moment)
        detached = [part.name for part in gone if await _detach(connection, part.name)]
        # Also what a process left that ended in between.
        for name in await statements.detached(connection):
            await _drop(connection, name)
        if table == BY_SEQUENCE[-1] and len(gone) < len(parts):
            await statements.forget_marks(connection, parts[len(gone)].from_sequence or 0)
    return detached


async def past(connection: asyncpg.Connection, parts: Sequence[Partition], moment: datetime) -> list[Partition]:
    """Those of *parts* in which all is older than *moment*."""
    sequence = await sequence_of(connection, moment)
    return [part for part in parts if part.name != UNTIMED and _is_past(part, moment, sequence)]


def _is_past(part: Partition, moment: datetime, sequence: int) -> bool:
    if part.until_at is not None:
        return part.until_at <= moment
    return part.until_sequence is not None and part.until_sequence <= sequence


async def _detach(connection: asyncpg.Connection, name: str) -> bool:
    """Whether it is done. Who uses the table waits 20 ms for it at most, again and again for some seconds."""
    for _ in range(DETACH_TRIES):
        try:
            async with connection.transaction():
                if is_alone := await statements.take_turn(connection, _DROP_LOCK):
                    await statements.detach(connection, name)
            return is_alone
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(DETACH_EVERY_S)
    logger.warning("the partition %s is in use all the time; it is dropped later", name)
    return False


async def _drop(connection: asyncpg.Connection, name: str) -> None:
    async with connection.transaction():
        if await statements.take_turn(connection, _DROP_LOCK):
            await statements.drop(connection, name, DROP_TIMEOUT_S)
            logger.info("dropped the partition %s", name)


# ------------------------------------------------------------------ when a sequence was


async def sequence_of(connection: asyncpg.Connection, moment: datetime) -> int:
    """All events below it are older than *moment*, and few above it; 0 where that is before the first mark."""
    mark = await statements.mark_before(connection, moment)
    return mark.sequence if mark else 0


async def moment_of(connection: asyncpg.Connection, sequence: int) -> datetime | None:
    """When the stream was at *sequence*, within an hour before; None where that is before the first mark."""
    mark = await statements.mark_below(connection, sequence)
    return mark.at if mark else None
