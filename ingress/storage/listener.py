"""What PostgreSQL notifies a process of, on a connection that does nothing else."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from time import monotonic

import asyncpg

from .connections import WORKER
from .database import Database, SchemaError, StoreUnavailable, store_errors
from .statements import logins, organizations, sealed
from .statements.switches import PROCESSES_LOCK

logger = logging.getLogger("ingress.database")

LISTEN_RETRY_S = 0.5
# A connection that only listens does not notice that its other end is gone.
LISTEN_PROBE_S = 1.0


async def notifications(database: Database, channel: str, key_ids: Sequence[str] = ()) -> AsyncIterator[str | None]:
    """What is notified on *channel*, for ever; None each time it begins, and "" each time it breaks off.

    Meanwhile everybody sees that this process has the encryption keys *key_ids*.

    In between nothing is missed; what was notified before it began, or while it was away, was.
    """
    while True:
        with contextlib.suppress(StoreUnavailable):
            async with contextlib.aclosing(_listen(database, channel, key_ids)) as payloads:
                async for payload in payloads:
                    yield payload
        yield ""
        await asyncio.sleep(LISTEN_RETRY_S)


async def _listen(database: Database, channel: str, key_ids: Sequence[str]) -> AsyncGenerator[str | None, None]:
    """None when it begins, then what is notified on *channel*, until the connection is gone."""
    notified: asyncio.Queue[str | None] = asyncio.Queue()
    async with database.connection("listen") as connection:
        try:
            await _pass_on(connection, channel, notified)
            await _declare(connection, database, key_ids)
            yield None
            while not connection.is_closed():
                if (payload := await _next(connection, notified)) is not None:
                    yield payload
        finally:
            database.process = None
            database.changes.notified(False)
            connection.terminate()  # nobody else is to be notified


async def _declare(connection: asyncpg.Connection, database: Database, key_ids: Sequence[str]) -> None:
    """Have others see this process, and this process know who it is to them."""
    await _count_in(connection, database.most_direct_connections)
    await sealed.declare_keys(connection, key_ids)
    database.process = connection.get_server_pid()
    # Through a pooler it is another one's, and what is notified there does not come here.
    database.changes.notified(await connection.fetchval("select pg_backend_pid()") == database.process)


async def look(database: Database) -> None:
    """Look what has changed, while nothing is notified. Raises `StoreUnavailable`."""
    if followed := database.changes.followed():
        began = monotonic()
        async with database.worker() as connection:
            database.changes.found(await organizations.changed(connection, followed), began)


async def _pass_on(connection: asyncpg.Connection, channel: str, to: "asyncio.Queue[str | None]") -> None:
    connection.add_termination_listener(lambda _: to.put_nowait(None))
    await connection.add_listener(channel, lambda *notification: to.put_nowait(notification[3]))


async def _next(connection: asyncpg.Connection, notified: "asyncio.Queue[str | None]") -> str | None:
    """The next payload, or None where *connection* ended, or was quiet and still answers."""
    try:
        async with asyncio.timeout(LISTEN_PROBE_S):
            return await notified.get()
    except TimeoutError:
        await connection.execute("select 1", timeout=LISTEN_PROBE_S)
        return None


async def _count_in(connection: asyncpg.Connection, most_connections: int) -> None:
    """Warn where the processes of this database may together open more connections than the server has for them.

    Nothing is refused: they open what they need, and while one release replaces another both are there.
    """
    asked, available = await logins.declare_connections(connection, PROCESSES_LOCK, most_connections)
    if asked > available:
        logger.warning(
            "the processes of this database may open %d connections to PostgreSQL, this one %d of them, and the"
            " server has %d: lower INGRESS_DATABASE_CONNECTIONS, run fewer processes, or raise max_connections",
            *(asked, most_connections, available),
        )


async def require_room(database: Database, processes: int) -> None:
    """Raise `SchemaError` where so many new *processes* may open more connections than the server has for all."""
    with store_errors("listen"):
        connection = await database.connect(WORKER)
        try:
            _, available = await logins.count_connections(connection, PROCESSES_LOCK)
        finally:
            await connection.close()
    if (most := processes * database.most_direct_connections) > available:
        raise SchemaError(
            f"{processes} processes may open {most} connections to PostgreSQL, and the server has {available}: lower"
            " INGRESS_DATABASE_CONNECTIONS, start fewer processes, or raise max_connections"
        )
