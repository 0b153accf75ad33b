"""The connections of a process to PostgreSQL: one number of them, for all that it does.

Each use keeps one place that nothing else takes, so that no flood of one starves another: the lookup of a webhook's
config, the API, what stores webhooks, sends and their outcomes, work in the background, changes of organizations. The
other places are for whoever comes first, as many as its use may have.

A place is the right to a connection. Whoever has one takes an idle connection of its kind; else opens one, in the place
of another's idle one where as many are open as may be. So there are never more, and what nobody needs is closed.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

import asyncpg
import msgspec

APP, INGEST, WORKER = ROLES = "ingress_app", "ingress_ingest", "ingress_worker"

STATEMENT_TIMEOUT_S = 5.0
# Who waits for others that change the same organization gives up after this.
EXCLUSIVE_WAIT_S = 20.0
# The server takes the lock from a process that says nothing for so long: longer than a change may take (switching.py).
EXCLUSIVE_IDLE_S = 30
# The server keeps with a connection what it learned of each table and statement, and names resolve anew.
LIFETIME_S = 3600.0
SWEEP_EVERY_S = 5.0
CLOSE_TIMEOUT_S = 1.0
# What each session of the server has, whatever its connection is for.
SETTINGS = {
    "synchronous_commit": "on",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    # Plans for arrays of unknown length are the same for every length; planning each time is half the cost.
    "plan_cache_mode": "force_generic_plan",
    # Every statement finds its rows by a key. A plan that was made while the tables were empty would read them
    # whole, and be kept until statistics come: seconds of a rush on a new database.
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    # In the order of an index, and no further than is asked for. With a step to another page at its usual price a
    # plan for all, which takes everybody for small, reads all that somebody large has, and sorts it.
    "random_page_cost": "1",
    "jit": "off",
}


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection is like."""

    role: str
    is_direct: bool = False  # no pooler may be in between
    idle_s: float = 60.0  # it is closed then
    settings: tuple[tuple[str, str], ...] = ()


class Use(msgspec.Struct, frozen=True):
    """What connections are for. ``most``: how many places it may take, with the one that is its own."""

    kind: Kind
    most: int = 1


# What a process needs connections for, and how many places each may take.
_API, _INGEST, _WORK = (Kind(role=role) for role in ROLES)
# A row that others write is waited for longer than elsewhere: what is half done would have to be undone. Closed before
# the server ends it: `idle_session_timeout` is meant for who holds a lock.
_CHANGES = Kind(
    role=APP,
    is_direct=True,
    idle_s=EXCLUSIVE_IDLE_S / 2,
    settings=(
        ("lock_timeout", f"{STATEMENT_TIMEOUT_S:.0f}s"),
        ("idle_session_timeout", f"{EXCLUSIVE_IDLE_S}s"),
        ("statement_timeout", f"{EXCLUSIVE_WAIT_S + STATEMENT_TIMEOUT_S:.0f}s"),
    ),
)
USES = {
    "app": Use(_API, 4),
    "worker": Use(_WORK, 6),
    "lookup": Use(_WORK, 3),
    # Those of group_commit.py.
    "ingest": Use(_INGEST, 2),
    "large": Use(_INGEST),
    "contacts": Use(_WORK),
    "claims": Use(_WORK),
    "outcomes": Use(_WORK),
    "listen": Use(Kind(role=WORKER, is_direct=True)),
    "exclusive": Use(_CHANGES),
}
# Changes of organizations wait for providers: of the places that are nobody's own, they leave so many to the others.
LEFT_BY_CHANGES = 2


class _Opened(msgspec.Struct, eq=False):
    connection: asyncpg.Connection
    opened_at: float
    idle_since: float = 0.0


class Lent:
    """A connection while it is lent: whoever keeps this for longer gets at nothing of the next one's."""

    __slots__ = ("_opened",)

    def __init__(self, opened: _Opened) -> None:
        self._opened: _Opened | None = opened

    def __getattr__(self, name: str) -> Any:
        if self._opened is None:
            raise asyncpg.InterfaceError("the connection was given back")
        return getattr(self._opened.connection, name)

    def take_back(self) -> _Opened:
        opened, self._opened = self._opened, None
        assert opened is not None
        return opened


