"""What the service does by itself: its CPU while nothing comes in, and what each of its statements takes."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

from .bench import Bench, execute, query, setting
from .site import Site
from .table import Row

# Loops come round once a minute, or begin with a round; the hourly one is made due.
IDLE_S, SETTLE_S = 75, 10
# Below that a ratio says what else the machine does.
LEAST_MS = 1.0
_DUE = "update organizations set audit_due_at = now() where id = '{}'"
# Without the slowest call of several, which read what no cache had.
_STATEMENTS = """
select json_object_agg(query, case calls when 1 then spent else (spent - slowest) / (calls - 1) end)::text from (
    select left(regexp_replace(query, '\\s+', ' ', 'g'), 300) as query, sum(calls) as calls,
        sum(total_exec_time) as spent, max(max_exec_time) as slowest
    from pg_stat_statements where dbid = (select oid from pg_database where datname = current_database())
        and toplevel and query ~* '^\\s*(with|select|insert|update|delete)'
        and query !~ 'update event_clock' group by 1  -- that is a start's
) s"""


def measure(bench: Bench) -> Iterator[Row]:
    """Both services for a while, with nothing to do."""
    idle_s, sites = setting("IDLE_S", IDLE_S), (bench.empty, bench.full)
    for _ in range(2):  # the second time what they read is in memory
        execute(bench.full, "select from pg_stat_statements_reset()")
        with ExitStack() as stack:
            for site in sites:
                execute(site, _DUE.format(site.big.id))
            servers = {site.name: stack.enter_context(site.served()) for site in sites}
            time.sleep(SETTLE_S)
            before, database_before = servers["full"].cpu_s(), bench.database_cpu_s()
            time.sleep(idle_s)
            service = (servers["full"].cpu_s() - before) / idle_s
            database = (bench.database_cpu_s() - database_before) / idle_s
    yield Row(
        "background",
        f"idle CPU with {bench.sizes.organizations:,} accounts",
        f"{service:.1%} (PostgreSQL {database:.1%})",
        "2 %",
        "1 %",
        {"service": service, "database": database},
    )
    found = _compared(*[_spent(site) for site in sites])
    worst = max(found, key=lambda statement: found[statement]["ratio"])
    yield Row(
        "background",
        f"{len(found)} background statements",
        f"{found[worst]['ratio']:.1f} × ({found[worst]['ms']:.2f} ms, `{worst[:60]}…`)",
        "2 ×",
        "1.2 ×",
        found,
    )


def _spent(site: Site) -> dict[str, float]:
    spent: dict[str, float] = json.loads(query(site, _STATEMENTS) or "{}")
    return spent


def _compared(empty: dict[str, float], full: dict[str, float]) -> dict[str, dict[str, float]]:
    """By statement: the mean on the large database, and what it is of that on the new one, or of LEAST_MS."""
    return {
        statement: {
            "ms": full[statement],
            "empty_ms": empty[statement],
            "ratio": max(full[statement], LEAST_MS) / max(empty[statement], LEAST_MS),
        }
        for statement in full.keys() & empty.keys()
    }
