"""Faults that are planted, each found with what mends it; and a set-up with none, of which nothing is found."""

import asyncio
import re
import resource
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest
from aiohttp import web

from ingress.doctor import outgoing, postgres
from ingress.doctor.examination import CHECKS, examine
from ingress.doctor.findings import Examined, place
from ingress.receiving.answers import NOT_FOUND
from ingress.settings import read
from ingress.storage.partitions import keep_ahead
from ingress.storage.statements.reports.server import VacuumState
from ingress.storage.vault import generate_key
from providers import Registry

from ..gateway import unused_port
from .conftest import Authority, SetUp, with_needs

Environment = dict[str, str]
Plant = Callable[[SetUp], Awaitable[Environment | None]]


class Fault(NamedTuple):
    """What is planted, which check finds it, how bad that is, and words of what it says, and of what mends it."""

    plant: Plant
    check: str
    severity: str
    found: str
    fix: str


def given(**changes: str) -> Plant:
    async def plant(_: SetUp) -> Environment:
        return changes

    return plant


def planted(*statements: str, undo: tuple[str, ...] = ()) -> Plant:
    async def plant(set_up: SetUp) -> None:
        names = {"service": set_up.logins.service_name, "owner": set_up.logins.owner_name}
        await set_up.sql(*(each.format(**names) for each in statements), undo=[each.format(**names) for each in undo])

    return plant


def changed(url: str, what: bytes, to: bytes) -> Plant:
    """In between is something that says *to*, as long, where the server said *what*."""

    async def plant(set_up: SetUp) -> Environment:
        proxy, address = await set_up.proxy(set_up.environment[url])
        proxy.change = lambda _, chunk: chunk.replace(what, to)
        return {url: address}

    return plant


async def secrets_for_all(set_up: SetUp) -> None:
    file = set_up.folder / "secrets.json"
    file.write_text("{}")
    file.chmod(0o644)
    set_up.stack.callback(file.unlink)


async def pooled(set_up: SetUp) -> Environment:
    """As one that gives each client another session: the process that it names is not the server's."""
    proxy, address = await set_up.proxy(set_up.environment["DATABASE_URL"])

    def other_process(way: str, chunk: bytes) -> bytes:
        place = chunk.find(b"K\0\0\0\x0c")
        return chunk if way == "up" or place < 0 else chunk[: place + 5] + b"\0\0\0\x07" + chunk[place + 9 :]

    proxy.change = other_process
    return {"DATABASE_URL": address}


async def a_long_transaction(set_up: SetUp) -> None:
    connection = await asyncpg.connect(set_up.logins.service)
    set_up.stack.push_async_callback(connection.close)
    await connection.execute("set role ingress_worker; begin; update event_clock set base = base")


async def a_stranger(set_up: SetUp) -> None:
    """Of another login PostgreSQL says little."""
    connection = await asyncpg.connect(set_up.logins.superuser, server_settings={"application_name": "a report"})
    set_up.stack.push_async_callback(connection.close)
    await connection.execute("begin; select pg_current_xact_id()")


async def no_partition(set_up: SetUp) -> None:
    connection = await asyncpg.connect(set_up.logins.superuser)

    async def end() -> None:
        await connection.execute("set role ingress_worker")
        await keep_ahead(connection)
        await connection.close()

    set_up.stack.push_async_callback(end)
    for (part,) in await connection.fetch(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'quarantine'::regclass"
    ):
        await connection.execute(f"drop table {part}")


async def nearly_full(set_up: SetUp) -> Environment:
    set_up.disk_bytes = 1_000_000
    return {}


async def a_full_redis(set_up: SetUp) -> Environment:
    """Its last word on memory is another one."""
    proxy, address = await set_up.proxy(set_up.environment["REDIS_URL"])
    proxy.change = lambda _, chunk: chunk.replace(b"maxmemory:134217728", b"maxmemory:000001000")
    return {"REDIS_URL": address}


async def a_wrong_password(set_up: SetUp) -> Environment:
    _, address = await set_up.proxy(set_up.environment["REDIS_URL"])
    return {"REDIS_URL": address.replace("redis://", "redis://nobody:hidden@")}


