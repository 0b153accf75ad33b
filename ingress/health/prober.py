"""Looking at accounts: each config that is sent through is asked how it is doing, by one process at a time.

A process leases the configs that are due, many at once, and reads what is known of them; the row that says so is also
where the outcome goes, so who lost the lease writes nothing, and what a process that died had leased is due again
seconds later. Looks that find nothing new, as nearly all do, are ended together. Whatever follows from a change (the
event, the entry in the trail, the notification of all processes) is in the transaction that stores it: it happens once.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from providers import ProviderStatus, SendError

from .. import identifiers, log, metrics
from ..accounts.config import ChangeRefused, Config, NotFound
from ..accounts.ownership import AccountInUse
from ..audit.trail import SYSTEM
from ..cache import Cache
from ..identifiers import id_at
from ..storage.database import Busy, Database, StoreUnavailable
from ..storage.redis_state import RedisState
from ..storage.statements import health, switches
from ..storage.statements.configs import ConfigKey
from ..storage.statements.health import EndedLook, Look, OrganizationHealth, SentLately
from ..switching.change import Requested, VersionConflict
from ..switching.journal import Transition
from ..switching.manager import WhatsAppProviderManager
from ..switching.policy import FallbackPolicy, stored_policy
from ..wakeups import Wakeups
from .automatic import BACK_OFF, Step, next_step
from .evidence import good_until
from .judgement import Finding, Health, Traffic, judge
from .situation import last_switch_of, request_for, situation_of

logger = logging.getLogger("ingress.health.prober")

# Between two rounds of looks; where more are due than there was room for, as soon as there may be some.
POLL_S, AGAIN_S = 1.0, 0.05
# At once in this process. A provider that hangs holds one for as long as a test may take, and an organization's
# configs are fewer than these.
PROBES = 64
LEASE_S = 20.0
ENDS_WITHIN_S = 0.5
# How often the webhook of an account is written again: who takes it away all the time is not fought with.
REPAIRED_EVERY_S = 600.0
# Of those for background work: sends need the others.
CONNECTIONS = 2
# Organizations whose switch was refused lately.
KEPT = 10_000
# While somebody links a phone; while a change is about to be one; after a switch that may be undone.
WATCH_S, CONFIRM_SHARE, FRESH_S = 2.0, 0.2, 5.0
JITTER = 0.1
EVIDENCE_S = 60
# Statuses come within seconds; older messages tell whether they come at all.
STATUS_AFTER, STATUS_WITHIN = timedelta(minutes=2), timedelta(minutes=15)

_SHOWN = attrgetter("state", "reason", "detail")


class Lost(Exception):
    """Another process has the lease."""


class Prober:
    """One a process. *interval_s* is the time between two looks at an account; 0: this process looks at none."""

    def __init__(
        self,
        database: Database,
        manager: WhatsAppProviderManager,
        redis: RedisState,
        wakeups: Wakeups,
        interval_s: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._manager = manager
        self._redis = redis
        self._wakeups = wakeups
        self._interval_s = interval_s
        self._clock = clock
        self._looking: set[asyncio.Task[None]] = set()
        self._ended: list[EndedLook] = []  # and not written yet
        self._refused: Cache[UUID, bool] = Cache(KEPT, lambda: clock().timestamp())  # for BACK_OFF
        self._repaired: Cache[UUID, bool] = Cache(KEPT)
        self._gate = asyncio.Semaphore(CONNECTIONS)
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Prober":
        if self._interval_s:
            self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        if looking := set(self._looking):
            # Who waits for a provider is not waited for: another process looks when the lease is over.
            waiting = (await asyncio.wait(looking, timeout=ENDS_WITHIN_S))[1]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):  # then the leases run out
            await self._give_back()

    async def _run(self) -> None:
        while True:
            has_more = False
            try:
                has_more = await self.look_at_due()
            except StoreUnavailable:
                logger.warning("the database is away: no account is checked until it is back")
            except Exception:  # without this loop nobody would look any more
                logger.exception("accounts cannot be looked at")
            await asyncio.sleep(min(AGAIN_S if has_more else POLL_S, self._interval_s))

    async def look_at_due(self) -> bool:
        """Begin to look at every account that is due, as far as there is room; whether there may be more.

        Raises `StoreUnavailable`.
        """
        await self._give_back()
        if not (room := PROBES - len(self._looking)):
            return True
        lease_id = identifiers.new_id()
        async with self._worker() as connection:
            if not (claimed := await health.claim(connection, lease_id, room, LEASE_S)):
                return False
            looks = await health.looks(connection, claimed)
            traffic = await self._traffic(connection, claimed)
        for look in looks:
            lately = traffic[ConfigKey(look.config.organization_id, look.config.id)]
            known = Traffic(**msgspec.structs.asdict(lately), is_broken=look.broken)
            if (next_in_s := self._put_off_s(look, known)) is not None:
                self._end(look, lease_id, next_in_s, is_checked=False)
                continue
            task = asyncio.create_task(self._look(look, known, lease_id))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        return len(claimed) == room

    def _put_off_s(self, look: Look, traffic: Traffic) -> float | None:
        """Seconds until the next look where none is needed now; None: it is."""
        if not (look.in_use or look.watched or look.waiting):
            return self._interval_s
        now = self._clock()
        until = good_until(look, traffic, timedelta(seconds=self._interval_s), now)
        return (until - now).total_seconds() if until is not None else None

    def _end(self, look: Look, lease_id: UUID, next_in_s: float, *, is_checked: bool) -> None:
        of = (look.config.organization_id, look.config.id, lease_id)
        self._ended.append(EndedLook(*of, is_checked, next_in_s))

    async def _give_back(self) -> None:
        if ended := self._ended:
            self._ended = []
            async with self._worker() as connection:
                await health.give_back(connection, ended)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._gate, self._database.worker() as connection:
            yield connection

    async def _look(self, look: Look, traffic: Traffic, lease_id: UUID) -> None:
        config_id = look.config.id
        try:
            await self._look_at(look, traffic, lease_id)
        except Lost:
            logger.info("config %s is looked at by another process", config_id)
        except (ChangeRefused, NotFound, Busy) as error:
            logger.warning("config %s: a switch failed: %s", config_id, type(error).__name__)
        except StoreUnavailable:
            logger.warning("the database is away: config %s is checked again later", config_id)
        except Exception:  # it is due again later, and the others must not wait for it
            logger.exception("looking at config %s failed", config_id)

    async def _look_at(self, look: Look, traffic: Traffic, lease_id: UUID) -> None:
        organization_id, config_id = look.config.organization_id, look.config.id
        config = self._manager.accounts.known(look.config)
        policy = stored_policy(look.fallback_policy)
        status = await self._ask_and_store(look, traffic, config, policy, lease_id)
        is_connected = status is not None and status.is_connected
        if status is not None and status.trouble == "webhook_missing" and look.in_use:
            await self._repair(config)
        if look.waiting and is_connected:
            await self._manager.resume(organization_id, config_id)
        elif policy.acts_alone and look.in_use:
            await self._act(organization_id, policy)

    async def _repair(self, config: Config) -> None:
        """Have the provider post here again: what people write is lost meanwhile."""
        if not self._repaired.get(config.id):
            self._repaired.put(config.id, True, REPAIRED_EVERY_S)
            logger.warning("config %s: its webhook is gone at the provider, and is written again", config.id)
            await self._manager.accounts.write_webhook(config)

    async def _ask_and_store(
        self, look: Look, traffic: Traffic, config: Config, policy: FallbackPolicy, lease_id: UUID
    ) -> ProviderStatus | None:
        """What the provider says of the account, if it does."""
        answer, finding = await self._judged(traffic, config)
        status = answer if isinstance(answer, ProviderStatus) else None
        is_connected = status is not None and status.is_connected
        former = Health(**msgspec.structs.asdict(look.health))
        found = former.after(finding, self._clock())
        next_in_s = self._next_in_s(look, policy, found, is_connected=is_connected)
        pairing = _pairing(config, look.pairing, status)
        if (found, pairing) == (former, look.pairing):
            self._end(look, lease_id, next_in_s, is_checked=True)
        else:
            await self._store(look, lease_id, former, found, pairing, next_in_s)
        if status is not None:
            await self._remember(look, status)
            await self._claim(config, status, look.version)
        if found.state != former.state:
            self._report(look, former, found)
        return status

    async def _judged(self, traffic: Traffic, config: Config) -> tuple[ProviderStatus | SendError, Finding | None]:
        started = monotonic()
        answer = await self._ask(config)
        elapsed_s = monotonic() - started
        finding = judge(answer, traffic)
        _measure(config, finding, elapsed_s)
        return answer, finding

    async def _ask(self, config: Config) -> ProviderStatus | SendError:
        """How the account is doing, as its provider has it, or why that is not known."""
        try:
            return await self._manager.accounts.status(config.provider)
        except SendError as error:
            return error

    async def _traffic(self, connection: asyncpg.Connection, keys: Sequence[ConfigKey]) -> dict[ConfigKey, SentLately]:
        now = datetime.now(UTC)  # the ids that it is compared with were made by such a clock
        return await health.traffic(
            connection,
            keys,
            attempts_since=id_at(now - timedelta(seconds=EVIDENCE_S)),
            sent_since=id_at(now - STATUS_WITHIN),
            sent_until=id_at(now - STATUS_AFTER),
        )

    async def _claim(self, config: Config, status: ProviderStatus, version: int) -> None:
        """An account that answers is its organization's, where no test could show that: it was saved by force."""
        ownership = self._manager.ownership
        if status.is_connected and not config.claimed and ownership.proven(config.provider, ()):
            try:
                async with self._worker() as connection, connection.transaction():
                    await ownership.claim(connection, config.organization_id, config.provider, ())
                    await self._manager.journal.write(connection, config.organization_id, version)
            except AccountInUse:
                logger.info("the account of config %s is another organization's", config.id)

    async def _remember(self, look: Look, status: ProviderStatus) -> None:
        """What the provider says is the session of the config: in the database, and for the active one in Redis."""
        session = msgspec.json.encode(status)
        if session == look.config.session:
            return
        async with self._worker() as connection:
            await health.set_session(connection, look.config.organization_id, look.config.id, session)
        if look.config.id == look.active_config_id:
            await self._redis.set_session(look.config.organization_id, look.version, session)

    async def _store(
        self, look: Look, lease_id: UUID, former: Health, found: Health, pairing: str | None, next_in_s: float
    ) -> None:
        transitions = _transitions(look, former, found)
        is_shown = _SHOWN(found) != _SHOWN(former)
        async with self._worker() as connection, connection.transaction():
            if transitions or is_shown or pairing != look.pairing:
                # Before the row: who changes an organization takes them in this order.
                await self._manager.journal.write(connection, look.config.organization_id, look.version, *transitions)
            if not await health.store(connection, look.config, lease_id, found, pairing, next_in_s):
                raise Lost

    def _report(self, look: Look, former: Health, found: Health) -> None:
        config = look.config
        metrics.health_changes.labels(config.provider_type, found.state).inc()
        log.wide(
            "provider_health",
            organization=config.organization_id,
            config=config.id,
            provider=config.provider_type,
            former=former.state,
            state=found.state,
            reason=found.reason,
        )
        self._wakeups.notify(config.organization_id)

    def _next_in_s(self, look: Look, policy: FallbackPolicy, found: Health, *, is_connected: bool) -> float:
        """Seconds to the next look, jittered: not all accounts are looked at in the same moment."""
        wanted = [self._interval_s]
        if (look.watched or look.waiting) and not is_connected:
            wanted.append(WATCH_S)
        if found.pending or (policy.acts_alone and found.state == "unhealthy"):
            wanted.append(self._interval_s * CONFIRM_SHARE)
        if policy.auto_rollback and self._clock() - look.version_at < timedelta(minutes=5):
            wanted.append(FRESH_S)
        return min(wanted) * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (spreads load, protects nothing)

    async def _act(self, organization_id: UUID, policy: FallbackPolicy) -> None:
        """Switch as the organization's policy asks for, if it does now."""
        now = self._clock()
        if self._refused.get(organization_id):
            return
        stored, step = await self._step(organization_id, policy, now)
        if stored is None or step is None:
            return
        logger.warning("organization %s: %s, %s", organization_id, step.kind, step.reason)
        await self._make(request_for(organization_id, stored, step))

    async def _make(self, request: Requested) -> None:
        organization_id = request.organization_id
        try:
            await self._manager.switch(request)
        except VersionConflict:
            logger.info("organization %s: somebody else was faster", organization_id)
        except (ChangeRefused, NotFound, Busy):
            # What was not even begun leaves no entry.
            self._refused.put(organization_id, True, BACK_OFF.total_seconds())
            raise

    async def _step(
        self, organization_id: UUID, policy: FallbackPolicy, now: datetime
    ) -> tuple[OrganizationHealth | None, Step | None]:
        """Where the organization stands, and what its policy asks for there."""
        async with self._worker() as connection:
            stored = await health.of_organization(connection, organization_id)
            if stored is None:
                return None, None
            lately = await switches.made_lately(connection, organization_id, now - timedelta(hours=1))
            made = next((switch for switch in lately if switch.action == "activated"), None)
            last = None
            if made is not None and made.config_id == stored.active_config_id:
                sent = await switches.sent_since(connection, organization_id, made.config_id, made.at)
                last = last_switch_of(made, sent)
        return stored, next_step(situation_of(stored, lately, made, last), policy, now)


