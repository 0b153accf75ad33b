"""Attempts: calls to one provider, each begun in the database before it is made, and repeated as far as it helps.

Before a call: a turn (the sender's rate), a slot (the organization's share of this process), a permit (the account's
breaker). What has to be waited for longer than a moment is noted first, so that a process that dies while it waits
leaves a message that was surely not taken; after the wait the attempt is begun anew, under the fence.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)
from tenacity.wait import wait_random_exponential

from providers import (
    AccountBroken,
    MessageResult,
    Rejected,
    SendError,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
)

from .. import log, metrics
from ..calls.driver import CALL_TIMEOUT_S, Caller
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import sends
from ..storage.statements.sends import NextAttempt
from ..switching.in_flight import InFlight
from ..switching.manager import Config
from ..tracing import trace_of
from .breakers import Breakers, ended_by
from .budget import RetryBudgets
from .bulkhead import Bulkhead
from .message import Dispatch, message_of
from .outcomes import STORE_RETRY_S, LeaseLost, Outcomes
from .pacing import Pacer

logger = logging.getLogger("ingress.sending.attempts")

ATTEMPTS = 3
# With another provider at hand one quick repetition is enough: the person waits.
ATTEMPTS_WITH_FALLBACK = 2
RETRY_BASE_S, RETRY_CAP_S, RETRY_CAP_WITH_FALLBACK_S = 0.2, 5.0, 0.05
# A provider that asks for more than this is left for the next one, where there is one.
PATIENCE_S = 5.0
# Waiting that is too short to be worth two statements.
MOMENT_S = 0.1

BREAKER_OPEN = "breaker_open"

# After these another attempt may follow.
PASSING = (Throttled, Unavailable, Unsupported, AccountBroken)


class VersionMoved(Exception):
    """The organization's version moved on."""


class AlreadyTaken(Exception):
    """A status says that an earlier attempt was taken after all."""


def breaker_open(wait_s: float) -> Unavailable:
    """The account is not called for the moment; nothing was sent. Jittered: not all who wait come back at once."""
    retry_after_s = wait_s * random.uniform(1.0, 1.5)  # noqa: S311  (nothing secret)
    return Unavailable("the provider failed lately and is left alone", code=BREAKER_OPEN, retry_after_s=retry_after_s)


def expired() -> Rejected:
    """The message's time is over."""
    return Rejected("the message expired before a provider took it", code="expired")


