"""Webhooks of WAHA: each holds one fact, which becomes one event, whichever engine tells it.

Source: https://waha.devlike.pro/docs/how-to/events, https://waha.devlike.pro/docs/how-to/receive-messages,
    and the webhooks in tests/samples/whatsapp_web.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import msgspec

from . import _json, _waha_sessions
from ._cloud_change import bounded
from ._cloud_values import UNREADABLE, Object, Unreadable, listed, mapping, moment, present, text, word
from ._waha_addresses import MessageId, id_in, is_group, jid, message_id, person, phone_in, public_id
from ._waha_content import content_of, forwarding, is_protocol, media_errors, raw_type
from ._waha_errors import reported
from .errors import Malformed
from .messages import (
    AccountUpdate,
    Contact,
    Event,
    EventType,
    Message,
    PollVote,
    Status,
    StatusValue,
    UnknownContent,
)


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
        own = {jid(self.me.get(key)) for key in ("id", "lid", "jid")} - {None}
        return address in own or (address is not None and phone_in(address) == self.sender)

    def key(self, kind: str, *parts: str) -> str:
        return bounded("|".join((self.session, kind, *parts)))

    @property
    def fact_key(self) -> str:
        """Of a fact without an id of its own: the webhook's id, which old servers do not give."""
        if self.id is not None:
            return self.key(self.event, self.id)
        fact = (self.session, self.event, self.time, self.payload)
        return hashlib.sha256(_json.canonical(fact)).hexdigest()


def events(body: bytes, own_phone: str | None = None) -> list[Event]:
    """The event of *body*; *own_phone* is the business number, where the webhook does not tell it.

    Raises `Malformed` where there is no envelope to read.
    """
    envelope = _json.read(body)
    if not isinstance(envelope, dict):
        raise Malformed("not an object")
    name, session = text(envelope, "event"), text(envelope, "session")
    if not name or not session:
        raise Malformed("no event, or no session")
    delivery = Delivery(
        name,
        session,
        envelope.get("payload"),
        word(envelope, "id"),
        envelope.get("timestamp"),
        mapping(envelope, "me"),
        own_phone,
    )
    read = _READERS.get(name)
    if read is None:
        return [_unread(delivery, "unknown_field")]
    try:
        return [read(delivery)]
    except UNREADABLE:
        return [_unread(delivery, "malformed")]


def _unread(delivery: Delivery, kind: Literal["malformed", "unknown_field"]) -> Event:
    return Event(
        type="message.unknown",
        key=delivery.fact_key,
        sender=delivery.sender,
        sender_id=delivery.session,
        occurred_at=moment(delivery.time),
        account=AccountUpdate(kind=kind, field=delivery.event),
        raw=_json.raw(delivery.payload),
    )


def _news(
    delivery: Delivery,
    kind: str,
    *,
    key: str | None = None,
    at: Any = None,
    details: Object | None = None,
    health: _waha_sessions.Health | None = None,
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
        account=AccountUpdate(kind=kind, field=delivery.event, health=health, details=details or {}),
        raw=_json.raw(delivery.payload),
    )


# ---------------------------------------------------------------- who wrote to whom


def _identity(item: Object) -> MessageId:
    """The id of a message. Its chat is the one thing that all engines agree on."""
    parts = message_id(id_in(item))
    if parts is None:
        raise Unreadable("id")
    return parts


def _people(item: Object, identity: MessageId) -> tuple[Contact | None, str | None]:
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


def _kind_of_chat(chat: str) -> str | None:
    """Our word for a chat that is no conversation; None for those that are."""
    if chat == "status@broadcast":
        return "status_broadcast"
    return {"newsletter": "newsletter", "broadcast": "broadcast"}.get(chat.rpartition("@")[2])


# ---------------------------------------------------------------- messages


def _message(delivery: Delivery) -> Event:
    item = delivery.item
    identity = _identity(item)
    key = delivery.key("message", identity.bare)
    if kind := _kind_of_chat(identity.chat):
        details = present(message_id=identity.public, chat_id=identity.chat, text=text(item, "body") or None)
        author = person(jid(item.get("participant")) or jid(identity.raw_participant))
        return _news(delivery, kind, key=key, at=item.get("timestamp"), details=details, contact=author)
    if is_protocol(item):
        details = present(message_id=identity.public, raw_type=raw_type(item))
        return _news(delivery, "protocol_message", key=key, at=item.get("timestamp"), details=details)
    content = content_of(item)
    forwarded, frequently = forwarding(item)
    message = Message(
        provider_message_id=identity.public,
        content=content,
        reply_to=_quoted(delivery, item, identity),
        forwarded=forwarded,
        frequently_forwarded=frequently,
        errors=media_errors(item),
    )
    type_: EventType = "message.unknown" if isinstance(content, UnknownContent) else "message.received"
    return _said(delivery, item, identity, type_, message, key)


