"""Messages: finding them, the way of one as a timeline, what a provider posted, and files of what was found."""

import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from providers.messages import StatusValue

from ...accounts.config import Config
from ...api.audit import note
from ...api.history import timelines
from ...api.history.pages import Direction, History, history_page
from ...api.history.timelines import AnyStep, DeliveryStep, Timeline, narrator
from ...identifiers import parse_event_id
from ...people.addresses import phone_address
from ...storage.statements import events
from ...storage.statements.reports import contact_pages, search
from ...storage.statements.reports.search import MessageFilter
from ...web.bodies import RequestQuery
from ...web.problems import not_found
from .. import snippets
from ..csv_export import csv_export, ndjson_export
from ..message_search import Understood, understood
from ..readable import MOST_CHARACTERS, readable
from ..rendering import page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest
from ..said_rows import COLUMNS, SaidRow, row_of_event, row_of_message, rows_of
from ..words.messages import DELIVERY_ERRORS

SHOWN = 50
# Pages that look at many and find few are followed by the next for so long.
LOOK_ON_S = 0.02
# Of a file: a day of a busy number, and a minute of reading.
EXPORTED_AT_MOST, EXPORTED_AT_ONCE = 10_000, 200
PERIODS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
FILTERS = ("q", "direction", "status", "account", "period", "since", "until")


class SearchQuery(RequestQuery, frozen=True):
    """``q``: whatever names messages; ``account``: a config. ``since`` and ``until`` are days (UTC), both included."""

    q: str = ""
    direction: Direction | None = None
    status: StatusValue | None = None
    account: UUID | None = None
    period: Literal["1h", "24h", "7d", "30d"] | None = None
    since: date | None = None
    until: date | None = None
    before: str | None = None

    @property
    def is_filtered(self) -> bool:
        return any(getattr(self, name) for name in FILTERS)


class ExportQuery(SearchQuery, frozen=True):
    format: Literal["csv", "ndjson"] = "csv"


async def show(request: ConsoleRequest[SearchQuery]) -> Response:
    """What is looked for, in both directions, newest first; the page of the one thing that was named."""
    query = request.query
    named = await _named(request, query.q)
    if named.path is not None:
        return redirect(named.path)
    found = History([])
    if named.wanted is not None:
        found = await _found(request, _narrowed(named.wanted, query))
    configs = await request.state["manager"].configs(request.organization_id)
    return page(
        request,
        "messages.html",
        query=query,
        named=named,
        rows=list(rows_of(found.messages)),
        next=None if found.next is UNSET else found.next,
        configs=called(configs),
        names=(await narrator(request)).names,
        exported=EXPORTED_AT_MOST,
        statuses=("accepted", "sent", "delivered", "read", "failed", "unknown"),
        periods=tuple(PERIODS),
    )


async def _named(request: AnyConsoleRequest, text: str) -> Understood:
    """What *text* means; all there is where it is empty."""
    return await understood(request, text) if text.strip() else Understood(wanted=MessageFilter())


def _window(query: SearchQuery) -> tuple[datetime, datetime]:
    since, until = search.BEGIN, search.END
    if query.period is not None:
        since = datetime.now(UTC) - PERIODS[query.period]
    if query.since is not None:
        since = max(since, datetime.combine(query.since, time(), UTC))
    if query.until is not None and query.until < search.END.date():
        until = datetime.combine(query.until, time(), UTC) + timedelta(days=1)
    return since, until


def _narrowed(wanted: MessageFilter, query: SearchQuery) -> MessageFilter:
    """*wanted*, and all else that is asked for."""
    since, until = _window(query)
    return wanted._replace(
        statuses=[query.status] if query.status else (),
        config_ids=[query.account] if query.account else (),
        since=since,
        until=until,
    )


async def _found(request: ConsoleRequest[SearchQuery], wanted: MessageFilter) -> History:
    """A page of it; where many are looked at and none is found, one of those that follow."""
    direction, before = request.query.direction, request.query.before
    until = monotonic() + LOOK_ON_S
    while True:
        found = await history_page(request, wanted, before, SHOWN, direction)
        if found.messages or found.next is UNSET or monotonic() > until:
            return found
        before = str(found.next)


# ------------------------------------------------------------------ one of them


async def show_message(request: ConsoleRequest) -> Response:
    """The way of one that was sent."""
    timeline = await timelines.message_timeline(request, await narrator(request, request.gettext))
    assert timeline.message is not UNSET
    row = await _known(request, row_of_message(timeline.message))
    programs = {
        **_look_up(request, f"/messages/{row.id}/timeline"),
        request.gettext("Send again"): _send_again(request, json.loads(bytes(timeline.message.request))),
    }
    return await _shown(request, "message.html", timeline, row=row, message=timeline.message, programs=programs)


async def _known(request: AnyConsoleRequest, row: SaidRow) -> SaidRow:
    """With the contact whose number it is, where there is one."""
    if row.phone is None or not row.phone.startswith("+"):  # a group's id, or another id of a person's
        return row
    async with request.connection() as connection:
        address = phone_address(row.phone).key
        found = await contact_pages.by_address(connection, request.organization_id, None, 1, address)
    return msgspec.structs.replace(row, contact_id=str(found[0].id), name=found[0].name) if found else row


