"""Media over HTTP: those that people sent, through the account that received them; those to send, to the account."""

import logging
import secrets
from time import monotonic
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from providers import Flow, Media, MediaContent, Rejected, SendError, Upload

from .. import log, metrics
from ..audit import Actor, record
from ..calls.media_types import attachment, declared_type, safe_name, served_type
from ..calls.transfers import (
    MAX_MEDIUM_BYTES,
    TRANSFER_TIMEOUT_S,
    BrokenOff,
    Busy,
    Download,
    File,
    Transfers,
    Unusable,
    while_wanted,
)
from ..storage.database import Database
from ..switching.manager import Config
from ..web.auth import client_address, organization_of
from ..web.bodies import Disconnected, headers_of
from ..web.problems import Problem, call_problem, json_response, unavailable
from .configs import chosen_config
from .inbound_messages import Received, received

logger = logging.getLogger("ingress.media")

# With the ones of every answer: no-store and nosniff.
_HEADERS = (
    (b"content-security-policy", b"sandbox; default-src 'none'"),
    (b"cache-control", b"private"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class _Transfer:
    """One line, one count, for one medium in either direction, however it ends."""

    def __init__(self, direction: str, config: Config) -> None:
        self._direction, self._config = direction, config
        self._started = monotonic()
        self.size_bytes = 0
        self.outcome = "error"

    def end(self) -> None:
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

    def problem(self, error: Exception) -> Problem:
        """What *error* is to whoever waits for the medium, and the outcome that it makes."""
        match error:
            case Busy():
                self.outcome = "busy"
                return unavailable("Too many media of the organization are on their way.")
            case Unusable(code=code, detail=detail):
                self.outcome = "unusable"
                return Problem(502, "media_unusable", "The medium cannot be passed on.", reason=code, error=detail)
            case Rejected(scope="media"):
                self.outcome = "gone"
                return media_gone()
            case Rejected(code="media_too_large", detail=detail):
                self.outcome = "too_large"
                return Problem(413, "too_large", f"The provider takes no such file: {detail}.")
            case SendError():
                self.outcome = type(error).__name__
                return call_problem(error)
        raise error


def media_gone() -> Problem:
    return Problem(404, "media_gone", "The provider does not have this medium, or not any more.")


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
        transfer, config = self._transfer, self._found.config
        try:
            with self._transfers.room(config.organization_id):
                async with self._transfers.download(self._locate) as download:
                    passing = self._pass_on(download, send, head_only=scope["method"] == "HEAD")
                    await while_wanted(passing, receive, TRANSFER_TIMEOUT_S)
            transfer.outcome = "ok"
        except (BrokenOff, TimeoutError) as error:
            # The answer has begun, so all that is left is not to end it well: the client sees that it is incomplete.
            transfer.outcome = error.reason if isinstance(error, BrokenOff) else "slow"
            logger.warning("a medium of event %d was broken off: %s", self._found.sequence, transfer.outcome)
            raise Disconnected from error
        except Disconnected:
            transfer.outcome = "client_gone"
            raise
        except Exception as error:
            raise transfer.problem(error) from error
        finally:
            transfer.end()

    def _locate(self) -> Flow[Media]:
        return self._found.config.provider.media(self._content.id or self._content.url or "")

    async def _pass_on(self, download: Download, send: Send, *, head_only: bool) -> None:
        kind = served_type(download.start, self._content.mime_type or download.mime_type)
        name = safe_name(self._content.filename, kind, f"media-{self._found.sequence:x}")
        headers = [*_HEADERS, (b"content-type", kind.encode()), (b"content-disposition", attachment(name).encode())]
        if download.size_bytes is not None:
            headers.append((b"content-length", str(download.size_bytes).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not head_only:
            async for chunk in download.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._transfer.size_bytes += len(chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def get_media(request: Request[Any]) -> Response:
    """GET /media/{event_id}: the file that came with the message of this event, as the provider has it."""
    organization_id, _ = await organization_of(request, "read")
    found = await received(request, organization_id)
    content = found.data.message.content if found.data.message else None
    if not isinstance(content, MediaContent) or not (content.id or content.url):
        raise Problem(404, "no_media", "This event came without a file.")
    return MediumAnswer(request.state["transfers"], found, content)


# ------------------------------------------------------------------ those to send


def _asked(request: Request[Any]) -> Upload:
    """What the request says of the file in its body. Raises `Problem`."""
    headers = headers_of(request)
    kind = declared_type(headers.get("content-type", ""))
    if kind is None or kind.startswith("multipart/") or headers.get("content-encoding", "identity") != "identity":
        detail = "The body is the file itself, with its own Content-Type, neither in a form nor encoded."
        raise Problem(415, "unsupported_media_type", detail)
    length = headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        raise Problem(
            411, "length_required", "The provider has to be told the length of the file: send Content-Length."
        )
    if len(length) > 12 or int(length) > MAX_MEDIUM_BYTES:
        raise Problem(413, "too_large", f"A file may have {MAX_MEDIUM_BYTES} bytes.")
    if int(length) == 0:
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[("", "is empty")])
    return Upload(
        mime_type=kind,
        filename=safe_name(request.query_params.get("filename"), kind, "file"),
        size_bytes=int(length),
        boundary=f"ingress-{secrets.token_hex(16)}",
    )


async def upload_media(request: Request[Any]) -> Response:
    """POST /media: give the provider the file in the body; the answer's `id` is then a content's `id` in POST /send."""
    organization_id, _ = await organization_of(request, "send")
    asked = _asked(request)
    config = await chosen_config(request, organization_id)
    if (extend := request.scope["state"].get("extend_body_deadline")) is not None:
        extend(TRANSFER_TIMEOUT_S)
    transfers: Transfers = request.state["transfers"]
    file, transfer = File(request.receive, asked.size_bytes), _Transfer("upload", config)
    try:
        with transfers.room(organization_id):
            media_id = await transfers.upload(config.provider.upload(asked), file)
        transfer.outcome, transfer.size_bytes = "ok", file.received_bytes
    except Disconnected:
        transfer.outcome = "client_gone"
        raise
    except Exception as error:
        raise transfer.problem(error) from error
    finally:
        transfer.end()
    return json_response(
        {
            "id": media_id,
            "config_id": config.id,
            "mime_type": asked.mime_type,
            "size_bytes": file.received_bytes,
            "sha256": file.sha256,
        },
        201,
    )


async def delete_media(request: Request[Any]) -> Response:
    """DELETE /media?id=&config_id=: have the provider forget a file that was uploaded."""
    organization_id, principal = await organization_of(request, "send")
    media_id = request.query_params.get("id", "")
    if not 0 < len(media_id) <= 256:
        raise Problem(
            422, "invalid_request", "A query parameter is not valid.", errors=[("id", "must have 1 to 256 characters")]
        )
    config = await chosen_config(request, organization_id)
    transfers: Transfers = request.state["transfers"]
    try:
        with transfers.room(organization_id):
            await transfers.run(config.provider.delete_media(media_id))
    except Busy:
        raise unavailable("Too many calls of the organization are under way.") from None
    except Rejected as error:
        raise (media_gone() if error.scope == "media" else call_problem(error)) from error
    except SendError as error:
        raise call_problem(error) from error
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        actor = Actor(principal.name, client_address(request))
        vault, after = request.state["vault"], {"id": media_id}
        await record(connection, vault, organization_id, actor, "media_deleted", config_id=config.id, after=after)
    return Response(status_code=204)
