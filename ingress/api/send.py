"""POST /send: decoding what a CRM wants sent, and answering with what became of it."""

import asyncio
import hashlib
import logging
import math
import re
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers import Recipient
from providers.content import Audio, Document, Id, Image, Line, OutboundContent, Text, Video, Words
from providers.messages import Phone

from .. import metrics, tracing
from ..identifiers import parse_id
from ..sending.message import SendIntent
from ..sending.outbound import EXPIRES_AT_MOST_S, Duplicate, NoneReady, NotConfigured, Outbound
from ..sending.outcomes import LeaseLost
from ..shares import Shares
from ..storage.database import Database, StoreUnavailable
from ..storage.group_commit import Overloaded
from ..storage.statements import sends
from ..storage.statements.sends import SendState
from ..switching.policy import OnUncertain
from ..wakeups import Wakeups
from ..web.auth import organization_of
from ..web.bodies import decode_body, headers_of
from ..web.problems import Problem, json_response, not_found, unavailable

logger = logging.getLogger("ingress.messages")
WAIT_S = 20.0
# How long an answer waits for a status to settle what a provider left open.
SETTLE_WAIT_S = 3.0
SETTLE_POLL_S = 0.25
_KEY = re.compile("[!-~]{1,255}")  # visible ASCII
_Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Attachment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A medium by its URL; what it is follows from its type."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    mime_type: Id | None = None
    filename: Line | None = None

    def __repr__(self) -> str:
        return "Attachment(…)"


class SendRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /send. ``body`` is short for a text; with an attachment it is its caption."""

    to: Phone | Recipient
    content: OutboundContent | None = None
    body: Words | None = None
    attachments: Annotated[list[Attachment], msgspec.Meta(max_length=100)] = []
    lead_id: _Reference | None = None
    reply_to: _Reference | None = None
    fallback: bool = True
    on_uncertain: OnUncertain | None = None  # None: as the organization's policy says
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def __repr__(self) -> str:
        return "SendRequest(…)"


_decoder = msgspec.json.Decoder(SendRequest)
_canonical = msgspec.json.Encoder(order="sorted").encode


def _invalid(path: str, detail: str) -> Problem:
    metrics.child(metrics.send_requests, "invalid").inc()
    return Problem(422, "invalid_request", "The body is not valid.", errors=[(path, detail)])


def _content(asked: SendRequest) -> OutboundContent:
    if asked.content is not None:
        if asked.body is not None:
            raise _invalid("body", "either content or body")
        if asked.attachments:
            raise _invalid("attachments", "either content or attachments")
        return asked.content
    if len(asked.attachments) > 1:
        raise _invalid("attachments", "one at most: WhatsApp has no message with several, send one each")
    if asked.attachments:
        return _medium(asked.attachments[0], asked.body)
    if asked.body is None:
        raise _invalid("content", "content or body is needed")
    return Text(body=asked.body)


def _medium(attachment: Attachment, caption: str | None) -> OutboundContent:
    url, mime_type = attachment.url, attachment.mime_type
    match (mime_type or "").partition("/")[0]:
        case "image":
            return Image(url=url, mime_type=mime_type, caption=caption)
        case "video":
            return Video(url=url, mime_type=mime_type, caption=caption)
        case "audio":
            return Audio(url=url, mime_type=mime_type, caption=caption)
    return Document(url=url, mime_type=mime_type, caption=caption, filename=attachment.filename)


def _recipient(asked: SendRequest) -> Recipient:
    if isinstance(asked.to, str):
        return Recipient(phone=asked.to)
    if not any((asked.to.phone, asked.to.user_id, asked.to.lid, asked.to.group_id)):
        raise _invalid("to", "a phone, user_id, lid or group_id is needed")
    return asked.to


def _expiry_error(asked: SendRequest) -> Problem | None:
    if asked.expires_at is not None:
        now = datetime.now(UTC)
        if asked.expires_at <= now:
            return _invalid("expires_at", "is in the past")
        if asked.expires_at > now + timedelta(seconds=EXPIRES_AT_MOST_S):
            return _invalid("expires_at", "may be 24 hours ahead at most")
    return None


def _idempotency_key(request: Request[Any]) -> str | None:
    key = headers_of(request).get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        metrics.child(metrics.send_requests, "invalid").inc()
        raise Problem(400, "invalid_idempotency_key", "Idempotency-Key is 1 to 255 visible ASCII characters.")
    return key


def _wait_s(request: Request[Any]) -> float:
    """Seconds the client wants to wait for the result (RFC 7240)."""
    preferences = [part.strip().lower() for part in headers_of(request).get("prefer", "").split(",")]
    if "respond-async" in preferences:
        return 0.0
    wait = next((part[5:] for part in preferences if part.startswith("wait=")), "")
    return min(WAIT_S, float(wait)) if wait.isascii() and wait.isdigit() else WAIT_S


async def _quoted(database: Database, organization_id: UUID, reply_to: str | None) -> str | None:
    """The provider's id of the quoted message, which may be named by ours."""
    message_id = parse_id(reply_to) if reply_to else None
    if message_id is None:
        return reply_to
    async with database.organization(organization_id) as connection:
        quoted = await sends.by_id(connection, organization_id, message_id)
    if quoted is None:
        raise not_found()
    if quoted.provider_message_id is None:
        raise _invalid("reply_to", "that message was not sent")
    return quoted.provider_message_id


