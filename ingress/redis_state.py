"""What Redis is used for: the active provider at hand for every process, and wake-ups. Losing it costs speed only.

Keys of an organization share a hash slot: `org_{<id>}:provider:active` and `org_{<id>}:provider:session`, the
braces literal.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine
from time import monotonic
from typing import Any
from uuid import UUID

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from . import metrics

logger = logging.getLogger("ingress.redis")

COMMAND_TIMEOUT_S = 0.05
OPEN_AFTER_FAILURES = 5
PROBE_EVERY_S = 2.0
ACTIVE_TTL_S = 60
CHANNEL = "ingress:wake"

# A value is stored only over an older one, so that a late or repeated write never brings an old provider back.
SET_IF_NEWER = """
local held = redis.call('GET', KEYS[1])
if held then
  local readable, value = pcall(cjson.decode, held)
  if readable and type(value) == 'table' and (tonumber(value.version) or -1) >= tonumber(ARGV[1]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[3])
return 1
"""

# KEYS[1] holds when the next turn is due. ARGV: the distance to the one after it, and how long a wait is accepted.
RESERVE_TURN = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local due = math.max(now, tonumber(redis.call('GET', KEYS[1])) or 0)
if due - now <= tonumber(ARGV[2]) then
  redis.call('SET', KEYS[1], due + ARGV[1], 'PX', due - now + 2 * ARGV[1])
end
return due - now
"""


class RedisState:
    """Every method answers None, False or nothing where Redis is away; none raises, none waits longer than 50 ms."""

    def __init__(self, url: str) -> None:
        # No retries of redis-py's own: ten of them by default, each able to charge a counter again.
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._listener = redis.asyncio.Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
        )
        self._set_if_newer = self._client.register_script(SET_IF_NEWER)
        self._reserve_turn = self._client.register_script(RESERVE_TURN)
        self._failures = 0
        self._probe_at = 0.0

    async def __aenter__(self) -> "RedisState":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._listener.aclose()

    async def active(self, organization_id: UUID) -> bytes | None:
        """The organization's active provider as `set_active` stored it, if Redis has it."""
        held: bytes | None = await self._try(self._client.get(_key(organization_id, "active")))
        return held

    async def session(self, organization_id: UUID) -> bytes | None:
        """The active provider's session data as `set_active` stored it, if Redis has it."""
        held: bytes | None = await self._try(self._client.get(_key(organization_id, "session")))
        return held

    async def set_active(self, organization_id: UUID, version: int, active: bytes, session: bytes) -> None:
        """Remember both, unless a newer version is there. *active* is a JSON object with its ``version``."""
        keys = [_key(organization_id, "active"), _key(organization_id, "session")]
        await self._try(self._set_if_newer(keys, [version, active, ACTIVE_TTL_S, session]))

    async def reserve_turn(
        self, organization_id: UUID, config_id: UUID, distance_s: float, at_most_s: float
    ) -> float | None:
        """Seconds until the config's turn, which is reserved if they are no more than *at_most_s*.

        The next one is due *distance_s* after it. None: Redis cannot say.
        """
        key = _key(organization_id, f"turn:{config_id}")
        answer = await self._try(self._reserve_turn([key], [round(distance_s * 1000), round(at_most_s * 1000)]))
        return None if answer is None else float(answer) / 1000

    async def wake(self, topic: str, organization_id: UUID, version: int = 0) -> None:
        """Tell every process that something is new in *topic* (`events`, `provider`) for the organization."""
        await self._try(self._client.publish(CHANNEL, f"{topic}:{organization_id}:{version}"))

    async def wakes(self) -> AsyncIterator[tuple[str, UUID, int]]:
        """(topic, organization, version) of every wake-up, for ever; silent while Redis is away. Wake-ups may be lost.

        They may also come late, and in any order. Version 0: none was told.
        """
        while True:
            try:
                async with self._listener.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    async for message in channel.listen():
                        if message["type"] != "message":
                            continue
                        topic, organization, version = f"{message['data'].decode()}:0".split(":")[:3]
                        yield topic, UUID(organization), int(version)
            except (RedisError, OSError, TimeoutError, ValueError) as error:
                metrics.redis_errors.labels(type(error).__name__).inc()
                await asyncio.sleep(PROBE_EVERY_S)

    async def _try(self, command: Awaitable[Any]) -> Any:
        """The command's answer, or None: at once while Redis is known to be away, but for a probe now and then."""
        if self._failures >= OPEN_AFTER_FAILURES:
            if monotonic() < self._probe_at:
                if isinstance(command, Coroutine):
                    command.close()  # a coroutine that is never awaited would warn
                return None
            self._probe_at = monotonic() + PROBE_EVERY_S
        try:
            answer = await command
        except (RedisError, OSError, TimeoutError) as error:
            metrics.redis_errors.labels(type(error).__name__).inc()
            metrics.redis_up.set(0)
            self._failures += 1
            if self._failures == OPEN_AFTER_FAILURES:
                self._probe_at = monotonic() + PROBE_EVERY_S
                logger.warning("Redis does not answer; going on without it")
            return None
        if self._failures >= OPEN_AFTER_FAILURES:
            logger.warning("Redis answers again")
        self._failures = 0
        metrics.redis_up.set(1)
        return answer


def _key(organization_id: UUID, what: str) -> str:
    return f"org_{{{organization_id}}}:provider:{what}"
