"""The server around the application: slow clients, an orderly end, health, metrics, and headers of every answer."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from yarl import URL

from ingress import protocol
from ingress.app import Application
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.embedded.postgres import Postgres
from ingress.dev.sandbox import MetaSimulator, Slow, StatusPolicy
from ingress.dev.sandbox.meta.bodies import encode, signed_headers
from ingress.receiving import webhook_queue
from ingress.receiving.exchange import Exchange
from ingress.sending import outbound
from ingress.settings import Settings
from ingress.storage.migration import migrate
from ingress.storage.statements.receiving.inbound import store
from ingress.web import bodies
from providers.meta_business import MetaBusiness

from . import conftest
from .gateway import Gateway, Organization, Process, Served, eventually, unused_port

SLOW_CLIENTS = 50
DEADLINE_S = 0.5
DRIP_S = 0.05
HEADER = b"POST /send HTTP/1.1\r\nhost: localhost\r\n"
GET_HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Client:
    """A raw connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, url: str) -> "Client":
        return cls(*await asyncio.open_connection(URL(url).host, URL(url).port))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """One whole answer, known by its length."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)
        lines = head.decode().lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        return int(lines[0].split()[1]), await asyncio.wait_for(self.reader.readexactly(length), 60)

    async def closed(self) -> None:
        """Wait until the service ends the connection, without an answer."""
        with contextlib.suppress(ConnectionError):
            assert await self.reader.read() == b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@pytest.fixture
async def connect(gateway: Gateway) -> AsyncIterator[Callable[[], Any]]:
    """Makes raw connections; closes what the test leaves open."""
    made: list[Client] = []

    async def make() -> Client:
        made.append(await Client.connect(gateway.url))
        return made[-1]

    yield make
    await asyncio.gather(*[client.close() for client in made])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_DEADLINE_S", DEADLINE_S)
    monkeypatch.setattr(protocol, "BODY_DEADLINE_S", DEADLINE_S)


# ---------------------------------------------------------------- slow clients


async def _drip(client: Client, data: bytes) -> None:
    """A byte at a time, until nobody takes them any more."""
    for index in range(len(data)):
        if client.reader.at_eof() or client.writer.is_closing():
            return
        client.write(data[index : index + 1])
        await asyncio.sleep(DRIP_S)


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b""),
        (HEADER, b""),
        (HEADER + b"x-slow: ", b"s" * 400),
        (b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n", b"s" * 400),
    ],
    ids=["silent", "partial-header", "header-drip", "body-drip"],
)
@pytest.mark.usefixtures("impatient")
async def test_slow_clients_are_closed_and_others_served(
    organization: Organization,
    gateway: Gateway,
    connect: Any,
    monkeypatch: pytest.MonkeyPatch,
    first: bytes,
    drip: bytes,
) -> None:
    """Whatever a connection holds back, it ends in time; meanwhile webhooks are taken as ever."""
    path = URL(organization.configs[0]["webhook_url"]).path.encode()

    async def slow() -> list[Client]:
        clients = [await connect() for _ in range(SLOW_CLIENTS)]
        for client in clients:
            client.write(first.replace(b"%s", path))
        return clients

    async def others_are_served() -> None:
        body = gateway.meta.inbound(organization.numbers[0]).text("normal")
        assert (await organization.post_webhook(body)).status == 200

    with monkeypatch.context() as patch:  # none of these ends before the others are served
        for name in ("HEADER_DEADLINE_S", "BODY_DEADLINE_S"):
            patch.setattr(protocol, name, 60.0)
        held = await slow()
        async with asyncio.timeout(30):
            for _ in range(5):
                await others_are_served()
        for client in held:
            assert not client.reader.at_eof()
            await client.close()
    started = time.monotonic()
    clients = await slow()
    drips = [asyncio.create_task(_drip(client, drip)) for client in clients]
    ends = asyncio.gather(*[client.closed() for client in clients])
    while not ends.done():
        assert time.monotonic() - started < 60
        await others_are_served()
    await ends
    assert time.monotonic() - started >= 0.8 * DEADLINE_S
    await asyncio.gather(*drips)


@pytest.mark.usefixtures("impatient")
async def test_a_slow_webhook_body_is_cut_off_and_leaves_nothing(organization: Organization, connect: Any) -> None:
    """The webhook path reads its body itself; a client that stops halfway stores nothing and breaks nothing."""
    before = len(await organization.events())
    client = await connect()
    path = URL(organization.configs[0]["webhook_url"]).path
    client.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    await asyncio.wait_for(client.closed(), 60)
    assert len(await organization.events()) == before


@pytest.mark.usefixtures("impatient")
async def test_idle_connections_are_kept(connect: Any) -> None:
    """Keep-alive: the deadline is for a request that has begun, not for the pause before the next."""
    client = await connect()
    for _ in range(2):
        client.write(GET_HEALTH)
        assert (await client.answer())[0] == 200
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 2 * DEADLINE_S)
    # The next request's header is under the deadline again.
    client.write(GET_HEALTH[:10])
    await asyncio.wait_for(client.closed(), 60)


@pytest.mark.usefixtures("impatient")
async def test_a_slow_answer_is_not_a_slow_client(organization: Organization, gateway: Gateway) -> None:
    """A long poll and a slow provider outlast the deadlines: the request came in time."""
    await gateway.meta.script(organization.numbers[0], Slow(seconds=3 * DEADLINE_S))
    assert (await organization.send()).status == 200
    latest = (await organization.call("GET", "/events?after=0&limit=1000")).json["next"]
    await organization.call("GET", f"/events?after={latest + 10**9}&wait=1")


@pytest.mark.usefixtures("impatient")
async def test_the_deadline_starts_anew_with_each_request(
    organization: Organization, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three requests on one connection, each of them just in time."""
    monkeypatch.setattr(protocol, "BODY_DEADLINE_S", 3 * DEADLINE_S)  # a busy machine may be late by half of that
    path = URL(organization.configs[0]["webhook_url"]).path.encode()
    client = await connect()
    for _ in range(3):
        client.write(b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n{" % path)
        await asyncio.sleep(1.2 * DEADLINE_S)  # the client's own pace
        client.write(b"   ")
        assert (await client.answer())[0] == 401


async def test_pipelined_requests(connect: Any) -> None:
    client = await connect()
    client.write(GET_HEALTH * 5 + GET_HEALTH[:20])
    for _ in range(5):
        assert await client.answer() == (200, b'{"status":"ok"}')
    client.write(GET_HEALTH[20:])
    assert (await client.answer())[0] == 200


@pytest.mark.usefixtures("impatient")
async def test_a_header_begun_behind_a_pipelined_request(connect: Any) -> None:
    client = await connect()
    client.write(GET_HEALTH + GET_HEALTH[:20])
    assert (await client.answer())[0] == 200
    await asyncio.wait_for(client.closed(), 60)


def webhook(organization: Organization, gateway: Gateway, text: str, version: str = "1.1") -> bytes:
    """A signed webhook as it is written on a connection."""
    raw = encode(gateway.meta.inbound(organization.numbers[0]).text(text))
    headers = signed_headers(organization.numbers[0].app_secret, raw) | {"content-length": str(len(raw)), "host": "x"}
    lines = [f"POST {URL(organization.configs[0]['webhook_url']).path} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + raw


async def test_pipelined_webhooks(organization: Organization, gateway: Gateway, connect: Any) -> None:
    """A webhook waits for its commit; what was sent behind it is answered after it, in order."""
    client = await connect()
    client.write(webhook(organization, gateway, "1") + GET_HEALTH + webhook(organization, gateway, "2") + GET_HEALTH)
    answers = [await client.answer() for _ in range(4)]
    assert [status for status, _ in answers] == [200] * 4
    assert [body for _, body in answers][1::2] == [b'{"status":"ok"}'] * 2
    texts = [event["data"]["message"]["content"]["body"] for event in (await organization.events())[-2:]]
    assert texts == ["1", "2"]


@pytest.mark.parametrize("version", ["1.1", "1.0"], ids=["webhook-path", "asgi-path"])
async def test_each_webhook_is_answered_once_where_the_store_breaks_between_rows(
    organization: Organization, gateway: Gateway, connect: Any, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """A refused batch goes row by row: one is stored, one refused and put aside, and then the connection is lost."""
    gathered, tries = asyncio.Event(), 0

    async def breaking(connection: Any, rows: Any, *more: Any, **named: Any) -> Any:
        nonlocal tries
        if any(str(row.organization_id) == organization.id for row in rows):
            tries += 1
            match tries:
                case 1:
                    await gathered.wait()
                case 2 | 4:  # the batch, and the second row of it
                    raise asyncpg.exceptions.InvalidTextRepresentationError("invalid input syntax")
                case 5:
                    raise ConnectionResetError
        return await store(connection, rows, *more, **named)

    enqueue, submitted = webhook_queue.WebhookQueue.enqueue, 0

    def counted(queue: Any, verified: Any, *more: Any) -> Any:
        nonlocal submitted
        submitted += str(verified.config.organization_id) == organization.id
        return enqueue(queue, verified, *more)

    monkeypatch.setattr(webhook_queue, "store", breaking)
    monkeypatch.setattr(webhook_queue.WebhookQueue, "enqueue", counted)
    clients = [await connect() for _ in range(5)]
    for number, client in enumerate(clients):
        client.write(webhook(organization, gateway, str(number), version))
        await eventually(lambda expected=number + 1: submitted >= expected)
    gathered.set()
    assert (await clients[0].answer())[0] == 200
    assert sorted([(await client.answer())[0] for client in clients[1:]]) == [200, 200, 503, 503]
    for client in clients:
        if version == "1.0":
            await client.closed()
        else:  # what follows is the answer to what was asked next
            client.write(GET_HEALTH)
            assert await client.answer() == (200, b'{"status":"ok"}')
    [aside] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    assert aside["reason"] == "refused_by_store"
    assert len(await organization.events(kind="message.received")) == 2
    # Both flushers go on.
    bodies = [gateway.meta.inbound(organization.numbers[0]).text(f"after {number}") for number in range(4)]
    answers = await asyncio.wait_for(asyncio.gather(*map(organization.post_webhook, bodies)), 60)
    assert [answer.status for answer in answers] == [200] * 4


async def test_a_mistake_behind_an_answer_makes_no_second_one(
    organization: Organization, gateway: Gateway, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(webhook_queue.WebhookQueue, "notify", broken)
    client = await connect()
    client.write(webhook(organization, gateway, "1"))
    assert (await client.answer())[0] == 200
    client.write(GET_HEALTH)
    assert await client.answer() == (200, b'{"status":"ok"}')


async def test_idle_connections_end(
    organization: Organization, gateway: Gateway, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After webhooks too: each one begins the time anew, and one that is being answered is not idle."""
    monkeypatch.setattr(protocol, "KEEPALIVE_S", 1.0)
    loop = asyncio.get_running_loop()
    client = await connect()
    for number in range(5):
        client.write(webhook(organization, gateway, str(number)))
        assert (await client.answer())[0] == 200
        last = loop.time()
        with contextlib.suppress(TimeoutError):  # idle for less than it may be, and in sum for longer
            await asyncio.wait_for(client.closed(), 0.3)
            pytest.fail("ended too early")
    await asyncio.wait_for(client.closed(), 60)
    assert loop.time() - last >= 0.99


async def test_chunked_bodies(organization: Organization, gateway: Gateway, connect: Any) -> None:
    """Any chunking of a body is the same body; the connection goes on afterwards."""
    raw = encode(gateway.meta.inbound(organization.numbers[0]).text("in pieces"))
    url = URL(organization.configs[0]["webhook_url"])
    headers = signed_headers(organization.numbers[0].app_secret, raw) | {"transfer-encoding": "chunked", "host": "x"}
    head = f"POST {url.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client = await connect()
    for size in (1, 7, 100_000):
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        client.write(head.encode() + b"\r\n")
        client.write(b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n")
        assert (await client.answer())[0] == 200
    assert len(await organization.events(kind="message.received")) == 1


async def test_answered_webhooks_leave_nothing_to_the_collector(organization: Organization) -> None:
    def exchanges() -> int:
        return sum(isinstance(thing, Exchange) for thing in gc.get_objects())

    # Each open connection keeps its last one: other tests may have left many, so here is one of our own.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        shared = organization.gateway
        organization.gateway = Gateway(shared.url, shared.platform_key, session, shared.meta)
        gc.collect()
        gc.disable()
        try:
            before = exchanges()
            for number in range(20):
                await organization.post_webhook(encode({"object": "page", "number": number}))
            left = exchanges() - before
        finally:
            gc.enable()
    assert left <= 2


def large(organization: Organization, size_bytes: int, version: str = "1.1") -> bytes:
    """The header of a webhook of *size_bytes* that nobody signed."""
    path = URL(organization.configs[0]["webhook_url"]).path
    return f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-length: {size_bytes}\r\n\r\n".encode()


@pytest.mark.parametrize("version", ["1.1", "1.0"], ids=["webhook-path", "asgi-path"])
async def test_large_bodies_share_a_bound(
    organization: Organization, gateway: Gateway, connect: Any, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Above it large ones are to come again; small ones are taken as ever, and large ones too when there is room."""
    monkeypatch.setattr(bodies, "MAX_HELD_BYTES", 500_000)
    body = gateway.meta.inbound(organization.numbers[0]).text("x" * 150_000)
    assert (await organization.post_webhook(body)).status == 200
    holders = [await connect() for _ in range(3)]
    for holder in holders:
        holder.write(large(organization, 1_000_000, version) + b"x" * 140_000)

    async def refused() -> bool:
        answer = await organization.post_webhook(body)
        assert answer.status == 200 or 1 <= int(answer.headers["retry-after"]) <= 5
        return answer.status == 503

    await eventually(refused)
    sender = await connect()
    sender.write(HEADER + f"authorization: Bearer {organization.key}\r\n".encode())
    sender.write(b"content-length: 250000\r\n\r\n" + b" " * 200_000)
    assert (await sender.answer())[0] == 503
    assert (await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("small"))).status == 200
    assert (await organization.send()).status == 200
    await holders.pop().close()

    async def taken() -> bool:
        return (await organization.post_webhook(body)).status == 200

    await eventually(taken)
    # Who exceeds it is answered while the body is under way.
    holders[0].write(b"x" * 250_000)
    assert (await holders[0].answer())[0] == 503
    await eventually(taken)
    # What is let go of is counted once: nothing is held, and nothing less than that.
    for holder in holders:
        await holder.close()
    await eventually(lambda: all(bodies.held_bytes == 0 for bodies in all_bodies()))


def all_bodies() -> list[bodies.LargeBodies]:
    return [thing for thing in gc.get_objects() if isinstance(thing, bodies.LargeBodies)]


@pytest.mark.parametrize("limit_bytes", [None, 100_000], ids=["of-the-service", "of-the-provider"])
async def test_a_declared_length_above_the_limit_is_refused_at_once(
    organization: Organization, connect: Any, monkeypatch: pytest.MonkeyPatch, limit_bytes: int | None
) -> None:
    info = MetaBusiness.info
    if limit_bytes is not None:
        monkeypatch.setattr(MetaBusiness, "info", msgspec.structs.replace(info, max_webhook_bytes=limit_bytes))
    assert (await organization.post_webhook(b"{}")).status == 200
    most = limit_bytes or info.max_webhook_bytes
    client = await connect()
    client.write(large(organization, most + 1))
    assert (await client.answer())[0] == 413
    client = await connect()
    client.write(large(organization, most))
    client.write(b"x" * most)
    assert (await client.answer())[0] == 401


async def test_an_idle_connection_keeps_no_body(organization: Organization, gateway: Gateway, connect: Any) -> None:
    client = await connect()
    client.write(webhook(organization, gateway, "x" * 300_000))
    assert (await client.answer())[0] == 200
    exchanges = [thing for thing in gc.get_objects() if isinstance(thing, Exchange)]
    assert max(sum(map(len, one._chunks)) for one in exchanges) <= bodies.SMALL_BODY_BYTES


async def test_nonsense_is_refused(connect: Any) -> None:
    client = await connect()
    client.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(client.reader.readline(), 60)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/events", 200),
        ("GET", "/messages", 200),
        ("GET", "/nothing", 404),
        ("GET", "/integrations/whatsapp/nothing", 404),
        ("GET", "/events/", 404),
        ("GET", "/integrations/whatsapp/status/", 404),
        ("GET", "/messages/no-id", 404),
        ("GET", "/send", 405),
        ("DELETE", "/events", 405),
        ("POST", "/healthz", 405),
        ("POST", "/send", 415),
        ("GET", "/events?after=x", 422),
        ("GET", "/organizations", 403),
    ],
)
async def test_headers_of_every_answer(organization: Organization, method: str, path: str, status: int) -> None:
    answer = await organization.call(method, path)
    assert answer.status == status  # of no redirect, which would be made from a request's Host
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["status"] == status
        assert answer.json["code"]
        # A 404 says the same whatever is missing.
        assert answer.json.get("request_id") == (None if status == 404 else answer.headers["x-request-id"])
    if status == 405:
        assert "GET" in answer.headers["allow"] or "POST" in answer.headers["allow"]


async def test_request_ids_differ(gateway: Gateway) -> None:
    answers = await asyncio.gather(*[gateway.call("GET", "/healthz", x_request_id="mine") for _ in range(20)])
    assert len({answer.headers["x-request-id"] for answer in answers} - {"mine"}) == 20


async def test_an_answer_without_a_key(gateway: Gateway) -> None:
    answer = await gateway.call("GET", "/events")
    assert (answer.status, answer.json["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_webhook_answers_are_not_sniffed(organization: Organization) -> None:
    for answer in (await organization.post_webhook(b"{}"), await organization.call("GET", "/webhooks/x/y")):
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_mistake_of_ours_is_told_without_details(
    gateway: Gateway, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingress.storage.statements.reports import search

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(search, "sent", broken)
    answer = await organization.call("GET", "/messages")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert b"secret" not in answer.raw
    assert answer.json["request_id"] == answer.headers["x-request-id"]


# ---------------------------------------------------------------- health and metrics

# Every one that a dashboard or an alert may rely on.
METRICS = (
    "http_request_duration_seconds",
    "ingest_ack_duration_seconds",
    "ingest_events",
    "ingest_batch_rows",
    "ingest_flush_duration_seconds",
    "ingest_queue_events",
    "ingest_queue_bytes",
    "ingest_queue_oldest_seconds",
    "ingest_provider_lag_seconds",
    "quarantine",
    "quarantine_open",
    "delivery_attempts",
    "delivery_duration_seconds",
    "delivery_dwell_seconds",
    "delivery_pending",
    "delivery_oldest_seconds",
    "deliveries_parked",
    "send_requests",
    "send_attempts",
    "send_attempt_duration_seconds",
    "send_terminal",
    "send_end_to_end_seconds",
    "send_pending",
    "send_oldest_seconds",
    "send_ambiguous_open",
    "sends_lost",
    "retry_budget_exhausted",
    "fallback",
    "status_updates",
    "status_orphans",
    "fence_rejections",
    "provider_switch_seconds",
    "provider_switch_phase_seconds",
    "provider_switch_propagation_seconds",
    "provider_switch_in_flight",
    "rollbacks",
    "db_pool_in_use",
    "db_pool_wait_seconds",
    "db_errors",
    "redis_up",
    "redis_errors",
    "event_loop_lag_seconds",
    "lease_reclaims",
    "ssrf_blocked",
    "auth_failures",
    "connections_ended",
    "build_info",
)
# Of OBS-1; `source` and `version` are where OBS-3 has them, `phase` is one of a switch's, `table` is one whose rows are
# let go in time, `le` is Prometheus's own.
LABELS = {
    *("provider", "kind", "outcome", "reason", "route", "method", "code_class", "pool", "state", "class"),
    *("source", "version", "phase", "table", "le"),
}


async def test_metrics(organization: Organization, gateway: Gateway) -> None:
    """OBS-1, OBS-3: every name, no label that names an organization, in both formats."""
    await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("x"))
    await organization.send()
    answer = await gateway.metrics()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in parse_text(answer.raw.decode())}
    assert [name for name in METRICS if f"whatsapp_ingress_{name}" not in families] == []
    assert {name for name in families if not name.startswith(("whatsapp_ingress_", "process_", "python_"))} == set()
    for family in families.values():
        assert family.documentation
        for sample in family.samples:
            if family.name.startswith("whatsapp_ingress_"):
                assert set(sample.labels) <= LABELS, sample
                assert not {organization.id, organization.key} & set(sample.labels.values())
    acked = [
        sample.value
        for sample in families["whatsapp_ingress_ingest_ack_duration_seconds"].samples
        if sample.labels == {"provider": "meta_business", "outcome": "acked"}
    ]
    assert max(acked) >= 1

    accept = "application/openmetrics-text; version=1.0.0"
    answer = await gateway.metrics(accept=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.raw.endswith(b"# EOF\n")
    assert set(families) <= {family.name for family in parse_openmetrics(answer.raw.decode())} | {
        family for family in families if family.endswith("_created")
    }


async def test_health(gateway: Gateway) -> None:
    alive, ready = await gateway.call("GET", "/healthz"), await gateway.call("GET", "/readyz")
    assert (alive.status, alive.json) == (200, {"status": "ok"})
    assert (ready.status, ready.json) == (200, {"status": "ready"})


async def test_not_ready_where_a_commit_may_be_lost(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that may forget what it confirmed is not fit, and the answer says why."""
    monkeypatch.setattr(Postgres, "_settings", (*Postgres._settings, "full_page_writes=off"))
    with EmbeddedServers(tmp_path, valkey=False) as careless:
        assert careless.database_url
        await migrate(careless.database_url)
        changed = msgspec.structs.replace(settings, database_url=careless.database_url)
        async with (
            conftest.serving(changed) as url,
            aiohttp.ClientSession() as session,
            session.get(f"{url}/readyz") as answer,
        ):
            assert answer.status == 503
            assert "full_page_writes is off" in (await answer.json())["detail"]


async def test_draining_is_not_ready(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment it is asked to stop, nothing new is to be sent its way; what comes is still answered."""
    made: list[Application] = []

    def remembered(settings: Settings) -> Application:
        made.append(Application(settings))
        return made[-1]

    monkeypatch.setattr(conftest, "Application", remembered)
    async with conftest.serving(settings) as url, aiohttp.ClientSession() as session:
        made[0].closing.set()
        async with session.get(f"{url}/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, {"status": "draining"})
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200


# ---------------------------------------------------------------- the process


@pytest.fixture
def environment(settings: Settings, free_port: int) -> dict[str, str]:
    return {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "INGRESS_PORT": str(free_port),
        "INGRESS_METRICS_PORT": str(unused_port()),
        "INGRESS_PLATFORM_KEY": settings.platform_key,
        "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
        "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
    }


@pytest.fixture
async def process(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[Process]:
    running = Process(environment, tmp_path / "service.log")
    await running.start()
    yield running
    running.kill()


@pytest.fixture
async def own_gateway(
    process: Process, environment: dict[str, str], settings: Settings, meta: MetaSimulator
) -> AsyncIterator[Gateway]:
    """The service as a process of its own."""
    async with aiohttp.ClientSession() as session:
        url = Served(int(environment["INGRESS_PORT"]), int(environment["INGRESS_METRICS_PORT"]))
        yield Gateway(url, settings.platform_key, session, meta)


async def test_an_orderly_end(own_gateway: Gateway, process: Process, gateway: Gateway, tmp_path: Path) -> None:
    """SIGTERM; sends and webhooks under way end well, readers are let go, nothing is lost, status 0."""
    organization = await own_gateway.organization()
    await organization.configure()
    meta, number = own_gateway.meta, organization.numbers[0]
    meta.set_statuses(number, StatusPolicy(statuses=()))  # they would go on coming after the end
    await meta.set_default(number, Slow(seconds=0.7))
    taken: list[str] = []
    before = len(meta.sends)
    sends = [asyncio.create_task(organization.send()) for _ in range(10)]
    later = await organization.send(prefer="respond-async")
    await meta.wait_for(lambda: len(meta.sends) == before + 11)

    async def write(writer: int) -> None:
        """Webhooks without a pause, until nobody listens any more."""
        with contextlib.suppress(aiohttp.ClientError):
            while True:
                text = f"{writer} {len(taken)}"
                answer = await organization.post_webhook(meta.inbound(number).text(text))
                assert answer.status == 200
                taken.append(text)

    headers = {"authorization": f"Bearer {organization.key}"}
    async with own_gateway.session.get(f"{own_gateway.url}/events/stream?after=0", headers=headers) as stream:
        poll = asyncio.create_task(organization.call("GET", f"/events?after={10**17}&wait=30"))
        await stream.content.readuntil(b"retry: 1000\n")
        writers = [asyncio.create_task(write(writer)) for writer in range(8)]
        await eventually(lambda: len(taken) > 20)
        started = time.monotonic()
        stopping = asyncio.create_task(process.stop())
        # Its own port is there until the end: it says why nothing new is to come, and what was counted.
        ready = f"{own_gateway.operations}/readyz"
        draining = await eventually(lambda: own_gateway.call("GET", ready), lambda answer: answer.status == 503)
        scraped = await own_gateway.metrics()
        answers = await asyncio.gather(*sends)
        # Streams and polls end by themselves; a client is not made to wait for the grace period.
        await asyncio.wait_for(stream.content.read(), 10)
        polled = await asyncio.wait_for(poll, 10)
    status = await stopping
    took_s = time.monotonic() - started

    assert draining.json == {"status": "draining"}
    assert b"whatsapp_ingress_build_info" in scraped.raw
    assert {answer.status for answer in answers} == {200}
    assert (polled.status, polled.json["events"]) == (200, [])
    await asyncio.wait_for(asyncio.gather(*writers), 60)
    assert "server" not in answers[0].headers
    assert (status, took_s < 10) == (0, True), (tmp_path / "service.log").read_text()[-2000:]
    # Another process of the same service knows all of it.
    organization.gateway = gateway
    message = await organization.message(later.json["id"])
    assert (message["state"], message["attempts"][0]["class"]) == ("done", "ok")
    events = await organization.events(kind="message.received")
    assert set(taken) <= {event["data"]["message"]["content"]["body"] for event in events}
    log = (tmp_path / "service.log").read_text()
    assert "Traceback" not in log
    # Other tests leave configs in this database whose plug-in is there no more; every process looks at them.
    errors = [line for line in log.splitlines() if '"level":"error"' in line and "which is not installed" not in line]
    assert errors == []
    assert log.count("owns the schema: for development only") == 1


async def test_a_second_signal_ends_at_once(own_gateway: Gateway, process: Process, gateway: Gateway) -> None:
    """Who asks twice does not want to wait. What was under way is left to another process, and not forgotten."""
    organization = await own_gateway.organization()
    await organization.configure()
    own_gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
    await own_gateway.meta.set_default(organization.numbers[0], Slow(seconds=60))
    before = len(own_gateway.meta.sends)
    later = await organization.send(prefer="respond-async")
    await own_gateway.meta.wait_for(lambda: len(own_gateway.meta.sends) > before)
    started = time.monotonic()
    stopping = asyncio.create_task(process.stop())
    await asyncio.sleep(0)
    os.kill(process.pid, signal.SIGINT)
    await stopping
    assert time.monotonic() - started < outbound.DRAIN_S
    organization.gateway = gateway
    assert (await organization.message(later.json["id"]))["state"] == "sending"


@pytest.mark.parametrize("name", ["INGRESS_PORT", "INGRESS_METRICS_PORT"])
async def test_a_port_that_is_taken(environment: dict[str, str], name: str) -> None:
    """One line that says what and how to change it; nothing was started before."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(environment[name])))
        other.listen()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "ingress", "serve"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            cwd=Path(__file__).parent.parent,
        )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert f"127.0.0.1:{environment[name]}" in line
    assert line.endswith(f"set {name}")
