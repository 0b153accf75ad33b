"""A bulkhead: calls under way at the same time, so that one organization's slow provider does not take all of them."""

import asyncio
from collections import deque
from uuid import UUID

SLOTS = 400  # calls that one process makes at once
SHARE = 0.25  # of them, to one organization
LEAST = 4
MAX_WAITING = 1_000  # of one organization; what comes then is not accepted


class Bulkhead:
    """Slots to call in. Where they are scarce, organizations take turns, and each one's calls keep their order."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._free = slots
        self._cap = max(LEAST, int(slots * SHARE))
        self._under_way: dict[UUID, int] = {}
        self._waiting: dict[UUID, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def is_full(self, organization_id: UUID) -> bool:
        """Whether no more sends of the organization should be accepted."""
        return len(self._waiting.get(organization_id, ())) >= MAX_WAITING

    async def enter(self, organization_id: UUID, at_most_s: float) -> bool:
        """Take a slot, to be given back with `leave`; False: none was free within *at_most_s*."""
        if self._free > 0 and organization_id not in self._waiting and self._has_room(organization_id):
            self._take(organization_id)
            return True
        return await self._wait(organization_id, at_most_s)

    async def _wait(self, organization_id: UUID, at_most_s: float) -> bool:
        slot = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(organization_id, deque()).append(slot)
        try:
            # Not wait_for: a slot that is given in the moment of giving up must not get lost.
            await asyncio.wait((slot,), timeout=at_most_s)
        except asyncio.CancelledError:
            if slot.done():
                self.leave(organization_id)
            else:
                self._give_up(organization_id, slot)
            raise
        if slot.done():
            return True
        self._give_up(organization_id, slot)
        return False

    def leave(self, organization_id: UUID) -> None:
        self._free += 1
        left = self._under_way[organization_id] - 1
        if left:
            self._under_way[organization_id] = left
        else:
            del self._under_way[organization_id]
        if self._waiting:
            self._hand_on()

    def _has_room(self, organization_id: UUID) -> bool:
        return self._under_way.get(organization_id, 0) < self._cap

    def _take(self, organization_id: UUID) -> None:
        self._free -= 1
        self._under_way[organization_id] = self._under_way.get(organization_id, 0) + 1

    def _hand_on(self) -> None:
        """Give what is free to the organization that has waited longest since its last turn."""
        for organization_id in [*self._waiting]:
            if self._free <= 0:
                return
            if self._has_room(organization_id):
                queue = self._waiting.pop(organization_id)
                slot = queue.popleft()
                if queue:
                    self._waiting[organization_id] = queue  # at the end of the line
                self._take(organization_id)
                slot.set_result(None)

    def _give_up(self, organization_id: UUID, slot: "asyncio.Future[None]") -> None:
        queue = self._waiting[organization_id]
        queue.remove(slot)
        if not queue:
            del self._waiting[organization_id]
