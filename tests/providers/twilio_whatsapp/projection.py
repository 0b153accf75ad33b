"""Our events in the flat form in which Twilio's samples state what they expect.

Each expected key is read off the event; one that the common vocabulary has no place for, the Messaging Service,
comes out of the event's own `raw`.
"""

import json
from datetime import datetime
from typing import Any

import msgspec

from providers import Contact, Event, Message, ReplyTo
from providers.content import (
    ButtonReply,
    Contacts,
    FlowReply,
    ListReply,
    Location,
    MediaContent,
    Text,
    UnsupportedContent,
)
from providers.messages import ErrorInfo

Flat = dict[str, Any]

CLASSES = {
    "Rejected": "permanent_content",
    "AccountBroken": "permanent_account",
    "Restricted": "permanent_account",
    "Throttled": "throttled",
    "Unavailable": "transient",
    "Uncertain": "ambiguous",
}


def project(event: Event) -> Flat:
    if event.message is not None:
        return {**_common(event), **_message(event, event.message)}
    if event.status is not None:
        return {**_common(event), **_status(event)}
    assert event.account is not None
    return {**_common(event), "kind": "other", "type": event.account.field}


def _common(event: Event) -> Flat:
    return {
        "channel_id": event.sender,
        "account_id": event.account_id,
        "timestamp": _time(event.occurred_at),
        "dedup_key": event.key,
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _raw(event: Event) -> Flat:
    """Parameters by name, from either form of webhook."""
    raw = json.loads(bytes(event.raw))
    if isinstance(raw, list):
        return dict(raw)
    return {name[:1].upper() + name[1:]: value for name, value in raw["data"].items()}


def _address(contact: Contact | None) -> str | None:
    return None if contact is None else contact.phone or contact.user_id


# ---------------------------------------------------------------- messages


def _message(event: Event, message: Message) -> Flat:
    raw, contact, quoted = _raw(event), event.contact or Contact(), message.reply_to or ReplyTo()
    assert message.content is not None
    return {
        "kind": "message",
        "direction": "inbound" if event.type == "message.received" else None,
        "provider_message_id": message.provider_message_id,
        "type": message.content.__struct_config__.tag,
        "from": _address(contact),
        "to": event.sender,
        "from_name": contact.name,
        "from_user_id": contact.user_id,
        "wa_id": contact.phone.removeprefix("+") if contact.phone else None,
        "messaging_service_id": raw.get("MessagingServiceSid"),
        "context": {
            "message_id": quoted.id,
            "forwarded": bool(message.forwarded),
            "frequently_forwarded": bool(message.frequently_forwarded),
            "from": _address(quoted.author),
        },
        "referral": message.referral,
        **_content(message.content),
        "more_media": [_content(more)["media"] for more in message.more_media],
    }


def _content(content: Any) -> Flat:
    match content:
        case Text(body=body):
            return {"text": body}
        case MediaContent():
            return {"text": content.caption, "media": {"url": content.url, "mime_type": content.mime_type}}
        case Contacts(contacts=[card]):
            return {"media": card}
        case Location(name=name):
            return {"text": name, "location": msgspec.to_builtins(content)}
        case ButtonReply(id=id_, title=title):
            return {"text": title, "button": {"id": id_, "title": title}}
        case ListReply(title=title):
            return {"text": title, "list": msgspec.to_builtins(content)}
        case FlowReply(body=body, data=data, raw=raw):
            return {"text": body, "flow": {"data": data, "raw": raw}}
        case UnsupportedContent(kind=kind):
            return {"raw_type": kind}
    return {}


# ---------------------------------------------------------------- statuses


def _status(event: Event) -> Flat:
    status = event.status
    assert status is not None
    return {
        "kind": "status",
        "provider_message_id": status.provider_message_id,
        "type": status.value or status.raw_value,
        "ignored": event.type == "message.unknown",
        "raw_status": _raw(event)["MessageStatus"],
        "from": event.sender,
        "to": _address(event.contact),
        "errors": [_error(status.error)] if status.error else [],
    }


def _error(error: ErrorInfo) -> Flat:
    assert error.code is not None
    return {
        "code": int(error.code),
        "class": CLASSES[error.class_ or ""],
        "title": error.title,
        "details": error.detail,
        "punished": error.class_ == "Restricted",
    }
