"""The neutral messages of Twilio's send samples as our `MessageData`."""

from typing import Any

import msgspec

from providers import MessageData, OutboundContent, Recipient

Flat = dict[str, Any]

_MEDIA = {"image", "video", "audio", "document", "sticker"}


def message_data(envelope: Flat) -> MessageData:
    to = envelope["to"]
    return MessageData(
        to=Recipient(phone=to) if to.startswith("+") else Recipient(user_id=to),
        content=msgspec.convert(_content(envelope), OutboundContent),
        organization_id="org-1",
        correlation_id=envelope["id"],
        reply_to=envelope.get("reply_to"),
        callback_url="https://gw.example.com/hooks/twilio_whatsapp/acme/status",
        valid_for_s=envelope.get("ttl_seconds"),
    )


def _content(envelope: Flat) -> Flat:
    kind = envelope["type"]
    if kind == "text":
        return {"type": kind, "body": envelope["text"]}
    if kind in _MEDIA:
        return {"type": kind, **_file(envelope["media"]), "caption": envelope.get("text")}
    if kind == "contacts":
        # A card is sent as the file it is in.
        return {"type": "contacts", "contacts": [_file(envelope["media"])]}
    if kind == "reaction":
        reaction = envelope["reaction"]
        return {"type": kind, "message_id": reaction["target_id"], "emoji": reaction["emoji"]}
    if kind == "template":
        return _template(envelope["template"])
    if kind in ("interactive", "content_create"):
        return _interactive(envelope["interactive"])
    return {"type": kind, **envelope[kind]}


def _file(media: Flat) -> Flat:
    file = {"url": media["url"], "mime_type": media["content_type"]}
    return {**file, "filename": media["filename"]} if "filename" in media else file


def _template(template: Flat) -> Flat:
    variables = template["variables"].items()
    parameters = [{"type": "text", "parameter_name": name, "text": value} for name, value in variables]
    return {
        "type": "template",
        "name": template["content_sid"],
        "language": "en",
        "components": [{"type": "body", "parameters": parameters}],
    }


def _interactive(message: Flat) -> Flat:
    if message["kind"] == "buttons":
        action: Flat = {"type": "buttons", "buttons": message["buttons"]}
    else:
        action = {"type": "list", "button": message["button"], "sections": [{"rows": message["items"]}]}
    return {"type": "interactive", "body": message["body"], "action": action}
