"""Webhooks of Twilio: one message or status as a form, or a batch of both out of Event Streams.

Source: https://www.twilio.com/docs/messaging/guides/webhook-request,
    https://www.twilio.com/docs/messaging/guides/track-outbound-message-status,
    https://www.twilio.com/docs/events/event-types/messaging.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from .. import _json
from .._events import type_of
from .._values import UNREADABLE, Object, bounded, contact_of, flag, is_user_id, mapping, phone, short, text, word
from ..base import Webhook
from ..content import Content, Reaction, UnknownContent
from ..errors import Malformed
from ..messages import AccountUpdate, Contact, Event, EventType, Message, ReplyTo, Status, StatusValue
from . import errors
from .content import Fields, content_of, first, more_media, object_in, referral_of
from .form import is_form, pairs

REFERENCE = "ref"  # the query parameter of our status address that carries the correlation id

_STREAMED = ("com.twilio.messaging.inbound-message.", "com.twilio.messaging.message.")
_STATUSES: dict[str, StatusValue] = {
    "accepted": "accepted",
    "scheduled": "accepted",
    "queued": "accepted",
    "sending": "accepted",
    "sent": "sent",
    "partially_delivered": "delivered",
    "delivered": "delivered",
    "read": "read",
    "undelivered": "failed",
    "failed": "failed",
    "canceled": "failed",
}
_INBOUND = ("", "receiving", "received")  # statuses of messages that come in, which may have none
_SIDS = ("MessageSid", "SmsMessageSid", "SmsSid")


class Fact(msgspec.Struct, frozen=True):
    """What one webhook, or one item of a batch, says: its parameters by the names of a form."""

    fields: Fields
    raw: msgspec.Raw
    at: datetime | None = None  # forms have no time
    correlation_id: str | None = None
    id: str | None = None  # of an item of a batch
    kind: str | None = None  # Twilio's word for an item of a batch

    def __repr__(self) -> str:
        return f"Fact(kind={self.kind!r})"

    def event(self, type_: EventType, key: str, **parts: Any) -> Event:
        return Event(
            type=type_,
            key=bounded(key),
            account_id=self.fields.get("AccountSid"),
            occurred_at=self.at,
            reported_at=self.at,  # a form, which may say the same again, has no time
            raw=self.raw,
            **parts,
        )


def events(hook: Webhook) -> list[Event]:
    """All events of *hook*, in its order; of a fact that it repeats, the first.

    Raises `Malformed` for an empty form and for a batch that is no JSON.
    """
    if is_form(hook):
        return [_event(_of_form(hook))]
    found: dict[str, Event] = {}
    for item in _batch(hook.body):
        event = _event(_of_stream(item)) if isinstance(item, dict) else _unread(Fact({}, _json.raw(item)), "malformed")
        found.setdefault(event.key, event)
    return list(found.values())


def _batch(body: bytes) -> list[Any]:
    items = _json.read(body)
    if not isinstance(items, dict | list):
        raise Malformed("neither a form nor a batch of events")
    return items if isinstance(items, list) else [items]


def _of_form(hook: Webhook) -> Fact:
    decoded = [(_text(name), _text(value)) for name, value in pairs(hook.body)]
    if not decoded:
        raise Malformed("an empty form")
    fields: Fields = {}
    for name, value in decoded:
        if value:
            fields.setdefault(name, value)
    fields = {**_copies(fields), **fields}
    return Fact(fields, _json.raw(decoded), correlation_id=_reference(hook.url))


def _copies(fields: Fields) -> Fields:
    """What `ChannelMetadata` has of the message: copies of parameters, of which some may be missing."""
    metadata = object_in(fields.get("ChannelMetadata", "")) or {}
    context = mapping(mapping(metadata, "data"), "context")
    return {name: value for name in _COPIED if (value := text(context, name))}


_COPIED = ("ButtonPayload", "ButtonText", "Forwarded", "FrequentlyForwarded", "ProfileName", "WaId")


def _text(part: bytes) -> str:
    return _json.clean_text(part.decode("utf-8", "replace"))


def _of_stream(item: Object) -> Fact:
    """A CloudEvent. Its data names the parameters of a form in camel case."""
    data = mapping(item, "data")
    fields = {name[:1].upper() + name[1:]: value for name in data if (value := _written(data[name]))}
    return Fact(
        fields,
        _json.raw(item),
        at=_moment(text(data, "timestamp") or text(item, "time")),
        correlation_id=_reference(fields.get("StatusCallBackUrl", "")),
        id=word(item, "id"),
        kind=word(item, "type") or "",
    )


def _written(value: Any) -> str | None:
    """A single value as a form has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def _moment(value: str | None) -> datetime | None:
    try:
        at = datetime.fromisoformat(value or "")
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _reference(url: str) -> str | None:
    try:
        (reference, *_) = parse_qs(urlsplit(url).query).get(REFERENCE, [None])
    except ValueError:
        return None
    return None if reference is None else _json.clean_text(reference)


