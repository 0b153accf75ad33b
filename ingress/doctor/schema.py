"""The schema: there, of this release, whole, and with partitions for what comes."""

from datetime import UTC, datetime, timedelta

import asyncpg

from ..storage import partitions
from ..storage.connections import ROLES, WORKER
from ..storage.database import NO_ROLES, SCHEMA_VERSION, SchemaError, WrongRole, require_version
from ..storage.statements import upgrades
from ..storage.upgrades import unapplied
from .findings import DoctorCheck, DoctorFinding, Examined, Findings, error, ok, warning

MIGRATE = "DATABASE_OWNER_URL=postgresql://the_owner... ingress migrate"


async def present(examined: Examined) -> Findings:
    """Whether there is any."""
    async with examined.login() as connection:
        there = await upgrades.has_schema(connection)
    if there:
        yield ok("the schema is there")
    else:
        yield error("the database has no schema that this login sees", "the service does not start", MIGRATE)


async def roles(examined: Examined) -> Findings:
    """Each as the service takes it."""
    try:
        for role in ROLES:
            async with examined.role(role):
                continue
    except (asyncpg.InvalidParameterValueError, asyncpg.UndefinedObjectError, asyncpg.InsufficientPrivilegeError):
        yield error(NO_ROLES.partition(":")[0], "the service does not start", MIGRATE)
    except WrongRole as failure:
        fix = "set DATABASE_DIRECT_URL where a pooler is in between, and make the login one without superuser"
        yield error(str(failure), "row-level security would not hold; the service does not start", fix)
    else:
        yield ok(f"the login takes {', '.join(ROLES)}")


async def version(examined: Examined) -> Findings:
    """Whether this release can use it, and whether an upgrade is complete."""
    async with examined.role(WORKER) as connection:
        found = await upgrades.version(connection)
        try:
            await require_version(connection)
        except SchemaError as failure:
            fix = MIGRATE if found < SCHEMA_VERSION else "run the release that has changed it, or a newer one"
            yield error(str(failure), "the service does not start", fix)
            return
        missing = [migration.name for migration in await unapplied(connection)]
        older = await upgrades.older_processes(connection, SCHEMA_VERSION)
    if missing:
        yield _incomplete(missing, older)
    else:
        yield ok(f"the schema has version {found}, and all migrations are applied")


def _incomplete(missing: list[str], older: dict[str, int]) -> DoctorFinding:
    waiting = f"; processes of {', '.join(older)} are connected" if older else ""
    means = "the upgrade is not complete; both releases can serve until it is"
    fix = f"when no process of the former release runs: {MIGRATE} --post"
    return warning(f"not applied: {', '.join(missing)}{waiting}", means, fix)


async def ahead(examined: Examined) -> Findings:
    """Each process makes them each minute, and one that starts before it serves."""
    now = datetime.now(UTC)
    async with examined.role(WORKER) as connection:
        ends = await partitions.reach(connection)
    near = sorted((end, table) for table, end in ends.items() if end < now + partitions.NEAR)
    for end, table in near:
        has = f"partitions until {end:%Y-%m-%d %H:%M} UTC only" if end > partitions.BEGIN else "no partition"
        means = "nothing can be stored there then: webhooks are answered 503, and sends fail"
        fix = "start a process, which makes them; where one runs, its log says why it cannot: look for `partitions`"
        judge = error if end < now else warning
        yield judge(f"the table {table} has {has}", means, fix)
    if not near:
        least = min(ends.values(), default=now) - now
        yield ok(f"every table has partitions for the next {_days(least)} at least")


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.1f} days"


CHECKS = (
    DoctorCheck("schema.present", present, needs=("postgres.pooler",)),
    DoctorCheck("schema.roles", roles, needs=("schema.present",)),
    DoctorCheck("schema.version", version, needs=("schema.roles",)),
    DoctorCheck("schema.partitions", ahead, needs=("schema.version",)),
)
