"""Partitions as the catalogue has them, the functions that make and drop them, and where the stream was at which time."""

from datetime import datetime
from typing import NamedTuple

import asyncpg


class Partition(NamedTuple):
    """A part of a table, from a moment or a sequence up to another. None: it has no such bound, or another kind of it.

    With an empty name it stands for a table that has no partition.
    """

    table: str
    name: str
    from_at: datetime | None
    until_at: datetime | None
    from_sequence: int | None
    until_sequence: int | None


def _moment(bound: str) -> str:
    # The time in a UUIDv7 is its first 48 bits, in milliseconds.
    return f"""case kind when 'timestamptz' then {bound}::timestamptz when 'date' then {bound}::timestamp at time zone 'UTC'
        when 'uuid' then to_timestamp(('x' || translate(left({bound}, 13), '-', ''))::bit(48)::bigint / 1000.0) end"""


def _sequence(bound: str) -> str:
    return f"case kind when 'bigint' then {bound}::bigint end"


# Bounds are shown as they were written, but for MINVALUE.
ALL = f"""
with shown as (
    select parent.relname as parent, part.relname as part, pg_get_expr(part.relpartbound, part.oid) as bounds,
        case key.atttypid when 'timestamptz'::regtype then 'timestamptz' else format_type(key.atttypid, null) end as kind
    from pg_partitioned_table of join pg_class parent on parent.oid = of.partrelid
    join pg_attribute key on key.attrelid = parent.oid and key.attnum = of.partattrs[0]
    left join (pg_inherits join pg_class part on part.oid = inhrelid) on inhparent = parent.oid
    where parent.relnamespace = current_schema()::regnamespace
),
bounded as (
    select parent, part, kind, substring(bounds from $$FROM \\('(.*?)'\\)$$) as low, substring(bounds from $$TO \\('(.*?)'\\)$$) as high
    from shown
)
select parent, coalesce(part, ''), {_moment("low")}, {_moment("high")}, {_sequence("low")}, {_sequence("high")}
from bounded order by parent, 4, 6"""


async def all_of(connection: asyncpg.Connection) -> list[Partition]:
    """Every partition of every table, in the order of their bounds (worker)."""
    return [Partition(*row) for row in await connection.fetch(ALL)]


async def make(connection: asyncpg.Connection, table: str, suffix: str, low: str, high: str) -> None:
    """Make a partition of *table*; it is there for others with the end of the transaction (worker)."""
    await connection.execute("select make_partition($1::text::regclass, $2, $3, $4)", table, suffix, low, high)


async def detach(connection: asyncpg.Connection, name: str) -> None:
    """Take a partition out of its table. Raises `LockNotAvailableError` where the table is in use (worker)."""
    await connection.execute("select detach_partition($1::text::regclass)", name)


DETACHED = """
select relname from pg_class where relkind = 'r' and relnamespace = current_schema()::regnamespace
    and not relispartition and obj_description(oid, 'pg_class') = 'detached partition'"""


async def detached(connection: asyncpg.Connection) -> list[str]:
    """Former partitions that are not dropped yet (worker)."""
    return [row["relname"] for row in await connection.fetch(DETACHED)]


async def drop(connection: asyncpg.Connection, name: str, timeout_s: float) -> None:
    """Drop a former partition, in a transaction that may take *timeout_s* (worker)."""
    await connection.execute(f"set local statement_timeout = {timeout_s * 1000:.0f}")
    await connection.execute("select drop_detached($1::text::regclass)", name, timeout=timeout_s)


async def wait_for_turn(connection: asyncpg.Connection, lock: int) -> None:
    """Be the only process at it, until the end of the transaction."""
    await connection.execute("select pg_advisory_xact_lock($1)", lock)


async def take_turn(connection: asyncpg.Connection, lock: int) -> bool:
    """Whether this is the only process at it, until the end of the transaction."""
    is_alone: bool = await connection.fetchval("select pg_try_advisory_xact_lock($1)", lock)
    return is_alone


# ------------------------------------------------------------------ where the stream was when

# The next one of a transaction, without making this one take a number.
HERE = "select base + (pg_snapshot_xmax(pg_current_snapshot())::text::bigint << 16) from event_clock"


async def here(connection: asyncpg.Connection) -> int:
    """Where the stream is: all that comes from now on has this sequence or a higher one (worker)."""
    sequence: int = await connection.fetchval(HERE)
    return sequence


class StreamMark(NamedTuple):
    """All events below ``sequence`` are older than ``at``."""

    sequence: int
    at: datetime


async def mark(connection: asyncpg.Connection, mark: StreamMark) -> None:
    """Note a place of the stream (worker)."""
    await connection.execute("insert into event_marks (sequence, at) values ($1, $2) on conflict do nothing", *mark)


async def mark_before(connection: asyncpg.Connection, moment: datetime) -> StreamMark | None:
    """The last mark that is no later than *moment*; None: there is none (any role)."""
    row = await connection.fetchrow(
        "select sequence, at from event_marks where at <= $1 order by sequence desc limit 1", moment
    )
    return StreamMark(*row) if row else None


async def mark_after(connection: asyncpg.Connection, moment: datetime) -> StreamMark | None:
    """The first mark that is later than *moment*; None: there is none (worker)."""
    row = await connection.fetchrow(
        "select sequence, at from event_marks where at > $1 order by sequence limit 1", moment
    )
    return StreamMark(*row) if row else None


async def mark_below(connection: asyncpg.Connection, sequence: int) -> StreamMark | None:
    """The last mark at or below *sequence*; None: there is none (any role)."""
    row = await connection.fetchrow(
        "select sequence, at from event_marks where sequence <= $1 order by sequence desc limit 1", sequence
    )
    return StreamMark(*row) if row else None


FORGET_MARKS = """
delete from event_marks where sequence < (select max(sequence) from event_marks where sequence <= $1)"""


async def forget_marks(connection: asyncpg.Connection, below: int) -> None:
    """Let go of marks that no kept event is above, but the last of them (worker)."""
    await connection.execute(FORGET_MARKS, below)
