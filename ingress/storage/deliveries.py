"""Deliveries to the CRM: a conversation is claimed, and its events go out one by one, in order."""

from datetime import datetime
from uuid import UUID

import asyncpg

LEASE_S = 30

CLAIM = f"""
with due as (
    select q.organization_id, q.conversation_id
    from delivery_queues q join callbacks c on c.organization_id = q.organization_id
    where q.due_at <= now() and (q.leased_until is null or q.leased_until < now())
        and c.disabled_at is null and (c.paused_until is null or c.paused_until <= now())
    order by q.due_at limit $2 for update of q skip locked
)
update delivery_queues q set lease_id = $1, leased_until = now() + interval '{LEASE_S} s'
from due where q.organization_id = due.organization_id and q.conversation_id = due.conversation_id
returning q.organization_id, q.conversation_id, q.wakes"""


async def claim(connection: asyncpg.Connection, lease_id: UUID, limit: int) -> list[asyncpg.Record]:
    """Conversations with something to deliver that nobody delivers, now leased (worker, all organizations)."""
    return await connection.fetch(CLAIM, lease_id, limit)


PENDING = """
select d.sequence, d.attempts, d.refusals, e.id, e.type, e.config_id, e.created_at, e.data,
    coalesce((select before.state = 'parked' from deliveries before
        where before.organization_id = d.organization_id and before.conversation_id = d.conversation_id
            and before.sequence < d.sequence order by before.sequence desc limit 1), false) as gap
from deliveries d join events e using (organization_id, sequence)
where d.organization_id = $1 and d.conversation_id = $2 and d.state = 'pending'
order by d.sequence limit $3"""


async def pending(
    connection: asyncpg.Connection, organization_id: UUID, conversation: UUID, limit: int
) -> list[asyncpg.Record]:
    """The next undelivered events of a conversation, in order; ``gap``: the one before was given up (worker)."""
    return await connection.fetch(PENDING, organization_id, conversation, limit)


# Only who still holds the lease may say what became of the delivery.
FINISH = f"""
with held as (
    update delivery_queues set leased_until = now() + interval '{LEASE_S} s'
    where organization_id = $1 and conversation_id = $2 and lease_id = $3 returning organization_id
)
update deliveries d set state = $6, attempts = attempts + 1, last_error = $5, finished_at = now()
from held where d.organization_id = held.organization_id and d.sequence = $4 and d.state = 'pending' returning d.sequence"""


async def finish(
    connection: asyncpg.Connection,
    organization_id: UUID,
    conversation: UUID,
    lease_id: UUID,
    sequence: int,
    error: str | None,
    state: str,
) -> bool:
    """Mark one event delivered or parked and renew the lease; False if the lease was lost (worker)."""
    done = await connection.fetchval(FINISH, organization_id, conversation, lease_id, sequence, error, state)
    return done is not None


POSTPONE = """
with held as (
    update delivery_queues set due_at = now() + $6::interval, lease_id = null, leased_until = null
    where organization_id = $1 and conversation_id = $2 and lease_id = $3 returning organization_id
)
update deliveries d set attempts = attempts + 1, refusals = refusals + $7::int, last_error = $5
from held where d.organization_id = held.organization_id and d.sequence = $4 and d.state = 'pending'"""


async def postpone(
    connection: asyncpg.Connection,
    organization_id: UUID,
    conversation: UUID,
    lease_id: UUID,
    sequence: int,
    error: str,
    delay: object,
    refused: bool = False,
) -> None:
    """An attempt failed, *refused* if by this event's own fault: give the conversation back, due after *delay* (worker)."""
    await connection.execute(POSTPONE, organization_id, conversation, lease_id, sequence, error, delay, int(refused))


# An arrival since the claim has changed `wakes`, also where its transaction was not visible when we looked.
RELEASE = """
delete from delivery_queues
where organization_id = $1 and conversation_id = $2 and lease_id = $3 and wakes = $4 returning wakes"""
KEEP = """
update delivery_queues set lease_id = null, leased_until = null, due_at = now()
where organization_id = $1 and conversation_id = $2 and lease_id = $3"""


async def release(
    connection: asyncpg.Connection, organization_id: UUID, conversation: UUID, lease_id: UUID, wakes: int
) -> None:
    """The conversation's queue is empty, unless something came meanwhile (worker)."""
    if await connection.fetchval(RELEASE, organization_id, conversation, lease_id, wakes) is None:
        await give_back(connection, organization_id, conversation, lease_id)


