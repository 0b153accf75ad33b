"""Run the servers side by side, load them in turn, print a table and write bench/results.json."""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import report
from .contenders import Contenders, start_all
from .databases import rows
from .load import Target, flat_out, paced
from .processes import ROOT

RESULTS = ROOT / "bench" / "results.json"
PARTS = ("ingest", "send", "ack", "idle")
ACK_RATES = (300, 1000)  # webhooks a second; reliability.md IN-2 names the second
ACK_SECONDS = 10  # 300 a second for less would hang p99 on a handful of answers
WARM_UP_S = 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="length of one run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server, in turn (default %(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="open at once (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    parser.add_argument("--baselines", action="store_true", help="leave the service out")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, not as a table")
    options = parser.parse_args(arguments)
    # Not the system's temporary folder: where that is memory, a flush to disk costs and proves nothing.
    (ROOT / ".data").mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=ROOT / ".data") as folder, ExitStack() as stack:
        results = measure(start_all(Path(folder), stack, not options.baselines), options)
    text = json.dumps(results, indent=2)
    RESULTS.write_text(text + "\n")
    print(text if options.json else report.table(results))


def measure(contenders: Contenders, options: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for, as bench/results.json holds them."""
    loaded: dict[str, report.Rounds] = {}
    before = unclaimed(contenders, "events")
    if "ingest" in options.only:
        loaded["ingest"] = alternate(contenders.ingest, options)
    if "ack" in options.only:
        loaded["ack"] = acks(contenders.ingest, options)
    ingest_gained = unclaimed(contenders, "events") - before  # counted before the sends, which make events too
    before = unclaimed(contenders, "messages")
    if "send" in options.only:
        loaded["send"] = alternate(contenders.send, options)
    send_gained = unclaimed(contenders, "messages") - before
    ratios = {
        f"{part}_vs_{other}": report.ratio(loaded.get(part, {}), "service", other)
        for part in ("ingest", "send")
        for other in ("bare", "refinement")
    }
    acked = report.figures(loaded.get("ack", {}))
    return {
        **{name: value and value["median"] for name, value in ratios.items()},
        **{f"ack_p99_ms_at_{rate}": acked.get(f"service at {rate}", {}).get("p99_ms") for rate in ACK_RATES},
        "idle_rss_mb": contenders.rss_mb.get("service"),
        "ingest_lost": max(0, -ingest_gained),
        "sends_lost": max(0, -send_gained),
        # What was under way when a run's time was up is stored and never counted as answered.
        "ingest_stored_unanswered": max(0, ingest_gained),
        "sends_stored_unanswered": max(0, send_gained),
        "ratios": ratios,
        "rss_mb": contenders.rss_mb,
        **{part: report.figures(rounds) for part, rounds in loaded.items()},
        "machine": report.machine(),
        "options": vars(options),
    }


def alternate(targets: dict[str, Target], options: argparse.Namespace) -> report.Rounds:
    """Each target once a round, after a warm-up, so that the machine's other work hits all alike."""
    for target in targets.values():
        flat_out(target, WARM_UP_S, options.connections)
    turns = [
        {name: flat_out(target, options.seconds, options.connections) for name, target in targets.items()}
        for _ in range(options.rounds)
    ]
    return {name: [turn[name] for turn in turns] for name in targets}


def acks(targets: dict[str, Target], options: argparse.Namespace) -> report.Rounds:
    """How long a webhook waits for its answer at rates that leave the servers idle most of the time."""
    runs: report.Rounds = {}
    for rate in ACK_RATES:
        for name in ("refinement", "service"):
            if name in targets:
                paced(targets[name], rate, WARM_UP_S, options.connections)
                runs[f"{name} at {rate}"] = [paced(targets[name], rate, ACK_SECONDS, options.connections)]
    return runs


def unclaimed(contenders: Contenders, table: str) -> int:
    """Rows the service holds beyond those it answered for. Falls where it answered and stored nothing."""
    if contenders.service_database is None:
        return 0
    target = (contenders.ingest if table == "events" else contenders.send)["service"]
    return rows(contenders.service_database, table) - target.accepted


if __name__ == "__main__":
    main()
