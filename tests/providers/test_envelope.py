"""What events have, by field, provider and kind of message: docs/providers/events.md says it, and what is not given.

Each webhook below has everything that its provider can put around a message of that kind.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from providers import Event, Webhook, WhatsAppProvider

from .cloud_api.samples import ACCOUNT as META
from .twilio_whatsapp.samples import ACCOUNT as TWILIO
from .twilio_whatsapp.samples import batch, form
from .whatsapp_web.samples import ACCOUNT as WAHA

DOCUMENT = Path(__file__).parents[2] / "docs" / "providers" / "events.md"
FIELDS = [
    *("contact.phone", "contact.user_id", "contact.lid", "contact.username", "contact.name", "group_id", "occurred_at"),
    *("message.provider_message_id", "message.content", "message.more_media"),
    *("message.reply_to.id", "message.reply_to.text", "message.reply_to.type", "message.reply_to.author"),
    *("message.mentions", "message.forwarded", "message.frequently_forwarded", "message.product", "message.referral"),
    *("message.original_message_id", "message.by", "message.source", "message.errors"),
]
Object = dict[str, Any]
Build = Callable[[str], Iterator[Webhook]]
MEDIA = ("image", "video", "audio", "document", "sticker")
AD = {"source_url": "https://fb.me/x", "source_type": "ad", "source_id": "1"}

# ---------------------------------------------------------------- Meta

META_KINDS: dict[str, tuple[str, Any]] = {
    "text": ("text", {"body": "x"}),
    **{kind: (kind, {"id": "1", "mime_type": "a/b"}) for kind in MEDIA},
    "location": ("location", {"latitude": 1, "longitude": 2}),
    "contacts": ("contacts", [{"name": {"formatted_name": "Bo"}}]),
    "reaction": ("reaction", {"message_id": "wamid.A", "emoji": "x"}),
    "button_reply": ("button", {"payload": "1", "text": "x"}),
    "list_reply": ("interactive", {"type": "list_reply", "list_reply": {"id": "1", "title": "x"}}),
    "flow_reply": ("interactive", {"type": "nfm_reply", "nfm_reply": {"response_json": "{}"}}),
    "call_permission_reply": (
        "interactive",
        {"type": "call_permission_reply", "call_permission_reply": {"response": "accept"}},
    ),
    "order": ("order", {"catalog_id": "1", "product_items": []}),
    "system": ("system", {"type": "user_changed_number", "wa_id": "15550002222"}),
    "unsupported": ("unsupported", {"type": "poll_creation"}),
    "edit": ("edit", {"original_message_id": "wamid.A", "message": {"type": "text", "text": {"body": "x"}}}),
    "deletion": ("revoke", {"original_message_id": "wamid.A"}),
    "echo": ("text", {"body": "x"}),
}


def meta(kind: str) -> Iterator[Webhook]:
    if kind not in META_KINDS:
        return
    name, value = META_KINDS[kind]
    context = {"id": "wamid.A", "from": "15550002222", "forwarded": True, "frequently_forwarded": True}
    item = {
        **{"id": "wamid.B", "timestamp": "1795977600", "type": name, name: value, "group_id": "g"},
        **{key: "15550002222" for key in (("to",) if kind == "echo" else ("from",))},
        "context": {**context, "referred_product": {"catalog_id": "1"}},
        "referral": AD,
        "errors": [{"code": 131060}],
    }
    profile = {"name": "Ana", "username": "ana"}
    field = ("smb_message_echoes", "message_echoes") if kind == "echo" else ("messages", "messages")
    change = {
        "metadata": {"display_phone_number": "15550001111", "phone_number_id": "1"},
        "contacts": [{"wa_id": "15550002222", "user_id": "US.1", "profile": profile}],
        field[1]: [item],
    }
    entry = {"id": "2", "changes": [{"field": field[0], "value": change}]}
    yield posted({"object": "whatsapp_business_account", "entry": [entry]})


def posted(body: Any) -> Webhook:
    return Webhook(method="POST", url="https://gw.example.com/", headers={}, body=json.dumps(body).encode())


# ---------------------------------------------------------------- Twilio

TWILIO_KINDS: dict[str, Object] = {
    "text": {"Body": "x"},
    **{kind: {"MediaUrl0": "https://x/0", "MediaContentType0": f"{kind}/x"} for kind in ("image", "video", "audio")},
    "document": {"MediaUrl0": "https://x/0", "MediaContentType0": "application/pdf"},
    "sticker": {"MediaUrl0": "https://x/0", "MediaContentType0": "image/webp"},
    "location": {"Latitude": "1", "Longitude": "2"},
    "contacts": {"MediaUrl0": "https://x/0", "MediaContentType0": "text/vcard"},
    "reaction": {"MessageType": "reaction", "Body": "x"},
    "button_reply": {"ButtonText": "x", "ButtonPayload": "1"},
    "list_reply": {"ListId": "1", "ListTitle": "x"},
    "flow_reply": {"InteractiveData": "{}"},
    "unsupported": {"MessageType": "order"},
}


def twilio(kind: str) -> Iterator[Webhook]:
    if kind not in TWILIO_KINDS:
        return
    fields = {
        **{"MessageSid": "SM1", "From": "whatsapp:+15005550100", "To": "whatsapp:+15005550199", "ProfileName": "Ana"},
        **{"ExternalUserId": "whatsapp:US.1", "Forwarded": "true", "FrequentlyForwarded": "true"},
        **{"OriginalRepliedMessageSid": "SM0", "OriginalRepliedMessageSender": "whatsapp:+15005550199"},
        **{"ReferralSourceType": "ad", "ReferralSourceId": "1", **TWILIO_KINDS[kind]},
    }
    yield form({**fields, **({"MediaUrl1": "https://x/1"} if "MediaUrl0" in fields else {})}, "https://gw.example.com/")


def event_streams(kind: str) -> Iterator[Webhook]:
    data = {"messageSid": "SM1", "timestamp": "2026-11-29T10:00:00Z", "from": "whatsapp:+15005550100", "numMedia": 0}
    body = {"text": {"body": "x", "referralCtwaClid": "1"}, "unsupported": {"referralCtwaClid": "1"}}
    if kind in body:
        type_ = "com.twilio.messaging.inbound-message.received"
        yield batch({"id": "EZ1", "type": type_, "data": {**data, **body[kind]}})


# ---------------------------------------------------------------- WhatsApp Web

PEER, LID, GROUP = "15005550100@c.us", "98765432101234@lid", "120363000000000042@g.us"
CARD, POLL = "BEGIN:VCARD\nFN:Bo\nEND:VCARD", {"name": "x", "options": [{"optionName": "y"}]}
# The protocol's field, and what WEBJS calls it.
WAHA_KINDS: dict[str, tuple[str, Object, str, Object]] = {
    "text": ("extendedTextMessage", {"text": "x"}, "chat", {}),
    **{kind: (f"{kind}Message", {"mimetype": "a/b"}, kind, {}) for kind in MEDIA},
    "location": ("locationMessage", {"degreesLatitude": 1, "degreesLongitude": 2}, "location", {"lat": 1, "lng": 2}),
    "contacts": ("contactMessage", {"vcard": CARD}, "vcard", {}),
    "button_reply": (
        "buttonsResponseMessage",
        {"selectedButtonId": "1"},
        "buttons_response",
        {"selectedButtonId": "1"},
    ),
    "list_reply": ("listResponseMessage", {"title": "x"}, "list_response", {"listResponse": {"title": "x"}}),
    "flow_reply": ("interactiveResponseMessage", {"nativeFlowResponseMessage": {"paramsJson": "{}"}}, "", {}),
    "poll": ("pollCreationMessageV3", POLL, "poll_creation", {"pollName": "x"}),
    "unsupported": ("orderMessage", {"orderId": "1"}, "order", {}),
    "echo": ("extendedTextMessage", {"text": "x"}, "chat", {}),
}
WAHA_CARD = {"sourceUrl": "https://fb.me/x", "sourceType": "ad", "sourceId": "1"}


def waha(engine: str) -> Build:
    def build(kind: str) -> Iterator[Webhook]:
        for chat in (PEER, LID, GROUP):
            author = f"_{PEER}" if chat == GROUP else ""
            bare = {"id": f"{'true' if kind == 'echo' else 'false'}_{chat}_B2B2{author}", "timestamp": 1795977600}
            if (payload := payload_of(engine, kind, {**bare, "source": "app"}, chat)) is not None:
                name = {"reaction": "message.reaction", "poll_vote": "poll.vote"}.get(kind, "message.any")
                name = {"edit": "message.edited", "deletion": "message.revoked"}.get(kind, name)
                yield posted({"id": "evt_1", "event": name, "session": "acme", "payload": payload})

    return build


def payload_of(engine: str, kind: str, item: Object, chat: str) -> Object | None:
    """The payload of an event of *kind*, about the message *item*; None where *engine* has no such thing."""
    if kind == "poll_vote":
        return {"vote": item, "poll": {"id": f"true_{chat}_A0A0"}, "_data": raw(engine, "text", chat)}
    if kind == "reaction":
        reaction = {"messageId": f"true_{chat}_A0A0", "text": "x"}
        return {**item, "reaction": reaction, "_data": raw(engine, "text", chat)}
    if kind == "deletion":
        return {"after": {**item, "_data": raw(engine, "text", chat)}, "revokedMessageId": "A0A0"}
    said = "text" if kind == "edit" else kind
    if said not in WAHA_KINDS or (engine == "WEBJS" and said == "flow_reply"):
        return None
    media = {"url": None, "error": "x"} if said in MEDIA else None
    return {
        **{
            **item,
            "body": CARD if said == "contacts" else "" if said == "unsupported" else "x",
            "hasMedia": media is not None,
        },
        **{"media": media, "_data": raw(engine, said, chat), "editedMessageId": "A0A0"},
        "replyTo": {"id": "A0A0", "participant": PEER, "body": "q", "hasMedia": False},
    }


def raw(engine: str, kind: str, chat: str) -> Object:
    """What *engine* has of a message of *kind*."""
    field, content, type_, data = WAHA_KINDS[kind]
    if engine == "WEBJS":
        around = {"isForwarded": True, "forwardingScore": 9, "mentionedJidList": [PEER], "ctwaContext": WAHA_CARD}
        return {"type": type_, "notifyName": "Ana", **data, **around}
    mentioned = "mentionedJID" if engine == "GOWS" else "mentionedJid"
    context = {"isForwarded": True, "forwardingScore": 9, mentioned: [PEER], "externalAdReply": WAHA_CARD}
    message = {field: {**content, "contextInfo": context}}
    if engine == "GOWS":
        return {"Info": {"Chat": chat, "SenderAlt": PEER, "RecipientAlt": PEER, "PushName": "Ana"}, "Message": message}
    return {"key": {"remoteJid": chat, "remoteJidAlt": PEER}, "pushName": "Ana", "message": message}


# ---------------------------------------------------------------- the table

COLUMNS: dict[str, tuple[WhatsAppProvider, Build]] = {
    "Meta": (META, meta),
    "Twilio": (TWILIO, twilio),
    "Twilio, Event Streams": (TWILIO, event_streams),
    **{f"WhatsApp Web, {engine}": (WAHA, waha(engine)) for engine in ("NOWEB", "GOWS", "WEBJS")},
}
KINDS = list(dict.fromkeys([*META_KINDS, *TWILIO_KINDS, "poll_vote", *WAHA_KINDS]))


def events(column: str, kind: str) -> list[Event]:
    provider, build = COLUMNS[column]
    return [event for hook in build(kind) for event in provider.parse(hook)]


def given(event: Event) -> set[str]:
    """The fields of *event* that are there."""
    found = json.loads(msgspec.json.encode(event))
    return {field for field in FIELDS if _has(found, field.split("."))}


def _has(value: Any, path: list[str]) -> bool:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value is not None


def lines() -> Iterator[str]:
    """The table of the document: of each field, in which of the kinds that a provider gives it is there."""
    seen = {column: {kind: events(column, kind) for kind in KINDS} for column in COLUMNS}
    kinds = {column: [kind for kind in KINDS if seen[column][kind]] for column in COLUMNS}
    for kind in KINDS:
        yield _line(f"`{kind}`", ["yes" if kind in kinds[column] else "" for column in COLUMNS])
    for field in FIELDS:
        cells = []
        for column in COLUMNS:
            there = [kind for kind in kinds[column] if any(field in given(event) for event in seen[column][kind])]
            cells.append(_cell(there, kinds[column]))
        yield _line(f"`{field}`", cells)


def _cell(there: list[str], kinds: list[str]) -> str:
    missing = [kind for kind in kinds if kind not in there]
    if not there or not missing:
        return "all" if there else ""
    return ", ".join(there) if len(there) <= len(missing) else f"all but {', '.join(missing)}"


def _line(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def test_the_document_says_what_events_have() -> None:
    """Each field of each provider in each kind of message is there, or the document says that it is not given."""
    written = DOCUMENT.read_text("utf-8").splitlines()
    assert [line for line in lines() if line not in written] == []


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_of_its_kind(column: str, kind: str) -> None:
    """The webhooks above are what they say: none of them is unknown."""
    types = {"edit": "message.edited", "deletion": "message.deleted", "echo": "message.echo"}
    for event in events(column, kind):
        assert event.type == types.get(kind, "message.received")
        content = event.message.content if event.message else None
        tag = content.__struct_config__.tag if content else None
        assert tag == {"edit": "text", "echo": "text", "deletion": None}.get(kind, kind)
