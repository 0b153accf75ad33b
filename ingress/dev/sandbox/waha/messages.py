"""A message of a chat, and the form that each engine gives it: in the answer to its send, in webhooks, in acks.

Source: https://waha.devlike.pro/docs/how-to/events, https://waha.devlike.pro/docs/how-to/receive-messages
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from .bodies import IN_BROWSER, Body, Engine, is_group, serialized, wire

ACKS = {"ERROR": -1, "PENDING": 0, "SERVER": 1, "DEVICE": 2, "READ": 3, "PLAYED": 4}
_WORDS = {number: word for word, number in ACKS.items()}

# Kind of message -> (WEBJS's `type`, the protocol's field, GOWS's `MediaType`).
KINDS: dict[str, tuple[str, str, str]] = {
    "text": ("chat", "conversation", ""),
    "image": ("image", "imageMessage", "image"),
    "video": ("video", "videoMessage", "video"),
    "voice": ("ptt", "audioMessage", "ptt"),
    "sticker": ("sticker", "stickerMessage", "sticker"),
    "document": ("document", "documentMessage", "document"),
    "location": ("location", "locationMessage", "location"),
    "contacts": ("vcard", "contactMessage", "vcard"),
    "poll": ("poll_creation", "pollCreationMessage", ""),
    "list": ("list", "listMessage", ""),
    "reaction": ("reaction", "reactionMessage", ""),
    "revoked": ("revoked", "protocolMessage", ""),
    "button_reply": ("buttons_response", "buttonsResponseMessage", ""),
    "list_reply": ("list_response", "listResponseMessage", ""),
}


class ChatMessage(msgspec.Struct, kw_only=True):
    """A message in a chat of a session, whoever wrote it."""

    bare: str
    chat: str
    kind: str
    from_me: bool
    timestamp: int
    body: str | None = None
    author: str | None = None  # in groups
    name: str = "Sandbox"  # of who wrote it
    by_api: bool = False  # an own message: through the API, or by hand
    ack: int = 0
    media: Body | None = None
    place: Body | None = None
    vcards: list[str] = []
    reply_to: Body | None = None
    twin: str | None = None  # the phone of the person behind a hidden number, where it is known
    proto: Body = {}  # the fields of the protocol's own object

    @property
    def id(self) -> str:
        return serialized(self.from_me, self.chat, self.bare, self.author)


def sent(engine: Engine, message: ChatMessage, own: str) -> Body:
    """What the call that sent *message* answers; *own* is the chat id of the session's phone."""
    match engine:
        case "GOWS":
            about = {"ID": message.bare, "Timestamp": _iso(message.timestamp), "ServerID": 0, "Sender": ""}
            return {"id": message.id, "_data": about}
        case "NOWEB":
            return {
                "key": _key(message),
                "message": _protocol(message, engine),
                "messageTimestamp": str(message.timestamp),
                "status": "PENDING",
            }
        case "WEBJS" | "WPP":
            raw = _webjs(message, own)
            return {
                "_data": raw,
                "id": raw["id"],
                "ack": 0,
                "hasMedia": message.media is not None,
                "body": message.body,
                "type": raw["type"],
                "timestamp": message.timestamp,
                "from": own,
                "to": message.chat,
                "deviceType": "web",
                "fromMe": True,
            }


def payload(engine: Engine, message: ChatMessage, own: str) -> Body:
    """*message* as WAHA's own object: in webhooks, and where the messages of a chat are listed."""
    body: Body = {
        **_head(engine, message, own),
        "body": message.body,
        "hasMedia": message.media is not None,
        "media": message.media,
        "ack": message.ack,
        "ackName": _WORDS[message.ack],
        "vCards": message.vcards if message.vcards or engine in IN_BROWSER else None,
        "replyTo": message.reply_to,
        "_data": _raw(engine, message, own),
    }
    if message.media is not None:
        body["mediaUrl"] = message.media["url"]
    if message.place is not None:
        body["location"] = message.place
    return body


def reaction_payload(engine: Engine, message: ChatMessage, own: str, *, target: str, emoji: str) -> Body:
    body = {**_head(engine, message, own), "reaction": {"text": emoji, "messageId": target}}
    if engine in IN_BROWSER:
        return {**body, "timestamp": message.timestamp + 0.853}
    return {**body, "_data": _raw(engine, message, own)}


def ack_payload(
    engine: Engine, message: ChatMessage, own: str, ack: str, *, reader: str | None = None, error: Body | None = None
) -> Body:
    """A receipt; WEBJS repeats the message in it. *reader* is who has it, in a group."""
    about = {"ack": ACKS[ack], "ackName": ack, **({"error": error} if error else {})}
    if engine in IN_BROWSER:
        return {**payload(engine, message, own), **about}
    return {
        "id": serialized(True, message.chat, message.bare, reader),
        "from": message.chat,
        "to": None,
        "participant": reader,
        "fromMe": True,
        **about,
        "_data": {},
    }


