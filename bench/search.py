"""How long it takes to find messages among very many: `python -m bench.search --messages 1000000`.

An organization with so many sends, so many messages that came in and a status of each send; then every way to look for
some, as the service asks it, with row-level security. Prints milliseconds, the median and the worst of some tries.
"""

import argparse
import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg

from ingress.identifiers import new_id
from ingress.storage.database import Database
from ingress.storage.migration import migrate
from ingress.storage.statements.reports import search
from ingress.storage.statements.reports.search import MessageFilter

from .databases import storage
from .processes import ROOT

PEOPLE = 20_000
TRIES = 20
ORGANIZATION, CONFIGS = UUID(int=7 << 76 | 1), (UUID(int=1), UUID(int=2))
# Within half a year. One in 50 failed, one in 20 went through the second config, one person has a tenth of all.
_ROWS = """(select n,
    date_trunc('day', now()) - interval '180 days' * (1 - n / {count}.0) as at from generate_series(1, {count}) n) g"""
_ID = """(lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
    || substr(md5(n::text), 4, 15))::uuid"""
_CHAT = f"md5('chat ' || case when n % 10 = 0 then 0 else n % {PEOPLE} end)::uuid"
_CONFIG = f"case when n % 20 = 0 then '{CONFIGS[1]}'::uuid else '{CONFIGS[0]}'::uuid end"
FILL = (
    f"""insert into contacts (organization_id, id)
    select '{{of}}', md5('person ' || n)::uuid from generate_series(0, {PEOPLE}) n""",
    f"""insert into conversations (organization_id, id, account, contact_id)
    select '{{of}}', md5('chat ' || n)::uuid, '15550001111', md5('person ' || n)::uuid
    from generate_series(0, {PEOPLE}) n""",
    f"""insert into messages (organization_id, id, conversation_id, request_hash, request, request_id, state, status,
        status_rank, provider, config_id, account_id, provider_message_id, message_key, error, created_at, expires_at)
    select '{{of}}', {_ID}, {_CHAT}, '',
        json_build_object('to', '+5511987654321', 'body', 'This is message ' || n, 'lead_id', 'lead-' || n / 3),
        'req_' || substr(md5('r' || n), 1, 16), 'done',
        case when n % 50 = 0 then 'failed' when n % 10 < 3 then 'delivered' else 'read' end, 3, 'one',
        {_CONFIG}, '{CONFIGS[0]}', 'wamid.' || n, 'wamid.' || n,
        case when n % 50 = 0 then json_build_object('class', case n % 3 when 0 then 'Rejected' else 'Throttled' end,
            'code', case when n % 100000 = 0 then '131056' else '131026' end) end, at, at
    from {_ROWS}""",
    f"""insert into attempts
        (organization_id, message_id, number, config_id, provider, version, started_at, class, code)
    select '{{of}}', {_ID}, 1, {_CONFIG}, 'one', 1, at, case when n % 25 = 0 then 'Unavailable' else 'ok' end,
        case when n % 25 = 0 then 'http_503' end from {_ROWS}""",
    f"""insert into events (organization_id, sequence, type, config_id, conversation_id, created_at, data)
    select '{{of}}', n * 131072::bigint + kind, case kind when 0 then 'message.received' else 'message.status' end,
        {_CONFIG}, {_CHAT}, at,
        json_build_object('organization_id', '{{of}}', 'provider', 'one', 'config_id', {_CONFIG},
            'message', json_build_object('id', {_ID}, 'provider_message_id', 'in.' || n,
                'content', json_build_object('type', 'text', 'body', 'Good morning, number ' || n)))
    from {_ROWS}, generate_series(0, 1) kind""",
    """insert into inbound_dedup (organization_id, key_hash, sequence)
    select '{of}', decode(md5('in.' || n), 'hex'), n * 131072::bigint from generate_series(1, {count}) n""",
)


async def fill(url: str, count: int) -> None:
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        for statement in FILL:
            await connection.execute(statement.format(of=ORGANIZATION, count=count))
        await connection.execute("vacuum analyze")
    finally:
        await connection.close()


def filters(count: int) -> dict[str, MessageFilter]:
    long_ago = datetime.now(UTC) - timedelta(days=120)
    person = UUID(bytes=hashlib.md5(b"person 0", usedforsecurity=False).digest())
    return {
        "all": MessageFilter(),
        "a person with a tenth of all": MessageFilter(contact_id=person),
        "the same, long ago": MessageFilter(contact_id=person, until=long_ago),
        "lead": MessageFilter(lead_id=f"lead-{count // 9}"),
        "request": MessageFilter(request_id="req_none"),
        "provider's id": MessageFilter(
            keys=[f"wamid.{count // 2}"], key_hashes=[hashlib.md5(b"in.7", usedforsecurity=False).digest()]
        ),
        "rare code": MessageFilter(error="131056"),
        "common code": MessageFilter(error="131026"),
        "class of attempts": MessageFilter(error="Unavailable"),
        "no such code": MessageFilter(error="1"),
        "failed": MessageFilter(statuses=["failed"]),
        "a status that most have": MessageFilter(statuses=["read"]),
        "a status that none has": MessageFilter(statuses=["played"]),
        "the second config": MessageFilter(config_ids=[CONFIGS[1]]),
        "a config that has none": MessageFilter(config_ids=[new_id()]),
        "until long ago": MessageFilter(until=long_ago),
        "a day long ago": MessageFilter(since=long_ago - timedelta(days=1), until=long_ago),
        "a day long ago, failed": MessageFilter(
            since=long_ago - timedelta(days=1), until=long_ago, statuses=["failed"], config_ids=[CONFIGS[1]]
        ),
    }


async def _timed(ask: Callable[[], Awaitable[Any]]) -> tuple[list[float], int]:
    times, found = [], 0
    for _ in range(TRIES):
        started = perf_counter()
        found = len((await ask()).rows)
        times.append((perf_counter() - started) * 1000)
    return times, found


async def measure(url: str, count: int) -> None:
    async with Database(url) as database:

        def sent(wanted: MessageFilter) -> Callable[[], Awaitable[Any]]:
            async def ask() -> Any:
                async with database.organization(ORGANIZATION) as connection:
                    return await search.sent(connection, ORGANIZATION, wanted, None, 50)

            return ask

        def received(wanted: MessageFilter) -> Callable[[], Awaitable[Any]]:
            async def ask() -> Any:
                async with database.organization(ORGANIZATION) as connection:
                    return await search.received(
                        connection, ORGANIZATION, wanted, None, 50, ["message.received", "message.echo"]
                    )

            return ask

        print(f"{'ms: median, worst, rows':30} {'sent':>22} {'received':>22}")
        for name, wanted in filters(count).items():
            row = []
            for ask in (sent(wanted), received(wanted)):
                times, found = await _timed(ask)
                row.append(f"{median(times):8.1f} {max(times):7.1f} {found:5}")
            print(f"{name:30} {row[0]:>22} {row[1]:>22}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    (ROOT / ".data").mkdir(exist_ok=True)
    with (
        TemporaryDirectory(prefix="bench-", dir=ROOT / ".data") as folder,
        storage(Path(folder) / "servers") as (url, _),
    ):
        asyncio.run(fill(url, options.messages))
        asyncio.run(measure(url, options.messages))


if __name__ == "__main__":
    main()
