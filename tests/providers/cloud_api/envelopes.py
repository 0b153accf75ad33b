"""The neutral messages of the send samples as our `MessageData`."""

from typing import Any

import msgspec

from providers import MessageData, OutboundContent, Recipient

Flat = dict[str, Any]

_MEDIA = {"image", "video", "audio", "document", "sticker"}
_ACTIONS = {
    "buttons",
    "list",
    "cta_url",
    "flow",
    "location_request",
    "contact_request",
    "call_permission_request",
    "address_request",
    "voice_call",
    "product",
    "product_list",
    "product_carousel",
    "catalog",
    "carousel",
    "order_details",
    "order_status",
}


def message_data(envelope: Flat) -> MessageData:
    return MessageData(
        to=Recipient(
            phone=envelope.get("to"),
            user_id=envelope.get("to_user_id"),
            group_id=envelope.get("group_id"),
        ),
        content=msgspec.convert(_content(envelope), OutboundContent),
        organization_id="org-1",
        correlation_id=envelope["tracker"],
        reply_to=envelope.get("reply_to"),
    )


def _content(envelope: Flat) -> Flat:
    kind = envelope["type"]
    if kind == "text":
        return {"type": kind, "body": envelope["text"], "preview_url": envelope.get("preview_url", False)}
    if kind in _MEDIA:
        return _present(_medium(kind, envelope["media"]), caption=envelope.get("caption"))
    if kind == "contacts":
        return {"type": kind, "contacts": envelope["contacts"]}
    if kind == "template":
        return _template(envelope)
    if kind in _ACTIONS:
        return _interactive(envelope)
    return {"type": kind, **envelope[kind]}


def _present(flat: Flat, **more: Any) -> Flat:
    return flat | {name: value for name, value in more.items() if value is not None}


def _medium(kind: str, media: Flat) -> Flat:
    ours = {"provider_media_id": "id", "size": "size_bytes"}
    return {"type": kind, **{ours.get(name, name): value for name, value in media.items()}}


def _template(envelope: Flat) -> Flat:
    template = envelope["template"]
    return _present(
        {"type": "template", "name": template["name"], "language": template["language"]["code"]},
        components=template.get("components"),
        marketing=envelope.get("marketing_endpoint"),
    )


def _interactive(envelope: Flat) -> Flat:
    header = envelope.get("header")
    if header is not None:
        header = header["text"] if header["type"] == "text" else _medium(header["type"], header["media"])
    return _present(
        {"type": "interactive", "action": _action(envelope)},
        body=envelope.get("text"),
        header=header,
        footer=envelope.get("footer"),
    )


def _action(envelope: Flat) -> Flat:
    kind = envelope["type"]
    given = envelope.get(kind, {})
    if kind == "carousel":
        return {"type": kind, "cards": given}
    if kind == "buttons":
        return {"type": kind, "buttons": given}
    if kind in ("order_details", "order_status"):
        return {"type": kind, "details": given}
    return {"type": kind, **given}
