"""Tables as CSV files (RFC 4180), written page by page: as much is in memory as a page takes."""

import contextlib
import csv
import io
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import datetime

from ..envelope import timestamp
from ..web.waiting import Room, Stream, gathered
from .rendering import HEADERS

# What a spreadsheet takes for a formula, which may send elsewhere what stands beside it. A quote is its sign for text.
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_export(
    room: Room, name: str, columns: Sequence[str], pages: AsyncGenerator[Iterable[Sequence[object]], None]
) -> Stream:
    """*pages* of rows below *columns* as a file of that *name*. Room for each page is taken before it is read."""
    answer = Stream(room, _pieces(room, columns, pages), media_type="text/csv; charset=utf-8")
    answer.headers.update(HEADERS)
    answer.headers["content-disposition"] = f'attachment; filename="{name}.csv"'
    return answer


async def _pieces(
    room: Room, columns: Sequence[str], pages: AsyncGenerator[Iterable[Sequence[object]], None]
) -> AsyncGenerator[bytes, None]:
    yield csv_line(columns)
    async with contextlib.aclosing(pages):
        while True:
            await room.reserve()
            if (page := await anext(pages, None)) is None:
                return
            lines = [csv_line(row) for row in page]
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
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
