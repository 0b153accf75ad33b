"""Webhooks of the WhatsApp Cloud API: every item of every change of every entry becomes an event.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/components,
    https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/payload-examples.
"""

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from .. import _json
from .._events import type_of
from .._values import (
    UNREADABLE,
    Object,
    bounded,
    contact_of,
    error_infos,
    flag,
    is_user_id,
    listed,
    mapping,
    phone,
    present,
    required,
    text,
    word,
    written,
)
from ..errors import Malformed
from ..messages import By, Contact, ErrorInfo, Event, EventType, Message, ReplyTo, Status, StatusValue
from . import account, people
from .change import FieldChange, Reader, change_of, items
from .content import content_of
from .errors import reported
from .ids import message_key
from .text import texts

_OBJECT = "whatsapp_business_account"


def events(body: bytes) -> list[Event]:
    """All events of *body*, in its order; of a fact that it repeats, the first.

    Raises `Malformed` where there is no envelope to read. Bodies about other objects (pages, say) hold none.
    """
    found: dict[str, Event] = {}
    for event in texts(body) or everything(body):
        found.setdefault(event.key, event)
    return list(found.values())


def everything(body: bytes) -> list[Event]:
    """All events of *body*, repetitions included. Raises `Malformed`."""
    envelope = _json.read(body)
    if not isinstance(envelope, dict):
        raise Malformed("not an object")
    if envelope.get("object") != _OBJECT:
        return []
    entries = envelope.get("entry", [])
    if not isinstance(entries, list):
        raise Malformed("entry is not a list")
    return [event for entry in entries for event in _entry(entry)]


def _entry(entry: Any) -> Iterator[Event]:
    if not isinstance(entry, dict):
        yield _malformed({}, "", entry)
        return
    for item in listed(entry, "changes"):
        holder: Object = item if isinstance(item, dict) else {}
        field = text(holder, "field")
        value = holder.get("value")
        if field is not None and isinstance(value, dict):
            yield from _change(change_of(entry, field, value))
        else:
            yield _malformed(entry, field or "", item)


def _malformed(entry: Object, field: str, item: Any) -> Event:
    return change_of(entry, field, {}).unread("malformed", item)


def _change(change: FieldChange) -> Iterator[Event]:
    read = _READERS.get(change.field)
    if read is None:
        yield change.unread("unknown_field", change.value)
        return
    try:
        yield from read(change)
    except UNREADABLE:
        yield change.unread("malformed", change.value)


def _messages(change: FieldChange) -> Iterator[Event]:
    yield from items(change, "messages", _message)
    yield from items(change, "statuses", _status)
    yield from items(change, "errors", people.notice)


def _echoes(change: FieldChange) -> Iterator[Event]:
    yield from items(change, "message_echoes", _echo)


_READERS: dict[str, Reader] = {
    **account.READERS,
    **people.READERS,
    "messages": _messages,
    "smb_message_echoes": _echoes,
}


# ---------------------------------------------------------------- messages


def _message(change: FieldChange, item: Object) -> Event:
    if item.get("type") == "request_welcome":
        details = present(message_id=required(item, "id"), referral=_referral(item))
        return change.update("request_welcome", item, details=details, **_sent(change, item))
    type_, message = _message_in(change, item, "contact")
    return change.event(type_, item, group_id=word(item, "group_id"), message=message, **_sent(change, item))


def _sent(change: FieldChange, item: Object) -> Object:
    """Which message it is, when it was sent and by whom, as fields of an event."""
    return {
        "key": _message_key(change.sender_id, required(item, "id")),
        "at": item.get("timestamp"),
        "contact": change.person(item.get("from"), item.get("from_user_id"), item.get("from_parent_user_id")),
    }


def event_key(event: Event, message_id: str) -> str:
    """The key of the event that a person's message came in with, which *event* calls *message_id*."""
    return bounded(_message_key(event.sender_id, message_id))


def _message_key(sender_id: str | None, message_id: str) -> str:
    """Of a message that a person sent to the number *sender_id*."""
    return f"{sender_id or ''}|{message_key(message_id)}"


def _echo(change: FieldChange, item: Object) -> Event:
    """What a person of the business wrote or changed in the phone app. Never to be sent again."""
    type_, message = _message_in(change, item, "business")
    if type_ == "message.unknown":
        message = replace(message, by="business")
    return change.event(
        "message.echo" if message.by is None else type_,
        item,
        key=f"echo|{message_key(required(item, 'id'))}",
        at=item.get("timestamp"),
        contact=change.person(item.get("to"), item.get("to_user_id")),
        group_id=word(item, "group_id"),
        message=message,
    )


def _message_in(change: FieldChange, item: Object, by: By) -> tuple[EventType, Message]:
    """What happened, and the message: its content, the message it changes, and what stands around it."""
    kind = item.get("type")
    if kind == "unsupported":
        # So a number that is in no phone gets edits: nothing says of what.
        kind = mapping(item, "unsupported").get("type")
    type_, message = _correction(item, kind, by) if kind in ("edit", "revoke") else _new(item)
    return type_, message if item.keys().isdisjoint(_AROUND) else _surrounded(change, item, message)


