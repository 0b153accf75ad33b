"""Messages to the WhatsApp Cloud API, and what it answers.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages,
    https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-message-templates.
"""

from typing import Any, Literal, get_args

from .._values import Object, contact_of, listed, phone, present, text, word
from .._verdicts import Secrets, unsupported
from ..base import Response
from ..content import (
    Action,
    Audio,
    Contacts,
    Document,
    Image,
    Interactive,
    Location,
    MediaContent,
    OutboundContent,
    Pin,
    Product,
    ProductList,
    Reaction,
    Template,
    Text,
    Video,
)
from ..errors import Rejected
from ..messages import MessageData, MessageResult, Recipient
from . import limits
from .errors import answer, send_error
from .interactive import file_of, interactive, kind_of

Edge = Literal["messages", "marketing_messages"]

# What can be sent: the tags of all content types and of all actions.
KINDS = frozenset(str(kind.__struct_config__.tag) for kind in (*get_args(OutboundContent), *get_args(Action)))

_IN_GROUPS = (Text, MediaContent, Template, Pin)


def message_request(message: MessageData) -> tuple[Edge, Object]:
    """Where *message* is posted, under the number, and the body.

    Raises `Unsupported` for what this API cannot express and `Rejected` for what nobody can send. The provider holds
    its content against `LIMITS` before.
    """
    content, address = message.content, _address(message.to)
    _check_expressible(content, address["recipient_type"])
    limits.check(message)
    kind, described = _content(content)
    body: Object = {
        "messaging_product": "whatsapp",
        **address,
        "type": kind,
        kind: described,
        # Echoed in every status of this message: the only way to learn what became of a send without an answer.
        "biz_opaque_callback_data": message.correlation_id,
    }
    if message.reply_to is not None:
        body["context"] = {"message_id": message.reply_to}
    if isinstance(content, Template) and content.marketing:
        return "marketing_messages", body | _MARKETING
    return "messages", body


# An account that is not onboarded to the endpoint is served as by the plain one.
_MARKETING = {"product_policy": "CLOUD_API_FALLBACK", "message_activity_sharing": True}


def read_receipt(message_id: str, *, typing: bool) -> Object:
    body: Object = {"messaging_product": "whatsapp", "status": "read", "message_id": message_id}
    return {**body, "typing_indicator": {"type": "text"}} if typing else body


def message_result(response: Response, *, secrets: Secrets) -> MessageResult:
    """The acceptance in *response*, or the `SendError` it means. Accepted is not delivered."""
    body = answer(response)
    message = _first(body, "messages")
    message_id = word(message, "id")
    if message_id is None or not 200 <= response.status < 300:
        raise send_error(response, secrets=secrets)
    contact = _first(body, "contacts")
    return MessageResult(
        provider_message_id=message_id,
        status="held" if text(message, "message_status") in _HELD else "sent",
        contact=contact_of(phone(contact.get("wa_id")), word(contact, "user_id")),
    )


_HELD = ("held_for_quality_assessment", "paused")


def _first(body: Object, key: str) -> Object:
    values = listed(body, key)
    return values[0] if values and isinstance(values[0], dict) else {}


# ---------------------------------------------------------------- what can be expressed


def _check_expressible(content: OutboundContent, recipient_type: str) -> None:
    in_group = recipient_type == "group"
    if in_group and not isinstance(content, _IN_GROUPS):
        raise unsupported("content_in_group", "groups take text, media, templates and pins")
    if not in_group and isinstance(content, Pin):
        raise unsupported("pin_outside_group", "only messages of groups can be pinned")
    if isinstance(content, Interactive):
        if isinstance(content.action, ProductList) and content.header is None:
            raise Rejected("a product list needs a header", code="header_empty")
        if content.body is None and not isinstance(content.action, Product):
            raise Rejected("the message needs a body", code="text_empty")


def _address(to: Recipient) -> Object:
    """The phone is preferred: it keeps the number visible in webhooks."""
    if to.phone is not None:
        return {"recipient_type": "individual", "to": to.phone}
    if to.user_id is not None:
        return {"recipient_type": "individual", "recipient": to.user_id}
    if to.group_id is not None:
        return {"recipient_type": "group", "to": to.group_id}
    raise unsupported("recipient", "a phone, a business-scoped user id or a group is needed")


# ---------------------------------------------------------------- content


def _content(content: OutboundContent) -> tuple[str, Any]:
    """Meta's type and object for *content*."""
    match content:
        case Text(body=body, preview_url=preview):
            return "text", {"body": body, "preview_url": True} if preview else {"body": body}
        case MediaContent():
            return kind_of(content), file_of(content) | _label(content)
        case Location():
            return "location", present(**{name: getattr(content, name) for name in _PLACE})
        case Contacts(contacts=cards):
            return "contacts", cards
        case Reaction(message_id=message_id, emoji=emoji):
            return "reaction", {"message_id": message_id, "emoji": emoji or ""}
        case Interactive():
            return "interactive", interactive(content)
        case Template(name=name, language=language, components=components):
            return "template", present(name=name, language={"code": language}, components=components)
        case Pin(action=action, message_id=message_id, expiration_days=days):
            return "pin", present(type=action, message_id=message_id, expiration_days=days)


_PLACE = ("latitude", "longitude", "name", "address")


def _label(medium: MediaContent) -> Object:
    """What stands beside a file; neither audio nor stickers have a caption."""
    match medium:
        case Image() | Video():
            return present(caption=medium.caption)
        case Document():
            return present(filename=medium.filename, caption=medium.caption)
        case Audio():
            return present(voice=medium.voice or None)
        case _:
            return {}
