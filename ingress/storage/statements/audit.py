"""The audit trail: numbered in each organization, every entry's hash over the one before it (`ingress/audit/`)."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from ...validation import Unlogged
from ..columns import Big, Json, assignments, given, names, read, read_or_none
from ..keys import within_key
from ..pages import within
from .events import EventRow, clock, insert_events
from .switches import CHANNEL


class TrailEnd(msgspec.Struct, frozen=True):
    """Where the next entry goes: how many there are, the hash of the last one, and the time; and configs' providers."""

    audit_entries: int
    audit_hash: bytes | None
    at: datetime
    provider_of: dict[UUID, str]


# Locked until the transaction ends: the entries of one organization are written one after the other.
END = """
select audit_entries, audit_hash, clock_timestamp() as at, (
    select json_object_agg(c.id, c.provider_type) from whatsapp_provider_configs c
    where c.organization_id = $1 and c.id = any ($2)
) as provider_of
from organizations where id = $1 for no key update"""
_providers = msgspec.json.Decoder(dict[UUID, str])


async def end(connection: asyncpg.Connection, organization_id: UUID, config_ids: Sequence[UUID]) -> TrailEnd | None:
    """Where the next entry goes, locked, and the providers of these configs (organization)."""
    row = await connection.fetchrow(END, organization_id, config_ids)
    if row is None:
        return None
    audit_entries, audit_hash, at, provider_of = row
    return TrailEnd(audit_entries, audit_hash, at, _providers.decode(provider_of or b"{}"))


class TrailEntry(Unlogged, frozen=True, kw_only=True):
    """One change. ``before`` and ``after`` are JSON; ``at`` None: a time that this service writes no entry at."""

    id: Big
    at: datetime | None
    action: str
    actor: str
    address: str | None
    config_id: UUID | None
    provider: str | None
    outcome: str
    version: Big | None
    before: Json | None
    after: Json | None
    reason: str | None
    hash: bytes


_ENTRIES, _EVENTS = len(TrailEntry.__struct_fields__), len(EventRow._fields)
APPEND = f"""
with entries as (select * from {given(TrailEntry, 4)}),
written as (
    insert into provider_audit_log (organization_id, {names(TrailEntry)}) select $1, {names(TrailEntry)} from entries
),
ended as (
    update organizations set audit_entries = last.id, audit_hash = last.hash, audit_seal = $2
    from (select id, hash from entries order by place desc limit 1) last where organizations.id = $1
),
given as (select * from {given(EventRow, 4 + _ENTRIES)}),
{clock()},
{insert_events("given")}
select pg_notify('{CHANNEL}', $3) where $3::text is not null"""


async def append(
    connection: asyncpg.Connection,
    organization_id: UUID,
    entries: Sequence[TrailEntry],
    seal: bytes,
    events: Sequence[EventRow],
    notice: str | None,
) -> None:
    """Write entries, their events, the new end, and the notification of all processes: in one transaction (organization)."""
    columns = list(zip(*map(msgspec.structs.astuple, entries), strict=True))
    columns += zip(*events, strict=True) if events else [()] * _EVENTS
    await connection.execute(APPEND, organization_id, seal, notice, *columns)


_ENTRY = names(TrailEntry).replace(", at,", ", case when at between '0001-01-02' and '9999-12-30' then at end as at,")


class TrailFilter(NamedTuple):
    """Which entries: those that have all of these, None: whatever it is; from number ``first`` on, below ``end``."""

    config_id: UUID | None = None
    actor: str | None = None
    outcome: str | None = None
    action: str | None = None
    first: int = 1
    end: int = 2**63 - 1


_PLACE = "id >= $2 and id < $3 order by id"
TRAIL = within(
    f"{names(TrailEntry)}, followed",
    f"""select {_ENTRY} from provider_audit_log where organization_id = $1 and {_PLACE} desc limit $4""",
    size="500 + coalesce(octet_length(before::text), 0) + coalesce(octet_length(after::text), 0)",
    order="id desc",
)


@cache
def _by(statement: str, first: str, *others: str) -> str:
    """*statement* where these columns have the values from $5 on, by the index of the first of them."""
    alike = "".join(f" and {column} = ${number}" for number, column in enumerate(others, 6))
    place = f"{within_key(f'{first}, organization_id, id', '$5, $1', '$2 - 1', '$3')}{alike} order by {first} desc, id"
    return statement.replace(_PLACE, place)


