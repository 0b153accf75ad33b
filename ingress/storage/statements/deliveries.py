"""Deliveries to the CRM: a conversation is claimed, and its events go out one by one, in order."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ..columns import Big, Small, between, given, names
from ..keys import same_key, within_key
from ..pages import within
from .contacts import is_merged
from .events import StoredEvent

LEASE_S = 30
LAST = 2**63 - 1


def waiting(columns: str, conversation: str, after: str, below: str, state: str) -> str:
    """Deliveries of a conversation in one *state* that is not `delivered`, between two sequences.

    To be ordered by conversation_id, state and sequence. The organization is a condition, and none that an index serves.
    """
    those = within_key("conversation_id, state, sequence", f"{conversation}, '{state}'", after, below)
    return f"select {columns} from deliveries where {those} and organization_id is not distinct from $1"


def waiting_of(organization: str, state: str, after: str = "0", below: str = str(LAST)) -> str:
    """The condition for those of an organization; to be ordered by state, organization_id and sequence."""
    return within_key("state, organization_id, sequence", f"'{state}', {organization}", after, below)


# A conversation that waits for its time is marked so, and CLAIM passes over organizations that have no other. It is unmarked
# when its time has come; as many at once as are claimed in some seconds, the first ones first.
DUE_AGAIN = f"""
update delivery_queues q set postponed = false
from (
    select organization_id, conversation_id from delivery_queues
    where postponed and lease_id is null and due_at <= now() order by due_at limit 1000 for update skip locked
) due where {same_key("organization_id, conversation_id", "q", "due")}"""


async def due_again(connection: asyncpg.Connection) -> None:
    """Have those conversations claimed again whose time has come (worker, all organizations)."""
    await connection.execute(DUE_AGAIN)


# In turns: from the organization after the one served last, once around those that have something due, one step of an
# index each, and no further than there is room. Each is given what it lacks to $4 conversations under way, so that the one
# with a slow CRM leaves room for others. Two processes that claim at the same moment may exceed that, by their number.
# $5 are those that answer slowly (ingress/delivery/places.py): with $6 a claim is for them, else for all others.
CLAIM = f"""
with recursive freed as (  -- of processes that died; somebody's next look finds them
    update delivery_queues q set lease_id = null, leased_until = null
    from (
        select organization_id, conversation_id from delivery_queues
        where lease_id is not null and leased_until < now() for update skip locked
    ) lost where {same_key("organization_id, conversation_id", "q", "lost")}
),
turns (organization_id, queued) as (
    select $2::uuid, false
    union  -- not `all`: the first one met again is the end
    select coalesce(
        (select organization_id from delivery_queues where lease_id is null and not postponed
            and organization_id > turns.organization_id order by organization_id limit 1),
        (select organization_id from delivery_queues where lease_id is null and not postponed
            order by organization_id limit 1)
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
        where organization_id = turns.organization_id and lease_id is null and not postponed and due_at <= now()
        order by due_at limit greatest(0, $4 - (
            select count(*) from delivery_queues
            where organization_id = turns.organization_id and lease_id is not null and leased_until >= now()
        ))
        for update skip locked
    ) q
    where turns.queued and (turns.organization_id = any($5::uuid[])) = $6 limit $3
)
update delivery_queues q set lease_id = $1, leased_until = now() + interval '{LEASE_S} s'
from due where {same_key("organization_id, conversation_id", "q", "due")}
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
    conversation. ``followed``: the page ends here for its size, so there is more.
    """

    attempts: int
    refusals: int
    waits_since: datetime
    gap: bool
    must_wait: bool
    followed: bool


# A conversation whose contact was merged has nothing by itself any more: what it has is its canonical one's, which waits
# while somebody still delivers what they claimed before.
_ONE = f"""one as materialized (
        select $2::uuid as id where not exists (select from conversations where organization_id = $1 and id = $2 and {is_merged()})
        union all select id from conversations where organization_id = $1 and canonical_id = $2
    )"""


def _parked_last(after: str, below: str, columns: str = "sequence") -> str:
    """What was given up last between two sequences in the conversations ``one``."""
    return f"""select parked.* from one cross join lateral (
            {waiting(columns, "one.id", after, below, "parked")}
            order by conversation_id desc, state desc, sequence desc limit 1
        ) parked order by parked.sequence desc limit 1"""


# The first event after one that was given up says so, once it is taken. One that was given up is found by a step before the
# page; between two of a page, which pend longer than it did, there is seldom one, and a step shows that.
PENDING = within(
    names(PendingDelivery),
    f"""with {_ONE},
    page as materialized (
        select d.*, coalesce(lag(sequence) over (order by sequence), 0) as former from one cross join lateral (
            {waiting("organization_id, sequence, attempts, refusals, failed_at", "one.id", "0", f"{LAST}", "pending")}
            order by conversation_id, state, sequence limit $3
        ) d order by sequence limit $3
    )
    select organization_id, sequence, page.attempts, page.refusals, coalesce(page.failed_at, e.created_at) as waits_since, e.type,
        e.config_id, e.created_at, e.data, e.data_bytes,
        (former = 0 or exists ({_parked_last("(select min(sequence) from page)", "(select max(sequence) from page)")}))
            and exists (select from ({_parked_last("page.former", "page.sequence", "sequence, gap_reported")}) before
                where not before.gap_reported) as gap,
        sequence >= (select sequence_horizon())
            or sequence > coalesce((select min(u.sequence) from unread_webhooks u where u.organization_id = $1), {LAST})
            or exists (select from one join delivery_queues q on q.organization_id = $1 and q.conversation_id = one.id
                where one.id <> $2 and q.leased_until >= now()) as must_wait
    from page cross join lateral (
        select type, config_id, created_at, data, data_bytes from events e
        where e.organization_id = $1 and e.sequence = page.sequence limit 1
    ) e""",
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


# Only who still holds the lease decides about the delivery. Queues are changed in the order of their keys, as by who
# stores events. `finished_at` is what is pending has not: no index of what waits looks like a way to one row by that.
FINISH = f"""
with given as materialized (select * from {given(PostResult)}),
ended as materialized (
    select organization_id, conversation_id, lease_id, bool_or(state = 'pending') as is_postponed, max(delay) as delay
    from given group by 1, 2, 3 order by 1, 2
),
held as (
    update delivery_queues q set
        lease_id = case when not is_postponed then q.lease_id end,
        leased_until = case when not is_postponed then now() + interval '{LEASE_S} s' end,
        due_at = case when is_postponed then now() + delay else q.due_at end,
        postponed = is_postponed
    from ended where {same_key("organization_id, conversation_id", "q", "ended")} and q.lease_id is not distinct from ended.lease_id
    returning q.organization_id, q.conversation_id
),
results as materialized (select given.* from given join held using (organization_id, conversation_id))
update deliveries d set state = results.state, attempts = attempts + 1, refusals = refusals + results.refused::int,
    answer = results.answer, last_error = results.error,
    failed_at = case results.state when 'pending' then now() else failed_at end,
    finished_at = case results.state when 'pending' then finished_at else now() end
