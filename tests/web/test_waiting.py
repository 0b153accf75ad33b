"""What waits, and what pages take of memory: one organization's never stops another's."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from ingress import metrics
from ingress.dev.sandbox import Slow
from ingress.envelope import own_event
from ingress.identifiers import new_id
from ingress.receiving.webhooks import WebhookReceiver
from ingress.settings import Settings
from ingress.shares import Shares
from ingress.storage.database import EXCLUSIVE_QUEUE_EACH, Busy, Database
from ingress.storage.pages import PAGE_BYTES
from ingress.storage.statements import deliveries
from ingress.storage.statements import events as stored
from ingress.web import auth, waiting
from ingress.web.waiting import gathered

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually

READERS = ("/events/stream", "/events?after=999999999999999999&wait=20", "/integrations/whatsapp/status")


def gauge(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def small(settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A process with room for twelve that wait, three of each organization."""
    for name in ("READERS", "SENDS"):
        monkeypatch.setattr(waiting, name, 12)
        monkeypatch.setattr(waiting, f"{name}_EACH", 3)
    async with serving(settings) as url:
        yield Gateway(url, settings.platform_key, gateway.session, gateway.meta)


# ---------------------------------------------------------------- shares


def test_something_is_left_for_whoever_comes() -> None:
    """Whatever organizations take and give back, none has more than its share, and the next one gets some."""
    dice = random.Random(7)
    shares, held = Shares(600, 100), dict.fromkeys((new_id() for _ in range(8)), 0)
    for _ in range(20_000):
        organization_id = dice.choice([*held])
        if dice.random() < 0.2 and held[organization_id]:
            shares.add(organization_id, -1)
            held[organization_id] -= 1
        elif shares.take(organization_id):
            held[organization_id] += 1
        assert shares.held == sum(held.values()) <= 600
        assert max(held.values()) <= 100
    assert shares.held > 400
    newcomer = new_id()
    assert all(shares.take(newcomer) for _ in range(20))


def test_one_organization_alone_gets_all_that_one_may_have() -> None:
    one, other = new_id(), new_id()
    shares = Shares(300, 100)
    assert sum(shares.take(one) for _ in range(500)) == 100
    assert sum(shares.take(other) for _ in range(500)) == 100
    shares.add(one, -100)
    assert shares.held == 100


async def test_who_waits_for_memory_gets_what_is_given_back() -> None:
    """In time, or not at all; and nothing is counted for who gave up."""
    one = new_id()
    shares = Shares(100, 10)
    assert shares.take(one, 8)
    assert not await shares.taken(one, 4, within_s=0.01)
    assert shares.held == 8
    asking = [asyncio.create_task(shares.taken(one, 4, within_s=10)) for _ in range(2)]
    await asyncio.sleep(0)
    shares.add(one, -8)
    assert await asyncio.gather(*asking) == [True, True]
    assert shares.held == 8


def test_pieces_are_all_there_in_their_order() -> None:
    parts = [bytes([number % 251]) * number for number in range(2_000)]
    pieces = [*gathered(parts)]
    assert b"".join(pieces) == b"".join(parts)
    assert {len(piece) >= waiting.PIECE_BYTES for piece in pieces[:-1]} == {True}
    assert max(map(len, pieces)) < waiting.PIECE_BYTES + 2_000


# ---------------------------------------------------------------- readers that wait


async def connected(organization: Organization, path: str, key: str | None = None) -> socket.socket:
    """A connection that has asked for *path*, and reads nothing of the answer."""
    host, _, port = organization.gateway.url.removeprefix("http://").partition(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.to_thread(made.connect, (host, int(port)))
    key = key or organization.key
    made.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode())
    return made


@asynccontextmanager
async def reading(organization: Organization, path: str, key: str | None = None) -> AsyncIterator[None]:
    """One reader that waits, until it hangs up."""
    before = gauge("whatsapp_ingress_waiting_requests", kind="readers")
    with await connected(organization, path, key):
        await eventually(lambda: gauge("whatsapp_ingress_waiting_requests", kind="readers") > before)
        yield


