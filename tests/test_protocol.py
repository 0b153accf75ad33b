"""What arrives on a connection: requests that are none, more than one, or never end. One answer each, in order."""

import ast
import asyncio
import gc
import inspect
import itertools
import logging
import os
import random
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any

import msgspec
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ingress import protocol
from ingress.receiving.exchange import Exchange
from ingress.switching.routes import Routes

from .gateway import Gateway, Organization
from .raw_http import HEALTH, Client, bearer, path_of, request, webhook

# How many connections are cut at random places; the long form has 100,000.
CUTS = int(os.environ.get("INGRESS_TEST_CUTS", "300"))


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing that a client sends is worth a warning: a flood of it would be a flood of them."""
    with caplog.at_level(logging.WARNING):
        yield caplog
    # A breaker of an earlier test's account half-opens when its time has come.
    others = [record for record in caplog.records if record.name != "ingress.sending.breakers"]
    assert [record.getMessage() for record in others] == []


# ---------------------------------------------------------------- another protocol

UPGRADES = {
    "h2c": ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQ"),
    "websocket": ("connection: Upgrade", "upgrade: websocket"),
    "tls": ("connection: upgrade", "upgrade: TLS/1.0"),
    "unknown": ("connection: upgrade", "upgrade: foo"),
    "several": ("connection: keep-alive, upgrade", "upgrade: foo, h2c"),
    "mixed-case": ("CONNECTION: uPgRaDe", "uPGRADE: WebSocket"),
}
NO_UPGRADES = {
    "header-only": ("upgrade: h2c",),
    "connection-only": ("connection: upgrade",),
    "empty": ("connection: upgrade", "upgrade:"),
}
FORMS = list(itertools.product((False, True), repeat=2))


def asked(organization: Organization, kind: str, headers: tuple[str, ...]) -> bytes:
    """A request whose body would be one too."""
    match kind:
        case "webhook":
            return webhook(organization, HEALTH, *headers)
        case "api":
            return request(
                "POST", "/send", bearer(organization), "content-type: application/json", *headers, body=HEALTH
            )
    return request("GET", "/healthz", *headers, body=HEALTH)


@pytest.mark.parametrize("kind", ["webhook", "api", "health"])
@pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES)
async def test_who_asks_for_another_protocol_is_refused_and_nothing_behind_is_read(
    organization: Organization, connect: Any, quiet: Any, kind: str, headers: tuple[str, ...]
) -> None:
    """The parser would skip the body, and take its bytes for the next requests of the connection."""
    for in_pieces, behind in FORMS:
        client = await connect()
        whole = asked(organization, kind, headers)
        cut = whole.index(b"\r\n\r\n") + 4
        pieces = [whole[:cut], whole[cut:]] if in_pieces else [whole]
        if behind:
            pieces[0] = HEALTH + pieces[0]
        await client.write(*pieces, HEALTH)
        *before, last = await client.answers()
        assert [answer.status for answer in before] == [200] * behind
        assert (last.status, last.headers["connection"]) == (400, "close")
        assert msgspec.json.decode(last.body)["code"] == "upgrade_refused"


@pytest.mark.parametrize("kind", ["webhook", "api", "health"])
@pytest.mark.parametrize("headers", NO_UPGRADES.values(), ids=NO_UPGRADES)
async def test_half_an_upgrade_is_an_ordinary_request(
    organization: Organization, connect: Any, quiet: Any, kind: str, headers: tuple[str, ...]
) -> None:
    status = {"webhook": 200, "api": 422, "health": 200}[kind]
    for in_pieces, behind in FORMS:
        client = await connect()
        whole = asked(organization, kind, headers)
        cut = whole.index(b"\r\n\r\n") + 4
        pieces = [whole[:cut], whole[cut:]] if in_pieces else [whole]
        await client.write(HEALTH * behind + pieces[0], *pieces[1:], HEALTH)
        answers = [await client.answer() for _ in range(behind + 2)]
        assert [answer.status for answer in answers] == [200] * behind + [status, 200]
        assert not await client.is_closed(0.01)


@pytest.mark.parametrize("behind", [False, True])
async def test_no_tunnel_is_made(connect: Any, quiet: Any, behind: bool) -> None:
    client = await connect()
    await client.write(HEALTH * behind + b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n" + HEALTH)
    assert [answer.status for answer in await client.answers()] == [200] * behind + [400]


async def test_a_refusal_waits_for_the_answer_before_it(organization: Organization, connect: Any) -> None:
    """A long poll is under way; what is wrong behind it is answered after it."""
    latest = (await organization.call("GET", "/events?after=0&limit=1000")).json["next"]
    for wrong in (b"NONSENSE\r\n\r\n", HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")):
        client = await connect()
        await client.write(request("GET", f"/events?after={latest + 10**9}&wait=1", bearer(organization)) + wrong)
        answers = await client.answers()
        assert [answer.status for answer in answers] == [200, 400]
        assert msgspec.json.decode(answers[0].body)["events"] == []


# ---------------------------------------------------------------- pieces


async def _dialogue(organizations: list[Organization], gateway: Gateway, dice: random.Random) -> Any:
    """(request, right answer) of several kinds; what is asked is in the answer."""
    organization, number = dice.choice(organizations), dice.randrange(10**12)
    match dice.randrange(8):
        case 0:
            text = gateway.meta.inbound(organization.numbers[0]).text(str(number))
            return webhook(organization, text), (200, None)
        case 1:
            return request("POST", path_of(organization), body=b"{%d}" % number), (401, None)
        case 2:
            return request("POST", f"/webhooks/meta_business/{number}", body=b"x" * dice.randrange(2000)), (404, None)
        case 3:
            token = organization.numbers[0].verify_token
            query = f"hub.mode=subscribe&hub.verify_token={token}&hub.challenge={number}"
            return request("GET", f"{path_of(organization)}?{query}"), (200, str(number))
        case 4:
            return request("GET", f"/events?after={10**15 + number}", bearer(organization)), (200, str(10**15 + number))
        case 5:
            body = b'{"to":"+5511987654321","a%d":1}' % number
            size = dice.randrange(1, len(body))
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:size], body[size:]))
            head = request("POST", "/send", bearer(organization), "transfer-encoding: chunked")
            return head + chunks + b"0\r\n\r\n", (422, f"a{number}")
        case 6:
            return request("POST", "/callback/test", body=b"x" * dice.randrange(2000)), (401, None)
    return b"\r\n" * dice.randrange(3) + HEALTH, (200, "ok")


def _cut(data: bytes, dice: random.Random) -> list[bytes]:
    places = sorted(dice.sample(range(1, len(data)), dice.randrange(min(8, len(data)))))
    return [data[start:end] for start, end in itertools.pairwise([0, *places, len(data)])]


async def test_each_answer_belongs_to_its_request_wherever_the_bytes_are_cut(
    organization: Organization, gateway: Gateway, connect: Any, quiet: Any
) -> None:
    """Pipelined requests of three organizations, of every kind, in pieces of any size."""
    organizations = [organization]
    for _ in range(2):
        organizations.append(await gateway.organization())
        await organizations[-1].configure()
    dice = random.Random(20_260)
    for number in range(CUTS):
        client = await connect()
        dialogue = [await _dialogue(organizations, gateway, dice) for _ in range(dice.randrange(1, 7))]
        await client.write(*_cut(b"".join(asked for asked, _ in dialogue), dice))
        for asked, (status, text) in dialogue:
            answer = await client.answer()
            assert answer.status == status, (number, asked, answer)
            assert text is None or text in answer.body.decode(), (number, asked, answer)
        assert not await client.is_closed(0.0001), number
        await client.close()


def _odd() -> dict[str, bytes]:
    chunked = "transfer-encoding: chunked"
    found = {
        f"version-{version}": f"GET /healthz {version}\r\nhost: x\r\n\r\n".encode()
        for version in (
            *("HTTP/0.9", "HTTP/1.2", "HTTP/1.10", "HTTP/2.0", "HTTP/3.7", "HTTP/11", "HTTP/1", "HTTP/", "HTTP/-1.1"),
            *("HTTP/1.1 ", " HTTP/1.1\t", "http/1.1", "HTTPS/1.1", "RTSP/1.0", "ICE/1.0", "", "HTTP/1.1\0", "HTTP/x.y"),
        )
    }
    found |= {
        f"method-{method}": f"{method} /healthz HTTP/1.1\r\nhost: x\r\n\r\n".encode("latin-1")
        for method in (
            *("get", "Get", "GETT", "G\0T", "\x80ET", "G ET", "", "GET/", "FOO", "POST\t", "PRI", "M-SEARCH", "TRACE"),
            *("PROPFIND", "SOURCE", "DESCRIBE", "PURGE", "LINK", "QUERY", "OPTIONS"),
        )
    }
    found |= {
        f"target-{target}": f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode("latin-1")
        for target in (
            *(
                "*",
                "x:1",
                "http://",
                "http://x",
                "http://x?y",
                "http://x:99999/healthz",
                "http://a b/healthz",
                "healthz",
            ),
            *(
                "/\xff",
                "/a\0b",
                "/a\tb",
                "/<>%zz",
                "/%ff%fe",
                "//healthz",
                "/../healthz",
                "/healthz/",
                "ftp://x/healthz",
            ),
        )
    }
    found |= {
        f"header-{header}": f"POST /send HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode("latin-1")
        for header in (
            *("content-length: -1", "content-length: +3", "content-length: 0x3", "content-length: 3, 3"),
            *("content-length: 99999999999999999999", "content-length:", "content-length: 3\r\ncontent-length: 3"),
            *("content-length: 3\r\ncontent-length: 4", "content-length: 3 4", "content-length: \xb3"),
            *(f"{chunked}\r\ncontent-length: 3", f"content-length: 3\r\n{chunked}", f"{chunked}\r\n{chunked}"),
            *("transfer-encoding: identity", "transfer-encoding: gzip, chunked", "transfer-encoding: chunked, gzip"),
            *("transfer-encoding:", "transfer-encoding: xchunked", "transfer-encoding: \x0bchunked"),
            *("transfer-encoding : chunked", "transfer-encoding\t: chunked", " transfer-encoding: chunked"),
            *("a\0b: c", "a: b\0c", ": b", "a b: c", "a", "a: b\r\n folded", "a: b\rc", "a: b\x0bc\x00", "(a): b"),
            *("host: x", "host: y", "host:", "a: b\n", "a: b\r\r\n"),
        )
    }
    return found | {
        "no-host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "bare-lf": b"GET /healthz HTTP/1.1\nhost: x\n\n",
        "last-lf": b"GET /healthz HTTP/1.1\r\nhost: x\r\n\n",
        "fold-first": b"GET /healthz HTTP/1.1\r\n host: x\r\n\r\n",
        "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "1.0-chunked": b"POST /send HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "proxy": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + HEALTH,
        **{
            f"chunk-{number}": request("POST", "/send", chunked) + body + b"0\r\n\r\n"
            for number, body in enumerate(
                (
                    *(b"x\r\n", b"-1\r\n", b"+3\r\nabc\r\n", b"0x3\r\nabc\r\n", b"3 \r\nabc\r\n", b"\r\n"),
                    *(b"3\nabc\n", b"3\r\nabcd\r\n", b"3\r\nabc", b"3;\0\r\nabc\r\n", b'3;a="\r\n"\r\nabc\r\n'),
                    b"fffffffffffffffff\r\n",
                )
            )
        },
    }


ODD = _odd()


def test_there_are_many_odd_requests() -> None:
    assert len(ODD) >= 83


@pytest.mark.parametrize("whole", ODD.values(), ids=[ascii(name) for name in ODD])
async def test_an_odd_request_has_one_answer_or_none(connect: Any, quiet: Any, whole: bytes) -> None:
    """A clear one of ours, no second for what is in its body or behind it, and no line in the log."""
    for pieces in ([whole], [whole[:9], whole[9:]], [whole + HEALTH]):
        client = await connect()
        await client.write(*pieces)
        if len(pieces) == 1 and pieces[0] == whole:
            client.writer.write_eof()
        answers = await asyncio.wait_for(_until_quiet(client), 60)
        assert len(answers) <= 1 or (answers[1].status, len(answers)) == (200, 2), answers
        for answer in answers[:1]:
            assert answer.status < 500 or answer.status == 505
            refused = answer.headers.get("connection") == "close"
            assert len(answers) == 1 or not refused
            if answer.status >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["x-request-id"].startswith("req_")


async def _until_quiet(client: Client) -> list[Any]:
    """Answers until the connection ends, or nothing has come for a moment."""
    found = []
    while True:
        try:
            found.append(await asyncio.wait_for(client.answer(), 0.1))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return found


# ---------------------------------------------------------------- one behind the other

FIRST = {
    "unauthorized": (401, lambda _: request("GET", "/keys")),
    "invalid": (422, lambda o: request("POST", "/callback/replay", bearer(o), _JSON, body=b'{"sequences":[1],"no":1}')),
    "not-found": (404, lambda _: request("GET", "/nope")),
    "method": (405, lambda _: request("PUT", "/healthz")),
    "unverified": (401, lambda o: request("POST", path_of(o), _JSON, body=b"{}")),
    "unknown": (404, lambda _: request("POST", "/webhooks/meta_business/unknown", _JSON, body=b"{}")),
}
_JSON = "content-type: application/json"


@pytest.mark.parametrize("looked_up", [False, True])
@pytest.mark.parametrize("first", FIRST)
async def test_what_is_wrong_behind_a_refusal_has_an_answer_of_its_own(
    gateway: Gateway, connect: Any, quiet: Any, first: str, looked_up: bool
) -> None:
    """Else it would be given the one of the request before it, with what that one said."""
    organization = await gateway.organization()
    await organization.configure()
    status, made = FIRST[first]
    if looked_up:  # the address is known
        assert (await organization.post_webhook(b"{}")).status == 200
    for wrong, code in (
        (b"NONSENSE\r\n\r\n", "malformed_request"),
        (request("GET", "/healthz", "connection: upgrade", "upgrade: h2c"), "upgrade_refused"),
    ):
        client = await connect()
        await client.write(made(organization) + wrong)
        answers = await client.answers()
        assert [answer.status for answer in answers] == [status, 400]
        assert msgspec.json.decode(answers[1].body)["code"] == code


async def test_a_connection_begins_one_request_and_leaves_the_next_turn_to_others(
    organization: Organization, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are there, each answered at once: strangers can have thousands refused."""
    assert (await organization.post_webhook(b"{}")).status == 200  # its address is known
    loop, turns, at = asyncio.get_running_loop(), [], 0

    def next_turn() -> None:
        nonlocal at
        at += 1
        if len(turns) < count:
            loop.call_soon(next_turn)

    begin = protocol.WebhookProtocol._begin

    def begun(connection: Any, *more: Any) -> None:
        if connection.transport.get_extra_info("peername") == client.writer.get_extra_info("sockname"):
            turns.append(at)
        begin(connection, *more)

    count = 2_000
    client = await connect()
    monkeypatch.setattr(protocol.WebhookProtocol, "_begin", begun)
    loop.call_soon(next_turn)
    one = request("POST", path_of(organization), "content-length: 0")
    writing = asyncio.create_task(client.write(one * count))
    assert {(await client.answer()).status for _ in range(count)} == {401}
    await writing
    assert max(Counter(turns).values()) <= 2, "one that arrives, and one whose turn it is"


