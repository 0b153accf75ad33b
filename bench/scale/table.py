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
    others = [row for row in kept(about) if row["part"] not in parts]
    RESULTS.write_text(json.dumps([*others, *[asdict(row) | {"about": about} for row in rows]], indent=2) + "\n")


def kept(about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of every part, each from when it was last measured at that size."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return [row for row in rows if row["about"]["events"] == about["events"]]


def about(events: int, organizations: int) -> dict[str, Any]:
    return {"events": events, "organizations": organizations, "machine": machine()}


def text(rows: list[dict[str, Any]]) -> str:
    width = max(len(row["what"]) for row in rows)
    lines = [f"{'':{width}}  {'must be':16} {'aim':12} found"]
    return "\n".join(
        lines + [f"{row['what']:{width}}  {row['must']:16} {row['aim']:12} {row['found']}" for row in rows]
    )


def document(rows: list[dict[str, Any]]) -> None:
    """Write the table into docs/capacity.md, between its marks."""
    about = rows[-1]["about"]
    lines = [
        f"{about['events']:,} events, {about['organizations']:,} organizations; {about['machine']['cpu']},"
        f" {about['machine']['cores']} cores, load before {about['machine']['load_before']}.",
        "",
        "| what | must be | aim | found |",
        "|---|---|---|---|",
        *(f"| {row['what']} | {row['must']} | {row['aim']} | {row['found']} |" for row in rows),
        "",
    ]
    written = re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}",
        lambda _: BEGIN + "\n" + "\n".join(lines) + END,
        DOCUMENT.read_text(),
        flags=re.DOTALL,
    )
    DOCUMENT.write_text(written)
