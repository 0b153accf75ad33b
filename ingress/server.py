"""Serving the application: uvicorn, and an orderly end."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from itertools import chain, repeat
from typing import Any, Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from . import __version__
from .app import Application
from .settings import Network, Settings
from .web.connections import KEEPALIVE_S, Connections, most_connections

logger = logging.getLogger("ingress.server")

GRACE_S = 15
WATCHDOG_S = 45
# Who is connected to a process that another one replaces has so long to ask once more, and is answered that it is the
# last time.
LAST_ANSWERS_S = 2.0
CLOSE_HEADER = (b"connection", b"close")
# Of the port for metrics: scrapers and probes are few, and come again.
OPERATIONS_CONNECTIONS = 64
BACKLOG = 2_048
# Connections inherit them. What a client does not read waits where it is counted, not in the system; and who has
# acknowledged nothing for so many ms is gone, though no reset came.
CONNECTION_OPTIONS = {"TCP_NOTSENT_LOWAT": 128 * 1024, "TCP_USER_TIMEOUT": 30_000}


class PortTaken(Exception):
    """The address cannot be listened on; the message says which and what to set."""


def listen(host: str, port: int, name: str = "INGRESS_PORT") -> socket.socket:
    """A listening socket, so that a taken port is reported before anything is started. Raises `PortTaken`.

    *name* is the variable that the port comes from.
    """
    made = bind(host, port, name)
    made.listen(BACKLOG)
    return made


def bind(host: str, port: int, name: str = "INGRESS_PORT", *, shared: bool = False) -> socket.socket:
    """As `listen`, but nobody can connect yet. What is *shared* may be bound again, each with a queue of its own.

    The system gives a connection to one of those that listen, by the addresses of both ends.
    """
    made = _socket(host)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        name = name if error.errno in (errno.EADDRINUSE, errno.EACCES) else "INGRESS_HOST"
        raise PortTaken(f"cannot listen on {host}:{port} ({error.strerror}); set {name}") from None
    return made


def _socket(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio switches Nagle off only then, and an answer of two writes would take 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option, value in CONNECTION_OPTIONS.items():
        if (number := getattr(socket, option, None)) is not None:  # not every system has each
            made.setsockopt(socket.IPPROTO_TCP, number, value)
    return made


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which would end the process before our own end."""

    def capture_signals(self) -> Any:
        return nullcontext()


def configuration(application: Application) -> uvicorn.Config:
    """How the application is served."""
    settings = application.settings
    fence = most_connections(), settings.connections_per_address, settings.trusted_networks
    return _configuration(
        application,
        _protocol(settings, *fence, webhooks=True),
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )


class Watched(Protocol):
    """What is served on the port that the public does not reach."""

    @property
    def settings(self) -> Settings: ...
    async def operations(self, scope: Scope, receive: Receive, send: Send) -> None: ...


def operations_configuration(application: Watched) -> uvicorn.Config:
    """How metrics are served, by a server of its own: what floods the other one takes none of its connections."""
    protocol = _protocol(application.settings, OPERATIONS_CONNECTIONS, 0, (), webhooks=False)
    # The interface is not to be seen of a method.
    return _configuration(
        application.operations, protocol, interface="asgi3", lifespan="off", timeout_graceful_shutdown=1
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Not that an answer broke off: whoever broke it off has logged why."""
    return record.msg != "ASGI callable returned without completing response."


def _protocol(
    settings: Settings, most: int, per_address: int, trusted: Sequence[Network], *, webhooks: bool
) -> dict[str, Any]:
    """How requests are read: within bounds of our own, or by uvicorn alone, none of whose private parts is touched."""
    if settings.http_protocol == "uvicorn":
        return {"http": "httptools", "limit_concurrency": most, "timeout_keep_alive": KEEPALIVE_S}
    from .protocol import BoundedProtocol, WebhookProtocol  # another uvicorn may lack what it imports

    protocol = WebhookProtocol if webhooks else BoundedProtocol
    return {"http": partial(protocol, connections=Connections(most, per_address, trusted))}


def _configuration(app: Any, protocol: dict[str, Any], **more: Any) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        **protocol,
        **more,
    )


Beside = Callable[[], AbstractAsyncContextManager[None]]


class Serving:
    """The application and its server, from the start to the end of the drain."""

    def __init__(self, settings: Settings, neighbours: int = 0) -> None:
        self.application = Application(settings, neighbours)
        self._server = _Server(configuration(self.application))
        self._serving: asyncio.Task[None]

    async def begin(self, listening: socket.socket) -> bool:
        """Have it started, or ended because it could not. Whether it answers."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110  (uvicorn has a flag, no event)
            await asyncio.sleep(0.005)
        # What was made until now stays; the collector need not look at it again.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        return self._server.started

    def drain(self) -> None:
        """No new work, what is under way ends, then close."""
        if not self.application.closing.is_set():
            self.application.closing.set()
            self._server.should_exit = True
            asyncio.get_running_loop().call_later(WATCHDOG_S, os._exit, 1)

    def stop_at_once(self) -> None:
        """What is under way is left to other processes."""
        self.drain()
        self._server.force_exit = True

    def hand_over(self) -> None:
        """As `drain`, where another process listens on the same socket: no client is to notice.

        A connection that is closed while its client begins a request loses it. So first each answer says that it is the
        last one, and only who asks nothing for a while is closed.
        """
        for server in self._server.servers:
            server.close()
        for headers in (self._server.config.encoded_headers, self._server.server_state.default_headers):
            headers.append(CLOSE_HEADER)
        asyncio.get_running_loop().call_later(LAST_ANSWERS_S, self.drain)

    async def end(self) -> None:
        """Wait for the end of the drain."""
        await self._serving


async def serve(
    settings: Settings, listening: socket.socket, operations: socket.socket, beside: Beside | None = None
) -> None:
    """Serve on *listening* until SIGINT or SIGTERM, then drain: no new work, what is under way ends, then close.

    On *operations*, metrics and health are served until that is done. *beside* is entered once the application answers,
    and left before it stops.
    """
    serving = Serving(settings)
    application = serving.application
    on_signals(serving.drain, serving.stop_at_once)
    is_started = await serving.begin(listening)
    async with operations_served(application, operations):
        try:
            if is_started:
                _announce(settings)
                if beside is not None:
                    async with beside():
                        await application.closing.wait()
        finally:
            if beside is not None and not application.closing.is_set():
                serving.drain()
            await serving.end()
    if not is_started:
        raise RuntimeError("the application could not start")


@asynccontextmanager
async def operations_served(application: Watched, listening: socket.socket) -> AsyncIterator[None]:
    """What *application* says of itself, on a port of its own."""
    server = _Server(operations_configuration(application))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def on_signals(first: Callable[[], None], later: Callable[[], None]) -> None:
    """On SIGINT and SIGTERM *first* is called, and *later* where it was: who asks twice does not want to wait."""
    asked = chain([first], repeat(later))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: next(asked)())


def _announce(settings: Settings) -> None:
    logger.info(
        "WhatsApp Ingress %s serves at %s, metrics at %s; one process (%d), up to %d connections to PostgreSQL",
        *(__version__, settings.address, settings.metrics_url, os.getpid(), settings.database_connections),
    )
