"""What is past its time: a month dropped while webhooks come in, and keys that are left two months later."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg

from ingress.identifiers import id_at
from ingress.retention.periods import periods_of
from ingress.retention.plan import KEEPING
from ingress.retention.retention import Retention
from ingress.settings import Settings
from ingress.storage import partitions
from ingress.storage.database import Database

from ..load import MeasuredRun, paced
from .bench import Bench, execute, query, setting
from .layout import add_before, sequences_in
from .seeding import time_ordered_id
from .table import Row
from .traffic import CONNECTIONS, WARM_UP_S, big_targets

ROWS, MONTH = 30_000_000, timedelta(days=28)
CHUNK = 500_000
RATE, QUIET_S, DROPPING_S = 200, 10, 20
# Narrow rows: dropping removes files, whatever is in them.
_FACTS = f"""
create temp table facts as
select n, at, {time_ordered_id("at", "n")} as id, owners[1 + n % cardinality(owners)] as organization_id,
    md5((n % 100000)::text)::uuid as conversation_id, $4::bigint + n * $5::bigint as sequence
from generate_series($1::bigint, $2::bigint) n
cross join (select array_agg(id order by id) as owners from organizations) o
cross join lateral (select $3::timestamptz + interval '{MONTH.days} days' * (n::float / $6::bigint) as at) began"""
_ROWS = (
    """insert into events (organization_id, sequence, type, config_id, conversation_id, created_at, data)
    select organization_id, sequence, 'none', organization_id, conversation_id, at, '{}' from facts order by n""",
    """insert into deliveries (organization_id, sequence, conversation_id, state)
    select organization_id, sequence, conversation_id, 'delivered' from facts order by n""",
    """insert into messages (organization_id, id, conversation_id, request_hash, request, state, created_at, expires_at)
    select organization_id, id, conversation_id, '', '{}', 'done', at, at from facts order by n""",
    """insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at, class)
    select organization_id, id, 1, organization_id, 'meta_business', 1, at, 'ok' from facts order by n""",
)


async def _fill(bench: Bench, count: int) -> None:
    """A month more before all others, of *count* rows."""
    connection = await asyncpg.connect(bench.full.database_url, command_timeout=3600)
    try:
        begin, first = await add_before(connection, MONTH)
        facts = count // len(_ROWS)
        stride = sequences_in(MONTH) // facts & ~0xFFFF
        for low in range(0, facts, CHUNK):
            async with connection.transaction():
                await connection.execute(_FACTS, low, min(low + CHUNK, facts) - 1, begin, first, stride, facts)
                for statement in _ROWS:
                    await connection.execute(statement)
                await connection.execute("drop table facts")
    finally:
        await connection.close()


_WAL = """select coalesce(sum(wal_bytes), 0)::bigint from pg_stat_statements
    where query ~ 'detach_partition|drop_detached|forget_marks|event_marks'"""


async def _drop(bench: Bench, before: datetime) -> int:
    """As the service does it; how many partitions went."""
    async with Database(bench.full.database_url) as database:
        return sum([len(await partitions.drop_before(database, each.table, before)) for each in KEEPING])


def month(bench: Bench) -> Iterator[Row]:
    """Drop what is older than everything else, while webhooks come in."""
    count = setting("MONTH", bench.scaled(ROWS))
    asyncio.run(_fill(bench, count))
    with bench.full.served(INGRESS_RETENTION_EVENTS_DAYS="1000") as server:
        target = big_targets(bench, "month", server).webhook
        paced(target, RATE, WARM_UP_S, CONNECTIONS)
        quiet = paced(target, RATE, QUIET_S, CONNECTIONS)
        runs: list[MeasuredRun] = []
        execute(bench.full, "select from pg_stat_statements_reset()")
        load = threading.Thread(target=lambda: runs.append(paced(target, RATE, DROPPING_S, CONNECTIONS)))
        load.start()
        time.sleep(DROPPING_S / 4)
        began = time.perf_counter()
        dropped = asyncio.run(_drop(bench, datetime.now(UTC) - bench.sizes.span))
        took = time.perf_counter() - began
        load.join()
        run = runs[0]
        wal = query(bench.full, _WAL) / 2**20
    figures = {
        "partitions": dropped,
        "seconds": took,
        "wal_mb": wal,
        "refused": run.refused + run.broken,
        "p99_ms": run.p99_ms,
        "quiet_p99_ms": quiet.p99_ms,
    }
    said = f"{took:.1f} s ({dropped} partitions); {wal:.1f} MB of WAL; {figures['refused']} refused,"
    said += f" p99 {run.p99_ms:.0f} ms (before: {quiet.p99_ms:.0f} ms)"
    yield Row("month", f"dropping a month of {count:,} rows", said, "5 s, 1 MB, 0, 50 ms", "1 s", figures)


_OLD_KEYS = """select (select count(*) from inbound_dedup where first_seen < $1)
    + (select count(*) from idempotency_keys where message_id < $2)"""


def keys(bench: Bench) -> Iterator[Row]:
    """Let go of what is past its time as if two months had gone by: which keys are left that are too old."""
    now = datetime.now(UTC) + timedelta(days=60)
    asyncio.run(_let_go(bench, now))
    oldest = now - timedelta(days=Settings().retention_keys_days + 1)
    left = query(bench.full, _OLD_KEYS, oldest, id_at(oldest))
    yield Row("keys", "keys older than 30 days left after two months", f"{left:,}", "0", "", {"left": left})


async def _let_go(bench: Bench, now: datetime) -> None:
    async with Database(bench.full.database_url) as database:
        async with database.worker() as connection:
            await partitions.keep_ahead(connection, now)
        await Retention(database, bench.full.vault, periods_of(Settings()), share=1.0).run(now)
