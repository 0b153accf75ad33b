"""One webhook of WAHA: what it is about, who is in it, and the events made of it that are no messages.

Source: https://waha.devlike.pro/docs/how-to/events,
    and the webhooks in tests/samples/whatsapp_web.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from .. import _json
from .._values import Object, Unreadable, bounded, mapping, moment, text
from ..messages import AccountUpdate, Contact, Event
from .addresses import MessageId, id_in, is_group, jid, message_id, person, phone_in

Health = Literal["down", "degraded", "retest"]


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One webhook: its event and what stands around it."""

    event: str
    session: str
    payload: Any
    id: str | None
    time: Any  # milliseconds
    me: Object
    own_phone: str | None

    def __repr__(self) -> str:
        return f"Delivery(event={self.event!r})"

    @property
    def item(self) -> Object:
        if not isinstance(self.payload, dict):
            raise Unreadable("payload")
        return self.payload

    @property
    def sender(self) -> str | None:
        return phone_in(jid(self.me.get("id"))) or self.own_phone

    def is_me(self, address: str | None) -> bool:
        own = {jid(self.me.get(key)) for key in ("id", "lid", "jid")}
        number = phone_in(address)
        return address is not None and (address in own or (number is not None and number == self.sender))

    def key(self, kind: str, *parts: str) -> str:
        return bounded("|".join((self.session, kind, *parts)))

    @property
    def fact_key(self) -> str:
        """Of a fact without an id of its own: the webhook's id, which old servers do not give."""
        if self.id is not None:
            return self.key(self.event, self.id)
        fact = (self.session, self.event, self.time, self.payload)
        return hashlib.sha256(_json.canonical(fact)).hexdigest()


Reader = Callable[[Delivery], Event]


def unread(delivery: Delivery, kind: Literal["malformed", "unknown_field"]) -> Event:
    return Event(
        type="message.unknown",
        key=delivery.fact_key,
        sender=delivery.sender,
        sender_id=delivery.session,
        occurred_at=moment(delivery.time),
        account=AccountUpdate(kind=kind, field=delivery.event),
        raw=_json.raw(delivery.payload),
    )


def news(
    delivery: Delivery,
    kind: str,
    *,
    key: str | None = None,
    at: Any = None,
    details: Object | None = None,
    health: Health | None = None,
    contact: Contact | None = None,
    group_id: str | None = None,
) -> Event:
    """An event that is not a message. *at* is the payload's own time, where it has one."""
    return Event(
        type="account.updated",
        key=key or delivery.fact_key,
        sender=delivery.sender,
        sender_id=delivery.session,
        contact=contact,
        group_id=group_id,
        occurred_at=moment(at) or moment(delivery.time),
        reported_at=moment(delivery.time),
        account=AccountUpdate(kind=kind, field=delivery.event, health=health, details=details or {}),
        raw=_json.raw(delivery.payload),
    )


# ---------------------------------------------------------------- who wrote to whom


def identity_of(item: Object) -> MessageId:
    """The id of a message. Its chat is the one thing that all engines agree on."""
    parts = message_id(id_in(item))
    if parts is None:
        raise Unreadable("id")
    return parts


def people_of(item: Object, identity: MessageId) -> tuple[Contact | None, str | None]:
    """The person at the other end, and the group. In a group nobody in particular is at the end of an own message."""
    data = mapping(item, "_data")
    key, info = mapping(data, "key"), mapping(data, "Info")
    names: tuple[Any, ...]
    twins: tuple[Any, ...]
    if is_group(identity.chat):
        if identity.from_me:
            return None, identity.chat
        names = (item.get("participant"), identity.raw_participant, item.get("author"), key.get("participant"))
        twins = (key.get("participantAlt"), key.get("participantPn"), info.get("SenderAlt"))
    else:
        names = (identity.chat,)
        # In an own message the sender's twin would be our own number.
        ours = info.get("RecipientAlt") if identity.from_me else info.get("SenderAlt")
        twins = (key.get("remoteJidAlt"), key.get("senderPn"), ours)
    shown = next((address for name in names if (address := jid(name))), None)
    name = None if identity.from_me else _name(data)
    return person(shown, *map(jid, twins), name=name), identity.chat if is_group(identity.chat) else None


def _name(data: Object) -> str | None:
    return text(data, "notifyName") or text(data, "pushName") or text(mapping(data, "Info"), "PushName")
