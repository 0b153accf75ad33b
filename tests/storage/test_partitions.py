"""Partitions by time: there before what comes, gone after what is past its time, and nobody notices either."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from ingress import identifiers, metrics
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.identifiers import id_at
from ingress.receiving.completion import day_of_fact
from ingress.storage import partitions
from ingress.storage.connections import APP, INGEST, WORKER
from ingress.storage.database import Database
from ingress.storage.migration import migrate
from ingress.storage.partitions import (
    BY_SEQUENCE,
    GRIDS,
    SMALLEST_BLOCK,
    drop_before,
    keep_ahead,
    moment_of,
    sequence_of,
)
from ingress.storage.statements import events
from ingress.storage.statements.events import EventRow
from ingress.storage.statements.lifetime import partitions as statements
from ingress.storage.statements.lifetime.partitions import Partition
from ingress.storage.statements.receiving.inbound import UNTIMED, FactDay, KeyedEvent, WebhookRow, day_of, store
from ingress.storage.statements.receiving.statuses import StatusRow
from ingress.storage.statements.sending import messages, sends

from ..gateway import Gateway, Organization, eventually, logged
from ..providers.twilio_whatsapp import samples as twilio
from ..providers.whatsapp_web import samples as waha

DAY, WEEK = timedelta(days=1), timedelta(days=7)


@pytest.fixture
async def database_url(servers: EmbeddedServers) -> AsyncIterator[str]:
    """Of a new one, whose time is only what a test says."""
    assert servers.database_url
    name = f"partitions_{uuid4().hex[:12]}"
    superuser = await asyncpg.connect(servers.database_url)
    await superuser.execute(f"create database {name}")
    url = servers.database_url.replace("/postgres?", f"/{name}?")
    await migrate(url)
    yield url
    await superuser.execute(f"drop database {name} with (force)")
    await superuser.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


@pytest.fixture
async def worker(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect(WORKER)
    yield connection
    await connection.close()


async def parts(connection: asyncpg.Connection, table: str) -> list[Partition]:
    """Of the table, but for the one of facts without a time."""
    found = await statements.all_of(connection)
    return [part for part in found if part.table == table and part.name != partitions.UNTIMED]


def event(organization: UUID, kind: str = "message.received") -> EventRow:
    return EventRow(organization, kind, identifiers.new_id(), identifiers.new_id(), b"{}")


async def advance(database_url: str, sequences: int) -> None:
    """As if so many sequences had been taken."""
    owner = await asyncpg.connect(database_url)
    await owner.execute("update event_clock set base = base + $1", sequences >> 16 << 16)
    await owner.close()


# ---------------------------------------------------------------- ahead


async def test_partitions_follow_one_another_and_reach_ahead(worker: asyncpg.Connection) -> None:
    """Looked at a day apart, and after three weeks in which nobody was there: there is always a place."""
    begun = datetime.now(UTC)
    for days in (*range(30), 51):
        now = begun + days * DAY
        await keep_ahead(worker, now)
        for grid in GRIDS:
            made = await parts(worker, grid.table)
            begin = grid.begin(now - timedelta(days=grid.back))
            needed = [part for part in made if part.until_at and part.until_at > begin]
            assert needed[0].from_at is not None
            assert needed[0].from_at <= begin, grid.table
            assert made[-1].until_at is not None
            assert made[-1].until_at >= now + timedelta(days=grid.ahead), grid.table
            assert [part.from_at for part in needed[1:]] == [part.until_at for part in needed[:-1]], grid.table


async def test_a_minute_without_news_makes_nothing(worker: asyncpg.Connection) -> None:
    await keep_ahead(worker)
    before = await statements.all_of(worker)
    await keep_ahead(worker)
    assert await statements.all_of(worker) == before


async def test_a_restore_alarms_nobody(
    worker: asyncpg.Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It sets the clock ahead of every partition, and makes those that are needed then."""
    await keep_ahead(worker)
    await migrate(database_url, is_restored=True)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert min((await partitions.reach(worker)).values()) > datetime.now(UTC) + DAY


