"""The envelope: the one JSON shape in which the CRM gets every event, from every provider, by every way."""

import inspect
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from providers import Contact, Event
from providers.messages import AccountUpdate, Message, ReplyTo, Status

from . import identifiers
from .storage.statements.events import EventRow, StoredEvent
from .storage.statements.sending.messages import OwnMessage
from .validation import Unlogged

_encode = msgspec.json.Encoder().encode


class Person(Contact, frozen=True, gc=False):
    """A contact with our ``id``; absent where nothing is known that somebody could be known by."""

    id: UUID | None = None


class ContactChange(Unlogged, frozen=True, omit_defaults=True):
    """What is new of the contact of a conversation: who else it is, or by what they are not known any more."""

    merged_id: UUID | None = None
    former: Contact | None = None


class Conversation(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    id: UUID
    sender: str | None = None
    contact: Person | None = None
    group_id: str | None = None


class QuotedMessage(ReplyTo, frozen=True, kw_only=True):
    """The message that is quoted; ``message_id`` is ours where we sent it."""

    message_id: UUID | None = None


class EventMessage(Message, frozen=True, kw_only=True):
    """A message as the CRM sees it. Where it is about one that we sent, ``id`` is ours, and the last four are its."""

    id: UUID | None = None
    reply_to: QuotedMessage | None = None
    lead_id: str | None = None
    attempts: int | None = None
    fallback_from: UUID | None = None
    fallback_reason: str | None = None


class Ours(Unlogged, frozen=True):
    """Messages that we sent, of an event: the one that it is about, and the one that it quotes.

    ``came_back``: it is that message itself, which nobody wrote.
    """

    message: OwnMessage | None = None
    quoted: OwnMessage | None = None
    came_back: bool = False


NOT_OURS = Ours()


class EventData(msgspec.Struct, frozen=True, omit_defaults=True):
    """`data` of the envelope; absent is left out."""

    organization_id: UUID
    provider: str
    config_id: UUID
    conversation: Conversation | None = None
    message: EventMessage | None = None
    status: Status | None = None
    account: AccountUpdate | None = None
    contact: ContactChange | None = None
    occurred_at: datetime | None = None
    # Of provider.* events, where ``config_id`` is the config in force.
    version: int | None = None
    from_config_id: UUID | None = None
    failed_config_id: UUID | None = None
    failed_provider: str | None = None
    kind: str | None = None
    reason: str | None = None
    detail: str | None = None

    def __repr__(self) -> str:
        return f"EventData({self.config_id})"


class Envelope(Unlogged, frozen=True):
    """One event as the CRM gets it, by every way of delivery. Adding a field is not a break."""

    type: Literal[
        "message.received",
        "message.echo",
        "message.edited",
        "message.deleted",
        "message.status",
        "message.unknown",
        "account.updated",
        "contact.merged",
        "contact.updated",
        "provider.switched",
        "provider.unhealthy",
        "provider.recovered",
        "provider.rolled_back",
    ]
    timestamp: datetime
    id: str
    sequence: int
    data: EventData


def envelope_schema() -> dict[str, Any]:
    """The JSON Schema of an event; published as schema/envelope.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "WhatsApp Ingress event",
        "version": 2,
        **_published(msgspec.json.schema(Envelope)),
    }


def _published(schema: Any) -> Any:
    """*schema* without bounds on length: they are of what is sent, and nobody asked people to keep to them.

    Its descriptions are docstrings, which Python indents as the code does up to 3.12.
    """
    if isinstance(schema, list):
        return [_published(part) for part in schema]
    if isinstance(schema, dict):
        bounds = ("maxLength", "maxItems", "maxProperties", "propertyNames")
        return {name: _published(part) for name, part in schema.items() if name not in bounds}
    return inspect.cleandoc(schema) if isinstance(schema, str) else schema


def event_row(
    event: Event,
    organization_id: UUID,
    config_id: UUID,
    provider: str,
    conversation: Conversation | None,
    ours: Ours,
) -> EventRow:
    """*event* of a provider as it is stored; *ours* is what is known of the messages of ours that it names."""
    # Written as it is: what EventMessage adds is absent from what a person wrote, and absent is left out.
    message: Any = event.message
    status = event.status
    if status is not None:
        message = EventMessage(provider_message_id=status.provider_message_id)
    if ours is not NOT_OURS:
        message = _completed(message, ours)
    data = EventData(
        organization_id,
        provider,
        config_id,
        conversation,
        message,
        status,
        event.account,
        occurred_at=event.occurred_at,
    )
    return EventRow(
        organization_id,
        event.type,
        config_id,
        conversation.id if conversation else config_id,
        _encode(data),
        bytes(event.raw),
    )


def _only_named(message: EventMessage) -> EventMessage:
    return EventMessage(provider_message_id=message.provider_message_id)


def completed(event_type: str, data: EventData, ours: Ours) -> tuple[str, EventData]:
    """Type and data of an event that was made before it was known that it is about *ours*."""
    message, status = data.message, data.status
    if message is None or ours is NOT_OURS:
        return event_type, data
    if ours.came_back:
        event_type, status = "message.status", Status(provider_message_id=message.provider_message_id, value="sent")
        message = _only_named(message)
    return event_type, msgspec.structs.replace(data, message=_completed(message, ours), status=status)


def _completed(message: Message, ours: Ours) -> EventMessage:
    fields = msgspec.structs.asdict(message)
    if ours.quoted is not None and message.reply_to is not None:
        quoted = msgspec.structs.asdict(message.reply_to) | {"message_id": ours.quoted.id}
        fields["reply_to"] = QuotedMessage(**quoted)
    if ours.message is not None:
        fields |= msgspec.structs.asdict(ours.message)
    return EventMessage(**fields)


def own_event(organization_id: UUID, config_id: UUID, type: str, data: Mapping[str, Any]) -> EventRow:
    """An event that no provider sent, about a config: a change of provider, its health."""
    body = {"organization_id": organization_id, "config_id": config_id, **data}
    return EventRow(organization_id, type, config_id, config_id, _encode(body))


def render(event: StoredEvent, raw: bytes | None = None) -> bytes:
    """The whole envelope of a stored event: the same bytes every time, but for *raw* where it was asked for."""
    data = event.data
    if raw is not None:
        data = data[:-1] + b',"raw":' + raw + b"}"
    head = _encode(
        {
            "type": event.type,
            "timestamp": timestamp(event.created_at),
            "id": identifiers.event_id(event.organization_id, event.sequence),
            "sequence": event.sequence,
        }
    )
    return head[:-1] + b',"data":' + data + b"}"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
