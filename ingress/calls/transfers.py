"""Media on their way: passed on from a provider, or to one, a piece at a time and never held as a whole.

Beside the calls that send: with connections of their own, so that whoever fetches much delays nobody's message.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
from starlette.types import Receive
from yarl import URL

from providers import (
    AccountBroken,
    Flow,
    Media,
    Rejected,
    Request,
    Response,
    SendError,
    Throttled,
    Unavailable,
    UploadRequest,
    WhatsAppProvider,
)

from ..shares import Shares
from ..web.bodies import Disconnected
from ..web.problems import Problem, soon
from .driver import CONNECT_TIMEOUT_S, TRANSPORT_ERRORS, Caller, Result, transport_failure
from .egress import Egress, InvalidUrl
from .media_types import SNIFF_BYTES

MAX_MEDIUM_BYTES = 100 * 1024 * 1024
# From the first call to the last byte: 100 MiB at 350 KiB/s.
TRANSFER_TIMEOUT_S = 300.0
# Without a byte from the medium's host.
IDLE_TIMEOUT_S = 15.0
REDIRECTS = 3
LONGEST_URL = 8192  # as long as a header with one may be
# At once in this process, and of them for one organization.
TRANSFERS, TRANSFERS_PER_ORGANIZATION = 200, 20

_REDIRECT = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_REFUSED = (401, 403)
_EXPIRED = (*_GONE, *_REFUSED)


class Unusable(Exception):
    """There is a medium, and it cannot be passed on; ``code`` says why, ``detail`` for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class BrokenOff(Exception):
    """A medium under way is not to be ended well; ``reason`` is `corrupt`, `too_large` or `broken`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TransfersBusy(Problem):
    """The organization has as many transfers under way as it may."""

    def __init__(self) -> None:
        super().__init__(503, "unavailable", "Too many calls of the organization are under way.", headers=soon())


class Download:
    """A medium that begins to arrive: ``start`` is its first bytes, ``size_bytes`` None where nobody says it."""

    def __init__(self, media: Media, answer: aiohttp.ClientResponse, start: bytes) -> None:
        self._answer = answer
        self._sha256 = media.sha256
        self.start = start
        self.size_bytes = answer.content_length
        self.mime_type = media.mime_type or answer.headers.get("content-type")

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it. Raises `BrokenOff`, before the last piece is given away where the medium is not what it should be.

        So nobody ever holds a whole medium whose bytes are not those that the provider took the digest of.
        """
        hasher, size, held = hashlib.sha256(), 0, b""
        chunk = self.start
        while chunk:
            size += len(chunk)
            if size > MAX_MEDIUM_BYTES:
                raise BrokenOff("too_large")
            hasher.update(chunk)
            if held:
                yield held
            held = chunk
            chunk = await self._next()
        if self._sha256 not in (None, hasher.hexdigest()):
            raise BrokenOff("corrupt")
        if held:
            yield held

    async def _next(self) -> bytes:
        try:
            return await self._answer.content.readany()
        except TRANSPORT_ERRORS as error:
            raise BrokenOff("broken") from error


class File:
    """A file that a client is sending us: read once, counted, its digest taken on the way."""

    def __init__(self, receive: Receive, size_bytes: int) -> None:
        self._receive = receive
        self._hasher = hashlib.sha256()
        self._begun = False
        self.size_bytes = size_bytes
        self.received_bytes = 0
        self.client_gone = False

    @property
    def sha256(self) -> str:
        return self._hasher.hexdigest()

    @property
    def is_whole(self) -> bool:
        return self.received_bytes == self.size_bytes

    def sized(self, request: UploadRequest) -> UploadRequest:
        """*request* with the length of its body, the file in it."""
        length = len(request.body) + self.size_bytes + len(request.tail)
        return msgspec.structs.replace(request, headers={**request.headers, "content-length": str(length)})

    async def within(self, request: UploadRequest) -> AsyncIterator[bytes]:
        """The body of *request*: what comes before the file, the file, what comes after it."""
        if self._begun:
            raise Unavailable("the file is gone: it can be sent once", code="file_spent")
        self._begun = True
        yield request.body
        more = True
        while more:
            chunk, more = await self._next()
            if chunk:
                self.received_bytes += len(chunk)
                self._hasher.update(chunk)
                yield chunk
        yield request.tail

    async def _next(self) -> tuple[bytes, bool]:
        """A piece of the file, and whether more follow. Raises `Disconnected`."""
        message = await self._receive()
        if message["type"] != "http.request":
            self.client_gone = True
            raise Disconnected
        return message.get("body", b""), message.get("more_body", False)


