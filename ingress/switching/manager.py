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
order, or a configuration among them. `Switching` (ingress/switching/switch.py) makes a change, `Accounts`
(ingress/accounts/accounts.py) deals with one account; here is what every process knows of it all.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import UUID

import msgspec

from providers import Check, ProviderStatus, Registry, RegistryEntry, WhatsAppProvider

from .. import audit, metrics
from ..accounts.accounts import (
    Accounts,
    Config,
    InUse,
    NewConfig,
    NotFound,
    ProviderUnreachable,
    TestFailed,
    WebhooksUnread,
    sender_of,
)
from ..accounts.advice import WHAT_TO_DO
from ..accounts.ownership import Ownership
from ..accounts.unusable import MissingPlugin
from ..audit import Actor
from ..cache import Cache
from ..calls.driver import Caller
from ..calls.egress import Egress
from ..identifiers import PLATFORM_ID
from ..storage.database import Database, StoreUnavailable
from ..storage.redis_state import RedisState
from ..storage.statements import apps, configs, owners, switches, unread
from ..storage.vault import Vault, token_hash
from .change import CHANNEL, Switched
from .dry_run import Forecast
from .in_flight import InFlight
from .policy import DEFAULT_POLICY, FallbackPolicy
from .switch import Switching, check_quota, save

logger = logging.getLogger("ingress.switching.manager")

__all__ = ["Config", "Route", "WhatsAppProviderManager"]

# What the token of an app's webhook address begins with.
APP_PATH = "app/"
CACHE_S = 1.0
# A webhook's config is served this much longer while it is read again: receiving does not wait for a busy database.
STALE_S = 3.0
MAX_UNKNOWN_TOKENS = 10_000
# Organizations, and addresses of webhooks, that are remembered. A route that nobody used for so long is read anew.
KEPT, KEPT_S = 20_000, 60.0


class Route(msgspec.Struct, frozen=True):
    """How an organization sends at ``version``: through ``order`` from left to right.

    Empty: not configured. A config that cannot be used stands in its place and is passed over, as one that fails.
    """

    version: int
    order: tuple[Config, ...]
    policy: FallbackPolicy = DEFAULT_POLICY

    @property
    def may_fall_back(self) -> bool:
        """False: the active config is damaged, which no fallback may hide."""
        return not (self.order and self.order[0].is_damaged)


class PluginsUnreadable(Exception):
    """Python's environment cannot be read; the text says why. Plug-ins stay as they are."""


class Reloaded(msgspec.Struct, frozen=True):
    """What came and went; with their reasons, those that failed and those that a restart would replace."""

    added: list[str]
    removed: list[str]
    failed: dict[str, str]
    needs_restart: dict[str, str]


class _Held(msgspec.Struct, frozen=True):
    """A route as this process last read it. ``doubtful``: something is said to have changed since."""

    until: float
    route: Route
    doubtful: bool = False


