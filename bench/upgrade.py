"""The upgrade of a large database of the first release, while webhooks come in: `python -m bench.upgrade`.

The first release, from the history of this repository, serves while `ingress migrate` runs, this one while
`ingress migrate --post` does. SIZE events (8 million), half as many messages; RATE webhooks a second (100).
"""

import asyncio
import os
import subprocess
import sys
import tarfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import asyncpg

from ingress.dev.embedded.launcher import EmbeddedServers

from .databases import database
from .load import LoadTarget, MeasuredRun, paced
from .pool import webhooks
from .processes import ROOT, ServerProcess, free_port, start
from .provider import provider
from .service import ServedOrganization, environment, set_up

FIRST_RELEASE = "ac3a9f5"
SIZE, RATE = int(os.environ.get("SIZE", 8_000_000)), int(os.environ.get("RATE", 100))
WINDOW_S, CONNECTIONS = 10, 16
PART = 200_000
# Run from its folder, whatever is installed.
_FORMER = "import sys; sys.path.insert(0, {!r}); from ingress.__main__ import main; main()"

# Rows n from $1 to $2 of $4, over 90 days, three tenths of the organization $3. Where the stream began, so many
# transactions later it is now.
_FILL = {
    "events": """
        insert into events (organization_id, sequence, type, config_id, conversation_id, created_at, data, raw)
        select organization, n * 65536 + 60000, case n % 2 when 0 then 'message.received' else 'message.status' end,
            config, chat, at, json_build_object('message', json_build_object('id', key, 'text', repeat('words ', 20))),
            convert_to(repeat('raw ', 40), 'UTF8')
        from facts""",
    "deliveries": """
        insert into deliveries (organization_id, sequence, conversation_id, state, attempts, answer, finished_at)
        select organization, n * 65536 + 60000, chat, case when n % 5000 = 0 then 'parked' else 'delivered' end,
            1, 200, at from facts""",
    "inbound_dedup": """
        insert into inbound_dedup (organization_id, key_hash, sequence, first_seen)
        select organization, decode(key, 'hex'), n * 65536 + 60000, at from facts where n % 2 = 0""",
    "inbound_webhooks": """
        insert into inbound_webhooks (organization_id, config_id, received_at, headers, body)
        select organization, config, at, '{}', convert_to(repeat('body ', 100), 'UTF8') from facts where n % 2 = 0""",
    "messages": """
        insert into messages (organization_id, id, conversation_id, idempotency_key, request_hash, request, state,
            status, status_rank, provider, config_id, account_id, provider_message_id, message_key, created_at, sent_at,
            expires_at)
        select organization, id, chat, 'key-' || n, decode(key, 'hex'), json_build_object('text', repeat('words ', 20)),
            'done', 'read', 5, 'meta_business', config, config, key, key, at, at, at
        from facts where n % 2 = 1""",
    "attempts": """
        insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at, class)
        select organization, id, 1, config, 'meta_business', 1, at, 'ok' from facts where n % 2 = 1""",
    "message_statuses": """
        insert into message_statuses (organization_id, account_id, message_key, value, status_rank, received_at,
            matched)
        select organization, config, key, 'delivered', 4, at, true from facts where n % 10 = 1""",
    "quarantine": """
        insert into quarantine (organization_id, id, config_id, received_at, reason, headers, body, state)
        select organization, id, config, at, 'unreadable', '{}', '', 'discarded' from facts where n % 80 = 0""",
}
_FACTS = """
create temp table facts as
select n, at, key, config, organization, md5(organization || (n % 997)::text)::uuid as chat,
    (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(key, 1, 3) || '8'
        || substr(key, 4, 15))::uuid as id
from generate_series($1::bigint, $2::bigint) n
cross join lateral (select md5(n::text) as key, now() - interval '90 days' * (1 - n::float / $4) as at) each
cross join lateral (select case when n % 10 < 3 then $3::uuid else md5((n % 999)::text)::uuid end as organization) whose
cross join lateral (select md5('config')::uuid as config) one"""


def main() -> None:
    (ROOT / ".data").mkdir(exist_ok=True)
    with (
        TemporaryDirectory(prefix="upgrade-", dir=ROOT / ".data") as name,
        EmbeddedServers(Path(name) / "storage") as servers,
        database(str(servers.database_url), "upgrade") as owner_url,
    ):
        folder, service_url = Path(name), owner_url.replace("://svc@", "://upgrade_service@")
        statements = "create role upgrade_service login noinherit", "alter system set max_wal_size = '8GB'"
        asyncio.run(_execute(owner_url, *statements, "select pg_reload_conf()"))
        env = environment(0, service_url, str(servers.redis_url))
        with provider(folder) as meta:
            upgrade(folder, env, {"DATABASE_OWNER_URL": owner_url, "DATABASE_URL": service_url}, meta.url)


