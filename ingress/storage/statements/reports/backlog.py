"""What the organization's callback has not taken yet."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ....identifiers import LAST_ID
from ...keys import within_key
from ..deliveries import waiting_of

UP_TO = 1_000


class Backlog(NamedTuple):
    """What is still to be delivered, each number up to UP_TO and one. ``oldest_at``: when the first event that waits came;
    None: none waits.
    """

    conversations: int
    pending: int
    oldest_at: datetime | None
    parked: int


# As rows are compared, in the order of their index: no more of it is read than is counted.
MINE = f"""{within_key("organization_id, conversation_id", "$1", f"'{UUID(int=0)}'", f"'{LAST_ID}'")}
    order by organization_id, conversation_id"""


def _count(source: str) -> str:
    return f"(select count(*) from (select from {source} limit {UP_TO + 1}) bounded)"


BACKLOG = f"""
select {_count(f"delivery_queues where {MINE}")} as conversations,
    {_count(f"deliveries where {waiting_of('$1', 'pending')}")} as pending,
    (select e.created_at from (
        select sequence from deliveries where {waiting_of("$1", "pending")} order by state, organization_id, sequence limit 1
    ) first cross join lateral (
        select created_at from events e where e.organization_id = $1 and e.sequence = first.sequence limit 1
    ) e) as oldest_at,
    {_count(f"deliveries where {waiting_of('$1', 'parked')}")} as parked"""


async def backlog(connection: asyncpg.Connection, organization_id: UUID) -> Backlog:
    """What the organization's callback has not taken yet (organization)."""
    return Backlog(*(await connection.fetch(BACKLOG, organization_id))[0])
