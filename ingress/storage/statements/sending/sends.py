"""Sends: claimed with their first attempt, fenced by the organization's version, finished with their event.

Those of one conversation are a queue, by `queue_place`: only the first one that is `sending` is called for.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ....identifiers import moment_of
from ...columns import Big, Json, Small, between, given, names
from ...keys import same_key
from ..contacts import is_merged
from ..events import NOW, clock, insert_events
from .leases import LEASE_S
from .messages import SendState, open_ids, state_of


def _first(of: str, placed: str, ids: int) -> str:
    """The first send under way in the conversation of the row *of*, among those *placed* so in its queue; else NULL.

    The two parameters from *ids* on are `open_ids`.
    """
    return f"""(
        select queue.id from messages queue
        where queue.organization_id = {of}.organization_id and queue.conversation_id = {of}.conversation_id
            and queue.state = 'sending' and queue.queue_place {placed} and {between("queue.id", ids)}
        order by queue.queue_place limit 1
    )"""


def _earlier(ids: int) -> str:
    return _first("m", "< m.queue_place", ids)


class Claim(NamedTuple):
    """A new message and its first attempt, valid while the organization is at ``version`` and the conversation its own."""

    organization_id: UUID
    id: UUID
    conversation_id: UUID
    in_order: bool
    idempotency_key: str | None
    key_hash: bytes | None  # of that
    request_hash: bytes
    request: Json
    request_id: str | None
    expires_at: datetime
    lease_id: UUID
    config_id: UUID
    provider: str
    version: Big
    # Where that is not the config that should send it. Statuses may come before the outcome is stored.
    fallback_from: UUID | None
    fallback_reason: str | None


CLAIM = f"""
with given as (select *, (${len(Claim._fields) + 1}::boolean[])[place] as heads_batch from {given(Claim)}),
fenced as (
    select given.*, case when in_order then ({NOW}) + given.place end as queue_place,
        not in_order or heads_batch and {_first("given", "is not null", len(Claim._fields) + 2)} is null as is_first
    from given join organizations o on o.id = given.organization_id and o.version = given.version
    where not exists (select from conversations c where c.organization_id = given.organization_id
        and c.id = given.conversation_id and {is_merged("c.")})
),
keyed as (
    insert into idempotency_keys (organization_id, key_hash, message_id)
    select organization_id, key_hash, id from fenced where key_hash is not null order by organization_id, key_hash
    on conflict do nothing
    returning organization_id, message_id
),
claimed as (
    insert into messages (organization_id, id, conversation_id, idempotency_key, request_hash, request, request_id,
        queue_place, state, attempts, expires_at, lease_id, leased_until, fallback_from, fallback_reason)
    select organization_id, id, conversation_id, idempotency_key, request_hash, request, request_id,
        queue_place, 'sending', is_first::integer, expires_at, lease_id, now() + interval '{LEASE_S} s', fallback_from, fallback_reason
    from fenced where key_hash is null or (organization_id, id) in (select organization_id, message_id from keyed)
    order by organization_id, id
    on conflict do nothing
    returning organization_id, id
),
attempted as (
    insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at)
    select organization_id, id, 1, config_id, provider, version, now()
    from fenced join claimed using (organization_id, id) where is_first
)
select fenced.id is not null as current, claimed.id is not null as claimed, fenced.is_first
from given left join fenced using (organization_id, id) left join claimed using (organization_id, id)
order by given.place"""


class Claimed(NamedTuple):
    """``current``: the versions were right. ``claimed``: the key was free. ``is_first``: the attempt has begun, for no
    earlier send of the conversation is under way.
    """

    current: bool
    claimed: bool
    is_first: bool | None  # None: it is not claimed


async def claim(connection: asyncpg.Connection, claims: Sequence[Claim]) -> list[Claimed]:
    """Insert each message, unless its version is stale or its key taken, and its first attempt if it is first (worker)."""
    heads = {claim.conversation_id: claim.id for claim in reversed(claims) if claim.in_order}
    heads_batch = [heads.get(claim.conversation_id) == claim.id for claim in claims]
    return [
        Claimed(*row) for row in await connection.fetch(CLAIM, *zip(*claims, strict=True), heads_batch, *open_ids())
    ]


class NextAttempt(NamedTuple):
    """A further attempt of a message, by who holds its lease, valid while the organization is at ``version``."""

    organization_id: UUID
    id: UUID
    lease_id: UUID
    number: int
    config_id: UUID
    provider: str
    version: Big
    fallback_from: UUID | None
    fallback_reason: str | None


_OF_ATTEMPT = len(NextAttempt._fields) + 1
BEGIN_ATTEMPT = f"""
with given as (select * from {given(NextAttempt)}),
renewed as (
    update messages m set attempts = greatest(m.attempts, given.number), leased_until = now() + interval '{LEASE_S} s',
        fallback_from = coalesce(given.fallback_from, m.fallback_from),
        fallback_reason = coalesce(given.fallback_reason, m.fallback_reason), updated_at = now()
    from given join organizations o on o.version = given.version and o.id = given.organization_id
    where {same_key("organization_id, id", "m", "given")} and m.lease_id = given.lease_id
        and m.state = 'sending' and m.status_rank <= 1 and {_earlier(_OF_ATTEMPT)} is null and {between("m.id", _OF_ATTEMPT + 2)}
    returning m.organization_id, m.id
),
begun as (
    insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at)
    select organization_id, id, number, config_id, provider, version, now()
    from given join renewed using (organization_id, id)
    -- Begun before, by a commit that nobody confirmed, so nobody was called.
    on conflict (organization_id, message_id, number) do update
        set config_id = excluded.config_id, provider = excluded.provider, version = excluded.version, started_at = now()
        where attempts.class is null
)
select o.version = given.version as current, m.lease_id = given.lease_id and m.state = 'sending' as held,
    m.status_rank > 1 as settled, {_earlier(_OF_ATTEMPT)} is null as is_first
