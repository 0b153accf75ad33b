"""One change of an organization's active config, from the lock to the commit.

    lock ─▶ (state `switching`) ─▶ test, set up ─▶ one transaction: compare and set, states, audit, event, NOTIFY
              │                      │      │                ▲       │
              │                      │   not linked to a phone:      │
              │                      │   wait without the lock, then test again
              └──────────────────────┴── what fails here ────────────┴─▶ former state, `rolled_back`, an event

Until the transaction the former config is in force, whatever happens; after it the new one is, whatever happens. A
process that dies in between loses the lock with its connection, and what it left in `switching` is restored by whoever
comes next: the next change, or within seconds `recover` in any process (ingress/switching/undo.py).

A switch that waits for a phone belongs to no process: it is in the database, and whichever process sees that the phone
is linked makes it (`resume`). The next change that is made takes its place, in the transaction that makes it; `recover`
ends it when its time is over.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from providers import ProviderStatus, SendError, WhatsAppProvider

from .. import audit, log, metrics
from ..accounts.accounts import (
    MAX_CONFIGS,
    Accounts,
    ChangeRefused,
    Config,
    NewConfig,
    NotFound,
    TooMany,
    sender_of,
    unreachable,
)
from ..accounts.ownership import Ownership
from ..audit import SYSTEM, Actor
from ..envelope import own_event
from ..storage.database import Busy, Database, Exclusive, LockLost, StoreUnavailable
from ..storage.statements import configs, health, switches
from ..storage.statements.events import EventRow
from ..storage.vault import token_hash
from .change import (
    CHANNEL,
    NO_FORMER_CONFIG,
    Change,
    NoFormerConfig,
    NotPaired,
    NotReceiving,
    StandIn,
    Switched,
    TooSlow,
    VersionConflict,
    order_after,
)
from .undo import Undoing

# A session that was set up connects within a moment, or shows a QR code; a person needs some minutes to find the phone.
CONNECTS_WITHIN_S, CONNECT_POLL_S = 3.0, 0.1
PAIRING_WITHIN_S = 300.0
# All of a test and set-up under the lock: well below database.EXCLUSIVE_IDLE_S, after which the lock is taken away.
TESTED_WITHIN_S = 12.0

Announce = Callable[[UUID, int], Awaitable[None]]


class _Waiting(msgspec.Struct, frozen=True):
    """What is to be known of a switch that waits, to make it."""

    actor: str
    address: str | None
    kind: str
    reason: str | None
    state: str
    expected_version: int | None = None

    def __repr__(self) -> str:
        return f"_Waiting({self.kind})"


class Switching:
    """Makes changes. *announce* is told of each one that is committed."""

    def __init__(self, database: Database, accounts: Accounts, ownership: Ownership, announce: Announce) -> None:
        self._database = database
        self._accounts = accounts
        self._ownership = ownership
        self._announce = announce
        self.undoing = Undoing(database, accounts.vault)
        self.recover = self.undoing.recover

    async def switch(
        self,
        organization_id: UUID,
        target: UUID | NewConfig | None,
        actor: Actor,
        *,
        kind: str = "switch",
        expected_version: int | None = None,
        force: bool = False,
        reason: str | None = None,
        order: list[UUID] | None = None,
        stand_in: StandIn | None = None,
    ) -> Switched:
        """Make *target* the active config: one that is stored, a new one, or (None) the one before this.

        With *force* it is not tested. *order* are the fallbacks from then on, None: as `order_after` has them. Raises
        `ChangeRefused` in its kinds, `NotFound`, `Busy`, `StoreUnavailable`; then the former one is in force, but for a
        `StoreUnavailable`, after which the version tells which is.
        """
        change = Change(organization_id, actor, kind, reason, expected_version, order=order, stand_in=stand_in)
        switched = await self._told(change, self._switch(change, target, force))
        assert switched is not None
        return switched

    async def resume(self, organization_id: UUID, config_id: UUID) -> None:
        """The phone of a config is linked: make the switch that waits for it, if one does. Raises as `switch`."""
        change = Change(organization_id, SYSTEM, "switch", None)
        await self._told(change, self._resume(change, config_id))

    async def _told(self, change: Change, making: Coroutine[Any, Any, Switched | None]) -> Switched | None:
        """Make a change, and tell how it went in metrics, the log, and to all processes."""
        started, outcome = monotonic(), "error"
        try:
            switched = await making
            outcome = "unchanged"
            if switched is not None and (switched.changed or switched.waits_until):
                outcome = "switched" if switched.changed else "waiting"
        except ChangeRefused as error:
            outcome = error.code
            raise
        except LockLost:
            outcome = "lock_lost"
            await self.undoing.recover_one(change.organization_id, outcome)
            raise
        except (Busy, StoreUnavailable, NotFound) as error:
            outcome = {Busy: "busy", StoreUnavailable: "unavailable"}.get(type(error), "not_found")
            raise
        finally:
            elapsed = monotonic() - started
            metrics.switch_seconds.labels(change.kind, outcome).observe(elapsed)
            log.wide(
                "switch",
                organization=change.organization_id,
                kind=change.kind,
                outcome=outcome,
                actor=change.actor.name,
                config=change.config.id if change.config else None,
                former=change.active,
                version=change.version,
                ms=round(elapsed * 1000, 1),
            )
        if switched is not None and switched.changed:
            with _phase("propagate"):
                await self._announce(change.organization_id, switched.version)
            if change.kind == "rollback":
                metrics.switch_rollbacks.labels("asked").inc()
        return switched

    # -- the steps

    async def _switch(self, change: Change, target: UUID | NewConfig | None, force: bool) -> Switched:
        new = target if isinstance(target, NewConfig) else None
        if new is not None:
            change.provider_type = new.provider_type
            self._accounts.validate(new.provider_type, new.config_data)
        waiting = monotonic()
        async with self._database.exclusive(change.organization_id) as exclusive:
            metrics.switch_phase_seconds.labels("lock").observe(monotonic() - waiting)
            await self.undoing.restore(exclusive, change.organization_id)
            async with exclusive.transaction() as connection:
                row = await self._stand(connection, change, target)
                waits = await health.waits(connection, change.organization_id, row["id"]) if row else None
            if row is not None:
                change.config = self._accounts.known(row).usable()
                change.provider_type = change.config.provider_type
                if row["id"] == change.active:
                    return change.ended()
                if waits is not None and not force and _is_the_same(change, waits["waiting"]):
                    return change.ended(waits_until=waits["waiting_until"])
                async with self.undoing.superseding(exclusive, change.organization_id, row["id"]) as (connection, _):
                    await self._begin(connection, change)
            return await self._make(exclusive, change, new, force)

    async def _resume(self, change: Change, config_id: UUID) -> Switched | None:
        async with self._database.exclusive(change.organization_id) as exclusive:
            async with exclusive.transaction() as connection:
                waiting = await health.take_up(connection, change.organization_id, config_id)
                if waiting is None:
                    return None
                told = msgspec.json.decode(waiting, type=_Waiting)
                change.actor, change.kind, change.reason = Actor(told.actor, told.address), told.kind, told.reason
                # Of a rollback the former config is this one still, and the fallbacks of then are its own again.
                row = await self._stand(connection, change, None if told.kind == "rollback" else config_id)
            if row is None:
                raise NotFound
            change.config, change.state = self._accounts.known(row).usable(), told.state
            change.provider_type = change.config.provider_type
            change.expected_version = told.expected_version
            return await self._make(exclusive, change, None, False)

    async def _make(self, exclusive: Exclusive, change: Change, new: NewConfig | None, force: bool) -> Switched:
        """Test, set up, commit; or leave it as it was."""
        until = asyncio.get_running_loop().time() + TESTED_WITHIN_S
        try:
            with _phase("validate"):
                change.check_version()  # a switch that waited may have been overtaken
                if new is not None:
                    provider = self._accounts.validate(new.provider_type, new.config_data)
                    async with exclusive.transaction() as connection:
                        await check_quota(connection, change.organization_id)
                    if not force:
                        async with _within(until, "the connection test"):
                            change.checks, change.status = await self._accounts.test(provider)
                    config, token = self._accounts.made(change.organization_id, new, provider, change.status)
                    async with exclusive.transaction() as connection:
                        await save(
                            connection, self._accounts, self._ownership, change.actor, new, config, token, change.status
                        )
                        await self._claim(connection, change, provider, force)
                        change.config = config
                        await self._begin(connection, change)
                assert change.config is not None
                provider, url = change.config.provider, change.config.callback_url
                if not force:
                    if new is None:
                        async with _within(until, "the connection test"):
                            change.checks, change.status = await self._accounts.test(provider, url)
                        async with exclusive.transaction() as connection:
                            await self._claim(connection, change, provider, force)
                    async with _within(until, "the set-up"):
                        change.checks = await self._accounts.set_up(provider, url)
                    for check in change.checks:
                        if check.name == "webhook" and check.fatal and not check.passed:
                            raise NotReceiving(check, change.checks)
                    async with _within(until, "connecting the session"):
                        linked = await self._is_linked(change)
                    if not linked:
                        return await self._wait(exclusive, change)
            with _phase("commit"):
                async with self.undoing.superseding(exclusive, change.organization_id) as (connection, told):
                    version = await self._commit(connection, change, force, told)
        except LockLost:
            raise  # nothing can be written here any more
        except Exception as error:
            if isinstance(error, ChangeRefused) and new is not None and change.config is not None:
                error.saved_as = change.config.id
            await self.undoing.undo(exclusive, change, error)
            raise
        change.version = version
        return change.ended(changed=True)

    async def _claim(
        self, connection: asyncpg.Connection, change: Change, provider: WhatsAppProvider, force: bool
    ) -> None:
        """What was tested is the organization's. Without a test nothing is. Raises `AccountInUse`."""
        if not force:
            await self._ownership.claim(connection, change.organization_id, provider, change.checks)

    async def _is_linked(self, change: Change) -> bool:
        """Whether a phone is linked to the account, where it needs one. A session that was set up takes a moment."""
        assert change.config is not None
        provider = change.config.provider
        if "pairing" not in provider.info.capabilities:
            return True
        until = monotonic() + CONNECTS_WITHIN_S
        while True:
            try:
                status = await self._accounts.status(provider)
            except SendError as error:
                raise unreachable(error) from error
            if status.is_connected:
                change.status = status
                return True
            if status.trouble == "not_paired" or monotonic() > until:
                return False
            await asyncio.sleep(CONNECT_POLL_S)

    async def _wait(self, exclusive: Exclusive, change: Change) -> Switched:
        """Have the switch wait for a phone, in `switching`. Of the service's own no person knows: it is refused."""
        assert change.config is not None
        if change.actor == SYSTEM:
            raise NotPaired("no phone is linked to the account")
        told = _Waiting(
            change.actor.name, change.actor.address, change.kind, change.reason, change.state, change.expected_version
        )
        async with self.undoing.superseding(exclusive, change.organization_id) as (connection, _):
            until = await health.wait(
                connection, change.organization_id, change.config.id, PAIRING_WITHIN_S, msgspec.json.encode(told)
            )
            await health.tell(connection, change.organization_id, CHANNEL, change.version)
        return change.ended(waits_until=until)

    async def _stand(
        self, connection: asyncpg.Connection, change: Change, target: UUID | NewConfig | None
    ) -> asyncpg.Record | None:
        """Where the organization stands; the row of the config that is asked for, None where it is a new one."""
        standing = await switches.standing(connection, change.organization_id)
        if standing is None:
            raise NotFound
        change.version, change.active = standing["version"], standing["active_config_id"]
        change.check_version()
        config_id = None if isinstance(target, NewConfig) else target or standing["former_config_id"]
        if change.order is None:
            change.order = order_after(standing, config_id, back=target is None)
        if isinstance(target, NewConfig):
            return None
        if config_id is None:
            raise NoFormerConfig(NO_FORMER_CONFIG)
        row = await configs.by_id(connection, change.organization_id, config_id)
        if row is None:
            raise NotFound
        return row

    async def _begin(self, connection: asyncpg.Connection, change: Change) -> None:
        assert change.config is not None
        state = await switches.begin(connection, change.organization_id, change.config.id)
        await self._record(connection, change, "switching", {"state": state}, {"state": "switching"}, change.reason)
        await health.tell(connection, change.organization_id, CHANNEL, change.version)
        change.state = state

    async def _commit(self, connection: asyncpg.Connection, change: Change, force: bool, told: list[EventRow]) -> int:
        """Everything that a switch is, or nothing: the new version. *told* gets its event. Raises `VersionConflict`."""
        assert change.config is not None
        organization_id, config_id, former = change.organization_id, change.config.id, change.active
        version = await switches.activate(
            connection,
            organization_id,
            config_id,
            expected_version=change.version,
            session=msgspec.json.encode(change.status) if change.status else None,
            sender=sender_of(change.config.provider, change.status),
            order=change.order or [],
            stand_in=msgspec.json.encode(change.stand_in) if change.stand_in else None,
        )
        if version is None:
            standing = await switches.standing(connection, organization_id)
            assert standing is not None
            raise VersionConflict(standing["version"], standing["active_config_id"])
        if former is not None:
            await audit.record(
                connection,
                self._accounts.vault,
                organization_id,
                change.actor,
                "deactivated",
                config_id=former,
                version=version,
                before={"state": "active"},
                after={"state": "inactive"},
            )
        tests = {"forced": True} if force else {"checks": {check.name: check.passed for check in change.checks}}
        after = {"active_config_id": config_id, "kind": change.kind, **tests}
        await self._record(
            connection, change, "activated", {"active_config_id": former}, after, change.reason, version=version
        )
        news = {
            "provider": change.provider_type,
            "version": version,
            "from_config_id": former,
            "kind": change.kind,
            "reason": change.reason,
        }
        news = {name: value for name, value in news.items() if value is not None}
        told.append(own_event(organization_id, config_id, "provider.switched", news))
        await switches.notify(connection, organization_id, CHANNEL, version)
        return version

    async def _record(
        self,
        connection: asyncpg.Connection,
        change: Change,
        action: str,
        before: object,
        after: object,
        reason: str | None,
        version: int | None = None,
    ) -> None:
        assert change.config is not None
        await audit.record(
            connection,
            self._accounts.vault,
            change.organization_id,
            change.actor,
            action,
            config_id=change.config.id,
            version=version,
            before=before,
            after=after,
            reason=reason,
        )


