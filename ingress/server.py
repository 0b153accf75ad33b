"""Serving the application: uvicorn, with deadlines for slow clients and an orderly end."""

import asyncio
import gc
import logging
import os
import signal
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .app import Application
from .settings import Settings

logger = logging.getLogger("ingress.server")

HEADER_DEADLINE_S = 10.0
BODY_DEADLINE_S = 15.0
# Longer than the idle time of the proxy in front, so that it never reuses a connection that we are closing.
KEEPALIVE_S = 75
GRACE_S = 15
WATCHDOG_S = 45
MAX_CONCURRENCY = 1_000
BACKLOG = 2_048


class PortTaken(Exception):
    """The address cannot be listened on; the message says which and what to set."""


class DeadlineProtocol(HttpToolsProtocol):
    """uvicorn waits for ever for a client that never ends its header or body (encode/uvicorn#157); this does not."""

    _receiving: TimerHandle | None = None
    _in_body = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm(HEADER_DEADLINE_S)  # one that never says a word is slow too

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn makes the scope at the first byte of a request, and puts the method in when the header is complete.
        in_header = self.scope is None or "method" not in self.scope
        if not in_header and not self.cycle.more_body:
            if self._receiving is not None:
                self._disarm()
        elif self._receiving is None or in_header == self._in_body:  # not armed, or for the other part
            self._in_body = not in_header
            self._arm(HEADER_DEADLINE_S if in_header else BODY_DEADLINE_S)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._receiving = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _too_slow(self) -> None:
        self._receiving = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken port is told before anything is started. Raises `PortTaken`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio switches Nagle off only then, and an answer of two writes would take 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise PortTaken(f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); set INGRESS_PORT") from None
    made.listen(BACKLOG)
    made.set_inheritable(True)
    return made


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which would end the process before our own end."""

    def capture_signals(self) -> Any:
        return nullcontext()


Beside = Callable[[], AbstractAsyncContextManager[None]]


async def serve(settings: Settings, listening: socket.socket, beside: Beside | None = None) -> None:
    """Serve on *listening* until SIGINT or SIGTERM, then drain: no new work, what is under way ends, then close.

    *beside* is entered once the application answers, and left before it stops.
    """
    application = Application(settings)
    config = uvicorn.Config(
        application,
        http=DeadlineProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=MAX_CONCURRENCY,
        backlog=BACKLOG,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if application.closing.is_set():  # asked twice: at once
            server.force_exit = True
            return
        application.closing.set()
        server.should_exit = True
        loop.call_later(WATCHDOG_S, os._exit, 1)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():  # noqa: ASYNC110  (uvicorn has a flag, no event)
        await asyncio.sleep(0.005)
    # What was made until now stays; the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        if beside is not None and server.started:
            async with beside():
                await application.closing.wait()
    finally:
        if not application.closing.is_set() and beside is not None:
            stop()
        await serving
    if not server.started:
        raise RuntimeError("the application could not start")
