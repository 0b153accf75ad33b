"""How often somebody may: try keys, ask with a key, have the service call out. By each process, in bounded memory."""

from collections.abc import Callable, Hashable
from time import monotonic

from ..cache import Cache
from .problems import Problem

# Of those that asked; who asked the longest ago is forgotten first, and would be let in again.
KEPT = 20_000
# What sums of fractions are off by; nobody is refused for that.
_ROUNDING_S = 1e-6


class Limiter:
    """A line of turns (GCRA) for each of whoever asks: *burst* at once, then one every *every_s* seconds; 0: no end."""

    def __init__(self, every_s: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._every_s = every_s
        self._patience_s = (burst - 1) * every_s + _ROUNDING_S
        self._clock = clock
        self._due: Cache[Hashable, float] = Cache(KEPT, clock)  # when the next turn of each is due

    def wait_s(self, who: Hashable) -> float:
        """Seconds until *who* has a turn; none is taken."""
        return max(0.0, (self._due.get(who) or 0.0) - self._clock() - self._patience_s)

    def take(self, who: Hashable, weight: float = 1.0) -> float:
        """As `wait_s`; where it is 0, a turn is taken, or that part of one."""
        if not self._every_s:
            return 0.0
        now = self._clock()
        due = max(now, self._due.get(who) or now)
        if (wait_s := due - now - self._patience_s) > 0:
            return wait_s
        due += weight * self._every_s
        self._due.put(who, due, due - now)
        return 0.0


def per_minute(count: int) -> Limiter:
    """*count* at once, and as many a minute; 0: no limit."""
    return Limiter(60 / count if count else 0.0, count)


# Of a call that pages make again and again, as to show a QR code until somebody has scanned it.
LOOK_WEIGHT = 1 / 6


def quota_reached(count: int, things: str, advice: str) -> Problem:
    return Problem(409, "quota_reached", f"An organization may have {count} {things}. {advice}")
