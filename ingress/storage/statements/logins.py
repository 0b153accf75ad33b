"""Logins of the database: the owner of the schema, and the service's, which owns nothing and sees nothing of its own;
how many connections the server has for them, and how many the processes of this database may ask for.

A role that a login has without `inherit` gives it nothing until `set role`, which each connection of ours begins with.
"""

from collections.abc import Sequence

import asyncpg

# Where there is no schema yet: whoever may make one.
OWNS = """
select coalesce(
    (select pg_has_role(relowner, 'member') from pg_class where oid = to_regclass('schema_version')),
    has_schema_privilege(current_schema(), 'create'), false)"""


async def owns_schema(connection: asyncpg.Connection) -> bool:
    """Whether this login may change the schema."""
    owns: bool = await connection.fetchval(OWNS)
    return owns


PROOF = """
select current_user = $1 and not (rolsuper or rolbypassrls) from pg_roles where rolname = current_user"""


async def is_in_role(connection: asyncpg.Connection, role: str) -> bool:
    """Whether row-level security binds the connection as it binds *role*."""
    proven: bool | None = await connection.fetchval(PROOF, role)
    return bool(proven)


FLAWS = """
select array_remove(array[
    case when rolsuper then 'it is a superuser' end,
    case when rolbypassrls then 'it bypasses row-level security' end,
    case when rolcreaterole then 'it may create roles' end,
    case when not rolsuper then (
        select 'it may become ' || string_agg(other.rolname, ', ' order by other.rolname) from pg_roles other
        where other.oid <> login.oid and other.rolname <> all($2::text[]) and pg_has_role(login.oid, other.oid, 'member')
    ) end,
    case when exists (select from unnest($2::text[]) role where pg_has_role(login.oid, role, 'usage')) or exists (
        select from pg_class tables where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
            and has_table_privilege(login.oid, tables.oid, 'select, insert, update, delete')
    ) then 'it has rights without taking a role' end
], null) from pg_roles login where rolname = $1"""


async def flaws(connection: asyncpg.Connection, login: str, roles: Sequence[str]) -> list[str] | None:
    """What lets *login*, which may take *roles*, do more than the service needs; None: there is no such login."""
    found: list[str] | None = await connection.fetchval(FLAWS, login, roles)
    return found


GRANT = """
select format('grant %I to %I', $1::text, $2::text)
    || case when current_setting('server_version_num')::int >= 160000 then ' with inherit false, set true' else '' end"""


async def grant(connection: asyncpg.Connection, role: str, login: str) -> None:
    """Let *login* take *role*. Before PostgreSQL 16 whether it inherits is the login's own attribute."""
    await connection.execute(await connection.fetchval(GRANT, role, login))


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


async def declare_connections(connection: asyncpg.Connection, lock: int, most: int) -> tuple[int, int]:
    """Say that this process may open *most*. What all such processes may open, and what the server has for them."""
    await connection.execute(DECLARE, lock, most)
    return await count_connections(connection, lock)


async def count_connections(connection: asyncpg.Connection, lock: int) -> tuple[int, int]:
    """As `declare_connections`, without saying anything."""
    [row] = await connection.fetch(COUNT, lock)
    return row["asked"], row["available"]
