"""WhatsAppProviderManager: which provider an organization uses, and every change of it.

A config is `configured` when it is saved, `active` while the organization sends through it, `inactive` when
another took its place (its webhook stays open), `error` when its provider refused it. The organization's
`version` goes up with each change of the active config or the fallback order, in the transaction that makes the
change and its audit row.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from providers import (
    Check,
    ProviderStatus,
    Registry,
    SendError,
    Unavailable,
    Uncertain,
    UnknownProvider,
    WhatsAppProvider,
)
from providers.base import config_fields

from . import identifiers, metrics
from .calls import Caller
from .database import Database, StoreUnavailable
from .edge import path_of
from .egress import Egress, InvalidUrl
from .envelope import own_event
from .policy import DEFAULT_POLICY, FallbackPolicy
from .redis_state import RedisState
from .storage import configs, events
from .vault import Vault, VaultError, new_webhook_token, token_hash

logger = logging.getLogger("ingress.manager")

CACHE_S = 1.0
# A webhook's config is served this much longer while it is read again: receiving does not wait for a busy database.
STALE_S = 3.0
MAX_UNKNOWN_TOKENS = 10_000
TEST_TIMEOUT_S = 8.0


class NotFound(Exception):
    """There is no such thing in this organization, or anywhere."""


class InvalidConfiguration(Exception):
    """The configuration cannot be used; ``errors`` are (path, what is wrong) pairs."""

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = (), checks: Sequence[Check] = ()) -> None:
        super().__init__(detail)
        self.errors = errors
        self.checks = checks


class ProviderUnreachable(Exception):
    """The provider did not answer the test: says nothing about the configuration."""


class Actor(NamedTuple):
    """Who makes a change, for the audit trail."""

    name: str
    address: str | None = None


class Config(msgspec.Struct, frozen=True):
    """One organization's account at a provider, ready to use."""

    organization_id: UUID
    id: UUID
    provider_type: str
    name: str
    state: str
    sender: str | None
    provider: WhatsAppProvider
    callback_url: str  # where its provider reaches us, as the provider is to be given it

    def __repr__(self) -> str:
        return f"Config({self.id})"


class Route(msgspec.Struct, frozen=True):
    """How an organization sends at ``version``: through ``order`` from left to right.

    Empty: not configured, or the active config cannot be opened, which no fallback may hide.
    """

    version: int
    order: tuple[Config, ...]
    policy: FallbackPolicy = DEFAULT_POLICY


