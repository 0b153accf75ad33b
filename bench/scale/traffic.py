"""Webhooks and sends: how many a second, what they write, what is kept, and whether many organizations cost more."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from ..load import LoadTarget, MeasuredRun, flat_out, paced
from ..pool import Pool, sends, webhooks
from ..processes import ServerProcess
from ..service import ServedOrganization
from .bench import Bench, execute, query, setting
from .site import number_of
from .table import Row

CONNECTIONS, ROUNDS, WARM_UP_S = 64, 3, 3
# Of what is paced: far below what fills a core.
RATES = {"webhook": 100, "send": 50}
PACED_S = 20
SENT_TO = 2_000
# What is made for a run: its pace is not known when others use the machine in between.
FASTEST = 4_000


class Targets(NamedTuple):
    webhook: LoadTarget
    send: LoadTarget


@dataclass
class ManyTargets(LoadTarget):
    """Requests to several organizations in turn."""

    heads: tuple[bytes, ...] = ()

    def requests(self, count: int) -> Iterator[bytes]:
        first = self.take(count)
        tails = enumerate(self.pool.tails(first, count), first)
        return (self.heads[n % len(self.heads)] + tail for n, tail in tails)


def _pools(bench: Bench) -> tuple[Pool, Pool]:
    """Requests that neither site has seen."""
    run = next(bench.runs)
    return webhooks(bench.folder, run=run), sends(bench.folder, SENT_TO, run)


def _targets(name: str, server: ServerProcess, pools: tuple[Pool, Pool], made: ServedOrganization) -> Targets:
    return Targets(
        LoadTarget(name, server, pools[0], pools[0].head(made.webhook_path), fastest=FASTEST),
        LoadTarget(
            name, server, pools[1], pools[1].head("/send", {"Authorization": f"Bearer {made.key}"}), fastest=FASTEST
        ),
    )


def big_targets(bench: Bench, name: str, server: ServerProcess) -> Targets:
    """Of the big organization of the large database."""
    return _targets(name, server, _pools(bench), bench.full.big)


@contextmanager
def _both(bench: Bench) -> Iterator[dict[str, Targets]]:
    """The big organization's service on either site."""
    with ExitStack() as stack:
        pools = _pools(bench)
        yield {
            site.name: _targets(site.name, stack.enter_context(site.served()), pools, site.big)
            for site in (bench.empty, bench.full)
        }


def rates(bench: Bench) -> Iterator[Row]:
    """As many as one process takes, in turn on both."""
    seconds = setting("SECONDS", 5)
    with _both(bench) as sites:
        for kind in RATES:
            turns: dict[str, list[MeasuredRun]] = {name: [] for name in sites}
            database_us = []
            for targets in sites.values():
                flat_out(getattr(targets, kind), WARM_UP_S, CONNECTIONS)
            for _ in range(ROUNDS):
                for name, targets in sites.items():
                    before = bench.database_cpu_s()
                    turns[name].append(flat_out(getattr(targets, kind), seconds, CONNECTIONS))
                    if name == "full":
                        database_us.append((bench.database_cpu_s() - before) * 1e6 / turns[name][-1].answers)
            ratio = median(full.rate / empty.rate for full, empty in zip(turns["full"], turns["empty"], strict=True))
            full = turns["full"]
            figures = {
                "ratio": ratio,
                "rate": median(run.rate for run in full),
                "service_us": median(run.cpu_us for run in full),
                "database_us": median(database_us),
                "refused": sum(run.refused for run in full),
            }
            what = f"durable {kind}s a second, one process, against the new database"
            said = f"{ratio:.2f} × ({figures['rate']:,.0f}/s; CPU: {figures['service_us']:.0f} µs each,"
            said += f" PostgreSQL {figures['database_us']:.0f} µs)"
            yield Row("rates", what, said, "0.9 ×", "1.0 ×", figures)


MUST_WAL = {"webhook": ("7 KB", "4 KB"), "send": ("20 KB", "10 KB")}


def wal(bench: Bench) -> Iterator[Row]:
    """Paced, after a checkpoint: each page that is touched first is written whole."""
    with _both(bench) as sites:
        for kind, rate in RATES.items():
            found = {name: _wal_of(bench, getattr(targets, kind), rate) for name, targets in sites.items()}
            must, aim = MUST_WAL[kind]
            what = f"WAL a {kind}, {rate} a second after a checkpoint"
            yield Row("wal", what, f"{found['full']:.1f} KB (new: {found['empty']:.1f} KB)", must, aim, found)


