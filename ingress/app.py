"""The application: what lives as long as the process, made in one place."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from datetime import timedelta
from functools import partial
from uuid import UUID

from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from providers import Registry

from . import log, metrics
from .accounts.activity import WRITE_EVERY_S
from .accounts.config import message_keys
from .api import ApiState
from .api.audit import REFUSALS_EVERY_S, RefusedChanges
from .api.operations import Operations, Readiness, watch_lag
from .api.routes import OPERATIONS, ROUTES
from .audit.verification import verify_due
from .cache import sweep_forever
from .calls.driver import Caller
from .calls.egress import Egress
from .calls.transfers import Transfers
from .console.routes import ROUTES as CONSOLE
from .delivery.relay import Relay
from .encryption import sealed
from .health.counting import count_due
from .health.gauges import watch_gauges
from .health.prober import Prober
from .identifiers import PLATFORM_ID
from .people.directory import Directory
from .receiving.held_events import HeldEvents
from .receiving.webhooks import WebhookReceiver
from .retention.erasure import Erasures
from .retention.periods import periods_of
from .retention.retention import Retention
from .sending.attempts import Attempts
from .sending.breakers import Breakers
from .sending.bulkhead import Bulkhead
from .sending.conversation_order import LOOK_EVERY_S, ConversationOrder
from .sending.gate import Gate
from .sending.lookups import Lookups
from .sending.lost_answers import LostAnswers
from .sending.outbound import Outbound
from .sending.outcomes import Outcomes
from .sending.pacing import Pacer
from .sending.recovery import Recovery, forever
from .settings import Settings
from .storage import partitions
from .storage.changes import LOOK_EVERY_S as CHANGES_EVERY_S
from .storage.database import Database, StoreUnavailable
from .storage.listener import look, notifications
from .storage.redis_state import RedisState
from .storage.statements.switches import CHANNEL
from .storage.vault import Vault
from .switching.manager import WhatsAppProviderManager
from .wakeups import Wakeups
from .web.auth import WRITE_USES_EVERY_S, Authenticator
from .web.limits import Limiter, per_minute
from .web.middleware import Middleware
from .web.sessions import Sessions
from .web.waiting import Waiting

logger = logging.getLogger("ingress.app")

GAUGES_EVERY_S = 5.0
RETENTION_LOOK_EVERY_S = 300.0
PARTITIONS_EVERY_S = 60.0
TRAILS_POLL_S = 5.0
COUNT_EVERY_S = 10.0
ERASE_EVERY_S = 2.0
RECOVER_EVERY_S = 5.0
LOOK_NOTED_EVERY_S = 3600.0


class Application:
    """The ASGI application. Webhooks go straight to `WebhookReceiver`; all else through middleware and router."""

    def __init__(self, settings: Settings, neighbours: int = 0) -> None:
        self.settings = settings
        self._neighbours = neighbours
        self.closing = asyncio.Event()
        # No redirects: they would be built from the request's Host.
        self._router = Router(routes=[*ROUTES, *CONSOLE], lifespan=self._lifespan, redirect_slashes=False)
        self._middleware = Middleware(self._router)
        self._operations = Middleware(Router(routes=OPERATIONS))
        self._state: ApiState | None = None  # what requests get, once it has started
        self.judge: Callable[[], Awaitable[Readiness]]  # the same

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/webhooks/"):
            await scope["state"]["receiver"](scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._router(scope, receive, send)
        else:
            await self._middleware(scope, receive, send)

    async def operations(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of the port that the public does not reach."""
        scope["state"].update(self._state or {})  # its server has no lifespan
        await self._operations(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[ApiState]:
        settings = self.settings
        vault = Vault(settings.encryption_keys)
        metrics.by_organization.named = settings.organizations_in_metrics
        egress, periods = Egress(settings.allowed_networks), periods_of(settings)
        async with contextlib.AsyncExitStack() as stack:
            database = await stack.enter_async_context(
                Database(
                    settings.database_url,
                    settings.database_connections,
                    settings.database_direct_url,
                    neighbours=self._neighbours,
                )
            )
            await sealed.begin(database, vault)
            redis = await stack.enter_async_context(RedisState(settings.redis_url))
            caller = await stack.enter_async_context(Caller(egress))
            transfers = await stack.enter_async_context(Transfers(egress))
            session = await stack.enter_async_context(egress.session(per_host=0))
            manager = WhatsAppProviderManager(
                Registry(canary=settings.canary),
                database,
                redis,
                vault,
                caller,
                egress,
                settings.origin,
                settings.vouching_hosts,
                keys_kept=timedelta(days=settings.retention_keys_days),
            )
            wakeups, changes = Wakeups(redis), Wakeups(redis)
            stack.push_async_callback(wakeups.close)
            breakers, order = Breakers(database, redis), ConversationOrder(database, redis)
            stack.push_async_callback(order.close)
            manager.routes.renewed = breakers.close
            redis.returned = manager.routes.forget_all
            # An account that was edited or activated is not broken any more.
            manager.routes.after_change = breakers.sync
            authenticator = Authenticator(
                database,
                vault,
                settings.platform_key,
                trusted=settings.trusted_networks,
                requests_per_s=settings.requests_per_key,
                failures_per_minute=settings.sign_in_failures_per_minute,
            )
            refused_changes = RefusedChanges(database, vault, manager)
            for work in (
                _follow_redis(redis, manager, wakeups, breakers, order),
                _follow_database(database, manager, changes),
                forever(partial(look, database), CHANGES_EVERY_S),
                sweep_forever(),
                # What a process that died in the middle of a switch has left.
                forever(manager.recover, RECOVER_EVERY_S),
                forever(partial(watch_gauges, database), GAUGES_EVERY_S),
                forever(Retention(database, vault, periods).look, RETENTION_LOOK_EVERY_S),
                forever(Erasures(database, partial(_message_keys, manager), periods.bodies).run_due, ERASE_EVERY_S),
                forever(partial(_keep_partitions, database), PARTITIONS_EVERY_S),
                forever(partial(_verify_trails, database, vault), TRAILS_POLL_S),
                forever(partial(count_due, database), COUNT_EVERY_S),
                forever(refused_changes.sum_up, REFUSALS_EVERY_S),
                forever(manager.activity.write, WRITE_EVERY_S),
                forever(authenticator.write_uses, WRITE_USES_EVERY_S),
                forever(order.look, LOOK_EVERY_S),
                watch_lag(),
            ):
                task = asyncio.create_task(work)
                stack.callback(task.cancel)
            # Left in reverse: deliveries first, then sends, then webhooks, whose rows the others may still write.
            stack.push_async_callback(
                _write_last, manager.activity.write, authenticator.write_uses, refused_changes.sum_up
            )
            directory = await stack.enter_async_context(Directory(database))
            held = await stack.enter_async_context(HeldEvents(database, manager, wakeups))
            receiver = await stack.enter_async_context(
                WebhookReceiver(database, manager, directory, wakeups, held.arrived)
            )
            outcomes = await stack.enter_async_context(
                Outcomes(database, wakeups, manager.activity, held.arrived, order)
            )
            outbound, lookups = await self._sending(
                stack, database, redis, manager, directory, caller, outcomes, breakers, order
            )
            await stack.enter_async_context(Prober(database, manager, redis, wakeups, settings.health_interval_s))
            await stack.enter_async_context(Relay(database, vault, egress, wakeups, self.closing))
            stack.callback(log.flush)
            process = Operations(database, manager, self.closing)
            state: ApiState = {
                "database": database,
                "vault": vault,
                "egress": egress,
                "session": session,
                "manager": manager,
                "wakeups": wakeups,
                "changes": changes,
                "breaker_of": breakers.state_of,
                "receiver": receiver,
                "bodies": receiver.bodies,
                "outbound": outbound,
                "lookups": lookups,
                "transfers": transfers,
                "authenticator": authenticator,
                "refused_changes": refused_changes,
                "connection_tests": per_minute(settings.connection_tests_per_minute),
                "sessions": Sessions(database, vault, settings.platform_key),
                "console_links": settings.links,
                "periods": periods,
                "looks": Limiter(LOOK_NOTED_EVERY_S, 1),
                "waiting": Waiting(),
                "closing": self.closing,
                "readiness": process.readiness,
                "metrics_page": process.metrics,
            }
            self._state, self.judge = state, process.judge
            yield state

    async def _sending(
        self,
        stack: contextlib.AsyncExitStack,
        database: Database,
        redis: RedisState,
        manager: WhatsAppProviderManager,
        directory: Directory,
        caller: Caller,
        outcomes: Outcomes,
        breakers: Breakers,
        order: ConversationOrder,
    ) -> tuple[Outbound, Lookups]:
        """All that sending takes, but *outcomes*, which store what the others still have to say."""
        lost_answers = await stack.enter_async_context(LostAnswers(database, caller, outcomes))
        await stack.enter_async_context(breakers)
        bulkhead = Bulkhead()
        metrics.bulkhead_waiting.set_function(lambda: bulkhead.waiting)
        metrics.order_waiting.set_function(lambda: order.waiting)
        pacer = Pacer(redis)
        lookups = Lookups(database, directory, caller, pacer)
        gate = Gate(outcomes, order, breakers, pacer, bulkhead, manager.in_flight)
        attempts = Attempts(caller, lookups, outcomes, gate)
        outbound = await stack.enter_async_context(
            Outbound(database, manager, directory, lookups, attempts, outcomes, lost_answers, gate)
        )
        await stack.enter_async_context(
            Recovery(database, manager, directory, outbound, outcomes, lost_answers, self.closing)
        )
        return outbound, lookups


async def _write_last(*writes: Callable[[], Awaitable[None]]) -> None:
    """What is only written now and then, for the last time."""
    for write in writes:
        with contextlib.suppress(StoreUnavailable):  # it is away, and the process ends
            await write()


async def _follow_redis(
    redis: RedisState,
    manager: WhatsAppProviderManager,
    wakeups: Wakeups,
    breakers: Breakers,
    order: ConversationOrder,
) -> None:
    async for topic, id, version in redis.notifications():
        if topic == "provider":
            manager.routes.notified(id, version, "redis")
        elif topic == "accounts":
            breakers.notified()
        elif topic == "turn":
            order.notified(id)
        else:
            wakeups.notified(id)


async def _follow_database(database: Database, manager: WhatsAppProviderManager, changes: Wakeups) -> None:
    """Follow the changes of providers and keys that the database notifies of, with Redis or without."""
    async for payload in notifications(database, CHANNEL, manager.accounts.vault.key_ids):
        if not payload:
            manager.routes.forget_all()
        else:
            organization_id, version = _change_in(payload)
            manager.routes.notified(organization_id, version, "notify")
            changes.notified(organization_id)
        if payload is None or payload.startswith(str(PLATFORM_ID)):  # what was notified before was missed
            await manager.find_plugins()


def _change_in(payload: str) -> tuple[UUID, int]:
    """Whose change it is, and the version it made."""
    organization_id, _, version = payload.partition(":")
    return UUID(organization_id), int(version)


async def _message_keys(manager: WhatsAppProviderManager, organization_id: UUID, ids: Collection[str]) -> set[str]:
    return message_keys(await manager.configs(organization_id), ids)


async def _keep_partitions(database: Database) -> None:
    async with database.worker() as connection:
        await partitions.keep_ahead(connection)


async def _verify_trails(database: Database, vault: Vault) -> None:
    """Each organization's audit trail once an hour, whichever process has its turn."""
    while await verify_due(database, vault):
        continue
