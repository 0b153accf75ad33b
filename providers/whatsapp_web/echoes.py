"""What comes back of a message, held against what was sent: where no id tells whose it is, its content does.

The engine may take a file anew, and the phone write a text a little differently, so what people see is compared.
"""

from typing import Any

from .._values import Object, mapping, safe_filename, text
from ..content import Audio, Contacts, Content, Document, Image, Location, MediaContent, Reaction, Sticker, Text, Video
from ..errors import SendError
from ..messages import MessageData, MessageResult
from .addresses import bare_id, chat_of, id_in
from .cards import card_of
from .content import content_of
from .outbound import call_of, result_of
from .raw import raw_of

# Below a metre: some engines write them as text, others round them.
_DEGREES = 1e-5
_KINDS: dict[str, tuple[type[MediaContent], ...]] = {
    "sendImage": (Image,),
    "sendVideo": (Video,),
    "sendVoice": (Audio,),
    "sendSticker": (Sticker, Image),
    "sendFile": (Document, Audio),
}


def is_echo(content: Content | None, sent: MessageData) -> bool:
    """Whether *content*, of a message in the chat of *sent* that came out of our account, is what *sent* says."""
    if isinstance(sent.content, Reaction):
        return isinstance(content, Reaction) and _same_reaction(content, sent.content)
    try:
        call, parts = call_of(sent, chat_of(sent.to))
    except SendError:  # it was never sent
        return False
    match content:
        case Text(body=body):
            said = {"sendText": parts.get("text"), "sendList": _words(mapping(parts, "message"))}.get(call)
            return said is not None and body.strip() == said.strip()
        case MediaContent():
            asked = sent.content
            return (
                isinstance(asked, MediaContent)
                and isinstance(content, _KINDS.get(call, ()))
                and _same_file(content, asked)
            )
        case Location():
            return call == "sendLocation" and all(
                abs(getattr(content, name) - parts[name]) < _DEGREES for name in ("latitude", "longitude")
            )
        case Contacts(contacts=cards):
            return call == "sendContactVcard" and list(map(_name, cards)) == list(map(_name_of, parts["contacts"]))
    return False


def _words(menu: Object) -> str | None:
    return text(menu, "description") or text(menu, "title")


def is_recognisable(sent: MessageData) -> bool:
    """Whether *sent* can be found among the messages of its chat, of which reactions are none."""
    return sent.created_at is not None and sent.lookalikes is not None and not isinstance(sent.content, Reaction)


def found_in(recent: list[Any], sent: MessageData) -> MessageResult | None:
    """*sent* among the messages of its chat, newest first: what a program sent since then, and none of our others."""
    if sent.lookalikes is None or sent.created_at is None:
        return None
    since = sent.created_at.replace(microsecond=0)  # phones count in seconds
    results = (result_of(one) for one in reversed(recent) if isinstance(one, dict) and _is_alike(one, sent))
    return sent.lookalikes.pick([one for one in results if one.timestamp is None or one.timestamp >= since])


def _is_alike(one: Object, sent: MessageData) -> bool:
    return one.get("source") == "api" and id_in(one) is not None and is_echo(content_of(raw_of(one)), sent)


def _same_reaction(seen: Reaction, sent: Reaction) -> bool:
    return (bare_id(seen.message_id), seen.emoji or "") == (bare_id(sent.message_id), sent.emoji or "")


def _same_file(seen: MediaContent, sent: MediaContent) -> bool:
    """By its caption, and the name and type of a document, as far as both say them."""
    if (seen.caption or "").strip() != (sent.caption or "").strip():
        return False
    return not isinstance(seen, Document) or (
        _agree(seen.filename, safe_filename(sent.filename)) and _agree(_bare(seen.mime_type), _bare(sent.mime_type))
    )


def _bare(mime_type: str | None) -> str | None:
    return mime_type.partition(";")[0].strip().lower() if mime_type else None


def _agree(seen: str | None, sent: str | None) -> bool:
    return seen is None or sent is None or seen == sent


def _name(card: Object) -> str | None:
    return text(mapping(card, "name"), "formatted_name")


def _name_of(contact: Object) -> str | None:
    """Of a card as the server takes it."""
    return _name(card_of(contact["vcard"])) if "vcard" in contact else text(contact, "fullName")
