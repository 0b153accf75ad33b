"""What became of one message or event: the events about it, and how each was delivered to the CRM."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from ....validation import Unlogged
from ...columns import names
from ..events import StoredEvent
from ..sending.messages import chats

# So many of a type are looked at in a conversation, from when the message was sent or came in: a few milliseconds. What
# was reported after a thousand others of the same person is not shown.
LOOKED_AT, SHOWN = 1_000, 100


class LinkedEvent(StoredEvent, frozen=True):
    """``is_reported``: a provider sent it; else it is ours."""

    is_reported: bool


_LINKED = f"{names(StoredEvent)}, raw is not null as is_reported"
EVENT = f"select {_LINKED} from events where organization_id = $1 and sequence = $2"


async def event(connection: asyncpg.Connection, organization_id: UUID, sequence: int) -> LinkedEvent | None:
    """One event of the organization (organization)."""
    row = await connection.fetchrow(EVENT, organization_id, sequence)
    return LinkedEvent(*row) if row else None


EVENTS_ABOUT = f"""
select {names(LinkedEvent)} from (select distinct id from ({chats("$1", "$2::uuid")}) person) chat
cross join unnest($3::text[]) as kind cross join lateral (
    select {_LINKED} from events
    where organization_id = $1 and conversation_id = chat.id and type = kind and sequence >= $4
    order by sequence limit {LOOKED_AT}
) found where data #>> $5::text[] = $6 order by sequence limit {SHOWN}"""


async def events_about(
    connection: asyncpg.Connection,
    organization_id: UUID,
    conversation_id: UUID,
    types: Sequence[str],
    since: int,
    named: tuple[Sequence[str], str],
) -> list[LinkedEvent]:
    """Events of *types* with the person of a conversation, from the sequence *since* on (organization).

    *named*: a path into their data, and what stands there in those that are about it.
    """
    rows = await connection.fetch(EVENTS_ABOUT, organization_id, conversation_id, types, since, *named)
    return [LinkedEvent(*row) for row in rows]


class DeliveryState(Unlogged, frozen=True):
    """How an event stands with the CRM. ``answer`` is the HTTP status of the last attempt, None where none came."""

    sequence: int
    state: str
    attempts: int
    answer: int | None
    last_error: str | None
    failed_at: datetime | None
    finished_at: datetime | None
    due_at: datetime | None  # of a pending one: when it is tried next


DELIVERIES = """
select d.sequence, d.state, d.attempts, d.answer, d.last_error, d.failed_at, d.finished_at,
    case d.state when 'pending' then q.due_at end as due_at
from deliveries d
left join conversations c on c.organization_id = d.organization_id and c.id = d.conversation_id
left join delivery_queues q on q.organization_id = d.organization_id and q.conversation_id = coalesce(c.canonical_id, d.conversation_id)
where d.organization_id = $1 and d.sequence = any($2::bigint[])"""


async def deliveries(
    connection: asyncpg.Connection, organization_id: UUID, sequences: Sequence[int]
) -> dict[int, DeliveryState]:
    """Of each of these events that is, or was, to be posted (organization)."""
    rows = await connection.fetch(DELIVERIES, organization_id, sequences)
    return {row["sequence"]: DeliveryState(*row) for row in rows}
