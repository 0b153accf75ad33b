"""What many organizations cost: `python -m bench.organizations --many 1000`.

As many as asked for, each with an account that is sent through, as the service itself would have stored them. Then the
CPU of the service and of PostgreSQL: while nothing happens; for each webhook and each send, of one organization and of
all in turn; for each webhook where few come. Then how long it takes until `--lost` sends of a process that died, of ten
organizations, are somebody's again, and until each has ended or is held for its status. `--service` names another
checkout to run, to compare with.
"""

import argparse
import asyncio
import base64
import json
import secrets
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg

from ingress.identifiers import new_id
from ingress.storage.vault import Vault, new_api_key, new_webhook_token, token_hash

from .databases import database, storage
from .load import LoadTarget, paced
from .pool import APP_SECRET, CONTACTS, SEND, WEBHOOK, Pool, account_of, signature
from .processes import ROOT, ServerProcess, free_port, start, tree_cpu_s
from .provider import provider

PARTS = ("idle", "webhooks", "sends", "few", "lost")
WEBHOOKS_A_S, SENDS_A_S, FEW_A_S = 500, 100, 10
CONNECTIONS = 32
WARM_UP_S = 5
SETTLED_S = 45  # each account was looked at, and what begins with a process is over


class Account:
    """An organization with one account of Meta, and what calls on its behalf need."""

    def __init__(self, number: int) -> None:
        self.organization_id, self.config_id = uuid4(), new_id()
        self.token = new_webhook_token()
        self.key_id, self.secret, self.key = new_api_key("bench")
        self.phone_number_id = f"{10**14 + number}"

    def config_data(self, provider_url: str) -> bytes:
        return json.dumps(
            {
                "access_token": "bench-access-token",
                "phone_number_id": self.phone_number_id,
                "waba_id": account_of(self.phone_number_id),
                "app_secret": APP_SECRET,
                "verify_token": "bench-verify-token",
                "base_url": provider_url,
                "messages_per_second": 100_000,
            }
        ).encode()


async def fill(url: str, vault: Vault, accounts: Sequence[Account], provider_url: str) -> None:
    """Put *accounts* into a database that the service has built; their looks are due in turn."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("set constraints all deferred")
            await connection.executemany(
                "insert into organizations (id, name, active_config_id, version) values ($1, $2, $3, 1)",
                [(each.organization_id, each.phone_number_id, each.config_id) for each in accounts],
            )
            await connection.executemany(
                """insert into whatsapp_provider_configs (organization_id, id, provider_type, name, state, config_data,
                    accounts, signing_keys, webhook_token_hash, webhook_token, sender)
                values ($1, $2, 'meta_business', 'Bench', 'active', $3, $4, '{}', $5, $6, '+15550001111')""",
                [_config(vault, each, provider_url) for each in accounts],
            )
            await connection.executemany(
                "insert into account_owners (organization_id, provider_type, account) values ($1, 'meta_business', $2)",
                [(each.organization_id, each.phone_number_id) for each in accounts],
            )
            await connection.executemany(
                """insert into api_keys (organization_id, id, name, secret_hash, scopes)
                values ($1, $2, 'bench', $3, '{send}')""",
                [(each.organization_id, each.key_id, vault.key_hash(each.secret)) for each in accounts],
            )
            await connection.execute(
                """insert into provider_health (organization_id, config_id, state, since, due_at)
                select organization_id, id, 'healthy', now(), now() + random() * interval '30 s'
                from whatsapp_provider_configs"""
            )
        await connection.execute("vacuum analyze")
    finally:
        await connection.close()


def _config(vault: Vault, account: Account, provider_url: str) -> tuple[object, ...]:
    place = str(account.organization_id), str(account.config_id)
    return (
        account.organization_id,
        account.config_id,
        vault.seal(account.config_data(provider_url), *place, "config_data"),
        [account.phone_number_id],
        token_hash(account.token),
        vault.seal(account.token.encode(), *place, "webhook_token"),
    )


def webhooks(folder: Path, name: str, accounts: Sequence[Account]) -> Pool:
    """Signed webhooks of *accounts* in turn, whole: each is posted to another address."""
    now = int(time.time())

    def tail(n: int) -> tuple[bytes, bytes]:
        account = accounts[n % len(accounts)]
        fields = {b"waba": account_of(account.phone_number_id).encode(), b"number": account.phone_number_id.encode()}
        body = WEBHOOK % {**fields, b"contact": n % CONTACTS, b"n": n, b"now": now}
        signed = f"X-Hub-Signature-256: {signature(body).decode()}"
        return _head(f"/webhooks/meta_business/{account.token}", body, signed), body

    return Pool(folder / name, "", tail)


def sends(folder: Path, name: str, accounts: Sequence[Account]) -> Pool:
    """Text messages of *accounts* in turn."""

    def tail(n: int) -> tuple[bytes, bytes]:
        body = (SEND % (n, n)).encode()
        key = accounts[n % len(accounts)].key
        return _head("/send", body, f"Authorization: Bearer {key}\r\nIdempotency-Key: bench-{n:012d}"), body

    return Pool(folder / name, "", tail)


def _head(path: str, body: bytes, headers: str) -> bytes:
    common = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"POST {path} HTTP/1.1\r\n{common}\r\n{headers}".encode()


def postmaster_of(url: str) -> int:
    """The process that all of PostgreSQL's others are children of."""

    async def ask() -> int:
        connection = await asyncpg.connect(url)
        try:
            line = await connection.fetchval("select pg_read_file('postmaster.pid')")
            return int(line.splitlines()[0])
        finally:
            await connection.close()

    return asyncio.run(ask())


