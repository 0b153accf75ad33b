"""Looking at accounts: each config that is sent through is asked how it is doing, by one process at a time.

A process leases the configs that are due; the row that says so is also where the outcome goes, so who lost the lease
writes nothing, and what a process that died had leased is due again seconds later. Whatever follows from a change (the
event, the entry in the trail, the news to all processes) is in the transaction that stores it: it happens once.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from providers import ProviderStatus, SendError

from .. import audit, identifiers, log, metrics
from ..accounts.accounts import ChangeRefused, Config, NotFound
from ..accounts.ownership import AccountInUse
from ..audit import SYSTEM
from ..cache import Cache
from ..envelope import own_event
from ..identifiers import id_at
from ..storage.database import Busy, Database, StoreUnavailable
from ..storage.redis_state import RedisState
from ..storage.statements import events, health, switches
from ..switching.change import CHANNEL, StandIn, VersionConflict
from ..switching.manager import WhatsAppProviderManager
from ..switching.policy import DEFAULT_POLICY, FallbackPolicy
from ..wakeups import Wakeups
from .automatic import BACK_OFF, LastSwitch, Member, Standing, Step, next_step
from .judgement import Finding, Health, Traffic, judge

logger = logging.getLogger("ingress.health.prober")

POLL_S = 1.0
# At once in this process. A provider that hangs holds one for as long as a test may take, and an organization's
# configs are fewer than these.
PROBES = 64
LEASE_S = 20.0
ENDS_WITHIN_S = 0.5
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
        self._refused: Cache[UUID, bool] = Cache(KEPT, lambda: clock().timestamp())  # for BACK_OFF
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

    async def _run(self) -> None:
        while True:
            claimed = 0
            try:
                claimed = await self.look_at_due()
            except StoreUnavailable:
                logger.warning("the database is away; accounts are not looked at")
            except Exception:  # without this loop nobody would look any more
                logger.exception("accounts cannot be looked at")
            await asyncio.sleep(0 if claimed == PROBES else min(POLL_S, self._interval_s))

    async def look_at_due(self) -> int:
        """Begin to look at every account that is due, as far as there is room; how many. Raises `StoreUnavailable`."""
        room = PROBES - len(self._looking)
        if room == 0:
            return 0
        lease_id = identifiers.new_id()
        async with self._worker() as connection:
            claimed = await health.claim(connection, lease_id, room, LEASE_S)
        for row in claimed:
            task = asyncio.create_task(self._look(row["organization_id"], row["config_id"], lease_id))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        return len(claimed)

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._gate, self._database.worker() as connection:
            yield connection

    async def _look(self, organization_id: UUID, config_id: UUID, lease_id: UUID) -> None:
        try:
            await self._look_at(organization_id, config_id, lease_id)
        except Lost:
            logger.info("config %s is looked at by another process", config_id)
        except (ChangeRefused, NotFound, Busy) as error:
            logger.warning("config %s: a switch failed: %s", config_id, type(error).__name__)
        except StoreUnavailable:
            logger.warning("the database is away; config %s is due again later", config_id)
        except Exception:  # it is due again later, and the others must not wait for it
            logger.exception("looking at config %s failed", config_id)

    async def _look_at(self, organization_id: UUID, config_id: UUID, lease_id: UUID) -> None:
        async with self._worker() as connection:
            row = await health.look(connection, organization_id, config_id)
        if row is None:
            return  # it was deleted just now
        config = self._manager.accounts.known(row)
        if not (row["in_use"] or row["watched"] or row["waiting"]):
            async with self._worker() as connection:
                await health.put_off(connection, organization_id, config_id, lease_id, self._interval_s)
            return
        started = monotonic()
        said: ProviderStatus | SendError
        try:
            said = await self._manager.accounts.status(config.provider)
        except SendError as error:
            said = error
        elapsed_s = monotonic() - started
        finding = judge(said, await self._traffic(row))
        now = self._clock()
        former = Health(row["health"], row["since"], row["reason"], row["detail"], row["pending"], row["looks"])
        found = former.after(finding, now)
        policy = _policy_of(row["fallback_policy"])
        pairing = _pairing(config, row["pairing"], said)
        await self._store(row, lease_id, former, found, pairing, self._next_in_s(row, policy, found, said, now))
        if isinstance(said, ProviderStatus):
            await self._remember(row, said)
            await self._claim(config, said)
        _measure(config, finding, elapsed_s)
        if found.state != former.state:
            self._tell(row, former, found)
        if row["waiting"] and isinstance(said, ProviderStatus) and said.is_connected:
            await self._manager.resume(organization_id, config_id)
        elif policy.acts_alone and row["in_use"]:
            await self._act(organization_id, policy)

    async def _traffic(self, row: asyncpg.Record) -> Traffic:
        now = datetime.now(UTC)  # the ids that it is compared with were made by such a clock
        async with self._worker() as connection:
            seen = await health.traffic(
                connection,
                row["organization_id"],
                row["id"],
                attempts_since=id_at(now - timedelta(seconds=EVIDENCE_S)),
                sent_since=id_at(now - STATUS_WITHIN),
                sent_until=id_at(now - STATUS_AFTER),
            )
        return Traffic(**dict(seen), is_broken=row["broken"])

    async def _claim(self, config: Config, status: ProviderStatus) -> None:
        """An account that answers is its organization's, where no test could show that: it was saved by force."""
        ownership = self._manager.ownership
        if status.is_connected and not config.claimed and ownership.proven(config.provider, ()):
            try:
                async with self._worker() as connection, connection.transaction():
                    await ownership.claim(connection, config.organization_id, config.provider, ())
            except AccountInUse:
                logger.info("the account of config %s is another organization's", config.id)

    async def _remember(self, row: asyncpg.Record, status: ProviderStatus) -> None:
        """What the provider says is the session of the config: in the database, and for the active one in Redis."""
        session = msgspec.json.encode(status)
        if session == row["session"]:
            return
        async with self._worker() as connection:
            await health.set_session(connection, row["organization_id"], row["id"], session)
        if row["id"] == row["active_config_id"]:
            await self._redis.set_session(row["organization_id"], row["version"], session)

    async def _store(
        self,
        row: asyncpg.Record,
        lease_id: UUID,
        former: Health,
        found: Health,
        pairing: str | None,
        next_in_s: float,
    ) -> None:
        organization_id, config_id = row["organization_id"], row["id"]
        news = _news(former, found)
        async with self._worker() as connection, connection.transaction():
            if news is not None:  # before the row: who changes an organization takes them in this order
                await audit.record(
                    connection,
                    self._manager.accounts.vault,
                    organization_id,
                    SYSTEM,
                    news,
                    config_id=config_id,
                    before={"health": former.state},
                    after={"health": found.state},
                    reason=found.reason or former.reason,
                )
            held = await health.store(
                connection,
                organization_id,
                config_id,
                lease_id,
                **{name: getattr(found, name) for name in Health.__struct_fields__},
                pairing=pairing,
                next_in_s=next_in_s,
            )
            if not held:
                raise Lost
            if news is not None:
                told = {
                    "provider": row["provider_type"],
                    "version": row["version"],
                    "occurred_at": found.since,
                    "reason": found.reason or former.reason,
                    "detail": found.detail,
                }
                told = {name: value for name, value in told.items() if value is not None}
                await events.add(connection, [own_event(organization_id, config_id, f"provider.{news}", told)])
            if (found.state, found.reason, found.detail) != (former.state, former.reason, former.detail) or (
                pairing != row["pairing"]
            ):
                await health.tell(connection, organization_id, CHANNEL, row["version"])

    def _tell(self, row: asyncpg.Record, former: Health, found: Health) -> None:
        metrics.health_changes.labels(row["provider_type"], found.state).inc()
        log.wide(
            "provider_health",
            organization=row["organization_id"],
            config=row["id"],
            provider=row["provider_type"],
            former=former.state,
            state=found.state,
            reason=found.reason,
        )
        self._wakeups.notify(row["organization_id"])

    def _next_in_s(
        self,
        row: asyncpg.Record,
        policy: FallbackPolicy,
        found: Health,
        said: ProviderStatus | SendError,
        now: datetime,
    ) -> float:
        """Seconds to the next look, jittered: not all accounts are looked at in the same moment."""
        wanted = [self._interval_s]
        is_connected = isinstance(said, ProviderStatus) and said.is_connected
        if (row["watched"] or row["waiting"]) and not is_connected:
            wanted.append(WATCH_S)
        if found.pending or (policy.acts_alone and found.state == "unhealthy"):
            wanted.append(self._interval_s * CONFIRM_SHARE)
        if policy.auto_rollback and now - row["version_at"] < timedelta(minutes=5):
            wanted.append(FRESH_S)
        return min(wanted) * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (nothing secret)

    async def _act(self, organization_id: UUID, policy: FallbackPolicy) -> None:
        """Switch as the organization's policy asks for, if it does now."""
        now = self._clock()
        if self._refused.get(organization_id):
            return
        step = await self._step(organization_id, policy, now)
        if step is None:
            return
        logger.warning("organization %s: %s, %s", organization_id, step[1].kind, step[1].reason)
        try:
            await self._manager.switch(
                organization_id,
                step[1].target,
                SYSTEM,
                kind=step[1].kind,
                expected_version=step[0],
                reason=step[1].reason,
                order=step[1].order,
                stand_in=step[1].stand_in,
            )
        except VersionConflict:
            logger.info("organization %s: somebody else was faster", organization_id)
        except (ChangeRefused, NotFound, Busy):
            # What was not even begun leaves no entry.
            self._refused.put(organization_id, True, BACK_OFF.total_seconds())
            raise

    async def _step(self, organization_id: UUID, policy: FallbackPolicy, now: datetime) -> tuple[int, Step] | None:
        async with self._worker() as connection:
            rows = await health.of_organization(connection, organization_id)
            lately = await switches.made_lately(connection, organization_id, now - timedelta(hours=1))
            made = [each for each in lately if each["action"] == "activated"]
            standing = _standing(rows)
            last = None
            if made and standing.route and made[0]["config_id"] == standing.route[0].config_id:
                at, kind = made[0]["at"], made[0]["kind"] or "switch"
                sent = await switches.sent_since(connection, organization_id, made[0]["config_id"], at)
                last = LastSwitch(at, kind, sent["sends"], sent["failed"], made[0]["actor"] == SYSTEM.name)
        own = [each["at"] for each in lately if each["action"] == "switching" and each["actor"] == SYSTEM.name]
        failed = [at for at in own if not made or at > made[0]["at"]]
        standing = msgspec.structs.replace(standing, last=last, automatic_lately=len(own), failed=failed)
        step = next_step(standing, policy, now)
        return None if step is None else (standing.version, step)


