"""Numbers that only the database knows, each looked at by itself: one that cannot be counted leaves the others."""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg

from .. import metrics
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import audit, deliveries, health, organizations
from ..storage.statements.receiving import inbound, statuses, unread
from ..storage.statements.sending import sends

logger = logging.getLogger("ingress.health.gauges")


async def watch_gauges(database: Database) -> None:
    """Look at each once. What cannot be looked at stays as it was, and is logged."""
    for name, look in GAUGES.items():
        read = metrics.gauges_read.labels(name)
        try:
            async with database.worker() as connection:
                await look(connection)
            read.set_to_current_time()
        except StoreUnavailable as away:
            logger.warning("the gauges of %s stand still: %s", name, away)
        except Exception:  # a defect of one hides nothing of the others
            logger.exception("the gauges of %s stand still", name)


async def _deliveries(connection: asyncpg.Connection) -> None:
    found = await deliveries.gauges(connection)
    metrics.delivery_pending.set(found.pending)
    metrics.deliveries_parked.set(found.parked)
    metrics.delivery_oldest.set(found.oldest_s)


async def _sends(connection: asyncpg.Connection) -> None:
    found = await sends.gauges(connection)
    metrics.send_pending.set(found.pending)
    metrics.send_ambiguous_open.set(found.uncertain)
    metrics.send_lost.set(found.lost)
    metrics.send_oldest.set(found.oldest_s)


async def _quarantine(connection: asyncpg.Connection) -> None:
    found = await inbound.count_quarantined(connection)
    metrics.quarantine_open.clear()
    for item in found:
        metrics.quarantine_open.labels(item.provider, item.reason).inc(item.items)


async def _unread_webhooks(connection: asyncpg.Connection) -> None:
    webhooks, since = await unread.gauges(connection)
    metrics.unread.set(webhooks)
    metrics.unread_oldest.set((datetime.now(UTC) - since).total_seconds() if since else 0)


async def _statuses(connection: asyncpg.Connection) -> None:
    metrics.status_orphans.set(await statuses.orphans(connection))


async def _accounts(connection: asyncpg.Connection) -> None:
    found = await health.troubled(connection)
    metrics.troubled.clear()
    for row in found:
        metrics.troubled.labels(row["provider"], row["state"]).inc(row["configs"])


async def _trails(connection: asyncpg.Connection) -> None:
    found = await audit.gauges(connection)
    metrics.audit_chain_valid.set(found.valid)
    metrics.audit_overdue.set(found.overdue_s)


async def _keys(connection: asyncpg.Connection) -> None:
    metrics.api_keys_expiring.set(await organizations.expiring_keys(connection))


GAUGES: dict[str, Callable[[asyncpg.Connection], Awaitable[None]]] = {
    "deliveries": _deliveries,
    "sends": _sends,
    "quarantine": _quarantine,
    "large_webhooks": _unread_webhooks,
    "statuses": _statuses,
    "accounts": _accounts,
    "audit_trails": _trails,
    "api_keys": _keys,
}