from given cross join lateral (
    select * from messages where organization_id = given.organization_id and id = given.id and {between("id", _OF_ATTEMPT + 2)}
    limit 1
) m join organizations o on o.id = m.organization_id"""


class BegunAttempt(NamedTuple):
    """The attempt is begun where the version is current, the lease held, no status has settled the message, and no earlier
    send of its conversation is under way.
    """

    current: bool
    held: bool
    settled: bool
    is_first: bool


async def begin_attempt(connection: asyncpg.Connection, attempt: NextAttempt) -> BegunAttempt:
    """Record the intent to call, if nothing speaks against it; once more is as good as once (worker)."""
    ids = *open_ids(), attempt.id, attempt.id
    row = await connection.fetchrow(BEGIN_ATTEMPT, *zip(attempt, strict=True), *ids)
    return BegunAttempt(*row) if row else BegunAttempt(True, False, False, True)


class WaitingSend(NamedTuple):
    """A message that waits for an earlier one of its conversation."""

    organization_id: UUID
    id: UUID


FIRST = f"""
select m.id from {given(WaitingSend)} join messages m using (organization_id, id)
where {_earlier(len(WaitingSend._fields) + 1)} is null and {between("m.id", len(WaitingSend._fields) + 1)}"""


async def first_of(connection: asyncpg.Connection, waiting: Sequence[WaitingSend]) -> list[UUID]:
    """Those of *waiting* that nothing is before any more (worker)."""
    return [row["id"] for row in await connection.fetch(FIRST, *zip(*waiting, strict=True), *open_ids())]


class Outcome(NamedTuple):
    """What became of an attempt, and of its message: ``state`` sending means that another attempt follows."""

    organization_id: UUID
    message_id: UUID
    lease_id: UUID
    number: int  # of the attempt; 0: no attempt was made
    attempt_class: str  # of its error, or `ok`
    code: str | None
    detail: str | None
    duration_ms: int
    config_id: UUID
    provider: str
    provider_message_id: str | None
    message_key: str | None
    state: str
    status: str
    rank: Small
    error: Json | None
    fallback_from: UUID | None
    fallback_reason: str | None
    at: datetime
    cost: str | None
    held_until: datetime | None  # for `uncertain`: when it becomes `unknown`
    account_id: UUID
    event_type: str | None  # None: the message has not ended
    conversation_id: UUID | None
    data: Json | None


# Parameters: the ids of sends that may be under way, those of these messages, and since when statuses of them may have come.
_OPEN, _IDS, _SINCE = (len(Outcome._fields) + place for place in (1, 3, 5))
FINISH = f"""
with outcome as (select *, message_id as id from {given(Outcome)}),
early as (
    select o.organization_id, o.message_id, s.value, s.status_rank as rank, s.error
    from outcome o join message_statuses s using (organization_id, account_id, message_key)
    where {between("s.received_at", _SINCE, "timestamptz")}
),
locked as (
    select m.organization_id, m.id, m.state, m.status_rank, m.status, m.error,
        case when o.state <> 'sending' then {_first("m", "> m.queue_place", _OPEN)} end as next_id
    from messages m join outcome o on {same_key("organization_id, id", "m", "o")} and {between("m.id", _IDS)}
    order by m.organization_id, m.id for update of m
),
-- A lost answer whose status came first is no open question any more.
ended as (
    update attempts a set
        class = case when o.attempt_class <> 'Uncertain' or l.status_rank <= 1 then o.attempt_class
            when l.status = 'failed' then coalesce(l.error ->> 'class', 'Rejected') else 'ok' end,
        code = case when o.attempt_class = 'Uncertain' and l.status_rank > 1 then 'settled_by_status' else o.code end,
        detail = o.detail, duration_ms = o.duration_ms, provider_message_id = o.provider_message_id
    from outcome o join locked l on l.organization_id = o.organization_id and l.id = o.message_id
    where {same_key("organization_id, message_id, number", "a", "o")}
        and {between("a.message_id", _IDS)} and (a.class is null or a.class = 'Uncertain')
),
finished as (
    update messages m set
        state = case when m.state = 'done' or (o.state = 'uncertain' and m.status_rank > 1) then 'done' else o.state end,
        status = case when best.rank > m.status_rank then best.status else m.status end,
        status_rank = greatest(best.rank, m.status_rank),
        error = case when greatest(best.rank, m.status_rank) = 3 then coalesce(best.error, m.error)
            when o.attempt_class = 'ok' then null else coalesce(best.error, m.error) end,
        provider = case when o.provider_message_id is not null or m.provider is null then o.provider else m.provider end,
        config_id = case when o.provider_message_id is not null or m.config_id is null then o.config_id else m.config_id end,
        account_id = case when o.provider_message_id is not null or m.config_id is null then o.account_id else m.account_id end,
        -- With the account that it went out by.
        conversation_id = coalesce(case when o.provider_message_id is not null then o.conversation_id end, m.conversation_id),
        provider_message_id = coalesce(o.provider_message_id, m.provider_message_id),
        message_key = coalesce(o.message_key, m.message_key),
        fallback_from = coalesce(o.fallback_from, m.fallback_from),
        fallback_reason = coalesce(o.fallback_reason, m.fallback_reason),
        -- The time that POST /send answers with, also where a status with the provider's own time was faster: who asks
        -- again under the same key gets the same answer.
        sent_at = case when o.provider_message_id is not null then o.at
            when o.attempt_class = 'ok' then coalesce(m.sent_at, o.at) else m.sent_at end,
        cost = coalesce(o.cost, m.cost),
        leased_until = case o.state when 'sending' then m.leased_until when 'uncertain' then o.held_until end,
        updated_at = now()
    from outcome o join locked on locked.organization_id = o.organization_id and locked.id = o.message_id
    cross join lateral (
        select status, rank, error from (
            -- A later attempt that failed does not undo an earlier one that turned out to be on its way.
            select o.status, case when o.status = 'failed' and locked.status_rank >= 2 then -1 else o.rank end, o.error
            union all
            select e.value, e.rank, e.error from early e where e.organization_id = o.organization_id and e.message_id = o.message_id
        ) candidate (status, rank, error) order by rank desc limit 1
    ) best
    where {same_key("organization_id, id", "m", "o")} and {between("m.id", _IDS)}
        -- The same id of the provider's: it was stored before, by a commit that nobody confirmed.
        and (m.lease_id = o.lease_id
            or (o.attempt_class = 'ok' and (m.state <> 'done' or m.message_key = o.message_key)))
    returning m.organization_id, {names(SendState, "m.")}, locked.next_id
),
given as (
    select o.place, o.organization_id, o.event_type as type, o.config_id, o.conversation_id,
        o.data, null::bytea as raw
    from outcome o join finished f on f.organization_id = o.organization_id and f.id = o.message_id
    join locked l on l.organization_id = o.organization_id and l.id = o.message_id
    -- A message ends once: what is stored again, for nobody confirmed the commit, makes no second event. And a status
    -- with our id that came before our own answer has reported more already.
    where o.event_type is not null and l.state <> 'done' and (f.status = o.status or f.status <> l.status or o.fallback_from is not null)
),
{clock()},
{insert_events("given")}
select {names(SendState, "f.")}, f.next_id,
    coalesce((select true from held_events h where h.organization_id = o.organization_id limit 1), false) as has_held
