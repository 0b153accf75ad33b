"""Through PgBouncer in transaction mode: what the service does, whose rows it sees, and what it says of a wrong set-up.

In between are two sessions of the server for everybody, so that each transaction may get the session of anybody.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress import __version__
from ingress.api import events
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import CrmSimulator, FaultProxy, MetaSimulator
from ingress.doctor.examination import CHECKS, examine
from ingress.doctor.findings import Examined
from ingress.settings import Settings
from ingress.storage import database as module
from ingress.storage.connections import APP, USES, WORKER, Kind
from ingress.storage.database import SCHEMA_VERSION, Database, SchemaError, StoreUnavailable
from ingress.storage.group_commit import GroupCommit
from ingress.storage.migration import migrate, prepare
from ingress.storage.statements.upgrades import older_processes
from ingress.storage.vault import generate_key
from ingress.switching import routes
from providers import Registry

from ..cli.test_run import ingress, refusal
from ..conftest import serving
from ..gateway import Gateway, Organization, eventually, unused_port
from .conftest import Logins

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SESSIONS = 2


class PgBouncer:
    """One on a port of its own, in front of the server behind another."""

    def __init__(self, folder: Path, server_port: int, logins: Logins, **options: str) -> None:
        self.port = unused_port()
        self._file = folder / f"{self.port}.ini"
        self._process: subprocess.Popen[bytes] | None = None
        users = folder / "users.txt"
        users.write_text("".join(f'"{name_of(url)}" ""\n' for url in (logins.superuser, logins.owner, logins.service)))
        settings = {
            **{"listen_addr": "127.0.0.1", "listen_port": self.port, "unix_socket_dir": ""},
            **{"auth_type": "trust", "auth_file": users, "pool_mode": "transaction", "default_pool_size": SESSIONS},
            **{"max_client_conn": 500, "server_login_retry": 1, **options},
        }
        lines = ["[databases]", f"* = host=127.0.0.1 port={server_port}", "[pgbouncer]"]
        self._file.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items())]))

    def start(self) -> None:
        assert PGBOUNCER is not None
        who = ["-u", "nobody"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen([PGBOUNCER, "-q", *who, str(self._file)], stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def url(self, direct: str) -> str:
        """The way of *direct* through this one."""
        name = direct.partition("?")[0].rpartition("/")[2]
        return f"postgresql://{name_of(direct)}@127.0.0.1:{self.port}/{name}"


def name_of(url: str) -> str:
    return url.partition("://")[2].partition("@")[0]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where PgBouncer, which refuses to be root, may read."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
async def server_port(servers: EmbeddedServers) -> AsyncIterator[int]:
    """PostgreSQL at a port: its socket is its owner's alone."""
    async with FaultProxy(f"{servers.postgres.sockets}/.s.PGSQL.5432") as proxy:
        yield proxy.port


@asynccontextmanager
async def pgbouncer(folder: Path, server_port: int, logins: Logins, **options: str) -> AsyncIterator[PgBouncer]:
    if PGBOUNCER is None:
        assert "NEEDS_PGBOUNCER" not in os.environ, "no PgBouncer on this machine"
        pytest.skip("no PgBouncer on this machine: install the package pgbouncer")
    made = PgBouncer(folder, server_port, logins, **options)
    made.start()
    try:
        await eventually(lambda: _answers(made.port))
        yield made
    finally:
        made.kill()


async def _answers(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


@pytest.fixture
async def pooler(folder: Path, server_port: int, migrated: Logins) -> AsyncIterator[PgBouncer]:
    async with pgbouncer(folder, server_port, migrated) as running:
        yield running


@pytest.fixture
async def pooled(settings: Settings, pooler: PgBouncer, migrated: Logins) -> Settings:
    """Those of a service that comes through the pooler."""
    return msgspec.structs.replace(
        settings, database_url=pooler.url(migrated.service), database_direct_url=migrated.service
    )


@pytest.fixture
async def gateway(pooled: Settings, meta: MetaSimulator) -> AsyncIterator[Gateway]:
    assert not await prepare(pooled.database_url, pooled.database_direct_url)
    async with serving(pooled) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, pooled.platform_key, session, meta)


@pytest.fixture
async def database(pooled: Settings) -> AsyncIterator[Database]:
    async with Database(pooled.database_url, direct_url=pooled.database_direct_url) as opened:
        yield opened


# ---------------------------------------------------------------- what the service does


