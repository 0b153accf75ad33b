"""Our events in the flat form in which the samples of WAHA state what they expect.

The samples give a message two ids: the serialized one as received, and the bare one, by which everything is
correlated. We give it one: of our own messages the bare id, of others' the serialized one. So the serialized id
of our own, and whether a place is a live one, are read off the event's `raw`, the only place that has them.
"""

import json
import re
from datetime import datetime
from typing import Any

from providers import Contact, Event, Media, Message
from providers.content import (
    Audio,
    ButtonReply,
    Contacts,
    ListReply,
    Location,
    MediaContent,
    PollVote,
    Reaction,
    Text,
    UnknownContent,
    UnsupportedContent,
)
from providers.messages import ErrorInfo

Flat = dict[str, Any]

CLASSES = {"Rejected": "permanent_content", "Restricted": "permanent_account"}


def project(event: Event, media: dict[str, Media]) -> Flat:
    """*event*, flattened; *media* by their ids."""
    common = {
        "channel_id": event.sender_id,
        "timestamp": _time(event.occurred_at),
        "dedup_key": event.key,
        "group_id": event.group_id,
    }
    if event.message is not None:
        return {**common, **_message(event, event.message, media)}
    if event.status is not None:
        return {**common, **_status(event)}
    return {**common, **_update(event)}


def bare(identity: str | None) -> str | None:
    return identity.split("_")[2] if identity and "_" in identity else identity


def _raw(event: Event) -> Any:
    return json.loads(bytes(event.raw))


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _address(contact: Contact | None) -> str | None:
    return None if contact is None else contact.phone or contact.lid


def _serialized(event: Event, identity: str | None) -> Any:
    """The id as received: of others it is the event's own."""
    if identity is None or "_" in identity:
        return identity
    raw = _raw(event)
    found = next(holder["id"] for holder in (raw, raw.get("vote"), raw.get("after")) if holder and "id" in holder)
    assert bare(found) == identity
    return found


# ---------------------------------------------------------------- messages


def _message(event: Event, message: Message, media: dict[str, Media]) -> Flat:
    types = {"message.edited": "edit", "message.deleted": "revoke"}
    outbound = event.type == "message.echo" or message.by == "business"
    person = _address(event.contact)
    serialized = _serialized(event, message.provider_message_id)
    flat = {
        "kind": "message",
        "provider_message_id": serialized,
        "message_key": bare(message.provider_message_id),
        "type": types.get(event.type) or _content_type(message),
        "direction": "outbound" if outbound else "inbound",
        "from": event.sender if outbound else person,
        "to": event.group_id or (person if outbound else event.sender),
        "from_lid": event.contact.lid if event.contact else None,
        "from_name": event.contact.name if event.contact else None,
        "chat_id": re.sub(r":\d+@s\.whatsapp\.net", "@c.us", serialized.split("_")[1]),
        "source": message.source,
        **_content(event, message, media),
        "context": _context(message),
    }
    if event.type == "message.edited":
        flat["edit"] = {"original_message_id": bare(message.original_message_id)}
    if event.type == "message.deleted":
        flat["revoke"] = {"original_message_id": bare(message.original_message_id)}
    return flat


def _content_type(message: Message) -> str | None:
    tag = message.content.__struct_config__.tag if message.content else None
    assert tag is None or isinstance(tag, str)
    return tag


def _context(message: Message) -> Flat | None:
    if (quoted := message.reply_to) is None:
        return None
    return {
        "message_id": bare(quoted.id),
        "forwarded": bool(message.forwarded),
        "frequently_forwarded": bool(message.frequently_forwarded),
        "from": _address(quoted.author),
        "text": quoted.text,
    }


def _content(event: Event, message: Message, media: dict[str, Media]) -> Flat:
    match message.content:
        case Text(body=body):
            return {"text": body}
        case MediaContent() as content:
            return {"text": content.caption, "media": _media(content, message, media)}
        case Location() as place:
            names = ("latitude", "longitude", "name", "address")
            live = {"live": _raw(event)["location"]["live"]}
            return {"location": {name: getattr(place, name) for name in names} | live}
        case Contacts(contacts=cards):
            return {"vcards": [card["vcard"] for card in cards]}
        case Reaction(message_id=target, emoji=emoji):
            named = _raw(event)["reaction"]["messageId"]
            reaction = {"message_id": named, "message_key": bare(target), "emoji": emoji, "removed": emoji is None}
            return {"text": emoji, "reaction": reaction}
        case ButtonReply(id=identity, title=title):
            return {"text": title, "button": {"id": identity, "title": title}}
        case ListReply(id=identity, title=title, description=description):
            return {"text": title, "list": {"id": identity, "title": title, "description": description}}
        case PollVote(poll_id=poll, options=options):
            return {"poll_vote": {"poll_id": _raw(event)["poll"]["id"], "poll_key": poll, "options": options}}
        case UnsupportedContent(kind=kind):
            return {"raw_type": kind}
        case UnknownContent(raw_type=kind):
            return {"raw_type": kind}
    return {}


def _media(content: MediaContent, message: Message, media: dict[str, Media]) -> Flat:
    found = media.get(content.id) if content.id else None
    return {
        "url": content.id,
        "mime_type": content.mime_type,
        "filename": content.filename,
        "download_url": found.url if found else None,
        "needs_api_key": "x-api-key" in found.headers if found else None,
        "voice": content.voice if isinstance(content, Audio) else None,
        "error": next(({"message": error.title, "details": error.detail} for error in message.errors), None),
    }


# ---------------------------------------------------------------- statuses, and all else


def _error(error: ErrorInfo) -> Flat:
    until = re.search(r"until ([^,]+)", error.detail or "")
    return {
        "code": error.code,
        "class": CLASSES[error.class_ or ""],
        "title": error.title,
        "until": until[1] if until else None,
        "punished": error.class_ == "Restricted",
    }


def _status(event: Event) -> Flat:
    status = event.status
    assert status is not None
    unknown = event.type == "message.unknown"
    return {
        "kind": "other" if unknown else "status",
        "provider_message_id": _serialized(event, status.provider_message_id),
        "message_key": status.provider_message_id,
        "type": "ack_unknown" if unknown else status.value,
        "raw_status": _raw(event)["ackName"],
        "from": event.sender,
        "to": event.group_id or _address(event.contact),
        "participant": _address(status.participant),
        "errors": [_error(status.error)] if status.error and status.error.code else [],
    }


# Kinds that the samples call by our word, not by the name of the event.
_BY_KIND = {"ack_inbound", "status_broadcast", "newsletter"}


def _update(event: Event) -> Flat:
    update = event.account
    assert update is not None
    details = update.details
    if update.kind == "session":
        return {
            "kind": "session",
            "type": details["state"],
            "from": event.sender,
            "raw_status": details["status"],
            "data": details.get("data"),
        }
    return {
        "kind": "other",
        "type": update.kind if update.kind in _BY_KIND else update.field,
        "provider_message_id": details.get("message_id"),
        "from": _address(event.contact) or event.group_id or details.get("chat_id"),
        "text": details.get("text"),
    }
