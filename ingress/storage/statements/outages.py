"""Endpoints of CRMs that take nothing, and those that take something again."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

import asyncpg

from ..keys import same_key

# So many failures in a row, of whatever, are the endpoint's and no event's.
DOWN_AFTER = 5
# Any of its conversations: what one has to deliver may be what the CRM never takes.
TRY = f"""
with down as (
    select organization_id, gen_random_uuid() as any_id from callbacks
    where paused_until <= now() - $1::interval and disabled_at is null and consecutive_failures >= {DOWN_AFTER}
),
one as materialized (
    select q.organization_id, q.conversation_id from down cross join lateral (
        (select * from delivery_queues where organization_id = down.organization_id and conversation_id >= down.any_id
            order by organization_id, conversation_id limit 1)
        union all
        (select * from delivery_queues where organization_id = down.organization_id
            order by organization_id, conversation_id limit 1)
        limit 1
    ) q where q.lease_id is null and q.due_at > now()
)
update delivery_queues q set due_at = now(), postponed = false
from one where {same_key("organization_id, conversation_id", "q", "one")} and q.lease_id is null"""


async def try_one(connection: asyncpg.Connection, after: timedelta) -> None:
    """Have a conversation of each endpoint that is down tried now, where its pause ended *after* ago (worker)."""
    await connection.execute(TRY, after)


# What became of a post is about the URL that was posted to, which may have been replaced meanwhile.
SUCCEEDED = f"""
with given as (
    select c.organization_id, c.consecutive_failures from unnest($1::uuid[], $2::text[]) as _ (organization_id, url)
    join callbacks c on c.organization_id = _.organization_id and c.url = _.url and c.failing_since is not null
    order by c.organization_id for update of c
)
update callbacks c set failing_since = null, last_error = null, consecutive_failures = 0, paused_until = null,
    updated_at = now()
from given where {same_key("organization_id", "c", "given")}
returning c.organization_id, given.consecutive_failures >= {DOWN_AFTER} as were_down"""


async def endpoints_succeeded(connection: asyncpg.Connection, endpoints: Collection[tuple[UUID, str]]) -> list[UUID]:
    """A post was taken, of each of these organizations and URLs; those that were down until now (worker)."""
    rows = await connection.fetch(SUCCEEDED, *zip(*endpoints, strict=True))
    return [row["organization_id"] for row in rows if row["were_down"]]


# In their order, and so that who was to wait for a day waits for less than half a minute.
BATCH_ROWS, SOONER = 2_000, 4_000
BRING_FORWARD = f"""
with postponed as (
    select conversation_id from delivery_queues
    where organization_id = $1 and conversation_id > $2 and lease_id is null and due_at > now()
    order by organization_id, conversation_id limit {BATCH_ROWS} for update skip locked
),
sooner as (
    update delivery_queues q set due_at = now() + (q.due_at - now()) / {SOONER}
    from postponed where q.organization_id = $1 and q.conversation_id = postponed.conversation_id
)
select conversation_id from postponed order by conversation_id desc limit 1"""


async def bring_forward(connection: asyncpg.Connection, organization_id: UUID, after: UUID) -> UUID | None:
    """Have a batch of postponed conversations above *after* tried soon; the last of these (worker)."""
    last: UUID | None = await connection.fetchval(BRING_FORWARD, organization_id, after)
    return last
