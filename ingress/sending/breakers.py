"""A circuit breaker an account: calls that would fail are not made, and all processes learn that one cannot send.

    closed ── half of 10 calls or more in 10 s failed, or the account is broken ──▶ open
    open ── after 10 s, the next time after 20 s, up to 120 s ──▶ half open: one call at a time
    half open ── 3 succeed ──▶ closed;  one fails ──▶ open

A process finds out about failing calls by itself, and quickly. That an account is broken is no passing trouble, so the
first process that finds it stores it, and the others stop calling too; the first one that gets through clears it.
"""

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from time import monotonic
from typing import Any, Literal, get_args
from uuid import UUID

from providers import AccountBroken, Unavailable, Uncertain

from .. import metrics
from ..accounts.config import Config
from ..storage.database import Database, StoreUnavailable
from ..storage.redis_state import RedisState
from ..storage.statements import configs, health

logger = logging.getLogger("ingress.sending.breakers")

WINDOW_S = 10
LEAST_CALLS = 10
FAILING_SHARE = 0.5
OPEN_S, OPEN_AT_MOST_S = 10.0, 120.0
JITTER = 0.2
SUCCESSES_TO_CLOSE = 3
BREAKER_OPEN = "breaker_open"
SYNC_S = 5.0
# A breaker that nobody used for so long is forgotten: its account may be gone, and what it knew is too old.
FORGET_AFTER_S = 3600.0
# Broken for some messages only: others go out.
NARROW = frozenset(
    {"template", "template_category", "flow", "feature", "country", "recipient", "message", "pair", "trial", "callback"}
)
# Failures that happen before a call could be made.
UNCALLED = frozenset({"deadline"})
# Whose fault they are is another: the host of a file that is to be sent does not answer the provider.
ELSEWHERE = "media"

State = Literal["closed", "open", "half_open"]
# How a call ended: `neutral` is no sign of the provider, `broken` means that the account cannot send at all.
Ended = Literal["ok", "failed", "neutral", "broken"]
Permit = Literal["call", "probe"]


class Breaker:
    """Of one account. ``broken``: it is open because the account cannot send, not for failing calls."""

    __slots__ = (
        "_changed",
        "_clock",
        "_open_s",
        "_probing",
        "_seconds",
        "_successes",
        "_until",
        "broken",
        "state",
        "used_at",
    )

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        changed: Callable[[State, State], None] = lambda former, state: None,
    ) -> None:
        self.state: State = "closed"
        self.broken = False
        self._clock = clock
        self._changed = changed
        self._seconds: deque[list[int]] = deque()  # of the window: [second, calls, failures]
        self._open_s = OPEN_S
        self._until = 0.0
        self._successes = 0
        self._probing = False
        self.used_at = clock()  # when a call was asked for last

    @property
    def wait_s(self) -> float:
        """Seconds until a call may be made; 0: now. While another call probes, as long as that may take."""
        if self.state == "closed":
            return 0.0
        left_s = self._until - self._clock() if self.state == "open" else 0.0
        return max(left_s, 1.0) if self._probing else max(left_s, 0.0)

    def enter(self) -> Permit | None:
        """Whether a call may be made now. Whoever gets a permit gives it back with `leave`, whatever happens."""
        self.used_at = self._clock()
        if self.state == "closed":
            return "call"
        if self.wait_s > 0:
            return None
        self.end_rest()
        self._probing = True
        return "probe"

    def end_rest(self) -> None:
        """Half open where it has rested, though nobody calls: an account that is not sent through is not skipped."""
        if self.state == "open" and self.wait_s <= 0:
            self._become("half_open")

    def leave(self, permit: Permit, ended: Ended) -> None:
        if permit == "probe":
            self._probing = False
        if ended == "broken":
            self.trip(broken=True)
        elif self.state == "closed" and permit == "call":
            if ended != "neutral":
                self._count(ended == "failed")
        # What began before it opened is no probe.
        elif self.state == "half_open" and permit == "probe":
            self._probed(ended)

    def _probed(self, ended: Ended) -> None:
        if ended == "failed":
            self.trip()
        elif ended == "ok":
            self._successes += 1
            if self._successes >= SUCCESSES_TO_CLOSE:
                self.close()

    def trip(self, *, broken: bool = False) -> None:
        """Open it, unless it is open for the same reason already."""
        if self.state == "open" and (self.broken or not broken):
            return
        # The longer it was of no use, the longer it rests; jittered, or all processes would ask in the same moment.
        self._open_s = min(self._open_s * 2, OPEN_AT_MOST_S) if self.state == "half_open" else OPEN_S
        self._until = self._clock() + self._open_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (spreads load)
        self.broken = broken or (self.broken and self.state == "half_open")
        self._become("open")

    def close(self) -> None:
        self.broken = False
        self._seconds.clear()
        if self.state != "closed":
            self._become("closed")

    def _count(self, failed: bool) -> None:
        seconds = self._window(int(self._clock()))
        seconds[-1][1] += 1
        if failed:
            seconds[-1][2] += 1
            _, calls, failures = map(sum, zip(*seconds, strict=True))
            if calls >= LEAST_CALLS and failures >= FAILING_SHARE * calls:
                self.trip()

    def _window(self, second: int) -> deque[list[int]]:
        """The seconds that count, *second* the last of them."""
        seconds = self._seconds
        if not seconds or seconds[-1][0] != second:
            while seconds and seconds[0][0] <= second - WINDOW_S:
                seconds.popleft()
            seconds.append([second, 0, 0])
        return seconds

    def _become(self, state: State) -> None:
        former, self.state = self.state, state
        self._successes = 0
        if former != state:
            self._changed(former, state)