async def trail(
    connection: asyncpg.Connection, organization_id: UUID, only: TrailFilter, limit: int
) -> tuple[list[TrailEntry], bool]:
    """The organization's changes, newest first: as many as make a page, and whether there are more (organization)."""
    alike = {name: value for name, value in zip(only._fields, only[:4], strict=False) if value is not None}
    columns = sorted(alike, key=lambda name: alike[name] == "done")  # what most are is looked by last
    statement = _by(TRAIL, *columns) if columns else TRAIL
    values = map(alike.__getitem__, columns)
    rows = await connection.fetch(statement, organization_id, only.first, only.end, limit, *values)
    return [read(TrailEntry, row) for row in rows], bool(rows) and rows[-1]["followed"]


# By halves: an entry's time is never before that of the one above it, as long as the database's clock goes forward.
FIRST_AT = """
with recursive search (low, high) as (
    select 1::bigint, audit_entries + 1 from organizations where id = $1
    union all
    select case when at < $2 then middle + 1 else low end, case when at < $2 then high else middle end
    from search cross join lateral (select (low + high) / 2 as middle) as half
    cross join lateral (
        select at from provider_audit_log where organization_id = $1 and id >= middle order by id limit 1
    ) as entry
    where low < high
)
select coalesce(max(low), 1) from search"""


async def first_at(connection: asyncpg.Connection, organization_id: UUID, moment: datetime) -> int:
    """The number of the first entry that was written then or later, or that the next one will have (organization)."""
    number: int = await connection.fetchval(FIRST_AT, organization_id, moment)
    return number


class TrailBegin(msgspec.Struct, frozen=True):
    """Where a trail begins: so many entries are gone, the hash of the last of them, and a seal of both."""

    audit_gone: int
    audit_gone_hash: bytes | None
    audit_gone_seal: bytes | None


class TrailChecked(msgspec.Struct, frozen=True):
    """How far a trail was verified: an entry's number and hash, and a seal of both; what is before, again from behind
    the entry ``audit_rechecked`` on.
    """

    audit_checked: int
    audit_checked_hash: bytes | None
    audit_checked_seal: bytes | None
    audit_rechecked: int


class TrailExtent(TrailBegin, frozen=True):
    """The same, the end as the organization's row has it, and the number of the last entry there is."""

    audit_entries: int
    audit_hash: bytes | None
    audit_seal: bytes | None
    audit_checked: int
    audit_checked_hash: bytes | None
    audit_checked_seal: bytes | None
    audit_rechecked: int
    last: int


# In one statement, so that an entry that is written meanwhile is in both or in none.
EXTENT = f"""
select {names(TrailBegin)}, audit_entries, audit_hash, audit_seal, {names(TrailChecked)},
    (select coalesce(max(l.id), 0) from provider_audit_log l where l.organization_id = $1) as last
from organizations where id = $1"""


async def extent(connection: asyncpg.Connection, organization_id: UUID) -> TrailExtent | None:
    """How far the trail goes (organization)."""
    return read_or_none(TrailExtent, await connection.fetchrow(EXTENT, organization_id))


NEWEST = (
    "select id from organizations where audit_seal is not null order by id desc limit 1 /* every organization_id */"
)


async def newest(connection: asyncpg.Connection) -> UUID | None:
    """The newest organization that has a trail (worker)."""
    found: UUID | None = await connection.fetchval(NEWEST)
    return found


FORWARD = f"""
select {_ENTRY} from provider_audit_log
where organization_id = $1 and id > $2 and id <= $3 order by id limit $4"""


async def entry(connection: asyncpg.Connection, organization_id: UUID, number: int) -> TrailEntry | None:
    """One entry (organization)."""
    found = await forward(connection, organization_id, number - 1, number, 1)
    return found[0] if found else None


async def forward(
    connection: asyncpg.Connection, organization_id: UUID, after: int, last: int, limit: int
) -> list[TrailEntry]:
    """Entries above *after* up to *last*, oldest first (organization)."""
    return [read(TrailEntry, row) for row in await connection.fetch(FORWARD, organization_id, after, last, limit)]