def _said(
    delivery: Delivery, item: Object, identity: MessageId, type_: EventType, message: Message, key: str, at: Any = None
) -> Event:
    """An event of somebody who did something; an echo where that was us."""
    contact, group_id = _people(item, identity)
    if identity.from_me:
        type_, message = "message.echo", msgspec.structs.replace(message, source=_source(item))
    return Event(
        type=type_,
        key=key,
        sender=delivery.sender,
        sender_id=delivery.session,
        contact=contact,
        group_id=group_id,
        occurred_at=moment(item.get("timestamp") if at is None else at) or moment(delivery.time),
        message=message,
        raw=_json.raw(delivery.payload),
    )


def _source(item: Object) -> Literal["app", "api"] | None:
    match item.get("source"):
        case "app":
            return "app"
        case "api":
            return "api"
    return None


def _quoted(delivery: Delivery, item: Object, identity: MessageId) -> str | None:
    """The one id of the quoted message: some engines name it by its bare id, beside who wrote it."""
    quoted = mapping(item, "replyTo")
    named = word(quoted, "id")
    if named is None or message_id(named) is not None:
        return public_id(named) if named else None
    author = jid(quoted.get("participant"))
    if author is None or delivery.is_me(author):
        return named
    participant = author if is_group(identity.chat) else None
    return MessageId(False, identity.raw_chat, named, participant).public


def _reaction(delivery: Delivery) -> Event:
    item = delivery.item
    identity = _identity(item)
    content = content_of(item)
    message = Message(provider_message_id=identity.public, content=content)
    type_: EventType = "message.unknown" if isinstance(content, UnknownContent) else "message.received"
    return _said(delivery, item, identity, type_, message, delivery.key("message.reaction", identity.bare))


def _edited(delivery: Delivery) -> Event:
    item = delivery.item
    identity = _identity(item)
    original = word(item, "editedMessageId") or identity.bare
    key = delivery.key("message.edited", identity.bare)
    if original == identity.bare:
        # WEBJS names the edit as the message, so that a second edit would be taken for the first.
        key = delivery.key("message.edited", identity.bare, delivery.id or delivery.fact_key)
    message = Message(
        provider_message_id=identity.public,
        content=content_of(item),
        original_message_id=identity.of(_bare(original)).public,
    )
    return _said(delivery, item, identity, "message.edited", message, key)


def _revoked(delivery: Delivery) -> Event:
    payload = delivery.item
    item = mapping(payload, "after") or mapping(payload, "before")
    identity = _identity(item)
    before = id_in(mapping(payload, "before"))
    original = word(payload, "revokedMessageId") or _revoked_key(item) or before or identity.bare
    known = message_id(before)
    same_author = known if known and known.bare == _bare(original) else identity.of(_bare(original))
    message = Message(provider_message_id=identity.public, original_message_id=same_author.public)
    return _said(delivery, item, identity, "message.deleted", message, delivery.key("message.revoked", identity.bare))


def _revoked_key(item: Object) -> str | None:
    """Where old servers have it."""
    message = mapping(mapping(item, "_data"), "message") or mapping(mapping(item, "_data"), "Message")
    return word(mapping(mapping(message, "protocolMessage"), "key"), "id")


def _bare(identity: str) -> str:
    parts = message_id(identity)
    return identity if parts is None else parts.bare


def _waiting(delivery: Delivery) -> Event:
    """A message that cannot be decrypted yet: the message itself may follow, with the same id."""
    item = delivery.item
    identity = _identity(item)
    contact, group_id = _people(item, identity)
    return _news(
        delivery,
        "message_waiting",
        key=delivery.key("message.waiting", identity.bare),
        at=item.get("timestamp"),
        details={"message_id": identity.public},
        contact=contact,
        group_id=group_id,
    )


# ---------------------------------------------------------------- polls


def _vote(delivery: Delivery) -> Event:
    vote, poll = mapping(delivery.item, "vote"), mapping(delivery.item, "poll")
    identity = _identity(vote)
    options = [option for option in listed(vote, "selectedOptions") if isinstance(option, str)]
    polled = id_in(poll)
    if polled is None:
        raise Unreadable("poll")
    key = delivery.key(delivery.event, identity.bare)
    message = Message(provider_message_id=identity.public, content=PollVote(poll_id=public_id(polled), options=options))
    return _said(delivery, vote, identity, "message.received", message, key)


def _failed_vote(delivery: Delivery) -> Event:
    """A vote that could not be decrypted: what was chosen is not known."""
    vote = mapping(delivery.item, "vote")
    identity = _identity(vote)
    contact, group_id = _people(vote, identity)
    polled = id_in(mapping(delivery.item, "poll"))
    return _news(
        delivery,
        "poll_vote_failed",
        key=delivery.key(delivery.event, identity.bare),
        at=vote.get("timestamp"),
        details=present(message_id=identity.public, poll_id=public_id(polled) if polled else None),
        contact=contact,
        group_id=group_id,
    )


