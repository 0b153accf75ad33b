"""Events to the CRM: at least once, in order within a conversation.

A conversation with something to deliver is a row of `delivery_queues`; claiming it (by lease, in PostgreSQL) is the
right to post its events, one after the other. Others go on unhindered. Redis only sends wake-ups.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import msgspec

from .. import identifiers, log, metrics
from ..cache import Cache
from ..calls.egress import Egress
from ..envelope import own_event, render
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import deliveries, events, organizations
from ..storage.statements.deliveries import ClaimedConversation, PendingDelivery, PostResult
from ..storage.statements.events import EventRow
from ..storage.statements.outages import DOWN_AFTER
from ..storage.vault import Vault, VaultError
from ..wakeups import Wakeups
from . import places, schedule
from .outages import PAUSE_S, Outages
from .places import Places
from .results import Ahead, ResultWriter
from .standard_webhooks import TOTAL_TIMEOUT_S, Endpoint, PostAnswer, endpoint_of, post

logger = logging.getLogger("ingress.delivery.relay")

DISABLE_AFTER = timedelta(days=5)
# Who has a place never waits for a connection as well: that would count as the CRM's slowness.
PER_HOST = places.CONCURRENCY
BATCH = 50
POLL_S = 1.0
# Between two looks; longer after each that was woken for nothing, up to the second.
LOOK_EVERY_S, LOOK_AT_LEAST_EVERY_S = 0.03, 0.25
# What was postponed is looked for so often at most.
DUE_AGAIN_EVERY_S = 0.25
ENDPOINT_CACHE_S, KEPT = 1.0, 10_000
# Another process may have the key, or this one after its next start.
KEYLESS_DELAY = timedelta(seconds=60)
# A commit under way ends within milliseconds: so many looks, each a little later, are worth keeping the place. A large
# webhook is read within moments.
LOOKS, LOOK_AGAIN_S = 5, 0.01
UNREAD_DELAY = timedelta(seconds=0.5)
# Of TOTAL_TIMEOUT_S, at exit: for giving back what could not be ended.
GIVE_BACK_S = 2.0
AT_ONCE = timedelta(0)


class _Origin(msgspec.Struct, frozen=True):
    """What of an event's `data` names its provider."""

    provider: str = "unknown"