class Attempts:
    """Makes the calls. One a process."""

    def __init__(
        self,
        database: Database,
        caller: Caller,
        outcomes: Outcomes,
        breakers: Breakers,
        pacer: Pacer,
        bulkhead: Bulkhead,
        in_flight: InFlight,
    ) -> None:
        self._database = database
        self._caller = caller
        self._outcomes = outcomes
        self._breakers = breakers
        self._pacer = pacer
        self._bulkhead = bulkhead
        self._in_flight = in_flight
        self._budgets = RetryBudgets()

    async def through(self, config: Config, dispatch: Dispatch) -> MessageResult:
        """Send through one config, repeating what may be repeated.

        Raises what the last attempt raised: `SendError`, `VersionMoved`, `AlreadyTaken`, `LeaseLost`,
        `StoreUnavailable`.
        """
        self._budgets.first_attempt(config)
        try:
            return await self._attempt(config, dispatch)
        except SendError as failed:
            if not dispatch.repeats(failed):
                raise
            first: SendError | None = failed
            goes_on = dispatch.moves_on(failed) and dispatch.has_fallback(config)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, SendError) and dispatch.repeats(error)),
            stop=_either(
                stop_after_attempt(ATTEMPTS_WITH_FALLBACK if goes_on else ATTEMPTS),
                self._out_of_patience(config, dispatch),
            ),
            wait=_wait_with_fallback if goes_on else _wait,
            reraise=True,
        ):
            with attempt:
                if first is not None:  # the first attempt is over; tenacity takes it from there
                    failed_first, first = first, None
                    raise failed_first
                return await self._attempt(config, dispatch)
        raise AssertionError("tenacity ends by returning or raising")

    def _out_of_patience(self, config: Config, dispatch: Dispatch) -> Callable[[RetryCallState], bool]:
        """Whether not to repeat: the breaker, the deadline, a wait too long where another is ready, the budget."""

        def stop(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, SendError)
            if state.upcoming_sleep >= dispatch.left_s:
                return True
            goes_on = dispatch.moves_on(error) and dispatch.has_fallback(config)
            if error.code == BREAKER_OPEN:
                return goes_on  # nothing was called, so with no other provider it may as well wait
            if self._breakers.wait_s(config) > 0 or (goes_on and state.upcoming_sleep > PATIENCE_S):
                return True
            if (reason := self._budgets.take(config)) is not None:
                metrics.child(metrics.retry_budget_exhausted, config.provider_type, reason).inc()
                return True
            return False

        return stop

    async def _attempt(self, config: Config, dispatch: Dispatch) -> MessageResult:
        """One call, its intent committed before."""
        organization_id = dispatch.organization_id
        await self._cleared(config, dispatch)
        started = monotonic()
        try:
            return await self._call(config, dispatch)
        except SendError as error:
            await self._note(dispatch, config, error, started)
            raise
        finally:
            self._bulkhead.leave(organization_id)

    async def _call(self, config: Config, dispatch: Dispatch) -> MessageResult:
        permit = self._breakers.enter(config)
        if permit is None:
            raise breaker_open(self._breakers.wait_s(config))
        started = monotonic()
        try:
            flow = config.provider.send_message(message_of(config, dispatch))
            exchange = self._caller.traced(dispatch.traceparent) if dispatch.traceparent else None
            self._in_flight.enter(config.id)
            try:
                result = await self._caller.run(flow, min(CALL_TIMEOUT_S, dispatch.left_s), exchange)
            finally:
                self._in_flight.leave(config.id)
        except SendError as error:
            self._breakers.leave(config, permit, ended_by(error))
            if isinstance(error, Throttled):
                await self._pacer.throttled(config, dispatch.contact, error)
            raise
        except Exception as error:
            # A plug-in that breaks after its request was written may have sent: the careful reading.
            logger.exception("the provider plug-in failed")
            self._breakers.leave(config, permit, "failed")
            raise Uncertain("the provider plug-in failed", code="plugin_failed") from error
        except BaseException:
            self._breakers.leave(config, permit, "neutral")
            raise
        self._breakers.leave(config, permit, "ok")
        _observe(dispatch, config, "ok", None, started)
        return result

    async def _cleared(self, config: Config, dispatch: Dispatch) -> None:
        """Begin the attempt, and return with a slot to make it in. Raises `Throttled` where that would be too late."""
        organization_id = dispatch.organization_id
        has_turn = has_slot = False
        try:
            while True:
                if dispatch.begun:
                    await self._begin_next(config, dispatch)
                dispatch.begun = True
                if dispatch.left_s <= 0:
                    raise expired()
                wait_s = 0.0 if has_turn else await self._turn(config, dispatch)
                if wait_s > MOMENT_S:
                    await self._check_expressible(config, dispatch)
                    if has_slot:
                        has_slot = False
                        self._bulkhead.leave(organization_id)
                    await self._wait_noted(config, dispatch, "pacing", wait_s)
                    await asyncio.sleep(wait_s)
                    has_turn = True
                    continue
                if wait_s:
                    await asyncio.sleep(wait_s)
                if has_slot or await self._bulkhead.enter(organization_id, MOMENT_S):
                    has_slot = False  # whoever asked has it now
                    return
                await self._wait_noted(config, dispatch, "bulkhead", None)
                with metrics.child(metrics.bulkhead_wait, config.provider_type).time():
                    has_slot = await self._bulkhead.enter(organization_id, max(0.0, dispatch.left_s))
                has_turn = False  # it was for then, not for now
        finally:
            if has_slot:
                self._bulkhead.leave(organization_id)

    async def _turn(self, config: Config, dispatch: Dispatch) -> float:
        """Seconds until the sender's turn, which is reserved. Raises `Throttled` where that is too late."""
        at_most_s = dispatch.left_s
        error = Throttled("the sender's next turn is too late", code="pacing")
        if dispatch.moves_on(error) and dispatch.has_fallback(config):
            at_most_s = min(at_most_s, PATIENCE_S)
        turn = await self._pacer.turn(config, dispatch.contact, at_most_s)
        if turn.wait_s > at_most_s:
            error.retry_after_s = turn.wait_s
            error.scope = turn.scope
            await self._note(dispatch, config, error, monotonic())
            raise error
        return turn.wait_s

    async def _check_expressible(self, config: Config, dispatch: Dispatch) -> None:
        """Raise before a long wait what would be raised after it, before anything is called."""
        flow = config.provider.send_message(message_of(config, dispatch))
        try:
            next(flow, None)
        except SendError as error:
            await self._note(dispatch, config, error, monotonic())
            raise
        finally:
            flow.close()

    async def _wait_noted(self, config: Config, dispatch: Dispatch, code: str, wait_s: float | None) -> None:
        waits = Throttled("the message waits for its turn to be sent", code=code, retry_after_s=wait_s)
        await self._note(dispatch, config, waits, monotonic())

    async def _begin_next(self, config: Config, dispatch: Dispatch) -> None:
        attempt = NextAttempt(
            organization_id=dispatch.organization_id,
            id=dispatch.id,
            lease_id=dispatch.lease_id,
            number=dispatch.number + 1,
            config_id=config.id,
            provider=config.provider_type,
            version=dispatch.route.version,
        )
        async for begin in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=stop_after_delay(sends.LEASE_S),
            wait=wait_fixed(STORE_RETRY_S),
            reraise=True,
        ):
            # Again, also where it may be committed: an attempt that was begun and never made would be uncertain.
            with begin:
                async with self._database.worker() as connection:
                    begun = await sends.begin_attempt(connection, attempt)
        if begun.settled:
            raise AlreadyTaken
        if not begun.held:
            raise LeaseLost
        if not begun.current:
            raise VersionMoved
        dispatch.number += 1

    async def _note(self, dispatch: Dispatch, config: Config, error: SendError, started: float) -> None:
        """Write down how an attempt ended, where another one may follow."""
        _observe(dispatch, config, type(error).__name__, error.code, started)
        if isinstance(error, Uncertain):
            dispatch.uncertain = error
            if dispatch.on_uncertain == "hold":
                return
        elif not isinstance(error, PASSING):
            return
        await self._outcomes.note(dispatch, config, error, started)