async def test_what_is_made_is_one_line_of_the_log(
    worker: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """However many tables there are: a first start is read by somebody who looks for an address and a key."""
    with caplog.at_level("INFO", "ingress.storage.partitions"):
        for _ in range(2):  # nothing is left to make the second time
            await keep_ahead(worker, datetime.now(UTC) + WEEK)
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert line.startswith("made partitions: ")
    assert {part.split(" of ")[1] for part in line.split(", ")} == {*(grid.table for grid in GRIDS), *BY_SEQUENCE}


async def test_processes_that_make_them_at_once_make_them_once(database: Database) -> None:
    later = datetime.now(UTC) + 40 * DAY
    workers = [await database.connect(WORKER) for _ in range(4)]
    await asyncio.gather(*[keep_ahead(connection, later) for connection in workers])
    names = [part.name for part in await statements.all_of(workers[0])]
    assert len(set(names)) == len(names)
    for connection in workers:
        await connection.close()


async def test_blocks_are_as_long_as_a_week_of_what_comes(worker: asyncpg.Connection, database_url: str) -> None:
    """A mark an hour says how much that is."""
    now, an_hour = datetime.now(UTC), 40 * SMALLEST_BLOCK // 168
    for hour in range(1, 2 * 168):
        await advance(database_url, an_hour)
        await keep_ahead(worker, now + hour * timedelta(hours=1))
    for table in BY_SEQUENCE:
        made = await parts(worker, table)
        lengths = [
            part.until_sequence - part.from_sequence for part in made if part.until_sequence and part.from_sequence
        ]
        assert lengths[-1] == pytest.approx(40 * SMALLEST_BLOCK, rel=0.02), table
        assert [part.from_sequence for part in made[1:]] == [part.until_sequence for part in made[:-1]]
    assert len(await worker.fetch("select from event_marks")) == pytest.approx(2 * 168, abs=2)
    # And back: of a moment all that is below its sequence is older, and not much more than an hour.
    for hour in (20, 200):
        moment = now + hour * timedelta(hours=1)
        sequence = await sequence_of(worker, moment)
        at = await moment_of(worker, sequence)
        assert at is not None
        assert timedelta(0) <= moment - at <= timedelta(hours=1)
    assert await sequence_of(worker, now - DAY) == 0
    assert await moment_of(worker, 0) is None


async def test_a_burst_that_fills_a_block_in_minutes_finds_the_next_one(
    worker: asyncpg.Connection, database_url: str
) -> None:
    """A hundred times what came until then, from one minute to the next."""
    now, organization = datetime.now(UTC), identifiers.new_id()
    for hour in range(200):
        await advance(database_url, SMALLEST_BLOCK // 168)
        await keep_ahead(worker, now + hour * timedelta(hours=1))
    before = len(await parts(worker, "events"))
    for minute in range(300):
        await advance(database_url, 100 * SMALLEST_BLOCK // (168 * 60))
        await events.add(worker, [event(organization)])  # in the minute before somebody looks
        await keep_ahead(worker, now + 200 * timedelta(hours=1) + minute * timedelta(minutes=1))
    assert await worker.fetchval("select count(*) from events") == 300
    assert len(await parts(worker, "events")) - before <= 4, "blocks grow with what comes"


async def test_it_is_loud_before_a_place_is_missing(
    worker: asyncpg.Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = metrics.partitions_ahead.collect()[0].samples[0].value
    assert 2 * 86400 < ahead <= 4 * 86400
    caplog.clear()
    await advance(database_url, 2 * SMALLEST_BLOCK)
    await keep_ahead(worker)
    assert "the table events has partitions until" in caplog.text
    caplog.clear()
    await keep_ahead(worker)
    assert logged(caplog, "ingress.storage.partitions") == []


# ---------------------------------------------------------------- gone


async def test_partitions_are_dropped_while_webhooks_and_sends_come_in(
    worker: asyncpg.Connection, database: Database, database_url: str
) -> None:
    """Nothing is refused, nothing that is kept is lost, and all that is past its time is gone."""
    organization, config = await _organization(database_url)
    now = datetime.now(UTC)
    for weeks in range(1, 17):
        await _make_old(worker, now - weeks * WEEK)
        await _fill(worker, organization, now - weeks * WEEK)
    stop, stored, claimed = asyncio.Event(), 0, 0

    async def receive() -> None:
        nonlocal stored
        connection = await database.connect(INGEST)
        while not stop.is_set():
            row = KeyedEvent(identifiers.new_id().bytes, event(organization), None, None, day_of(now))
            [done] = await store(connection, [WebhookRow(organization, config, b"{}", b"x", [row], [])])
            stored += len(done.sequences)
        await connection.close()

    async def send() -> None:
        nonlocal claimed
        connection = await database.connect(WORKER)
        while not stop.is_set():
            [done] = await sends.claim(connection, [_claim(organization, config, identifiers.new_id(), uuid4().hex)])
            claimed += done.claimed
        await connection.close()

    tasks = [asyncio.create_task(work()) for work in (receive, receive, send, send)]
    dropped = []
    for table in ("inbound_webhooks", "inbound_dedup", "messages", "attempts", "message_statuses", "quarantine"):
        dropped += await drop_before(database, table, now - 8 * WEEK)
    stop.set()
    await asyncio.gather(*tasks)
    assert min(stored, claimed) > 20
    assert len(dropped) >= 6 * 7
    assert not await worker.fetchval("select count(*) from pg_class where relname = any($1)", dropped)
    assert await worker.fetchval("select count(*) from events") == stored
    assert await worker.fetchval("select count(*) from inbound_webhooks") == stored + 8
    for table, column in (("messages", "id"), ("attempts", "message_id")):
        assert await worker.fetchval(f"select count(*) from {table}") == claimed + 8
        gone = f"select count(*) from {table} where {column} < $1"
        assert await worker.fetchval(gone, id_at(now - 9 * WEEK)) == 0


async def test_events_are_dropped_by_the_time_that_marks_say(
    worker: asyncpg.Connection, database: Database, database_url: str
) -> None:
    now, organization = datetime.now(UTC), identifiers.new_id()
    seen = []
    for week in range(8):
        await events.add(worker, [event(organization)])
        await keep_ahead(worker, now + week * WEEK)
        seen.append(await worker.fetchval("select max(sequence) from events"))
        await advance(database_url, SMALLEST_BLOCK)
    for table in BY_SEQUENCE:
        assert await drop_before(database, table, now + 4 * WEEK)
    kept = [row["sequence"] for row in await worker.fetch("select sequence from events order by sequence")]
    assert kept == seen[-len(kept) :]
    assert 3 <= len(kept) <= 5
    first = (await parts(worker, "events"))[0]
    assert first == (await parts(worker, "deliveries"))[0]._replace(table="events", name=first.name)
    # Of what is kept it is known still when it was.
    assert first.from_sequence is not None
    at = await moment_of(worker, first.from_sequence)
    assert at is not None
    assert now < at <= now + 4 * WEEK


async def test_a_table_in_use_is_left_to_the_next_round(
    worker: asyncpg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads for long keeps the partition; others wait no longer than a moment behind who would detach it."""
    monkeypatch.setattr(partitions, "DETACH_TRIES", 3)
    now = datetime.now(UTC)
    await _make_old(worker, now - 10 * WEEK)
    async with worker.transaction():
        await worker.execute("select from messages")
        assert await drop_before(database, "messages", now - 8 * WEEK) == []
    assert len(await drop_before(database, "messages", now - 8 * WEEK)) == 1


async def test_what_a_process_left_detached_is_dropped_by_another(
    worker: asyncpg.Connection, database: Database
) -> None:
    now = datetime.now(UTC)
    await _make_old(worker, now - 10 * WEEK)
    name = (await parts(worker, "attempts"))[0].name
    await statements.detach(worker, name)
    assert await statements.detached(worker) == [name]
    assert await drop_before(database, "messages", now - 20 * WEEK) == []
    assert await statements.detached(worker) == []


async def test_facts_without_a_time_are_never_dropped(worker: asyncpg.Connection, database: Database) -> None:
    await drop_before(database, "inbound_dedup", datetime.now(UTC) + 30 * DAY)
    assert await worker.fetchval("select to_regclass($1) is not null", partitions.UNTIMED)


async def test_the_functions_serve_for_partitions_alone(
    worker: asyncpg.Connection, database: Database, database_url: str
) -> None:
    """Whoever has the service's login can neither make nor drop anything else, and the API's role not even those."""
    owner = await asyncpg.connect(database_url)
    await owner.execute("create schema other; create table other.tab (at date) partition by range (at)")
    await owner.execute(
        "create table other.part partition of other.tab for values from ('2026-01-01') to ('2026-02-01')"
    )
    await owner.execute("grant usage on schema other to public")
    await owner.close()
    for statement in (
        "select make_partition('other.tab', 'p', '2026-02-01', '2026-03-01')",
        "select detach_partition('other.part')",
        "select make_partition('organizations', 'p', '1', '2')",
        "select make_partition('pg_class', 'p', '1', '2')",
        "select detach_partition('organizations')",
        "select drop_detached('organizations')",
        f"select drop_detached('{(await parts(worker, 'messages'))[0].name}')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await worker.execute(statement)
    for role in (APP, INGEST):
        connection = await database.connect(role)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for function"):
            await connection.execute("select detach_partition('organizations')")
        await connection.close()


# ---------------------------------------------------------------- what is known across partitions


async def test_a_fact_of_yesterday_is_known_today(
    gateway: Gateway, organization: Organization, worker_of_all: asyncpg.Connection
) -> None:
    """The last second of a day, repeated on the next one: the day is the fact's own."""
    people = gateway.meta.inbound(organization.numbers[0])
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for at in (midnight - timedelta(seconds=1), midnight):
        body = people.text("at the border")
        body["entry"][0]["changes"][0]["value"]["messages"][0]["timestamp"] = str(int(at.timestamp()))
        for _ in range(2):
            assert (await organization.post_webhook(body)).status == 200
    assert len(await organization.events(kind="message.received")) == 2
    days = await worker_of_all.fetch(
        "select day, tableoid::regclass::text as part from inbound_dedup"
        " where organization_id = $1 and sequence is not null order by day",
        UUID(organization.id),
    )
    expected = [midnight - DAY, midnight]
    assert [(row["day"], row["part"]) for row in days] == [
        (day.date(), f"inbound_dedup_p{day:%Y%m%d}") for day in expected
    ]


def test_a_day_far_away_is_none() -> None:
    now = datetime.now(UTC)
    for when in (now, now.astimezone(), now - DAY, now + DAY):
        assert day_of(when) == (when.astimezone(UTC).date(),) * 2
    for when in (now - 2 * DAY, now - 300 * DAY, now + 3 * DAY):
        assert day_of(when) == (UNTIMED, when.date())
    assert day_of(None) == (UNTIMED, UNTIMED)


def test_a_fact_has_one_day_however_it_comes_again() -> None:
    """Whether a form or a stream says it, and if what says it is made anew on the next day."""
    (of_form,) = twilio.ACCOUNT.parse(twilio.hook("status_delivered"))
    of_stream = next(event for event in twilio.ACCOUNT.parse(twilio.hook("events_batch")) if event.key == of_form.key)
    assert day_of_fact(of_form) == day_of_fact(of_stream)
    for case in waha.sample("engine_webhooks"):
        hooks = [{**case["webhook"], "timestamp": case["webhook"]["timestamp"] + days * 86_400_000} for days in (0, 1)]
        (event,), (again,) = (waha.ACCOUNT.parse(waha.signed(json.dumps(hook).encode())) for hook in hooks)
        assert event.key != again.key or day_of_fact(event) == day_of_fact(again), case["name"]


async def test_a_fact_is_known_when_it_comes_again_too_late_for_its_day(
    worker: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was received at once and comes again late, and what comes late twice."""
    organization, config = await _organization(database_url)

    async def receive(key: bytes, day: FactDay) -> int:
        row = KeyedEvent(key, event(organization), None, None, day)
        [done] = await store(worker, [WebhookRow(organization, config, b"{}", b"x", [row], [])])
        return len(done.sequences)

    own = (datetime.now(UTC) - DAY).date()
    at_once, late = FactDay(own, own), FactDay(UNTIMED, own)
    first, second = identifiers.new_id().bytes, identifiers.new_id().bytes
    assert [await receive(first, day) for day in (at_once, at_once, late)] == [1, 0, 0]
    assert [await receive(second, day) for day in (late, late, at_once)] == [1, 0, 0]


async def test_an_idempotency_key_of_last_week_names_its_message(worker: asyncpg.Connection, database_url: str) -> None:
    """In another partition than the message that would be made now."""
    organization, config = await _organization(database_url)
    last_week = id_at(datetime.now(UTC) - WEEK)
    [first] = await sends.claim(worker, [_claim(organization, config, last_week, "once")])
    [again] = await sends.claim(worker, [_claim(organization, config, identifiers.new_id(), "once")])
    other, _ = await _organization(database_url)
    [elsewhere] = await sends.claim(worker, [_claim(other, config, identifiers.new_id(), "once")])
    assert (first.claimed, again.claimed, elsewhere.claimed) == (True, False, True)
    found = await messages.by_key(worker, organization, "once")
    assert found is not None
    assert found.id == last_week
    assert await worker.fetchval("select count(*) from messages where organization_id = $1", organization) == 1


@pytest.mark.parametrize("is_status_first", [True, False])
async def test_an_outcome_and_a_status_at_once_are_both_stored(
    worker: asyncpg.Connection, database: Database, database_url: str, is_status_first: bool
) -> None:
    """Whichever has to wait for the other: neither loses the message that it waited for."""
    organization, config = await _organization(database_url)
    made = _claim(organization, config, identifiers.new_id(), "both")
    assert [done.claimed for done in await sends.claim(worker, [made])] == [True]
    status = StatusRow(
        organization, config, config, "wamid.x", "wamid.x", "delivered", 2, datetime.now(UTC), None, made.id, 1
    )
    keyed = KeyedEvent(identifiers.new_id().bytes, event(organization, "message.status"), status, None, day_of(None))
    row, outcome = WebhookRow(organization, config, b"{}", b"x", [keyed], []), _outcome(made)

    def storing(connection: asyncpg.Connection, is_status: bool) -> Awaitable[Any]:
        return store(connection, [row]) if is_status else sends.finish(connection, [outcome])

    other = await database.connect(WORKER)
    async with worker.transaction():
        first = await storing(worker, is_status_first)
        waiting = asyncio.ensure_future(storing(other, not is_status_first))
        waits = "select exists (select from pg_locks where not granted and pid = $1)"
        await eventually(lambda: worker.fetchval(waits, other.get_server_pid()))
    second = await waiting
    await other.close()
    [stored], [finished] = (first, second) if is_status_first else (second, first)
    assert finished.state is not None
    assert stored.statuses == [("delivered", "applied")]
    message = await messages.by_id(worker, organization, made.id)
    assert message is not None
    assert (message.state, message.status) == ("done", "delivered")
    attempts = "select class from attempts where organization_id = $1"
    assert [row[0] for row in await worker.fetch(attempts, organization)] == ["ok"]


# ---------------------------------------------------------------- what a statement opens


async def test_a_send_and_its_statuses_read_the_partitions_of_their_time_alone(
    worker: asyncpg.Connection, database_url: str
) -> None:
    """With plans that are made once for all: of a quarter of a year the partitions of days ago are not read."""
    now = datetime.now(UTC)
    for weeks in range(1, 13):
        await _make_old(worker, now - weeks * WEEK)
    organization, config = await _organization(database_url)
    open_ones = {"messages": 2, "attempts": 2, "message_statuses": 2, "inbound_dedup": 1}
    async with explained(database_url) as (connection, opened):
        [made] = [_claim(organization, config, identifiers.new_id(), "plan")]
        assert [done.claimed for done in await sends.claim(connection, [made])] == [True]
        assert within(opened(read=True), open_ones)
        await sends.begin_attempt(
            connection,
            sends.NextAttempt(organization, made.id, made.lease_id, 1, config, "meta_business", 0, None, None),
        )
        assert within(opened(read=True), open_ones)
        [finished] = await sends.finish(connection, [_outcome(made)])
        assert finished.state is not None
        assert within(opened(read=True), open_ones)
        status = StatusRow(organization, config, config, "wamid.x", "wamid.x", "delivered", 2, now, None, made.id, 1)
        keyed = KeyedEvent(identifiers.new_id().bytes, event(organization, "message.status"), status, None, day_of(now))
        [stored] = await store(connection, [WebhookRow(organization, config, b"{}", b"x", [keyed], [])])
        assert stored.statuses == [("delivered", "applied")]
        assert within(opened(read=True), open_ones)
        named = messages.NamedMessage(organization, config, config, None, made.id)
        assert (await messages.find(connection, [named]))[named].own is not None
        assert within(opened(read=True), open_ones)
        assert await messages.by_id(connection, organization, made.id) is not None
        assert await messages.attempts(connection, organization, made.id) != []
        await events.at(connection, organization, stored.sequences[0])
        assert within(opened(read=True), open_ones | {"events": 1})
        # It is opened before the key is looked for, and no other one is read.
        assert await messages.by_key(connection, organization, "plan") is not None
        assert opened(read=True) == {"messages": 1}


def within(opened: dict[str, int], allowed: dict[str, int]) -> bool:
    """Whether no statement has opened, or read, more partitions of a table than *allowed*; and it has some at all."""
    assert opened, "nothing was explained"
    return all(count <= allowed.get(table, 0) for table, count in opened.items())


@asynccontextmanager
async def explained(database_url: str) -> AsyncIterator[tuple[asyncpg.Connection, Callable[..., dict[str, int]]]]:
    """A connection as the service has them, and how many partitions of a table a statement has opened, or read."""
    plans: list[str] = []
    connection = await asyncpg.connect(database_url, server_settings={"plan_cache_mode": "force_generic_plan"})
    await connection.execute(
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_analyze = on;"
        " set auto_explain.log_format = json; set auto_explain.log_level = notice;"
        f" set enable_seqscan = off; set enable_mergejoin = off; set role {WORKER}"
    )
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
    connection.add_log_listener(lambda _, message: plans.append(message.message))

    def opened(*, read: bool = False) -> dict[str, int]:
        most: dict[str, int] = {}
        for plan in plans:
            for table in set(re.findall(r'"Relation Name": "(\w+)_p\d+",', plan)):
                found = set(_scanned(json.loads(plan.partition("plan:")[2])["Plan"], table, read=read))
                most[table] = max(most.get(table, 0), len(found))
        plans.clear()
        return most

    yield connection, opened
    await connection.close()


def _scanned(node: dict[str, Any], table: str, *, read: bool) -> Iterator[str]:
    """The partitions of *table* in a plan; with *read* not those whose part of it was never executed."""
    if node.get("Relation Name", "").startswith(f"{table}_p") and (node["Actual Loops"] or not read):
        yield node["Relation Name"]
    for part in node.get("Plans", ()):
        yield from _scanned(part, table, read=read)


# ---------------------------------------------------------------- what the tests are made of


@pytest.fixture
async def worker_of_all(gateway: Gateway, servers: EmbeddedServers) -> AsyncIterator[asyncpg.Connection]:
    """Of the service that tests share."""
    connection = await asyncpg.connect(servers.database_url)
    yield connection
    await connection.close()


async def _organization(database_url: str) -> tuple[UUID, UUID]:
    owner, organization = await asyncpg.connect(database_url), identifiers.new_id()
    await owner.execute("insert into organizations (id, name) values ($1, 'Partitioned')", organization)
    await owner.close()
    return organization, identifiers.new_id()


def _claim(organization: UUID, config: UUID, id: UUID, key: str) -> sends.Claim:
    return sends.Claim(
        organization_id=organization,
        id=id,
        conversation_id=identifiers.new_id(),
        in_order=False,
        idempotency_key=key,
        key_hash=identifiers.idempotency_hash(organization, key),
        request_hash=b"hash",
        request=b"{}",
        request_id=None,
        expires_at=datetime.now(UTC) + DAY,
        lease_id=identifiers.new_id(),
        config_id=config,
        provider="meta_business",
        version=0,
        fallback_from=None,
        fallback_reason=None,
    )


def _outcome(claim: sends.Claim) -> sends.Outcome:
    return sends.Outcome(
        organization_id=claim.organization_id,
        message_id=claim.id,
        lease_id=claim.lease_id,
        number=1,
        attempt_class="ok",
        code=None,
        detail=None,
        duration_ms=1,
        config_id=claim.config_id,
        provider=claim.provider,
        provider_message_id="wamid.x",
        message_key="wamid.x",
        state="done",
        status="sent",
        rank=1,
        error=None,
        fallback_from=None,
        fallback_reason=None,
        at=datetime.now(UTC),
        cost=None,
        held_until=None,
        account_id=claim.config_id,
        event_type="message.status",
        conversation_id=claim.conversation_id,
        data=b"{}",
    )


async def _make_old(connection: asyncpg.Connection, moment: datetime) -> None:
    """The partitions of that week, as they were made then."""
    for grid in GRIDS:
        begin = grid.begin(moment)
        if begin < min(part.from_at for part in await parts(connection, grid.table) if part.from_at):
            bounds = (str(grid.bound(at)) for at in (begin, begin + timedelta(days=grid.days)))
            await statements.make(connection, grid.table, f"p{begin:%Y%m%d}", *bounds)


async def _fill(connection: asyncpg.Connection, organization: UUID, moment: datetime) -> None:
    """A row of that time in each."""
    for statement in (
        "insert into messages (organization_id, id, conversation_id, request_hash, request, state, expires_at)"
        " values ($1, $2, $1, '', '{}', 'done', now())",
        "insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at)"
        " values ($1, $2, 1, $1, 'x', 0, now())",
    ):
        await connection.execute(statement, organization, id_at(moment))
    await connection.execute(
        "insert into inbound_webhooks (organization_id, config_id, received_at, headers, body)"
        " values ($1, $1, $2, '', '')",
        organization,
        moment,
    )
