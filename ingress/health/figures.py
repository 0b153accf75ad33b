"""What went through each config of an organization: sums and steps for charts, out of what was counted."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from ..storage.statements import figures
from ..storage.statements.figures import BOUNDS_MS, CLASSES, Span
from ..storage.statements.reports import figures as counted
from ..validation import Unlogged
from .counting import Cell, Tally, add_up, span

# Of what was accepted so shortly before the last count not all had ended by then.
LATE = timedelta(minutes=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

WindowName = Literal["1h", "24h", "7d"]


class _Window(NamedTuple):
    length: timedelta
    step: timedelta


WINDOWS: dict[WindowName, _Window] = {
    "1h": _Window(timedelta(hours=1), timedelta(minutes=1)),
    "24h": _Window(timedelta(hours=24), timedelta(minutes=15)),
    "7d": _Window(timedelta(days=7), timedelta(hours=1)),
}


class FigureStep(Unlogged, frozen=True, kw_only=True):
    """What went through a config from ``at`` on: messages by when they were accepted, ``received`` by when they came.

    ``sends`` were tried through it, ``sent`` it took. ``errors`` are attempts that failed, ``undelivered`` messages
    that it took and reported as failed after all. ``p50_ms`` and ``p95_ms``: how long it took to take them, None: none.
    """

    at: datetime
    sends: int
    sent: int
    errors: int
    undelivered: int
    fallbacks: int
    received: int
    p50_ms: int | None
    p95_ms: int | None


class ConfigFigures(Unlogged, frozen=True, kw_only=True):
    """What went through a config in the whole window, with errors by class, and in each step of it.

    ``provider`` None: the config was deleted before anything of it was counted.
    """

    config_id: UUID
    provider: str | None
    sends: int
    sent: int
    errors: dict[str, int]
    undelivered: dict[str, int]
    fallbacks: int
    received: int
    p50_ms: int | None
    p95_ms: int | None
    steps: list[FigureStep]

    @property
    def percent(self) -> float | None:
        """How much of the sends was taken, rounded down to a tenth: 100 are all of them. None: there were none."""
        if not self.sends:
            return None
        tenths = min(1000, self.sent * 1000 // self.sends)
        return tenths / 10 if tenths % 10 else tenths // 10


class Figures(Unlogged, frozen=True, kw_only=True):
    """What went through each config that anything went through. ``counted_at``: until then what came in is counted."""

    window: WindowName
    since: datetime
    until: datetime
    step_s: int
    counted_at: datetime | None
    configs: list[ConfigFigures]

    def of(self, config_id: UUID) -> ConfigFigures | None:
        """Of one config; None where nothing went through it."""
        return next((config for config in self.configs if config.config_id == config_id), None)


async def figures_of(connection: asyncpg.Connection, organization_id: UUID, window: WindowName) -> Figures:
    """What went through each config of the organization until now."""
    now = datetime.now(UTC)
    length, step = WINDOWS[window]
    start = _floor(now, step) - length + step
    counted_at = await counted.counted_at(connection, organization_id)
    live_from = max(start, _floor(counted_at or now, timedelta(minutes=1)) - LATE)
    minutes_from = _floor(live_from, step) if window == "7d" else start
    tallies: defaultdict[Cell, Tally] = defaultdict(Tally)
    for row in await counted.steps(connection, organization_id, step, start, minutes_from, live_from):
        tallies[row.config_id, row.since].add(row)
    live = _spans(live_from, now, step)
    add_up(
        tallies,
        await figures.calls(connection, organization_id, live),
        await figures.aside(connection, organization_id, live),
    )
    steps = [start + step * number for number in range(length // step)]
    return Figures(
        window=window,
        since=start,
        until=now,
        step_s=int(step.total_seconds()),
        counted_at=counted_at,
        configs=[_config(config_id, tallies, steps) for config_id in sorted({cell[0] for cell in tallies})],
    )


async def calls_lately(connection: asyncpg.Connection, organization_id: UUID) -> dict[UUID, int]:
    """How often each config's provider was called for messages of the last minute."""
    now = datetime.now(UTC)
    made: defaultdict[UUID, int] = defaultdict(int)
    for row in await figures.calls(connection, organization_id, [span(now - timedelta(minutes=1), now)]):
        if row.ended not in ("Unsupported", "breaker_open"):
            made[row.config_id] += row.calls
    return made


def _floor(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - _EPOCH) % step


def _spans(since: datetime, until: datetime, step: timedelta) -> list[Span]:
    """The steps from *since* to *until*, the first of which it may be a part of."""
    spans, at = [], _floor(since, step)
    while at < until:
        spans.append(span(max(at, since), min(at + step, until))._replace(since=at))
        at += step
    return spans


def _config(config_id: UUID, tallies: dict[Cell, Tally], starts: Sequence[datetime]) -> ConfigFigures:
    whole, steps = Tally(), []
    for at in starts:
        tally = tallies.get((config_id, at)) or Tally()
        whole.add(tally)
        steps.append(
            FigureStep(
                at=at,
                sends=tally.tried,
                sent=tally.sent,
                errors=sum(tally.errors),
                undelivered=sum(tally.undelivered),
                fallbacks=tally.fallbacks,
                received=tally.received,
                p50_ms=percentile(tally.durations, 0.5),
                p95_ms=percentile(tally.durations, 0.95),
            )
        )
    return ConfigFigures(
        config_id=config_id,
        provider=whole.provider,
        sends=whole.tried,
        sent=whole.sent,
        errors=_by_class(whole.errors),
        undelivered=_by_class(whole.undelivered),
        fallbacks=whole.fallbacks,
        received=whole.received,
        p50_ms=percentile(whole.durations, 0.5),
        p95_ms=percentile(whole.durations, 0.95),
        steps=steps,
    )


def _by_class(counts: Sequence[int]) -> dict[str, int]:
    return {name: count for name, count in zip(CLASSES, counts, strict=True) if count}


def percentile(durations: Sequence[int], share: float) -> int | None:
    """Milliseconds that *share* of them took at most, evenly spread between two bounds; None: there are none.

    What took longer than the last bound counts as that.
    """
    left = sum(durations) * share
    if not left:
        return None
    for place, (count, high) in enumerate(zip(durations, BOUNDS_MS, strict=False)):
        if left <= count:
            low = BOUNDS_MS[place - 1] if place else 0
            return round(low + (high - low) * left / count)
        left -= count
    return BOUNDS_MS[-1]
