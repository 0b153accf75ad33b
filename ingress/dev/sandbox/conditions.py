"""Waiting for something to have happened, woken by the event itself: no polling, no guessed sleeps."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Changes:
    """Wakes whoever waits for a condition each time the state may have changed. One event loop only."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Have every waiter look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():  # a waiter that timed out is done already
                waiter.set_result(None)

    async def wait_for(self, condition: Callable[[], T], timeout: float = 30.0) -> T:
        """The first true value of *condition*, looked at now and after each change.

        Raises `TimeoutError` after *timeout* seconds, naming what *condition* was last.
        """
        value = condition()
        try:
            async with asyncio.timeout(timeout):
                while not value:
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
                    value = condition()
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s; the condition is {value!r}") from None
        return value
