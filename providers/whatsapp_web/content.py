"""What a message of WhatsApp Web says, in our words, whichever engine sent it.

WAHA's own fields come first; the raw object of the engine, ``_data``, is only looked at for what they leave out.

Source: https://waha.devlike.pro/docs/how-to/receive-messages, https://waha.devlike.pro/docs/how-to/events,
    and the webhooks in tests/samples/whatsapp_web.
"""

from functools import reduce
from typing import Literal

from .. import _json
from .._values import (
    UNREADABLE,
    Object,
    Unreadable,
    flag,
    mapping,
    objects,
    place,
    present,
    safe_filename,
    text,
    texts,
    word,
)
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
    Poll,
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
from .raw import Raw, is_written, spelled

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


def content_of(raw: Raw) -> Content:
    """The content of *raw*; `UnsupportedContent` where somebody wrote it and nothing of it can be read.

    `UnknownContent` is what is not readable, and what nobody is known to have written.
    """
    try:
        if (content := _content(raw)) is not None:
            return content
    except UNREADABLE:
        return UnknownContent(raw_type=raw.kind or "")
    return UnsupportedContent(kind=raw.kind) if is_written(raw.kind) else UnknownContent(raw_type=raw.kind or "")


def _content(raw: Raw) -> Content | None:
    payload = raw.payload
    if reaction := mapping(payload, "reaction") or mapping(raw.said, "reactionMessage"):
        return _reaction(reaction)
    if location := _location_in(raw):
        # The body of a place is a picture in base64.
        return _location(location)
    if vcards := _vcards_in(raw):
        return Contacts(contacts=[card_of(vcard) for vcard in vcards])
    if poll := _poll(raw):
        return poll
    if payload.get("hasMedia") is True or raw.kind in _MEDIA or not _MEDIA.keys().isdisjoint(raw.said):
        return _medium(raw)
    body = text(payload, "body") or _words_in(raw.said)
    return _reply(raw, body) or (Text(body=body) if body else None)


# Where the words are that WAHA leaves out of the body, as those of other businesses' templates.
_WORDS = (
    ("conversation",),
    ("extendedTextMessage", "text"),
    ("templateMessage", "hydratedTemplate", "hydratedContentText"),
    ("interactiveMessage", "body", "text"),
    ("buttonsMessage", "contentText"),
    ("listMessage", "description"),
    ("listMessage", "title"),
)


def _words_in(message: Object) -> str | None:
    for *path, name in _WORDS:
        if words := text(reduce(mapping, path, message), name):
            return words
    return None


def _reaction(reaction: Object) -> Content:
    """In a field of its own, or, from some versions of NOWEB, as a message with the key of the other."""
    target = word(reaction, "messageId") or id_in(reaction)
    if target is None:
        raise Unreadable("reaction")
    return Reaction(message_id=public_id(target), emoji=text(reaction, "text") or None)


def _option(option: Object) -> str | None:
    return text(option, "optionName") or text(option, "name")


def _poll(raw: Raw) -> Poll | None:
    data = raw.data
    found = next((mapping(raw.said, key) for key in raw.said if key.startswith("pollCreationMessage")), {})
    if not found and text(data, "pollName") is None:
        return None
    options = objects(found, "options") or objects(data, "pollOptions")
    return Poll(
        question=text(found, "name") or text(data, "pollName") or "",
        options=list(filter(None, map(_option, options))),
    )


# ---------------------------------------------------------------- places and cards


def _location_in(raw: Raw) -> Object:
    """WAHA's own field, or what NOWEB (until 2025.11) and WPP have in its place."""
    data = raw.data
    if location := mapping(raw.payload, "location"):
        return location
    if place := mapping(raw.said, "locationMessage") or mapping(raw.said, "liveLocationMessage"):
        return {**place, "latitude": place.get("degreesLatitude"), "longitude": place.get("degreesLongitude")}
    if data.get("type") == "location":
        return {"latitude": data.get("lat"), "longitude": data.get("lng"), "description": data.get("loc")}
    return {}


def _location(location: Object) -> Content:
    labels = {name: text(location, name) or None for name in ("name", "address", "url")}
    if labels["name"] is None and labels["address"] is None:
        # WhatsApp Web writes both as one: the name, and the address below it.
        name, _, address = (text(location, "description") or "").partition("\n")
        labels |= {"name": name or None, "address": address or None}
    latitude, longitude = place(location, "latitude", "longitude")
    return Location(latitude=latitude, longitude=longitude, **labels)


