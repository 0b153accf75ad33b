"""Outgoing connections: what may be called, and shared connections that survive cancellation."""

import asyncio
import ipaddress
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
import redis.asyncio

from ingress.calls import driver
from ingress.calls.driver import Caller
from ingress.calls.egress import Egress, EgressBlocked, InvalidUrl
from ingress.delivery.standard_webhooks import Endpoint, new_secret, post
from ingress.dev.sandbox import FaultProxy, MetaSimulator, example_number
from ingress.settings import Settings
from ingress.storage import redis_state
from ingress.storage.database import Database
from ingress.storage.redis_state import RedisState
from providers import Request, Response, Unavailable

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually

STRICT = Egress([])

# Address, whether it may be called.
ADDRESSES = {
    # loopback and unspecified
    "127.0.0.1": False, "127.0.0.2": False, "127.255.255.254": False, "0.0.0.0": False, "0.1.2.3": False,
    "::1": False, "::": False,
    # private
    "10.0.0.1": False, "10.255.255.255": False, "172.16.0.1": False, "172.31.255.255": False,
    "192.168.0.1": False, "192.168.255.255": False, "fc00::1": False, "fd12:3456:789a::1": False,
    # link-local, scoped too
    "169.254.0.1": False, "fe80::1": False, "fe80::1%eth0": False, "febf::1": False, "fec0::1": False,
    # metadata services of the clouds
    "169.254.169.254": False, "169.254.170.2": False, "100.100.100.200": False, "fd00:ec2::254": False,
    "::ffff:169.254.169.254": False, "64:ff9b::a9fe:a9fe": False, "2002:a9fe:a9fe::1": False,
    # carrier-grade NAT, protocol assignments, documentation, benchmarks, reserved, broadcast
    "100.64.0.1": False, "100.127.255.255": False, "192.0.0.1": False, "192.0.0.170": False,
    "192.0.2.1": False, "198.51.100.1": False, "203.0.113.1": False, "198.18.0.1": False, "198.19.255.255": False,
    "240.0.0.1": False, "255.255.255.255": False, "192.88.99.1": False,
    "2001:db8::1": False, "3fff::1": False, "3fff:fff::1": False, "100::1": False, "5f00::1": False,
    # multicast
    "224.0.0.1": False, "239.255.255.255": False, "ff02::1": False, "ff0e::1": False,
    # an IPv4 address inside
    "::ffff:127.0.0.1": False, "::ffff:7f00:1": False, "::ffff:10.0.0.1": False, "::ffff:0.0.0.0": False,
    "::127.0.0.1": False, "::7f00:1": False, "::ffff:0:127.0.0.1": False, "::ffff:127.0.0.1%1": False,
    "64:ff9b::7f00:1": False, "64:ff9b::808:808": False, "64:ff9b:1::7f00:1": False,
    "2002:7f00:1::": False, "2002:808:808::1": False, "2001:0:7f00:1::": False, "fe80::5efe:7f00:1": False,
    # outside of what is given to anybody
    "4000::1": False, "8000::1": False, "1::1": False,
    # public
    "8.8.8.8": True, "1.1.1.1": True, "100.63.255.255": True, "100.128.0.1": True, "172.15.255.255": True,
    "172.32.0.1": True, "192.167.255.255": True, "11.0.0.1": True, "126.255.255.255": True, "128.0.0.1": True,
    "223.255.255.255": True, "2606:4700::1111": True, "2a00:1450:4001:80e::200e": True, "::ffff:8.8.8.8": True,
    "157.240.1.53": True,
}  # fmt: skip

# Other spellings of 127.0.0.1 and of this machine: what a resolver or a URL parser makes of them.
LOOPBACK_HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "0x7F.0.0.0x1", "2130706433", "017700000001", "0177.0.0.1",
    "0177.0.0.01", "00000177.1", "127.0.0.1.", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::1]", "[::]", "0", "0.0.0.0", "[::ffff:0:7f00:1]", "localhost", "LOCALHOST", "localhost.",
    "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u24db\u24de\u24d2al\u24d7ost",
]  # fmt: skip