async def test_no_more_is_read_than_may_wait(
    organization: Organization, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of thousands is answered a moment later, while the error that says so is handled."""
    count, ahead, seen = 12_000, [], set()
    loop, take = asyncio.get_running_loop(), protocol.BoundedProtocol.data_received

    def taken(self: Any, data: bytes) -> None:
        seen.add(self)
        take(self, data)

    def look() -> None:
        ahead.extend(len(each._unread) - each._at for each in seen if not each.flow.read_paused)
        if not reading.done():
            loop.call_soon(look)

    async def statuses() -> set[int]:
        return {(await client.answer()).status for _ in range(count)}

    monkeypatch.setattr(protocol.BoundedProtocol, "data_received", taken)
    monkeypatch.setattr(Routes, "known_config_of_webhook", lambda *_: None)
    client = await connect()
    one = request("POST", path_of(organization), "content-length: 0")
    writing = asyncio.create_task(client.write(one * count))
    reading = asyncio.create_task(statuses())
    loop.call_soon(look)
    assert await reading == {401}
    await writing
    assert max(ahead) <= protocol.MAX_AHEAD_BYTES


async def test_no_refused_request_is_left_for_the_collector(organization: Organization) -> None:
    """It runs seldom, and each would keep its body until then."""
    body = b'{"to": "+5511987654321", "body": "x", "unknown": "%s"}' % (b"x" * 200_000)
    quiet = b"x" * 200_000
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        for raw in (body, quiet):
            answer = await organization.call("POST", "/send", raw=raw, content_type="application/json")
            assert answer.status == 422
        late = {"to": "+5511987654321", "body": "x", "expires_at": "2001-01-01T00:00:00Z"}
        assert (await organization.call("POST", "/send", late)).status == 422
        assert (await organization.call("POST", "/send", late, idempotency_key="late")).status == 422
        assert (await organization.gateway.call("GET", "/keys")).status == 401
        assert (await organization.call("GET", "/nope")).status == 404
        assert (await organization.call("POST", "/callback/replay", {"sequences": 1})).status == 422
        gc.collect()
        kept = [frame.f_code for frame in gc.garbage if isinstance(frame, FrameType)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    # What asyncio leaves of a connection to Redis that took too long is no request's.
    of_requests = [
        code.co_qualname for code in kept if "starlette" in code.co_filename or "/ingress/web/" in code.co_filename
    ]
    assert of_requests == []


# ---------------------------------------------------------------- uvicorn

# All that `ingress.protocol` reads, sets, calls or overrides of uvicorn's private parts, by whose it is.
PINNED = {
    "protocol": {
        *("access_log", "access_logger", "app", "app_state", "asgi_version", "client", "cycle", "expect_100_continue"),
        *("flow", "headers", "logger", "loop", "parser", "root_path", "scheme", "server", "server_state", "tasks"),
        *("transport", "url", "_start_asgi_task", "connection_lost", "connection_made", "data_received", "on_body"),
        *("on_header", "on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete"),
        "resume_writing",
    },
    "cycle": {
        *("default_headers", "disconnected", "keep_alive", "message_event", "more_body", "response_complete"),
        *("response_started", "send"),
    },
    "flow": {"pause_reading", "resume_reading", "write_paused"},
    "server_state": {"default_headers", "total_requests"},
}


def named(node: ast.AST) -> str | None:
    """The last word of an expression: `cycle` of `self.cycle`, `super` of `super()`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return named(function)
    return None


def used(code: Sequence[Any], owners: set[str]) -> set[str]:
    """Which attributes of *owners* the *code* names."""
    tree = ast.parse("\n".join(textwrap.dedent(inspect.getsource(piece)) for piece in code))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and named(node.value) in owners}


