"""How large the database is, by how much it grows, where that ends, and when a disk is full."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg

from ..retention.periods import periods_of
from ..retention.plan import KEEPING
from ..retention.report import size
from ..storage import partitions
from ..storage.connections import WORKER
from ..storage.statements.lifetime import partitions as catalogue
from ..storage.statements.lifetime.partitions import Partition
from ..storage.statements.reports import server, sizes
from ..storage.statements.reports.sizes import Size
from .findings import DoctorCheck, DoctorFinding, Examined, Findings, judged, ok

DAY, LATELY = timedelta(days=1), timedelta(days=7)
SOON_DAYS, VERY_SOON_DAYS = 30, 7
LARGEST = 3


class _Grown(NamedTuple):
    """A table: its size, how much came in a day, and how large it is once the first of that goes again."""

    table: str
    bytes: int
    daily: float
    settles_at: float


async def growth(examined: Examined) -> Findings:
    """By the partitions of the last week."""
    async with examined.role(WORKER) as connection:
        now, all_bytes = datetime.now(UTC), await server.database_bytes(connection)
        grown = await _grown(connection, examined, now)
    daily = sum(each.daily for each in grown)
    settles_at = all_bytes + sum(max(0.0, each.settles_at - each.bytes) for each in grown)
    found = f"the database has {size(all_bytes)}"
    if daily:
        found += f", gets {size(round(daily))} a day, and stays at about {size(round(settles_at))} as what is old goes"
    if largest := [each for each in sorted(grown, key=lambda each: -each.bytes)[:LARGEST] if each.bytes]:
        shown = (f"{each.table} {size(each.bytes)}, {size(round(each.daily))} a day" for each in largest)
        found += f" ({'; '.join(shown)})"
    if examined.disk_bytes is None:
        yield ok(f"{found}; with --disk 500GB it is said when that is full")
    else:
        yield _full(examined.disk_bytes, all_bytes, daily, settles_at, found)


async def _grown(connection: asyncpg.Connection, examined: Examined, now: datetime) -> list[_Grown]:
    periods = periods_of(examined.settings)
    parts = [part for part in await catalogue.all_of(connection) if part.name]
    found = await sizes.sizes(connection, [part.name for part in parts])
    grown = []
    for each in KEEPING:
        own = [part for part in parts if part.table == each.table]
        daily = await _daily(connection, own, found, now)
        days = getattr(periods, each.kind) + each.grid / DAY  # a partition goes as a whole
        grown.append(_Grown(each.table, sum(found[part.name].bytes for part in own), daily, daily * days))
    return grown


async def _daily(
    connection: asyncpg.Connection, parts: Sequence[Partition], found: Mapping[str, Size], now: datetime
) -> float:
    """Bytes that came in a day of the last week; of a partition that is older in part, its part."""
    came, covered = 0, timedelta()
    for part in parts:
        begin, end = await _span(connection, part, now)
        if begin is None or end is None or not (begin < now and end > now - LATELY):
            continue
        lasted = min(end, now) - begin
        if lasted > timedelta(hours=1):
            came += found[part.name].bytes
            covered += lasted
    return came / (covered / DAY) if covered else 0.0


async def _span(
    connection: asyncpg.Connection, part: Partition, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """From when to when; of what is not over yet, to now."""
    if part.from_sequence is None:
        return part.from_at, part.until_at
    here = await catalogue.here(connection)
    begin = await partitions.moment_of(connection, part.from_sequence)
    if begin is None:  # it began before the first mark
        first = await catalogue.mark_after(connection, partitions.BEGIN)
        begin = first.at if first else None
    is_over = part.until_sequence is not None and part.until_sequence <= here
    return begin, await partitions.moment_of(connection, part.until_sequence or 0) if is_over else now


def _full(disk: int, used: int, daily: float, settles_at: float, found: str) -> DoctorFinding:
    if settles_at <= disk:
        return ok(f"{found}; {size(disk)} are enough for that")
    days = max(0.0, disk - used) / daily if daily else 0.0
    fix = "give it a larger disk, or keep less: INGRESS_RETENTION_BODIES_DAYS=..., INGRESS_RETENTION_EVENTS_DAYS=..."
    full = f"{found}; {size(disk)} are full in {days:.0f} days"
    means = "then nothing can be stored"
    return judged(full, means, fix, is_wrong=days < SOON_DAYS, is_bad=days < VERY_SOON_DAYS)


CHECKS = (DoctorCheck("database.growth", growth, needs=("schema.version",)),)
