"""POST /send: decoding what a CRM wants sent, and answering with its outcome."""

import asyncio
import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import unquote
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import Recipient
from providers.content import Audio, Document, Id, Image, Line, OutboundContent, Text, Video, Words
from providers.phones import Phone

from .. import metrics, tracing
from ..accounts.unusable import MissingPlugin
from ..calls.media_types import named_type, safe_name
from ..identifiers import parse_id
from ..sending.message import SendIntent, SendOrder
from ..sending.outbound import EXPIRES_AT_MOST_S, Duplicate, NoneReady, NotConfigured
from ..sending.outcomes import LeaseLost
from ..storage.database import StoreUnavailable
from ..storage.group_commit import Overloaded
from ..storage.statements.sending import messages
from ..storage.statements.sending.messages import SendState, StoredMessage
from ..switching.policy import OnUncertain
from ..web.bodies import Disconnected, OrganizationBody, RequestBody, Shown, invalid
from ..web.problems import Json, Problem, json_response, not_configured, unavailable
from . import AnyRequest, ApiRequest
from .history.gone import missing_message

logger = logging.getLogger("ingress.messages")
WAIT_S = 20.0
# How long an answer waits for a status to settle what a provider left open.
SETTLE_WAIT_S = 3.0
SETTLE_POLL_S = 0.25
_KEY = re.compile("[!-~]{1,255}")  # visible ASCII
# No problem itself: one that a variable of its own traceback holds is left for the collector.
MakeProblem: TypeAlias = Callable[[], Problem]
_Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

# By what a type of media begins with; another one is a document.
_KINDS: dict[str, type[Image | Video | Audio]] = {"image": Image, "video": Video, "audio": Audio}
# Of those that are known by a name alone, the ones that every app shows as such: any other is sure as a document only.
_SURE = frozenset({
    *("image/jpeg", "image/png", "video/mp4", "video/3gpp"),
    *("audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"),
})  # fmt: skip
_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class Attachment(RequestBody, frozen=True, kw_only=True):
    """A medium by its URL; what it is follows from its type, else from the extension of its name."""

    url: _Address
    mime_type: Id | None = None
    filename: Line | None = None

    def content(self, caption: str | None) -> OutboundContent:
        name = self.filename or _name_in(self.url)
        mime_type = self.mime_type or named_type(name or "")
        sure = mime_type if self.mime_type or mime_type in _SURE else None
        if kind := _KINDS.get((sure or "").partition("/")[0]):
            return kind(url=self.url, mime_type=mime_type, caption=caption)
        return Document(url=self.url, mime_type=mime_type, caption=caption, filename=name)


def _name_in(url: str) -> str | None:
    """The name of the file there, where it has one with an extension."""
    path = url.partition("#")[0].partition("?")[0].partition("://")[2].partition("/")[2]
    name = safe_name(unquote(path).rpartition("/")[2], "", "")
    return name if "." in name else None


class SendRequest(OrganizationBody, frozen=True, kw_only=True):
    """The body of POST /send. ``body`` is short for a text; with an attachment it is its caption."""

    to: Phone | Recipient
    content: OutboundContent | None = None
    body: Words | None = None
    attachments: Annotated[list[Attachment | _Address], msgspec.Meta(max_length=100)] | None = None
    lead_id: _Reference | None = None
    reply_to: _Reference | None = None
    fallback: bool = True
    on_uncertain: OnUncertain | None = None  # None: as the organization's policy says
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    order: SendOrder = "accepted"


class SendResult(Shown, frozen=True, kw_only=True):
    """``sent``: a provider took it; ``accepted``: still under way, so all that is known is its id."""

    id: UUID
    status: Literal["sent", "accepted"]
    provider: str | UnsetType | None = UNSET
    config_id: UUID | UnsetType | None = UNSET
    provider_message_id: str | UnsetType | None = UNSET
    timestamp: datetime | UnsetType | None = UNSET
    cost: str | UnsetType | None = UNSET
    fallback_from: UUID | UnsetType | None = UNSET
    fallback_reason: str | UnsetType | None = UNSET
    attempts: int | UnsetType = UNSET


