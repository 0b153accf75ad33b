"""What a message says, in the words that all providers are translated to and from: texts, media, things to tap.

Everything here is a frozen value. Absent is ``None`` and is left out of the JSON; nothing is invented.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of everything that may arrive in a request body: an unknown field is an error that names it.

    Its subclasses repeat `frozen`, which they inherit, because type checkers do not see that they do.
    """

    def __repr__(self) -> str:
        # Fields hold what people wrote, and a repr ends up in logs.
        return f"{type(self).__name__}(…)"


# ---------------------------------------------------------------- how long a value may be
#
# Bounds of what is decoded, that is of what somebody asks to be sent: far above what any provider takes, and there so
# that nothing is kept and passed on that none can want. What people write is no request: events are made, and hold it.

MAX_ID = 512  # also of ids in indexes, where PostgreSQL takes 2,704 bytes
Id = Annotated[str, msgspec.Meta(max_length=MAX_ID)]
Line = Annotated[str, msgspec.Meta(max_length=4096)]
# WhatsApp's apps take no longer text.
Words = Annotated[str, msgspec.Meta(max_length=65_536)]
Object = Annotated[dict[Id, Any], msgspec.Meta(max_length=300)]

# ---------------------------------------------------------------- content


class Text(Value, frozen=True, tag="text", tag_field="type"):
    body: Words
    preview_url: bool = False


class MediaContent(Value, frozen=True):
    """``id`` is the provider's, ``url`` anybody's; ``sha256`` and ``mime_type`` are as the provider gave."""

    id: Line | None = None  # some providers' are addresses
    url: Line | None = None
    mime_type: Id | None = None
    sha256: Id | None = None
    size_bytes: int | None = None
    filename: Line | None = None
    caption: Words | None = None


class Image(MediaContent, frozen=True, tag="image", tag_field="type"):
    pass


class Video(MediaContent, frozen=True, tag="video", tag_field="type"):
    pass


class Audio(MediaContent, frozen=True, tag="audio", tag_field="type"):
    voice: bool | None = None  # True: recorded in the chat


class Document(MediaContent, frozen=True, tag="document", tag_field="type"):
    pass


class Sticker(MediaContent, frozen=True, tag="sticker", tag_field="type"):
    animated: bool | None = None


class Location(Value, frozen=True, tag="location", tag_field="type"):
    latitude: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    longitude: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    name: Line | None = None
    address: Line | None = None
    url: Line | None = None


class Contacts(Value, frozen=True, tag="contacts", tag_field="type"):
    """Cards as WhatsApp writes them (``name``, ``phones``, ``emails``, …): free-form, so plain objects."""

    contacts: Annotated[list[Object], msgspec.Meta(max_length=300)]
    origin: Line | None = None  # "contact_request": the person answered a request for the number


class Reaction(Value, frozen=True, tag="reaction", tag_field="type"):
    message_id: Id
    emoji: Id | None = None  # None takes the reaction back


class Button(Value, frozen=True):
    id: Id
    title: Line


class ListRow(Value, frozen=True):
    id: Id
    title: Line
    description: Line | None = None


class ListSection(Value, frozen=True):
    rows: Annotated[list[ListRow], msgspec.Meta(max_length=1000)]
    title: Line | None = None


class ProductSection(Value, frozen=True):
    title: Line
    products: Annotated[list[Id], msgspec.Meta(max_length=1000)]


class CarouselCard(Value, frozen=True):
    """One picture with either a link (``title``, ``url``) or quick-reply buttons."""

    image_url: Line
    text: Words | None = None
    title: Line | None = None
    url: Line | None = None
    buttons: Annotated[list[Button], msgspec.Meta(max_length=100)] = []


class Buttons(Value, frozen=True, tag="buttons", tag_field="type"):
    buttons: Annotated[list[Button], msgspec.Meta(max_length=100)]


class ListMenu(Value, frozen=True, tag="list", tag_field="type"):
    button: Line
    sections: Annotated[list[ListSection], msgspec.Meta(max_length=100)]


class CallToAction(Value, frozen=True, tag="cta_url", tag_field="type"):
    title: Line
    url: Line


class FlowAction(Value, frozen=True, tag="flow", tag_field="type"):
    cta: Line
    flow_id: Id | None = None
    flow_name: Line | None = None
    token: Line | None = None
    mode: Literal["draft", "published"] | None = None
    action: Literal["navigate", "data_exchange"] | None = None
    screen: Line | None = None
    data: Object | None = None


class LocationRequest(Value, frozen=True, tag="location_request", tag_field="type"):
    pass


class ContactRequest(Value, frozen=True, tag="contact_request", tag_field="type"):
    pass


class CallPermissionRequest(Value, frozen=True, tag="call_permission_request", tag_field="type"):
    pass


class AddressRequest(Value, frozen=True, tag="address_request", tag_field="type"):
    country: Id
    values: Object | None = None
    saved_addresses: Annotated[list[Object], msgspec.Meta(max_length=300)] | None = None
    validation_errors: Annotated[dict[Id, Line], msgspec.Meta(max_length=100)] | None = None


