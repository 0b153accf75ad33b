"""Organizations and their API keys."""

from datetime import datetime
from uuid import UUID

import asyncpg

from ...validation import Unlogged
from ..columns import names


class Organization(Unlogged, frozen=True):
    id: UUID
    name: str
    version: int
    created_at: datetime


class ApiKey(Unlogged, frozen=True):
    """A key, without anything of its secret. ``made_by``: the key that made it, None: the platform."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    made_by: str | None


class KeySecret(Unlogged, frozen=True):
    """What a key is known again by, and what it may do."""

    organization_id: UUID
    id: str
    secret_hash: bytes
    scopes: list[str]
    expires_at: datetime | None


ADD = "insert into organizations (id, name) values ($1, $2)"
LIST = f"""
select {names(Organization)} from organizations where $1::uuid is null or id > $1 order by id limit $2"""
# Beside what is changed then, not in one statement with it: what is read after the wait must be what the one waited for
# wrote.
LOCK = "select from organizations where id = $1 for no key update"
EXISTS = "select exists (select from organizations where id = $1)"


async def add(connection: asyncpg.Connection, organization_id: UUID, name: str) -> None:
    """(worker)"""
    await connection.execute(ADD, organization_id, name)


async def page(connection: asyncpg.Connection, after: UUID | None, limit: int) -> list[Organization]:
    """Organizations, oldest first (worker, platform only)."""
    return [Organization(*row) for row in await connection.fetch(LIST, after, limit)]


async def lock(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """Have changes of the organization's keys follow one another, until the transaction ends (organization)."""
    await connection.execute(LOCK, organization_id)


async def exists(connection: asyncpg.Connection, organization_id: UUID) -> bool:
    """(worker)"""
    there: bool = await connection.fetchval(EXISTS, organization_id)
    return there


ADD_KEY = """
insert into api_keys (organization_id, id, name, secret_hash, scopes, expires_at, made_by)
select $1, $2, $3, $4, $5, $6, $7 where $7::text is null or exists (
    select from api_keys where organization_id = $1 and id = $7 and revoked_at is null
        and (expires_at is null or expires_at > now())
)
returning id"""


async def add_key(
    connection: asyncpg.Connection,
    organization_id: UUID,
    key_id: str,
    *,
    name: str,
    secret_hash: bytes,
    scopes: list[str],
    expires_at: datetime | None,
    made_by: str | None,
) -> bool:
    """Made by another key, or (None) by the platform; False where that key is not valid any more (organization)."""
    values = (key_id, name, secret_hash, scopes, expires_at, made_by)
    return await connection.fetchval(ADD_KEY, organization_id, *values) is not None


LIVE_KEYS = """
select count(*) from api_keys
where organization_id = $1 and revoked_at is null and (expires_at is null or expires_at > now())"""


async def live_keys(connection: asyncpg.Connection, organization_id: UUID) -> int:
    """How many of the organization's keys are valid now (organization)."""
    count: int = await connection.fetchval(LIVE_KEYS, organization_id)
    return count


# Without an organization: the key is what names it.
KEY = f"""
select {names(KeySecret)} from api_keys
where id = $1 and revoked_at is null and (expires_at is null or expires_at > now())"""


async def key(connection: asyncpg.Connection, key_id: str) -> KeySecret | None:
    """A key that is valid now (worker)."""
    row = await connection.fetchrow(KEY, key_id)
    return KeySecret(*row) if row else None


REHASH = "update api_keys set secret_hash = $3 where organization_id = $1 and id = $2"


async def rehash_key(connection: asyncpg.Connection, organization_id: UUID, key_id: str, secret_hash: bytes) -> None:
    """(worker)"""
    await connection.execute(REHASH, organization_id, key_id, secret_hash)


KEYS = f"""
select {names(ApiKey)} from api_keys
where organization_id = $1 and ($2::text is null or id > $2) order by id limit $3"""


async def keys(connection: asyncpg.Connection, organization_id: UUID, after: str | None, limit: int) -> list[ApiKey]:
    """(organization)"""
    return [ApiKey(*row) for row in await connection.fetch(KEYS, organization_id, after, limit)]


REVOKE = """
update api_keys set revoked_at = now() where organization_id = $1 and id = $2 and revoked_at is null returning id"""


async def revoke(connection: asyncpg.Connection, organization_id: UUID, key_id: str) -> list[str]:
    """Revoke a key: its id, or none if there is no such key, or it was revoked before (organization)."""
    return [row["id"] for row in await connection.fetch(REVOKE, organization_id, key_id)]


# Also what a key made that was revoked before: its own were left.
REVOKE_MADE = """
with recursive made as (
    select id from api_keys where organization_id = $1 and id = $2
    union select k.id from api_keys k join made on k.made_by = made.id where k.organization_id = $1
)
update api_keys set revoked_at = now()
where organization_id = $1 and id in (select id from made) and revoked_at is null returning id"""


async def revoke_made(connection: asyncpg.Connection, organization_id: UUID, key_id: str) -> list[str]:
    """Revoke a key with all that it made, and that those made: the ids of those that were not yet (organization)."""
    return sorted(row["id"] for row in await connection.fetch(REVOKE_MADE, organization_id, key_id))
