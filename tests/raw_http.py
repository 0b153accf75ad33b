"""Raw connections to the service, for what no HTTP client would send."""

import asyncio
import contextlib
import socket
from typing import Any

import msgspec
from yarl import URL

from ingress.dev.sandbox import signed_headers
from ingress.dev.sandbox.meta.bodies import encode

from .gateway import Organization

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
WAIT_S = 60


class Answered(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A raw connection, of the *local* address if there is one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, url: str, local: str | None = None) -> "Client":
        address = (local, 0) if local else None
        opened = await asyncio.open_connection(URL(url).host, URL(url).port, local_addr=address)
        opened[1].get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(*opened)

    async def write(self, *pieces: bytes) -> None:
        """Each of *pieces* in a read of its own, as far as that can be had."""
        for piece in pieces:
            self.writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await self.writer.drain()
            await asyncio.sleep(0)

    async def answer(self) -> Answered:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", "0"))
        body = await asyncio.wait_for(self.reader.readexactly(length), WAIT_S)
        return Answered(int(first.split()[1]), headers, body)

    async def answers(self) -> list[Answered]:
        """All that come until the service ends the connection."""
        found = []
        while True:
            try:
                found.append(await self.answer())
            except (asyncio.IncompleteReadError, ConnectionError):
                return found

    async def is_closed(self, within_s: float = WAIT_S) -> bool:
        """Whether the service ends the connection, and says nothing before."""
        try:
            return await asyncio.wait_for(self.reader.read(1), within_s) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def request(method: str, target: str, *headers: str, body: bytes = b"", length: bool = True) -> bytes:
    """A request as it is written; its length is declared."""
    lines = [f"{method} {target} HTTP/1.1", "host: x", *headers]
    if body and length:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def webhook(organization: Organization, content: Any, *headers: str) -> bytes:
    """A signed webhook of an organization's first config."""
    raw = content if isinstance(content, bytes) else encode(content)
    signed = [f"{name}: {value}" for name, value in signed_headers(organization.numbers[0].app_secret, raw).items()]
    return request("POST", path_of(organization), *signed, *headers, body=raw)


def path_of(organization: Organization) -> str:
    return URL(organization.configs[0]["webhook_url"]).path


def bearer(organization: Organization) -> str:
    return f"authorization: Bearer {organization.key}"
