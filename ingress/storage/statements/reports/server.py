"""What PostgreSQL says of itself: how it is set, who is in the way of whom, and whether its walls stand."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

SETTINGS = "select name, current_setting(name, true) from unnest($1::text[]) as name"


async def settings(connection: asyncpg.Connection, names: Sequence[str]) -> dict[str, str]:
    """As this connection has them; those that the server does not know are missing."""
    return {row[0]: row[1] for row in await connection.fetch(SETTINGS, names) if row[1] is not None}


NOW = "select clock_timestamp()"


async def now(connection: asyncpg.Connection) -> datetime:
    """By the server's clock."""
    found: datetime = await connection.fetchval(NOW)
    return found


WAY = """
select coalesce(version, 'no TLS') as tls, pg_is_in_recovery() as is_standby,
    current_setting('transaction_read_only') = 'on' as is_read_only
from (select pg_backend_pid() as pid) own left join pg_stat_ssl using (pid)"""


class ServerWay(NamedTuple):
    """How this connection came, and what may be done on it."""

    tls: str
    is_standby: bool
    is_read_only: bool


async def way(connection: asyncpg.Connection) -> ServerWay:
    """Of this connection."""
    [row] = await connection.fetch(WAY)
    return ServerWay(*row)


# Of sessions of other logins a login sees no times and no state, but which transactions they are in.
OPEN = """
select coalesce('pid ' || pid, 'prepared') as what, coalesce(nullif(application_name, ''), 'no name') as who, usename as login,
    coalesce(state like 'idle in transaction%', false) as is_idle,
    extract(epoch from clock_timestamp() - xact_start)::float8 as seconds,
    backend_xid is not null as writes, greatest(age(backend_xid), age(backend_xmin)) as age
from pg_stat_activity
where pid <> pg_backend_pid() and usename is not null
    and (backend_xid is not null or datname = current_database() and (backend_xmin is not null or state like 'idle in transaction%'))
union all
select 'prepared', gid, owner::text, true, extract(epoch from clock_timestamp() - prepared)::float8, true, age(transaction)
from pg_prepared_xacts
order by seconds desc nulls last"""


class OpenTransaction(NamedTuple):
    """One that is not over. ``seconds`` None: it is another login's; ``age``: in transactions, None: it has no number."""

    what: str
    who: str
    login: str
    is_idle: bool
    seconds: float | None
    writes: bool
    age: int | None


async def open_transactions(connection: asyncpg.Connection) -> list[OpenTransaction]:
    """Those that write in any database, and all of this one; the longest first."""
    return [OpenTransaction(*row) for row in await connection.fetch(OPEN)]


SLOTS = """
select slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint as bytes
from pg_replication_slots where not active and restart_lsn is not null order by 2 desc"""


async def idle_slots(connection: asyncpg.Connection) -> dict[str, int]:
    """Replication slots that nobody reads, and how much of the log each keeps."""
    return {row[0]: row[1] for row in await connection.fetch(SLOTS)}


VACUUM = """
select current_setting('autovacuum')::bool and current_setting('track_counts')::bool as is_on,
    age(datfrozenxid) as transactions, mxid_age(datminmxid) as multixacts,
    current_setting('autovacuum_freeze_max_age')::int as freezes_at,
    array(
        select relname::text from pg_class where relnamespace = current_schema()::regnamespace
            and exists (select from unnest(reloptions) each where each ~ '^autovacuum_enabled=(off|false|no|0)$')
        order by 1
    ) as without
from pg_database where datname = current_database()"""


class VacuumState(NamedTuple):
    """``transactions``, ``multixacts``: how many ago the oldest row was written that is not frozen.

    ``without``: tables that are not looked at.
    """

    is_on: bool
    transactions: int
    multixacts: int
    freezes_at: int
    without: list[str]


async def vacuum(connection: asyncpg.Connection) -> VacuumState:
    """Whether dead rows go, and how far the numbers of transactions are from their end."""
    [row] = await connection.fetch(VACUUM)
    return VacuumState(*row)


DATABASE_BYTES = "select pg_database_size(current_database())"


async def database_bytes(connection: asyncpg.Connection) -> int:
    """All of this database."""
    found: int = await connection.fetchval(DATABASE_BYTES)
    return found


# ------------------------------------------------------------------ the walls between organizations

WALLED = """
select format('%I', relname) as name, relrowsecurity and relforcerowsecurity as is_walled from pg_class tables
where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p') and (
    exists (select from pg_policy where polrelid = tables.oid)
    or exists (select from pg_attribute where attrelid = tables.oid and attname = 'organization_id' and not attisdropped)
) order by 1"""


async def walled(connection: asyncpg.Connection) -> dict[str, bool]:
    """Each table and partition with what is an organization's, and whether row-level security is forced there."""
    return {row[0]: row[1] for row in await connection.fetch(WALLED)}


PLANT = "insert into organizations (id, name) values ($1, 'planted by ingress doctor, and rolled back')"
CHANGE_ROLE = "select set_config('role', $1, true), set_config('app.org_id', $2, true)"


async def plant(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """An organization to look for, in a transaction that is rolled back (worker)."""
    await connection.execute(PLANT, organization_id)


async def see_as(connection: asyncpg.Connection, role: str, organization_id: UUID | None) -> None:
    """Go on in *role*, for this organization or for none, until the transaction ends."""
    await connection.execute(CHANGE_ROLE, role, str(organization_id or ""))


async def seen(connection: asyncpg.Connection, tables: Sequence[str]) -> list[str]:
    """Those of *tables* of which any row is seen."""
    found = []
    for table in tables:
        if await connection.fetchval("select has_table_privilege($1, 'select')", table) and await connection.fetchval(
            f"select exists (select from {table})"
        ):
            found.append(table)
    return found
