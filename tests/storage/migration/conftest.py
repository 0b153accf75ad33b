"""Databases of their own, with a schema or without one."""

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from ingress.dev.embedded.launcher import EmbeddedServers


@pytest.fixture
async def database_url(servers: EmbeddedServers) -> AsyncIterator[str]:
    """Of a new and empty one."""
    assert servers.database_url
    name = f"upgraded_{uuid4().hex[:12]}"
    superuser = await asyncpg.connect(servers.database_url)
    await superuser.execute(f"create database {name}")
    yield servers.database_url.replace("/postgres?", f"/{name}?")
    await superuser.execute(f"drop database {name} with (force)")
    await superuser.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """As who owns it."""
    made = await asyncpg.connect(database_url)
    yield made
    await made.close()