class VoiceCall(Value, frozen=True, tag="voice_call", tag_field="type"):
    title: Line
    ttl_minutes: int | None = None
    payload: Line | None = None


class Product(Value, frozen=True, tag="product", tag_field="type"):
    catalog_id: Id
    product_id: Id


class ProductList(Value, frozen=True, tag="product_list", tag_field="type"):
    catalog_id: Id
    sections: Annotated[list[ProductSection], msgspec.Meta(max_length=100)]


class ProductCarousel(Value, frozen=True, tag="product_carousel", tag_field="type"):
    catalog_id: Id
    products: Annotated[list[Id], msgspec.Meta(max_length=1000)]


class Catalog(Value, frozen=True, tag="catalog", tag_field="type"):
    thumbnail_product_id: Id | None = None


class Carousel(Value, frozen=True, tag="carousel", tag_field="type"):
    cards: Annotated[list[CarouselCard], msgspec.Meta(max_length=100)]


class OrderDetails(Value, frozen=True, tag="order_details", tag_field="type"):
    """A request to pay. ``details`` is the provider's own object: payments differ by country and provider."""

    details: Object


class OrderStatus(Value, frozen=True, tag="order_status", tag_field="type"):
    details: Object


Action = (
    Buttons
    | ListMenu
    | CallToAction
    | FlowAction
    | LocationRequest
    | ContactRequest
    | CallPermissionRequest
    | AddressRequest
    | VoiceCall
    | Product
    | ProductList
    | ProductCarousel
    | Catalog
    | Carousel
    | OrderDetails
    | OrderStatus
)

HeaderMedia = Image | Video | Document


class Interactive(Value, frozen=True, tag="interactive", tag_field="type"):
    """A message with something to tap. ``header`` is a text or one medium."""

    action: Action
    body: Words | None = None
    header: Words | HeaderMedia | None = None
    footer: Words | None = None


class Template(Value, frozen=True, tag="template", tag_field="type"):
    """An approved template. ``components`` hold its variables in WhatsApp's own form and go out as given."""

    name: Line
    language: Id
    components: Annotated[list[Object], msgspec.Meta(max_length=300)] = []
    marketing: bool = False  # send through the marketing endpoint, where the provider has one
    rendered: Words | None = None  # what it says, variables filled in: sent as text where a provider has no templates


class Pin(Value, frozen=True, tag="pin", tag_field="type"):
    """Pins or unpins a message of a group."""

    message_id: Id
    action: Literal["pin", "unpin"] = "pin"
    expiration_days: Annotated[int, msgspec.Meta(ge=1, le=30)] | None = None


class OrderItem(Value, frozen=True):
    product_id: str
    quantity: int
    unit_price: str  # a decimal as text: prices are never floats
    currency: str


class Order(Value, frozen=True, tag="order", tag_field="type"):
    catalog_id: str
    items: list[OrderItem]
    text: str | None = None


class ButtonReply(Value, frozen=True, tag="button_reply", tag_field="type"):
    id: str
    title: str
    source: Literal["template", "interactive"]


class ListReply(Value, frozen=True, tag="list_reply", tag_field="type"):
    id: str
    title: str
    description: str | None = None


class FlowReply(Value, frozen=True, tag="flow_reply", tag_field="type"):
    raw: str  # as received; it need not be JSON
    name: str | None = None
    body: str | None = None
    data: dict[str, Any] | None = None  # None where ``raw`` is not a JSON object


class Poll(Value, frozen=True, tag="poll", tag_field="type"):
    question: str
    options: list[str] = []


class PollVote(Value, frozen=True, tag="poll_vote", tag_field="type"):
    poll_id: str  # the provider's id of the message with the poll
    options: list[str] = []  # all that are chosen now, by their text; none where the vote was withdrawn


class CallPermissionReply(Value, frozen=True, tag="call_permission_reply", tag_field="type"):
    response: str
    is_permanent: bool | None = None
    expires_at: datetime | None = None
    source: str | None = None


class System(Value, frozen=True, tag="system", tag_field="type"):
    """WhatsApp says something about the person: a new number, a new id, a new device."""

    event: str
    body: str | None = None
    old_phone: str | None = None
    new_phone: str | None = None
    old_user_id: str | None = None
    new_user_id: str | None = None
    identity_hash: str | None = None


class UnsupportedContent(Value, frozen=True, tag="unsupported", tag_field="type"):
    """The person wrote something that the provider cannot pass on. ``kind`` is the provider's word for it."""

    kind: str | None = None


class UnknownContent(Value, frozen=True, tag="unknown", tag_field="type"):
    """A kind of message this version does not know. The event's ``raw`` has all of it."""

    raw_type: str


# What arrives as a file of its own.
File = Image | Video | Audio | Document | Sticker | Contacts
OutboundContent = (
    Text | Image | Video | Audio | Document | Sticker | Location | Contacts | Reaction | Interactive | Template | Pin
)
Content = (
    OutboundContent
    | Order
    | ButtonReply
    | ListReply
    | FlowReply
    | Poll
    | PollVote
    | CallPermissionReply
    | System
    | UnsupportedContent
    | UnknownContent
)
