"""Two logins: who owns the schema migrates, and who serves owns nothing and sees nothing but in a role."""

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import MetaSimulator
from ingress.settings import Settings
from ingress.storage.connections import APP, INGEST, ROLES, WORKER
from ingress.storage.database import Database, SchemaError, StoreUnavailable
from ingress.storage.migration import migrate, prepare
from ingress.storage.statements import logins as logins_of
from ingress.storage.vault import generate_key

from ..cli.test_run import ingress, refusal
from ..conftest import serving
from ..gateway import Gateway
from .conftest import Logins


async def test_a_service_that_owns_nothing_serves(migrated: Logins, settings: Settings, meta: MetaSimulator) -> None:
    assert not await prepare(migrated.service)
    own = msgspec.structs.replace(settings, database_url=migrated.service)
    async with serving(own) as url, aiohttp.ClientSession() as session:
        gateway = Gateway(url, settings.platform_key, session, meta)
        assert (await gateway.call("GET", "/readyz")).json == {"status": "ready"}
        organization = await gateway.organization()
        await organization.configure()
        assert (await organization.post_webhook(meta.inbound(organization.numbers[0]).text("x"))).status == 200
        assert (await organization.send()).status == 200
        assert await organization.events(kind="message.received")


# What would get at others' data, or at the walls around it.
FORBIDDEN = (
    "select * from events",
    "select * from organizations",
    "insert into events (organization_id) values (gen_random_uuid())",
    "select base from event_clock",
    "alter table events no force row level security",
    "alter table events disable row level security",
    "alter table provider_audit_log disable trigger append_only",
    "drop trigger append_only on provider_audit_log",
    "drop table events",
    "drop policy organization on events",
    "create policy mine on events to public using (true)",
    "create table mine (x int)",
    "create or replace function refuse_change() returns trigger language plpgsql as 'begin return null; end'",
    "set session_replication_role = replica",
    "set role {owner}",
    "set session authorization {owner}",
    "alter role {service} bypassrls",
    "grant {owner} to {service}",
    "create role mine",
)


@pytest.mark.parametrize("role", [None, *ROLES])
async def test_the_service_cannot_get_past_the_walls(migrated: Logins, role: str | None) -> None:
    """Not as itself, nor in a role, nor by giving the role back: that makes it itself again."""
    names = {
        "owner": migrated.owner.partition("://")[2].partition("@")[0],
        "service": migrated.service_name,
    }
    connection = await asyncpg.connect(migrated.service)
    try:
        if role is not None:
            await connection.execute(f"set role {role}")
        for statement in FORBIDDEN:
            if role is not None and statement.startswith(("select", "insert")):
                continue  # that is what roles are for, and the policies of each
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)):
                await connection.execute(statement.format(**names))
        await connection.execute("reset role")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("select * from events")
        # All that it can become.
        rows = await connection.fetch("select rolname from pg_roles where pg_has_role(rolname, 'member')")
        assert {row[0] for row in rows} == {migrated.service_name, *ROLES}
        await connection.execute(f"set role {APP}")
        assert await connection.fetch("select * from organizations") == []
    finally:
        await connection.close()


async def test_a_login_that_may_too_much_is_not_admitted(migrated: Logins) -> None:
    connection = await asyncpg.connect(migrated.superuser)
    owner, name = migrated.owner_name, migrated.service_name
    try:
        for given, taken, flaw in (
            (f"alter role {name} superuser", f"alter role {name} nosuperuser", "superuser"),
            (f"alter role {name} bypassrls", f"alter role {name} nobypassrls", "bypasses row-level security"),
            (f"alter role {name} createrole", f"alter role {name} nocreaterole", "may create roles"),
            (f"grant {owner} to {name}", f"revoke {owner} from {name}", f"may become {owner}"),
            (f"grant pg_monitor to {name}", f"revoke pg_monitor from {name}", "may become pg_monitor"),
            (
                f"grant {WORKER} to {name} with inherit true granted by current_user",
                f"revoke {WORKER} from {name} granted by current_user",
                "without taking a role",
            ),
            (f"grant select on events to {name}", f"revoke select on events from {name}", "without taking a role"),
        ):
            await connection.execute(given)
            with pytest.raises(SchemaError, match=flaw):
                await migrate(migrated.owner, name)
            await connection.execute(taken)
        assert not (await migrate(migrated.owner, name)).is_new
    finally:
        await connection.close()


async def test_a_login_that_was_not_admitted_does_not_serve(logins: Logins) -> None:
    """Neither before there is a schema nor after: it says what is to be done, and by whom."""
    for _ in range(2):
        with pytest.raises(SchemaError, match="run `ingress migrate`"):
            await prepare(logins.service)
        await migrate(logins.owner)
    async with Database(logins.service) as database:
        with pytest.raises(SchemaError, match="run `ingress migrate`"):
            await database.check()
    with pytest.raises(SchemaError, match="there is no login 'nobody-here'"):
        await migrate(logins.owner, "nobody-here")


