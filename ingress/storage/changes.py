"""Which organizations have changed, and so how long what this process has read of one is good.

While PostgreSQL notifies this process (ingress/storage/listener.py) it is good until a notification. While it does not,
one statement for all that is remembered looks what has changed since the last look; and where that fails, what was read
is good for a moment.
"""

import math
from collections.abc import Mapping
from time import monotonic
from uuid import UUID

from ..cache import Cache
from ..identifiers import PLATFORM_ID

# Then it is read again all the same, and what nobody uses any more is forgotten.
HEARD_S = 30.0
# Between two looks while nothing notifies us, and how long the last one counts.
LOOK_EVERY_S, LOOK_COUNTS_S = 0.5, 1.0
# Organizations whose change is remembered.
KEPT = 20_000


class Changes:
    """As far as this process knows. Times are those of `monotonic`."""

    def __init__(self) -> None:
        self.is_notified = False
        self._known_until = 0.0
        self._changed: dict[UUID, float] = {}
        self._all_changed = monotonic()
        # Those that something is remembered of, with how many entries their trail had at the last look; -1: none was.
        self._followed: Cache[UUID, int] = Cache(KEPT)

    def notified(self, is_notified: bool) -> None:
        """Whether the database notifies us from now on. What passed before was missed."""
        self.is_notified = is_notified
        self._known_until = math.inf if is_notified else 0.0
        self.add_all()

    def add(self, organization_id: UUID) -> None:
        """Something of the organization has changed."""
        if len(self._changed) >= KEPT:
            self.add_all()
        self._changed[organization_id] = monotonic()

    def add_all(self) -> None:
        self._changed.clear()
        self._all_changed = monotonic()

    def since(self, organization_id: UUID, read_at: float) -> bool:
        """Whether something of the organization has changed since *read_at*, when a reading began."""
        return read_at <= self._changed.get(organization_id, self._all_changed)

    def is_good(self, organization_id: UUID, read_at: float, moment_s: float, late_s: float = 0.0) -> bool:
        """Whether what was read of the organization at *read_at* may be used still.

        *moment_s* is how long it may where nobody says what has changed; *late_s*: so much longer, in either case.
        """
        now = monotonic()
        good_s = HEARD_S if now < self._known_until + late_s else moment_s
        return now < read_at + good_s + late_s and not self.since(organization_id, read_at)

    def follow(self, organization_id: UUID) -> None:
        """Something of the organization is remembered from now on."""
        self._followed.put(organization_id, self._followed.get(organization_id) or -1, 2 * HEARD_S)

    def followed(self) -> dict[UUID, int]:
        """Organizations to look at where nothing notifies us, with what their trails had at the last look."""
        return {} if self.is_notified else {each: self._followed.get(each) or -1 for each in self._followed}

    def found(self, changed: Mapping[UUID, int], began: float) -> None:
        """A look that *began* then found these trails otherwise."""
        for organization_id, entries in changed.items():
            self._followed.put(organization_id, entries, 2 * HEARD_S)
            self.add(organization_id)
        self.add(PLATFORM_ID)  # which has no trail
        if not self.is_notified:
            self._known_until = began + LOOK_COUNTS_S
