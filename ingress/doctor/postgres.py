"""PostgreSQL: is it there, does it keep what it confirms, is there room, and is anybody in the way."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic

import asyncpg

from ..retention.report import size
from ..storage import addresses
from ..storage.database import CONNECTION_ERRORS, SchemaError
from ..storage.migration import NOT_SAME, POOLED, POOLED_DIRECT
from ..storage.statements import logins
from ..storage.statements.reports import server
from ..storage.statements.reports.server import OpenTransaction, VacuumState
from ..storage.statements.switches import PROCESSES_LOCK
from .environment import is_local
from .findings import DoctorCheck, DoctorFinding, Examined, Findings, error, judged, listed, ok, place, warning, words

OLDEST_MAJOR = 15
OFF_IS_LOSS = ("fsync", "full_page_writes")
DURABILITY = (*OFF_IS_LOSS, "synchronous_standby_names", "wal_level", "archive_mode")
# Ids have a time in them, and leases and deadlines are compared with the database's.
SKEW_S, SKEW_TOO_LARGE_S = 1.0, 30.0
# Nothing of the service's takes so long, and `GET /events` waits for whoever writes.
LONG_S, TOO_LONG_S = 60.0, 600.0
# Of a transaction whose time cannot be seen.
LONG_TRANSACTIONS = 100_000
# Of the numbers of transactions, of which there are two thousand million ahead.
OLD, TOO_OLD = 1_000_000_000, 1_500_000_000
SLOT_BYTES = 1_000_000_000
NOT_CONNECTED: tuple[type[BaseException], ...] = (*CONNECTION_ERRORS, asyncpg.PostgresError)


async def reachable(examined: Examined) -> Findings:
    """By the service's own address and login."""
    url = examined.direct_url
    if not url:
        means = "`ingress serve` starts an embedded one, for development; nothing of a database is looked at here"
        yield error("DATABASE_URL is not set", means, "set DATABASE_URL=postgresql://...")
        return
    try:
        async with examined.login() as connection:
            yield _server(connection, place(url), await server.way(connection), is_local(url))
    except NOT_CONNECTED as failure:
        means = "nothing is received, sent or delivered: the service does not start"
        fix = 'check host, port, login, password and database of DATABASE_URL, and that it runs: psql "$DATABASE_URL"'
        yield error(f"{place(url)} does not let us in: {words(failure)}", means, fix)


def _server(connection: asyncpg.Connection, where: str, way: server.ServerWay, local: bool) -> DoctorFinding:
    version = connection.get_server_version()
    # What follows the point is asyncpg's `micro` since PostgreSQL 10; `minor` is 0.
    release = f"PostgreSQL {version.major}.{version.micro}"
    if version.major < OLDEST_MAJOR:
        fix = f"upgrade the server to PostgreSQL {OLDEST_MAJOR} or newer: pg_upgrade, or pg_dump and pg_restore"
        return error(f"it is {release}", "`ingress migrate` refuses it", fix)
    if way.is_standby or way.is_read_only:
        return _stores_nothing(way)
    secured = "" if local else f", {way.tls}"
    return ok(f"{release} answers at {where}{secured}")


def _stores_nothing(way: server.ServerWay) -> DoctorFinding:
    kind = "a standby" if way.is_standby else "read-only (default_transaction_read_only)"
    fix = "have DATABASE_URL lead to the primary, as with ?target_session_attrs=read-write and all hosts"
    return error(f"the database is {kind}", "nothing can be stored", fix)


async def pooler(examined: Examined) -> Findings:
    """A pooler needs a second address beside it."""
    direct = examined.settings.database_direct_url
    try:
        async with examined.login() as connection:
            await addresses.require_direct(connection, POOLED_DIRECT if direct else POOLED)
            if direct:
                await addresses.require_same(connection, examined.settings.database_url, NOT_SAME)
    except SchemaError as failure:
        fix = "set DATABASE_DIRECT_URL to the address of PostgreSQL itself, same database (docs/pgbouncer.md)"
        means = "locks, roles and notifications would be another client's; the service does not start"
        yield error(str(failure).partition(": ")[0], means, fix)
    else:
        yield ok("DATABASE_DIRECT_URL leads past the pooler" if direct else "no pooler is in between")


