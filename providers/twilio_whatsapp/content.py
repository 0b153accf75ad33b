"""What a WhatsApp message says that came through Twilio, in our words.

Source: https://www.twilio.com/docs/messaging/guides/webhook-request,
    https://www.twilio.com/docs/whatsapp/buttons, https://www.twilio.com/docs/whatsapp/api.
"""

import re

from .. import _json
from .._values import UNREADABLE, Object, place, present
from ..content import (
    Audio,
    ButtonReply,
    Contacts,
    Content,
    Document,
    File,
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
from ..errors import Malformed, Rejected
from .form import essence

Fields = dict[str, str]  # parameters by name, blank ones left out

_CARDS = ("text/vcard", "text/x-vcard")
_MEDIA_URL = re.compile(r"/Messages/([A-Za-z0-9]{1,64})/Media/([A-Za-z0-9]{1,64})(?![\s\S])")
_MEDIA_ID = re.compile(r"([A-Za-z0-9]{1,64})\.([A-Za-z0-9]{1,64})")
_MEDIA: dict[str, type[Image | Video | Audio | Document]] = {"image": Image, "video": Video, "audio": Audio}


def _place(fields: Fields) -> Content:
    try:
        return _location(fields)
    except UNREADABLE:
        return UnknownContent(raw_type="location")


def content_of(fields: Fields) -> Content:
    """The content of a message. `MessageType` is a hint only, so what is there decides, in this order.

    A tap repeats its label in `Body`, and so does a place its name; nothing usable is `UnsupportedContent`, and of a
    type that nobody is known to write `UnknownContent`.
    """
    if (flow := first(fields, "InteractiveData", "FlowData")) is not None:
        return FlowReply(raw=flow, body=fields.get("Body"), data=object_in(flow))
    if "ListId" in fields or "ListTitle" in fields:
        return _list_reply(fields)
    if "ButtonText" in fields or "ButtonPayload" in fields:
        return _button_reply(fields)
    if "Latitude" in fields and "Longitude" in fields:
        return _place(fields)
    if "MediaUrl0" in fields:
        return _medium(fields)
    return _words(fields)


# What somebody writes, where nothing of it is in the form. The list is closed: what is not on it is unknown.
_WRITTEN = {
    *(None, "audio", "button", "contacts", "document", "event", "flow", "group_invite", "image", "interactive", "list"),
    *("location", "order", "poll", "poll_creation", "product", "sticker", "text", "unsupported", "video"),
}


def first(fields: Fields, *names: str) -> str | None:
    """The first of these parameters that is there."""
    return next((fields[name] for name in names if name in fields), None)


def media_path(media_id: str) -> str:
    """The path of a medium under its account, from the id or the url that `content_of` gave it; or `Rejected`.

    Of a url only the two SIDs count: it came out of a body.
    """
    match = _MEDIA_ID.fullmatch(media_id) or _MEDIA_ID.fullmatch(_media_id(media_id) or "")
    if match is None:
        raise Rejected("this is not the id or the URL of a medium at Twilio", code="media_id", scope="media")
    return f"/Messages/{match[1]}/Media/{match[2]}"


def _words(fields: Fields) -> Content:
    kind, body = fields.get("MessageType"), fields.get("Body")
    target = fields.get("OriginalRepliedMessageSid")
    if kind == "reaction" and target is not None:
        return Reaction(message_id=target, emoji=body)
    if body is not None:
        return Text(body=body)
    return UnsupportedContent(kind=kind) if kind in _WRITTEN else UnknownContent(raw_type=kind or "")


def _list_reply(fields: Fields) -> Content:
    title = fields.get("ListTitle") or fields.get("Body") or fields["ListId"]
    return ListReply(id=fields.get("ListId") or title, title=title, description=fields.get("ListDescription"))


def _button_reply(fields: Fields) -> Content:
    """The payload is the label where the template has none."""
    title = fields.get("ButtonText") or fields.get("Body") or fields["ButtonPayload"]
    return ButtonReply(
        id=fields.get("ButtonPayload") or title,
        title=title,
        source="interactive" if fields.get("MessageType") == "interactive" else "template",
    )


def _location(fields: Fields) -> Content:
    latitude, longitude = place(fields, "Latitude", "Longitude")
    return Location(latitude=latitude, longitude=longitude, name=fields.get("Label"), address=fields.get("Address"))


def more_media(fields: Fields) -> list[File]:
    """The files after the first, which is the content. WhatsApp sends one a message; a form has room for ten."""
    return [_medium(fields, index) for index in range(1, 10) if f"MediaUrl{index}" in fields]


def _medium(fields: Fields, index: int = 0) -> File:
    url, mime_type = fields[f"MediaUrl{index}"], fields.get(f"MediaContentType{index}")
    caption = fields.get("Body") if index == 0 else None
    file = present(id=_media_id(url), url=url, mime_type=mime_type)
    kind = essence(mime_type or "")
    if kind in _CARDS:
        # The card is in the file; Twilio does not read it out.
        return Contacts(contacts=[file])
    if kind == "image/webp" and (caption is None or fields.get("MessageType") == "sticker"):
        return Sticker(**file)
    # What came without a type is a document until it is downloaded.
    read = _MEDIA.get(kind.partition("/")[0], Document)
    return read(**file, caption=caption)


def _media_id(url: str) -> str | None:
    """`<message SID>.<media SID>`, where *url* is of Twilio's own form."""
    match = _MEDIA_URL.search(url)
    return f"{match[1]}.{match[2]}" if match else None


def object_in(written: str) -> Object | None:
    """The object in *written*, which may be encoded twice."""
    try:
        data = _json.read(written.encode())
    except Malformed:
        return None
    return _json.object_in(data) if isinstance(data, str) else data if isinstance(data, dict) else None


_REFERRAL = {
    "ReferralSourceUrl": "source_url",
    "ReferralSourceType": "source_type",
    "ReferralSourceId": "source_id",
    "ReferralHeadline": "headline",
    "ReferralBody": "body",
    "ReferralMediaId": "media_id",
    "ReferralMediaContentType": "media_content_type",
    "ReferralMediaUrl": "media_url",
    "ReferralCtwaClid": "ctwa_clid",
}


def referral_of(fields: Fields) -> Object | None:
    """The ad or post the person came from. `ReferralNumMedia` comes without one, too."""
    return {ours: fields[theirs] for theirs, ours in _REFERRAL.items() if theirs in fields} or None
