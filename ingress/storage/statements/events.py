"""Events: written in the transaction that makes them true, read in an order that never skips one."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from ..columns import Json, given, names
from ..keys import within_key
from ..pages import within
from .contacts import conversations_with

# The horizon of readers and the place of writers: see schema.sql, `events`.
NOW = "select base + (pg_current_xact_id()::text::bigint << 16) as start from event_clock"


def clock(start: str = NOW) -> str:
    """The CTE that sequences are counted from: a multiple of 65536, or within a large webhook that and its slice's place."""
    return f"clock as materialized ({start})"


def insert_events(source: str) -> str:
    """CTEs that store the rows of the CTE *source* as events and queue them for the organization's callback, if it has one.

    *source* has the columns place, organization_id, type, config_id, conversation_id, data, raw. They come after `clock`.
    The CTE ``stored`` returns the sequence: the start and the place. Queues are touched in the order of their keys, so
    that two transactions never wait for each other.
    """
    return f"""stored as (
    insert into events (organization_id, sequence, type, config_id, conversation_id, data, raw)
    select organization_id, clock.start + place, type, config_id, conversation_id, data, raw
    from {source} cross join clock
    returning organization_id, sequence, conversation_id
),
queued as (
    -- A disabled callback's events are parked, not passed over: they can be replayed, and the next one shows the gap.
    insert into deliveries (organization_id, sequence, conversation_id, state, last_error, finished_at)
    select stored.organization_id, stored.sequence, stored.conversation_id,
        case when callbacks.disabled_at is null then 'pending' else 'parked' end,
        case when callbacks.disabled_at is not null then 'callback disabled' end,
        case when callbacks.disabled_at is not null then now() end
    from stored join callbacks on callbacks.organization_id = stored.organization_id
    returning organization_id, conversation_id, state
),
announced as (
    insert into delivery_queues (organization_id, conversation_id)
    select distinct organization_id, conversation_id from queued
    where state = 'pending' order by organization_id, conversation_id
    on conflict (organization_id, conversation_id) do update set arrivals = delivery_queues.arrivals + 1
)"""


class EventRow(NamedTuple):
    """An event as it is stored; `ingress/envelope.py` renders it. ``raw`` None: no provider sent it."""

    organization_id: UUID
    type: str
    config_id: UUID
    conversation_id: UUID
    data: Json
    raw: bytes | None = None


ADD = f"""
with given as (select * from {given(EventRow)}),
{clock()},
{insert_events("given")}
select organization_id, sequence from stored"""


async def add(connection: asyncpg.Connection, events: Sequence[EventRow]) -> None:
    """Store *events* in *connection*'s transaction (worker)."""
    await connection.execute(ADD, *zip(*events, strict=True))


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as it is read; `ingress/envelope.py` renders it."""

    organization_id: UUID
    sequence: int
    type: str
    config_id: UUID
    created_at: datetime
    data: bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sequence}, {self.type})"


class RawEvent(StoredEvent, frozen=True):
    """The same with what its provider sent. ``raw`` None: it was not asked for, or no provider sent it."""

    raw: bytes | None


# A webhook that is stored but not read yet has its place here already: nobody reads past it.
FINAL = """sequence < least(sequence_horizon(),
    (select min(unread.sequence) from unread_webhooks unread where unread.organization_id = $1))"""
READ = within(
    names(RawEvent),
    f"""select organization_id, sequence, type, config_id, created_at, data, data_bytes, case when $4 then raw end as raw
    from events where organization_id = $1 and sequence > $2 and {FINAL}
    order by sequence limit $3""",
    size="data_bytes + coalesce(octet_length(raw), 0)",
    order="sequence",
)


async def read(
    connection: asyncpg.Connection, organization_id: UUID, after: int, limit: int, raw: bool
) -> list[RawEvent]:
    """The organization's next events above *after* that nothing under way can come before (organization).

    As many as make a page.
    """
    return [RawEvent(*row) for row in await connection.fetch(READ, organization_id, after, limit, raw)]


def _following(conditions: str, sources: str, order: str = "sequence") -> str:
    """As READ, by some steps in an index for each of *sources*, whose types are called ``kind``."""
    return within(
        names(RawEvent),
        f"""select organization_id, sequence, type, config_id, created_at, data, data_bytes, case when $4 then raw end as raw
        from {sources} cross join lateral (
            select * from events where organization_id = $1 and {conditions} and {FINAL}
            order by {order} limit $3
        ) found order by sequence limit $3""",
        size="data_bytes + coalesce(octet_length(raw), 0)",
        order="sequence",
    )


def of_type(kind: str, after: str = "0", below: str = str(2**63 - 1)) -> str:
    """Events of that type between two sequences: to be ordered by type and sequence."""
    return within_key("type, organization_id, sequence", f"{kind}, $1", after, below)


def of_conversation(conversation: str, kind: str, after: str = "0", below: str = str(2**63 - 1)) -> str:
    """As `of_type`, of one conversation: to be ordered by conversation_id, type and sequence."""
    return within_key("conversation_id, type, sequence", f"{conversation}, {kind}", after, below)


READ_TYPES = _following(of_type("kind", "$2"), "unnest($5::text[]) as kind", "type, sequence")
READ_OF = _following(
    of_conversation("one.id", "kind", "$2"),
    f"unnest($5::text[]) as kind cross join ({conversations_with('$6::uuid', '$7::uuid')}) as one (id)",
    "conversation_id, type, sequence",
)


class EventFilter(NamedTuple):
    """Events of *types*; with one person, over all senders, or of a conversation, where they are given."""

    types: Sequence[str]
    contact_id: UUID | None
    conversation_id: UUID | None


async def read_types(
    connection: asyncpg.Connection, organization_id: UUID, after: int, limit: int, raw: bool, types: Sequence[str]
) -> list[RawEvent]:
    """As `read`, of some types (organization)."""
    return [RawEvent(*row) for row in await connection.fetch(READ_TYPES, organization_id, after, limit, raw, types)]


async def read_of(
    connection: asyncpg.Connection, organization_id: UUID, after: int, limit: int, raw: bool, only: EventFilter
) -> list[RawEvent]:
    """As `read`, with a person or of a conversation (organization)."""
    return [RawEvent(*row) for row in await connection.fetch(READ_OF, organization_id, after, limit, raw, *only)]


AT = f"select {names(StoredEvent)} from events where organization_id = $1 and sequence = $2"


async def at(connection: asyncpg.Connection, organization_id: UUID, sequence: int) -> StoredEvent | None:
    """One event of the organization (organization)."""
    row = await connection.fetchrow(AT, organization_id, sequence)
    return StoredEvent(*row) if row else None


LAST = f"select coalesce(max(sequence), 0) from events where organization_id = $1 and {FINAL}"


async def last_sequence(connection: asyncpg.Connection, organization_id: UUID) -> int:
    """Where the organization's stream ends now (organization)."""
    last: int = await connection.fetchval(LAST, organization_id)
    return last