# Of the service's own statements, full pages included: vacuum and what is past its time are of other rows.
_WAL = """
select coalesce(sum(wal_bytes), 0)::bigint from pg_stat_statements join pg_database d on d.oid = dbid
where datname = current_database() and query !~* 'delete from|vacuum|analyze'"""


def _wal_of(bench: Bench, target: LoadTarget, rate: int) -> float:
    """KB a request, without what is written anyway."""
    site = bench.full if target.name == bench.full.name else bench.empty
    paced(target, rate, WARM_UP_S, CONNECTIONS)
    execute(site, "checkpoint", "select from pg_stat_statements_reset()")
    time.sleep(PACED_S)
    quiet = query(site, _WAL)
    execute(site, "checkpoint", "select from pg_stat_statements_reset()")
    run = paced(target, rate, PACED_S, CONNECTIONS)
    time.sleep(1)
    wal_bytes: int = query(site, _WAL) - quiet
    return max(0, wal_bytes) / max(1, run.accepted) / 1024


# What is kept of each, and which part of a table's rows is one's own.
KEPT = {
    "webhook": ("inbound_webhooks", "inbound_dedup", "events", "deliveries"),
    "send": ("messages", "attempts", "idempotency_keys", "events", "deliveries"),
}
MUST_KEEP = {"webhook": ("2.0 KB", "1.3 KB"), "send": ("2.2 KB", "1.5 KB")}
_BYTES_A_ROW = """
select (pg_total_relation_size('{0}') + coalesce(sum(pg_total_relation_size(relid)), 0))::float8
    / greatest((select count(*) from {0}), 1) from pg_partition_tree('{0}'::regclass) where isleaf and level > 0"""


def kept(bench: Bench) -> Iterator[Row]:
    """Of a webhook of one fact: body, key, event, delivery. Of a send: message, attempt, key, event, delivery."""
    for kind, tables in KEPT.items():
        found = {table: float(query(bench.full, _BYTES_A_ROW.format(table))) for table in tables}
        parts = ", ".join(f"{table} {size:.0f}" for table, size in found.items())
        said = f"{sum(found.values()) / 1024:.2f} KB ({parts} bytes)"
        yield Row("kept", f"bytes kept a {kind}, indexes and all", said, *MUST_KEEP[kind], found)


MUST_SHARE = {"webhook": ("1.25 ×", "1.1 ×"), "send": ("1.3 ×", "1.1 ×")}
SHARED_RATES = {"webhook": 300, "send": 100}


def organizations(bench: Bench) -> Iterator[Row]:
    """The same rate to one organization and to all of them in turn: CPU of the service each."""
    seconds, made = setting("SECONDS", 5) * 2, bench.full.organizations
    numbers, run = [number_of(place) for place in range(len(made))], next(bench.runs)
    pools = webhooks(bench.folder, numbers, run), sends(bench.folder, SENT_TO, run)
    with bench.full.served() as server:
        one = big_targets(bench, "one", server)
        for kind, place, rate in (("webhook", 0, SHARED_RATES["webhook"]), ("send", 1, SHARED_RATES["send"])):
            heads = tuple(_targets("all", server, pools, each)[place].head for each in made)
            every = ManyTargets("all", server, pools[place], b"", heads=heads)
            for target in (one[place], every):
                paced(target, rate, max(WARM_UP_S, len(made) // rate), CONNECTIONS)
            turns = [
                [paced(target, rate, seconds, CONNECTIONS) for target in (one[place], every)] for _ in range(ROUNDS)
            ]
            ratio = median(all_.cpu_us / one_.cpu_us for one_, all_ in turns)
            said = f"{ratio:.2f} × ({median(run.cpu_us for _, run in turns):.0f} µs)"
            figures = {"ratio": ratio, "refused": sum(run.refused + run.broken for turn in turns for run in turn)}
            what = f"CPU of a {kind} of {len(made):,} organizations against one, at {rate} a second"
            yield Row("organizations", what, said, *MUST_SHARE[kind], figures)
