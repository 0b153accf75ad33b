"""Configs, the active one, the fallback order, and the audit trail of their changes."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

_CONFIG = """c.organization_id, c.id, c.provider_type, c.name, c.state, c.sender, c.config_data, c.webhook_token, c.session,
    c.created_at, c.updated_at"""

ROUTE = f"""
select o.version, o.fallback_policy, {_CONFIG}
from organizations o
left join lateral unnest(array_prepend(o.active_config_id, o.fallback_config_ids)) with ordinality as step(config_id, place)
    on o.active_config_id is not null
left join whatsapp_provider_configs c on c.organization_id = o.id and c.id = step.config_id
where o.id = $1 order by step.place"""


async def route(connection: asyncpg.Connection, organization_id: UUID) -> list[asyncpg.Record]:
    """The active config and the fallbacks in their order, each with the version; one row of NULLs where none (worker)."""
    return await connection.fetch(ROUTE, organization_id)


OF_ORGANIZATION = f"select {_CONFIG} from whatsapp_provider_configs c where organization_id = $1 order by id"


async def of_organization(connection: asyncpg.Connection, organization_id: UUID) -> list[asyncpg.Record]:
    """Every config of the organization, oldest first (organization)."""
    return await connection.fetch(OF_ORGANIZATION, organization_id)


# The only lookup without an organization: the token is what finds it.
BY_TOKEN = f"select {_CONFIG} from whatsapp_provider_configs c where webhook_token_hash = $1"


async def by_token(connection: asyncpg.Connection, token_hash: bytes) -> asyncpg.Record | None:
    """The config that a webhook address belongs to (worker)."""
    return await connection.fetchrow(BY_TOKEN, token_hash)


# Whether the keys fit is a question about no organization.
NEWEST = """
select organization_id, id, config_data from whatsapp_provider_configs order by created_at desc limit 1"""


async def newest(connection: asyncpg.Connection) -> asyncpg.Record | None:
    """What was sealed last (worker)."""
    return await connection.fetchrow(NEWEST)


SESSION = "select session from whatsapp_provider_configs where organization_id = $1 and id = $2"


async def session(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> bytes | None:
    """What the provider last said of the account, as JSON (organization)."""
    found: bytes | None = await connection.fetchval(SESSION, organization_id, config_id)
    return found


ADD = """
insert into whatsapp_provider_configs (organization_id, id, provider_type, name, state, config_data, webhook_token_hash,
    webhook_token, sender, session)
values ($1, $2, $3, $4, 'configured', $5, $6, $7, $8, $9)
returning (select version from organizations where id = $1)"""


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
) -> int:
    """Save a config; *config_data* and *token* are sealed. The organization's version, unchanged (organization)."""
    version: int = await connection.fetchval(
        ADD, organization_id, config_id, provider_type, name, config_data, token_hash, token, sender, session
    )
    return version


# The row of the organization is locked first, so that changes of one organization follow one another.
ACTIVATE = """
with before as (
    select o.id, o.active_config_id, c.provider_type
    from organizations o join whatsapp_provider_configs c on c.organization_id = o.id and c.id = $2
    where o.id = $1 for update of o
),
changed as (
    update organizations o set active_config_id = $2, version = o.version + 1,
        fallback_config_ids = array_remove(o.fallback_config_ids, $2)
    from before where o.id = before.id returning o.version
),
states as (
    update whatsapp_provider_configs c
    set state = case when c.id = $2 then 'active' else 'inactive' end, updated_at = clock_timestamp(),
        broken_at = case when c.id <> $2 then c.broken_at end
    from before where c.organization_id = before.id and (c.id = $2 or (c.id = before.active_config_id and c.id <> $2))
)
select changed.version, before.active_config_id as former, before.provider_type from changed, before"""


async def activate(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> asyncpg.Record | None:
    """Make a config the active one: version, former, provider_type; None if there is no such config (organization)."""
    return await connection.fetchrow(ACTIVATE, organization_id, config_id)


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
    fallback_policy = coalesce($3::json, o.fallback_policy)
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


AUDIT = """
insert into provider_audit_log (organization_id, action, actor, address, config_id, version, before, after, reason)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""


async def audit(
    connection: asyncpg.Connection,
    organization_id: UUID,
    *,
    action: str,
    actor: str,
    address: str | None = None,
    config_id: UUID | None = None,
    version: int | None = None,
    before: bytes | None = None,
    after: bytes | None = None,
    reason: str | None = None,
) -> None:
    """Write down a change, in the transaction that makes it (organization, worker)."""
    await connection.execute(AUDIT, organization_id, action, actor, address, config_id, version, before, after, reason)


TRAIL = """
select id, at, action, actor, address, config_id, version, before, after, reason from provider_audit_log
where organization_id = $1 and ($2::bigint is null or id < $2) order by id desc limit $3"""


async def trail(
    connection: asyncpg.Connection, organization_id: UUID, before: int | None, limit: int
) -> Sequence[asyncpg.Record]:
    """The organization's changes, newest first (organization)."""
    return await connection.fetch(TRAIL, organization_id, before, limit)
