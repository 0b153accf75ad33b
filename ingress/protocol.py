"""HTTP connections: all that touches uvicorn's private parts. One request at a time, and bounds for everything."""

import asyncio
import sys
from typing import Any, cast

from httptools import HttpParserError
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from . import identifiers, metrics
from .receiving.answers import Header
from .receiving.exchange import Exchange
from .web import http_requests
from .web.connections import KEEPALIVE_S, Connections
from .web.http_requests import BETWEEN, BODY, CHUNKED, HEADER, RequestBounds, body_of, target_of
from .web.middleware import CAREFUL
from .web.problems import Problem, unavailable

HEADER_DEADLINE_S = 10.0
BODY_DEADLINE_S = 15.0
# Without any progress: who reads slowly may go on.
WRITE_DEADLINE_S = 30.0
# A connection that is closed while its client still sends is reset, and the client may never see the answer.
LINGER_S = 2.0
# What waits behind a request that is not answered yet; more stays with its client.
MAX_AHEAD_BYTES = 64 * 1024
# Answered also where the API has all the connections it may take.
RESERVED = ("/webhooks/", "/healthz", "/readyz")
HEALTH = (b"/healthz", b"/readyz")


class BoundedProtocol(HttpToolsProtocol):
    """Feeds the parser one request after the other, each when the former is answered, and never without a bound.

    uvicorn gives the parser whatever arrives, and queues what comes out of it: it waits for ever for a client that
    never ends its header or body (encode/uvicorn#157), keeps headers without end, and takes what follows a request that
    asks for another protocol, its body too, for requests. Here each piece ends where a header or body ends, so that
    answers are in order whatever is sent, and behind a request that is refused nothing is read.
    """

    def __init__(self, *, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._fence = connections
        self._unread, self._at = b"", 0  # what arrived, and how much of it was parsed
        self._advancing = False
        self._ending = False
        self.bounds = RequestBounds()
        self._timed = BETWEEN  # the part that the deadline is of
        self._unsent_bytes, self._progress_at = 0, self.loop.time()
        self._extended = self._beyond = self._is_due = False
        self.waiting_since, self._deadline = 0.0, 0.0

    # -- what the fence asks

    @property
    def host(self) -> str | None:
        return self.client[0] if self.client else None

    @property
    def is_waiting(self) -> bool:
        return not self._extended and (self.bounds.part != BETWEEN or self._ending or not self._is_answering)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def evict(self) -> None:
        self._abort("evicted")

    def look(self, now: float) -> None:
        if now - self._last_progress(now) > WRITE_DEADLINE_S:
            self._abort("slow_reader")
        elif now < self._deadline or self.transport.is_closing():
            return
        elif self._ending:
            self.transport.abort()
        elif self.bounds.part != BETWEEN:
            self._abort("slow_sender")
        elif self.cycle is None:
            self._abort("silent")
        elif self.cycle.response_complete and not self._unsent_bytes:
            self.transport.close()

    def _last_progress(self, now: float) -> float:
        """When the client last read some of what is written, or all of it."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent_bytes:
            self._progress_at = now
        self._unsent_bytes = unsent
        return self._progress_at

    def _abort(self, reason: str) -> None:
        metrics.connections_ended.labels(reason).inc()
        self.transport.abort()

    def _wait(self, seconds: float) -> None:
        """Give the client *seconds* from now on."""
        self.waiting_since = self.loop.time()
        self._deadline = self.waiting_since + seconds

    def extend_body_deadline(self, seconds: float) -> None:
        """Give the body that is under way *seconds* from now on."""
        if self.bounds.part == BODY:
            self._extended = True
            self._wait(seconds)

    # -- what asyncio calls

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(HEADER_DEADLINE_S)  # one that never says a word is slow too
        self._beyond = not self._fence.enter(self)
        if self._beyond:  # its request is read, to be refused; but is this process alive?, that is answered even now
            self._wait(LINGER_S)
            if not self._fence.may_linger:
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending, self._unread = True, b""
        self._fence.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._ending:
            self._unread, self._at = (self._unread[self._at :] + data if self._unread else data), 0
            self._advance()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._progress_at = self.loop.time()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._advance()

    # -- from bytes to requests

    def _advance(self) -> None:
        """Parse what is here, up to the end of a request that is not answered yet."""
        if self._advancing or not self._unread:
            return
        self._advancing = True
        try:
            self._at = self._parse(self._unread, self._at)
        except Problem as problem:
            self._refuse(problem)
        except HttpParserError as error:
            self._refuse(http_requests.problem_of(error.__context__))
        finally:
            self._advancing = False
        if self._ending or self._at == len(self._unread):
            self._unread, self._at = b"", 0
        if self._ending:
            return
        if (part := self.bounds.part) != self._timed:
            self._timed = part
            self._begin_wait()
        elif len(self._unread) - self._at > MAX_AHEAD_BYTES:
            self.flow.pause_reading()

    def _advance_soon(self) -> None:
        """When all others had their turn."""
        if not self._is_due:
            self._is_due = True
            self.loop.call_soon(self._advance_now)

    def _advance_now(self) -> None:
        self._is_due = False
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._advance()

    def _begin_wait(self) -> None:
        if not self._beyond:
            self._wait(HEADER_DEADLINE_S if self.bounds.part == HEADER else BODY_DEADLINE_S)

    def _parse(self, data: bytes, at: int) -> int:
        """Parse *data* from *at* on; gives where that ends. At most one request begins.

        Raises `Problem` and httptools' errors.
        """
        bounds, has_begun = self.bounds, False
        while at < len(data) and not self._ending:
            if bounds.part == BETWEEN:
                if self.flow.write_paused or ((cycle := self.cycle) is not None and not cycle.response_complete):
                    break
                if data[at] in b"\r\n":  # before a request they mean nothing, nor that one begins
                    at = http_requests.behind_empty_lines(data, at)
                    continue
                if has_begun:  # it is answered already, and so may be thousands behind it
                    self._advance_soon()
                    break
                has_begun = True
                bounds.part, bounds.size_bytes = HEADER, 0
            end = bounds.end(data, at)
            self.parser.feed_data(data[at:end])
            at = end
            if bounds.part == BODY and bounds.size_bytes > http_requests.MAX_FRAMING_BYTES:
                raise http_requests.BODY_TOO_LARGE()
        return at

    # -- what the parser calls; of what it raises, the parser makes an error with that as its context

    def on_message_begin(self) -> None:
        if self.bounds.part != HEADER:
            # The parser and we disagree about where a request ends: one of them is deceived.
            raise http_requests.MALFORMED()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= http_requests.MAX_HEADERS:
            raise http_requests.TOO_MANY_HEADERS()
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        # Whatever comes after the header is none: trailers go to a list that nobody reads.
        headers, self.headers = self.headers, []
        bounds = self.bounds
        bounds.part, bounds.size_bytes, self._extended = BODY, 0, False
        bounds.left_bytes, self.expect_100_continue = body_of(headers, version, upgrade=self.parser.should_upgrade())
        if self._beyond and not self.url.startswith(HEALTH):
            raise unavailable("There are too many connections.")
        self._begin(headers, version)

    def _begin(self, headers: list[Header], version: str) -> None:
        """Start the application for the request whose header is complete."""
        scope = self._scope(headers, version)
        if len(self.tasks) >= self._fence.most_api_requests and not scope["path"].startswith(RESERVED):
            raise unavailable("There are too many requests.")
        keep_alive = version != "1.0" and not self._beyond and self.parser.should_keep_alive()
        self.cycle = _Cycle(self, scope, keep_alive)
        self._start_asgi_task(self.cycle, self.app)

    def _scope(self, headers: list[Header], version: str) -> Any:
        path, raw_path, query = target_of(self.url)
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "method": self.parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            # The last is for clients that have a key, and has much to send.
            "state": {**self.app_state, "extend_body_deadline": self.extend_body_deadline},
        }

    def on_body(self, body: bytes) -> None:
        if self.bounds.left_bytes == CHUNKED:
            self.bounds.size_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.bounds.part = self._timed = BETWEEN
        self._extended = False
        if self.cycle.response_complete:  # before its body was
            self._wait(KEEPALIVE_S)
        else:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    # -- answers

    def on_response_complete(self) -> None:
        if cast("_Cycle", self.cycle).ends:
            self.end()
        elif not self.transport.is_closing():
            self.rest()

    def rest(self) -> None:
        """Go on after an answer, which may have been given while an exception is handled."""
        self.server_state.total_requests += 1
        if self.bounds.part == BETWEEN:
            self.waiting_since = now = self.loop.time()
            self._deadline = now + KEEPALIVE_S
        if self._advancing:
            return
        if not self._unread:
            self.flow.resume_reading()
        elif sys.exception() is None:
            self.flow.resume_reading()
            self._advance()
        else:  # the parser's errors would have that one as their context, and not ours
            self._advance_soon()

    def write(self, status: int, head: bytes, body: bytes, request_id: str, *, keep_alive: bool) -> None:
        lines = [STATUS_LINE[status], head, b"x-request-id: ", request_id.encode(), b"\r\n"]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        if not keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", body)
        self.transport.write(b"".join(lines))

    def _refuse(self, problem: Problem) -> None:
        """Answer, and end the connection: of what follows nothing is read."""
        metrics.connections_ended.labels(problem.code).inc()
        if self._is_answering and self._break_off():
            return
        request_id = identifiers.request_id()
        response = problem.response(request_id)
        head = b"".join(b"%b: %b\r\n" % header for header in (*response.raw_headers, *CAREFUL))
        self.write(problem.status, head, bytes(response.body), request_id, keep_alive=False)
        self.end()

    def _break_off(self) -> bool:
        """End the body that is under way here; and the connection, if the answer is under way too. Whether it is."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        if not (isinstance(self.cycle, _Cycle) and self.cycle.response_started):
            return False
        self._ending = True
        self.transport.abort()
        return True

    def end(self) -> None:
        """Close, but not before the client had time to see the answer; what it sends until then is dropped."""
        self._ending, self._unread = True, b""
        if not self.transport.is_closing():
            self._wait(LINGER_S)
            self.flow.resume_reading()
            self.transport.write_eof()


class _Cycle(RequestResponseCycle):
    """uvicorn's, for which an answer that comes before all of the body ends the connection, if much is left of it."""

    def __init__(self, protocol: BoundedProtocol, scope: Any, keep_alive: bool) -> None:
        super().__init__(
            scope=scope,
            transport=protocol.transport,
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=protocol.access_log,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=protocol.expect_100_continue,
            keep_alive=keep_alive,
            on_response=protocol.on_response_complete,
        )
        self._protocol = protocol
        self.ends = False

    async def send(self, message: Any) -> None:
        if self.response_started or not self.more_body:
            await super().send(message)
        elif not self.keep_alive or self._protocol.bounds.much_is_left:
            self.ends = True
            self.default_headers = [*self.default_headers, CLOSE_HEADER]
            await super().send(message)
            self.keep_alive = True  # or uvicorn would close at once
        else:
            await super().send(message)


class WebhookProtocol(BoundedProtocol):
    """Hands webhooks to `WebhookReceiver` whole, without the ASGI messages between server and application.

    A webhook is one body in and one short answer out, and most of what this server does; scope, receive and send for
    each cost a third of the work. All else, and whatever is unusual about a request, takes uvicorn's own way.
    """

    def _begin(self, headers: list[Header], version: str) -> None:
        usual = (
            self.url.startswith(b"/webhooks/")
            and self.parser.get_method() == b"POST"
            and version == "1.1"
            and not self.expect_100_continue
        )
        if usual:
            self.cycle = cast("Any", Exchange(self, headers, self.app_state["receiver"]))
        else:
            super()._begin(headers, version)

    def _begin_wait(self) -> None:
        super()._begin_wait()
        if self.bounds.part == BODY and isinstance(self.cycle, Exchange):
            self.cycle.foresee(self.bounds.left_bytes)

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, Exchange):
            if self.bounds.left_bytes == CHUNKED:
                self.bounds.size_bytes -= len(body)
            self.cycle.feed(body)
        else:
            super().on_body(body)
