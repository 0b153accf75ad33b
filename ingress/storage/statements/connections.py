"""How many connections the server has, and how many the processes of this database may ask for."""

import asyncpg

# By a lock that everybody may hold, and everybody sees: of the sessions of another login a role sees only how many.
DECLARE = "select pg_advisory_lock_shared($1, $2)"

COUNT = """
select
    (select coalesce(sum(objid::bigint), 0) from pg_locks
        where locktype = 'advisory' and classid = $1 and objsubid = 2 and database = own.oid)::int as asked,
    -- least() leaves out what is NULL: no limit.
    least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            -- Since PostgreSQL 16.
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            - (select coalesce(sum(numbackends), 0) from pg_stat_database where datid <> own.oid),
        nullif(own.datconnlimit, -1),
        (select nullif(rolconnlimit, -1) from pg_roles where rolname = session_user)
    )::int as available
from pg_database own where datname = current_database()"""


async def declare(connection: asyncpg.Connection, lock: int, most: int) -> tuple[int, int]:
    """Say that this process may open *most*. What all such processes may open, and what the server has for them."""
    await connection.execute(DECLARE, lock, most)
    [row] = await connection.fetch(COUNT, lock)
    return row["asked"], row["available"]
