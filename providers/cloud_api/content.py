"""What a message of the WhatsApp Cloud API says, in our words.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/components#messages-object.
"""

from collections.abc import Callable
from typing import Any

from .. import _json
from .._values import (
    UNREADABLE,
    Object,
    Unreadable,
    decimal,
    first_phone,
    flag,
    is_user_id,
    listed,
    mapping,
    moment,
    number,
    place,
    required,
    safe_filename,
    text,
    word,
)
from ..content import (
    Audio,
    ButtonReply,
    CallPermissionReply,
    Contacts,
    Content,
    Document,
    FlowReply,
    Image,
    ListReply,
    Location,
    Order,
    OrderItem,
    Reaction,
    Sticker,
    System,
    Text,
    UnknownContent,
    UnsupportedContent,
    Video,
)


def content_of(message: Object) -> Content:
    """The content of *message*; `UnknownContent` where its type is new or its object is not readable."""
    kind = text(message, "type") or ""
    read = _READERS.get(kind)
    if read is None:
        return UnknownContent(raw_type=kind)
    try:
        return read(message)
    except UNREADABLE:
        return UnknownContent(raw_type=kind)


def _text(message: Object) -> Content:
    body = message["text"]["body"]
    if not isinstance(body, str):
        raise Unreadable("text.body")
    return Text(body=body)


def _medium(message: Object) -> Object:
    """The media object. It is missing where ``errors`` say that the medium was lost (131052)."""
    medium = message.get(message["type"])
    if isinstance(medium, dict):
        return medium
    if message.get("errors"):
        return {}
    raise Unreadable(message["type"])


def _file(medium: Object) -> dict[str, Any]:
    return {name: word(medium, name) for name in ("id", "url", "mime_type", "sha256")}


def _image(message: Object) -> Content:
    medium = _medium(message)
    return Image(**_file(medium), caption=text(medium, "caption"))


def _video(message: Object) -> Content:
    medium = _medium(message)
    return Video(**_file(medium), caption=text(medium, "caption"))


def _audio(message: Object) -> Content:
    medium = _medium(message)
    return Audio(**_file(medium), voice=flag(medium, "voice"))


def _voice(message: Object) -> Content:
    """A legacy form of a voice note."""
    return Audio(**_file(_medium(message)), voice=True)


def _document(message: Object) -> Content:
    medium = _medium(message)
    name = safe_filename(text(medium, "filename"))
    return Document(**_file(medium), filename=name, caption=text(medium, "caption"))


def _sticker(message: Object) -> Content:
    medium = _medium(message)
    return Sticker(**_file(medium), animated=flag(medium, "animated"))


def _location(message: Object) -> Content:
    location = message["location"]
    latitude, longitude = place(location, "latitude", "longitude")
    labels = {name: text(location, name) for name in ("name", "address", "url")}
    return Location(latitude=latitude, longitude=longitude, **labels)


def _contacts(message: Object) -> Content:
    cards = [card for card in message["contacts"] if isinstance(card, dict)]
    if not cards:
        raise Unreadable("contacts")
    origins = [text(holder, "origin") for holder in (message, *cards)]
    return Contacts(contacts=cards, origin=next(filter(None, origins), None))


def _reaction(message: Object) -> Content:
    reaction = message["reaction"]
    # A missing emoji and an empty one both take the reaction back.
    return Reaction(message_id=required(reaction, "message_id"), emoji=text(reaction, "emoji") or None)


def _button(message: Object) -> Content:
    """A quick reply of a template. Its payload is the label if none was set at send time."""
    button = message["button"]
    title = text(button, "text") or required(button, "payload")
    return ButtonReply(id=word(button, "payload") or title, title=title, source="template")


def _interactive(message: Object) -> Content:
    interactive = message.get("interactive")
    if interactive is None:
        # Seen beside the value error "Unsupported webhook payload".
        return UnsupportedContent(kind="interactive")
    kind = required(interactive, "type")
    read = _INTERACTIVE_READERS.get(kind)
    if read is None:
        return UnknownContent(raw_type=f"interactive.{kind}")
    try:
        return read(interactive[kind])
    except UNREADABLE:
        return UnknownContent(raw_type=f"interactive.{kind}")


