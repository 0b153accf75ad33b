"""The values of sending: what was asked for, and a message under way."""

from datetime import UTC, datetime
from time import monotonic
from typing import Literal
from uuid import UUID

import msgspec

from providers import MessageData, Recipient, SendError, Uncertain
from providers.content import MediaContent, OutboundContent, Reaction

from ..accounts.config import Config
from ..envelope import Conversation
from ..identifiers import correlation
from ..storage.statements.contacts import NOBODY_KNOWS, Reached
from ..switching.policy import OnUncertain
from ..switching.routes import Route
from ..validation import Unlogged

# Of a provider that says who has a number.
FIND_CONTACT = "find_contact"
# `accepted`: after what was accepted before it for its conversation. `any`: whenever it can.
SendOrder = Literal["accepted", "any"]


class SendIntent(Unlogged, frozen=True, kw_only=True):
    """A send as it was asked for, and as it is kept for whoever has to go on with it."""

    to: Recipient
    content: OutboundContent
    lead_id: str | None = None
    reply_to: str | None = None
    fallback: bool = True
    on_uncertain: OnUncertain | None = None  # None: by the organization's policy
    expires_at: datetime | None = None  # None: only our own trying ends
    order: SendOrder = "accepted"

    @property
    def may_fall_back(self) -> bool:
        """Whether another account can send it: none knows this one's groups, people without a phone, and ids."""
        if not self.fallback or self.to.phone is None or isinstance(self.content, Reaction):
            return False
        return not (isinstance(self.content, MediaContent) and self.content.id)


class Dispatch(msgspec.Struct, eq=False, kw_only=True):
    """One message under way in this process."""

    organization_id: UUID
    id: UUID
    lease_id: UUID
    intent: SendIntent
    route: Route
    created_at: datetime
    expires_at: datetime
    request_id: str | None = None  # None: another process's
    traceparent: str | None = None  # None: it has no valid one, or came to another process
    number: int = 1  # of the attempt that is claimed, running or last ended; 0: none has begun
    begun: bool = False  # whether that attempt was already used for a call
    exhausted: dict[UUID, str] = {}  # configs that cannot send this message, and why: see fallback_reason
    claimed: Config | None = None  # for the first attempt; None: it is over, or another process's
    fallback_from: UUID | None = None
    fallback_reason: str | None = None  # class of the error that moved it on, or `breaker_open`
    uncertain: Uncertain | None = None  # an attempt that may have been taken
    since: float = msgspec.field(default_factory=monotonic)
    started: float = 0.0  # when the attempt under way could begin; before that, when it was asked for
    held_bytes: int = 0  # of a large request, as it is counted among its organization's
    conversations: dict[UUID, Conversation] = {}  # by the configs that may send it
    reached: Reached = NOBODY_KNOWS  # how the number that it is for is sent to

    def __repr__(self) -> str:
        return f"Dispatch({self.id}, attempt {self.number})"

    @property
    def left_s(self) -> float:
        return (self.expires_at - datetime.now(UTC)).total_seconds()

    @property
    def on_uncertain(self) -> OnUncertain:
        return self.intent.on_uncertain or self.route.policy.on_uncertain

    def conversation(self, config: Config) -> Conversation:
        """The conversation that it is part of when it goes out through *config*."""
        return self.conversations[config.id]

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


def recipient_of(config: Config, dispatch: Dispatch) -> Recipient:
    """Whom the message goes to as WhatsApp has them, as far as that is known; else as it was asked for."""
    to, reached_by = dispatch.intent.to, dispatch.reached.reached_by
    if not reached_by or to.phone is None:
        return to
    if reached_by.startswith("+"):
        return msgspec.structs.replace(to, phone=reached_by)
    # Who says so by a hidden number also sends to it.
    return Recipient(lid=reached_by) if FIND_CONTACT in config.provider.info.capabilities else to


def check_expressible(config: Config, dispatch: Dispatch) -> None:
    """Raise what sending would raise before it calls anything."""
    flow = config.provider.send_message(message_of(config, dispatch))
    try:
        next(flow, None)
    finally:
        flow.close()


def message_of(config: Config, dispatch: Dispatch) -> MessageData:
    """What the attempt under way passes to the provider."""
    return MessageData(
        to=recipient_of(config, dispatch),
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
