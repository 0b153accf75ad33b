"""Sends: claimed with their first attempt, fenced by the organization's version, finished with their event."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from .events import EventRow, insert_events
from .pages import within

LEASE_S = 30


class Claim(NamedTuple):
    """A new message and its first attempt, valid while the organization is at ``version``."""

    organization_id: UUID
    id: UUID
    conversation_id: UUID
    idempotency_key: str | None
    request_hash: bytes
    request: bytes
    expires_at: datetime
    lease_id: UUID
    config_id: UUID
    provider: str
    version: int


CLAIM = f"""
with given as (
    select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::json[], $7::timestamptz[],
        $8::uuid[], $9::uuid[], $10::text[], $11::bigint[]) with ordinality
        as _(organization_id, id, conversation_id, idempotency_key, request_hash, request, expires_at, lease_id,
            config_id, provider, version, place)
),
fenced as (
    select given.* from given join organizations o on o.id = given.organization_id and o.version = given.version
),
claimed as (
    insert into messages (organization_id, id, conversation_id, idempotency_key, request_hash, request, state, expires_at,
        lease_id, leased_until)
    select organization_id, id, conversation_id, idempotency_key, request_hash, request, 'sending', expires_at, lease_id,
        now() + interval '{LEASE_S} s'
    from fenced order by organization_id, idempotency_key
    on conflict (organization_id, idempotency_key) do nothing
    returning organization_id, id
),
attempted as (
    insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at)
    select organization_id, id, 1, config_id, provider, version, now() from fenced join claimed using (organization_id, id)
)
select given.place, fenced.id is not null as current, claimed.id is not null as claimed
from given left join fenced using (organization_id, id) left join claimed using (organization_id, id)
order by given.place"""


class Claimed(NamedTuple):
    """``current``: the version was right. ``claimed``: the key was free, and the attempt may begin."""

    current: bool
    claimed: bool


async def claim(connection: asyncpg.Connection, claims: Sequence[Claim]) -> list[Claimed]:
    """Insert each message and its first attempt, unless its version is stale or its key taken (worker)."""
    rows = await connection.fetch(CLAIM, *zip(*claims, strict=True))
    return [Claimed(current, claimed) for _, current, claimed in rows]


# Ordered as below; one that is being changed is met again.
WITHDRAW = """
with claimed as (
    select m.organization_id, m.id
    from messages m join unnest($1::uuid[], $2::uuid[]) as given(organization_id, id) using (organization_id, id)
    where m.state = 'sending' and m.attempts = 1 order by m.organization_id, m.id for update of m skip locked
),
attempted as (
    delete from attempts a using claimed where a.organization_id = claimed.organization_id and a.message_id = claimed.id
)
delete from messages m using claimed where m.organization_id = claimed.organization_id and m.id = claimed.id
returning m.id"""


async def withdraw(connection: asyncpg.Connection, claimed: Sequence[tuple[UUID, UUID]]) -> list[UUID]:
    """Forget messages, (organization, message) of each, whose first attempt never was: those that there were (worker)."""
    return [row["id"] for row in await connection.fetch(WITHDRAW, *zip(*claimed, strict=True))]


BEGIN_ATTEMPT = f"""
with renewed as (
    update messages m set attempts = greatest(m.attempts, $3), leased_until = now() + interval '{LEASE_S} s', updated_at = now()
    from organizations o
    where m.organization_id = $1 and m.id = $2 and m.lease_id = $7 and m.state = 'sending' and m.status_rank <= 1
        and o.id = $1 and o.version = $6
    returning m.organization_id, m.id
),
begun as (
    insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at)
    select organization_id, id, $3, $4, $5, $6, now() from renewed
    -- Begun before, by a commit that nobody confirmed, so nobody was called.
    on conflict (organization_id, message_id, number) do update
        set config_id = excluded.config_id, provider = excluded.provider, version = excluded.version, started_at = now()
        where attempts.class is null
)
select o.version = $6 as current, m.lease_id = $7 and m.state = 'sending' as held, m.status_rank > 1 as settled
from messages m join organizations o on o.id = m.organization_id where m.organization_id = $1 and m.id = $2"""


class Begun(NamedTuple):
    """The attempt is begun where the version is current, the lease held, and no status has settled the message."""

    current: bool
    held: bool
    settled: bool


async def begin_attempt(
    connection: asyncpg.Connection,
    organization_id: UUID,
    message_id: UUID,
    *,
    number: int,
    config_id: UUID,
    provider: str,
    version: int,
    lease_id: UUID,
) -> Begun:
    """Record the intent to call, if nothing speaks against it; once more is as good as once (worker)."""
    row = await connection.fetchrow(
        BEGIN_ATTEMPT, organization_id, message_id, number, config_id, provider, version, lease_id
    )
    return Begun(*row) if row else Begun(True, False, False)


class Outcome(NamedTuple):
    """What became of an attempt, and of its message: ``state`` sending means that another attempt follows."""

    organization_id: UUID
    message_id: UUID
    lease_id: UUID
    number: int  # of the attempt; 0: no attempt was made
    attempt_class: str
    code: str | None
    detail: str | None
    duration_ms: int
    config_id: UUID
    provider: str
    provider_message_id: str | None
    state: str
    status: str
    rank: int
    error: bytes | None
    fallback_from: UUID | None
    fallback_reason: str | None
    at: datetime
    cost: str | None
    held_until: datetime | None  # for `uncertain`: when it becomes `unknown`
    account_id: UUID
    event: EventRow | None


FINISH = f"""
with outcome as (
    select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::text[], $6::text[], $7::text[],
        $8::integer[], $9::uuid[], $10::text[], $11::text[], $12::text[], $13::text[], $14::smallint[], $15::json[],
        $16::uuid[], $17::text[], $18::timestamptz[], $19::text[], $20::timestamptz[], $21::uuid[], $22::text[],
        $23::uuid[], $24::json[])
        with ordinality
        as _(organization_id, message_id, lease_id, number, class, code, detail, duration_ms, config_id, provider,
            provider_message_id, state, status, rank, error, fallback_from, fallback_reason, at, cost, held_until, account_id,
            event_type, conversation_id, data, place)
),
early as (
    select o.organization_id, o.message_id, s.value, s.status_rank as rank, s.error
    from outcome o join message_statuses s using (organization_id, account_id, provider_message_id)
),
locked as (
    select m.organization_id, m.id, m.state, m.status_rank, m.status, m.error
    from messages m join outcome o on m.organization_id = o.organization_id and m.id = o.message_id
    order by m.organization_id, m.id for update of m
),
-- A lost answer whose status came first is no open question any more.
ended as (
    update attempts a set
        class = case when o.class <> 'Uncertain' or l.status_rank <= 1 then o.class
            when l.status = 'failed' then coalesce(l.error ->> 'class', 'Rejected') else 'ok' end,
        code = case when o.class = 'Uncertain' and l.status_rank > 1 then 'settled_by_status' else o.code end,
        detail = o.detail, duration_ms = o.duration_ms, provider_message_id = o.provider_message_id
    from outcome o join locked l on l.organization_id = o.organization_id and l.id = o.message_id
    where a.organization_id = o.organization_id and a.message_id = o.message_id and a.number = o.number
        and (a.class is null or a.class = 'Uncertain')
),
finished as (
    update messages m set
        state = case when m.state = 'done' or (o.state = 'uncertain' and m.status_rank > 1) then 'done' else o.state end,
        status = case when best.rank > m.status_rank then best.status else m.status end,
        status_rank = greatest(best.rank, m.status_rank),
        error = case when greatest(best.rank, m.status_rank) = 3 then coalesce(best.error, m.error)
            when o.class = 'ok' then null else coalesce(best.error, m.error) end,
        provider = case when o.provider_message_id is not null or m.provider is null then o.provider else m.provider end,
        config_id = case when o.provider_message_id is not null or m.config_id is null then o.config_id else m.config_id end,
        account_id = case when o.provider_message_id is not null or m.config_id is null then o.account_id else m.account_id end,
        provider_message_id = coalesce(o.provider_message_id, m.provider_message_id),
        fallback_from = coalesce(o.fallback_from, m.fallback_from),
        fallback_reason = coalesce(o.fallback_reason, m.fallback_reason),
        -- The time that POST /send answers with, also where a status with the provider's own time was faster: who asks
        -- again under the same key gets the same answer.
        sent_at = case when o.provider_message_id is not null then o.at
            when o.class = 'ok' then coalesce(m.sent_at, o.at) else m.sent_at end,
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
    where m.organization_id = o.organization_id and m.id = o.message_id
        -- The same id of the provider's: it was stored before, by a commit that nobody confirmed.
        and (m.lease_id = o.lease_id
            or (o.class = 'ok' and (m.state <> 'done' or m.provider_message_id = o.provider_message_id)))
    returning m.organization_id, m.id, m.state, m.status, m.provider, m.config_id, m.provider_message_id, m.fallback_from,
        m.fallback_reason, m.attempts, m.error, m.sent_at, m.cost
),
given as (
    select o.place, o.organization_id, o.event_type as type, o.config_id, o.conversation_id,
        o.data, null::bytea as raw
    from outcome o join finished f on f.organization_id = o.organization_id and f.id = o.message_id
    join locked l on l.organization_id = o.organization_id and l.id = o.message_id
    -- A message ends once: what is stored again, for nobody confirmed the commit, makes no second event. And a status
    -- that came before our own answer has told more already.
    where o.event_type is not null and l.state <> 'done' and (f.status = o.status or o.fallback_from is not null)
),
{insert_events("given")}
select f.id, f.state, f.status, f.provider, f.config_id, f.provider_message_id, f.fallback_from, f.fallback_reason,
    f.attempts, f.error, f.sent_at, f.cost