@contextmanager
def service(folder: Path, checkout: Path, database_url: str, redis_url: str, keys: str) -> Iterator[ServerProcess]:
    port = free_port()
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "INGRESS_HOST": "127.0.0.1",
        "INGRESS_PORT": str(port),
        "INGRESS_METRICS_PORT": "0",
        "INGRESS_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "INGRESS_PLATFORM_KEY": secrets.token_urlsafe(32),
        "INGRESS_ENCRYPTION_KEYS": keys,
        "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
        "INGRESS_CONNECTIONS_PER_ADDRESS": "0",
        "INGRESS_TRUSTED_HOSTS": "127.0.0.1",
        "INGRESS_REQUESTS_PER_KEY": "0",
        "PYTHONPATH": str(checkout),
    }
    command = ["env", "-C", str(checkout), sys.executable, "-m", "ingress", "serve"]
    with start("service", command, port, folder, env) as server:
        while not _is_ready(server):
            time.sleep(0.1)
        yield server


def _is_ready(server: ServerProcess) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{server.url}/readyz", timeout=5).status == 200)
    except OSError:
        return False


# Half of them had begun their call, and half waited for their turn.
LOST = """
with made as (
    select n, (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
        || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid as id,
        ($1::uuid[])[1 + n % cardinality($1)] as organization_id, ($2::uuid[])[1 + n % cardinality($2)] as config_id
    from generate_series(1, $3::int) n
),
begun as (
    insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at, class, code)
    select organization_id, id, 1, config_id, 'meta_business', 1, now(),
        case when n % 2 = 0 then 'Throttled' end, case when n % 2 = 0 then 'pacing' end from made
)
insert into messages (organization_id, id, conversation_id, request_hash, request, state, expires_at, leased_until)
select organization_id, id, gen_random_uuid(), '', json_build_object(
        'to', json_build_object('phone', '+55119' || lpad(n::text, 8, '0')),
        'content', json_build_object('type', 'text', 'body', 'Good morning')),
    'sending', now() + interval '10 minutes', now() - interval '1 s' from made"""
LEFT = """
select count(*) filter (where leased_until < now()) as left, count(*) filter (where state = 'sending') as under_way
from messages where state <> 'done'"""


async def taken_over(url: str, accounts: Sequence[Account], many: int) -> tuple[float, float]:
    """Seconds until *many* sends that nobody has a lease of are somebody's, and until they have ended."""
    connection = await asyncpg.connect(url)
    try:
        of = [each.organization_id for each in accounts], [each.config_id for each in accounts]
        await connection.execute(LOST, *of, many)
        began, taken = time.monotonic(), None
        while True:
            left, under_way = await connection.fetchrow(LEFT)
            if not left and taken is None:
                taken = time.monotonic() - began
            if not under_way and taken is not None:
                return taken, time.monotonic() - began
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


