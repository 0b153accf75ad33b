"""Sending: an intent is committed before each call, its outcome after; retry, fall back, hold.

    claim ──▶ attempt ──▶ outcome
               │  ▲
               │  └── repeat, fall back: as far as the error and the organization's policy allow it (policy.py)
               └────▶ held (Uncertain): a status settles it, or after a minute it is reported as unknown (recovery.py)

Who calls a provider has first inserted an attempt `where version = <the one it believes in>`, so no attempt that
begins after a switch was acknowledged uses the old provider, whatever is in any cache.
"""

import asyncio
import logging
import math
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

import msgspec

from providers import AccountBroken, Restricted, SendError, Unsupported

from .. import identifiers, log, metrics
from ..accounts.config import Config
from ..accounts.unusable import MissingPlugin
from ..people.directory import Directory
from ..shares import Shares
from ..storage.database import Database, StoreUnavailable
from ..storage.group_commit import GroupCommit, Overloaded, Unconfirmed
from ..storage.statements.sending import leases, sends
from ..storage.statements.sending.leases import Lease
from ..storage.statements.sending.messages import SendState
from ..storage.statements.sending.sends import Claim, Claimed
from ..switching.manager import WhatsAppProviderManager
from ..tracing import trace_of
from .attempts import Attempts
from .breakers import BREAKER_OPEN
from .gate import Gate, open_order
from .lookups import Lookups
from .lost_answers import LostAnswers
from .message import Dispatch, SendIntent
from .outcomes import AlreadyTaken, Outcomes, VersionMoved

logger = logging.getLogger("ingress.sending.outbound")

EXPIRES_AFTER_S, EXPIRES_AT_MOST_S = 600, 24 * 3600
# What large requests of sends under way may take; a small one is not counted, as a thousand of them are little.
SMALL_REQUEST_BYTES = 4 * 1024
HELD_BYTES, HELD_BYTES_EACH = 16 * 1024 * 1024, 4 * 1024 * 1024
# A call without a file ends within it, whichever provider is called.
DRAIN_S = 15.0

_encode = msgspec.json.Encoder().encode

ALARMING = (Restricted, AccountBroken)


class NotConfigured(Exception):
    """The organization has no provider to send through."""


class Duplicate(Exception):
    """The idempotency key names another send already."""


class NoneReady(Exception):
    """No provider of the organization may be called for the moment; nothing was accepted.

    ``unusable``: what stands for the active one, where that cannot be used.
    """

    def __init__(self, wait_s: float, unusable: MissingPlugin | None) -> None:
        super().__init__("no provider may be called")
        self.wait_s = wait_s
        self.unusable = unusable


