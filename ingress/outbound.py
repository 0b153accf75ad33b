"""Sending: an intent is committed before each call, its outcome after; retry, fall back, hold, take over.

    claim ──▶ attempt ──▶ finish
               │  ▲
               │  └── retry (Throttled, Unavailable), fall back (and Unsupported, AccountBroken)
               └────▶ held (Uncertain): a status settles it, or after a minute it is reported as unknown

Who calls a provider has first inserted an attempt `where version = <the one it believes in>`, so no attempt that
begins after a switch was acknowledged uses the old provider, whatever any cache says.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from providers import (
    AccountBroken,
    MessageData,
    MessageResult,
    Rejected,
    Restricted,
    SendError,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
)
from providers.messages import STATUS_RANK, ErrorInfo

from . import identifiers, log, metrics
from .calls import CALL_TIMEOUT_S, Caller
from .correlation import correlation
from .database import WORKER, Database, StoreUnavailable
from .events import Wakes
from .group_commit import GroupCommit, Overloaded
from .manager import Config, WhatsAppProviderManager
from .pacing import Pacer
from .sending import Carrier, Order, RetryBudget, Sending, SendState, conversation_of, state_of, status_event, storable
from .storage import sends
from .storage.sends import Claim, Claimed, Outcome
from .storage.statuses import sweep

logger = logging.getLogger("ingress.outbound")

ATTEMPTS = 3
# With another provider at hand one quick repetition is enough: the person waits.
ATTEMPTS_WITH_FALLBACK = 2
RETRY_BASE_S, RETRY_CAP_S = 0.2, 5.0
# A provider that asks for more than this is left for the next one, where there is one.
PATIENCE_S = 5.0
HOLD_S = 60
# When the provider is asked for a message whose answer was lost: seconds after the time before.
ASK_AFTER_S = (1.0, 5.0, 20.0)
EXPIRES_AFTER_S, EXPIRES_AT_MOST_S = 600, 24 * 3600
HEARTBEAT_S = 5.0
SWEEP_S = 5.0
RECLAIM_ROWS = 100
STORE_RETRY_S = 0.2
DRAIN_S = 10.0

_encode = msgspec.json.Encoder().encode

# What a failed attempt allows. Rejected and Restricted allow nothing; Uncertain what the sender chose.
RETRYABLE = (Throttled, Unavailable)
FALLS_BACK = (Throttled, Unavailable, Unsupported, AccountBroken)
ALARMING = (Restricted, AccountBroken)

OwnStatus = Literal["accepted", "sent", "failed", "unknown"]


class NotConfigured(Exception):
    """The organization has no provider to send through."""


class Duplicate(Exception):
    """The idempotency key names another send already."""


class LeaseLost(Exception):
    """Another process took the message over, and speaks for it now."""


class _Stale(Exception):
    """The organization's version moved on."""


class _Settled(Exception):
    """A status says that an earlier attempt was taken after all."""


