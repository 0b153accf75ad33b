"""May I call now? The conversation, the sender's turn, the organization's slot, the account's permit: in this order.

What has to be waited for longer than a moment is noted first, so that a process that dies while it waits leaves a
message that was surely not taken; after the wait the attempt is begun anew, under the fence.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from uuid import UUID

from providers import AccountBroken, Rejected, SendError, Throttled, Unavailable
from providers.limits import kind_of

from .. import metrics
from ..accounts.config import Config
from ..accounts.unusable import MissingPlugin
from ..switching.in_flight import InFlight
from .breakers import Breakers, breaker_open
from .bulkhead import Bulkhead
from .conversation_order import CROSSED_S, ConversationOrder
from .message import Dispatch, check_expressible
from .outcomes import NotFirst, Outcomes
from .pacing import Pacer

# A provider that asks for more than this is left for the next one, where there is one.
PATIENCE_S = 5.0
# Waiting that is too short to be worth two statements.
MOMENT_S = 0.1

_TOO_LATE = Throttled("the sender's next turn is too late", code="pacing")


def expired() -> Rejected:
    """The message's time is over."""
    return Rejected("the message expired before a provider took it", code="expired")


def open_order(dispatch: Dispatch) -> list[Config]:
    """The configs that a message may still go out through, in their order."""
    order = dispatch.route.order
    if len(order) > 1 and not (dispatch.intent.may_fall_back and dispatch.route.may_fall_back):
        order = order[:1]
    return [config for config in order if config.id not in dispatch.exhausted]


def goes_on(dispatch: Dispatch, error: SendError, config: Config) -> bool:
    """Whether another provider will be asked after *error* of *config*: it may be, and there is one that could send."""
    return (
        len(dispatch.route.order) > 1
        and dispatch.moves_on(error)
        and any(other.id != config.id and _can_carry(other, dispatch) for other in open_order(dispatch))
    )


def _can_carry(config: Config, dispatch: Dispatch) -> bool:
    """Whether the message is of a kind, and of a size, that the provider declares to take."""
    content = dispatch.intent.content
    try:
        config.provider.check_limits(content)
    except SendError:
        return False
    return kind_of(content) in config.provider.info.capabilities


