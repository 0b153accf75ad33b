"""The attackers: each a process of its own, bounded in time and in connections, on loopback only.

They come from many addresses (127.0.1.x), as strangers do: what counts connections by address must not be all there is.
"""

import asyncio
import base64
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import count
from time import monotonic
from typing import Any

import msgspec

from ingress.dev.sandbox.meta.bodies import MetaNumber, encode, envelope, signed_headers

ADDRESSES = 100
CONNECTIONS = 1_000
# As one webhook of 4 MiB holds them.
ITEMS = 49_000
# Of bodies and headers, in one write.
PIECE = b"x" * 65_536
# What a connection takes that nobody reads.
READ_AHEAD = 65_536


class AttackTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What an attacker knows: where the service is, and, as a tenant, its own key and number."""

    port: int
    metrics_port: int
    seconds: float
    key: str
    webhook_path: str
    number: MetaNumber
    seed: int


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Act = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Storm:
    """Connections of one attacker, until its time is over."""

    def __init__(self, target: AttackTarget) -> None:
        self.target = target
        self.until = monotonic() + target.seconds
        self._addresses = count()

    @property
    def left_s(self) -> float:
        return self.until - monotonic()

    @asynccontextmanager
    async def connected(self, port: int | None = None) -> AsyncIterator[Streams]:
        address = f"127.0.1.{1 + next(self._addresses) % ADDRESSES}"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port or self.target.port, local_addr=(address, 0), limit=READ_AHEAD
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def again_and_again(
        self, many: int, act: Act, pause_s: float = 1.0, *, ports: Callable[[int], int | None] = lambda _: None
    ) -> None:
        """*many* at once do *act* on a connection, and again when it ended or broke, until the time is over."""

        async def one(number: int) -> None:
            while self.left_s > 0:
                with suppress(OSError, TimeoutError, EOFError):
                    async with asyncio.timeout(self.left_s), self.connected(ports(number)) as connection:
                        await act(number, *connection)
                await asyncio.sleep(min(pause_s, max(0.0, self.left_s)))

        await asyncio.gather(*map(one, range(many)))

    def request(self, line: str, *headers: str, body: bytes = b"") -> bytes:
        lines = [f"{line} HTTP/1.1", "host: ingress", *headers]
        if body:
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    @property
    def authorization(self) -> str:
        return f"authorization: Bearer {self.target.key}"


async def until_closed(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        continue


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer, whose body is read, too."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0))
    return head


async def connections(storm: Storm) -> None:
    """A thousand connections that say nothing, next to nothing, half a header, or only line ends after a request."""
    openings = (b"", b"G", b"GET /healthz HTTP/1.1\r\nhost: x\r\n", storm.request("GET /healthz") + b"\r\n")

    async def hold(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(openings[number % len(openings)])
        await until_closed(reader)

    await storm.again_and_again(CONNECTIONS, hold)


async def _unread(storm: Storm, many: int, asked: bytes) -> None:
    """*many* clients that never read the answers to what they *asked*."""

    async def ask(number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(asked)
        await asyncio.sleep(storm.left_s)

    await storm.again_and_again(many, ask)


async def deaf(storm: Storm) -> None:
    """Clients that ask for much and never read."""
    await _unread(storm, 300, storm.request("GET /openapi.json") * 200)


async def pages(storm: Storm) -> None:
    """Sixty readers of the largest pages there are, who do not read them."""
    await _unread(storm, 60, storm.request("GET /events?after=0&limit=1000&raw=1", storm.authorization) * 4)


async def streams(storm: Storm) -> None:
    """A thousand event streams of one tenant."""

    async def follow(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(storm.request("GET /events/stream", storm.authorization))
        await until_closed(reader)

    await storm.again_and_again(CONNECTIONS, follow)


async def sends(storm: Storm) -> None:
    """One tenant's provider hangs, and 1,100 of its sends wait for it."""
    body = b'{"to": "+5511987654321", "body": "Hello"}'

    async def send(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(storm.request("POST /send", storm.authorization, "content-type: application/json", body=body))
        await reader.readline()

    await storm.again_and_again(1_100, send)


async def headers(storm: Storm) -> None:
    """Headers without end: many lines, and one line."""

    async def pour(number: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = b"a: " + PIECE + b"\r\n" if number % 2 else PIECE
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nb: ")
        while storm.left_s > 0:
            writer.write(line)
            await writer.drain()

    await storm.again_and_again(8, pour, 0.05)


async def refusals(storm: Storm) -> None:
    """Thousands of requests in one write, each refused at once: unsigned webhooks, and headers of tiny lines."""
    path = f"POST {storm.target.webhook_path}"
    unsigned = storm.request(path, "content-length: 0")
    many_lines = storm.request("GET /healthz", *["a:"] * 12_000)

    async def pour(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reading = asyncio.create_task(until_closed(reader))
        piece = many_lines * 4 if number % 2 else unsigned * (4 * len(PIECE) // len(unsigned))
        try:
            while not reading.done():
                writer.write(piece)
                await writer.drain()
        finally:
            reading.cancel()

    await storm.again_and_again(60, pour, 0.05)


async def heavy(storm: Storm) -> None:
    """Eight connections with webhooks of 49,000 items each, and with ones of 4 MiB."""
    rng = random.Random(storm.target.seed)

    def body(number: int) -> bytes:
        if number % 2:
            value: dict[str, object] = {"messages": [rng.randrange(10**9) for _ in range(ITEMS)]}
        else:
            items = [{"id": f"wamid.{rng.randrange(10**12)}", "status": "sent"} for _ in range(12_000)]
            value = {"statuses": items, "contacts": [{"profile": {"name": "x" * 3_000_000}}]}
        return encode(envelope((storm.target.number, value)))

    async def post(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while storm.left_s > 0:
            raw = body(number)
            signed = [f"{name}: {value}" for name, value in signed_headers(storm.target.number.app_secret, raw).items()]
            writer.write(storm.request(f"POST {storm.target.webhook_path}", *signed, body=raw))
            await writer.drain()
            answer = await answer_of(reader)
            if not answer.startswith(b"HTTP/1.1 200"):
                await asyncio.sleep(0.5)
            if b"connection: close" in answer:
                return

    await storm.again_and_again(8, post, 0.2)


# Every method that the HTTP parser knows.
METHODS = """
    ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS
    PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK
    UNSUBSCRIBE
""".split()  # noqa: SIM905  (a list of them would take a page)
WHATSAPP = "/integrations/whatsapp"
PATHS = [
    *("/send", "/messages", "/events", "/keys", "/organizations", "/quarantine", "/callback", "/media", "/nothing"),
    *("/healthz", "/readyz", "/metrics", "/openapi.json"),
    *(f"{WHATSAPP}/providers", f"{WHATSAPP}/provider/current", f"{WHATSAPP}/audit"),
]


async def labels(storm: Storm) -> None:
    """Every method of HTTP at every path, made-up paths, and six scrapers."""
    rng = random.Random(storm.target.seed)

    def scraped(number: int) -> int | None:
        return storm.target.metrics_port if number < 6 else None

    async def ask(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = rng.choice([*PATHS, f"/webhooks/{rng.randrange(10**9)}/{rng.randrange(10**9)}"])
        line = "GET /metrics" if scraped(number) else f"{rng.choice(METHODS)} {path}"
        writer.write(storm.request(line, "connection: close"))
        await until_closed(reader)

    await storm.again_and_again(16, ask, 0.02, ports=scraped)


async def guesses(storm: Storm) -> None:
    """Keys that are none, from a hundred addresses, and one tenant that asks as fast as it can."""
    rng = random.Random(storm.target.seed)

    async def guess(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while storm.left_s > 0:
            key = base64.urlsafe_b64encode(rng.randbytes(40)).decode()
            who = f"authorization: Bearer ingress_live_{key}" if number < 10 else storm.authorization
            writer.write(storm.request("GET /messages?limit=200", who))
            await answer_of(reader)
            await asyncio.sleep(0.02 if number < 10 else 0)

    await storm.again_and_again(14, guess, 0.1)


STORMS: dict[str, Callable[[Storm], Coroutine[Any, Any, None]]] = {
    storm.__name__: storm
    for storm in (connections, deaf, streams, sends, headers, refusals, heavy, pages, labels, guesses)
}


def main() -> None:
    name = sys.argv[1]
    target = msgspec.convert(json.loads(sys.stdin.read()), AttackTarget)
    asyncio.run(STORMS[name](Storm(target)))


if __name__ == "__main__":
    main()