def upgrade(folder: Path, env: dict[str, str], urls: dict[str, str], provider_url: str) -> None:
    """Print what each step took, and how webhooks fared meanwhile."""
    former = [sys.executable, "-c", _FORMER.format(str(_unpacked(folder / "former")))]
    subprocess.run([*former, "migrate"], env={**os.environ, **urls}, check=True, capture_output=True)
    with _served("former", [*former, "serve"], folder, env) as server:
        organization = set_up(server.url, env["INGRESS_PLATFORM_KEY"], provider_url, "bench")
    began = time.perf_counter()
    asyncio.run(_fill(urls["DATABASE_OWNER_URL"], organization.id))
    print(f"filled with {SIZE:,} events in {time.perf_counter() - began:.0f} s", flush=True)
    with _served("former", [*former, "serve"], folder, env) as server:
        _during("the first release", folder, server, organization, 0, ["migrate"], urls)
    with _served("this", [sys.executable, "-m", "ingress", "serve"], folder, env) as server:
        _during("this one", folder, server, organization, 1, ["migrate", "--post"], urls)


def _during(
    name: str,
    folder: Path,
    server: ServerProcess,
    organization: ServedOrganization,
    run: int,
    command: Sequence[str],
    urls: dict[str, str],
) -> None:
    """Webhooks before, during and after *command*; what that says."""
    pool = webhooks(folder, run=run)
    target = LoadTarget(name, server, pool, pool.head(organization.webhook_path))
    paced(target, RATE, WINDOW_S, CONNECTIONS)  # what a process reads first
    before = [paced(target, RATE, WINDOW_S, CONNECTIONS) for _ in range(3)]
    finality = Finality(urls["DATABASE_OWNER_URL"])
    watching = Thread(target=finality.watch)
    watching.start()
    began = time.perf_counter()
    with (folder / "migrate.log").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ingress", *command],
            cwd=ROOT,
            env={**os.environ, **urls},
            stdout=output,
            stderr=output,
        )
        during = []
        while process.poll() is None:
            during.append(paced(target, RATE, WINDOW_S, CONNECTIONS))
        took = time.perf_counter() - began
        finality.is_over = True
        watching.join()
        output.seek(0)
        print(output.read())
    if process.returncode:
        raise SystemExit(f"ingress {' '.join(command)}: {process.returncode}")
    print(f"ingress {' '.join(command)}: {took:.0f} s, while {name} serves {RATE} webhooks a second", flush=True)
    for when, runs in (("before", before), ("meanwhile", during)):
        print(f"  {when}: {_said(runs)}", flush=True)
    print(f"  events could be read after {finality.longest_s:.1f} s at the latest", flush=True)


class Finality:
    """How long a transaction waits until none runs that began before it: till then nobody is given its events."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.longest_s = 0.0
        self.is_over = False

    def watch(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        connection = await asyncpg.connect(self._url)
        snapshot = (
            "select sequence_horizon(), base + (pg_snapshot_xmax(pg_current_snapshot())::text::bigint << 16)"
            " from event_clock"
        )
        open_since: deque[tuple[int, float]] = deque()
        while not self.is_over:
            oldest, next_one = (await connection.fetch(snapshot))[0]
            now = time.perf_counter()
            while open_since and open_since[0][0] <= oldest:
                self.longest_s = max(self.longest_s, now - open_since.popleft()[1])
            open_since.append((next_one, now))
            await asyncio.sleep(0.05)
        await connection.close()


def _said(runs: Sequence[MeasuredRun]) -> str:
    refused, broken = sum(run.refused for run in runs), sum(run.broken for run in runs)
    worst = max(run.p99_ms for run in runs)
    return (
        f"{sum(run.answers for run in runs):,} webhooks, {refused} refused, {broken} broken; p50"
        f" {max(run.p50_ms for run in runs):.0f} ms and p99 {worst:.0f} ms in the worst {WINDOW_S} s"
    )


@contextmanager
def _served(name: str, command: list[str], folder: Path, env: dict[str, str]) -> Iterator[ServerProcess]:
    port = free_port()
    own = {**env, "INGRESS_PORT": str(port), "INGRESS_PUBLIC_URL": f"http://127.0.0.1:{port}"}
    with start(name, command, port, folder, own) as server:
        yield server


def _unpacked(folder: Path) -> Path:
    names = ["ingress", "providers", "schema.sql"]
    archive = subprocess.run(
        ["git", "archive", FIRST_RELEASE, *names], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


async def _fill(url: str, organization_id: str) -> None:
    """Without the indexes that are no keys: to make them afterwards takes a tenth of the time."""
    connection = await asyncpg.connect(url, command_timeout=7200)
    try:
        await connection.execute("set synchronous_commit = off; set maintenance_work_mem = '1GB'")
        # As if so many transactions had been, and all events were counted.
        await connection.execute(
            f"update event_clock set base = base + {SIZE + 1}::bigint * 65536;"
            f"update figures_progress set sequence = {SIZE + 1}::bigint * 65536;"
            "insert into organizations (id, name)"
            " select md5(n::text)::uuid, 'Organization ' || n from generate_series(0, 998) n"
        )
        indexes = await connection.fetch(
            "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as made from pg_index"
            " where indrelid = any($1::text[]::regclass[]) and not indisprimary",
            list(_FILL),
        )
        for index in indexes:
            await connection.execute(f"drop index {index['name']}")
        for first in range(1, SIZE + 1, PART):
            async with connection.transaction():
                await connection.execute(_FACTS, first, min(first + PART - 1, SIZE), organization_id, SIZE)
                for statement in _FILL.values():
                    await connection.execute(statement)
                await connection.execute("drop table facts")
        for index in indexes:
            await connection.execute(index["made"])
        await connection.execute("vacuum analyze")
    finally:
        await connection.close()


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