async def show_event(request: ConsoleRequest) -> Response:
    """The way of one that came in, or of another event."""
    speaker = msgspec.structs.replace(await narrator(request, request.gettext), errors=DELIVERY_ERRORS)
    timeline = await timelines.event_timeline(request, speaker)
    event = json.loads(msgspec.json.encode(timeline.event))
    row = row_of_event(event, _direction(event))
    programs = _look_up(request, f"/events/{row.id}/timeline")
    return await _shown(request, "event.html", timeline, row=row, event=event, programs=programs)


def _direction(event: dict[str, Any]) -> Literal["inbound", "outbound"]:
    is_ours = event["type"] == "message.echo" or event["data"].get("message", {}).get("by") == "business"
    return "outbound" if is_ours else "inbound"


def _look_up(request: AnyConsoleRequest, path: str) -> dict[str, str]:
    return {request.gettext("Look up"): snippets.reading(_origin(request), path)}


def _send_again(request: AnyConsoleRequest, body: dict[str, Any]) -> str:
    given = {name: value for name, value in body.items() if value is not None}
    return snippets.sending(_origin(request), given)["curl"]


async def _shown(request: AnyConsoleRequest, template: str, timeline: Timeline, **context: Any) -> Response:
    configs = await request.state["manager"].configs(request.organization_id)
    return page(
        request,
        template,
        timeline=timeline,
        steps=list(map(_tagged, timeline.steps)),
        deliveries={step.event_id: step for step in timeline.steps if isinstance(step, DeliveryStep)},
        configs=called(configs),
        names=(await narrator(request)).names,
        **context,
    )


def called(configs: Sequence[Config]) -> dict[str, str]:
    """What each is called, by its id: with its number where several have a name."""
    often = Counter(config.name for config in configs)
    return {
        str(config.id): f"{config.name} {config.sender or ''}".strip() if often[config.name] > 1 else config.name
        for config in configs
    }


def _tagged(step: AnyStep) -> tuple[str, AnyStep]:
    return str(type(step).__struct_config__.tag), step


def _origin(request: AnyConsoleRequest) -> str:
    origin: str = request.state["manager"].origin
    return origin


# ------------------------------------------------------------------ what a provider posted


async def show_raw(request: ConsoleRequest) -> Response:
    """The provider's item. People wrote it, so who looks is in the trail; not each time that the same one does."""
    organization_id = request.organization_id
    sequence = parse_event_id(request.path_params["event_id"], organization_id)
    if sequence is None:
        raise not_found()
    async with request.connection() as connection:
        found = await events.read(connection, organization_id, sequence - 1, 1, raw=True)
        if not found or found[0].sequence != sequence:
            raise not_found()
        looks, who = request.state["looks"], (request.principal.name, sequence)
        if looks.wait_s(who) == 0:
            event_id = request.path_params["event_id"]
            await note(connection, request, organization_id, "event_raw_shown", {"event_id": event_id})
            looks.take(who)
    shown = readable(found[0].raw or b"")
    return page(request, "event_raw.html", event=found[0], raw=shown, is_cut=len(shown) >= MOST_CHARACTERS)


# ------------------------------------------------------------------ files


async def export(request: ConsoleRequest[ExportQuery]) -> Response:
    """What is found as a file, EXPORTED_AT_MOST of it; that it was made is in the trail."""
    query, organization_id = request.query, request.organization_id
    named = await _named(request, query.q)
    given = [name for name in FILTERS if getattr(query, name)]
    async with request.connection() as connection:
        await note(connection, request, organization_id, "messages_exported", {"format": query.format, "by": given})
    room = request.state["waiting"].room(organization_id)
    histories = _exported(request, _narrowed(named.wanted, query) if named.wanted else None)
    name = f"messages-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if query.format == "csv":
        return csv_export(room, name, COLUMNS, _cells(histories))
    return ndjson_export(room, name, _lines(histories))


async def _exported(
    request: ConsoleRequest[ExportQuery], wanted: MessageFilter | None
) -> AsyncGenerator[History, None]:
    """Page by page, each in a transaction of its own."""
    before, left = request.query.before, EXPORTED_AT_MOST
    while wanted is not None and left > 0:
        found = await history_page(request, wanted, before, min(left, EXPORTED_AT_ONCE), request.query.direction)
        yield found
        left -= len(found.messages)
        if found.next is UNSET:
            return
        before = str(found.next)


async def _cells(histories: AsyncGenerator[History, None]) -> AsyncGenerator[Iterable[Sequence[object]], None]:
    async for history in histories:
        yield [row.cells for row in rows_of(history.messages)]


async def _lines(histories: AsyncGenerator[History, None]) -> AsyncGenerator[Iterable[bytes], None]:
    async for history in histories:
        yield [msgspec.json.encode(said) + b"\n" for said in history.messages]
