"""What stands around a message of WhatsApp Web: what it quotes, whom it mentions, the ad that it answers, forwarding.

WAHA passes the quoted message on; all else is in the engine's raw object only.

Source: https://github.com/WhiskeySockets/Baileys/blob/master/WAProto/WAProto.proto (message ContextInfo),
    and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Any

from .._values import Object, flag, listed, mapping, present, text, word
from ..content import (
    ButtonReply,
    Content,
    FlowReply,
    ListReply,
    MediaContent,
    Poll,
    Text,
    UnknownContent,
    UnsupportedContent,
)
from ..messages import Contact, ReplyTo
from .addresses import MessageId, is_group, jid, message_id, person, public_id
from .content import content_of, media_errors
from .delivery import Delivery
from .raw import Raw, raw_of, spelled

# WhatsApp labels a message "forwarded many times" from its fifth forward on.
_MANY_FORWARDS = 5


def around(delivery: Delivery, raw: Raw, identity: MessageId) -> Object:
    """The fields of a `Message` that are not what *raw*, whose id is *identity*, says itself."""
    contexts = raw.contexts
    forwarded, frequently = _forwarding(raw, contexts)
    return {
        "reply_to": _quoted(delivery, raw, contexts, identity),
        "mentions": _mentions(raw, contexts),
        "forwarded": forwarded,
        "frequently_forwarded": frequently,
        "referral": _referral(raw, contexts),
        "errors": media_errors(raw.payload),
    }


def _forwarding(raw: Raw, contexts: list[Object]) -> tuple[bool | None, bool | None]:
    """Whether the message was forwarded, and many times; None where nothing says so."""
    holders = [raw.data, *contexts]
    forwarded = any(flag(holder, "isForwarded") for holder in holders)
    frequently = any(_is_frequent(holder.get("forwardingScore")) for holder in holders)
    return forwarded or frequently or None, frequently or None


def _is_frequent(score: Any) -> bool:
    return isinstance(score, int) and score >= _MANY_FORWARDS


def _mentions(raw: Raw, contexts: list[Object]) -> list[Contact]:
    """Who is named in the text, each once."""
    holders = [raw.payload, raw.data, *contexts]
    found = dict.fromkeys(jid(one) for holder in holders for name in _MENTIONED for one in listed(holder, name))
    return [contact for address in found if (contact := person(address)) is not None]


_MENTIONED = ("mentionedJid", "mentionedJID", "mentionedJidList")


# ---------------------------------------------------------------- ads

_REFERRAL = {
    "sourceUrl": "source_url",
    "sourceType": "source_type",
    "sourceId": "source_id",
    "title": "headline",
    "body": "body",
    "description": "body",
    "thumbnailUrl": "thumbnail_url",
    "originalImageUrl": "image_url",
    "mediaUrl": "media_url",
    "ctwaClid": "ctwa_clid",
}
_MEDIA_TYPES = {1: "image", "IMAGE": "image", 2: "video", "VIDEO": "video"}
# A card with a title and a picture is a link's preview: these make it an ad, or a post.
_OF_AN_AD = ("source_url", "source_type", "source_id", "ctwa_clid")


def _referral(raw: Raw, contexts: list[Object]) -> Object | None:
    """The ad or post the person came from, in the words that Meta and Twilio have for it."""
    cards = [mapping(raw.data, "ctwaContext"), *(mapping(context, "externalAdReply") for context in contexts)]
    for card in filter(None, cards):
        found = {ours: value for theirs, ours in _REFERRAL.items() if (value := spelled(card, theirs))}
        if not found.keys().isdisjoint(_OF_AN_AD):
            return _with_card(found, card)
    return None


def _with_card(found: Object, card: Object) -> Object:
    kind, greeting = card.get("mediaType"), text(card, "greetingMessageBody")
    media_type = _MEDIA_TYPES.get(kind) if isinstance(kind, int | str) else None
    return present(**found, media_type=media_type, welcome_message={"text": greeting} if greeting else None)


# ---------------------------------------------------------------- quotations


def _quoted(delivery: Delivery, raw: Raw, contexts: list[Object], identity: MessageId) -> ReplyTo | None:
    """The message that *raw* answers."""
    given = _quotation(raw, contexts)
    if not given:
        return None
    author = jid(given.get("participant"))
    found = ReplyTo(
        id=_quoted_id(delivery, word(given, "id"), author, identity),
        author=person(author),
        **_said(given),
    )
    return None if found == ReplyTo() else found


def _quotation(raw: Raw, contexts: list[Object]) -> Object:
    """WAHA's own field, completed from where the engine has it: in groups WEBJS leaves out the id."""
    found: Object = {}
    if (identity := word(raw.data, "quotedStanzaID")) is not None:
        found = {"id": identity, "participant": raw.data.get("quotedParticipant")}
    for context in contexts:
        if (identity := spelled(context, "stanzaId")) is not None:
            quoted = {"message": mapping(context, "quotedMessage")}
            found = {"id": identity, "participant": context.get("participant"), "_data": quoted}
    given = mapping(raw.payload, "replyTo")
    if theirs := mapping(given, "_data"):
        # Of WEBJS and WPP it is an object as `_data` itself is, of the others the protocol's message.
        given = {**given, "_data": theirs if "type" in theirs or "id" in theirs else {"message": theirs}}
    return found | {key: value for key, value in given.items() if value not in (None, "", {})}


def _quoted_id(delivery: Delivery, named: str | None, author: str | None, identity: MessageId) -> str | None:
    """The one id of the quoted message: some engines name it by its bare id, beside who wrote it."""
    if named is None:
        return None
    if message_id(named) is not None or author is None or delivery.is_me(author):
        return public_id(named)
    participant = author if is_group(identity.chat) else None
    return MessageId(False, identity.raw_chat, named, participant).public


def _said(given: Object) -> Object:
    """What the quoted message says: its words, and of what kind its content is, where there is more than words."""
    content = content_of(raw_of(given))
    known = not isinstance(content, UnknownContent | UnsupportedContent) and not given.keys().isdisjoint(_KINDS)
    return present(text=_words(content), type=content.__struct_config__.tag if known else None)


_KINDS = ("_data", "hasMedia")


def _words(content: Content) -> str | None:
    match content:
        case Text(body=words) | FlowReply(body=words) | MediaContent(caption=words) | Poll(question=words):
            return words
        case ButtonReply(title=words) | ListReply(title=words):
            return words
    return None
