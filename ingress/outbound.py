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
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from providers import (
    AccountBroken,
    Contact,
    MessageData,
    MessageResult,
    Recipient,
    Rejected,
    Restricted,
    SendError,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
)
from providers.messages import STATUS_RANK, ErrorInfo, OutboundContent, Reaction, Status

from . import identifiers, log, metrics
from .calls import CALL_TIMEOUT_S, Caller
from .correlation import correlation
from .database import WORKER, Database, StoreUnavailable
from .envelope import Conversation, EventData, EventMessage
from .events import Wakes
from .group_commit import GroupCommit, Overloaded
from .manager import Config, Route, WhatsAppProviderManager
from .storage import sends
from .storage.events import EventRow
from .storage.sends import Claim, Claimed, Finished, Outcome
from .storage.statuses import sweep

logger = logging.getLogger("ingress.outbound")

ATTEMPTS = 3
# With another provider at hand one quick repetition is enough: the person waits.
ATTEMPTS_WITH_FALLBACK = 2
RETRY_BASE_S, RETRY_CAP_S = 0.2, 5.0
# A provider that asks for more than this is left for the next one, where there is one.
PATIENCE_S = 5.0
HOLD_S = 60
EXPIRES_AFTER_S, EXPIRES_AT_MOST_S = 600, 24 * 3600
HEARTBEAT_S = 5.0
SWEEP_S = 5.0
RECLAIM_ROWS = 100
STORE_RETRY_S = 0.2
DRAIN_S = 25.0
MAX_DETAIL_CHARACTERS = 1_000

_encode = msgspec.json.Encoder().encode

# What a failed attempt allows. Rejected and Restricted allow nothing; Uncertain what the sender chose.
RETRYABLE = (Throttled, Unavailable)
FALLS_BACK = (Throttled, Unavailable, Unsupported, AccountBroken)
ALARMING = (Restricted, AccountBroken)


class NotConfigured(Exception):
    """The organization has no provider to send through."""


class Duplicate(Exception):
    """The idempotency key names another send already."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A send as it was asked for, and as it is kept for whoever has to go on with it."""

    to: Recipient
    content: OutboundContent
    lead_id: str | None = None
    reply_to: str | None = None
    fallback: bool = True
    on_uncertain: Literal["hold", "retry", "fallback"] = "hold"

    def __repr__(self) -> str:
        return f"Order(content={type(self.content).__name__})"

    @property
    def may_fall_back(self) -> bool:
        """Another provider knows neither groups, nor ids of this business's scope, nor the message reacted to."""
        return self.fallback and self.to.phone is not None and not isinstance(self.content, Reaction)


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
    sent_at: datetime | None = None
    cost: str | None = None


class _Stale(Exception):
    """The organization's version moved on, or the message is somebody else's by now."""


class LeaseLost(Exception):
    """Another process took the message over, and speaks for it now."""


class Sending:
    """One message under way in this process."""

    def __init__(
        self,
        organization_id: UUID,
        message_id: UUID,
        conversation_id: UUID,
        order: Order,
        route: Route,
        created_at: datetime,
        expires_at: datetime,
    ) -> None:
        self.organization_id = organization_id
        self.id = message_id
        self.conversation_id = conversation_id
        self.order = order
        self.route = route
        self.created_at = created_at
        self.expires_at = expires_at
        self.number = 1  # of the attempt that is claimed, running or last ended
        self.begun = False  # whether that attempt was already used for a call
        self.exhausted: set[UUID] = set()  # configs that cannot send this message
        self.fallback_from: UUID | None = None
        self.uncertain: Uncertain | None = None  # an earlier attempt may have been taken
        self.since = monotonic()

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


