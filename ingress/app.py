"""The application: what lives as long as the process, made in one place, and the table of routes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import cache, partial
from time import monotonic
from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from providers import Registry

from . import audit, log, metrics
from .api import (
    apps,
    callback,
    configs,
    events,
    inbound_messages,
    media,
    messages,
    operations,
    organizations,
    pairing,
    providers,
    quarantine,
    send,
    status,
    switching,
)
from .api import audit as audit_trail
from .api.openapi import document
from .api.operations import Operations
from .cache import sweep_forever
from .calls.driver import Caller
from .calls.egress import Egress
from .calls.transfers import Transfers
from .delivery.relay import Relay
from .health.prober import Prober
from .identifiers import PLATFORM_ID
from .receiving.webhooks import WebhookReceiver
from .sending.attempts import Attempts
from .sending.breakers import Breakers
from .sending.bulkhead import Bulkhead
from .sending.gate import Gate
from .sending.lost_answers import LostAnswers
from .sending.outbound import Outbound
from .sending.outcomes import Outcomes
from .sending.pacing import Pacer
from .sending.recovery import Recovery, forever
from .settings import Settings
from .storage.database import Database
from .storage.listener import notifications
from .storage.redis_state import RedisState
from .storage.statements import audit as trails
from .storage.statements import deliveries, health, inbound, retention, sends, statuses, unread
from .storage.vault import Vault
from .switching.change import CHANNEL
from .switching.manager import WhatsAppProviderManager
from .wakeups import Wakeups
from .web.auth import Authenticator
from .web.limits import per_minute
from .web.middleware import Edge
from .web.waiting import Waiting

logger = logging.getLogger("ingress.app")

LAG_EVERY_S = 0.5
GAUGES_EVERY_S = 5.0
PURGE_EVERY_S = 600.0
TRAILS_POLL_S = 5.0
RECOVER_EVERY_S = 5.0


class Application:
    """The ASGI application. Webhooks go straight to `WebhookReceiver`; all else through the edge and the router."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.closing = asyncio.Event()
        # No redirects: they would be built from the request's Host.
        self._router = Router(routes=ROUTES, lifespan=self._lifespan, redirect_slashes=False)
        self._edge = Edge(self._router)
        self._operations = Edge(Router(routes=OPERATIONS))
        self._state: dict[str, Any] = {}  # what requests get; empty until it has started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/webhooks/"):
            await scope["state"]["receiver"](scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._router(scope, receive, send)
        else:
            await self._edge(scope, receive, send)

    async def operations(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of the port that the public does not reach."""
        scope["state"].update(self._state)  # its server has no lifespan
        await self._operations(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[dict[str, Any]]:
        settings = self.settings
        vault = Vault(settings.encryption_keys)
        egress = Egress(settings.allowed_networks)
        async with contextlib.AsyncExitStack() as stack:
            database = await stack.enter_async_context(Database(settings.database_url, settings.database_connections))
            redis = await stack.enter_async_context(RedisState(settings.redis_url))
            caller = await stack.enter_async_context(Caller(egress))
            transfers = await stack.enter_async_context(Transfers(egress))
            session = await stack.enter_async_context(egress.session(per_host=0))
            manager = WhatsAppProviderManager(
                Registry(), database, redis, vault, caller, egress, settings.origin, settings.vouching_hosts
            )
            wakeups, changes = Wakeups(redis), Wakeups(redis)
            stack.push_async_callback(wakeups.close)
            breakers = Breakers(database, redis)
            manager.renewed = breakers.close
            manager.after_change = breakers.sync  # an account that was edited or activated is not broken any more
            authenticator = Authenticator(
                database,
                vault,
                settings.platform_key,
                settings.requests_per_key,
                settings.sign_in_failures_per_minute,
            )
            for work in (
                _follow_redis(redis, manager, wakeups, breakers),
                _follow_database(database, manager, authenticator, changes),
                sweep_forever(),
                # What a process that died in the middle of a switch has left.
                forever(manager.recover, RECOVER_EVERY_S),
                forever(partial(_watch_gauges, database), GAUGES_EVERY_S),
                forever(partial(_purge, database), PURGE_EVERY_S),
                forever(partial(_verify_trails, database, vault), TRAILS_POLL_S),
                _watch_lag(),
            ):
                task = asyncio.create_task(work)
                stack.callback(task.cancel)
            # Left in reverse: deliveries first, then sends, then webhooks, whose rows the others may still write.
            receiver = await stack.enter_async_context(WebhookReceiver(database, manager, wakeups))
            outbound = await self._sending(stack, database, redis, manager, caller, wakeups, breakers)
            await stack.enter_async_context(Prober(database, manager, redis, wakeups, settings.health_interval_s))
            await stack.enter_async_context(Relay(database, vault, egress, wakeups, self.closing))
            stack.callback(log.flush)
            self._state = {
                "settings": settings,
                "database": database,
                "redis": redis,
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
                "transfers": transfers,
                "authenticator": authenticator,
                "connection_tests": per_minute(settings.connection_tests_per_minute),
                "waiting": Waiting(),
                "closing": self.closing,
                "operations": Operations(database, manager, self.closing),
            }
            yield self._state

    async def _sending(
        self,
        stack: contextlib.AsyncExitStack,
        database: Database,
        redis: RedisState,
        manager: WhatsAppProviderManager,
        caller: Caller,
        wakeups: Wakeups,
        breakers: Breakers,
    ) -> Outbound:
        """All that sending takes. What is left last stores what the others still have to say."""
        outcomes = await stack.enter_async_context(Outcomes(database, wakeups))
        lost_answers = await stack.enter_async_context(LostAnswers(caller, outcomes))
        await stack.enter_async_context(breakers)
        bulkhead = Bulkhead()
        metrics.bulkhead_waiting.set_function(lambda: bulkhead.waiting)
        gate = Gate(outcomes, breakers, Pacer(redis), bulkhead, manager.in_flight)
        attempts = Attempts(caller, outcomes, gate)
        outbound = await stack.enter_async_context(Outbound(database, manager, attempts, outcomes, lost_answers, gate))
        await stack.enter_async_context(Recovery(database, manager, outbound, outcomes, lost_answers, self.closing))
        return outbound


async def _follow_redis(
    redis: RedisState, manager: WhatsAppProviderManager, wakeups: Wakeups, breakers: Breakers
) -> None:
    async for topic, organization_id, version in redis.notifications():
        if topic == "provider":
            manager.notified(organization_id, version, "redis")
        elif topic == "accounts":
            breakers.notified()
        else:
            wakeups.notified(organization_id)


async def _follow_database(
    database: Database, manager: WhatsAppProviderManager, authenticator: Authenticator, changes: Wakeups
) -> None:
    """Follow the changes of providers and keys that the database notifies of, with Redis or without."""
    async for payload in notifications(database, CHANNEL):
        if not payload:
            manager.forget_all(listening=payload is None)
        else:
            organization_id, _, version = payload.partition(":")
            manager.notified(UUID(organization_id), int(version), "notify")
            authenticator.forget(UUID(organization_id))
            changes.notified(UUID(organization_id))
        if payload is None or payload.startswith(str(PLATFORM_ID)):  # what was notified before was missed
            await manager.find_plugins()


async def _watch_lag() -> None:
    while True:
        before = monotonic()
        await asyncio.sleep(LAG_EVERY_S)
        metrics.loop_lag.observe(max(0.0, monotonic() - before - LAG_EVERY_S))


async def _watch_gauges(database: Database) -> None:
    """Numbers that only the database knows."""
    async with database.worker() as connection:
        delivery = await deliveries.gauges(connection)
        sending = await sends.gauges(connection)
        quarantined = await inbound.count_quarantined(connection)
        unread_webhooks, unread_since = await unread.gauges(connection)
        metrics.status_orphans.set(await statuses.orphans(connection))
        troubled = await health.troubled(connection)
        metrics.audit_chain_valid.set(await trails.valid(connection))
    metrics.unread.set(unread_webhooks)
    metrics.unread_oldest.set((datetime.now(UTC) - unread_since).total_seconds() if unread_since else 0)
    metrics.quarantine_open.clear()
    for row in quarantined:
        metrics.quarantine_open.labels(row["provider"], row["reason"]).inc(row["items"])
    metrics.troubled.clear()
    for row in troubled:
        metrics.troubled.labels(row["provider"], row["state"]).inc(row["configs"])
    metrics.delivery_pending.set(delivery.pending)
    metrics.deliveries_parked.set(delivery.parked)
    metrics.delivery_oldest.set(delivery.oldest_s)
    metrics.send_pending.set(sending.pending)
    metrics.send_ambiguous_open.set(sending.uncertain)
    metrics.send_lost.set(sending.lost)
    metrics.send_oldest.set(sending.oldest_s)


async def _purge(database: Database) -> None:
    """Let go of what is past its time, a batch after the other."""
    dropped = 1
    while dropped:
        async with database.worker() as connection:
            dropped = await retention.purge(connection)


async def _verify_trails(database: Database, vault: Vault) -> None:
    """Each organization's audit trail once an hour, whichever process has its turn."""
    while await audit.verify_due(database, vault):
        continue


# ------------------------------------------------------------------ routes


async def openapi(request: Request[Any]) -> Response:
    """GET /openapi.json: this description."""
    return Response(_description(), media_type="application/json")


@cache
def _description() -> bytes:
    return msgspec.json.encode(document(ROUTES))


class _Route(Route):
    """A route whose handler is called as it is. What it raises `Edge` turns into answers, as it does for all there is;
    Starlette's own wrapper around each handler would be a tenth of a send.
    """

    def __init__(self, path: str, endpoint: Callable[[Request[Any]], Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        metrics.VALUES["route"].add(path)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["served"] = path, scope["method"]  # for the metric: what there is no route for is `other`
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


ROUTES = [
    _Route("/send", send.send, methods=["POST"]),
    _Route("/messages", messages.list_messages),
    _Route("/messages/{message_id}", messages.get_message),
    _Route("/messages/{event_id}/read", inbound_messages.mark_read, methods=["POST"]),
    _Route("/messages/{event_id}/typing", inbound_messages.show_typing, methods=["POST"]),
    _Route("/messages/{event_id}/typing", inbound_messages.stop_typing, methods=["DELETE"]),
    _Route("/messages/{event_id}/phone", inbound_messages.find_phone, methods=["GET"]),
    _Route("/media", media.upload_media, methods=["POST"]),
    _Route("/media", media.delete_media, methods=["DELETE"]),
    _Route("/media/{event_id}", media.get_media),
    _Route("/events", events.list_events),
    _Route("/events/stream", events.stream_events),
    Mount(
        "/integrations/whatsapp",
        app=Router(
            redirect_slashes=False,
            routes=[
                _Route("/providers", providers.list_providers),
                _Route("/providers/reload", providers.reload_providers, methods=["POST"]),
                _Route("/provider/current", providers.current),
                _Route("/provider/configure", providers.configure, methods=["POST"]),
                _Route("/provider/fallback", switching.get_fallback, methods=["GET"]),
                _Route("/provider/fallback", switching.put_fallback, methods=["PUT", "POST"]),
                _Route("/provider/switch", switching.switch, methods=["POST"]),
                _Route("/provider/rollback", switching.rollback, methods=["POST"]),
                _Route("/provider/pairing", pairing.show_pairing, methods=["GET"]),
                _Route("/provider/pairing", pairing.start_pairing, methods=["POST"]),
                _Route("/provider/pairing", pairing.end_pairing, methods=["DELETE"]),
                _Route("/provider/test", providers.test_connection, methods=["POST"]),
                _Route("/provider/configs", configs.list_configs),
                _Route("/templates", configs.list_templates),
                _Route("/provider/configs/{config_id}", configs.edit_config, methods=["PATCH"]),
                _Route("/provider/configs/{config_id}", configs.delete_config, methods=["DELETE"]),
                _Route("/status", status.stream_status),
                _Route("/audit", audit_trail.list_audit),
                _Route("/audit/verify", audit_trail.verify_audit),
            ],
        ),
    ),
    _Route("/callback", callback.get_callback, methods=["GET"]),
    _Route("/callback", callback.put_callback, methods=["PUT"]),
    _Route("/callback", callback.delete_callback, methods=["DELETE"]),
    _Route("/callback/test", callback.test_callback, methods=["POST"]),
    _Route("/callback/parked", callback.list_parked),
    _Route("/callback/replay", callback.replay_parked, methods=["POST"]),
    _Route("/quarantine", quarantine.list_quarantine),
    _Route("/quarantine/{quarantine_id}", quarantine.show_quarantine),
    _Route("/quarantine/{quarantine_id}/replay", quarantine.replay_quarantine, methods=["POST"]),
    _Route("/quarantine/{quarantine_id}/discard", quarantine.discard_quarantine, methods=["POST"]),
    _Route("/organizations", organizations.list_organizations, methods=["GET"]),
    _Route("/organizations", organizations.create_organization, methods=["POST"]),
    _Route("/keys", organizations.list_keys, methods=["GET"]),
    _Route("/keys", organizations.create_key, methods=["POST"]),
    _Route("/keys/{key_id}", organizations.revoke_key, methods=["DELETE"]),
    _Route("/apps", apps.list_apps, methods=["GET"]),
    _Route("/apps", apps.create_app, methods=["POST"]),
    _Route("/apps/{app_id}", apps.edit_app, methods=["PATCH"]),
    _Route("/apps/{app_id}", apps.delete_app, methods=["DELETE"]),
    _Route("/healthz", operations.healthz),
    _Route("/readyz", operations.readyz),
    _Route("/openapi.json", openapi),
]
OPERATIONS = [
    _Route("/healthz", operations.healthz),
    _Route("/readyz", operations.readyz),
    _Route("/metrics", operations.show_metrics),
]
