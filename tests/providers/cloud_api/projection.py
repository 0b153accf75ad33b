"""Our events in the flat form in which the samples state what they expect.

Each expected key is read off the event: nothing here looks at the webhook's body, except that the event's own
`raw` says whether a message carried a context at all.
"""

import json
from datetime import datetime
from typing import Any

import msgspec

from providers import Contact, Event, Message
from providers.content import (
    Audio,
    ButtonReply,
    CallPermissionReply,
    Contacts,
    FlowReply,
    ListReply,
    Location,
    MediaContent,
    Order,
    Reaction,
    Sticker,
    System,
    Text,
    UnknownContent,
    UnsupportedContent,
)
from providers.messages import ErrorInfo

Flat = dict[str, Any]

# Which of the samples' classes each of our errors is. Restricted is not in any sample of a status.
CLASSES = {
    "Rejected": "permanent_content",
    "AccountBroken": "permanent_account",
    "Throttled": "throttled",
    "Unavailable": "transient",
    "Uncertain": "ambiguous",
}


def project(event: Event) -> Flat:
    if event.type == "message.echo" or (event.message and event.message.by == "business"):
        return {**_common(event), **_echo(event)}
    if event.message is not None:
        return {**_common(event), **_message(event, event.message)}
    if event.status is not None:
        return {**_common(event), **_status(event)}
    return {**_common(event), **_update(event)}