async def a_slow_redis(set_up: SetUp) -> Environment:
    proxy, address = await set_up.proxy(set_up.environment["REDIS_URL"])
    proxy.delay_s = 0.006
    return {"REDIS_URL": address}


async def an_altered_secret(set_up: SetUp) -> None:
    config = UUID(set_up.organization.configs[0]["config_id"])
    flip = "set config_data = set_byte(config_data, 40, get_byte(config_data, 40) # 1)"
    statement = f"update whatsapp_provider_configs {flip} where id = '{config}'"
    await set_up.sql(statement, undo=[statement])


def another_site(status: int, text: str) -> Plant:
    """The name leads to one that answers everything so."""

    async def plant(set_up: SetUp) -> Environment:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=status, text=text)

        application, port = web.Application(), unused_port()
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        set_up.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return {"INGRESS_PUBLIC_URL": f"http://127.0.0.1:{port}"}

    return plant


async def nobody_serves(_: SetUp) -> Environment:
    port = unused_port()
    return {"INGRESS_PUBLIC_URL": f"http://127.0.0.1:{port}", "INGRESS_PORT": str(port)}


async def a_plugin_that_fails(set_up: SetUp) -> None:
    set_up.registry = Registry([EntryPoint("broken", "no_such_module_at_all", "whatsapp_ingress.providers")])


KIND = "update whatsapp_provider_configs set provider_type = '{}' where provider_type = '{}'"
WRONG_KEYS = generate_key()

