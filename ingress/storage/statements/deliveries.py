"""Deliveries to the CRM: a conversation is claimed, and its events go out one by one, in order."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ...validation import Unlogged
from ..columns import Big, Small, given, names
from ..pages import within
from .events import StoredEvent

LEASE_S = 30

# In turns: from the organization after the one served last, once around those that have a queue, one step of an index
# each, and no further than there is room. Each is given what it lacks to $4 conversations under way, so that the one
# with a slow CRM leaves room for others. Two processes that claim at the same moment may exceed that, by their number.
# $5 are those that answer slowly (ingress/delivery/places.py): with $6 a claim is for them, else for all others.
CLAIM = f"""
with recursive freed as (  -- of processes that died; somebody's next look finds them
    update delivery_queues q set lease_id = null, leased_until = null
    from (
        select organization_id, conversation_id from delivery_queues
        where lease_id is not null and leased_until < now() for update skip locked
    ) lost where q.organization_id = lost.organization_id and q.conversation_id = lost.conversation_id
),
turns (organization_id, queued) as (
    select $2::uuid, false
    union  -- not `all`: the first one met again is the end
    select coalesce(
        (select organization_id from delivery_queues
            where lease_id is null and organization_id > turns.organization_id order by organization_id limit 1),
        (select organization_id from delivery_queues where lease_id is null order by organization_id limit 1)
    ), true
    from turns where organization_id is not null
),
due as materialized (
    select q.organization_id, q.conversation_id
    from turns
    cross join lateral (
        select from callbacks c where c.organization_id = turns.organization_id and c.disabled_at is null
            and (c.paused_until is null or c.paused_until <= now()) offset 0
    ) ready
    cross join lateral (
        select organization_id, conversation_id from delivery_queues
        where organization_id = turns.organization_id and lease_id is null and due_at <= now()
        order by due_at limit greatest(0, $4 - (
            select count(*) from delivery_queues
            where organization_id = turns.organization_id and lease_id is not null and leased_until >= now()
        ))
        for update skip locked
    ) q
    where turns.queued and (turns.organization_id = any($5::uuid[])) = $6 limit $3
)
update delivery_queues q set lease_id = $1, leased_until = now() + interval '{LEASE_S} s'
from due where q.organization_id = due.organization_id and q.conversation_id = due.conversation_id
returning q.organization_id, q.conversation_id, q.lease_id, q.arrivals"""


class ClaimLimit(NamedTuple):
    """What to claim: *limit* conversations at most, and as many of an organization as make it *per_organization* under
    way; of the organizations in *slow*, with *of_slow*, or else of all others.
    """

    limit: int
    per_organization: int
    slow: Sequence[UUID] = ()
    of_slow: bool = False


class ClaimedConversation(NamedTuple):
    """The right to deliver a conversation's events. ``arrivals``: of events so far, by which a later one is noticed."""

    organization_id: UUID
    conversation_id: UUID
    lease_id: UUID
    arrivals: int


async def claim(
    connection: asyncpg.Connection, lease_id: UUID, after: UUID, limit: ClaimLimit
) -> list[ClaimedConversation]:
    """Conversations with something to deliver that nobody delivers, now leased (worker, all organizations).

    *after*: whose turn it was last.
    """
    return [ClaimedConversation(*row) for row in await connection.fetch(CLAIM, lease_id, after, *limit)]


# 64 conversations are delivered at once: a batch each, and what it is rendered to, is what they hold.
BATCH_BYTES = 256 * 1024


class PendingDelivery(StoredEvent, frozen=True):
    """An event that is to be delivered.

    ``waits_since``: its last attempt, or else its arrival. ``gap``: the one before was given up. ``must_wait``: what
    comes before it is not all committed yet, or not read (ingress/storage/statements/receiving/unread.py), and may be of this
    conversation.
    """

    attempts: int
    refusals: int
    waits_since: datetime
    gap: bool
    must_wait: bool


