"""What Meta takes at most, and what it refuses for certain, whoever else were asked.

Lengths count code points. Where Meta's pages disagree, the smaller limit counts.
"""

from collections.abc import Iterable
from functools import cache

from ..base import Upload
from ..content import (
    Action,
    Audio,
    Buttons,
    Document,
    FlowAction,
    Image,
    Interactive,
    ListMenu,
    MediaContent,
    Sticker,
    Video,
)
from ..description import Pacing
from ..errors import Rejected, Unsupported
from ..limits import OPUS, Limits
from ..messages import MessageData

_KB, _MB = 1024, 1024 * 1024
_PAGES = "https://developers.facebook.com/documentation/business-messaging/whatsapp/messages"
_STICKERS = f"{_PAGES}/sticker-messages"
_MESSAGES = "https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages"
_MEDIA = "https://developers.facebook.com/docs/whatsapp/cloud-api/reference/media#supported-media-types"
_TEMPLATES = "https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-message-templates"

_MAX_TRACKER = 512
_ANY_HEADER = ("text", "image", "video", "document")
# Of what the pages call interactive, and of what has neither header nor footer.
_TAPPED = {"text_characters": 1024, "header_characters": 60, "footer_characters": 60}
_PLAIN = {"text_characters": 1024, "footer_characters": 0}
_TITLE = {"button_title_characters": 20}


def _interactive(
    most: dict[str, int] | None = None, headers: tuple[str, ...] | None = None, source: str = _MESSAGES
) -> Limits:
    tapped = {part: size for part, size in _TAPPED.items() if part != "header_characters" or headers != ()}
    return Limits(source=source, at_most=tapped | (most or {}), headers=headers)


LIMITS: dict[str, Limits] = {
    "text": Limits(source=_MESSAGES, at_most={"text_characters": 4096}),
    "image": Limits(
        source=_MEDIA,
        at_most={"caption_characters": 1024, "file_bytes": 5 * _MB},
        mime_types=("image/jpeg", "image/png"),
    ),
    "video": Limits(
        source=_MEDIA,
        at_most={"caption_characters": 1024, "file_bytes": 16 * _MB},
        mime_types=("video/mp4", "video/3gpp"),
    ),
    "audio": Limits(
        source=_MEDIA,
        at_most={"caption_characters": 0, "file_bytes": 16 * _MB},
        mime_types=("audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", OPUS),
    ),
    "voice": Limits(source=_MESSAGES, mime_types=(OPUS,)),
    "document": Limits(source=_MEDIA, at_most={"caption_characters": 1024, "file_bytes": 100 * _MB}),
    "sticker": Limits(
        source=_STICKERS, at_most={"caption_characters": 0, "file_bytes": 500 * _KB}, mime_types=("image/webp",)
    ),
    "static_sticker": Limits(source=_STICKERS, at_most={"file_bytes": 100 * _KB}),
    "contacts": Limits(source=_MESSAGES, at_most={"contacts": 5}),
    "template": Limits(
        source=_TEMPLATES,
        at_most={
            "header_text_characters": 60,
            "body_text_characters": 1024,
            "button_payload_characters": 256,
            "button_coupon_code_characters": 20,
        },
        headers=("text", "image", "video", "document", "location", "product"),
    ),
    "buttons": _interactive(_TITLE | {"buttons": 3, "button_id_characters": 256}, _ANY_HEADER),
    "list": _interactive(
        _TITLE
        | {"sections": 10, "section_title_characters": 24, "rows": 10}
        | {"row_id_characters": 200, "row_title_characters": 24, "row_description_characters": 72},
        ("text",),
        f"{_PAGES}/interactive-list-messages",
    ),
    "cta_url": _interactive(_TITLE, _ANY_HEADER, f"{_PAGES}/interactive-cta-url-messages"),
    "flow": _interactive(_TITLE),
    "location_request": Limits(source=_MESSAGES, at_most=_PLAIN, headers=()),
    "contact_request": _interactive(),
    "call_permission_request": _interactive(),
    "address_request": _interactive(),
    "voice_call": _interactive(_TITLE | {"ttl_minutes": 43_200}),
    "product": _interactive(headers=()),
    "product_list": _interactive({"sections": 10, "products": 30}, ("text",)),
    "product_carousel": Limits(source=_MESSAGES, at_most=_PLAIN | {"cards": 10}, at_least={"cards": 2}, headers=()),
    "catalog": _interactive(headers=()),
    "carousel": Limits(
        source=f"{_PAGES}/interactive-media-carousel-messages",
        at_most=_PLAIN | _TITLE | {"cards": 10, "card_text_characters": 160},
        at_least={"cards": 2},
        headers=(),
    ),
    "order_details": _interactive({"reference_id_characters": 35}),
    "order_status": _interactive(),
}

# What a file of a type is sent as: a WebP is a sticker, all else a document.
_File = Image | Video | Audio | Document | Sticker
_KINDS: dict[str, type[_File]] = {"image": Image, "video": Video, "audio": Audio}


def content_of(upload: Upload) -> _File:
    """The content that the file is sent as, by whose limits it is taken."""
    main, _, rest = upload.mime_type.partition("/")
    kind = Sticker if (main, rest) == ("image", "webp") else _KINDS.get(main, Document)
    return kind(size_bytes=upload.size_bytes)


def check(message: MessageData) -> None:
    """Return, or raise an error with a code that says what is wrong besides sizes."""
    if len(message.correlation_id) > _MAX_TRACKER:
        raise Rejected(f"tracker has more than {_MAX_TRACKER} characters", code="tracker_too_long")
    match message.content:
        case MediaContent() as medium:
            _check_place(medium)
        case Interactive(header=header, action=action):
            if isinstance(header, MediaContent):
                _check_place(header)
            _check_action(action)


def _check_place(medium: MediaContent) -> None:
    if not (medium.id or medium.url):
        raise Rejected("a medium needs an id or a URL", code="media_missing")


def _check_action(action: Action) -> None:
    match action:
        case Buttons(buttons=buttons):
            _distinct((button.id for button in buttons), "button_id")
            _distinct((button.title for button in buttons), "button_title")
        case ListMenu(sections=sections):
            _distinct((row.id for section in sections for row in section.rows), "row_id")
            if len(sections) > 1 and not all(section.title for section in sections):
                # Elsewhere a section may do without.
                raise Unsupported("each of several sections needs a title", code="section_title_empty")
        case FlowAction(flow_id=None, flow_name=None):
            raise Rejected("a flow needs its id or its name", code="flow_missing")


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
