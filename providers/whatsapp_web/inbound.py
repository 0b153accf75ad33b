"""Webhooks of WAHA: each holds one fact, which becomes one event, whichever engine sent it.

Source: https://waha.devlike.pro/docs/how-to/events, https://waha.devlike.pro/docs/how-to/receive-messages,
    and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Literal

import msgspec

from .. import _json
from .._events import type_of
from .._values import UNREADABLE, Object, Unreadable, bounded, mapping, moment, present, text, texts, word
from ..content import PollVote, UnknownContent, UnsupportedContent
from ..errors import Malformed
from ..messages import By, Contact, Event, EventType, Message
from . import receipts, updates
from .addresses import MessageId, bare_id, correlation_in, first_jid, is_group, jid, message_id, person, phone_of
from .content import content_of
from .context import around
from .delivery import Delivery, Reader, identity_of, key_of, people_of, poll_of
from .raw import change_in, is_protocol, is_waiting, raw_of

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
    identity, raw = identity_of(item), raw_of(item)
    if (change := change_in(raw)) is not None:
        # Of servers that have no event for it, or cannot decrypt it.
        return _edited(delivery) if change[0] == "edited" else _deleted(delivery, item, {}, None)
    if is_waiting(raw):
        return updates.waiting(delivery)
    if is_protocol(raw):
        details = present(message_id=identity.public, raw_type=raw.kind)
        # It may precede the message whose id it has: keys come with somebody's first one to a group.
        key = delivery.key("message.protocol", identity.bare)
        return delivery.update_of("protocol_message", item, key=key, details=details)
    content = content_of(raw)
    message = Message(provider_message_id=identity.public, content=content, **around(delivery, raw, identity))
    event = _message_event(delivery, item, type_of(content), message, "message")
    if identity.from_me and (correlation_id := correlation_in(identity.bare)) is not None:
        return msgspec.structs.replace(event, correlation_id=correlation_id)
    return event


def event_key(event: Event, identity: str) -> str | None:
    """The key of the event that a message came in with, which *event* calls *identity*; None for one of ours."""
    parts = message_id(identity)
    if parts is None or parts.from_me:
        return None
    return bounded("|".join((event.sender_id or "", "message", parts.bare)))


def _message_event(
    delivery: Delivery, item: Object, type_: EventType, message: Message, kind: str, *more: str
) -> Event:
    """An event of somebody who did something, which *item* describes; an echo where that was us.

    Its key is of *kind*, the message, and *more*. Stories and channels are no conversations: an account update.
    """
    identity = identity_of(item)
    key = delivery.key(kind, identity.bare, *more)
    if (place := _KINDS_OF_CHATS.get(identity.chat.rpartition("@")[2])) is not None:
        place = "status_broadcast" if identity.chat == "status@broadcast" else place
        details = present(message_id=identity.public, chat_id=identity.chat, text=text(item, "body") or None)
        author = person(first_jid(item.get("participant"), identity.raw_participant))
        return delivery.update_of(place, item, key=key, details=details, contact=author)
    if identity.from_me:
        source = _source(item)
        if type_ == "message.unknown" and source != "api":
            # Nobody is known to have written it. What a program sent is evidence of a lost send, whatever it is.
            message = msgspec.structs.replace(message, by="business")
        type_ = type_ if message.by is not None else "message.echo"
        message = msgspec.structs.replace(message, source=source)
    return delivery.event(
        type_,
        delivery.payload,
        key=key,
        at=item.get("timestamp"),
        **people_of(item, identity),
        reported_at=moment(delivery.time),
        message=message,
    )


_KINDS_OF_CHATS = {"newsletter": "newsletter", "broadcast": "broadcast"}


def _source(item: Object) -> Literal["app", "api"] | None:
    source = item.get("source")
    return source if source in ("app", "api") else None


def _reaction(delivery: Delivery) -> Event:
    item = delivery.item
    identity = identity_of(item)
    content = content_of(raw_of(item))
    message = Message(provider_message_id=identity.public, content=content)
    return _message_event(delivery, item, type_of(content), message, "message.reaction")


def _edited(delivery: Delivery) -> Event:
    item = delivery.item
    identity, raw = identity_of(item), raw_of(item)
    _, key = change_in(raw) or (None, {})
    named = word(item, "editedMessageId") or _bare(key)
    original = identity.of(named) if named else None
    content = content_of(raw)
    read = not isinstance(content, UnknownContent | UnsupportedContent)
    # WEBJS names the edit as the message, so that a second edit would be taken for the first; and an edit that could
    # not be read may come again with its words.
    distinct = original is not None and original.bare != identity.bare
    again = [] if distinct else [delivery.id or delivery.fact_key(item)]
    message = Message(
        provider_message_id=identity.public,
        content=content if read else None,
        original_message_id=original.public if original else None,
        by=_by(identity.from_me),
        **around(delivery, raw, identity),
    )
    return _message_event(
        delivery, item, "message.edited", message, "message.edited", *again, *([] if read else ["unread"])
    )


def _revoked(delivery: Delivery) -> Event:
    before, after = mapping(delivery.item, "before"), mapping(delivery.item, "after")
    return _deleted(delivery, after or before, before, word(delivery.item, "revokedMessageId"))


def _deleted(delivery: Delivery, item: Object, before: Object, named: str | None) -> Event:
    """The deletion *item*, of the message *named*, which was *before*, where the webhook says so."""
    identity, raw = identity_of(item), raw_of(item)
    _, key = change_in(raw) or (None, {})
    revoker = jid(raw.data.get("revokeSender"))  # not the author, where an admin of a group deletes
    named = named or _bare(key)
    original = key_of(before)
    if named is not None and (original is None or original.bare != bare_id(named)):
        original = _named_by(delivery, item, jid(key.get("participant")), named)
    if original is None and raw.kind == "revoked":
        # Of WEBJS the message itself has turned into its deletion.
        original = identity
    message = Message(
        provider_message_id=identity.public,
        original_message_id=original.public if original else None,
        by=_by(delivery.is_me(revoker) if revoker else identity.from_me),
    )
    return _message_event(delivery, item, "message.deleted", message, "message.revoked")


def _named_by(delivery: Delivery, item: Object, author: str | None, named: str) -> MessageId:
    """The message *named* that the deletion *item* is about: of the same person, unless it is another *author*'s."""
    identity, whose = identity_of(item), person(author)
    if whose is None or not is_group(identity.chat):
        return identity.of(named)
    who, mine = people_of(item, identity)["contact"] or Contact(), delivery.is_me(author)
    same = {who.phone, who.lid} & {whose.phone, whose.lid} - {None}
    if same or (mine and identity.from_me):
        return identity.of(named)
    return MessageId(mine, identity.raw_chat, named, author)


def _bare(key: Object) -> str | None:
    return word(key, "id") or word(key, "ID")


def _by(business: bool) -> By:
    return "business" if business else "contact"


def _vote(delivery: Delivery) -> Event:
    poll_id = poll_of(delivery.item)
    # Who votes may be in the engine's object alone.
    vote = {**mapping(delivery.item, "vote"), "_data": delivery.item.get("_data")}
    if poll_id is None:
        raise Unreadable("poll")
    identity, more = identity_of(vote), []
    content = PollVote(poll_id=poll_id, options=texts(vote, "selectedOptions"))
    message = Message(provider_message_id=identity.public, content=content)
    if identity.bare == bare_id(poll_id):
        # WPP has no id of the vote: it names the poll, which somebody else sent, in its place.
        message, more = Message(content=content), [delivery.id or delivery.fact_key(vote)]
        vote["id"] = msgspec.structs.replace(identity, from_me=vote.get("fromMe") is True).serialized
    return _message_event(delivery, vote, "message.received", message, delivery.field, *more)


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
