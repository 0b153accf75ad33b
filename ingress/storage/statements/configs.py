"""Configs, the fallback order, what an organization sends through, and whose the accounts of configs are."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from ...validation import Unlogged
from ..columns import assignments, given, names, parameters, read, read_or_none


class ConfigColumns(Unlogged, frozen=True, kw_only=True):
    """What of a config can be edited. ``config_data`` is sealed."""

    name: str
    config_data: bytes
    sender: str | None
    session: bytes | None  # the account's last ProviderStatus, as JSON
    accounts: Sequence[str]
    signing_keys: Sequence[bytes]


class NewConfigColumns(ConfigColumns, frozen=True, kw_only=True):
    """A config that is not stored yet. ``webhook_token`` is sealed; ``joins_order``: when it becomes active."""

    id: UUID
    provider_type: str
    webhook_token_hash: bytes
    webhook_token: bytes
    joins_order: bool


class StoredConfig(Unlogged, frozen=True):
    """What `Accounts.open` makes a config of. ``claimed``: those of its accounts that are the organization's."""

    organization_id: UUID
    id: UUID
    provider_type: str
    name: str
    state: str
    sender: str | None
    config_data: bytes
    webhook_token: bytes
    session: bytes | None
    updated_at: datetime
    accounts: list[str]
    joins_order: bool
    claimed: list[str]


_CLAIMED = """array(
        select w.account from account_owners w
        where w.provider_type = c.provider_type and w.account = any(c.accounts) and w.organization_id = c.organization_id
    ) as claimed"""
CONFIG = names(StoredConfig, "c.").replace("c.claimed", _CLAIMED)


def _config(row: asyncpg.Record | None) -> StoredConfig | None:
    """That of a row which has CONFIG and nothing else."""
    return None if row is None else StoredConfig(*row)


class StoredRoute(msgspec.Struct, frozen=True):
    """What an organization sends through since ``version_at``: the active config and the fallbacks, in their order."""

    version: int
    version_at: datetime
    fallback_policy: bytes | None
    configs: list[StoredConfig]


ROUTE = f"""
select o.version, o.version_at, o.fallback_policy, {CONFIG}
from organizations o
left join lateral unnest(array_prepend(o.active_config_id, o.fallback_config_ids)) with ordinality as step(config_id, place)
    on o.active_config_id is not null
left join whatsapp_provider_configs c on c.organization_id = o.id and c.id = step.config_id
where o.id = $1 order by step.place"""


async def route(connection: asyncpg.Connection, organization_id: UUID) -> StoredRoute:
    """What the organization sends through; at version 0 through nothing: no such organization (worker)."""
    rows = await connection.fetch(ROUTE, organization_id)
    if not rows:
        return StoredRoute(0, datetime.min.replace(tzinfo=UTC), None, [])
    first = rows[0]
    order = [read(StoredConfig, row) for row in rows if row["id"]]
    return StoredRoute(first["version"], first["version_at"], first["fallback_policy"], order)


OF_ORGANIZATION = f"select {CONFIG} from whatsapp_provider_configs c where organization_id = $1 order by id"


async def of_organization(connection: asyncpg.Connection, organization_id: UUID) -> list[StoredConfig]:
    """Every config of the organization, oldest first (organization)."""
    return [read(StoredConfig, row) for row in await connection.fetch(OF_ORGANIZATION, organization_id)]


# The only lookup without an organization: the token is what finds it.
BY_TOKEN = f"select {CONFIG} from whatsapp_provider_configs c where webhook_token_hash = $1"


async def by_token(connection: asyncpg.Connection, token_hash: bytes) -> StoredConfig | None:
    """The config that a webhook address belongs to (worker)."""
    return _config(await connection.fetchrow(BY_TOKEN, token_hash))


# Whether the keys fit is a question about no organization.
NEWEST = f"select {CONFIG} from whatsapp_provider_configs c order by created_at desc limit 1"


async def newest(connection: asyncpg.Connection) -> StoredConfig | None:
    """What was sealed last (worker)."""
    return _config(await connection.fetchrow(NEWEST))


BY_ID = f"select {CONFIG} from whatsapp_provider_configs c where organization_id = $1 and id = $2"