# A conversation whose contact was merged has nothing by itself any more: what it has is its canonical one's, which waits
# while somebody still delivers what they claimed before.
PENDING = within(
    names(PendingDelivery),
    """with one as materialized (
        select $2::uuid as id where not exists (
            select from conversations where organization_id = $1 and id = $2 and canonical_id is not null)
        union all select id from conversations where organization_id = $1 and canonical_id = $2
    )
    select organization_id, sequence, d.attempts, d.refusals, coalesce(d.failed_at, e.created_at) as waits_since, e.type, e.config_id,
        e.created_at, e.data, e.data_bytes,
        coalesce((select before.state = 'parked' from one cross join lateral (
            select state, sequence from deliveries
            where organization_id = $1 and conversation_id = one.id and sequence < d.sequence order by sequence desc limit 1
        ) before order by before.sequence desc limit 1), false) as gap,
        d.sequence >= (select sequence_horizon()) or exists (select from unread_webhooks u
            where u.organization_id = d.organization_id and u.sequence < d.sequence)
            or exists (select from one join delivery_queues q on q.organization_id = $1 and q.conversation_id = one.id
                where one.id <> $2 and q.leased_until >= now()) as must_wait
    from one cross join lateral (
        select * from deliveries where organization_id = $1 and conversation_id = one.id and state = 'pending'
        order by sequence limit $3
    ) d join events e using (organization_id, sequence)
    order by d.sequence limit $3""",
    size="data_bytes",
    order="sequence",
    most_bytes=BATCH_BYTES,
)


async def pending(
    connection: asyncpg.Connection, organization_id: UUID, conversation_id: UUID, limit: int
) -> list[PendingDelivery]:
    """The next undelivered events of a conversation and of those merged into it, in order, as many as make a batch (worker)."""
    rows = await connection.fetch(PENDING, organization_id, conversation_id, limit)
    return [PendingDelivery(*row) for row in rows]


class PostResult(NamedTuple):
    """What became of a post. In the state ``pending`` it is made again after ``delay``; ``refused``: by this event's fault."""

    organization_id: UUID
    conversation_id: UUID
    lease_id: UUID
    sequence: Big
    state: str
    answer: Small | None = None  # the HTTP status; None: no answer came
    error: str | None = None
    refused: bool = False
    delay: timedelta = timedelta(0)


# Only who still holds the lease decides about the delivery.
FINISH = f"""
with given as (select * from {given(PostResult)}),
held as (
    update delivery_queues q set
        lease_id = case given.state when 'pending' then null else q.lease_id end,
        leased_until = case given.state when 'pending' then null else now() + interval '{LEASE_S} s' end,
        due_at = case given.state when 'pending' then now() + given.delay else q.due_at end
    from given where q.organization_id = given.organization_id and q.conversation_id = given.conversation_id
        and q.lease_id = given.lease_id
    returning given.*
)
update deliveries d set state = held.state, attempts = attempts + 1, refusals = refusals + held.refused::int,
    answer = held.answer, last_error = held.error,
    failed_at = case held.state when 'pending' then now() else failed_at end,
    finished_at = case held.state when 'pending' then finished_at else now() end
from held where d.organization_id = held.organization_id and d.sequence = held.sequence and d.state = 'pending'
returning d.sequence"""


async def finish(connection: asyncpg.Connection, result: PostResult) -> bool:
    """Count an attempt, and keep the conversation, or postpone it; False where the lease was lost (worker)."""
    return await connection.fetchval(FINISH, *zip(result, strict=True)) is not None


# An arrival since the claim has changed `arrivals`, also where its transaction was not visible when we looked.
_DROP = """
delete from delivery_queues
where organization_id = $1 and conversation_id = $2 and lease_id = $3 and arrivals = $4"""
_IS_MERGED = "exists (select from conversations where organization_id = $1 and id = $2 and canonical_id is not null)"
RELEASE = f"{_DROP} and not {_IS_MERGED} returning arrivals"
RELEASE_MERGED = f"{_DROP} and {_IS_MERGED} returning arrivals"
# Before that, in a transaction of its own: who stores events locks the queues of both in the order of their ids.
FORWARD = """
insert into delivery_queues (organization_id, conversation_id)
select organization_id, canonical_id from conversations
where organization_id = $1 and id = $2 and canonical_id is not null
on conflict (organization_id, conversation_id) do update set arrivals = delivery_queues.arrivals + 1
returning conversation_id"""
KEEP = """
update delivery_queues set lease_id = null, leased_until = null, due_at = now() + $4::interval
where organization_id = $1 and conversation_id = $2 and lease_id = $3"""


async def release(connection: asyncpg.Connection, claim: ClaimedConversation) -> None:
    """The conversation's queue is empty, or another one's since it was merged, unless something came meanwhile (worker)."""
    if await connection.fetchval(RELEASE, *claim) is not None:
        return
    is_forwarded = await connection.fetchval(FORWARD, *claim[:2]) is not None
    if not is_forwarded or await connection.fetchval(RELEASE_MERGED, *claim) is None:
        await give_back(connection, claim)


