"""Messages to the WhatsApp Cloud API, and what it answers.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages,
    https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-message-templates.
"""

from typing import Any, Literal, get_args

from .._values import Object, contact_of, listed, phone, present, text, word
from .._verdicts import unsupported
from ..base import Response
from ..content import (
    Action,
    Audio,
    Carousel,
    Catalog,
    Contacts,
    Document,
    Image,
    Interactive,
    ListMenu,
    Location,
    LocationRequest,
    MediaContent,
    OutboundContent,
    Pin,
    Product,
    ProductCarousel,
    ProductList,
    Reaction,
    Sticker,
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

    Raises `Unsupported` for what this API cannot express and `Rejected` for what it surely refuses.
    """
    _check_expressible(message)
    limits.check(message)
    kind, content = _content(message.content)
    body: Object = {"messaging_product": "whatsapp", **_address(message.to), "type": kind, kind: content}
    if message.reply_to is not None:
        body["context"] = {"message_id": message.reply_to}
    # Echoed in every status of this message: the only way to learn what became of a send without an answer.
    body["biz_opaque_callback_data"] = message.correlation_id
    if isinstance(message.content, Template) and message.content.marketing:
        # An account that is not onboarded to the endpoint is served as by the plain one.
        extras = {"product_policy": "CLOUD_API_FALLBACK", "message_activity_sharing": True}
        return "marketing_messages", {**body, **extras}
    return "messages", body


def read_receipt(message_id: str, *, typing: bool) -> Object:
    body: Object = {"messaging_product": "whatsapp", "status": "read", "message_id": message_id}
    return {**body, "typing_indicator": {"type": "text"}} if typing else body


def message_result(response: Response, *, secrets: tuple[str | None, ...]) -> MessageResult:
    """The acceptance in *response*, or the `SendError` it means. Accepted is not delivered."""
    body = answer(response)
    message = _first(body, "messages")
    message_id = word(message, "id")
    if message_id is None or not 200 <= response.status < 300:
        raise send_error(response, secrets=secrets)
    contact = _first(body, "contacts")
    held = text(message, "message_status") in ("held_for_quality_assessment", "paused")
    return MessageResult(
        provider_message_id=message_id,
        status="held" if held else "sent",
        contact=contact_of(phone(contact.get("wa_id")), word(contact, "user_id")),
    )


def _first(body: Object, key: str) -> Object:
    values = listed(body, key)
    return values[0] if values and isinstance(values[0], dict) else {}


# ---------------------------------------------------------------- what can be expressed


def _check_expressible(message: MessageData) -> None:
    to, content = message.to, message.content
    in_group = to.phone is None and to.user_id is None and to.group_id is not None
    if in_group and not isinstance(content, _IN_GROUPS):
        raise unsupported("content_in_group", "groups take text, media, templates and pins")
    if not in_group and isinstance(content, Pin):
        raise unsupported("pin_outside_group", "only messages of groups can be pinned")
    if isinstance(content, Audio | Sticker) and content.caption:
        raise unsupported("caption", "neither audio nor stickers have a caption")
    if isinstance(content, Interactive):
        _check_parts(content)


def _check_parts(interactive: Interactive) -> None:
    action, header = interactive.action, interactive.header
    if interactive.footer is not None and isinstance(action, _WITHOUT_FOOTER):
        raise unsupported("footer", "this kind of message has no footer")
    if header is not None and isinstance(action, _WITHOUT_HEADER):
        raise unsupported("header", "this kind of message has no header")
    if isinstance(action, _WITH_TEXT_HEADER) and isinstance(header, MediaContent):
        raise unsupported("header", "the header of this kind of message is a text")
    if isinstance(action, ProductList) and header is None:
        raise Rejected("a product list needs a header", code="header_empty")
    if interactive.body is None and not isinstance(action, Product):
        raise Rejected("the message needs a body", code="text_empty")


_WITHOUT_FOOTER = (LocationRequest, Carousel, ProductCarousel)
_WITHOUT_HEADER = (LocationRequest, Carousel, ProductCarousel, Product, Catalog)
_WITH_TEXT_HEADER = (ListMenu, ProductList)


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
        case Image() | Video():
            return kind_of(content), {**file_of(content), **present(caption=content.caption)}
        case Audio():
            return "audio", {**file_of(content), **present(voice=content.voice or None)}
        case Document():
            return "document", _document(content)
        case Sticker():
            return "sticker", file_of(content)
        case Location():
            return "location", present(
                latitude=content.latitude,
                longitude=content.longitude,
                name=content.name,
                address=content.address,
            )
        case Contacts(contacts=cards):
            return "contacts", cards
        case Reaction(message_id=message_id, emoji=emoji):
            return "reaction", {"message_id": message_id, "emoji": emoji or ""}
        case Interactive():
            return "interactive", interactive(content)
        case Template():
            language = {"code": content.language}
            return "template", present(name=content.name, language=language, components=content.components)
        case Pin():
            return "pin", present(
                type=content.action,
                message_id=content.message_id,
                expiration_days=content.expiration_days,
            )


def _document(document: Document) -> Object:
    return {**file_of(document), **present(filename=document.filename, caption=document.caption)}