@pytest.mark.parametrize("role", [APP, WORKER, INGEST])
async def test_a_connection_in_another_role_is_not_used(
    migrated: Logins, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that drops the start parameter: a login that sees all would be taken for the role."""
    plain = asyncpg.connect

    def ignoring(*arguments: Any, server_settings: Any = (), **more: Any) -> Any:
        kept = {name: value for name, value in dict(server_settings).items() if name != "role"}
        return plain(*arguments, server_settings=kept, **more)

    monkeypatch.setattr(asyncpg, "connect", ignoring)
    for url in (migrated.superuser, migrated.owner, migrated.service):
        with pytest.raises(SchemaError, match="needs DATABASE_DIRECT_URL"):
            await prepare(url)
        async with Database(url) as database:
            with pytest.raises(SchemaError, match="needs DATABASE_DIRECT_URL"):
                await database.check()
            with pytest.raises(ConnectionError):
                await database.connect(role)
            with pytest.raises(StoreUnavailable):
                async with database.organization(uuid4()):
                    pass


@pytest.mark.parametrize("other", ["none", WORKER])
async def test_each_transaction_of_an_organization_proves_its_role(migrated: Logins, other: str) -> None:
    """As behind a pooler that changes the session of the server between two transactions."""
    async with Database(migrated.superuser) as database:
        for _ in range(2):
            await database.check()
            async with database.organization(uuid4()) as connection:
                # Neither the end of a transaction nor what the pool does with a connection takes it back.
                await connection.execute(f"set role {other}")
            with pytest.raises(StoreUnavailable):
                async with database.organization(uuid4()) as connection:
                    pytest.fail("it sees every organization")
            with pytest.raises(StoreUnavailable):
                await _change_twice(database, other)


async def _change_twice(database: Database, role: str) -> None:
    """Two transactions of a change; the first leaves the connection in *role*."""
    async with database.exclusive(uuid4()) as change:
        async with change.transaction() as connection:
            await connection.execute(f"set role {role}")
        async with change.transaction():
            pytest.fail("it sees every organization")


async def test_readiness_looks_at_the_role_of_organizations(migrated: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker sees every organization by right: that its role is in force says nothing of the other's."""
    async with Database(migrated.superuser) as database:
        await database.check()
        async with database.organization(uuid4()) as connection:
            await connection.execute("set role none")
        with monkeypatch.context() as patch:
            is_in_role = logins_of.is_in_role
            patch.setattr(
                logins_of, "is_in_role", lambda connection, role: is_in_role(connection, role + "x" * (role == APP))
            )
            with pytest.raises(StoreUnavailable):
                async with database.organization(uuid4()):
                    pass
            with pytest.raises(SchemaError, match=f"not in the role {APP}: a pooler"):
                await database.check()
        await database.check()


async def test_a_start_leaves_no_role_behind(migrated: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whom a pooler would give the session next, it would look as if the role were theirs."""
    roles, close = [], asyncpg.Connection.close

    async def closing(self: Any, **more: Any) -> None:
        left = await self.fetchval("select current_user")
        await self.execute("reset role")
        roles.append((left, await self.fetchval("select current_user")))
        await close(self, **more)

    monkeypatch.setattr(asyncpg.Connection, "close", closing)
    await prepare(migrated.service)
    assert roles == [(role, role) for role in (migrated.service_name, *ROLES)]


async def test_migrate_as_people_call_it(logins: Logins) -> None:
    """The owner's URL for the migration, and the service's to know whom to admit."""

    def migrated(*arguments: str, **more: str) -> Any:
        return ingress("migrate", *arguments, **more)

    urls = {"DATABASE_OWNER_URL": logins.owner, "DATABASE_URL": logins.service}
    for line in ("schema created", "schema is current"):
        done = await asyncio.to_thread(migrated, **urls)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, line, "")
    assert not await prepare(logins.service)
    done = await asyncio.to_thread(migrated, "--login", logins.service_name, DATABASE_URL=logins.owner)
    assert (done.returncode, done.stderr) == (0, "")
    nobody = await asyncio.to_thread(migrated, DATABASE_OWNER_URL=logins.owner)
    assert "--login" in refusal(nobody)


async def test_what_is_migrated_is_what_is_served(logins: Logins, tmp_path: Any) -> None:
    """Another database of the server, one that is not there, another server: refused, and nothing is changed."""

    async def line(service: str) -> str:
        return refusal(
            await asyncio.to_thread(ingress, "migrate", DATABASE_OWNER_URL=logins.owner, DATABASE_URL=service)
        )

    database = logins.service.rpartition("/logins")[2].partition("?")[0]
    assert "different databases" in await line(logins.service.replace(f"/logins{database}", "/template1"))
    assert '"nowhere" does not exist' in await line(logins.service.replace(f"/logins{database}", "/nowhere"))
    assert "DATABASE_URL" in await line(f"postgresql://{logins.service_name}@127.0.0.1:1/x")
    with EmbeddedServers(tmp_path, valkey=False) as others:
        assert others.database_url
        assert "different databases" in await line(others.database_url)
    connection = await asyncpg.connect(logins.superuser)
    assert await connection.fetchval("select to_regclass('schema_version') is null")
    await connection.close()


async def test_an_owner_that_may_make_no_roles_is_told_in_one_line(servers: EmbeddedServers, tmp_path: Any) -> None:
    with EmbeddedServers(tmp_path, valkey=False) as fresh:
        assert fresh.database_url
        connection = await asyncpg.connect(fresh.database_url)
        await connection.execute("create role poor login")
        await connection.execute("create database poor owner poor")
        await connection.close()
        url = fresh.database_url.replace("/postgres?", "/poor?").replace("://svc@", "://poor@")
        for command in ("migrate", "serve"):
            given = {"DATABASE_URL": url, "REDIS_URL": "redis://x", "INGRESS_ENCRYPTION_KEYS": generate_key()}
            line = refusal(await asyncio.to_thread(ingress, command, INGRESS_PORT="0", **given))
            assert "permission denied to create role" in line
            assert "`alter role ... createrole`" in line
        connection = await asyncpg.connect(fresh.database_url)
        await connection.execute("revoke connect on database poor from public, poor")
        await connection.close()
        for command in ("migrate", "serve"):
            line = refusal(await asyncio.to_thread(ingress, command, INGRESS_PORT="0", **given))
            assert line == 'the database refuses what DATABASE_URL says: permission denied for database "poor"'
