"""What is written down of a send: attempts before they are made, their outcomes, its end with the CRM's event.

The first attempt is written down with the claim. All else but the beginning of another one is group-committed.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Literal, NamedTuple

import msgspec
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from providers import AccountBroken, MessageResult, SendError, Throttled, Unavailable, Uncertain, Unsupported
from providers.messages import STATUS_RANK, ErrorInfo, Status

from .. import log, metrics
from ..accounts.activity import Activity
from ..accounts.config import Config
from ..envelope import EventData, EventMessage
from ..storage.database import Database, StoreUnavailable
from ..storage.group_commit import GroupCommit, Overloaded
from ..storage.statements.events import EventRow
from ..storage.statements.sending import leases, sends
from ..storage.statements.sending.messages import SendState
from ..storage.statements.sending.sends import Finished, NextAttempt, Outcome
from ..tracing import trace_of
from ..wakeups import Wakeups
from .conversation_order import ConversationOrder
from .message import Dispatch

HOLD_S = 60
STORE_RETRY_S = 0.2

# After these another attempt may follow.
PASSING = (Throttled, Unavailable, Unsupported, AccountBroken)

_encode = msgspec.json.Encoder().encode


class LeaseLost(Exception):
    """Another process took the message over, and reports what becomes of it."""


class NotFirst(Exception):
    """An earlier send of the conversation is under way."""


class VersionMoved(Exception):
    """The organization's version moved on."""


class AlreadyTaken(Exception):
    """A status shows that an earlier attempt was taken after all."""


class _End(NamedTuple):
    """How a message stands after an attempt."""

    state: Literal["sending", "uncertain", "done"]
    status: Literal["accepted", "sent", "failed", "unknown"]


_SENT, _FAILED, _UNKNOWN = _End("done", "sent"), _End("done", "failed"), _End("done", "unknown")
_HELD, _ANOTHER_FOLLOWS = _End("uncertain", "accepted"), _End("sending", "accepted")


class Outcomes:
    """Writes it down. Enter it once a process. It sets *held* where events wait for sends to end."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        activity: Activity,
        held: asyncio.Event,
        order: ConversationOrder,
    ) -> None:
        self._database = database
        self._activity = activity
        self._wakeups = wakeups
        self._held = held
        self._order = order
        self._queue: GroupCommit[Outcome, Finished] = GroupCommit("outcomes", database, sends.finish)

    async def __aenter__(self) -> "Outcomes":
        await self._queue.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._queue.__aexit__(*reason)

    # -- attempts

    async def begin(self, dispatch: Dispatch, config: Config) -> None:
        """Begin another attempt. Raises `AlreadyTaken`, `LeaseLost`, `NotFirst`, `VersionMoved`, `StoreUnavailable`."""
        attempt = NextAttempt(
            organization_id=dispatch.organization_id,
            id=dispatch.id,
            lease_id=dispatch.lease_id,
            number=dispatch.number + 1,
            config_id=config.id,
            provider=config.provider_type,
            version=dispatch.route.version,
            fallback_from=dispatch.fallback_from,
            fallback_reason=dispatch.fallback_reason,
        )
        # Again, also where it may be committed: an attempt that was begun and never made would be uncertain.
        _check(await self._begin(attempt))
        dispatch.number += 1

    @retry(
        retry=retry_if_exception_type(StoreUnavailable),
        stop=stop_after_delay(leases.LEASE_S),
        wait=wait_fixed(STORE_RETRY_S),
        reraise=True,
    )
    async def _begin(self, attempt: NextAttempt) -> sends.BegunAttempt:
        async with self._database.worker() as connection:
            return await sends.begin_attempt(connection, attempt)

    async def note(self, dispatch: Dispatch, config: Config, error: SendError) -> None:
        """How an attempt failed that another one may follow: without it a crash would make it uncertain."""
        _observe(dispatch, config, error)
        if isinstance(error, Uncertain):
            dispatch.uncertain = error
            if dispatch.on_uncertain == "hold":
                return
        elif not isinstance(error, PASSING):
            return
        await self._store(_outcome(dispatch, config, _ANOTHER_FOLLOWS, error))

    # -- ends

    async def answered(self, dispatch: Dispatch, config: Config, result: MessageResult) -> SendState:
        """A provider took the message, in the attempt under way."""
        _observe(dispatch, config, None)
        return await self.accepted(dispatch, config, result)

    async def accepted(self, dispatch: Dispatch, config: Config, result: MessageResult | None) -> SendState:
        """A provider took the message: by its own *result*, or by a status."""
        self._activity.note("sent", [(config.organization_id, config.id)])
        return await self._finish(dispatch, _outcome(dispatch, config, _SENT, None, result))

    async def failed(self, dispatch: Dispatch, config: Config, error: SendError, reason: SendError) -> SendState:
        """Nobody took the message, for that *reason*, and nobody will be asked again; *error* is the last attempt's."""
        return await self._finish(dispatch, _outcome(dispatch, config, _FAILED, error, reason=reason))

    async def held(self, dispatch: Dispatch, config: Config, error: Uncertain) -> SendState:
        """It may have been taken: to be settled by a status, or by the provider when it is asked."""
        return await self._finish(dispatch, _outcome(dispatch, config, _HELD, error))

    async def unknown(self, dispatch: Dispatch, config: Config, error: Uncertain) -> SendState:
        """The end of a held message that nothing settled."""
        return await self._finish(dispatch, _outcome(dispatch, config, _UNKNOWN, error))

    async def _finish(self, dispatch: Dispatch, outcome: Outcome) -> SendState:
        """Store the end of a send; how the message stands now. Raises `LeaseLost`, `StoreUnavailable`."""
        state = await self._store(outcome)
        if state is None:
            raise LeaseLost
        if state.state == "done":
            labels = outcome.provider, state.status
            metrics.child(metrics.send_terminal, *labels, outcome.attempt_class).inc()
            elapsed = (outcome.at - dispatch.created_at).total_seconds()
            metrics.observe_request(metrics.send_seconds, elapsed, dispatch.request_id, *labels)
        self._wakeups.notify(dispatch.organization_id)
        return state

    async def _store(self, outcome: Outcome) -> SendState | None:
        """Store an outcome, as long as the lease lasts: what a provider did must not be forgotten for a hiccup."""
        until = monotonic() + leases.LEASE_S
        while True:
            try:
                finished = await self._queue.submit(outcome, organization=outcome.organization_id)
            except (StoreUnavailable, Overloaded):
                if monotonic() > until:
                    raise
                await asyncio.sleep(STORE_RETRY_S)
            else:
                if finished.has_held:
                    self._held.set()
                if finished.next_id is not None:
                    self._order.ended(finished.next_id)
                return finished.state


