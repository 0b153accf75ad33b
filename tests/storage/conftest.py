"""Databases of their own, with logins of theirs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.storage.connections import ROLES
from ingress.storage.migration import migrate


class Logins(msgspec.Struct):
    """A new database; URLs of it for three logins."""

    superuser: str
    owner: str
    service: str

    @property
    def owner_name(self) -> str:
        return _login(self.owner)

    @property
    def service_name(self) -> str:
        return _login(self.service)


def _login(url: str) -> str:
    return url.partition("://")[2].partition("@")[0]


@pytest.fixture
async def logins(servers: EmbeddedServers) -> AsyncIterator[Logins]:
    async with made_logins(servers) as made:
        yield made


@asynccontextmanager
async def made_logins(servers: EmbeddedServers) -> AsyncIterator[Logins]:
    assert servers.database_url
    unique = uuid4().hex[:12]
    database, owner, service = (f"{name}_{unique}" for name in ("logins", "owner", "service"))
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f"create role {owner} login createrole")
    await connection.execute(f"create role {service} login noinherit")
    # Roles belong to the server: where other tests have made them, their maker hands them on.
    for role in ROLES:
        if await connection.fetchval("select true from pg_roles where rolname = $1", role):
            await connection.execute(f"grant {role} to {owner} with admin true")
    await connection.execute(f"create database {database} owner {owner}")
    url = servers.database_url.replace("/postgres?", f"/{database}?")
    assert "://svc@" in url
    yield Logins(url, url.replace("://svc@", f"://{owner}@"), url.replace("://svc@", f"://{service}@"))
    await connection.execute(f"drop database {database} with (force)")
    await connection.execute(f"drop owned by {owner} cascade")
    await connection.execute(f"drop role {service}")
    await connection.execute(f"drop role {owner}")
    await connection.close()


@pytest.fixture
async def migrated(logins: Logins) -> Logins:
    assert (await migrate(logins.owner, logins.service_name)).is_new
    return logins
