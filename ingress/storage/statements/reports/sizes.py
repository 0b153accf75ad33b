"""How large tables are, by the catalogue, and how much of each is whose, by a sample of their pages."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

# So many pages are looked at of each table: a second of reading.
SAMPLED_PAGES, PAGE_BYTES = 5_000, 8_192

SIZES = """
select relname, greatest(reltuples, 0)::bigint as rows, pg_total_relation_size(oid) as bytes, pg_relation_size(oid) as main_bytes
from pg_class where relname = any($1) and relnamespace = current_schema()::regnamespace"""


class Size(NamedTuple):
    """``rows`` by the database's statistics, ``bytes`` with indexes, ``main_bytes`` without."""

    rows: int
    bytes: int
    main_bytes: int


async def sizes(connection: asyncpg.Connection, names: Sequence[str]) -> dict[str, Size]:
    """Of tables, or partitions (worker)."""
    return {row[0]: Size(*row[1:]) for row in await connection.fetch(SIZES, names)}


def _sample(table: str) -> str:
    return f"""select organization_id, sum(pg_column_size(_.*))::bigint as bytes from {table} _ tablesample system ($1)
    group by organization_id /* every organization_id */"""


WEBHOOKS = _sample("inbound_webhooks")
QUARANTINE = _sample("quarantine")
DEDUP = _sample("inbound_dedup")
STATUSES = _sample("message_statuses")
ATTEMPTS = _sample("attempts")
MESSAGES = _sample("messages")
DELIVERIES = _sample("deliveries")
EVENTS = _sample("events")
_SAMPLES = {
    "inbound_webhooks": WEBHOOKS,
    "quarantine": QUARANTINE,
    "inbound_dedup": DEDUP,
    "message_statuses": STATUSES,
    "attempts": ATTEMPTS,
    "messages": MESSAGES,
    "deliveries": DELIVERIES,
    "events": EVENTS,
}


async def shares(connection: asyncpg.Connection, table: str, main_bytes: int) -> dict[UUID, float]:
    """Which part of *table*, that is so large, is whose: of 1 in all (worker, all organizations)."""
    percent = min(100.0, 100.0 * SAMPLED_PAGES * PAGE_BYTES / max(main_bytes, 1))
    rows = await connection.fetch(_SAMPLES[table], percent)
    all_bytes = sum(row["bytes"] for row in rows)
    return {row["organization_id"]: row["bytes"] / all_bytes for row in rows}