def _class_of(error: SendError | None) -> str:
    return type(error).__name__ if error else "ok"


def _observe(dispatch: Dispatch, config: Config, error: SendError | None) -> None:
    """Log and count an attempt, which failed with *error* or was taken."""
    elapsed, outcome = monotonic() - dispatch.started, _class_of(error)
    metrics.child(metrics.send_attempts, config.provider_type, outcome).inc()
    metrics.observe_request(metrics.send_attempt_seconds, elapsed, dispatch.request_id, config.provider_type, outcome)
    _log_attempt(dispatch, config, error, elapsed)


def _log_attempt(dispatch: Dispatch, config: Config, error: SendError | None, elapsed: float) -> None:
    log.wide(
        "send_attempt",
        request=dispatch.request_id,
        trace_id=dispatch.traceparent and trace_of(dispatch.traceparent),
        organization=dispatch.organization_id,
        message=dispatch.id,
        attempt=dispatch.number,
        config=config.id,
        provider=config.provider_type,
        version=dispatch.route.version,
        outcome=_class_of(error),
        code=error.code if error else None,
        ms=round(elapsed * 1000, 1),
    )


def _outcome(
    dispatch: Dispatch,
    config: Config,
    end: _End,
    error: SendError | None,
    result: MessageResult | None = None,
    reason: SendError | None = None,
) -> Outcome:
    now = datetime.now(UTC)
    why = reason or error
    info = ErrorInfo(class_=_class_of(why), code=why.code, detail=why.detail or None) if why else None
    provider_message_id = result.provider_message_id if result else None
    event = None
    if end.state == "done":
        event = _event(dispatch, config, Status(provider_message_id=provider_message_id, value=end.status, error=info))
    return Outcome(
        organization_id=dispatch.organization_id,
        message_id=dispatch.id,
        lease_id=dispatch.lease_id,
        number=dispatch.number,
        attempt_class=_class_of(error),
        code=error.code if error else None,
        detail=error.detail if error else None,
        duration_ms=round((monotonic() - (dispatch.started or dispatch.since)) * 1000),
        config_id=config.id,
        provider=config.provider_type,
        provider_message_id=provider_message_id,
        message_key=config.message_key(provider_message_id) if provider_message_id else None,
        state=end.state,
        status=end.status,
        rank=STATUS_RANK[end.status],
        error=_encode(info) if info else None,
        fallback_from=dispatch.fallback_from,
        fallback_reason=dispatch.fallback_reason,
        at=now,
        cost=result.cost if result else None,
        held_until=now + timedelta(seconds=HOLD_S) if end.state == "uncertain" else None,
        account_id=config.account_id,
        event_type=event.type if event else None,
        conversation_id=event.conversation_id if event else None,
        data=event.data if event else None,
    )


def _event(dispatch: Dispatch, config: Config, status: Status) -> EventRow:
    """The end of a send, as the CRM reads it among the events."""
    conversation = dispatch.conversation(config)
    data = EventData(
        dispatch.organization_id,
        config.provider_type,
        config.id,
        conversation,
        EventMessage(
            id=dispatch.id,
            provider_message_id=status.provider_message_id,
            lead_id=dispatch.intent.lead_id,
            attempts=dispatch.number,
            fallback_from=dispatch.fallback_from,
            fallback_reason=dispatch.fallback_reason,
        ),
        status,
    )
    return EventRow(dispatch.organization_id, "message.status", config.id, conversation.id, _encode(data))


def _check(begun: sends.BegunAttempt) -> None:
    """Raise what speaks against it."""
    if begun.settled:
        raise AlreadyTaken
    if not begun.held:
        raise LeaseLost
    if not begun.is_first:
        raise NotFirst
    if not begun.current:
        raise VersionMoved