@pytest.mark.usefixtures("quick_relay")
async def test_webhooks_sends_and_deliveries(
    organization: Organization, meta: MetaSimulator, crm: CrmSimulator
) -> None:
    """Each message once, and each event to the CRM: in order, signed."""
    answer = await organization.call("PUT", "/callback", {"url": crm.url_for("pooled")})
    crm.set_secret(answer.json["secret"], endpoint="pooled")
    hooks = [meta.inbound(organization.numbers[0]).text(f"text {n}") for n in range(30)]
    answers = await asyncio.gather(*[organization.post_webhook(hook) for hook in [*hooks, *hooks]])
    assert {answer.status for answer in answers} == {200}
    sent = await asyncio.gather(*[organization.send(idempotency_key=f"pooled-{n % 10}") for n in range(20)])
    assert {answer.status for answer in sent} <= {200, 409}
    assert len({answer.json["id"] for answer in sent if answer.status == 200}) == 10
    received = {event["id"] for event in await organization.events(kind="message.received")}
    assert len(received) == len(hooks)
    await eventually(lambda: received <= {attempt.event_id for attempt in crm.attempts})
    assert crm.unverified() == []
    assert crm.inversions() == []
    assert (await organization.gateway.call("GET", "/readyz")).json == {"status": "ready"}


