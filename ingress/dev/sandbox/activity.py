"""What is under way in a simulator: work that nobody's connection ends, and waiting for it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .conditions import Changes

T = TypeVar("T")


class Activity:
    """Tasks that end with the simulator, and a wake-up of all who wait each time something happened."""

    def __init__(self) -> None:
        super().__init__()
        self._changes = Changes()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def wait_for(self, condition: Callable[[], T], timeout: float = 30.0) -> T:
        """The first true value of *condition*, looked at after each call, acceptance and webhook."""
        return await self._changes.wait_for(condition, timeout)

    async def settled(self, timeout: float = 30.0) -> None:
        """Wait until nothing is under way: no slow send, no status webhook."""
        await self.wait_for(lambda: not self._tasks, timeout)

    def changed(self) -> None:
        self._changes.notify()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* in a task of our own: it ends with the simulator and not with somebody's connection."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self.changed()

    async def cancel_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
