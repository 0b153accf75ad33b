"""Apps of providers that the platform gave an address of their own, for all organizations behind them."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from ...identifiers import PLATFORM_ID
from ...validation import Unlogged
from ..columns import names, parameters, read, read_or_none
from .configs import StoredConfig

# As `configs.CONFIG`, with what an app has none of: `Accounts.open` makes a config of it, which belongs to the platform.
_APP = f"""'{PLATFORM_ID}'::uuid as organization_id, id, provider_type, name, 'active' as state, null::text as sender,
    config_data, webhook_token, null::json as session, updated_at, '{{}}'::text[] as accounts, false as joins_order,
    '{{}}'::text[] as claimed"""

BY_TOKEN = f"select {_APP} from provider_apps where webhook_token_hash = $1"


async def by_token(connection: asyncpg.Connection, token_hash: bytes) -> StoredConfig | None:
    """The app that a webhook address belongs to (worker)."""
    return read_or_none(StoredConfig, await connection.fetchrow(BY_TOKEN, token_hash))


ALL = f"select {_APP} from provider_apps order by id"


async def every_one(connection: asyncpg.Connection) -> list[StoredConfig]:
    """Every app, oldest first (worker)."""
    return [read(StoredConfig, row) for row in await connection.fetch(ALL)]


class NewAppColumns(Unlogged, frozen=True, kw_only=True):
    """An app that is not stored yet. ``config_data`` and ``webhook_token`` are sealed."""

    id: UUID
    provider_type: str
    name: str
    config_data: bytes
    signing_keys: Sequence[bytes]
    webhook_token_hash: bytes
    webhook_token: bytes


ADD = f"insert into provider_apps ({names(NewAppColumns)}) values ({parameters(NewAppColumns, 1)})"


async def add(connection: asyncpg.Connection, app: NewAppColumns) -> None:
    """Save an app (worker)."""
    await connection.execute(ADD, *msgspec.structs.astuple(app))


LOCKED = f"select {_APP} from provider_apps where id = $1 for update"


async def locked(connection: asyncpg.Connection, app_id: UUID) -> StoredConfig | None:
    """An app that is about to be edited (worker)."""
    return read_or_none(StoredConfig, await connection.fetchrow(LOCKED, app_id))


EDIT = """
update provider_apps set config_data = $2, signing_keys = $3, updated_at = clock_timestamp() where id = $1"""


async def edit(
    connection: asyncpg.Connection, app_id: UUID, *, config_data: bytes, signing_keys: Sequence[bytes]
) -> None:
    """Change an app that is there (worker)."""
    await connection.execute(EDIT, app_id, config_data, signing_keys)


REMOVE = "delete from provider_apps where id = $1 returning id"


async def remove(connection: asyncpg.Connection, app_id: UUID) -> bool:
    """False if there is none (worker)."""
    return await connection.fetchval(REMOVE, app_id) is not None
