"""Where the past lies: partitions as the service has made them week by week, and the marks of its stream of events."""

from datetime import datetime, timedelta

import asyncpg

from ingress.storage import partitions
from ingress.storage.partitions import BEGIN
from ingress.storage.statements.lifetime import partitions as statements
from ingress.storage.statements.lifetime.partitions import Partition

# Of a service that is not busy: some thirty transactions a second, most of which store no event.
SEQUENCES_A_WEEK = 2**24 << 16
# Room for what is older still.
START = 16 * SEQUENCES_A_WEEK
WEEK = timedelta(days=7)


def sequences_in(span: timedelta) -> int:
    return int(SEQUENCES_A_WEEK * (span / WEEK))


async def begin_stream(connection: asyncpg.Connection, since: datetime, span: timedelta) -> None:
    """Let a new database have begun at *since*, and be at the end of the *span* now. Its few events are let go of."""
    await connection.execute("truncate events, deliveries; delete from event_marks")
    for part in await statements.all_of(connection):
        if part.table in partitions.BY_SEQUENCE and part.name:
            await connection.execute(f"drop table {part.name}")
    await add_past(connection, since, span, START)
    await connection.execute("update event_clock set base = $1", START + sequences_in(span) + (2 << 16) & ~0xFFFF)


async def add_past(connection: asyncpg.Connection, since: datetime, span: timedelta, first: int) -> None:
    """Partitions for the *span* from *since* on, in which sequences begin with *first*."""
    existing = await statements.all_of(connection)
    for grid in partitions.GRIDS:
        end = min(since + span, _begin_of(existing, grid.table, since + span))
        low = grid.begin(since)
        while low < end:
            high = low + timedelta(days=grid.days)
            bounds = str(grid.bound(low)), str(grid.bound(high))
            await statements.make(connection, grid.table, f"p{low:%Y%m%d}", *bounds)
            low = high
    for table in partitions.BY_SEQUENCE:
        for block in range(first, first + sequences_in(span), SEQUENCES_A_WEEK):
            await statements.make(connection, table, f"p{block}", str(block), str(block + SEQUENCES_A_WEEK))
    await connection.execute(
        "insert into event_marks select $1::bigint + $3::bigint * n / 168, $2::timestamptz + interval '1 hour' * n"
        " from generate_series(0, $4::integer) n on conflict do nothing",
        first,
        since,
        SEQUENCES_A_WEEK,
        int(span / timedelta(hours=1)),
    )


async def add_before(connection: asyncpg.Connection, span: timedelta) -> tuple[datetime, int]:
    """Partitions for the *span* before all others; when it begins, and with which sequence."""
    existing = await statements.all_of(connection)
    since = _begin_of(existing, "messages", BEGIN) - span
    first = min(part.from_sequence for part in existing if part.table == "events" and part.from_sequence)
    await add_past(connection, since, span, first - sequences_in(span))
    return since, first - sequences_in(span)


def _begin_of(existing: list[Partition], table: str, default: datetime) -> datetime:
    return min((part.from_at for part in existing if part.table == table and part.from_at), default=default)
