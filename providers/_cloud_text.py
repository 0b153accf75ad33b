"""The webhook that comes most: texts that people wrote, and nothing else around them.

The reader of everything (``_cloud_inbound.py``) looks at each value before it trusts it. Here a typed decoder has
refused whatever is unusual, so there is nothing left to look for, and the same events take half the time.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from . import _json
from ._values import MAX_KEY, moment, phone
from .messages import Contact, Event, Message, Text


class _Exact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class _Metadata(_Exact, frozen=True):
    display_phone_number: str
    phone_number_id: str


class _Profile(_Exact, frozen=True):
    name: str


class _Card(_Exact, frozen=True):
    profile: _Profile
    wa_id: str
    user_id: str | None = None


class _Value(_Exact, frozen=True):
    messaging_product: Literal["whatsapp"]
    metadata: _Metadata
    contacts: tuple[_Card]
    messages: list[dict[str, Any]]


class _Change(_Exact, frozen=True):
    field: Literal["messages"]
    value: _Value


class _Entry(_Exact, frozen=True):
    id: str
    changes: list[_Change]


class _Envelope(_Exact, frozen=True):
    object: Literal["whatsapp_business_account"]
    entry: list[_Entry]


class _Unusual(Exception):
    """Something for the reader of everything."""


_decode = msgspec.json.Decoder(_Envelope).decode
_KEYS = frozenset({"from", "id", "timestamp", "type", "text"})
_KEYS_WITH_USER_ID = _KEYS | {"from_user_id"}
# In a longer body `_json.read` looks for too many values.
_MOST_BYTES = 2 * _json.MAX_VALUES


def texts(body: bytes) -> list[Event] | None:
    """The events of *body*, or None where it holds anything but plain texts of one person a change."""
    if _json.NUL in body or len(body) > _MOST_BYTES:
        return None
    try:
        envelope = _decode(body)
        return [event for entry in envelope.entry for change in entry.changes for event in _events(entry, change.value)]
    except (msgspec.MsgspecError, UnicodeError, RecursionError, _Unusual):
        return None


def _events(entry: _Entry, value: _Value) -> Iterator[Event]:
    (card,) = value.contacts
    number, sender_id = phone(card.wa_id), value.metadata.phone_number_id
    contact = Contact(phone=number, user_id=card.user_id or None, name=card.profile.name or None)
    sender = phone(value.metadata.display_phone_number)
    for item in value.messages:
        message_id, text, user_id = item.get("id"), item.get("text"), item.get("from_user_id")
        if (
            item.keys() not in (_KEYS, _KEYS_WITH_USER_ID)
            or item["type"] != "text"
            or item["from"] != card.wa_id
            or user_id != card.user_id
            or number is None
            or not (isinstance(message_id, str) and 0 < len(message_id) < MAX_KEY - len(sender_id))
            or not (isinstance(text, dict) and len(text) == 1 and isinstance(text.get("body"), str))
        ):
            raise _Unusual
        yield Event(
            type="message.received",
            key=f"{sender_id}|{message_id}",
            sender=sender,
            sender_id=sender_id or None,
            account_id=entry.id or None,
            contact=contact,
            occurred_at=moment(item["timestamp"]),
            message=Message(provider_message_id=message_id, content=Text(body=text["body"])),
            raw=_json.raw(item),
        )
