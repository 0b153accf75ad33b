"""PostgreSQL: connections in a role, and which errors mean that the store is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg
from msgspec import structs

from .. import __version__, metrics
from ..settings import Settings
from ..shares import Shares
from . import pooled
from .changes import Changes
from .connections import (
    APP,
    EXCLUSIVE_WAIT_S,
    LEFT_BY_CHANGES,
    SETTINGS,
    STATEMENT_TIMEOUT_S,
    USES,
    ConnectionPool,
    Kind,
)
from .statements import logins, upgrades

SCHEMA_VERSION = 4
# Of the first release: migrations/ leads on from it.
FIRST_SCHEMA = 3
# Seeds the hash of an organization's id, so that the lock is none of another program's.
_EXCLUSIVE_LOCK = 0x73_77_69_74
CONNECT_TIMEOUT_S = 3.0
ACQUIRE_TIMEOUT_S = 5.0
# How many changes wait here, and of one organization: each holds its caller's connection.
EXCLUSIVE_QUEUE, EXCLUSIVE_QUEUE_EACH = 200, 50
POOLER_ADVICE = (
    "a pooler such as PgBouncer in between needs DATABASE_DIRECT_URL, which leads to PostgreSQL itself"
    " (docs/pgbouncer.md)"
)
NO_ROLES = "the login of DATABASE_URL may not take the service's roles: run `ingress migrate` as the schema's owner"

# What a client sees of a server that was killed, restarts, or stopped answering: by experiment, more than
# PostgresError. InternalClientError is asyncpg's own confusion when a connection dies mid-message.
CONNECTION_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    # Whole classes of SQLSTATE that are never the row's fault: 40 (deadlocks, serialization), 53 (connections, memory,
    # disk), 57 (shutdown, cancelled), 58 (input and output); and a lock, a transaction or a standby in the way.
    asyncpg.TransactionRollbackError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
)
# After these nobody knows what a connection is in the middle of.
_BREAKS: tuple[type[BaseException], ...] = (*CONNECTION_ERRORS, asyncio.CancelledError)


class StoreUnavailable(Exception):
    """PostgreSQL did not confirm: it is away, starting, or too slow. Trying again later is safe."""


class LockLost(StoreUnavailable):
    """The database has taken back the right to change an organization: what was not committed by then is not made."""


class Busy(Exception):
    """Others are changing the same organization, or too many others, and did not end in time."""


class WrongRole(ConnectionError):
    """A connection came that is not in its role: row-level security would not hold. It is not used."""


class SchemaError(Exception):
    """The database cannot be used as it is; the message says what to do."""


def is_data_error(error: BaseException) -> bool:
    """Whether the row is at fault, not the database: a value asyncpg cannot write, or SQLSTATE classes 22, 23 and 54.

    54 is a limit of the program: a value too long for an index stays too long.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in ("22", "23", "54")
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)


@contextlib.contextmanager
def store_errors(pool: str) -> Any:
    """Turn the many faces of an absent server into `StoreUnavailable`; a value's own fault passes as it is."""
    try:
        yield
    except CONNECTION_ERRORS as error:
        if is_data_error(error):
            raise
        raise _unavailable(pool, error) from error


def _unavailable(pool: str, error: BaseException) -> StoreUnavailable:
    metrics.db_errors.labels(pool, type(error).__name__).inc()
    return StoreUnavailable(type(error).__name__)


def _not_in(role: str) -> str:
    return f"the database gave a connection that is not in the role {role}: {POOLER_ADVICE}"


async def _prepare(connection: asyncpg.Connection, role: str) -> None:
    """JSON columns as the bytes they are: nobody decodes what is only passed on. Raises `WrongRole`."""
    if not await logins.is_in_role(connection, role):
        raise WrongRole(_not_in(role))
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")


