"""Who may deliver how much at once. A CRM that answers slowly leaves room for the others, whatever it has waiting."""

from collections import Counter
from collections.abc import Callable
from time import monotonic
from uuid import UUID

from ..storage.statements.deliveries import ClaimLimit

# Conversations that one process delivers at a time.
CONCURRENCY = 64
# What one organization can take of it, in all processes.
PER_ORGANIZATION = 16
# Of CONCURRENCY, for organizations that have nothing under way: whoever is quick now may hang in a moment.
RESERVE = 16
# What all slow ones together can take of it. Slow is who answers in more than SLOW_S, by a weighted mean of the last
# answers, or has not answered for so long.
SLOW_PLACES, SLOW_S = 32, 1.0
WEIGHT = 0.3
FORGET_AFTER_S = 600.0


class Places:
    """The places of one process, by what its endpoints did lately. Asks the clock it was given."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._taken: Counter[UUID] = Counter()
        self._posts: dict[object, tuple[UUID, float]] = {}  # under way, and since when
        self._means: dict[UUID, tuple[float, float]] = {}  # of the slower ones: the mean, and when it was last renewed

    def take(self, organization_id: UUID) -> None:
        self._taken[organization_id] += 1

    def give(self, organization_id: UUID) -> None:
        self._taken[organization_id] -= 1
        if not self._taken[organization_id]:
            del self._taken[organization_id]

    def begin(self, organization_id: UUID) -> object:
        """A post goes out; what to `end` it by."""
        post = object()
        self._posts[post] = organization_id, self._clock()
        return post

    def end(self, post: object) -> float:
        """How long the post took."""
        organization_id, since = self._posts.pop(post)
        now = self._clock()
        mean, _ = self._means.get(organization_id, (0.0, 0.0))
        mean += WEIGHT * (now - since - mean)
        if mean > SLOW_S / 10:
            self._means[organization_id] = mean, now
        else:
            self._means.pop(organization_id, None)
        return now - since

    def is_slow(self, organization_id: UUID) -> bool:
        """By its answers."""
        return self._means.get(organization_id, (0.0, 0.0))[0] > SLOW_S

    def limits(self) -> list[ClaimLimit]:
        """What there is room for now: one claim, two where some are slow, none where all is taken."""
        slow = self._slow()
        free = CONCURRENCY - self._taken.total()
        of_slow = self._room_of_slow(slow, free)
        if free > RESERVE:
            rest = ClaimLimit(free - max(0, of_slow.limit) - RESERVE, PER_ORGANIZATION, of_slow.slow, False)
        else:
            rest = ClaimLimit(free, 1, of_slow.slow, False)
        return [limit for limit in (of_slow, rest) if limit.limit > 0]

    def _slow(self) -> set[UUID]:
        """Who is slow, by former posts or one under way; means that were not renewed for long are forgotten."""
        now = self._clock()
        for organization_id, (_, at) in list(self._means.items()):
            if now - at > FORGET_AFTER_S:
                del self._means[organization_id]
        slow = {organization_id for organization_id in self._means if self.is_slow(organization_id)}
        return slow | {organization_id for organization_id, since in self._posts.values() if now - since > SLOW_S}

    def _room_of_slow(self, slow: set[UUID], free: int) -> ClaimLimit:
        held = [count for organization_id, count in self._taken.items() if organization_id in slow]
        # An equal part of the places for each, and for one more that may come.
        each = min(PER_ORGANIZATION, max(1, SLOW_PLACES // (len(held) + 1)))
        room = min(SLOW_PLACES - sum(held), free - RESERVE) if slow else 0
        return ClaimLimit(room, each, sorted(slow), True)