def test_the_table_is_long_enough() -> None:
    assert len(ADDRESSES) >= 60
    assert len(LOOPBACK_HOSTS) >= 20


@pytest.mark.parametrize(("address", "allowed"), ADDRESSES.items(), ids=ADDRESSES)
def test_addresses(address: str, allowed: bool) -> None:
    """The guard, the check of a URL and the socket factory are of one mind."""
    parsed = ipaddress.ip_address(address)
    assert STRICT.allows(parsed) is allowed
    url = f"https://[{address.replace('%', '%25')}]/" if parsed.version == 6 else f"https://{address}/"
    family = socket.AF_INET6 if parsed.version == 6 else socket.AF_INET
    info = (family, socket.SOCK_STREAM, 6, "", (address, 443))
    if allowed:
        STRICT.check_url(url)
        STRICT._socket(info).close()
        return
    with pytest.raises(InvalidUrl):
        STRICT.check_url(url)
    with pytest.raises(EgressBlocked):
        STRICT._socket(info)


@pytest.mark.parametrize(
    ("networks", "address", "allowed"),
    [
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("10.1.0.0/16", "127.0.0.1", False),
        ("10.1.0.0/16", "169.254.169.254", False),
        ("10.1.0.0/16", "8.8.8.8", True),
        ("fd00::/8", "fd00::1", True),
        ("fd00::/8", "10.0.0.1", False),
        ("fd00::/8", "fc00::1", False),
    ],
)
def test_allowed_networks_are_allowed_and_nothing_else(networks: str, address: str, allowed: bool) -> None:
    """An address inside of another is judged as what it leads to."""
    egress = Egress([ipaddress.ip_network(networks)])
    assert egress.allows(ipaddress.ip_address(address)) is allowed


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "example.com",
        "",
        "https://",
        "https:///path",
        "https:example.com",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://:password@example.com/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:x/",
        "https://[::1",
        "https://exa mple.com/",
        "https://example.com/\r\nx: y",
        "https://example.com/\x00",
        "https://exam\nple.com/",
        "https://example..com/",
        f"https://{'a' * 64}.com/",
        "https://example.com\\@127.0.0.1/",
        "javascript:alert(1)",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    """At once, with a reason that quotes nothing."""
    with pytest.raises(InvalidUrl) as caught:
        STRICT.check_url(url)
    assert not url or url not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://example.com", "HTTPS://Example.com:8443/a?b=c#d", "https://crm.exämple/ü", "https://8.8.8.8/"]
)
def test_urls_that_are_taken(url: str) -> None:
    STRICT.check_url(url)


def test_plain_http_needs_an_allowed_network() -> None:
    """Where nothing private is reachable, nothing goes unencrypted either."""
    with pytest.raises(InvalidUrl, match="https://"):
        STRICT.check_url("http://example.com/")
    Egress([ipaddress.ip_network("10.0.0.0/8")]).check_url("http://example.com/")


# ---------------------------------------------------------------- the real dial


class Canary:
    """A listener that must never see a connection."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        await writer.drain()
        writer.close()


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    """On every address of this machine, v4 and v6."""
    canary = Canary()
    async with await asyncio.start_server(canary.met, "127.0.0.1", 0) as server:
        canary.port = server.sockets[0].getsockname()[1]
        async with AsyncExitStack() as stack:
            if socket.has_dualstack_ipv6():
                await stack.enter_async_context(await asyncio.start_server(canary.met, "::1", canary.port))
            yield canary
    assert canary.connections == 0


@asynccontextmanager
async def redirector(location: str, host: str = "127.0.0.2") -> AsyncIterator[str]:
    """A server on *host* that redirects everything to *location*."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 307 Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, host, 0) as server:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}/"


async def refused(session: aiohttp.ClientSession, url: str) -> BaseException:
    with pytest.raises((aiohttp.ClientConnectorError, aiohttp.InvalidURL, ValueError)) as caught:
        async with session.get(url):
            pass
    return caught.value


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
async def test_no_spelling_of_this_machine_is_dialled(canary: Canary, host: str) -> None:
    async with STRICT.session(per_host=0) as session:
        await refused(session, f"http://{host}:{canary.port}/")


