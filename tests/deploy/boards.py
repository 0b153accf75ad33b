"""The boards of k8s/components/monitoring/dashboards, and what their panels ask."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

MONITORING = Path(__file__).parents[2] / "k8s" / "components" / "monitoring"
BOARDS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((MONITORING / "dashboards").glob("*.json"))}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """But for the rows that part them."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def asked(language: str) -> Iterator[tuple[str, str]]:
    """What each panel, annotation and variable asks in *language*, `expr` or `rawSql`, by where that is."""
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}: {target['refId']}", target.get(language, "")
        for annotation in board["annotations"]["list"]:
            yield f"{name}: {annotation['name']}", annotation.get("target", annotation).get(language, "")
        for variable in board["templating"]["list"]:
            if language == "rawSql" and variable["type"] == "query" and isinstance(variable["query"], str):
                yield f"{name}: ${variable['name']}", variable["query"]


def statements(organization_id: str, hours: float = 3) -> dict[str, str]:
    """Each statement for PostgreSQL, with Grafana's macros as it would fill them in for the last *hours*."""
    until = datetime.now(UTC)
    since = until - timedelta(hours=hours)
    macros = {
        r"\$__timeFilter\(([\w.]+)\)": rf"\1 between '{since.isoformat()}' and '{until.isoformat()}'",
        r"\$__timeFrom\(\)": f"'{since.isoformat()}'",
        r"\$__timeTo\(\)": f"'{until.isoformat()}'",
        r"\$__unixEpochFrom\(\)": str(int(since.timestamp())),
        r"\$__unixEpochTo\(\)": str(int(until.timestamp())),
        r"\$organization\b": organization_id,
    }
    filled = {where: text for where, text in asked("rawSql") if text}
    for macro, value in macros.items():
        filled = {where: re.sub(macro, value, text) for where, text in filled.items()}
    return filled
