"""A circuit breaker: calls that would fail are not made.

    closed ── half of 10 calls or more in 10 s failed, or the account is broken ──▶ open
    open ── after 10 s, the next time after 20 s, up to 120 s ──▶ half open: one call at a time
    half open ── 3 succeed ──▶ closed;  one fails ──▶ open

It knows nothing of what is called, and asks the clock it was given.
"""

import random
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Literal

WINDOW_S = 10
LEAST_CALLS = 10
FAILING_SHARE = 0.5
OPEN_S, OPEN_AT_MOST_S = 10.0, 120.0
JITTER = 0.2
SUCCESSES_TO_CLOSE = 3

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
        self._until = self._clock() + self._open_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (nothing secret)
        self.broken = broken or (self.broken and self.state == "half_open")
        self._become("open")

    def close(self) -> None:
        self.broken = False
        self._seconds.clear()
        if self.state != "closed":
            self._become("closed")

    def _count(self, failed: bool) -> None:
        second = int(self._clock())
        seconds = self._seconds
        if not seconds or seconds[-1][0] != second:
            while seconds and seconds[0][0] <= second - WINDOW_S:
                seconds.popleft()
            seconds.append([second, 0, 0])
        seconds[-1][1] += 1
        if failed:
            seconds[-1][2] += 1
            calls = sum(each[1] for each in seconds)
            if calls >= LEAST_CALLS and sum(each[2] for each in seconds) >= FAILING_SHARE * calls:
                self.trip()

    def _become(self, state: State) -> None:
        former, self.state = self.state, state
        self._successes = 0
        if former != state:
            self._changed(former, state)
