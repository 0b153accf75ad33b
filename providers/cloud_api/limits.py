"""What Meta refuses for certain, refused before anything is called.

Lengths count code points. Where Meta's pages disagree, the smaller limit counts.
Source: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages,
    https://developers.facebook.com/docs/whatsapp/cloud-api/reference/media (limits).
"""

from collections.abc import Iterable, Sequence
from functools import cache

from ..base import Pacing, Upload
from ..content import (
    Action,
    Audio,
    Button,
    Buttons,
    CallToAction,
    Carousel,
    CarouselCard,
    Contacts,
    Document,
    FlowAction,
    Image,
    Interactive,
    ListMenu,
    ListSection,
    MediaContent,
    OrderDetails,
    ProductCarousel,
    ProductList,
    ProductSection,
    Sticker,
    Text,
    Video,
    VoiceCall,
)
from ..errors import Rejected
from ..messages import MessageData

_MB = 1024 * 1024
_MAX_BYTES: dict[type[MediaContent], int] = {
    Image: 5 * _MB,
    Video: 16 * _MB,
    Audio: 16 * _MB,
    Document: 100 * _MB,
    Sticker: 500 * 1024,
}


def check(message: MessageData) -> None:
    """Return, or raise `Rejected` with a code that names the limit."""
    _at_most(512, message.correlation_id, "tracker")
    match message.content:
        case Text(body=body):
            _text(4096, body, "text")
        case MediaContent() as medium:
            check_medium(medium)
            _at_most(1024, medium.caption, "caption")
        case Contacts(contacts=cards):
            _count(1, 5, cards, "contacts")
        case Interactive() as interactive:
            _check_interactive(interactive)


def check_upload(upload: Upload) -> None:
    """The limit of the content that a file of this type is sent as. A WebP is a sticker, all else a document."""
    main, _, rest = upload.mime_type.partition("/")
    kinds: dict[str, type[MediaContent]] = {"image": Image, "video": Video, "audio": Audio}
    kind = Sticker if (main, rest) == ("image", "webp") else kinds.get(main, Document)
    _at_most_bytes(_MAX_BYTES[kind], upload.size_bytes)


def check_medium(medium: MediaContent) -> None:
    if not (medium.id or medium.url):
        raise Rejected("a medium needs an id or a URL", code="media_missing")
    if medium.size_bytes is not None:
        _at_most_bytes(_MAX_BYTES[type(medium)], medium.size_bytes)


def _at_most_bytes(limit: int, size: int) -> None:
    if size > limit:
        raise Rejected(f"the medium has more than {limit} bytes", code="media_too_large")


def _check_interactive(interactive: Interactive) -> None:
    if interactive.body is not None:
        _text(1024, interactive.body, "text")
    _at_most(60, interactive.footer, "footer")
    if isinstance(interactive.header, str):
        _text(60, interactive.header, "header")
    elif interactive.header is not None:
        check_medium(interactive.header)
    _check_action(interactive.action)


def _check_action(action: Action) -> None:
    match action:
        case Buttons(buttons=buttons):
            _check_buttons(buttons)
        case ListMenu() as menu:
            _check_list(menu)
        case CallToAction(title=title) | VoiceCall(title=title):
            _text(20, title, "button_title")
        case FlowAction() as flow:
            _check_flow(flow)
        case ProductList(sections=sections):
            _check_products(sections)
        case ProductCarousel(products=products):
            _count(2, 10, products, "cards")
        case Carousel(cards=cards):
            _check_cards(cards)
        case OrderDetails(details=details):
            _at_most(35, str(details.get("reference_id", "")), "reference_id")


def _check_buttons(buttons: Sequence[Button]) -> None:
    _count(1, 3, buttons, "buttons")
    _distinct((button.id for button in buttons), "button_id")
    _distinct((button.title for button in buttons), "button_title")
    for button in buttons:
        _text(256, button.id, "button_id")
        _text(20, button.title, "button_title")


def _check_flow(flow: FlowAction) -> None:
    _text(20, flow.cta, "button_title")
    if not (flow.flow_id or flow.flow_name):
        raise Rejected("a flow needs its id or its name", code="flow_missing")


def _check_products(sections: Sequence[ProductSection]) -> None:
    _count(1, 10, sections, "sections")
    _count(1, 30, [product for section in sections for product in section.products], "products")


def _check_cards(cards: Sequence[CarouselCard]) -> None:
    _count(2, 10, cards, "cards")
    for card in cards:
        _at_most(160, card.text, "card_text")


def _check_list(menu: ListMenu) -> None:
    rows = [row for section in menu.sections for row in section.rows]
    _text(20, menu.button, "button_title")
    _count(1, 10, menu.sections, "sections")
    _count(1, 10, rows, "rows")
    _distinct((row.id for row in rows), "row_id")
    _check_titles(menu.sections)
    for row in rows:
        _text(200, row.id, "row_id")
        _text(24, row.title, "row_title")
        _at_most(72, row.description, "row_description")


def _check_titles(sections: Sequence[ListSection]) -> None:
    for section in sections:
        if len(sections) > 1:
            _text(24, section.title or "", "section_title")
        _at_most(24, section.title, "section_title")


def _text(limit: int, value: str, name: str) -> None:
    if not value:
        raise Rejected(f"{name} is empty", code=f"{name}_empty")
    _at_most(limit, value, name)


def _at_most(limit: int, value: str | None, name: str) -> None:
    if value is not None and len(value) > limit:
        raise Rejected(f"{name} has more than {limit} characters", code=f"{name}_too_long")


def _count(least: int, most: int, values: Sequence[object], name: str) -> None:
    if len(values) < least:
        raise Rejected(f"{name}: at least {least}", code=f"too_few_{name}")
    if len(values) > most:
        raise Rejected(f"{name}: at most {most}", code=f"too_many_{name}")


def _distinct(values: Iterable[str], name: str) -> None:
    seen = list(values)
    if len(set(seen)) < len(seen):
        raise Rejected(f"{name} is used twice", code=f"duplicate_{name}")


@cache
def pacing(messages_per_second: int) -> Pacing | None:
    """Never more than that in any second, bursts included; to one person 45 at once and one every 6 s. 0: no limit.

    Source: https://developers.facebook.com/docs/whatsapp/cloud-api/overview (throughput, pair rate limits).
    """
    if not messages_per_second:
        return None
    burst = max(1, messages_per_second // 8)
    return Pacing(
        messages_per_minute=60 * max(1, messages_per_second - burst), burst=burst, contact_every_s=6.0, contact_burst=45
    )
