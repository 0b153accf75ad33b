"""The values of sending: what was asked for, a message under way, how it stands."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from providers import Contact, MessageData, Recipient, SendError, Uncertain
from providers.content import MediaContent, OutboundContent, Reaction
from providers.messages import ErrorInfo, Status

from .. import identifiers
from ..envelope import Conversation, EventData, EventMessage
from ..identifiers import correlation
from ..storage.statements.events import EventRow
from ..switching.manager import Config, Route
from ..switching.policy import OnUncertain

_encode = msgspec.json.Encoder().encode


class SendIntent(msgspec.Struct, frozen=True, kw_only=True):
    """A send as it was asked for, and as it is kept for whoever has to go on with it."""

    to: Recipient
    content: OutboundContent
    lead_id: str | None = None
    reply_to: str | None = None
    fallback: bool = True
    on_uncertain: OnUncertain | None = None  # None: as the organization's policy says
    expires_at: datetime | None = None  # None: nobody said, so only our own trying ends

    def __repr__(self) -> str:
        return f"SendIntent(content={type(self.content).__name__})"

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

    @property
    def account_id(self) -> UUID:
        return self.id


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
    fallback_reason: str | None = None
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
        fallback_reason=row["fallback_reason"],
        error=msgspec.json.decode(row["error"], type=ErrorInfo) if row["error"] else None,
        sent_at=row["sent_at"],
        cost=row["cost"],
    )


class Dispatch:
    """One message under way in this process."""

    def __init__(
        self,
        organization_id: UUID,
        message_id: UUID,
        lease_id: UUID,
        intent: SendIntent,
        route: Route,
        created_at: datetime,
        expires_at: datetime,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.organization_id = organization_id
        self.id = message_id
        self.lease_id = lease_id
        self.intent = intent
        self.route = route
        self.created_at = created_at
        self.expires_at = expires_at
        self.request_id = request_id  # None: another process's
        self.traceparent = traceparent  # None: it has no valid one, or came to another process
        self.number = 1  # of the attempt that is claimed, running or last ended
        self.begun = False  # whether that attempt was already used for a call
        self.exhausted: dict[UUID, str] = {}  # configs that cannot send this message, and why: see fallback_reason
        self.claimed: Config | None = None  # for the first attempt; None: it is over, or another process's
        self.fallback_from: UUID | None = None
        self.fallback_reason: str | None = None  # class of the error that moved it on, or `breaker_open`
        self.uncertain: Uncertain | None = None  # an attempt that may have been taken
        self.since = monotonic()
        self.held_bytes = 0  # of a large request, as it is counted among its organization's
        self._conversation: Conversation | None = None

    def __repr__(self) -> str:
        return f"Dispatch({self.id}, attempt {self.number})"

    @property
    def left_s(self) -> float:
        return (self.expires_at - datetime.now(UTC)).total_seconds()

    def open_order(self) -> Iterator[Config]:
        """The configs that may still carry it, in their order."""
        order = self.route.order if self._may_fall_back else self.route.order[:1]
        return (config for config in order if config.id not in self.exhausted)

    @property
    def _may_fall_back(self) -> bool:
        return self.intent.may_fall_back and self.route.may_fall_back

    @property
    def on_uncertain(self) -> OnUncertain:
        return self.intent.on_uncertain or self.route.policy.on_uncertain

    @property
    def contact(self) -> str:
        """Who gets it, as one text."""
        to = self.intent.to
        return to.phone or to.user_id or to.lid or to.group_id or ""

    def conversation(self, carrier: Carrier | Config) -> Conversation:
        """The conversation that it is part of when *carrier* carries it."""
        if self._conversation is None or self._conversation.sender != carrier.sender:
            to = self.intent.to
            contact = None if to.group_id else Contact(phone=to.phone, user_id=to.user_id, lid=to.lid)
            identity = identifiers.conversation_id(self.organization_id, carrier.sender or "", contact, to.group_id)
            self._conversation = Conversation(identity, carrier.sender, contact, to.group_id)
        return self._conversation

    def repeats(self, error: SendError) -> bool:
        """Whether the same provider may be asked again after *error*."""
        if isinstance(error, Uncertain):
            return self.on_uncertain == "retry"
        return self.route.policy.move(error) in ("retry_then_fallback", "retry")

    def moves_on(self, error: SendError) -> bool:
        """Whether another provider may be asked after *error*."""
        if isinstance(error, Uncertain):
            return self.on_uncertain == "fallback"
        return self.route.policy.move(error) in ("retry_then_fallback", "fallback")

    def has_fallback(self, config: Config) -> bool:
        return self._may_fall_back and any(
            other.id != config.id and other.id not in self.exhausted for other in self.route.order
        )


def message_of(config: Config, dispatch: Dispatch) -> MessageData:
    """What the attempt under way says to the provider."""
    return MessageData(
        to=dispatch.intent.to,
        content=dispatch.intent.content,
        organization_id=str(dispatch.organization_id),
        correlation_id=correlation(dispatch.id, dispatch.number),
        lead_id=dispatch.intent.lead_id,
        # A quoted message is known only to the provider that carried it.
        reply_to=dispatch.intent.reply_to if dispatch.fallback_from is None else None,
        callback_url=config.callback_url,
        created_at=dispatch.created_at,
        valid_for_s=None if dispatch.intent.expires_at is None else max(1, round(dispatch.left_s)),
    )


def status_event(
    dispatch: Dispatch,
    carrier: Carrier | Config,
    status: Literal["accepted", "sent", "failed", "unknown"],
    error: ErrorInfo | None,
    provider_message_id: str | None,
) -> EventRow:
    """The end of a send, as the CRM reads it among the events."""
    conversation = dispatch.conversation(carrier)
    data = EventData(
        dispatch.organization_id,
        carrier.provider_type,
        carrier.id,
        conversation,
        EventMessage(
            id=dispatch.id,
            provider_message_id=provider_message_id,
            lead_id=dispatch.intent.lead_id,
            attempts=dispatch.number,
            fallback_from=dispatch.fallback_from,
            fallback_reason=dispatch.fallback_reason,
        ),
        Status(provider_message_id=provider_message_id, value=status, error=error),
    )
    return EventRow(dispatch.organization_id, "message.status", carrier.id, conversation.id, _encode(data))