from outcome o left join finished f on f.organization_id = o.organization_id and f.id = o.message_id
order by o.place"""


# A status that comes before our own answer is of after the message was made, by another clock.
CLOCKS_APART = timedelta(hours=1)


class Finished(NamedTuple):
    """A message as it stands now; None: its lease was lost, and somebody else speaks for it.

    ``next_id``: what comes after it in the queue of its conversation, where it has ended; None: nothing that is known yet.
    ``has_held``: events of the organization wait for sends to end.
    """

    state: SendState | None
    next_id: UUID | None
    has_held: bool


async def finish(connection: asyncpg.Connection, outcomes: Sequence[Outcome]) -> list[Finished]:
    """Store what became of attempts and messages, statuses that came early merged in.

    Once more is as good as once (worker).
    """
    ids = [outcome.message_id for outcome in outcomes]
    first, now = min(ids), datetime.now(UTC)
    since = moment_of(first) - CLOCKS_APART, now + CLOCKS_APART
    rows = await connection.fetch(FINISH, *zip(*outcomes, strict=True), *open_ids(), first, max(ids), *since)
    return [
        Finished(state_of(SendState, row[:-2]) if row["id"] else None, row["next_id"], row["has_held"]) for row in rows
    ]


# After its time is over. Lease, hold and recovery of a send that began in its last moment are over well before.
LOST_AFTER_S = 300


class SendGauges(NamedTuple):
    """Numbers of sends under way, of all organizations."""

    pending: int
    uncertain: int
    oldest_s: float
    lost: int


# The first ones to be taken over, which the lost ones are among; counted up to a bound, as deliveries are.
GAUGES = f"""
select count(*) filter (where state = 'sending') as pending, count(*) filter (where state = 'uncertain') as uncertain,
    coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as oldest_s,
    count(*) filter (where expires_at < now() - interval '{LOST_AFTER_S} s') as lost
from (
    select state, created_at, expires_at from messages where leased_until is not null order by leased_until limit 10000
) open /* every organization_id */"""


async def gauges(connection: asyncpg.Connection) -> SendGauges:
    """(worker, all organizations)"""
    return SendGauges(*(await connection.fetch(GAUGES))[0])
