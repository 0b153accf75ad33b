"""PostgreSQL and Redis for the servers under test: those of DATABASE_URL and REDIS_URL, else embedded."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg


@contextmanager
def storage(folder: Path) -> Iterator[tuple[str, str]]:
    """(database_url, redis_url). A database of that PostgreSQL is made for each server under test."""
    if "DATABASE_URL" in os.environ and "REDIS_URL" in os.environ:
        yield os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
        return
    from ingress.dev.embedded.launcher import EmbeddedServers

    folder.mkdir()
    with EmbeddedServers(folder) as servers:
        yield str(servers.database_url), str(servers.redis_url)


@contextmanager
def database(server_url: str, name: str) -> Iterator[str]:
    """The address of a new, empty database, dropped when the block ends."""
    asyncio.run(_execute(server_url, f"drop database if exists {name} with (force)", f"create database {name}"))
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        asyncio.run(_execute(server_url, f"drop database if exists {name} with (force)"))


def rows(url: str, source: str) -> int:
    """How many rows there are in *source*, a table and perhaps a condition."""
    return asyncio.run(_count(url, source))


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _count(url: str, source: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(f"select count(*) from {source}"))
    finally:
        await connection.close()
