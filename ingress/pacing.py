"""Pacing: accounts that are banned for sending like a machine send one message after the other, with pauses.

A turn is reserved before it is waited for, in Redis for all processes together (GCRA: one time per account, at which
its next message is due). Without Redis each process keeps its own, and keeps twice the distance.
"""

import random
from time import monotonic
from uuid import UUID

from providers.base import Pacing

from . import metrics
from .manager import Config
from .redis_state import RedisState

# How much slower a process goes that cannot know of the others.
ALONE_FACTOR = 2


class Pacer:
    """Gives turns to send. One a process."""

    def __init__(self, redis: RedisState) -> None:
        self._redis = redis
        self._due: dict[UUID, float] = {}  # by config, as far as this process knows; monotonic seconds

    async def turn(self, config: Config, at_most_s: float) -> float:
        """Seconds until *config* may send its next message; the turn is reserved, if they are at most *at_most_s*."""
        pacing = config.provider.info.pacing
        if pacing is None:
            return 0.0
        distance_s = _distance_s(pacing)
        wait_s = await self._redis.reserve_turn(config.organization_id, config.id, distance_s, at_most_s)
        now = monotonic()
        alone = wait_s is None
        if wait_s is None:
            wait_s, distance_s = max(0.0, self._due.get(config.id, now) - now), distance_s * ALONE_FACTOR
        if wait_s <= at_most_s:
            self._due[config.id] = now + wait_s + distance_s
        _count(config.provider_type, wait_s, at_most_s, alone)
        return wait_s


def _distance_s(pacing: Pacing) -> float:
    """Between two messages: never less than the rate allows, and never twice the same."""
    return 60 / pacing.messages_per_minute + random.uniform(0, pacing.jitter_s)  # noqa: S311  (nothing secret)


def _count(provider: str, wait_s: float, at_most_s: float, alone: bool) -> None:
    outcome = "rejected" if wait_s > at_most_s else "degraded" if alone else "delayed" if wait_s else "allowed"
    metrics.child(metrics.rate_limits, provider, outcome).inc()
    metrics.child(metrics.rate_limit_wait, provider).observe(wait_s)
