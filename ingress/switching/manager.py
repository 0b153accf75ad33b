"""WhatsAppProviderManager: which provider an organization uses, and every change of it.

A plug-in, in each process (`providers/registry.py`; its failures are logged and listed):

    discovered ──first use──▶ registered ◀──register, unregister──▶ (gone)
        └──────cannot be imported, breaks the contract──▶ failed

What was installed or uninstalled since is found by `reload_plugins`, in every process; a process that could not be
notified looks when it listens again.

Its configs stay when it goes, and are used again when it comes back. Meanwhile they are shown in `error`, sends go to
the fallbacks, and webhooks are answered 503: they come again. So it is with a config that cannot be opened (its key is
gone, its record damaged), but that an active one is replaced by no fallback.

A config, in the database; every arrow is an entry of the audit trail in the transaction that takes it:

    (new) ──configured──▶ configured ──┐
                                       ├──switching──▶ switching ──activated──▶ active ──deactivated──▶ inactive
    inactive, error ───────────────────┘                   │
                                               │           └──rolled_back──▶ as it was; error, where it was refused
                                               └ waits here for the phone of an account that needs one
    error ──edited──▶ configured
    configured, inactive, error ──removed──▶ (gone)

A rollback is a switch to the config that was active before. Whatever its state, a config's webhooks are received. The
organization's `version` goes up by one with each change of what it sends through: the active config, the fallback
order, or a configuration among them. `Switching` (switch.py) makes a change of the active config, `ConfigStore`
(config_store.py) changes what is stored, `Routes` (routes.py) is what this process knows of it all, `Plugins`
(plugins.py) keeps the registry, and `Accounts` (ingress/accounts/accounts.py) deals with one account.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from providers import Check, ProviderStatus, Registry, RegistryEntry, WhatsAppProvider

from ..accounts.accounts import Accounts
from ..accounts.activity import Activity
from ..accounts.advice import WHAT_TO_DO
from ..accounts.config import Config, NewConfig, NotFound, ProviderUnreachable, TestFailed
from ..accounts.ownership import Ownership
from ..accounts.progress import ShowCheck, ShownChecks
from ..accounts.unusable import MissingPlugin
from ..audit.trail import Actor
from ..audit.verification import check_keys
from ..calls.driver import Caller
from ..calls.egress import Egress
from ..identifiers import PLATFORM_ID
from ..storage.database import Database, StoreUnavailable
from ..storage.redis_state import RedisState
from ..storage.statements import apps, configs, switches
from ..storage.statements.configs import ChangedFallbacks
from ..storage.statements.receiving.inbound import KEYS_KEPT, max_age
from ..storage.vault import Vault
from .change import Requested, Switched
from .config_store import ConfigEdit, ConfigStore, Edited
from .confirmations import confirmed_by_all
from .dry_run import DryRun, dry_run
from .in_flight import InFlight
from .journal import Journal, Transition
from .plugins import Plugins, Reloaded
from .policy import FallbackPolicy, stored_policy
from .report import Show, phase
from .routes import Route, Routes
from .switch import Switching
from .undo import Undo


class FallbackOrder(msgspec.Struct, frozen=True):
    """The order after the active config, whether or not there is one, and the rules."""

    version: int
    config_ids: list[UUID]
    policy: FallbackPolicy


class WhatsAppProviderManager:
    """The registry of plug-ins, and the configs of every organization.

    `register`, `unregister`, `reload_plugins`, `list_providers`; `provider_for` an organization, `configs`, `current`;
    `set_provider`, `switch`, `rollback`, `dry_run`; `configure`, `test`, `edit`, `remove`, `set_fallbacks`.
    """

    def __init__(
        self,
        registry: Registry,
        database: Database,
        redis: RedisState,
        vault: Vault,
        caller: Caller,
        egress: Egress,
        origin: str,
        trusted_hosts: frozenset[str] = frozenset(),
        keys_kept: timedelta = KEYS_KEPT,
    ) -> None:
        self.registry = registry
        self.origin = origin
        # What is older when it is received may be a repetition that nobody knows any more.
        self.max_age = max_age(keys_kept)
        self.accounts = Accounts(registry, vault, caller, egress, origin)
        self.ownership = Ownership(database, self.accounts, trusted_hosts)
        self.activity = Activity(database)
        self.in_flight = InFlight()
        self.routes = Routes(database, redis, self.accounts, self.in_flight)
        self.journal = Journal(vault)
        self._database = database
        self._redis = redis
        self._undo = Undo(database, self.accounts, self.journal)
        self._store = ConfigStore(database, self.accounts, self.ownership, self.journal, self._undo)
        self._switching = Switching(database, self.accounts, self.ownership, self._store, self.journal, self._undo)
        self._plugins = Plugins(registry, database, self.routes.forget_all)

    # -- plug-ins

    def register(self, provider: type[WhatsAppProvider]) -> None:
        """Add a plug-in while running; configs that waited for it are in use again.

        Raises ValueError where it is none, or its name is taken.
        """
        self._plugins.register(provider)

    def unregister(self, name: str) -> None:
        """Forget a plug-in; calls under way end as they would have. Raises `UnknownProvider`."""
        self._plugins.unregister(name)

    async def reload_plugins(self) -> Reloaded:
        """Find plug-ins that were installed or uninstalled: here, and in all other processes, which log what they find.

        Raises `StoreUnavailable` and `PluginsUnreadable`; then nothing was changed here.
        """
        return await self._plugins.reload()

    async def find_plugins(self) -> None:
        """Find those that were installed or uninstalled, in this process; a failure is logged."""
        await self._plugins.find()

    def list_providers(self) -> list[RegistryEntry]:
        """All plug-ins by name, broken ones with their reason."""
        return self.registry.entries()

    # -- reading

    async def provider_for(self, organization_id: UUID) -> Config | None:
        """The organization's active config, with its provider; None where it has none."""
        route = await self.routes.route(organization_id)
        return route.order[0] if route.order else None

    async def configs(self, organization_id: UUID) -> list[Config]:
        """The organization's configs, oldest first; one that cannot be used can do nothing, in the state `error`."""
        return await self.routes.configs(organization_id)

    async def config(self, organization_id: UUID, config_id: UUID) -> Config | None:
        """One config of the organization, active or not; None: no such config."""
        async with self._database.organization(organization_id) as connection:
            row = await configs.by_id(connection, organization_id, config_id)
        return self.accounts.known(row) if row else None

    async def receiver(self, organization_id: UUID, config_id: UUID) -> Config | None:
        """What received webhooks: a config of the organization, or of the platform an app."""
        if organization_id != PLATFORM_ID:
            return await self.config(organization_id, config_id)
        async with self._database.worker() as connection:
            rows = await apps.every_one(connection)
        return next((self.accounts.known(row) for row in rows if row.id == config_id), None)

    async def fallbacks(self, organization_id: UUID) -> FallbackOrder:
        """The organization's fallbacks. Raises `NotFound`."""
        async with self._database.organization(organization_id) as connection:
            standing = await switches.standing(connection, organization_id)
        if standing is None:
            raise NotFound
        return FallbackOrder(standing.version, standing.fallback_config_ids, stored_policy(standing.fallback_policy))

    async def current(self, organization_id: UUID) -> tuple[Route, ProviderStatus | None]:
        """The organization's route, and the last status of its active account."""
        route = await self.routes.route(organization_id)
        if not route.order:
            return route, None
        if isinstance(provider := route.order[0].provider, MissingPlugin):
            return route, provider.status
        session = await self._redis.session(organization_id, route.version)
        if session is None:  # lost, or of another version: the database has it, and Redis gets it back
            session = await self._stored_session(organization_id, route)
        return route, _status_in(session)

    async def _stored_session(self, organization_id: UUID, route: Route) -> bytes | None:
        async with self._database.organization(organization_id) as connection:
            row = await configs.by_id(connection, organization_id, route.order[0].id)
        session = row.session if row else None
        await self.routes.remember(organization_id, route, session)
        return session

    def masked(self, provider: WhatsAppProvider) -> dict[str, Any]:
        """The configuration with every secret replaced by its fingerprint: all that ever leaves the service."""
        return self.accounts.masked(provider)

    async def check(self) -> None:
        """Raise `VaultError` where the keys do not open what was stored last, `StoreUnavailable`."""
        async with self._database.worker() as connection:
            if (row := await configs.newest(connection)) is None:
                return await check_keys(connection, self.accounts.vault)
        self.accounts.data(row)

    # -- the active config

    async def set_provider(self, organization_id: UUID, actor: Actor, new: NewConfig) -> Switched:
        """Make a new config the active one, as `switch`."""
        return await self.switch(Requested(organization_id=organization_id, target=new, actor=actor))

    async def switch(self, request: Requested, show: Show | None = None) -> Switched:
        """Make another config the active one; *show* gets each step as it is done, and at last which processes use it.

        Raises `ChangeRefused` in its kinds, `NotFound`, `Busy`, `StoreUnavailable`. Then the former one is in force,
        but for a `StoreUnavailable`, after which the version says which is.
        """
        switched = await self._switching.switch(request, show)
        await self._use(request.organization_id, switched, show)
        if switched.changed and show is not None:
            with suppress(StoreUnavailable):  # it is made, and who uses it can be read later
                show(await confirmed_by_all(self._database, request.organization_id, switched.version))
        return switched

    async def rollback(self, request: Requested, show: Show | None = None) -> Switched:
        """Return to the config that was active before, which is a new version. Raises as `switch`."""
        return await self.switch(msgspec.structs.replace(request, target=None, kind="rollback"), show)

    async def dry_run(self, request: Requested, show: ShowCheck | None = None) -> tuple[DryRun, list[Check]]:
        """What a switch would mean, and its test, of which *show* gets each check as it is done.

        Raises `NotFound`, and `ChangeRefused` in its kinds.
        """
        return await dry_run(self._database, self.accounts, self.ownership, await self._store.resolved(request), show)

    async def resume(self, organization_id: UUID, config_id: UUID) -> None:
        """The phone of a config is linked: make the switch that waits for it, if one does. Raises as `switch`."""
        if switched := await self._switching.resume(organization_id, config_id):
            await self._use(organization_id, switched)

    async def recover(self) -> None:
        """Take back switches that broke off with their process, or waited too long. Raises `StoreUnavailable`."""
        await self._undo.recover()

    async def _use(self, organization_id: UUID, switched: Switched, show: Show | None = None) -> None:
        if switched.changed:
            with phase("propagate", show):
                await self.routes.announce(organization_id, switched.version)

    # -- configs

    async def configure(self, organization_id: UUID, actor: Actor, new: NewConfig, *, activate: bool) -> Switched:
        """Validate, test, save, set up and (where asked) activate a config.

        Raises `ChangeRefused` in its kinds; then the former one is in force, and ``saved_as`` says whether it is saved.
        """
        if activate:
            return await self.set_provider(organization_id, actor, new)
        config, order = await self._store.add_tested(organization_id, actor, new)
        await self.routes.announce(organization_id, order.version)
        checks = await self.accounts.set_up(config.provider, config.callback_url)
        return Switched(config, order.version, None, checks, order.config_ids)

    async def test(
        self,
        organization_id: UUID,
        target: UUID | NewConfig,
        show: ShowCheck | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> tuple[list[Check], str | None]:
        """Every check of a config or configuration, and the address that its webhooks must be posted to, if it has one.

        *show* gets each check as it is done; *changes*: of a config as `edit` would make it of its configuration.
        Where the provider does not answer, that is a check that failed. Nothing is saved, but for the probe's webhook.
        Raises `InvalidConfiguration`, also `TestFailed` where it refuses the account, and `NotFound`.
        """
        shown, callback_url = ShownChecks(show), None
        try:
            if isinstance(target, NewConfig):
                checks = await self._test_new(organization_id, target, shown)
            else:
                checks, callback_url = await self._test_stored(organization_id, target, shown, changes or {})
        except TestFailed as error:
            shown.all(error.checks)
            raise
        shown.all(checks)
        return checks, callback_url

    async def _test_stored(
        self, organization_id: UUID, config_id: UUID, show: ShowCheck, changes: Mapping[str, Any]
    ) -> tuple[list[Check], str]:
        config = await self.edited(organization_id, config_id, changes)
        probing = asyncio.create_task(self.accounts.probe(config.provider, config.callback_url))
        try:
            checks = await self._checks(organization_id, config.provider, show, config.callback_url)
        except TestFailed as error:
            error.checks = [*error.checks, await probing]
            raise
        return [*checks, await probing], config.callback_url

    async def _test_new(self, organization_id: UUID, new: NewConfig, show: ShowCheck) -> list[Check]:
        checks = await self._checks(organization_id, self.accounts.validate(new.provider_type, new.config_data), show)
        if all(check.name != "webhook" for check in checks):
            detail = f"saving it makes an address below {self.origin}, and has the provider post there"
            checks += [Check(name="webhook", passed=True, detail=detail, fatal=False, checkable=False)]
        return checks

    async def _checks(
        self, organization_id: UUID, provider: WhatsAppProvider, show: ShowCheck, callback_url: str | None = None
    ) -> list[Check]:
        try:
            checks = await self.accounts.checks(provider, callback_url, show)
        except ProviderUnreachable as error:
            fix = WHAT_TO_DO["unreachable"]
            return [Check(name="provider", passed=False, detail=str(error), fix=fix)]
        TestFailed.unless_passed(checks)
        return checks + await self.ownership.check(organization_id, provider, checks)

    async def edited(self, organization_id: UUID, config_id: UUID, changes: Mapping[str, Any]) -> Config:
        """A config as these changes of its configuration would make it; nothing is tested or saved.

        Raises `NotFound` and `InvalidConfiguration`.
        """
        async with self._database.organization(organization_id) as connection:
            row = await configs.by_id(connection, organization_id, config_id)
        if row is None:
            raise NotFound
        config = self.accounts.usable(row)
        if not changes:
            return config
        _, provider = self._store.changed(row, config, changes)
        return msgspec.structs.replace(config, provider=provider)

    async def edit(self, organization_id: UUID, config_id: UUID, actor: Actor, change: ConfigEdit) -> Edited:
        """Change a config; what comes out is tested and set up as a new one is.

        Raises `ChangeRefused` in its kinds, and `NotFound`; then nothing was changed.
        """
        edited = await self._store.edit(organization_id, config_id, actor, change)
        await self.routes.announce(organization_id, edited.version)
        if not change.config_data:
            return edited
        # Now that its provider's handshake is answered with what was edited.
        checks = await self.accounts.set_up(edited.config.provider, edited.config.callback_url)
        return msgspec.structs.replace(edited, checks=checks)

    async def remove(self, organization_id: UUID, config_id: UUID, actor: Actor) -> None:
        """Delete a config with its credentials and its webhook address.

        Raises `NotFound`, `InUse`, `WebhooksUnread`.
        """
        row, version = await self._store.remove(organization_id, config_id, actor)
        await self.routes.announce(organization_id, version)
        await self._store.disconnect(row)

    async def set_fallbacks(
        self, organization_id: UUID, config_ids: Sequence[UUID], policy: FallbackPolicy | None, actor: Actor
    ) -> FallbackOrder:
        """Set the fallback order, which leaves out the active config, and the policy. None: that stays as it is.

        Raises `NotFound` for a config that is not the organization's.
        """
        wanted = msgspec.json.encode(policy) if policy else None
        async with self._database.exclusive(organization_id) as exclusive, exclusive.transaction() as connection:
            change = await configs.set_fallbacks(connection, organization_id, list(config_ids), wanted)
            if change is None:
                raise NotFound
            now = FallbackOrder(change.version, change.order, stored_policy(change.policy))
            transition = _fallback_changed(actor, change, now)
            await self.journal.write(connection, organization_id, now.version, transition)
        await self.routes.announce(organization_id, now.version)
        return now


def _status_in(session: bytes | None) -> ProviderStatus | None:
    try:
        return msgspec.json.decode(session or b"null", type=ProviderStatus | None)
    except msgspec.MsgspecError:
        return None


def _fallback_changed(actor: Actor, change: ChangedFallbacks, now: FallbackOrder) -> Transition:
    return Transition(
        action="fallback_changed",
        actor=actor,
        version=now.version,
        before={"fallback_config_ids": change.former_order, "policy": stored_policy(change.former_policy)},
        after={"fallback_config_ids": now.config_ids, "policy": now.policy},
    )