class WhatsAppProviderManager:
    """The registry of plug-ins, and the configs of every organization.

    `register`, `unregister`, `reload_plugins`, `list_providers`; `provider_for` an organization, `set_provider`,
    `switch`.
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
    ) -> None:
        self.registry = registry
        self.origin = origin
        self.accounts = Accounts(registry, vault, caller, egress, origin)
        self.in_flight = InFlight()
        self._database = database
        self._redis = redis
        self.ownership = Ownership(database, self.accounts, trusted_hosts)
        switching = Switching(database, self.accounts, self.ownership, self._announce)
        self.switch = switching.switch
        self.resume = switching.resume
        self.recover = switching.recover
        self._undoing = switching.undoing
        self.forecast = Forecast(database, self.accounts, self.ownership).of
        self._reloading = asyncio.Lock()
        self._listening = False  # to the database, which tells of changes
        self._routes: Cache[UUID, _Held] = Cache(KEPT)
        self._all_configs: Cache[UUID, list[Config]] = Cache(KEPT)
        self._webhooks: Cache[str, tuple[float, Config]] = Cache(KEPT)
        self._unknown_tokens: Cache[bytes, bool] = Cache(MAX_UNKNOWN_TOKENS)
        self._loading: dict[object, asyncio.Task[Any]] = {}
        # Awaited when a change of an organization is taken up: what else in this process depends on it.
        self.after_change: Callable[[], Awaitable[None]] | None = None
        # Called with each config that was switched to, or edited: what its calls did before counts no more.
        self.renewed: Callable[[UUID], None] = lambda config_id: None

    # -- plug-ins

    def register(self, provider: type[WhatsAppProvider]) -> None:
        """Add a plug-in while running; configs that waited for it are in use again.

        Raises ValueError where it is none, or its name is taken.
        """
        self.registry.register(provider)
        metrics.VALUES["provider"].add(provider.info.name)
        self.forget_all(listening=self._listening)

    def unregister(self, name: str) -> None:
        """Forget a plug-in; calls under way end as they would have. Raises `UnknownProvider`."""
        self.registry.unregister(name)
        self.forget_all(listening=self._listening)

    async def reload_plugins(self) -> Reloaded:
        """Find plug-ins that were installed or uninstalled: here, and in all other processes, which log what they find.

        Raises `StoreUnavailable` and `PluginsUnreadable`; then nothing was changed here.
        """
        async with self._reloading:  # our own notification finds nothing new
            async with self._database.worker() as connection:
                await switches.notify(connection, PLATFORM_ID, CHANNEL, 0)
            discovered, gone = await self._find_plugins()
        entries = self.registry.entries()
        return Reloaded(
            [entry.name for entry in entries if entry.name in discovered and entry.state == "registered"],
            gone,
            {entry.name: entry.reason for entry in entries if entry.reason and entry.state == "failed"},
            {entry.name: entry.reason for entry in entries if entry.reason and entry.state == "registered"},
        )

    async def find_plugins(self) -> None:
        """Find those that were installed or uninstalled, in this process; a failure is logged."""
        async with self._reloading:
            with contextlib.suppress(PluginsUnreadable):
                await self._find_plugins()

    async def _find_plugins(self) -> tuple[list[str], list[str]]:
        try:
            installed = await asyncio.to_thread(self.registry.scan)
        except Exception as error:  # of any kind: somebody is changing the environment, or has broken it
            logger.exception("what is installed cannot be read")
            raise PluginsUnreadable(f"What is installed cannot be read: {type(error).__name__}: {error}") from None
        discovered, gone = self.registry.reload(installed)
        if discovered or gone:
            logger.info("plug-ins discovered: %s; gone: %s", ", ".join(discovered) or "none", ", ".join(gone) or "none")
            metrics.VALUES["provider"].update(discovered)
            self.forget_all(listening=self._listening)
        return discovered, gone

    def list_providers(self) -> list[RegistryEntry]:
        """All plug-ins by name, broken ones with their reason."""
        return self.registry.entries()

    # -- reading

    async def provider_for(self, organization_id: UUID) -> Config | None:
        """The organization's active config, with its provider; None where it has none."""
        route = await self.route(organization_id)
        return route.order[0] if route.order else None

    def known_route(self, organization_id: UUID) -> Route | None:
        """The organization's route if it was read less than a second ago."""
        held = self._routes.get(organization_id)
        return held.route if held and held.until > monotonic() else None

    async def route(self, organization_id: UUID, *, fresh: bool = False, source: str = "read") -> Route:
        """The organization's route: this process's, else Redis's, else the database's. Raises `StoreUnavailable`.

        With *fresh* the database's: what the fence refused must not come from a cache again. *source* is how we came
        to look, for the metric of how long a change takes to get here.
        """
        if not fresh and (known := self.known_route(organization_id)):
            return known
        key = ("route", organization_id, fresh)
        route: Route = await self._once(key, self._load_route, organization_id, fresh, source)
        return route

    def notified(self, organization_id: UUID, version: int, source: str) -> None:
        """Another process says that the organization is at *version* (0: it does not say). Late news change nothing."""
        held = self._routes.get(organization_id)
        if held is not None and version and held.route.version >= version:
            self._forget_configs(organization_id)  # one that nothing is sent through may have been edited or deleted
            return
        self.forget(organization_id)
        if held is not None:  # in use here: have it at hand before it is needed
            self._load(("notified", organization_id, version), self._take_up, organization_id, version, source)

    def forget_all(self, *, listening: bool) -> None:
        """Changes may have been missed: read everything again at its next use. *listening*: from now on none will."""
        self._listening = listening
        for organization_id in self._routes:
            self.forget(organization_id)
        self._all_configs.clear()
        self._webhooks.clear()
        self.accounts.forget_all()

    def known_config_of_webhook(self, token: str) -> Config | None:
        """The config whose webhook address ends in *token*, if it was read less than CACHE_S ago."""
        held = self._webhooks.get(token)
        return held[1] if held and held[0] > monotonic() else None

    async def config_of_webhook(self, token: str) -> Config | None:
        """The config whose webhook address ends in *token*, as it was at most CACHE_S + STALE_S ago.

        Raises `StoreUnavailable`, also where the config is there and cannot be opened: its webhooks shall come again.
        """
        held = self._webhooks.get(token)
        if held and held[0] > monotonic():
            return held[1]
        if held is None and self._unknown_tokens.get(token_hash(token)):
            return None
        loading = self._load(("webhook", token), self._load_webhook, token)
        if held:
            return held[1]
        config: Config | None = await asyncio.shield(loading)
        return config

    def forget(self, organization_id: UUID) -> None:
        """Something changed: read again at the next use."""
        if held := self._routes.get(organization_id):
            # Kept to be compared with what comes next; Redis may hold the same old one, so it is not asked.
            self._routes.put(organization_id, _Held(0.0, held.route, doubtful=True), KEPT_S)
        self._forget_configs(organization_id)

    def _forget_configs(self, organization_id: UUID) -> None:
        self._all_configs.drop(organization_id)
        self._webhooks.drop_where(lambda held: held[1].organization_id == organization_id)
        self.accounts.forget(organization_id)

    async def configs(self, organization_id: UUID) -> list[Config]:
        """The organization's configs, oldest first; one that cannot be used can do nothing, in the state `error`."""
        async with self._database.organization(organization_id) as connection:
            rows = await configs.of_organization(connection, organization_id)
        return [self.accounts.known(row) for row in rows]

    async def config(self, organization_id: UUID, config_id: UUID) -> Config | None:
        """One config of the organization, active or not; None where it has no such one."""
        return next((config for config in await self.configs(organization_id) if config.id == config_id), None)

    async def receiver(self, organization_id: UUID, config_id: UUID) -> Config | None:
        """What received webhooks: a config of the organization, or of the platform an app."""
        if organization_id != PLATFORM_ID:
            return await self.config(organization_id, config_id)
        async with self._database.worker() as connection:
            rows = await apps.every_one(connection)
        return next((self.accounts.known(row) for row in rows if row["id"] == config_id), None)

    async def siblings(self, config: Config) -> list[Config]:
        """The organization's other configs of the same provider, as they were at most CACHE_S ago.

        One app's webhook may serve several of them.
        """
        held = self._all_configs.get(config.organization_id)
        if held is None:
            held = await self.configs(config.organization_id)
            self._all_configs.put(config.organization_id, held, CACHE_S)
        return [other for other in held if other.id != config.id and other.provider_type == config.provider_type]

    async def fallbacks(self, organization_id: UUID) -> tuple[int, list[UUID], FallbackPolicy]:
        """The version, the order after the active config (also where there is none), the policy. Raises `NotFound`."""
        async with self._database.organization(organization_id) as connection:
            row = await configs.fallbacks(connection, organization_id)
        if row is None:
            raise NotFound
        return row["version"], row["wanted"], _policy(row["policy"])

    async def current(self, organization_id: UUID) -> tuple[Route, ProviderStatus | None]:
        """The organization's route, and what its active provider last said of the account."""
        route = await self.route(organization_id)
        if not route.order:
            return route, None
        if isinstance(provider := route.order[0].provider, MissingPlugin):
            return route, provider.status
        session = await self._redis.session(organization_id, route.version)
        if session is None:  # lost, or of another version: the database has it, and Redis gets it back
            async with self._database.organization(organization_id) as connection:
                session = await configs.session(connection, organization_id, route.order[0].id)
            await self._remember(organization_id, route, session or b"null")
        try:
            return route, msgspec.json.decode(session or b"null", type=ProviderStatus | None)
        except msgspec.MsgspecError:
            return route, None

    async def check(self) -> None:
        """Raise `VaultError` where the keys do not open what was stored last, `StoreUnavailable`."""
        async with self._database.worker() as connection:
            if (row := await configs.newest(connection)) is None:
                return await audit.check_keys(connection, self.accounts.vault)
        self.accounts.data(row)

    # -- changing

    async def test(self, organization_id: UUID, target: UUID | NewConfig) -> tuple[list[Check], str | None]:
        """Every check of a config or configuration, and the address that its webhooks must be posted to, if it has one.

        Where the provider does not answer, that is a check that failed. Nothing is saved, but for the probe's webhook.
        Raises `InvalidConfiguration`, `NotFound`.
        """
        if isinstance(target, NewConfig):
            provider = self.accounts.validate(target.provider_type, target.config_data)
            checks = await self._checks(organization_id, provider)
            if all(check.name != "webhook" for check in checks):
                detail = f"saving it makes an address below {self.origin}, and has the provider post there"
                checks += [Check(name="webhook", passed=True, detail=detail, fatal=False, checkable=False)]
            return checks, None
        async with self._database.organization(organization_id) as connection:
            row = await configs.by_id(connection, organization_id, target)
        if row is None:
            raise NotFound
        config = self.accounts.known(row).usable()
        checks, probe = await asyncio.gather(
            self._checks(organization_id, config.provider, config.callback_url),
            self.accounts.probe(config.provider, config.callback_url),
        )
        return [*checks, probe], config.callback_url

    async def _checks(
        self, organization_id: UUID, provider: WhatsAppProvider, callback_url: str | None = None
    ) -> list[Check]:
        try:
            checks = await self.accounts.checks(provider, callback_url)
            if all(check.passed for check in checks if check.fatal):
                checks += await self.ownership.check(organization_id, provider, checks)
            return checks
        except TestFailed as error:
            return [Check(name="account", passed=False, detail=str(error), fix=WHAT_TO_DO["account_restricted"])]
        except ProviderUnreachable as error:
            return [Check(name="provider", passed=False, detail=str(error), fix=WHAT_TO_DO["unreachable"])]

    async def configure(self, organization_id: UUID, actor: Actor, new: NewConfig, *, activate: bool) -> Switched:
        """Validate, test, save, set up and (where asked) activate a config.

        Raises `ChangeRefused` in its kinds; then the former one is in force, and ``saved_as`` says whether it is saved.
        """
        if activate:
            return await self.set_provider(organization_id, actor, new)
        provider = self.accounts.validate(new.provider_type, new.config_data)
        tested, status = await self.accounts.test(provider)
        config, token = self.accounts.made(organization_id, new, provider, status)
        async with self._database.exclusive(organization_id) as exclusive, exclusive.transaction() as connection:
            await check_quota(connection, organization_id)
            version = await save(connection, self.accounts, self.ownership, actor, new, config, token, status)
            await self.ownership.claim(connection, organization_id, provider, tested)
        checks = await self.accounts.set_up(provider, config.callback_url)
        return Switched(config, version, None, checks, changed=False)

    async def set_provider(self, organization_id: UUID, actor: Actor, new: NewConfig) -> Switched:
        """Make a new config the active one, as `configure`."""
        return await self.switch(organization_id, new, actor)

    async def set_fallbacks(
        self, organization_id: UUID, config_ids: Sequence[UUID], policy: FallbackPolicy | None, actor: Actor
    ) -> tuple[int, list[UUID], FallbackPolicy]:
        """Set the fallback order: the new version, the order, which leaves out the active config, and the policy.

        Without *policy* it stays as it is.

        Raises `NotFound` for a config that is not the organization's.
        """
        wanted = msgspec.json.encode(policy) if policy else None
        async with self._database.exclusive(organization_id) as exclusive, exclusive.transaction() as connection:
            change = await configs.set_fallbacks(connection, organization_id, list(config_ids), wanted)
            if change is None:
                raise NotFound
            version: int = change["version"]
            await audit.record(
                connection,
                self.accounts.vault,
                organization_id,
                actor,
                "fallback_changed",
                version=version,
                before={"fallback_config_ids": change["former"], "policy": _policy(change["former_policy"])},
                after={"fallback_config_ids": change["wanted"], "policy": _policy(change["policy"])},
            )
            await switches.notify(connection, organization_id, CHANNEL, version)
        await self._announce(organization_id, version)
        return version, change["wanted"], _policy(change["policy"])

    async def edit(
        self, organization_id: UUID, config_id: UUID, actor: Actor, *, name: str | None, changes: Mapping[str, Any]
    ) -> tuple[Config, int, list[Check]]:
        """Change fields of a config, None taking one out: it as it is now, the version, the checks.

        What comes out is validated, tested and set up as a new one is. Raises `InvalidConfiguration`, `NotFound` or
        `ProviderUnreachable`; then nothing was changed.
        """
        async with self._database.exclusive(organization_id) as exclusive:
            async with exclusive.transaction() as connection:
                row = await configs.by_id(connection, organization_id, config_id)
            if row is None:
                raise NotFound
            former = self.accounts.known(row).usable()
            data = msgspec.json.decode(self.accounts.data(row))
            data = {field: value for field, value in {**data, **changes}.items() if value is not None}
            provider = self.accounts.validate(row["provider_type"], data)
            self.accounts.check_secrets(former.provider, provider, changes)
            url = provider.callback_url(self.accounts.webhook_url(row["provider_type"], self.accounts.token(row)))
            checks, status = await self.accounts.test(provider, url) if changes else ([], None)
            async with exclusive.transaction() as connection:
                version = await configs.edit(
                    connection,
                    organization_id,
                    config_id,
                    name=name or row["name"],
                    config_data=self.accounts.vault.seal(
                        msgspec.json.encode(data), str(organization_id), str(config_id), "config_data"
                    ),
                    sender=sender_of(provider, status) or row["sender"],
                    session=msgspec.json.encode(status) if changes else None,
                    accounts=provider.accounts,
                    signing_keys=self.ownership.signing_keys(provider),
                )
                if changes:
                    await self.ownership.claim(connection, organization_id, provider, checks)
                await owners.release(connection, organization_id, row["provider_type"], row["accounts"])
                edited = await configs.by_id(connection, organization_id, config_id)
                assert edited is not None
                await audit.record(
                    connection,
                    self.accounts.vault,
                    organization_id,
                    actor,
                    "edited",
                    config_id=config_id,
                    version=version,
                    before={"name": row["name"], "state": row["state"]} | self.accounts.masked(former.provider),
                    after={"name": edited["name"], "state": edited["state"]} | self.accounts.masked(provider),
                )
                await switches.notify(connection, organization_id, CHANNEL, version)
        await self._announce(organization_id, version)
        if changes:  # now that its provider's handshake is answered with what was edited
            checks = await self.accounts.set_up(provider, url)
        return self.accounts.known(edited), version, checks

    async def remove(self, organization_id: UUID, config_id: UUID, actor: Actor) -> None:
        """Delete a config with its credentials; its webhook address ends. Raises `NotFound`, `InUse`, `WebhooksUnread`.

        A fallback leaves the order; the former one is none to return to any more; a switch to it that waits for a phone
        is undone. Its provider is told to post no more
        webhooks here, unless another config is of the same account, whose messages these are too.
        """
        async with self._database.exclusive(organization_id) as exclusive:
            await self._undoing.restore(exclusive, organization_id)
            async with self._undoing.superseding(exclusive, organization_id, config_id) as (connection, _):
                row = await configs.by_id(connection, organization_id, config_id)
                if row is None:
                    raise NotFound
                if await unread.is_waiting(connection, organization_id, config_id):
                    raise WebhooksUnread
                version = await configs.remove(connection, organization_id, config_id)
                if version is None:
                    raise InUse("The active config cannot be deleted. Switch to another one first.")
                await owners.release(connection, organization_id, row["provider_type"], row["accounts"])
                config = self.accounts.open(row)
                await audit.record(
                    connection,
                    self.accounts.vault,
                    organization_id,
                    actor,
                    "removed",
                    config_id=config_id,
                    version=version,
                    before={"name": row["name"], "state": row["state"]}
                    | (self.accounts.masked(config.provider) if config else {}),
                )
                await switches.notify(connection, organization_id, CHANNEL, version)
        await self._announce(organization_id, version)
        if config is not None:
            self.accounts.forget(organization_id)
            async with self._database.worker() as connection:
                shared = await configs.is_shared(
                    connection, organization_id, config_id, row["provider_type"], row["sender"]
                )
            if not shared:
                await self.accounts.disconnect(config)

    def masked(self, provider: WhatsAppProvider) -> dict[str, Any]:
        """The configuration with every secret replaced by its fingerprint: all that ever leaves the service."""
        return self.accounts.masked(provider)

    # -- inside

    async def _once(self, key: object, load: Any, *arguments: Any) -> Any:
        """One loading at a time for *key*: a burst of requests asks the database once."""
        return await asyncio.shield(self._load(key, load, *arguments))

    def _load(self, key: object, load: Any, *arguments: Any) -> "asyncio.Task[Any]":
        task = self._loading.get(key)
        if task is None:

            def loaded(done: "asyncio.Task[Any]") -> None:
                self._loading.pop(key, None)
                if not done.cancelled():
                    done.exception()  # nobody need be waiting; that is no unhandled error

            task = self._loading[key] = asyncio.create_task(load(*arguments))
            task.add_done_callback(loaded)
        return task

    async def _load_route(self, organization_id: UUID, fresh: bool, source: str) -> Route:
        held = self._routes.get(organization_id)
        # Redis is believed where it says that nothing has changed. Anything else it may have from long ago: the
        # database knows better, and mends it. Who would not hear of a change from the database believes nobody.
        if (
            not fresh
            and held
            and self._listening
            and not held.doubtful
            and await self._confirmed(organization_id, held.route)
            and self._routes.get(organization_id) is held  # nobody has read, or heard of, anything newer meanwhile
        ):
            self._routes.put(organization_id, _Held(monotonic() + CACHE_S, held.route), KEPT_S)
            return held.route
        async with self._database.worker() as connection:
            rows = await configs.route(connection, organization_id)
        order = tuple(self.accounts.known(row) for row in rows if row["id"])
        policy = _policy(rows[0]["fallback_policy"] if rows else None)
        route = Route(rows[0]["version"] if rows else 0, order, policy)
        now_held, was = self._routes.get(organization_id), held and held.route
        # A late answer never brings an old version back. But who asks for a fresh one was refused by the database
        # itself: where nothing was read since, its version may be the lower one, after a restore.
        if (
            now_held is not None
            and now_held is not held
            and now_held.route.version >= route.version
            and not (fresh and now_held.route is was)
        ):
            return now_held.route
        if now_held is not None and rows:
            self._flip(now_held.route, route, rows[0]["version_at"], source)
        self._routes.put(organization_id, _Held(monotonic() + CACHE_S, route), KEPT_S)
        if route.order:  # last: sends go the new way here, however long Redis takes
            await self._remember(organization_id, route, rows[0]["session"] or b"null")
        return route

    async def _confirmed(self, organization_id: UUID, route: Route) -> bool:
        """Whether Redis has exactly this, and plug-ins are as they were; the fence catches it where both are stale."""
        value = await self._redis.active(organization_id)
        try:
            active = msgspec.json.decode(value, type=_Active) if value else None
        except msgspec.MsgspecError:
            return False
        return active is not None and active == _active(route) and all(map(self.accounts.is_current, route.order))

    def _flip(self, former: Route, route: Route, at: datetime, source: str) -> None:
        """From here on this process sends the new way: measure how long the news took, and what is still under way."""
        if route.version <= former.version:
            return
        metrics.propagation_seconds.labels(source).observe(max(0.0, (datetime.now(UTC) - at).total_seconds()))
        was, now = (each.order[0].id if each.order else None for each in (former, route))
        if was is not None and was != now:
            self.in_flight.left(was)
        if now is not None:
            self.in_flight.taken_up(now)
        for config in _renewed(former, route):
            self.renewed(config.id)

    async def _remember(self, organization_id: UUID, route: Route, session: bytes) -> None:
        await self._redis.set_active(organization_id, route.version, msgspec.json.encode(_active(route)), session)

    async def _load_webhook(self, token: str) -> Config | None:
        digest = token_hash(token)
        by_token = apps.by_token if token.startswith(APP_PATH) else configs.by_token
        async with self._database.lookup() as connection:
            row = await by_token(connection, digest)
        if row is None:
            self._webhooks.drop(token)
            self._unknown_tokens.put(digest, True, CACHE_S)
            return None
        config = self.accounts.open(row)
        if config is None:
            raise StoreUnavailable("the config cannot be opened")
        self._webhooks.put(token, (monotonic() + CACHE_S, config), CACHE_S + STALE_S)
        return config

    async def _announce(self, organization_id: UUID, version: int) -> None:
        """After a commit: use it here at once, and tell the others, who would notice within a second anyway."""
        await self._take_up(organization_id, version, "here")
        await self._redis.notify("provider", organization_id, version)
        await self._redis.notify("events", organization_id)

    async def _take_up(self, organization_id: UUID, version: int, source: str) -> None:
        held = self._routes.get(organization_id)
        try:
            # In the process that made the change the database's notification may have been faster.
            if held is None or held.doubtful or held.route.version < version:
                self.forget(organization_id)
                # A loading that was under way may have begun before the commit; the one after it has not.
                for _ in range(2):
                    if (await self.route(organization_id, fresh=True, source=source)).version >= version:
                        break
            if self.after_change is not None:
                await self.after_change()
        except StoreUnavailable:
            logger.warning("the database is away; a change is committed, and used when it is back")


class _Active(msgspec.Struct, omit_defaults=True):
    """What Redis holds of an organization's route."""

    version: int
    provider: str
    order: list[UUID]
    policy: FallbackPolicy = DEFAULT_POLICY


def _renewed(former: Route, route: Route) -> list[Config]:
    """The configs that were switched to since *former*, or edited: after a test, but for a switch that was forced."""
    were = {config.id: config for config in former.order}
    # The active config is another object only after these two, also where it was left and returned to in between. A
    # fallback is one after a switch that left it, or that failed, too.
    return [
        config
        for place, config in enumerate(route.order)
        if config is not (was := were.get(config.id)) and (place == 0 or (was and was.provider != config.provider))
    ]


def _policy(stored: bytes | None) -> FallbackPolicy:
    return msgspec.json.decode(stored, type=FallbackPolicy) if stored else DEFAULT_POLICY


def _active(route: Route) -> _Active | None:
    """None: nothing that Redis would be told."""
    if not route.order:
        return None
    order = [config.id for config in route.order]
    return _Active(route.version, route.order[0].provider_type, order, route.policy)
