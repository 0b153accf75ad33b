"""Redis, or what speaks like it: there, new enough, quick, and forgetting what it should when it is full."""

from collections.abc import Iterator, Mapping
from statistics import median
from time import monotonic
from typing import Any

from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ..retention.report import size
from ..settings import redis_nodes
from ..storage.redis_state import COMMAND_TIMEOUT_S, client_of
from .findings import DoctorCheck, DoctorFinding, Examined, Findings, error, ok, place, warning, words

OLDEST_MAJOR = 7
ANSWER_S = 3.0
PINGS = 20
SLOW_S = 0.005
SLOWER = "the service works without it, only slower: wake-ups wait for a look at the database"
NEARLY_FULL = 0.7


async def reachable(examined: Examined) -> Findings:
    """By the service's own address."""
    url = examined.settings.redis_url
    if not url:
        means = "`ingress serve` starts an embedded one, for development; nothing of it is looked at here"
        yield error("REDIS_URL is not set", means, "set REDIS_URL=redis://:password@host:6379, rediss:// for TLS")
        return
    where = place(url)
    try:
        async with client_of(url, ANSWER_S) as client:
            info = await _info(client)
            waits = [await _ping(client) for _ in range(PINGS)]
    except AuthenticationError:
        yield warning(
            f"{where} refuses the password",
            SLOWER,
            "give REDIS_URL the password that Redis has, or none where it has none, percent-encoded",
        )
    except (RedisError, RedisClusterException, OSError, TimeoutError) as failure:
        # The text of a failed connection is its address or the server's words.
        why = str(failure).rstrip(".") if isinstance(failure, RedisConnectionError) else words(failure)
        fix = 'check REDIS_URL, and that it runs: redis-cli -u "$REDIS_URL" ping'
        yield warning(f"{where} does not answer: {why}", SLOWER, fix)
    else:
        problems = [*_version(info), *_kind(info, redis_nodes(url) is not None), *_eviction(info), *_latency(waits)]
        for each in problems:
            yield each
        if not problems:
            yield ok(f"{_name(info)} answers at {where} in {median(waits) * 1000:.1f} ms")


async def _info(client: Any) -> Mapping[str, Any]:
    """Empty where the login may not ask."""
    try:
        info: Mapping[str, Any] = await client.info()
    except ResponseError:
        return {}
    return info


async def _ping(client: Any) -> float:
    began = monotonic()
    await client.ping()
    return monotonic() - began


def _name(info: Mapping[str, Any]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}" if "redis_version" in info else "Redis (INFO is refused)"


def _version(info: Mapping[str, Any]) -> Iterator[DoctorFinding]:
    version = str(info.get("redis_version", OLDEST_MAJOR))
    if int(version.partition(".")[0]) < OLDEST_MAJOR:
        means = "scripts and commands that the service uses may be missing"
        yield warning(f"it is Redis {version}", means, "upgrade it to Redis 7, Valkey 8, or newer")


def _kind(info: Mapping[str, Any], as_cluster: bool) -> Iterator[DoctorFinding]:
    if info.get("cluster_enabled") and not as_cluster:
        means = f"most keys are at other nodes, and are refused; {SLOWER}"
        fix = "write REDIS_URL as redis+cluster://:password@host:6379,host:6379"
        yield warning("it is a node of a cluster, and REDIS_URL is that of a single server", means, fix)


def _eviction(info: Mapping[str, Any]) -> Iterator[DoctorFinding]:
    limit, policy = info.get("maxmemory", 0), info.get("maxmemory_policy", "")
    used = info.get("used_memory", 0)
    if policy == "noeviction" and used > limit * NEARLY_FULL > 0:
        found = f"{size(used)} are used of maxmemory, {size(limit)}, and the policy is {policy}"
        means = f"when it is full every write is refused; {SLOWER}"
        fix = "redis-cli config set maxmemory-policy volatile-lru: all that the service keeps there expires"
        yield warning(found, means, fix)


def _latency(waits: list[float]) -> Iterator[DoctorFinding]:
    quickest, usual = min(waits), median(waits)  # other checks run meanwhile: the slowest may be their doing
    if quickest > SLOW_S or usual > COMMAND_TIMEOUT_S:
        found = f"of {PINGS} answers the quickest took {quickest * 1000:.1f} ms, half more than {usual * 1000:.1f} ms"
        means = f"a command is given up after {COMMAND_TIMEOUT_S * 1000:.0f} ms; {SLOWER}"
        yield warning(found, means, "have it near the service, on a machine that does not swap: redis-cli --latency")


CHECKS = (DoctorCheck("redis.reachable", reachable),)
