"""An HTTP server on one loopback port that can also misbehave the way networks do.

It is aiohttp's low-level server: one function per request, with the connection's transport at hand.
"""

import abc
import asyncio
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, NoReturn, Self

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

HOST = "127.0.0.1"
MAX_REQUEST_BYTES = 16 * 1024 * 1024  # aiohttp's own 1 MiB is less than a provider's largest webhook
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST and drops what is unsent


class Startable(abc.ABC):
    """What runs from ``start()`` to ``close()``, or for an ``async with`` block."""

    @abc.abstractmethod
    async def start(self) -> None: ...

    @abc.abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Listener:
    """A server on ``HOST:port``. `refuse` and `open` may alternate; the port stays the same.

    A handler is cancelled when its client goes away, so a handler may wait for ever.
    """

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self.port = port  # 0 until the first `open`: the system chooses
        self._handler = handler
        self._server: web.Server | None = None
        self._accepting: asyncio.Server | None = None
        self._guard: socket.socket | None = None
        self._busy: set[web.RequestHandler] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def is_open(self) -> bool:
        return self._accepting is not None

    async def open(self) -> None:
        """Listen. Does nothing where it already does."""
        if self._accepting is not None:
            return
        loop = asyncio.get_running_loop()
        if self._server is None:
            self._server = web.Server(self._serve, request_factory=_request, handler_cancellation=True, access_log=None)
        if self._guard is None and sys.platform == "linux":
            # A bound socket that does not listen keeps the port ours while connections are refused:
            # without it the system may give the port to any outgoing connection in the meantime.
            self._guard = _bound(self.port)
            self.port = self._guard.getsockname()[1]
        listening = _bound(self.port)
        self.port = listening.getsockname()[1]
        self._accepting = await loop.create_server(self._server, sock=listening, backlog=1024)

    async def refuse(self) -> None:
        """Stop listening: new connections are refused. Idle ones are closed, busy ones after their answer."""
        if self._accepting is None or self._server is None:
            return
        self._accepting.close()
        self._accepting = None
        for connection in self._server.connections:
            if connection not in self._busy:
                connection.force_close()
        # Clients on this very loop learn of the end of their idle connections before we return,
        # so that their next request meets the refusal and not a connection that is just going away.
        for _ in range(5):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Stop listening, drop every connection, end every handler."""
        await self.refuse()
        if self._server is not None:
            for connection in self._server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await self._server.shutdown(1.0)
            self._server = None
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self._busy.add(request.protocol)
        try:
            response = await self._handler(request)
        finally:
            self._busy.discard(request.protocol)
        if not self.is_open:
            response.force_close()
        return response


async def vanish() -> NoReturn:
    """End a handler without an answer: it waits here until its client, or the listener, closes."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def reset(transport: asyncio.WriteTransport | None) -> None:
    """Close with RST instead of FIN, as a machine that crashed or a firewall does."""
    if transport is not None and not transport.is_closing():  # otherwise the client was faster
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setblocking(False)
    bound.bind((HOST, port))
    return bound


def _request(*parts: Any) -> web.BaseRequest:
    """What aiohttp's own factory makes of the parts of a request, with a larger limit."""
    make: Callable[..., web.BaseRequest] = web.BaseRequest
    return make(*parts, asyncio.get_running_loop(), client_max_size=MAX_REQUEST_BYTES)
