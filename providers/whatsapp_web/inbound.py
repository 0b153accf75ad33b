"""Webhooks of WAHA: each holds one fact, which becomes one event, whichever engine sent it.

Source: https://waha.devlike.pro/docs/how-to/events, https://waha.devlike.pro/docs/how-to/receive-messages,
    and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Any, Literal

import msgspec

from .. import _json
from .._events import type_of
from .._values import UNREADABLE, Object, Unreadable, mapping, moment, present, text, texts, word
from ..content import PollVote
from ..errors import Malformed
from ..messages import Event, EventType, Message, ReplyTo
from . import receipts, updates
from .addresses import (
    MessageId,
    correlation_in,
    first_jid,
    id_in,
    is_group,
    jid,
    message_id,
    person,
    phone_of,
    public_id,
)
from .content import content_of, forwarding, is_protocol, media_errors, proto, raw_type
from .delivery import Delivery, Reader, identity_of, people_of, poll_of

# Of no WAHA: we post it to ourselves, to see that it arrives.
PROBE = "ingress.probe"


def events(body: bytes, own_phone: str | None = None) -> list[Event]:
    """The event of *body*; *own_phone* is the business number, where the webhook does not show it.

    Raises `Malformed` where there is no envelope to read.
    """
    envelope = _json.read(body)
    if not isinstance(envelope, dict):
        raise Malformed("not an object")
    name, session = text(envelope, "event"), text(envelope, "session")
    if not name or not session:
        raise Malformed("no event, or no session")
    if name == PROBE:
        return []
    me = mapping(envelope, "me")
    delivery = Delivery(
        field=name,
        sender=phone_of(me) or own_phone,
        sender_id=session,
        time=envelope.get("timestamp"),
        payload=envelope.get("payload"),
        id=word(envelope, "id"),
        me=me,
    )
    read = _READERS.get(name)
    if read is None:
        return [delivery.unread("unknown_field", delivery.payload)]
    try:
        return [read(delivery)]
    except UNREADABLE:
        return [delivery.unread("malformed", delivery.payload)]


def _message(delivery: Delivery) -> Event:
    item = delivery.item
    identity = identity_of(item)
    if aside := _not_of_a_conversation(item, identity):
        return delivery.update_of(item=item, key=delivery.key("message", identity.bare), **aside)
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
    event = _message_event(delivery, item, type_of(content), message, "message")
    if identity.from_me and (correlation_id := correlation_in(identity.bare)) is not None:
        return msgspec.structs.replace(event, correlation_id=correlation_id)
    return event


def _not_of_a_conversation(item: Object, identity: MessageId) -> dict[str, Any] | None:
    """What the account update of a story, a newsletter or a message among clients has; None for all others."""
    if kind := _kind_of_chat(identity.chat):
        details = present(message_id=identity.public, chat_id=identity.chat, text=text(item, "body") or None)
        author = person(first_jid(item.get("participant"), identity.raw_participant))
        return {"kind": kind, "details": details, "contact": author}
    if is_protocol(item):
        return {"kind": "protocol_message", "details": present(message_id=identity.public, raw_type=raw_type(item))}
    return None


def _message_event(
    delivery: Delivery, item: Object, type_: EventType, message: Message, kind: str, *more: str
) -> Event:
    """An event of somebody who did something, which *item* describes; an echo where that was us.

    Its key is of *kind*, the message, and *more*.
    """
    identity = identity_of(item)
    if type_ in ("message.edited", "message.deleted"):
        message = msgspec.structs.replace(message, by="business" if identity.from_me else "contact")
    elif identity.from_me:
        type_ = "message.echo"
    if identity.from_me:
        message = msgspec.structs.replace(message, source=_source(item))
    return delivery.event(
        type_,
        delivery.payload,
        key=delivery.key(kind, identity.bare, *more),
        at=item.get("timestamp"),
        **people_of(item, identity),
        reported_at=moment(delivery.time),
        message=message,
    )


def _source(item: Object) -> Literal["app", "api"] | None:
    source = item.get("source")
    return source if source in ("app", "api") else None


def _quoted(delivery: Delivery, item: Object, identity: MessageId) -> ReplyTo | None:
    quoted = mapping(item, "replyTo")
    author = jid(quoted.get("participant"))
    found = ReplyTo(
        id=_quoted_id(delivery, word(quoted, "id"), author, identity),
        text=text(quoted, "body") or None,
        author=person(author),
    )
    return None if found == ReplyTo() else found


def _quoted_id(delivery: Delivery, named: str | None, author: str | None, identity: MessageId) -> str | None:
    """The one id of the quoted message: some engines name it by its bare id, beside who wrote it."""
    if named is None:
        return None
    if message_id(named) is not None or author is None or delivery.is_me(author):
        return public_id(named)
    participant = author if is_group(identity.chat) else None
    return MessageId(False, identity.raw_chat, named, participant).public


def _reaction(delivery: Delivery) -> Event:
    item = delivery.item
    identity = identity_of(item)
    content = content_of(item)
    message = Message(provider_message_id=identity.public, content=content)
    return _message_event(delivery, item, type_of(content), message, "message.reaction")


def _edited(delivery: Delivery) -> Event:
    item = delivery.item
    identity = identity_of(item)
    original = word(item, "editedMessageId") or identity.bare
    # WEBJS names the edit as the message, so that a second edit would be taken for the first.
    again = [delivery.id or delivery.fact_key(item)] if original == identity.bare else []
    message = Message(
        provider_message_id=identity.public,
        content=content_of(item),
        original_message_id=identity.of(original).public,
    )
    return _message_event(delivery, item, "message.edited", message, "message.edited", *again)


def _revoked(delivery: Delivery) -> Event:
    payload = delivery.item
    item = mapping(payload, "after") or mapping(payload, "before")
    identity = identity_of(item)
    before = id_in(mapping(payload, "before"))
    original = identity.of(word(payload, "revokedMessageId") or _revoked_key(item) or before or identity.bare)
    known = message_id(before)
    if known is not None and known.bare == original.bare:
        original = known
    message = Message(provider_message_id=identity.public, original_message_id=original.public)
    return _message_event(delivery, item, "message.deleted", message, "message.revoked")


def _revoked_key(item: Object) -> str | None:
    """The id of the revoked message, where old servers have it."""
    return word(mapping(mapping(proto(item), "protocolMessage"), "key"), "id")


def _vote(delivery: Delivery) -> Event:
    vote, poll_id = mapping(delivery.item, "vote"), poll_of(delivery.item)
    identity = identity_of(vote)
    if poll_id is None:
        raise Unreadable("poll")
    message = Message(
        provider_message_id=identity.public,
        content=PollVote(poll_id=poll_id, options=texts(vote, "selectedOptions")),
    )
    return _message_event(delivery, vote, "message.received", message, delivery.field)


def _kind_of_chat(chat: str) -> str | None:
    """Our word for a chat that is no conversation; None for those that are."""
    if chat == "status@broadcast":
        return "status_broadcast"
    return {"newsletter": "newsletter", "broadcast": "broadcast"}.get(chat.rpartition("@")[2])


_READERS: dict[str, Reader] = {
    **updates.READERS,
    **receipts.READERS,
    "message": _message,
    "message.any": _message,
    "message.reaction": _reaction,
    "message.edited": _edited,
    "message.revoked": _revoked,
    "poll.vote": _vote,
}
