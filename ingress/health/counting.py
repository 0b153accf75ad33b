"""Counting what went through each config, in the background: whichever process has its turn, nothing twice.

What is counted is read without a transaction id, so that readers of events wait for nothing, and written in one short
transaction with how far it goes. A process that dies in between has written nothing; who was overtaken writes nothing.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from operator import add
from typing import TypeAlias
from uuid import UUID

from ..identifiers import id_at
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import figures
from ..storage.statements.figures import (
    BOUNDS_MS,
    CLASSES,
    HOUR,
    MINUTE,
    Aside,
    Calls,
    Counted,
    Counts,
    NewEvents,
    Priced,
    Span,
)
from ..storage.statements.lifetime import retention
from ..storage.statements.reports.figures import StepCounts

logger = logging.getLogger("ingress.health.counting")

# Minutes are kept for somewhat longer: all of an hour are there when it is summed up.
SUMMED_UP_FOR = figures.MINUTES_KEPT - timedelta(hours=2)

Cell: TypeAlias = tuple[UUID, datetime]  # a config, and the beginning of a minute, an hour, or a step of a chart


class Tally:
    """What went through one config in one span of time."""

    def __init__(self) -> None:
        self.provider: str | None = None
        self.tried = self.sent = self.fallbacks = self.received = 0
        self.errors, self.undelivered = [0] * len(CLASSES), [0] * len(CLASSES)
        self.durations = [0] * (len(BOUNDS_MS) + 1)
        self.costs: dict[str, Decimal] = {}  # by currency

    def add(self, row: "StepCounts | Tally") -> None:
        self.provider = row.provider or self.provider
        self.tried += row.tried
        self.sent += row.sent
        self.fallbacks += row.fallbacks
        self.received += row.received
        for own, more in (
            (self.errors, row.errors),
            (self.undelivered, row.undelivered),
            (self.durations, row.durations),
        ):
            own[:] = map(add, own, more)

    def add_calls(self, row: Calls) -> None:
        self.provider = row.provider
        self.tried += row.tried
        if row.ended != "ok":
            self.errors[place_of(row.ended)] += row.calls
            return
        self.sent += row.calls
        if row.bucket is not None:
            self.durations[row.bucket] += row.calls

    @property
    def cost(self) -> tuple[str, Decimal] | tuple[None, None]:
        """The currency and the sum; of several currencies no sum is made."""
        return next(iter(self.costs.items())) if len(self.costs) == 1 else (None, None)

    def add_cost(self, currency: str, amount: Decimal) -> None:
        self.costs[currency] = self.costs.get(currency, Decimal(0)) + amount


def place_of(name: str | None) -> int:
    """Where errors of a class are counted."""
    return CLASSES.index(name if name in CLASSES else "other")


def add_up(tallies: defaultdict[Cell, Tally], calls: Iterable[Calls], aside: Iterable[Aside]) -> None:
    for row in calls:
        tallies[row.config_id, row.since].add_calls(row)
    for other in aside:
        if other.fallback_from is not None:
            tallies[other.fallback_from, other.since].fallbacks += other.messages
        if other.config_id is not None and other.currency is not None and other.amount is not None:
            tallies[other.config_id, other.since].add_cost(other.currency, other.amount)


def span(since: datetime, until: datetime) -> Span:
    return Span(since, id_at(since), id_at(until))


async def count_due(database: Database) -> None:
    """Count what is new of each organization whose turn it is."""
    while True:
        async with database.worker() as connection:
            due = await figures.claim(connection)
        for progress in due:
            if not progress.has_more:
                continue
            try:
                await _count(database, progress.organization_id, progress.sequence)
            except StoreUnavailable:
                raise
            except Exception:  # one organization must not keep the others waiting
                logger.exception("what went through organization %s cannot be counted", progress.organization_id)
        if not due:
            return


async def _count(database: Database, organization_id: UUID, after: int) -> None:
    """Count the organization's next events; who comes next goes on where there are others."""
    async with database.worker() as connection:
        found = await figures.new_events(connection, organization_id, after)
        [read] = [row for row in found if row.what == "read"]
        if read.sequence is None:
            return
        oldest = read.at - figures.HOURS_KEPT + timedelta(days=1)
        # What is gone was counted, and is not there to be counted anew.
        kept = await retention.kept(connection, organization_id)
        whole = max(oldest, kept.since) if kept else oldest
        touched = (
            row.at
            for row in found
            if row.what not in ("read", "priced")
            and row.at > oldest
            and (row.what != "changed" or _hour(row.at) >= whole)
        )
        cells = dict(_cell(minute, read.at) for minute in touched)
        spans = [span(since, since + timedelta(minutes=minutes)) for since, minutes in cells.items()]
        calls = await figures.calls(connection, organization_id, spans)
        aside = await figures.aside(connection, organization_id, spans)
    tallies = _of_events(found, read.at)
    add_up(tallies, calls, aside)
    counted = Counted(
        organization_id,
        after,
        read.sequence,
        read.at,
        read.n == figures.EVENTS_AT_ONCE,
        [_row(cell, tally, cells[cell[1]]) for cell, tally in sorted(tallies.items())],
        [_priced(row) for row in found if row.what == "priced"],
        sorted({_hour(since) for since, minutes in cells.items() if minutes == MINUTE}),
    )
    async with database.worker() as connection, connection.transaction():
        await figures.write(connection, counted)


def _cell(minute: datetime, now: datetime) -> tuple[datetime, int]:
    """What is counted anew where a minute has changed: that, or its hour where its minutes may be gone."""
    hour = _hour(minute)
    return (minute, MINUTE) if hour > now - SUMMED_UP_FOR else (hour, HOUR)


def _of_events(found: Iterable[NewEvents], now: datetime) -> defaultdict[Cell, Tally]:
    """What only events tell."""
    tallies: defaultdict[Cell, Tally] = defaultdict(Tally)
    for row in found:
        if row.config_id is not None and row.what in ("received", "undelivered"):
            tally = tallies[row.config_id, _cell(row.at, now)[0]]
            if row.what == "received":
                tally.received += row.n
            else:
                tally.undelivered[place_of(row.a)] += row.n
    return tallies


def _row(cell: Cell, tally: Tally, minutes: int) -> Counts:
    currency, cost = tally.cost
    return Counts(
        config_id=cell[0],
        minutes=minutes,
        since=cell[1],
        provider=tally.provider,
        tried=tally.tried,
        sent=tally.sent,
        fallbacks=tally.fallbacks,
        received=tally.received,
        errors=_written(tally.errors),
        undelivered=_written(tally.undelivered),
        durations=_written(tally.durations),
        cost=cost,
        currency=currency,
    )


def _written(counts: Iterable[int]) -> str:
    return f"{{{','.join(map(str, counts))}}}"


def _priced(row: NewEvents) -> Priced:
    assert row.config_id is not None
    return Priced(row.at, row.config_id, row.a or "", row.b or "", row.c or "", row.n)


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
