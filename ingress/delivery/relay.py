"""Events to the CRM: signed as Standard Webhooks say, at least once, in order within a conversation.

A conversation with something to deliver is a row of `delivery_queues`; claiming it (by lease, in PostgreSQL) is the
right to post its events, one after the other. Others go on unhindered. Redis only wakes.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from time import time
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import msgspec
from yarl import URL

from .. import identifiers, log, metrics
from ..cache import Cache
from ..calls.egress import Egress
from ..envelope import own_event, render
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import deliveries, events
from ..storage.vault import Vault, VaultError
from ..wakeups import Wakeups
from . import places
from .places import Places

logger = logging.getLogger("ingress.delivery.relay")

CONNECT_TIMEOUT_S, TOTAL_TIMEOUT_S = 3.0, 15.0
MAX_ANSWER_BYTES = 16 * 1024
# After the n-th failure of an event; three days in all. Then it is parked.
SCHEDULE_S = (5, 30, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
JITTER = 0.2
MAX_RETRY_AFTER_S = 3600
# An event that is refused (4xx) this often while others are taken is parked, so that the ones behind it go on.
REFUSALS = 5
PAUSE_AFTER_FAILURES, PAUSE_S = 5, 5
DISABLE_AFTER = timedelta(days=5)
# Who has a place never waits for a connection as well: that would count as the CRM's slowness.
PER_HOST = places.CONCURRENCY
BATCH = 50
POLL_S = 1.0
LOOK_EVERY_S = 0.03
ENDPOINT_CACHE_S, KEPT = 1.0, 10_000
OVERLAP = timedelta(hours=24)
# As many signatures fit into a header of 2 KiB; servers refuse more than 4 to 8 KiB.
MAX_SECRETS = 32
# Another process may have the key, or this one after its next start.
KEYLESS_DELAY = timedelta(seconds=60)
# A commit under way ends within milliseconds: so many looks, each a little later, are worth keeping the place. A large
# webhook is read within moments.
LOOKS, LOOK_AGAIN_S = 5, 0.01
UNREAD_DELAY = timedelta(seconds=0.5)
# Of TOTAL_TIMEOUT_S, at exit: for giving back what could not be ended.
GIVE_BACK_S = 2.0


class Secret(msgspec.Struct, frozen=True):
    """A signing secret; ``expires_at`` None: the current one."""

    secret: str
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return "Secret(…)"


class Endpoint(msgspec.Struct, frozen=True):
    """Where an organization's events go."""

    url: str
    secrets: list[Secret]

    def __repr__(self) -> str:
        return "Endpoint(…)"


def new_secret() -> Secret:
    return Secret(f"whsec_{base64.b64encode(os.urandom(24)).decode()}")


def rotated(secrets: Sequence[Secret], now: datetime) -> list[Secret]:
    """A new secret in front; the former ones go on signing beside it for OVERLAP since each was replaced.

    All of them, for nobody knows which one the CRM has: the answer to any call may have got lost.
    """
    former = [Secret(old.secret, old.expires_at or now + OVERLAP) for old in secrets]
    in_force = [old for old in former if old.expires_at and old.expires_at > now]
    return [new_secret(), *in_force[: MAX_SECRETS - 1]]


