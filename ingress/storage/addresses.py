"""Where the addresses of the database lead: to PostgreSQL itself or through a pooler, and to one database."""

import secrets

import asyncpg

from .database import CONNECT_TIMEOUT_S, SchemaError


async def connect(url: str) -> asyncpg.Connection:
    """A connection that a pooler may be in between of: nothing is prepared by name."""
    return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0)


async def require_direct(connection: asyncpg.Connection, otherwise: str) -> None:
    """Raise `SchemaError` with *otherwise* where a pooler is in between: the process that it names is none of them."""
    try:
        async with connection.transaction():
            process = await connection.fetchval("select pg_backend_pid()")
    except asyncpg.PostgresConnectionError as error:
        if not _refuses_transactions(error):
            raise
        process = None
    if process != connection.get_server_pid():
        raise SchemaError(f"{otherwise} (docs/pgbouncer.md)")


async def require_same(connection: asyncpg.Connection, url: str, otherwise: str) -> None:
    """Raise `SchemaError` unless *url* leads to the database of *connection*, by whatever name.

    It may lead through a pooler, which must keep a transaction together.
    """
    lock = secrets.randbits(62)
    await connection.execute("select pg_advisory_lock($1)", lock)
    other = await connect(url)
    try:
        async with other.transaction():
            if await other.fetchval("select pg_try_advisory_xact_lock($1)", lock):
                raise SchemaError(otherwise)
    except asyncpg.PostgresConnectionError as error:
        if not _refuses_transactions(error):
            raise
        raise SchemaError(
            "the pooler of DATABASE_URL allows no transactions: set its pool_mode to `transaction` (docs/pgbouncer.md)"
        ) from None
    finally:
        await other.close()
        await connection.execute("select pg_advisory_unlock($1)", lock)


def _refuses_transactions(error: asyncpg.PostgresConnectionError) -> bool:
    """PgBouncer takes the connection away from who begins one where each statement may get another session."""
    return isinstance(error, asyncpg.ProtocolViolationError) or isinstance(
        error.__cause__, asyncpg.ProtocolViolationError
    )
