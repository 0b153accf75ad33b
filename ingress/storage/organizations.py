"""Organizations and their API keys."""

from datetime import datetime
from uuid import UUID

import asyncpg

ADD = "insert into organizations (id, name) values ($1, $2)"
LIST = (
    "select id, name, version, created_at from organizations where ($1::uuid is null or id > $1) order by id limit $2"
)
EXISTS = "select exists (select from organizations where id = $1)"


async def add(connection: asyncpg.Connection, organization_id: UUID, name: str) -> None:
    """(worker)"""
    await connection.execute(ADD, organization_id, name)


async def page(connection: asyncpg.Connection, after: UUID | None, limit: int) -> list[asyncpg.Record]:
    """Organizations, oldest first (worker, platform only)."""
    return await connection.fetch(LIST, after, limit)


async def exists(connection: asyncpg.Connection, organization_id: UUID) -> bool:
    """(worker)"""
    there: bool = await connection.fetchval(EXISTS, organization_id)
    return there


ADD_KEY = """
insert into api_keys (organization_id, id, name, secret_hash, scopes, expires_at) values ($1, $2, $3, $4, $5, $6)"""


async def add_key(
    connection: asyncpg.Connection,
    organization_id: UUID,
    key_id: str,
    *,
    name: str,
    secret_hash: bytes,
    scopes: list[str],
    expires_at: datetime | None,
) -> None:
    """(organization)"""
    await connection.execute(ADD_KEY, organization_id, key_id, name, secret_hash, scopes, expires_at)


# Without an organization: the key is what tells it.
KEY = """
select organization_id, id, secret_hash, scopes from api_keys
where id = $1 and revoked_at is null and (expires_at is null or expires_at > now())"""


async def key(connection: asyncpg.Connection, key_id: str) -> asyncpg.Record | None:
    """A key that is valid now (worker)."""
    return await connection.fetchrow(KEY, key_id)


REHASH = "update api_keys set secret_hash = $3 where organization_id = $1 and id = $2"


async def rehash_key(connection: asyncpg.Connection, organization_id: UUID, key_id: str, secret_hash: bytes) -> None:
    """(worker)"""
    await connection.execute(REHASH, organization_id, key_id, secret_hash)


KEYS = """
select id, name, scopes, created_at, expires_at, revoked_at from api_keys
where organization_id = $1 and ($2::text is null or id > $2) order by id limit $3"""


async def keys(
    connection: asyncpg.Connection, organization_id: UUID, after: str | None, limit: int
) -> list[asyncpg.Record]:
    """The organization's keys, without anything of their secrets (organization)."""
    return await connection.fetch(KEYS, organization_id, after, limit)


REVOKE = """
update api_keys set revoked_at = now() where organization_id = $1 and id = $2 and revoked_at is null returning id"""


async def revoke(connection: asyncpg.Connection, organization_id: UUID, key_id: str) -> bool:
    """False if there is no such key, or it was revoked before (organization)."""
    return await connection.fetchval(REVOKE, organization_id, key_id) is not None