# ---------------------------------------------------------------- parts


def _head(engine: Engine, message: ChatMessage, own: str) -> Body:
    """Who wrote to whom: WEBJS has two ends, the others the chat."""
    ends: Body
    if engine not in IN_BROWSER:
        ends = {"from": message.chat, "to": None, "participant": message.author}
    else:
        ends = {"from": own, "to": message.chat} if message.from_me else {"from": message.chat, "to": own}
        if message.author is not None:
            ends |= {"participant": message.author, "author": message.author}
    return {
        "id": message.id,
        "timestamp": message.timestamp,
        "fromMe": message.from_me,
        "source": "api" if message.by_api else "app",
        **ends,
    }


def _raw(engine: Engine, message: ChatMessage, own: str) -> Body:
    """The engine's own object, as far as anybody looks into it."""
    match engine:
        case "WEBJS" | "WPP":
            return _webjs(message, own)
        case "NOWEB":
            return {
                "key": _key(message),
                "messageTimestamp": message.timestamp,
                "pushName": message.name,
                "broadcast": False,
                "message": _protocol(message, engine),
            }
        case "GOWS":
            return {
                "Info": _gows_info(message, own),
                "Message": _protocol(message, engine),
                "IsEphemeral": False,
                "IsViewOnce": False,
                "IsEdit": False,
            }


def _webjs(message: ChatMessage, own: str) -> Body:
    sender, receiver = (own, message.chat) if message.from_me else (message.chat, own)
    raw: Body = {
        "id": {"fromMe": message.from_me, "remote": message.chat, "id": message.bare, "_serialized": message.id},
        "viewed": False,
        "body": message.body,
        "type": "multi_vcard" if len(message.vcards) > 1 else KINDS[message.kind][0],
        "t": message.timestamp,
        "notifyName": message.name,
        "from": sender,
        "to": receiver,
        "ack": message.ack,
        "isNewMsg": True,
        "isForwarded": False,
    }
    if message.media is not None:
        raw |= {"mimetype": message.media["mimetype"], "filename": message.media["filename"]}
    if message.kind == "button_reply":
        raw["selectedButtonId"] = message.proto["selectedButtonId"]
    elif message.kind == "list_reply":
        raw["listResponse"] = message.proto
    return raw


def _key(message: ChatMessage) -> Body:
    key: Body = {"remoteJid": wire(message.chat), "fromMe": message.from_me, "id": message.bare}
    if message.author is not None:
        key["participant"] = wire(message.author)
    if message.twin is not None:
        key["participantAlt" if is_group(message.chat) else "remoteJidAlt"] = wire(message.twin)
    return key


def _gows_info(message: ChatMessage, own: str) -> Body:
    peer = message.author or message.chat
    media = KINDS[message.kind][2]
    twin = wire(message.twin or "")
    return {
        "Chat": wire(message.chat),
        "Sender": wire(own if message.from_me else peer).replace("@s.", ":3@s."),
        "IsFromMe": message.from_me,
        "IsGroup": is_group(message.chat),
        "AddressingMode": "lid" if peer.endswith("@lid") else "pn",
        "SenderAlt": "" if message.from_me else twin,
        "RecipientAlt": twin if message.from_me else "",
        "BroadcastListOwner": "",
        "ID": message.bare,
        "ServerID": 0,
        "Type": "reaction" if message.kind == "reaction" else "media" if media else "text",
        "PushName": message.name,
        "Timestamp": _iso(message.timestamp),
        "Category": "",
        "Multicast": False,
        "MediaType": media,
        "Edit": "",
    }


def _protocol(message: ChatMessage, engine: Engine) -> Body:
    """The message itself, in the words of WhatsApp's protocol; whatsmeow writes ``ID`` where Baileys has ``Id``."""
    field = KINDS[message.kind][1]
    if message.kind == "text":
        if message.reply_to is None:
            return {field: message.body}
        quoted = {"stanzaId": message.reply_to["id"]}
        return {"extendedTextMessage": _spelt({"text": message.body, "contextInfo": quoted}, engine)}
    if message.media is not None:
        spoken = {"ptt": True} if message.kind == "voice" else {}
        return {field: {"mimetype": message.media["mimetype"], **spoken}}
    if message.vcards:
        return {field: {"displayName": message.name, "vcard": message.vcards[0]}}
    return {field: _spelt(message.proto, engine)}


def _spelt(value: Any, engine: Engine) -> Any:
    if engine != "GOWS" or not isinstance(value, dict):
        return value
    return {name[:-2] + "ID" if name.endswith("Id") else name: _spelt(item, engine) for name, item in value.items()}


def _iso(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat().replace("+00:00", "Z")
