"""`ingress retention`: what the database keeps, for how long, and what goes next; or have it go now."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from ..encryption.sealed import remember_retired
from ..retention.periods import Periods, periods_of
from ..retention.report import KeptReport, TableKept, report, size
from ..retention.retention import LetGo, Retention
from ..settings import Settings
from ..storage.database import Database
from ..storage.statements.lifetime import retention
from .encryption_keys import vault_of
from .tables import table

LARGEST = 10


def add_command(commands: Any) -> None:
    about = "what is kept, for how long, how much of it, and what goes next"
    parser = commands.add_parser("retention", help=about, description=about)
    parser.add_argument("--organization", type=UUID, metavar="ID", help="only what is of one organization")
    parser.add_argument("--apply", action="store_true", help="let go of what is past its time now, without pauses")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Of the database of *settings*; the exit status: 1 where another process is at it already."""
    lines, status = asyncio.run(_run(settings, options))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return status


async def _run(settings: Settings, options: argparse.Namespace) -> tuple[list[str], int]:
    periods = periods_of(settings)
    async with Database(settings.database_url, settings.database_connections) as database:
        await database.check()
        if options.apply:
            vault = vault_of(settings)
            await remember_retired(database, vault)
            gone = await Retention(database, vault, periods, share=1).take_turn(every_s=0)
            return (["Another process is at it."], 1) if gone is None else (list(_gone(gone)), 0)
        found = await report(database, periods)
        if options.organization is None:
            return list(_everything(found)), 0
        async with database.worker() as connection:
            own, _ = await retention.own(connection, options.organization)
        return list(_of_one(found, options.organization, periods.of(own))), 0


def _gone(gone: LetGo) -> Iterator[str]:
    for name, names in gone.partitions.items():
        yield from (f"{name}: dropped {each}" for each in names)
    yield from (f"{name}: deleted {rows} rows" for name, rows in gone.rows.items())
    if not (gone.partitions or gone.rows):
        yield "Nothing is past its time."


def _everything(found: KeptReport) -> Iterator[str]:
    columns = ("table", "days", "partitions", "rows", "size", "goes next", "at")
    yield from table([_shown(each) for each in found.tables], *columns)
    yield ""
    yield "Of the partitioned tables, by a sample:"
    sums = Counter({owner: by_table.total() for owner, by_table in found.owners.items()})
    rows = [{"organization": owner, "size": size(count)} for owner, count in sums.most_common(LARGEST)]
    yield from table(rows, "organization", "size")


def _of_one(found: KeptReport, organization_id: UUID, periods: Periods) -> Iterator[str]:
    by_table = found.owners.get(organization_id, Counter())
    rows = [
        {"table": each.table, "days": getattr(periods, each.kind), "size": size(by_table[each.table])}
        for each in found.tables
        if each.partitions and each.kind
    ]
    yield from table(rows, "table", "days", "size")


def _shown(each: TableKept) -> Mapping[str, object]:
    return {
        "table": each.table,
        "days": each.days or "until erased",
        "partitions": each.partitions or None,
        "rows": each.rows,
        "size": size(each.bytes),
        "goes next": each.next,
        "at": each.next_at and f"{each.next_at:%Y-%m-%d %H:%M}",
    }
