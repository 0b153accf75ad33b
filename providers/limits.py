"""What a provider takes at most, in numbers: shown to people, and held against a message before anything is called.

Lengths count Unicode code points, as far as anybody knows how these providers count. Where Twilio counts an emoji as
two, its own refusal (21617) means the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ._values import objects, text
from .content import (
    Action,
    Audio,
    Button,
    Buttons,
    CallToAction,
    Carousel,
    Contacts,
    FlowAction,
    Interactive,
    ListMenu,
    Location,
    MediaContent,
    OrderDetails,
    OutboundContent,
    ProductCarousel,
    ProductList,
    Sticker,
    Template,
    Text,
    VoiceCall,
)
from .errors import Rejected, Unsupported

# Kinds within a kind, with limits of their own beside those of the whole kind.
VARIANTS = {"voice": "audio", "static_sticker": "sticker"}

# What must not be empty where it has a limit.
_NEEDED = {
    "text_characters", "header_characters", "button_title_characters", "button_id_characters", "row_id_characters",
    "row_title_characters", "buttons", "sections", "rows", "products", "contacts",
}  # fmt: skip

OPUS = "audio/ogg; codecs=opus"
_OGG = ("audio/ogg", "audio/opus", "application/ogg")
# Other names of the same types; browsers and phones write them.
_NAMES = {
    "audio/mp3": "audio/mpeg",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "audio/x-aac": "audio/aac",
    "image/jpg": "image/jpeg",
    "video/3gp": "video/3gpp",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one kind of message at one provider. What is not named here is not limited, as far as ``source`` says.

    ``at_most`` and ``at_least`` are by what `measured` calls the parts of a message. 0: there is no such part.
    """

    source: str  # the provider's page that says so
    at_most: dict[str, int] = {}
    at_least: dict[str, int] = {}
    mime_types: tuple[str, ...] | None = None  # None: any
    headers: tuple[str, ...] | None = None  # kinds of header: `text`, `image`, …; None: any

    def least(self, part: str) -> int:
        return self.at_least.get(part, int(part in _NEEDED and self.at_most.get(part) != 0))


def _check_kind(content: OutboundContent, kind: str, limits: Limits, provider: str) -> None:
    _check_sizes(content, limits, provider)
    _check_headers(content, limits, f"{provider} with {kind}")
    if isinstance(content, MediaContent):
        _check_type(content, limits, f"{provider} as {kind}")


def check(content: OutboundContent, limits: Mapping[str, Limits], provider: str) -> None:
    """Return where *provider*, by its name for people, takes *content*.

    Else `Unsupported`, which says by how much: another provider may take it. `Rejected` for what none could.
    """
    for kind in kinds_of(content):
        if found := limits.get(kind):
            _check_kind(content, kind, found, provider)
    header = content.header if isinstance(content, Interactive) else None
    if isinstance(header, MediaContent):
        check(header, limits, provider)


def kind_of(content: OutboundContent) -> str:
    """The tag of *content*, or of the action of what is interactive: as capabilities name it."""
    part: OutboundContent | Action = content.action if isinstance(content, Interactive) else content
    return str(part.__struct_config__.tag)


def kinds_of(content: OutboundContent) -> Iterator[str]:
    """Its kind, and the kind within that it is of."""
    yield kind_of(content)
    if isinstance(content, Audio) and content.voice:
        yield "voice"
    if isinstance(content, Sticker) and content.animated is False:
        yield "static_sticker"


def named(mime_type: str) -> str:
    """*mime_type* by the name that WhatsApp takes: Ogg that does not say what is in it is Opus, the only one there."""
    essence, _, parameters = (part.strip().lower() for part in mime_type.partition(";"))
    if essence in _OGG:
        return OPUS if "codecs" not in parameters or "opus" in parameters else mime_type
    return _NAMES.get(essence, mime_type)


def _check_sizes(content: OutboundContent, limits: Limits, provider: str) -> None:
    for part, size in measured(content):
        if (most := limits.at_most.get(part)) is None or (least := limits.least(part)) <= size <= most:
            continue
        name = part.removesuffix("_characters").removesuffix("_bytes")
        words, unit = name.replace("_", " "), part[len(name) :].replace("_", " ")
        if most == 0:
            raise _lacking(name, f"{provider} has no {words} in a message of this kind")
        bound = f"at most {most:,}" if size > most else f"at least {least:,}"
        # Nothing at all is too little for everybody.
        error = Unsupported if size else Rejected
        raise error(f"{words}: {size:,}{unit}, and {provider} takes {bound}", code=_code(part, name, size > most))


