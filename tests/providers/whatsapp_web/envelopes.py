"""The neutral messages of WAHA's send samples as our `MessageData`."""

from typing import Any

import msgspec

from providers import MessageData, OutboundContent, Recipient

Flat = dict[str, Any]

_MEDIA = {"image", "video", "document", "voice"}


def message_data(envelope: Flat) -> MessageData:
    return MessageData(
        to=recipient(envelope["to"]),
        content=msgspec.convert(_content(envelope), OutboundContent),
        organization_id="org-1",
        correlation_id=envelope["id"],
        reply_to=envelope.get("reply_to"),
    )


def recipient(address: str) -> Recipient:
    if address.endswith("@lid"):
        return Recipient(lid=address)
    return Recipient(group_id=address) if address.endswith("@g.us") else Recipient(phone=address)


def _content(envelope: Flat) -> Flat:
    kind = envelope["type"]
    if kind == "text":
        return {"type": kind, "body": envelope["text"]}
    if kind in _MEDIA:
        return _medium(envelope)
    if kind == "contacts":
        return {"type": kind, "contacts": [_card(contact) for contact in envelope["contacts"]]}
    if kind == "location":
        return {"type": kind, **envelope["location"]}
    if kind == "reaction":
        reaction = envelope["reaction"]
        return {"type": kind, "message_id": reaction["target_id"], "emoji": reaction["emoji"]}
    if kind == "template":
        return _template(envelope["template"])
    assert kind == "interactive", kind
    return _interactive(envelope["interactive"])


def _medium(envelope: Flat) -> Flat:
    # One sample, of a body that is too large, says nothing of its file.
    media = envelope.get("media", {"url": "https://files.example.com/big.zip"})
    kind = "audio" if envelope["type"] == "voice" else envelope["type"]
    flat = {
        "type": kind,
        "url": media["url"],
        "mime_type": media.get("content_type"),
        "filename": media.get("filename"),
        "caption": envelope.get("text"),
    }
    return flat | {"voice": True} if envelope["type"] == "voice" else flat


def _card(contact: Flat) -> Flat:
    phone = contact["phone"]
    return {"name": {"formatted_name": contact["name"]}, "phones": [{"phone": phone, "wa_id": phone[1:]}]}


def _template(template: Flat) -> Flat:
    parameters = [{"type": "text", "text": value} for value in template["variables"].values()]
    components = [{"type": "body", "parameters": parameters}]
    return {"type": "template", "language": "en", "components": components} | {
        name: template[name] for name in ("name", "rendered")
    }


def _interactive(interactive: Flat) -> Flat:
    if interactive["kind"] == "buttons":
        action = {"type": "buttons", "buttons": interactive["buttons"]}
    else:
        sections = [
            {"title": section["title"], "rows": section["items"]} for section in interactive.get("sections", [])
        ]
        action = {"type": "list", "button": interactive.get("button", "b"), "sections": sections}
    body, header = interactive.get("body"), interactive.get("title")
    return {"type": "interactive", "action": action, "body": body, "header": header}
