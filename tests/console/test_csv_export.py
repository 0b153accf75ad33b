"""CSV: what spreadsheets calculate, and what a long file takes of memory."""

import csv
import io
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import UTC, datetime

import pytest

from ingress.console.csv_export import csv_export, csv_line
from ingress.identifiers import new_id
from ingress.storage.pages import PAGE_BYTES
from ingress.web.waiting import PIECE_BYTES, Waiting

CALCULATED = [
    "=1+1",
    "+5511987654321",
    "-2",
    "@SUM(A1)",
    "\t1",
    "\r1",
    "\n1",
    " =1",
    "\uff1d1",
    '=HYPERLINK("x","y")',
]
PLAIN = ["", "a=b", "a; b", "5-3", 'say "hi", twice', "two\nlines", "Olá, 世界", "'=1"]


def cells(line: bytes) -> list[str]:
    [row] = csv.reader(io.StringIO(line.decode(), newline=""))
    return row


@pytest.mark.parametrize("text", CALCULATED)
def test_no_text_is_a_formula(text: str) -> None:
    """A name that somebody on WhatsApp gave themselves is run by nobody's spreadsheet."""
    assert cells(csv_line(["before", text])) == ["before", f"'{text}"]


@pytest.mark.parametrize("between", [";", "\t", "\n", "; "])
def test_no_part_of_a_text_is_a_formula(between: str) -> None:
    """Where commas stand in decimals a spreadsheet has these between cells, or rows, and a quote ends nothing."""
    assert cells(csv_line([f'said"{between}=1+1'])) == [f"said\"{between[0]}'{between[1:]}=1+1"]


def test_other_values_are_as_they_are() -> None:
    at = datetime(2026, 11, 30, 7, 0, 0, 123456, UTC)
    line = csv_line([*PLAIN, None, -3, 0.5, at])
    assert cells(line) == [*PLAIN, "", "-3", "0.5", "2026-11-30T07:00:00.123Z"]
    assert line.endswith(b"\r\n")
    assert csv_line(["\ud83d"]) == b"?\r\n", "half a character is no reason to break off a file"


async def test_a_page_is_read_when_the_one_before_was_taken() -> None:
    """However long the file is, the process has one page of it, which is counted."""
    waiting, read = Waiting(), list[int]()

    async def pages() -> AsyncGenerator[Iterable[Sequence[object]], None]:
        for number in range(3):
            assert waiting.memory.held == PAGE_BYTES, "room is taken before a page is read"
            read.append(number)
            yield [(number, "x" * 1000)] * 200

    room = waiting.room(new_id())
    answer = csv_export(room, "audit", ["number", "text"], pages())
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    pieces, held = list[bytes](), list[int]()
    with room:
        async for piece in answer.body_iterator:
            assert isinstance(piece, bytes)
            assert len(piece) <= PIECE_BYTES + 2000
            pieces.append(piece)
            held.append(waiting.memory.held)
            assert len(read) <= 1 + sum(map(len, pieces)) // 200_000
    assert max(held) < 210_000
    assert waiting.memory.held == 0
    rows = list(csv.reader(io.StringIO(b"".join(pieces).decode())))
    assert rows[0] == ["number", "text"]
    assert [row[0] for row in rows[1:]] == ["0"] * 200 + ["1"] * 200 + ["2"] * 200
