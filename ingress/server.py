"""Serving the application: uvicorn, with deadlines for slow clients and an orderly end."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from . import identifiers
from .app import Application
from .edge import SMALL_BODY_BYTES, TooLarge
from .group_commit import Overloaded
from .inbound import Answer, Inbound
from .settings import Settings

logger = logging.getLogger("ingress.server")

HEADER_DEADLINE_S = 10.0
BODY_DEADLINE_S = 15.0
# Longer than the idle time of the proxy in front, so that it never reuses a connection that we are closing.
KEEPALIVE_S = 75
# A connection that is closed while its client still sends is reset, and the client may never see the answer.
LINGER_S = 2.0
GRACE_S = 15
WATCHDOG_S = 45
MAX_CONCURRENCY = 1_000
# Of the port for metrics: scrapers and probes are few, and come again.
OPERATIONS_CONCURRENCY, OPERATIONS_KEEPALIVE_S = 64, 5
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

    def on_headers_complete(self) -> None:
        # For who has said who they are, and has much to send.
        self.scope["state"]["extend_body_deadline"] = self.extend_body_deadline
        super().on_headers_complete()

    def extend_body_deadline(self, seconds: float) -> None:
        """Give the body that is under way *seconds* from now on."""
        if self._receiving is not None and self._in_body:
            self._arm(seconds)

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


class WebhookProtocol(DeadlineProtocol):
    """Hands webhooks to `Inbound` whole, without the ASGI messages between server and application.

    A webhook is one body in and one short answer out, and most of what this server does; scope, receive and send for
    each cost a third of the work. All else, and whatever is unusual about a request, takes uvicorn's own way.
    """

    _idle_since = 0.0
    _idling: TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idling is not None:
            self._idling.cancel()
        super().connection_lost(exc)

    def rest(self) -> None:
        """Go on: what `on_response_complete` does, with one timer a connection in place of one a request."""
        if self.pipeline:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        if self._idling is None:
            self._idling = self.loop.call_later(KEEPALIVE_S, self._idled)

    def _idled(self) -> None:
        self._idling = None
        if not isinstance(self.cycle, _Exchange):
            return  # uvicorn's own timer is running, or will be
        left = self._idle_since + KEEPALIVE_S - self.loop.time()
        if left > 0 or not self.cycle.response_complete:
            self._idling = self.loop.call_later(left if left > 0 else KEEPALIVE_S, self._idled)
        elif not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.scope = cast("Any", {})  # a webhook needs none

    def on_headers_complete(self) -> None:
        usual = (
            self.url.startswith(b"/webhooks/")
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and (self.cycle is None or self.cycle.response_complete)  # none is being answered on this connection
            and len(self.connections) < MAX_CONCURRENCY
        )
        if usual:
            self.scope["method"] = "POST"  # tells that the header is complete, as uvicorn does
            self.cycle = cast("Any", _Exchange(self, self.app_state["inbound"]))
        else:
            so_far = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, headers, self.expect_100_continue = so_far
            self.headers += headers  # the scope has the same list
            super().on_headers_complete()

    def _arm(self, seconds: float) -> None:
        super()._arm(seconds)
        if self._in_body and isinstance(self.cycle, _Exchange):
            self.cycle.foresee()

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, _Exchange):
            self.cycle.feed(body)
        else:
            super().on_body(body)


class _Exchange:
    """One webhook on one connection: stands where uvicorn keeps its `RequestResponseCycle`."""

    __slots__ = (
        "_begun",
        "_chunks",
        "_headers",
        "_inbound",
        "_protocol",
        "_size_bytes",
        "_target",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
    )

    def __init__(self, protocol: WebhookProtocol, inbound: Inbound) -> None:
        self._protocol = protocol
        self._inbound = inbound
        self._target = protocol.url
        self._headers = protocol.headers
        self._chunks: list[bytes] = []
        self._size_bytes = 0
        self._begun = False
        # What uvicorn reads and sets.
        self.keep_alive = protocol.parser.should_keep_alive()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False

    @property
    def message_event(self) -> "_Exchange":
        """What uvicorn calls `set` of. Not an attribute: a cycle for each webhook would wait for the collector."""
        return self

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body, counted: a length that a client declares is not believed."""
        if self.response_complete:
            return
        self._chunks.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes > SMALL_BODY_BYTES:
            try:
                self._inbound.bodies.grow(self._size_bytes, len(chunk))
                self._admit(self._size_bytes)
            except (TooLarge, Overloaded) as error:
                self._turn_away(error)

    def foresee(self) -> None:
        """Refuse a body that is not here yet, if the length that its client declares is too much."""
        declared = dict(self._headers).get(b"content-length", b"0")  # the parser lets only digits pass
        if not self.response_complete and int(declared) > SMALL_BODY_BYTES:
            try:
                self._admit(int(declared))
            except TooLarge as error:
                self._turn_away(error)

    def _admit(self, size_bytes: int) -> None:
        if size_bytes > self._inbound.limit_bytes(self._target.decode("latin-1").partition("?")[0]):
            raise TooLarge

    def _turn_away(self, error: TooLarge | Overloaded) -> None:
        self._release()
        self.keep_alive = False
        self._answer(self._inbound.turn_away(error), identifiers.request_id())

    def _release(self) -> None:
        # An idle connection keeps its last exchange: without the body.
        self._chunks.clear()
        self._inbound.bodies.release(self._size_bytes)

    def set(self) -> None:
        """uvicorn's sign that the body is complete, or the client gone."""
        if self._begun or self.response_complete:
            return
        if self.disconnected:
            self._release()
        elif not self.more_body:
            self._begun = True
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            if self._size_bytes > SMALL_BODY_BYTES:
                self._release()
            path, _, query = self._target.decode("latin-1").partition("?")
            self._inbound.begin("POST", path, query, self._headers, body, self._answer)

    def _answer(self, answer: Answer, request_id: str) -> None:
        self.response_complete = True
        protocol = self._protocol
        if self.disconnected or protocol.transport.is_closing():
            return
        lines = [STATUS_LINE[answer.status], answer.head, b"x-request-id: ", request_id.encode(), b"\r\n"]
        for name, value in protocol.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", answer.body)
        protocol.transport.write(b"".join(lines))
        if self.keep_alive:
            protocol.rest()
        elif self.more_body:
            protocol.loop.call_later(LINGER_S, protocol.transport.close)
        else:
            protocol.transport.close()