class Outbound:
    """Sends messages, and goes on with those whose process died. Enter it once a process."""

    def __init__(self, database: Database, manager: WhatsAppProviderManager, caller: Caller, wakes: Wakes) -> None:
        self._database = database
        self._manager = manager
        self._caller = caller
        self._wakes = wakes
        self._lease_id = uuid4()
        self._claims: GroupCommit[Claim, Claimed] = GroupCommit("claims", database, WORKER, sends.claim)
        self._outcomes: GroupCommit[Outcome, Finished] = GroupCommit("outcomes", database, WORKER, sends.finish)
        self._running: dict[UUID, Sending] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._budget = RetryBudget()

    async def __aenter__(self) -> "Outbound":
        await self._claims.__aenter__()
        await self._outcomes.__aenter__()
        self._background = [
            asyncio.create_task(self._forever(self._renew_leases, HEARTBEAT_S)),
            asyncio.create_task(self._forever(self._take_over, SWEEP_S)),
        ]
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Let the calls under way end, within DRAIN_S; what is left is taken over by another process."""
        for task in self._background:
            task.cancel()
        await self._claims.__aexit__(*reason)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_S)
        await self._outcomes.__aexit__(*reason)

    # -- claiming

    async def send(
        self,
        organization_id: UUID,
        order: Order,
        *,
        idempotency_key: str | None,
        request_hash: bytes,
        expires_at: datetime | None,
    ) -> "tuple[UUID, asyncio.Task[SendState]]":
        """Accept a message durably and begin to send it: its id, and the task that ends with its state.

        Raises `NotConfigured`, `Duplicate`, `StoreUnavailable`, `Overloaded`.
        """
        now = datetime.now(UTC)
        expires_at = expires_at or now + timedelta(seconds=EXPIRES_AFTER_S)
        message_id = identifiers.new_id()
        route = self._manager.known_route(organization_id) or await self._manager.route(organization_id)
        request = _encode(order)
        while True:
            if not route.order:
                raise NotConfigured
            active = route.order[0]
            conversation = _conversation(organization_id, active, order.to)
            claimed = await self._claims.submit(
                Claim(
                    organization_id,
                    message_id,
                    conversation.id,
                    idempotency_key,
                    request_hash,
                    request,
                    expires_at,
                    self._lease_id,
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
            route = await self._manager.route(organization_id, fresh=True)
        sending = Sending(organization_id, message_id, conversation.id, order, route, now, expires_at)
        return message_id, self._start(sending)

    def _start(self, sending: Sending) -> "asyncio.Task[SendState]":
        """Send in a task of our own: a client that hangs up changes nothing."""
        self._running[sending.id] = sending
        task = asyncio.create_task(self._run(sending))
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
                except _Stale:
                    metrics.fence_rejections.labels("attempt").inc()
                    believed = sending.route.version
                    sending.route = await self._manager.route(sending.organization_id, fresh=True)
                    if sending.route.version == believed:
                        raise LeaseLost from None
                    last = None
                except FALLS_BACK as failed:
                    error = failed
                    sending.exhausted.add(config.id)
                except (Rejected, Restricted) as failed:
                    return await self._failed(sending, config, failed)
                except Uncertain as failed:
                    error = sending.uncertain = failed
                    if sending.order.on_uncertain != "fallback":
                        return await self._failed(sending, config, failed)
                    sending.exhausted.add(config.id)
            return await self._failed(sending, last, error)
        finally:
            self._running.pop(sending.id, None)

    async def _through(self, config: Config, sending: Sending) -> MessageResult:
        """Send through one config, repeating what may be repeated. Raises the last `SendError`, or `_Stale`."""
        try:
            self._budget.first_attempt(config.id)
            return await self._attempt(config, sending)
        except RETRYABLE as failed:
            first: SendError | None = failed
        except Uncertain as failed:
            if sending.order.on_uncertain != "retry":
                raise
            first = failed
        retryable = (*RETRYABLE, Uncertain) if sending.order.on_uncertain == "retry" else RETRYABLE
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

    def _out_of_patience(self, config: Config, sending: Sending) -> Any:
        """Whether not to repeat: the deadline, a wait too long where another provider is ready, the budget."""

        def stop(state: RetryCallState) -> bool:
            if state.upcoming_sleep >= sending.left_s:
                return True
            if state.upcoming_sleep > PATIENCE_S and sending.has_fallback(config):
                return True
            if not self._budget.take(config.id):
                metrics.retry_budget_exhausted.labels(config.provider_type, "account").inc()
                return True
            return False

        return stop

    async def _attempt(self, config: Config, sending: Sending) -> MessageResult:
        """One call, its intent committed before. Raises `SendError`, `_Stale`."""
        if sending.begun:
            await self._begin_next(config, sending)
        sending.begun = True
        if sending.left_s <= 0:
            raise self._expired(sending)
        message = MessageData(
            to=sending.order.to,
            content=sending.order.content,
            organization_id=str(sending.organization_id),
            correlation_id=correlation(sending.id, sending.number),
            lead_id=sending.order.lead_id,
            # A quoted message is known only to the provider that carried it.
            reply_to=sending.order.reply_to if sending.fallback_from is None else None,
        )
        started = monotonic()
        try:
            result = await self._caller.run(config.provider.send_message(message), min(CALL_TIMEOUT_S, sending.left_s))
        except SendError as error:
            self._observe(sending, config, type(error).__name__, error.code, started)
            if isinstance(error, FALLS_BACK) or (isinstance(error, Uncertain) and sending.order.on_uncertain != "hold"):
                await self._note(sending, config, error, started)
            raise
        except Exception as error:
            # A plug-in that breaks after its request was written may have sent: the careful reading.
            logger.exception("the provider plug-in failed")
            self._observe(sending, config, "Uncertain", "plugin_failed", started)
            raise Uncertain("the provider plug-in failed", code="plugin_failed") from error
        self._observe(sending, config, "ok", None, started)
        return result

    async def _begin_next(self, config: Config, sending: Sending) -> None:
        number = sending.number + 1
        async with self._database.worker() as connection:
            begun = await sends.begin_attempt(
                connection,
                sending.organization_id,
                sending.id,
                number=number,
                config_id=config.id,
                provider=config.provider_type,
                version=sending.route.version,
                lease_id=self._lease_id,
            )
        if not begun:
            raise _Stale
        sending.number = number

    def _expired(self, sending: Sending) -> SendError:
        return Rejected("the message expired before a provider took it", code="expired")

    def _observe(self, sending: Sending, config: Config, outcome: str, code: str | None, started: float) -> None:
        elapsed = monotonic() - started
        metrics.send_attempts.labels(config.provider_type, outcome).inc()
        metrics.send_attempt_seconds.labels(config.provider_type, outcome).observe(elapsed)
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

    # -- finishing

    async def _note(self, sending: Sending, config: Config, error: SendError, started: float) -> None:
        """Write down how an attempt ended that another one follows: without it a crash would make it uncertain."""
        await self._store(
            self._outcome(
                sending, config, type(error).__name__, error, state="sending", status="accepted", started=started
            )
        )

    async def _accepted(self, sending: Sending, config: Config, result: MessageResult) -> SendState:
        outcome = self._outcome(sending, config, "ok", None, state="done", status="sent", result=result)
        return await self._finish(sending, outcome)

    async def _failed(self, sending: Sending, config: Config | None, error: SendError) -> SendState:
        """The end without acceptance; held instead, where any attempt may have been taken."""
        if isinstance(error, ALARMING):
            logger.error("config %s cannot send: %s, code %s", config and config.id, type(error).__name__, error.code)
        config = config or (sending.route.order[0] if sending.route.order else None)
        if config is None:
            raise error
        if sending.uncertain is not None:
            return await self._held(sending, config, sending.uncertain)
        outcome = self._outcome(sending, config, type(error).__name__, error, state="done", status="failed")
        return await self._finish(sending, outcome)

    async def _held(self, sending: Sending, config: Config, error: SendError) -> SendState:
        outcome = self._outcome(sending, config, "Uncertain", error, state="uncertain", status="accepted")
        return await self._finish(sending, outcome)

    def _outcome(
        self,
        sending: Sending,
        config: Config,
        attempt_class: str,
        error: SendError | None,
        *,
        state: str,
        status: Literal["accepted", "sent", "failed", "unknown"],
        result: MessageResult | None = None,
        started: float | None = None,
    ) -> Outcome:
        now = datetime.now(UTC)
        told = None
        if error is not None:
            told = ErrorInfo(class_=attempt_class, code=error.code, detail=_storable(error.detail) or None)
        event = None
        if state == "done":
            event = _status_event(sending, config, status, told, result)
        return Outcome(
            sending.organization_id,
            sending.id,
            self._lease_id,
            sending.number,
            attempt_class,
            error.code if error else None,
            _storable(error.detail) if error else None,
            round((monotonic() - (started or sending.since)) * 1000),
            config.id,
            config.provider_type,
            result.provider_message_id if result else None,
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
        finished = await self._store(outcome)
        ok = outcome.provider_message_id is not None
        if outcome.state == "done":
            labels = outcome.provider, outcome.status
            metrics.send_terminal.labels(*labels).inc()
            elapsed = (outcome.at - sending.created_at).total_seconds()
            metrics.send_seconds.labels(*labels).observe(elapsed)
            self._wakes.wake(sending.organization_id)
        return SendState(
            id=sending.id,
            state=finished.state or outcome.state,
            status=finished.status or outcome.status,
            attempts=sending.number,
            provider=outcome.provider,
            config_id=outcome.config_id,
            provider_message_id=outcome.provider_message_id,
            fallback_from=outcome.fallback_from,
            error=msgspec.json.decode(outcome.error, type=ErrorInfo) if outcome.error else None,
            sent_at=outcome.at if ok else None,
            cost=outcome.cost,
        )

    async def _store(self, outcome: Outcome) -> Finished:
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
        old = [sending for sending in self._running.values() if monotonic() - sending.since > HEARTBEAT_S]
        if old:
            async with self._database.worker() as connection:
                await sends.renew_leases(
                    connection,
                    [sending.organization_id for sending in old],
                    [sending.id for sending in old],
                    self._lease_id,
                )

    async def _take_over(self) -> None:
        async with self._database.worker() as connection:
            await sweep(connection)
            rows = await sends.reclaim(connection, self._lease_id, RECLAIM_ROWS)
        for row in rows:
            metrics.lease_reclaims.labels(row["state"]).inc()
            await self._go_on(row)

    async def _go_on(self, row: asyncpg.Record) -> None:
        """Go on with a message of a process that died, or report a held one whose time is up."""
        route = await self._manager.route(row["organization_id"], fresh=True)
        async with self._database.worker() as connection:
            attempts = await sends.attempts(connection, row["organization_id"], row["id"])
        last = attempts[-1]
        sending = Sending(
            row["organization_id"],
            row["id"],
            row["conversation_id"],
            msgspec.json.decode(row["request"], type=Order),
            route,
            row["created_at"],
            row["expires_at"],
        )
        sending.number = last["number"]
        sending.begun = True
        sending.fallback_from = row["fallback_from"]
        configs = {config.id: config for config in await self._manager.configs(row["organization_id"])}
        config = configs.get(last["config_id"])
        if config is None:
            logger.error("message %s is left alone: its config is gone", row["id"])
            return
        lost = Uncertain("no answer came", code=last["code"] or "process_died")
        if row["state"] == "uncertain":
            self._own(
                self._finish(sending, self._outcome(sending, config, "Uncertain", lost, state="done", status="unknown"))
            )
        elif row["status_rank"] > STATUS_RANK["unknown"]:
            settled = self._outcome(sending, config, "ok", None, state="done", status="sent")
            self._own(self._finish(sending, settled))
        elif last["class"] is None and sending.order.on_uncertain == "hold":
            self._own(self._held(sending, config, lost))
        else:
            if last["class"] in (None, "Uncertain"):
                sending.uncertain = lost
            for attempt in attempts:
                if attempt["class"] in ("Unsupported", "AccountBroken"):
                    sending.exhausted.add(attempt["config_id"])
            if last["class"] is None and sending.order.on_uncertain == "fallback":
                sending.exhausted.add(config.id)
            self._start(sending)

    def _own(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _forever(self, work: Any, every_s: float) -> None:
        while True:
            try:
                await work()
            except StoreUnavailable:
                logger.warning("the database is away; background work waits")
            except Exception:
                logger.exception("background work failed")
            await asyncio.sleep(every_s)


def _storable(detail: str) -> str:
    """A provider's own words, in a length and in characters that the database takes."""
    return detail[:MAX_DETAIL_CHARACTERS].replace("\x00", "�")


