"""What all simulators of providers share: numbers on ports, ground truth, the pace of statuses."""

import abc
import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web

from .accounts import A, ScriptedWorld
from .ledger import C, Ledger, M
from .listener import Listener, Startable
from .webhook_post import RetryPolicy, WebhookPoster


class Statuses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The status webhooks that follow an accepted message."""

    statuses: tuple[str, ...] = ("sent", "delivered", "read")
    delay_s: float = 0.0  # before the first
    gap_s: float = 0.0  # between two posts
    duplicates: int = 0  # further copies of each POST, all at once
    reorder: bool = False  # the last status first
    before_answer: bool = False  # all of them before the send is answered

    @property
    def in_order(self) -> tuple[str, ...]:
        return self.statuses[::-1] if self.reorder else self.statuses


N = TypeVar("N")  # a number as it was added


class World(ScriptedWorld[A], Ledger[M, C], Startable, Generic[N, A, M, C]):
    """A provider behind its API, which a subclass gives, and its control API. Start with ``async with``."""

    _control: Listener  # made by the subclass

    def __init__(self, *, port: int, seed: int | None, retry: RetryPolicy) -> None:
        super().__init__()
        self.numbers: dict[str, A] = {}
        self.webhooks = WebhookPoster(retry)
        self.undeliverable = 0  # webhooks that the provider had no URL or no subscription for
        self.rng = random.Random(seed)  # noqa: S311  it makes ids, not keys
        self._shared = Listener(self.answer, port)

    @abc.abstractmethod
    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The provider's API."""

    @abc.abstractmethod
    def key(self, number: N) -> str:
        """What *number* is known by."""

    @abc.abstractmethod
    def inbound(self, number: N | str, *, seed: int | None = None, people: int = 20) -> Any:
        """Makes what people write to *number*: a method for each kind."""

    async def start(self) -> None:
        await self.webhooks.open()
        await self._shared.open()
        await self._control.open()

    async def close(self) -> None:
        await self._control.close()
        for listener in self._listeners():
            await listener.close()
        await self.cancel_tasks()
        await self.webhooks.close()

    @property
    def url(self) -> str:
        """The base URL of the API, for numbers without a port of their own."""
        return self._shared.url

    @property
    def control_url(self) -> str:
        """The base URL of the control API. It stays open whatever is scripted."""
        return self._control.url

    def url_for(self, number: N | str) -> str:
        """The base URL for *number*: its own port's, or the shared one."""
        return self.state_of(number).listener.url

    def states(self) -> Iterable[A]:
        return self.numbers.values()

    def state_of(self, account: N | str) -> A:
        return self.numbers[account if isinstance(account, str) else self.key(account)]

    async def _listener(self, *, own_port: bool, port: int = 0) -> Listener:
        """An open one for a new number; *port* of its own, 0: the system chooses."""
        listener = Listener(self.answer, port) if own_port else self._shared
        await listener.open()
        return listener

    # ---------------------------------------------------------------- webhooks

    async def post_paced(self, policy: Statuses, posts: Sequence[Callable[[], Awaitable[object]]]) -> None:
        """Each of *posts* after the one before it, with the copies and the waits of *policy*."""
        await asyncio.sleep(policy.delay_s)
        for index, post in enumerate(posts):
            if index:
                await asyncio.sleep(policy.gap_s)
            await asyncio.gather(*(post() for _ in range(1 + policy.duplicates)))

    async def post_after(self, policy: Statuses, posting: Coroutine[Any, Any, None]) -> None:
        """Run *posting* to its end where the statuses come before the answer, else beside it."""
        if policy.before_answer:
            await posting
        else:
            self.spawn(posting)

    async def reset(self) -> None:
        """Forget all numbers, scripts and history; the shared ports stay."""
        await self.cancel_tasks()
        for listener in self._listeners():
            if listener is not self._shared:
                await listener.close()
        self.numbers.clear()
        self.forget()
        self.undeliverable = 0
        self.webhooks.reset_counts()
        await self._shared.open()
        self.changed()

    def _listeners(self) -> set[Listener]:
        return {self._shared, *(state.listener for state in self.numbers.values())}
