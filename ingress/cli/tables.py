"""What commands show on a terminal: tables, and how far they are."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

BAR = 40


def table(rows: Iterable[Mapping[str, Any]], *columns: str) -> list[str]:
    """Lines of aligned columns under their names; absent is a dash."""
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (columns, *cells)]


def _cell(value: object) -> str:
    return "-" if value in (None, "") else str(value)


def progress(text: str) -> None:
    """On a line of its own, where a person looks on."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def bar(what: str, done: int, total: int) -> None:
    """*what* is done of how much, as `progress`; nothing once it is all."""
    share = min(done / total, 1) if total else 1
    filled = "#" * round(share * BAR)
    progress(f"{what} [{filled:{BAR}}] {done} of {total}" if share < 1 else "")
