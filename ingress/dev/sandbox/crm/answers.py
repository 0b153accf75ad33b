"""How a CRM answers a delivery, as values that a test scripts per endpoint or per conversation.

answer       what the sender sees                                            received
crm_status   that HTTP status, with Retry-After and headers as given         where it is 2xx
crm_hang     no answer, ever                                                 no
crm_reset    RST                                                             no
crm_slow     the status after `seconds`                                      where it is 2xx, if still awaited
crm_flood    the status and `size_bytes` of body, as fast as they are read   where it is 2xx
"""

import asyncio
from collections import deque

import msgspec
from aiohttp import web

from ..listener import reset, vanish

CHUNK = b"x" * 65536


class CrmAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="answer", forbid_unknown_fields=True):
    """Base of all answers."""


class CrmStatus(CrmAnswer, frozen=True, kw_only=True, tag="crm_status"):
    status: int = 200
    retry_after: float | None = None  # seconds
    headers: dict[str, str] = {}
    body: str = ""


class CrmHang(CrmAnswer, frozen=True, kw_only=True, tag="crm_hang"):
    pass


class CrmReset(CrmAnswer, frozen=True, kw_only=True, tag="crm_reset"):
    pass


class CrmSlow(CrmAnswer, frozen=True, kw_only=True, tag="crm_slow"):
    seconds: float
    status: int = 200


class CrmFlood(CrmAnswer, frozen=True, kw_only=True, tag="crm_flood"):
    size_bytes: int = 200 * 1024 * 1024
    status: int = 200


AnyAnswer = CrmStatus | CrmHang | CrmReset | CrmSlow | CrmFlood
OK = CrmStatus()


class AnswerScript:
    """Answers used up one per verified delivery, and a default for when there are none."""

    def __init__(self) -> None:
        self.queue: deque[AnyAnswer] = deque()
        self.default: AnyAnswer | None = None

    def take(self) -> AnyAnswer | None:
        return self.queue.popleft() if self.queue else self.default


async def give(answer: AnyAnswer, request: web.BaseRequest) -> web.StreamResponse:
    """The response that *answer* is, once it is due. Does not return where there is none."""
    match answer:
        case CrmHang():
            await vanish()
        case CrmReset():
            reset(request.transport)
            await vanish()
        case CrmSlow(seconds=seconds, status=status):
            await asyncio.sleep(seconds)
            return web.Response(status=status)
        case CrmFlood(status=status, size_bytes=size_bytes):
            return Flood(status, size_bytes)
        case CrmStatus(status=status, retry_after=retry_after, headers=headers, body=body):
            wait = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
            return web.Response(status=status, headers={**headers, **wait}, text=body)


class Flood(web.StreamResponse):
    """A long body, written no faster than it is read and never held in memory."""

    def __init__(self, status: int, size_bytes: int) -> None:
        super().__init__(status=status, headers={"Content-Type": "text/plain"})
        self.content_length = size_bytes
        self._left = size_bytes

    async def write_eof(self, data: bytes = b"") -> None:
        while self._left > 0:
            chunk = CHUNK[: self._left]
            await self.write(chunk)
            self._left -= len(chunk)
        await super().write_eof(data)
