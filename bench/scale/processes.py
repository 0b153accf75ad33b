"""Connections of a process, and two processes against one."""

import threading
import time
from collections.abc import Iterator
from statistics import median

from ..load import MeasuredRun, flat_out, paced
from .bench import Bench, query, setting
from .table import Row
from .traffic import CONNECTIONS, ROUNDS, WARM_UP_S, big_targets

_OPEN = """
select count(*) from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"""
IDLE_S = 20
RATE = 300


def connections(bench: Bench) -> Iterator[Row]:
    """Those of one process, when it has had nothing to do for a while, and the most under load."""
    seconds = setting("SECONDS", 5)
    with bench.full.served() as server:
        targets = big_targets(bench, "connections", server)
        time.sleep(IDLE_S)
        idle, busy = query(bench.full, _OPEN), 0
        loads = [threading.Thread(target=flat_out, args=(target, seconds, CONNECTIONS)) for target in targets]
        for load in loads:
            load.start()
        while any(load.is_alive() for load in loads):
            busy = max(busy, query(bench.full, _OPEN))
            time.sleep(0.2)
    figures = {"idle": idle, "busy": busy}
    yield Row("connections", "connections of a process, idle and busy", f"{idle}, {busy}", "10, 16", "6, 10", figures)


def processes(bench: Bench) -> Iterator[Row]:
    """CPU of all processes for a webhook, at one rate."""
    turns: dict[str, list[MeasuredRun]] = {"1": [], "2": []}
    for _ in range(ROUNDS):
        for count, runs in turns.items():
            with bench.full.served("--processes", count) as server:
                target = big_targets(bench, f"processes-{count}", server).webhook
                paced(target, RATE, WARM_UP_S, CONNECTIONS)
                runs.append(paced(target, RATE, setting("SECONDS", 5), CONNECTIONS))
    each = {count: median(run.cpu_us for run in runs) for count, runs in turns.items()}
    ratio = each["2"] / each["1"]
    said = f"{ratio:.2f} × ({each['2']:.0f} µs)"
    yield Row(
        "processes", f"CPU of a webhook by 2 processes against 1, at {RATE} a second", said, "1.3 ×", "1.1 ×", each
    )
