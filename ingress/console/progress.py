"""What takes a while, shown as it is done: pieces of a page, each sent when there is something to see."""

import logging
from collections.abc import AsyncGenerator
from typing import TypeAlias

import msgspec

from ..web.problems import UNEXPECTED, problem_of
from ..web.waiting import Stream
from .rendering import HEADERS, render
from .requests import AnyConsoleRequest, Redirected

logger = logging.getLogger("ingress.console.progress")

_encode = msgspec.json.Encoder().encode


class Fragment(msgspec.Struct, frozen=True):
    """HTML for the element of that id: added to what is in it, or in the *place* of that."""

    target: str
    html: str
    replace: bool = False

    def __repr__(self) -> str:
        return f"Fragment({self.target!r})"


class Go(msgspec.Struct, frozen=True):
    """The end: the page to go to."""

    location: str


Step: TypeAlias = Fragment | Go
# Where a form's script shows what went wrong.
PROBLEM_TARGET = "problem"


def progress(request: AnyConsoleRequest, steps: AsyncGenerator[Step, None]) -> Stream:
    """*steps* as server-sent events (`fragment`, `go`), for a form with `data-stream`; errors are a fragment too."""
    stream = Stream(request.state["waiting"].room(request.organization_id), _events(request, steps))
    stream.headers.update(HEADERS)
    return stream


async def _events(request: AnyConsoleRequest, steps: AsyncGenerator[Step, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for step in steps:
            yield _event(step)
    except Redirected as elsewhere:
        yield _event(Go(elsewhere.path))
    except Exception as error:
        await request.state["refused_changes"].note(request, error)
        problem = problem_of(error)
        if problem is None:
            logger.exception("request %s failed", request.id)
        html = render(request, "problem_alert.html", problem=problem or UNEXPECTED)
        yield _event(Fragment(PROBLEM_TARGET, html, replace=True))


def _event(step: Step) -> bytes:
    kind = b"go" if isinstance(step, Go) else b"fragment"
    return b"event: %s\ndata: %s\n\n" % (kind, _encode(step))