class Meter:
    """CPU of the service and of PostgreSQL."""

    def __init__(self, server: ServerProcess, postmaster: int) -> None:
        self._server, self._postmaster = server, postmaster

    def _now(self) -> tuple[float, float]:
        return self._server.cpu_s(), tree_cpu_s(self._postmaster)

    def during(self, work: Callable[[], int]) -> tuple[float, float]:
        """In seconds, for each of what *work* returns."""
        before, many, after = self._now(), work(), self._now()
        return (after[0] - before[0]) / many, (after[1] - before[1]) / many


def measure(
    meter: Meter, server: ServerProcess, folder: Path, accounts: Sequence[Account], options: argparse.Namespace
) -> None:
    def idle() -> int:
        time.sleep(options.seconds)
        return int(options.seconds)

    def load(target: LoadTarget, rate: int, seconds: float) -> Callable[[], int]:
        def run() -> int:
            done = paced(target, rate, seconds, CONNECTIONS)
            if done.refused or done.broken:
                raise RuntimeError(f"{target.name}: {done.refused} refused, {done.broken} broken")
            return done.answers

        return run

    if "idle" in options.only:
        time.sleep(SETTLED_S)
        _print(f"idle, {len(accounts)} accounts", "% of a core", 100, meter.during(idle))
    of = {"one": accounts[:1], "all": accounts}
    for part, make, rate in (("webhooks", webhooks, WEBHOOKS_A_S), ("sends", sends, SENDS_A_S)):
        if part not in options.only:
            continue
        targets = {
            name: LoadTarget(f"{part} of {name}", server, make(folder, f"{part}_{name}", which), b"")
            for name, which in of.items()
        }
        for target in targets.values():
            load(target, rate, max(WARM_UP_S, len(accounts) / rate if target.name.endswith("all") else 0))()
        for _ in range(options.rounds):
            for target in targets.values():
                _print(target.name, "us each", 1e6, meter.during(load(target, rate, options.seconds)))
    if "few" in options.only:
        target = LoadTarget("few webhooks", server, webhooks(folder, "few", accounts[:1]), b"")
        load(target, FEW_A_S, WARM_UP_S)()
        for _ in range(options.rounds):
            rest = meter.during(idle)
            whole = meter.during(load(target, FEW_A_S, options.seconds))
            each = tuple(all_ - idle_ / FEW_A_S for all_, idle_ in zip(whole, rest, strict=True))
            _print("few webhooks, less what idling costs", "us each", 1e6, each)


def _print(what: str, unit: str, factor: float, found: Sequence[float]) -> None:
    print(f"{what:45} service {found[0] * factor:9.1f}, PostgreSQL {found[1] * factor:9.1f} {unit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.organizations", description=__doc__)
    parser.add_argument("--many", type=int, default=1000, help="organizations (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="length of one run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn (default %(default)s)")
    parser.add_argument("--lost", type=int, default=5000, help="sends of a dead process (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    parser.add_argument("--service", type=Path, default=ROOT, help="the checkout to run (default: this one)")
    options = parser.parse_args()
    (ROOT / ".data").mkdir(exist_ok=True)
    keys = f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}"
    accounts = [Account(number) for number in range(options.many)]
    with (
        TemporaryDirectory(prefix="bench-", dir=ROOT / ".data") as name,
        storage(Path(name) / "storage") as (server_url, redis_url),
        database(server_url, "organizations") as url,
        provider(Path(name)) as stand_in,
    ):
        folder, checkout = Path(name), options.service.resolve()
        with service(folder, checkout, url, redis_url, keys):
            pass  # which builds the database
        asyncio.run(fill(url, Vault(keys), accounts, stand_in.url))
        with service(folder, checkout, url, redis_url, keys) as server:
            measure(Meter(server, postmaster_of(url)), server, folder, accounts, options)
            if "lost" in options.only:
                taken_s, ended_s = asyncio.run(taken_over(url, accounts[:10], options.lost))
                print(
                    f"{options.lost} sends of a dead process: taken over in {taken_s:.1f} s, ended in {ended_s:.1f} s"
                )


if __name__ == "__main__":
    main()
