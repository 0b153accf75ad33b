"""The one vocabulary all providers are translated to and from: people, messages, events, the state of an account.

Everything here is a frozen value. Absent is ``None`` and is left out of the JSON; nothing is invented.
Times are aware datetimes in UTC. Phone numbers are E.164 with the plus. What a message says: content.py.
"""

from collections.abc import Sequence, Set
from datetime import datetime
from typing import Any, Literal

import msgspec

from .content import MAX_ID, Content, File, Id, Interactive, Line, MediaContent, OutboundContent, Template, Text, Value
from .errors import MAX_DETAIL, Uncertain
from .phones import Phone

# ---------------------------------------------------------------- people


class Contact(Value, frozen=True):
    """A person. WhatsApp users may hide their number, so every field is optional; at least one is there."""

    phone: Phone | None = None
    user_id: Id | None = None  # business-scoped: another business sees another id for the same person
    parent_user_id: Id | None = None  # the same across the linked portfolios of one company
    lid: Id | None = None  # WhatsApp Web's hidden-number identity
    username: Line | None = None  # display only: it changes, and nothing can be sent to it
    name: Line | None = None


class Recipient(Value, frozen=True):
    """Where a message goes: exactly the addresses that are known. The phone wins where several are given."""

    phone: Phone | None = None
    user_id: Id | None = None
    lid: Id | None = None
    group_id: Id | None = None


# ---------------------------------------------------------------- sending


class Lookalikes(msgspec.Struct, frozen=True, kw_only=True):
    """What a message must not be taken for, where it is looked for by what it says."""

    known_ids: frozenset[str] = frozenset()  # the provider's, of our other messages in the chat
    # So many that say the same were sent before it, and after it, and are looked for, too.
    before: int = 0
    after: int = 0

    def pick(self, results: "Sequence[MessageResult]") -> "MessageResult | None":
        """The message among *results*, which all say the same, oldest first; None where nobody can tell which it is."""
        unknown = [result for result in results if result.provider_message_id not in self.known_ids]
        return unknown[self.before] if self.before < len(unknown) <= self.before + 1 + self.after else None


class MessageData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message to send, on behalf of one organization."""

    to: Recipient
    content: OutboundContent
    organization_id: str
    # Ours, echoed by the provider where it can: it settles what became of an attempt whose answer was lost. Any text;
    # the service's are `gw1:<its id of the message, a UUIDv7 in hex>:<attempt>`, for who has room for no more.
    correlation_id: str
    lead_id: str | None = None  # the CRM's own reference; never sent to a provider
    reply_to: str | None = None  # the provider's id of the message that is quoted
    callback_url: str | None = None  # our webhook's address, for a provider that takes it with each message
    created_at: datetime | None = None  # when it was requested: older ones are others, where it is looked for
    # Of a message that is looked for. None: one that says the same may come out now, and nobody could tell them apart.
    lookalikes: Lookalikes | None = Lookalikes()
    valid_for_s: int | None = None  # how long from now it is worth delivering, for a provider that takes a limit

    @property
    def body(self) -> str | None:
        """The words of the message, wherever its content keeps them."""
        match self.content:
            case Text(body=body) | Interactive(body=body) | Template(rendered=body):
                return body
            case MediaContent(caption=caption):
                return caption
        return None

    @property
    def attachments(self) -> list[MediaContent]:
        return [self.content] if isinstance(self.content, MediaContent) else []

    def __repr__(self) -> str:
        return f"MessageData(content={type(self.content).__name__}, correlation_id={self.correlation_id!r})"


class MessageResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A provider took the message. ``timestamp`` and ``cost`` only where the provider gives them.

    ``provider_message_id`` is None where it took the message and does not say under which id: then no status names it.
    Raises `Uncertain` where its id of the message is none that can be kept.
    """

    provider_message_id: str | None
    status: Literal["sent", "held"] = "sent"  # held: taken, but the provider keeps it back for a review
    timestamp: datetime | None = None
    cost: str | None = None
    contact: Contact | None = None  # the recipient as the provider knows it

    def __post_init__(self) -> None:
        identity = self.provider_message_id
        if identity is not None and (not 0 < len(identity) <= MAX_ID or "\0" in identity):
            raise Uncertain("the answer has no id of the message that can be kept", code="unexpected_answer")


