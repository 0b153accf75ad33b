"""How many connections to PostgreSQL a process may open: one number, divided among what it needs them for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from ingress import metrics
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.settings import Settings, SettingsError, load
from ingress.storage import database as module
from ingress.storage.database import CONNECTIONS_BEFORE_CHANGES, SINGLE, Busy, Database, StoreUnavailable
from ingress.storage.group_commit import GroupCommit
from ingress.storage.listener import notifications
from ingress.storage.migration import migrate
from ingress.storage.statements import logins

from ..conftest import serving

LEAST = CONNECTIONS_BEFORE_CHANGES + 1


def limits() -> dict[str, float]:
    return {
        sample.labels["pool"]: sample.value
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
        if sample.name.endswith("_db_connections_limit")
    }


def test_the_least_is_one_change_at_a_time() -> None:
    with pytest.raises(SettingsError, match=f"from {LEAST} to"):
        load({"INGRESS_DATABASE_CONNECTIONS": str(LEAST - 1)})
    assert load({"INGRESS_DATABASE_CONNECTIONS": str(LEAST)}).database_connections == LEAST


@pytest.mark.parametrize("most", [LEAST, Settings().database_connections])
async def test_what_a_process_may_open_is_its_number(
    settings: Settings, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown by the metrics; each queue opens as many as are counted for it."""
    flushers: dict[str, int] = {}
    enter = GroupCommit.__aenter__

    async def entered(self: Any) -> Any:
        flushers[self.name] = self._flusher_count
        return await enter(self)

    monkeypatch.setattr(GroupCommit, "__aenter__", entered)
    async with serving(msgspec.structs.replace(settings, database_connections=most)):
        assert sum(limits().values()) == most
        assert limits()["exclusive"] == most - CONNECTIONS_BEFORE_CHANGES
    assert flushers | {"listen": 1} == SINGLE


async def test_changes_beyond_the_number_wait(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXCLUSIVE_WAIT_S", 0.2)
    async with Database(settings.database_url, LEAST) as database:
        async with database.exclusive(uuid4()):
            with pytest.raises(Busy):
                async with database.exclusive(uuid4()):
                    pytest.fail("a connection more")
        async with database.exclusive(uuid4()):
            pass


@pytest.fixture
async def scratch(servers: EmbeddedServers) -> AsyncIterator[str]:
    """A database beside the others that takes 70 connections; its URL."""
    name = f"scratch_{uuid4().hex}"
    assert servers.database_url
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f"create database {name} connection limit 70")
    url = servers.database_url.replace("/postgres?", f"/{name}?")
    await migrate(url)
    yield url
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


async def test_processes_that_may_open_more_than_there_are_say_so(
    scratch: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that is too many, and none before. It is not refused: it may be an old one's successor."""

    async def listen(database: Database) -> None:
        async for _ in notifications(database, "x"):
            begun.release()

    begun, tasks = asyncio.Semaphore(0), []
    try:
        async with AsyncExitStack() as stack:
            for expected in (0, 0, 1):
                database = await stack.enter_async_context(Database(scratch, 30))
                tasks.append(asyncio.create_task(listen(database)))
                async with asyncio.timeout(60):
                    await begun.acquire()
                assert len(caplog.messages) == expected
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert caplog.messages[0] == (
        "the processes of this database may open 90 connections to PostgreSQL, this one 30 of them, and the server has"
        " 70: lower INGRESS_DATABASE_CONNECTIONS, run fewer processes, or raise max_connections"
    )


async def test_what_the_server_keeps_for_others_is_not_there(settings: Settings) -> None:
    """For superusers, and what sessions in other databases have taken."""
    connection = await asyncpg.connect(settings.database_url)
    [most] = await connection.fetchrow(
        "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    )
    elsewhere = await asyncpg.connect(settings.database_url, database="template1")
    _, available = await logins.declare_connections(connection, 1, 30)
    assert 0 < available < most
    await elsewhere.close()
    await connection.close()


async def test_who_falls_silent_in_a_transaction_is_thrown_out(settings: Settings) -> None:
    """After 10 s, also in a change: its network may be cut, and what it has locked would stay so."""
    async with Database(settings.database_url) as database, database.worker() as other:
        id = uuid4()
        with pytest.raises(StoreUnavailable):
            async with database.organization(id) as silent:
                await _locks_nothing_for_long(silent, other)
        with pytest.raises(StoreUnavailable):
            async with database.exclusive(id) as exclusive, exclusive.transaction() as silent:
                await _locks_nothing_for_long(silent, other)


async def _locks_nothing_for_long(silent: asyncpg.Connection, other: asyncpg.Connection) -> None:
    assert await silent.fetchval("show idle_in_transaction_session_timeout") == "10s"
    lock = "select pg_advisory_xact_lock(0)"
    await silent.execute(f"set local idle_in_transaction_session_timeout = '10ms'; {lock}")
    await other.execute(lock)
    await silent.execute("select")
