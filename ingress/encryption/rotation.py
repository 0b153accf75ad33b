"""From one encryption key to another, while the service goes on: everything is made anew with the newest, then opened.

What is with the newest key is passed over, so who begins again goes on. A row that somebody changes at that moment is
left to them, and looked at again. Nothing has to be reloaded: what a process has opened stays as it is.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from time import monotonic

import msgspec

from ..storage.database import Database
from ..storage.statements import sealed
from ..storage.statements.sealed import Key, KeyedRecord, ProcessKeys
from ..storage.vault import Vault, VaultError
from .sealed import EVERYTHING, Sealed, Signed, retire

# Through everything: what is left after so many was held, or changed, each time.
PASSES = 5


class Made(msgspec.Struct, frozen=True):
    """How many records each key has made, by column; what could not be opened, as (column, key of the row, reason)."""

    counts: Counter[tuple[str, str]]
    unopened: list[tuple[str, Key, str]]

    def by(self, key_id: str) -> int:
        return sum(count for (each, _), count in self.counts.items() if each == key_id)

    @property
    def key_ids(self) -> set[str]:
        return {key_id for key_id, _ in self.counts}


Progress = Callable[[int], None]


async def look(database: Database, vault: Vault | None = None, report: Progress = lambda _: None) -> Made:
    """What each key has made; with *vault* all of it is opened. Raises `StoreUnavailable`."""
    made, seen = Made(Counter(), []), 0
    for kind in EVERYTHING:
        async for rows in _pages(database, kind):
            for row in rows:
                _count(made, kind, vault, row)
            report(seen := seen + len(rows))
    return made


def _count(made: Made, kind: Sealed | Signed, vault: Vault | None, row: KeyedRecord) -> None:
    column = str(kind.column)
    made.counts[kind.key_of(row.record), column] += 1
    if vault and (wrong := _wrong(kind, vault, row)):
        made.unopened.append((column, row.key, wrong))


def _wrong(kind: Sealed | Signed, vault: Vault, row: KeyedRecord) -> str | None:
    try:
        kind.check(vault, row)
    except VaultError as error:
        return str(error)
    return None


async def _pages(database: Database, kind: Sealed | Signed) -> AsyncIterator[list[KeyedRecord]]:
    after: Key | None = None
    while True:
        async with database.worker() as connection:
            rows = await sealed.page(connection, kind.column, after)
        if not rows:
            return
        yield rows
        after = rows[-1].key


async def renew(database: Database, vault: Vault, report: Progress = lambda _: None) -> int:
    """Make everything anew that opens and is not of the newest key; how many. Raises `StoreUnavailable`.

    *report* is called with how many were looked at, those that are of the newest included.
    """
    # Before anything is made anew: then a key may go as soon as that is done.
    for key_id in vault.key_ids[1:]:
        await retire(database, vault, key_id)
    done = 0
    for _ in range(PASSES):
        renewed, left = await _pass(database, vault, report)
        done += renewed
        if not left:
            break
    return done


async def _pass(database: Database, vault: Vault, report: Progress) -> tuple[int, int]:
    """How many were made anew, and how many were not, as somebody else had them."""
    seen, done, left = 0, 0, 0
    for kind in EVERYTHING:
        async for rows in _pages(database, kind):
            began = monotonic()
            anew = [(row, kind.renewed(vault, row)) for row in rows if _is_due(kind, vault, row)]
            if anew:
                async with database.worker() as connection:
                    count = await sealed.renew(connection, kind.column, anew)
                done, left = done + count, left + len(anew) - count
                # As long as that took: cores and database are for who sends and receives.
                await asyncio.sleep(monotonic() - began)
            report(seen := seen + len(rows))
    return done, left


def _is_due(kind: Sealed | Signed, vault: Vault, row: KeyedRecord) -> bool:
    return kind.key_of(row.record) != vault.key_ids[0] and _wrong(kind, vault, row) is None


async def processes(database: Database, key_id: str) -> ProcessKeys:
    """Which of the processes that run have that key, and seal with it. Raises `StoreUnavailable`."""
    async with database.worker() as connection:
        return await sealed.processes_with(connection, key_id)