# ---------------------------------------------------------------- receiving

EventType = Literal[
    "message.received",
    "message.echo",
    "message.edited",
    "message.deleted",
    "message.status",
    "message.unknown",
    "account.updated",
]
StatusValue = Literal["accepted", "sent", "delivered", "read", "played", "failed", "unknown"]

# A status only moves a message up this ladder. `failed` counts below `delivered`: a phone that has the
# message beats a late report that another one has not.
STATUS_RANK: dict[str, int] = {
    "accepted": 0,
    "unknown": 1,
    "sent": 2,
    "failed": 3,
    "delivered": 4,
    "read": 5,
    "played": 6,
}


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"class_": "class"}):
    """An error the provider reports about a message or account. ``class_`` is the name of a SendError."""

    code: str | None = None
    class_: str | None = None
    title: str | None = None
    detail: str | None = None

    def __repr__(self) -> str:
        return f"ErrorInfo(class_={self.class_!r}, code={self.code!r})"


By = Literal["contact", "business"]


class ReplyTo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The message that is quoted, as far as the provider tells."""

    id: str | None = None  # the provider's; it may be unknown here
    text: str | None = None  # its words as they were then
    type: str | None = None  # of its content, in our words
    author: Contact | None = None  # who wrote it, which may be the business

    def __repr__(self) -> str:
        return "ReplyTo(…)"


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person wrote (or, in an echo, what the business wrote from another device)."""

    provider_message_id: str | None = None
    content: Content | None = None
    more_media: list[File] = []  # the further files of a message with several
    reply_to: ReplyTo | None = None
    mentions: list[Contact] = []  # who is named in the text, which may be the business
    forwarded: bool | None = None
    frequently_forwarded: bool | None = None
    product: dict[str, Any] | None = None  # the product a question is about
    referral: dict[str, Any] | None = None  # the ad or post the person came from
    # Of an edit or a deletion: what it is about, None where the provider does not name it, and who did it. The latter
    # also of something unknown that came out of the business' own devices.
    original_message_id: str | None = None
    by: By | None = None
    errors: list[ErrorInfo] = []
    # Of an echo, where the provider knows: a person wrote it in an app, or a program did, which may have been us.
    source: Literal["app", "api"] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a message the business sent.

    ``value`` is None for a word that changes nothing we know of; ``raw_value`` then keeps the word.
    """

    provider_message_id: str | None = None  # None: the provider took nothing
    value: StatusValue | None = None
    raw_value: str | None = None
    error: ErrorInfo | None = None
    pricing: dict[str, Any] | None = None
    conversation: dict[str, Any] | None = None
    participant: Contact | None = None  # whose copy, in a group

    def __repr__(self) -> str:
        return f"Status(value={self.value!r})"


Health = Literal["down", "degraded", "retest"]


class AccountUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is not a message: news of the account, its templates, numbers, calls, groups, history.

    ``kind`` is our word, ``field`` the provider's, ``details`` what it says in our terms. ``health`` is what
    it means for sending: ``down`` (stop), ``degraded`` (careful), ``retest`` (ask again), None (nothing).
    """

    kind: str
    field: str | None = None
    health: Health | None = None
    details: dict[str, Any] = {}
    errors: list[ErrorInfo] = []

    def __repr__(self) -> str:
        return f"AccountUpdate(kind={self.kind!r})"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One normalized fact out of one webhook.

    ``key`` is the provider's own identity of the fact, unique within an account; the same fact delivered again
    has the same key. Exactly one of ``message``, ``status``, ``account`` is set. In a ``message.unknown`` it
    says what could not be read: a message of an unknown type, a status of an unknown word, or, as ``account``
    with the kind ``malformed`` or ``unknown_field``, something else. ``raw`` is the provider's item as JSON
    that PostgreSQL can store.
    """

    type: EventType
    key: str
    sender: str | None = None  # the business number, E.164
    sender_id: str | None = None  # the provider's id of that number
    account_id: str | None = None  # the provider's id of the account that owns it
    contact: Contact | None = None
    group_id: str | None = None
    occurred_at: datetime | None = None  # None where the provider gives no time
    # When the provider reported it, where that may be long after it happened: a phone that was off, an old contact.
    reported_at: datetime | None = None
    message: Message | None = None
    status: Status | None = None
    account: AccountUpdate | None = None
    correlation_id: str | None = None
    raw: msgspec.Raw = msgspec.Raw(b"null")

    def __repr__(self) -> str:
        return f"Event(type={self.type!r})"


# ---------------------------------------------------------------- state


MAX_SESSION_BYTES, MAX_SESSION_FACTS = 16 * 1024, 30
Quality = Literal["excellent", "good", "poor", "disconnected"]
# Why an account cannot send: each is repaired in another way.
Trouble = Literal["credentials", "account_restricted", "session_lost", "not_paired", "webhook_missing"]


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an account is doing, as its provider says.

    ``trouble`` is set where it is not connected, where it is restricted, and where its webhooks do not come here any
    more. An answer that does not come says nothing about the account: the flow lets what was thrown into it pass.
    ``session_info`` holds no secrets; ``sender`` in it is the business number in E.164, where the provider shows it.
    """

    is_connected: bool
    connection_quality: Quality
    last_activity: datetime | None = None
    session_info: dict[str, Any] = {}
    detail: str | None = None  # for people: what is wrong and what to do
    trouble: Trouble | None = None

    def __post_init__(self) -> None:
        # Kept, and shown with every look at the account; a provider's words are as long as it likes.
        if self.detail is not None and len(self.detail) > MAX_DETAIL:
            msgspec.structs.force_setattr(self, "detail", self.detail[:MAX_DETAIL])
        if _size(self.session_info) > MAX_SESSION_BYTES:
            short = {name: fact for name, fact in self.session_info.items() if _size(fact) <= MAX_ID}
            msgspec.structs.force_setattr(self, "session_info", short if len(short) <= MAX_SESSION_FACTS else {})

    def __repr__(self) -> str:
        return f"ProviderStatus(connection_quality={self.connection_quality!r})"


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))


