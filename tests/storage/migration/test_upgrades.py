"""Migrations are applied once and in their order, go on where they were broken off, and stand in nobody's way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ingress.storage import upgrades as runner
from ingress.storage.database import CONNECTION_ERRORS, SCHEMA_VERSION, Database, SchemaError, named, require_version
from ingress.storage.migration import migrate, prepare
from ingress.storage.statements import upgrades as statements
from ingress.storage.upgrades import MigrationProgress, Post, upgrade

from ...gateway import eventually
from ..conftest import Logins

NEXT = SCHEMA_VERSION + 1
PRE, POST = f"{NEXT:04}_pre_things", f"{NEXT:04}_post_things"
THINGS = """-- Why.

-- step: a table
create table things (id bigint primary key, copied bigint);
insert into things select generate_series(1, 10);
analyze things;
grant select, update on things to ingress_worker;

-- batches of things: its copies
with page as (select id from things where id > coalesce($1::text::bigint, 0) order by id limit 3),
copied as (update things set copied = coalesce(copied, 0) + page.id from page where page.id = things.id)
select max(id)::text, count(*) from page having count(*) > 0

-- alone: an index; what was broken off is made anew
drop index concurrently if exists things_copied;
create index concurrently things_copied on things (copied);
"""
LEAVE = f"""-- Why.

-- step of things: a column is gone
insert into schema_version values ({NEXT});
alter table things drop column copied;
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a folder of migrations that stands for the one of the next release."""
    (tmp_path / "migrations").mkdir()
    monkeypatch.setattr(runner, "folder", lambda: tmp_path)

    def written(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / "migrations" / f"{name}.sql").write_text(text)

    return written


@pytest.fixture
async def url(database_url: str) -> str:
    await migrate(database_url)
    return database_url


@asynccontextmanager
async def connected(url: str, name: str = "") -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(url, server_settings={"application_name": name})
    yield made
    await made.close()


async def things(connection: asyncpg.Connection) -> list[tuple[int, int]]:
    return [tuple(row) for row in await connection.fetch("select id, copied from things order by id")]


COPIED = [(number, number) for number in range(1, 11)]


async def test_pre_and_post(url: str, connection: asyncpg.Connection, write: Callable[..., None]) -> None:
    """What is `pre` is applied once; `post` when it is asked for, and after it the former release is shut out."""
    write(**{PRE: THINGS, POST: LEAVE})
    shown: list[MigrationProgress] = []
    for _ in range(2):
        await upgrade(connection, url, Post.NEVER, shown.append)
        assert await things(connection) == COPIED
    assert [(each.number, each.title) for each in shown if each.seconds is not None] == [
        (1, "a table"),
        (2, "its copies"),
        (3, "an index; what was broken off is made anew"),
    ]
    assert [each.percent for each in shown if each.percent is not None] == [30, 60, 90, 99]
    await require_version(connection)
    assert await statements.is_prepared(connection, NEXT)
    assert [migration.name for migration in await runner.unapplied(connection)] == [POST]
    for _ in range(2):
        await upgrade(connection, url, Post.REQUIRED)
    assert await runner.unapplied(connection) == []
    with pytest.raises(SchemaError, match=f"schema {NEXT}, this release needs {SCHEMA_VERSION}: a newer release"):
        await require_version(connection)
    with pytest.raises(SchemaError, match="a newer release has changed it"):
        await migrate(url)


async def test_a_new_database_has_them_all(
    database_url: str, connection: asyncpg.Connection, write: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "schema.sql").write_text((Path(__file__).parents[3] / "schema.sql").read_text())
    write(**{PRE: THINGS, POST: LEAVE})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingress.storage.migration.folder", lambda: tmp_path)
        found = await migrate(database_url)
    assert (found.is_new, list(found.applied), found.missing) == (True, [PRE, POST], [])
    assert await connection.fetchval("select to_regclass('things') is null")


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7])
async def test_it_goes_on_where_it_was_broken_off(
    url: str, connection: asyncpg.Connection, write: Callable[..., None], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of the seven times that something is noted: two steps, four batches and the end of them."""
    write(**{PRE: THINGS, POST: LEAVE})
    note, noted = statements.note, 0

    async def killed(it: asyncpg.Connection, *arguments: Any, **more: Any) -> None:
        nonlocal noted
        noted += 1
        if noted == step:
            pid = it.get_server_pid()
            await connection.execute("select pg_terminate_backend($1)", pid)
        await note(it, *arguments, **more)

    monkeypatch.setattr(statements, "note", killed)
    async with connected(url) as other:
        with pytest.raises(CONNECTION_ERRORS):
            await upgrade(other, url, Post.NEVER)
    [left, _] = await runner.unapplied(connection)
    assert left.name == PRE
    await upgrade(connection, url, Post.NEVER)
    assert await things(connection) == COPIED
    assert await connection.fetchval("select indisvalid from pg_index where indexrelid = 'things_copied'::regclass")


