"""One of the processes that serve, as their parent sees it."""

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from time import monotonic
from typing import Any, Literal

from ..settings import Settings
from .link import Link

# What a worker is asked, and what it is to do.
Asked = Literal["readiness", "metrics"]
Order = Literal["drain", "hand_over", "stop_at_once"]

STATES = "starting", "serving", "ending"
ANSWERS_WITHIN_S = 2.0


class Worker:
    """A process of its own, from its start to its end."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, link: Link) -> None:
        self.number = number
        self.memory_bytes = 0
        self.has_started = self._is_ending = False
        self.ended = asyncio.Event()
        self._process = process
        self._link = link
        self._began_at = monotonic()
        self._news = asyncio.Event()  # that it has started, or ended
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._following = asyncio.create_task(self._follow())

    @classmethod
    async def spawn(cls, number: int, settings: Settings, neighbours: int, listening: socket.socket) -> "Worker":
        """One that serves on *listening*, beside so many *neighbours*."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await _start(theirs.fileno(), listening.fileno())
        worker = cls(number, process, await Link.on(ours))
        worker._link.send((settings, neighbours))
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended; a signal is negative."""
        return self._process.returncode

    @property
    def state(self) -> str:
        """One of STATES."""
        return STATES[2 if self._is_ending else self.has_started]

    @property
    def age_s(self) -> float:
        return monotonic() - self._began_at

    async def _follow(self) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            self.memory_bytes = await self._link.receive(int)
            self.has_started = True
            self._news.set()
            while True:
                answer = await self._link.receive()
                waiting = self._asked.popleft()
                if not waiting.done():
                    waiting.set_result(answer)
        await self._process.wait()
        self._link.close()
        self.ended.set()
        self._news.set()

    async def serves(self, within_s: float) -> bool:
        """Whether it answers, once that is known."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
        return self.has_started and not self.ended.is_set()

    async def ask(self, what: Asked, within_s: float = ANSWERS_WITHIN_S) -> Any:
        """What it answers; None where it does not, in time."""
        if not self.has_started or self.ended.is_set():
            return None
        answer = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._link.send(what)
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except TimeoutError:
            return None

    def order(self, what: Order) -> None:
        self._is_ending = True
        self._link.send(what)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


async def _start(*handles: int) -> asyncio.subprocess.Process:
    """A process with *handles*.

    Not a copy of this one: what is loaded here may be of another release by now, and an event loop cannot be copied. In
    a session of its own: a Ctrl-C is the parent's to pass on.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __package__, *map(str, handles)),
        pass_fds=handles,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        # It imports from where this process does, and from nowhere else.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"},
    )
