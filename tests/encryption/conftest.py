"""A database of its own, that processes with different encryption keys serve."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.dev.sandbox import MetaSimulator
from ingress.identifiers import new_id
from ingress.settings import Settings
from ingress.storage.vault import Vault, generate_key

from ..conftest import serving
from ..gateway import Gateway, Organization
from ..storage.conftest import Logins
from ..storage.conftest import logins as logins
from ..storage.conftest import migrated as migrated

OLD, NEW = generate_key(), generate_key()
OLD_ID, NEW_ID = (key.partition(":")[0] for key in (OLD, NEW))

Serving = Callable[[str], AbstractAsyncContextManager[Gateway]]


@pytest.fixture
async def serving_with(migrated: Logins, settings: Settings, meta: MetaSimulator) -> AsyncIterator[Serving]:
    """Serve the database with those encryption keys."""
    async with aiohttp.ClientSession() as session:

        @asynccontextmanager
        async def serve(keys: str) -> AsyncIterator[Gateway]:
            own = msgspec.structs.replace(settings, database_url=migrated.service, encryption_keys=keys)
            async with serving(own) as url:
                yield Gateway(url, settings.platform_key, session, meta)

        yield serve


async def with_secrets(gateway: Gateway) -> Organization:
    """An organization with one of everything that is sealed, and an app beside it."""
    made = await gateway.organization()
    await made.configure()
    assert (await made.call("PUT", "/callback", {"url": "http://127.0.0.1:1/"})).status == 200
    secrets = {"app_secret": made.numbers[0].app_secret, "verify_token": "v" * 32}
    app = {"provider_type": "meta_business", "name": "app", "config_data": secrets}
    answer = await gateway.call("POST", "/apps", app, key=gateway.platform_key)
    assert answer.status == 201, answer.raw
    return made


async def insert_configs(connection: asyncpg.Connection, count: int) -> None:
    """Organizations, with a config each whose two secrets the old key has sealed."""
    vault = Vault(OLD)

    def row() -> tuple[Any, ...]:
        organization_id, id = new_id(), new_id()
        place = str(organization_id), str(id)
        data, token = vault.seal(b'{"a": "b"}', *place, "config_data"), vault.seal(b"t", *place, "webhook_token")
        return organization_id, id, data, token, id.bytes

    rows = [row() for _ in range(count)]
    await connection.executemany("insert into organizations (id, name) values ($1, 'x')", [row[:1] for row in rows])
    await connection.executemany(
        """insert into whatsapp_provider_configs (organization_id, id, provider_type, name, state, config_data,
            accounts, signing_keys, webhook_token_hash, webhook_token)
        values ($1, $2, 'nobodys', 'x', 'inactive', $3, '{}', '{}', $5, $4)""",
        rows,
    )
