"""What this process knows of organizations: what each sends through, and whose a webhook address is.

While the database notifies this process of changes, what was read is good until one (ingress/storage/changes.py), and
for a second while it does not. Whatever is remembered, the version fence refuses a send that was begun with a route
from before a change.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import UUID

import msgspec

from .. import metrics
from ..accounts.accounts import APP_PATH, Accounts
from ..accounts.config import Config
from ..cache import Cache
from ..storage.database import Database, StoreUnavailable
from ..storage.redis_state import RedisState
from ..storage.statements import apps, configs
from ..storage.statements.configs import StoredConfig
from ..storage.vault import token_hash
from .confirmations import Confirmations
from .in_flight import InFlight
from .policy import DEFAULT_POLICY, FallbackPolicy, stored_policy

logger = logging.getLogger("ingress.switching.routes")

# While nobody says what has changed.
CACHE_S = 1.0
# A webhook's config is served this much longer while it is read again: receiving does not wait for a busy database.
STALE_S = 3.0
MAX_UNKNOWN_TOKENS = 10_000
# Organizations, and addresses of webhooks, that are remembered. What nobody used for so long is read anew.
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


class _Held(msgspec.Struct, frozen=True):
    """A route as this process last read it, or was notified that it is so still; ``is_shared``: Redis has it, too."""

    read_at: float
    route: Route
    is_shared: bool


class _Active(msgspec.Struct, omit_defaults=True):
    """What Redis holds of an organization's route."""

    version: int
    provider: str
    order: list[UUID]
    policy: FallbackPolicy = DEFAULT_POLICY