def _standing(rows: Sequence[asyncpg.Record]) -> Standing:
    """Where an organization stands, out of every config of it as the database has them; without its last switch."""
    known, first = {row["config_id"]: row for row in rows}, rows[0]
    route = [
        Member(config_id, row["health"] or "unknown", row["since"], row["state"] != "error")
        for config_id in (first["active_config_id"], *first["fallback_config_ids"])
        if (row := known.get(config_id)) is not None
    ]
    stand_in = msgspec.json.decode(first["automatic"], type=StandIn) if first["automatic"] else None
    return Standing(first["version"], route if first["active_config_id"] in known else [], stand_in)


def _policy_of(stored: bytes | None) -> FallbackPolicy:
    return msgspec.json.decode(stored, type=FallbackPolicy) if stored else DEFAULT_POLICY


def _news(former: Health, found: Health) -> str | None:
    """The change that everybody hears of: that an account cannot be sent through, and that it can again."""
    if found.state == former.state:
        return None
    if found.state == "unhealthy":
        return "unhealthy"
    return "recovered" if former.state == "unhealthy" else None


def _pairing(config: Config, former: str | None, said: ProviderStatus | SendError) -> str | None:
    """How a phone is linked, as far as a status tells."""
    if "pairing" not in config.provider.info.capabilities or not isinstance(said, ProviderStatus):
        return former
    if said.is_connected:
        return "linked"
    if said.trouble == "not_paired":
        return "scan"
    return former if former == "starting" else "failed"


def _measure(config: Config, finding: Finding | None, elapsed_s: float) -> None:
    outcome: Any = "unsaid" if finding is None else finding.reason or finding.state
    metrics.probe_seconds.labels(config.provider_type, outcome).observe(elapsed_s)