def worst(found: Set[Quality], otherwise: Quality) -> Quality:
    """The worst of the qualities *found*; *otherwise* where it is none of the bad ones."""
    order: tuple[Quality, ...] = ("disconnected", "poor", "good")
    return next((quality for quality in order if quality in found), otherwise)


class Pairing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a phone is linked to an account, as it stands. A QR code lives for seconds: ask again for the next."""

    state: Literal["starting", "scan", "linked", "failed"]
    qr: str | None = None  # what the QR code says
    qr_png: bytes | None = None  # the same as a picture
    qr_lives_s: int | None = None  # for how long at least, from when it is first shown; None: nobody knows
    detail: str | None = None  # for people: what to do

    def __repr__(self) -> str:
        return f"Pairing(state={self.state!r})"


class TemplateDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message template as its provider has it. Its words for ``status``, ``category`` and the rest are kept.

    ``components`` is what it is made of: the texts with their variables, the buttons.
    """

    name: str
    language: str
    id: str | None = None
    status: str | None = None  # `APPROVED` can be sent
    category: str | None = None
    parameter_format: str | None = None
    quality: str | None = None
    components: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return "TemplateDefinition(…)"


class TemplatePage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Some of an account's templates. ``next`` is what the following ones are asked for with, None at the end."""

    templates: list[TemplateDefinition]
    next: str | None = None


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One organization's account at a provider."""

    provider_type: str
    organization_id: str
    config_data: dict[str, Any]
    is_active: bool = False

    def __repr__(self) -> str:
        return f"ProviderConfig({self.provider_type!r}, organization_id={self.organization_id!r})"


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes of a medium are. ``headers`` are for ``url``'s host; ``sha256`` is lower-case hex."""

    url: str
    headers: dict[str, str] = {}
    mime_type: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None

    def __repr__(self) -> str:
        return "Media(…)"
