"""The audit trail: numbered in each organization, every entry's hash over the one before it (`ingress/audit.py`)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

# Locked until the transaction ends: the entries of one organization are written one after the other.
END = """
select audit_entries, audit_hash, clock_timestamp() as at from organizations where id = $1 for no key update"""


async def end(connection: asyncpg.Connection, organization_id: UUID) -> asyncpg.Record | None:
    """Where the next entry goes: audit_entries, audit_hash and the time, locked (organization)."""
    return await connection.fetchrow(END, organization_id)


APPEND = """
with entry as (
    insert into provider_audit_log (organization_id, id, at, action, actor, address, config_id, version, before, after,
        reason, hash)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
)
update organizations set audit_entries = $2, audit_hash = $12, audit_seal = $13 where id = $1"""


async def append(
    connection: asyncpg.Connection,
    organization_id: UUID,
    number: int,
    at: datetime,
    *,
    action: str,
    actor: str,
    address: str | None,
    config_id: UUID | None,
    version: int | None,
    before: bytes | None,
    after: bytes | None,
    reason: str | None,
    entry_hash: bytes,
    seal: bytes,
) -> None:
    """Write an entry, and the new end, in the transaction of the change (organization)."""
    columns = (action, actor, address, config_id, version, before, after, reason, entry_hash, seal)
    await connection.execute(APPEND, organization_id, number, at, *columns)


_ENTRY = "id, at, action, actor, address, config_id, version, before, after, reason, hash"

TRAIL = f"""
select {_ENTRY} from provider_audit_log
where organization_id = $1 and ($2::bigint is null or id < $2) order by id desc limit $3"""


async def trail(
    connection: asyncpg.Connection, organization_id: UUID, before: int | None, limit: int
) -> Sequence[asyncpg.Record]:
    """The organization's changes, newest first (organization)."""
    return await connection.fetch(TRAIL, organization_id, before, limit)


# In one statement, so that an entry that is written meanwhile is in both or in none.
EXTENT = """
select audit_entries, audit_hash, audit_seal,
    (select coalesce(max(l.id), 0) from provider_audit_log l where l.organization_id = $1) as last
from organizations where id = $1"""


async def extent(connection: asyncpg.Connection, organization_id: UUID) -> asyncpg.Record | None:
    """The end as the organization's row has it, and the last entry there is (organization)."""
    return await connection.fetchrow(EXTENT, organization_id)


FORWARD = f"""
select {_ENTRY} from provider_audit_log
where organization_id = $1 and id > $2 and id <= $3 order by id limit $4"""


async def forward(
    connection: asyncpg.Connection, organization_id: UUID, after: int, last: int, limit: int
) -> Sequence[asyncpg.Record]:
    """Entries above *after* up to *last*, oldest first (organization)."""
    return await connection.fetch(FORWARD, organization_id, after, last, limit)
