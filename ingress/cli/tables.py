"""Tables on a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any


def table(rows: Iterable[Mapping[str, Any]], *columns: str) -> list[str]:
    """Lines of aligned columns under their names; absent is a dash."""
    cells = [[str(row[name]) if row.get(name) not in (None, "") else "-" for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (columns, *cells)]
