"""The scene from its first line to its table: who is started, in which order, and what an end of any kind leaves."""

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType

import uvloop

from ..embedded.folder import ServersError
from ..embedded.launcher import EmbeddedServers
from .checks import CheckResult, check_crash, check_others, check_sends, check_switches, check_webhooks
from .other_providers import play_others
from .screen import Screen
from .sends import play_sends
from .service import Service
from .stage import staged
from .switches import play_switches
from .webhooks import play_crash, play_webhooks

# Of the inbound messages, how many more come while the service is killed; enough for a middle in any case.
CRASH_SHARE, CRASH_AT_LEAST = 0.15, 10


def play(webhooks: int, sends: int) -> int:
    """Play the scene with so many inbound messages and sends; the exit status, 0 where every check holds.

    The data folder and all processes are gone on return, and where Ctrl-C ends it.
    """
    try:
        return _play(webhooks, sends)
    except ServersError as error:
        sys.stderr.write(f"ingress: {error}\n")
        return 1


def _play(webhooks: int, sends: int) -> int:
    screen = Screen()
    started = time.monotonic()
    # Servers and service are started here and not in the event loop: they end with the thread that started them.
    with (
        _interruptible(),
        _throw_away_servers() as (folder, servers),
        Service(servers, folder / "service.log") as service,
    ):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                checks = runner.run(_scenes(screen, service, webhooks, sends, started))
        except Exception as error:  # noqa: BLE001  (whatever it is, a person sees what it was, and the service's log)
            screen.broke_off(error, service.log_tail())
            return 1
        screen.table(checks, time.monotonic() - started)
        right = all(check.ok for _, group in checks for check in group)
        if not right:
            screen.quote(service.log_tail())
        return 0 if right else 1


async def _scenes(
    screen: Screen, service: Service, webhooks: int, sends: int, started: float
) -> list[tuple[str, list[CheckResult]]]:
    crash = max(CRASH_AT_LEAST, round(webhooks * CRASH_SHARE))
    async with staged(service) as stage:
        screen.line(
            f"PostgreSQL, Valkey, the service and two simulators are up after {time.monotonic() - started:.1f} s."
        )
        return [
            ("Receiving", check_webhooks(await play_webhooks(screen, stage, webhooks))),
            ("Sending", check_sends(await play_sends(screen, stage, sends))),
            ("A crash", check_crash(await play_crash(screen, stage, service, crash))),
            ("Others", check_others(await play_others(screen, stage, service))),
            ("Switching", check_switches(await play_switches(screen, stage, crash))),
        ]


@contextmanager
def _throw_away_servers() -> Iterator[tuple[Path, EmbeddedServers]]:
    """Servers on a new folder; afterwards nothing of them is left."""
    folder = Path(mkdtemp(prefix="ingress-demo-"))
    servers = EmbeddedServers(folder)
    try:
        with _undisturbed():
            servers.start()
        yield folder, servers
    finally:
        with _undisturbed():
            servers.stop()
            # The sockets are elsewhere where the folder's path is long.
            for place in (folder, servers.postgres.sockets, servers.valkey.sockets):
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the scene as Ctrl-C does, with everything cleaned up, instead of leaving processes behind."""
    # Not ignored either, as a script's `&` would have it: SIGTERM comes this way.
    with _handled({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _interrupt}):
        yield


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait until the block is over: a database left half made would go on writing to a folder that is gone."""
    came: list[int] = []
    with _handled(dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda number, _: came.append(number))):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(handlers: Mapping[int, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    former = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)