def _observe(dispatch: Dispatch, config: Config, outcome: str, code: str | None, started: float) -> None:
    elapsed = monotonic() - started
    metrics.child(metrics.send_attempts, config.provider_type, outcome).inc()
    metrics.observe(metrics.send_attempt_seconds, elapsed, config.provider_type, outcome)
    log.wide(
        "send_attempt",
        request=dispatch.request_id,
        trace_id=trace_of(dispatch.traceparent),
        organization=dispatch.organization_id,
        message=dispatch.id,
        attempt=dispatch.number,
        config=config.id,
        provider=config.provider_type,
        version=dispatch.route.version,
        outcome=outcome,
        code=code,
        ms=round(elapsed * 1000, 1),
    )


def _either(*stops: Callable[[RetryCallState], bool]) -> Callable[[RetryCallState], bool]:
    return lambda state: any(stop(state) for stop in stops)


def _wait(state: RetryCallState) -> float:
    """Seconds to the next attempt: what the provider asked for, else doubling from RETRY_BASE_S with full jitter.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, SendError) and error.retry_after_s is not None:
        return error.retry_after_s
    return _jitter(state)


def _wait_with_fallback(state: RetryCallState) -> float:
    """As `_wait`; but a provider that is not there is asked again in a moment or not at all."""
    error = state.outcome.exception() if state.outcome else None
    wait_s = _wait(state)
    return min(wait_s, RETRY_CAP_WITH_FALLBACK_S) if isinstance(error, Unavailable) else wait_s


_jitter = wait_random_exponential(multiplier=RETRY_BASE_S, max=RETRY_CAP_S)
