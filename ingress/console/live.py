"""GET /console/live: what changed of the organization, by topic. A page that shows it asks for itself again."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from time import monotonic
from typing import Any

from ..storage.database import StoreUnavailable
from ..web.problems import Problem
from ..web.waiting import Stream
from .notifications import newest, sight
from .rendering import HEADERS
from .requests import ConsoleRequest, SignedOut

# Between two notices: a busy organization has its pages look again no more often than so.
EVERY_S = 1.0
# What changes without a notice (a breaker, a figure) is looked for by pages that show it.
TICK_S = 10.0


async def follow(request: ConsoleRequest) -> Stream:
    """Events `changed` with the topics that did, separated by blanks: events, providers, notifications, tick."""
    stream = Stream(request.state["waiting"].room(request.organization_id), _notices(request))
    stream.headers.update(HEADERS)
    return stream


async def _notices(request: ConsoleRequest) -> AsyncGenerator[bytes, None]:
    state, organization_id = request.state, request.organization_id
    with (
        state["wakeups"].subscribed(organization_id) as events,
        state["changes"].subscribed(organization_id) as providers,
    ):
        known = await _sight(request)
        yield b"retry: 2000\n\nevent: open\ndata: \n\n"
        ticked = monotonic()
        while not state["closing"].is_set():
            began = monotonic()
            topics = await _changed({"events": events, "providers": providers}, ticked + TICK_S - began)
            if not topics or monotonic() - ticked >= TICK_S:
                ticked = monotonic()
                topics.append("tick")
            if not await _is_signed_in(request):
                yield b"event: ended\ndata: \n\n"
                return
            if (now := await _sight(request, known)) != known:
                known = now
                topics.append("notifications")
            yield b"event: changed\ndata: %s\n\n" % " ".join(topics).encode()
            await asyncio.sleep(max(0.0, EVERY_S - (monotonic() - began)))


async def _changed(waiters: dict[str, asyncio.Event], within_s: float) -> list[str]:
    """The topics of which something changes, none where nothing does."""
    waiting = [asyncio.create_task(waiter.wait()) for waiter in waiters.values()]
    try:
        await asyncio.wait(waiting, timeout=max(0.0, within_s), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    changed = [topic for topic, waiter in waiters.items() if waiter.is_set()]
    for topic in changed:
        waiters[topic].clear()
    return changed


async def _sight(request: ConsoleRequest, known: Any = None) -> Any:
    """What the bell calls attention to; while the database is away, what is *known* of that."""
    with contextlib.suppress(StoreUnavailable):
        return sight(await newest(request))
    return known


async def _is_signed_in(request: ConsoleRequest) -> bool:
    """Whether the session may still see this; while the database is away it is not known, and the stream stays."""
    with contextlib.suppress(StoreUnavailable):
        try:
            await request.authorize()
        except (SignedOut, Problem):
            return False
    return True