async def test_readers_of_one_organization_are_not_all(
    settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its share a reader is answered 429 and comes again; others are served, and a place is given back."""
    async with small(settings, gateway, monkeypatch) as service, AsyncExitStack() as readers:
        many, few = await service.organization(), await service.organization()
        first = AsyncExitStack()
        await readers.enter_async_context(first)
        for stack, path in zip((first, readers, readers), READERS, strict=True):
            await stack.enter_async_context(reading(many, path))
        for path in (*READERS, "/events", "/messages", "/integrations/whatsapp/audit"):
            refused = await many.call("GET", path)
            assert (refused.status, refused.json["code"]) == (429, "too_many_waiting"), path
            assert int(refused.headers["retry-after"]) >= 1
        assert (await few.call("GET", "/events")).status == 200
        await readers.enter_async_context(reading(few, READERS[0]))
        assert (await many.call("GET", "/integrations/whatsapp/provider/current")).status == 200
        await first.aclose()  # the first reader hangs up
        await eventually(lambda: many.call("GET", "/events"), lambda answer: answer.status == 200)
    assert gauge("whatsapp_ingress_waiting_requests", kind="readers") == 0


@pytest.mark.parametrize("path", READERS)
async def test_a_reader_that_hung_up_gives_its_place_back(
    settings: Settings, gateway: Gateway, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with small(settings, gateway, monkeypatch) as service:
        organization = await service.organization()
        async with reading(organization, path):
            assert gauge("whatsapp_ingress_waiting_requests", kind="readers") == 1
        await eventually(lambda: gauge("whatsapp_ingress_waiting_requests", kind="readers"), lambda count: count == 0)


@pytest.mark.parametrize("path", READERS)
async def test_a_revoked_key_gives_its_places_back(
    settings: Settings, gateway: Gateway, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_S", 0.05)
    async with small(settings, gateway, monkeypatch) as service:
        organization = await service.organization()
        made = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json
        async with reading(organization, path, made["key"]):
            assert (await organization.call("DELETE", f"/keys/{made['id']}")).status == 204
            await eventually(
                lambda: gauge("whatsapp_ingress_waiting_requests", kind="readers"), lambda count: count == 0
            )


# ---------------------------------------------------------------- sends that wait


async def test_a_send_beyond_the_share_of_waiting_ones_is_accepted_all_the_same(
    settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202 at once where a provider hangs and three wait for it already; it goes out as every other. Others wait on."""
    async with small(settings, gateway, monkeypatch) as service:
        slow, quick = await service.organization(), await service.organization()
        await slow.configure()
        await quick.configure()
        await gateway.meta.script(slow.numbers[0], *[Slow(seconds=1)] * 6)
        held = [asyncio.create_task(slow.send()) for _ in range(3)]
        await eventually(lambda: gauge("whatsapp_ingress_waiting_requests", kind="sends"), lambda count: count == 3)
        answers = [await slow.send() for _ in range(3)]
        assert [answer.status for answer in answers] == [202] * 3
        assert not any(task.done() for task in held)
        assert (await quick.send()).status == 200
        for answer in answers:
            assert answer.headers["location"] == f"/messages/{answer.json['id']}"
            await slow.settled(answer.json["id"], "sent", "delivered", "read")
        assert [answer.status for answer in await asyncio.gather(*held)] == [200] * 3
    assert gauge("whatsapp_ingress_waiting_requests", kind="sends") == 0


async def test_large_sends_under_way_are_bounded_by_their_bytes(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be too much to keep is refused before it is accepted; a small one is not counted."""
    monkeypatch.setattr("ingress.sending.outbound.Shares.take", lambda shares, _, amount=1: amount < 10_000)
    large = {"to": "+5511987654321", "content": {"type": "contacts", "contacts": [{"note": "x" * 12_000}]}}
    refused = await organization.send(large, idempotency_key="large")
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert refused.headers["retry-after"]
    assert (await organization.send()).status == 200
    monkeypatch.undo()
    assert (await organization.send(large, idempotency_key="large")).json["code"] == "rejected"  # by the provider


# ---------------------------------------------------------------- changes that wait


async def test_changes_of_one_organization_that_wait_are_some(database: Database) -> None:
    """The next one learns at once that others are under way; another organization's change is made."""
    one, other = new_id(), new_id()
    async with database.exclusive(one), asyncio.timeout(30):

        async def change() -> None:
            async with database.exclusive(one):
                return

        waiting_ones = [asyncio.create_task(change()) for _ in range(EXCLUSIVE_QUEUE_EACH)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await change()
        async with database.exclusive(other):
            pass
        for task in waiting_ones[1:]:
            task.cancel()
        await asyncio.gather(*waiting_ones[1:], return_exceptions=True)
    await waiting_ones[0]
    await change()


# ---------------------------------------------------------------- pages


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with Database(settings.database_url) as opened:
        yield opened


async def large_events(database: Database, organization: Organization, sizes: list[int], raw: int = 0) -> None:
    """Events of the organization whose data have about *sizes* bytes, and *raw* of a provider's item."""
    rows = []
    for size in sizes:
        row = own_event(UUID(organization.id), new_id(), "account.updated", {"detail": "x" * size})
        rows.append(row._replace(raw=b'"%s"' % (b"y" * raw) if raw else None))
    async with database.worker() as connection:
        await stored.add(connection, rows)


@pytest.mark.parametrize("raw", [False, True])
async def test_a_page_of_events_is_bounded_by_its_bytes(gateway: Gateway, database: Database, raw: bool) -> None:
    """Page by page all of them, each once and in order, however compressible they are."""
    organization = await gateway.organization()
    await large_events(database, organization, [200_000] * 50, raw=300_000)
    after, found, pages = 0, [], []
    while True:
        answer = await organization.call("GET", f"/events?after={after}&limit=1000&raw={int(raw)}")
        if not answer.json["events"]:
            break
        pages.append(len(answer.raw))
        found += [event["sequence"] for event in answer.json["events"]]
        after = answer.json["next"]
    assert found == sorted(set(found))
    assert len(found) == 50
    assert max(pages) <= PAGE_BYTES + 50 * 500  # what is around each event's data
    assert len(pages) == (7 if raw else 3)


async def test_an_event_larger_than_a_page_is_a_page(gateway: Gateway, database: Database) -> None:
    organization = await gateway.organization()
    await large_events(database, organization, [10, 10, 10], raw=PAGE_BYTES + 1)
    after = 0
    for _ in range(3):
        page = (await organization.call("GET", f"/events?after={after}&raw=1")).json
        assert len(page["events"]) == 1
        after = page["next"]
    async with asyncio.timeout(30):
        assert len((await organization.call("GET", "/events?after=0")).json["events"]) == 3


async def test_a_stream_of_large_events_is_complete(gateway: Gateway, database: Database) -> None:
    organization = await gateway.organization()
    await large_events(database, organization, [200_000] * 30)
    headers = {"authorization": f"Bearer {organization.key}"}
    seen = b""
    async with (
        gateway.session.get(f"{gateway.url}/events/stream?after=0", headers=headers) as answer,
        asyncio.timeout(30),
    ):
        while seen.count(b"event: account.updated") < 30 or not seen.endswith(b"\n\n"):
            seen += await answer.content.readany()
    assert [line[:6] for line in seen.split(b"\n") if line.startswith(b"data: ")] == [b"data: "] * 30


async def test_readers_that_do_not_read_hold_their_own_organizations_memory_only(
    settings: Settings, gateway: Gateway, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask: what they hold is bounded, others read on, and all is given back when they are gone."""
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.3)
    async with serving(settings) as url, AsyncExitStack() as readers:
        service = Gateway(url, settings.platform_key, gateway.session, gateway.meta)
        greedy, other = await service.organization(), await service.organization()
        await large_events(database, greedy, [200_000] * 40)
        await large_events(database, other, [200_000] * 5)
        for number in range(30):
            path = ("/events?limit=1000", "/events/stream?after=0")[number % 2]
            readers.enter_context(await connected(greedy, path))
        full = waiting.HELD_BYTES_EACH - PAGE_BYTES
        await eventually(lambda: gauge("whatsapp_ingress_page_bytes"), lambda held: held > full)
        for _ in range(5):
            assert len((await other.call("GET", "/events?limit=1000")).json["events"]) == 5
            assert gauge("whatsapp_ingress_page_bytes") <= waiting.HELD_BYTES_EACH + PAGE_BYTES
        refused = await greedy.call("GET", "/events?limit=1000")
        assert (refused.status, refused.json["code"]) == (429, "too_many_waiting")
        await readers.aclose()
        await eventually(lambda: gauge("whatsapp_ingress_page_bytes"), lambda held: held == 0)
        assert len((await greedy.call("GET", "/events?limit=1000")).json["events"]) > 10


async def test_a_page_of_messages_is_bounded_by_its_bytes(gateway: Gateway, database: Database) -> None:
    organization = await gateway.organization()
    async with database.worker() as connection:
        for _ in range(50):
            await connection.execute(
                """insert into messages (organization_id, id, conversation_id, request_hash, request, state, expires_at)
                values ($1, $2, $2, ''::bytea, $3, 'done', now())""",
                UUID(organization.id),
                new_id(),
                b'{"body":"%s"}' % (b"x" * 200_000),
            )
    before, found = "", []
    while True:
        answer = await organization.call("GET", f"/messages?limit=40{before}")
        assert len(answer.raw) <= PAGE_BYTES + 50 * 1_000
        found += [message["id"] for message in answer.json["messages"]]
        if "next" not in answer.json:
            break
        before = f"&before={answer.json['next']}"
    assert found == sorted(set(found), reverse=True)
    assert len(found) == 50


async def test_a_page_of_the_trail_is_bounded_by_its_bytes(
    gateway: Gateway, settings: Settings, database: Database
) -> None:
    organization = await gateway.organization()
    async with database.worker() as connection:
        await connection.execute(
            """insert into provider_audit_log (organization_id, id, at, action, actor, outcome, after, hash)
            select $1, 100 + n, now(), 'x', 'system', 'done', json_build_object('x', repeat('x', 300000)), ''::bytea
            from generate_series(1, 40) n""",
            UUID(organization.id),
        )
    before, found = "", []
    while True:
        answer = await organization.call("GET", f"/integrations/whatsapp/audit?limit=200{before}")
        assert len(answer.raw) <= PAGE_BYTES + 50 * 1_000
        found += [entry["id"] for entry in answer.json["entries"]]
        if "next" not in answer.json:
            break
        before = f"&before={answer.json['next']}"
    assert found == sorted(set(found), reverse=True)
    assert len(found) >= 41
    assert {*answer.json["entries"][0]} == {
        "id", "at", "action", "actor", "address", "config_id", "provider", "outcome", "version", "before", "after",
        "reason", "hash"
    }  # fmt: skip


async def test_a_batch_of_deliveries_is_bounded_by_its_bytes(gateway: Gateway, database: Database) -> None:
    """And begins with the next one, however large that is."""
    organization = await gateway.organization()
    organization_id, conversation = UUID(organization.id), new_id()
    await large_events(database, organization, [100_000] * 5)
    async with database.worker() as connection:
        await connection.execute(
            """insert into deliveries (organization_id, sequence, conversation_id)
            select organization_id, sequence, $2 from events where organization_id = $1""",
            organization_id,
            conversation,
        )
        pending = await deliveries.pending(connection, organization_id, conversation, 50)
        assert len(pending) == 2
        await connection.execute(
            "update events set data = json_build_object('x', repeat('x', 400000)) where organization_id = $1",
            organization_id,
        )
        [first] = await deliveries.pending(connection, organization_id, conversation, 50)
        assert first.sequence == pending[0].sequence


async def test_an_organization_has_one_body_replayed_at_a_time(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take many times its size; the next ones wait, and those of others do not."""
    under_way: Counter[Any] = Counter()
    arrived = most = 0
    go_on = asyncio.Event()
    replay, turn = WebhookReceiver.replay, waiting.Waiting.replay
    loud, quiet = [await gateway.organization() for _ in range(2)]

    async def counted(self: WebhookReceiver, config: Any, item: Any, *, foreign: bool) -> Any:
        nonlocal most
        owner = str(config.organization_id)
        under_way[owner] += 1
        most = max(most, under_way[owner])
        try:
            if owner == loud.id:
                await go_on.wait()
            return await replay(self, config, item, foreign=foreign)
        finally:
            under_way[owner] -= 1

    def asked(self: waiting.Waiting, organization_id: UUID) -> Any:
        nonlocal arrived
        arrived += 1
        return turn(self, organization_id)

    async def replays(organization: Organization) -> list[asyncio.Task[Any]]:
        await organization.configure()
        for place in range(3):
            assert (await organization.post_webhook(b"unreadable %d" % place)).status == 200
        items = (await organization.call("GET", "/quarantine")).json["quarantine"]
        return [asyncio.create_task(organization.call("POST", f"/quarantine/{item['id']}/replay")) for item in items]

    monkeypatch.setattr(WebhookReceiver, "replay", counted)
    monkeypatch.setattr(waiting.Waiting, "replay", asked)
    waits = await replays(loud)
    await eventually(lambda: arrived == 3)
    answers = await asyncio.gather(*await replays(quiet))
    go_on.set()
    answers += await asyncio.gather(*waits)
    assert {answer.json["code"] for answer in answers} == {"still_unreadable"}
    assert most == 1