FAULTS = {
    "a misspelt setting": Fault(
        given(INGRESS_PLATFROM_KEY="x"), "settings.valid", "error", "INGRESS_PLATFROM_KEY", "INGRESS_PLATFORM_KEY"
    ),
    "a platform key that can be guessed": Fault(
        given(INGRESS_PLATFORM_KEY="secret"), "settings.valid", "error", "can be guessed", "secrets.token_urlsafe(32)"
    ),
    "no encryption key": Fault(
        given(INGRESS_ENCRYPTION_KEYS=""), "keys.given", "error", "no encryption key", "ingress generate-key"
    ),
    "Redis without TLS": Fault(
        given(REDIS_URL="redis://:x@cache.example:6379"), "settings.tls", "warning", "REDIS_URL", "rediss://"
    ),
    "a database that is not verified": Fault(
        given(DATABASE_URL="postgresql://u:p@db.example/ingress?sslmode=require"),
        *("settings.tls", "warning", "DATABASE_URL", "sslmode=verify-full"),
    ),
    "a public address without TLS": Fault(
        given(INGRESS_PUBLIC_URL="http://in.example.com"), "settings.tls", "error", "INGRESS_PUBLIC_URL", "https://"
    ),
    "a proxy that is not named": Fault(
        given(INGRESS_PUBLIC_URL="https://in.example.com"),
        *("settings.exposure", "warning", "INGRESS_TRUSTED_PROXIES is not set", "10.0.0.0/8"),
    ),
    "everybody is a trusted proxy": Fault(
        given(INGRESS_TRUSTED_PROXIES="0.0.0.0/0"), "settings.exposure", "error", "trusts 0.0.0.0/0", "10.0.0.0/8"
    ),
    "the sandbox in production": Fault(
        given(INGRESS_SANDBOX="true"), "settings.exposure", "error", "INGRESS_SANDBOX", "INGRESS_SANDBOX=false"
    ),
    "no limit of requests": Fault(
        given(INGRESS_REQUESTS_PER_KEY="0"), "settings.exposure", "warning", "no limit", "INGRESS_REQUESTS_PER_KEY=50"
    ),
    "secrets that others may read": Fault(secrets_for_all, "system.folder", "error", "secrets.json", "chmod 600 /"),
    "a database that is away": Fault(
        given(DATABASE_URL=f"postgresql://u:hidden@127.0.0.1:{unused_port()}/ingress"),
        *("postgres.reachable", "error", "does not let us in", "psql"),
    ),
    "a server that is too old": Fault(
        changed("DATABASE_URL", b"server_version\x0018", b"server_version\x0014"),
        *("postgres.reachable", "error", "PostgreSQL 14", "15 or newer"),
    ),
    "a database that cannot be written": Fault(
        planted(
            "alter role {service} set default_transaction_read_only = on",
            undo=("alter role {service} reset default_transaction_read_only",),
        ),
        *("postgres.reachable", "error", "read-only", "target_session_attrs=read-write"),
    ),
    "a pooler that is not said": Fault(pooled, "postgres.pooler", "error", "PgBouncer", "DATABASE_DIRECT_URL"),
    "a transaction that lasts": Fault(
        a_long_transaction, "postgres.transactions", "warning", "is idle in a transaction", "pg_terminate_backend("
    ),
    "a transaction of another login": Fault(
        a_stranger, "postgres.transactions", "warning", "(a report, login svc)", "pg_terminate_backend("
    ),
    "a replication slot that nobody reads": Fault(
        planted(
            "select pg_create_physical_replication_slot('forgotten', true)",
            undo=("select pg_drop_replication_slot('forgotten')",),
        ),
        *("postgres.transactions", "warning", "nobody reads the slot forgotten", "pg_drop_replication_slot"),
    ),
    "a table without vacuum": Fault(
        planted(
            "alter table contacts set (autovacuum_enabled = false)",
            undo=("alter table contacts reset (autovacuum_enabled)",),
        ),
        *("postgres.vacuum", "warning", "leaves out contacts", "alter table contacts reset"),
    ),
    "a schema of a newer release": Fault(
        planted("insert into schema_version values (99)", undo=("delete from schema_version where version = 99",)),
        *("schema.version", "error", "schema 99", "a newer one"),
    ),
    "an upgrade that is not complete": Fault(
        planted(
            "update schema_migrations set applied_at = null where name like '0004_post%'",
            undo=("update schema_migrations set applied_at = now() where name like '0004_post%'",),
        ),
        *("schema.version", "warning", "not applied: 0004_post", "--post"),
    ),
    "a login that may not take a role": Fault(
        planted(
            "revoke ingress_app from {service} granted by {owner}",
            undo=("grant ingress_app to {service} with inherit false granted by {owner}",),
        ),
        *("schema.roles", "error", "may not take", "ingress migrate"),
    ),
    "partitions that end": Fault(
        no_partition, "schema.partitions", "error", "quarantine has no partition", "start a process"
    ),
    "a login that may do too much": Fault(
        planted("alter role {service} createrole", undo=("alter role {service} nocreaterole",)),
        *("walls.login", "error", "it may create roles", "login noinherit"),
    ),
    "a policy that shows everything": Fault(
        planted(
            "create policy hole on organizations to public using (true)", undo=("drop policy hole on organizations",)
        ),
        *("walls.rows", "error", "rows are seen of organizations", "drop the policy"),
    ),
    "a policy that hides everything": Fault(
        planted(
            "create policy shut on organizations as restrictive to ingress_app using (false)",
            undo=("drop policy shut on organizations",),
        ),
        *("walls.rows", "error", "an organization does not see itself", "shows its policies"),
    ),
    "a wall that is down": Fault(
        planted(
            "alter table contacts no force row level security", undo=("alter table contacts force row level security",)
        ),
        *("walls.rows", "error", "not forced on contacts", "alter table contacts enable row level security, force"),
    ),
    "a disk that is nearly full": Fault(nearly_full, "database.growth", "error", "are full in 0 days", "larger disk"),
    "a Redis that is away": Fault(
        given(REDIS_URL=f"redis://:hidden@127.0.0.1:{unused_port()}"),
        *("redis.reachable", "warning", "does not answer", "redis-cli -u"),
    ),
    "a Redis that is too old": Fault(
        changed("REDIS_URL", b"redis_version:7", b"redis_version:6"), "redis.reachable", "warning", "Redis 6", "Redis 7"
    ),
    "a Redis that refuses the password": Fault(
        a_wrong_password, "redis.reachable", "warning", "refuses the password", "percent-encoded"
    ),
    "a node of a cluster": Fault(
        changed("REDIS_URL", b"cluster_enabled:0", b"cluster_enabled:1"),
        *("redis.reachable", "warning", "a node of a cluster", "redis+cluster://"),
    ),
    "a Redis that refuses when full": Fault(
        a_full_redis, "redis.reachable", "warning", "noeviction", "maxmemory-policy volatile-lru"
    ),
    "a Redis that is far away": Fault(a_slow_redis, "redis.reachable", "warning", "the quickest took", "--latency"),
    "another encryption key": Fault(
        given(INGRESS_ENCRYPTION_KEYS=WRONG_KEYS),
        "keys.secrets",
        "error",
        "do not open, sealed with a key that is not in",
        "put the key",
    ),
    "a secret that was changed": Fault(
        an_altered_secret, "keys.secrets", "error", "1 do not open, does not belong here", "configure these"
    ),
    "a trail that was changed": Fault(
        planted("update organizations set audit_broken = 17", undo=("update organizations set audit_broken = null",)),
        *("keys.trails", "error", "broken at entry 17", "ingress audit verify"),
    ),
    "trails that nobody verifies": Fault(
        planted("update organizations set audit_due_at = now() - interval '3 hours'"),
        *("keys.trails", "warning", "should have been verified 3 hours ago", "start a process"),
    ),
    "a public address that leads elsewhere": Fault(
        another_site(200, "It works!"), "public.answers", "error", "does not lead to it", "examples/nginx.conf"
    ),
    "a public address of another installation": Fault(
        another_site(404, NOT_FOUND.body.decode()),
        *("public.answers", "error", "is such a service, but", "INGRESS_ENCRYPTION_KEYS"),
    ),
    "nobody serves": Fault(nobody_serves, "public.answers", "warning", "nothing of ours answers", "ingress serve"),
    "egress to where clouds keep credentials": Fault(
        given(INGRESS_EGRESS_ALLOW="169.254.0.0/16"),
        "egress.guard",
        "error",
        "169.254.169.254",
        "leave 169.254.169.254",
    ),
    "a proxy that is not followed": Fault(
        given(HTTPS_PROXY="http://proxy.example:3128"), "egress.hosts", "warning", "HTTPS_PROXY", "unset HTTPS_PROXY"
    ),
    "a plug-in that fails": Fault(
        a_plugin_that_fails, "plugins.loaded", "error", "broken", "ingress providers check broken"
    ),
    "a plug-in that is missing": Fault(
        planted(KIND.format("gone", "meta_business"), undo=(KIND.format("meta_business", "gone"),)),
        *("plugins.needed", "error", "the provider gone, which is not installed", "pip install"),
    ),
}


