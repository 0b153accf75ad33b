"""What every part measures on: a new database and a large one, in one PostgreSQL."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from ingress.dev.embedded.launcher import EmbeddedServers

from ..databases import database
from ..processes import tree_cpu_s
from ..provider import provider
from . import seeding
from .seeding import Sizes
from .site import Site, make

# As many people, and pages as full, but nothing to read through.
EMPTY_EVENTS, EMPTY_ORGANIZATIONS = 4_000, 2


@dataclass(frozen=True)
class Bench:
    folder: Path
    servers: EmbeddedServers
    provider_url: str
    sizes: Sizes
    empty_sizes: Sizes
    empty: Site
    full: Site
    # Of load, each with requests of its own.
    runs: Iterator[int] = field(default_factory=lambda: count(1))

    def scaled(self, at_full_size: int) -> int:
        """What there is so much of at 8 million events."""
        return max(100, at_full_size * self.sizes.events // 8_000_000)

    def database_cpu_s(self) -> float:
        return tree_cpu_s(self.servers.pids["postgres"])


@contextmanager
def begun(folder: Path, sizes: Sizes) -> Iterator[Bench]:
    """Both databases, filled; everything is gone when the block ends."""
    with ExitStack() as stack:
        servers = stack.enter_context(EmbeddedServers(folder / "storage"))
        server_url, redis_url = str(servers.database_url), str(servers.redis_url)
        _watch_statements(servers, server_url)
        provider_url = stack.enter_context(provider(folder)).url
        empty_sizes = replace(sizes, events=EMPTY_EVENTS, organizations=EMPTY_ORGANIZATIONS, people=sizes.big_people)

        def filled(name: str, size: Sizes) -> Site:
            url = stack.enter_context(database(server_url, f"scale_{name}"))
            site = make(name, url, redis_url, folder, provider_url, size.organizations)
            asyncio.run(seeding.fill(site, size))
            execute(site, "create extension pg_stat_statements")
            return site

        empty, full = filled("empty", empty_sizes), filled("full", sizes)
        yield Bench(folder, servers, provider_url, sizes, empty_sizes, empty, full)


def _watch_statements(servers: EmbeddedServers, url: str) -> None:
    asyncio.run(_execute(url, ["alter system set shared_preload_libraries = 'pg_stat_statements'"]))
    servers.postgres.stop()
    servers.postgres.start()


def execute(site: Site, *statements: str) -> None:
    """As the owner of the site's database, each in a transaction of its own."""
    asyncio.run(_execute(site.database_url, statements))


def query(site: Site, statement: str, *arguments: Any) -> Any:
    """One value, as the owner."""
    return asyncio.run(_fetchval(site.database_url, statement, arguments))


async def _execute(url: str, statements: Sequence[str]) -> None:
    connection = await asyncpg.connect(url, command_timeout=3600)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _fetchval(url: str, statement: str, arguments: Sequence[Any]) -> Any:
    connection = await asyncpg.connect(url, command_timeout=3600)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()


def setting(name: str, default: int) -> int:
    return int(os.environ.get(name, default))