def test_what_is_used_of_uvicorn_is_pinned() -> None:
    """Each name is there, no other is used, and none of our own has become one of uvicorn's."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    config = uvicorn.Config(app, interface="asgi3", http="httptools", ws="none", lifespan="off", log_config=None)
    loop = asyncio.new_event_loop()
    try:
        made = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    finally:
        loop.close()
    made.on_message_begin()
    cycle = RequestResponseCycle(*[None] * 11)  # type: ignore[arg-type]
    ours = (protocol.BoundedProtocol, protocol.WebhookProtocol)
    both = (*ours, protocol._Cycle)
    for name, (theirs, names) in {
        "protocol": (made, {*used(ours, {"self", "super"}), *used(both, {"protocol"}), *vars(ours[0]), *vars(ours[1])}),
        "cycle": (cycle, {*used(both, {"cycle"}), *used(both[2:], {"self", "super"}), *vars(both[2])}),
        "flow": (FlowControl(None), used(both, {"flow"})),  # type: ignore[arg-type]
        "server_state": (ServerState(), used(both, {"server_state"})),
    }.items():
        assert {each for each in names & set(dir(theirs)) - set(dir(object)) if each[:2] != "__"} == PINNED[name]


def test_uvicorn_asks_nothing_of_a_cycle_that_a_webhook_lacks() -> None:
    """`Exchange` stands where uvicorn keeps its own."""
    asked = used((HttpToolsProtocol.connection_lost, HttpToolsProtocol.shutdown), {"cycle"})
    assert asked == {"disconnected", "keep_alive", "message_event", "response_complete"}
    assert asked <= set(dir(Exchange))


def test_how_uvicorn_calls_and_is_called() -> None:
    for name, parameters in {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "eof_received": ["self"],
        "resume_writing": ["self"],
        "shutdown": ["self"],
        "on_message_begin": ["self"],
        "on_url": ["self", "url"],
        "on_header": ["self", "name", "value"],
        "on_headers_complete": ["self"],
        "on_body": ["self", "body"],
        "on_message_complete": ["self"],
        "on_response_complete": ["self"],
        "_start_asgi_task": ["self", "cycle", "app"],
    }.items():
        assert list(inspect.signature(getattr(HttpToolsProtocol, name)).parameters) == parameters, name
    assert list(inspect.signature(RequestResponseCycle).parameters) == [
        *("scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers", "message_event"),
        *("expect_100_continue", "keep_alive", "on_response"),
    ]
    assert all(STATUS_LINE[status].startswith(b"HTTP/1.1 %d " % status) for status in (200, 400, 413, 431, 503, 505))
    assert CLOSE_HEADER == (b"connection", b"close")


def test_serving_without_touches_nothing_of_it() -> None:
    """With the setting, another uvicorn may have none of these names: our module is not even imported."""
    program = (
        "import sys; from ingress import app, server, settings\n"
        "application = app.Application(settings.Settings(http_protocol='uvicorn'))\n"
        "for made in (server.configuration, server.operations_configuration):\n"
        "    assert made(application).http == 'httptools'\n"
        "assert 'ingress.protocol' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