async def test_an_index_that_was_broken_off_is_made_anew(
    url: str, connection: asyncpg.Connection, write: Callable[..., None]
) -> None:
    """Killed while it waits for those who see the table as it was: an invalid one is left."""
    write(**{PRE: THINGS})
    async with connected(url) as other, connected(url) as reader, reader.transaction(isolation="repeatable_read"):
        await reader.fetchval("select count(*) from organizations")
        running = asyncio.create_task(upgrade(other, url, Post.NEVER))
        index = "select to_regclass('things_copied') is not null"
        await eventually(lambda: connection.fetchval(index))
        await connection.execute("select pg_terminate_backend($1)", other.get_server_pid())
        with pytest.raises(CONNECTION_ERRORS):
            await running
    valid = "select indisvalid from pg_index where indexrelid = to_regclass('things_copied')"
    assert await connection.fetchval(valid) is False
    await upgrade(connection, url, Post.NEVER)
    assert await connection.fetchval(valid) is True


async def test_what_waits_for_a_lock_lets_others_pass(
    url: str, connection: asyncpg.Connection, write: Callable[..., None]
) -> None:
    """Somebody reads for long: the column is dropped after that, and who reads meanwhile does not queue behind it."""
    write(**{PRE: THINGS, POST: LEAVE})
    await upgrade(connection, url, Post.NEVER)
    async with connected(url) as reader, connected(url) as other:
        async with reader.transaction():
            await things(reader)
            running = asyncio.create_task(upgrade(connection, url, Post.REQUIRED))
            waiting = "select exists (select from pg_locks where not granted and relation = 'things'::regclass)"
            for _ in range(3):
                await eventually(lambda: other.fetchval(waiting))
                # Behind who waits, and so for no longer than that one.
                await asyncio.wait_for(things(other), 5)
            assert not running.done()
        await running
    assert await connection.fetchval("select count(*) from things") == 10


@pytest.mark.parametrize("kind", ["long", "step"])
async def test_a_long_step_holds_up_no_reader_of_events(
    url: str, connection: asyncpg.Connection, write: Callable[..., None], kind: str
) -> None:
    """Else what is committed meanwhile is shown when the step has ended."""
    write(
        **{PRE: f"-- {kind}: waits\nset local lock_timeout = 0; select pg_current_xact_id(), pg_advisory_xact_lock(42)"}
    )
    async with connected(url) as other, other.transaction(), connected(url) as writer:
        await other.execute("select pg_advisory_xact_lock(42)")
        running = asyncio.create_task(upgrade(connection, url, Post.NEVER))
        await eventually(lambda: writer.fetchval("select exists (select from pg_locks where not granted)"))
        sequence = await writer.fetchval("select next_sequence(1)")
        is_past = "select sequence_horizon() > $1"
        if kind == "long":
            await eventually(lambda: writer.fetchval(is_past, sequence))
        assert await writer.fetchval(is_past, sequence) is (kind == "long")
    await running
    await eventually(lambda: connection.fetchval(is_past, sequence))
    assert await connection.fetchval("select heedless is null from event_clock")