# ---------------------------------------------------------------- events


def _event(fact: Fact) -> Event:
    try:
        return _read(fact)
    except UNREADABLE:
        return _unread(fact, "malformed")


def _read(fact: Fact) -> Event:
    fields = fact.fields
    sid = short(first(fields, *_SIDS))
    if sid is None or (fact.kind is not None and not fact.kind.startswith(_STREAMED)):
        return _unread(fact, "unknown_field")
    status = (first(fields, "MessageStatus", "SmsStatus") or "").lower()
    if status not in _INBOUND:
        return _status(fact, sid, status)
    return _message(fact, sid) if "From" in fields else _unread(fact, "unknown_field")


def _unread(fact: Fact, kind: Literal["malformed", "unknown_field"]) -> Event:
    """Something that is neither a message nor a status; the digest of it where it has no id."""
    key = fact.id or hashlib.sha256(fact.raw).hexdigest()
    return fact.event("message.unknown", key, account=AccountUpdate(kind=kind, field=fact.kind))


def _message(fact: Fact, sid: str) -> Event:
    fields = fact.fields
    channel, address = _address(fields["From"])
    content = _content(channel, fields)
    frequently = flag(fields, "FrequentlyForwarded")
    return fact.event(
        type_of(content),
        sid,
        sender=_sender(fields, "To"),
        contact=_person(address, fields),
        message=Message(
            provider_message_id=sid,
            content=content,
            more_media=more_media(fields),
            # A reaction names its message by itself.
            reply_to=None if isinstance(content, Reaction) else _quoted(fields),
            forwarded=flag(fields, "Forwarded") or frequently,
            frequently_forwarded=frequently,
            referral=referral_of(fields),
        ),
    )


def _quoted(fields: Fields) -> ReplyTo | None:
    """The quoted message; Twilio may know its author alone."""
    _, author = _address(fields.get("OriginalRepliedMessageSender", ""))
    quoted = ReplyTo(id=short(fields.get("OriginalRepliedMessageSid")), author=_person(author, {}))
    return None if quoted == ReplyTo() else quoted


def _content(channel: str, fields: Fields) -> Content:
    """The same number and webhook may serve SMS, where no field means what it says."""
    return content_of(fields) if channel == "whatsapp" else UnknownContent(raw_type=channel)


def _status(fact: Fact, sid: str, status: str) -> Event:
    fields = fact.fields
    channel, address = _address(fields.get("To", "whatsapp:"))
    value = _STATUSES.get(status) if channel == "whatsapp" else None
    return fact.event(
        "message.unknown" if value is None else "message.status",
        f"{sid}|{status}",
        sender=_sender(fields, "From"),
        contact=_person(address, {}),
        status=Status(
            provider_message_id=sid,
            value=value,
            raw_value=None if value else status,
            error=errors.reported(fields) if value in (None, "failed") else None,
        ),
        correlation_id=fact.correlation_id,
    )


def _address(value: str) -> tuple[str, str]:
    """Channel and address of `whatsapp:+15005550100`. SMS has no prefix."""
    channel, separator, address = value.partition(":")
    return (channel, address) if separator else ("sms", value)


def _sender(fields: Fields, name: str) -> str | None:
    """The business's own number, in the field *name*."""
    return phone(_address(fields.get(name, ""))[1])


def _person(address: str, fields: Fields) -> Contact | None:
    """Who has *address*, a number or a business-scoped id; *fields* may know the other one, and a name."""
    _, user_id = _address(fields.get("ExternalUserId", ""))
    return contact_of(
        phone=phone(address) or phone(fields.get("WaId")),
        user_id=user_id or (address if is_user_id(address) else None),
        name=fields.get("ProfileName"),
    )
