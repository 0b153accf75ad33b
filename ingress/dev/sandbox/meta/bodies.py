"""Webhook bodies as Meta writes them, and the bytes and signature they travel with.

Ids come from a generator that may be seeded: the same seed gives the same bodies, but for their time.
"""

import base64
import hashlib
import hmac
import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec

from .errors import status_error

Body = dict[str, Any]
# Stores the bytes of a medium, given their type; returns (media id, URL to download it from).
MediaStore = Callable[[bytes, str], tuple[str, str]]


class MetaNumber(msgspec.Struct, frozen=True, kw_only=True):
    """One business number with everything that the gateway's configuration of it needs."""

    phone_number_id: str
    waba_id: str
    display_phone_number: str  # E.164, with the plus
    access_token: str
    app_secret: str
    verify_token: str
    app_id: str
    webhook_url: str | None = None  # the app's callback; None: not set in the dashboard
    registered: bool = True  # with the Cloud API, at first
    pin: str | None = None  # of two-step verification; None: the first that it is registered with

    @property
    def digits(self) -> str:
        return re.sub(r"\D", "", self.display_phone_number)

    def config_data(self, base_url: str) -> dict[str, Any]:
        """The same as `POST …/provider/configure` wants it. A simulator takes as many messages as come."""
        return {
            "phone_number_id": self.phone_number_id,
            "waba_id": self.waba_id,
            "access_token": self.access_token,
            "app_secret": self.app_secret,
            "verify_token": self.verify_token,
            "display_phone_number": self.display_phone_number,
            "base_url": base_url,
            **({} if self.pin is None else {"pin": self.pin}),
            "messages_per_second": 0,
        }


def example_number(index: int = 1, webhook_url: str | None = None) -> MetaNumber:
    """An invented number, a different one for each *index*. All share nothing but their shape."""
    return MetaNumber(
        phone_number_id=str(106540352240000 + index),
        waba_id=str(210987654320000 + index),
        display_phone_number=f"+1555{index:07d}",
        access_token=f"EAAG-sandbox-token-{index}",
        app_secret=hashlib.md5(f"app {index}".encode(), usedforsecurity=False).hexdigest(),
        verify_token=f"verify-{index}",
        app_id=str(550987654320000 + index),
        webhook_url=webhook_url,
    )


def encode(body: Body) -> bytes:
    """*body* in Meta's own spelling: compact, ASCII with lower-case escapes, and ``/`` as ``\\/``."""
    return json.dumps(body, separators=(",", ":")).replace("/", "\\/").encode()


def signature(app_secret: str, raw: bytes) -> str:
    """The value of ``X-Hub-Signature-256`` for these bytes."""
    return "sha256=" + hmac.digest(app_secret.encode(), raw, "sha256").hex()


def signed_headers(app_secret: str, raw: bytes) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "User-Agent": "facebookexternalua",
        "X-Hub-Signature-256": signature(app_secret, raw),
    }


def new_wamid(rng: random.Random) -> str:
    """The id of a message of a random person."""
    return wamid_of(f"55119{rng.randrange(10**8):08}", rng.randbytes(10).hex().upper())


def wamid_of(address: str, token: str) -> str:
    """The id of the message *token* that names a person by *address*, made as Meta's are: one that was sent to us."""
    parts = b"\x1c\x18%c%b\x15\x02\x00\x12\x18%c%b\x00" % (len(address), address.encode(), len(token), token.encode())
    return f"wamid.{base64.b64encode(parts).decode()}"


def user_id_of(phone: str) -> str:
    """The business-scoped id that stands for *phone* everywhere in the sandbox."""
    digest = hashlib.sha256(re.sub(r"\D", "", phone).encode()).hexdigest()
    return f"BR.{int(digest[:14], 16)}"


def envelope(*changes: tuple[MetaNumber, Body]) -> Body:
    """One POST with an entry per change: (number, its ``value`` without metadata)."""
    return {
        "object": "whatsapp_business_account",
        "entry": [
            {"id": number.waba_id, "changes": [{"value": {**metadata(number), **value}, "field": "messages"}]}
            for number, value in changes
        ],
    }


def metadata(number: MetaNumber) -> Body:
    return {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": number.digits, "phone_number_id": number.phone_number_id},
    }


def status_item(
    wamid: str, status: str, sent_body: Body, *, at: float | None = None, failed_code: int = 131026
) -> Body:
    """One status of the message that was sent with *sent_body*.

    Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages/status
    """
    item: Body = {"id": wamid, "status": status, "timestamp": str(int(at or time.time()))}
    if sent_body.get("recipient_type") == "group":
        item |= {"recipient_id": sent_body["to"], "recipient_type": "group"}
    elif "to" in sent_body:
        item |= {"recipient_id": sent_body["to"][1:], "recipient_user_id": user_id_of(sent_body["to"])}
    else:
        item |= {"recipient_user_id": sent_body["recipient"]}
    if "biz_opaque_callback_data" in sent_body:
        item["biz_opaque_callback_data"] = sent_body["biz_opaque_callback_data"]
    if status in ("sent", "delivered"):
        template = sent_body.get("type") == "template"
        item["pricing"] = {
            "billable": template,
            "pricing_model": "PMP",
            "type": "regular" if template else "free_customer_service",
            "category": "utility" if template else "service",
        }
    if status == "failed":
        item["errors"] = [status_error(failed_code)]
    return item


def statuses_value(items: list[Body]) -> Body:
    """A ``value`` with these statuses; contacts stand beside all but failed ones, as Meta has it."""
    contacts = [
        {
            "profile": {"name": "Sandbox User"},
            "wa_id": item["recipient_id"],
            "user_id": item["recipient_user_id"],
        }
        for item in items
        if item["status"] != "failed" and "recipient_id" in item and "recipient_user_id" in item
    ]
    return {"contacts": contacts[:1], "statuses": items} if contacts else {"statuses": items}


def message_ids(body: Body) -> list[str]:
    """The wamids of all inbound messages of *body*, in order."""
    return [
        message["id"]
        for entry in body["entry"]
        for change in entry["changes"]
        for message in change["value"].get("messages", [])
    ]


def merged(*bodies: Body) -> Body:
    """One POST that carries all of them, each in its own entry."""
    return {**bodies[0], "entry": [entry for body in bodies for entry in body["entry"]]}
