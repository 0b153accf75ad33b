"""A TCP proxy that breaks connections on purpose, between the service and anything it talks to.

It listens on a loopback port; its upstream is a ``(host, port)`` or the path of a unix socket. What its
attributes say holds for all connections from then on; `reset_all`, `half_close_all` and `pause` act at once.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Literal

from .listener import HOST, Startable, reset

Direction = Literal["up", "down"]  # up: from the client to the upstream


class _Connection:
    def __init__(self, client: asyncio.StreamWriter, upstream: asyncio.StreamWriter) -> None:
        self.client = client
        self.upstream = upstream
        self.bytes: dict[Direction, int] = {"up": 0, "down": 0}  # forwarded so far
        self.half_closed = False  # towards the client

    def reset(self) -> None:
        reset(self.client.transport)
        reset(self.upstream.transport)


class FaultProxy(Startable):
    """Start with ``async with``; ``port`` is where to connect."""

    def __init__(self, upstream: tuple[str, int] | str, port: int = 0) -> None:
        self.port = port
        self.delay_s = 0.0  # before each chunk, either way
        self.cut_after: dict[Direction, int] = {}  # bytes of one connection; one more byte resets it
        # Sees each chunk before it is forwarded; True holds it back, and all that comes after it that way.
        self.watch: Callable[[Direction, bytes], bool] | None = None
        # What is forwarded in place of each chunk: as long as that, where its protocol counts.
        self.change: Callable[[Direction, bytes], bytes] = lambda _, chunk: chunk
        self.connections = 0  # accepted so far
        self.forwarded: dict[Direction, int] = {"up": 0, "down": 0}  # bytes, over all connections
        self._upstream = upstream
        self._open: set[_Connection] = set()
        self._flowing: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.resume()

    async def start(self) -> None:
        """Listen, on the port it had before where it had one."""
        self._server = await asyncio.start_server(self._accept, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections until `start`; the open ones live."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.refuse()
        self.reset_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def pause(self, *directions: Direction) -> None:
        """Blackhole: hold back all bytes of *directions*, or both; connections stay open, and nobody notices."""
        for direction in directions or ("up", "down"):
            self._flowing[direction].clear()

    def resume(self) -> None:
        """Let everything flow that `pause` held back."""
        for flowing in self._flowing.values():
            flowing.set()

    def reset_all(self) -> None:
        """RST on both sides of every open connection."""
        for connection in list(self._open):
            connection.reset()

    def half_close_all(self) -> None:
        """FIN towards every client: it reads the end, but may still write."""
        for connection in self._open:
            if not connection.half_closed:
                connection.half_closed = True
                connection.client.write_eof()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            await self._proxy(reader, writer)
        finally:
            writer.transport.abort()

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._upstream, str):
                answers, upstream = await asyncio.open_unix_connection(self._upstream)
            else:
                answers, upstream = await asyncio.open_connection(*self._upstream)
        except OSError:
            return  # nobody there: the client sees its connection end
        connection = _Connection(writer, upstream)
        self._open.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump("up", reader, upstream, connection))
                group.create_task(self._pump("down", answers, writer, connection))
        finally:
            self._open.discard(connection)
            upstream.transport.abort()

    async def _pump(
        self,
        way: Direction,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        connection: _Connection,
    ) -> None:
        """Forward until the source ends. A side that fails takes the other one with it."""
        try:
            while chunk := await source.read(65536):
                if self.watch is not None and self.watch(way, chunk):
                    self.pause(way)
                await asyncio.sleep(self.delay_s)
                await self._flowing[way].wait()
                if way == "down" and connection.half_closed:
                    continue
                left = self.cut_after.get(way, len(chunk) + connection.bytes[way]) - connection.bytes[way]
                passed = min(len(chunk), max(left, 0))
                if sink.is_closing():
                    raise ConnectionResetError
                sink.write(self.change(way, chunk)[:passed])
                await sink.drain()
                connection.bytes[way] += passed
                self.forwarded[way] += passed
                if left < len(chunk):
                    connection.reset()
            await self._flowing[way].wait()
            with contextlib.suppress(OSError, RuntimeError):  # the other side is closed already
                sink.write_eof()
        except ConnectionError:
            connection.reset()
