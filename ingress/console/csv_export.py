"""Tables as CSV files (RFC 4180), written page by page: as much is in memory as a page takes."""

import csv
import io
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import datetime

from ..envelope import timestamp
from ..web.files import NDJSON, FileStream, pieces
from ..web.waiting import Room
from .rendering import HEADERS

# Before what a spreadsheet takes for a formula, which may send elsewhere what stands beside it: there goes a quote, its
# sign for text. https://owasp.org/www-community/attacks/CSV_Injection
# Within a text, too: in much of the world semicolons stand between cells, and our commas and quotes mean nothing.
_FORMULA = re.compile(r"(?:^|(?<=[;\t\r\n]))(?= *[=+\-@\uff1d\uff0b\uff0d\uff20])|^(?= *[\t\r\n])")


def csv_export(
    room: Room, name: str, columns: Sequence[str], pages: AsyncGenerator[Iterable[Sequence[object]], None]
) -> FileStream:
    """*pages* of rows below *columns* as a file of that *name*. Room for each page is taken before it is read."""
    lines = pieces(room, pages, csv_line, csv_line(columns))
    return _file(FileStream(room, f"{name}.csv", "text/csv; charset=utf-8", lines))


def ndjson_export(room: Room, name: str, pages: AsyncGenerator[Iterable[bytes], None]) -> FileStream:
    """The same of *pages* of lines that are JSON."""
    return _file(FileStream(room, f"{name}.ndjson", NDJSON, pieces(room, pages, bytes)))


def _file(answer: FileStream) -> FileStream:
    answer.headers.update(HEADERS)
    return answer


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
