"""Who is signed in to the console. All of it (worker): the session is what finds the organization."""

from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from ...validation import Unlogged
from ..columns import names, read_or_none

PLATFORM = "platform"


class StoredSession(Unlogged, frozen=True):
    """A session with what its key is now. ``scopes`` None: it is the platform's, with ``platform_hash``."""

    organization_id: UUID | None
    organization: str | None
    key_id: str
    key_name: str | None
    scopes: list[str] | None
    expires_at: datetime | None
    platform_hash: bytes | None
    created_at: datetime
    seen_at: datetime


ADD = "insert into console_sessions (organization_id, id_hash, key_id, platform_hash) values ($1, $2, $3, $4)"
# Of one that may be used: neither too old nor left alone for too long, and its key is none that was revoked.
FIND = f"""
select {names(StoredSession)} from (
    select session.organization_id, organization.name as organization, session.key_id, key.name as key_name,
           key.scopes, key.expires_at, session.platform_hash, session.created_at, session.seen_at
    from console_sessions session
    left join organizations organization on organization.id = session.organization_id
    left join api_keys key on key.organization_id = session.organization_id and key.id = session.key_id
        and key.revoked_at is null and (key.expires_at is null or key.expires_at > now())
    where session.id_hash = $1 and session.seen_at > now() - $2::interval and session.created_at > now() - $3::interval
        and (key.id is not null or session.platform_hash is not null)
) found"""
TOUCH = "update console_sessions set seen_at = now() where id_hash = $1"
CHOOSE = "update console_sessions set organization_id = $2 where id_hash = $1 and platform_hash is not null"
END = "delete from console_sessions where id_hash = $1"
# Of a key of the organization; the platform's sessions are one key's in whichever organization.
END_ALL = "delete from console_sessions where key_id = $1 and ($1 = 'platform' or organization_id = $2)"
END_IDLE = "delete from console_sessions where seen_at < now() - $1::interval"


async def add(
    connection: asyncpg.Connection,
    organization_id: UUID | None,
    id_hash: bytes,
    key_id: str,
    platform_hash: bytes | None,
) -> None:
    """(worker)"""
    await connection.execute(ADD, organization_id, id_hash, key_id, platform_hash)


async def find(
    connection: asyncpg.Connection, id_hash: bytes, idle: timedelta, longest: timedelta
) -> StoredSession | None:
    """The session, where it was used within *idle* and began within *longest* (worker)."""
    return read_or_none(StoredSession, await connection.fetchrow(FIND, id_hash, idle, longest))


async def touch(connection: asyncpg.Connection, id_hash: bytes) -> None:
    """It is used (worker)."""
    await connection.execute(TOUCH, id_hash)


async def choose(connection: asyncpg.Connection, id_hash: bytes, organization_id: UUID) -> None:
    """Have the platform's session act for that organization (worker)."""
    await connection.execute(CHOOSE, id_hash, organization_id)


async def end(connection: asyncpg.Connection, id_hash: bytes) -> None:
    """(worker)"""
    await connection.execute(END, id_hash)


async def end_all(connection: asyncpg.Connection, key_id: str, organization_id: UUID | None) -> None:
    """All sessions of the key (worker)."""
    await connection.execute(END_ALL, key_id, organization_id)


async def end_idle(connection: asyncpg.Connection, idle: timedelta) -> None:
    """Those that nobody can use any more (worker)."""
    await connection.execute(END_IDLE, idle)
