"""What was applied of migrations/, how far the one that is being applied is, and which processes are of an older release."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

LOCK = "select pg_try_advisory_lock($1)"


async def lock(connection: asyncpg.Connection, key: int) -> bool:
    """Try to take the lock of who may change the schema, for as long as *connection* lasts.

    Who waited for it inside of PostgreSQL would hold a snapshot, which CREATE INDEX CONCURRENTLY of who has it waits for.
    """
    taken: bool = await connection.fetchval(LOCK, key)
    return taken


EXISTS = "select to_regclass('schema_version') is not null"
VERSION = "select max(version) from schema_version"


async def has_schema(connection: asyncpg.Connection) -> bool:
    """Whether there is one, of whichever release."""
    found: bool = await connection.fetchval(EXISTS)
    return found


async def version(connection: asyncpg.Connection) -> int:
    """Of the schema."""
    found: int = await connection.fetchval(VERSION)
    return found


class Applied(NamedTuple):
    """How far a migration is. ``applied_at``: None, it is not done. ``step``: the next one, from 0 on.

    ``cursor``: how far that one is, where it runs in batches, and ``rows``, how many those had.
    """

    name: str
    applied_at: datetime | None
    step: int = 0
    cursor: str | None = None
    rows: int = 0


KNOWN = "select to_regclass('schema_migrations') is not null"
APPLIED = """
select name, applied_at, coalesce((progress ->> 'step')::int, 0), progress ->> 'cursor',
    coalesce((progress ->> 'rows')::bigint, 0)
from schema_migrations"""


async def applied(connection: asyncpg.Connection) -> dict[str, Applied]:
    """By name; those that were never begun are not in it, and none is before the first migration."""
    if not await connection.fetchval(KNOWN):
        return {}
    return {row["name"]: Applied(*row) for row in await connection.fetch(APPLIED)}


# All that leads to it from the schema before, but for what waits until the release before is gone.
PREPARED = r"""
select exists (select from schema_migrations where name like $1)
    and not exists (select from schema_migrations where name like $1 and applied_at is null)
    and $2 = (select max(version) + 1 from schema_version)"""


async def is_prepared(connection: asyncpg.Connection, schema: int) -> bool:
    """Whether the schema before *schema* has been made ready for releases that need that."""
    if not await connection.fetchval(KNOWN):
        return False
    prepared: bool = await connection.fetchval(PREPARED, rf"{schema:04}\_pre\_%", schema)
    return prepared


NOTE = """
insert into schema_migrations (name, applied_at, progress)
values ($1, case when $5 then clock_timestamp() end,
    case when not $5 then json_build_object('step', $2::int, 'cursor', $3::text, 'rows', $4::bigint) end)
on conflict (name) do update set applied_at = excluded.applied_at, progress = excluded.progress"""


async def note(connection: asyncpg.Connection, now: Applied, *, is_done: bool) -> None:
    """Store how far a migration is."""
    await connection.execute(NOTE, now.name, now.step, now.cursor, now.rows, is_done)


RELATION_ROWS = "select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass($1)"


async def estimate_rows(connection: asyncpg.Connection, table: str) -> int:
    """As the server last counted them."""
    rows: int | None = await connection.fetchval(RELATION_ROWS, table)
    return rows or 0


TIMEOUTS = "select set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)"


async def set_timeouts(connection: asyncpg.Connection) -> None:
    """Whatever the login has: what must not wait says so itself."""
    await connection.execute(TIMEOUTS)


BECOME_OWNER = """
select set_config('role', pg_get_userbyid(relowner), false) from pg_class where oid = 'schema_version'::regclass"""


async def become_owner(connection: asyncpg.Connection) -> None:
    """What a migration makes belongs to whom all else belongs to, whoever applies it."""
    await connection.execute(BECOME_OWNER)


BECOME = "select current_user, set_config('role', $1, false)"


async def become(connection: asyncpg.Connection, role: str) -> str:
    """Act in another role; who it was."""
    was: str = await connection.fetchval(BECOME, role)
    return was


LIMIT = "select set_config('lock_timeout', $1, true)"


async def limit_wait(connection: asyncpg.Connection, timeout: str) -> None:
    """How long the transaction waits for a lock."""
    await connection.execute(LIMIT, timeout)


async def keep_vacuum_out(connection: asyncpg.Connection, tables: Sequence[str], timeout: str) -> None:
    """Lock *tables* as a vacuum does, which gives way to that: who reads and writes is not in its way."""
    await limit_wait(connection, timeout)
    for table in tables:
        await connection.execute(f"lock table {table} in share update exclusive mode")


NUMBER = "select pg_current_xact_id()::text"


async def number(connection: asyncpg.Connection) -> str:
    """Of the transaction, which has one from then on."""
    found: str = await connection.fetchval(NUMBER)
    return found


HEEDLESS = "update event_clock set heedless = $1::text::xid8"


async def pass_over(connection: asyncpg.Connection, transaction: str | None) -> None:
    """Have who reads events not wait for *transaction*, which writes none (worker)."""
    await connection.execute(HEEDLESS, transaction)


# The first release named its connections after its roles. Names are seen of all logins, which else see nothing of each
# other's connections.
FIRST_RELEASE = ["ingress-app", "ingress-ingest", "ingress-worker"]
OLDER = r"""
select coalesce(nullif(substring(application_name from '^whatsapp-ingress/(\S+)'), ''), 'the first release') as release,
    count(*) as connections
from pg_stat_activity
where datname = current_database() and (application_name = any($1)
    or substring(application_name from '^whatsapp-ingress/\S+ \(schema (\d{1,9})\)')::int < $2)
group by 1 order by 1"""


async def older_processes(connection: asyncpg.Connection, schema: int) -> dict[str, int]:
    """Releases older than *schema* that are connected to this database, and by how many connections."""
    return {row["release"]: row["connections"] for row in await connection.fetch(OLDER, FIRST_RELEASE, schema)}