class Routes:
    """Routes and webhook addresses, read once for all who ask at the same time."""

    def __init__(self, database: Database, redis: RedisState, accounts: Accounts, in_flight: InFlight) -> None:
        self._database = database
        self._redis = redis
        self._accounts = accounts
        self._in_flight = in_flight
        self._changes = database.changes
        # Each with when the reading began.
        self._routes: Cache[UUID, _Held] = Cache(KEPT)
        self._configs: Cache[UUID, tuple[float, list[Config]]] = Cache(KEPT)
        self._webhooks: Cache[str, tuple[float, Config]] = Cache(KEPT)
        self._tokens: Cache[UUID, set[str]] = Cache(KEPT)  # of the webhooks of an organization
        self._unknown_tokens: Cache[bytes, bool] = Cache(MAX_UNKNOWN_TOKENS)
        self._confirmations = Confirmations(database)
        self._confirmed: Cache[UUID, int] = Cache(KEPT)  # versions, lately
        # The highest version that we were notified of, and when we last were of a change that names none.
        self._awaited: Cache[UUID, tuple[int, float]] = Cache(KEPT)
        self._loading: dict[object, asyncio.Task[Any]] = {}
        # Awaited when a change of an organization is taken up: what else in this process depends on it.
        self.after_change: Callable[[], Awaitable[None]] | None = None
        # Called with each config that was switched to, or edited: what its calls did before counts no more.
        self.renewed: Callable[[UUID], None] = lambda config_id: None

    # -- what an organization sends through

    def known_route(self, organization_id: UUID) -> Route | None:
        """The organization's route, if it is known."""
        held = self._routes.get(organization_id)
        if held is None or not self._changes.is_good(organization_id, held.read_at, CACHE_S):
            return None
        return held.route if monotonic() < held.read_at + CACHE_S or self._lasts(held) else None

    def _lasts(self, held: _Held) -> bool:
        """Whether it is good until a change. Of plug-ins that come and go, and of Redis' return, nobody notifies us."""
        return held.is_shared and all(map(self._accounts.is_current, held.route.order))

    async def route(self, organization_id: UUID, *, fresh: bool = False, source: str = "read") -> Route:
        """The organization's route: this process's, else Redis's, else the database's. Raises `StoreUnavailable`.

        With *fresh* the database's: what the fence refused must not come from a cache again. *source* is how we came
        to look, for the metric of how long a change takes to get here.
        """
        if not fresh and (known := self.known_route(organization_id)):
            return known
        key = ("route", organization_id, fresh)
        route: Route = await asyncio.shield(self._load(key, self._load_route, organization_id, fresh, source))
        return route

    async def _load_route(self, organization_id: UUID, fresh: bool, source: str) -> Route:
        held, began = self._routes.get(organization_id), monotonic()
        if not fresh and held and await self._is_confirmed(organization_id, held):
            self._hold(organization_id, held.route, began, is_shared=True)
            return held.route
        async with self._database.worker() as connection:
            stored = await configs.route(connection, organization_id)
        order = tuple(self._accounts.known(row) for row in stored.configs)
        route = Route(stored.version, order, stored_policy(stored.fallback_policy))
        now_held = self._routes.get(organization_id)
        if now_held is not None:
            # A late answer never brings an old version back. But who asks for a fresh one was refused by the database
            # itself: where nothing was read since, its version may be the lower one, after a restore.
            was_refused = fresh and held is not None and now_held.route is held.route
            if now_held is not held and now_held.route.version >= route.version and not was_refused:
                return now_held.route
            self._flip(now_held.route, route, stored.version_at, source)
        self._hold(organization_id, route, began, is_shared=not order)
        if order:  # last: sends go the new way here, however long Redis takes
            is_shared = await self.remember(organization_id, route, stored.configs[0].session)
            now_held = self._routes.get(organization_id)
            if is_shared and now_held is not None and now_held.route is route:
                self._hold(organization_id, route, now_held.read_at, is_shared=True)
        return route

    def _hold(self, organization_id: UUID, route: Route, began: float, *, is_shared: bool) -> None:
        awaited = self._awaited.get(organization_id)
        if awaited is not None and route.version >= awaited[0] and began > awaited[1]:
            began = monotonic()  # what we were notified of while it was read is in it
        self._routes.put(organization_id, _Held(began, route, is_shared), KEPT_S)
        self._changes.follow(organization_id)

    async def _is_confirmed(self, organization_id: UUID, held: _Held) -> bool:
        """Whether Redis has exactly this, and plug-ins are as they were; the fence catches it where both are stale.

        Redis is believed where it says that nothing has changed. Anything else it may have from long ago: the database
        knows better, and mends it. A process that the database does not notify believes nobody.
        """
        if not self._changes.is_notified or self._changes.since(organization_id, held.read_at):
            return False
        value = await self._redis.active(organization_id)
        try:
            active = msgspec.json.decode(value, type=_Active) if value else None
        except msgspec.MsgspecError:
            return False
        return (
            active is not None
            and active == _active(held.route)
            and all(map(self._accounts.is_current, held.route.order))
            and self._routes.get(organization_id) is held  # nobody has read, or was notified of, anything newer since
        )

    def _flip(self, former: Route, route: Route, at: datetime, source: str) -> None:
        """From here on this process sends the new way: measure how long that took, and what is still under way."""
        if route.version <= former.version:
            return
        metrics.propagation_seconds.labels(source).observe(max(0.0, (datetime.now(UTC) - at).total_seconds()))
        self._in_flight.flip(*(each.order[0].id if each.order else None for each in (former, route)))
        for config in _renewed(former, route):
            self.renewed(config.id)

    async def remember(self, organization_id: UUID, route: Route, session: bytes | None) -> bool:
        """Have Redis hold a route, and the last status of its active account, as JSON; False: it is away."""
        active = msgspec.json.encode(_active(route))
        return await self._redis.set_active(organization_id, route.version, active, session or b"null")

    # -- changes

    async def announce(self, organization_id: UUID, version: int) -> None:
        """After a commit: use it here and in Redis at once; others, notified, notice within a second anyway."""
        if (taking_up := self._changed(organization_id, version, "here")) is not None:
            await asyncio.shield(taking_up)
        await self._redis.notify("provider", organization_id, version)
        await self._redis.notify("events", organization_id)

    def notified(self, organization_id: UUID, version: int, source: str) -> None:
        """The organization is at *version* (0: who notifies does not say). An old version changes nothing."""
        self._accounts.forget(organization_id)  # some of its credentials may not be needed any more
        taking_up = self._changed(organization_id, version, source)
        if source != "notify" or version <= (self._confirmed.get(organization_id) or 0):
            return  # every process is notified by the database, which counts those that are
        if taking_up is None:
            self._confirm(organization_id, version)
        else:
            taking_up.add_done_callback(lambda _: self._confirm(organization_id, version))

    def _confirm(self, organization_id: UUID, version: int) -> None:
        """Confirm that *version* is used here, unless an older one is held still."""
        held = self._routes.get(organization_id)
        if held is None or held.route.version >= version:
            self._confirmed.put(organization_id, version, KEPT_S)
            self._confirmations.add(organization_id, version)

    def _changed(self, organization_id: UUID, version: int, source: str) -> "asyncio.Task[Any] | None":
        """From now on nothing older is used; what takes it up, if anything has to."""
        held = self._routes.get(organization_id)
        if held is not None and version and held.route.version >= version:
            self._forget_configs(organization_id)  # one that nothing is sent through may have been edited or deleted
            self._hold(organization_id, held.route, monotonic(), is_shared=held.is_shared)
            return None
        self._await(organization_id, version)
        self._forget_configs(organization_id)
        if held is None and source != "here":
            return None
        # In use here: have it at hand before it is needed.
        return self._load(("notified", organization_id, version), self._take_up, organization_id, version, source)

    def _await(self, organization_id: UUID, version: int) -> None:
        highest, unnamed_at = self._awaited.get(organization_id) or (0, 0.0)
        unnamed_at = unnamed_at if version else monotonic()
        self._awaited.put(organization_id, (max(highest, version), unnamed_at), KEPT_S)

    async def _take_up(self, organization_id: UUID, version: int, source: str) -> None:
        try:
            # A loading that was under way may have begun before the commit; the one after it has not.
            for _ in range(2):
                if (await self.route(organization_id, fresh=True, source=source)).version >= version:
                    break
            if self.after_change is not None:
                await self.after_change()
        except StoreUnavailable:
            logger.warning("the database is away; a change is committed, and used when it is back")

    def forget(self, organization_id: UUID) -> None:
        """Something changed: read again at the next use."""
        self._accounts.forget(organization_id)
        self._await(organization_id, 0)
        self._forget_configs(organization_id)

    def _forget_configs(self, organization_id: UUID) -> None:
        """A route is kept to be compared with what comes next; it is not used."""
        self._changes.add(organization_id)
        self._configs.drop(organization_id)
        for token in self._tokens.get(organization_id) or ():
            self._webhooks.drop(token)
        self._tokens.drop(organization_id)

    def forget_all(self) -> None:
        """Read everything again at its next use."""
        self._changes.add_all()
        self._awaited.clear()
        self._configs.clear()
        self._webhooks.clear()
        self._tokens.clear()
        self._accounts.forget_all()

    # -- configs

    async def configs(self, organization_id: UUID) -> list[Config]:
        """The organization's configs, oldest first; one that cannot be used can do nothing, in the state `error`."""
        async with self._database.organization(organization_id) as connection:
            rows = await configs.of_organization(connection, organization_id)
        return [self._accounts.known(row) for row in rows]

    async def siblings(self, config: Config) -> list[Config]:
        """The organization's other configs of the same provider: one app's webhook may serve several of them."""
        organization_id, began = config.organization_id, monotonic()
        held = self._configs.get(organization_id)
        if held is None or not self._changes.is_good(organization_id, held[0], CACHE_S):
            held = began, await self.configs(organization_id)
            self._configs.put(organization_id, held, KEPT_S)
            self._changes.follow(organization_id)
        return [other for other in held[1] if other.id != config.id and other.provider_type == config.provider_type]

    def known_config_of_webhook(self, token: str) -> Config | None:
        """The config whose webhook address ends in *token*, if it is known."""
        held = self._webhooks.get(token)
        return held[1] if held and self._changes.is_good(held[1].organization_id, held[0], CACHE_S) else None

    async def config_of_webhook(self, token: str) -> Config | None:
        """The config whose webhook address ends in *token*; for STALE_S more than it is known while it is read again.

        Raises `StoreUnavailable`, also where the config is there and cannot be opened: its webhooks shall come again.
        """
        if (known := self.known_config_of_webhook(token)) is not None:
            return known
        held = self._webhooks.get(token)
        if held is None and self._unknown_tokens.get(token_hash(token)):
            return None
        loading = self._load(("webhook", token), self._load_webhook, token)
        if held and self._changes.is_good(held[1].organization_id, held[0], CACHE_S, STALE_S):
            return held[1]
        config: Config | None = await asyncio.shield(loading)
        return config

    async def _load_webhook(self, token: str) -> Config | None:
        digest, began = token_hash(token), monotonic()
        row = await self._webhook_row(token, digest)
        if row is None:
            self._webhooks.drop(token)
            self._unknown_tokens.put(digest, True, CACHE_S)
            return None
        config = self._accounts.open(row)
        if config is None:
            raise StoreUnavailable("the config cannot be opened")
        self._keep_webhook(token, config, began)
        return config

    def _keep_webhook(self, token: str, config: Config, began: float) -> None:
        organization_id = config.organization_id
        self._webhooks.put(token, (began, config), KEPT_S)
        self._tokens.put(organization_id, {*(self._tokens.get(organization_id) or ()), token}, KEPT_S)
        self._changes.follow(organization_id)

    async def _webhook_row(self, token: str, digest: bytes) -> StoredConfig | None:
        by_token = apps.by_token if token.startswith(APP_PATH) else configs.by_token
        async with self._database.lookup() as connection:
            return await by_token(connection, digest)

    def _load(self, key: object, load: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> "asyncio.Task[Any]":
        """One loading at a time for *key*: a burst of requests asks the database once."""
        task = self._loading.get(key)
        if task is None:

            def loaded(done: "asyncio.Task[Any]") -> None:
                self._loading.pop(key, None)
                if not done.cancelled():
                    done.exception()  # nobody need be waiting; that is no unhandled error

            task = self._loading[key] = asyncio.create_task(load(*arguments))
            task.add_done_callback(loaded)
        return task


def _renewed(former: Route, route: Route) -> list[Config]:
    """The configs that were switched to since *former*, edited or added: tested, but by a switch that was forced."""
    were = {config.id: config for config in former.order}

    def is_renewed(place: int, config: Config) -> bool:
        was = were.get(config.id)
        # One that becomes a fallback may have been edited before. One that stays one also changes with a switch that
        # left it, or that failed; the active one only by these two, also where it was left and returned to in between.
        return was is None or (was.updated_at != config.updated_at and (place == 0 or was.provider != config.provider))

    return [config for place, config in enumerate(route.order) if is_renewed(place, config)]


def _active(route: Route) -> _Active | None:
    """None: nothing that Redis would hold."""
    if not route.order:
        return None
    order = [config.id for config in route.order]
    return _Active(route.version, route.order[0].provider_type, order, route.policy)
