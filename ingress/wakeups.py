"""Wake-ups: who waits in this process for something new of an organization, and what other processes send about it.

A wake-up may be lost, so whoever waits looks again by itself after a while.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import UUID

from .storage.redis_state import RedisState

# One notification to other processes covers all that came in this time.
ANNOUNCE_AFTER_S = 0.1


class Wakeups:
    """Who waits for something new of an organization in this process, and notifying the others."""

    def __init__(self, redis: RedisState) -> None:
        self._redis = redis
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._any = asyncio.Event()
        self._announce: set[UUID] = set()
        self._announcing: asyncio.Task[None] | None = None

    def notify(self, organization_id: UUID) -> None:
        """Something new was stored here: wake this process now, the others soon."""
        self.notified(organization_id)
        self._announce.add(organization_id)
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._send())

    def notified(self, organization_id: UUID) -> None:
        self._any.set()
        for waiter in self._waiting.get(organization_id, ()):
            waiter.set()

    async def wait_for_any(self, timeout_s: float) -> bool:
        """Wait until something new is stored for anybody, at most *timeout_s*; whether it was."""
        return await self.wait(self._any, timeout_s)

    async def wait(self, waiter: asyncio.Event, timeout_s: float) -> bool:
        """Wait at most *timeout_s* until *waiter*, of `subscribed`, is set; then clear it. Whether it was set."""
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.wait()
        except TimeoutError:
            return False
        waiter.clear()
        return True

    @contextlib.contextmanager
    def subscribed(self, organization_id: UUID) -> Iterator[asyncio.Event]:
        waiter = asyncio.Event()
        waiting = self._waiting.setdefault(organization_id, set())
        waiting.add(waiter)
        try:
            yield waiter
        finally:
            waiting.discard(waiter)
            if not waiting:
                del self._waiting[organization_id]

    async def close(self) -> None:
        """Send what is still to be sent: later nobody would."""
        if self._announcing is not None:
            self._announcing.cancel()
            await asyncio.gather(self._announcing, return_exceptions=True)
        while self._announce:
            await self._redis.notify("events", self._announce.pop())

    async def _send(self) -> None:
        await asyncio.sleep(ANNOUNCE_AFTER_S)
        while self._announce:
            await self._redis.notify("events", self._announce.pop())
