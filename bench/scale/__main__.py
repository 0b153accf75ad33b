"""Seed a database of a given size, measure on it and on a new one in the same run, and print the table.

Settings of the environment: SIZE (events), ORGANIZATIONS, PARTS (comma-separated), SECONDS (of a run).
"""

import contextlib
import os
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from ..processes import ROOT
from . import background, backlog, erasure, lifetime, processes, reads, table, traffic
from .bench import Bench, begun, setting
from .seeding import Sizes

FULL_SIZE = 8_000_000
# In this order: the last ones leave the large database other than they found it.
PARTS = {
    "reads": reads.measure,
    "background": background.measure,
    "kept": traffic.kept,
    "wal": traffic.wal,
    "rates": traffic.rates,
    "organizations": traffic.organizations,
    "connections": processes.connections,
    "erasure": erasure.measure,
    "recovery": backlog.recovery,
    "drain": backlog.drain,
    "processes": processes.processes,
    "month": lifetime.month,
    "keys": lifetime.keys,
}


def main() -> None:
    parts = os.environ.get("PARTS", ",".join(PARTS)).split(",")
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"no such parts: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    sizes = Sizes(setting("SIZE", FULL_SIZE), setting("ORGANIZATIONS", 1_000))
    about = table.about(sizes.events, sizes.organizations)
    (ROOT / ".data").mkdir(exist_ok=True)
    failed = []
    with TemporaryDirectory(prefix="scale-", dir=ROOT / ".data") as folder:
        began = perf_counter()
        with begun(Path(folder), sizes) as bench:
            print(f"filled in {perf_counter() - began:.0f} s", flush=True)
            for part in (name for name in PARTS if name in parts):
                began = perf_counter()
                if not _is_measured(bench, part, about):
                    failed.append(part)
                print(f"  ({part} took {perf_counter() - began:.0f} s)", flush=True)
    found = table.kept()
    print("\n" + table.text(found))
    if sizes.events >= FULL_SIZE:
        table.document(found)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def _is_measured(bench: Bench, part: str, about: dict[str, Any]) -> bool:
    """Measure a part; one that fails takes none of the others with it, which are worth the hour that it took so far."""
    rows = []
    with contextlib.ExitStack() as stack:
        stack.push(_printed)
        for row in PARTS[part](bench):
            rows.append(row)
            print(f"{row.what}: {row.found}", flush=True)
        table.add(rows, about)
        return True
    return False


def _printed(_: object, error: BaseException | None, __: object) -> bool:
    """Whether *error* is only printed."""
    if isinstance(error, Exception):
        traceback.print_exception(error)
    return isinstance(error, Exception)


if __name__ == "__main__":
    main()
