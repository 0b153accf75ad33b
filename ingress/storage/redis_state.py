"""What Redis is used for: the active provider at hand for every process, and wake-ups. Losing it costs speed only.

Keys of an organization share a hash slot: `org_{<id>}:provider:active` and `org_{<id>}:provider:session`, the
braces literal. So a script finds all its keys at one node of a cluster. Wake-ups go by way of the node that has the
slot of their channel, which knows how many processes listen.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import cache
from itertools import chain
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from .. import metrics
from ..settings import redis_nodes

logger = logging.getLogger("ingress.redis")

COMMAND_TIMEOUT_S = 0.05
# Who finds out which nodes a cluster has now takes longer than a command; nobody waits for that.
DISCOVERY_TIMEOUT_S = 1.0
OPEN_AFTER_FAILURES = 5
PROBE_EVERY_S = 2.0
ACTIVE_TTL_S = 60
CHANNEL = "ingress:wake"
# Until the first wake-up shows how many; and how long the highest count stands.
PROCESSES, COUNT_S = 2, 60.0

# A value is stored only over an older one, so that a late or repeated write never brings an old provider back. Of the
# same version a session is stored where there is none: one that is there is no older.
SET_IF_NEWER = """
local function version_of(key)
  local held = redis.call('GET', key)
  if not held then return -1 end
  local readable, value = pcall(cjson.decode, held)
  local version = readable and type(value) == 'table' and tonumber(value.version)
  return version or -1
end
local held, version = version_of(KEYS[1]), tonumber(ARGV[1])
if held > version or (held == version and version_of(KEYS[2]) == version) then return 0 end
if held < version then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[3])
return 1
"""

# What is known of the active provider's account, with the version that it was known at.
SET_SESSION = """
local held = redis.call('GET', KEYS[1])
if not held then return 0 end
local readable, value = pcall(cjson.decode, held)
if not readable or type(value) ~= 'table' or tonumber(value.version) ~= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', math.max(1, redis.call('PTTL', KEYS[1])))
return 1
"""

# GCRA (https://brandur.org/rate-limiting). All keys but the last hold when the next turn in a line is due, in ms; the
# last one's being there halves the rate of the first. ARGV: how long a wait is accepted, and for each line the distance
# between two, how many may come at once, how many are taken. All lines, or none, are moved on.
RESERVE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local shrunk = redis.call('EXISTS', KEYS[#KEYS])
local wait, longest, lines = 0, 1, {}
for place = 1, #KEYS - 1 do
  local every, burst, many = tonumber(ARGV[3 * place - 1]), tonumber(ARGV[3 * place]), tonumber(ARGV[3 * place + 1])
  if shrunk == 1 and KEYS[place] .. ':shrunk' == KEYS[#KEYS] then every = every * 2 end
  local due = math.max(now, tonumber(redis.call('GET', KEYS[place])) or 0)
  local mine = due - now - (burst - 1) * every
  if mine > wait then wait, longest = mine, place end
  lines[place] = {due, every, many}
end
if wait <= tonumber(ARGV[1]) then
  for place, line in ipairs(lines) do
    local due = line[1] + line[2] * line[3]
    redis.call('SET', KEYS[place], string.format('%.3f', due), 'PX', math.ceil(due - now + line[2]))
  end
end
return {tostring(wait), longest - 1, shrunk, tostring(lines[1][1] - now)}
"""


class Line(NamedTuple):
    """A line of turns: ``every_s`` between two, ``burst`` at once, ``many`` taken. ``name``: '' for the sender's."""

    name: str
    every_s: float
    burst: int
    many: int = 1

    @property
    def arguments(self) -> tuple[float, int, int]:
        """As RESERVE takes it."""
        return self.every_s * 1000, self.burst, self.many


class Reserved(NamedTuple):
    """``wait_s`` until the turn, as the line at place ``longest`` has it; ``due_s`` until the first line's is due."""

    wait_s: float
    longest: int
    shrunk: bool
    due_s: float

    @classmethod
    def of(cls, wait_ms: str, longest: int, shrunk: int, due_ms: str) -> "Reserved":
        """What RESERVE answers."""
        return cls(float(wait_ms) / 1000, longest, bool(shrunk), float(due_ms) / 1000)


class _Session(msgspec.Struct):
    """What Redis holds of an account: the provider's words of it, and the version at which it is the active one."""

    version: int
    session: msgspec.Raw

    def __repr__(self) -> str:
        return f"_Session({self.version})"


