"""What one process has of something, shared by the organizations, so that none uses it up."""

import asyncio
from uuid import UUID


class Shares:
    """An amount that organizations share. None has more than *each*, nor more than is left for all others then.

    So something is left for whoever comes, and who has most is the first to get no more.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total = self._free = total
        self._each = each
        self._held: dict[UUID, int] = {}
        self._given_back = asyncio.Event()

    @property
    def held(self) -> int:
        return self._total - self._free

    def take(self, organization_id: UUID, amount: int = 1) -> bool:
        """Whether the organization may have *amount* more, which is its own from now on."""
        if self._held.get(organization_id, 0) + amount > min(self._each, self._free - amount):
            return False
        self.add(organization_id, amount)
        return True

    def add(self, organization_id: UUID, amount: int) -> None:
        """Count *amount* for the organization without asking: a negative one is given back."""
        if not amount:
            return
        self._free -= amount
        held = self._held.get(organization_id, 0) + amount
        if held:
            self._held[organization_id] = held
        else:
            del self._held[organization_id]
        if amount < 0:
            self._given_back.set()

    async def taken(self, organization_id: UUID, amount: int, within_s: float) -> bool:
        """As `take`, waiting up to *within_s* for others to give something back."""
        try:
            async with asyncio.timeout(within_s):
                while not self.take(organization_id, amount):
                    self._given_back.clear()
                    await self._given_back.wait()
        except TimeoutError:
            return False
        return True