def _transitions(look: Look, former: Health, found: Health) -> list[Transition]:
    """That an account cannot be sent through, or that it can again; or neither."""
    if found.state == former.state or "unhealthy" not in (found.state, former.state):
        return []
    return [_transition(look, former, found)]


def _transition(look: Look, former: Health, found: Health) -> Transition:
    action = "unhealthy" if found.state == "unhealthy" else "recovered"
    reason = found.reason or former.reason
    return Transition(
        action=action,
        actor=SYSTEM,
        config_id=look.config.id,
        before={"health": former.state},
        after={"health": found.state},
        reason=reason,
        event=f"provider.{action}",
        about=look.config.id,
        data=_data(look, found, reason),
    )


def _data(look: Look, found: Health, reason: str | None) -> dict[str, Any]:
    return {
        "provider": look.config.provider_type,
        "version": look.version,
        "occurred_at": found.since,
        "reason": reason,
        "detail": found.detail,
    }


def _pairing(config: Config, former: str | None, status: ProviderStatus | None) -> str | None:
    """How a phone is linked, as far as a status shows it."""
    if "pairing" not in config.provider.info.capabilities or status is None:
        return former
    if status.is_connected:
        return "linked"
    if status.trouble == "not_paired":
        return "scan"
    return former if former == "starting" else "failed"


def _measure(config: Config, finding: Finding | None, elapsed_s: float) -> None:
    outcome: Any = "unknown" if finding is None else finding.reason or finding.state
    metrics.probe_seconds.labels(config.provider_type, outcome).observe(elapsed_s)
