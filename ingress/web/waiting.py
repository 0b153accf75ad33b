"""What waits, and the memory that pages take: an organization's share of both, so that none stops the others.

A request that waits holds one of the connections that the process takes (ingress/server.py), and a page is held until
its reader has all of it. Both are a tenant's to use, and nobody's to use up.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Generic
from uuid import UUID

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .. import metrics
from ..shares import Shares
from ..storage.pages import PAGE_BYTES
from .problems import Answer, Problem, unavailable

# Streams, polls and pages; and sends whose clients wait for the result. Together 600 of the 1,000 connections.
READERS, READERS_EACH = 300, 100
SENDS, SENDS_EACH = 300, 150
# Of a process that has 256 MiB and takes a third of it for itself.
HELD_BYTES, HELD_BYTES_EACH = 48 * 1024 * 1024, 12 * 1024 * 1024
# Bodies that are read once more: each takes many times its size for a moment.
REPLAYS, REPLAYS_EACH = 4, 1
# A page waits for others of its organization, whose readers may be slow.
PATIENCE_S = 10.0
# What is written at once: a reader that does not read has no more than this, and what is held for it.
PIECE_BYTES = 64 * 1024


class Waiting:
    """The shares of one process."""

    def __init__(self) -> None:
        self.readers = Shares(READERS, READERS_EACH)
        self.sends = Shares(SENDS, SENDS_EACH)
        self.memory = Shares(HELD_BYTES, HELD_BYTES_EACH)
        self.replays = Shares(REPLAYS, REPLAYS_EACH)
        metrics.waiting.labels("readers").set_function(lambda: self.readers.held)
        metrics.waiting.labels("sends").set_function(lambda: self.sends.held)
        metrics.page_bytes.set_function(lambda: self.memory.held)

    def room(self, organization_id: UUID) -> "Room":
        return Room(self, organization_id)

    @contextlib.asynccontextmanager
    async def replay(self, organization_id: UUID) -> AsyncIterator[None]:
        """The organization's turn to have a body read once more. Raises `Problem` 429."""
        with self.room(organization_id):
            if not await self.replays.taken(organization_id, 1, PATIENCE_S):
                raise _turned_away("Other items of the quarantine are being replayed. Try again.")
            try:
                yield
            finally:
                self.replays.add(organization_id, -1)


def _turned_away(detail: str) -> Problem:
    metrics.turned_away.inc()
    return unavailable(detail, 429, "too_many_waiting")


class Room:
    """A reader's place among those that wait, and the memory of its pages. To be entered, once it is used.

    Raises `Problem` 429 where the organization has as many places, or as much memory, as it may.
    """

    def __init__(self, waiting: Waiting, organization_id: UUID) -> None:
        self._waiting = waiting
        self._organization_id = organization_id
        self._held_bytes = 0

    def __enter__(self) -> "Room":
        if not self._waiting.readers.take(self._organization_id):
            raise _turned_away("The organization has too many readers waiting already.")
        return self

    def __exit__(self, *_: object) -> None:
        self.holds(0)
        self._waiting.readers.add(self._organization_id, -1)

    async def reserve(self) -> None:
        """Before a page is read: what it may take."""
        self.holds(0)
        if not await self._waiting.memory.taken(self._organization_id, PAGE_BYTES, PATIENCE_S):
            raise _turned_away("The organization's readers leave too many pages unread.")
        self._held_bytes = PAGE_BYTES

    def holds(self, size_bytes: int) -> None:
        """What a page takes, now that it is here. The largest that there is may be larger than what was reserved."""
        if size_bytes != self._held_bytes:
            self._waiting.memory.add(self._organization_id, size_bytes - self._held_bytes)
            self._held_bytes = size_bytes


class Page(Response, Generic[Answer]):
    """A page of JSON, in pieces: read when there is room for it, which it takes until its reader has all of it.

    Raises `Problem`, and answers nothing, where there is no room or *read* does.
    """

    def __init__(self, room: Room, read: Callable[[], Awaitable[list[bytes]]]) -> None:
        super().__init__()
        self._room = room
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._room:
            pieces = await self._read()
            size = sum(map(len, pieces))
            self._room.holds(size)
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for piece in gathered(pieces):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            # The server takes this one when what it has is nearly written: not before then is the room given back.
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_page(room: Room, read: Callable[[], Awaitable[Answer]]) -> Page[Answer]:
    """What *read* gives as JSON, in *room*."""

    async def encoded() -> list[bytes]:
        await room.reserve()
        return [msgspec.json.encode(await read())]

    return Page(room, encoded)


class Stream(StreamingResponse):
    """Server-sent events, or what else is sent piece by piece, for as long as its reader has its place."""

    def __init__(self, room: Room, events: AsyncGenerator[bytes, None], media_type: str = "text/event-stream") -> None:
        super().__init__(events, media_type=media_type, headers={"x-accel-buffering": "no"})
        self._room = room
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._room:
            async with contextlib.aclosing(self._events):
                await self._begin()
                await super().__call__(scope, receive, send)

    async def _begin(self) -> None:
        """Before anything is answered."""


def gathered(parts: Iterable[bytes]) -> Iterator[bytes]:
    """*parts* in pieces of PIECE_BYTES or little more; a part is never cut."""
    some: list[bytes] = []
    size = 0
    for part in parts:
        some.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            yield b"".join(some)
            some, size = [], 0
    if some:
        yield b"".join(some)
