"""Reading events: pages, the long poll, the stream, and that no reader ever passes an event by."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.api import events as reading
from ingress.envelope import own_event
from ingress.identifiers import new_id
from ingress.settings import Settings
from ingress.storage.connections import APP, INGEST, WORKER
from ingress.storage.database import Database
from ingress.storage.migration import migrate
from ingress.storage.statements import events as stored
from ingress.storage.statements.events import EventRow

from ..gateway import Gateway, Organization


@asynccontextmanager
async def connected(url: str, role: str = WORKER) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own, in a role of the service."""
    connection = await Database(url).connect(role)
    try:
        yield connection
    finally:
        await connection.close()


def event(organization: Organization) -> EventRow:
    """An event of *organization* that no webhook brought."""
    return own_event(UUID(organization.id), new_id(), "account.updated", {})


def sequences(events: list[Any]) -> list[int]:
    return [event["sequence"] for event in events]


def ids(events: list[Any]) -> list[str]:
    return [event["id"] for event in events]


def configs(events: list[Any]) -> list[str]:
    """What tells events of `event` from one another: each is about a config of its own."""
    return [event["data"]["config_id"] for event in events]


async def text(organization: Organization, gateway: Gateway, body: str = "x") -> None:
    """One message comes in, acknowledged."""
    answer = await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text(body))
    assert answer.status == 200


async def page(organization: Organization, query: str) -> Any:
    answer = await organization.call("GET", f"/events?{query}")
    assert answer.status == 200, answer.raw
    return answer.json


# ---------------------------------------------------------------- pages


async def test_pages_with_cursor_and_limit(organization: Organization, gateway: Gateway) -> None:
    """`next` of one page is `after` of the following; together they are all events, in order, each once."""
    for number in range(7):
        await text(organization, gateway, str(number))
    pages, after = [], 0
    for _ in range(4):
        pages.append(await page(organization, f"after={after}&limit=3"))
        after = pages[-1]["next"]
    assert [len(each["events"]) for each in pages] == [3, 3, 2, 0]
    assert [each["next"] for each in pages[:3]] == [each["events"][-1]["sequence"] for each in pages[:3]]
    assert pages[3]["next"] == pages[2]["next"]  # an empty page keeps the cursor
    together = [event for each in pages for event in each["events"]]
    assert together == (await page(organization, ""))["events"]
    assert sequences(together) == sorted(set(sequences(together)))
    bodies = [event["data"]["message"]["content"]["body"] for event in together[1:]]
    assert bodies == [str(number) for number in range(7)]


async def test_an_empty_page_keeps_any_cursor(organization: Organization) -> None:
    assert await page(organization, "after=999999999999999999") == {"events": [], "next": 999999999999999999}


async def test_events_of_one_body_keep_its_order(organization: Organization, gateway: Gateway) -> None:
    inbound = gateway.meta.inbound(organization.numbers[0])
    bodies = iter(range(50))
    batch = inbound.batch(50, make=lambda: inbound.text(str(next(bodies))))
    assert (await organization.post_webhook(batch)).status == 200
    items = [item for change in batch["entry"][0]["changes"] for item in change["value"]["messages"]]
    received = await organization.events(kind="message.received")
    assert [event["data"]["message"]["provider_message_id"] for event in received] == [item["id"] for item in items]


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/events", "after", "x"),
        ("/events", "after", "-1"),
        ("/events", "after", "1.5"),
        ("/events", "after", "²"),
        ("/events", "after", "9" * 19),
        ("/events", "limit", "many"),
        ("/events", "wait", "1s"),
        ("/events/stream", "after", "x"),
        ("/events/stream", "after", "9" * 19),
        ("/messages", "before", "x"),
        ("/messages", "conversation_id", "x"),
        ("/quarantine", "after", "x"),
    ],
)
async def test_bad_parameters_are_named(organization: Organization, path: str, name: str, value: str) -> None:
    async with asyncio.timeout(30):  # a stream would not end
        answer = await organization.call("GET", f"{path}?{name}={value}")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert [error["path"] for error in answer.json["errors"]] == [name]


# ---------------------------------------------------------------- the long poll


