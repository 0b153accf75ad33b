"""What keeps organizations apart in the database: the login, its roles, and row-level security, which is tried."""

from uuid import uuid4

from ..storage.connections import APP, ROLES, WORKER
from ..storage.statements import logins
from ..storage.statements.reports import server
from .findings import DoctorCheck, Examined, Findings, error, listed, ok
from .schema import MIGRATE


async def login(examined: Examined) -> Findings:
    """It owns nothing, sees nothing by itself, and cannot become anybody who does."""
    async with examined.login() as connection:
        name = await connection.fetchval("select session_user::text")
        flaws = await logins.flaws(connection, name, ROLES) or []
        if await logins.owns_schema(connection):
            flaws.append("it may change the schema")
    if flaws:
        means = "whoever gets at this password, or at a hole in the service, gets past the walls between organizations"
        fix = (
            "psql -c \"create role ingress_service login noinherit password '...'\" as a superuser; DATABASE_URL with"
            f" that login; then {MIGRATE}"
        )
        yield error(f"the login {name} may do too much: {'; '.join(flaws)}", means, fix)
    else:
        yield ok(f"the login {name} owns nothing, and may become nobody but those roles")


async def rows(examined: Examined) -> Findings:
    """A query that names no organization sees nothing: asked of each table, beside a row that is there for it."""
    planted = uuid4()
    async with examined.role(WORKER) as connection:
        tables = await server.walled(connection)
        transaction = connection.transaction()
        await transaction.start()
        await server.plant(connection, planted)
        await server.see_as(connection, APP, planted)
        own = await server.seen(connection, ["organizations"])
        await server.see_as(connection, APP, None)
        seen = await server.seen(connection, list(tables))
        await transaction.rollback()
    bare = [table for table, is_walled in tables.items() if not is_walled]
    if seen:
        means = "a query that forgets its organization shows one what is another's"
        fix = f"drop the policy that lets it: psql -c '\\d {seen[0]}' shows it; schema.sql has those that belong there"
        yield error(f"in the role {APP}, and for no organization, rows are seen of {listed(seen)}", means, fix)
    if bare:
        fix = (
            f"psql -c 'alter table {bare[0]} enable row level security, force row level security', and so each of them"
        )
        yield error(f"row-level security is not forced on {listed(bare)}", "the second wall is missing there", fix)
    if not own:
        fix = "psql -c '\\d organizations' shows its policies; schema.sql has those that belong there"
        yield error(f"in the role {APP} an organization does not see itself", "the API answers 404 to everybody", fix)
    if own and not (seen or bare):
        yield ok(f"without an organization nothing is seen in {len(tables)} tables and partitions; with one, its own")


CHECKS = (
    DoctorCheck("walls.login", login, needs=("postgres.pooler",)),
    DoctorCheck("walls.rows", rows, limit_s=20.0, needs=("schema.version",)),
)