# It calls simulators on this machine, and may.
KNOWN = {("egress.guard", "warning")}


async def test_a_healthy_set_up_has_no_finding_but_known_ones(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "hosts_of", lambda _: [])
    results = await set_up.findings()
    assert [result.name for result in results] == [check.name for check in CHECKS]
    findings = [(result.name, finding) for result in results for finding in result.findings or []]
    assert {(name, finding.severity) for name, finding in findings if finding.severity != "ok"} == KNOWN
    assert all(result.findings for result in results), "a check that says nothing"
    [signed] = [finding.found for name, finding in findings if name == "public.answers"]
    assert "a signed webhook was answered with 200, an unsigned one with 401" in signed
    [secrets] = [finding.found for name, finding in findings if name == "keys.secrets"]
    assert re.match(r"\d+ records open: \d+ made with '[0-9a-f]{8}'$", secrets)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_found_with_what_mends_it(set_up: SetUp, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "hosts_of", lambda _: [])
    for limit in ("LONG_S", "LONG_TRANSACTIONS", "SLOT_BYTES"):
        monkeypatch.setattr(postgres, limit, -1)
    fault = FAULTS[name]
    changes = await fault.plant(set_up) or {}
    results = await set_up.findings(fault.check, **changes)
    found = [finding for result in results if result.name == fault.check for finding in result.findings or []]
    wrong = [finding for finding in found if finding.severity != "ok" and fault.found in finding.found]
    assert wrong, found
    assert (wrong[0].severity, bool(wrong[0].means)) == (fault.severity, True)
    assert fault.fix in wrong[0].fix
    assert "hidden" not in str(results)


async def test_what_is_wrong_with_settings_is_said_all_at_once(set_up: SetUp) -> None:
    [result] = await set_up.findings(
        "settings.valid",
        INGRESS_PORT="-1",
        INGRESS_NO_SUCH_THING="1",
        REDIS_URL="x",
        DATABASE_URL="y",
        INGRESS_LOG_LEVEL="z",
    )
    assert [finding.severity for finding in result.findings or []] == ["error"] * 5
    said = "\n".join(finding.found for finding in result.findings or [])
    for name in ("INGRESS_PORT", "INGRESS_NO_SUCH_THING", "REDIS_URL", "DATABASE_URL", "INGRESS_LOG_LEVEL"):
        assert name in said


