"""Tables as CSV files (RFC 4180), written page by page: as much is in memory as a page takes."""

import contextlib
import csv
import io
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from ..envelope import timestamp
from ..web.waiting import Room, Stream, gathered
from .rendering import HEADERS

Row = TypeVar("Row")

# Before what a spreadsheet takes for a formula, which may send elsewhere what stands beside it: there goes a quote, its
# sign for text. https://owasp.org/www-community/attacks/CSV_Injection
# Within a text, too: in much of the world semicolons stand between cells, and our commas and quotes mean nothing.
_FORMULA = re.compile(r"(?:^|(?<=[;\t\r\n]))(?= *[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?= *[\t\r\n])")


def csv_export(
    room: Room, name: str, columns: Sequence[str], pages: AsyncGenerator[Iterable[Sequence[object]], None]
) -> Stream:
    """*pages* of rows below *columns* as a file of that *name*. Room for each page is taken before it is read."""
    return _file(room, f"{name}.csv", "text/csv; charset=utf-8", _pieces(room, pages, csv_line, csv_line(columns)))


def ndjson_export(room: Room, name: str, pages: AsyncGenerator[Iterable[bytes], None]) -> Stream:
    """The same of *pages* of lines that are JSON."""
    return _file(room, f"{name}.ndjson", "application/x-ndjson", _pieces(room, pages, bytes))


def _file(room: Room, name: str, media_type: str, pieces: AsyncGenerator[bytes, None]) -> Stream:
    answer = _File(room, pieces, media_type=media_type)
    answer.headers.update(HEADERS)
    answer.headers["content-disposition"] = f'attachment; filename="{name}"'
    return answer


class _File(Stream):
    """Its first page is read before anything is answered: a cursor that is none is a problem, and no broken file."""

    async def _begin(self) -> None:
        self.body_iterator = _continued(await anext(self._events), self._events)


async def _continued(first: bytes, others: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in others:
        yield piece


async def _pieces(
    room: Room, pages: AsyncGenerator[Iterable[Row], None], line: Callable[[Row], bytes], first: bytes = b""
) -> AsyncGenerator[bytes, None]:
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


def csv_line(row: Iterable[object]) -> bytes:
    """*row* as a line from which no spreadsheet calculates anything."""
    text = io.StringIO()
    csv.writer(text).writerow(map(_cell, row))
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = timestamp(value) if isinstance(value, datetime) else str(value)
    return _FORMULA.sub("'", text)