def sign(secrets: Sequence[Secret], event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature a secret that is in force, over the very bytes."""
    now = datetime.fromtimestamp(timestamp, UTC)
    content = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(_key(secret), content, hashlib.sha256)).decode()
        for secret in secrets
        if secret.expires_at is None or secret.expires_at > now
    )


def _key(secret: Secret) -> bytes:
    return base64.b64decode(secret.secret.removeprefix("whsec_"))


class Answer(msgspec.Struct, frozen=True):
    """How a post ended."""

    ok: bool
    kind: str  # for metrics: ok, 4xx, 5xx, 3xx, gone, timeout, connection
    error: str | None = None
    retry_after_s: float | None = None


class _Origin(msgspec.Struct, frozen=True):
    """What of an event's `data` says who sent it."""

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
        self._active: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._turn = UUID(int=0)  # the organization served last
        # Conversations that were not emptied, and how long they are to wait: given back when the store answers.
        self._unfinished: list[tuple[UUID, UUID, UUID, timedelta]] = []

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
                claimed = 0
                try:
                    for share in self._places.shares():
                        lease_id = uuid4()  # one a claim, so that an older claim of this process is fenced as well
                        async with self._database.worker() as connection:
                            await self._give_back(connection)
                            rows = await deliveries.claim(connection, lease_id, self._turn, share)
                        claimed += len(rows)
                        for row in rows:
                            self._begin(group, row, lease_id)
                except StoreUnavailable:
                    logger.warning("the database is away; deliveries wait")
                except Exception:  # the loop must live on, for everybody's deliveries
                    logger.exception("claiming deliveries failed")
                if not claimed:
                    await self._idle(closing)
                elif len(self._active) >= places.CONCURRENCY:
                    await asyncio.wait(self._active, return_when=asyncio.FIRST_COMPLETED)

    def _begin(self, group: asyncio.TaskGroup, row: asyncpg.Record, lease_id: UUID) -> None:
        self._turn = row["organization_id"]
        self._places.take(self._turn)
        task = group.create_task(self._deliver(row, lease_id))
        self._active.add(task)
        task.add_done_callback(partial(self._end, self._turn))

    def _end(self, organization_id: UUID, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._places.give(organization_id)

    async def _idle(self, closing: asyncio.Task[Any]) -> None:
        """Until something new is stored, or a delivery ends, whose organization may have more; at most POLL_S."""
        active = len(self._active)
        # Most wake-ups are for readers, not for callbacks: a look for each would cost more than it finds.
        await asyncio.sleep(LOOK_EVERY_S)
        if len(self._active) == active:
            waking = asyncio.create_task(self._wakeups.wait_for_any(POLL_S))
            await asyncio.wait({waking, closing, *self._active}, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()

    async def _give_back(self, connection: Any) -> None:
        while self._unfinished:
            await deliveries.give_back(connection, *self._unfinished[0])
            del self._unfinished[0]  # only now: it stays if the store is away, and others are put behind it meanwhile

    async def _deliver(self, queue: asyncpg.Record, lease_id: UUID) -> None:
        """Deliver a conversation's pending events; what breaks off is given back, to be taken up here or elsewhere."""
        place = queue["organization_id"], queue["conversation_id"], lease_id
        try:
            if not await self._drain(place, queue["wakes"]):
                self._unfinished.append((*place, timedelta(0)))
        except StoreUnavailable:
            self._unfinished.append((*place, timedelta(0)))
        except VaultError:
            # Our fault, not the CRM's: nothing is counted against it.
            logger.error("the secrets of the callback of organization %s cannot be opened", place[0])
            self._unfinished.append((*place, KEYLESS_DELAY))
        except asyncio.CancelledError:
            self._unfinished.append((*place, timedelta(0)))
            raise
        except Exception:  # raised further it would end the group, and with it the deliveries of everybody
            logger.exception("a delivery broke off; its lease will run out")

    async def _drain(self, place: tuple[UUID, UUID, UUID], wakes: int) -> bool:
        """Deliver a conversation's pending events in order, until one fails or none is left.

        False where it was left off before. Raises `StoreUnavailable`, `VaultError`. *place*: organization,
        conversation, claim.
        """
        organization_id, conversation, lease_id = place
        looks = 0
        while True:
            async with self._database.worker() as connection:
                pending = await deliveries.pending(connection, organization_id, conversation, BATCH)
                if not pending:
                    await deliveries.release(connection, organization_id, conversation, lease_id, wakes)
                    return True
                looks = looks + 1 if pending[0]["must_wait"] else 0
                if looks == LOOKS:
                    await deliveries.give_back(connection, organization_id, conversation, lease_id, UNREAD_DELAY)
                    return True
            if looks:
                await asyncio.sleep(looks * LOOK_AGAIN_S)
                continue
            for event in pending:
                if event["must_wait"]:
                    break
                endpoint = await self._endpoint(organization_id)
                if endpoint is None or self._closing.is_set():
                    return False
                answer = await self._post(organization_id, endpoint, event)
                if not await self._settle((*place, event["sequence"]), event, endpoint, answer):
                    return True
                if self._places.is_slow(organization_id):
                    return False  # the next one has to find a place again
                if not answer.ok:
                    break  # parked: the next one is read again, for it has to say so

    async def _endpoint(self, organization_id: UUID) -> Endpoint | None:
        """Where to post, as of ENDPOINT_CACHE_S ago; None: removed or disabled meanwhile. Raises `VaultError`."""
        held = self._endpoints.get(organization_id)
        if held is not None:
            return held
        async with self._database.worker() as connection:
            row = await deliveries.callback(connection, organization_id)
        if row is None or row["disabled_at"]:
            return None
        plain = self._vault.open(row["secrets"], str(organization_id), "callback", "secrets")
        endpoint = Endpoint(row["url"], msgspec.json.decode(plain, type=list[Secret]))
        self._endpoints.put(organization_id, endpoint, ENDPOINT_CACHE_S)
        return endpoint

    async def _post(self, organization_id: UUID, endpoint: Endpoint, event: asyncpg.Record) -> Answer:
        body = render(event)
        event_id = identifiers.event_id(organization_id, event["sequence"])
        under_way = self._places.begin(organization_id)
        try:
            answer = await post(self._session, endpoint, event_id, body, gap=event["gap"])
        finally:
            elapsed = self._places.end(under_way)
        metrics.delivery_attempts.labels(answer.kind).inc()
        metrics.delivery_seconds.labels(answer.kind).observe(elapsed)
        log.wide(
            "delivery",
            organization=organization_id,
            event_id=event_id,
            sequence=event["sequence"],
            attempt=event["attempts"] + 1,
            outcome=answer.kind,
            ms=round(elapsed * 1000, 1),
        )
        return answer

    async def _settle(
        self, place: tuple[UUID, UUID, UUID, int], event: asyncpg.Record, endpoint: Endpoint, answer: Answer
    ) -> bool:
        """Write down how a post ended; whether to go on with it. *place*: which delivery, by which claim."""
        attempts = event["attempts"] + 1
        organization_id, error = place[0], answer.error or ""
        async with self._database.worker() as connection:
            if answer.ok:
                if attempts == 1:
                    dwell = datetime.now(UTC) - event["created_at"]
                    metrics.delivery_dwell.observe(dwell.total_seconds())
                held = await deliveries.finish(connection, *place, None, "delivered")
                await deliveries.endpoint_succeeded(connection, organization_id, endpoint.url)
                return held
            soon = timedelta(seconds=SCHEDULE_S[0])
            if answer.kind == "gone":
                await deliveries.postpone(connection, *place, error, soon)
                await self._disable(connection, organization_id, endpoint, event, error)
                return False
            failing_since = await deliveries.endpoint_failed(
                connection, organization_id, endpoint.url, error, PAUSE_AFTER_FAILURES, timedelta(seconds=PAUSE_S)
            )
            if failing_since is None:  # the callback was set anew, for all to be tried there at once
                await deliveries.postpone(connection, *place, error, soon)
                return False
            if datetime.now(UTC) - failing_since > DISABLE_AFTER:
                await self._disable(connection, organization_id, endpoint, event, "failing for days")
            # Its own fault only if something else was taken since its last attempt: a bad deploy refuses everything.
            refused = answer.kind == "4xx" and failing_since > event["waits_since"]
            given_up = attempts > len(SCHEDULE_S) or (refused and event["refusals"] + 1 >= REFUSALS)
            if given_up:
                return await deliveries.finish(connection, *place, error, "parked")
            # Never earlier than scheduled: the CRM's wish would make days of retries hours.
            delay = max(answer.retry_after_s or 0, _jittered(SCHEDULE_S[attempts - 1]))
            await deliveries.postpone(connection, *place, error, timedelta(seconds=delay), refused)
            return False

    async def _disable(
        self, connection: Any, organization_id: UUID, endpoint: Endpoint, event: asyncpg.Record, reason: str
    ) -> None:
        async with connection.transaction():
            if not await deliveries.disable(connection, organization_id, endpoint.url, reason):
                return
            # Every event has a provider. The callback has none of its own, so it is that of the event refused.
            news = {
                "provider": msgspec.json.decode(event["data"], type=_Origin).provider,
                "account": {"kind": "callback_disabled", "details": {"reason": reason}},
            }
            await events.add(connection, [own_event(organization_id, event["config_id"], "account.updated", news)])
        self._endpoints.drop(organization_id)
        logger.error("the callback of organization %s is disabled: %s", organization_id, reason)


async def post(
    session: aiohttp.ClientSession | None, endpoint: Endpoint, event_id: str, body: bytes, *, gap: bool = False
) -> Answer:
    """Post one event, signed. Only 2xx is a success; redirects are not followed; the answer is read up to a limit."""
    assert session is not None, "used outside `async with`"
    now = int(time())
    headers = {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(endpoint.secrets, event_id, now, body),
    }
    if gap:  # the event before it in this conversation was given up
        headers["ingress-gap"] = "true"
    try:
        async with session.post(
            URL(endpoint.url),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
        ) as response:
            left = MAX_ANSWER_BYTES
            async for chunk in response.content.iter_any():
                left -= len(chunk)
                if left <= 0:  # enough: what an endpoint says is of no use beyond its status
                    response.close()
                    break
            return _judge(response)
    except TimeoutError:
        return Answer(False, "timeout", "no answer in time")
    except (aiohttp.ClientError, OSError) as error:
        # As in `calls`: not whether there is such a name.
        unknown = isinstance(error, aiohttp.ClientConnectorDNSError)
        return Answer(False, "connection", "ClientConnectorError" if unknown else type(error).__name__)


def _judge(response: aiohttp.ClientResponse) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return Answer(True, "ok")
    if status == 410:
        return Answer(False, "gone", "HTTP 410")
    retry_after_s = _wanted_s(response.headers.get("retry-after", ""))
    # 429 and 408 speak of the moment, not of the event.
    kind = "5xx" if status >= 500 or status in (408, 429) else "3xx" if status < 400 else "4xx"
    return Answer(False, kind, f"HTTP {status}", retry_after_s)


def _wanted_s(retry_after: str) -> float | None:
    """Seconds, out of a number of them or a date, MAX_RETRY_AFTER_S at most; None where it is neither."""
    try:
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9:
            seconds = float(retry_after)
        else:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time()
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return min(seconds, MAX_RETRY_AFTER_S)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (spreads load, protects nothing)