def _new(item: Object) -> tuple[EventType, Message]:
    content = content_of(item)
    return type_of(content), Message(provider_message_id=required(item, "id"), content=content)


def _correction(item: Object, kind: str, by: By) -> tuple[EventType, Message]:
    """An edit, or a deletion, which is not refused for what it does not name."""
    value = mapping(item, kind)
    message = Message(
        provider_message_id=required(item, "id"), original_message_id=word(value, "original_message_id"), by=by
    )
    if kind == "revoke":
        return "message.deleted", message
    # The context of the new content, {"id": "M0"}, is a placeholder.
    content = mapping(value, "message")
    return "message.edited", replace(message, content=content_of(content) if content else None)


_AROUND = ("context", "errors", "referral")  # most messages have none of them


def _surrounded(change: FieldChange, item: Object, message: Message) -> Message:
    context = mapping(item, "context")
    frequently = flag(context, "frequently_forwarded")
    return replace(
        message,
        reply_to=_quoted(change, context),
        forwarded=flag(context, "forwarded") or frequently,
        frequently_forwarded=frequently,
        product=mapping(context, "referred_product") or None,
        referral=_referral(item),
        errors=error_infos(item),
    )


def _quoted(change: FieldChange, context: Object) -> ReplyTo | None:
    """The quoted message. A forwarded message has a context without an id: it is no reply."""
    identity, author = word(context, "id"), word(context, "from")
    if identity is None:
        return None
    # The business is named by its number, and in some bodies by the id of that.
    own = author is not None and author == change.sender_id
    number = change.sender if own else phone(author)
    return ReplyTo(id=identity, author=contact_of(phone=number, user_id=author if is_user_id(author) else None))


def _referral(item: Object) -> Object | None:
    return mapping(item, "referral") or None


# ---------------------------------------------------------------- statuses

_STATUSES: dict[str, StatusValue] = {
    "sent": "sent",
    "delivered": "delivered",
    "read": "read",
    "played": "played",
    "failed": "failed",
}


def _status(change: FieldChange, item: Object) -> Event:
    if item.get("type") == "payment":
        return people.payment_status(change, item)
    if item.get("recipient_type") == "group":
        member, who = _member(change, item)
        return _status_event(change, item, _status_in(item, member), *who, group_id=word(item, "recipient_id"))
    return _status_event(change, item, _status_in(item), contact=_recipient(change, item))


def _status_event(change: FieldChange, item: Object, status: Status, *who: str, **whom: Any) -> Event:
    """*who* is the part of the key that tells the members of a group apart, *whom* the fields of the recipient."""
    return change.event(
        # `deleted` and `warning` are old words that change nothing, as new ones do not either.
        "message.unknown" if status.value is None else "message.status",
        item,
        key="|".join((message_key(required(item, "id")), required(item, "status"), *who)),
        at=item.get("timestamp"),
        status=status,
        correlation_id=text(item, "biz_opaque_callback_data"),
        **whom,
    )


def _status_in(item: Object, member: Contact | None = None) -> Status:
    name = required(item, "status")
    value = _STATUSES.get(name)
    return Status(
        provider_message_id=required(item, "id"),
        value=value,
        raw_value=name if value is None else None,
        error=_status_error(item),
        pricing=_pricing(item),
        conversation=_conversation(mapping(item, "conversation")),
        participant=member,
    )


def _status_error(item: Object) -> ErrorInfo | None:
    errors = listed(item, "errors")
    return reported(errors[0], "W") if errors and isinstance(errors[0], dict) else None


def _recipient(change: FieldChange, item: Object) -> Contact | None:
    parents = ("recipient_parent_user_id", "parent_recipient_user_id", "parent_user_id")
    parent = next((item[name] for name in parents if name in item), None)
    return change.person(item.get("recipient_id"), item.get("recipient_user_id"), parent)


def _member(change: FieldChange, item: Object) -> tuple[Contact | None, list[str]]:
    """The member of a group, also as a part of a key; a status about the whole group names none."""
    number = word(item, "recipient_participant_id") or word(item, "participant_recipient_id")
    user_id = word(item, "recipient_participant_user_id")
    who = [known for known in (user_id, number) if known][:1]
    parent = item.get("recipient_participant_parent_user_id")
    return change.person(number, user_id, parent) if who else None, who


def _pricing(item: Object) -> Object | None:
    # Some bodies have it inside the conversation.
    pricing = mapping(item, "pricing") or mapping(mapping(item, "conversation"), "pricing")
    if not pricing:
        return None
    kind = word(pricing, "type")
    billable = flag(pricing, "billable")
    return present(
        model=word(pricing, "pricing_model"),
        type=kind,
        category=word(pricing, "category"),
        # `billable` is going away; `type` says the same.
        billable=kind == "regular" if billable is None and kind else billable,
    )


def _conversation(conversation: Object) -> Object | None:
    if not conversation:
        return None
    return present(
        id=word(conversation, "id"),
        origin=word(mapping(conversation, "origin"), "type"),
        expires_at=written(conversation.get("expiration_timestamp")),
    )