# Those whose first entry is that old.
OLD = """
select o.id from organizations o cross join lateral (
    select at from provider_audit_log l where l.organization_id = o.id and l.id > o.audit_gone order by l.id limit 1
) first where o.id > $1 and o.created_at < $2 and first.at < $2 order by o.id limit $3 /* every organization_id */"""
BEGIN_BEHIND = """
update organizations set audit_gone = $2, audit_gone_hash = $3, audit_gone_seal = $4 where id = $1 and audit_gone = $5
returning id"""
FORGET = "delete from provider_audit_log where organization_id = $1 and id <= $2"


async def old(connection: asyncpg.Connection, after: UUID, before: datetime, limit: int) -> list[UUID]:
    """Organizations above *after* whose first entry was written *before* that (worker, all organizations)."""
    return [row[0] for row in await connection.fetch(OLD, after, before, limit)]


async def forget(connection: asyncpg.Connection, organization_id: UUID, begin: TrailBegin, former: int) -> int:
    """Have the trail begin there, and delete what is before; how many entries. In a transaction (worker).

    *former*: how many were gone before. Where that is not so any more, nothing is done.
    """
    begun = await connection.fetchval(BEGIN_BEHIND, organization_id, *msgspec.structs.astuple(begin), former)
    if begun is None:
        return 0
    return int((await connection.execute(FORGET, organization_id, begin.audit_gone)).rpartition(" ")[2])


# Due within the hour, always: nobody puts it off for longer by editing a row.
CLAIM = """
with due as (
    select * from (
        select id from organizations where audit_due_at <= now() order by audit_due_at limit $1 for no key update skip locked
    ) late
    union
    select * from (
        select id from organizations where audit_due_at > now() + make_interval(secs => $3)
        order by audit_due_at desc limit $1 for no key update skip locked
    ) put_off
)
update organizations o set audit_due_at = now() + make_interval(secs => $2) from due where o.id = due.id
returning o.id /* every organization_id */"""


async def claim(connection: asyncpg.Connection, limit: int, lease_s: float, every_s: float) -> list[UUID]:
    """Organizations whose chain is due to be verified, now the caller's for *lease_s* (worker, all organizations)."""
    return [row[0] for row in await connection.fetch(CLAIM, limit, lease_s, every_s)]


BROKEN = "update organizations set audit_broken = $2, audit_due_at = now() + make_interval(secs => $3) where id = $1"
VERIFIED = f"""
update organizations set audit_broken = null, audit_due_at = now() + make_interval(secs => $2), {assignments(TrailChecked, 3)}
where id = $1"""


async def broken(connection: asyncpg.Connection, organization_id: UUID, entry: int, every_s: float) -> None:
    """Note the first entry that is wrong; due again in *every_s* (worker)."""
    await connection.execute(BROKEN, organization_id, entry, every_s)


async def verified(
    connection: asyncpg.Connection, organization_id: UUID, checked: TrailChecked, every_s: float
) -> None:
    """Note that none is wrong, and how far that is known; due again in *every_s* (worker)."""
    await connection.execute(VERIFIED, organization_id, every_s, *msgspec.structs.astuple(checked))


class TrailGauges(NamedTuple):
    """Whether every chain was intact when it was last verified; how long the one that waits longest is overdue."""

    valid: bool
    overdue_s: float


GAUGES = """
select not exists (select from organizations where audit_broken is not null) as valid,
    coalesce(greatest(extract(epoch from now() - (select min(audit_due_at) from organizations)), 0), 0)::float8 as overdue_s
/* every organization_id */"""


async def gauges(connection: asyncpg.Connection) -> TrailGauges:
    """(worker, all organizations)"""
    return TrailGauges(*(await connection.fetch(GAUGES))[0])


BROKEN_TRAILS = (
    "select id, audit_broken from organizations where audit_broken is not null limit 20 /* every organization_id */"
)


async def broken_trails(connection: asyncpg.Connection) -> dict[UUID, int]:
    """The first entry that was wrong in each trail where any was; of 20 organizations (worker, all organizations)."""
    return {row[0]: row[1] for row in await connection.fetch(BROKEN_TRAILS)}
