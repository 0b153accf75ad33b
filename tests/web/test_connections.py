"""How long a connection may take, how much it may hold, and how many there may be."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ingress import protocol
from ingress.calls.transfers import TRANSFERS
from ingress.delivery.places import CONCURRENCY
from ingress.sending.bulkhead import SLOTS
from ingress.server import OPERATIONS_CONNECTIONS, listen
from ingress.settings import MAX_DATABASE_CONNECTIONS, Settings
from ingress.web import bodies, connections, http_requests
from ingress.web.connections import MAX_REFUSED, OTHER_FILES, Connections

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually
from ..raw_http import HEALTH, Client, bearer, path_of, request, webhook

DEADLINE_S = 0.4


# ---------------------------------------------------------------- headers


def _header(size_bytes: int, *, in_target: bool = False) -> bytes:
    """A GET of /healthz with a header of *size_bytes*."""
    start, end = (
        (b"GET /healthz?", b" HTTP/1.1\r\nhost: x") if in_target else (b"GET /healthz HTTP/1.1\r\nhost: x\r\na:", b"")
    )
    return start + b"x" * (size_bytes - len(start) - len(end) - 4) + end + b"\r\n\r\n"


def _many_headers(size_bytes: int) -> bytes:
    lines = HEALTH[:-2] + (b"a:" + b"b" * 500 + b"\r\n") * (http_requests.MAX_HEADERS - 2)
    return lines + b"c:" + b"d" * (size_bytes - len(lines) - 6) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [10**6, 5_000, 1], ids=["at-once", "in-pieces", "byte-by-byte"])
async def test_a_header_has_64_kib_to_the_byte(connect: Any, step: int) -> None:
    for excess, header in itertools.product((0, 1), (_header, _many_headers)):
        whole = header(http_requests.MAX_HEADER_BYTES + excess)
        client = await connect()
        cut = len(whole) - 40 if step == 1 else 0  # the way there is the same
        pieces = [whole[at : at + step] for at in range(cut, len(whole), step)]
        await client.write(whole[:cut], *pieces)
        answer = await client.answer()
        assert answer.status == (431 if excess else 200)
        if excess:
            assert (answer.headers["connection"], msgspec.json.decode(answer.body)["code"]) == (
                "close",
                "header_too_large",
            )
            assert await client.is_closed()


@pytest.mark.parametrize("excess", [0, 1])
async def test_headers_are_counted(connect: Any, excess: int) -> None:
    """Thousands of tiny ones cost what no body does."""
    client = await connect()
    await client.write(HEALTH[:-2] + b"a:\r\n" * (http_requests.MAX_HEADERS - 1 + excess) + b"\r\n")
    answer = await client.answer()
    assert answer.status == (431 if excess else 200)


async def test_an_address_counts_as_header(connect: Any) -> None:
    for excess in (0, 1):
        client = await connect()
        await client.write(_header(http_requests.MAX_HEADER_BYTES + excess, in_target=True))
        assert (await client.answer()).status == (431 if excess else 200)


async def test_each_header_has_its_own_bound(organization: Organization, connect: Any) -> None:
    """Neither what is before it nor its body counts."""
    client = await connect()
    full = _header(http_requests.MAX_HEADER_BYTES)
    body = webhook(organization, b"x" * 200_000)
    await client.write(HEALTH + full + body + full)
    assert [(await client.answer()).status for _ in range(4)] == [200] * 4
    await client.write(full[:-1] + b"x\r\n\r\n")
    assert [answer.status for answer in await client.answers()] == [431]


async def test_a_header_without_end_is_not_taken(connect: Any) -> None:
    """Who goes on after the answer is cut off."""
    client = await connect()
    await client.write(b"GET /healthz HTTP/1.1\r\na: ")
    for _ in range(400):
        await client.write(b"x" * 65_536)
        if client.writer.is_closing() or client.reader.at_eof():
            break
    answers = await client.answers()
    assert [answer.status for answer in answers] in ([431], [])  # the answer may be lost to who does not read


# ---------------------------------------------------------------- bodies


CHUNKED = "transfer-encoding: chunked"


async def test_trailers_are_no_headers(organization: Organization, connect: Any) -> None:
    """Neither a key, nor a signature, nor the header of the next request."""
    raw = webhook(organization, b"{}")
    signature = next(line for line in raw.split(b"\r\n") if line.lower().startswith(b"x-hub-signature-256"))
    for head, trailer in (
        (request("POST", "/send", CHUNKED), bearer(organization).encode()),
        (request("POST", path_of(organization), CHUNKED), signature),
        (request("POST", path_of(organization), CHUNKED, "expect: 100-continue"), signature),
    ):
        client = await connect()
        await client.write(head + b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n\r\n" + HEALTH)
        if b"expect" in head:
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        assert [(await client.answer()).status for _ in range(2)] == [401, 200]


@pytest.mark.parametrize(
    ("piece", "status"),
    [
        (b"1;" + b"x" * 500_000 + b"\r\na\r\n", 413),
        (b"0\r\na: " + b"b" * 500_000 + b"\r\nc: ", 413),
        (b"0\r\n" + b"a: b\r\n" * 300_000, 431),
        (b"1\r\na\r\n" * 10_000, 200),
    ],
    ids=["extensions", "long-trailers", "many-trailers", "small-chunks"],
)
async def test_what_frames_a_body_is_bounded(
    organization: Organization, connect: Any, piece: bytes, status: int
) -> None:
    """Of the content there is little; what is around it costs the same to read."""
    client = await connect()
    raw = webhook(organization, b"a" * 10_000)
    head = raw[: raw.index(b"\r\n\r\n")].replace(b"content-length: 10000", CHUNKED.encode()) + b"\r\n\r\n"
    writing = asyncio.create_task(client.write(head, *[piece] * (4 if status > 400 else 1), b"0\r\n\r\n"))
    answer = await client.answer()
    assert (answer.status, answer.headers.get("connection")) == (status, "close" if status > 400 else None)
    await writing


@pytest.mark.parametrize("value", ["chunked", "Chunked", "chunked ", "\tCHUNKED"])
async def test_chunked_may_be_written_in_many_ways(organization: Organization, connect: Any, value: str) -> None:
    client = await connect()
    head = request("POST", "/send", bearer(organization), f"transfer-encoding:{value}")
    await client.write(head + b"2\r\n{}\r\n0\r\n\r\n" + HEALTH)
    assert [(await client.answer()).status for _ in range(2)] == [422, 200]


async def test_an_answer_before_a_long_body_ends_the_connection(organization: Organization, connect: Any) -> None:
    """The client sees it, and then the end; what is in the body is no request."""
    for target, headers, status in (
        ("/send", (), 401),
        ("/media", (bearer(organization),), 415),
        ("/nothing", (), 404),
        (f"/webhooks/meta_business/{'x' * 32}", (), 404),
    ):
        client = await connect()
        body = HEALTH * 100_000
        writing = asyncio.create_task(client.write(request("POST", target, *headers, body=body)))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close"), target
        assert await client.is_closed(), target
        writing.cancel()


async def test_an_answer_before_a_short_body_leaves_the_connection(connect: Any) -> None:
    client = await connect()
    await client.write(request("POST", "/send", f"content-length: {len(HEALTH) * 100}"))
    assert (await client.answer()).status == 401
    await client.write(HEALTH * 100, HEALTH)
    assert (await client.answer()).status == 200
    assert not await client.is_closed(0.01)


async def test_nobodys_body_is_waited_for(gateway: Gateway, connect: Any) -> None:
    """Every route that takes a body asks who sends it, first."""
    paths = (await gateway.call("GET", "/openapi.json")).json["paths"]
    routes = [(method.upper(), path) for path, methods in paths.items() for method in methods if method != "get"]
    assert len(routes) > 20
    for method, path in routes:
        if path.startswith("/webhooks/"):
            continue
        client = await connect()
        await client.write(request(method, path.replace("{", "").replace("}", ""), "content-length: 70000"))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close"), path


async def test_half_a_body_of_a_stranger_is_not_held(organization: Organization, connect: Any) -> None:
    """Who is unknown is answered when that is known, whatever the length."""
    unknown = f"/webhooks/meta_business/{'u' * 32}"
    for version, target in itertools.product((b"HTTP/1.1", b"HTTP/1.0"), (unknown, "/send")):
        client = await connect()
        head = request("POST", target, "content-length: 1000000").replace(b"HTTP/1.1", version)
        await client.write(head, b"x" * 70_000)
        answer = await client.answer()
        assert answer.status in ({401} if target == "/send" else {404, 413})
        assert await client.is_closed()


async def test_one_organization_may_hold_a_share(
    organization: Organization, gateway: Gateway, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its large bodies are refused above it, another one's are taken; it counts its webhooks and its API together."""
    other = await gateway.organization()
    await other.configure()
    for known in (organization, other):
        assert (await known.post_webhook(b"{}")).status == 200
    monkeypatch.setattr(bodies, "MAX_SHARE_BYTES", 300_000)
    holders = [await connect() for _ in range(2)]
    raw = webhook(organization, b"x" * 160_000)
    await holders[0].write(raw[:150_000])
    await holders[1].write(request("POST", "/send", bearer(organization), "content-length: 200000") + b" " * 90_000)

    async def refused() -> bool:
        return (await organization.post_webhook(b"x" * 100_000)).status == 503

    await eventually(refused)
    assert (await other.post_webhook(b"x" * 100_000)).status == 200
    assert (await organization.post_webhook(b"{}")).status == 200
    await holders[1].close()
    await holders[0].write(raw[150_000:])
    assert (await holders[0].answer()).status == 200

    async def taken() -> bool:
        return (await organization.post_webhook(b"x" * 100_000)).status == 200

    await eventually(taken)