async def send(request: Request[Any]) -> Response:
    """POST /send: accept a message durably, send it, and answer with what became of it."""
    organization_id, _ = await organization_of(request, "send")
    key = _idempotency_key(request)
    wait_s = _wait_s(request)
    try:
        asked = await decode_body(request, _decoder)
    except Problem:
        metrics.child(metrics.send_requests, "invalid").inc()
        raise
    database: Database = request.state["database"]
    intent = SendIntent(
        to=_recipient(asked),
        content=_content(asked),
        lead_id=asked.lead_id,
        reply_to=await _quoted(database, organization_id, asked.reply_to),
        fallback=asked.fallback,
        on_uncertain=asked.on_uncertain,
        expires_at=asked.expires_at,
    )
    fingerprint = hashlib.sha256(_canonical(asked)).digest()
    if (expired := _expiry_error(asked)) is not None:
        # A repetition comes later than its original: what was sent in time is told, whatever the clock says now.
        if key is None or (answer := await _stored_answer(database, organization_id, key, fingerprint)) is None:
            raise expired
        return answer
    outbound: Outbound = request.state["outbound"]
    traceparent = headers_of(request).get(tracing.HEADER)
    try:
        message_id, task = await outbound.send(
            organization_id,
            intent,
            idempotency_key=key,
            request_hash=fingerprint,
            request_id=request.state["request_id"],
            traceparent=traceparent if tracing.trace_of(traceparent) else None,
        )
    except Duplicate:
        answer = await _stored_answer(database, organization_id, str(key), fingerprint)
        if answer is None:
            raise unavailable("The send with this Idempotency-Key is being changed.") from None
        return answer
    except NotConfigured:
        metrics.child(metrics.send_requests, "invalid").inc()
        raise Problem(
            409, "provider_not_configured", "The organization has no provider: configure one first."
        ) from None
    except NoneReady as resting:
        # Nothing was accepted, so the key is free; but it may be that of a send from before.
        if (
            key is not None
            and (answer := await _stored_answer(database, organization_id, key, fingerprint)) is not None
        ):
            return answer
        metrics.child(metrics.send_requests, "shed").inc()
        code, why = (
            "providers_resting",
            "Every provider of the organization failed lately and is left alone for a moment.",
        )
        if resting.unusable is not None:
            code, why = resting.unusable.code, resting.unusable.why
        raise Problem(
            503,
            code,
            f"{why} Nothing was sent.",
            headers={"retry-after": str(math.ceil(resting.wait_s))},
        ) from None
    except Overloaded:
        metrics.child(metrics.send_requests, "shed").inc()
        raise unavailable("Too many sends are waiting.") from None
    metrics.child(metrics.send_requests, "accepted").inc()
    state = await _awaited(request, organization_id, message_id, task, wait_s)
    return _pending(message_id) if state is None else _answer(state)