async def test_a_careless_server_is_found_in_all_that_it_does_without(set_up: SetUp, careless: str) -> None:
    names = ("postgres.durability", "postgres.connections", "postgres.vacuum")
    results = await set_up.findings(*names, DATABASE_URL=careless, INGRESS_DATABASE_CONNECTIONS="64")
    wrong = {
        (r.name, f.severity, f.found.split(",")[0]) for r in results for f in r.findings or [] if f.severity != "ok"
    }
    assert wrong == {
        ("postgres.durability", "error", "fsync is off"),
        ("postgres.durability", "error", "full_page_writes is off"),
        ("postgres.durability", "warning", "wal_level is minimal"),
        ("postgres.connections", "error", "one process may open 64 connections"),
        ("postgres.vacuum", "error", "autovacuum"),
    }


async def test_a_transaction_that_was_prepared_and_forgotten_is_found(
    set_up: SetUp, careless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LONG_S", 0.0)
    connection = await asyncpg.connect(careless)
    await connection.execute("begin; select pg_current_xact_id(); prepare transaction 'forgotten'")
    *_, result = await set_up.findings("postgres.transactions", DATABASE_URL=careless)
    await connection.execute("rollback prepared 'forgotten'")
    await connection.close()
    assert [finding.fix for finding in result.findings or []] == ["psql -c \"rollback prepared 'forgotten'\""]


@pytest.mark.parametrize(("age", "severity"), [(10**9, None), (10**9 + 1, "warning"), (1_500_000_001, "error")])
def test_numbers_of_transactions_that_come_to_an_end_are_found(age: int, severity: str | None) -> None:
    for state in (VacuumState(True, age, 0, 200_000_000, []), VacuumState(True, 0, age, 200_000_000, [])):
        assert [finding.severity for finding in postgres.ageing(state)] == [severity] * (severity is not None)


async def test_the_release_of_postgresql_is_the_one_that_runs(set_up: SetUp, careless: str) -> None:
    connection = await asyncpg.connect(careless)
    release = (await connection.fetchval("show server_version")).split()[0]
    await connection.close()
    *_, result = await set_up.findings("postgres.reachable", DATABASE_URL=careless)
    assert [finding.found.split(" answers")[0] for finding in result.findings or []] == [f"PostgreSQL {release}"]


async def test_without_an_account_the_public_address_is_known_by_its_answer(set_up: SetUp, careless: str) -> None:
    [result] = await set_up.findings("public.answers", DATABASE_URL=careless)
    [finding] = result.findings or []
    assert (finding.severity, "no account is there" in finding.found) == ("ok", True)


async def test_a_database_without_a_schema_is_found(set_up: SetUp, careless: str) -> None:
    results = await set_up.findings("schema.partitions", DATABASE_URL=careless)
    assert [(r.name, r.severity if r.findings else "left out") for r in results] == [
        ("postgres.reachable", "ok"),
        ("postgres.pooler", "ok"),
        ("schema.present", "error"),
        ("schema.roles", "left out"),
        ("schema.version", "left out"),
        ("schema.partitions", "left out"),
    ]


@pytest.mark.parametrize(("ahead_s", "severity"), [(0.0, "ok"), (5.0, "warning"), (-40.0, "error")])
async def test_a_clock_that_is_wrong_is_found(
    set_up: SetUp, monkeypatch: pytest.MonkeyPatch, ahead_s: float, severity: str
) -> None:
    monkeypatch.setattr(postgres, "utc", lambda: datetime.now(UTC) + timedelta(seconds=ahead_s))
    *_, result = await set_up.findings("postgres.clock")
    assert result.severity == severity


async def test_too_few_files_are_found(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    [result] = await set_up.findings("system.files")
    assert [finding.fix.split()[0] for finding in result.findings or []] == ["LimitNOFILE=2024"]


async def test_what_hangs_is_a_finding(set_up: SetUp) -> None:
    """And what it was needed for is left out, while all else goes on."""
    proxy, address = await set_up.proxy(set_up.environment["DATABASE_URL"])
    proxy.pause()
    given = set_up.environment | {"DATABASE_URL": address}
    settings, wrong = read(given)
    checks = [check._replace(limit_s=0.2) for check in with_needs(["postgres.durability", "system.files"])]
    examined = Examined(environment=given, settings=settings, wrong=wrong, registry=set_up.registry)
    files, reachable, *others = await examine(examined, checks)
    assert files.severity == "ok"
    assert [finding.found for finding in reachable.findings or []] == ["no answer within 0.2 s"]
    assert [other.findings for other in others] == [None, None]


async def test_a_plug_in_that_never_ends_its_import_is_a_finding(
    set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()
    set_up.stack.callback(is_over.set)
    monkeypatch.setattr(set_up.registry, "entries", is_over.wait)
    given = set_up.environment
    examined = Examined(environment=given, settings=read(given)[0], wrong=[], registry=set_up.registry)
    [result] = await examine(examined, [with_needs(["plugins.loaded"])[0]._replace(limit_s=0.1)])
    assert [finding.found for finding in result.findings or []] == ["no answer within 0.1 s"]


async def test_plug_ins_are_imported_by_one_thread(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though several checks look at them: two would take the same one out of the registry's list."""
    together, entries, met = threading.Barrier(2), set_up.registry.entries, list[int]()

    def meeting() -> Any:
        with suppress(threading.BrokenBarrierError):  # nobody else came
            met.append(together.wait(0.2))
        return entries()

    monkeypatch.setattr(set_up.registry, "entries", meeting)
    monkeypatch.setattr(outgoing, "hosts_of", lambda _: [])
    await set_up.findings("plugins.loaded", "egress.hosts")
    assert met == []


CERTIFICATES = {
    "valid for long": (timedelta(days=80), "ok", "for 79 days more"),
    "soon over": (timedelta(days=10), "warning", "for 9 days more"),
    "nearly over": (timedelta(days=3), "error", "for 2 days more"),
    "expired": (timedelta(days=-1), "error", "certificate has expired"),
}


@pytest.mark.parametrize("name", CERTIFICATES)
async def test_a_certificate_is_looked_at(set_up: SetUp, authority: Authority, name: str) -> None:
    left, severity, words = CERTIFICATES[name]
    port = await _tls_server(set_up, authority, left)
    [result] = await set_up.findings("public.certificate", INGRESS_PUBLIC_URL=f"https://127.0.0.1:{port}")
    [finding] = result.findings or []
    assert (finding.severity, words in finding.found) == (severity, True), finding


async def _tls_server(set_up: SetUp, authority: Authority, left: timedelta) -> int:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=authority.context(left))
    set_up.stack.callback(server.close)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def test_hosts_of_providers_are_reached_or_named(
    set_up: SetUp, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await _tls_server(set_up, authority, timedelta(days=80))
    hosts = [("127.0.0.1", port)]
    monkeypatch.setattr(outgoing, "hosts_of", lambda _: hosts)
    [result] = await set_up.findings("egress.hosts")
    assert result.severity == "ok"
    hosts.append(("127.0.0.1", unused_port()))
    [result] = await set_up.findings("egress.hosts")
    assert result.severity == "warning"


def test_hosts_are_those_that_the_registry_names() -> None:
    assert {"graph.facebook.com", "api.twilio.com"} == {host for host, _ in outgoing.hosts_of(Registry())}


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://u:hid@den@db.example:5432/ingress?sslmode=require", "db.example:5432/ingress"),
        ("postgresql:///ingress?host=/run/postgresql", "a socket of this machine: /ingress"),
        ("redis+cluster://:hidden@a:6379,b:6379", "a:6379,b:6379"),
        ("unix:///run/redis.sock", "a socket of this machine: /run/redis.sock"),
        ("postgresql://u:hid/den@db.example/ingress", "its address"),
        ("postgresql://u:hid?den@db.example/ingress", "its address"),
        ("postgresql://u:hid#den@db.example/ingress", "its address"),
        ("postgresql://db.example/ingress?user=u&password=hid@den", "its address"),
    ],
)
def test_an_address_is_said_without_its_password(url: str, where: str) -> None:
    """One that is not encoded as it should be, too."""
    assert place(url) == where
