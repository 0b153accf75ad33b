"""Organizations, their API keys, and where their events go."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ...identifiers import parse_id
from ...validation import Unlogged
from ..columns import given, names


class Organization(Unlogged, frozen=True):
    id: UUID
    name: str
    version: int
    created_at: datetime


class ApiKey(Unlogged, frozen=True):
    """A key, without anything of its secret. ``made_by``: the key that made it, None: the platform.

    ``last_used_at`` is written every few minutes.
    """

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    made_by: str | None


class KeySecret(Unlogged, frozen=True):
    """What a key is known again by, and what it may do."""

    organization_id: UUID
    id: str
    secret_hash: bytes
    scopes: list[str]
    expires_at: datetime | None


class KeyOver(Unlogged, frozen=True):
    """What a key that is not valid any more is known again by."""

    secret_hash: bytes
    is_revoked: bool


ADD = """
with added as (insert into organizations (id, name) values ($1, $2) returning id)
insert into figures_progress (organization_id) select id from added"""
LIST = f"""
select {names(Organization)} from organizations where id > $1 order by id limit $2"""
# Beside what is changed then, not in one statement with it: what is read after the wait must be what the one waited for
# wrote.
LOCK_CALLBACK = "select from organizations where id = $1 for no key update"
BY_ID = f"select {names(Organization)} from organizations where id = $1"
RENAME = """
update organizations o set name = $2
from (select id, name from organizations where id = $1 for no key update) former
where o.id = former.id returning former.name"""
EXISTS = "select exists (select from organizations where id = $1)"


async def add(connection: asyncpg.Connection, organization_id: UUID, name: str) -> None:
    """(worker)"""
    await connection.execute(ADD, organization_id, name)


async def page(connection: asyncpg.Connection, after: UUID | None, limit: int) -> list[Organization]:
    """Organizations, oldest first (worker, platform only)."""
    return [Organization(*row) for row in await connection.fetch(LIST, after or UUID(int=0), limit)]


async def by_id(connection: asyncpg.Connection, organization_id: UUID) -> Organization:
    """(organization)"""
    return Organization(*(await connection.fetch(BY_ID, organization_id))[0])


async def rename(connection: asyncpg.Connection, organization_id: UUID, name: str) -> str:
    """The former name (organization)."""
    former: str = await connection.fetchval(RENAME, organization_id, name)
    return former


# All of an index, nothing of the table but what is shown: a hundred thousand names are some 10 ms.
SEARCH = f"""
select {names(Organization, "o.")} from (
    select id, name_key from organizations
    where (position(lower($1) in name_key) > 0 or id = $2) and (name_key, id) > (
        coalesce((select name_key from organizations where id = $3), ''), coalesce($3, '{UUID(int=0)}'::uuid))
    order by name_key, id limit $4
) found join organizations o using (id) order by found.name_key, id"""


async def search(connection: asyncpg.Connection, text: str, after: UUID | None, limit: int) -> list[Organization]:
    """Organizations with *text* in their name, in whatever case, or as their id, by name (worker, platform only)."""
    return [Organization(*row) for row in await connection.fetch(SEARCH, text, parse_id(text), after, limit)]


async def lock(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """Have changes of the organization's keys follow one another, until the transaction ends (organization)."""
    await connection.execute(LOCK_CALLBACK, organization_id)


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


# The same.
KEY_OVER = """
select secret_hash, revoked_at is not null as is_revoked from api_keys
where id = $1 and (revoked_at is not null or expires_at <= now())"""


async def key_over(connection: asyncpg.Connection, key_id: str) -> KeyOver | None:
    """A key that is not valid any more (worker)."""
    row = await connection.fetchrow(KEY_OVER, key_id)
    return KeyOver(*row) if row else None


# Enough to make another key, and to have programs use it.
EXPIRES_SOON = timedelta(days=14)
# Counted up to a bound: whoever looks wants to know that there are some.
EXPIRING = """
select count(*) from (
    select from api_keys where revoked_at is null and expires_at > now() and expires_at < now() + $1::interval
    order by expires_at limit 1000
) found"""


async def expiring_keys(connection: asyncpg.Connection) -> int:
    """How many keys of all organizations are valid, and will soon not be (worker)."""
    count: int = await connection.fetchval(EXPIRING, EXPIRES_SOON)
    return count


REHASH = "update api_keys set secret_hash = $3 where organization_id = $1 and id = $2"


async def rehash_key(connection: asyncpg.Connection, organization_id: UUID, key_id: str, secret_hash: bytes) -> None:
    """(worker)"""
    await connection.execute(REHASH, organization_id, key_id, secret_hash)


class KeyUse(NamedTuple):
    organization_id: UUID
    id: str
    at: datetime


# No more often: it is for people who wonder whether anybody needs the key.
USED = f"""
update api_keys k set last_used_at = at from {given(KeyUse)}
where k.organization_id = _.organization_id and k.id = _.id
    and (last_used_at is null or last_used_at < at - interval '5 minutes')"""


async def used(connection: asyncpg.Connection, uses: Sequence[KeyUse]) -> None:
    """When these keys were used last (worker)."""
    await connection.execute(USED, *zip(*uses, strict=True))


KEYS = f"""
select {names(ApiKey)} from api_keys
where organization_id = $1 and id > $2
    and ($3::boolean is null or (revoked_at is null and (expires_at is null or expires_at > now())) = $3)
order by id limit $4"""


async def keys(
    connection: asyncpg.Connection, organization_id: UUID, after: str | None, limit: int, *, live: bool | None = None
) -> list[ApiKey]:
    """*live*: only those that are valid now, or (False) are not any more (organization)."""
    return [ApiKey(*row) for row in await connection.fetch(KEYS, organization_id, after or "", live, limit)]