def _vcards_in(raw: Raw) -> list[str]:
    if vcards := texts(raw.payload, "vCards"):
        return vcards
    cards = objects(mapping(raw.said, "contactsArrayMessage"), "contacts") or objects(raw.data, "vcardList")
    cards = cards or [mapping(raw.said, "contactMessage")]
    found = [vcard for card in cards if (vcard := text(card, "vcard"))]
    return [*filter(None, texts(raw.payload, "body"))] if raw.kind == "vcard" else found


# ---------------------------------------------------------------- media


def _medium(raw: Raw) -> Content:
    media = mapping(raw.payload, "media")
    theirs = next((mapping(raw.said, key) for key in raw.said if key in _MEDIA), raw.data)
    # The address is the id: where the file is to be fetched depends on the configuration.
    file = present(id=text(media, "url") or None, mime_type=text(media, "mimetype"))
    # In WEBJS the body of what cannot be fetched is a preview of it in base64.
    body = text(raw.payload, "body")
    is_preview = raw.payload.get("hasMedia") is not True and body == text(raw.data, "body")
    caption = (None if is_preview else body) or text(theirs, "caption") or None
    match _media_kind(raw, file.get("mime_type", "")):
        case "image":
            return Image(**file, caption=caption)
        case "video":
            return Video(**file, caption=caption)
        case "voice":
            return Audio(**file, voice=True)
        case "audio":
            return Audio(**file)
        case "sticker":
            return Sticker(**file, animated=flag(theirs, "isAnimated"))
        case "document":
            name = text(media, "filename") or text(theirs, "fileName") or text(theirs, "filename")
            # WhatsApp Web writes the name where there is no caption.
            return Document(**file, filename=safe_filename(name), caption=None if caption == name else caption)


def _media_kind(raw: Raw, mime_type: str) -> MediaKind:
    words = [*raw.said, text(raw.data, "type"), text(mapping(raw.data, "Info"), "MediaType")]
    kinds = [*(_MEDIA[kind] for kind in words if kind in _MEDIA), _by_mime_type(mime_type)]
    if kinds[0] != "audio":
        return kinds[0]
    return "voice" if _is_voice(mapping(raw.said, "audioMessage"), kinds) else "audio"


def _is_voice(audio: Object, kinds: list[MediaKind]) -> bool:
    spoken = flag(audio, "PTT" if "PTT" in audio else "ptt")
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
    holder = error if isinstance(error, dict) else {"message": error}
    # What follows the first line is a trace with the server's paths.
    title, detail = (_first_line(text(holder, name)) for name in ("message", "details"))
    return [ErrorInfo(title=title, detail=detail)] if title or detail else []


def _first_line(written: str | None) -> str | None:
    return written.split("\n", 1)[0].strip() or None if written else None


# ---------------------------------------------------------------- what was tapped


def _reply(raw: Raw, body: str | None) -> Content | None:
    message, data = raw.said, raw.data
    if template := mapping(message, "templateButtonReplyMessage"):
        return _button(template, "selectedId", body, "template")
    if button := mapping(message, "buttonsResponseMessage"):
        return _button(button, "selectedButtonId", body, "interactive")
    if choice := mapping(message, "listResponseMessage") or mapping(data, "listResponse"):
        return _choice(choice, body)
    if answer := mapping(message, "interactiveResponseMessage"):
        return _flow(answer, body)
    if word(data, "selectedButtonId"):
        return _button(data, "selectedButtonId", body, "interactive")
    if word(data, "selectedId"):
        return _button(data, "selectedId", body, "template")
    return None


def _button(button: Object, key: str, body: str | None, source: Literal["template", "interactive"]) -> Content:
    identity = spelled(button, key)
    title = text(button, "selectedDisplayText") or text(mapping(button, "Response"), "SelectedDisplayText")
    title = title or body or identity or ""
    return ButtonReply(id=identity or title, title=title, source=source)


def _choice(choice: Object, body: str | None) -> Content:
    title = text(choice, "title") or body or ""
    identity = spelled(mapping(choice, "singleSelectReply"), "selectedRowId") or title
    return ListReply(id=identity, title=title, description=text(choice, "description") or None)


def _flow(answer: Object, body: str | None) -> Content | None:
    """The answer to a flow, or the tap on a newer kind of button: that has an id."""
    native = mapping(mapping(answer, "InteractiveResponseMessage"), "NativeFlowResponseMessage")  # GOWS
    flow = mapping(answer, "nativeFlowResponseMessage") or native
    if not flow:
        return None
    body = text(mapping(answer, "body"), "text") or body
    written = text(flow, "paramsJson") or text(flow, "paramsJSON") or ""
    data = _json.object_in(written)
    identity = word(data or {}, "id")
    if identity is not None:
        return ButtonReply(id=identity, title=body or identity, source="interactive")
    return FlowReply(raw=written, name=text(flow, "name"), body=body, data=data)