def _lacking(part: str, detail: str) -> Unsupported:
    return Unsupported(detail, code=f"{part}_unsupported")


def _code(part: str, name: str, too_much: bool) -> str:
    if part == "file_bytes":
        return "media_too_large"
    if part != name:
        return f"{name}_{'too_long' if too_much else 'empty'}"
    return f"too_{'many' if too_much else 'few'}_{name}"


def _check_headers(content: OutboundContent, limits: Limits, where: str) -> None:
    if limits.headers is None:
        return
    for kind in _headers(content):
        if kind not in limits.headers:
            taken = ", ".join(limits.headers) or "none"
            raise _lacking("header", f"{where}: no header of the kind {kind}; there is {taken}")


def _headers(content: OutboundContent) -> Iterator[str]:
    if isinstance(content, Interactive) and content.header is not None:
        yield "text" if isinstance(content.header, str) else kind_of(content.header)
    if isinstance(content, Template):
        yield from (kind for component, kind, _ in _parameters(content) if component == "header")


def _check_type(medium: MediaContent, limits: Limits, where: str) -> None:
    """The type that whoever sends it says: nobody has seen the file."""
    if medium.mime_type is None or limits.mime_types is None:
        return
    name = named(medium.mime_type)
    if not {name, name.partition(";")[0].strip().lower()} & {*limits.mime_types}:
        raise _lacking("mime_type", f"{where}: {', '.join(limits.mime_types)}, and not {name}")


# ---------------------------------------------------------------- how large a message is


def measured(content: OutboundContent) -> Iterator[tuple[str, int]]:
    """The parts of *content* that are there, and how large each is: of several alike, each."""
    match content:
        case Text(body=body):
            yield "text_characters", len(body)
        case MediaContent(caption=caption, size_bytes=size):
            yield from _lengths(caption=caption)
            yield from [] if size is None else [("file_bytes", size)]
        case Location(name=name, address=address):
            yield from _lengths(name=name, address=address)
        case Contacts(contacts=cards):
            yield "contacts", len(cards)
        case Template():
            for component, kind, value in _parameters(content):
                yield from _lengths(**{f"{component}_{kind}": value})
        case Interactive(body=body, header=header, footer=footer, action=action):
            yield from _lengths(text=body, header=header if isinstance(header, str) else None, footer=footer)
            yield from _measured_action(action)


def _measured_action(action: Action) -> Iterator[tuple[str, int]]:
    match action:
        case Buttons(buttons=buttons):
            yield "buttons", len(buttons)
            yield from _measured_titles(buttons)
        case ListMenu():
            yield from _measured_list(action)
        case CallToAction(title=title) | FlowAction(cta=title):
            yield from _lengths(button_title=title)
        case VoiceCall(title=title, payload=payload, ttl_minutes=minutes):
            yield from _lengths(button_title=title, payload=payload)
            yield from [] if minutes is None else [("ttl_minutes", minutes)]
        case ProductList(sections=sections):
            yield "sections", len(sections)
            yield "products", sum(len(section.products) for section in sections)
        case ProductCarousel(products=cards):
            yield "cards", len(cards)
        case Carousel(cards=cards):
            yield "cards", len(cards)
            for card in cards:
                yield from _lengths(card_text=card.text, button_title=card.title)
                yield from _measured_titles(card.buttons)
        case OrderDetails(details=details):
            yield from _lengths(reference_id=text(details, "reference_id"))


def _measured_titles(buttons: list[Button]) -> Iterator[tuple[str, int]]:
    for button in buttons:
        yield from _lengths(button_title=button.title, button_id=button.id)


def _measured_list(menu: ListMenu) -> Iterator[tuple[str, int]]:
    yield from _lengths(button_title=menu.button)
    yield "sections", len(menu.sections)
    yield "rows", sum(len(section.rows) for section in menu.sections)
    for section in menu.sections:
        yield from _lengths(section_title=section.title)
        for row in section.rows:
            yield from _lengths(row_id=row.id, row_title=row.title, row_description=row.description)


def _lengths(**texts: Any) -> Iterator[tuple[str, int]]:
    return ((f"{name}_characters", len(value)) for name, value in texts.items() if isinstance(value, str))


def _parameters(template: Template) -> Iterator[tuple[str, str, Any]]:
    """Of each parameter of *template*: where it stands, its kind, its value."""
    for component in template.components:
        where = (text(component, "type") or "").lower()
        for parameter in objects(component, "parameters"):
            kind = text(parameter, "type") or ""
            yield where, kind, parameter.get(kind)
