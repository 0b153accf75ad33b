"""The webhook that comes most: texts that people wrote, and nothing else around them.

The reader of everything (``inbound.py``) looks at each value before it trusts it. Here a typed decoder has
refused whatever is unusual, so there is nothing left to look for, and the same events take half the time.
"""

from typing import Literal

import msgspec

from .. import _json
from .._values import MAX_KEY, MAX_WORD, moment, phone
from ..content import Text
from ..messages import Contact, Event, Message
from .ids import message_key


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
    messages: list[msgspec.Raw]


class _Change(_Exact, frozen=True):
    field: Literal["messages"]
    value: _Value


class _Entry(_Exact, frozen=True):
    id: str
    changes: list[_Change]


class _Envelope(_Exact, frozen=True):
    object: Literal["whatsapp_business_account"]
    entry: list[_Entry]


class _Body(_Exact, frozen=True):
    body: str


class _Message(_Exact, frozen=True, rename={"sender": "from"}):
    sender: str
    id: str
    timestamp: str
    type: Literal["text"]
    text: _Body
    from_user_id: str | None = None


class _Unusual(Exception):
    """Something for the reader of everything."""


_decode = msgspec.json.Decoder(_Envelope).decode
_decode_message = msgspec.json.Decoder(_Message).decode
# In a longer body `_json.read` looks for too many values.
_MOST_BYTES = 2 * _json.MAX_VALUES


def texts(body: bytes) -> list[Event] | None:
    """The events of *body*, or None where it holds anything but plain texts of one person a change."""
    if _json.NUL in body or len(body) > _MOST_BYTES:
        return None
    try:
        envelope = _decode(body)
        events: list[Event] = []
        for entry in envelope.entry:
            for change in entry.changes:
                _read(entry.id, change.value, events)
        return events
    except (msgspec.MsgspecError, UnicodeError, RecursionError, _Unusual):
        return None


def _contact(card: _Card) -> Contact:
    number = phone(card.wa_id)
    if number is None or len(card.profile.name) > MAX_WORD:
        raise _Unusual
    return Contact(phone=number, user_id=card.user_id or None, name=card.profile.name or None)


def _read(account_id: str, value: _Value, events: list[Event]) -> None:
    """Append what *value* says to *events*."""
    (card,) = value.contacts
    contact, sender_id = _contact(card), value.metadata.phone_number_id
    sender = phone(value.metadata.display_phone_number)
    for raw in value.messages:
        message = _decode_message(raw)
        if (
            message.sender != card.wa_id
            or message.from_user_id != card.user_id
            or not 0 < len(message.id) < MAX_KEY - len(sender_id)
        ):
            raise _Unusual
        events.append(
            Event(
                type="message.received",
                key=f"{sender_id}|{message_key(message.id)}",
                sender=sender,
                sender_id=sender_id or None,
                account_id=account_id or None,
                contact=contact,
                occurred_at=moment(message.timestamp),
                message=Message(provider_message_id=message.id, content=Text(body=message.text.body)),
                raw=raw,
            )
        )