class Relay:
    """Delivers what is due, as far as there are `Places`, until *closing* is set. Enter it once a process."""

    def __init__(
        self, database: Database, vault: Vault, egress: Egress, wakeups: Wakeups, closing: asyncio.Event
    ) -> None:
        self._database = database
        self._vault = vault
        self._egress = egress
        self._wakeups = wakeups
        self._closing = closing
        self._session: aiohttp.ClientSession | None = None
        self._endpoints: Cache[UUID, Endpoint] = Cache(KEPT)
        self._places = Places()
        self._outages = Outages()
        self._results = ResultWriter(database, self._outages)
        self._active: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._look_s = LOOK_EVERY_S
        self._due_again_at = 0.0
        self._turn = UUID(int=0)  # the organization served last
        # Conversations that were not emptied, and how long they are to wait: given back when the store answers.
        self._unfinished: list[tuple[ClaimedConversation, timedelta]] = []

    async def __aenter__(self) -> "Relay":
        self._session = self._egress.session(per_host=PER_HOST)
        self._loop = asyncio.create_task(self._deliver_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the posts under way and leave the rest to others, within TOTAL_TIMEOUT_S."""
        assert self._loop is not None
        assert self._session is not None
        self._closing.set()  # it is, unless the application could not start
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT_S - GIVE_BACK_S):
                await self._loop  # when time is out it is cancelled, and with it what it began
        except TimeoutError:
            logger.warning("posts were broken off at exit; they are repeated")
        try:
            async with asyncio.timeout(GIVE_BACK_S), self._database.worker() as connection:
                await self._give_back(connection)
        except (TimeoutError, StoreUnavailable):
            logger.warning("the database is away; leases run out")
        await self._session.close()

    async def _deliver_forever(self) -> None:
        """Claim and deliver until the application closes, then see what was begun to its end."""
        async with asyncio.TaskGroup() as group:
            closing = group.create_task(self._closing.wait())
            while not self._closing.is_set():
                has_claimed = False
                try:
                    has_claimed = await self._claim(group)
                except StoreUnavailable:
                    logger.warning("the database is away; deliveries wait")
                except Exception:  # the loop must live on, for everybody's deliveries
                    logger.exception("claiming deliveries failed")
                if not has_claimed:
                    await self._idle(closing)
                elif len(self._active) >= places.CONCURRENCY:
                    await asyncio.wait(self._active, return_when=asyncio.FIRST_COMPLETED)

    async def _claim(self, group: asyncio.TaskGroup) -> bool:
        """Claim what there is room for, and begin to deliver it; whether there was anything."""
        has_claimed = False
        for limit in self._places.limits():
            lease_id = uuid4()  # one a claim, so that an older claim of this process is fenced as well
            async with self._database.worker() as connection:
                await self._give_back(connection)
                if monotonic() - self._due_again_at >= DUE_AGAIN_EVERY_S:
                    self._due_again_at = monotonic()
                    await deliveries.due_again(connection)
                await self._outages.look(connection)
                claims = await deliveries.claim(connection, lease_id, self._turn, limit)
            for claim in claims:
                has_claimed = True
                self._begin(group, claim)
        return has_claimed

    def _begin(self, group: asyncio.TaskGroup, claim: ClaimedConversation) -> None:
        self._look_s = LOOK_EVERY_S
        self._turn = claim.organization_id
        self._places.take(self._turn)
        task = group.create_task(self._deliver(claim))
        self._active.add(task)
        task.add_done_callback(partial(self._end, self._turn))

    def _end(self, organization_id: UUID, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._places.give(organization_id)

    async def _idle(self, closing: asyncio.Task[Any]) -> None:
        """Until something new is stored, or a delivery ends, whose organization may have more; at most POLL_S."""
        active = len(self._active)
        # Most wake-ups are for readers, not for callbacks: a look for each would cost more than it finds.
        await asyncio.sleep(self._look_s)
        if len(self._active) == active:
            is_woken = await self._woken(closing)
            self._look_s = min(self._look_s * 2, LOOK_AT_LEAST_EVERY_S) if is_woken else LOOK_EVERY_S

    async def _woken(self, closing: asyncio.Task[Any]) -> bool:
        """Wait as `_idle` does; whether it ended because something new is stored."""
        waking = asyncio.create_task(self._wakeups.wait_for_any(POLL_S))
        await asyncio.wait({waking, closing, *self._active}, return_when=asyncio.FIRST_COMPLETED)
        waking.cancel()
        return waking.done() and waking.result()

    async def _give_back(self, connection: Any) -> None:
        while self._unfinished:
            await deliveries.give_back(connection, *self._unfinished[0])
            del self._unfinished[0]  # only now: it stays if the store is away, and others are put behind it meanwhile

    async def _deliver(self, claim: ClaimedConversation) -> None:
        """Deliver a conversation's pending events; what breaks off is given back, to be taken up here or elsewhere."""
        try:
            if not await self._drain(claim):
                self._unfinished.append((claim, AT_ONCE))
        except StoreUnavailable:
            self._unfinished.append((claim, AT_ONCE))
        except VaultError:
            # Our fault, not the CRM's: nothing is counted against it.
            logger.error("the secrets of the callback of organization %s cannot be opened", claim.organization_id)
            metrics.callback_unreadable.inc()
            self._unfinished.append((claim, KEYLESS_DELAY))
        except asyncio.CancelledError:
            self._unfinished.append((claim, AT_ONCE))
            raise
        except Exception:  # raised further it would end the group, and with it the deliveries of everybody
            logger.exception("a delivery broke off; its lease will run out")

    async def _drain(self, claim: ClaimedConversation) -> bool:
        """Deliver a conversation's pending events in order, until one fails or none is left.

        False where it was left off before. Raises `StoreUnavailable`, `VaultError`.
        """
        looks, ahead = 0, Ahead()
        while pending := await self._pending(claim, looks):
            if pending[0].must_wait:
                looks += 1
                await asyncio.sleep(looks * LOOK_AGAIN_S)
                continue
            looks = 0
            ended = await self._deliver_batch(claim, pending, ahead)
            if not await ahead.are_written():
                return True
            if ended is not None:
                return ended
            is_all = len(pending) < BATCH and not pending[-1].followed and pending[-1].sequence == ahead.last
            if is_all and await self._is_emptied(claim):
                return True
        return True

    async def _pending(self, claim: ClaimedConversation, looks: int) -> Sequence[PendingDelivery]:
        """What comes next. Nothing: the conversation is left, for good, or for now as it waited for all its *looks*."""
        async with self._database.worker() as connection:
            pending = await deliveries.pending(connection, claim.organization_id, claim.conversation_id, BATCH)
            if not pending:
                await deliveries.release(connection, claim)
            elif pending[0].must_wait and looks + 1 == LOOKS:
                await deliveries.give_back(connection, claim, UNREAD_DELAY)
                return []
            return pending

    async def _is_emptied(self, claim: ClaimedConversation) -> bool:
        async with self._database.worker() as connection:
            return await deliveries.is_emptied(connection, claim)

    async def _deliver_batch(
        self, claim: ClaimedConversation, pending: Sequence[PendingDelivery], ahead: Ahead
    ) -> bool | None:
        """Deliver *pending* in order. None: what is pending is to be read again; else what `_drain` returns."""
        for event in pending:
            if event.must_wait:
                break
            endpoint = await self._endpoint(claim.organization_id)
            if endpoint is None or self._closing.is_set():
                return False
            if not await ahead.may_go_on():
                return True
            answer = await self._post(endpoint, event)
            if answer.ok and not event.gap:
                result = PostResult(*claim[:3], event.sequence, "delivered", answer.status)
                ahead.add(event.sequence, self._results.submit(result, endpoint.url))
            elif not (await ahead.are_written() and await self._settle(claim, event, endpoint, answer)):
                return True
            if self._places.is_slow(claim.organization_id):
                return False  # the next one has to find a place again
            if not answer.ok:
                break  # parked: the next one is read again, for now it follows a gap
        return None

    async def _endpoint(self, organization_id: UUID) -> Endpoint | None:
        """Where to post, as of ENDPOINT_CACHE_S ago; None: removed or disabled meanwhile. Raises `VaultError`."""
        held = self._endpoints.get(organization_id)
        if held is not None:
            return held
        async with self._database.worker() as connection:
            callback = await organizations.callback(connection, organization_id)
        if callback is None or callback.disabled_at:
            return None
        endpoint = endpoint_of(self._vault, organization_id, callback)
        self._endpoints.put(organization_id, endpoint, ENDPOINT_CACHE_S)
        return endpoint

    async def _post(self, endpoint: Endpoint, event: PendingDelivery) -> PostAnswer:
        assert self._session is not None, "used outside `async with`"
        event_id = identifiers.event_id(event.organization_id, event.sequence)
        under_way = self._places.begin(event.organization_id)
        try:
            answer = await post(self._session, endpoint, event_id, render(event), gap=event.gap)
        finally:
            elapsed = self._places.end(under_way)
        _count(event, event_id, answer, elapsed)
        if answer.ok and event.attempts == 0:
            dwell_s = (datetime.now(UTC) - event.created_at).total_seconds()
            metrics.observe(metrics.delivery_dwell, dwell_s, self._health(endpoint, event))
        return answer

    def _health(self, endpoint: Endpoint, event: PendingDelivery) -> str:
        """How *endpoint* has been since *event* was stored: what waited for it was not late by our fault."""
        took = endpoint.taking_since is not None and endpoint.taking_since < event.created_at
        return "healthy" if took and not self._places.is_slow(event.organization_id) else "unhealthy"

    async def _settle(
        self, claim: ClaimedConversation, event: PendingDelivery, endpoint: Endpoint, answer: PostAnswer
    ) -> bool:
        """Write down how a post ended that was not plainly taken; whether to go on with the conversation."""
        if answer.ok:
            result = PostResult(*claim[:3], event.sequence, "delivered", answer.status)
            if is_held := await self._results.submit(result, endpoint.url):
                async with self._database.worker() as connection:
                    await deliveries.report_gap(connection, *claim[:2], event.sequence)
            return is_held
        async with self._database.worker() as connection:
            since = await self._count_failure(connection, event, endpoint, answer)
            if since is not None and (left := schedule.left(event)) > AT_ONCE:
                await deliveries.give_back(connection, claim, left)
                return False
            result = schedule.after_failure(claim, event, answer, since)
            return bool(await deliveries.finish(connection, [result])) and result.state != "pending"

    async def _count_failure(
        self, connection: Any, event: PendingDelivery, endpoint: Endpoint, answer: PostAnswer
    ) -> datetime | None:
        """Since when the endpoint takes nothing; None: it is gone, or the callback was set anew meanwhile."""
        if answer.kind == "gone":
            await self._disable(connection, endpoint, event, "HTTP 410")
            return None
        since = await organizations.endpoint_failed(
            connection,
            event.organization_id,
            endpoint.url,
            answer.error or "",
            DOWN_AFTER,
            timedelta(seconds=PAUSE_S),
        )
        if since and datetime.now(UTC) - since > DISABLE_AFTER:
            await self._disable(connection, endpoint, event, "failing for days")
        return since

    async def _disable(self, connection: Any, endpoint: Endpoint, event: PendingDelivery, reason: str) -> None:
        organization_id = event.organization_id
        async with connection.transaction():
            if not await organizations.disable_callback(connection, organization_id, endpoint.url, reason):
                return
            await events.add(connection, [_disabled(event, reason)])
        self._endpoints.drop(organization_id)
        logger.error("the callback of organization %s is disabled: %s", organization_id, reason)


def _count(event: PendingDelivery, event_id: str, answer: PostAnswer, elapsed: float) -> None:
    """Count and log a post."""
    metrics.delivery_attempts.labels(answer.kind).inc()
    metrics.delivery_seconds.labels(answer.kind).observe(elapsed)
    _log(event, event_id, answer, elapsed)


def _log(event: PendingDelivery, event_id: str, answer: PostAnswer, elapsed: float) -> None:
    log.wide(
        "delivery",
        organization=event.organization_id,
        event_id=event_id,
        sequence=event.sequence,
        attempt=event.attempts + 1,
        outcome=answer.kind,
        ms=round(elapsed * 1000, 1),
    )


def _disabled(event: PendingDelivery, reason: str) -> EventRow:
    """That the callback is disabled since *event* was refused."""
    # Every event has a provider. The callback has none of its own, so it is that of the event refused.
    data = {
        "provider": msgspec.json.decode(event.data, type=_Origin).provider,
        "account": {"kind": "callback_disabled", "details": {"reason": reason}},
    }
    return own_event(event.organization_id, event.config_id, "account.updated", data)