_canonical = msgspec.json.Encoder(order="sorted").encode
# What a refused send is counted as, by its problem's code; any other 503 is `shed`. What a provider refused is counted
# elsewhere.
_REFUSED = {
    **dict.fromkeys(("invalid_request", "invalid_json", "too_large", "unsupported_media_type"), "invalid"),
    **dict.fromkeys(("invalid_idempotency_key", "provider_not_configured"), "invalid"),
    "idempotency_mismatch": "mismatch",
    "in_flight": "conflict",
    "providers_resting": "resting",
}


async def send(request: ApiRequest[SendRequest]) -> Json[SendResult]:
    """POST /send: accept a message durably, send it, and answer with its outcome."""
    with refusals_counted():
        key, wait_s = checked_key(request.header.get("idempotency-key")), _wait_s(request)
        return await accept(request, await request.decoded(), key, wait_s)


@contextmanager
def refusals_counted() -> Iterator[None]:
    """Count what is refused before it is a message."""
    try:
        yield
    except Problem as problem:
        outcome = _REFUSED.get(problem.code) or ("shed" if problem.status == 503 else None)
        if outcome is not None:
            _count(outcome)
        raise
    except Disconnected:  # nobody waits for an answer
        raise
    except Exception as error:
        _count("shed" if isinstance(error, StoreUnavailable | Overloaded) else "error")
        raise


def _count(outcome: str) -> None:
    metrics.child(metrics.send_requests, outcome).inc()


async def accept(request: AnyRequest, body: SendRequest, key: str | None, wait_s: float) -> Json[SendResult]:
    """Have *body* sent, and wait for the outcome for *wait_s* at most. Raises `Problem`."""
    intent = await _intent(request, body)
    fingerprint = hashlib.sha256(_canonical(body)).digest()
    otherwise: MakeProblem
    if (wrong := _expiry_error(body)) is not None:
        otherwise = partial(invalid, ("expires_at", wrong))
    else:
        try:
            message_id, task = await _accepted(request, intent, key, fingerprint)
        except Duplicate:
            # It has a message, which is not there any more.
            otherwise = partial(Problem, 410, "gone", "The send with this Idempotency-Key was made, and is deleted.")
        except NoneReady as none_ready:
            otherwise = partial(_none_ready, none_ready.wait_s, none_ready.unusable)
        else:
            state = await _awaited(request, task, wait_s)
            return _pending(message_id) if state is None else _answer(state)
    # Nothing was accepted, but a send from before may have the key: its answer does not change with the time that has
    # passed since, nor with how the providers are now.
    return await _repeated(request, key, fingerprint, otherwise)


async def _accepted(
    request: AnyRequest, intent: SendIntent, key: str | None, fingerprint: bytes
) -> "tuple[UUID, asyncio.Task[SendState]]":
    """The message's id, and the task that ends with its state. Raises `Problem`, `Duplicate` or `NoneReady`."""
    traceparent = request.header.get(tracing.HEADER)
    try:
        accepted = await request.state["outbound"].send(
            request.organization_id,
            intent,
            idempotency_key=key,
            request_hash=fingerprint,
            request_id=request.id,
            traceparent=traceparent if traceparent and tracing.trace_of(traceparent) else None,
        )
    except NotConfigured:
        raise not_configured() from None
    except Overloaded:
        raise unavailable("Too many sends are waiting.") from None
    _count("accepted")
    metrics.by_organization.count(metrics.by_organization.sends, request.organization_id)
    return accepted


async def _intent(request: AnyRequest, body: SendRequest) -> SendIntent:
    """What is to be sent. Raises `Problem` 422, 404 or 410."""
    if wrong := list(_wrong(body)):
        raise invalid(*wrong)
    return SendIntent(
        to=Recipient(phone=body.to) if isinstance(body.to, str) else body.to,
        content=_content(body),
        lead_id=body.lead_id,
        reply_to=await _quoted(request, body.reply_to),
        fallback=body.fallback,
        on_uncertain=body.on_uncertain,
        expires_at=body.expires_at,
        order=body.order,
    )


