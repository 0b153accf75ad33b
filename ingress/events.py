"""Events for the CRM to read: pages with a cursor (and a long poll), and a stream of server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .auth import authorize, organization_of
from .database import Database
from .edge import int_of, limit_of
from .envelope import render
from .identifiers import parse_event_id
from .problems import Problem
from .redis_state import RedisState
from .storage import events as stored

MAX_WAIT_S = 30
# A wake-up may be lost, and an event becomes readable only when no older transaction runs any more.
POLL_S = 0.5
SETTLE_S = 0.01
# Other processes are told once for all that came in this time.
ANNOUNCE_AFTER_S = 0.1
HEARTBEAT_S = 15.0
STREAM_PAGE = 200


class Wakes:
    """Who waits for something new of an organization, in this process, and telling the other processes."""

    def __init__(self, redis: RedisState) -> None:
        self._redis = redis
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._any = asyncio.Event()
        self._announce: set[UUID] = set()
        self._announcing: asyncio.Task[None] | None = None

    def wake(self, organization_id: UUID) -> None:
        """Something new was stored here: wake this process now, the others soon."""
        self.heard(organization_id)
        self._announce.add(organization_id)
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._tell())

    def heard(self, organization_id: UUID) -> None:
        self._any.set()
        for waiter in self._waiting.get(organization_id, ()):
            waiter.set()

    async def anything(self, timeout_s: float) -> None:
        """Wait until something new is stored for anybody, at most *timeout_s*."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._any.wait()
        except TimeoutError:
            return
        self._any.clear()

    async def wait(self, waiter: asyncio.Event, timeout_s: float) -> bool:
        """Wait until *waiter*, which `listen` made, is set, at most *timeout_s*; then clear it. Whether it was set."""
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.wait()
        except TimeoutError:
            return False
        waiter.clear()
        return True

    def listen(self, organization_id: UUID) -> asyncio.Event:
        waiter = asyncio.Event()
        self._waiting.setdefault(organization_id, set()).add(waiter)
        return waiter

    def leave(self, organization_id: UUID, waiter: asyncio.Event) -> None:
        waiting = self._waiting[organization_id]
        waiting.discard(waiter)
        if not waiting:
            del self._waiting[organization_id]

    async def close(self) -> None:
        """Tell what is to be told now: later there is nobody to tell it."""
        if self._announcing is not None:
            self._announcing.cancel()
            await asyncio.gather(self._announcing, return_exceptions=True)
        while self._announce:
            await self._redis.wake("events", self._announce.pop())

    async def _tell(self) -> None:
        await asyncio.sleep(ANNOUNCE_AFTER_S)
        while self._announce:
            await self._redis.wake("events", self._announce.pop())


async def _page(database: Database, organization_id: UUID, after: int, limit: int, raw: bool) -> list[Any]:
    async with database.organization(organization_id) as connection:
        return await stored.read(connection, organization_id, after, limit, raw)


def _pause(pause: float, woken: bool) -> float:
    """Seconds until the next look. Who was woken and finds nothing looks again soon: an older transaction runs."""
    return SETTLE_S if woken else min(pause * 2, POLL_S)


async def list_events(request: Request[Any]) -> Response:
    """GET /events?after=&limit=&wait=&raw=: events above the cursor, oldest first; waits up to *wait* s for one."""
    organization_id, _ = await organization_of(request, "read")
    after, limit = int_of(request, "after", 0), limit_of(request, 100, 1000)
    raw = request.query_params.get("raw") in ("1", "true")
    deadline = monotonic() + min(MAX_WAIT_S, int_of(request, "wait", 0))
    database: Database = request.state["database"]
    wakes: Wakes = request.state["wakes"]
    closing: asyncio.Event = request.state["closing"]
    waiter = wakes.listen(organization_id)
    try:
        rows = await _page(database, organization_id, after, limit, raw)
        pause = POLL_S
        # At the end of the process a poll is answered as it is: the client asks again, elsewhere.
        while not rows and (left := deadline - monotonic()) > 0 and not closing.is_set():
            woken = await wakes.wait(waiter, min(left, pause))
            pause = _pause(pause, woken)
            await authorize(request, "read")  # the key may have been revoked meanwhile
            rows = await _page(database, organization_id, after, limit, raw)
    finally:
        wakes.leave(organization_id, waiter)
    body = b",".join(render(row, row["raw"]) for row in rows)
    following = rows[-1]["sequence"] if rows else after
    return Response(b'{"events":[' + body + b'],"next":%d}' % following, media_type="application/json")


async def stream_events(request: Request[Any]) -> Response:
    """GET /events/stream: server-sent events from `Last-Event-ID` (or ?after=, or now) on.

    `id` is the sequence. `Last-Event-ID` may be an event's own id, too.
    """
    organization_id, _ = await organization_of(request, "read")
    database: Database = request.state["database"]
    after = _resume(request, organization_id)
    if after is None:
        async with database.organization(organization_id) as connection:
            after = await stored.last_sequence(connection, organization_id)
    return StreamingResponse(
        _stream(request, organization_id, after),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no"},
    )


def _resume(request: Request[Any], organization_id: UUID) -> int | None:
    """Which sequence a stream goes on from; None: from now. Raises `Problem` 422."""
    given = request.headers.get("last-event-id")
    if not given:
        return int_of(request, "after", 0) if request.query_params.get("after") else None
    if given.isascii() and given.isdigit() and len(given) <= 18:
        return int(given)
    sequence = parse_event_id(given, organization_id)
    if sequence is None:  # to begin with now would pass by what was missed
        raise Problem(422, "invalid_request", "A header is not valid.", errors=[("Last-Event-ID", "is no event's")])
    return sequence


async def _stream(request: Request[Any], organization_id: UUID, after: int) -> AsyncIterator[bytes]:
    database: Database = request.state["database"]
    wakes: Wakes = request.state["wakes"]
    closing: asyncio.Event = request.state["closing"]
    waiter = wakes.listen(organization_id)
    quiet_since, pause = monotonic(), POLL_S
    try:
        # Where it begins is the client's to keep: its connection may break before the first event.
        yield b"retry: 1000\nid: %d\n\n" % after
        while not closing.is_set():
            try:
                await authorize(request, "read")
            except Problem:  # revoked or expired: the stream ends, and its repetition is told why
                return
            rows = await _page(database, organization_id, after, STREAM_PAGE, raw=False)
            if rows:
                after = rows[-1]["sequence"]
                quiet_since, pause = monotonic(), SETTLE_S  # the next one's wake-up may be over already
                yield b"".join(
                    b"id: %d\nevent: %s\ndata: %s\n\n" % (row["sequence"], row["type"].encode(), render(row))
                    for row in rows
                )
                continue
            if monotonic() - quiet_since > HEARTBEAT_S:
                quiet_since = monotonic()
                yield b": still here\n\n"
            pause = _pause(pause, await wakes.wait(waiter, pause))
    finally:
        wakes.leave(organization_id, waiter)