class Transfers(Caller):
    """Fetches and uploads media, and makes the small calls around inbound messages. Enter it once a process."""

    def __init__(self, egress: Egress) -> None:
        super().__init__(egress)
        self._places = Shares(TRANSFERS, TRANSFERS_PER_ORGANIZATION)

    @contextlib.contextmanager
    def room(self, organization_id: UUID) -> Iterator[None]:
        """One of the transfers that *organization_id* may have under way. Raises `TransfersBusy`."""
        if not self._places.take(organization_id):
            raise TransfersBusy
        try:
            yield
        finally:
            self._places.add(organization_id, -1)

    async def call(self, organization_id: UUID, flow: Flow[Result], provider: WhatsAppProvider) -> Result:
        """Drive *flow*, a small one of *provider*, in the `room` of *organization_id*. Raises any `SendError`."""
        with self.room(organization_id):
            return await self.run(flow, provider.time_limits.call_s)

    @contextlib.asynccontextmanager
    async def download(self, locate: Callable[[], Flow[Media]], timeout_s: float) -> AsyncIterator[Download]:
        """The medium that the flow of *locate* finds within *timeout_s*. Raises any `SendError`, `Unusable`.

        Its address may have run out by the time it is used: then it is asked for once more.
        """
        media, answer = await self._opened(locate, timeout_s)
        if answer.status in _EXPIRED:
            answer.close()
            media, answer = await self._opened(locate, timeout_s)
        try:
            _check_status(answer.status, media)
            _check_medium(answer)
            yield Download(media, answer, await _start(answer))
        finally:
            answer.close()  # what is unread costs the connection, which is cheaper than reading it

    async def upload(self, flow: Flow[Result], file: File) -> Result:
        """Drive *flow*, whose `UploadRequest` gets *file*. Raises any `SendError`, `Disconnected`."""

        async def exchange(request: Request, remaining_s: float) -> Response:
            if not isinstance(request, UploadRequest):
                return await self._exchange(request, remaining_s)
            return await self._exchange(file.sized(request), remaining_s, body=file.within(request))

        try:
            result = await self.run(flow, TRANSFER_TIMEOUT_S, exchange)
        except SendError:
            if file.client_gone:  # which is why the call failed
                raise Disconnected from None
            raise
        if not file.is_whole:
            raise Unavailable("the provider answered before it had the file", code="unexpected_answer")
        return result

    async def _opened(
        self, locate: Callable[[], Flow[Media]], timeout_s: float
    ) -> tuple[Media, aiohttp.ClientResponse]:
        async def exchange(request: Request, remaining_s: float) -> Response:
            # Some answer with the medium itself, of which the head is enough.
            return await self._exchange(request, remaining_s, cut=True)

        media = await self.run(locate(), timeout_s, exchange)
        try:
            return media, await self._get(media)
        except TRANSPORT_ERRORS as error:
            raise transport_failure(error, "GET") from error

    async def _get(self, media: Media) -> aiohttp.ClientResponse:
        """The answer of the medium's host, whose credentials go to no other. Raises `Unusable`."""
        headers, url = media.headers, media.url
        for _ in range(REDIRECTS + 1):
            place = self._place(url)
            answer = await self.session.get(place, headers=headers, allow_redirects=False, timeout=_TIMEOUT)
            if answer.status not in _REDIRECT or "location" not in answer.headers:
                return answer
            answer.close()
            following = _following(place, answer.headers["location"])
            if following.origin() != place.origin():
                headers = {}
            url = str(following)
        raise Unusable("redirect", "the host of the medium redirects without end")

    def _place(self, url: str) -> URL:
        """*url* as it is, for to write a signed address differently breaks the signature. Raises `Unusable`."""
        if len(url) > LONGEST_URL:
            raise Unusable("address", "the address of the medium is too long")
        try:
            self._egress.check_url(url)
        except InvalidUrl as error:
            raise Unusable("address", f"the address of the medium {error}") from None
        return URL(url, encoded=url.isascii())


_TIMEOUT = aiohttp.ClientTimeout(total=TRANSFER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S)


def _following(place: URL, location: str) -> URL:
    """Where *location*, of an answer of *place*, leads to. Raises `Unusable`."""
    try:
        following = place.join(URL(location, encoded=True))
        following.origin()
    except ValueError:
        raise Unusable("redirect", "the host of the medium redirects to no address") from None
    if following.scheme not in ("https", place.scheme):
        raise Unusable("redirect", "the host of the medium redirects to an open line")
    return following


def _check_status(status: int, media: Media) -> None:
    """Raises `Rejected` (gone), or another `SendError`."""
    # A host that was shown no credentials means its address, which has run out.
    if status in _GONE or (status in _REFUSED and not media.headers):
        raise Rejected("the host of the medium does not have it any more", code=f"http_{status}", scope="media")
    if status in _REFUSED:
        raise AccountBroken("the host of the medium refuses the account", code=f"http_{status}", scope="media")
    if status == 429:
        raise Throttled("the host of the medium wants fewer calls", code="http_429", retry_after_s=30)
    if status != 200:
        raise Unavailable("the host of the medium did not give it", code=f"http_{status}")


def _check_medium(answer: aiohttp.ClientResponse) -> None:
    """Raises `Unusable`."""
    if answer.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise Unusable("encoded", "the medium comes compressed, which was not asked for")
    if (answer.content_length or 0) > MAX_MEDIUM_BYTES:
        raise Unusable("too_large", f"the medium has more than {MAX_MEDIUM_BYTES} bytes")


async def _start(answer: aiohttp.ClientResponse) -> bytes:
    start = b""
    try:
        while len(start) < SNIFF_BYTES and (chunk := await answer.content.readany()):
            start += chunk
    except TRANSPORT_ERRORS as error:
        raise transport_failure(error, "GET") from error
    return start


async def until_gone(receive: Receive) -> None:
    """Wait until the client hangs up."""
    while True:
        if (await receive())["type"] == "http.disconnect":
            return


async def while_wanted(work: Coroutine[Any, Any, None], receive: Receive, timeout_s: float) -> None:
    """Do *work* for as long as the client is there. Raises what it raises, `Disconnected`, `TimeoutError`."""
    tasks = working, gone = asyncio.create_task(work), asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            raise Disconnected if gone.done() else TimeoutError
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
