"""The order within a conversation: a send whose earlier one is under way waits here for that one's end.

Which is first, the database says (`queue_place` in schema.sql), each time an attempt begins. Who ends a send learns
which comes next, and wakes it, in whichever process it waits; a wake-up may be lost, so whoever waits looks again.
"""

import asyncio
from collections import Counter
from uuid import UUID

from ..storage.database import Database
from ..storage.redis_state import RedisState
from ..storage.statements.sending import sends
from ..storage.statements.sending.sends import WaitingSend

# The first look of who waits: the end of the earlier one and the claim of this one may have crossed, seeing nothing of
# each other.
CROSSED_S = 0.05
# The looks after it, for all that wait here.
LOOK_EVERY_S = 1.0
MAX_WAITING = 1_000  # of one organization; what comes then is not accepted


class ConversationOrder:
    """Who waits in this process. One a process."""

    def __init__(self, database: Database, redis: RedisState) -> None:
        self._database = database
        self._redis = redis
        self._waiting: dict[UUID, tuple[WaitingSend, asyncio.Event]] = {}
        self._counts: Counter[UUID] = Counter()
        self._notifying: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def is_full(self, organization_id: UUID) -> bool:
        """Whether no more sends of the organization should be accepted."""
        return self._counts[organization_id] >= MAX_WAITING

    async def wait(self, organization_id: UUID, message_id: UUID, at_most_s: float) -> None:
        """Until the message may be the first of its conversation, or *at_most_s*."""
        woken = asyncio.Event()
        self._waiting[message_id] = WaitingSend(organization_id, message_id), woken
        self._counts[organization_id] += 1
        try:
            async with asyncio.timeout(at_most_s):
                await woken.wait()
        except TimeoutError:
            return
        finally:
            del self._waiting[message_id]
            self._counts[organization_id] -= 1

    def ended(self, next_id: UUID) -> None:
        """A send ended, and *next_id* is the one that comes next in its conversation."""
        if not self.notified(next_id):
            task = asyncio.create_task(self._redis.notify("turn", next_id))
            self._notifying.add(task)
            task.add_done_callback(self._notifying.discard)

    async def close(self) -> None:
        """Send what is still to be sent."""
        await asyncio.gather(*self._notifying)

    def notified(self, message_id: UUID) -> bool:
        """Wake the message, if it waits here; whether it does."""
        waits = self._waiting.get(message_id)
        if waits is not None:
            waits[1].set()
        return waits is not None

    async def look(self) -> None:
        """Wake those that are first by now, though nobody said so."""
        if self._waiting:
            async with self._database.worker() as connection:
                for message_id in await sends.first_of(connection, [waits for waits, _ in self._waiting.values()]):
                    self.notified(message_id)
