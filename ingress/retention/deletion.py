"""Deletes rows that are past their time where no partition goes with them: by organization, or by slices of time."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ..identifiers import id_at
from ..storage.database import Database
from ..storage.statements.lifetime import deletion, retention
from ..storage.statements.lifetime.deletion import OldRow
from ..storage.statements.lifetime.retention import DeletedThrough, KeptSince
from .pace import Pace

# How much time a statement goes through: more where that was quick, less where it was not.
FIRST_SLICE, LONGEST_SLICE = timedelta(minutes=1), timedelta(days=1)
QUICK_S, SLOW_S = 0.02, 0.1
TABLES = {"bodies": "inbound_webhooks", "statuses": "message_statuses"}
# By table, in the order they are deleted in.
_OF_EVENTS = {"deliveries": deletion.DELETE_DELIVERIES, "events": deletion.DELETE_EVENTS}
_OF_MESSAGES = {"attempts": deletion.DELETE_ATTEMPTS, "messages": deletion.DELETE_MESSAGES}


class TimeSpan(NamedTuple):
    """From a moment up to another."""

    since: datetime
    until: datetime


class Deletion:
    """Rows of the database, at a *pace*."""

    def __init__(self, database: Database, pace: Pace) -> None:
        self._database = database
        self._pace = pace

    async def is_counted(self, organization_id: UUID, before: datetime) -> bool:
        """Whether the figures have everything of the organization that is older: they are counted from it."""
        async with self._database.worker() as connection:
            return await deletion.is_counted(connection, organization_id, before)

    async def events(self, organization_id: UUID, before: datetime) -> None:
        """The organization's events that are older, each with its delivery; the last ones are marked first."""
        async with self._database.worker() as connection:
            reach = await deletion.reach(connection, organization_id)
        after = 0
        while True:
            rows = await self._pace.run(partial(self._some_events, organization_id, after, reach, before))
            if len(rows) < deletion.BATCH_ROWS:
                return
            after = rows[-1].key

    async def _some_events(self, organization_id: UUID, after: int, reach: int, before: datetime) -> list[OldRow]:
        async with self._database.worker() as connection:
            found = await deletion.next_events(connection, organization_id, after, reach, before)
            past = list(takewhile(lambda row: row.is_past, found))
            going = [row for row in past if not row.is_held]
            if going:
                async with connection.transaction():
                    await retention.mark(connection, organization_id, KeptSince(going[-1].key, before))
                    await self._delete(connection, organization_id, past, _OF_EVENTS)
        return past

    async def _delete(
        self, connection: asyncpg.Connection, organization_id: UUID, rows: Sequence[OldRow], statements: dict[str, str]
    ) -> None:
        for table, statement in statements.items():
            self._pace.count(table, await deletion.delete(connection, statement, organization_id, rows))

    async def messages(self, organization_id: UUID, before: datetime) -> None:
        """The organization's messages that are older and done, each with its attempts."""
        after = UUID(int=0)
        while True:
            rows = await self._pace.run(partial(self._some_messages, organization_id, after, before))
            if len(rows) < deletion.BATCH_ROWS:
                return
            after = rows[-1].key

    async def _some_messages(self, organization_id: UUID, after: UUID, before: datetime) -> list[OldRow]:
        async with self._database.worker() as connection:
            found = await deletion.next_messages(connection, organization_id, after, id_at(before))
            if not all(row.is_held for row in found):
                async with connection.transaction():
                    await retention.mark(connection, organization_id, KeptSince(0, before))
                    await self._delete(connection, organization_id, found, _OF_MESSAGES)
        return found

    async def quarantined(self, organization_id: UUID, before: datetime) -> None:
        """What was put aside and is older, whether it is open or not."""
        await self._all("quarantine", deletion.delete_quarantined, organization_id, id_at(before))

    async def keys(self, before: datetime) -> None:
        """What repeated webhooks without a time, and repeated sends, are recognised by."""
        await self._all("inbound_dedup", deletion.delete_untimed_keys, before)
        await self._all("idempotency_keys", deletion.delete_idempotency_keys, id_at(before))

    async def _all(self, table: str, statement: Callable[..., Awaitable[int]], *arguments: object) -> None:
        """All that *statement* deletes, batch by batch."""

        async def batch() -> int:
            async with self._database.worker() as connection:
                return await statement(connection, *arguments)

        rows = deletion.BATCH_ROWS
        while rows == deletion.BATCH_ROWS:
            rows = await self._pace.run(batch)
            self._pace.count(table, rows)

    async def slices(self, kind: str, days: int, span: TimeSpan, only: Sequence[UUID] | None, at: datetime) -> None:
        """Bodies, or statuses, of a *span* of time, *only* of some organizations: in slices of it.

        How far that is done is noted for who keeps them so many *days*, as they did *at* that time.
        """
        width, since = FIRST_SLICE, span.since
        while since < span.until:
            part = TimeSpan(since, min(since + width, span.until))
            await self._pace.run(partial(self._slice, kind, days, part, only, at))
            if self._pace.took_s < QUICK_S:
                width = min(width * 2, LONGEST_SLICE)
            elif self._pace.took_s > SLOW_S:
                width = max(width / 2, FIRST_SLICE)
            since = part.until

    async def _slice(self, kind: str, days: int, part: TimeSpan, only: Sequence[UUID] | None, at: datetime) -> None:
        async with self._database.worker() as connection, connection.transaction():
            rows = await deletion.delete_slice(connection, kind, *part, only)
            await retention.set_progress(connection, kind, days, DeletedThrough(part.until, at))
        self._pace.count(TABLES[kind], rows)
