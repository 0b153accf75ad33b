"""One webhook of WAHA: what it is about, who is in it, and the events made of it that are no messages.

Source: https://waha.devlike.pro/docs/how-to/events,
    and the webhooks in tests/samples/whatsapp_web.
"""

from collections.abc import Callable
from typing import Any

from .._events import Origin
from .._values import Object, Unreadable, mapping, text
from ..messages import Contact, Event
from ..phones import phone_key
from .addresses import MessageId, first_jid, id_in, is_group, jid, joined, message_id, person, phone_in, public_id


class Delivery(Origin, frozen=True, gc=False, kw_only=True):
    """One webhook. ``field`` is its event, ``sender_id`` the session, ``time`` in milliseconds."""

    payload: Any
    id: str | None
    me: Object

    @property
    def item(self) -> Object:
        if not isinstance(self.payload, dict):
            raise Unreadable("payload")
        return self.payload

    def is_me(self, address: str | None) -> bool:
        own = {jid(self.me.get(key)) for key in ("id", "lid", "jid")}
        number = phone_in(address)
        if number is not None and self.sender is not None and phone_key(number) == phone_key(self.sender):
            return True
        return address is not None and address in own

    def key(self, kind: str, *parts: str) -> str:
        return "|".join((self.sender_id or "", kind, *parts))

    def update_of(self, kind: str, item: Object, **parts: Any) -> Event:
        """An account update, at the time of *item*, which is the payload or what counts in it."""
        return self.update(kind, self.payload, at=item.get("timestamp"), **parts)

    def fact_key(self, item: Any) -> str:
        """Of a fact without an id of its own: the webhook's id, which old servers do not give."""
        return self.key(self.field, self.id) if self.id is not None else Origin.fact_key(self, item)


Reader = Callable[[Delivery], Event]


# ---------------------------------------------------------------- who wrote to whom


def identity_of(item: Object) -> MessageId:
    """The id of a message. Its chat is the one thing that all engines agree on."""
    parts = key_of(item)
    if parts is None:
        raise Unreadable("id")
    return parts


def key_of(item: Object) -> MessageId | None:
    """The same, where there is one. WPP names the two messages of a deletion by their keys alone."""
    return message_id(id_in(item)) or message_id(joined(item, "remoteJid"))


def poll_of(item: Object) -> str | None:
    """The one id of the poll that a vote is about."""
    polled = id_in(mapping(item, "poll"))
    return public_id(polled) if polled else None


def people_of(item: Object, identity: MessageId) -> dict[str, Any]:
    """The person at the other end and the group, as the parts of an event."""
    if not is_group(identity.chat):
        return {"contact": _partner(item, identity)}
    # At the end of an own message in a group is nobody in particular.
    return {"contact": None if identity.from_me else _author(item, identity), "group_id": identity.chat}


def _partner(item: Object, identity: MessageId) -> Contact | None:
    data = mapping(item, "_data")
    key, info = mapping(data, "key"), mapping(data, "Info")
    # In an own message the sender's twin would be our own number.
    ours = info.get("RecipientAlt") if identity.from_me else info.get("SenderAlt")
    twins = map(jid, (key.get("remoteJidAlt"), key.get("senderPn"), ours))
    return person(jid(identity.chat), *twins, name=None if identity.from_me else _name(data))


def _author(item: Object, identity: MessageId) -> Contact | None:
    data = mapping(item, "_data")
    key, info = mapping(data, "key"), mapping(data, "Info")
    shown = first_jid(item.get("participant"), identity.raw_participant, item.get("author"), key.get("participant"))
    twins = map(jid, (key.get("participantAlt"), key.get("participantPn"), info.get("SenderAlt")))
    return person(shown, *twins, name=_name(data))


def _name(data: Object) -> str | None:
    return text(data, "notifyName") or text(data, "pushName") or text(mapping(data, "Info"), "PushName")
