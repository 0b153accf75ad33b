"""Configs, the fallback order, and what an organization sends through."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

# What `Accounts.open` makes a config of.
CONFIG = """c.organization_id, c.id, c.provider_type, c.name, c.state, c.sender, c.config_data, c.webhook_token, c.session,
    c.created_at, c.updated_at, c.accounts, array(
        select w.account from account_owners w
        where w.provider_type = c.provider_type and w.account = any(c.accounts) and w.organization_id = c.organization_id
    ) as claimed"""

ROUTE = f"""
select o.version, o.version_at, o.fallback_policy, {CONFIG}
from organizations o
left join lateral unnest(array_prepend(o.active_config_id, o.fallback_config_ids)) with ordinality as step(config_id, place)
    on o.active_config_id is not null
left join whatsapp_provider_configs c on c.organization_id = o.id and c.id = step.config_id
where o.id = $1 order by step.place"""


async def route(connection: asyncpg.Connection, organization_id: UUID) -> list[asyncpg.Record]:
    """The active config and the fallbacks in their order, each with the version; one row of NULLs where none (worker)."""
    return await connection.fetch(ROUTE, organization_id)


OF_ORGANIZATION = f"select {CONFIG} from whatsapp_provider_configs c where organization_id = $1 order by id"


async def of_organization(connection: asyncpg.Connection, organization_id: UUID) -> list[asyncpg.Record]:
    """Every config of the organization, oldest first (organization)."""
    return await connection.fetch(OF_ORGANIZATION, organization_id)


# The only lookup without an organization: the token is what finds it.
BY_TOKEN = f"select {CONFIG} from whatsapp_provider_configs c where webhook_token_hash = $1"


async def by_token(connection: asyncpg.Connection, token_hash: bytes) -> asyncpg.Record | None:
    """The config that a webhook address belongs to (worker)."""
    return await connection.fetchrow(BY_TOKEN, token_hash)


# Whether the keys fit is a question about no organization.
NEWEST = """
select organization_id, id, config_data from whatsapp_provider_configs order by created_at desc limit 1"""


async def newest(connection: asyncpg.Connection) -> asyncpg.Record | None:
    """What was sealed last (worker)."""
    return await connection.fetchrow(NEWEST)


BY_ID = f"select {CONFIG} from whatsapp_provider_configs c where organization_id = $1 and id = $2"


async def by_id(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> asyncpg.Record | None:
    """One config of the organization (organization, worker)."""
    return await connection.fetchrow(BY_ID, organization_id, config_id)


SESSION = "select session from whatsapp_provider_configs where organization_id = $1 and id = $2"


async def session(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> bytes | None:
    """What the provider last said of the account, as JSON (organization)."""
    found: bytes | None = await connection.fetchval(SESSION, organization_id, config_id)
    return found


# It was asked how it is doing just now, as it was tested: the first look is due later.
ADD = """
with added as (
    insert into whatsapp_provider_configs (organization_id, id, provider_type, name, state, config_data, webhook_token_hash,
        webhook_token, sender, session, accounts, signing_keys)
    values ($1, $2, $3, $4, 'configured', $5, $6, $7, $8, $9, $10, $11) returning organization_id, id
),
followed as (
    insert into provider_health (organization_id, config_id) select organization_id, id from added
)
select version from organizations where id = $1"""


async def add(
    connection: asyncpg.Connection,
    organization_id: UUID,
    config_id: UUID,
    *,
    provider_type: str,
    name: str,
    config_data: bytes,
    token_hash: bytes,
    token: bytes,
    sender: str | None,
    session: bytes,
    accounts: Sequence[str],
    signing_keys: Sequence[bytes],
) -> int:
    """Save a config; *config_data* and *token* are sealed. The organization's version, unchanged (organization)."""
    version: int = await connection.fetchval(
        ADD,
        organization_id,
        config_id,
        provider_type,
        name,
        config_data,
        token_hash,
        token,
        sender,
        session,
        accounts,
        signing_keys,
    )
    return version


COUNT = "select count(*) from whatsapp_provider_configs where organization_id = $1"


async def count(connection: asyncpg.Connection, organization_id: UUID) -> int:
    """How many configs the organization has (organization)."""
    found: int = await connection.fetchval(COUNT, organization_id)
    return found


FALLBACKS = """
select version, fallback_config_ids as wanted, fallback_policy as policy from organizations where id = $1"""


async def fallbacks(connection: asyncpg.Connection, organization_id: UUID) -> asyncpg.Record | None:
    """The order after the active config, whether or not there is one: version, wanted, policy as JSON (organization)."""
    return await connection.fetchrow(FALLBACKS, organization_id)