class Outbound:
    """Accepts messages and sends them. Enter it once a process."""

    def __init__(
        self,
        database: Database,
        manager: WhatsAppProviderManager,
        directory: Directory,
        lookups: Lookups,
        attempts: Attempts,
        outcomes: Outcomes,
        lost_answers: LostAnswers,
        gate: Gate,
    ) -> None:
        self._database = database
        self._manager = manager
        self._directory = directory
        self._lookups = lookups
        self._attempts = attempts
        self._outcomes = outcomes
        self._lost_answers = lost_answers
        self._gate = gate
        self._claims: GroupCommit[Claim, Claimed] = GroupCommit("claims", database, sends.claim)
        self._memory = Shares(HELD_BYTES, HELD_BYTES_EACH)
        self._running: dict[UUID, Dispatch] = {}
        # Until when a claim that nobody confirmed may turn up.
        self._refused: dict[Lease, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "Outbound":
        await self._claims.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Let the calls under way end, within DRAIN_S; what is left is given back, to be taken over at once."""
        await self._claims.__aexit__(*reason)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_S)
        try:
            await self.withdraw()
        except StoreUnavailable:
            logger.warning("%d refused sends may be stored, and end as unknown", len(self._refused))
        if left := self.leases():
            await self._give_back(left)

    async def _give_back(self, left: Sequence[Lease]) -> None:
        # What goes on here from now on would go on elsewhere too.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with self._database.worker() as connection:
                await leases.set_leases(connection, left, seconds=0)
        except StoreUnavailable:
            logger.warning("%d sends wait for their leases to run out", len(left))

    # -- claiming

    async def send(
        self,
        organization_id: UUID,
        intent: SendIntent,
        *,
        idempotency_key: str | None,
        request_hash: bytes,
        request_id: str,
        traceparent: str | None,
    ) -> "tuple[UUID, asyncio.Task[SendState]]":
        """Accept a message durably and begin to send it: its id, and the task that ends with its state.

        Raises `NotConfigured`, `Duplicate`, `NoneReady`, `StoreUnavailable`, `Overloaded`.
        """
        route = self._manager.routes.known_route(organization_id) or await self._manager.routes.route(organization_id)
        now, request = datetime.now(UTC), _encode(intent)
        dispatch = Dispatch(
            organization_id=organization_id,
            id=identifiers.new_id(),
            lease_id=identifiers.new_id(),
            intent=intent,
            route=route,
            created_at=now,
            expires_at=intent.expires_at or now + timedelta(seconds=EXPIRES_AFTER_S),
            request_id=request_id,
            traceparent=traceparent,
        )
        self._hold(dispatch, len(request))
        try:
            dispatch.conversations = await self._directory.conversations(route.order, intent.to)
            dispatch.reached = self._directory.number(organization_id, intent.to)
            dispatch.claimed = await self._claim(dispatch, request, idempotency_key, request_hash)
        except BaseException as error:
            self._memory.add(organization_id, -dispatch.held_bytes)
            if isinstance(error, Unconfirmed | asyncio.CancelledError):
                self._refused[_lease(dispatch)] = math.inf
            raise
        return dispatch.id, self.start(dispatch)

    async def _claim(
        self, dispatch: Dispatch, request: bytes, idempotency_key: str | None, request_hash: bytes
    ) -> Config:
        """The config of the first attempt, which is stored with the message, unless an earlier one is under way."""
        while True:
            first = self._first_config(dispatch)
            claim = _claim(dispatch, first, request, idempotency_key, request_hash)
            claimed = await self._claims.submit(claim, organization=dispatch.organization_id, size_bytes=len(request))
            if claimed.claimed:
                if not claimed.is_first:
                    dispatch.number, dispatch.begun = 0, True
                return first
            if claimed.current:
                raise Duplicate
            await self._follow_version(dispatch, "claim")

    def _first_config(self, dispatch: Dispatch) -> Config:
        """The first config that can be called now. Raises `NotConfigured`, `NoneReady`."""
        if not dispatch.route.order:
            raise NotConfigured
        first = self._gate.next_config(dispatch)
        if first is None:
            active = dispatch.route.order[0].provider
            raise NoneReady(self._gate.rest_s(dispatch), active if isinstance(active, MissingPlugin) else None)
        return first

    async def _follow_version(self, dispatch: Dispatch, what: str) -> None:
        """Send as the database has it. The version only goes up: who repeats *what* because of it comes to an end."""
        metrics.fence_rejections.labels(what).inc()
        route = await self._manager.routes.route(dispatch.organization_id, fresh=True, source="fence")
        # Configs that it has left behind have had their part in it.
        dispatch.conversations |= await self._directory.conversations(route.order, dispatch.intent.to, fresh=True)
        dispatch.route = route

    def _hold(self, dispatch: Dispatch, size_bytes: int) -> None:
        """Count the memory of a large request until its send ends. Raises `Overloaded`."""
        if self._gate.is_full(dispatch.organization_id):
            raise Overloaded
        if size_bytes > SMALL_REQUEST_BYTES:
            if not self._memory.take(dispatch.organization_id, size_bytes):
                raise Overloaded
            dispatch.held_bytes = size_bytes

    def start(self, dispatch: Dispatch) -> "asyncio.Task[SendState]":
        """Send in a task of our own: a client that hangs up changes nothing."""
        self._running[dispatch.id] = dispatch
        return self.own(self._run(dispatch))

    def end(self, dispatch: Dispatch, work: Coroutine[Any, Any, SendState]) -> None:
        """End a send that was taken over by *work*; it is ours until then."""
        self._running[dispatch.id] = dispatch
        self.own(work).add_done_callback(lambda _: self._running.pop(dispatch.id, None))

    def own(self, work: Coroutine[Any, Any, SendState]) -> "asyncio.Task[SendState]":
        """A task that is waited for at the end, and whose failure is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[SendState]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a send was left to whoever takes it over", exc_info=error)

    async def withdraw(self) -> None:
        """Take back claims that may be committed though their callers were refused: nobody was called, the key is free.

        Raises `StoreUnavailable`.
        """
        if not self._refused:
            return
        async with self._database.worker() as connection:
            withdrawn = await leases.withdraw(connection, list(self._refused))
        # A server that stood still may commit after this what it was given before.
        now = monotonic()
        self._refused = {
            claim: min(until, now + leases.LEASE_S)
            for claim, until in self._refused.items()
            if claim.id not in withdrawn and until > now
        }

    def leases(self, older_than_s: float = 0.0) -> list[Lease]:
        """Of sends under way for longer than *older_than_s*."""
        before = monotonic() - older_than_s
        return [_lease(dispatch) for dispatch in self._running.values() if dispatch.since <= before]

    def is_ours(self, message_id: UUID, lease_id: UUID) -> bool:
        """Whether a message is under way here; it is held by *lease_id* from now on."""
        running = self._running.get(message_id)
        if running is not None:
            running.lease_id = lease_id
        return running is not None

    # -- sending

    async def _run(self, dispatch: Dispatch) -> SendState:
        error = reason = None
        last: Config | None = None
        config = dispatch.claimed or self._gate.next_config(dispatch)
        try:
            while config is not None:
                self._note_fallback(dispatch, config, last)
                last = config
                try:
                    result = await self._attempts.through(config, dispatch)
                    state = await self._outcomes.answered(dispatch, config, result)
                    await self._lookups.answered(config, dispatch, result)
                    return state
                except AlreadyTaken:
                    return await self._outcomes.accepted(dispatch, config, None)
                except VersionMoved:
                    await self._follow_version(dispatch, "attempt")
                    last = None
                except SendError as failed:
                    error = failed
                    # What one cannot carry is not the end of what another may carry later.
                    reason = reason if isinstance(failed, Unsupported) else failed
                    if isinstance(error, ALARMING):
                        logger.error("config %s cannot send: %s, code %s", config.id, type(error).__name__, error.code)
                    if not dispatch.moves_on(error):
                        break
                    dispatch.exhausted[config.id] = BREAKER_OPEN if error.code == BREAKER_OPEN else type(error).__name__
                config = self._gate.next_config(dispatch)
            closed = self._gate.closed(dispatch)
            if config is None and open_order(dispatch):
                reason = reason or closed
            return await self.failed(dispatch, last, error or closed, reason)
        finally:
            self._running.pop(dispatch.id, None)
            if dispatch.held_bytes:
                self._memory.add(dispatch.organization_id, -dispatch.held_bytes)

    def _note_fallback(self, dispatch: Dispatch, config: Config, last: Config | None) -> None:
        """Record it, in all places, where *config* is not the one that should send."""
        former = last or dispatch.route.order[0]
        if former.id == config.id:
            return
        reason = _fallback_reason(dispatch, former)
        dispatch.fallback_from = dispatch.fallback_from or former.id
        dispatch.fallback_reason = dispatch.fallback_reason or reason
        _count_fallback(dispatch, former, config, reason)

    async def failed(
        self, dispatch: Dispatch, config: Config | None, error: SendError, reason: SendError | None = None
    ) -> SendState:
        """The end without acceptance, by *reason* or the last *error*; held, where an attempt may have been taken."""
        config = config or next(iter(dispatch.route.order), None)
        if config is None:
            raise error
        if not dispatch.uncertain:
            return await self._outcomes.failed(dispatch, config, error, reason or error)
        state = await self._outcomes.held(dispatch, config, dispatch.uncertain)
        if state.state == "uncertain" and not config.is_unusable:
            self._lost_answers.ask_later(config, dispatch)
        return state


def _lease(dispatch: Dispatch) -> Lease:
    return Lease(dispatch.organization_id, dispatch.id, dispatch.lease_id)


def _claim(
    dispatch: Dispatch, first: Config, request: bytes, idempotency_key: str | None, request_hash: bytes
) -> Claim:
    active = dispatch.route.order[0]
    falls_back = first.id != active.id
    return Claim(
        organization_id=dispatch.organization_id,
        id=dispatch.id,
        conversation_id=dispatch.conversation(active).id,
        in_order=dispatch.intent.order == "accepted",
        idempotency_key=idempotency_key,
        key_hash=identifiers.idempotency_hash(dispatch.organization_id, idempotency_key) if idempotency_key else None,
        request_hash=request_hash,
        request=request,
        request_id=dispatch.request_id,
        expires_at=dispatch.expires_at,
        lease_id=dispatch.lease_id,
        config_id=first.id,
        provider=first.provider_type,
        version=dispatch.route.version,
        fallback_from=active.id if falls_back else None,
        fallback_reason=_fallback_reason(dispatch, active) if falls_back else None,
    )


def _fallback_reason(dispatch: Dispatch, former: Config) -> str:
    return dispatch.exhausted.get(former.id) or _passed_over(former)


def _passed_over(config: Config) -> str:
    """Why it was not called."""
    return config.provider.code if isinstance(config.provider, MissingPlugin) else BREAKER_OPEN


def _count_fallback(dispatch: Dispatch, former: Config, config: Config, reason: str) -> None:
    metrics.child(metrics.fallbacks, config.provider_type, reason).inc()
    log.wide(
        "send_fallback",
        request=dispatch.request_id,
        trace_id=dispatch.traceparent and trace_of(dispatch.traceparent),
        organization=dispatch.organization_id,
        message=dispatch.id,
        former=former.id,
        config=config.id,
        provider=config.provider_type,
        reason=reason,
    )
