"""What is sealed or signed with an encryption key, whosever it is: to be looked through, and made anew with another key.

Which columns those are: ingress/encryption/sealed.py.
"""

import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from ...validation import Unlogged
from ..columns import names, read
from .switches import PROCESSES_LOCK

PAGE = 200


class KeyedColumn(NamedTuple):
    """A column that an encryption key made. ``key``: of the table, ids all; ``beside``: what was signed with it."""

    table: str
    name: str
    key: tuple[str, ...]
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


Key = tuple[UUID, ...]


class KeyedRecord(NamedTuple):
    """What a row has there."""

    key: Key
    record: bytes
    beside: tuple[Any, ...]


def page_statement(column: KeyedColumn) -> str:
    """By the table's key, in its order."""
    key, after = ", ".join(column.key), ", ".join(f"${number}" for number in range(1, len(column.key) + 1))
    return (
        f"select {', '.join((*column.key, column.name, *column.beside))} from {column.table}"
        f" where ({key}) > ({after}) and {column.name} is not null order by {key} limit {PAGE}"
    )


async def page(connection: asyncpg.Connection, column: KeyedColumn, after: Key | None) -> list[KeyedRecord]:
    """Some rows that have a record there, behind the one with the key *after* (worker)."""
    rows = await connection.fetch(page_statement(column), *(after or [UUID(int=0)] * len(column.key)))
    width = len(column.key)
    return [KeyedRecord(tuple(row[:width]), row[width], tuple(row[width + 1 :])) for row in map(tuple, rows)]


def renew_statement(column: KeyedColumn) -> str:
    """Compared and set: what was changed since it was read stays, and so does what somebody is about to change.

    Nobody is waited for, so whoever holds one row and waits for another that is here finds no circle.
    """
    arrays = ", ".join([*(f"${number}::uuid[]" for number in range(1, len(column.key) + 1))])
    first = len(column.key) + 1
    return f"""
with given as (
    select * from unnest({arrays}, ${first}::bytea[], ${first + 1}::bytea[]) as _({", ".join(column.key)}, former, renewed)
),
free as (
    select {", ".join(f"t.{name}" for name in column.key)}, renewed
    from given join {column.table} t on {" and ".join(f"t.{name} = given.{name}" for name in column.key)}
    where t.{column.name} = given.former for no key update of t skip locked
)
update {column.table} t set {column.name} = free.renewed
from free where {" and ".join(f"t.{name} = free.{name}" for name in column.key)}"""


async def renew(
    connection: asyncpg.Connection, column: KeyedColumn, records: Sequence[tuple[KeyedRecord, bytes]]
) -> int:
    """Put a record made anew in the place of each, where it is still there; in how many places (worker)."""
    keys = zip(*(each.key for each, _ in records), strict=True)
    values = [each.record for each, _ in records], [renewed for _, renewed in records]
    done: str = await connection.execute(renew_statement(column), *keys, *values)
    return int(done.rpartition(" ")[2])


# ------------------------------------------------------------------ keys that were let go


class RetiredKey(Unlogged, frozen=True):
    """``derived``: what is left of it, sealed."""

    id: UUID
    key_id: str
    derived: bytes
    retired_at: datetime


RETIRED = f"select {names(RetiredKey)} from retired_keys order by id"


async def retired(connection: asyncpg.Connection) -> list[RetiredKey]:
    """Every key that was let go, or is about to be (worker)."""
    return [read(RetiredKey, row) for row in await connection.fetch(RETIRED)]


RETIRE = "insert into retired_keys (id, key_id, derived) values ($1, $2, $3) on conflict do nothing"


async def retire(connection: asyncpg.Connection, id: UUID, key_id: str, derived: bytes) -> None:
    """Keep what is left of a key, unless it is kept already (worker)."""
    await connection.execute(RETIRE, id, key_id, derived)


# ------------------------------------------------------------------ which keys the processes have

# Each process says by locks which keys it has, and which of them seals: everybody sees locks, and they end with it.
HAS_LOCK, SEALS_LOCK = 0x6B_65_79_73, 0x73_65_61_6C
DECLARE = f"""
select count(pg_advisory_lock_shared({HAS_LOCK}, key)) from unnest($1::int[]) key
union all select count(pg_advisory_lock_shared({SEALS_LOCK}, ($1::int[])[1]))"""


async def declare_keys(connection: asyncpg.Connection, key_ids: Sequence[str]) -> None:
    """Say that this process has these keys, the newest first, for as long as the connection lasts (worker)."""
    if key_ids:
        await connection.execute(DECLARE, [_number(key_id) for key_id in key_ids])


class ProcessKeys(NamedTuple):
    """Of the processes of this database: how many there are, have the key, seal with it."""

    processes: int
    have: int
    seal: int


DECLARED = f"""
select count(distinct pid) filter (where classid = {PROCESSES_LOCK}),
    count(distinct pid) filter (where classid = {HAS_LOCK} and objid::bigint = $1),
    count(distinct pid) filter (where classid = {SEALS_LOCK} and objid::bigint = $1)
from pg_locks join pg_database d on d.oid = database
where locktype = 'advisory' and objsubid = 2 and granted and datname = current_database()"""


async def processes_with(connection: asyncpg.Connection, key_id: str) -> ProcessKeys:
    """Which processes have said so of *key_id*; those of a former release say nothing (worker)."""
    [row] = await connection.fetch(DECLARED, _number(key_id))
    return ProcessKeys(*row)


def _number(key_id: str) -> int:
    return zlib.crc32(key_id.encode()) & 0x7FFF_FFFF
