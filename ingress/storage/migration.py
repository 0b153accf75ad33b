"""The schema: made where it is missing, looked at before a start, and the logins that may serve with it."""

import logging
from datetime import datetime
from typing import NamedTuple

import asyncpg

from . import addresses, partitions
from .connections import ROLES, WORKER
from .database import (
    CONNECT_TIMEOUT_S,
    NO_ROLES,
    Database,
    SchemaError,
    StoreUnavailable,
    WrongRole,
    named,
    require_version,
    store_errors,
)
from .statements import logins
from .statements.upgrades import has_schema
from .upgrades import Post, Report, folder, log_progress, record_all, state, take_schema_lock, unapplied, upgrade

logger = logging.getLogger("ingress.storage.migration")

POOLED = (
    "DATABASE_URL leads through a pooler, such as PgBouncer: set DATABASE_DIRECT_URL, too, to an address of PostgreSQL"
    " itself, for who listens and who changes organizations"
)
POOLED_DIRECT = "DATABASE_DIRECT_URL leads through a pooler, such as PgBouncer: it must lead to PostgreSQL itself"
POOLED_OWNER = (
    "the login that owns the schema comes through a pooler, such as PgBouncer: set DATABASE_OWNER_URL (or"
    " DATABASE_DIRECT_URL) to an address of PostgreSQL itself"
)
# How far the clock of events goes on after a restore, in transactions: more than there were since the backup, a day of
# 12,000 a second. Sequences stay below 2**53, which every reader of JSON can count to, for a hundred restores.
LOST_TRANSACTIONS = 2**30
NOT_SAME = "DATABASE_DIRECT_URL and DATABASE_URL lead to different databases: they must be two ways to the same one"


class Migrated(NamedTuple):
    """What there is after a migration. ``applied``: when; ``missing``: what waits until the former release is gone.

    ``older``: releases of before that are connected, and by how many connections.
    """

    is_new: bool
    applied: dict[str, datetime]
    missing: list[str]
    older: dict[str, int]


async def prepare(url: str, direct_url: str = "") -> bool:
    """Have the database at *url* ready to serve with: migrated where its login owns the schema, else only looked at.

    Whether it owns it. *direct_url* is as `Database` takes it. Raises `StoreUnavailable`, and `SchemaError` that says
    what to do.
    """
    with store_errors("migrate"):
        if is_owner := await _owns_schema(url, direct_url):
            await migrate(direct_url or url, post=Post.WHEN_ALONE)
        await _try_roles(url, direct_url)
    return is_owner


async def _owns_schema(url: str, direct_url: str) -> bool:
    """Whether the login does. Raises `SchemaError` where the addresses do not lead where they should."""
    connection = await addresses.connect(direct_url or url)
    try:
        await addresses.require_direct(connection, POOLED_DIRECT if direct_url else POOLED)
        if direct_url:
            await addresses.require_same(connection, url, NOT_SAME)
        return await logins.owns_schema(connection)
    finally:
        await connection.close()


async def _try_roles(url: str, direct_url: str) -> None:
    """Connect in each, by both ways."""
    try:
        for role in ROLES:
            await _try_role(direct_url or url, role)
            if direct_url:
                await (await Database(url, direct_url=direct_url).connect(role)).close()
    except (asyncpg.InvalidParameterValueError, asyncpg.UndefinedObjectError, asyncpg.InsufficientPrivilegeError):
        raise SchemaError(NO_ROLES) from None
    except WrongRole as error:
        raise SchemaError(str(error)) from None


async def _try_role(url: str, role: str) -> None:
    connection = await Database(url).connect(role)
    try:
        await require_version(connection)
        if role == WORKER:  # nothing comes in before there is a place for it, however long nobody served
            await partitions.keep_ahead(connection)
            await _warn_of_missing(connection)
    finally:
        await connection.close()


async def _warn_of_missing(connection: asyncpg.Connection) -> None:
    if missing := await unapplied(connection):
        logger.warning(
            "the upgrade of the schema is not complete (%s): run `ingress migrate --post` when no process of the former"
            " release runs",
            ", ".join(migration.name for migration in missing),
        )