def listen(host: str, port: int, name: str = "INGRESS_PORT") -> socket.socket:
    """A listening socket, so that a taken port is reported before anything is started. Raises `PortTaken`.

    *name* is the variable that the port comes from.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio switches Nagle off only then, and an answer of two writes would take 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        name = name if error.errno in (errno.EADDRINUSE, errno.EACCES) else "INGRESS_HOST"
        raise PortTaken(f"cannot listen on {host}:{port} ({error.strerror}); set {name}") from None
    made.listen(BACKLOG)
    made.set_inheritable(True)
    return made


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which would end the process before our own end."""

    def capture_signals(self) -> Any:
        return nullcontext()


def configuration(application: Application) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        application,
        http=WebhookProtocol,
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


def operations_configuration(application: Application) -> uvicorn.Config:
    """How metrics are served, by a server of its own: what floods the other one takes none of its connections."""
    return uvicorn.Config(
        application.operations,
        interface="asgi3",  # not to be seen of a method
        http=DeadlineProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=OPERATIONS_KEEPALIVE_S,
        timeout_graceful_shutdown=1,
        limit_concurrency=OPERATIONS_CONCURRENCY,
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
    watching = asyncio.create_task(watched.serve(sockets=[operations]))
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
        watched.should_exit = True
        await watching
    if not server.started:
        raise RuntimeError("the application could not start")