# ---------------------------------------------------------------- statuses

_STATUSES: dict[str, StatusValue] = {
    "ERROR": "failed",
    "PENDING": "accepted",
    "SERVER": "sent",
    "DEVICE": "delivered",
    "READ": "read",
    "PLAYED": "played",
}
_ACKS = {-1: "ERROR", 0: "PENDING", 1: "SERVER", 2: "DEVICE", 3: "READ", 4: "PLAYED"}


def _ack(delivery: Delivery) -> Event:
    """A receipt. Its time is the webhook's: where there is one inside, it is that of the message."""
    item = delivery.item
    identity = _identity(item)
    said = text(item, "ackName") or _ack_name(item.get("ack"))
    contact, group_id = _people(item, identity)
    if not identity.from_me:
        # We read it on another device: nothing that was sent changes.
        return _news(
            delivery,
            "ack_inbound",
            key=delivery.key("ack", identity.bare, said),
            details={"message_id": identity.public, "ack": said},
            contact=contact,
            group_id=group_id,
        )
    member = _member(delivery, item, identity) if group_id else None
    value = _STATUSES.get(said)
    error = mapping(item, "error")
    who = [member.phone or member.lid or ""] if member else []
    return Event(
        # GOWS sends UNKNOWN without meaning anything by it.
        type="message.unknown" if value is None else "message.status",
        key=delivery.key("ack", identity.bare, said, *who),
        sender=delivery.sender,
        sender_id=delivery.session,
        contact=contact,
        group_id=group_id,
        occurred_at=moment(delivery.time),
        status=Status(
            provider_message_id=identity.public,
            value=value,
            raw_value=said if value is None else None,
            error=reported(error) if value == "failed" else None,
            participant=member,
        ),
        raw=_json.raw(delivery.payload),
    )


def _ack_name(ack: Any) -> str:
    return _ACKS.get(ack, "UNKNOWN") if isinstance(ack, int) else "UNKNOWN"


def _member(delivery: Delivery, item: Object, identity: MessageId) -> Contact | None:
    """Whose receipt it is. WEBJS writes ourselves there, for the receipt of the whole group."""
    address = jid(item.get("participant")) or jid(identity.raw_participant)
    return None if delivery.is_me(address) else person(address)


# ---------------------------------------------------------------- the session, and all else


def _session(delivery: Delivery) -> Event:
    item = delivery.item
    state = _waha_sessions.state_of(item)
    punished = [reason for _, reason in _waha_sessions.restrictions(delivery.me)]
    details = present(
        state=state.word,
        status=text(item, "status"),
        data=item.get("data"),
        restrictions=punished,
    )
    health = "degraded" if punished and state.word == "working" else state.health
    return _news(delivery, "session", details=details, health=health)


def _call(delivery: Delivery) -> Event:
    item = delivery.item
    call_id = word(item, "id")
    return _news(
        delivery,
        delivery.event.replace(".", "_"),
        key=delivery.key(delivery.event, call_id) if call_id else None,
        at=item.get("timestamp"),
        details=present(call_id=call_id, video=item.get("isVideo"), group=item.get("isGroup")),
        contact=person(jid(item.get("from"))),
    )


def _other(delivery: Delivery) -> Event:
    """News that change nothing here; the payload may be missing. All of it is in the event's raw."""
    item = delivery.payload if isinstance(delivery.payload, dict) else {}
    address = jid(mapping(item, "group").get("id")) or jid(item.get("id")) or jid(item.get("from"))
    group_id = address if is_group(address) else None
    time: datetime | None = moment(item.get("timestamp"))
    return _news(
        delivery,
        delivery.event.replace(".", "_"),
        at=item.get("timestamp") if time else None,
        contact=person(address),
        group_id=group_id,
    )


_READERS: dict[str, Callable[[Delivery], Event]] = {
    "message": _message,
    "message.any": _message,
    "message.reaction": _reaction,
    "message.edited": _edited,
    "message.revoked": _revoked,
    "message.waiting": _waiting,
    "message.ack": _ack,
    "message.ack.group": _ack,
    "poll.vote": _vote,
    "poll.vote.failed": _failed_vote,
    "session.status": _session,
    "call.received": _call,
    "call.accepted": _call,
    "call.rejected": _call,
    **dict.fromkeys(
        (
            "chat.archive",
            "engine.event",
            "event.response",
            "event.response.failed",
            "group.join",
            "group.leave",
            "group.v2.join",
            "group.v2.leave",
            "group.v2.participants",
            "group.v2.update",
            "label.chat.added",
            "label.chat.deleted",
            "label.deleted",
            "label.upsert",
            "presence.update",
            "state.change",
        ),
        _other,
    ),
}
