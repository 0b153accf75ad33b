"""Messages to WAHA, and what it answers.

Source: https://waha.devlike.pro/docs/how-to/send-messages.
"""

import re
from typing import Literal
from urllib.parse import urlsplit

from .._values import Object, moment, present
from .._verdicts import unsupported, unsupported_kind
from ..base import Response
from ..content import (
    Audio,
    Button,
    Buttons,
    Contacts,
    Document,
    Image,
    Interactive,
    ListMenu,
    Location,
    MediaContent,
    Reaction,
    Sticker,
    Template,
    Text,
    Video,
)
from ..errors import Rejected
from ..limits import OPUS, named
from ..messages import MessageData, MessageResult
from .addresses import chat_of, chosen_id, id_in, is_group, message_id, normalized, person, serialized_id
from .cards import contact_of
from .errors import answered_object, send_error

Method = Literal["POST", "PUT"]

# Calls that take an id of ours; what is sent by the others is known by their answer alone.
_WITH_ID = ("sendText", "sendLocation", "sendContactVcard")
_MENTION = re.compile(r"(?<!\w)@([1-9][0-9]{6,14})\b")
_LINK = re.compile(r"\bhttps?://", re.IGNORECASE)

# WAHA wants a type; the suffix decides where none is given.
_MIME_TYPES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "mp4": "video/mp4",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "ogg": OPUS,
    "oga": OPUS,
    "opus": OPUS,
    "pdf": "application/pdf",
}
_USUAL_MIME_TYPES = {Image: "image/jpeg", Video: "video/mp4", Audio: "audio/mpeg", Sticker: "image/webp"}


def message_request(message: MessageData, *, session: str, own_phone: str | None) -> tuple[Method, str, Object]:
    """Method, path under the server's address, and body of the call that sends *message*.

    Raises `Unsupported` for what WhatsApp Web cannot express and `Rejected` for what it surely refuses.
    """
    chat = chat_of(message.to)
    if isinstance(message.content, Reaction):
        return "PUT", "api/reaction", _reaction(message.content, session, chat, own_phone)
    call, parts = call_of(message, chat)
    beside = _ids(message, call, chat, own_phone)
    return "POST", f"api/{call}", {"session": session, "chatId": chat, **parts, **beside}


def _ids(message: MessageData, call: str, chat: str, own_phone: str | None) -> Object:
    """The message that is quoted, and the id that *call* takes from us.

    NOWEB and GOWS take it, WEBJS ignores it: by it the message is found where the answer is lost.
    """
    quoted = None if message.reply_to is None else serialized_id(message.reply_to, chat, own_phone)
    return present(reply_to=quoted, id=chosen_id(message.correlation_id) if call in _WITH_ID else None)


def has_chosen_id(message: MessageData) -> bool:
    """Whether *message* went out under an id that is made of its correlation id."""
    return not isinstance(message.content, Reaction) and call_of(message, chat_of(message.to))[0] in _WITH_ID


def message_result(message: MessageData, response: Response, *, secrets: tuple[str, ...]) -> MessageResult:
    """The acceptance in *response*, or the `SendError` it means. Accepted is handed to the engine, no more."""
    if response.status == 201 and not response.body:
        # As 2024.10 answers cards. A server in front of it that lost the answer would not say 201.
        return MessageResult(provider_message_id=None)
    body = answered_object(response)
    if id_in(body) is None or not 200 <= response.status < 300:
        raise send_error(response, secrets=secrets, by_url=isinstance(message.content, MediaContent))
    return result_of(body)


def result_of(message: Object) -> MessageResult:
    """*message*, an engine's, which has an id, as the result of having sent it: as ours, it has its bare id."""
    identity = id_in(message) or ""
    parts = message_id(identity)
    return MessageResult(
        provider_message_id=identity if parts is None else parts.bare,
        timestamp=moment(message.get("timestamp")) or moment(message.get("messageTimestamp")),
        contact=None if parts is None else person(parts.chat),
    )


def read_receipt(identity: str, chat: str) -> Object:
    """``chatId`` and what else `sendSeen` wants besides the session; in groups, who wrote the message."""
    parts = message_id(identity)
    author = normalized(parts.raw_participant) if parts and parts.raw_participant and is_group(chat) else None
    # A bare id names a message of ours, which nobody but others can read.
    return present(chatId=chat, messageIds=None if parts is None else [identity], participant=author)


# ---------------------------------------------------------------- content