async def give_back(
    connection: asyncpg.Connection, claim: ClaimedConversation, delay: timedelta = timedelta(0)
) -> None:
    """Leave the conversation to whoever comes next, after *delay*; no attempt is counted (worker)."""
    await connection.execute(KEEP, *claim[:3], delay)


# A backlog of days is more than one statement can write in its time, and would hold up the readers of `/events`
# meanwhile. So `due_now`, `park` and `replay` do a part of it and return where they ended: the next part, in the next
# transaction, begins there. Once through, so that what fails again in the meantime is not met again.
BATCH_ROWS = 2_000

DUE_NOW = f"""
with postponed as (
    select conversation_id from delivery_queues
    where organization_id = $1 and conversation_id > $2 and lease_id is null and due_at > now()
    order by conversation_id limit {BATCH_ROWS} for update
),
made_due as (
    update delivery_queues q set due_at = now()
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
    from (
        select conversation_id from queues
        union all
        select c.id from conversations c join queues on c.organization_id = $1 and c.canonical_id = queues.conversation_id
    ) given_up
    where d.organization_id = $1 and d.conversation_id = given_up.conversation_id and d.state = 'pending'
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
where organization_id = $1 and state = 'parked' and sequence > $2 order by sequence limit $3"""


async def parked(connection: asyncpg.Connection, organization_id: UUID, after: int, limit: int) -> list[ParkedEvent]:
    """Events that were given up, above *after* (organization)."""
    return [ParkedEvent(*row) for row in await connection.fetch(PARKED, organization_id, after, limit)]


class ParkedFilter(NamedTuple):
    """Which parked events; None: whichever. ``through``: the last of those that were counted."""

    sequences: list[int] | None = None
    last_error: str | None = None
    type: str | None = None
    through: int | None = None


REPLAY = f"""
with page as (
    select sequence from deliveries d
    where organization_id = $1 and state = 'parked' and sequence > $2 and ($3::bigint[] is null or sequence = any($3))
        and ($4::text is null or last_error = $4) and ($5::text is null or exists (
            select from events e where e.organization_id = $1 and e.sequence = d.sequence and e.type = $5))
        and ($6::bigint is null or sequence <= $6) and exists (select from callbacks where organization_id = $1)
    order by sequence limit {BATCH_ROWS} for update
),
again as (
    update deliveries d set state = 'pending', attempts = 0, refusals = 0, failed_at = null, finished_at = null
    from page where d.organization_id = $1 and d.sequence = page.sequence
    returning d.organization_id, d.conversation_id, d.sequence
),
announced as (
    insert into delivery_queues (organization_id, conversation_id)
    select distinct organization_id, conversation_id from again order by organization_id, conversation_id
    on conflict (organization_id, conversation_id)
    do update set arrivals = delivery_queues.arrivals + 1, due_at = least(delivery_queues.due_at, now())
)
select count(*), max(sequence) from again"""


async def replay(
    connection: asyncpg.Connection, organization_id: UUID, wanted: ParkedFilter, after: int
) -> tuple[int, int | None]:
    """Deliver a batch of the parked events above *after* that are *wanted* after all (organization).

    How many, and the last of them; None: there was none, or there is no callback.
    """
    count, last = (await connection.fetch(REPLAY, organization_id, after, *wanted))[0]
    return count, last


# Counted up to a bound, and the oldest is the first of an index: a backlog is when nothing else may become slow. What a
# disabled callback has left is nobody's delay: it waits for whoever sets the callback again.
GAUGES_UP_TO = 10_000


class DeliveryGauges(NamedTuple):
    """Numbers of deliveries, of all organizations, up to GAUGES_UP_TO."""

    pending: int
    parked: int
    oldest_s: float


GAUGES = f"""
with under_way as not materialized (
    select organization_id, sequence from deliveries where state = 'pending'
        and organization_id not in (select organization_id from callbacks where disabled_at is not null)
)
select (select count(*) from (select from under_way limit {GAUGES_UP_TO}) bounded) as pending,
    (select count(*) from (select from deliveries where state = 'parked' limit {GAUGES_UP_TO}) bounded) as parked,
    coalesce((
        select extract(epoch from now() - e.created_at)::float8
        from (select * from under_way order by sequence limit 1) oldest join events e using (organization_id, sequence)
    ), 0) as oldest_s"""


async def gauges(connection: asyncpg.Connection) -> DeliveryGauges:
    """(worker, all organizations)"""
    return DeliveryGauges(*(await connection.fetch(GAUGES))[0])
