"""Files that are written page by page: as much is in memory as a page takes."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import TypeVar

from .waiting import Room, Stream, gathered

Row = TypeVar("Row")

NDJSON = "application/x-ndjson"


class FileStream(Stream):
    """A file of that *name*. Its first page is read before anything is answered: so what is wrong is a problem."""

    def __init__(self, room: Room, name: str, media_type: str, pieces: AsyncGenerator[bytes, None]) -> None:
        super().__init__(room, pieces, media_type=media_type)
        self.headers["content-disposition"] = f'attachment; filename="{name}"'

    async def _begin(self) -> None:
        self.body_iterator = _continued(await anext(self._events), self._events)


async def _continued(first: bytes, others: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in others:
        yield piece


async def pieces(
    room: Room, pages: AsyncGenerator[Iterable[Row], None], line: Callable[[Row], bytes], first: bytes = b""
) -> AsyncGenerator[bytes, None]:
    """*first* and then a *line* for each row of *pages*. Room for each page is taken before it is read."""
    async with contextlib.aclosing(pages):
        page: Iterable[Row] | None = ()
        while page is not None:
            await room.reserve()
            page = await anext(pages, None)
            lines = [first, *map(line, page or ())]
            first = b""
            room.holds(sum(map(len, lines)))
            for piece in gathered(lines):
                yield piece
            yield b""  # taken when what was before it is nearly written, and with it the page's memory