async def _awaited(
    request: Request[Any], organization_id: UUID, message_id: UUID, task: "asyncio.Task[SendState]", wait_s: float
) -> SendState | None:
    """How the send ended; None if it has not within *wait_s*, or nobody here can say: it is accepted all the same.

    At once where the organization has as many waiting for theirs as it may.
    """
    places: Shares = request.state["waiting"].sends
    if wait_s <= 0 or not places.take(organization_id):
        return None
    try:
        try:
            async with asyncio.timeout(wait_s):
                state = await asyncio.shield(task)  # it goes on whatever happens here
        except TimeoutError:
            if not task.done():
                return None
            state = task.result()
        return state if state.state != "uncertain" else await _settled(request, organization_id, state, wait_s)
    except (LeaseLost, StoreUnavailable):
        return None
    except asyncio.CancelledError:  # the process ends, and whoever takes it over goes on
        return None
    except Exception:  # an error would say that it was not accepted, and invite a second one
        logger.exception("an accepted send is left to whoever takes it over")
        return None
    finally:
        places.add(organization_id, -1)


async def _settled(request: Request[Any], organization_id: UUID, state: SendState, wait_s: float) -> SendState:
    """The state once a status has settled it, or as it is after SETTLE_WAIT_S."""
    database: Database = request.state["database"]
    wakeups: Wakeups = request.state["wakeups"]
    waiter = wakeups.subscribe(organization_id)
    deadline = monotonic() + min(SETTLE_WAIT_S, wait_s)
    try:
        while state.state == "uncertain" and (left := deadline - monotonic()) > 0:
            await wakeups.wait(waiter, min(left, SETTLE_POLL_S))
            async with database.organization(organization_id) as connection:
                state = await sends.by_id(connection, organization_id, state.id) or state
    finally:
        wakeups.unsubscribe(organization_id, waiter)
    return state


async def _stored_answer(database: Database, organization_id: UUID, key: str, fingerprint: bytes) -> Response | None:
    """The answer of the send that *key* names, None if it names none. Raises `Problem` where that was the answer."""
    async with database.organization(organization_id) as connection:
        state = await sends.by_key(connection, organization_id, key)
    if state is None:
        return None
    if state.request_hash != fingerprint:
        metrics.child(metrics.send_requests, "mismatch").inc()
        raise Problem(422, "idempotency_mismatch", "This Idempotency-Key was used with another body.")
    if state.state == "sending":
        metrics.child(metrics.send_requests, "conflict").inc()
        raise Problem(
            409,
            "in_flight",
            "The send with this Idempotency-Key is still under way.",
            headers={"retry-after": "1", "location": f"/messages/{state.id}"},
            id=state.id,
        )
    metrics.child(metrics.send_requests, "replayed").inc()
    try:
        answer = _answer(state)
    except Problem as problem:
        problem.headers["idempotency-replayed"] = "true"
        raise
    answer.headers["idempotency-replayed"] = "true"
    return answer


def _pending(message_id: UUID) -> Response:
    location = f"/messages/{message_id}"
    return json_response({"id": message_id, "status": "accepted"}, 202, {"location": location})


# The end of a send as an answer: the class of its last error decides.
_FAILURES = {
    "Rejected": (422, "rejected", "The provider refused the message for good."),
    "Restricted": (422, "restricted", "The provider is restricting the account; nothing more was tried."),
    "Unsupported": (422, "unsupported", "No provider at hand can express this message."),
    "AccountBroken": (502, "no_provider_left", "No provider could take the message."),
    "Throttled": (502, "no_provider_left", "No provider could take the message."),
    "Unavailable": (502, "no_provider_left", "No provider could take the message."),
}


def _answer(state: SendState) -> Response:
    """200 for a message that a provider took, whatever came after. Raises `Problem` for one it did not, or may have."""
    if state.sent_at is not None:
        return json_response(_shown(state) | {"status": "sent"})
    if state.state == "uncertain" or state.status == "unknown":
        raise Problem(
            504,
            "uncertain",
            "The provider may have taken the message; nothing was repeated. Its status will tell.",
            headers={"location": f"/messages/{state.id}"},
            **_shown(state),
            message_status=state.status,
            error=state.error,
        )
    status, code, detail = _FAILURES.get(state.error.class_ or "" if state.error else "", _FAILURES["Rejected"])
    raise Problem(status, code, detail, **_shown(state), message_status=state.status, error=state.error)


def _shown(state: SendState) -> dict[str, Any]:
    return {
        "id": state.id,
        "provider": state.provider,
        "config_id": state.config_id,
        "provider_message_id": state.provider_message_id,
        "timestamp": state.sent_at,
        "cost": state.cost,
        "fallback_from": state.fallback_from,
        "fallback_reason": state.fallback_reason,
        "attempts": state.attempts,
    }
