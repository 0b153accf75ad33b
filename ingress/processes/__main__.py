"""A worker, as its parent starts it: `python -m ingress.processes LINK SOCKET`, both of which it inherits."""

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import Iterator

import uvloop
from prometheus_client.samples import Sample

from .. import log, metrics
from ..server import Serving, on_signals
from ..settings import Settings
from .link import Link


async def work(to_parent: socket.socket, listening: socket.socket) -> None:
    """Serve until the parent says stop, with what it says first: the settings, and how many others serve with them."""
    link = await Link.on(to_parent)
    settings, neighbours = await link.receive(tuple[Settings, int])
    log.setup(settings.log_level)
    serving = Serving(settings, neighbours)
    # What ends services may signal to all of their processes, and the parent asks as well: that is not asked twice.
    on_signals(serving.drain, serving.drain)
    obeying = asyncio.create_task(_obey(link, serving))
    if not await serving.begin(listening):
        raise RuntimeError("the application could not start")
    link.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    await serving.end()
    obeying.cancel()


async def _obey(link: Link, serving: Serving) -> None:
    """Answer the parent, and do what it says. Without it there is nobody to end this process, or to start the next."""
    try:
        while True:
            match await link.receive(str):
                case "readiness":
                    link.send(await serving.application.judge())
                case "metrics":
                    link.send(list(_families()))
                case "hand_over":
                    serving.hand_over()
                case "drain":
                    serving.drain()
                case "stop_at_once":
                    serving.stop_at_once()
    except (EOFError, ConnectionError):
        log.flush()
        os._exit(1)


def _families() -> Iterator[tuple[str, str, str, list[Sample]]]:
    """What the parent makes a page of."""
    for family in metrics.REGISTRY.collect():
        yield family.name, family.documentation, family.type, family.samples


if __name__ == "__main__":
    # It ends by EOFError where the parent has ended before it said anything.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(EOFError):
        runner.run(work(*(socket.socket(fileno=int(handle)) for handle in sys.argv[1:])))
