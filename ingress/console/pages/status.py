"""How sending is doing: what goes out through whom, what fails, whether the CRM gets its events, what happened."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from ...api.status import current_status
from ...envelope import EventData
from ...health.figures import ConfigFigures, Figures, WindowName, calls_lately, figures_of
from ...health.status import ConfigShown
from ...storage.statements import organizations
from ...storage.statements.events import StoredEvent
from ...storage.statements.reports import backlog, incidents
from ...web.bodies import RequestQuery
from .. import charts
from ..languages import N_
from ..rendering import page
from ..requests import AnyConsoleRequest, ConsoleRequest
from ..words.accounts import REASONS

HAPPENINGS = 20
# What is drawn at most, of those that are sent through first; and rows of the table below, each of several steps.
SERIES, TABLE_ROWS = 4, 28
_IN_WINDOW: dict[WindowName, str] = {
    "1h": N_("in the last hour"),
    "24h": N_("in the last 24 hours"),
    "7d": N_("in the last 7 days"),
}
_data = msgspec.json.Decoder(EventData).decode


class StatusQuery(RequestQuery, frozen=True):
    window: WindowName = "1h"


class ConfigRow(NamedTuple):
    """A config with its figures. ``config`` None: it was deleted. ``called``: in the last minute."""

    name: str
    provider: str
    label: str  # the provider, or the config's name where it has several
    config: ConfigShown | None
    figures: ConfigFigures | None
    called: int
    allowed: int | None


class Happening(NamedTuple):
    """Something that happened to an organization's providers."""

    at: datetime
    kind: str  # of a badge
    title: str
    text: str


async def show(request: ConsoleRequest[StatusQuery]) -> Response:
    """GET /console/status?window="""
    organization_id, window = request.organization_id, request.query.window
    status = await current_status(request)
    async with request.connection() as connection:
        figures = await figures_of(connection, organization_id, window)
        called = await calls_lately(connection, organization_id)
        waiting = await backlog.backlog(connection, organization_id)
        callback = await organizations.callback(connection, organization_id)
        stored = await incidents.latest(connection, organization_id, HAPPENINGS)
    rows = await _rows(request, status.configs, figures, called)
    names = {row.config.config_id: row.name for row in rows if row.config}
    happenings = sorted((_happening(request, event, names) for event in stored), reverse=True)
    return page(
        request,
        "status.html",
        window=window,
        sentence=_sentence(request, rows, window),
        under_way=status.switching,
        rows=rows,
        names=names,
        figures=figures,
        drawn=_charts(request, [row for row in rows if row.figures], figures, happenings),
        backlog=waiting,
        up_to=backlog.UP_TO,
        callback=callback,
        happenings=happenings,
    )


async def _rows(
    request: AnyConsoleRequest, configs: Sequence[ConfigShown], figures: Figures, called: dict[UUID, int]
) -> list[ConfigRow]:
    route = await request.state["manager"].routes.route(request.organization_id)
    pacings = {config.id: config.provider.pacing for config in route.order if not config.is_unusable}
    order = [config.id for config in route.order]
    order += [config.config_id for config in configs if config.config_id not in order]
    providers = [config.provider for config in configs]
    rows = []
    for config in sorted(configs, key=lambda each: order.index(each.config_id)):
        pacing, provider = pacings.get(config.config_id), provider_name(request, config.provider)
        rows.append(
            ConfigRow(
                name=config.name,
                provider=provider,
                label=provider if providers.count(config.provider) == 1 else config.name,
                config=config,
                figures=figures.of(config.config_id),
                called=called.get(config.config_id, 0),
                allowed=round(pacing.messages_per_minute) if pacing else None,
            )
        )
    gone = request.gettext("A deleted configuration")
    for each in figures.configs:
        if each.config_id not in order:
            provider = provider_name(request, each.provider) if each.provider else gone
            rows.append(ConfigRow(gone, provider, gone, None, each, called=0, allowed=None))
    return rows


def provider_name(request: AnyConsoleRequest, provider: str) -> str:
    """What people call a provider, by its own description."""
    for entry in request.state["manager"].list_providers():
        if entry.name == provider and entry.info is not None:
            return str(entry.info.display_name)
    return provider


class Sentence(NamedTuple):
    """What is the matter, in one sentence; ``kind`` as of an alert."""

    kind: str
    text: str
    more: str = ""


def _sentence(request: AnyConsoleRequest, rows: Sequence[ConfigRow], window: WindowName) -> Sentence:
    _ = request.gettext
    active = next((row for row in rows if row.config and row.config.role == "active"), None)
    if active is None or active.config is None:
        return Sentence("info", _("No provider is active yet: nothing can be sent."))
    parts = ", ".join(
        _("%(count)s by %(provider)s") % {"count": row.figures.sent, "provider": row.label}
        for row in rows
        if row is not active and row.figures and row.figures.sent
    )
    values = {"provider": active.label, "others": parts, "when": _(_IN_WINDOW[window])}
    if active.config.breaker == "open" or active.config.health.state == "unhealthy":
        if parts:
            instead = _("Others send in its place: %(others)s %(when)s.")
        elif any(row.config and row.config.role == "fallback" for row in rows):
            instead = _("Its fallbacks send in its place.")
        else:
            instead = _("It has no fallback: nothing goes out until it recovers, or another one is made active.")
        return Sentence("danger", _("%(provider)s cannot send at the moment.") % values, instead % values)
    if parts:
        text = _("All sends go out through %(provider)s; %(others)s %(when)s.")
    elif active.figures and active.figures.sends:
        text = _("All sends go out through %(provider)s.")
    else:
        text = _("Sends go out through %(provider)s; there was none %(when)s.")
    return Sentence("warning" if active.config.health.state == "degraded" else "success", text % values)


