"""What waits: deliveries after a CRM's outage, and sends that dead processes left."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from ingress.identifiers import new_id
from ingress.storage.database import Database
from ingress.storage.statements.sending import sends
from ingress.storage.statements.sending.sends import Claim

from ..service import ServedOrganization, ask
from .bench import Bench, execute, query, setting
from .table import Row

PENDING, CONVERSATIONS, OF_ONE, LOST = 500_000, 20_000, 100_000, 5_000
DRAIN_S = 45
CLAIMED, GIVEN_UP_S = 100, 300
PART = 50_000  # of a transaction, whose places end at 65,535
# Events as the newest ones of the organization, of its conversations in turn.
_WAITING = """
with chats as (
    select id, row_number() over () - 1 as place from (
        select id from conversations where organization_id = '{of}' order by id limit {conversations}) c
),
example as (
    select * from events where organization_id = '{of}' and type = 'message.received' order by sequence desc limit 1
),
given as (
    select n, next_sequence(n) as sequence, chats.id
    from generate_series(1, {count}) n join chats on chats.place = n % (select count(*) from chats)
),
stored as (
    insert into events (organization_id, sequence, type, config_id, conversation_id, created_at, data, raw)
    select '{of}', given.sequence, e.type, e.config_id, given.id, now(), e.data, e.raw from given, example e order by n
),
waiting as (
    insert into deliveries (organization_id, sequence, conversation_id)
    select '{of}', sequence, id from given order by n
)
insert into delivery_queues (organization_id, conversation_id) select distinct '{of}'::uuid, id from given
on conflict (organization_id, conversation_id) do update set arrivals = delivery_queues.arrivals + 1"""
_LEFT = "select count(*) from deliveries where state = 'pending' and organization_id = $1"


def drain(bench: Bench) -> Iterator[Row]:
    """A CRM that is back: how many a second it is given, by one process."""
    seconds, count = setting("DRAIN_S", DRAIN_S), setting("PENDING", bench.scaled(PENDING))
    tables = ("deliveries", "delivery_queues", "events")
    execute(bench.full, *(f"analyze {table}" for table in tables), *_automatic(bench, tables, "off"))
    _callback(bench, bench.full.big)
    what = f"drain of {count:,} pending over {min(bench.scaled(CONVERSATIONS), bench.sizes.big_people):,} conversations"
    for statistics in ("old", "new"):
        left = query(bench.full, _LEFT, UUID(bench.full.big.id))
        _fill(bench, bench.full.big, count - left, bench.scaled(CONVERSATIONS))
        if statistics == "new":
            execute(bench.full, *(f"analyze {table}" for table in tables))
        yield _drained(bench, bench.full.big, seconds, f"{what}, statistics {statistics}", "1,500/s")
    execute(bench.full, f"update callbacks set disabled_at = now() where organization_id = '{bench.full.big.id}'")
    one = setting("ONE", bench.scaled(OF_ONE))
    _callback(bench, bench.full.small)
    _fill(bench, bench.full.small, one, 1)
    yield _drained(bench, bench.full.small, seconds, f"drain of one conversation with {one:,}", "1,000/s")
    execute(bench.full, *_automatic(bench, tables, "on"))


def _automatic(bench: Bench, tables: tuple[str, ...], switched: str) -> list[str]:
    """Whether statistics come by themselves; a setting of each partition."""
    names = "select string_agg(relid::text, ' ') from pg_partition_tree($1::text::regclass) where isleaf"
    parts = [part for table in tables for part in (query(bench.full, names, table) or table).split()]
    return [f"alter table {part} set (autovacuum_enabled = {switched})" for part in parts]


def _callback(bench: Bench, organization: ServedOrganization) -> None:
    with bench.full.served() as server:
        ask(f"{server.url}/callback", organization.key, {"url": f"{bench.provider_url}/crm"}, method="PUT")


def _fill(bench: Bench, organization: ServedOrganization, count: int, conversations: int) -> None:
    for first in range(0, count, PART):
        part = min(PART, count - first)
        execute(bench.full, _WAITING.format(of=organization.id, conversations=conversations, count=part))


def _drained(bench: Bench, organization: ServedOrganization, seconds: int, what: str, must: str) -> Row:
    everything = query(bench.full, _LEFT, UUID(organization.id))
    with bench.full.served() as server:
        while (before := query(bench.full, _LEFT, UUID(organization.id))) == everything:
            time.sleep(0.1)
        began, spent, database = time.perf_counter(), server.cpu_s(), bench.database_cpu_s()
        # As long as there is enough: the end of a backlog is another matter.
        while (left := query(bench.full, _LEFT, UUID(organization.id))) > before / 10:
            if time.perf_counter() > began + seconds:
                break
            time.sleep(0.5)
        delivered, took = before - left, time.perf_counter() - began
        each = 1e3 / max(1, delivered)
        figures = {
            "rate": delivered / took,
            "service_ms": (server.cpu_s() - spent) * each,
            "database_ms": (bench.database_cpu_s() - database) * each,
        }
    said = f"{figures['rate']:,.0f}/s ({figures['database_ms']:.2f} ms of PostgreSQL's CPU each)"
    return Row("drain", what, said, must, "4,000/s", figures)


_UNDER_WAY = "select count(*) from messages where state = 'sending'"


def recovery(bench: Bench) -> Iterator[Row]:
    """Sends of processes that were killed: of each two one was called for, and one waits for that."""
    count = setting("LOST", bench.scaled(LOST))
    asyncio.run(_die(bench, count))
    began = time.perf_counter()
    with bench.full.served() as server:
        while query(bench.full, _UNDER_WAY) and time.perf_counter() < began + GIVEN_UP_S:
            time.sleep(0.25)
        took, left = time.perf_counter() - began, query(bench.full, _UNDER_WAY)
        figures = {"seconds": took, "left": left, "service_ms": server.cpu_s() * 1e3 / count}
    what = f"{count:,} sends of dead processes taken over, from the start on"
    yield Row("recovery", what, f"{took:.1f} s" + (f", {left:,} left" if left else ""), "20 s", "5 s", figures)


async def _die(bench: Bench, count: int) -> None:
    """Claim sends as a process does, and let their leases end; half of them of the big organization."""
    async with Database(bench.full.database_url) as database, database.worker() as connection:
        pairs = count // 2
        owners = [bench.full.big] * (pairs // 2) + bench.full.organizations * pairs
        wanted = Counter(made.id for made in owners[:pairs])
        examples = [each for id, many in wanted.items() for each in await _examples(connection, UUID(id), many)]
        for first in range(0, len(examples), CLAIMED):
            claims = [_claim(example) for example in examples[first : first + CLAIMED] for _ in range(2)]
            await sends.claim(connection, claims)
        await connection.execute("update messages set leased_until = now() where state = 'sending'")


async def _examples(connection: asyncpg.Connection, organization_id: UUID, count: int) -> list[dict[str, Any]]:
    """What is claimed of an organization: a send for each of so many conversations."""
    rows = await connection.fetch(
        "select o.id as organization_id, o.version, o.active_config_id as config_id, c.id as conversation_id,"
        " m.request, m.request_hash from organizations o"
        " join conversations c on c.organization_id = o.id cross join lateral ("
        "  select request, request_hash from messages where organization_id = o.id and conversation_id = c.id limit 1"
        " ) m where o.id = $1 limit $2",
        organization_id,
        count,
    )
    return [dict(row) for row in rows]


def _claim(example: dict[str, Any]) -> Claim:
    return Claim(
        **example,
        id=new_id(),
        in_order=True,
        idempotency_key=None,
        key_hash=None,
        request_id=None,
        expires_at=datetime.now(UTC) + timedelta(hours=1),
        lease_id=new_id(),
        provider="meta_business",
        fallback_from=None,
        fallback_reason=None,
    )