from results where {same_key("organization_id, sequence", "d", "results")} and d.finished_at is null
    and {between("d.sequence", len(PostResult._fields) + 1, "bigint")}
returning d.sequence"""


async def finish(connection: asyncpg.Connection, results: Sequence[PostResult]) -> set[int]:
    """Count attempts, one of a conversation or several that were taken, and keep each conversation, or postpone it.

    The sequences of those whose lease was not lost (worker).
    """
    sequences = [result.sequence for result in results]
    arguments = *zip(*results, strict=True), min(sequences), max(sequences)
    return {row[0] for row in await connection.fetch(FINISH, *arguments)}


REPORT_GAP = f"""
with {_ONE}
update deliveries set gap_reported = true
where organization_id = $1 and sequence = ({_parked_last("0", "$3")}) and finished_at is not null"""


async def report_gap(
    connection: asyncpg.Connection, organization_id: UUID, conversation_id: UUID, sequence: int
) -> None:
    """The CRM has taken the event at *sequence*, which said that the one before was given up (worker)."""
    await connection.execute(REPORT_GAP, organization_id, conversation_id, sequence)


# An arrival since the claim has changed `arrivals`, also where its transaction was not visible when we looked.
_DROP = """
delete from delivery_queues
where organization_id = $1 and conversation_id = $2 and lease_id = $3 and arrivals = $4"""
_WAS_MERGED = f"exists (select from conversations where organization_id = $1 and id = $2 and {is_merged()})"
RELEASE = f"{_DROP} and not {_WAS_MERGED} returning arrivals"
RELEASE_MERGED = f"{_DROP} and {_WAS_MERGED} returning arrivals"
# Before that, in a transaction of its own: who stores events locks the queues of both in the order of their ids.
FORWARD = f"""
insert into delivery_queues (organization_id, conversation_id)
select organization_id, canonical_id from conversations
where organization_id = $1 and id = $2 and {is_merged()}
on conflict (organization_id, conversation_id) do update set arrivals = delivery_queues.arrivals + 1
returning conversation_id"""
KEEP = """
update delivery_queues set lease_id = null, leased_until = null, due_at = now() + $4::interval, postponed = $4::interval > '0'
where organization_id = $1 and conversation_id = $2 and lease_id = $3"""


async def is_emptied(connection: asyncpg.Connection, claim: ClaimedConversation) -> bool:
    """Let go of a conversation whose events were all delivered; False where some came meanwhile, or it was merged (worker)."""
    return await connection.fetchval(RELEASE, *claim) is not None


async def release(connection: asyncpg.Connection, claim: ClaimedConversation) -> None:
    """The conversation's queue is empty, or another one's since it was merged, unless something came meanwhile (worker)."""
    if await is_emptied(connection, claim):
        return
    is_forwarded = await connection.fetchval(FORWARD, *claim[:2]) is not None
    if not is_forwarded or await connection.fetchval(RELEASE_MERGED, *claim) is None:
        await give_back(connection, claim)


async def give_back(
    connection: asyncpg.Connection, claim: ClaimedConversation, delay: timedelta = timedelta(0)
) -> None:
    """Leave the conversation to whoever comes next, after *delay*; no attempt is counted (worker)."""
    await connection.execute(KEEP, *claim[:3], delay)


# Counted up to a bound, and the oldest is the first of an index: a backlog is when nothing else may become slow. What a
# disabled callback has left is nobody's delay: it waits for whoever sets the callback again.
GAUGES_UP_TO = 10_000


class DeliveryGauges(NamedTuple):
    """Numbers of deliveries, of all organizations, up to GAUGES_UP_TO."""

    pending: int
    parked: int
    oldest_s: float


GAUGES = f"""
with recursive owners (organization_id) as (  -- each pending delivery has a queue: a step in an index for each of them
    select '{UUID(int=0)}'::uuid
    union all
    select (select organization_id from delivery_queues
        where organization_id > owners.organization_id order by organization_id limit 1)
    from owners where organization_id is not null
),
served as materialized (
    select organization_id from owners
    where (select c.disabled_at is null from callbacks c where c.organization_id = owners.organization_id)
)
select (select count(*) from (
        select from served cross join lateral (
            select from deliveries where {waiting_of("served.organization_id", "pending")} limit {GAUGES_UP_TO}
        ) of_it limit {GAUGES_UP_TO}) bounded) as pending,
    (select count(*) from (
        select from deliveries
        where state = 'parked' and (state, organization_id) > ('parked', '{UUID(int=0)}') limit {GAUGES_UP_TO}) bounded) as parked,
    coalesce((
        select extract(epoch from now() - min(e.created_at))::float8 from served cross join lateral (
            select sequence from deliveries where {waiting_of("served.organization_id", "pending")}
            order by state, organization_id, sequence limit 1
        ) first cross join lateral (
            select created_at from events e where e.organization_id = served.organization_id and e.sequence = first.sequence limit 1
        ) e
    ), 0) as oldest_s"""


async def gauges(connection: asyncpg.Connection) -> DeliveryGauges:
    """(worker, all organizations)"""
    return DeliveryGauges(*(await connection.fetch(GAUGES))[0])
