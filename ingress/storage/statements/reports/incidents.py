"""Switches, and what became of providers: the events of them, for who looks back."""

from uuid import UUID

import asyncpg

from ...columns import names
from ..events import StoredEvent, of_type

TYPES = ("provider.switched", "provider.rolled_back", "provider.unhealthy", "provider.recovered")
LATEST = f"""
select {names(StoredEvent)} from unnest(array{[*TYPES]}) as kinds (wanted) cross join lateral (
    select * from events where organization_id = $1 and {of_type("wanted")} order by type desc, sequence desc limit $2
) found order by sequence desc limit $2"""


async def latest(connection: asyncpg.Connection, organization_id: UUID, limit: int) -> list[StoredEvent]:
    """The last of them, newest first (organization)."""
    return [StoredEvent(*row) for row in await connection.fetch(LATEST, organization_id, limit)]
