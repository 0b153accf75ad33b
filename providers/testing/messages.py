"""One message of every kind there is, for trying what a provider can express."""

from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from ..content import Action, OutboundContent
from ..limits import measured
from ..messages import MessageData, Recipient

PHONE = "+5511987654321"
_FILE = "https://files.example.com/file"
_SHOP = "https://shop.example.com"
_CARD = {"image_url": f"{_FILE}.jpg", "text": "One", "title": "See", "url": _SHOP}

_CONTENTS: dict[str, dict[str, Any]] = {
    "text": {"body": "Hello"},
    "image": {"url": f"{_FILE}.jpg"},
    "video": {"url": f"{_FILE}.mp4"},
    "audio": {"url": f"{_FILE}.ogg"},
    "document": {"url": f"{_FILE}.pdf", "filename": "file.pdf"},
    "sticker": {"url": f"{_FILE}.webp"},
    "location": {"latitude": -23.5, "longitude": -46.6, "name": "Office"},
    "contacts": {"contacts": [{"name": {"formatted_name": "Ana", "first_name": "Ana"}, "phones": [{"phone": PHONE}]}]},
    "reaction": {"message_id": "m1", "emoji": "👍"},
    "template": {"name": "hello_world", "language": "en"},
    "pin": {"message_id": "m1"},
}
_ACTIONS: dict[str, dict[str, Any]] = {
    "buttons": {"buttons": [{"id": "1", "title": "Yes"}]},
    "list": {"button": "Choose", "sections": [{"rows": [{"id": "1", "title": "Yes"}]}]},
    "cta_url": {"title": "See", "url": _SHOP},
    "flow": {"cta": "Start", "flow_id": "1", "token": "t"},
    "location_request": {},
    "contact_request": {},
    "call_permission_request": {},
    "address_request": {"country": "IN"},
    "voice_call": {"title": "Call"},
    "product": {"catalog_id": "1", "product_id": "p1"},
    "product_list": {"catalog_id": "1", "sections": [{"title": "All", "products": ["p1"]}]},
    "product_carousel": {"catalog_id": "1", "products": ["p1", "p2"]},
    "catalog": {"thumbnail_product_id": "p1"},
    "carousel": {"cards": [_CARD, _CARD]},
    "order_details": {"details": {"reference_id": "r1"}},
    "order_status": {"details": {"reference_id": "r1"}},
}


def _tags(union: Any) -> list[str]:
    return [str(kind.__struct_config__.tag) for kind in get_args(union)]


ACTIONS = _tags(Action)
# Content types, and the actions of what is interactive.
KINDS = [*(tag for tag in _tags(OutboundContent) if tag != "interactive"), *ACTIONS]


def example(kind: str) -> MessageData:
    """A message of *kind*: a content type, or the action of an interactive message."""
    if kind in ACTIONS:
        flat: dict[str, Any] = {"type": "interactive", "body": "Hello", "action": {"type": kind, **_ACTIONS[kind]}}
        if kind == "product_list":
            flat["header"] = "Our products"
    else:
        flat = {"type": kind, **_CONTENTS[kind]}
    # Messages are pinned in groups only.
    to = Recipient(group_id="g1") if kind == "pin" else Recipient(phone=PHONE)
    content: Any = msgspec.convert(flat, OutboundContent)
    return MessageData(to=to, content=content, organization_id="org-1", correlation_id="send-1")


# ---------------------------------------------------------------- of a certain size

# What may be missing in an example, and has a limit.
_TEXTS = ("caption", "header", "footer", "title", "description", "name", "address", "payload")
_NUMBERS = ("size_bytes", "ttl_minutes")


def sized(message: MessageData, part: str, size: int) -> MessageData | None:
    """*message* with one *part*, as `limits.measured` calls it, of that *size*. None where it cannot have one."""
    flat: dict[str, Any] = msgspec.to_builtins(message.content)
    if flat["type"] == "template":
        where, _, kind = part.removesuffix("_characters").partition("_")
        parameter = {"type": kind, kind: "x" * size, "parameter_name": "1"}
        flat["components"] = [{"type": where, "parameters": [parameter]}]
        found: Iterator[Any] = iter([flat])
    elif part.endswith("_characters"):
        found = _replaced(flat, str, _TEXTS, "x" * size)
    elif part in ("file_bytes", "ttl_minutes"):
        found = _replaced(flat, int, _NUMBERS, size)
    else:
        found = _replaced(flat, list, (), size)
    for changed in found:
        try:
            content: Any = msgspec.convert(changed, OutboundContent)
        except msgspec.ValidationError:
            continue
        if (part, size) in measured(content):
            return msgspec.structs.replace(message, content=content)
    return None


def _replaced(value: Any, kind: type, missing: tuple[str, ...], by: Any) -> Iterator[Any]:
    """*value* with one of *kind* in it replaced, or one of *missing* added: each in turn, the inner ones first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        for changed in _replaced(item, kind, missing, by):
            copy = value.copy()
            copy[key] = changed
            yield copy
    if isinstance(value, dict):
        yield from ({**value, key: by} for key in missing if key not in value)
    if isinstance(value, list) and kind is list:
        yield [_numbered(value[0], number) for number in range(by)]
    elif isinstance(value, kind):
        yield by


def _numbered(value: Any, number: int) -> Any:
    """*value* as one of several, which differ in ids and titles."""
    if isinstance(value, dict):
        names = {key: f"{number}" for key in ("id", "title") if key in value}
        return {key: _numbered(item, number) for key, item in value.items()} | names
    return [_numbered(item, number) for item in value] if isinstance(value, list) else value