def _common(event: Event) -> Flat:
    return {
        "channel_id": event.sender_id,
        "account_id": event.account_id,
        "group_id": event.group_id,
        "timestamp": _time(event.occurred_at),
        "dedup_key": event.key,
        "tracker": event.correlation_id,
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _address(contact: Contact | None) -> str | None:
    return None if contact is None else contact.phone or contact.user_id


def _person(contact: Contact | None) -> Flat:
    contact = contact or Contact()
    return {
        "from_user_id": contact.user_id,
        "from_parent_user_id": contact.parent_user_id,
        "from_name": contact.name,
        "from_username": contact.username,
    }


def _error(error: ErrorInfo) -> Flat:
    assert error.code is not None
    return {
        "code": int(error.code),
        "title": error.title,
        "details": error.detail,
        "class": CLASSES[error.class_] if error.class_ else None,
    }


# ---------------------------------------------------------------- messages


def _message(event: Event, message: Message) -> Flat:
    types = {"message.edited": "edit", "message.deleted": "revoke"}
    flat: Flat = {
        "kind": "message",
        "provider_message_id": message.provider_message_id,
        "type": types.get(event.type) or _content_type(message),
        "from": _address(event.contact),
        "to": event.sender,
        **_person(event.contact),
        **_content(message.content),
        "context": _context(event, message),
        "referral": message.referral,
        "errors": [_error(error) for error in message.errors],
    }
    if event.type == "message.edited":
        original = message.original_message_id
        flat["edit"] = {"original_message_id": original, "message_type": _content_type(message)}
    if event.type == "message.deleted":
        flat["revoke"] = {"original_message_id": message.original_message_id}
    return flat


def _content_type(message: Message) -> str | None:
    if message.content is None:
        return "revoke" if message.original_message_id else None
    tag = message.content.__struct_config__.tag
    assert isinstance(tag, str)
    return tag


def _context(event: Event, message: Message) -> Flat | None:
    if "context" not in json.loads(bytes(event.raw)):
        return None
    return {
        "message_id": message.reply_to and message.reply_to.id,
        "forwarded": bool(message.forwarded),
        "frequently_forwarded": bool(message.frequently_forwarded),
        "product": message.product,
    }


def _content(content: Any) -> Flat:
    match content:
        case Text(body=body):
            return {"text": body}
        case MediaContent():
            return {"text": content.caption, "media": _media(content)}
        case Location():
            return {"location": _without_type(content)}
        case Contacts(contacts=cards, origin=origin):
            return {"contacts": [_card(card) for card in cards], "origin": origin}
        case Reaction(message_id=message_id, emoji=emoji):
            return {"reaction": {"message_id": message_id, "emoji": emoji, "removed": emoji is None}}
        case ButtonReply(title=title):
            return {"text": title, "button": _without_type(content)}
        case ListReply(title=title):
            return {"text": title, "list": _without_type(content)}
        case FlowReply(body=body, name=name, data=data, raw=raw):
            return {"text": body, "flow": {"name": name, "data": data, "raw": raw}}
        case CallPermissionReply():
            return {"call_permission": _without_type(content)}
        case Order(text=text):
            return {"text": text, "order": _without_type(content)}
        case System(body=body):
            return {"text": body, "system": _without_type(content)}
        case UnsupportedContent(kind=kind):
            return {"unsupported": {"type": kind}}
        case UnknownContent(raw_type=raw_type):
            return {"raw_type": raw_type}
    return {}


def _without_type(content: msgspec.Struct) -> Flat:
    builtins = msgspec.to_builtins(content)
    return {key: value for key, value in builtins.items() if key != "type"}


def _media(medium: MediaContent) -> Flat | None:
    flat = {
        "id": medium.id,
        "mime_type": medium.mime_type,
        "sha256": medium.sha256,
        "url": medium.url,
        "filename": medium.filename,
        "voice": medium.voice if isinstance(medium, Audio) else None,
        "animated": medium.animated if isinstance(medium, Sticker) else None,
    }
    return flat if any(value is not None for value in flat.values()) else None


def _card(card: Flat) -> Flat:
    """A card as WhatsApp writes it, with name and company flattened."""
    flat = dict(card)
    if "name" in card:
        flat["name"] = card["name"]["formatted_name"]
    if "org" in card:
        flat["organization"] = card["org"]["company"]
    return flat


def _echo(event: Event) -> Flat:
    message = event.message
    assert message is not None
    flat = _content(message.content)
    if message.content is None:
        flat = {"revoke": {"original_message_id": message.original_message_id}}
    return {
        "kind": "other",
        "type": "echo",
        "field": "smb_message_echoes",
        "provider_message_id": message.provider_message_id,
        "from": event.sender,
        "to": _address(event.contact),
        "message_type": _content_type(message),
        **flat,
    }


# ---------------------------------------------------------------- statuses


def _status(event: Event) -> Flat:
    status = event.status
    assert status is not None
    return {
        "kind": "status",
        "provider_message_id": status.provider_message_id,
        "type": status.value or status.raw_value,
        "ignored": event.type == "message.unknown",
        "from": event.sender,
        "to": _address(event.contact) or event.group_id,
        "to_user_id": event.contact.user_id if event.contact else None,
        "participant": _address(status.participant),
        "participant_user_id": status.participant.user_id if status.participant else None,
        "pricing": status.pricing,
        "conversation": status.conversation,
        "errors": [_error(status.error)] if status.error else [],
    }


# ---------------------------------------------------------------- other

# Who wrote to whom, for the kinds where somebody did.
_FROM_PERSON = {"request_welcome", "marketing_preference"}
_TO_PERSON = {"payment_status"}


def _update(event: Event) -> Flat:
    update = event.account
    assert update is not None
    sender, person = event.sender, _address(event.contact)
    flat: Flat = {
        "kind": "other",
        "type": update.kind,
        "field": update.field,
        "provider_message_id": update.details.get("message_id"),
        "provider_health": update.health,
        "errors": [_error(error) for error in update.errors],
        **update.details,
    }
    inbound = update.kind in _FROM_PERSON or update.details.get("direction") == "inbound"
    outbound = update.kind in _TO_PERSON or update.details.get("direction") == "outbound"
    if inbound:
        flat |= {"from": person, "to": sender, **_person(event.contact)}
    elif outbound:
        flat |= {"from": sender, "to": person}
    elif update.kind == "call_status":
        flat |= {"to": person}
    return flat


def differences(expected: Any, actual: Any, path: str = "$") -> list[str]:
    """Where *actual* lacks what *expected* asks for: a subset comparison in which null is absent."""
    if isinstance(expected, dict):
        held = actual if isinstance(actual, dict) else {}
        found = [differences(value, held.get(key), f"{path}.{key}") for key, value in expected.items()]
        return [line for lines in found for line in lines]
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            return [f"{path}: {actual!r}, not {expected!r}"]
        found = [differences(value, actual[index], f"{path}[{index}]") for index, value in enumerate(expected)]
        return [line for lines in found for line in lines]
    same = expected == actual and isinstance(expected, bool) == isinstance(actual, bool)
    return [] if same else [f"{path}: {actual!r}, not {expected!r}"]
