"""Rates: how fast an account may send, and how fast to one contact.

Both are lines of turns (GCRA): a time for each sender, and for each sender and contact, at which its next message is
due. The lines are in Redis, for all processes together. Most sends need not ask it: of a line that allows bursts, half
of the burst and half of the rate are divided among the processes, and only what goes beyond its share does a process
take from the other half, several turns at a time. So all together never exceed the rate. Without Redis each process
keeps to its share.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from providers import Throttled
from providers.description import Pacing

from .. import identifiers, metrics
from ..accounts.config import Config
from ..cache import Cache
from ..storage.redis_state import Line, RedisState

# A provider that refuses for now is asked for half as much, for so long.
SHRUNK_S = 60.0
# Turns that a process takes at once; others wait behind them.
MOST_TAKEN = 32
# Lines that are remembered, each until its next turn is due: a few seconds of contacts.
KEPT = 50_000


Key = tuple[Any, ...]  # of a line: a config, for a line of a contact also that


class Turn(NamedTuple):
    """``wait_s`` until it; longer than was accepted: it is not reserved, and ``scope`` is the line that is too long."""

    wait_s: float
    scope: str | None = None


_AT_ONCE = Turn(0.0)


class _Limit(NamedTuple):
    """One line. ``own`` of its burst are this process's; ``slowness`` is 2 while the provider refuses.

    ``own_every_s`` is between two by this process's share; a line without bursts has none, but for the time without
    Redis. ``own_patience_s``: how far ahead of its time a message may be, by that share.
    """

    key: Key
    every_s: float
    burst: int
    own: int
    slowness: int
    own_every_s: float
    own_patience_s: float

    @property
    def scope(self) -> str:
        return "number" if len(self.key) == 1 else "pair"


class Pacer:
    """Gives turns to send. One a process."""

    def __init__(self, redis: RedisState, clock: Callable[[], float] = monotonic) -> None:
        self._redis = redis
        self._clock = clock
        # When the next one is due by this process's share.
        self._due: Cache[Key, float] = Cache(KEPT, clock)
        # Turns taken from Redis, (due, from when on); none is used after it is due, or it would be beyond the rate.
        self._taken: Cache[Key, deque[tuple[float, float]]] = Cache(KEPT, clock)
        self._shrunk: Cache[Key, float] = Cache(KEPT, clock)  # until when

    async def turn(self, config: Config, contact: str, at_most_s: float) -> Turn:
        """The next turn of *config* to send to *contact*; it is reserved, if it is no more than *at_most_s* ahead."""
        pacing = config.provider.pacing
        if pacing is None:
            return _AT_ONCE
        now = self._clock()
        limits = self._limits(config, pacing, contact, now)
        if self._take_at_once(limits, now):
            return self._counted(config, _AT_ONCE, at_most_s)
        known, beyond = [], []
        for limit in limits:
            if (wait_s := self._wait_s(limit, now)) is None:
                beyond.append(limit)
            elif wait_s > at_most_s:
                return self._counted(config, Turn(wait_s, limit.scope), at_most_s)
            else:
                known.append(limit)
        turn, alone = _AT_ONCE, False
        if beyond:
            turn, alone = await self._beyond_share(config, contact, beyond, at_most_s)
            if turn.wait_s > at_most_s:
                return self._counted(config, turn, at_most_s)
            now = self._clock()
        wait_s = max(turn.wait_s, *(self._take(limit, now) for limit in known), 0.0)
        return self._counted(config, Turn(wait_s), at_most_s, alone)

    async def throttled(self, config: Config, contact: str, error: Throttled) -> None:
        """A provider refused for now: go slower, everywhere, for a while."""
        if config.provider.pacing is None:
            return
        now = self._clock()
        if error.scope == "pair":
            _keep(self._shrunk, (config.id, contact), now + SHRUNK_S, now)
        else:
            _keep(self._shrunk, (config.id,), now + SHRUNK_S, now)
            await self._redis.slow_down(config.organization_id, config.id, SHRUNK_S)

    def _counted(self, config: Config, turn: Turn, at_most_s: float, alone: bool = False) -> Turn:
        waits = turn.wait_s > 0
        outcome = "rejected" if turn.wait_s > at_most_s else "degraded" if alone else "delayed" if waits else "allowed"
        metrics.child(metrics.rate_limits, config.provider_type, outcome).inc()
        waited = metrics.child(metrics.rate_limit_wait, config.provider_type)  # there before the first one waits
        if waits:
            waited.observe(turn.wait_s)
        return turn

    # -- this process's share

    def _limits(self, config: Config, pacing: Pacing, contact: str, now: float) -> list[_Limit]:
        limits = [self._limit((config.id,), _distance_s(pacing), pacing.burst, now)]
        if pacing.contact_every_s:
            limits.append(self._limit((config.id, contact), pacing.contact_every_s, pacing.contact_burst, now))
        return limits

    def _limit(self, key: Key, every_s: float, burst: int, now: float) -> _Limit:
        slowness = 2 if self._shrunk and self._shrunk.get(key) else 1
        processes = self._redis.processes
        # Half of it, or one each, as long as that leaves one for all.
        own = burst // (2 * processes) or int(processes < burst)
        own_every_s = every_s * slowness * processes * (2 if own else 1)
        return _Limit(key, every_s, burst, own, slowness, own_every_s, (own - 1) * own_every_s if own else 0.0)

    def _own_wait_s(self, limit: _Limit, now: float) -> float:
        wait_s = (self._due.get(limit.key) or now) - now - limit.own_patience_s
        return wait_s if wait_s > 0 else 0.0

    def _wait_s(self, limit: _Limit, now: float) -> float | None:
        """Seconds until a turn that needs no asking: of the share, or taken before. None: there is no such one."""
        if limit.own and self._own_wait_s(limit, now) == 0:
            return 0.0
        taken = self._taken.get(limit.key)
        while taken and taken[0][0] < now:
            taken.popleft()
        return max(0.0, taken[0][1] - now) if taken else None

    def _take_at_once(self, limits: Sequence[_Limit], now: float) -> bool:
        """Take a turn of the share in each line, as nearly every send can; or nothing and False, if one has none."""
        dues = [self._due.get(limit.key) or now for limit in limits]
        for limit, due in zip(limits, dues, strict=True):
            if not limit.own or due - now > limit.own_patience_s:
                return False
        for limit, due in zip(limits, dues, strict=True):
            self._move_on(limit, due, now)
        return True

    def _move_on(self, limit: _Limit, due: float, now: float) -> None:
        """Have the next one by this process's share due after the one that is *due*."""
        until = max(now, due) + limit.own_every_s
        self._due.put(limit.key, until, until - now)

    def _take(self, limit: _Limit, now: float) -> float:
        """Take that turn; if others were faster, the next one of the share."""
        wait_s = self._own_wait_s(limit, now)
        if wait_s > 0 and (taken_s := self._wait_s(limit, now)) is not None and (taken := self._taken.get(limit.key)):
            taken.popleft()
            return taken_s
        self._move_on(limit, self._due.get(limit.key) or now, now)
        return wait_s

    # -- all processes together

    async def _beyond_share(
        self, config: Config, contact: str, beyond: list[_Limit], at_most_s: float
    ) -> tuple[Turn, bool]:
        """A turn in every line of *beyond*, and whether Redis could not be asked."""
        lines = []
        for limit in beyond:
            shared = limit.burst - limit.own * self._redis.processes
            is_sender = limit.scope == "number"
            lines.append(
                Line(
                    "" if is_sender else f":{_name(config, contact)}",
                    # Redis knows itself whether the sender is slowed down.
                    limit.every_s * (2 if limit.own else 1) * (1 if is_sender else limit.slowness),
                    shared,
                    min(MOST_TAKEN, max(1, shared // 4)) if is_sender and limit.own else 1,
                )
            )
        reserved = await self._redis.reserve(config.organization_id, config.id, lines, at_most_s)
        now = self._clock()
        if reserved is None:
            return self._alone(beyond, now, at_most_s), True
        if reserved.shrunk and beyond[0].scope == "number":  # also where another process was refused
            _keep(self._shrunk, beyond[0].key, max(now + 1.0, self._shrunk.get(beyond[0].key) or 0.0), now)
        if reserved.wait_s <= at_most_s:
            every_s = lines[0].every_s * (2 if reserved.shrunk else 1)
            patience_s = (lines[0].burst - 1) * every_s
            taken = self._taken.get(beyond[0].key) or deque()
            for place in range(1, lines[0].many):
                due = now + reserved.due_s + place * every_s
                taken.append((due, due - patience_s))
                self._taken.put(beyond[0].key, taken, due - now)
            for limit in beyond:
                if not limit.own:  # to be remembered, should Redis go away
                    _keep(self._due, limit.key, now + reserved.wait_s + limit.every_s, now)
        return Turn(reserved.wait_s, beyond[reserved.longest].scope), False

    def _alone(self, beyond: list[_Limit], now: float, at_most_s: float) -> Turn:
        waits = [self._own_wait_s(limit, now) for limit in beyond]
        wait_s = max(waits)
        if wait_s <= at_most_s:
            for limit in beyond:
                self._take(limit, now)
        return Turn(wait_s, beyond[waits.index(wait_s)].scope)


def _keep(kept: Cache[Key, float], key: Key, until: float, now: float) -> None:
    """Remember a time until it is there."""
    kept.put(key, until, until - now)


def _name(config: Config, contact: str) -> str:
    """A contact without its number."""
    return identifiers.key_hash(contact, config.id).hex()[:32]


def _distance_s(pacing: Pacing) -> float:
    """Between two messages: never less than the rate allows, and never twice the same where that gives one away."""
    distance_s = 60 / pacing.messages_per_minute
    return distance_s + random.uniform(0, pacing.jitter_s) if pacing.jitter_s else distance_s  # noqa: S311  (spreads load)