def _happening(request: AnyConsoleRequest, event: StoredEvent, names: dict[UUID, str]) -> Happening:
    _, data = request.gettext, _data(event.data)

    def named(config_id: UUID | None, provider: str | None) -> str:
        name = names.get(config_id) if config_id else None
        return name or (provider_name(request, provider) if provider else "")

    about = {"config": named(data.config_id, data.provider)}
    reason = data.reason or ""
    if event.type == "provider.switched":
        titles = {"rollback": _("Rolled back to %(config)s"), "fallback": _("%(config)s stands in, by itself")}
        title = titles.get(data.kind or "", _("Switched to %(config)s"))
        return Happening(event.created_at, "info", title % about, reason)
    if event.type == "provider.rolled_back":
        about = {"config": named(data.failed_config_id, data.failed_provider)}
        title = _("A switch to %(config)s was not made; nothing was changed")
        return Happening(event.created_at, "testing", title % about, data.detail or reason)
    if event.type == "provider.unhealthy":
        at = data.occurred_at or event.created_at
        why = filter(None, [_(REASONS.get(reason, reason)), data.detail])
        return Happening(at, "danger", _("%(config)s became unhealthy") % about, " ".join(why))
    return Happening(event.created_at, "active", _("%(config)s recovered") % about, "")


# ---------------------------------------------------------------- charts


class Chart(NamedTuple):
    """``legend``: a series' class in the sheet and its name. ``heading`` and ``rows``: the same as a table."""

    title: str
    picture: Markup
    top: str
    legend: list[tuple[str, str]]
    heading: list[str]
    rows: list[list[str]]


def _charts(
    request: AnyConsoleRequest, rows: Sequence[ConfigRow], figures: Figures, happenings: Sequence[Happening]
) -> list[Chart]:
    shown = [(row, row.figures) for row in rows if row.figures is not None][:SERIES]
    if not shown:
        return []
    ends = figures.since, figures.since + timedelta(seconds=figures.step_s) * len(shown[0][1].steps)
    marks = [
        charts.Mark((each.at - ends[0]) / (ends[1] - ends[0]), each.kind, each.title)
        for each in happenings
        if ends[0] <= each.at <= ends[1]
    ]
    return [_sends(request, shown, marks), _latency(request, shown, marks)]


Shown = Sequence[tuple[ConfigRow, ConfigFigures]]


def _sends(request: AnyConsoleRequest, shown: Shown, marks: Sequence[charts.Mark]) -> Chart:
    _ = request.gettext
    names = [row.name for row, _figures in shown] + [_("Failed attempts")]
    series = [[step.sent for step in figures.steps] for _row, figures in shown]
    series.append([sum(errors) for errors in zip(*([s.errors for s in f.steps] for _row, f in shown), strict=True)])
    starts = [step.at for step in shown[0][1].steps]
    classes = [*(f"series-{place}" for place in range(len(shown))), "series-failed"]
    picture = charts.Picture(_("Sends"), classes, series, _titles(starts, names, series), marks)
    return _chart(request, picture, charts.bars(picture), names, _table(starts, series, sum))


def _latency(request: AnyConsoleRequest, shown: Shown, marks: Sequence[charts.Mark]) -> Chart:
    kinds = [(row, place, figures, share) for place, (row, figures) in enumerate(shown) for share in ("p50", "p95")]
    names = [f"{row.name} {share}" for row, _place, _figures, share in kinds]
    series = [[getattr(step, f"{share}_ms") for step in figures.steps] for _row, _place, figures, share in kinds]
    starts = [step.at for step in shown[0][1].steps]
    classes = [f"series-{place} {share}" for _row, place, _figures, share in kinds]
    label = request.gettext("Latency in ms")
    picture = charts.Picture(label, classes, series, _titles(starts, names, series), marks)
    return _chart(request, picture, charts.lines(picture), names, _table(starts, series, max))


def _chart(
    request: AnyConsoleRequest,
    picture: charts.Picture,
    drawn: tuple[Markup, float],
    names: list[str],
    rows: list[list[str]],
) -> Chart:
    legend = list(zip(picture.classes, names, strict=True))
    return Chart(picture.label, drawn[0], f"{drawn[1]:g}", legend, [request.gettext("From"), *names], rows)


def _titles(starts: Sequence[datetime], names: Sequence[str], series: Sequence[Sequence[int | None]]) -> list[str]:
    """What is said of each step when it is pointed at."""
    return [
        "\n".join(
            [
                f"{at:%Y-%m-%d %H:%M} UTC",
                *(f"{name}: {value}" for name, value in zip(names, values, strict=True) if value),
            ]
        )
        for at, *values in zip(starts, *series, strict=True)
    ]


def _table(starts: Sequence[datetime], series: Sequence[Sequence[int | None]], together: Any) -> list[list[str]]:
    """Rows of a table, newest first: several steps each, where there are many."""
    size = -(-len(starts) // TABLE_ROWS)
    return [
        [f"{starts[at]:%Y-%m-%d %H:%M}", *(_cell(values[at : at + size], together) for values in series)]
        for at in reversed(range(0, len(starts), size))
    ]


def _cell(values: Sequence[int | None], together: Any) -> str:
    known = [value for value in values if value is not None]
    return str(together(known)) if known else "–"
