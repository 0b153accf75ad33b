"""What the organization's callback has not taken yet."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

UP_TO, LOOKED_INTO = 1_000, 200


class Backlog(NamedTuple):
    """What is still to be delivered, each number up to UP_TO and one. ``oldest_at``: of the conversations that
    are looked into, when the first event that waits came; None: none waits.
    """

    conversations: int
    pending: int
    oldest_at: datetime | None
    parked: int


# By the queues, as the index of what is pending is all organizations'. What waits in one is all after the last that does not.
BACKLOG = f"""
with waiting as materialized (
    select conversation_id from delivery_queues where organization_id = $1 limit {UP_TO + 1}
),
ends as materialized (
    select w.conversation_id, coalesce((
        select d.sequence from deliveries d where d.organization_id = $1 and d.conversation_id = w.conversation_id
            and d.state <> 'pending' order by d.sequence desc limit 1
    ), 0) as sequence from (select * from waiting limit {LOOKED_INTO}) w
)
select (select count(*) from waiting) as conversations,
    (select count(*) from (
        select from ends cross join lateral (
            select from deliveries d where d.organization_id = $1 and d.conversation_id = ends.conversation_id
                and d.sequence > ends.sequence limit {UP_TO + 1}
        ) rest limit {UP_TO + 1}
    ) bounded) as pending,
    (select min(e.created_at) from ends cross join lateral (
        select d.sequence from deliveries d where d.organization_id = $1 and d.conversation_id = ends.conversation_id
            and d.sequence > ends.sequence order by d.sequence limit 1
    ) first join events e on e.organization_id = $1 and e.sequence = first.sequence) as oldest_at,
    (select count(*) from (
        select from deliveries where organization_id = $1 and state = 'parked' limit {UP_TO + 1}
    ) bounded) as parked"""


async def backlog(connection: asyncpg.Connection, organization_id: UUID) -> Backlog:
    """What the organization's callback has not taken yet (organization)."""
    return Backlog(*(await connection.fetch(BACKLOG, organization_id))[0])
