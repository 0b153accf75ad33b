"""Run the servers side by side, load them in turn, print a table and write bench/results.json."""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import report
from .contenders import Contenders, start_all
from .databases import rows
from .load import LoadTarget, flat_out, paced
from .processes import ROOT
from .without import PATHS

RESULTS = ROOT / "bench" / "results.json"
PARTS = ("ingest", "send", "ack", "idle", "paths")
ACK_RATES = (300, 1000)  # webhooks a second; a busy number's, and ten busy numbers'
ACK_SECONDS = 10  # 300 a second for less would hang p99 on a handful of answers
WARM_UP_S = 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="length of one run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server, in turn (default %(default)s)")
    parser.add_argument(
        "--connections",
        type=int,
        nargs="+",
        default=[64, 128],
        help="open at once; of several numbers, each server counts at its best (default: 64 128)",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    parser.add_argument("--baselines", action="store_true", help="leave the service out")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, not as a table")
    options = parser.parse_args(arguments)
    # Not the system's temporary folder: where that is memory, a flush to disk costs and proves nothing.
    (ROOT / ".data").mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=ROOT / ".data") as folder, ExitStack() as stack:
        about = {"machine": report.machine(), "options": vars(options)}
        results = measure(start_all(Path(folder), stack, not options.baselines), options) | about
    text = json.dumps(results, indent=2)
    RESULTS.write_text(text + "\n")
    print(text if options.json else report.table(results))


def measure(contenders: Contenders, options: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for, as bench/results.json holds them. None: not measured."""
    loaded: dict[str, report.Rounds] = {}
    if "ingest" in options.only:
        loaded["ingest"] = alternate(contenders.ingest, options)
    if "send" in options.only:
        loaded["send"] = alternate(contenders.send, options)
    if "ack" in options.only:
        loaded["ack"] = acks(contenders.ingest, options)
    ratios = {
        f"{part}_vs_{other}": report.ratio(loaded.get(part, {}), "service", other)
        for part in ("ingest", "send")
        for other in ("bare", "refinement")
    }
    ratios |= {
        f"{part}_cpu_vs_bare": report.ratio(loaded.get(part, {}), "service", "bare", "cpu_us")
        for part in ("ingest", "send")
    }
    parts = {part: report.figures(rounds) for part, rounds in loaded.items()}
    acked = parts.get("ack", {})
    if "paths" in options.only and contenders.service_database:
        parts["paths"] = paths(contenders, options)
    return {
        **{name: value and value["median"] for name, value in ratios.items()},
        **{f"ack_p99_ms_at_{rate}": acked.get(f"service at {rate}", {}).get("p99_ms") for rate in ACK_RATES},
        "idle_rss_mb": contenders.rss_mb.get("service"),
        **balance(contenders),
        "ratios": ratios,
        "rss_mb": contenders.rss_mb,
        **parts,
    }


def alternate(targets: dict[str, LoadTarget], options: argparse.Namespace) -> report.Rounds:
    """The best of each target in each round, after a warm-up; in turn, so that the machine's other work hits all alike.

    At its best: a handler that only answers is full with few requests in flight, and slower with many; one that
    waits for a disk is not full with few. One number for all would favour one of them.
    """
    for target in targets.values():
        flat_out(target, WARM_UP_S, max(options.connections))
    turns = [
        {
            name: max((flat_out(target, options.seconds, many) for many in options.connections), key=attrgetter("rate"))
            for name, target in targets.items()
        }
        for _ in range(options.rounds)
    ]
    return {name: [turn[name] for turn in turns] for name in targets}


def acks(targets: dict[str, LoadTarget], options: argparse.Namespace) -> report.Rounds:
    """How long a webhook waits for its answer at rates that leave the servers idle most of the time."""
    runs: report.Rounds = {}
    for rate in ACK_RATES:
        for name in ("refinement", "service"):
            if name in targets:
                paced(targets[name], rate, WARM_UP_S, options.connections[0])
                runs[f"{name} at {rate}"] = [paced(targets[name], rate, ACK_SECONDS, options.connections[0])]
    return runs


def paths(contenders: Contenders, options: argparse.Namespace) -> dict[str, Any]:
    """What each fast path saves of the CPU of a request: the service with it and without it, both new, in turn.

    Many short turns: what else the machine does changes within seconds, and CPU is counted however busy it is.
    """
    turns = {"connections": options.connections[:1], "rounds": 3 * options.rounds, "seconds": -(-options.seconds // 3)}
    found = {}
    for path, (_, parts) in PATHS.items():
        with contenders.services(None, path) as (whole, without):
            for part in parts:
                both = {"with": whole[part], "without": without[part]}
                rounds = alternate(both, argparse.Namespace(**vars(options) | turns))
                found[f"{path}, {part}"] = {
                    **{f"{name}_cpu_us": row["cpu_us"] for name, row in report.figures(rounds).items()},
                    "ratio": report.ratio(rounds, "with", "without", "cpu_us"),
                }
    return found


def balance(contenders: Contenders) -> dict[str, int]:
    """What the service accepted in all runs, and how much of that its database does not hold.

    It may hold more: wrk hangs up when its time is over, and what was under way then is stored all the same.
    """
    found: dict[str, int] = {}
    for name, targets, stored in (
        ("ingest", contenders.ingest, "events where type = 'message.received'"),
        ("sends", contenders.send, "messages where state = 'done' and status = 'sent'"),
    ):
        if contenders.service_database is not None:
            accepted = targets["service"].accepted
            found[f"{name}_accepted"] = accepted
            found[f"{name}_lost"] = max(0, accepted - rows(contenders.service_database, stored))
    return found


if __name__ == "__main__":
    main()
