"""Whose an account is, and who else has a secret that signs webhooks."""

from uuid import UUID

import asyncpg

from ..columns import read_or_none
from .configs import CONFIG, StoredConfig

# What another organization holds is not taken, and not seen: the key knows it where row-level security hides it. Locked,
# so that a config which is being deleted or edited leaves no account behind that none of the organization's names.
CLAIM = """
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


async def claim(
    connection: asyncpg.Connection, organization_id: UUID, provider_type: str, accounts: list[str]
) -> set[str]:
    """Take those of *accounts* that are nobody's and a config's: those that are the organization's now (organization)."""
    return {row[0] for row in await connection.fetch(CLAIM, organization_id, provider_type, accounts)}


RELEASE = """
delete from account_owners o where o.organization_id = $1 and o.provider_type = $2 and o.account = any($3) and not exists (
    select from whatsapp_provider_configs c
    where c.organization_id = $1 and c.provider_type = $2 and o.account = any(c.accounts))"""


async def release(
    connection: asyncpg.Connection, organization_id: UUID, provider_type: str, accounts: list[str]
) -> None:
    """Let go of those of *accounts* that no config of the organization names any more (organization)."""
    await connection.execute(RELEASE, organization_id, provider_type, accounts)


OWNER = "select organization_id from account_owners where provider_type = $1 and account = $2"


async def owner(connection: asyncpg.Connection, provider_type: str, account: str) -> UUID | None:
    """Whose the account is (worker, all organizations)."""
    found: UUID | None = await connection.fetchval(OWNER, provider_type, account)
    return found


OTHERS_BEHIND = """
select exists (select from whatsapp_provider_configs where signing_keys && $2 and organization_id <> $1)
    or exists (select from provider_apps where signing_keys && $2)"""


async def others_behind(connection: asyncpg.Connection, organization_id: UUID, signing_keys: list[bytes]) -> bool:
    """Whether anybody but the organization has one of these secrets, an app for one (worker, all organizations)."""
    found: bool = await connection.fetchval(OTHERS_BEHIND, organization_id, signing_keys)
    return found


# Of several configs of the account the one in use, else the newest.
CONFIG_OF = f"""
select {CONFIG} from account_owners o
join whatsapp_provider_configs c
    on c.organization_id = o.organization_id and c.provider_type = o.provider_type and o.account = any(c.accounts)
where o.provider_type = $1 and o.account = $2 order by c.state = 'active' desc, c.id desc limit 1"""


async def config_of(connection: asyncpg.Connection, provider_type: str, account: str) -> StoredConfig | None:
    """The config of an account, of the organization whose it is (worker, all organizations)."""
    return read_or_none(StoredConfig, await connection.fetchrow(CONFIG_OF, provider_type, account))
