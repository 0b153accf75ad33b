"""What Meta takes as the content of each type of message.

Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages
"""

import re
from typing import Any

from .errors import GraphError
from .rules import Rule, anything, array, choice, flag, invalid, media, missing, number, struct, text, unique, url

# ---------------------------------------------------------------- interactive

HEADER_MEDIA: dict[str, Rule] = {"image": media(), "video": media(), "document": media(filename=text(240))}


def header(*kinds: str) -> Rule:
    def check(value: Any, path: str) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        choice(*kinds)(kind, f'{path}["type"]')
        content = text(60) if kind == "text" else HEADER_MEDIA[str(kind)]
        struct({"type": anything, str(kind): content}, {"sub_text": text(60)})(value, path)

    return check


def named(name: str, **parameters: Rule) -> Rule:
    """An action with a fixed name, and parameters where it has any."""
    shape: dict[str, Rule] = {"name": choice(name)}
    return struct({**shape, "parameters": struct(parameters)} if parameters else shape)


def list_action(value: Any, path: str) -> None:
    row = struct({"id": text(200), "title": text(24)}, {"description": text(72)})
    section = struct({"rows": array(row, 1, 10)}, {"title": text(24)})
    struct({"button": text(20), "sections": array(section, 1, 10)})(value, path)
    rows = [row for section in value["sections"] for row in section["rows"]]
    if len(rows) > 10:
        raise invalid(path, "must have at most 10 rows in total")
    if len({row["id"] for row in rows}) < len(rows):
        raise invalid(path, "must have unique row ids")
    if len(value["sections"]) > 1 and not all("title" in section for section in value["sections"]):
        raise missing('section["title"]')


REPLY_BUTTON = struct({"type": choice("reply"), "reply": struct({"id": text(256), "title": text(20)})})
BUTTONS = unique(unique(array(REPLY_BUTTON, 1, 3), "reply", "id"), "reply", "title")
PRODUCTS = struct({"title": text(24), "product_items": array(anything, 1, 30)})
ANY_HEADER = header("text", "image", "video", "document")
TEXT_HEADER = header("text")
ORDER_HEADER = header("image", "video", "document", "text")

# kind: (action, header or None where there is none). Free-form parameters are not looked into.
INTERACTIVE: dict[str, tuple[Rule, Rule | None]] = {
    "button": (struct({"buttons": BUTTONS}), ANY_HEADER),
    "list": (list_action, TEXT_HEADER),
    "cta_url": (named("cta_url", display_text=text(20), url=url), ANY_HEADER),
    "flow": (struct({"name": choice("flow"), "parameters": anything}), ANY_HEADER),
    "location_request_message": (named("send_location"), None),
    "request_contact_info": (named("request_contact_info"), None),
    "call_permission_request": (named("call_permission_request"), None),
    "product": (struct({"catalog_id": text(256), "product_retailer_id": text(256)}), None),
    "product_list": (struct({"catalog_id": text(256), "sections": array(PRODUCTS, 1, 10)}), TEXT_HEADER),
    "catalog_message": (struct({"name": choice("catalog_message")}, {"parameters": anything}), None),
    "carousel": (struct({"cards": array(anything, 2, 10)}), None),
    "voice_call": (struct({"name": choice("voice_call"), "parameters": anything}), None),
    "address_message": (struct({"name": choice("address_message"), "parameters": anything}), ANY_HEADER),
    "order_details": (struct({"name": choice("review_and_pay"), "parameters": anything}), ORDER_HEADER),
    "order_status": (struct({"name": choice("review_order"), "parameters": anything}), None),
}
BODY_OPTIONAL = {"product"}


def interactive(value: Any, path: str) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    choice(*INTERACTIVE)(kind, f'{path}["type"]')
    action, head = INTERACTIVE[str(kind)]
    body: dict[str, Rule] = {"body": struct({"text": text(1024)})}
    required = {"type": anything, "action": action}
    optional: dict[str, Rule] = {"footer": struct({"text": text(60)})}
    if head is not None:
        optional["header"] = head
    (optional if kind in BODY_OPTIONAL else required).update(body)
    struct(required, optional)(value, path)


# ---------------------------------------------------------------- templates


def parameter(value: Any, path: str) -> None:
    if not isinstance(value, dict) or "type" not in value:
        raise missing(f'{path}["type"]')
    if value["type"] == "text":
        text(1024)(value.get("text", ""), f'{path}["text"]')
        if re.search(r"[\n\t]| {5}", value["text"]):
            raise GraphError(132018, "Param text cannot have new-line/tab characters or more than 4 spaces")


def component(value: Any, path: str) -> None:
    kind = value.get("type") if isinstance(value, dict) else None
    kinds = ("header", "body", "button", "limited_time_offer", "carousel", "tap_target_configuration")
    choice(*kinds)(kind, f'{path}["type"]')
    if kind in ("header", "body"):
        struct({"type": anything, "parameters": array(parameter, 1, 100)})(value, path)
    elif kind == "button":
        index = number(0, 9)
        struct({"type": anything, "sub_type": text(32), "index": index}, {"parameters": array(parameter, 0, 10)})(
            value, path
        )


LANGUAGE = struct({"code": text(20)}, {"policy": choice("deterministic")})

# ---------------------------------------------------------------- messages

CARD = struct(
    {
        "name": struct(
            {"formatted_name": text(1024)},
            dict.fromkeys(("first_name", "last_name", "middle_name", "suffix", "prefix"), anything),
        )
    },
    dict.fromkeys(("phones", "emails", "addresses", "urls", "org", "birthday"), anything),
)
CONTENT: dict[str, Rule] = {
    "text": struct({"body": text(4096)}, {"preview_url": flag}),
    "image": media(caption=text(1024)),
    "video": media(caption=text(1024)),
    "audio": media(voice=flag),
    "document": media(caption=text(1024), filename=text(240)),
    "sticker": media(),
    "location": struct(
        {"latitude": number(-90, 90), "longitude": number(-180, 180)},
        {"name": text(1000), "address": text(1000)},
    ),
    "contacts": array(CARD, 1, 5),
    "reaction": struct({"message_id": text(1024), "emoji": anything}),  # an empty emoji takes it back
    "interactive": interactive,
    "template": struct({"name": text(512), "language": LANGUAGE}, {"components": array(component, 0, 100)}),
    "pin": struct({"type": choice("pin", "unpin"), "message_id": text(1024)}, {"expiration_days": number(1, 30)}),
}
