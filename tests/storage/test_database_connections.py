"""The connections of a process to PostgreSQL: how many, who gets one, and that none tells of who had it before."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from ingress import metrics
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.settings import Settings, SettingsError, load
from ingress.storage import connections as connections_module
from ingress.storage import database as module
from ingress.storage.connections import APP, USES, WORKER, ConnectionPool, Kind, Use
from ingress.storage.database import Busy, Database, StoreUnavailable
from ingress.storage.listener import notifications
from ingress.storage.migration import migrate
from ingress.storage.statements import logins

from ..gateway import eventually, logged

LEAST = len(USES)
# What a session may keep of who used it before: settings, a role, locks, cursors, channels, tables.
LEFT = """
select
    current_setting('app.org_id', true) as organization, current_user as role,
    (select array_agg(name || '=' || setting order by name) from pg_settings
        where source = 'session' and name <> 'app.org_id') as settings,
    (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
    (select count(*) from pg_cursors) as cursors, (select count(*) from pg_listening_channels()) as channels,
    (select count(*) from pg_class where relpersistence = 't' and pg_table_is_visible(oid)) as tables"""


def shown(name: str) -> dict[str, float]:
    """What the metric says, by its one label, or by ""."""
    return {
        "".join(sample.labels.values()): sample.value
        for family in metrics.REGISTRY.restricted_registry([f"whatsapp_ingress_{name}"]).collect()
        for sample in family.samples
    }


def test_the_least_is_one_for_each_use() -> None:
    with pytest.raises(SettingsError, match=f"from {LEAST} to"):
        load({"INGRESS_DATABASE_CONNECTIONS": str(LEAST - 1)})
    assert load({"INGRESS_DATABASE_CONNECTIONS": str(LEAST)}).database_connections == LEAST


@pytest.mark.parametrize("most", [LEAST, Settings().database_connections])
async def test_a_process_opens_no_more_than_its_number(settings: Settings, most: int) -> None:
    """Whatever all uses want at once, and whatever is idle; the metrics say how many there are."""
    async with Database(settings.database_url, most) as database:

        async def use(name: str) -> None:
            async with database.connection(name) as connection:
                assert shown("db_connections")["used"] <= sum(shown("db_connections").values()) <= most
                await connection.execute("select pg_sleep(0.001)")

        await asyncio.gather(*[use(name) for _ in range(20) for name in USES if name != "exclusive"])
        await asyncio.gather(*[_change(database, uuid4()) for _ in range(20)])
        assert shown("db_connections")["used"] == 0
        assert shown("db_connections")["idle"] > 1
        assert shown("db_connections_limit") == {"": most}


async def _change(database: Database, id: UUID) -> None:
    async with database.exclusive(id) as exclusive, exclusive.transaction() as connection:
        await connection.execute("select pg_sleep(0.001)")


class Nothing:
    """What the pool itself uses of a connection."""

    def is_closed(self) -> bool:
        return False

    def is_in_transaction(self) -> bool:
        return False

    async def close(self, timeout: float) -> None:
        pass


async def _open_nothing(_: Kind) -> Any:
    return Nothing()


@pytest.mark.parametrize("most", [LEAST, Settings().database_connections, 64])
@pytest.mark.parametrize("use", USES)
async def test_no_use_takes_the_place_of_another(use: str, most: int) -> None:
    """However much is wanted for all others, and however long they keep it."""
    async with ConnectionPool(
        {**USES, "exclusive": Use(USES["exclusive"].kind, most)}, most, _open_nothing
    ) as connections:
        for other in set(USES) - {use}:
            with contextlib.suppress(TimeoutError):
                while True:
                    await connections.borrow(other, 0)
        await connections.borrow(use, 0)
        assert connections.open <= most


async def test_who_waits_for_a_place_gets_it_in_order() -> None:
    """Who gives up meanwhile, also in the moment of its turn, takes nothing with it."""
    async with ConnectionPool(USES, LEAST + 1, _open_nothing) as connections:
        workers = [await connections.borrow("worker", 0) for _ in range(2)]
        lookups, done = [await connections.borrow("lookup", 0)], list[str]()

        async def wait(name: str) -> Any:
            lent = await connections.borrow(name, 60)
            done.append(name)
            return lent

        waiting = [asyncio.create_task(wait(name)) for name in ("worker", "lookup", "worker", "lookup")]
        await asyncio.sleep(0)
        connections.give_back("worker", workers.pop())
        waiting[0].cancel()  # whose turn it is
        lookups.append(await waiting[1])
        waiting[2].cancel()
        await asyncio.wait(waiting[2:3])
        connections.give_back("lookup", lookups.pop())
        lookups.append(await waiting[3])
        assert done == ["lookup", "lookup"]
        for name, lent in (("worker", workers), ("lookup", lookups)):
            while lent:
                connections.give_back(name, lent.pop())
        assert {use: connections.in_use(use) for use in USES} == dict.fromkeys(USES, 0)
        for _ in range(2):
            await connections.borrow("app", 0)


async def test_what_nobody_needs_is_closed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "SWEEP_EVERY_S", 0.01)
    kept, closed = Kind(role=WORKER), Kind(role=APP, idle_s=0.0)
    monkeypatch.setattr(
        module, "USES", {"worker": Use(kept, 2), "app": Use(closed, 2), "listen": Use(kept), "exclusive": Use(kept)}
    )
    async with Database(settings.database_url, 12) as database:
        async with database.worker(), database.organization(uuid4()) as connection:
            pid = await connection.fetchval("select pg_backend_pid()")
        async with database.worker() as other:
            await eventually(
                lambda: other.fetchval("select count(*) from pg_stat_activity where pid = $1", pid),
                lambda found: found == 0,
            )
        assert (database._connections.open, database._connections.idle) == (1, 1)


async def test_what_lasts_is_opened_anew_in_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Database(settings.database_url) as database:
        pids = []
        for lifetime_s in (3600.0, 0.0, 3600.0):
            monkeypatch.setattr(connections_module, "LIFETIME_S", lifetime_s)
            async with database.worker() as connection:
                pids.append(connection.get_server_pid())
        assert pids[0] == pids[1] != pids[2]


async def test_what_was_given_back_is_not_used_any_more(settings: Settings) -> None:
    """Whoever keeps a connection would see what the next one may."""
    async with Database(settings.database_url) as database:
        async with database.organization(uuid4()) as connection:
            pass
        async with database.organization(uuid4()):
            with pytest.raises(asyncpg.InterfaceError):
                await connection.fetch("select * from organizations")


class Mistake(Exception):
    pass


async def _ends(connection: asyncpg.Connection) -> None:
    await connection.execute("select 1")


async def _raises(connection: asyncpg.Connection) -> None:
    raise Mistake


async def _is_refused(connection: asyncpg.Connection) -> None:
    await connection.execute("select 1/0")


async def _cannot_write(connection: asyncpg.Connection) -> None:
    await connection.execute("select $1::uuid", "none")


async def _is_cancelled(connection: asyncpg.Connection) -> None:
    waiting = asyncio.create_task(connection.execute("select pg_sleep(60)"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await waiting


async def _is_too_slow(connection: asyncpg.Connection) -> None:
    await connection.execute("select pg_sleep(60)", timeout=0.05)


async def _waits_too_long(connection: asyncpg.Connection) -> None:
    await connection.execute("set local statement_timeout = 50; select pg_sleep(60)")


async def _breaks(connection: asyncpg.Connection) -> None:
    await connection.execute("select pg_terminate_backend(pg_backend_pid())")


@pytest.mark.parametrize(
    "end", [_ends, _raises, _is_refused, _cannot_write, _is_cancelled, _is_too_slow, _waits_too_long, _breaks]
)
@pytest.mark.parametrize("kind", ["organization", "exclusive", "worker"])
async def test_a_connection_that_was_given_back_carries_nothing_over(settings: Settings, end: Any, kind: str) -> None:
    """Neither an organization nor a setting, a lock or a transaction, however its use ended."""

    async def left() -> list[Any]:
        async with database.connection("exclusive" if kind == "exclusive" else use) as connection:
            assert not connection.is_in_transaction()
            return list(await connection.fetchrow(LEFT))

    async with Database(settings.database_url) as database:
        use, id = "worker" if kind == "worker" else "app", uuid4()
        before = await left()
        with contextlib.suppress(
            Mistake, StoreUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError, asyncio.CancelledError
        ):
            async with AsyncExitStack() as stack:
                if kind == "exclusive":
                    exclusive = await stack.enter_async_context(database.exclusive(id))
                    connection = await stack.enter_async_context(exclusive.transaction())
                elif kind == "worker":
                    connection = await stack.enter_async_context(database.worker())
                    await stack.enter_async_context(connection.transaction())
                else:
                    connection = await stack.enter_async_context(database.organization(id))
                await connection.execute("select pg_advisory_xact_lock(1), set_config('work_mem', '65kB', true)")
                await end(connection)
        after = await left()
        assert after[0] in (None, "")
        assert after[1:] == before[1:]
        async with asyncio.timeout(60), database.exclusive(id):  # nobody has it
            pass
        assert database._connections.open == database._connections.idle


async def test_no_statement_of_the_service_lasts_in_its_session() -> None:
    """Which is why nothing is reset when a connection is given back. Who listens has locks, and gives nothing back."""
    lasting = re.compile(
        r"set_config\([^()]*, *false\)|pg_(?:try_)?advisory_lock(?:_shared)?\(|create temp|with hold"
        r"|[\"';]\s*(?:set (?!local )|listen |prepare )"
    )
    found = {
        (path.name, match[0])
        for path in Path(logins.__file__).parent.rglob("*.py")
        for match in lasting.finditer(path.read_text())
    }
    # Migrations have a connection of their own.
    assert {(name, text) for name, text in found if name != "upgrades.py"} == {
        ("logins.py", "pg_advisory_lock_shared("),
        ("sealed.py", "pg_advisory_lock_shared("),
    }


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
                assert len(logged(caplog, "ingress.database")) == expected
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert logged(caplog, "ingress.database")[0] == (
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