async def durability(examined: Examined) -> Findings:
    """A 200 to a provider is a promise that rests on these."""
    async with examined.login() as connection:
        found = await server.settings(connection, DURABILITY)
    off = [name for name in OFF_IS_LOSS if found[name] == "off"]
    for name in off:
        yield _loses(name)
    if found["wal_level"] == "minimal":
        means = "no standby and no backup to a point in time can be made"
        yield warning("wal_level is minimal", means, "psql -c 'alter system set wal_level = replica', then restart it")
    if not off:
        yield ok("fsync and full_page_writes are on, and the service's own transactions set synchronous_commit")
        yield ok(_standbys(found))


def _loses(name: str) -> DoctorFinding:
    means = "a crash of the machine loses or damages what was confirmed"
    return error(f"{name} is off", means, f"{_switch_on(name)}; then show {name}")


def _switch_on(*names: str) -> str:
    on = " ".join(f"-c 'alter system set {name} = on'" for name in names)
    return f"as a superuser: psql {on} -c 'select pg_reload_conf()'"


def _standbys(found: dict[str, str]) -> str:
    if names := found["synchronous_standby_names"]:
        return f"a commit waits for the standbys {names}"
    archived = "on" if found["archive_mode"] in ("on", "always") else "off"
    return f"no synchronous standby: a failover can lose the last moment's; archive_mode is {archived}"


async def connections(examined: Examined) -> Findings:
    """Those of all processes of this database, and of one more where none runs yet."""
    most = examined.database.most_direct_connections
    async with examined.login() as connection:
        asked, available = await logins.count_connections(connection, PROCESSES_LOCK)
    yield _room(asked, available, most)


def _room(asked: int, available: int, most: int) -> DoctorFinding:
    """*most*: what one more process may ask for."""
    wanted, who = (asked, "the processes that run") if asked else (most, "one process")
    found = f"{who} may open {wanted} connections, and the server has {available} for them"
    means = "at a rush some are refused, and what they were for waits"
    if wanted <= available:
        means = "there is no room for one process more, as there is while one replaces another"
    fix = "lower INGRESS_DATABASE_CONNECTIONS, run fewer processes, put PgBouncer in between, or raise max_connections"
    return judged(found, means, fix, is_wrong=wanted + most > available, is_bad=wanted > available)


async def clock(examined: Examined) -> Findings:
    """Ours against the server's, by the middle of the way there and back."""
    async with examined.login() as connection:
        skew_s, took_s = await _skew(connection)
    ahead = "ahead of" if skew_s > 0 else "behind"
    found = f"this machine's clock is {abs(skew_s):.3f} s {ahead} the database's, asked in {took_s * 1000:.1f} ms"
    means = "ids, deadlines of sends and ages of webhooks are wrong by that; webhooks may seem stale"
    fix = "have both machines follow NTP: timedatectl set-ntp true, chronyc tracking"
    yield judged(found, means, fix, is_wrong=abs(skew_s) > SKEW_S, is_bad=abs(skew_s) > SKEW_TOO_LARGE_S)


async def _skew(connection: asyncpg.Connection) -> tuple[float, float]:
    """How far ours is ahead, and how long the answer took."""
    await server.now(connection)  # prepared by then
    began = monotonic()
    theirs = await server.now(connection)
    took_s = monotonic() - began
    return (utc() - theirs).total_seconds() - took_s / 2, took_s


def utc() -> datetime:
    return datetime.now(UTC)