def call_of(message: MessageData, chat: str) -> tuple[str, Object]:
    """The call for the content of *message*, and its part of the body."""
    match message.content:
        case Text() as text:
            return "sendText", _text(text, chat)
        case Image() as image:
            return "sendImage", {"file": _file(image), **_caption(image)}
        case Video() as video:
            return "sendVideo", {"file": _file(video), **_caption(video), "asNote": False, "convert": False}
        case Audio() as audio:
            return _audio(audio)
        case Sticker() as sticker:
            return "sendSticker", {"file": _file(sticker)}
        case Document() as document:
            return "sendFile", {"file": _file(document), **_caption(document)}
        case Location(latitude=latitude, longitude=longitude) as place:
            title = ", ".join(filter(None, [place.name, place.address])) or None
            return "sendLocation", present(latitude=latitude, longitude=longitude, title=title)
        case Contacts(contacts=cards):
            return "sendContactVcard", {"contacts": _contacts(cards)}
        case Interactive() as interactive:
            return _interactive(interactive, chat)
        case Template(rendered=str() as rendered) if rendered:
            return "sendText", _text(Text(body=rendered), chat)
    raise unsupported_kind("WhatsApp Web", message.content)


def _text(text: Text, chat: str) -> Object:
    if not text.body:
        raise Rejected("the text is empty", code="text_empty")
    body: Object = {"text": text.body}
    # In a group a number after an @ is a mention, as it is in WhatsApp's own apps.
    if is_group(chat) and (mentioned := _MENTION.findall(text.body)):
        body["mentions"] = [f"{number}@c.us" for number in dict.fromkeys(mentioned)]
    if _LINK.search(text.body) and not text.preview_url:
        body["linkPreview"] = False
    return body


def _file(content: MediaContent) -> Object:
    if content.url is None:
        if content.id is not None:
            raise unsupported("media_id", "WhatsApp Web stores no files: a URL is needed")
        raise Rejected("a medium needs a URL", code="media_missing")
    if not content.url.lower().startswith(("http://", "https://")):
        raise Rejected("a medium needs an http or https URL", code="media_url")
    mime_type = named(content.mime_type or _mime_type(content))
    return present(mimetype=mime_type, url=content.url, filename=content.filename)


def _mime_type(content: MediaContent) -> str:
    name = content.filename or _path(content.url or "")
    suffix = name.rpartition(".")[2].lower()
    return _MIME_TYPES.get(suffix) or _USUAL_MIME_TYPES.get(type(content), "application/octet-stream")


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        raise Rejected("the URL of the medium is not valid", code="media_url") from None


def _caption(content: MediaContent) -> Object:
    return {"caption": content.caption} if content.caption else {}


def _audio(audio: Audio) -> tuple[str, Object]:
    """A voice note, which the server converts where it is no Opus; other audio goes as a file: there is no call."""
    file = _file(audio)
    if audio.voice:
        return "sendVoice", {"file": file, "convert": file["mimetype"] != OPUS}
    return "sendFile", {"file": file}


def _contacts(cards: list[Object]) -> list[Object]:
    if any(card and card.keys() <= {"id", "url", "mime_type"} for card in cards):
        raise unsupported("contact_file", "WhatsApp Web cannot send a contact card from a file")
    contacts = [contact_of(card) for card in cards]
    known = [contact for contact in contacts if contact is not None]
    if not known or len(known) < len(contacts):
        raise Rejected("each contact needs a name", code="contact_name_empty")
    return known


def _reaction(reaction: Reaction, session: str, chat: str, own_phone: str | None) -> Object:
    target = serialized_id(reaction.message_id, chat, own_phone)
    return {"session": session, "messageId": target, "reaction": reaction.emoji or ""}


# ---------------------------------------------------------------- things to tap


def _interactive(interactive: Interactive, chat: str) -> tuple[str, Object]:
    match interactive.action:
        case Buttons(buttons=buttons):
            return "sendText", {"text": _numbered(interactive, buttons)}
        case ListMenu() as menu:
            if is_group(chat):
                raise unsupported("content_in_group", "WhatsApp Web has no lists in groups")
            return "sendList", {"message": _list(interactive, menu)}
    raise unsupported_kind("WhatsApp Web", interactive.action)


def _numbered(interactive: Interactive, buttons: list[Button]) -> str:
    """Buttons as text: WhatsApp does not show those of WhatsApp Web. The answer is whatever the person writes."""
    options = [f"{number}. {button.title}" for number, button in enumerate(buttons, 1)]
    header = interactive.header if isinstance(interactive.header, str) else None
    lines = [header, interactive.body, *options, interactive.footer]
    return "\n".join(line for line in lines if line)


def _list(interactive: Interactive, menu: ListMenu) -> Object:
    title = interactive.header if isinstance(interactive.header, str) else None
    return present(
        # A title is a must.
        title=title or interactive.body or menu.button,
        description=interactive.body if title else None,
        footer=interactive.footer,
        button=menu.button,
        sections=[
            {
                # An empty one is refused: where there is none, what opens the list stands there.
                "title": section.title or menu.button,
                "rows": [present(title=row.title, rowId=row.id, description=row.description) for row in section.rows],
            }
            for section in menu.sections
        ],
    )
