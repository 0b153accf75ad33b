"""Prove, by a run, a state machine and mutations, that changing the provider loses nothing. Exit 1: it is not so."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from rich.console import Console

from . import figures, mutants
from .load import Plan

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "prove" / "results.json"
# Tests that go on for longer here: the counts that say how long.
TESTS = {
    "machine": ("State machine", mutants.MACHINE, ("examples", "steps")),
    "races": ("32 who expect the same version", mutants.RACE, ("rounds",)),
    "troubles": ("Switches in each of 5 troubles of Redis and of notifications", mutants.TROUBLES, ("troubles",)),
    "deaths": ("Processes killed in a switch, at each of 4 moments", mutants.DEATHS, ("deaths",)),
}
PARTS = ("run", *TESTS, "mutants")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m prove", description=__doc__)
    parser.add_argument("--seconds", type=float, default=84, help="length of the run (default %(default)s)")
    parser.add_argument("--sends", type=int, default=5_000, help="(default %(default)s)")
    parser.add_argument("--webhooks", type=int, default=8_400, help="(default %(default)s)")
    parser.add_argument("--switches", type=int, default=340, help="asked for; most are made (default %(default)s)")
    parser.add_argument("--kills", type=int, default=20, help="of processes (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what the clients do (default %(default)s)")
    parser.add_argument("--examples", type=int, default=100, help="of the state machine (default %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="of each example (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="of 32 who want one version (default %(default)s)")
    parser.add_argument("--troubles", type=int, default=10, help="switches in each of 5 (default %(default)s)")
    parser.add_argument("--deaths", type=int, default=5, help="at each moment of a switch (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts (default: all)")
    options = parser.parse_args(arguments)
    console = Console()
    results: dict[str, Any] = {"options": vars(options)}
    wrong: list[str] = []
    if "run" in options.only:
        plan = Plan(options.seconds, options.sends, options.webhooks, options.switches, options.kills, options.seed)
        # Not the system's temporary folder: where that is memory, a commit is no commit.
        (ROOT / ".data").mkdir(exist_ok=True)
        with TemporaryDirectory(prefix="prove-", dir=ROOT / ".data") as folder:
            history, found = asyncio.run(figures.measured(Path(folder), plan))
        judged = figures.judged(found, plan)
        results["run"] = found | {"limits": msgspec.to_builtins(judged)}
        wrong += found["violations"]
        wrong += [f"{each.what}: {each.shown}, where {each.bound} is the limit" for each in judged if each.is_missed]
        console.print(figures.table(found, plan))
        if wrong:
            kept = ROOT / ".data" / "prove-history.json"
            kept.write_bytes(figures.encoded(history))
            console.print(f"The history is in {kept.relative_to(ROOT)}.")
    for part, (what, test, counts) in TESTS.items():
        if part in options.only:
            given = {name: getattr(options, name) for name in counts}
            environment = {f"PROVE_{name.upper()}": str(count) for name, count in given.items()}
            status, line = mutants.run_tests(ROOT, (test,), None, **environment)
            results[part] = {**given, "result": line}
            wrong += [f"{what}: {line}"] if status else []
            console.print(f"{what}, {', '.join(f'{count} {name}' for name, count in given.items())}: {line}")
    if "mutants" in options.only:
        with TemporaryDirectory(prefix="mutants-") as folder:
            alive, table = mutants.survivors(Path(folder))
        results["mutants"] = {"tried": len(mutants.MUTANTS), "survivors": alive}
        wrong += alive
        console.print(table)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    for line in wrong:
        console.print(line, style="red", markup=False)
    console.print(f"{len(wrong)} violations" if wrong else "No violation, every limit kept.", style="bold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