async def test_the_environments_proxy_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would make the connections instead of us, where no guard stands."""
    proxy = Canary()
    egress = Egress([ipaddress.ip_network("127.0.0.2/32")])
    async with await asyncio.start_server(proxy.met, "127.0.0.2", 0) as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.2:{server.sockets[0].getsockname()[1]}")
        async with egress.session(per_host=0) as session:
            await refused(session, "http://127.0.0.1:1/")
    assert proxy.connections == 0


async def test_a_redirect_from_an_allowed_host_meets_the_guard(canary: Canary) -> None:
    """Even where a client follows it, which ours do not."""
    egress = Egress([ipaddress.ip_network("127.0.0.2/32")])
    for target in (f"http://127.0.0.1:{canary.port}/", f"http://localhost:{canary.port}/", f"http://0:{canary.port}/"):
        async with redirector(target) as url, egress.session(per_host=0) as session:
            await refused(session, url)
            async with session.get(url, allow_redirects=False) as answer:
                assert answer.status == 307


class Names:
    """Stands in for the system's resolver: answers in turn, the last for ever; an address is itself."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        if host[0].isdigit():
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


async def test_a_name_that_resolves_to_this_machine(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["127.0.0.1"]))
    async with STRICT.session(per_host=0) as session:
        await refused(session, f"http://harmless.example:{canary.port}/")
        await refused(session, f"http://harmless.example:{canary.port}/")


