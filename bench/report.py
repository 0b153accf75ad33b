"""Figures from runs: medians over the rounds, ratios within a round, a table, a file."""

import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

from .load import WRK, MeasuredRun
from .provider import NGINX

Rounds = dict[str, list[MeasuredRun]]  # by server, in the order they ran


def figures(rounds: Rounds) -> dict[str, Any]:
    return {
        name: {
            "connections": [run.connections for run in runs],
            "rps": round(median(run.rate for run in runs)),
            "p50_ms": round(median(run.p50_ms for run in runs), 2),
            "p99_ms": round(median(run.p99_ms for run in runs), 2),
            "cpu_us": round(median(run.cpu_us for run in runs), 1),
            "refused": sum(run.refused for run in runs),
            "broken": sum(run.broken for run in runs),
            "rounds_rps": [round(run.rate) for run in runs],
        }
        for name, runs in rounds.items()
    }


def ratio(rounds: Rounds, ours: str, theirs: str, of: str = "rate") -> dict[str, float] | None:
    """Requests per second (or what else a run has) of *ours* over *theirs*, each round by itself; None where one was
    not measured.
    """
    if ours not in rounds or theirs not in rounds:
        return None
    each = [getattr(a, of) / getattr(b, of) for a, b in zip(rounds[ours], rounds[theirs], strict=True)]
    return {"median": round(median(each), 3), "min": round(min(each), 3), "max": round(max(each), 3)}


def machine() -> dict[str, Any]:
    cpu = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "generator": "wrk" if WRK else "own",
        "load_before": round(os.getloadavg()[0], 2),  # well above 0: somebody else was at work
        "provider": "nginx" if NGINX else "uvicorn",
    }


def table(results: dict[str, Any]) -> str:
    lines = ["{cpu}, {cores} cores, load before {load_before}, {generator}".format(**results["machine"])]
    for part in ("ingest", "send", "ack"):
        if rows := results.get(part):
            heads = f"{'connections':>14}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}{'refused':>9}{'broken':>8}"
            lines += ["", f"{part:<22}{heads}"]
            lines += [
                f"  {name:<20}{' '.join(map(str, row['connections'])):>14}{row['rps']:>9,}{row['p50_ms']:>9.2f}"
                f"{row['p99_ms']:>9.2f}{row['cpu_us']:>9.1f}{row['refused']:>9}{row['broken']:>8}"
                for name, row in rows.items()
            ]
    for name, value in results["ratios"].items():
        if value:
            lines.append(f"{name:<26}{value['median']:>7.2f}   ({value['min']:.2f} to {value['max']:.2f})")
    if rows := results.get("paths"):
        lines += ["", f"{'fast path, part':<26}{'CPU µs':>9}{'without':>9}{'it saves':>10}"]
        for name, row in rows.items():
            saved = {of: f"{1 - value:.1%}" for of, value in row["ratio"].items()}
            lines.append(
                f"  {name:<24}{row['with_cpu_us']:>9.1f}{row['without_cpu_us']:>9.1f}{saved['median']:>10}"
                f"   ({saved['max']} to {saved['min']})"
            )
    for name in ("ingest", "sends"):
        if f"{name}_lost" in results:
            lines.append(f"{name + ' lost':<26}{results[f'{name}_lost']:>7}   of {results[f'{name}_accepted']:,}")
    for name, value in results["rss_mb"].items():
        lines.append(f"{name + ' RSS, MB':<26}{value:>7}")
    return "\n".join(lines)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