from outcome o left join finished f on f.organization_id = o.organization_id and f.id = o.message_id
order by o.place"""


async def finish(connection: asyncpg.Connection, outcomes: Sequence[Outcome]) -> list[asyncpg.Record]:
    """Store what became of attempts and messages, statuses that came early merged in: the messages as they stand now.

    Once more is as good as once. A row of NULLs is a message whose lease was lost: somebody else speaks for it (worker).
    """
    events = [outcome.event for outcome in outcomes]
    return await connection.fetch(
        FINISH,
        *zip(*[outcome[:21] for outcome in outcomes], strict=True),
        [event and event.type for event in events],
        [event and event.conversation_id for event in events],
        [event and event.data for event in events],
    )


# Ordered like every statement that changes several messages; one that is being changed needs no new lease.
SET_LEASES = """
with held as (
    select m.organization_id, m.id
    from messages m join unnest($1::uuid[], $2::uuid[], $3::uuid[]) as mine(organization_id, id, lease_id)
        using (organization_id, id, lease_id)
    where m.state = 'sending' order by m.organization_id, m.id for update of m skip locked
)
update messages m set leased_until = now() + make_interval(secs => $4)
from held where m.organization_id = held.organization_id and m.id = held.id"""


async def set_leases(
    connection: asyncpg.Connection, leases: Sequence[tuple[UUID, UUID, UUID]], *, seconds: int
) -> None:
    """Hold messages for *seconds* more, or (0) give them back: (organization, message, lease) of each (worker)."""
    await connection.execute(SET_LEASES, *zip(*leases, strict=True), seconds)


RECLAIM = f"""
with due as (
    select organization_id, id, row_number() over (partition by organization_id order by leased_until) as place
    from messages where state <> 'done' and leased_until < now()
),
lost as (
    select m.organization_id, m.id from messages m join due using (organization_id, id)
    where due.place <= $3 and m.state <> 'done' and m.leased_until < now()
    order by m.leased_until limit $2 for update of m skip locked
)
update messages m set lease_id = $1, leased_until = now() + interval '{LEASE_S} s'
from lost where m.organization_id = lost.organization_id and m.id = lost.id
returning m.organization_id, m.id, m.conversation_id, m.request, m.state, m.status_rank, m.attempts, m.fallback_from,
    m.fallback_reason, m.created_at, m.expires_at, m.config_id, m.provider"""


async def reclaim(
    connection: asyncpg.Connection, lease_id: UUID, limit: int, per_organization: int
) -> list[asyncpg.Record]:
    """Take over messages whose process died, and held ones whose time is up (worker, all organizations)."""
    return await connection.fetch(RECLAIM, lease_id, limit, per_organization)


ATTEMPTS = """
select number, config_id, provider, version, started_at, class, code, detail, duration_ms, provider_message_id
from attempts where organization_id = $1 and message_id = $2 order by number"""


async def attempts(connection: asyncpg.Connection, organization_id: UUID, message_id: UUID) -> list[asyncpg.Record]:
    """Every call that was made for a message, or begun (organization, worker)."""
    return await connection.fetch(ATTEMPTS, organization_id, message_id)


_MESSAGE = """id, conversation_id, idempotency_key, request_hash, request, state, status, provider, config_id,
    provider_message_id, fallback_from, fallback_reason, attempts, error, cost, created_at, updated_at, sent_at, expires_at"""

BY_ID = f"select {_MESSAGE} from messages where organization_id = $1 and id = $2"


async def by_id(connection: asyncpg.Connection, organization_id: UUID, message_id: UUID) -> asyncpg.Record | None:
    """One message (organization, worker)."""
    return await connection.fetchrow(BY_ID, organization_id, message_id)


BY_KEY = f"select {_MESSAGE} from messages where organization_id = $1 and idempotency_key = $2"


async def by_key(connection: asyncpg.Connection, organization_id: UUID, key: str) -> asyncpg.Record | None:
    """The message that an idempotency key names (organization)."""
    return await connection.fetchrow(BY_KEY, organization_id, key)


SENT = within(
    f"{_MESSAGE}, followed",
    f"""select {_MESSAGE} from messages
    where organization_id = $1 and ($2::uuid is null or conversation_id = $2) and ($3::uuid is null or id < $3)
    order by id desc limit $4""",
    size="octet_length(request::text)",
    order="id desc",
)


async def page(
    connection: asyncpg.Connection, organization_id: UUID, conversation: UUID | None, before: UUID | None, limit: int
) -> list[asyncpg.Record]:
    """Messages, newest first, below *before*: as many as make a page. Whether the last is ``followed`` (organization)."""
    return await connection.fetch(SENT, organization_id, conversation, before, limit)


# After its time is over. Lease, hold and recovery of a send that began in its last moment are over well before.
LOST_AFTER_S = 300
GAUGES = f"""
select count(*) filter (where state = 'sending') as pending, count(*) filter (where state = 'uncertain') as uncertain,
    coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as oldest_s,
    count(*) filter (where expires_at < now() - interval '{LOST_AFTER_S} s') as lost
from messages where state <> 'done' /* every organization_id */"""


async def gauges(connection: asyncpg.Connection) -> asyncpg.Record:
    """Numbers of sends under way, of all organizations (worker)."""
    return (await connection.fetch(GAUGES))[0]