async def by_id(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> StoredConfig | None:
    """One config of the organization (organization, worker)."""
    return _config(await connection.fetchrow(BY_ID, organization_id, config_id))


class ConfigKey(NamedTuple):
    """Which config it is."""

    organization_id: UUID
    id: UUID


BY_IDS = f"""
select {CONFIG} from {given(ConfigKey)}
join whatsapp_provider_configs c on c.organization_id = _.organization_id and c.id = _.id"""


async def by_ids(connection: asyncpg.Connection, keys: Collection[ConfigKey]) -> dict[ConfigKey, StoredConfig]:
    """Those of several configs that there are (worker)."""
    rows = [StoredConfig(*row) for row in await connection.fetch(BY_IDS, *zip(*keys, strict=True))] if keys else []
    return {ConfigKey(row.organization_id, row.id): row for row in rows}


class StoredOrder(msgspec.Struct, frozen=True):
    """The fallbacks of an organization at a version."""

    version: int
    config_ids: list[UUID]


# It was asked how it is doing just now, as it was tested: the first look is due later.
ADD = f"""
with added as (
    insert into whatsapp_provider_configs (organization_id, state, {names(NewConfigColumns)})
    values ($1, 'configured', {parameters(NewConfigColumns, 2)}) returning organization_id, id
),
followed as (
    insert into provider_health (organization_id, config_id) select organization_id, id from added
)
select version, fallback_config_ids as config_ids from organizations where id = $1"""


async def add(connection: asyncpg.Connection, organization_id: UUID, config: NewConfigColumns) -> StoredOrder:
    """Save a config. The order, unchanged (organization)."""
    row = await connection.fetchrow(ADD, organization_id, *msgspec.structs.astuple(config))
    assert row is not None
    return read(StoredOrder, row)


# Who returns to the former config finds it at the end of the order of then, too.
JOIN = """
update organizations set fallback_config_ids = fallback_config_ids || $2::uuid, version = version + 1,
    version_at = clock_timestamp(),
    former_fallback_ids = case when former_fallback_ids is not null then former_fallback_ids || $2::uuid end
where id = $1 returning version, fallback_config_ids as config_ids"""


async def join(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> StoredOrder:
    """Have a new config join the fallback order at its end (organization)."""
    row = await connection.fetchrow(JOIN, organization_id, config_id)
    assert row is not None
    return read(StoredOrder, row)


COUNT = "select count(*) from whatsapp_provider_configs where organization_id = $1"


async def count(connection: asyncpg.Connection, organization_id: UUID) -> int:
    """How many configs the organization has (organization)."""
    found: int = await connection.fetchval(COUNT, organization_id)
    return found


class ChangedFallbacks(msgspec.Struct, frozen=True):
    """The order after the active config, and the policy as JSON, as they are now and as they were before."""

    version: int
    order: list[UUID]
    policy: bytes | None
    former_order: list[UUID]
    former_policy: bytes | None


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
returning o.version, o.fallback_config_ids as order, o.fallback_policy as policy,
    before.fallback_config_ids as former_order, before.fallback_policy as former_policy"""


async def set_fallbacks(
    connection: asyncpg.Connection, organization_id: UUID, config_ids: list[UUID], policy: bytes | None
) -> ChangedFallbacks | None:
    """Set the order, less the active config, and the policy as JSON; None: it stays as it is.

    None if a config is not the organization's (organization).
    """
    row = await connection.fetchrow(SET_FALLBACKS, organization_id, config_ids, policy)
    return read_or_none(ChangedFallbacks, row)


SET_BROKEN = """
update whatsapp_provider_configs set broken_at = now() where organization_id = $1 and id = $2 and broken_at is null"""


async def set_broken(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> None:
    """The provider refused the account: it cannot send (worker)."""
    await connection.execute(SET_BROKEN, organization_id, config_id)


CLEAR_BROKEN = """
update whatsapp_provider_configs set broken_at = null
where organization_id = $1 and id = $2 and broken_at is not null"""


async def clear_broken(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> None:
    """The provider took a message of the account (worker)."""
    await connection.execute(CLEAR_BROKEN, organization_id, config_id)


BROKEN = "select id, provider_type from whatsapp_provider_configs where broken_at is not null"


async def broken(connection: asyncpg.Connection) -> dict[UUID, str]:
    """The provider of each config whose account cannot send (worker, all organizations)."""
    return {row["id"]: row["provider_type"] for row in await connection.fetch(BROKEN)}


# One that is sent through, as the active one or a fallback, is another one for the fence from now on.
EDIT = f"""
with changed as (
    update whatsapp_provider_configs set {assignments(ConfigColumns, 4)}, updated_at = clock_timestamp(),
        state = case when state = 'error' and $3 then 'configured' else state end,
        broken_at = case when not $3 then broken_at end
    where organization_id = $1 and id = $2 returning id
)
update organizations o set
    version = o.version + case when changed.id = o.active_config_id or changed.id = any(o.fallback_config_ids) then 1 else 0 end,
    version_at = case when changed.id = o.active_config_id or changed.id = any(o.fallback_config_ids)
        then clock_timestamp() else o.version_at end
from changed where o.id = $1 returning o.version"""


async def edit(
    connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, config: ConfigColumns, *, tested: bool
) -> int:
    """Change a config that is there, *tested* as it is now: the version (organization)."""
    version: int = await connection.fetchval(EDIT, organization_id, config_id, tested, *msgspec.structs.astuple(config))
    return version


# One account may be in use by several configs, of this organization or another. Where a sender is not known yet, it
# may be the same.
SHARED = """
select exists (select from whatsapp_provider_configs
    where provider_type = $3 and id <> $2
        and (sender = $4 or (organization_id = $1 and (sender is null or $4::text is null))))
    /* every organization_id */"""


async def is_shared(connection: asyncpg.Connection, config: StoredConfig) -> bool:
    """Whether another config may be of the same account (worker, all organizations)."""
    of = (config.organization_id, config.id, config.provider_type, config.sender)
    shared: bool = await connection.fetchval(SHARED, *of)
    return shared


# Not the active one. A fallback leaves the order, which is another version.
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


# ------------------------------------------------------------------ whose accounts are

# What another organization holds is not taken, and not seen: the key knows it where row-level security hides it. Locked,
# so that a config which is being deleted or edited leaves no account behind that none of the organization's names.
CLAIM_ACCOUNTS = """
with named as materialized (
    select accounts from whatsapp_provider_configs
    where organization_id = $1 and provider_type = $2 and accounts && $3 for share
),
taken as (
    insert into account_owners (organization_id, provider_type, account)
    select $1, $2, account from unnest($3::text[]) as account
    where exists (select from named where account = any(named.accounts)) order by account
    on conflict do nothing returning account
)
select account from taken
union select account from account_owners where organization_id = $1 and provider_type = $2 and account = any($3)"""


async def claim_accounts(
    connection: asyncpg.Connection, organization_id: UUID, provider_type: str, accounts: list[str]
) -> set[str]:
    """Take those of *accounts* that are nobody's and a config's: those that are the organization's now (organization)."""
    return {row[0] for row in await connection.fetch(CLAIM_ACCOUNTS, organization_id, provider_type, accounts)}


RELEASE_ACCOUNTS = """
delete from account_owners o where o.organization_id = $1 and o.provider_type = $2 and o.account = any($3) and not exists (
    select from whatsapp_provider_configs c
    where c.organization_id = $1 and c.provider_type = $2 and o.account = any(c.accounts))"""


async def release_accounts(
    connection: asyncpg.Connection, organization_id: UUID, provider_type: str, accounts: list[str]
) -> None:
    """Let go of those of *accounts* that no config of the organization names any more (organization)."""
    await connection.execute(RELEASE_ACCOUNTS, organization_id, provider_type, accounts)


OWNER_OF = "select organization_id from account_owners where provider_type = $1 and account = $2"


async def owner_of(connection: asyncpg.Connection, provider_type: str, account: str) -> UUID | None:
    """Whose the account is (worker, all organizations)."""
    found: UUID | None = await connection.fetchval(OWNER_OF, provider_type, account)
    return found


OTHERS_BEHIND = """
select exists (select from whatsapp_provider_configs where signing_keys && $2 and organization_id <> $1)
    or exists (select from provider_apps where signing_keys && $2)"""


async def others_behind(connection: asyncpg.Connection, organization_id: UUID, signing_keys: list[bytes]) -> bool:
    """Whether anybody but the organization has one of these secrets, an app for one (worker, all organizations)."""
    found: bool = await connection.fetchval(OTHERS_BEHIND, organization_id, signing_keys)
    return found


# Of several configs of the account the one in use, else the newest.
BY_ACCOUNT = f"""
select {CONFIG} from account_owners o
join whatsapp_provider_configs c
    on c.organization_id = o.organization_id and c.provider_type = o.provider_type and o.account = any(c.accounts)
where o.provider_type = $1 and o.account = $2 order by c.state = 'active' desc, c.id desc limit 1"""


async def by_account(connection: asyncpg.Connection, provider_type: str, account: str) -> StoredConfig | None:
    """The config of an account, of the organization whose it is (worker, all organizations)."""
    return _config(await connection.fetchrow(BY_ACCOUNT, provider_type, account))


KINDS = (
    "select provider_type, count(*) from whatsapp_provider_configs group by 1 order by 1 /* every organization_id */"
)


async def kinds(connection: asyncpg.Connection) -> dict[str, int]:
    """How many configs of each provider there are (worker, all organizations)."""
    return {row[0]: row[1] for row in await connection.fetch(KINDS)}
