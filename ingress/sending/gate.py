"""May I call now? The sender's turn, the organization's slot, the account's permit: asked here, in this order.

What has to be waited for longer than a moment is noted first, so that a process that dies while it waits leaves a
message that was surely not taken; after the wait the attempt is begun anew, under the fence.
"""

import asyncio
import random
from time import monotonic
from types import TracebackType

from providers import AccountBroken, Rejected, SendError, Throttled, Unavailable

from .. import metrics
from ..accounts.config import Config
from ..accounts.unusable import MissingPlugin
from ..switching.in_flight import InFlight
from .breakers import Breakers, Permit
from .bulkhead import Bulkhead
from .message import Dispatch, message_of
from .outcomes import Outcomes
from .pacing import Pacer

# A provider that asks for more than this is left for the next one, where there is one.
PATIENCE_S = 5.0
# Waiting that is too short to be worth two statements.
MOMENT_S = 0.1

BREAKER_OPEN = "breaker_open"

_TOO_LATE = Throttled("the sender's next turn is too late", code="pacing")


def breaker_open(wait_s: float) -> Unavailable:
    """The account is not called for the moment; nothing was sent. Jittered: not all who wait come back at once."""
    retry_after_s = wait_s * random.uniform(1.0, 1.5)  # noqa: S311  (nothing secret)
    return Unavailable("the provider failed lately and is skipped", code=BREAKER_OPEN, retry_after_s=retry_after_s)


def expired() -> Rejected:
    """The message's time is over."""
    return Rejected("the message expired before a provider took it", code="expired")


class Gate:
    """Which config may be called for a message, and when. One a process."""

    def __init__(
        self, outcomes: Outcomes, breakers: Breakers, pacer: Pacer, bulkhead: Bulkhead, in_flight: InFlight
    ) -> None:
        self.outcomes = outcomes
        self.breakers = breakers
        self.pacer = pacer
        self.bulkhead = bulkhead
        self.in_flight = in_flight

    def admitted(self, config: Config, dispatch: Dispatch) -> "Admission":
        """`async with` it: a call through *config* is made in the block. What it raises is counted for the account.

        Entering raises `SendError` where the call may not be made in time, and as `Outcomes.begin` does.
        """
        return Admission(self, config, dispatch)

    def next_config(self, dispatch: Dispatch) -> Config | None:
        """The first config that can be called now and has not failed for this message."""
        for config in dispatch.open_order():
            if self.breakers.wait_s(config) <= 0:
                return config
            # As if it had been called and had failed: the policy decides.
            kind = AccountBroken if self.breakers.is_broken(config) else Unavailable
            if not dispatch.moves_on(kind()):
                return None
        return None

    def rest_s(self, dispatch: Dispatch) -> float:
        """Seconds after which one of its configs may be called."""
        waits = [wait_s for config in dispatch.open_order() if (wait_s := self.breakers.wait_s(config)) > 0]
        return min(waits, default=1.0)

    def closed(self, dispatch: Dispatch) -> SendError:
        """Why nobody may be called."""
        if not dispatch.route.order:
            return Unavailable("the organization has no provider any more", code="not_configured")
        if isinstance(active := dispatch.route.order[0].provider, MissingPlugin):
            return AccountBroken(active.detail, code=active.code)
        return breaker_open(self.rest_s(dispatch))


class Admission:
    """One call. ``started``: when it could begin; before that, when it was asked for."""

    __slots__ = ("_config", "_dispatch", "_gate", "_permit", "started")

    def __init__(self, gate: Gate, config: Config, dispatch: Dispatch) -> None:
        self._gate = gate
        self._config = config
        self._dispatch = dispatch
        self._permit: Permit | None = None
        self.started = monotonic()

    async def __aenter__(self) -> "Admission":
        gate, config = self._gate, self._config
        await self._take_turn_and_slot()
        self.started = monotonic()
        self._permit = gate.breakers.enter(config)
        if self._permit is None:
            gate.bulkhead.leave(config.organization_id)
            raise breaker_open(gate.breakers.wait_s(config))
        gate.in_flight.enter(config.id)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        gate, config = self._gate, self._config
        assert self._permit is not None, "left before it was entered"
        gate.in_flight.leave(config.id)
        gate.bulkhead.leave(config.organization_id)
        gate.breakers.leave(config, self._permit, error)
        if isinstance(error, Throttled):
            await gate.pacer.throttled(config, self._dispatch.contact, error)

    async def _take_turn_and_slot(self) -> None:
        """Begin the attempt, and return with a slot to make it in."""
        gate, config, dispatch = self._gate, self._config, self._dispatch
        organization_id = config.organization_id
        has_turn = has_slot = False
        try:
            while True:
                if dispatch.begun:
                    await gate.outcomes.begin(dispatch, config)
                dispatch.begun = True
                left_s = dispatch.left_s
                if left_s <= 0:
                    raise expired()
                wait_s = 0.0 if has_turn else await self._turn_s(left_s)
                if wait_s > MOMENT_S:
                    self._check_expressible()
                    if has_slot:
                        has_slot = False
                        gate.bulkhead.leave(organization_id)
                    await self._note_wait("pacing", wait_s)
                    await asyncio.sleep(wait_s)
                    has_turn = True
                    continue
                if wait_s:
                    await asyncio.sleep(wait_s)
                if has_slot or await gate.bulkhead.enter(organization_id, MOMENT_S):
                    has_slot = False  # whoever asked has it now
                    return
                await self._note_wait("bulkhead", None)
                with metrics.child(metrics.bulkhead_wait, config.provider_type).time():
                    has_slot = await gate.bulkhead.enter(organization_id, max(0.0, dispatch.left_s))
                has_turn = False  # it was for then, not for now
        finally:
            if has_slot:
                gate.bulkhead.leave(organization_id)

    async def _turn_s(self, at_most_s: float) -> float:
        """Seconds until the sender's turn, which is reserved. Raises `Throttled` where that is too late."""
        config, dispatch = self._config, self._dispatch
        if dispatch.goes_on(_TOO_LATE, config):
            at_most_s = min(at_most_s, PATIENCE_S)
        turn = await self._gate.pacer.turn(config, dispatch.contact, at_most_s)
        if turn.wait_s > at_most_s:
            raise Throttled(_TOO_LATE.detail, code=_TOO_LATE.code, retry_after_s=turn.wait_s, scope=turn.scope)
        return turn.wait_s

    def _check_expressible(self) -> None:
        """Raise before a long wait what would be raised after it, before anything is called."""
        flow = self._config.provider.send_message(message_of(self._config, self._dispatch))
        try:
            next(flow, None)
        finally:
            flow.close()

    async def _note_wait(self, code: str, wait_s: float | None) -> None:
        waits = Throttled("the message waits for its turn to be sent", code=code, retry_after_s=wait_s)
        await self._gate.outcomes.note(self._dispatch, self._config, waits, monotonic())