class ConnectionPool:
    """The connections of a process, *most* at once, of the kinds that *uses* need. Enter it once a process."""

    def __init__(
        self, uses: Mapping[str, Use], most: int, connect: Callable[[Kind], Awaitable[asyncpg.Connection]]
    ) -> None:
        self._uses = uses
        self._most = most
        self._connect = connect
        self._taken = dict.fromkeys(uses, 0)
        self._shared = most - len(uses)
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._idle: dict[Kind, list[_Opened]] = {use.kind: [] for use in uses.values()}
        self._open = 0
        self._is_closing = False
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "ConnectionPool":
        self._sweeper = asyncio.create_task(self._sweep_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what is idle; what is lent when it is given back."""
        self._is_closing = True
        assert self._sweeper is not None
        self._sweeper.cancel()
        await self._close([opened for idle in self._idle.values() for opened in idle])

    @property
    def open(self) -> int:
        return self._open

    @property
    def idle(self) -> int:
        return sum(map(len, self._idle.values()))

    def in_use(self, name: str) -> int:
        return self._taken[name]

    async def borrow(self, name: str, within_s: float) -> Lent:
        """A connection for the use *name*, for which `give_back` is to be called. Raises `TimeoutError`."""
        if not self._take(name):
            await self._wait(name, within_s)
        try:
            return await self._lend(self._uses[name].kind)
        except BaseException:
            self._leave(name)
            raise

    def give_back(self, name: str, lent: Lent) -> None:
        """Nothing is reset: what a transaction set went with it, and one in a transaction is not lent again."""
        opened, now = lent.take_back(), monotonic()
        connection = opened.connection
        if (
            connection.is_closed()
            or connection.is_in_transaction()
            or now - opened.opened_at > LIFETIME_S
            or self._is_closing
        ):
            connection.terminate()
            self._open -= 1
        else:
            opened.idle_since = now
            self._idle[self._uses[name].kind].append(opened)
        self._leave(name)

    # -- places

    async def _wait(self, name: str, within_s: float) -> None:
        """Take a place, after all who wait for one that this use may have."""
        turn = asyncio.get_running_loop().create_future()
        waiting = name, turn
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(within_s):
                await turn
        except BaseException:
            if turn.cancelled():
                self._waiting.remove(waiting)
            else:  # it was this one's turn in the same moment
                self._leave(name)
            raise

    def _take(self, name: str) -> bool:
        taken = self._taken[name]
        if taken:
            if not self._shared or taken >= self._uses[name].most:
                return False
            self._shared -= 1
        self._taken[name] = taken + 1
        return True

    def _leave(self, name: str) -> None:
        self._taken[name] -= 1
        if self._taken[name]:
            self._shared += 1
        for waiting in self._waiting:
            other, turn = waiting
            if not turn.done() and self._take(other):
                self._waiting.remove(waiting)
                turn.set_result(None)
                break

    # -- connections

    async def _lend(self, kind: Kind) -> Lent:
        if self._is_closing:
            raise asyncpg.InterfaceError("the process ends")
        idle = self._idle[kind]
        while idle:
            opened = idle.pop()
            if not opened.connection.is_closed():
                return Lent(opened)
            self._open -= 1
        return Lent(await self._open_one(kind))

    async def _open_one(self, kind: Kind) -> _Opened:
        # As many are open as may be, and this place has none: some other has one that is idle.
        longest = min((idle for idle in self._idle.values() if idle), key=_idle_since, default=None)
        self._open += 1
        try:
            if self._open > self._most and longest:
                await self._close([longest.pop(0)])
            return _Opened(await self._connect(kind), monotonic())
        except BaseException:
            self._open -= 1
            raise

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now, done = monotonic(), []
            for kind, idle in self._idle.items():
                done += [
                    opened for opened in idle if opened.connection.is_closed() or now - opened.idle_since > kind.idle_s
                ]
                idle[:] = [opened for opened in idle if opened not in done]
            await self._close(done)

    async def _close(self, done: list[_Opened]) -> None:
        self._open -= len(done)
        for opened in done:
            with contextlib.suppress(
                OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError
            ):  # it is gone
                await opened.connection.close(timeout=CLOSE_TIMEOUT_S)


def _idle_since(idle: list[_Opened]) -> float:
    return idle[0].idle_since


@contextlib.asynccontextmanager
async def atomic(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction; where *connection* is in one, a part of it that is made as a whole or not at all.

    What is broken off in the middle takes the connection with it, whose server may not answer to a rollback either.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except (TimeoutError, asyncio.CancelledError):
        connection.terminate()
        raise
    except BaseException:
        await transaction.rollback()
        raise
    await transaction.commit()