class RedisState:
    """Every method answers None, False or nothing where Redis is away; none raises, none waits longer than 50 ms."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_cluster = redis_nodes(url) is not None
        timeout_s = DISCOVERY_TIMEOUT_S if self._is_cluster else COMMAND_TIMEOUT_S
        self._client = client_of(url, timeout_s)
        self._late: set[asyncio.Future[Any]] = set()  # what nobody waits for any more
        self._failures = 0
        self._probe_at = 0.0
        self._is_up = self._has_answered = False
        metrics.redis_up.set_function(lambda: self._is_up)
        # Called when wake-ups are heard (again): what Redis had before may be lost.
        self.returned: Callable[[], None] = lambda: None
        # Processes that share this Redis, as far as this one knows: the most that a wake-up has reached lately.
        self.processes = PROCESSES
        self._counted_at = 0.0

    async def __aenter__(self) -> "RedisState":
        return self

    async def __aexit__(self, *_: object) -> None:
        for command in [*self._late]:
            command.cancel()
        await self._client.aclose()

    async def active(self, organization_id: UUID) -> bytes | None:
        """The organization's active provider as `set_active` stored it, if Redis has it."""
        held: bytes | None = await self._try(self._client.get(_key(organization_id, "active")))
        return held

    async def session(self, organization_id: UUID, version: int) -> bytes | None:
        """The session data of the provider that is active at *version*, as it was set, if Redis has it."""
        held: bytes | None = await self._try(self._client.get(_key(organization_id, "session")))
        try:
            kept = msgspec.json.decode(held, type=_Session) if held else None
        except msgspec.MsgspecError:
            return None
        return bytes(kept.session) if kept is not None and kept.version == version else None

    async def set_active(self, organization_id: UUID, version: int, active: bytes, session: bytes) -> bool:
        """Remember both, unless this version or a newer one is there; of this one, a *session* that is missing.

        False: Redis is away.
        *active* is a JSON object with its ``version``, *session* any JSON.
        """
        keys = [_key(organization_id, "active"), _key(organization_id, "session")]
        kept = msgspec.json.encode(_Session(version, msgspec.Raw(session)))
        return await self._try(self._run(SET_IF_NEWER, keys, [version, active, ACTIVE_TTL_S, kept])) is not None

    async def set_session(self, organization_id: UUID, version: int, session: bytes) -> None:
        """Remember the session of the provider that is active at *version*; another version's is left as it is."""
        keys = [_key(organization_id, "active"), _key(organization_id, "session")]
        kept = msgspec.json.encode(_Session(version, msgspec.Raw(session)))
        await self._try(self._run(SET_SESSION, keys, [version, kept]))

    async def reserve(
        self, organization_id: UUID, config_id: UUID, lines: Sequence[Line], at_most_s: float
    ) -> Reserved | None:
        """A turn in each of the config's *lines*, reserved if it is no more than *at_most_s* ahead.

        None: Redis cannot say.
        """
        keys = _turns(organization_id, config_id, lines)
        arguments = [at_most_s * 1000, *chain.from_iterable(line.arguments for line in lines)]
        answer = await self._try(self._run(RESERVE, keys, arguments))
        return Reserved.of(*answer) if answer else None

    async def slow_down(self, organization_id: UUID, config_id: UUID, seconds: float) -> None:
        """Halve the rate of the config's turns for *seconds*."""
        key = _key(organization_id, f"turn:{config_id}:shrunk")
        await self._try(self._client.set(key, b"1", px=round(seconds * 1000)))

    async def notify(self, topic: str, id: UUID, version: int = 0) -> None:
        """Notify every process of something new in *topic*: `events`, `provider` or `accounts` of an organization, or
        the `turn` of a message, which may be the first of its conversation now. The *id* is that of either.
        """
        reached = await self._try(self._client.publish(CHANNEL, f"{topic}:{id}:{version}"))
        now = monotonic()
        if reached and (reached >= self.processes or now - self._counted_at > COUNT_S):
            self.processes, self._counted_at = reached, now

    async def notifications(self) -> AsyncIterator[tuple[str, UUID, int]]:
        """(topic, id, version) of every wake-up, for ever; silent while Redis is away. Wake-ups may be lost.

        They may also come late, and in any order. Version 0: it names none.
        """
        while True:
            try:
                async with contextlib.aclosing(self._listen()) as listened:
                    async for notification in listened:
                        yield notification
            except _FAILURES as error:
                if not self._has_answered:  # a wrong address or password is logged at once
                    self._failures = max(self._failures, OPEN_AFTER_FAILURES - 1)
                self._failed(error)
            except ValueError as error:  # somebody else's message
                metrics.redis_errors.labels(type(error).__name__).inc()
            await asyncio.sleep(PROBE_EVERY_S)

    async def _listen(self) -> AsyncGenerator[tuple[str, UUID, int], None]:
        # A client of its own, which looks anew at which nodes a cluster has.
        async with client_of(self._url, DISCOVERY_TIMEOUT_S) as client, client.pubsub() as channel:
            await channel.subscribe(CHANNEL)
            while True:
                message = await channel.get_message(timeout=PROBE_EVERY_S)
                if message is None:  # it is quiet: does it still answer?
                    await self._try(self._client.ping())
                elif message["type"] == "subscribe":
                    self._answers()
                    self.returned()
                elif message["type"] == "message":
                    yield _notification(message["data"])

    async def _try(self, command: Awaitable[Any]) -> Any:
        """The command's answer, or None: at once while Redis is known to be away, but for a probe now and then."""
        if self._failures >= OPEN_AFTER_FAILURES:
            if monotonic() < self._probe_at:
                if isinstance(command, Coroutine):
                    command.close()  # a coroutine that is never awaited would warn
                return None
            self._probe_at = monotonic() + PROBE_EVERY_S
        try:
            answer = await (self._in_time(command) if self._is_cluster else command)
        except _FAILURES as error:
            self._failed(error)
            return None
        self._answers()
        return answer

    async def _in_time(self, command: Awaitable[Any]) -> Any:
        """The answer of a cluster. Where it takes longer, it is found out meanwhile which nodes there are."""
        running = asyncio.ensure_future(command)
        self._late.add(running)
        running.add_done_callback(self._ended)
        done, _ = await asyncio.wait([running], timeout=COMMAND_TIMEOUT_S)
        if not done:
            raise TimeoutError
        return running.result()

    def _ended(self, command: "asyncio.Future[Any]") -> None:
        self._late.discard(command)
        if not command.cancelled():
            command.exception()  # asked for, or asyncio would log it

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """What a script answers, sent whole only to a server that does not have it yet."""
        sent = len(keys), *keys, *arguments
        try:
            return await self._client.evalsha(_digest(script), *sent)
        except NoScriptError:
            return await self._client.eval(script, *sent)

    def _failed(self, error: Exception) -> None:
        metrics.redis_errors.labels(type(error).__name__).inc()
        self._is_up = False
        self._failures += 1
        if self._failures == OPEN_AFTER_FAILURES:
            self._probe_at = monotonic() + PROBE_EVERY_S
            # The text of a failed connection is its address or the server's words; any other may hold a command's.
            reason = str(error).rstrip(".") if isinstance(error, redis.ConnectionError) else type(error).__name__
            logger.warning(
                "Redis does not answer (%s): check REDIS_URL, and that it runs; the service works without it, slower",
                reason,
            )

    def _answers(self) -> None:
        if self._failures >= OPEN_AFTER_FAILURES:
            logger.warning("Redis answers again")
        self._failures = 0
        self._is_up = self._has_answered = True


