"""Serving the application: uvicorn, and an orderly end."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any

import uvicorn

from . import __version__
from .app import Application
from .settings import Network, Settings
from .web.connections import KEEPALIVE_S, Connections, most_connections

logger = logging.getLogger("ingress.server")

GRACE_S = 15
WATCHDOG_S = 45
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
    made = _socket(host)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        name = name if error.errno in (errno.EADDRINUSE, errno.EACCES) else "INGRESS_HOST"
        raise PortTaken(f"cannot listen on {host}:{port} ({error.strerror}); set {name}") from None
    made.listen(BACKLOG)
    made.set_inheritable(True)
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


def operations_configuration(application: Application) -> uvicorn.Config:
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


async def serve(
    settings: Settings, listening: socket.socket, operations: socket.socket, beside: Beside | None = None
) -> None:
    """Serve on *listening* until SIGINT or SIGTERM, then drain: no new work, what is under way ends, then close.

    On *operations*, metrics and health are served until that is done. *beside* is entered once the application answers,
    and left before it stops.
    """
    application = Application(settings)
    server = _Server(configuration(application))
    watched = _Server(operations_configuration(application))
    stop = partial(_stop, application, server)
    _on_signals(stop)
    serving = await _begin(server, listening)
    watching = asyncio.create_task(watched.serve(sockets=[operations]))
    try:
        if server.started:
            _announce(settings)
            await _stay(application, beside)
    finally:
        if beside is not None and not application.closing.is_set():
            stop()
        await serving
        watched.should_exit = True
        await watching
    if not server.started:
        raise RuntimeError("the application could not start")


async def _begin(server: _Server, listening: socket.socket) -> asyncio.Task[None]:
    """Have *server* started, or ended because it could not."""
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():  # noqa: ASYNC110  (uvicorn has a flag, no event)
        await asyncio.sleep(0.005)
    # What was made until now stays; the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    return serving


def _on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


async def _stay(application: Application, beside: Beside | None) -> None:
    if beside is not None:
        async with beside():
            await application.closing.wait()


def _stop(application: Application, server: _Server) -> None:
    if application.closing.is_set():  # asked twice: at once
        server.force_exit = True
        return
    application.closing.set()
    server.should_exit = True
    asyncio.get_running_loop().call_later(WATCHDOG_S, os._exit, 1)


def _announce(settings: Settings) -> None:
    logger.info(
        "WhatsApp Ingress %s serves at %s, metrics at %s; one process (%d), up to %d connections to PostgreSQL",
        *(__version__, settings.address, settings.metrics_url, os.getpid(), settings.database_connections),
    )
