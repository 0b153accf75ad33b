"""What takes a while, shown as it is done: pieces of a page, each sent when there is something to see."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

import msgspec

from ..api.refusals import refused_as_problems
from ..web.waiting import Stream
from .rendering import HEADERS, render
from .requests import AnyConsoleRequest, Redirected

_encode = msgspec.json.Encoder().encode
# What goes on although nobody watches any more.
_unwatched: set["asyncio.Task[object]"] = set()

Shown = TypeVar("Shown")
Result = TypeVar("Result")


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


class Followed(Generic[Shown, Result]):
    """What *start* shows, by the function that it is given, while it is at work: to be iterated over.

        following = Followed[Check, list[Check]](lambda show: manager.test(organization_id, target, show))
        async for check in following:
            yield Fragment(...)
        checks = following.result()  # or what it raised

    It goes on to its end where nobody watches any more: a change is not broken off because a tab was closed.
    """

    def __init__(self, start: Callable[[Callable[[Shown], None]], Awaitable[Result]]) -> None:
        self._shown: asyncio.Queue[Shown | None] = asyncio.Queue()
        self._work = asyncio.ensure_future(start(self._shown.put_nowait))
        _unwatched.add(self._work)
        self._work.add_done_callback(self._ended)

    def _ended(self, work: "asyncio.Task[Result]") -> None:
        _unwatched.discard(work)
        if not work.cancelled():
            work.exception()  # asked for, or asyncio would log it where nobody watches
        self._shown.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Shown]:
        while (shown := await self._shown.get()) is not None:
            yield shown

    def result(self) -> Result:
        """What came of it, once there is nothing more to show."""
        return self._work.result()


def progress(request: AnyConsoleRequest, steps: AsyncGenerator[Step, None]) -> Stream:
    """*steps* as server-sent events (`fragment`, `go`), for a form with `data-stream`; errors are a fragment too."""
    stream = Stream(request.state["waiting"].room(request.organization_id), _events(request, steps))
    stream.headers.update(HEADERS)
    return stream


async def _events(request: AnyConsoleRequest, steps: AsyncGenerator[Step, None]) -> AsyncGenerator[bytes, None]:
    try:
        with refused_as_problems():
            async for step in steps:
                yield _event(step)
    except Redirected as elsewhere:
        yield _event(Go(elsewhere.path))
    except Exception as error:  # noqa: BLE001  (`problem_with` logs it)
        html = render(request, "problem_alert.html", problem=await request.problem_with(error))
        yield _event(Fragment(PROBLEM_TARGET, html, replace=True))


def _event(step: Step) -> bytes:
    kind = b"go" if isinstance(step, Go) else b"fragment"
    return b"event: %s\ndata: %s\n\n" % (kind, _encode(step))
