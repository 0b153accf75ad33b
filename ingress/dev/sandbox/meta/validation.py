"""Meta's judgement on the body of a send: the first thing wrong with it, as Meta words it.

Stricter than Meta where Meta guesses: a phone needs its plus, a body may not have keys Meta does not know.
Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages
"""

import re
from typing import Any

from .contents import CONTENT
from .errors import GraphError
from .rules import ROOT, Rule, anything, choice, flag, invalid, missing, struct, text

PHONE = re.compile(r"\+[1-9]\d{6,14}")
BSUID = re.compile(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}")
GROUP_TYPES = {"text", "image", "video", "audio", "document", "sticker", "template", "pin"}
MAX_TRACKER = 512  # characters
COMMON: dict[str, Rule] = {
    "context": struct({"message_id": text(1024)}),
    "biz_opaque_callback_data": text(MAX_TRACKER),
    "recipient_identity_key_hash": text(512),
}
MARKETING: dict[str, Rule] = {
    "product_policy": choice("CLOUD_API_FALLBACK", "STRICT"),
    "message_activity_sharing": flag,
}
RECEIPT = struct(
    {"messaging_product": anything, "status": choice("read"), "message_id": text(1024)},
    {"typing_indicator": struct({"type": choice("text")})},
)


def check_product(body: Any) -> None:
    """What every body to ``/messages`` starts with."""
    if not isinstance(body, dict) or "messaging_product" not in body:
        raise GraphError(100, message="(#100) The parameter messaging_product is required.")
    choice("whatsapp")(body["messaging_product"], "messaging_product")


def check_receipt(body: dict[str, Any]) -> None:
    """Raise `GraphError` for what is wrong with a read receipt or typing indicator."""
    RECEIPT(body, ROOT)


def check_send(body: dict[str, Any], *, sender: str, marketing: bool = False) -> None:
    """Raise `GraphError` for the first thing wrong with *body*. *sender* is the number's own digits."""
    kind = body.get("type")
    if kind is None:
        raise missing("type")
    choice(*CONTENT)(kind, "type")
    if marketing and kind != "template":
        raise GraphError(131055)
    check_recipient(body, str(kind), sender)
    required = {
        "messaging_product": anything,
        "recipient_type": anything,
        "type": anything,
        str(kind): CONTENT[kind],
    }
    addresses = {"to": anything, "recipient": anything}
    struct(required, {**addresses, **COMMON, **(MARKETING if marketing else {})})(body, ROOT)


def check_recipient(body: dict[str, Any], kind: str, sender: str) -> None:
    choice("individual", "group")(body.get("recipient_type"), "recipient_type")
    to, user_id = body.get("to"), body.get("recipient")
    if body["recipient_type"] == "group":
        text(512)(to or "", "to")
        if kind not in GROUP_TYPES:
            raise GraphError(131051, f"Message type {kind} is not supported in groups.")
    elif kind == "pin":
        raise GraphError(131009, "Pins are for groups only.")
    elif to is not None:  # where both are given, Meta takes `to`
        if not isinstance(to, str) or not PHONE.fullmatch(to):
            raise invalid("to", "must be a phone number with a leading plus")
        if to[1:] == sender:
            raise GraphError(131021)
    elif user_id is None:
        raise missing("to")
    elif not isinstance(user_id, str) or not BSUID.fullmatch(user_id):
        raise invalid("recipient", "must be a business-scoped user id")
