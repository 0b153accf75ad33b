"""The parent of several workers on one port: starts them, starts one anew that died, renews them, and has them end.

uvicorn's supervisor (0.54) does not serve. Its workers share one socket, whose connections go to whoever wakes up first
(measured: of 257 three to one worker and 254 to the other), and they live on when it is killed. A worker that dies is
started at once, however often; one that is renewed closes connections whose clients may be about to ask. It has no port
of its own, and nothing that could be asked there.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from functools import partial
from itertools import count
from typing import Any

from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from .. import __version__, metrics
from ..api.routes import OPERATIONS
from ..server import LAST_ANSWERS_S, WATCHDOG_S, Beside, bind, on_signals, operations_served
from ..settings import Settings
from ..web.middleware import Middleware
from .operations import OperationsOfAll
from .worker import Order, Worker

logger = logging.getLogger("ingress.processes")

STARTS_WITHIN_S = 60.0
# Who has served for so long was no failure: the next one is started at once.
STEADY_S = 10.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
# Starts in a row that failed, of every worker, before the parent gives up.
START_TRIES = 3
LOOK_EVERY_S = 10.0
# A worker ends itself before that.
ENDS_WITHIN_S = WATCHDOG_S + LAST_ANSWERS_S + 5
# Who says nothing for so long hangs.
SILENT_S = 30.0


class NoneStarts(Exception):
    """No worker can start; the log has why."""


class Place:
    """Where one worker belongs: its socket, which its successor takes over, and how its predecessors ended."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._listening: socket.socket | None = None
        self.is_filled = asyncio.Event()
        self.is_due = asyncio.Event()  # its worker is to be renewed
        self.failed_starts = self._early_ends = 0

    def open(self) -> socket.socket:
        """Its socket, on which nothing comes in before somebody listens."""
        if self._listening is None:
            self._listening = bind(*self._address, shared=True)
        return self._listening

    def close(self) -> None:
        """Have the system give its connections to the others: nobody would take them here."""
        if self._listening is not None:
            self._listening.close()
        self._listening = None

    def note_end(self, worker: Worker) -> float:
        """How many seconds to wait before the next one is started."""
        self.failed_starts = 0 if worker.has_started else self.failed_starts + 1
        self._early_ends = 0 if worker.has_started and worker.age_s >= STEADY_S else self._early_ends + 1
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (self._early_ends - 1)) if self._early_ends else 0.0


