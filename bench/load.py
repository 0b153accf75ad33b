"""Who sends: wrk where it is installed, else a generator of our own; and one that keeps to a rate."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import quantiles

import httptools
import uvloop

from .pool import Pool
from .processes import ServerProcess

TIMEOUT_S = 10
UNKNOWN_RPS = 100_000  # requests made for each second of a server's first run; later ones know its pace
LEAST_RPS = 2_000  # and for a server that was slow so far
WRK = shutil.which("wrk")
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class MeasuredRun:
    """What one run saw. *answers* counts all of them, *refused* those with a status of 400 or more."""

    connections: int
    seconds: float
    answers: int
    refused: int
    broken: int  # connections that could not be made, broke or timed out
    p50_ms: float
    p99_ms: float
    cpu_us: float = float("nan")  # of the server, user and system, for each answer

    @property
    def accepted(self) -> int:
        return self.answers - self.refused

    @property
    def rate(self) -> float:
        return self.accepted / self.seconds


@dataclass
class LoadTarget:
    """One server under test, and how far into the pool it has come: it never sees a request twice."""

    name: str
    server: ServerProcess
    pool: Pool
    head: bytes
    seen: int = 0
    fastest: float = 0  # requests a second in the best run so far
    accepted: int = 0  # in all runs

    @property
    def port(self) -> int:
        return self.server.port

    def take(self, count: int) -> int:
        """The first of *count* records that are this server's alone."""
        first, self.seen = self.seen, self.seen + count
        self.pool.reach(self.seen)
        return first

    def requests(self, count: int) -> Iterator[bytes]:
        return (self.head + tail for tail in self.pool.tails(self.take(count), count))


def flat_out(target: LoadTarget, seconds: float, connections: int, threads: int = 1) -> MeasuredRun:
    """As much as *connections* get through, each waiting for its answer before the next request."""
    pace = max(2 * target.fastest, LEAST_RPS) if target.fastest else UNKNOWN_RPS
    count = round(pace * seconds)
    run = _counted(
        target,
        lambda: (
            _wrk(WRK, target, count // threads, seconds, connections, threads)
            if WRK
            else uvloop.run(_closed_loop(target, count, seconds, connections))
        ),
    )
    target.fastest = max(target.fastest, run.rate)
    return run


def paced(target: LoadTarget, rate: int, seconds: float, connections: int) -> MeasuredRun:
    """*rate* requests a second whatever the answers do; latency counts from when each one was due."""
    return _counted(target, lambda: uvloop.run(_open_loop(target, rate, seconds, connections)))


def _counted(target: LoadTarget, load: Callable[[], MeasuredRun]) -> MeasuredRun:
    before_s = target.server.cpu_s()
    run = load()
    target.accepted += run.accepted
    return replace(run, cpu_us=(target.server.cpu_s() - before_s) / max(1, run.answers) * 1e6)


def _wrk(wrk: str, target: LoadTarget, count: int, seconds: float, connections: int, threads: int) -> MeasuredRun:
    first = target.take(count * threads)
    options = [
        f"-t{threads}",
        f"-c{connections}",
        f"-d{seconds:.0f}s",
        f"--timeout={TIMEOUT_S}s",
        f"-s{SCRIPT}",
    ]
    pool = [str(target.pool.path), str(target.pool.width), str(first), str(count), target.head.decode()]
    command = [wrk, *options, f"http://127.0.0.1:{target.port}", "--", *pool]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(output.splitlines()[-1])
    if figures.pop("exhausted"):
        raise RuntimeError(f"{target.name} took more than the {count * threads} requests made for {seconds} s")
    return MeasuredRun(connections=connections, **figures)


class ClientConnection(asyncio.Protocol):
    """One keep-alive connection with one request in flight at most."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int) -> "ClientConnection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> int:
        """The status that *request* is answered with."""
        if self._transport.is_closing():
            raise ConnectionError("closed while idle")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(TIMEOUT_S):
            return await self._answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream always has one that writes
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._answer.set_result(self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(ConnectionError("closed before the answer"))

    def close(self) -> None:
        self._answer.cancel()
        self._transport.close()


class AnswerTally:
    """Latencies and failures of a run in progress."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.latencies_ms: list[float] = []
        self.refused = self.broken = 0
        self.began = time.perf_counter()

    async def ask(self, connection: ClientConnection, request: bytes, since: float) -> ClientConnection:
        """Ask and note the answer; the connection to go on with, a new one where the old one broke."""
        try:
            status = await connection.ask(request)
        except (OSError, TimeoutError):
            self.broken += 1
            connection.close()
            return await ClientConnection.open(connection._transport.get_extra_info("peername")[1])
        self.latencies_ms.append((time.perf_counter() - since) * 1e3)
        self.refused += status >= 400
        return connection

    def run(self) -> MeasuredRun:
        seconds, answers = time.perf_counter() - self.began, len(self.latencies_ms)
        percentiles = quantiles(self.latencies_ms, n=100) if answers > 1 else [float("nan")] * 99
        return MeasuredRun(
            self.connections, seconds, answers, self.refused, self.broken, percentiles[49], percentiles[98]
        )


async def _closed_loop(target: LoadTarget, count: int, seconds: float, connections: int) -> MeasuredRun:
    requests = target.requests(count)
    opened = [await ClientConnection.open(target.port) for _ in range(connections)]
    tally = AnswerTally(connections)

    async def work(connection: ClientConnection) -> None:
        while (now := time.perf_counter()) < tally.began + seconds:
            request = next(requests, None)
            if request is None:
                raise RuntimeError(f"{target.name} took more than the {count} requests made for {seconds} s")
            connection = await tally.ask(connection, request, now)
        connection.close()

    await asyncio.gather(*map(work, opened))
    return tally.run()


async def _open_loop(target: LoadTarget, rate: int, seconds: float, connections: int) -> MeasuredRun:
    idle = asyncio.Queue[ClientConnection]()  # first in, first out: none rests until the server closes it
    for _ in range(connections):
        idle.put_nowait(await ClientConnection.open(target.port))
    tally = AnswerTally(connections)

    async def one(request: bytes, due: float) -> None:
        idle.put_nowait(await tally.ask(await idle.get(), request, due))

    async with asyncio.TaskGroup() as group:
        for n, request in enumerate(target.requests(round(rate * seconds))):
            due = tally.began + n / rate
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            group.create_task(one(request, due))
    while not idle.empty():
        idle.get_nowait().close()
    return tally.run()
