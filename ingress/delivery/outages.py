"""A CRM that is down, and back: its endpoint is tried now and then, and what was postponed meanwhile goes out soon."""

from collections.abc import Iterable
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from ..storage.statements import outages

# An endpoint that is down is paused after each failure, then tried so much later by one conversation. A post lasts for
# 15 seconds at most: so one begins within 30, whatever the last one came to.
PAUSE_S, TRY_AFTER_S, LOOK_EVERY_S = 5, 5, 2.0


class Outages:
    """Those that this process sees the end of, and its looks at those that last."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        # Organizations whose endpoint is back, each with the last conversation that was brought forward.
        self._ended: dict[UUID, UUID] = {}

    def ended(self, organizations: Iterable[UUID]) -> None:
        """Their endpoints have taken an event after they took none."""
        self._ended.update(dict.fromkeys(organizations, UUID(int=0)))

    async def look(self, connection: Any) -> None:
        """Have those tried that are down, and a part of what was postponed for one that is back delivered (worker)."""
        if monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = monotonic()
            await outages.try_one(connection, timedelta(seconds=TRY_AFTER_S))
        for organization_id, after in [*self._ended.items()]:
            last = await outages.bring_forward(connection, organization_id, after)
            if last is None:
                del self._ended[organization_id]
            else:
                self._ended[organization_id] = last