async def test_a_long_poll_ends_with_the_first_event(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Woken by the event, not by looking again: that would come after the 60 s set here."""
    monkeypatch.setattr(reading, "POLL_S", 60.0)
    after = (await page(organization, ""))["next"]
    waiting = asyncio.create_task(page(organization, f"after={after}&wait=20"))
    assert (await page(organization, f"after={after}"))["events"] == []
    assert not waiting.done()
    started = monotonic()
    await text(organization, gateway)
    answer = await waiting
    assert monotonic() - started < 15
    assert [event["type"] for event in answer["events"]] == ["message.received"]


async def test_a_long_poll_without_events_ends_in_time(organization: Organization) -> None:
    """Empty, with its cursor, after `wait` seconds: neither at once nor much later."""
    after = (await page(organization, ""))["next"]
    started = monotonic()
    assert await page(organization, f"after={after}&wait=1") == {"events": [], "next": after}
    assert 0.95 < monotonic() - started < 15


async def test_a_long_poll_tells_nothing_of_another_organization(organization: Organization, gateway: Gateway) -> None:
    other = await gateway.organization()
    await other.configure()
    after = (await page(organization, ""))["next"]
    waiting = asyncio.create_task(page(organization, f"after={after}&wait=1"))
    await text(other, gateway)
    assert await waiting == {"events": [], "next": after}


# ---------------------------------------------------------------- the stream


@asynccontextmanager
async def streaming(
    organization: Organization, query: str = "", last_event_id: str | None = None
) -> AsyncIterator["Frames"]:
    """The stream, once the service has settled where it begins."""
    headers = {"authorization": f"Bearer {organization.key}"}
    if last_event_id is not None:
        headers["last-event-id"] = last_event_id
    gateway = organization.gateway
    async with gateway.session.get(f"{gateway.url}/events/stream{query}", headers=headers) as answer:
        assert answer.status == 200
        yield Frames(answer)


class Frames:
    """What a stream sends, frame by frame: the lines up to an empty one."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def lines(self) -> list[str]:
        found: list[str] = []
        async with asyncio.timeout(30):
            while line := (await self.answer.content.readline()).decode().rstrip("\n"):
                found.append(line)
        return found

    async def events(self, count: int) -> list[Any]:
        """The next *count* events; what comes between them is skipped, as an EventSource does."""
        found = []
        while len(found) < count:
            lines = await self.lines()
            if lines and lines[0].startswith("id: "):
                fields = dict(line.split(": ", 1) for line in lines)
                data = msgspec.json.decode(fields["data"])
                assert (fields["id"], fields["event"]) == (str(data["sequence"]), data["type"])
                found.append(data)
        return found


async def test_the_stream_is_server_sent_events(organization: Organization, gateway: Gateway) -> None:
    """`id`, `event` and `data`: the sequence, the type, and the very envelope that a page has."""
    async with streaming(organization) as frames:
        assert frames.answer.headers["content-type"].startswith("text/event-stream")
        assert frames.answer.headers["cache-control"] == "no-store"
        [begun] = await organization.events()
        assert await frames.lines() == ["retry: 1000", f"id: {begun['sequence']}"]
        await text(organization, gateway)  # from now on: what was there before is not repeated
        lines = await frames.lines()
    [received] = await organization.events(kind="message.received")
    assert lines[:2] == [f"id: {received['sequence']}", "event: message.received"]
    assert msgspec.json.decode(lines[2].removeprefix("data: ")) == received
    assert len(lines) == 3


async def test_the_stream_resumes_where_it_was_left(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ?after= or Last-Event-ID, which a reconnecting EventSource sends beside its old URL; over several reads."""
    monkeypatch.setattr(reading, "STREAM_PAGE", 2)
    for number in range(5):
        await text(organization, gateway, str(number))
    stored = await organization.events()
    third = str(stored[2]["sequence"])
    async with streaming(organization, "?after=0") as frames:
        assert await frames.events(6) == stored
    async with streaming(organization, f"?after={third}") as frames:
        assert await frames.events(3) == stored[3:]
    async with streaming(organization, "?after=0", last_event_id=third) as frames:
        assert await frames.events(3) == stored[3:]
        await text(organization, gateway, "live")
        [live] = await frames.events(1)
    assert live["data"]["message"]["content"]["body"] == "live"
    async with streaming(organization, last_event_id=stored[2]["id"]) as frames:
        assert await frames.events(4) == [*stored[3:], live]


@pytest.mark.parametrize("given", ["x", "-1", "9" * 19, "evt_1", f"evt_{1:032x}"])
async def test_a_stream_that_cannot_be_resumed_is_refused(organization: Organization, given: str) -> None:
    """Rather than begun with now, without a word about what was missed. So is the event of somebody else."""
    async with asyncio.timeout(30):  # a stream would not end
        answer = await organization.call("GET", "/events/stream", last_event_id=given)
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert [error["path"] for error in answer.json["errors"]] == ["Last-Event-ID"]


async def test_a_quiet_stream_is_kept_alive(organization: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment, which clients skip and proxies count as traffic."""
    monkeypatch.setattr(reading, "HEARTBEAT_S", 0.0)
    monkeypatch.setattr(reading, "POLL_S", 0.02)
    async with streaming(organization) as frames:
        await frames.lines()
        assert await frames.lines() == [": still here"]
        assert await frames.lines() == [": still here"]


async def test_a_stream_is_one_organizations(organization: Organization, gateway: Gateway) -> None:
    other = await gateway.organization()
    await other.configure()
    async with streaming(organization, "?after=0") as mine, streaming(other, "?after=0") as theirs:
        for number in range(3):
            await asyncio.gather(text(organization, gateway, f"m{number}"), text(other, gateway, f"t{number}"))
        for frames, owner in ((mine, organization), (theirs, other)):
            answer = await frames.events(4)
            assert {event["data"]["organization_id"] for event in answer} == {owner.id}
            assert answer == await owner.events()


# ---------------------------------------------------------------- no event is passed by


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("role", [WORKER, INGEST])
async def test_readers_wait_for_older_transactions(
    organization: Organization, gateway: Gateway, settings: Settings, role: str, ends: str
) -> None:
    """A transaction that began earlier and ends later: nothing above it is read before, nothing of it is missed."""
    before = await organization.events()
    after = before[-1]["sequence"]
    late = event(organization)
    async with connected(settings.database_url, role) as connection, streaming(organization, f"?after={after}") as live:
        transaction = connection.transaction()
        await transaction.start()
        await stored.add(connection, [late])
        for number in range(3):
            await text(organization, gateway, str(number))
        assert await page(organization, f"after={after}") == {"events": [], "next": after}
        async with streaming(organization) as from_now:  # begins below the open transaction, not at the newest event
            await (transaction.commit() if ends == "commit" else transaction.rollback())
            answer = await organization.events(after, wait=5)
            assert await live.events(len(answer)) == answer
            assert await from_now.events(len(answer)) == answer
    assert sequences(answer) == sorted(set(sequences(answer)))
    texts = [event for event in answer if event["type"] == "message.received"]
    assert [event["data"]["message"]["content"]["body"] for event in texts] == ["0", "1", "2"]
    first, *_ = configs(answer)
    assert (first == str(late.config_id), len(answer)) == ((True, 4) if ends == "commit" else (False, 3))


async def test_what_becomes_readable_late_is_read_soon(
    organization: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that was woken while an older transaction ran looks again soon, not after the 20 s set here."""
    monkeypatch.setattr(reading, "POLL_S", 20.0)
    after = (await page(organization, ""))["next"]
    async with (
        connected(settings.database_url) as connection,
        streaming(organization) as live,
        asyncio.timeout(30),
        asyncio.TaskGroup() as group,
    ):
        polling = group.create_task(page(organization, f"after={after}&wait=15"))
        transaction = connection.transaction()
        await transaction.start()
        await stored.add(connection, [event(organization)])
        await text(organization, gateway)
        stored_at = monotonic()
        while monotonic() - stored_at < 0.25:  # every wake-up has come by then, also the one by Redis
            assert (await page(organization, f"after={after}"))["events"] == []
        await transaction.commit()
        assert len(await live.events(2)) == 2
        assert (await polling)["events"]


async def test_the_horizon_is_as_old_as_what_is_read(organization: Organization, settings: Settings) -> None:
    """A transaction that ends while a page is being read: what came after it waits for the next page."""
    first, late, last = (event(organization) for _ in range(3))
    async with (
        connected(settings.database_url) as other,
        connected(settings.database_url) as writer,
        connected(settings.database_url, APP) as reader,
        reader.transaction(),
    ):
        await stored.add(writer, [first])
        transaction = other.transaction()
        await transaction.start()
        await other.fetchval("select pg_current_xact_id()")
        await stored.add(writer, [last])
        await reader.execute("select set_config('app.org_id', $1, true)", organization.id)
        rows = reader.cursor(stored.READ, UUID(organization.id), 0, 100, False, prefetch=1).__aiter__()
        found = [await anext(rows)]  # the statement has begun
        await stored.add(other, [late])
        await transaction.commit()
        found += [row async for row in rows]
    assert [row["config_id"] for row in found if row["type"] == "account.updated"] == [first.config_id]
    answer = [event for event in await organization.events() if event["type"] == "account.updated"]
    assert configs(answer) == [str(row.config_id) for row in (first, late, last)]
    assert len(set(ids(answer))) == 3


async def test_concurrent_writers_and_a_reader(organization: Organization, settings: Settings) -> None:
    """Transactions of all lengths, some rolled back: the cursor sees exactly what was committed, once, in order."""
    after = (await page(organization, ""))["next"]
    dice = random.Random(11)
    committed: set[str] = set()

    async def write(seed: int) -> None:
        dice = random.Random(seed)
        async with connected(settings.database_url) as connection:
            for _ in range(15):
                transaction = connection.transaction()
                await transaction.start()
                if dice.random() < 0.3:  # a place in the order long before the event
                    await connection.fetchval("select pg_current_xact_id()")
                    await asyncio.sleep(dice.random() * 0.03)
                rows = [event(organization) for _ in range(dice.randint(1, 3))]
                await stored.add(connection, rows)
                await asyncio.sleep(dice.choice([0, dice.random() * 0.03]))
                if dice.random() < 0.15:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    committed.update(str(row.config_id) for row in rows)

    async def read() -> list[Any]:
        found: list[Any] = []
        cursor = after
        while True:
            finished = writers.done()
            answer = await page(organization, f"after={cursor}&limit={dice.randint(1, 9)}&wait={int(not finished)}")
            assert not answer["events"] or answer["next"] > cursor
            cursor = answer["next"]
            found += answer["events"]
            if finished and not answer["events"]:
                return found

    writers = asyncio.gather(*[write(seed) for seed in range(8)])
    async with streaming(organization, f"?after={after}") as live:
        found = await read()
        await writers
        assert await live.events(len(found)) == found
    assert sequences(found) == sorted(set(sequences(found)))
    assert len(found) == len(committed) > 100
    assert set(configs(found)) == committed


# ---------------------------------------------------------------- restored elsewhere


async def test_sequences_go_on_after_a_restore_into_a_younger_cluster(settings: Settings) -> None:
    """Transaction ids start low again where a dump is restored; `migrate` lifts the clock above what it finds."""
    name = f"restored_{new_id().hex}"
    url = settings.database_url.replace("/postgres?", f"/{name}?")
    owner = await asyncpg.connect(settings.database_url)
    try:
        await owner.execute(f"create database {name}")
        assert (await migrate(url)).is_new
        organization_id = new_id()
        last = 7_000_000_000_000_123
        async with connected(url) as connection:
            await connection.execute("insert into organizations (id, name) values ($1, 'Restored')", organization_id)
            # The dump has the partitions of then.
            await connection.execute("update event_clock set base = $1", last >> 16 << 16)
            await migrate(url)
            await connection.execute("update event_clock set base = 0")
            await connection.execute(
                "insert into events (organization_id, sequence, type, config_id, conversation_id, created_at, data)"
                " values ($1, $2, 'account.updated', $3, $3, now(), $4)",
                organization_id,
                last,
                new_id(),
                b"{}",
            )
            assert not (await migrate(url)).is_new
            base = await connection.fetchval("select base from event_clock")
            assert base % 65536 == 0
            fresh = own_event(organization_id, new_id(), "account.updated", {})
            await stored.add(connection, [fresh])
            found = await stored.read(connection, organization_id, 0, 10, False)
            assert [row.sequence for row in found[:1]] == [last]
            assert [row.config_id for row in found[1:]] == [fresh.config_id]
            assert last < found[1].sequence < last + (1 << 24)
            # Once is enough: a start that finds the clock right leaves it.
            assert not (await migrate(url)).is_new
            assert await connection.fetchval("select base from event_clock") == base
    finally:
        await owner.execute(f"drop database if exists {name} with (force)")
        await owner.close()


async def test_sequences_go_on_after_a_restore_of_a_quiet_time(settings: Settings) -> None:
    """All events are gone, as they were past their time: who has read them goes on behind the last one."""
    name = f"quiet_{new_id().hex}"
    url = settings.database_url.replace("/postgres?", f"/{name}?")
    owner = await asyncpg.connect(settings.database_url)
    try:
        await owner.execute(f"create database {name}")
        await migrate(url)
        last = 7_000_000_000_000_123
        async with connected(url) as connection:
            await connection.execute("insert into event_marks values ($1, now())", last)
            await migrate(url)
            assert await connection.fetchval("select next_sequence(0)") > last
    finally:
        await owner.execute(f"drop database if exists {name} with (force)")
        await owner.close()