# ---------------------------------------------------------------- deadlines


async def _drip(client: Client, piece: bytes, every_s: float = 0.03) -> None:
    while not client.writer.is_closing() and not client.reader.at_eof():
        await client.write(piece)
        await asyncio.sleep(every_s)


@pytest.mark.parametrize("before", [b"", HEALTH], ids=["first", "next"])
async def test_empty_lines_are_no_sign_of_life(
    organization: Organization, connect: Any, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """They may be before a request, and stop no clock."""
    for name in ("HEADER_DEADLINE_S", "KEEPALIVE_S"):
        monkeypatch.setattr(protocol, name, DEADLINE_S)
    client = await connect()
    await client.write(before)
    if before:
        assert (await client.answer()).status == 200
    dripping = asyncio.create_task(_drip(client, b"\r\n"))
    assert await client.is_closed()
    await asyncio.wait_for(dripping, 60)


def _small_window(client: Client) -> None:
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)


@pytest.mark.parametrize("reads", [False, True])
async def test_who_never_reads_is_cut_off_and_who_reads_slowly_is_not(
    gateway: Gateway, connect: Any, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    deadline_s = 2.0 if reads else DEADLINE_S  # a busy machine may stand still for longer than the short one
    monkeypatch.setattr(protocol, "WRITE_DEADLINE_S", deadline_s)
    monkeypatch.setattr(connections, "SWEEP_S", DEADLINE_S / 10)
    size = len((await gateway.call("GET", "/openapi.json")).raw)
    client = await connect()
    _small_window(client)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # a stream's transport reads
    await client.write(request("GET", "/openapi.json") * (20_000_000 // size))
    ended = connections_ended("slow_reader")
    if not reads:
        await eventually(lambda: connections_ended("slow_reader") == ended + 1)
        return
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]  # as above
    for _ in range(6):
        await asyncio.sleep(deadline_s / 4)  # the client's own pace
        await client.reader.readexactly(100_000)
    assert connections_ended("slow_reader") == ended


def connections_ended(reason: str) -> float:
    from ingress import metrics

    return float(metrics.connections_ended.labels(reason)._value.get())


# ---------------------------------------------------------------- how many


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is made now has ten connections, and two of them for the API."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 10)
    monkeypatch.setattr(connections, "API_PERCENT", 20)


@pytest.fixture
async def small(few: None, settings: Settings) -> AsyncIterator[str]:
    async with serving(settings) as url:
        yield url


async def test_who_says_nothing_beyond_the_last_connection_is_let_go(
    settings: Settings, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of very many nothing is read at all."""
    monkeypatch.setattr(protocol, "LINGER_S", DEADLINE_S)
    monkeypatch.setattr(connections, "MAX_REFUSED", 2)
    async with serving(msgspec.structs.replace(settings, connections_per_address=1)) as url:
        first = await connect(url)
        assert await _health(first) == 200
        beyond = [await connect(url) for _ in range(5)]
        assert all([await client.is_closed() for client in beyond])
        assert await _health(first) == 200


async def _poll(client: Client, organization: Organization) -> None:
    await client.write(request("GET", f"/events?after={10**17}&wait=30", bearer(organization)))


async def _health(client: Client) -> int:
    await client.write(HEALTH)
    return int((await client.answer()).status)


async def test_the_longest_idle_connection_makes_room(small: str, connect: Any) -> None:
    first = await connect(small)
    assert await _health(first) == 200
    rest = [await connect(small) for _ in range(9)]
    for client in rest:
        assert await _health(client) == 200
    assert await _health(await connect(small)) == 200
    assert await first.is_closed()
    assert await _health(rest[-1]) == 200


async def test_half_requests_make_room_too(small: str, connect: Any, organization: Organization) -> None:
    """Whatever they hold back: nothing, a header, or the body of a webhook or a call."""
    halves = [b"", HEALTH[:20], request("POST", path_of(organization), "content-length: 5")]
    for number in range(30):
        await (await connect(small)).write(halves[number % 3])
    client = await connect(small)
    await client.write(webhook(organization, b"{}"))
    assert (await client.answer()).status == 200


async def test_the_api_leaves_connections_to_webhooks_and_health(
    small: str, connect: Any, organization: Organization
) -> None:
    for _ in range(2):
        await _poll(await connect(small), organization)

    async def full() -> bool:
        client = await connect(small)
        await client.write(request("GET", "/messages", bearer(organization)))
        answer = await client.answer()
        if answer.status != 503:
            return False
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert answer.headers["content-type"] == "application/problem+json"
        assert await client.is_closed()
        return True

    await eventually(full)
    client = await connect(small)
    await client.write(webhook(organization, b"{}") + HEALTH + request("GET", "/readyz"))
    assert [(await client.answer()).status for _ in range(3)] == [200] * 3


async def test_beyond_the_last_connection_the_answer_is_to_come_again(
    small: str, connect: Any, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are being answered: none can be closed for somebody else. But is the process alive? It is."""
    monkeypatch.setattr(connections, "API_PERCENT", 100)
    polls = [await connect(small) for _ in range(10)]
    for poll in polls:
        await _poll(poll, organization)

    async def refused() -> bool:
        client = await connect(small)
        await client.write(webhook(organization, b"{}"))
        answer = await client.answer()
        if answer.status != 503:
            return False
        assert 1 <= int(answer.headers["retry-after"]) <= 5
        assert await client.is_closed()
        return True

    await eventually(refused)
    client = await connect(small)
    await client.write(HEALTH + HEALTH)
    assert [(answer.status, answer.headers["connection"]) for answer in await client.answers()] == [(200, "close")]
    await polls[0].close()

    async def taken() -> bool:
        client = await connect(small)
        await client.write(webhook(organization, b"{}"))
        return bool((await client.answer()).status == 200)

    await eventually(taken)


async def test_much_behind_an_answer_under_way_waits_its_turn(
    organization: Organization, gateway: Gateway, connect: Any
) -> None:
    """A megabyte of webhooks behind a long poll: none is lost, none is early."""
    client = await connect()
    texts = [f"{number} {'x' * 100_000}" for number in range(10)]
    latest = (await organization.call("GET", "/events?after=0&limit=1000")).json["next"]
    await client.write(request("GET", f"/events?after={latest + 10**9}&wait=1", bearer(organization)))
    for text in texts:
        client.writer.write(webhook(organization, gateway.meta.inbound(organization.numbers[0]).text(text)))
    assert [(await client.answer()).status for _ in range(11)] == [200] * 11

    async def received() -> list[str]:
        events = await organization.events(kind="message.received")
        return [event["data"]["message"]["content"]["body"] for event in events]

    await eventually(received, lambda found: found == texts)  # large ones are read soon, in their order


def test_connections_inherit_their_options() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        made, _ = listening.accept()
        with made:
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * 1024
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_a_stream_whose_reader_is_gone_ends(small: str, connect: Any, organization: Organization) -> None:
    """Also where something is sent behind the request, or the socket is closed in one direction only."""
    for behind, how in itertools.product((b"", b"\r\n", HEALTH), ("close", "write_eof")):
        for _ in range(2):
            client = await connect(small)
            await client.write(request("GET", "/events/stream", bearer(organization)) + behind)
            await asyncio.wait_for(client.reader.readuntil(b"retry: 1000"), 60)
            getattr(client.writer, how)()

        async def served() -> bool:
            client = await connect(small)
            await client.write(request("GET", "/messages", bearer(organization)))
            return bool((await client.answer()).status == 200)

        await eventually(served, timeout=10)  # before the next comment would find out


async def _asked(client: Client) -> int:
    await client.write(request("GET", "/messages"))
    return int((await client.answer()).status)


@pytest.mark.parametrize(("trusted", "status"), [("", 503), ("127.0.0.1", 401)])
async def test_one_address_has_a_bound_but_for_a_proxy_that_is_trusted(
    settings: Settings, connect: Any, trusted: str, status: int
) -> None:
    bounded = msgspec.structs.replace(settings, connections_per_address=3, trusted_proxies=trusted)
    async with serving(bounded) as url:
        clients = [await connect(url) for _ in range(3)]
        for client in clients:
            assert await _asked(client) == 401
        assert await _asked(await connect(url)) == status
        assert await _asked(await connect(url, "127.0.0.2")) == 401
        assert await _asked(clients[0]) == 401
        await clients[0].close()

        async def again() -> bool:
            return await _asked(await connect(url)) == 401

        await eventually(again)


class _Connection:
    def __init__(self, host: str | None) -> None:
        self.host = host
        self.is_waiting = False
        self.waiting_since = 0.0

    def evict(self) -> None: ...

    def look(self, now: float) -> None: ...


@pytest.mark.parametrize(
    ("hosts", "entered"),
    [
        (["10.0.0.1"] * 3, 2),
        (["10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"], 2),
        (["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3"], 2),
        (["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1"], 3),
        (["fe80::1%eth0"] * 3, 2),
        (["::ffff:10.0.0.1", "::ffff:10.0.0.2", "::ffff:10.0.0.3"], 3),
        ([None] * 3, 3),
        (["192.168.0.1", "::ffff:192.168.0.1", "192.168.0.1"], 3),
    ],
)
async def test_who_is_one_client(hosts: list[str | None], entered: int) -> None:
    fence = Connections(100, 2, Settings(trusted_proxies="192.168.0.0/16").trusted_networks)
    made = [_Connection(host) for host in hosts]
    assert sum(fence.enter(connection) for connection in made) == entered
    for connection in made:
        fence.leave(connection)
    assert not fence._of_client
    assert not fence._refused


def test_files_are_left_for_everything_else_at_once() -> None:
    """Else a flood of clients would leave none for the database, and a slow provider none for clients."""
    refused = 2 * MAX_REFUSED + OPERATIONS_CONNECTIONS
    assert SLOTS + TRANSFERS + CONCURRENCY + refused + MAX_DATABASE_CONNECTIONS <= OTHER_FILES