def _notification(data: bytes) -> tuple[str, UUID, int]:
    topic, organization, version = f"{data.decode()}:0".split(":")[:3]
    return topic, UUID(organization), int(version)


# Of a cluster that has no such node, too, which redis-py derives from nothing else.
_FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)


@cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode()).hexdigest()  # noqa: S324  (Redis' own name for it)


def _node(url: str) -> ClusterNode:
    at = parse_url(url)
    return ClusterNode(at["host"], at.get("port", 6379))


def client_of(url: str, timeout_s: float) -> Any:
    """A client of the server or cluster at *url*: both take the same commands."""
    # No retries of redis-py's own: ten of them by default, each able to charge a counter again.
    retry = Retry(NoBackoff(), 0)
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": retry}
    nodes = redis_nodes(url)
    if nodes is None:
        return redis.asyncio.Redis.from_url(url, **options)
    others = [_node(url) for url in nodes[1:]]
    # Where a node is down, those that are left do what they can.
    return RedisCluster.from_url(nodes[0], startup_nodes=others, require_full_coverage=False, **options)


def _key(organization_id: UUID, what: str) -> str:
    return f"org_{{{organization_id}}}:provider:{what}"


def _turns(organization_id: UUID, config_id: UUID, lines: Sequence[Line]) -> list[str]:
    turn = _key(organization_id, f"turn:{config_id}")
    return [*(turn + line.name for line in lines), f"{turn}:shrunk"]
