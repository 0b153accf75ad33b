"""Attempts: calls to one provider, repeated as far as it helps. When each may be made: gate.py."""

import logging
import random

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    wait_exception,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from providers import MessageResult, SendError, Unavailable, Uncertain

from .. import metrics
from ..accounts.config import Config
from ..calls.driver import Caller
from .breakers import BREAKER_OPEN
from .budget import RetryBudgets
from .gate import PATIENCE_S, Gate, goes_on
from .lookups import Lookups
from .message import Dispatch, message_of
from .outcomes import Outcomes

logger = logging.getLogger("ingress.sending.attempts")

ATTEMPTS = 3
# With another provider at hand one quick repetition is enough: the person waits.
ATTEMPTS_WITH_FALLBACK = 2
RETRY_BASE_S, RETRY_CAP_S, RETRY_CAP_WITH_FALLBACK_S = 0.2, 5.0, 0.05


def _asked_s(error: BaseException) -> float:
    """What the provider asked to be waited for."""
    return (isinstance(error, SendError) and error.retry_after_s) or 0.0


def _quick_s(error: BaseException) -> float:
    """As asked, else a moment; but a provider that is not there is asked again at once, or not at all."""
    wait_s = _asked_s(error) or random.uniform(0, RETRY_BASE_S)  # noqa: S311  (spreads load)
    return min(wait_s, RETRY_CAP_WITH_FALLBACK_S) if isinstance(error, Unavailable) else wait_s


# Full jitter. Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
_wait = wait_exception(_asked_s) + wait_random_exponential(multiplier=RETRY_BASE_S, max=RETRY_CAP_S)
_wait_with_fallback = wait_exception(_quick_s)


class Attempts:
    """Makes the calls. One a process."""

    def __init__(self, caller: Caller, lookups: Lookups, outcomes: Outcomes, gate: Gate) -> None:
        self._caller = caller
        self._lookups = lookups
        self._outcomes = outcomes
        self._gate = gate
        self._budgets = RetryBudgets()

    async def through(self, config: Config, dispatch: Dispatch) -> MessageResult:
        """Send through one config, repeating what may be repeated.

        Raises what the last attempt raised: `SendError`, `VersionMoved`, `AlreadyTaken`, `LeaseLost`,
        `StoreUnavailable`.
        """
        self._budgets.first_attempt(config)
        try:
            return await self._attempt(config, dispatch)
        except SendError as error:
            if not dispatch.repeats(error):
                raise
            first = error
        async for attempt in self._repetitions(config, dispatch, first):
            if attempt.retry_state.attempt_number == 1:  # made above: nearly every send is spared these 20 us
                attempt.retry_state.set_exception((type(first), first, first.__traceback__))
                continue
            with attempt:
                return await self._attempt(config, dispatch)
        raise AssertionError("tenacity ends by returning or raising")

    def _repetitions(self, config: Config, dispatch: Dispatch, first: SendError) -> AsyncRetrying:
        """How attempts are repeated after *first* failed."""
        has_next = goes_on(dispatch, first, config)
        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, SendError) and dispatch.repeats(error)),
            stop=stop_any(
                stop_after_attempt(ATTEMPTS_WITH_FALLBACK if has_next else ATTEMPTS),
                _StopWhenFutile(self._gate, self._budgets, config, dispatch),
            ),
            wait=_wait_with_fallback if has_next else _wait,
            reraise=True,
        )

    async def _attempt(self, config: Config, dispatch: Dispatch) -> MessageResult:
        """One call, its intent committed before."""
        try:
            async with self._gate.admitted(config, dispatch) as left_s:
                return await self._call(config, dispatch, left_s)
        except SendError as error:
            await self._outcomes.note(dispatch, config, error)
            raise

    async def _call(self, config: Config, dispatch: Dispatch, left_s: float) -> MessageResult:
        await self._lookups.address(config, dispatch, left_s)
        try:
            flow = config.provider.send_message(message_of(config, dispatch))
            limit_s = config.provider.time_limits.send_s(dispatch.intent.content)
            exchange = self._caller.traced(dispatch.traceparent) if dispatch.traceparent else None
            return await self._caller.run(flow, min(limit_s, dispatch.left_s), exchange)
        except SendError:
            raise
        except Exception as error:
            # A plug-in that breaks after its request was written may have sent: the careful reading.
            logger.exception("the provider plug-in failed")
            raise Uncertain("the provider plug-in failed", code="plugin_failed") from error


class _StopWhenFutile(stop_base):
    """Stops for the breaker, the deadline, a wait too long where another provider is ready, the budget."""

    def __init__(self, gate: Gate, budgets: RetryBudgets, config: Config, dispatch: Dispatch) -> None:
        self._gate = gate
        self._budgets = budgets
        self._config = config
        self._dispatch = dispatch

    def __call__(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, SendError)
        if state.upcoming_sleep >= self._dispatch.left_s:
            return True
        has_next = goes_on(self._dispatch, error, self._config)
        if error.code == BREAKER_OPEN:
            return has_next  # nothing was called, so with no other provider it may as well wait
        is_too_late = has_next and state.upcoming_sleep > PATIENCE_S
        return is_too_late or self._gate.breakers.wait_s(self._config) > 0 or self._is_over_budget()

    def _is_over_budget(self) -> bool:
        reason = self._budgets.take(self._config)
        if reason is not None:
            metrics.child(metrics.retry_budget_exhausted, self._config.provider_type, reason).inc()
        return reason is not None