class Outbound:
    """Sends messages, and goes on with those whose process died. Enter it once a process."""

    def __init__(
        self,
        database: Database,
        manager: WhatsAppProviderManager,
        caller: Caller,
        wakes: Wakes,
        pacer: Pacer,
        closing: asyncio.Event,
    ) -> None:
        self._database = database
        self._manager = manager
        self._caller = caller
        self._wakes = wakes
        self._closing = closing
        self._claims: GroupCommit[Claim, Claimed] = GroupCommit("claims", database, WORKER, sends.claim)
        self._outcomes: GroupCommit[Outcome, asyncpg.Record] = GroupCommit("outcomes", database, WORKER, sends.finish)
        self._running: dict[UUID, Sending] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._budget = RetryBudget()
        self._pacer = pacer

    async def __aenter__(self) -> "Outbound":
        await self._claims.__aenter__()
        await self._outcomes.__aenter__()
        self._background = [
            asyncio.create_task(_forever(work, every_s))
            for work, every_s in (
                (self._renew_leases, HEARTBEAT_S),
                (self._take_over, SWEEP_S),
                (self._match_statuses, SWEEP_S),
            )
        ]
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Let the calls under way end, within DRAIN_S; what is left is given back, to be taken over at once."""
        # Whoever takes a held message over asks for it again.
        for task in (*self._background, *self._asking):
            task.cancel()
        await self._claims.__aexit__(*reason)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_S)
        left = list(self._running.values())
        if left:
            try:
                async with self._database.worker() as connection:
                    await sends.set_leases(connection, _leases(left), seconds=0)
            except StoreUnavailable:
                logger.warning("%d sends wait for their leases to run out", len(left))
        await self._outcomes.__aexit__(*reason)

    # -- claiming

    async def send(
        self,
        organization_id: UUID,
        order: Order,
        *,
        idempotency_key: str | None,
        request_hash: bytes,
    ) -> "tuple[UUID, asyncio.Task[SendState]]":
        """Accept a message durably and begin to send it: its id, and the task that ends with its state.

        Raises `NotConfigured`, `Duplicate`, `StoreUnavailable`, `Overloaded`.
        """
        now = datetime.now(UTC)
        expires_at = order.expires_at or now + timedelta(seconds=EXPIRES_AFTER_S)
        message_id, lease_id = identifiers.new_id(), identifiers.new_id()
        route = self._manager.known_route(organization_id) or await self._manager.route(organization_id)
        request = _encode(order)
        while True:
            if not route.order:
                raise NotConfigured
            active = route.order[0]
            claimed = await self._claims.submit(
                Claim(
                    organization_id,
                    message_id,
                    conversation_of(organization_id, active, order.to).id,
                    idempotency_key,
                    request_hash,
                    request,
                    expires_at,
                    lease_id,
                    active.id,
                    active.provider_type,
                    route.version,
                ),
                organization=organization_id,
                size_bytes=len(request),
            )
            if claimed.claimed:
                break
            if claimed.current:
                raise Duplicate
            # The version only goes up, and the fresh one is the database's own: this ends.
            metrics.fence_rejections.labels("claim").inc()
            route = await self._manager.route(organization_id, fresh=True, source="fence")
        return message_id, self._start(Sending(organization_id, message_id, lease_id, order, route, now, expires_at))

    def _start(self, sending: Sending) -> "asyncio.Task[SendState]":
        """Send in a task of our own: a client that hangs up changes nothing."""
        self._running[sending.id] = sending
        return self._own(self._run(sending))

    def _own(self, work: Coroutine[Any, Any, SendState]) -> "asyncio.Task[SendState]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[SendState]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a send was left to whoever takes it over", exc_info=error)

    # -- attempting

    async def _run(self, sending: Sending) -> SendState:
        error: SendError = Unavailable("the organization has no provider any more", code="not_configured")
        last: Config | None = None
        try:
            while (config := sending.next_config()) is not None:
                if last is not None and config.id != last.id:
                    sending.fallback_from = sending.fallback_from or last.id
                    metrics.fallbacks.labels(config.provider_type, type(error).__name__).inc()
                last = config
                try:
                    return await self._accepted(sending, config, await self._through(config, sending))
                except _Settled:
                    return await self._finish(sending, self._outcome(sending, config, "ok", None, "done", "sent"))
                except _Stale:
                    metrics.fence_rejections.labels("attempt").inc()
                    sending.route = await self._manager.route(sending.organization_id, fresh=True, source="fence")
                    last = None
                except FALLS_BACK as failed:
                    error = failed
                    _alarm(config, error)
                    sending.exhausted.add(config.id)
                except Uncertain as failed:
                    error = failed
                    if sending.order.on_uncertain != "fallback":
                        break
                    sending.exhausted.add(config.id)
                except (Rejected, Restricted) as failed:
                    error = failed
                    _alarm(config, error)
                    break
            return await self._failed(sending, last, error)
        finally:
            self._running.pop(sending.id, None)

    async def _through(self, config: Config, sending: Sending) -> MessageResult:
        """Send through one config, repeating what may be repeated. Raises what the last `_attempt` raised."""
        retryable = (*RETRYABLE, Uncertain) if sending.order.on_uncertain == "retry" else RETRYABLE
        try:
            self._budget.first_attempt(config.id)
            return await self._attempt(config, sending)
        except retryable as failed:
            first: SendError | None = failed
        attempts = ATTEMPTS_WITH_FALLBACK if sending.has_fallback(config) else ATTEMPTS
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(retryable),
            stop=_either(stop_after_attempt(attempts), self._out_of_patience(config, sending)),
            wait=_wait,
            reraise=True,
        ):
            with attempt:
                if first is not None:  # the first attempt is over; tenacity takes it from there
                    failed_first, first = first, None
                    raise failed_first
                return await self._attempt(config, sending)
        raise AssertionError("tenacity ends by returning or raising")

    def _out_of_patience(self, config: Config, sending: Sending) -> Callable[[RetryCallState], bool]:
        """Whether not to repeat: the deadline, a wait too long where another provider is ready, the budget."""

        def stop(state: RetryCallState) -> bool:
            if state.upcoming_sleep >= sending.left_s:
                return True
            if state.upcoming_sleep > PATIENCE_S and sending.has_fallback(config):
                return True
            if config.id in sending.turns:
                return False  # nothing was called, and a turn is reserved
            if not self._budget.take(config.id):
                metrics.retry_budget_exhausted.labels(config.provider_type, "account").inc()
                return True
            return False

        return stop

    async def _attempt(self, config: Config, sending: Sending) -> MessageResult:
        """One call, its intent committed before. Raises `SendError`, `_Stale`, `_Settled`, `LeaseLost`."""
        if sending.begun:
            await self._begin_next(config, sending)
        sending.begun = True
        if sending.left_s <= 0:
            raise Rejected("the message expired before a provider took it", code="expired")
        started = monotonic()
        try:
            await self._take_turn(config, sending)
            flow = config.provider.send_message(_message(config, sending))
            with self._manager.in_flight.call(config.id):
                result = await self._caller.run(flow, min(CALL_TIMEOUT_S, sending.left_s))
        except SendError as error:
            await self._note(sending, config, error, started)
            raise
        except Exception as error:
            # A plug-in that breaks after its request was written may have sent: the careful reading.
            logger.exception("the provider plug-in failed")
            broken = Uncertain("the provider plug-in failed", code="plugin_failed")
            await self._note(sending, config, broken, started)
            raise broken from error
        _observe(sending, config, "ok", None, started)
        return result

    async def _take_turn(self, config: Config, sending: Sending) -> None:
        """Return where *config* may send now. Raises `Throttled`: the repetition after the wait is fenced again."""
        if config.provider.info.pacing is None:
            return
        if config.id in sending.turns:
            sending.turns.remove(config.id)
            return
        at_most_s = min(sending.left_s, PATIENCE_S) if sending.has_fallback(config) else sending.left_s
        wait_s = await self._pacer.turn(config, at_most_s)
        if wait_s > at_most_s:
            raise Throttled("the account's next turn to send is too late", code="pacing", retry_after_s=wait_s)
        if wait_s > 0:
            sending.turns.add(config.id)
            raise Throttled("the account waits for its turn to send", code="pacing", retry_after_s=wait_s)

    async def _begin_next(self, config: Config, sending: Sending) -> None:
        async with self._database.worker() as connection:
            begun = await sends.begin_attempt(
                connection,
                sending.organization_id,
                sending.id,
                number=sending.number + 1,
                config_id=config.id,
                provider=config.provider_type,
                version=sending.route.version,
                lease_id=sending.lease_id,
            )
        if begun.settled:
            raise _Settled
        if not begun.held:
            raise LeaseLost
        if not begun.current:
            raise _Stale
        sending.number += 1

    async def _note(self, sending: Sending, config: Config, error: SendError, started: float) -> None:
        """Write down how an attempt ended that another one may follow: without it a crash would make it uncertain."""
        _observe(sending, config, type(error).__name__, error.code, started)
        if isinstance(error, Uncertain):
            sending.uncertain = error
            if sending.order.on_uncertain == "hold":
                return
        elif not isinstance(error, FALLS_BACK):
            return
        await self._store(
            self._outcome(sending, config, type(error).__name__, error, "sending", "accepted", started=started)
        )

    # -- finishing

    async def _ask(self, config: Config, sending: Sending) -> None:
        """Ask the provider, a few times, for the message whose answer was lost. A status may tell before it does."""
        for pause_s in ASK_AFTER_S:
            await asyncio.sleep(pause_s)
            if (result := await self._found(config, sending)) is None:
                continue
            try:
                await self._accepted(sending, config, result)
            except (LeaseLost, StoreUnavailable, Overloaded) as error:
                logger.warning("message %s was found and is left to who has it: %s", sending.id, type(error).__name__)
            return

    async def _found(self, config: Config, sending: Sending) -> MessageResult | None:
        """The message of the last attempt as its provider has it; None where nobody can tell."""
        try:
            return await self._caller.run(config.provider.find_message(_message(config, sending)))
        except SendError as error:
            if not isinstance(error, Unsupported):
                logger.warning("config %s cannot be asked for a message: %s", config.id, error.code)
        except Exception:  # a plug-in that breaks here leaves the message as uncertain as it was
            logger.exception("the provider plug-in failed")
        return None

    async def _accepted(self, sending: Sending, config: Config, result: MessageResult) -> SendState:
        return await self._finish(sending, self._outcome(sending, config, "ok", None, "done", "sent", result=result))

    async def _failed(self, sending: Sending, carrier: Carrier | Config | None, error: SendError) -> SendState:
        """The end without acceptance; held instead, where any attempt may have been taken."""
        carrier = carrier or (sending.route.order[0] if sending.route.order else None)
        if carrier is None:
            raise error
        if sending.uncertain is not None:
            held = self._outcome(sending, carrier, "Uncertain", sending.uncertain, "uncertain", "accepted")
            state = await self._finish(sending, held)
            if isinstance(carrier, Config) and state.state == "uncertain":
                asking = asyncio.create_task(self._ask(carrier, sending))
                self._asking.add(asking)
                asking.add_done_callback(self._asking.discard)
            return state
        return await self._finish(
            sending, self._outcome(sending, carrier, type(error).__name__, error, "done", "failed")
        )

    def _outcome(
        self,
        sending: Sending,
        carrier: Carrier | Config,
        attempt_class: str,
        error: SendError | None,
        state: Literal["sending", "uncertain", "done"],
        status: OwnStatus,
        *,
        result: MessageResult | None = None,
        started: float | None = None,
    ) -> Outcome:
        now = datetime.now(UTC)
        told, detail = None, None
        if error is not None:
            detail = storable(error.detail)
            told = ErrorInfo(class_=attempt_class, code=error.code, detail=detail or None)
        provider_message_id = result.provider_message_id if result else None
        event = None
        if state == "done":
            event = status_event(sending, carrier, status, told, provider_message_id)
        return Outcome(
            sending.organization_id,
            sending.id,
            sending.lease_id,
            sending.number,
            attempt_class,
            error.code if error else None,
            detail,
            round((monotonic() - (started or sending.since)) * 1000),
            carrier.id,
            carrier.provider_type,
            provider_message_id,
            state,
            status,
            STATUS_RANK[status],
            _encode(told) if told else None,
            sending.fallback_from,
            now,
            result.cost if result else None,
            now + timedelta(seconds=HOLD_S) if state == "uncertain" else None,
            event,
        )

    async def _finish(self, sending: Sending, outcome: Outcome) -> SendState:
        """Store the end of a send; how the message stands now. Raises `LeaseLost`, `StoreUnavailable`."""
        row = await self._store(outcome)
        if row["id"] is None:
            raise LeaseLost
        state = state_of(row)
        if state.state == "done":
            labels = outcome.provider, state.status
            metrics.child(metrics.send_terminal, *labels).inc()
            metrics.send_seconds.observe((outcome.at - sending.created_at).total_seconds(), *labels)
        self._wakes.wake(sending.organization_id)
        return state

    async def _store(self, outcome: Outcome) -> asyncpg.Record:
        """Store an outcome, as long as the lease lasts: what a provider did must not be forgotten for a hiccup."""
        until = monotonic() + sends.LEASE_S
        while True:
            try:
                return await self._outcomes.submit(outcome, organization=outcome.organization_id)
            except (StoreUnavailable, Overloaded):
                if monotonic() > until:
                    raise
                await asyncio.sleep(STORE_RETRY_S)

    # -- going on with what others left

    async def _renew_leases(self) -> None:
        if old := [sending for sending in self._running.values() if monotonic() - sending.since > HEARTBEAT_S]:
            async with self._database.worker() as connection:
                await sends.set_leases(connection, _leases(old), seconds=sends.LEASE_S)

    async def _match_statuses(self) -> None:
        async with self._database.worker() as connection:
            await sweep(connection)

    async def _take_over(self) -> None:
        if self._closing.is_set():
            return
        lease_id = identifiers.new_id()
        async with self._database.worker() as connection:
            rows = await sends.reclaim(connection, lease_id, RECLAIM_ROWS)
        for row in rows:
            if (running := self._running.get(row["id"])) is not None:
                running.lease_id = lease_id  # ours all along; we were only too slow to say so
                continue
            metrics.lease_reclaims.labels(row["state"]).inc()
            try:
                await self._go_on(row, lease_id)
            except StoreUnavailable:
                raise
            except Exception:  # one message must not keep the others of a dead process waiting
                logger.exception("message %s cannot be gone on with", row["id"])

    async def _given_up(self, sending: Sending, carrier: Carrier | Config, lost: Uncertain) -> SendState:
        """The end of a held message, after its provider was asked a last time."""
        if isinstance(carrier, Config) and (result := await self._found(carrier, sending)) is not None:
            return await self._accepted(sending, carrier, result)
        return await self._finish(sending, self._outcome(sending, carrier, "Uncertain", lost, "done", "unknown"))

    async def _go_on(self, row: asyncpg.Record, lease_id: UUID) -> None:
        """Go on with a message of a process that died, or report a held one whose time is up."""
        route = await self._manager.route(row["organization_id"], fresh=True)
        async with self._database.worker() as connection:
            attempts = await sends.attempts(connection, row["organization_id"], row["id"])
        last = attempts[-1]
        sending = Sending(
            row["organization_id"],
            row["id"],
            lease_id,
            msgspec.json.decode(row["request"], type=Order),
            route,
            row["created_at"],
            row["expires_at"],
        )
        sending.number, sending.begun = last["number"], True
        sending.fallback_from = row["fallback_from"]
        configs = {config.id: config for config in await self._manager.configs(row["organization_id"])}
        carrier = configs.get(last["config_id"]) or Carrier(last["config_id"], last["provider"])
        lost = Uncertain("no answer came", code=last["code"] or "process_died")
        if any(attempt["class"] in (None, "Uncertain") for attempt in attempts):
            sending.uncertain = lost
        if row["state"] == "uncertain":
            self._own(self._given_up(sending, carrier, lost))
        elif row["status_rank"] > STATUS_RANK["unknown"]:
            self._own(self._finish(sending, self._outcome(sending, carrier, "ok", None, "done", "sent")))
        elif last["class"] is None and sending.order.on_uncertain == "hold":
            self._own(self._failed(sending, carrier, lost))
        else:
            for attempt in attempts:
                if attempt["class"] in ("Unsupported", "AccountBroken"):
                    sending.exhausted.add(attempt["config_id"])
            if last["class"] is None and sending.order.on_uncertain == "fallback":
                sending.exhausted.add(carrier.id)
            self._start(sending)


def _message(config: Config, sending: Sending) -> MessageData:
    """What the attempt under way says to the provider."""
    expires = sending.order.expires_at is not None
    return MessageData(
        to=sending.order.to,
        content=sending.order.content,
        organization_id=str(sending.organization_id),
        correlation_id=correlation(sending.id, sending.number),
        lead_id=sending.order.lead_id,
        # A quoted message is known only to the provider that carried it.
        reply_to=sending.order.reply_to if sending.fallback_from is None else None,
        callback_url=config.callback_url,
        created_at=sending.created_at,
        valid_for_s=max(1, round(sending.left_s)) if expires else None,
    )


def _leases(sendings: list[Sending]) -> list[tuple[UUID, UUID, UUID]]:
    return [(sending.organization_id, sending.id, sending.lease_id) for sending in sendings]


async def _forever(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        try:
            await work()
        except StoreUnavailable:
            logger.warning("the database is away; background work waits")
        except Exception:  # leases run out if nobody renews them: the loop must live on
            logger.exception("background work failed")
        await asyncio.sleep(every_s)


def _alarm(config: Config, error: SendError) -> None:
    if isinstance(error, ALARMING):
        logger.error("config %s cannot send: %s, code %s", config.id, type(error).__name__, error.code)


def _observe(sending: Sending, config: Config, outcome: str, code: str | None, started: float) -> None:
    elapsed = monotonic() - started
    metrics.child(metrics.send_attempts, config.provider_type, outcome).inc()
    metrics.send_attempt_seconds.observe(elapsed, config.provider_type, outcome)
    log.wide(
        "send_attempt",
        organization=sending.organization_id,
        message=sending.id,
        attempt=sending.number,
        config=config.id,
        provider=config.provider_type,
        version=sending.route.version,
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


_jitter = wait_random_exponential(multiplier=RETRY_BASE_S, max=RETRY_CAP_S)
