"""The proxy forwards faithfully until a test has it break something."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingress.dev.sandbox import FaultProxy


class Echo:
    """Answers each line with itself, and keeps count of the bytes that arrived."""

    def __init__(self) -> None:
        self.received = 0
        self.ended = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1000):
                self.received += len(chunk)
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        self.ended.set()
        writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy(server.sockets[0].getsockname()[:2]) as proxy:
        yield proxy
    server.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, proxy: FaultProxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ask(self, line: bytes = b"ping\n", timeout: float = 2.0) -> bytes:
        self.writer.write(line)
        return await asyncio.wait_for(self.reader.readexactly(len(line)), timeout)


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[Client]:
    client = await Client.connect(proxy)
    yield client
    client.writer.transport.abort()


async def test_bytes_pass_and_an_end_is_passed_on(client: Client, echo: Echo, proxy: FaultProxy) -> None:
    """Large and small, and a half-close by the client still gets its answers."""
    assert await client.ask() == b"ping\n"
    assert await client.ask(b"x" * 300_000) == b"x" * 300_000
    client.writer.write(b"last")
    client.writer.write_eof()
    assert await client.reader.read() == b"last"
    assert proxy.connections == 1


async def test_delay(client: Client, proxy: FaultProxy) -> None:
    """Each way waits once."""
    proxy.delay_s = 0.03
    started = asyncio.get_running_loop().time()
    assert await client.ask() == b"ping\n"
    assert asyncio.get_running_loop().time() - started > 0.057  # the loop counts in milliseconds


async def test_reset_all(client: Client, echo: Echo, proxy: FaultProxy) -> None:
    """Both sides see their connection reset; the next one works."""
    await client.ask()
    proxy.reset_all()
    with pytest.raises(ConnectionResetError):
        await client.reader.readexactly(1)
    await asyncio.wait_for(echo.ended.wait(), 60)
    again = await Client.connect(proxy)
    assert await again.ask() == b"ping\n"
    again.writer.close()


async def test_half_close(client: Client, echo: Echo, proxy: FaultProxy) -> None:
    """The client reads the end at once, and what it writes still arrives."""
    await client.ask()
    proxy.half_close_all()
    assert await asyncio.wait_for(client.reader.read(), 60) == b""
    client.writer.write(b"more")
    client.writer.write_eof()
    await asyncio.wait_for(echo.ended.wait(), 60)
    assert echo.received == 9


async def test_the_answer_is_swallowed(client: Client, echo: Echo, proxy: FaultProxy) -> None:
    """Paused downwards, a request takes effect and its answer is held back: the ambiguous case."""
    proxy.pause("down")
    with pytest.raises(TimeoutError):
        await client.ask(timeout=0.05)
    assert echo.received == 5
    proxy.resume()
    assert await asyncio.wait_for(client.reader.readexactly(5), 60) == b"ping\n"
    proxy.pause()
    client.writer.write(b"lost")
    client.writer.close()
    assert echo.received == 5


@pytest.mark.parametrize(("cut", "arrived", "answered"), [({"up": 3}, 3, 3), ({"down": 2}, 5, 2), ({"up": 0}, 0, 0)])
async def test_a_cut_after_so_many_bytes(
    client: Client, echo: Echo, proxy: FaultProxy, cut: dict[str, int], arrived: int, answered: int
) -> None:
    """Exactly that many bytes pass in that direction, then both sides are reset."""
    proxy.cut_after.update(cut)  # type: ignore[arg-type]  # the keys are directions
    client.writer.write(b"ping\n")
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(client.reader.readexactly(100), 60)
    await asyncio.wait_for(echo.ended.wait(), 60)
    assert echo.received <= arrived  # fewer where the reset overtakes them
    assert proxy.forwarded["up"] == arrived
    assert proxy.forwarded["down"] <= answered


async def test_refuse_and_start_again(client: Client, proxy: FaultProxy) -> None:
    """New connections are refused on the same port, the open one lives."""
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(proxy)
    assert await client.ask() == b"ping\n"
    port = proxy.port
    await proxy.start()
    assert proxy.port == port
    again = await Client.connect(proxy)
    assert await again.ask() == b"ping\n"
    again.writer.close()


async def test_an_upstream_may_be_a_unix_socket_or_absent(tmp_path: Path) -> None:
    """As PostgreSQL's; nobody behind it ends the connection."""
    path = str(tmp_path / ".s.PGSQL.5432")
    async with FaultProxy(path) as proxy:
        nobody = await Client.connect(proxy)
        assert await asyncio.wait_for(nobody.reader.read(), 60) == b""
        nobody.writer.close()
        server = await asyncio.start_unix_server(Echo(), path)
        client = await Client.connect(proxy)
        assert await client.ask() == b"ping\n"
        client.writer.close()
        server.close()
