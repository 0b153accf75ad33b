"""What became of attempts and sends, written down: group-committed, with the event that tells the CRM."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Literal

import msgspec

from providers import MessageResult, SendError
from providers.messages import STATUS_RANK, ErrorInfo

from .. import metrics
from ..storage.database import WORKER, Database, StoreUnavailable
from ..storage.group_commit import GroupCommit, Overloaded
from ..storage.statements import sends
from ..storage.statements.sends import Outcome, SendState
from ..switching.manager import Config
from ..wakeups import Wakeups
from .message import Dispatch, status_event

HOLD_S = 60
STORE_RETRY_S = 0.2

_encode = msgspec.json.Encoder().encode

OwnStatus = Literal["accepted", "sent", "failed", "unknown"]


class LeaseLost(Exception):
    """Another process took the message over, and speaks for it now."""


class Outcomes:
    """Stores outcomes. Enter it once a process."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._queue: GroupCommit[Outcome, SendState | None] = GroupCommit("outcomes", database, WORKER, sends.finish)

    async def __aenter__(self) -> "Outcomes":
        await self._queue.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._queue.__aexit__(*reason)

    async def accepted(self, dispatch: Dispatch, config: Config, result: MessageResult | None) -> SendState:
        """A provider took the message, as it says itself (*result*) or as a status did."""
        return await self.finish(dispatch, self._outcome(dispatch, config, "ok", None, "done", "sent", result=result))

    async def failed(self, dispatch: Dispatch, config: Config, error: SendError) -> SendState:
        """Nobody took the message, and nobody will be asked again."""
        return await self.finish(
            dispatch, self._outcome(dispatch, config, type(error).__name__, error, "done", "failed")
        )

    async def held(self, dispatch: Dispatch, config: Config, error: SendError) -> SendState:
        """It may have been taken: to be settled by a status, or by the provider when it is asked."""
        return await self.finish(dispatch, self._outcome(dispatch, config, "Uncertain", error, "uncertain", "accepted"))

    async def unknown(self, dispatch: Dispatch, config: Config, error: SendError) -> SendState:
        """The end of a held message that nothing settled."""
        return await self.finish(dispatch, self._outcome(dispatch, config, "Uncertain", error, "done", "unknown"))

    async def note(self, dispatch: Dispatch, config: Config, error: SendError, started: float) -> None:
        """How an attempt ended that another one may follow: without it a crash would make it uncertain."""
        await self._store(
            self._outcome(dispatch, config, type(error).__name__, error, "sending", "accepted", started=started)
        )

    async def finish(self, dispatch: Dispatch, outcome: Outcome) -> SendState:
        """Store the end of a send; how the message stands now. Raises `LeaseLost`, `StoreUnavailable`."""
        state = await self._store(outcome)
        if state is None:
            raise LeaseLost
        if state.state == "done":
            labels = outcome.provider, state.status
            metrics.child(metrics.send_terminal, *labels).inc()
            metrics.observe(metrics.send_seconds, (outcome.at - dispatch.created_at).total_seconds(), *labels)
        self._wakeups.notify(dispatch.organization_id)
        return state

    def _outcome(
        self,
        dispatch: Dispatch,
        config: Config,
        attempt_class: str,
        error: SendError | None,
        state: Literal["sending", "uncertain", "done"],
        status: OwnStatus,
        *,
        result: MessageResult | None = None,
        started: float | None = None,
    ) -> Outcome:
        now = datetime.now(UTC)
        provider_message_id = result.provider_message_id if result else None
        info = ErrorInfo(class_=attempt_class, code=error.code, detail=error.detail or None) if error else None
        event = None
        if state == "done":
            event = status_event(dispatch, config, status, info, provider_message_id)
        return Outcome(
            organization_id=dispatch.organization_id,
            message_id=dispatch.id,
            lease_id=dispatch.lease_id,
            number=dispatch.number,
            attempt_class=attempt_class,
            code=error.code if error else None,
            detail=error.detail if error else None,
            duration_ms=round((monotonic() - (started or dispatch.since)) * 1000),
            config_id=config.id,
            provider=config.provider_type,
            provider_message_id=provider_message_id,
            state=state,
            status=status,
            rank=STATUS_RANK[status],
            error=_encode(info) if info else None,
            fallback_from=dispatch.fallback_from,
            fallback_reason=dispatch.fallback_reason,
            at=now,
            cost=result.cost if result else None,
            held_until=now + timedelta(seconds=HOLD_S) if state == "uncertain" else None,
            account_id=config.account_id,
            event_type=event.type if event else None,
            conversation_id=event.conversation_id if event else None,
            data=event.data if event else None,
        )

    async def _store(self, outcome: Outcome) -> SendState | None:
        """Store an outcome, as long as the lease lasts: what a provider did must not be forgotten for a hiccup."""
        until = monotonic() + sends.LEASE_S
        while True:
            try:
                return await self._queue.submit(outcome, organization=outcome.organization_id)
            except (StoreUnavailable, Overloaded):
                if monotonic() > until:
                    raise
                await asyncio.sleep(STORE_RETRY_S)