ONE_KEY = f"select {names(ApiKey)} from api_keys where organization_id = $1 and id = $2"


async def one_key(connection: asyncpg.Connection, organization_id: UUID, key_id: str) -> ApiKey | None:
    """Valid or not (organization)."""
    row = await connection.fetchrow(ONE_KEY, organization_id, key_id)
    return ApiKey(*row) if row else None


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


MADE = f"""
with recursive made as (
    select id from api_keys where organization_id = $1 and made_by = $2
    union select k.id from api_keys k join made on k.made_by = made.id where k.organization_id = $1
)
select {names(ApiKey)} from api_keys
where organization_id = $1 and id in (select id from made) and revoked_at is null
    and (expires_at is null or expires_at > now())
order by id"""


async def made_by(connection: asyncpg.Connection, organization_id: UUID, key_id: str) -> list[ApiKey]:
    """The keys that a key made, and that those made, as far as they are valid now (organization)."""
    return [ApiKey(*row) for row in await connection.fetch(MADE, organization_id, key_id)]


async def revoke_made(connection: asyncpg.Connection, organization_id: UUID, key_id: str) -> list[str]:
    """Revoke a key with all that it made, and that those made: the ids of those that were not yet (organization)."""
    return sorted(row["id"] for row in await connection.fetch(REVOKE_MADE, organization_id, key_id))


# ------------------------------------------------------------------ the organization's callback


class Callback(Unlogged, frozen=True):
    """Where an organization's events go, and how that went.

    ``secrets`` are sealed. ``updated_at``: when it was set, or took an event again after it had failed.
    """

    url: str
    secrets: bytes
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None
    last_error: str | None
    consecutive_failures: int
    paused_until: datetime | None
    updated_at: datetime


CALLBACK = f"select {names(Callback)} from callbacks where organization_id = $1"


async def callback(connection: asyncpg.Connection, organization_id: UUID) -> Callback | None:
    """Where the organization's events go (organization, worker)."""
    row = await connection.fetchrow(CALLBACK, organization_id)
    return Callback(*row) if row else None


# The organization's row, for there may be no callback yet. Beside it, not in one statement with it: what is read after
# the wait must be what the one waited for wrote.
LOCK_CALLBACK = "select from organizations where id = $1 for no key update"


async def lock_callback(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """Have changes of the callback follow one another, until the transaction ends (organization)."""
    await connection.execute(LOCK_CALLBACK, organization_id)


PUT_CALLBACK = """
insert into callbacks (organization_id, url, secrets) values ($1, $2, $3)
on conflict (organization_id) do update set url = excluded.url, secrets = excluded.secrets, disabled_at = null,
    disabled_reason = null, failing_since = null, last_error = null, consecutive_failures = 0, paused_until = null,
    updated_at = now()"""


async def put_callback(connection: asyncpg.Connection, organization_id: UUID, url: str, secrets: bytes) -> None:
    """Set the callback, enabled and with a clean record (organization)."""
    await connection.execute(PUT_CALLBACK, organization_id, url, secrets)


ENABLE = """
update callbacks set disabled_at = null, disabled_reason = null, failing_since = null, last_error = null,
    consecutive_failures = 0, paused_until = null, updated_at = now()
where organization_id = $1 returning organization_id"""


async def enable_callback(connection: asyncpg.Connection, organization_id: UUID) -> bool:
    """Enable the callback as it is, with a clean record; False where there is none (organization)."""
    return await connection.fetchval(ENABLE, organization_id) is not None


DROP_CALLBACK = "delete from callbacks where organization_id = $1 returning url"


async def drop_callback(connection: asyncpg.Connection, organization_id: UUID) -> bool:
    """Stop delivering; events stay readable (organization)."""
    return await connection.fetchval(DROP_CALLBACK, organization_id) is not None


# What became of a post is about the URL that was posted to, which may have been replaced meanwhile.
FAILED = """
update callbacks set failing_since = coalesce(failing_since, now()), last_error = $3,
    consecutive_failures = consecutive_failures + 1,
    paused_until = case when consecutive_failures + 1 >= $4 then now() + $5::interval else paused_until end
where organization_id = $1 and url = $2 returning failing_since"""
DISABLE = """
update callbacks set disabled_at = now(), disabled_reason = $3
where organization_id = $1 and url = $2 and disabled_at is null returning organization_id"""


async def endpoint_failed(
    connection: asyncpg.Connection, organization_id: UUID, url: str, error: str, pause_after: int, pause: timedelta
) -> datetime | None:
    """Count a failure; since when the endpoint takes nothing, None if it is another by now (worker)."""
    since: datetime | None = await connection.fetchval(FAILED, organization_id, url, error, pause_after, pause)
    return since


async def disable_callback(connection: asyncpg.Connection, organization_id: UUID, url: str, reason: str) -> bool:
    """Stop trying until somebody sets the callback again; False if it is so already, or another (worker)."""
    return await connection.fetchval(DISABLE, organization_id, url, reason) is not None


# Each change of an organization that processes have to know of is in its trail.
CHANGED = """
select o.id, o.audit_entries from unnest($1::uuid[], $2::bigint[]) as known (id, audit_entries)
join organizations o on o.id = known.id and o.audit_entries <> known.audit_entries"""


async def changed(connection: asyncpg.Connection, known: Mapping[UUID, int]) -> dict[UUID, int]:
    """Which organizations have another number of entries in their trails than is *known*, and how many (worker)."""
    rows = await connection.fetch(CHANGED, list(known), list(known.values()))
    return {row["id"]: row["audit_entries"] for row in rows}