async def test_a_switch_is_notified_to_other_processes(
    organization: Organization, pooled: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the database itself, and each confirms that it uses the change; a poll ends when an event is stored."""
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    monkeypatch.setattr(events, "POLL_S", 60.0)
    second = await organization.configure(active=False)
    async with serving(pooled) as url, aiohttp.ClientSession() as session:
        there = Organization(Gateway(url, pooled.platform_key, session, meta), organization.id, organization.key)
        current = await there.call("GET", "/integrations/whatsapp/provider/current")
        assert current.json["version"] == 1
        body = {"config_id": second["config_id"]}
        assert (await organization.call("POST", "/integrations/whatsapp/provider/switch", body)).status == 200
        sent = await there.send()
        assert (await there.message(sent.json["id"]))["config_id"] == second["config_id"]
        connection = await asyncpg.connect(pooled.database_direct_url)
        await connection.execute(f"set role {WORKER}")
        await eventually(
            lambda: connection.fetchrow("select count(*), count(used_at) from switch_processes where version = 2"),
            lambda found: tuple(found) == (2, 2),
        )
        await connection.close()


async def test_two_organizations_are_never_mixed(gateway: Gateway, meta: MetaSimulator) -> None:
    """Whatever session each of their transactions gets, in whatever order."""
    both = [await gateway.organization() for _ in range(2)]
    for one in both:
        await one.configure()

    async def writes_and_reads(place: int) -> None:
        own = both[place]
        hook = meta.inbound(own.numbers[0]).text(f"of {place}")
        assert (await own.post_webhook(hook)).status == 200
        for event in await own.events(kind="message.received"):
            assert event["data"]["message"]["content"]["body"] == f"of {place}"
        sent = await own.send()
        other = await both[1 - place].call("GET", f"/messages/{sent.json['id']}")
        assert (sent.status, other.status) == (200, 404)

    await asyncio.gather(*[writes_and_reads(number % 2) for number in range(16)])
    for one in both:
        assert len(await one.events(kind="message.received")) == 8


# ---------------------------------------------------------------- roles, settings, isolation


@pytest.mark.parametrize("use", USES)
async def test_each_transaction_is_in_its_role_with_its_settings(
    database: Database, pooler: PgBouncer, use: str
) -> None:
    """Also of a session that another left in another role; with a statement of its own, or begun."""
    direct = Database(database._direct_url)
    wanted = await direct._open(USES[use].kind)
    names = (
        "role",
        *(set(module._session(WORKER)) - {"role", "application_name", "plan_cache_mode"}),
        *dict(USES[use].kind.settings),
    )
    ask = "select current_user, " + ", ".join(f"current_setting('{name}')" for name in names)
    expected = await wanted.fetchrow(ask)
    assert expected is not None
    assert expected[0] == USES[use].kind.role
    await wanted.close()
    async with database.connection(use) as connection:
        for _ in range(4):
            await _spoil(pooler, database)
            assert await connection.fetchrow(ask) == expected
            async with connection.transaction():
                assert await connection.fetchrow(ask) == expected
                async with connection.transaction():
                    assert await connection.fetchval("select current_user") == USES[use].kind.role


async def _spoil(pooler: PgBouncer, database: Database) -> None:
    """Leave every session of the pool with another's role, organization and settings, as no client of ours does."""
    spoiling = [
        await asyncpg.connect(pooler.url(database._direct_url), statement_cache_size=0) for _ in range(SESSIONS)
    ]
    for connection in spoiling:
        await connection.execute("begin")
    for connection in spoiling:
        await connection.execute(
            f"set role {WORKER}; set app.org_id = '{uuid4()}'; set statement_timeout = 0; set lock_timeout = 0;"
            "set enable_seqscan = on; commit"
        )
        await connection.close()


async def test_an_organization_sees_its_own_whatever_a_session_was_left_in(
    organization: Organization, database: Database, pooler: PgBouncer
) -> None:
    for _ in range(4):
        await _spoil(pooler, database)
        async with database.organization(UUID(organization.id)) as connection:
            assert [str(row["id"]) for row in await connection.fetch("select id from organizations")] == [
                organization.id
            ]
        async with database.organization(uuid4()) as connection:
            assert await connection.fetch("select id from organizations") == []


async def test_a_session_is_left_as_it_was(database: Database, pooler: PgBouncer) -> None:
    """With the login that may do nothing, and without a prepared statement or a lock, also after what breaks off."""

    async def hold(broken: bool) -> None:
        with suppress(StoreUnavailable, asyncio.CancelledError):
            async with database.organization(uuid4()) as connection:
                if broken:
                    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
                await connection.execute("select pg_sleep(0.1)")

    await asyncio.gather(*[hold(bool(number % 2)) for number in range(8)])
    plain = await asyncpg.connect(pooler.url(database._direct_url), statement_cache_size=0)
    ask = """select current_user, current_setting('app.org_id', true), current_setting('statement_timeout'),
        (select count(*) from pg_prepared_statements where name <> ''), (select count(*) from pg_locks
            where pid = pg_backend_pid() and locktype = 'advisory')"""
    for _ in range(SESSIONS * 3):
        async with plain.transaction():
            left = await plain.fetchrow(ask)
        assert left is not None
        assert (left[0], left[1] or "", *left[2:]) == (name_of(database._direct_url), "", "0", 0, 0)
    await plain.close()


async def test_a_session_does_not_name_the_release_of_who_had_it(database: Database, migrated: Logins) -> None:
    """Migrations wait for an older one: who listens tells of it, and of nobody who is gone."""
    connection = await asyncpg.connect(migrated.superuser)
    async with database.worker() as pooled:
        assert await pooled.fetchval("select 1") == 1
        assert await older_processes(connection, SCHEMA_VERSION + 1) == {}
        async with database.connection("listen"):
            assert await older_processes(connection, SCHEMA_VERSION + 1) == {__version__: 1}
    await connection.close()


async def test_time_limits_hold(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own, for statements and for locks; and this process's, after which it has another connection."""
    async with database.worker() as holding:
        lock = "select pg_advisory_xact_lock(77)"
        async with holding.transaction():
            await holding.execute(lock)
            with pytest.raises(StoreUnavailable) as waited:
                async with database.lookup() as connection:
                    await connection.execute(lock)
            assert isinstance(waited.value.__cause__, asyncpg.LockNotAvailableError)
    monkeypatch.setattr(module, "STATEMENT_TIMEOUT_S", 0.2)  # the server's: a second more
    opened = await database._open(Kind(role=WORKER))
    with pytest.raises(asyncpg.QueryCanceledError):
        await opened.execute("select pg_sleep(60)", timeout=30)
    assert await opened.fetchval("select 1") == 1
    with pytest.raises(TimeoutError):
        await opened.execute("select pg_sleep(60)", timeout=0.1)
    assert opened.is_closed()


async def test_a_queue_writes_what_its_rows_say(database: Database) -> None:
    """Group commit: one statement a batch, each with its own arguments, however sessions change in between."""

    async def write(connection: asyncpg.Connection, rows: Any) -> list[int]:
        found = await connection.fetch("select row + 1 as row from unnest($1::int[]) as row", rows)
        return [record["row"] for record in found]

    queues = [GroupCommit[int, int](name, database, write) for name in ("ingest", "claims", "outcomes", "contacts")]
    for queue in queues:
        await queue.__aenter__()
    wanted = [(queue.submit(number, organization=number), number + 1) for number in range(500) for queue in queues]
    assert await asyncio.gather(*[future for future, _ in wanted]) == [result for _, result in wanted]
    for queue in queues:
        await queue.__aexit__()


# ---------------------------------------------------------------- it goes away


async def test_who_is_cut_off_from_it_says_so_and_recovers(
    organization: Organization, pooler: PgBouncer, meta: MetaSimulator
) -> None:
    """503 for webhooks, which their provider repeats, and for whoever asks; all of it is back when PgBouncer is."""
    gateway = organization.gateway
    hook = meta.inbound(organization.numbers[0]).text("in the middle")
    assert (await organization.post_webhook(meta.inbound(organization.numbers[0]).text("before"))).status == 200
    pooler.kill()
    assert (await organization.post_webhook(hook)).status == 503
    assert (await organization.send()).status == 503
    assert (await organization.call("GET", "/events")).status == 503
    await eventually(lambda: gateway.call("GET", "/readyz"), lambda answer: answer.status == 503)
    pooler.start()
    await eventually(lambda: gateway.call("GET", "/readyz"), lambda answer: answer.status == 200)
    assert (await organization.post_webhook(hook)).status == 200
    assert (await organization.send()).status == 200
    assert len(await organization.events(kind="message.received")) == 2


# ---------------------------------------------------------------- wrong set-ups


@pytest.mark.parametrize("ignored", ["extra_float_digits", ", ".join(["role", *dict(module._session(APP))])])
async def test_without_an_address_of_its_own_it_does_not_start(
    folder: Path, server_port: int, migrated: Logins, ignored: str
) -> None:
    """Whether PgBouncer refuses what it does not know, or ignores it, so that no role would be in force."""
    async with pgbouncer(folder, server_port, migrated, ignore_startup_parameters=ignored) as running:
        url = running.url(migrated.service)
        with pytest.raises(SchemaError, match=r"^DATABASE_URL leads through a pooler.* set DATABASE_DIRECT_URL"):
            await prepare(url)
        with pytest.raises(SchemaError, match=r"^DATABASE_DIRECT_URL leads through a pooler"):
            await prepare(url, url)
        with pytest.raises(SchemaError, match="set DATABASE_OWNER_URL"):
            await migrate(running.url(migrated.owner))
        assert not await prepare(url, migrated.service)


async def test_a_pooler_that_keeps_no_transaction_together_is_refused(
    folder: Path, server_port: int, migrated: Logins
) -> None:
    async with pgbouncer(folder, server_port, migrated, pool_mode="statement") as running:
        url = running.url(migrated.service)
        with pytest.raises(SchemaError, match=r"set its pool_mode to `transaction`"):
            await prepare(url, migrated.service)
        with pytest.raises(SchemaError, match=r"^DATABASE_URL leads through a pooler"):
            await prepare(url)


async def test_two_ways_to_different_databases_are_refused(pooler: PgBouncer, migrated: Logins) -> None:
    other = pooler.url(migrated.service).rpartition("/")[0] + "/template1"
    with pytest.raises(SchemaError, match="lead to different databases"):
        await prepare(other, migrated.service)


async def test_a_login_that_may_not_take_the_roles_is_refused(folder: Path, server_port: int, logins: Logins) -> None:
    await migrate(logins.owner)
    async with pgbouncer(folder, server_port, logins) as running:
        url = running.url(logins.service)
        with pytest.raises(SchemaError, match="run `ingress migrate`"):
            await prepare(url, logins.service)
        async with Database(url, direct_url=logins.service) as database:
            with pytest.raises(SchemaError, match="run `ingress migrate`"):
                await database.check()


async def test_a_wrong_set_up_ends_the_start_with_a_line(pooler: PgBouncer, migrated: Logins) -> None:
    given = {"REDIS_URL": "redis://x", "INGRESS_ENCRYPTION_KEYS": generate_key(), "INGRESS_PORT": "0"}

    async def line(command: str, **more: str) -> str:
        return refusal(await asyncio.to_thread(ingress, command, **given, **more))

    url = pooler.url(migrated.service)
    assert "set DATABASE_DIRECT_URL" in await line("serve", DATABASE_URL=url)
    assert "DATABASE_DIRECT_URL leads" in await line("serve", DATABASE_URL=url, DATABASE_DIRECT_URL=url)
    assert "which is not set" in await line("serve", DATABASE_DIRECT_URL=url)
    owner = pooler.url(migrated.owner)
    assert "DATABASE_OWNER_URL" in await line("migrate", DATABASE_OWNER_URL=owner, DATABASE_URL=url)
    done = await asyncio.to_thread(ingress, "migrate", DATABASE_OWNER_URL=migrated.owner, DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")


async def test_the_doctor_finds_nothing_wrong_with_it_but_without_a_direct_address(pooled: Settings) -> None:
    checks = [check for check in CHECKS if check.name.startswith(("postgres.", "schema.", "walls.", "keys."))]
    for direct_url, wrong in ((pooled.database_direct_url, set()), ("", {"postgres.pooler"})):
        settings = msgspec.structs.replace(pooled, database_direct_url=direct_url)
        results = await examine(Examined(environment={}, settings=settings, wrong=[], registry=Registry([])), checks)
        assert {result.name for result in results if result.severity == "error"} == wrong