SET_FALLBACKS = """
with before as (
    select o.id, o.fallback_config_ids, o.fallback_policy from organizations o
    where o.id = $1 and not exists (
        select from unnest($2::uuid[]) as wanted
        where not exists (select from whatsapp_provider_configs c where c.organization_id = $1 and c.id = wanted)
    ) for update
)
update organizations o
set fallback_config_ids = array_remove($2::uuid[], o.active_config_id), version = o.version + 1,
    former_fallback_ids = null, version_at = clock_timestamp(), fallback_policy = coalesce($3::json, o.fallback_policy)
from before where o.id = before.id
returning o.version, o.fallback_config_ids as wanted, before.fallback_config_ids as former, o.fallback_policy as policy,
    before.fallback_policy as former_policy"""


async def set_fallbacks(
    connection: asyncpg.Connection, organization_id: UUID, config_ids: list[UUID], policy: bytes | None
) -> asyncpg.Record | None:
    """Set the order, less the active config, and the policy as JSON; None: it stays as it is.

    Version, wanted, former, policy, former_policy; None if a config is not the organization's (organization).
    """
    return await connection.fetchrow(SET_FALLBACKS, organization_id, config_ids, policy)


SET_BROKEN = """
update whatsapp_provider_configs set broken_at = now() where organization_id = $1 and id = $2 and broken_at is null"""


async def set_broken(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> None:
    """The provider said that the account cannot send (worker)."""
    await connection.execute(SET_BROKEN, organization_id, config_id)


CLEAR_BROKEN = """
update whatsapp_provider_configs set broken_at = null
where organization_id = $1 and id = $2 and broken_at is not null"""


async def clear_broken(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> None:
    """The provider took a message of the account (worker)."""
    await connection.execute(CLEAR_BROKEN, organization_id, config_id)


BROKEN = "select id, provider_type from whatsapp_provider_configs where broken_at is not null"


async def broken(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Configs whose account cannot send: id, provider_type (worker, all organizations)."""
    return await connection.fetch(BROKEN)


# One that is sent through, as the active one or a fallback, is another one for the fence from now on.
EDIT = """
with changed as (
    update whatsapp_provider_configs
    set name = $3, config_data = $4, accounts = $7, signing_keys = $8, sender = $5, session = coalesce($6, session), updated_at = clock_timestamp(),
        state = case when state = 'error' and $6 is not null then 'configured' else state end,
        broken_at = case when $6 is null then broken_at end
    where organization_id = $1 and id = $2 returning id
)
update organizations o set
    version = o.version + case when changed.id = o.active_config_id or changed.id = any(o.fallback_config_ids) then 1 else 0 end,
    version_at = case when changed.id = o.active_config_id or changed.id = any(o.fallback_config_ids)
        then clock_timestamp() else o.version_at end
from changed where o.id = $1 returning o.version"""


async def edit(
    connection: asyncpg.Connection,
    organization_id: UUID,
    config_id: UUID,
    *,
    name: str,
    config_data: bytes,
    sender: str | None,
    session: bytes | None,
    accounts: Sequence[str],
    signing_keys: Sequence[bytes],
) -> int:
    """Change a config that is there, *session* None leaving what its provider said: the version (organization)."""
    version: int = await connection.fetchval(
        EDIT, organization_id, config_id, name, config_data, sender, session, accounts, signing_keys
    )
    return version


# Not the active one. A fallback leaves the order, which is another version.
# One account may be in use by several configs, of this organization or another. Where a sender is not known yet, it
# may be the same.
SHARED = """
select exists (select from whatsapp_provider_configs
    where provider_type = $3 and id <> $2
        and (sender = $4 or (organization_id = $1 and (sender is null or $4::text is null))))
    /* every organization_id */"""


async def is_shared(
    connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, provider_type: str, sender: str | None
) -> bool:
    """Whether another config may be of the same account (worker, all organizations)."""
    shared: bool = await connection.fetchval(SHARED, organization_id, config_id, provider_type, sender)
    return shared


REMOVE = """
with gone as (
    delete from whatsapp_provider_configs c using organizations o
    where c.organization_id = $1 and c.id = $2 and o.id = $1 and o.active_config_id is distinct from c.id
    returning c.id
)
update organizations o set
    version = o.version + case when gone.id = any(o.fallback_config_ids) then 1 else 0 end,
    version_at = case when gone.id = any(o.fallback_config_ids) then clock_timestamp() else o.version_at end,
    fallback_config_ids = array_remove(o.fallback_config_ids, gone.id),
    former_fallback_ids = array_remove(o.former_fallback_ids, gone.id),
    former_config_id = nullif(o.former_config_id, gone.id)
from gone where o.id = $1 returning o.version"""


async def remove(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> int | None:
    """Delete a config and its credentials: the version; None if it is the active one, or there is none (organization)."""
    version: int | None = await connection.fetchval(REMOVE, organization_id, config_id)
    return version