class Breakers:
    """Which accounts may be called. Enter it once a process."""

    def __init__(self, database: Database, redis: RedisState) -> None:
        self._database = database
        self._redis = redis
        self._breakers: dict[UUID, Breaker] = {}
        self._providers: dict[UUID, str] = {}
        # Configs that are broken by the database, or by what is being stored; and those of which something is.
        self._broken, self._storing = set[UUID](), set[UUID]()
        self._order = asyncio.Lock()
        self._notified = asyncio.Event()
        self._tasks = set[asyncio.Task[None]]()

    async def __aenter__(self) -> "Breakers":
        self._start(self._sync_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wait_s(self, config: Config) -> float:
        """Seconds until the account may be called; 0: now."""
        if config.is_unusable:
            return SYNC_S
        breaker = self._breakers.get(config.id)
        return breaker.wait_s if breaker else 0.0

    def state_of(self, config_id: UUID) -> State | None:
        """As this process has it; None: it has not called the account yet."""
        breaker = self._breakers.get(config_id)
        return breaker.state if breaker else None

    def is_broken(self, config: Config) -> bool:
        breaker = self._breakers.get(config.id)
        return config.is_unusable or (breaker is not None and breaker.broken)

    @contextlib.contextmanager
    def permit(self, config: Config) -> Iterator[None]:
        """The account is called in the block, and how that ends is counted. Raises `Unavailable`: not now."""
        permit = self._breaker(config.id, config.provider_type).enter()
        if permit is None:
            raise breaker_open(self.wait_s(config))
        ended: Ended = "ok"
        try:
            yield
        except BaseException as error:
            ended = _ended_by(error)
            raise
        finally:
            self._breakers[config.id].leave(permit, ended)
            self._note(config, ended)

    def _note(self, config: Config, ended: Ended) -> None:
        """Store that the account cannot send, or that it can again."""
        if ended == "broken" and config.id not in self._broken:
            self._broken.add(config.id)
            self._store(config, configs.set_broken)
        elif ended == "ok" and config.id in self._broken:
            self._broken.discard(config.id)
            self._store(config, configs.clear_broken)

    def close(self, config_id: UUID) -> None:
        """The account passed a test, or is switched to without: it is called again, whatever its calls did before."""
        if breaker := self._breakers.get(config_id):
            breaker.close()

    def notified(self) -> None:
        """Another process has stored something."""
        self._notified.set()

    def look(self) -> None:
        """Show which have rested, whether they are called or not, and forget the ones that nobody uses."""
        for config_id, breaker in list(self._breakers.items()):
            breaker.end_rest()
            if monotonic() - breaker.used_at > FORGET_AFTER_S and config_id not in self._broken:
                del self._breakers[config_id]
                metrics.child(metrics.breakers, self._providers.pop(config_id), breaker.state).dec()

    async def sync(self) -> None:
        """Do as the database has it."""
        async with self._order:
            async with self._database.worker() as connection:
                stored = await configs.broken(connection)
            self._follow(stored)

    def _follow(self, stored: dict[UUID, str]) -> None:
        """Trip those that are *stored* as broken, with their provider, and close those that are so no more."""
        for config_id in stored.keys() - self._broken - self._storing:
            self._broken.add(config_id)
            self._breaker(config_id, stored[config_id]).trip(broken=True)
        for config_id in self._broken - stored.keys() - self._storing:
            self._broken.discard(config_id)
            if self._breakers[config_id].broken:
                self._breakers[config_id].close()

    def _breaker(self, config_id: UUID, provider: str) -> Breaker:
        breaker = self._breakers.get(config_id)
        if breaker is None:
            metrics.child(metrics.breakers, provider, "closed").inc()
            for state in get_args(State):  # from 0 on, so that the first change is seen
                metrics.child(metrics.breaker_transitions, provider, state)
            breaker = Breaker(changed=partial(_changed, config_id, provider))
            self._breakers[config_id], self._providers[config_id] = breaker, provider
        return breaker

    def _store(self, config: Config, write: Callable[[Any, UUID, UUID], Awaitable[None]]) -> None:
        self._storing.add(config.id)
        self._start(self._write(config, write))

    async def _write(self, config: Config, write: Callable[[Any, UUID, UUID], Awaitable[None]]) -> None:
        try:
            # One after the other: what is written must not be undone by what was read before.
            async with self._order, self._database.worker() as connection:
                await write(connection, config.organization_id, config.id)
                await health.look_soon(connection, [(config.organization_id, config.id)])
            await self._redis.notify("accounts", config.organization_id)
        except StoreUnavailable:
            logger.warning("the database is away; other processes find out about config %s themselves", config.id)
        finally:
            self._storing.discard(config.id)

    async def _sync_forever(self) -> None:
        while True:
            self.look()
            try:
                await self.sync()
            except StoreUnavailable:
                logger.warning("the database is away; accounts stay as they were")
            except Exception:  # without this loop nothing of other processes would arrive any more
                logger.exception("accounts cannot be read")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_S):
                    await self._notified.wait()
            self._notified.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _changed(config_id: UUID, provider: str, former: State, state: State) -> None:
    metrics.child(metrics.breakers, provider, former).dec()
    metrics.child(metrics.breakers, provider, state).inc()
    metrics.child(metrics.breaker_transitions, provider, state).inc()
    logger.warning("calls through config %s: %s", config_id, state)


def breaker_open(wait_s: float) -> Unavailable:
    """The account is not called for the moment; nothing was sent. Jittered: not all who wait come back at once."""
    retry_after_s = wait_s * random.uniform(1.0, 1.5)  # noqa: S311  (spreads load)
    return Unavailable("the provider failed lately and is skipped", code=BREAKER_OPEN, retry_after_s=retry_after_s)


def _ended_by(error: BaseException) -> Ended:
    """What a failed call means for the account that made it."""
    if isinstance(error, AccountBroken):
        return "neutral" if error.scope in NARROW else "broken"
    # A refusal, for good or for now, comes from a provider that works; who cancelled us is none.
    if not isinstance(error, Unavailable | Uncertain) or error.code in UNCALLED or error.scope == ELSEWHERE:
        return "neutral"
    return "failed"
