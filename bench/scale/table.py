"""The table: what was measured beside what it must be and what it should be, printed and written into the documents."""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from ..processes import ROOT
from ..report import machine

RESULTS = ROOT / "bench" / "scale.json"
DOCUMENT = ROOT / "docs" / "capacity.md"
BEGIN, END = "<!-- written by `make scale` -->\n", "<!-- end of what `make scale` writes -->"


@dataclass
class Row:
    """*found* says it in words, *figures* hold the numbers behind it; *must*: worse than that is a defect."""

    part: str
    what: str
    found: str
    must: str = ""
    aim: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def add(rows: list[Row], about: dict[str, Any]) -> None:
    """Keep *rows*, in place of those of their parts that were measured before."""
    parts = {row.part for row in rows}
    others = [row for row in kept() if row["part"] not in parts]
    RESULTS.write_text(json.dumps([*others, *[asdict(row) | {"about": about} for row in rows]], indent=2) + "\n")


def kept() -> list[dict[str, Any]]:
    """The rows of every part, each from when it was measured last."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return rows


def about(events: int, organizations: int) -> dict[str, Any]:
    return {"events": events, "organizations": organizations, "machine": machine()}


def text(rows: list[dict[str, Any]]) -> str:
    width = max(len(row["what"]) for row in rows)
    lines = [f"{'':{width}}  {'events':>9}  {'must be':16} {'aim':12} found"]
    for row in rows:
        events = f"{row['about']['events']:,}"
        lines.append(f"{row['what']:{width}}  {events:>9}  {row['must']:16} {row['aim']:12} {row['found']}")
    return "\n".join(lines)


def document(rows: list[dict[str, Any]]) -> None:
    """Write the table into docs/capacity.md, between its marks."""
    machine = rows[-1]["about"]["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load before {machine['load_before']}.",
        "",
        "| what | events | must be | aim | found |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = row["what"], f"{row['about']['events']:,}", row["must"], row["aim"], row["found"]
        lines.append(f"| {' | '.join(cells)} |")
    written = re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: BEGIN + "\n" + "\n".join(lines) + "\n\n" + END,
        DOCUMENT.read_text(),
        flags=re.DOTALL,
    )
    DOCUMENT.write_text(written)
