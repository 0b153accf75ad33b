"""What a message of WhatsApp Web says, in our words, whichever engine sent it.

WAHA's own fields come first; the raw object of the engine, ``_data``, is only looked at for what they leave out.

Source: https://waha.devlike.pro/docs/how-to/receive-messages, https://waha.devlike.pro/docs/how-to/events,
    and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Any, Literal

from .. import _json
from .._values import UNREADABLE, Object, Unreadable, flag, mapping, place, present, safe_filename, text, texts, word
from ..content import (
    Audio,
    ButtonReply,
    Contacts,
    Content,
    Document,
    FlowReply,
    Image,
    ListReply,
    Location,
    Reaction,
    Sticker,
    Text,
    UnknownContent,
    UnsupportedContent,
    Video,
)
from ..messages import ErrorInfo
from .addresses import id_in, public_id
from .cards import card_of

MediaKind = Literal["image", "video", "voice", "audio", "document", "sticker"]

# The words of the engines on the left: WEBJS's `type`, the protocol's field of NOWEB and GOWS.
_MEDIA: dict[str, MediaKind] = {
    "image": "image",
    "imageMessage": "image",
    "video": "video",
    "gif": "video",
    "ptv": "video",
    "videoMessage": "video",
    "ptvMessage": "video",
    "ptt": "voice",
    "audio": "audio",
    "audioMessage": "audio",
    "document": "document",
    "documentMessage": "document",
    "sticker": "sticker",
    "stickerMessage": "sticker",
    "lottieStickerMessage": "sticker",
}
# What the protocol wraps a message in.
_WRAPPERS = (
    "ephemeralMessage",
    "viewOnceMessage",
    "viewOnceMessageV2",
    "viewOnceMessageV2Extension",
    "documentWithCaptionMessage",
    "editedMessage",
    "deviceSentMessage",
)
# Keys beside a message that are no content.
_BESIDE = {"messageContextInfo", "senderKeyDistributionMessage"}
# What clients exchange among themselves, which nobody wrote.
_PROTOCOL = {
    "protocolMessage",
    "senderKeyDistributionMessage",
    "encReactionMessage",
    "keepInChatMessage",
    "ciphertext",
    "e2e_notification",
    "notification",
    "notification_template",
    "protocol",
    "gp2",
    "call_log",
}
# WhatsApp labels a message "forwarded many times" from its fifth forward on.
_MANY_FORWARDS = 5


def proto(payload: Object) -> Object:
    """The protocol's message of NOWEB and GOWS, out of what it is wrapped in; empty for WEBJS."""
    data = mapping(payload, "_data")
    message = mapping(data, "message") or mapping(data, "Message")
    for _ in _WRAPPERS:
        inner = next((mapping(mapping(message, key), "message") for key in _WRAPPERS if key in message), {})
        if not inner:
            break
        message = inner
    return message


def raw_type(payload: Object) -> str | None:
    """The engine's own word for the kind of *payload*."""
    keys = list(proto(payload))
    kinds = [key for key in keys if key not in _BESIDE] or keys
    return kinds[0] if kinds else text(mapping(payload, "_data"), "type")


def is_protocol(payload: Object) -> bool:
    """Whether nobody wrote this: keys, receipts, notices of the clients among themselves."""
    return raw_type(payload) in _PROTOCOL and not payload.get("body") and payload.get("hasMedia") is not True


def content_of(payload: Object) -> Content:
    """The content of *payload*; `UnknownContent` where it is not readable, `UnsupportedContent` where it is new."""
    kind = raw_type(payload)
    try:
        return _content(payload) or UnsupportedContent(kind=kind)
    except UNREADABLE:
        return UnknownContent(raw_type=kind or "")


def _content(payload: Object) -> Content | None:
    message = proto(payload)
    if reaction := mapping(payload, "reaction") or mapping(message, "reactionMessage"):
        return _reaction(reaction)
    if location := mapping(payload, "location"):
        # The body of a place is a picture in base64.
        return _location(location)
    if vcards := texts(payload, "vCards"):
        return Contacts(contacts=[card_of(vcard) for vcard in vcards])
    if payload.get("hasMedia") is True:
        return _medium(payload)
    return _words(payload, message)


def _words(payload: Object, message: Object) -> Content | None:
    body = text(payload, "body")
    return _reply(message, mapping(payload, "_data"), body) or (Text(body=body) if body else None)


def _reaction(reaction: Object) -> Content:
    """In a field of its own, or, from some versions of NOWEB, as a message with the key of the other."""
    target = word(reaction, "messageId") or id_in(reaction)
    if target is None:
        raise Unreadable("reaction")
    return Reaction(message_id=public_id(target), emoji=text(reaction, "text") or None)


def _location(location: Object) -> Content:
    labels = {name: text(location, name) or None for name in ("name", "address", "url")}
    latitude, longitude = place(location, "latitude", "longitude")
    return Location(latitude=latitude, longitude=longitude, **labels)