def _either(*stops: Any) -> Any:
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


def _conversation(organization_id: UUID, config: Config, to: Recipient) -> Conversation:
    contact = None if to.group_id else Contact(phone=to.phone, user_id=to.user_id, lid=to.lid)
    identity = identifiers.conversation_id(organization_id, config.sender or "", contact, to.group_id)
    return Conversation(identity, config.sender, contact, to.group_id)


def _status_event(
    sending: Sending,
    config: Config,
    status: Literal["accepted", "sent", "failed", "unknown"],
    error: ErrorInfo | None,
    result: MessageResult | None,
) -> EventRow:
    """The end of a send, as the CRM reads it among the events."""
    to = sending.order.to
    contact = None if to.group_id else Contact(phone=to.phone, user_id=to.user_id, lid=to.lid)
    provider_message_id = result.provider_message_id if result else None
    data = EventData(
        sending.organization_id,
        config.provider_type,
        config.id,
        Conversation(sending.conversation_id, config.sender, contact, to.group_id),
        EventMessage(
            id=sending.id,
            provider_message_id=provider_message_id,
            lead_id=sending.order.lead_id,
            attempts=sending.number,
            fallback_from=sending.fallback_from,
        ),
        Status(provider_message_id=provider_message_id, value=status, error=error),
    )
    return EventRow(
        sending.organization_id,
        identifiers.new_id(),
        "message.status",
        config.id,
        sending.conversation_id,
        _encode(data),
    )