def _wrong(body: SendRequest) -> Iterator[tuple[str, str]]:
    """What no type says."""
    to = body.to
    if isinstance(to, Recipient) and not any(msgspec.structs.astuple(to)):
        yield "to", "must have a phone, user_id, lid or group_id"
    yield from _wrong_content(body)


def _wrong_content(body: SendRequest) -> Iterator[tuple[str, str]]:
    if body.content is not None:
        if body.body is not None:
            yield "body", "must be left out where content is given"
        if body.attachments:
            yield "attachments", "must be left out where content is given"
    elif body.attachments and len(body.attachments) > 1:
        yield "attachments", "must be one at most: WhatsApp has no message with several, so send one each"
    elif body.body is None and not body.attachments:
        yield "content", "must be given, or else body"
    elif isinstance(content := _content(body), Audio) and content.caption:
        yield "body", "must be left out: audio has no caption, so send the text as a message of its own"


def _content(body: SendRequest) -> OutboundContent:
    if body.content is not None:
        return body.content
    if not body.attachments:
        return Text(body=body.body or "")
    [medium] = body.attachments
    if isinstance(medium, str):
        medium = Attachment(url=medium)
    return medium.content(body.body or None)


def _expiry_error(body: SendRequest) -> str | None:
    if body.expires_at is not None:
        now = datetime.now(UTC)
        if body.expires_at <= now:
            return "is in the past"
        if body.expires_at > now + timedelta(seconds=EXPIRES_AT_MOST_S):
            return "must be at most 24 hours ahead"
    return None


