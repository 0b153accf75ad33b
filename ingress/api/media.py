"""Media over HTTP: those that people sent, through the account that received them; those to send, to the account."""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from time import monotonic
from typing import Annotated, TypeAlias
from uuid import UUID

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from providers import Flow, Media, MediaContent, Rejected, SendError, Unsupported, Upload

from .. import log, metrics
from ..accounts.config import Config
from ..calls.media_types import attachment, declared_type, safe_name, served_type
from ..calls.transfers import (
    MAX_MEDIUM_BYTES,
    TRANSFER_TIMEOUT_S,
    BrokenOff,
    Download,
    File,
    Transfers,
    TransfersBusy,
    Unusable,
    while_wanted,
)
from ..web.bodies import Disconnected, Shown, invalid
from ..web.problems import Problem, call_problem
from . import AnyRequest, ApiRequest
from .audit import note
from .configs import ConfigQuery, chosen_config
from .history.inbound_messages import Received, received

logger = logging.getLogger("ingress.media")

Headers: TypeAlias = list[tuple[bytes, bytes]]

# With the ones of every answer: no-store and nosniff.
_HEADERS = (
    (b"content-security-policy", b"sandbox; default-src 'none'"),
    (b"cache-control", b"private"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class _Transfer:
    """One line, one count, for one medium in either direction, however it ends. To be entered while it lasts."""

    def __init__(self, direction: str, config: Config) -> None:
        self._direction, self._config = direction, config
        self._started = monotonic()
        self.size_bytes = 0
        self.outcome = "error"

    @contextlib.contextmanager
    def under_way(self) -> "Iterator[_Transfer]":
        """Raises for an error what it is to whoever waits for the medium."""
        try:
            yield self
            self.outcome = "ok"
        except Disconnected:
            if self.outcome == "error":  # else it was broken off here
                self.outcome = "client_gone"
            raise
        except Exception as error:
            raise self._problem(error) from error
        finally:
            self._end()

    def _end(self) -> None:
        provider = self._config.provider_type
        metrics.media_transfers.labels(provider, self._direction, self.outcome).inc()
        metrics.media_bytes.labels(self._direction).inc(self.size_bytes)
        log.wide(
            "media",
            organization=self._config.organization_id,
            config=self._config.id,
            provider=provider,
            direction=self._direction,
            outcome=self.outcome,
            bytes=self.size_bytes,
            ms=round((monotonic() - self._started) * 1000, 1),
        )

    def _problem(self, error: Exception) -> Problem:
        """What *error* is to whoever waits for the medium, and the outcome that it makes."""
        match error:
            case TransfersBusy():
                self.outcome = "busy"
                raise error
            case Unusable(code=code, detail=detail):
                self.outcome = "unusable"
                return Problem(502, "media_unusable", "The file cannot be passed on.", reason=code, error=detail)
            case Rejected(scope="media"):
                self.outcome = "gone"
                return media_gone()
            case Rejected(code="media_too_large", detail=detail) | Unsupported(code="media_too_large", detail=detail):
                self.outcome = "too_large"
                return Problem(413, "too_large", f"The provider does not accept this file: {detail}.")
            case SendError():
                self.outcome = type(error).__name__
                return call_problem(error)
        raise error


def media_gone() -> Problem:
    return Problem(404, "media_gone", "The provider does not have this file, or no longer has it.")


def _refused(error: Rejected) -> Problem:
    return media_gone() if error.scope == "media" else call_problem(error)


# ------------------------------------------------------------------ those that people sent


class MediumAnswer(Response):
    """Passes a medium on while it arrives. Raises `Problem`, and answers nothing, where the provider gives none."""

    def __init__(self, transfers: Transfers, found: Received, content: MediaContent) -> None:
        super().__init__()
        self._transfers = transfers
        self._found = found
        self._content = content
        self._transfer = _Transfer("download", found.config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._transfer.under_way():
            try:
                await self._download(scope, receive, send)
            except (BrokenOff, TimeoutError) as error:
                # The answer has begun: all that is left is not to end it well, and the client sees that it is cut off.
                outcome = error.reason if isinstance(error, BrokenOff) else "slow"
                logger.warning("a medium of event %d was broken off: %s", self._found.sequence, outcome)
                self._transfer.outcome = outcome
                raise Disconnected from error

    async def _download(self, scope: Scope, receive: Receive, send: Send) -> None:
        provider = self._found.config.provider
        with self._transfers.room(self._found.config.organization_id):
            async with self._transfers.download(self._locate, provider.time_limits.call_s) as download:
                passing = self._pass_on(download, send, head_only=scope["method"] == "HEAD")
                await while_wanted(passing, receive, TRANSFER_TIMEOUT_S)

    def _locate(self) -> Flow[Media]:
        return self._found.config.provider.media(self._content.id or self._content.url or "")

    async def _pass_on(self, download: Download, send: Send, *, head_only: bool) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._head(download)})
        if not head_only:
            async for chunk in download.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._transfer.size_bytes += len(chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _head(self, download: Download) -> Headers:
        content = self._content
        kind = served_type(download.start, content.mime_type or download.mime_type)
        name = safe_name(content.filename, kind, f"media-{self._found.sequence:x}")
        headers = [*_HEADERS, (b"content-type", kind.encode()), (b"content-disposition", attachment(name).encode())]
        if download.size_bytes is not None:
            headers.append((b"content-length", b"%d" % download.size_bytes))
        return headers


async def get_media(request: ApiRequest) -> Response:
    """GET /media/{event_id}: the file that came with the message of this event, as the provider has it."""
    found = await received(request)
    content = found.data.message.content if found.data.message else None
    if not isinstance(content, MediaContent) or not (content.id or content.url):
        raise Problem(404, "no_media", "This event has no file.")
    return MediumAnswer(request.state["transfers"], found, content)


# ------------------------------------------------------------------ those to send


class UploadQuery(ConfigQuery, frozen=True):
    filename: str | None = None


class Uploaded(Shown, frozen=True):
    """``id``: what the provider knows the file by, of a content in POST /send."""

    id: str
    config_id: UUID
    mime_type: str
    size_bytes: int
    sha256: str


class DeleteQuery(ConfigQuery, frozen=True, kw_only=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


def _upload(request: AnyRequest) -> Upload:
    """What the request says of the file in its body. Raises `Problem`."""
    headers = request.header
    kind = declared_type(headers.get("content-type", ""))
    if kind is None or kind.startswith("multipart/") or headers.get("content-encoding", "identity") != "identity":
        detail = "The body is the file itself, with its own Content-Type, neither in a form nor encoded."
        raise Problem(415, "unsupported_media_type", detail)
    return Upload(
        mime_type=kind,
        filename=safe_name(request.query.filename, kind, "file"),
        size_bytes=_size_bytes(headers.get("content-length", "")),
        boundary=f"ingress-{secrets.token_hex(16)}",
    )


def _size_bytes(length: str) -> int:
    """Of a file, by the *length* that is declared. Raises `Problem`."""
    if not length.isascii() or not length.isdigit():
        raise Problem(411, "length_required", "The provider needs the length of the file: send Content-Length.")
    if len(length) > 12 or int(length) > MAX_MEDIUM_BYTES:
        raise Problem(413, "too_large", f"A file must be at most {MAX_MEDIUM_BYTES} bytes.")
    if int(length) == 0:
        raise invalid(("", "must not be empty"))
    return int(length)


async def upload_media(request: ApiRequest[None, UploadQuery]) -> Uploaded:
    """POST /media: give the provider the file in the body; the answer's `id` is then a content's `id` in POST /send."""
    organization_id, upload = request.organization_id, _upload(request)
    config = await chosen_config(request)
    if (extend := request.scope["state"].get("extend_body_deadline")) is not None:
        extend(TRANSFER_TIMEOUT_S)
    file = File(request.receive, upload.size_bytes)
    with _Transfer("upload", config).under_way() as transfer, request.state["transfers"].room(organization_id):
        media_id = await request.state["transfers"].upload(config.provider.upload(upload), file)
        transfer.size_bytes = file.received_bytes
    return Uploaded(media_id, config.id, upload.mime_type, file.received_bytes, file.sha256)


async def delete_media(request: ApiRequest[None, DeleteQuery]) -> None:
    """DELETE /media?id=&config_id=: have the provider forget a file that was uploaded."""
    organization_id, media_id = request.organization_id, request.query.id
    config = await chosen_config(request)
    provider = config.provider
    try:
        await request.state["transfers"].call(organization_id, provider.delete_media(media_id), provider)
    except Rejected as error:
        raise _refused(error) from error
    async with request.connection() as connection:
        await note(connection, request, organization_id, "media_deleted", {"id": media_id}, config.id)
