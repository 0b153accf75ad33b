"""What became of events at the callback: the last ones, and how many were given up."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ....validation import Unlogged
from ...columns import names
from ..deliveries import waiting_of


class ParkedGroup(Unlogged, frozen=True):
    """How many parked events are of a type and were given up for the same reason."""

    type: str
    last_error: str | None
    events: int


class ParkedCount(NamedTuple):
    """Parked events by type and reason, the largest group first. ``through``: the last counted; ``more``: behind it."""

    groups: list[ParkedGroup]
    through: int | None = None
    more: bool = False


# The events one by one, as they are looked up by their keys: here and below, however many the plan expects.
COUNT_PARKED = f"""
with counted as materialized (
    select sequence, last_error from deliveries
    where {waiting_of("$1", "parked", "$3")} order by state, organization_id, sequence limit $2
),
span as materialized (select max(sequence) as through from counted),
rest as materialized (
    select exists (select from deliveries where {waiting_of("$1", "parked", "through")}) as more
    from span
)
select type, last_error, count(*) as events, through, more
from counted cross join lateral (
    select type from events e where e.organization_id = $1 and e.sequence = counted.sequence limit 1
) e cross join span cross join rest
group by type, last_error, through, more order by events desc, type, last_error"""


async def count_parked(
    connection: asyncpg.Connection, organization_id: UUID, at_most: int, after: int = 0
) -> ParkedCount:
    """The oldest *at_most* of the events that were given up, above *after* (organization)."""
    rows = await connection.fetch(COUNT_PARKED, organization_id, at_most, after)
    groups = [ParkedGroup(*row[:3]) for row in rows]
    return ParkedCount(groups, rows[0]["through"], rows[0]["more"]) if rows else ParkedCount(groups)


class StoredDelivery(Unlogged, frozen=True):
    """What has become of an event at the callback. ``answer``: the HTTP status of the last attempt, None: none came."""

    sequence: int
    type: str
    conversation_id: UUID
    state: str
    attempts: int
    answer: int | None
    last_error: str | None
    created_at: datetime
    failed_at: datetime | None
    finished_at: datetime | None


LATEST = f"""
select {names(StoredDelivery)} from (
    select * from deliveries
    where organization_id = $1 and sequence < (select coalesce($2, {2**63 - 1})) order by sequence desc limit $3
) d cross join lateral (
    select type, created_at from events e where e.organization_id = $1 and e.sequence = d.sequence limit 1
) e order by sequence desc"""


async def latest(
    connection: asyncpg.Connection, organization_id: UUID, before: int | None, limit: int
) -> list[StoredDelivery]:
    """Deliveries, newest first, below *before* (organization)."""
    return [StoredDelivery(*row) for row in await connection.fetch(LATEST, organization_id, before, limit)]