async def give_back(connection: asyncpg.Connection, organization_id: UUID, conversation: UUID, lease_id: UUID) -> None:
    """Leave the conversation to whoever comes next, at once (worker)."""
    await connection.execute(KEEP, organization_id, conversation, lease_id)


# ------------------------------------------------------------------ the organization's callback

CALLBACK = """
select organization_id, url, secrets, disabled_at, disabled_reason, failing_since, consecutive_failures, paused_until, updated_at
from callbacks where organization_id = $1"""


async def callback(connection: asyncpg.Connection, organization_id: UUID) -> asyncpg.Record | None:
    """Where the organization's events go (organization, worker)."""
    return await connection.fetchrow(CALLBACK, organization_id)


PUT_CALLBACK = """
insert into callbacks (organization_id, url, secrets) values ($1, $2, $3)
on conflict (organization_id) do update set url = excluded.url, secrets = excluded.secrets, disabled_at = null,
    disabled_reason = null, failing_since = null, consecutive_failures = 0, paused_until = null, updated_at = now()"""


async def put_callback(connection: asyncpg.Connection, organization_id: UUID, url: str, secrets: bytes) -> None:
    """Set the callback, enabled and with a clean record (organization)."""
    await connection.execute(PUT_CALLBACK, organization_id, url, secrets)


DROP_CALLBACK = "delete from callbacks where organization_id = $1 returning url"


async def drop_callback(connection: asyncpg.Connection, organization_id: UUID) -> bool:
    """Stop delivering; events stay readable (organization)."""
    return await connection.fetchval(DROP_CALLBACK, organization_id) is not None


SUCCEEDED = """
update callbacks set failing_since = null, consecutive_failures = 0, paused_until = null
where organization_id = $1 and failing_since is not null"""
FAILED = """
update callbacks set failing_since = coalesce(failing_since, now()), consecutive_failures = consecutive_failures + 1,
    paused_until = case when consecutive_failures + 1 >= $2 then now() + $3::interval else paused_until end
where organization_id = $1 returning failing_since"""
DISABLE = """
update callbacks set disabled_at = now(), disabled_reason = $2 where organization_id = $1 and disabled_at is null
returning organization_id"""


async def endpoint_succeeded(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """(worker)"""
    await connection.execute(SUCCEEDED, organization_id)


async def endpoint_failed(
    connection: asyncpg.Connection, organization_id: UUID, pause_after: int, pause: object
) -> datetime | None:
    """Count a failure of the endpoint as a whole; since when it fails (worker)."""
    since: datetime | None = await connection.fetchval(FAILED, organization_id, pause_after, pause)
    return since


async def disable(connection: asyncpg.Connection, organization_id: UUID, reason: str) -> bool:
    """Stop trying until somebody sets the callback again; False if it was so already (worker)."""
    return await connection.fetchval(DISABLE, organization_id, reason) is not None


PARKED = """
select sequence, conversation_id, attempts, last_error, finished_at from deliveries
where organization_id = $1 and state = 'parked' and sequence > $2 order by sequence limit $3"""


async def parked(connection: asyncpg.Connection, organization_id: UUID, after: int, limit: int) -> list[asyncpg.Record]:
    """Events that were given up (organization)."""
    return await connection.fetch(PARKED, organization_id, after, limit)


REPLAY = """
with again as (
    update deliveries set state = 'pending', attempts = 0, refusals = 0, finished_at = null
    where organization_id = $1 and state = 'parked' and ($2::bigint[] is null or sequence = any($2))
    returning organization_id, conversation_id
),
woken as (
    insert into delivery_queues (organization_id, conversation_id)
    select distinct organization_id, conversation_id from again order by organization_id, conversation_id
    on conflict (organization_id, conversation_id)
    do update set wakes = delivery_queues.wakes + 1, due_at = least(delivery_queues.due_at, now())
)
select count(*) from again"""


async def replay(connection: asyncpg.Connection, organization_id: UUID, sequences: list[int] | None) -> int:
    """Deliver parked events after all, those of *sequences* or every one; how many (organization)."""
    count: int = await connection.fetchval(REPLAY, organization_id, sequences)
    return count


GAUGES = """
select (select count(*) from deliveries where state = 'pending') as pending,
    (select count(*) from deliveries where state = 'parked') as parked,
    (select coalesce(extract(epoch from now() - min(e.created_at)), 0)::float8 from deliveries d
        join events e using (organization_id, sequence) where d.state = 'pending') as oldest_s"""


async def gauges(connection: asyncpg.Connection) -> asyncpg.Record:
    """Numbers of deliveries, of all organizations (worker)."""
    return (await connection.fetch(GAUGES))[0]
