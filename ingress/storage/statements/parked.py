"""What a callback has to be delivered, as its organization deals with it: tried at once, given up, replayed after all."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ...identifiers import LAST_ID
from ...validation import Unlogged
from ..columns import names
from ..keys import within_key
from .deliveries import LAST, waiting, waiting_of

# A backlog of days is more than one statement can write in its time, and would hold up the readers of `/events`
# meanwhile. So `due_now`, `park` and `replay` do a part of it and return where they ended: the next part, in the next
# transaction, begins there. Once through, so that what fails again in the meantime is not met again.
BATCH_ROWS = 2_000

DUE_NOW = f"""
with postponed as (
    select conversation_id from delivery_queues
    where {within_key("organization_id, conversation_id", "$1", "$2", f"'{LAST_ID}'")} and lease_id is null and due_at > now()
    order by organization_id, conversation_id limit {BATCH_ROWS} for update
),
made_due as (
    update delivery_queues q set due_at = now(), postponed = false
    from postponed where q.organization_id = $1 and q.conversation_id = postponed.conversation_id
)
select conversation_id from postponed order by conversation_id desc limit 1"""


async def due_now(connection: asyncpg.Connection, organization_id: UUID, after: UUID) -> UUID | None:
    """Have postponed conversations above *after* tried at once; the last of them (organization)."""
    last: UUID | None = await connection.fetchval(DUE_NOW, organization_id, after)
    return last


# By the queues: each pending delivery has one.
PARK = f"""
with queues as (
    select conversation_id from delivery_queues where organization_id = $1 and conversation_id > $2
        and not exists (select from callbacks where organization_id = $1)
    order by conversation_id limit {BATCH_ROWS} for update
),
parked as (
    update deliveries d set state = 'parked', last_error = 'no callback', finished_at = now()
    where organization_id = $1 and finished_at is null and sequence = any(array(
        select waiting.sequence from (
            select conversation_id from queues
            union all
            select merged.id from queues cross join lateral (
                select id from conversations where organization_id = $1 and canonical_id = queues.conversation_id offset 0
            ) merged
        ) given_up cross join lateral ({waiting("sequence", "given_up.conversation_id", "0", f"{LAST}", "pending")}) waiting
    ))
),
dropped as (
    delete from delivery_queues q
    using queues where q.organization_id = $1 and q.conversation_id = queues.conversation_id
)
select conversation_id from queues order by conversation_id desc limit 1"""


async def park(connection: asyncpg.Connection, organization_id: UUID, after: UUID) -> UUID | None:
    """Give up what conversations above *after* have to deliver, if no callback is set; the last (organization)."""
    last: UUID | None = await connection.fetchval(PARK, organization_id, after)
    return last


class ParkedEvent(Unlogged, frozen=True):
    """An event that was given up."""

    sequence: int
    conversation_id: UUID
    attempts: int
    last_error: str | None
    finished_at: datetime | None


PARKED = f"""
select {names(ParkedEvent)} from deliveries
where {waiting_of("$1", "parked", "$2")} order by state, organization_id, sequence limit $3"""


async def parked(connection: asyncpg.Connection, organization_id: UUID, after: int, limit: int) -> list[ParkedEvent]:
    """Events that were given up, above *after* (organization)."""
    return [ParkedEvent(*row) for row in await connection.fetch(PARKED, organization_id, after, limit)]


class ParkedFilter(NamedTuple):
    """Which parked events; None: whichever. ``through``: the last of those that were counted; ``after``: before these."""

    sequences: list[int] | None = None
    last_error: str | None = None
    type: str | None = None
    through: int | None = None
    after: int | None = None


# Of a batch, those that are wanted: however few that are, no more are looked at.
def _replay(source: str) -> str:
    return f"""
with page as materialized ({source} for update),
again as (
    update deliveries d set state = 'pending', attempts = 0, refusals = 0, failed_at = null, finished_at = null
    where organization_id = $1 and sequence = any(array(select sequence from page)) and ($3::text is null or last_error = $3)
        and ($4::text is null or (select type from events e where e.organization_id = $1 and e.sequence = d.sequence) = $4)
        and exists (select from callbacks where organization_id = $1)
    returning d.organization_id, d.conversation_id, d.sequence
),
announced as (
    insert into delivery_queues (organization_id, conversation_id)
    select distinct organization_id, conversation_id from again order by organization_id, conversation_id
    on conflict (organization_id, conversation_id) do update
        set arrivals = delivery_queues.arrivals + 1, due_at = least(delivery_queues.due_at, now()), postponed = false
)
select (select count(*) from again), (select max(sequence) from page)"""


REPLAY = _replay(
    f"""select sequence from deliveries
    where {waiting_of("$1", "parked", "$2", "$5::bigint")} order by state, organization_id, sequence limit {BATCH_ROWS}"""
)
REPLAY_THESE = _replay(
    f"""select sequence from deliveries where organization_id = $1
        and sequence > (select $2::bigint) and sequence < (select $5::bigint)
        and sequence = any(array(select unnest($6::bigint[]))) and case state when 'parked' then true end order by sequence limit {BATCH_ROWS}"""
)


async def replay(
    connection: asyncpg.Connection, organization_id: UUID, wanted: ParkedFilter, after: int
) -> tuple[int, int | None]:
    """Deliver those of a batch of the parked events above *after* that are *wanted* after all (organization).

    How many, and the last of the batch; None: there was none.
    """
    below = LAST if wanted.through is None else wanted.through + 1
    arguments = organization_id, after, wanted.last_error, wanted.type, below
    if wanted.sequences is None:
        rows = await connection.fetch(REPLAY, *arguments)
    else:
        rows = await connection.fetch(REPLAY_THESE, *arguments, wanted.sequences)
    count, last = rows[0]
    return count, last