async def test_a_name_that_changes_its_mind(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: allowed when it was first asked for, this machine afterwards."""
    egress = Egress([ipaddress.ip_network("127.0.0.2/32")])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["127.0.0.2"], ["127.0.0.1"]))
    async with redirector("/") as url:
        url = url.replace("127.0.0.2", "rebind.example")
        async with egress.session(per_host=0) as session, session.get(url, allow_redirects=False) as answer:
            assert answer.status == 307
    async with egress.session(per_host=0) as session:
        await refused(session, f"http://rebind.example:{canary.port}/")


async def test_a_name_with_several_addresses(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forbidden ones are passed over, the allowed one is used."""
    egress = Egress([ipaddress.ip_network("127.0.0.2/32")])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", Names(["127.0.0.1", "10.0.0.1", "127.0.0.2"]))
    async with redirector("/") as url:
        port = url.rpartition(":")[2].strip("/")
        several = f"http://several.example:{port}/"
        async with egress.session(per_host=0) as session, session.get(several, allow_redirects=False) as answer:
            assert answer.status == 307


async def test_a_provider_call_to_a_forbidden_address(canary: Canary) -> None:
    """Surely not taken, reported without the address or URL; redirects are an answer, not followed."""

    def flow(url: str) -> Any:
        return (yield Request(method="POST", url=url, body=b"{}"))

    async with Caller(STRICT) as caller:
        with pytest.raises(Unavailable) as caught:
            await caller.run(flow(f"http://127.0.0.1:{canary.port}/?access_token=canary"), 10)
    assert "canary" not in f"{caught.value} {caught.value!r}"
    assert "127.0.0.1" not in str(caught.value)
    egress = Egress([ipaddress.ip_network("127.0.0.2/32")])
    async with Caller(egress) as caller, redirector(f"http://127.0.0.1:{canary.port}/") as url:
        response: Response = await caller.run(flow(url), 10)
        assert response.status == 307


async def test_a_delivery_to_a_forbidden_address(canary: Canary) -> None:
    """It fails as any other; a redirect is no success and is not followed."""
    secrets = [new_secret()]
    async with STRICT.session(per_host=0) as session:
        for host in ("127.0.0.1", "0x7f.1", "localhost"):
            answer = await post(session, Endpoint(f"http://{host}:{canary.port}/", secrets), "evt_1", b"{}")
            assert (answer.ok, answer.kind) == (False, "connection")
    egress = Egress([ipaddress.ip_network("127.0.0.2/32")])
    async with redirector(f"http://127.0.0.1:{canary.port}/") as url, egress.session(per_host=0) as session:
        answer = await post(session, Endpoint(url, secrets), "evt_1", b"{}")
        assert (answer.ok, answer.kind) == (False, "3xx")


async def test_answers_are_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless answer of a provider, or of a CRM, is cut off; compressed bytes stay compressed."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < 64 * 1024 * 1024:
                writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                await writer.drain()
                sent += 65536
        except ConnectionError:
            return
        finally:
            writer.transport.abort()

    monkeypatch.setattr(driver, "MAX_ANSWER_BYTES", 100_000)
    egress = Egress([ipaddress.ip_network("127.0.0.0/8")])
    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

        def flow() -> Any:
            return (yield Request(method="GET", url=url))

        async with Caller(egress) as caller:
            with pytest.raises(Unavailable):
                await caller.run(flow(), 10)
        async with egress.session(per_host=0) as session:
            assert (await post(session, Endpoint(url, [new_secret()]), "evt_1", b"{}")).ok
    assert sent < 32 * 1024 * 1024


async def test_large_answers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten that come slowly take room of two; small ones go on, and a large one again when those are gone."""
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = 200_000 if b"large" in await reader.readuntil(b"\r\n\r\n") else 1_000
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size)
        writer.write(bytes(size - 1))
        if size > 1_000:
            await release.wait()
        writer.write(b"\0")
        writer.close()

    monkeypatch.setattr(driver, "MAX_ANSWERS_BYTES", 450_000)
    egress = Egress([ipaddress.ip_network("127.0.0.0/8")])
    async with await asyncio.start_server(slow, "127.0.0.1", 0) as server, Caller(egress) as caller:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

        def flow(path: str) -> Any:
            return (yield Request(method="GET", url=url + path))

        asking = [asyncio.create_task(caller.run(flow("large"), 10)) for _ in range(10)]
        await eventually(lambda: sum(task.done() for task in asking), lambda refused: refused == 8)
        assert len((await caller.run(flow("small"), 10)).body) == 1_000
        release.set()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert sorted(len(end.body) if isinstance(end, Response) else 0 for end in ended) == [0] * 8 + [200_000] * 2
        assert [end.code for end in ended if isinstance(end, Unavailable)] == ["incomplete_body"] * 8
        assert len((await caller.run(flow("large"), 10)).body) == 200_000


# ---------------------------------------------------------------- through the API


@pytest.fixture
async def strict(settings: Settings, meta: MetaSimulator) -> AsyncIterator[Organization]:
    """An organization of a service that may reach public addresses only."""
    async with (
        serving(msgspec.structs.replace(settings, egress_allow="")) as url,
        aiohttp.ClientSession() as session,
    ):
        yield await Gateway(url, settings.platform_key, session, meta).organization()


async def test_private_addresses_are_refused_where_they_are_given(strict: Organization, canary: Canary) -> None:
    """`base_url` 400 naming the field, `url` 422 naming the field: before anything is called or saved."""
    number = example_number(7900)
    urls = [
        f"http://127.0.0.1:{canary.port}",
        f"https://127.0.0.1:{canary.port}",
        f"https://0x7f.1:{canary.port}",
        f"https://2130706433:{canary.port}",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]",
        "https://[64:ff9b::a9fe:a9fe]",
        "https://user:secret@8.8.8.8",
        "http://example.com",
    ]
    for url in urls:
        body = {"provider_type": "meta_business", "config_data": number.config_data(url)}
        answer = await strict.call("POST", "/integrations/whatsapp/provider/configure", body)
        assert (answer.status, answer.json["code"]) == (400, "invalid_configuration"), url
        assert [error["path"] for error in answer.json["errors"]] == ["config_data.base_url"]
        answer = await strict.call("PUT", "/callback", {"url": url})
        assert (answer.status, answer.json["code"]) == (422, "invalid_request"), url
        assert [error["path"] for error in answer.json["errors"]] == ["url"]
    assert (await strict.call("GET", "/callback")).status == 404
    assert (await strict.call("GET", "/integrations/whatsapp/provider/configs")).json == {"configs": []}


async def test_names_of_private_addresses_are_refused_at_the_dial(strict: Organization, canary: Canary) -> None:
    """A name can be judged only when it is resolved: nothing is called, nothing is saved, nothing is said of it."""
    config_data = example_number(7901).config_data(f"https://localhost:{canary.port}")
    body = {"provider_type": "meta_business", "config_data": config_data}
    answer = await strict.call("POST", "/integrations/whatsapp/provider/configure", body)
    assert (answer.status, answer.json["code"]) == (502, "provider_unreachable")
    assert b"localhost" not in answer.raw
    assert (await strict.call("PUT", "/callback", {"url": f"https://localhost:{canary.port}/"})).status == 200
    tested = (await strict.call("POST", "/callback/test")).json
    assert (tested["delivered"], tested["outcome"]) == (False, "connection")


# ---------------------------------------------------------------- shared connections and cancellation


async def cancelled_halfway(work: Callable[[int], Any], count: int, at_once: int, seed: int) -> list[Any]:
    """Run *work* for each number, *at_once* at a time, and cancel three of four somewhere in between."""
    chance = random.Random(seed)
    results: list[Any] = []
    for start in range(0, count, at_once):
        tasks = [asyncio.create_task(work(number)) for number in range(start, start + at_once)]
        loop = asyncio.get_running_loop()
        for task in tasks:
            if chance.random() < 0.76:
                loop.call_later(chance.uniform(0, 0.03), task.cancel)
        results += await asyncio.gather(*tasks, return_exceptions=True)
    return results


async def test_redis_answers_are_not_mixed_up_by_cancellation(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """640 reads through a slow wire, most of them cancelled mid-flight: an answer is the right one, or none.

    The opposite (redis/redis-py#2665) would hand one organization's provider to another.
    """
    monkeypatch.setattr(redis_state, "COMMAND_TIMEOUT_S", 2.0)  # however busy the machine is
    socket_path = settings.redis_url.removeprefix("unix://").partition("?")[0]
    upstream: Any = socket_path
    if settings.redis_url.startswith("redis://"):
        host, _, port = settings.redis_url.removeprefix("redis://").partition("/")[0].rpartition(":")
        upstream = (host, int(port))
    async with FaultProxy(upstream) as proxy, RedisState(f"redis://127.0.0.1:{proxy.port}/0") as state:
        client = state._client
        async with redis.asyncio.Redis.from_url(settings.redis_url) as direct:
            names = [f"test:cancel:{number}" for number in range(640)]
            await direct.mset({name: name for name in names})
            proxy.delay_s = 0.01
            results = await cancelled_halfway(lambda number: client.get(names[number]), 640, 64, seed=11)
            proxy.delay_s = 0.0
            # And whoever comes after, on the connections that are left in the pool.
            after = [await client.get(name) for name in names[:50]]
            await direct.delete(*names)
    wrong = [
        (name, result)
        for name, result in zip(names, results, strict=True)
        if not isinstance(result, BaseException) and result != name.encode()
    ]
    assert wrong == []
    assert after == [name.encode() for name in names[:50]]
    # On a busy machine more of them have their answer already: how many are cancelled in time does not matter.
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 100
    assert sum(isinstance(result, bytes) for result in results) > 10


async def test_cancelled_users_of_connections_harm_nobody(settings: Settings) -> None:
    """Hundreds of cancelled ones: none leaks a connection, none reads another's row."""
    async with Database(settings.database_url) as database:
        connections = database._connections

        async def use(number: int) -> int:
            async with database.worker() as connection:
                await connection.execute("select pg_sleep(0.001)")
                return await connection.fetchval("select $1::int", number)

        await asyncio.gather(*[use(number) for number in range(12)])
        before = connections.open, connections.idle
        results = await cancelled_halfway(use, 2100, 140, seed=7)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 300
        assert all(result == number for number, result in enumerate(results) if not isinstance(result, BaseException))
        assert await asyncio.gather(*[use(number) for number in range(12)]) == list(range(12))
        assert (connections.open, connections.idle) == before == (6, 6)
