"""Webhooks of WAHA: each holds one fact, which becomes one event, whichever engine sent it.

Source: https://waha.devlike.pro/docs/how-to/events, https://waha.devlike.pro/docs/how-to/receive-messages,
    and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Any, Literal

import msgspec

from .. import _json
from .._values import UNREADABLE, Object, Unreadable, mapping, moment, present, text, texts, word
from ..content import Content, PollVote, UnknownContent
from ..errors import Malformed
from ..messages import Event, EventType, Message
from . import receipts, updates
from .addresses import MessageId, correlation_in, id_in, is_group, jid, message_id, person, phone_in, public_id
from .content import content_of, forwarding, is_protocol, media_errors, raw_type
from .delivery import Delivery, Reader, identity_of, people_of

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
        sender=phone_in(jid(me.get("id"))) or own_phone,
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
    key = delivery.key("message", identity.bare)
    if aside := _not_of_a_conversation(item, identity):
        return delivery.update(item=delivery.payload, key=key, at=item.get("timestamp"), **aside)
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
    event = _message_event(delivery, item, _type_of(content), message, key)
    if identity.from_me and (correlation_id := correlation_in(identity.bare)) is not None:
        return msgspec.structs.replace(event, correlation_id=correlation_id)
    return event


def _type_of(content: Content) -> EventType:
    return "message.unknown" if isinstance(content, UnknownContent) else "message.received"


def _not_of_a_conversation(item: Object, identity: MessageId) -> dict[str, Any] | None:
    """What the account update of a story, a newsletter or a message among clients has; None for all others."""
    if kind := _kind_of_chat(identity.chat):
        details = present(message_id=identity.public, chat_id=identity.chat, text=text(item, "body") or None)
        author = person(jid(item.get("participant")) or jid(identity.raw_participant))
        return {"kind": kind, "details": details, "contact": author}
    if is_protocol(item):
        details = present(message_id=identity.public, raw_type=raw_type(item))
        return {"kind": "protocol_message", "details": details}
    return None


def _message_event(delivery: Delivery, item: Object, type_: EventType, message: Message, key: str) -> Event:
    """An event of somebody who did something, which *item* describes; an echo where that was us."""
    identity = identity_of(item)
    if identity.from_me:
        type_, message = "message.echo", msgspec.structs.replace(message, source=_source(item))
    return delivery.event(
        type_,
        delivery.payload,
        key=key,
        at=item.get("timestamp"),
        **people_of(item, identity),
        reported_at=moment(delivery.time),
        message=message,
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
    identity = identity_of(item)
    content = content_of(item)
    message = Message(provider_message_id=identity.public, content=content)
    key = delivery.key("message.reaction", identity.bare)
    return _message_event(delivery, item, _type_of(content), message, key)


def _edited(delivery: Delivery) -> Event:
    item = delivery.item
    identity = identity_of(item)
    original = word(item, "editedMessageId") or identity.bare
    key = delivery.key("message.edited", identity.bare)
    if original == identity.bare:
        # WEBJS names the edit as the message, so that a second edit would be taken for the first.
        key = delivery.key("message.edited", identity.bare, delivery.id or delivery.fact_key(item))
    message = Message(
        provider_message_id=identity.public,
        content=content_of(item),
        original_message_id=identity.of(_bare(original)).public,
    )
    return _message_event(delivery, item, "message.edited", message, key)


def _revoked(delivery: Delivery) -> Event:
    payload = delivery.item
    item = mapping(payload, "after") or mapping(payload, "before")
    identity = identity_of(item)
    before = id_in(mapping(payload, "before"))
    original = word(payload, "revokedMessageId") or _revoked_key(item) or before or identity.bare
    known = message_id(before)
    same_author = known if known and known.bare == _bare(original) else identity.of(_bare(original))
    message = Message(provider_message_id=identity.public, original_message_id=same_author.public)
    return _message_event(delivery, item, "message.deleted", message, delivery.key("message.revoked", identity.bare))


def _revoked_key(item: Object) -> str | None:
    """The id of the revoked message, where old servers have it."""
    message = mapping(mapping(item, "_data"), "message") or mapping(mapping(item, "_data"), "Message")
    return word(mapping(mapping(message, "protocolMessage"), "key"), "id")


def _bare(identity: str) -> str:
    parts = message_id(identity)
    return identity if parts is None else parts.bare


def _vote(delivery: Delivery) -> Event:
    vote, poll = mapping(delivery.item, "vote"), mapping(delivery.item, "poll")
    identity = identity_of(vote)
    polled = id_in(poll)
    if polled is None:
        raise Unreadable("poll")
    key = delivery.key(delivery.field, identity.bare)
    message = Message(
        provider_message_id=identity.public,
        content=PollVote(poll_id=public_id(polled), options=texts(vote, "selectedOptions")),
    )
    return _message_event(delivery, vote, "message.received", message, key)


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
