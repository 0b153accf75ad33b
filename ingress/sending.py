"""The values of sending: what was asked for, a message under way, how it stands, and what a retry may cost."""

from datetime import UTC, datetime
from time import monotonic
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from providers import Contact, Recipient, Uncertain
from providers.messages import ErrorInfo, MediaContent, OutboundContent, Reaction, Status

from . import identifiers
from .envelope import Conversation, EventData, EventMessage
from .manager import Config, Route
from .storage.events import EventRow

_encode = msgspec.json.Encoder().encode
MAX_DETAIL_CHARACTERS = 1_000


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A send as it was asked for, and as it is kept for whoever has to go on with it."""

    to: Recipient
    content: OutboundContent
    lead_id: str | None = None
    reply_to: str | None = None
    fallback: bool = True
    on_uncertain: Literal["hold", "retry", "fallback"] = "hold"
    expires_at: datetime | None = None  # None: nobody said, so only our own trying ends

    def __repr__(self) -> str:
        return f"Order(content={type(self.content).__name__})"

    @property
    def may_fall_back(self) -> bool:
        """Whether another account can carry it: none knows this one's groups, people without a phone, and ids."""
        if not self.fallback or self.to.phone is None or isinstance(self.content, Reaction):
            return False
        return not (isinstance(self.content, MediaContent) and self.content.id)


class Carrier(msgspec.Struct, frozen=True):
    """As much of a config as it takes to say who carried a message; also of one that is gone."""

    id: UUID
    provider_type: str
    sender: str | None = None


class SendState(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it stands."""

    id: UUID
    state: str
    status: str
    attempts: int
    provider: str | None = None
    config_id: UUID | None = None
    provider_message_id: str | None = None
    fallback_from: UUID | None = None
    error: ErrorInfo | None = None
    sent_at: datetime | None = None  # None: no provider is known to have taken it
    cost: str | None = None

    def __repr__(self) -> str:
        return f"SendState({self.id}, {self.state})"


def state_of(row: asyncpg.Record) -> SendState:
    """The state in a row of `messages`."""
    return SendState(
        id=row["id"],
        state=row["state"],
        status=row["status"],
        attempts=row["attempts"],
        provider=row["provider"],
        config_id=row["config_id"],
        provider_message_id=row["provider_message_id"],
        fallback_from=row["fallback_from"],
        error=msgspec.json.decode(row["error"], type=ErrorInfo) if row["error"] else None,
        sent_at=row["sent_at"],
        cost=row["cost"],
    )


class Sending:
    """One message under way in this process."""

    def __init__(
        self,
        organization_id: UUID,
        message_id: UUID,
        lease_id: UUID,
        order: Order,
        route: Route,
        created_at: datetime,
        expires_at: datetime,
    ) -> None:
        self.organization_id = organization_id
        self.id = message_id
        self.lease_id = lease_id
        self.order = order
        self.route = route
        self.created_at = created_at
        self.expires_at = expires_at
        self.number = 1  # of the attempt that is claimed, running or last ended
        self.begun = False  # whether that attempt was already used for a call
        self.exhausted: set[UUID] = set()  # configs that cannot send this message
        self.fallback_from: UUID | None = None
        self.uncertain: Uncertain | None = None  # an attempt that may have been taken
        self.turns: set[UUID] = set()  # configs with a turn to send that is reserved and waited for
        self.since = monotonic()

    def __repr__(self) -> str:
        return f"Sending({self.id}, attempt {self.number})"

    @property
    def left_s(self) -> float:
        return (self.expires_at - datetime.now(UTC)).total_seconds()

    def next_config(self) -> Config | None:
        order = self.route.order if self.order.may_fall_back else self.route.order[:1]
        return next((config for config in order if config.id not in self.exhausted), None)

    def has_fallback(self, config: Config) -> bool:
        return self.order.may_fall_back and any(
            other.id != config.id and other.id not in self.exhausted for other in self.route.order
        )


class RetryBudget:
    """Repetitions an account may cost: a fifth of its first attempts, and one a second.

    So a provider that fails altogether is called by a quarter more, not by a multiple.
    """

    SHARE, FLOOR_PER_S, CAPACITY = 0.2, 1.0, 10.0

    def __init__(self) -> None:
        self._tokens: dict[UUID, tuple[float, float]] = {}

    def first_attempt(self, config_id: UUID) -> None:
        self._add(config_id, self.SHARE)

    def take(self, config_id: UUID) -> bool:
        tokens = self._add(config_id, 0)
        if tokens < 1:
            return False
        self._tokens[config_id] = (tokens - 1, self._tokens[config_id][1])
        return True

    def _add(self, config_id: UUID, more: float) -> float:
        now = monotonic()
        tokens, at = self._tokens.get(config_id, (self.CAPACITY, now))
        tokens = min(self.CAPACITY, tokens + (now - at) * self.FLOOR_PER_S + more)
        self._tokens[config_id] = (tokens, now)
        return tokens


def conversation_of(organization_id: UUID, carrier: Carrier | Config, to: Recipient) -> Conversation:
    """The conversation that a message to *to* is part of when *carrier* carries it."""
    contact = None if to.group_id else Contact(phone=to.phone, user_id=to.user_id, lid=to.lid)
    identity = identifiers.conversation_id(organization_id, carrier.sender or "", contact, to.group_id)
    return Conversation(identity, carrier.sender, contact, to.group_id)


def status_event(
    sending: Sending,
    carrier: Carrier | Config,
    status: Literal["accepted", "sent", "failed", "unknown"],
    error: ErrorInfo | None,
    provider_message_id: str | None,
) -> EventRow:
    """The end of a send, as the CRM reads it among the events."""
    conversation = conversation_of(sending.organization_id, carrier, sending.order.to)
    data = EventData(
        sending.organization_id,
        carrier.provider_type,
        carrier.id,
        conversation,
        EventMessage(
            id=sending.id,
            provider_message_id=provider_message_id,
            lead_id=sending.order.lead_id,
            attempts=sending.number,
            fallback_from=sending.fallback_from,
        ),
        Status(provider_message_id=provider_message_id, value=status, error=error),
    )
    return EventRow(sending.organization_id, "message.status", carrier.id, conversation.id, _encode(data))


def storable(detail: str) -> str:
    """A provider's own words, in a length and in characters that the database takes."""
    return detail[:MAX_DETAIL_CHARACTERS].replace("\x00", "�")