class Gate:
    """Which config may be called for a message, and when. One a process."""

    def __init__(
        self,
        outcomes: Outcomes,
        order: ConversationOrder,
        breakers: Breakers,
        pacer: Pacer,
        bulkhead: Bulkhead,
        in_flight: InFlight,
    ) -> None:
        self.order = order
        self.breakers = breakers
        self._bulkhead = bulkhead
        self._outcomes = outcomes
        self._pacer = pacer
        self._in_flight = in_flight

    @asynccontextmanager
    async def admitted(self, config: Config, dispatch: Dispatch) -> AsyncIterator[float]:
        """A call through *config* is made in the block, within the seconds that it is given.

        What it raises is counted for the account. Entering raises `SendError` where the call may not be made in time,
        and as `Outcomes.begin` does.
        """
        dispatch.started = monotonic()
        left_s = await self._begin_in_order(config, dispatch)
        try:
            dispatch.started = monotonic()
            with self.breakers.permit(config), self._in_flight.call(config.id):
                yield left_s
        except Throttled as error:
            await self._pacer.throttled(config, _contact(dispatch), error)
            raise
        finally:
            self._bulkhead.leave(config.organization_id)

    def is_full(self, organization_id: UUID) -> bool:
        """Whether no more sends of the organization should be accepted."""
        return self._bulkhead.is_full(organization_id) or self.order.is_full(organization_id)

    def next_config(self, dispatch: Dispatch) -> Config | None:
        """The first config that can be called now and has not failed for this message."""
        for config in open_order(dispatch):
            if self.breakers.wait_s(config) <= 0:
                return config
            # As if it had been called and had failed: the policy decides.
            kind = AccountBroken if self.breakers.is_broken(config) else Unavailable
            if not dispatch.moves_on(kind()):
                return None
        return None

    def rest_s(self, dispatch: Dispatch) -> float:
        """Seconds after which one of its configs may be called."""
        waits = [wait_s for config in open_order(dispatch) if (wait_s := self.breakers.wait_s(config)) > 0]
        return min(waits, default=1.0)

    def closed(self, dispatch: Dispatch) -> SendError:
        """Why nobody may be called."""
        if not dispatch.route.order:
            return Unavailable("the organization has no provider any more", code="not_configured")
        if isinstance(active := dispatch.route.order[0].provider, MissingPlugin):
            return AccountBroken(active.detail, code=active.code)
        return breaker_open(self.rest_s(dispatch))

    async def _begin_in_order(self, config: Config, dispatch: Dispatch) -> float:
        """As `_take_turn_and_slot`, once no earlier send of the conversation is under way. Who waits holds neither."""
        look_s = CROSSED_S
        while True:
            try:
                return await self._take_turn_and_slot(config, dispatch)
            except NotFirst:
                if (left_s := dispatch.left_s) <= 0:
                    raise expired() from None
            await self.order.wait(config.organization_id, dispatch.id, min(look_s, left_s))
            look_s = math.inf

    async def _take_turn_and_slot(self, config: Config, dispatch: Dispatch) -> float:
        """Begin the attempt, and return with a slot to make it in: the seconds that are left for it."""
        organization_id = config.organization_id
        has_turn = has_slot = False
        try:
            while True:
                left_s = await self._begin(config, dispatch)
                wait_s = 0.0 if has_turn else await self._turn_s(config, dispatch, left_s)
                if wait_s > MOMENT_S:
                    if has_slot:
                        has_slot = False
                        self._bulkhead.leave(organization_id)
                    check_expressible(config, dispatch)
                    await self._note_wait(config, dispatch, "pacing", wait_s)
                    await asyncio.sleep(wait_s)
                    has_turn = True
                    continue
                if wait_s:
                    await asyncio.sleep(wait_s)
                if has_slot or await self._bulkhead.enter(organization_id, MOMENT_S):
                    has_slot = False  # whoever asked has it now
                    return left_s
                await self._note_wait(config, dispatch, "bulkhead")
                with metrics.child(metrics.bulkhead_wait, config.provider_type).time():
                    has_slot = await self._bulkhead.enter(organization_id, max(0.0, dispatch.left_s))
                has_turn = False  # it was for then, not for now
        finally:
            if has_slot:
                self._bulkhead.leave(organization_id)

    async def _begin(self, config: Config, dispatch: Dispatch) -> float:
        """Begin the attempt, the first one aside, which began with the claim; the seconds that are left for it."""
        if dispatch.begun:
            await self._outcomes.begin(dispatch, config)
        dispatch.begun = True
        left_s = dispatch.left_s
        if left_s <= 0:
            raise expired()
        return left_s

    async def _turn_s(self, config: Config, dispatch: Dispatch, at_most_s: float) -> float:
        """Seconds until the sender's turn, which is reserved. Raises `Throttled` where that is too late."""
        if goes_on(dispatch, _TOO_LATE, config):
            at_most_s = min(at_most_s, PATIENCE_S)
        turn = await self._pacer.turn(config, _contact(dispatch), at_most_s)
        if turn.wait_s > at_most_s:
            raise Throttled(_TOO_LATE.detail, code=_TOO_LATE.code, retry_after_s=turn.wait_s, scope=turn.scope)
        return turn.wait_s

    async def _note_wait(self, config: Config, dispatch: Dispatch, code: str, wait_s: float | None = None) -> None:
        waits = Throttled("the message waits for its turn to be sent", code=code, retry_after_s=wait_s)
        dispatch.started = monotonic()
        await self._outcomes.note(dispatch, config, waits)


def _contact(dispatch: Dispatch) -> str:
    """Who gets the message, as one text."""
    to = dispatch.intent.to
    return to.phone or to.user_id or to.lid or to.group_id or ""