class Parent:
    """Keeps *processes* workers at the address of *settings*."""

    def __init__(self, settings: Settings, processes: int) -> None:
        self.settings = settings
        self._closing = asyncio.Event()
        self._is_outdated = asyncio.Event()  # every worker is to be renewed
        self._renewals: asyncio.Queue[bool] = asyncio.Queue()
        self._places = [Place(settings.host, settings.port) for _ in range(processes)]
        self._workers: dict[int, Worker] = {}
        self._numbers: set[int] = set()
        self._attending: set[asyncio.Task[None]] = set()
        self._of_all = OperationsOfAll(self._workers, processes, self._closing)
        self._router = Middleware(Router(routes=OPERATIONS))

    async def operations(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application of the port that the public does not reach."""
        scope["state"].update(readiness=self._of_all.readiness, metrics_page=self._of_all.metrics)
        await self._router(scope, receive, send)

    async def run(self, operations: socket.socket, beside: Beside | None = None) -> int:
        """Serve until SIGINT or SIGTERM, then drain; the exit status. Raises `NoneStarts`.

        *beside* is entered once all workers answer, and left before they stop.
        """
        on_signals(self._closing.set, partial(self._order, "stop_at_once"))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._is_outdated.set)
        async with operations_served(self, operations):
            try:
                await self._stay(beside)
            finally:
                self._closing.set()
                is_drained = await self._end()
        return 0 if is_drained else 1

    def _order(self, what: Order) -> None:
        for worker in self._workers.values():
            worker.order(what)

    async def _stay(self, beside: Beside | None) -> None:
        """Until it is to close, or cannot go on."""
        works = (*map(self._keep, self._places), self._renew_all(), self._accompany(beside))
        tasks = [asyncio.create_task(work) for work in works]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(error, Exception):
                raise error

    async def _accompany(self, beside: Beside | None) -> None:
        for place in self._places:
            await _first(place.is_filled, self._closing)
        if self._closing.is_set():
            return
        self._announce()
        async with beside() if beside else contextlib.nullcontext():
            await self._closing.wait()

    def _announce(self) -> None:
        settings, workers = self.settings, self._workers.values()
        logger.info(
            "WhatsApp Ingress %s serves at %s, metrics of all at %s; %d processes (%s) of this one (%d), up to %d"
            " connections to PostgreSQL, %d MiB of memory",
            *(__version__, settings.address, settings.metrics_url),
            *(len(workers), ", ".join(str(worker.pid) for worker in workers), os.getpid()),
            *(len(workers) * settings.database_connections, sum(worker.memory_bytes for worker in workers) >> 20),
        )

    # -- one worker after the other

    async def _keep(self, place: Place) -> None:
        """Have a worker in *place*, for ever. Raises `NoneStarts`."""
        while True:
            worker = await self._start(place)
            while not worker.ended.is_set():
                await _first(worker.ended, place.is_due, timeout_s=LOOK_EVERY_S)
                if place.is_due.is_set():
                    worker = await self._renew(place, worker)
                elif not worker.ended.is_set() and await worker.ask("readiness", SILENT_S) is None:
                    logger.error("worker %d (%d) has not answered for %g s: it is killed", *_named(worker), SILENT_S)
                    worker.kill()
            place.close()
            delay_s = place.note_end(worker)
            if all(place.failed_starts >= START_TRIES for place in self._places):
                raise NoneStarts(
                    f"no worker could be started, each tried {START_TRIES} times; the last one ended with status"
                    f" {worker.status}, and has said why"
                )
            logger.error(
                "worker %d (%d) ended with status %s; the next one is started in %g s",
                *(*_named(worker), worker.status, delay_s),
            )
            metrics.process_restarts.inc()
            await asyncio.sleep(delay_s)

    async def _start(self, place: Place) -> Worker:
        """A worker that serves, or has ended because it could not."""
        number = next(number for number in count() if number not in self._numbers)
        self._numbers.add(number)
        worker = self._workers[number] = await self._spawn(number, place)
        self._attend(self._forget_ended(worker))
        if await worker.serves(STARTS_WITHIN_S):
            place.is_filled.set()
        else:
            worker.kill()
            await worker.ended.wait()
        return worker

    async def _spawn(self, number: int, place: Place) -> Worker:
        while True:
            try:
                return await Worker.spawn(number, self.settings, len(self._places) - 1, place.open())
            except OSError:  # the machine has no room for one more, or the program is just being installed
                logger.exception("worker %d cannot be started; that is tried again in %g s", number, LONGEST_DELAY_S)
                await asyncio.sleep(LONGEST_DELAY_S)

    async def _forget_ended(self, worker: Worker) -> None:
        await worker.ended.wait()
        del self._workers[worker.number]
        self._numbers.remove(worker.number)

    def _attend(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)

    # -- renewal

    async def _renew_all(self) -> None:
        """One after the other, when a signal asks for it; the first one that does not start ends it."""
        while True:
            await self._is_outdated.wait()
            self._is_outdated.clear()
            for place in self._places:
                place.is_due.set()
                if not await self._renewals.get():
                    logger.error("a new worker did not start: the others are not renewed")
                    break
            else:
                logger.info("all workers are renewed")

    async def _renew(self, place: Place, worker: Worker) -> Worker:
        """Who serves in *place* from now on: one that is started, or *worker* where that fails."""
        successor = await self._start(place)
        place.is_due.clear()
        if successor.ended.is_set():
            self._renewals.put_nowait(False)
            return worker
        self._attend(self._retire(worker))
        return successor

    async def _retire(self, worker: Worker) -> None:
        worker.order("hand_over")
        await self._ended([worker])
        self._renewals.put_nowait(True)

    # -- the end

    async def _end(self) -> bool:
        """Whether every worker has drained."""
        for place in self._places:
            place.close()
        self._order("drain")
        return await self._ended([*self._workers.values()])

    async def _ended(self, workers: list[Worker]) -> bool:
        """Wait for them to end, and kill who takes too long. Whether all that ever served have drained."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDS_WITHIN_S):
                await asyncio.gather(*(worker.ended.wait() for worker in workers))
        for worker in workers:
            worker.kill()
            await worker.ended.wait()
        return all(worker.status == 0 or not worker.has_started for worker in workers)


def _named(worker: Worker) -> tuple[int, int]:
    return worker.number, worker.pid


async def _first(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until one of them is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
