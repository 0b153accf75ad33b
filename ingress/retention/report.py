"""What is kept: for how long, how much of it, whose it is, and what goes next."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from ..storage import partitions
from ..storage.database import Database
from ..storage.statements.lifetime import partitions as catalogue
from ..storage.statements.lifetime.partitions import Partition
from ..storage.statements.reports import sizes
from .periods import Periods
from .plan import KEEPING

# Without partitions: what is deleted row by row; None: by no time.
OTHERS = {
    "idempotency_keys": "keys",
    "provider_audit_log": "audit",
    "contacts": None,
    "contact_addresses": None,
    "conversations": None,
}


class TableKept(msgspec.Struct, frozen=True, kw_only=True):
    """``days`` None: until somebody erases it. ``next``: the partition that goes next, None: none is full yet."""

    table: str
    kind: str | None
    days: int | None
    partitions: int = 0
    rows: int
    bytes: int
    next: str | None = None
    next_at: datetime | None = None


class KeptReport(NamedTuple):
    """``owners``: about how much of the partitioned tables is whose, in bytes, by table."""

    tables: list[TableKept]
    owners: dict[UUID, Counter[str]]


async def report(database: Database, periods: Periods) -> KeptReport:
    """Rows by the database's statistics, owners by a sample. Raises `StoreUnavailable`."""
    async with database.worker() as connection:
        parts = [part for part in await catalogue.all_of(connection) if part.name]
        found = await sizes.sizes(connection, [*OTHERS, *(part.name for part in parts)])
        tables, owners = [], dict[UUID, Counter[str]]()
        for each in KEEPING:
            own = [part for part in parts if part.table == each.table]
            summed = sizes.Size(*map(sum, zip(*(found[part.name] for part in own), strict=True)))
            days = getattr(periods, each.kind)
            going, at = await _next(connection, own, timedelta(days=days))
            tables.append(
                TableKept(
                    table=each.table,
                    kind=each.kind,
                    days=days,
                    partitions=len(own),
                    rows=summed.rows,
                    bytes=summed.bytes,
                    next=going,
                    next_at=at,
                )
            )
            for owner, share in (await sizes.shares(connection, each.table, summed.main_bytes)).items():
                owners.setdefault(owner, Counter())[each.table] = round(share * summed.bytes)
    for table, kind in OTHERS.items():
        days = getattr(periods, kind) if kind else None
        tables.append(TableKept(table=table, kind=kind, days=days, rows=found[table].rows, bytes=found[table].bytes))
    return KeptReport(tables, owners)


async def _next(
    connection: asyncpg.Connection, parts: Sequence[Partition], kept: timedelta
) -> tuple[str | None, datetime | None]:
    """The first of *parts* that is full at a known time, and when it goes."""
    here = await catalogue.here(connection)
    for part in parts:
        until = part.until_at
        if part.until_sequence is not None and part.until_sequence <= here:
            until = await partitions.moment_of(connection, part.until_sequence)
        if until is not None and part.name != partitions.UNTIMED:
            return part.name, until + kept
    return None, None


def size(count: int) -> str:
    """Bytes, for people."""
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.3g} {units[0]}" if amount < 999.5 else f"{amount:.0f} {units[0]}"
