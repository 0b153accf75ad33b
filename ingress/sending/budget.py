"""What repetitions may cost: a provider that fails altogether is called by a quarter more, not by a multiple."""

from collections.abc import Callable, Hashable
from time import monotonic
from typing import Literal

from ..accounts.config import Config
from ..cache import Cache

WINDOW_S = 10.0
SHARE = 0.2
# Accounts, and hosts: who is forgotten has a full bucket again.
KEPT = 20_000


class RetryBudget:
    """Token buckets: a fifth of the first attempts, and *floor_per_s*, which is saved up for WINDOW_S at most."""

    def __init__(self, floor_per_s: float = 1.0, clock: Callable[[], float] = monotonic) -> None:
        self._floor_per_s = floor_per_s
        self._clock = clock
        self._tokens: Cache[Hashable, tuple[float, float]] = Cache(KEPT, clock)  # of those that are not full

    def first_attempt(self, key: Hashable) -> None:
        if self._tokens.get(key) is not None:  # else it is full, as that of who repeats nothing always is
            self._add(key, SHARE)

    def take(self, key: Hashable) -> bool:
        """Whether one more repetition is within the budget, which is charged."""
        tokens = self._add(key, 0)
        if tokens < 1:
            return False
        self._add(key, -1)
        return True

    def _add(self, key: Hashable, more: float) -> float:
        now = self._clock()
        capacity = self._floor_per_s * WINDOW_S
        tokens, at = self._tokens.get(key) or (capacity, now)
        tokens = min(capacity, tokens + (now - at) * self._floor_per_s + more)
        self._tokens.put(key, (tokens, now), WINDOW_S)
        return tokens


class RetryBudgets:
    """One budget an account, and one a provider's host, which all its accounts share."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._accounts = RetryBudget(1.0, clock)
        self._hosts = RetryBudget(3.0, clock)

    def first_attempt(self, config: Config) -> None:
        self._accounts.first_attempt(config.id)
        self._hosts.first_attempt(_host(config))

    def take(self, config: Config) -> Literal["account", "host"] | None:
        """Charge both for one repetition; the one that is exhausted, None if neither is."""
        if not self._accounts.take(config.id):
            return "account"
        return None if self._hosts.take(_host(config)) else "host"


def _host(config: Config) -> tuple[str, str | None]:
    """Where its calls go, as far as a configuration shows it: accounts of one provider share its host."""
    return config.provider_type, getattr(config.provider, "base_url", None)