def checked_key(key: str | None) -> str | None:
    """An idempotency key, or none. Raises `Problem` 400."""
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(400, "invalid_idempotency_key", "Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def _wait_s(request: AnyRequest) -> float:
    """Seconds the client wants to wait for the result (RFC 7240)."""
    preferences = [part.strip().lower() for part in request.header.get("prefer", "").split(",")]
    if "respond-async" in preferences:
        return 0.0
    wait = next((part[5:] for part in preferences if part.startswith("wait=")), "")
    return min(WAIT_S, float(wait)) if wait.isascii() and wait.isdigit() else WAIT_S


async def _quoted(request: AnyRequest, reply_to: str | None) -> str | None:
    """The provider's id of the quoted message, which may be named by ours."""
    message_id = parse_id(reply_to) if reply_to else None
    if message_id is None:
        return reply_to
    async with request.connection() as connection:
        quoted = await messages.by_id(connection, request.organization_id, message_id)
        if quoted is None:
            raise await missing_message(connection, request.organization_id, message_id)
    if quoted.provider_message_id is None:
        raise invalid(("reply_to", "must be a message that was sent"))
    return quoted.provider_message_id


def _none_ready(wait_s: float, unusable: MissingPlugin | None) -> Problem:
    after_s = math.ceil(wait_s)
    code, why = "providers_resting", f"Every provider of the organization failed lately and is skipped for {after_s} s."
    if unusable is not None:
        code, why = unusable.code, unusable.why
    return Problem(503, code, f"{why} Nothing was sent.", headers={"retry-after": str(after_s)})


async def _awaited(request: AnyRequest, task: "asyncio.Task[SendState]", wait_s: float) -> SendState | None:
    """How the send ended; None if it has not within *wait_s*, or nobody here can say: it is accepted all the same.

    At once where the organization has as many waiting for theirs as it may.
    """
    places = request.state["waiting"].sends
    if not (wait_s and places.take(request.organization_id)):
        return None
    try:
        await asyncio.wait({task}, timeout=wait_s)  # it goes on whatever happens here
        return await _settled(request, task.result(), wait_s) if task.done() else None
    except (LeaseLost, StoreUnavailable, asyncio.CancelledError):  # also where the process ends, another goes on
        return None
    except Exception:  # an error would say that it was not accepted, and invite a second one
        logger.exception("an accepted send is left to whoever takes it over")
        return None
    finally:
        places.add(request.organization_id, -1)


async def _settled(request: AnyRequest, state: SendState, wait_s: float) -> SendState:
    """The state; an uncertain one once a status has settled it, or as it is after SETTLE_WAIT_S."""
    if state.state != "uncertain":
        return state
    wakeups, deadline = request.state["wakeups"], monotonic() + min(SETTLE_WAIT_S, wait_s)
    with wakeups.subscribed(request.organization_id) as waiter:
        while state.state == "uncertain" and (left := deadline - monotonic()) > 0:
            await wakeups.wait(waiter, min(left, SETTLE_POLL_S))
            state = await _state(request, state.id) or state
    return state


async def _state(request: AnyRequest, message_id: UUID) -> SendState | None:
    async with request.connection() as connection:
        return await messages.by_id(connection, request.organization_id, message_id)


async def _repeated(
    request: AnyRequest, key: str | None, fingerprint: bytes, otherwise: MakeProblem
) -> Json[SendResult]:
    """The answer of the send that *key* names. Raises `Problem` where that was the answer, and *otherwise* for none."""
    if key is None:
        raise otherwise()
    async with request.connection() as connection:
        state = await messages.by_key(connection, request.organization_id, key)
    if state is None:
        raise otherwise()
    _check_same(state, fingerprint)
    _count("replayed")
    try:
        answer = _answer(state)
    except Problem as problem:
        problem.headers["idempotency-replayed"] = "true"
        raise
    answer.headers["idempotency-replayed"] = "true"
    return answer


def _check_same(state: StoredMessage, fingerprint: bytes) -> None:
    """Raises `Problem` where it is another send, or is still under way."""
    if state.request_hash != fingerprint:
        raise Problem(422, "idempotency_mismatch", "This Idempotency-Key was used with another body.")
    if state.state == "sending":
        headers = {"retry-after": "1", "location": f"/messages/{state.id}"}
        detail = "The send with this Idempotency-Key is still under way."
        raise Problem(409, "in_flight", detail, headers=headers, id=state.id)


def _pending(message_id: UUID) -> Json[SendResult]:
    result = SendResult(id=message_id, status="accepted", provider_message_id=None, timestamp=None, cost=None)
    return json_response(result, 202, {"location": f"/messages/{message_id}"})


_NONE_LEFT = (502, "no_provider_left", "No provider could take the message.")
# The end of a send as an answer: the class of its last error decides.
_FAILURES = {
    "Rejected": (422, "rejected", "The provider refused the message for good."),
    "Restricted": (422, "restricted", "The provider is restricting the account; nothing more was tried."),
    "Unsupported": (422, "unsupported", "No provider at hand can express this message."),
    **dict.fromkeys(("AccountBroken", "Throttled", "Unavailable"), _NONE_LEFT),
}
_UNCERTAIN = "The provider may have taken the message, so it was not sent again. GET /messages/{id} shows its status."
# Of a message's state, what an answer has by the same name.
_SAME = sorted({*SendResult.__struct_fields__} & {*SendState.__struct_fields__} - {"status"})


def _answer(state: SendState) -> Json[SendResult]:
    """200 for a message that a provider took, whatever came after. Raises `Problem` for one it did not, or may have."""
    result: dict[str, Any] = {name: getattr(state, name) for name in _SAME} | {"timestamp": state.sent_at}
    if state.sent_at is not None:
        return json_response(SendResult(status="sent", **result))
    raise _failed(state, result | {"message_status": state.status, "error": state.error})


def _failed(state: SendState, more: dict[str, Any]) -> Problem:
    if state.state == "uncertain" or state.status == "unknown":
        return Problem(504, "uncertain", _UNCERTAIN, headers={"location": f"/messages/{state.id}"}, **more)
    status, code, detail = _FAILURES.get(state.error.class_ or "" if state.error else "", _FAILURES["Rejected"])
    if state.error and state.error.detail:
        detail = f"{detail.removesuffix('.')}: {state.error.detail.removesuffix('.')}."
    return Problem(status, code, detail, **more)
