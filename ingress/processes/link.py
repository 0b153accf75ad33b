"""Messages between two processes over a socket that nobody else has: whoever reads it sees that the other one ended."""

import asyncio
import socket
from typing import Any

import msgspec

LENGTH_BYTES = 4


class Link:
    """One end of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def on(cls, end: socket.socket) -> "Link":
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: object) -> None:
        """Nothing, where the other process has ended: whoever receives sees that."""
        data = msgspec.msgpack.encode(message)
        self._writer.write(len(data).to_bytes(LENGTH_BYTES) + data)

    async def receive(self, kind: Any = Any) -> Any:
        """The next message. Raises `EOFError` or `ConnectionError` when the other process has ended."""
        length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES))
        return msgspec.msgpack.decode(await self._reader.readexactly(length), type=kind)

    def close(self) -> None:
        self._writer.close()