async def migrate(
    url: str,
    login: str | None = None,
    service_url: str = "",
    *,
    post: Post = Post.NEVER,
    report: Report = log_progress,
    is_restored: bool = False,
) -> Migrated:
    """Have the database at *url* ready for this release; safe from several processes at once.

    With *login*, that one may serve from then on, and *service_url* must lead to the same database. *is_restored*: it
    may lack events that somebody has seen, so the next ones are numbered far above all of them.

    Raises `StoreUnavailable`, or `SchemaError` for a server too old, a schema too new, a login that may too little or
    too much, and as `upgrade` does.
    """
    with store_errors("migrate"):
        connection = await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": named("migrate")}
        )
        try:
            await addresses.require_direct(connection, POOLED_OWNER)
            _require_release(connection)
            if service_url:
                await _require_same(connection, service_url)
            await take_schema_lock(connection)
            await upgrade(connection, url, post, report)
            async with connection.transaction():
                is_new = await _migrate(connection, login, is_restored)
            return Migrated(is_new, *await state(connection))
        except asyncpg.InsufficientPrivilegeError as error:
            raise SchemaError(
                f"the login may not migrate ({error.args[0]}): it must own the database, and have CREATEROLE"
                " (`alter role ... createrole`), or, where another login has made the service's roles, have them with"
                f" admin option (`grant {', '.join(ROLES)} to ... with admin option`)"
            ) from None
        finally:
            await connection.close()


async def _migrate(connection: asyncpg.Connection, login: str | None, is_restored: bool) -> bool:
    is_new = await _create(connection)
    await require_version(connection)
    if login is not None:
        await _admit(connection, login)
    await _advance_clock(connection)
    if is_restored:
        # A transaction that is heedless of events was another cluster's.
        await connection.execute(
            "update event_clock set base = base + ($1::bigint << 16), heedless = null", LOST_TRANSACTIONS
        )
    await partitions.keep_ahead(connection, has_leapt=is_restored)
    return is_new


async def _create(connection: asyncpg.Connection) -> bool:
    """Make the schema, if there is none. Whether there was none."""
    if await has_schema(connection):
        return False
    await connection.execute((folder() / "schema.sql").read_text("utf-8"))
    await record_all(connection)
    return True


async def _advance_clock(connection: asyncpg.Connection) -> None:
    """After a restore into another cluster transaction ids start low, and sequences must still go up."""
    await connection.execute(f"set local role {WORKER}")
    await connection.execute(
        "update event_clock set base = base + (((last.sequence - next_sequence(0)) >> 16) + 1 << 16)"
        # The last of each organization by its key: over all of them at once would read every event. None is left of a
        # quiet time, when there were marks.
        " from (select greatest(max(newest.sequence), (select max(sequence) from event_marks)) as sequence"
        "  from organizations o cross join lateral (select sequence"
        "  from events where organization_id = o.id order by sequence desc limit 1) newest) last"
        " where last.sequence >= next_sequence(0)"
    )


def _require_release(connection: asyncpg.Connection) -> None:
    if (major := connection.get_server_version().major) < 15:
        raise SchemaError(f"PostgreSQL 15 or newer is needed, this is {major}")


async def _require_same(owner: asyncpg.Connection, url: str) -> None:
    """Raise `SchemaError` unless *url* leads to the database of *owner*, by whatever name."""
    try:
        with store_errors("migrate"):
            await addresses.require_same(
                owner,
                url,
                "DATABASE_OWNER_URL and DATABASE_URL lead to different databases: the one that is migrated would not be"
                " the one that is served. Give both the same host, port and database; nothing was changed",
            )
    except asyncpg.InvalidAuthorizationSpecificationError:
        return  # what is wrong with the login `_admit` knows better
    except (asyncpg.PostgresError, asyncpg.InterfaceError, StoreUnavailable) as error:
        raise SchemaError(f"DATABASE_URL, of the login to admit, does not lead to a database: {error}") from None


async def _admit(connection: asyncpg.Connection, login: str) -> None:
    """Let *login* take the service's roles, and see that it can do nothing else. Raises `SchemaError`."""
    if await logins.flaws(connection, login, ROLES) is None:
        raise SchemaError(f"there is no login {login!r}: `create role ... login noinherit`, with a password")
    for role in ROLES:
        await logins.grant(connection, role, login)
    if flaws := await logins.flaws(connection, login, ROLES):
        raise SchemaError(
            f"the login {login!r} must not serve: {'; '.join(flaws)}. Make another one with"
            " `create role ... login noinherit`, and nothing granted"
        )
