"""Lets go of what is past its time: whole partitions where all in them is, else rows; one process at a time.

What must not be cut short is looked for before a partition goes: sends that are not done, deliveries that are tried
still, events that are not counted yet, webhooks that wait to be read. It waits for the next time then.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import asyncpg
import msgspec

from .. import log, metrics
from ..audit import verification
from ..identifiers import PLATFORM_ID, id_at, moment_of
from ..storage import partitions
from ..storage.database import Database
from ..storage.statements import audit as trails
from ..storage.statements.lifetime import deletion, retention
from ..storage.statements.lifetime.partitions import Partition, all_of
from ..storage.statements.lifetime.retention import KeptShorter, KeptSince
from ..storage.vault import Vault
from .deletion import TABLES, Deletion, TimeSpan
from .pace import SHARE, Pace
from .periods import Periods
from .plan import KEEPING, WEEK, Edge, lasts_long

logger = logging.getLogger("ingress.retention")

# How long after the last time it is somebody's turn again.
EVERY_S = 3600.0
LEASE_S = 300.0
ORGANIZATIONS_AT_ONCE = 500
NOBODY = UUID(int=0)
# The figures of an hour are counted from all of its messages.
COUNTED_AT_ONCE = timedelta(hours=1)
# Between this machine and the database's, at most.
CLOCKS_APART = timedelta(minutes=5)
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class LetGo(msgspec.Struct, frozen=True):
    """What went: partitions of each table, and how many rows of each."""

    partitions: dict[str, list[str]]
    rows: dict[str, int]


class TurnLost(Exception):
    """Another process has begun, as this one said nothing for long."""


class Retention:
    """Drops and deletes what is past its time in *periods*, or what organizations keep shorter."""

    def __init__(self, database: Database, vault: Vault, periods: Periods, *, share: float = SHARE) -> None:
        self._database = database
        self._vault = vault
        self._periods = periods
        self._share = share

    async def look(self) -> None:
        """Do it all where it is this process's turn, and measure how that goes. Raises `StoreUnavailable`."""
        await self.take_turn()
        async with self._database.worker() as connection:
            ran_at = await retention.ran_at(connection)
            parts = await self._past(connection, datetime.now(UTC))
            rows = await deletion.count_rows(connection, [part.name for part in parts])
        metrics.retention_ran.set(ran_at.timestamp() if ran_at else 0)
        for each in KEEPING:
            overdue = sum(rows.get(part.name, 0) for part in parts if part.table == each.table)
            metrics.retention_overdue.labels(each.table).set(overdue)

    async def _past(self, connection: asyncpg.Connection, now: datetime) -> list[Partition]:
        """Partitions in which everything is past the service's time."""
        parts, found = await all_of(connection), list[Partition]()
        for each in KEEPING:
            before = self._periods.before(each.kind, now)
            found += await partitions.past(connection, [part for part in parts if part.table == each.table], before)
        return found

    async def take_turn(self, every_s: float = EVERY_S) -> LetGo | None:
        """Let go of all that is past its time, *every_s*; None: it is not this process's turn, or not any more."""
        lease_id, gone = uuid4(), None
        if not await self._take(lease_id, every_s):
            return None
        try:
            gone = await self.run(datetime.now(UTC), partial(self._renew, lease_id))
        except TurnLost:
            logger.warning("another process drops and deletes what is past its time")
        finally:
            async with self._database.worker() as connection:
                await retention.end_turn(connection, lease_id, is_done=gone is not None)
        return gone

    async def _take(self, lease_id: UUID, every_s: float) -> bool:
        async with self._database.worker() as connection:
            return await retention.take_turn(connection, lease_id, LEASE_S, every_s)

    async def _renew(self, lease_id: UUID) -> None:
        if not await self._take(lease_id, 0):
            raise TurnLost

    async def run(self, now: datetime, renew: Callable[[], Awaitable[None]] | None = None) -> LetGo:
        """Let go of all that is past its time *now*; what it was. Raises `StoreUnavailable`."""
        pace = Pace(self._share, renew)
        async with self._database.worker() as connection:
            partitioned = {part.table for part in await all_of(connection)}
        if not partitioned >= {each.table for each in KEEPING}:
            return LetGo({}, {})  # an upgrade is under way: tables become partitions
        dropped = await self._drop(now)
        rows = Deletion(self._database, pace)
        await self._delete(now, rows)
        await rows.keys(self._periods.before("keys", now))
        await self._forget_trails(self._periods.before("audit", now), pace)
        gone = LetGo(dropped, {table: rows for table, rows in pace.deleted.items() if rows})
        if gone.partitions or gone.rows:
            counts = {table: len(names) for table, names in gone.partitions.items()}
            log.wide("retention", partitions=counts, rows=gone.rows)
        return gone

    # -------------------------------------------------------------- partitions

    async def _drop(self, now: datetime) -> dict[str, list[str]]:
        """Drop the partitions in which everything is past the service's time; which."""
        limits = await self._limits(now)
        await self._mark(limits)
        dropped = {}
        for table, moment in limits.items():
            if names := await partitions.drop_before(self._database, table, moment):
                metrics.retention_dropped.labels(table).inc(len(names))
                dropped[table] = names
        return dropped

    async def _limits(self, now: datetime) -> dict[str, datetime]:
        """Up to when the partitions of each table may go."""
        limits = {each.table: self._periods.before(each.kind, now) for each in KEEPING}
        before = limits["events"]
        async with self._database.worker() as connection:
            sequence = await partitions.sequence_of(connection, before)
            needed = await deletion.first_needed_event(connection, sequence)
            open_message = await deletion.first_open_message(connection, id_at(before))
            if needed is not None:
                moment = await partitions.moment_of(connection, needed) or LONG_AGO
                limits["deliveries"] = limits["events"] = moment - COUNTED_AT_ONCE
        if open_message is not None:
            before = moment_of(open_message)
        # What events say is counted from messages, so these stay as well.
        limits["attempts"] = limits["messages"] = min(before, limits["events"])
        return limits

    async def _mark(self, limits: dict[str, datetime]) -> None:
        """Note of every organization which events and messages are gone, before they are."""
        async with self._database.worker() as connection:
            last = await partitions.sequence_of(connection, limits["events"])
            parts = await all_of(connection)
        ends = [part.until_sequence or 0 for part in parts if part.table == "events"]
        below = max((end for end in ends if end <= last), default=0)
        times = [part.until_at for part in parts if part.table == "messages" and part.until_at]
        since = max((time for time in times if time <= limits["messages"]), default=LONG_AGO)
        since = max(since, limits["events"] if below else LONG_AGO)
        after: UUID | None = NOBODY if since > LONG_AGO else None
        while after is not None:
            async with self._database.worker() as connection:
                after = await retention.mark_next(connection, after, ORGANIZATIONS_AT_ONCE, KeptSince(below, since))

    # -------------------------------------------------------------- rows

    async def _delete(self, now: datetime, rows: Deletion) -> None:
        """What organizations keep shorter, and what the service keeps no longer in a partition that stays for weeks."""
        async with self._database.worker() as connection:
            oldest = await retention.next_organizations(connection, NOBODY, 1)
            begin = moment_of(oldest[0]) if oldest else now
            shorter = await retention.shorter(connection)
            long = await self._lasting_long(connection, begin, now)
        for each in shorter:
            tables = {
                keeping.table for keeping in KEEPING if getattr(each.own, f"{keeping.kind}_days", None) is not None
            }
            await self._delete_of(each.organization_id, self._periods.of(each.own), tables, now, rows)
        if long & {"events", "messages", "quarantine"}:
            async for organization_id in self._organizations():
                await self._delete_of(organization_id, self._periods, long, now, rows)
        for kind, table in TABLES.items():
            await self._delete_slices(kind, shorter, begin, now, rows)
            if table in long:
                days = getattr(self._periods, kind)
                async with self._database.worker() as connection:
                    reached = await retention.progress(connection, kind, days)
                since = reached.through if reached else begin
                await rows.slices(kind, days, TimeSpan(since, self._periods.before(kind, now)), None, now)

    async def _lasting_long(self, connection: asyncpg.Connection, begin: datetime, now: datetime) -> set[str]:
        parts = await all_of(connection)
        found = set()
        for each in KEEPING:
            before = self._periods.before(each.kind, now)
            too_early = before - 2 * each.grid
            sequences = [await partitions.sequence_of(connection, moment) for moment in (before, too_early)]
            if lasts_long(parts, each.table, Edge(before, too_early, *sequences), begin):
                found.add(each.table)
        return found

    async def _delete_of(
        self, organization_id: UUID, periods: Periods, tables: set[str], now: datetime, rows: Deletion
    ) -> None:
        before = periods.before("events", now)
        if tables & {"events", "messages"} and await rows.is_counted(organization_id, before + COUNTED_AT_ONCE):
            await rows.events(organization_id, before)
            await rows.messages(organization_id, before)
        if "quarantine" in tables:
            await rows.quarantined(organization_id, periods.before("bodies", now))

    async def _delete_slices(
        self, kind: str, shorter: Sequence[KeptShorter], begin: datetime, now: datetime, rows: Deletion
    ) -> None:
        """For each number of days that somebody keeps them: what has passed that since the last time."""
        groups: dict[int, list[KeptShorter]] = {}
        for each in shorter:
            if (days := getattr(self._periods.of(each.own), kind)) < getattr(self._periods, kind):
                groups.setdefault(days, []).append(each)
        # What is older has gone with its partition.
        oldest = max(begin, self._periods.before(kind, now) - 2 * WEEK)
        for days, group in groups.items():
            async with self._database.worker() as connection:
                reached = await retention.progress(connection, kind, days)
            is_known = reached is not None and reached.at > max(each.updated_at for each in group) + CLOCKS_APART
            since = max(reached.through, oldest) if reached and is_known else oldest
            only = [each.organization_id for each in group]
            await rows.slices(kind, days, TimeSpan(since, now - timedelta(days=days)), only, now)

    async def _forget_trails(self, before: datetime, pace: Pace) -> None:
        """The first entries of each audit trail, as far as they are older."""
        found = [NOBODY]
        while found:
            async with self._database.worker() as connection:
                found = await trails.old(connection, found[-1], before, ORGANIZATIONS_AT_ONCE)
            for organization_id in found:
                forget = partial(verification.forget, self._database, self._vault, organization_id, before)
                entries = verification.PAGE
                while entries == verification.PAGE:
                    entries = await pace.run(forget)
                    pace.count("provider_audit_log", entries)

    async def _organizations(self) -> AsyncIterator[UUID]:
        """The platform's own id, then every organization's."""
        found: Sequence[UUID] = [PLATFORM_ID]
        while found:
            for organization_id in found:
                yield organization_id
            async with self._database.worker() as connection:
                found = await retention.next_organizations(connection, found[-1], ORGANIZATIONS_AT_ONCE)