def _is_the_same(change: Change, waiting: bytes) -> bool:
    """Whether the switch that waits is the one that is asked for: who asks again is told so, as is the service."""
    told = msgspec.json.decode(waiting, type=_Waiting)
    is_told = told.kind == change.kind and change.expected_version in (None, told.expected_version)
    return is_told or change.actor == SYSTEM


async def check_quota(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """Raises `TooMany` where the organization may have no further config."""
    if await configs.count(connection, organization_id) >= MAX_CONFIGS:
        raise TooMany(f"An organization may have {MAX_CONFIGS} configs. Delete one first.")


async def save(
    connection: asyncpg.Connection,
    accounts: Accounts,
    ownership: Ownership,
    actor: Actor,
    new: NewConfig,
    config: Config,
    token: str,
    status: ProviderStatus | None,
) -> int:
    """Store a new config, with its entry in the trail: the version of the organization, which stays."""
    version = await configs.add(
        connection,
        config.organization_id,
        config.id,
        provider_type=config.provider_type,
        name=config.name,
        config_data=accounts.seal(config, "config_data", msgspec.json.encode(new.config_data)),
        token_hash=token_hash(token),
        token=accounts.seal(config, "webhook_token", token.encode()),
        sender=config.sender,
        session=msgspec.json.encode(status),
        accounts=config.provider.accounts,
        signing_keys=ownership.signing_keys(config.provider),
    )
    await audit.record(
        connection,
        accounts.vault,
        config.organization_id,
        actor,
        "configured",
        config_id=config.id,
        after=accounts.masked(config.provider),
    )
    return version


@asynccontextmanager
async def _within(until: float, what: str) -> AsyncIterator[None]:
    """*what* ends before the event loop's time is *until*. Raises `TooSlow`."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise TooSlow(f"{what} had not ended {TESTED_WITHIN_S:g} seconds after the change began") from None


@contextmanager
def _phase(name: str) -> Iterator[None]:
    started = monotonic()
    try:
        yield
    finally:
        metrics.switch_phase_seconds.labels(name).observe(monotonic() - started)
