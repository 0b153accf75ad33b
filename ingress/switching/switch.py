"""One change of an organization's active config, from the lock to the commit.

    Requested ─▶ lock ─▶ Begun ─▶ test, set up ─▶ Ready ─▶ one transaction: states, trail, event, NOTIFY ─▶ Switched
                           │           │   │        ▲
                           │           │   └── no phone linked: wait without the lock, then test again
                           └───────────┴── what fails here ─▶ former state, `rolled_back`, an event

Until the transaction the former config is in force, whatever happens; after it the new one is, whatever happens. A
process that dies in between loses the lock with its connection. What it has left is a row in `switches`, which whoever
comes next takes back: the next change of it, or within seconds `recover` in any process (ingress/switching/undo.py).

A switch that waits for a phone belongs to no process: its row has a deadline, and whichever process sees that the phone
is linked makes it (`resume`). The next change that is made takes its place, in the transaction that makes it; `recover`
ends it when its time is over.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from time import monotonic
from uuid import UUID

import asyncpg
import msgspec

from providers import Check, ProviderStatus, SendError, WhatsAppProvider

from ..accounts.accounts import FORCED_WITHIN_S, Accounts
from ..accounts.config import ChangeRefused, Config, NewConfig, NotFound, sender_of, unreachable
from ..accounts.ownership import Ownership
from ..audit.trail import SYSTEM
from ..storage.database import Database, Exclusive, LockLost
from ..storage.statements import configs, switches
from ..storage.statements.switches import Activation, NewSwitch, OpenSwitch, Standing
from .change import (
    Begun,
    NoFormerConfig,
    NotPaired,
    NotReceiving,
    Ready,
    Requested,
    Switched,
    TooSlow,
    Unpaired,
    VersionConflict,
    as_asked,
    order_after,
)
from .config_store import ConfigStore
from .journal import Journal, Transition, switch_begun, switch_made
from .report import Report, Show
from .undo import Undo, count

# A session that was set up connects within a moment, or shows a QR code; a person needs some minutes to find the phone.
CONNECTS_WITHIN_S, CONNECT_POLL_S = 3.0, 0.1
PAIRING_WITHIN_S = 300.0
# All of a test and set-up under the lock, by the longest time limits that a provider may have: well below
# database.EXCLUSIVE_IDLE_S, after which the lock is taken away.
TESTED_WITHIN_S = 22.0


class Switching:
    """Makes changes."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        ownership: Ownership,
        store: ConfigStore,
        journal: Journal,
        undo: Undo,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._ownership = ownership
        self._store = store
        self._journal = journal
        self._undo = undo

    async def switch(self, request: Requested, show: Show | None = None) -> Switched:
        """Make the change. Raises `ChangeRefused` in its kinds, `NotFound`, `Busy`, `StoreUnavailable`.

        *show* gets each phase as it ends, and each check of the test as it is done.
        Then the former config is in force, but for a `StoreUnavailable`, after which the version says which is.
        """
        with Report(request, show) as report:
            async with self._locked(request.organization_id, report) as (exclusive, until):
                report.stage = stage = await self._first(exclusive, request, until, report)
                if isinstance(stage, Begun):
                    report.stage = stage = await self._complete(exclusive, stage, until, report)
        return stage

    async def resume(self, organization_id: UUID, config_id: UUID) -> Switched | None:
        """The phone of a config is linked: make the switch that waits for it, if one does. Raises as `switch`."""
        request = Requested(organization_id=organization_id, target=config_id, actor=SYSTEM)
        with Report(request) as report:
            async with self._locked(organization_id, report) as (exclusive, until):
                async with exclusive.transaction() as connection:
                    begun = await self._take_up(connection, organization_id, config_id)
                if begun is None:
                    return None
                report.stage = begun
                async with self._or_undone(exclusive, begun.standing, begun, report):
                    begun.request.check_version(begun.standing)  # it may have been overtaken while it waited
                report.stage = switched = await self._complete(exclusive, begun, until, report)
        return switched

    @asynccontextmanager
    async def _locked(self, organization_id: UUID, report: Report) -> AsyncIterator[tuple[Exclusive, float]]:
        """The lock, and until when, by the loop's time, the account is to be tested and set up."""
        try:
            async with AsyncExitStack() as held:
                with report.phase("lock"):
                    exclusive = await held.enter_async_context(self._database.exclusive(organization_id))
                yield exclusive, asyncio.get_running_loop().time() + TESTED_WITHIN_S
        except LockLost:
            await self._undo.recover_one(organization_id, "lock_lost")
            raise

    # -- Requested to Begun

    async def _first(self, exclusive: Exclusive, request: Requested, until: float, report: Report) -> Begun | Switched:
        if isinstance(request.target, NewConfig):
            return await self._begin_new(exclusive, request, request.target, until, report)
        return await self._begin(exclusive, request)

    async def _begin(self, exclusive: Exclusive, request: Requested) -> Begun | Switched:
        """Begin a switch to a stored config, unless it is active already, or such a switch waits for its phone."""
        async with exclusive.transaction() as connection:
            standing = await self._standing(connection, request)
            config = await self._target(connection, request, standing)
            if (unchanged := _unchanged(request, standing, config)) is not None:
                return unchanged
            begun, taken_back = await self._enter(connection, request, standing, config)
        if taken_back:
            count(taken_back)
        return begun

    async def _target(self, connection: asyncpg.Connection, request: Requested, standing: Standing) -> Config:
        """The config that is stored, or the one before. Raises `NotFound`, `NoFormerConfig`, `InvalidConfiguration`."""
        config_id = request.target or standing.former_config_id
        if config_id is None:
            raise NoFormerConfig
        assert isinstance(config_id, UUID)
        return await self._config(connection, request.organization_id, config_id)

    async def _config(self, connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> Config:
        row = await configs.by_id(connection, organization_id, config_id)
        if row is None:
            raise NotFound
        return self._accounts.usable(row)

    async def _begin_new(
        self, exclusive: Exclusive, request: Requested, new: NewConfig, until: float, report: Report
    ) -> Begun | Switched:
        """Test a new configuration, save it, and begin a switch to it; or to the config that it is saved as."""
        provider = self._accounts.validate(new.provider_type, new.config_data)
        async with exclusive.transaction() as connection:
            standing = await self._standing(connection, request)
            saved = await self._store.saved_as(connection, request.organization_id, new, provider)
        if saved is not None:
            return await self._begin(exclusive, msgspec.structs.replace(request, target=saved))
        async with self._or_undone(exclusive, standing, new, report):
            checks, status = (None, None) if request.force else await self._tested(provider, None, until, report)
            async with exclusive.transaction() as connection:
                config, _, configured = await self._store.add(
                    connection, request.organization_id, request.actor, new, provider, status
                )
                if checks is not None:
                    await self._ownership.claim(connection, request.organization_id, provider, checks)
                begun, taken_back = await self._enter(connection, request, standing, config, configured)
        if taken_back:
            count(taken_back)
        return msgspec.structs.replace(begun, checks=checks, status=status)

    async def _standing(self, connection: asyncpg.Connection, request: Requested) -> Standing:
        standing = await switches.standing(connection, request.organization_id)
        if standing is None:
            raise NotFound
        request.check_version(standing)
        return standing

    async def _enter(
        self, connection: asyncpg.Connection, request: Requested, standing: Standing, config: Config, *first: Transition
    ) -> tuple[Begun, list[Transition]]:
        """Take the config into `switching`, after what came *first*; and what was taken back for that."""
        rows = [switch for switch in standing.open if switch.config_id == config.id or not switch.is_waiting]
        taken_back = await self._put_back(connection, request, standing, rows)
        state = await switches.begin(connection, request.organization_id, _row(request, config))
        switching = switch_begun(request, config, state, self._accounts.masked(config.provider))
        await self._journal.write(connection, request.organization_id, standing.version, *taken_back, *first, switching)
        return Begun(request, standing, order_after(request, standing, config), config, state), taken_back

    async def _take_up(self, connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> Begun | None:
        """The switch that waits for the config's phone, which is this process's to make from now on."""
        waited = await switches.take_up(connection, organization_id, config_id)
        standing = await switches.standing(connection, organization_id)
        if waited is None or standing is None:
            return None
        config, request = await self._config(connection, organization_id, config_id), as_asked(organization_id, waited)
        return Begun(request, standing, order_after(request, standing, config), config, waited.former_state)

    async def _put_back(
        self, connection: asyncpg.Connection, request: Requested, standing: Standing, rows: list[OpenSwitch]
    ) -> list[Transition]:
        """What was taken back, of the switches whose place this one takes: in most cases there is none."""
        return await self._undo.put_back(connection, request.organization_id, standing, rows) if rows else []

    # -- Begun to Switched

    async def _complete(self, exclusive: Exclusive, begun: Begun, until: float, report: Report) -> Switched:
        """Test, set up, commit; or leave it as it was."""
        async with self._or_undone(exclusive, begun.standing, begun, report):
            if begun.checks is None and not begun.request.force:
                begun = await self._tested_and_claimed(exclusive, begun, until, report)
            with report.phase("set_up"):
                stage = await self._set_up(begun, until)
            if isinstance(stage, Unpaired):
                return await self._wait(exclusive, stage)
            with report.phase("commit"):
                return await self._commit(exclusive, stage, report.phases)

    @asynccontextmanager
    async def _or_undone(
        self, exclusive: Exclusive, standing: Standing, stage: Begun | NewConfig, report: Report
    ) -> AsyncIterator[None]:
        """What fails in the block leaves all as it was."""
        try:
            yield
        except LockLost:
            raise  # nothing can be written here any more
        except Exception as error:
            request = report.request
            if isinstance(error, ChangeRefused) and isinstance(request.target, NewConfig) and isinstance(stage, Begun):
                error.saved_as = stage.config.id
            await self._undo.abort(exclusive, standing, stage, error, report)
            raise

    async def _tested_and_claimed(self, exclusive: Exclusive, begun: Begun, until: float, report: Report) -> Begun:
        """Before it is set up: an account of another organization is left as it is."""
        config, provider = begun.config, begun.config.provider
        checks, status = await self._tested(provider, config.callback_url, until, report)
        if not config.claimed.issuperset(provider.accounts):
            async with exclusive.transaction() as connection:
                await self._ownership.claim(connection, config.organization_id, provider, checks)
        return msgspec.structs.replace(begun, checks=checks, status=status)

    async def _set_up(self, begun: Begun, until: float) -> Ready | Unpaired:
        """Set the account up, as it was tested; where that is not wanted, its webhook is written at most."""
        if begun.request.force:
            await self._accounts.write_webhook(begun.config, FORCED_WITHIN_S)
            return Ready(begun, [], None)
        checks = await self._received(begun.config, until)
        if "pairing" not in begun.config.provider.info.capabilities:
            return Ready(begun, checks, begun.status)
        status = await self._connected(begun.config.provider, until)
        return Unpaired(begun, checks) if status is None else Ready(begun, checks, status)

    async def _received(self, config: Config, until: float) -> list[Check]:
        """What people write to the account arrives here from now on. Raises `NotReceiving`."""
        async with _within(until, "the set-up"):
            checks = await self._accounts.set_up(config.provider, config.callback_url)
        for check in checks:
            if check.name == "webhook" and check.fatal and not check.passed:
                raise NotReceiving(check, checks)
        return checks

    async def _tested(
        self, provider: WhatsAppProvider, callback_url: str | None, until: float, report: Report
    ) -> tuple[list[Check], ProviderStatus | None]:
        with report.phase("test"):
            async with _within(until, "the connection test"):
                return await self._accounts.test(provider, callback_url, report.show)

    async def _connected(self, provider: WhatsAppProvider, until: float) -> ProviderStatus | None:
        """The account's status once a phone is linked; None: none is."""
        async with _within(until, "connecting the session"):
            return await self._once_connected(provider)

    async def _once_connected(self, provider: WhatsAppProvider) -> ProviderStatus | None:
        """A session that was set up takes a moment."""
        until = monotonic() + CONNECTS_WITHIN_S
        while True:
            try:
                status = await self._accounts.status(provider)
            except SendError as error:
                raise unreachable(error) from error
            if status.is_connected:
                return status
            if status.trouble == "not_paired" or monotonic() > until:
                return None
            await asyncio.sleep(CONNECT_POLL_S)

    async def _wait(self, exclusive: Exclusive, unpaired: Unpaired) -> Switched:
        """Have the switch wait for a phone, in `switching`. Of the service's own no person knows: it is refused."""
        begun, standing = unpaired.begun, unpaired.begun.standing
        if begun.request.actor == SYSTEM:
            raise NotPaired("no phone is linked to the account")
        organization_id = begun.request.organization_id
        async with exclusive.transaction() as connection:
            taken_back = await self._put_back(connection, begun.request, standing, _others(begun))
            until = await switches.wait(connection, organization_id, begun.config.id, PAIRING_WITHIN_S)
            await self._journal.write(connection, organization_id, standing.version, *taken_back)
        if taken_back:
            count(taken_back)
        return _in_force(begun.config, standing, unpaired.checks, begun.order, until)

    async def _commit(self, exclusive: Exclusive, ready: Ready, phases: Mapping[str, float]) -> Switched:
        """Everything that a switch is, or nothing. Raises `VersionConflict`."""
        begun, request, standing = ready.begun, ready.begun.request, ready.begun.standing
        async with exclusive.transaction() as connection:
            taken_back = await self._put_back(connection, request, standing, _others(begun))
            version = await switches.activate(connection, request.organization_id, _activation(ready))
            if version is None:
                raise await self._conflict(connection, request.organization_id)
            made = switch_made(ready, version, phases)
            entry = await self._journal.write(connection, request.organization_id, version, *taken_back, *made)
        if taken_back:
            count(taken_back)
        return Switched(
            begun.config, version, standing.active_config_id, ready.checks, begun.order, changed=True, entry=entry
        )

    async def _conflict(self, connection: asyncpg.Connection, organization_id: UUID) -> VersionConflict:
        standing = await switches.standing(connection, organization_id)
        assert standing is not None
        return VersionConflict(standing.version, standing.active_config_id)


def _unchanged(request: Requested, standing: Standing, config: Config) -> Switched | None:
    """Where there is nothing to begin: it is active already, or such a switch waits for its phone."""
    own = (switch for switch in standing.open if switch.config_id == config.id)
    same = next((switch for switch in own if _is_the_same(request, switch)), None)
    if config.id != standing.active_config_id and same is None:
        return None
    order = order_after(request, standing, config)
    return _in_force(config, standing, [], order, same.waits_until if same else None)


def _in_force(
    config: Config, standing: Standing, checks: list[Check], order: list[UUID], until: datetime | None
) -> Switched:
    """What a change that is not made, or not yet, leaves."""
    return Switched(config, standing.version, standing.active_config_id, checks, order, waits_until=until)


def _row(request: Requested, config: Config) -> NewSwitch:
    return NewSwitch(
        config_id=config.id,
        kind=request.kind,
        actor=request.actor.name,
        address=request.actor.address,
        reason=request.reason,
        expected_version=request.expected_version,
    )


def _activation(ready: Ready) -> Activation:
    begun, stand_in = ready.begun, ready.begun.request.stand_in
    return Activation(
        config_id=begun.config.id,
        expected_version=begun.standing.version,
        session=msgspec.json.encode(ready.status) if ready.status else None,
        sender=sender_of(begun.config.provider, ready.status),
        fallback_config_ids=begun.order,
        stand_in=msgspec.json.encode(stand_in) if stand_in else None,
    )


def _others(begun: Begun) -> list[OpenSwitch]:
    """Switches that wait for a phone, whose place it takes once it is made, or waits itself."""
    return [other for other in begun.standing.open if other.config_id != begun.config.id and other.is_waiting]


def _is_the_same(request: Requested, waiting: OpenSwitch) -> bool:
    """Whether the switch that waits is the one that is asked for, or it is the service that asks."""
    if request.force or not waiting.is_waiting:
        return False
    same = waiting.kind == request.kind and request.expected_version in (None, waiting.expected_version)
    return same or request.actor == SYSTEM


@asynccontextmanager
async def _within(until: float, what: str) -> AsyncIterator[None]:
    """*what* ends before the event loop's time is *until*. Raises `TooSlow`."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise TooSlow(f"{what} had not ended {TESTED_WITHIN_S:g} seconds after the change began") from None
