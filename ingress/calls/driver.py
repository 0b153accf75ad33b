"""Drives a provider's flow over HTTP: deadlines, limits, and what a failed exchange means for the message."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from time import monotonic
from typing import Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from providers import Check, ChecksFlow, Request, Response, SendError, Unavailable, Uncertain

from ..tracing import HEADER
from .egress import Egress

Result = TypeVar("Result")
Exchange = Callable[[Request, float], Awaitable[Response]]

CONNECT_TIMEOUT_S = 3.0
MAX_ANSWER_BYTES = 1024 * 1024
# A few are this large, as pages of templates. Together they take so much at most: who has a server of their own as a
# provider may let all their calls have a large answer, and be slow with it.
SMALL_ANSWER_BYTES, MAX_ANSWERS_BYTES = 64 * 1024, 16 * 1024 * 1024
CUT_BYTES = 64 * 1024
# Addresses are kept at hand, but for those with something long in them, as an id that somebody sent.
LONGEST_KEPT_URL = 512
# Whoever may say where we call could map the network we are in: by what the answers say, and by how long they take. So
# what is not found, not allowed and not listening is one failure, and takes at least so long where a person tries it.
UNREACHED = "connect_refused"
UNREACHED_AFTER_S = 0.5
# No fewer than there are slots to call in (ingress/sending/bulkhead.py): with one, nobody waits for others.
CONNECTIONS_PER_HOST = 400


class Caller:
    """Owns the connections to all providers. Enter it once a process."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._session: aiohttp.ClientSession | None = None
        self._held_bytes = 0

    async def __aenter__(self) -> Self:
        self._session = self._egress.session(per_host=CONNECTIONS_PER_HOST, connections=0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def run(
        self,
        flow: ChecksFlow[Result],
        timeout_s: float,
        exchange: Exchange | None = None,
        report: Callable[[Check], None] | None = None,
    ) -> Result:
        """Drive *flow* to its result within *timeout_s*, over all its requests. Raises any `SendError`.

        *exchange* makes the calls in place of our own; *report* gets each check that the flow yields. A transport
        failure is thrown into the flow at its yield, so that a flow of several steps may handle it.
        """
        exchange = exchange or self._exchange
        deadline = monotonic() + timeout_s
        try:
            request = next(flow)
            while True:
                if isinstance(request, Check):
                    if report is not None:
                        report(request)
                    request = next(flow)
                    continue
                try:
                    response = await exchange(request, deadline - monotonic())
                except SendError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(response)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        finally:
            flow.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "used outside `async with`"
        return self._session

    async def unhurried(self, request: Request, remaining_s: float) -> Response:
        """Our own exchange, which takes as long for an address that is not there as for one that is not allowed."""
        async with unhurried():
            return await self._exchange(request, remaining_s)

    def traced(self, traceparent: str) -> Exchange:
        """Our own exchange, with *traceparent* among the headers of each request."""

        async def exchange(request: Request, remaining_s: float) -> Response:
            headers = {**request.headers, HEADER: traceparent}
            return await self._exchange(msgspec.structs.replace(request, headers=headers), remaining_s)

        return exchange

    async def _exchange(
        self, request: Request, remaining_s: float, *, body: AsyncIterable[bytes] | None = None, cut: bool = False
    ) -> Response:
        """One call. *body* takes the place of the request's; with *cut* a long answer is cut off, and no failure."""
        if remaining_s <= 0:
            raise Unavailable("no time left before the call", code="deadline")
        try:
            async with self._begun(request, body or request.body or None, remaining_s) as answer:
                received = await _cut(answer) if cut else await self._capped(answer)
        except TRANSPORT_ERRORS as error:
            raise transport_failure(error, request.method) from error
        return _response(answer, received)

    def _begun(
        self, request: Request, data: AsyncIterable[bytes] | bytes | None, remaining_s: float
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.session.request(
            request.method,
            _address(request.url),
            headers=request.headers,
            data=data,
            allow_redirects=False,  # a redirected POST would be repeated, or become a GET
            timeout=_timeout(math.ceil(remaining_s * 10) / 10),
        )

    async def _capped(self, answer: aiohttp.ClientResponse) -> bytes:
        """The body, if it has MAX_ANSWER_BYTES at most, and all large ones under way MAX_ANSWERS_BYTES together."""
        if answer.content_length is not None and answer.content_length <= SMALL_ANSWER_BYTES:
            return await answer.read()
        chunks, size, held = [], 0, 0
        try:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
                chunks.append(chunk)
                if size > SMALL_ANSWER_BYTES:
                    self._held_bytes += size - held
                    held = size
                if size > MAX_ANSWER_BYTES or self._held_bytes > MAX_ANSWERS_BYTES:
                    raise aiohttp.ClientPayloadError("answer too large")
            return b"".join(chunks)
        finally:
            self._held_bytes -= held


@contextlib.asynccontextmanager
async def unhurried() -> AsyncIterator[None]:
    """Let a call that reached nobody end UNREACHED_AFTER_S after it began, no sooner."""
    began = monotonic()
    try:
        yield
    except Unavailable as error:
        if error.code == UNREACHED:
            await asyncio.sleep(began + UNREACHED_AFTER_S - monotonic())
        raise


# Both cost as much to make as to use, and are alike for most calls: of the time that is left, tenths of a second count.
_url = lru_cache(1024)(URL)


def _address(url: str) -> URL:
    return _url(url) if len(url) <= LONGEST_KEPT_URL else URL(url)


@lru_cache(1024)
def _timeout(total_s: float) -> aiohttp.ClientTimeout:
    # Below the total, or the total would fire first and a call that never began would count as uncertain.
    return aiohttp.ClientTimeout(total=total_s, connect=min(CONNECT_TIMEOUT_S, total_s * 0.9))


TRANSPORT_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError)


def transport_failure(error: BaseException, method: str) -> Unavailable | Uncertain:
    """What one of TRANSPORT_ERRORS means for the call that ended with it."""
    unsent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
    # A lost answer to a read changes nothing at the provider; one to a write may have.
    kind = Unavailable if isinstance(error, unsent) or method == "GET" else Uncertain
    return kind(_reason(error), code=_code(error))


def _response(answer: aiohttp.ClientResponse, body: bytes) -> Response:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(status=answer.status, headers=headers, body=body)


async def _cut(answer: aiohttp.ClientResponse) -> bytes:
    """The first CUT_BYTES of the body. What is left unread costs the connection."""
    start = b""
    while len(start) < CUT_BYTES and (chunk := await answer.content.readany()):
        start += chunk
    return start[:CUT_BYTES]


_CODES = (
    (aiohttp.ClientConnectorCertificateError, "tls"),
    (aiohttp.ClientSSLError, "tls"),
    (aiohttp.ConnectionTimeoutError, "connect_timeout"),
    (aiohttp.ClientConnectorError, UNREACHED),
    (aiohttp.ServerDisconnectedError, "disconnected"),
    (aiohttp.ClientPayloadError, "incomplete_body"),
    (TimeoutError, "read_timeout"),
    (aiohttp.ClientOSError, "connection_reset"),
)


def _code(error: BaseException) -> str:
    return next((code for kind, code in _CODES if isinstance(error, kind)), "transport")


def _reason(error: BaseException) -> str:
    # Never str(error): aiohttp's texts hold the URL, and URLs may hold what should not be logged.
    return f"no answer from the provider ({_code(error)})"