async def test_a_lock_that_is_not_to_be_had_is_said(
    url: str, connection: asyncpg.Connection, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(**{PRE: THINGS, POST: LEAVE})
    await upgrade(connection, url, Post.NEVER)
    monkeypatch.setattr(runner, "RETRY_FOR_S", 0.2)
    async with connected(url) as reader, reader.transaction():
        await things(reader)
        with pytest.raises(SchemaError, match=rf"{POST} stopped before step 1 \(a column is gone\).* things .*goes on"):
            await upgrade(connection, url, Post.REQUIRED)
    await upgrade(connection, url, Post.REQUIRED)
    assert await runner.unapplied(connection) == []


@pytest.mark.parametrize(
    ("name", "release"),
    [("ingress-worker", "the first release"), (f"whatsapp-ingress/0.0.9 (schema {SCHEMA_VERSION}) app", "0.0.9")],
)
async def test_post_waits_for_the_former_release(
    url: str, connection: asyncpg.Connection, write: Callable[..., None], name: str, release: str
) -> None:
    """Refused where it was asked for, left for later at a start; other programs are in nobody's way."""
    write(**{PRE: THINGS, POST: LEAVE})
    async with connected(url, "psql"), connected(url, f"whatsapp-ingress/9.9 (schema {NEXT}) app"):
        async with connected(url, name):
            with pytest.raises(SchemaError, match=rf"{POST} waits .*{release} \(1 connections\).*--post"):
                await upgrade(connection, url, Post.REQUIRED)
            await upgrade(connection, url, Post.WHEN_ALONE)
            assert [migration.name for migration in await runner.unapplied(connection)] == [POST]
            assert await statements.older_processes(connection, NEXT) == {release: 1}
        await eventually(
            lambda: connection.fetchval(
                "select not exists (select from pg_stat_activity where application_name = $1)", name
            )
        )
        await upgrade(connection, url, Post.WHEN_ALONE)
    assert await runner.unapplied(connection) == []


async def test_a_start_warns_of_an_upgrade_that_is_not_complete(
    logins: Logins, write: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """By a login that could not complete it."""
    await migrate(logins.owner, logins.service_name)
    write(**{PRE: THINGS, POST: LEAVE})
    assert (await migrate(logins.owner, logins.service_name)).missing == [POST]
    assert not await prepare(logins.service)
    assert [record.args for record in caplog.records if "is not complete" in record.message] == [(POST,)]


async def test_connections_say_their_release(url: str, connection: asyncpg.Connection) -> None:
    async with Database(url) as database, database.worker():
        names = await connection.fetch("select application_name from pg_stat_activity where application_name <> ''")
        assert named("worker") in {row[0] for row in names}
        assert await statements.older_processes(connection, SCHEMA_VERSION) == {}
        assert len(await statements.older_processes(connection, NEXT)) == 1


async def test_who_waits_for_the_schema_lock_holds_no_snapshot(url: str, connection: asyncpg.Connection) -> None:
    """An index that is made concurrently waits for every snapshot, so who has the lock would wait for who wants it."""
    await runner.take_schema_lock(connection)
    running = asyncio.create_task(migrate(url))
    waits = "select pid from pg_stat_activity where application_name = $1 and datname = current_database()"
    async with connected(url) as other:
        await eventually(lambda: other.fetchval(waits, named("migrate")))
        await other.execute("create table things (id bigint)")
        await asyncio.wait_for(other.execute("create index concurrently on things (id)"), 20)
    assert not running.done()
    await connection.close()
    assert not (await running).is_new


@pytest.mark.parametrize("name", ["things", "5_pre_things", "0005_before_things"])
async def test_a_name_that_says_nothing_is_a_mistake(write: Callable[..., None], name: str) -> None:
    write(**{name: THINGS})
    with pytest.raises(ValueError, match="NNNN_pre_what"):
        runner.migrations()
