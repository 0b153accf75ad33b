"""Events for the CRM to read: pages with a cursor (and a long poll), and a stream of server-sent events."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from time import monotonic
from typing import get_args, get_type_hints
from uuid import UUID

from ..envelope import Envelope, render
from ..identifiers import parse_event_id
from ..storage.database import StoreUnavailable
from ..storage.statements import events as stored
from ..storage.statements.events import EventFilter, RawEvent
from ..web.bodies import Disconnected, Number, RequestQuery, Shown, invalid
from ..web.problems import Problem
from ..web.waiting import Page, Room, Stream, gathered
from . import AnyRequest, ApiRequest
from .history.gone import check_cursor

MAX_WAIT_S = 30
# A wake-up may be lost, and an event becomes readable only when no older transaction runs any more.
POLL_S = 0.5
SETTLE_S = 0.01
HEARTBEAT_S = 15.0
STREAM_PAGE = 200
MAX_PAGE = 1000
TYPES: tuple[str, ...] = get_args(get_type_hints(Envelope)["type"])


class Selection(RequestQuery, frozen=True):
    """With one person, over all senders; of a conversation; of one ``type``, or several with commas between."""

    contact_id: UUID | None = None
    conversation_id: UUID | None = None
    type: str | None = None

    @property
    def filter(self) -> EventFilter | None:
        """None: all events. Raises `Problem` 422."""
        types = TYPES if self.type is None else self.type.split(",")
        if unknown := set(types) - set(TYPES):
            raise invalid(
                ("type", f"must be types of events, with commas between them: {len(unknown)} are none"),
                what="The query",
            )
        if self.type is None and self.contact_id is None and self.conversation_id is None:
            return None
        return EventFilter(sorted(set(types)), self.contact_id, self.conversation_id)


class EventsQuery(Selection, frozen=True):
    """Events above ``after``; ``wait``: seconds to wait for one, ``raw``: with what the provider posted."""

    after: Number = 0
    limit: Number = 100
    wait: Number = 0
    raw: bool = False

    @property
    def size(self) -> int:
        return max(1, min(MAX_PAGE, self.limit))


class Events(Shown, frozen=True):
    """``next``: the cursor for the following ones."""

    events: list[Envelope]
    next: int


class StreamQuery(Selection, frozen=True):
    after: Number | None = None


async def _page(
    request: AnyRequest, room: Room, after: int, limit: int, *, raw: bool = False, again: bool = False
) -> list[RawEvent]:
    """The events of a page, in memory that *room* has for them; an empty one takes none. *again*: it was empty before.

    Raises `Problem` 410 where events between *after* and them are gone.
    """
    await room.reserve()
    only, page = request.query.filter, (request.organization_id, after, limit, raw)
    async with request.connection() as connection:
        if only is None:
            rows = await stored.read(connection, *page)
        elif only.contact_id is None and only.conversation_id is None:
            rows = await stored.read_types(connection, *page, only.types)
        else:
            rows = await stored.read_of(connection, *page, only)
        if rows or not again:  # behind them: what was deleted before they were read is noted by now
            await check_cursor(connection, request.organization_id, after)
    room.holds(sum(len(row.data) + len(row.raw or b"") for row in rows))
    return rows


def _pause(pause: float, woken: bool) -> float:
    """Seconds until the next look. Who was woken and finds nothing looks again soon: an older transaction runs."""
    return SETTLE_S if woken else min(pause * 2, POLL_S)


async def list_events(request: ApiRequest[None, EventsQuery]) -> Page[Events]:
    """GET /events?contact_id=&conversation_id=&type=&after=&limit=&wait=&raw=: events above the cursor, oldest first.

    Waits up to *wait* s for one.
    """
    room, query = request.state["waiting"].room(request.organization_id), request.query
    page = partial(_page, request, room, query.after, query.size, raw=query.raw)

    async def read() -> list[bytes]:
        return _json(await _awaited(request, page, min(MAX_WAIT_S, query.wait)), query.after)

    return Page(room, read)


def _json(rows: list[RawEvent], after: int) -> list[bytes]:
    """`Events`, in pieces."""
    events = [part for row in rows for part in (b",", render(row, row.raw))]
    return [b'{"events":[', *events[1:], b'],"next":%d}' % (rows[-1].sequence if rows else after)]


async def _awaited(
    request: AnyRequest, page: Callable[..., Awaitable[list[RawEvent]]], wait_s: float
) -> list[RawEvent]:
    """The events of *page* once there are some, or after *wait_s*. Raises `Problem`, `Disconnected`."""
    wakeups, closing = request.state["wakeups"], request.state["closing"]
    deadline = monotonic() + wait_s
    with wakeups.subscribed(request.organization_id) as waiter:
        rows, pause = await page(), POLL_S
        # At the end of the process a poll is answered as it is: the client asks again, elsewhere.
        while not rows and (left := deadline - monotonic()) > 0 and not closing.is_set():
            pause = _pause(pause, await wakeups.wait(waiter, min(left, pause)))
            if await request.is_disconnected():
                raise Disconnected
            await request.authorize()  # the key may have been revoked meanwhile
            rows = await page(again=True)
    return rows


async def stream_events(request: ApiRequest[None, StreamQuery]) -> Stream:
    """GET /events/stream: server-sent events from `Last-Event-ID` (or ?after=, or now) on.

    `id` is the sequence. `Last-Event-ID` may be an event's own id, too. Where what follows it is gone none begins, and
    one that is so slow ends: an event that says so would be passed over by whoever does not look for it.
    """
    organization_id = request.organization_id
    _ = request.query.filter  # what is wrong with it is said at once
    after = _resume(request, organization_id)
    async with request.connection() as connection:
        if after is None:
            after = await stored.last_sequence(connection, organization_id)
        else:
            await check_cursor(connection, organization_id, after)
    room = request.state["waiting"].room(organization_id)
    return Stream(room, _stream(request, after, room))


def _resume(request: AnyRequest, organization_id: UUID) -> int | None:
    """Which sequence a stream goes on from; None: from now. Raises `Problem` 422."""
    given = request.header.get("last-event-id")
    if not given:
        after: int | None = request.query.after
        return after
    if given.isascii() and given.isdigit() and len(given) <= 18:
        return int(given)
    sequence = parse_event_id(given, organization_id)
    if sequence is None:  # to begin with now would pass by what was missed
        raise invalid(("Last-Event-ID", "must be the id or the sequence of an event"), what="A header")
    return sequence


def _frame(event: RawEvent) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.sequence, event.type.encode(), render(event))


async def _following(request: AnyRequest, after: int, room: Room) -> list[RawEvent] | None:
    """What a stream goes on with; None where its reader may not read it any more, or is too slow."""
    try:
        await request.authorize()
        return await _page(request, room, after, STREAM_PAGE, again=True)
    except Problem:
        return None
    except StoreUnavailable:  # it goes on where it was when the database is back
        return []


async def _stream(request: AnyRequest, after: int, room: Room) -> AsyncGenerator[bytes, None]:
    wakeups, closing = request.state["wakeups"], request.state["closing"]
    quiet_since, pause = monotonic(), POLL_S
    with wakeups.subscribed(request.organization_id) as waiter:
        # Where it begins is the client's to keep: its connection may break before the first event.
        yield b"retry: 1000\nid: %d\n\n" % after
        while not closing.is_set():
            rows = await _following(request, after, room)
            if rows is None:  # the stream ends; who comes again learns why
                return
            if rows:
                after = rows[-1].sequence
                quiet_since, pause = monotonic(), SETTLE_S  # the next one's wake-up may be over already
                for piece in gathered(map(_frame, rows)):
                    yield piece
                yield b""  # taken when what was before it is nearly written, and with it the page's memory
                continue
            if monotonic() - quiet_since > HEARTBEAT_S:
                quiet_since = monotonic()
                yield b": still here\n\n"
            pause = _pause(pause, await wakeups.wait(waiter, pause))
