"""WhatsApp providers behind one face: plain values, no I/O.

A provider is a value that holds one account's configuration. Webhooks go in as bytes and come out as events;
operations are generators that yield HTTP requests, so any client can make them::

    import httpx
    import msgspec
    from providers import MessageData, Recipient, Registry, Response, Text

    config = {
        "access_token": "EAAG-example",
        "phone_number_id": "109876543210987",
        "waba_id": "210987654321098",
        "app_secret": "0123456789abcdef0123456789abcdef",
        "verify_token": "my-verify-token",
    }
    account = msgspec.convert(config, Registry().get("meta_business"))
    message = MessageData(
        to=Recipient(phone="+5511987654321"),
        content=Text(body="Olá!"),
        organization_id="org-1",
        correlation_id="send-1",
    )

    flow = account.send_message(message)
    request = next(flow)
    try:
        while True:
            answer = httpx.request(
                request.method, request.url, headers=request.headers, content=request.body
            )
            headers = dict(answer.headers)
            request = flow.send(
                Response(status=answer.status_code, headers=headers, body=answer.content)
            )
    except StopIteration as done:
        result = done.value  # MessageResult; what went wrong is raised as a SendError
"""

from .base import (
    Check,
    ChecksFlow,
    Flow,
    Request,
    Response,
    Upload,
    UploadRequest,
    Webhook,
    WhatsAppProvider,
    refused_status,
    reported,
)
from .content import (
    Action,
    AddressRequest,
    Audio,
    Button,
    ButtonReply,
    Buttons,
    CallPermissionReply,
    CallPermissionRequest,
    CallToAction,
    Carousel,
    CarouselCard,
    Catalog,
    ContactRequest,
    Contacts,
    Content,
    Document,
    File,
    FlowAction,
    FlowReply,
    HeaderMedia,
    Image,
    Interactive,
    ListMenu,
    ListReply,
    ListRow,
    ListSection,
    Location,
    LocationRequest,
    MediaContent,
    Order,
    OrderDetails,
    OrderItem,
    OrderStatus,
    OutboundContent,
    Pin,
    Poll,
    PollVote,
    Product,
    ProductCarousel,
    ProductList,
    ProductSection,
    Reaction,
    Sticker,
    System,
    Template,
    Text,
    UnknownContent,
    UnsupportedContent,
    Video,
    VoiceCall,
)
from .description import ConfigField, Pacing, ProviderInfo, TimeLimits, config_fields
from .errors import (
    AccountBroken,
    Malformed,
    ProviderError,
    Rejected,
    Restricted,
    SendError,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
    Unverified,
    WebhookError,
)
from .limits import Limits
from .messages import (
    STATUS_RANK,
    AccountUpdate,
    Contact,
    ErrorInfo,
    Event,
    EventType,
    Lookalikes,
    Media,
    Message,
    MessageData,
    MessageResult,
    Pairing,
    ProviderConfig,
    ProviderStatus,
    Recipient,
    ReplyTo,
    Status,
    StatusValue,
    TemplateDefinition,
    TemplatePage,
)
from .phones import Phone, may_be_spellings, phone_key
from .registry import Registry, RegistryEntry, UnknownProvider

__all__ = [
    "STATUS_RANK", "AccountBroken", "AccountUpdate", "Action", "AddressRequest", "Audio", "Button", "ButtonReply",
    "Buttons", "CallPermissionReply", "CallPermissionRequest", "CallToAction", "Carousel", "CarouselCard", "Catalog",
    "Check", "ChecksFlow", "ConfigField", "Contact", "ContactRequest", "Contacts", "Content", "Document", "ErrorInfo",
    "Event", "EventType", "File", "Flow", "FlowAction", "FlowReply", "HeaderMedia", "Image", "Interactive", "Limits",
    "ListMenu", "ListReply", "ListRow", "ListSection", "Location", "LocationRequest", "Lookalikes", "Malformed",
    "Media", "MediaContent", "Message", "MessageData", "MessageResult", "Order", "OrderDetails", "OrderItem",
    "OrderStatus", "OutboundContent", "Pacing", "Pairing", "Phone", "Pin", "Poll", "PollVote", "Product",
    "ProductCarousel", "ProductList", "ProductSection", "ProviderConfig", "ProviderError", "ProviderInfo",
    "ProviderStatus", "Reaction", "Recipient", "Registry", "RegistryEntry", "Rejected", "ReplyTo", "Request",
    "Response", "Restricted", "SendError", "Status", "StatusValue", "Sticker", "System", "Template",
    "TemplateDefinition", "TemplatePage", "Text", "Throttled", "TimeLimits", "Unavailable", "Uncertain",
    "UnknownContent", "UnknownProvider", "Unsupported", "UnsupportedContent", "Unverified", "Upload", "UploadRequest",
    "Video", "VoiceCall", "Webhook", "WebhookError", "WhatsAppProvider", "config_fields", "may_be_spellings",
    "phone_key", "refused_status", "reported",
]  # fmt: skip
