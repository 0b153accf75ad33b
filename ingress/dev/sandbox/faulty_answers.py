"""Doing what a call asks, or not, and answering, or not: what each fault means on a connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol, assert_never

from aiohttp import web

from . import faults
from .activity import Activity
from .listener import reset, vanish

BAD_GATEWAY = b"<html><body>Bad Gateway</body></html>"

Work = Callable[[], Awaitable[Any]]  # does what was asked and returns what the answer says


class Dialect(Protocol):
    """How one provider answers."""

    def answer(self, content: Any) -> web.Response:
        """The good answer, made of *content*, which is what the work returned."""

    def throttled(self, headers: dict[str, str]) -> web.Response:
        """429, in the provider's own words."""

    def refused(self, fault: faults.ErrorCode) -> web.Response:
        """The error of *fault*."""


async def perform(
    activity: Activity, dialect: Dialect, fault: faults.AnyFault | None, request: web.BaseRequest, work: Work
) -> web.StreamResponse:
    """Do *work*, or not, and answer, or not, as *fault* has it.

    The work runs in a task of the simulator: what is accepted stays accepted when the client hangs up.
    """
    content: Any = {}
    if fault is None or fault.accepts:
        delay_s = fault.seconds if isinstance(fault, faults.Slow) else 0.0
        content = await asyncio.shield(activity.spawn(_after(delay_s, work)))
    if isinstance(fault, faults.SlowAnswer):
        await asyncio.sleep(fault.seconds)
    match fault:
        case None | faults.Accept() | faults.Slow() | faults.SlowAnswer():
            return dialect.answer(content)
        case faults.Hang() | faults.HangAfterAccept() | faults.Refuse():
            await vanish()
        case faults.ResetBeforeAccept() | faults.ResetAfterAccept():
            reset(request.transport)
            await vanish()
        case faults.Throttle429(retry_after=retry_after):
            headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
            return dialect.throttled(headers) if fault.body else web.Response(status=429, headers=headers)
        case faults.ErrorCode():
            return dialect.refused(fault)
        case faults.HalfAnswer():
            await _answer_half(request, dialect.answer(content))
        case faults.EmptyAnswer():
            return web.Response(status=200, content_type="application/json")
        case faults.Bare5xx(status=status) | faults.Bare5xxAfterAccept(status=status):
            return web.Response(status=status, body=BAD_GATEWAY, content_type="text/html")
        case _:
            assert_never(fault)


async def _answer_half(request: web.BaseRequest, whole: web.Response) -> NoReturn:
    """Promise all of *whole*, send half of it, close."""
    assert isinstance(whole.body, bytes)
    response = web.StreamResponse(status=whole.status, headers={"Content-Type": whole.headers["Content-Type"]})
    response.content_length = len(whole.body)
    await response.prepare(request)
    await response.write(whole.body[: len(whole.body) // 2])
    if request.transport is not None:
        request.transport.close()
    await vanish()


async def _after(seconds: float, work: Work) -> Any:
    if seconds:
        await asyncio.sleep(seconds)
    return await work()