def _button_reply(reply: Object) -> Content:
    return ButtonReply(id=required(reply, "id"), title=text(reply, "title") or "", source="interactive")


def _list_reply(reply: Object) -> Content:
    return ListReply(id=required(reply, "id"), title=text(reply, "title") or "", description=text(reply, "description"))


def _flow_reply(reply: Object) -> Content:
    answer = reply["response_json"]
    written = answer if isinstance(answer, str) else bytes(_json.raw(answer)).decode()
    return FlowReply(raw=written, name=text(reply, "name"), body=text(reply, "body"), data=_json.object_in(written))


def _call_permission(reply: Object) -> Content:
    return CallPermissionReply(
        response=required(reply, "response"),
        is_permanent=flag(reply, "is_permanent"),
        expires_at=moment(reply.get("expiration_timestamp")),
        source=text(reply, "response_source"),
    )


def _order(message: Object) -> Content:
    order = message["order"]
    return Order(
        catalog_id=required(order, "catalog_id"),
        items=[_order_item(item) for item in listed(order, "product_items")],
        text=text(order, "text") or None,
    )


def _order_item(item: Object) -> OrderItem:
    price = decimal(item["item_price"])
    if price is None:
        raise Unreadable("item_price")
    return OrderItem(
        product_id=required(item, "product_retailer_id"),
        quantity=int(number(item, "quantity")),
        unit_price=price,
        currency=required(item, "currency"),
    )


_SYSTEM_EVENTS = {
    "user_changed_number": "number_changed",
    "customer_changed_number": "number_changed",
    "user_changed_user_id": "user_id_changed",
    "customer_identity_changed": "identity_changed",
}


def _system(message: Object) -> Content:
    """News about the person. The body is English text for people: nothing is parsed out of it."""
    system = message["system"]
    event = required(system, "type")
    event = _SYSTEM_EVENTS.get(event, event)
    return System(
        event=event,
        body=text(system, "body"),
        old_phone=first_phone(message.get("from"), system.get("customer")) if event == "number_changed" else None,
        new_phone=first_phone(system.get("new_wa_id"), system.get("wa_id")),
        old_user_id=_user_id(system, "previous_user_id"),
        new_user_id=_user_id(system, "user_id"),
        identity_hash=word(mapping(message, "identity"), "hash"),
    )


def _user_id(holder: Object, key: str) -> str | None:
    value = text(holder, key)
    return value if is_user_id(value) else None


# What somebody writes, beside the types that are read. The list is closed: who pins or keeps a message writes nothing.
_WRITTEN = {
    *(None, "errors", "gif", "group_invite", "hsm", "link_preview", "list", "media_placeholder", "poll"),
    *("poll_creation", "poll_update", "product"),
}


def _unsupported(message: Object) -> Content:
    kind = text(mapping(message, "unsupported"), "type")
    is_written = kind in _WRITTEN or kind in _READERS
    return UnsupportedContent(kind=kind) if is_written else UnknownContent(raw_type=f"unsupported.{kind}")


def _ephemeral(message: Object) -> Content:
    """A disappearing message, in a form of the retired API."""
    return UnsupportedContent(kind="ephemeral")


_READERS: dict[str, Callable[[Object], Content]] = {
    "text": _text,
    "image": _image,
    "video": _video,
    "audio": _audio,
    "voice": _voice,
    "document": _document,
    "sticker": _sticker,
    "location": _location,
    "contacts": _contacts,
    "reaction": _reaction,
    "button": _button,
    "interactive": _interactive,
    "order": _order,
    "system": _system,
    "unsupported": _unsupported,
    "unknown": _unsupported,
    "ephemeral": _ephemeral,
}

_INTERACTIVE_READERS: dict[str, Callable[[Object], Content]] = {
    "button_reply": _button_reply,
    "list_reply": _list_reply,
    "nfm_reply": _flow_reply,
    "call_permission_reply": _call_permission,
}