class WhatsAppProviderManager:
    """The registry of plug-ins, and the configs of every organization."""

    def __init__(
        self,
        registry: Registry,
        database: Database,
        redis: RedisState,
        vault: Vault,
        caller: Caller,
        egress: Egress,
        origin: str,
    ) -> None:
        self.registry = registry
        self._database = database
        self._redis = redis
        self._vault = vault
        self._caller = caller
        self._egress = egress
        self.origin = origin
        self._routes: dict[UUID, tuple[float, Route]] = {}
        self._all_configs: dict[UUID, tuple[float, list[Config]]] = {}
        self._webhooks: dict[str, tuple[float, Config]] = {}
        self._unknown_tokens: dict[bytes, float] = {}
        self._configs: dict[tuple[UUID, UUID], tuple[datetime, Config]] = {}
        self._loading: dict[object, asyncio.Task[Any]] = {}

    # -- reading

    def known_route(self, organization_id: UUID) -> Route | None:
        """The organization's route if it was read less than a second ago."""
        held = self._routes.get(organization_id)
        return held[1] if held and held[0] > monotonic() else None

    async def route(self, organization_id: UUID, *, fresh: bool = False) -> Route:
        """The organization's route: this process's, else Redis's, else the database's. Raises `StoreUnavailable`.

        With *fresh* the database's: what the fence refused must not come from a cache again.
        """
        if not fresh and (known := self.known_route(organization_id)):
            return known
        route: Route = await self._once(("route", organization_id, fresh), self._load_route, organization_id, fresh)
        return route

    def known_config_of_webhook(self, token: str) -> Config | None:
        """The config whose webhook address ends in *token*, if it was read less than CACHE_S ago."""
        held = self._webhooks.get(token)
        return held[1] if held and held[0] > monotonic() else None

    async def config_of_webhook(self, token: str) -> Config | None:
        """The config whose webhook address ends in *token*, as it was at most CACHE_S + STALE_S ago.

        Raises `StoreUnavailable`, also where the config is there and cannot be opened: its webhooks shall come again.
        """
        held = self._webhooks.get(token)
        now = monotonic()
        if held and held[0] > now:
            return held[1]
        if held is None and self._unknown_tokens.get(token_hash(token), 0.0) > now:
            return None
        loading = self._load(("webhook", token), self._load_webhook, token)
        if held and held[0] + STALE_S > now:
            return held[1]
        config: Config | None = await asyncio.shield(loading)
        return config

    def forget(self, organization_id: UUID) -> None:
        """Something changed: read again at the next use."""
        self._routes.pop(organization_id, None)
        self._all_configs.pop(organization_id, None)
        self._webhooks = {
            token: held for token, held in self._webhooks.items() if held[1].organization_id != organization_id
        }

    async def configs(self, organization_id: UUID) -> list[Config]:
        """The organization's configs, oldest first."""
        async with self._database.organization(organization_id) as connection:
            rows = await configs.of_organization(connection, organization_id)
        return [config for row in rows if (config := self._opened(row)) is not None]

    async def config(self, organization_id: UUID, config_id: UUID) -> Config | None:
        """One config of the organization, active or not; None where it has no such one, or it cannot be opened."""
        return next((config for config in await self.configs(organization_id) if config.id == config_id), None)

    async def siblings(self, config: Config) -> list[Config]:
        """The organization's other configs of the same provider, as they were at most CACHE_S ago.

        One app's webhook may serve several of them.
        """
        held = self._all_configs.get(config.organization_id)
        if held is None or held[0] < monotonic():
            held = (monotonic() + CACHE_S, await self.configs(config.organization_id))
            self._all_configs[config.organization_id] = held
        return [other for other in held[1] if other.id != config.id and other.provider_type == config.provider_type]

    def webhook_url(self, provider_type: str, token: str) -> str:
        return f"{self.origin}/webhooks/{provider_type}/{token}"

    async def current(self, organization_id: UUID) -> tuple[Route, ProviderStatus | None]:
        """The organization's route, and what its active provider last said of the account."""
        route = await self.route(organization_id)
        if not route.order:
            return route, None
        session = await self._redis.session(organization_id)
        if session is None:  # lost, or never there: the database has it, and Redis gets it back
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
            row = await configs.newest(connection)
        if row is not None:
            self._vault.open(row["config_data"], str(row["organization_id"]), str(row["id"]), "config_data")

    # -- changing

    def validate(self, provider_type: str, config_data: Mapping[str, Any]) -> WhatsAppProvider:
        """The provider with this configuration. Raises `InvalidConfiguration` naming what is wrong."""
        try:
            kind = self.registry.get(provider_type)
        except UnknownProvider:
            known = ", ".join(entry.name for entry in self.registry.entries() if entry.state == "registered")
            raise InvalidConfiguration(
                f"there is no provider {provider_type!r}; known are {known}", [("provider_type", "unknown provider")]
            ) from None
        if unknown := sorted(set(config_data) - set(kind.__struct_fields__)):
            raise InvalidConfiguration(
                "the configuration has fields this provider does not know",
                [(f"config_data.{name}", "unknown field") for name in unknown],
            )
        try:
            provider = msgspec.convert(dict(config_data), kind)
        except msgspec.ValidationError as error:
            detail, field = path_of(error)
            raise InvalidConfiguration(
                "the configuration is not valid", [(f"config_data.{field}".rstrip("."), detail)]
            ) from None
        if base_url := config_data.get("base_url"):
            try:
                self._egress.check_url(base_url)
            except InvalidUrl as error:
                raise InvalidConfiguration(
                    "the base URL cannot be called", [("config_data.base_url", str(error))]
                ) from None
        return provider

    async def test(self, provider: WhatsAppProvider) -> list[Check]:
        """The connection test. Raises `InvalidConfiguration` where sending is impossible, `ProviderUnreachable`."""
        try:
            checks = await self._caller.run(provider.validate_config(), TEST_TIMEOUT_S)
        except (Unavailable, Uncertain) as error:
            raise ProviderUnreachable(error.detail) from error
        except SendError as error:
            raise InvalidConfiguration(error.detail or "the provider refused the configuration") from error
        if failed := [check for check in checks if check.fatal and not check.passed]:
            first = failed[0]
            raise InvalidConfiguration(
                " ".join(filter(None, [first.detail or f"the check {first.name} failed", first.fix])), checks=checks
            )
        return checks

    async def configure(
        self,
        organization_id: UUID,
        actor: Actor,
        *,
        provider_type: str,
        name: str,
        config_data: Mapping[str, Any],
        activate: bool,
    ) -> tuple[Config, int, list[Check]]:
        """Validate, test, save, set up and (where asked) activate a config: it, the version, the checks.

        Raises `InvalidConfiguration` or `ProviderUnreachable`; then nothing was saved and the former one is in force.
        """
        started = monotonic()
        provider = self.validate(provider_type, config_data)
        checks = await self.test(provider)
        status = await self._status(provider)
        token = new_webhook_token()
        config = Config(
            organization_id,
            identifiers.new_id(),
            provider_type,
            name,
            "configured",
            _sender(provider, status),
            provider,
            provider.callback_url(self.webhook_url(provider_type, token)),
        )
        async with self._database.organization(organization_id) as connection:
            version = await configs.add(
                connection,
                organization_id,
                config.id,
                provider_type=provider_type,
                name=name,
                config_data=self._seal(config, "config_data", msgspec.json.encode(config_data)),
                token_hash=token_hash(token),
                token=self._seal(config, "webhook_token", token.encode()),
                sender=config.sender,
                session=msgspec.json.encode(status),
            )
            await configs.audit(
                connection,
                organization_id,
                action="configured",
                actor=actor.name,
                address=actor.address,
                config_id=config.id,
                after=msgspec.json.encode(self.masked(provider)),
            )
        checks += await self._set_up(provider, self.webhook_url(provider_type, token))
        if activate:
            version = await self.activate(organization_id, config.id, actor)
            metrics.switch_seconds.labels("switch", "won").observe(monotonic() - started)
        return config, version, checks

    async def activate(self, organization_id: UUID, config_id: UUID, actor: Actor) -> int:
        """Make a config the active one; the new version. The former one becomes inactive and keeps receiving."""
        async with self._database.organization(organization_id) as connection:
            change = await configs.activate(connection, organization_id, config_id)
            if change is None:
                raise NotFound
            await configs.audit(
                connection,
                organization_id,
                action="activated",
                actor=actor.name,
                address=actor.address,
                config_id=config_id,
                version=change["version"],
                before=msgspec.json.encode({"active_config_id": change["former"]}),
                after=msgspec.json.encode({"active_config_id": config_id}),
            )
            news = {
                "provider": change["provider_type"],
                "version": change["version"],
                "from_config_id": change["former"],
            }
            await events.add(connection, [own_event(organization_id, config_id, "provider.switched", news)])
        version: int = change["version"]
        await self._announce(organization_id)
        return version

    async def set_fallbacks(
        self, organization_id: UUID, config_ids: Sequence[UUID], policy: FallbackPolicy | None, actor: Actor
    ) -> tuple[int, list[UUID], FallbackPolicy]:
        """Set the fallback order: the new version, the order, which leaves out the active config, and the policy.

        Without *policy* it stays as it is.

        Raises `NotFound` for a config that is not the organization's.
        """
        async with self._database.organization(organization_id) as connection:
            wanted = msgspec.json.encode(policy) if policy else None
            change = await configs.set_fallbacks(connection, organization_id, list(config_ids), wanted)
            if change is None:
                raise NotFound
            await configs.audit(
                connection,
                organization_id,
                action="fallback_changed",
                actor=actor.name,
                address=actor.address,
                version=change["version"],
                before=msgspec.json.encode(
                    {"fallback_config_ids": change["former"], "policy": _policy(change["former_policy"])}
                ),
                after=msgspec.json.encode(
                    {"fallback_config_ids": change["wanted"], "policy": _policy(change["policy"])}
                ),
            )
        version: int = change["version"]
        await self._announce(organization_id)
        return version, change["wanted"], _policy(change["policy"])

    def masked(self, provider: WhatsAppProvider) -> dict[str, Any]:
        """The configuration with every secret replaced by its fingerprint: all that ever leaves the service."""
        shown = {}
        for field in config_fields(type(provider)):
            value = getattr(provider, field.name)
            shown[field.name] = self._vault.fingerprint(value) if field.secret and value else value
        return shown

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

    async def _load_route(self, organization_id: UUID, fresh: bool) -> Route:
        route = None if fresh else await self._route_from_redis(organization_id)
        held = self._routes.get(organization_id)
        # What is older in Redis than here came back with old data, or was never told: the database mends it.
        if route is None or (held and held[1].version > route.version):
            async with self._database.worker() as connection:
                rows = await configs.route(connection, organization_id)
            order = [self._opened(row) for row in rows if row["id"]]
            # The first is the active one. Without it nothing is sent: a fallback must not take its place for good.
            usable = [config for config in order if config is not None] if order and order[0] else []
            policy = _policy(rows[0]["fallback_policy"] if rows else None)
            route = Route(rows[0]["version"] if rows else 0, tuple(usable), policy)
            if route.order:
                await self._remember(organization_id, route, rows[0]["session"] or b"null")
        held = self._routes.get(organization_id)
        # A late answer never brings an old version back. But who asks for a fresh one was refused by the database
        # itself: after a restore, its version may be the lower one.
        if not fresh and held and held[1].version > route.version:
            route = held[1]
        self._routes[organization_id] = (monotonic() + CACHE_S, route)
        return route

    async def _route_from_redis(self, organization_id: UUID) -> Route | None:
        """What Redis says, if this process has every config it names at hand; the fence catches a stale one."""
        value = await self._redis.active(organization_id)
        if value is None:
            return None
        try:
            active = msgspec.json.decode(value, type=_Active)
        except msgspec.MsgspecError:
            return None
        held = [self._configs.get((organization_id, config_id)) for config_id in active.order]
        if not held or not all(held):
            return None
        return Route(active.version, tuple(pair[1] for pair in held if pair), active.policy)

    async def _remember(self, organization_id: UUID, route: Route, session: bytes) -> None:
        order = [config.id for config in route.order]
        active = _Active(route.version, route.order[0].provider_type, order, route.policy)
        await self._redis.set_active(organization_id, route.version, msgspec.json.encode(active), session)

    async def _load_webhook(self, token: str) -> Config | None:
        digest = token_hash(token)
        async with self._database.lookup() as connection:
            row = await configs.by_token(connection, digest)
        if row is None:
            self._webhooks.pop(token, None)
            if len(self._unknown_tokens) >= MAX_UNKNOWN_TOKENS:
                self._unknown_tokens.clear()
            self._unknown_tokens[digest] = monotonic() + CACHE_S
            return None
        config = self._opened(row)
        if config is None:
            raise StoreUnavailable("the config cannot be opened")
        self._webhooks[token] = (monotonic() + CACHE_S, config)
        return config

    def _opened(self, row: asyncpg.Record) -> Config | None:
        """The config of a row. None, and a line in the log, where its plug-in is gone or the row cannot be opened."""
        place = (row["organization_id"], row["id"])
        held = self._configs.get(place)
        if held and held[0] == row["updated_at"]:
            return held[1]
        try:
            kind = self.registry.get(row["provider_type"])
        except UnknownProvider:
            logger.error("config %s needs the provider %s, which is not installed", row["id"], row["provider_type"])
            return None
        try:
            plain = self._vault.open(row["config_data"], *map(str, place), "config_data")
            token = self._vault.open(row["webhook_token"], *map(str, place), "webhook_token").decode()
            provider = msgspec.json.decode(plain, type=kind)
        except (VaultError, msgspec.MsgspecError) as error:
            # One config alone: the organization's others go on. The error's text may quote what is in it.
            logger.error("config %s cannot be opened: %s", row["id"], type(error).__name__)
            return None
        config = Config(
            row["organization_id"],
            row["id"],
            row["provider_type"],
            row["name"],
            row["state"],
            row["sender"],
            provider,
            provider.callback_url(self.webhook_url(row["provider_type"], token)),
        )
        self._configs[place] = (row["updated_at"], config)
        return config

    def _seal(self, config: Config, field: str, plain: bytes) -> bytes:
        return self._vault.seal(plain, str(config.organization_id), str(config.id), field)

    async def _status(self, provider: WhatsAppProvider) -> ProviderStatus | None:
        try:
            return await self._caller.run(provider.get_status(), TEST_TIMEOUT_S)
        except SendError as error:
            logger.warning("the provider tells no status: %s", error.code)
            return None

    async def _set_up(self, provider: WhatsAppProvider, webhook_url: str) -> list[Check]:
        """Prepare the account and point its webhooks here. Failing leaves sending possible, so it is reported only."""
        checks = []
        for name, flow in (("setup", provider.setup()), ("webhook", provider.receive_messages(webhook_url))):
            try:
                await self._caller.run(flow, TEST_TIMEOUT_S)
            except SendError as error:
                fix = "Set the webhook address at the provider by hand." if name == "webhook" else None
                checks.append(Check(name=name, passed=False, detail=error.detail or error.code, fix=fix, fatal=False))
            else:
                checks.append(Check(name=name, passed=True, fatal=False))
        return checks

    async def _announce(self, organization_id: UUID) -> None:
        """After a commit: use it here at once, and tell the others, who would notice within a second anyway."""
        self.forget(organization_id)
        try:
            await self.route(organization_id, fresh=True)
        except StoreUnavailable:
            logger.warning("the database is away; a change is committed, and used when it is back")
        await self._redis.wake("provider", organization_id)
        await self._redis.wake("events", organization_id)


class _Active(msgspec.Struct, omit_defaults=True):
    """What Redis holds of an organization's route."""

    version: int
    provider: str
    order: list[UUID]
    policy: FallbackPolicy = DEFAULT_POLICY


def _policy(stored: bytes | None) -> FallbackPolicy:
    return msgspec.json.decode(stored, type=FallbackPolicy) if stored else DEFAULT_POLICY


def _sender(provider: WhatsAppProvider, status: ProviderStatus | None) -> str | None:
    """The business number, as configured or as the provider says."""
    return provider.sender or (status.session_info.get("sender") if status else None)