async def transactions(examined: Examined) -> Findings:
    """Events are shown in the order of transactions, so a long one that writes holds all that come after it."""
    async with examined.login() as connection:
        found = await server.open_transactions(connection)
        slots = await server.idle_slots(connection)
    long = [each for each in found if _is_long(each)]
    for finding in (*map(_long, long), *_unread(slots)):
        yield finding
    if not long:
        yield ok(f"{len(found)} other transactions are open, none for longer than {LONG_S:.0f} s")


def _is_long(each: OpenTransaction) -> bool:
    return each.seconds > LONG_S if each.seconds is not None else (each.age or 0) > LONG_TRANSACTIONS


def _long(each: OpenTransaction) -> DoctorFinding:
    how = f"for {each.seconds:.0f} s" if each.seconds is not None else f"{each.age:,} transactions ago"
    doing = "is idle in a transaction" if each.is_idle else "is in a transaction"
    found = f"{each.what} ({each.who}, login {each.login}) {doing}, begun {how}"
    means = "dead rows stay, and every scan reads them"
    if each.writes:
        means = "it writes: GET /events, streams and deliveries show nothing newer until it ends; dead rows stay, too"
    if each.what == "prepared":
        fix = f"psql -c \"rollback prepared '{each.who}'\""
    else:
        pid = each.what.removeprefix("pid ")
        fix = f"as a superuser: psql -c 'select pg_terminate_backend({pid})'; then find out why it takes so long"
        if each.is_idle:
            fix += f": alter role {each.login} set idle_in_transaction_session_timeout = '1min'"
    too_long = each.writes and (each.seconds or 0) > TOO_LONG_S
    return error(found, means, fix) if too_long else warning(found, means, fix)


def _unread(slots: dict[str, int]) -> Iterator[DoctorFinding]:
    for name, kept in slots.items():
        if kept > SLOT_BYTES:
            fix = f"start its reader, or: psql -c \"select pg_drop_replication_slot('{name}')\""
            yield warning(f"nobody reads the slot {name}, which keeps {size(kept)} of the log", "the disk fills", fix)


async def vacuum(examined: Examined) -> Findings:
    """Without it tables grow, and in the end the server takes no more writes."""
    async with examined.login() as connection:
        found = await server.vacuum(connection)
    problems = [*_off(found), *ageing(found)]
    for each in problems:
        yield each
    if not problems:
        yield ok(f"autovacuum is on; the oldest row not frozen is {found.transactions:,} transactions old")


def _off(found: VacuumState) -> Iterator[DoctorFinding]:
    means = "dead rows stay: tables grow, and reads get slower"
    if not found.is_on:
        yield error("autovacuum, or track_counts, is off", means, _switch_on("autovacuum", "track_counts"))
    if found.without:
        fix = f"psql -c 'alter table {found.without[0]} reset (autovacuum_enabled)', and so each of them"
        yield warning(f"autovacuum leaves out {listed(found.without)}", means, fix)


def ageing(found: VacuumState) -> Iterator[DoctorFinding]:
    """Where autovacuum does not keep up with freezing."""
    age = max(found.transactions, found.multixacts)
    if age > max(OLD, 2 * found.freezes_at):
        means = "at 2,146 million the server takes no more writes"
        fix = "end long transactions and drop idle slots (above), then: vacuumdb --freeze DATABASE"
        judge = error if age > TOO_OLD else warning
        yield judge(f"the oldest row not frozen is {age:,} transactions old", means, fix)


_NEEDS = ("postgres.pooler",)
CHECKS = (
    DoctorCheck("postgres.reachable", reachable),
    DoctorCheck("postgres.pooler", pooler, needs=("postgres.reachable",)),
    DoctorCheck("postgres.durability", durability, needs=_NEEDS),
    DoctorCheck("postgres.connections", connections, needs=_NEEDS),
    DoctorCheck("postgres.clock", clock, needs=_NEEDS),
    DoctorCheck("postgres.transactions", transactions, needs=_NEEDS),
    DoctorCheck("postgres.vacuum", vacuum, needs=_NEEDS),
)