class Database:
    """The connections of this process (connections.py), each in the role of its use.

    `organization(id)` gives a transaction that sees one organization only: row-level security holds even where a
    query forgets to say so. `worker()` gives a connection that sees all, for work across organizations; `lookup()`
    gives one too, to find the config of a webhook. `exclusive(id)` gives the right to change an organization.

    With *direct_url*, *url* may lead through a pooler that gives each transaction another session of the server
    (pooled.py); who listens, and who changes organizations, goes the direct way.
    """

    def __init__(
        self,
        url: str,
        most_connections: int = Settings().database_connections,
        direct_url: str = "",
        *,
        neighbours: int = 0,
    ) -> None:
        self._url = url
        self._direct_url = direct_url
        self.most_connections = most_connections
        # Processes beside this one that share its port, and what comes in there.
        self.neighbours = neighbours
        most_changes = max(1, most_connections - len(USES) - LEFT_BY_CHANGES + 1)
        # Of those that PostgreSQL itself sees; of a pooler's it sees as many as that one opens.
        self.most_direct_connections = 1 + most_changes if direct_url else most_connections
        self._places = asyncio.Semaphore(most_changes)
        uses = {**USES, "exclusive": structs.replace(USES["exclusive"], most=most_changes)}
        self._connections = ConnectionPool(uses, most_connections, self._open)
        self._exclusive: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._queue = Shares(EXCLUSIVE_QUEUE, EXCLUSIVE_QUEUE_EACH)
        self._is_app_proven = False
        self.changes = Changes()
        # The server's number of the connection that this process listens on; None: it does not listen.
        self.process: int | None = None

    async def __aenter__(self) -> "Database":
        await self._connections.__aenter__()
        metrics.watch_connections(self._connections, USES, self.most_connections)
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._connections.__aexit__(*reason)

    async def connect(self, role: str) -> asyncpg.Connection:
        """A connection of its own in *role*, beside the others; raises one of CONNECTION_ERRORS."""
        return await self._open(Kind(role=role))

    async def _open(self, kind: Kind) -> asyncpg.Connection:
        """Raises one of CONNECTION_ERRORS."""
        session = {**_session(kind.role), **dict(kind.settings)}
        limits: dict[str, Any] = {"timeout": CONNECT_TIMEOUT_S, "command_timeout": STATEMENT_TIMEOUT_S}
        if self._direct_url and not kind.is_direct:
            connection = await pooled.connect(self._url, session, **limits)
        else:
            connection = await asyncpg.connect(self._direct_url or self._url, server_settings=session, **limits)
        try:
            async with connection.transaction():
                await _prepare(connection, kind.role)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def connection(self, use: str) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """A connection for one of USES. Raises `StoreUnavailable`."""
        return _Use(self._connections, use)

    def worker(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """A connection that sees every organization. Raises `StoreUnavailable`."""
        return self.connection("worker")

    def lookup(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """As `worker`, from connections that nothing else takes. Raises `StoreUnavailable`."""
        return self.connection("lookup")

    @contextlib.asynccontextmanager
    async def organization(self, organization_id: UUID) -> AsyncIterator[asyncpg.Connection]:
        """A transaction that sees *organization_id* alone. Raises `StoreUnavailable`."""
        try:
            async with self.connection("app") as connection, connection.transaction():
                await _see_only(connection, organization_id)
                self._is_app_proven = True
                yield connection
        except StoreUnavailable as away:
            self._is_app_proven &= not isinstance(away.__cause__, WrongRole)
            raise

    @contextlib.asynccontextmanager
    async def exclusive(self, organization_id: UUID, *, wait: bool = True) -> AsyncIterator["Exclusive"]:
        """Alone among all processes in changing the organization. Who comes meanwhile queues, in order in each process.

        So does who comes while this process changes as many organizations as it may have connections for. Processes
        take turns.

        The lock belongs to the connection, and so do the transactions that are made under it: who has lost the one
        cannot commit the other. Raises `StoreUnavailable`; `Busy` after EXCLUSIVE_WAIT_S of all waiting, or at once
        without *wait*, or where as many wait as may.
        """
        until = asyncio.get_running_loop().time() + EXCLUSIVE_WAIT_S
        async with self._turn(organization_id, until, wait=wait), self.connection("exclusive") as connection:
            await _lock(connection, organization_id, until, wait=wait)
            try:
                yield Exclusive(connection, organization_id)
            except _BREAKS:
                connection.terminate()
                raise
            finally:
                await _unlock(connection)

    @contextlib.asynccontextmanager
    async def _turn(self, organization_id: UUID, until: float, *, wait: bool) -> AsyncIterator[None]:
        """The turn of one in this process to ask for the organization's lock: a queue here costs no connection."""
        lock = self._exclusive.setdefault(organization_id, asyncio.Lock())
        if (lock.locked() and not wait) or not self._queue.take(organization_id):
            raise Busy
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout_at(until):
                    await held.enter_async_context(lock)
                    await held.enter_async_context(self._places)
            except TimeoutError:
                raise Busy from None
            finally:
                self._queue.add(organization_id, -1)
            yield

    async def check(self) -> None:
        """Raise `StoreUnavailable` or `SchemaError` unless it is there, current, walls off organizations, and keeps
        what it confirms.
        """
        try:
            if not self._is_app_proven:  # then each use proves it
                async with self.organization(UUID(int=0)):
                    pass
            async with self.worker() as connection:
                await require_version(connection)
                for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                    if await connection.fetchval("select current_setting($1)", setting) == "off":
                        raise SchemaError(f"{setting} is off: a confirmed event could be lost")
        except StoreUnavailable as away:
            if isinstance(away.__cause__, WrongRole):
                raise SchemaError(str(away.__cause__)) from None
            raise
        except asyncpg.InsufficientPrivilegeError:
            raise SchemaError(NO_ROLES) from None


class _Use:
    """A connection from its place on to its end: written out, as it is entered for each statement."""

    __slots__ = ("_connection", "_connections", "_use")

    def __init__(self, connections: ConnectionPool, use: str) -> None:
        self._connections = connections
        self._use = use
        self._connection: Any = None

    async def __aenter__(self) -> Any:
        asked_at = monotonic()
        try:
            self._connection = await self._connections.borrow(self._use, ACQUIRE_TIMEOUT_S)
        except CONNECTION_ERRORS as error:
            raise _unavailable(self._use, error) from error
        metrics.child(metrics.pool_wait, self._use).observe(monotonic() - asked_at)
        return self._connection

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        breaks = isinstance(error, _BREAKS) and not is_data_error(error)
        if breaks:  # nobody knows what it is in the middle of, and its server may not answer to a rollback either
            self._connection.terminate()
        self._connections.give_back(self._use, self._connection)
        if breaks and not isinstance(error, asyncio.CancelledError):
            assert error is not None
            raise _unavailable(self._use, error) from error


class Exclusive:
    """The right to change one organization, and the connection that holds it."""

    def __init__(self, connection: asyncpg.Connection, organization_id: UUID) -> None:
        self._connection = connection
        self._organization_id = organization_id

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """A transaction that sees this organization alone. Raises `LockLost` where it cannot even begin."""
        async with contextlib.AsyncExitStack() as begun:
            try:
                await begun.enter_async_context(self._connection.transaction())
            except TimeoutError:
                raise  # it is still there
            except CONNECTION_ERRORS as error:
                raise LockLost(type(error).__name__) from error
            await _see_only(self._connection, self._organization_id)
            yield self._connection


async def _lock(connection: asyncpg.Connection, organization_id: UUID, until: float, *, wait: bool) -> None:
    """Take the lock of the organization, until `_unlock`. Raises `Busy`."""
    kind = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
    left_s = max(0.001, until - asyncio.get_running_loop().time())  # PostgreSQL takes 0 for any time
    try:
        locked = await connection.fetchval(
            # The setting is this statement's only; CASE has it made before the lock is waited for.
            "select case when set_config('lock_timeout', $3, true) is not null"
            f" then {kind}(hashtextextended($1, $2)) end",
            str(organization_id),
            _EXCLUSIVE_LOCK,
            f"{left_s * 1000:.0f}ms",
            timeout=left_s + STATEMENT_TIMEOUT_S,
        )
    except asyncpg.LockNotAvailableError:
        raise Busy from None
    if locked is False:
        raise Busy


async def _unlock(connection: asyncpg.Connection) -> None:
    """Let go of the lock; where that fails the connection goes, and the lock with it."""
    try:
        await connection.execute("select pg_advisory_unlock_all()")
    except CONNECTION_ERRORS:
        connection.terminate()


async def _see_only(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """Have the transaction see *organization_id* alone. Raises `WrongRole` where row-level security would not hold.

    A connection is proven when it is made; a pooler may give each transaction another one of the server's.
    """
    role = await connection.fetchval(
        "select current_user from set_config('app.org_id', $1, true)", str(organization_id)
    )
    if role != APP:
        raise WrongRole(_not_in(APP))


def _session(role: str) -> dict[str, str]:
    return {
        "role": role,
        "application_name": named(role.removeprefix("ingress_")),
        # Longer than whoever asks waits: for statements whose asker is gone.
        "statement_timeout": f"{STATEMENT_TIMEOUT_S + 1:.0f}s",
        **SETTINGS,
    }


def named(purpose: str) -> str:
    """How the server knows a connection: by the release, and by the schema that it can do with."""
    return f"whatsapp-ingress/{__version__} (schema {SCHEMA_VERSION}) {purpose}"


async def require_version(connection: asyncpg.Connection) -> None:
    """Raise `SchemaError` unless this release can use the schema: its own, or the former one prepared for it."""
    version = await upgrades.version(connection)
    if version == SCHEMA_VERSION or await upgrades.is_prepared(connection, SCHEMA_VERSION):
        return
    what = f"the database has schema {version}, this release needs {SCHEMA_VERSION}"
    if version > SCHEMA_VERSION:
        raise SchemaError(f"{what}: a newer release has changed it, so run that one")
    if version < FIRST_SCHEMA:
        raise SchemaError(f"{what}, and nothing upgrades it: make the database anew")
    raise SchemaError(
        f"{what}: run `ingress migrate` as the schema's owner, or, where a release was left out, stop all processes and"
        " run `ingress migrate --post`"
    )