# ---------------------------------------------------------------- media


def _medium(payload: Object) -> Content:
    media = mapping(payload, "media")
    # The address is the id: where the file is to be fetched depends on the configuration.
    file = present(id=text(media, "url") or None, mime_type=text(media, "mimetype"))
    caption = text(payload, "body") or None
    match _media_kind(payload, file.get("mime_type", "")):
        case "image":
            return Image(**file, caption=caption)
        case "video":
            return Video(**file, caption=caption)
        case "voice":
            return Audio(**file, voice=True)
        case "audio":
            return Audio(**file)
        case "sticker":
            return Sticker(**file, animated=flag(mapping(proto(payload), "stickerMessage"), "isAnimated"))
        case "document":
            return Document(**file, filename=safe_filename(text(media, "filename")), caption=caption)


def _media_kind(payload: Object, mime_type: str) -> MediaKind:
    message, data = proto(payload), mapping(payload, "_data")
    words = [*message, text(data, "type"), text(mapping(data, "Info"), "MediaType")]
    kinds = [*(_MEDIA[kind] for kind in words if kind in _MEDIA), _by_mime_type(mime_type)]
    if kinds[0] != "audio":
        return kinds[0]
    return "voice" if _is_voice(message, kinds) else "audio"


def _is_voice(message: Object, kinds: list[MediaKind]) -> bool:
    spoken = flag(mapping(message, "audioMessage"), "ptt")
    return "voice" in kinds if spoken is None else spoken


def _by_mime_type(mime_type: str) -> MediaKind:
    top, _, rest = mime_type.lower().partition("/")
    if top == "audio":
        return "voice" if rest.startswith("ogg") and "opus" in rest else "audio"
    # A sticker is an image/webp with a mark; without the mark it is an image.
    return "image" if top == "image" else "video" if top == "video" else "document"


def media_errors(payload: Object) -> list[ErrorInfo]:
    """Why WAHA has no file, where it tried to fetch one. There is no use in trying again."""
    error = mapping(payload, "media").get("error")
    if isinstance(error, dict):
        return [ErrorInfo(title=text(error, "message"), detail=text(error, "details"))]
    return [ErrorInfo(title=error)] if isinstance(error, str) and error else []


# ---------------------------------------------------------------- what was tapped


def _reply(message: Object, data: Object, body: str | None) -> Content | None:
    if template := mapping(message, "templateButtonReplyMessage"):
        return _button(template, "selectedId", body, "template")
    if button := mapping(message, "buttonsResponseMessage"):
        return _button(button, "selectedButtonId", body, "interactive")
    if choice := mapping(message, "listResponseMessage") or mapping(data, "listResponse"):
        return _choice(choice, body)
    if flow := mapping(mapping(message, "interactiveResponseMessage"), "nativeFlowResponseMessage"):
        return _flow(flow, body)
    if word(data, "selectedButtonId"):
        return _button(data, "selectedButtonId", body, "interactive")
    return None


def _button(button: Object, key: str, body: str | None, source: Literal["template", "interactive"]) -> Content:
    # GOWS writes the protocol's names in its own way: selectedID.
    identity = word(button, key) or word(button, f"{key[:-2]}ID")
    title = text(button, "selectedDisplayText") or body or identity or ""
    return ButtonReply(id=identity or title, title=title, source=source)


def _choice(choice: Object, body: str | None) -> Content:
    chosen = mapping(choice, "singleSelectReply")
    title = text(choice, "title") or body or ""
    identity = word(chosen, "selectedRowId") or word(chosen, "selectedRowID") or title
    return ListReply(id=identity, title=title, description=text(choice, "description") or None)


def _flow(flow: Object, body: str | None) -> Content:
    """The answer to a flow, or the tap on a newer kind of button: that has an id."""
    written = text(flow, "paramsJson") or text(flow, "paramsJSON") or ""
    data = _json.object_in(written)
    identity = word(data or {}, "id")
    if identity is not None:
        return ButtonReply(id=identity, title=body or identity, source="interactive")
    return FlowReply(raw=written, name=text(flow, "name"), body=body, data=data)


# ---------------------------------------------------------------- about the message


def forwarding(payload: Object) -> tuple[bool | None, bool | None]:
    """Whether the message was forwarded, and many times; None where nothing says so."""
    message = proto(payload)
    holders = [mapping(payload, "_data"), *(mapping(mapping(message, key), "contextInfo") for key in message)]
    forwarded = any(flag(holder, "isForwarded") for holder in holders)
    frequently = any(_is_frequent(holder.get("forwardingScore")) for holder in holders)
    return forwarded or frequently or None, frequently or None


def _is_frequent(score: Any) -> bool:
    return isinstance(score, int) and score >= _MANY_FORWARDS
