"""How WAHA answers: JSON, 201 to what was posted, and errors that may repeat the request."""

from typing import Any

import msgspec
from aiohttp import web

from ..faults import ErrorCode
from .bodies import Body, Engine, waha_encode
from .errors import WahaError, scripted_error
from .server import WahaServer


class WahaAnswers:
    """The answers to one request. *body* is what it says, where it says something."""

    def __init__(self, request: web.BaseRequest, body: Any, server: WahaServer, engine: Engine) -> None:
        self._request = request
        self._body = body
        self._server = server
        self._engine = engine

    def answer(self, content: Any) -> web.Response:
        """*content* may be an answer already, as that with the bytes of a file; None makes an empty one."""
        if isinstance(content, web.Response):
            return content
        status = 201 if self._request.method == "POST" else 200
        return web.Response(status=status) if content is None else waha_response(content, status)

    def error(self, error: WahaError, headers: dict[str, str] | None = None) -> web.Response:
        request = self._request
        asked: Body = {
            "path": request.path,
            "method": request.method,
            "body": self._body,
            "query": dict(request.query),
        }
        content = error.body(request=asked, server=self._server, engine=self._engine)
        return waha_response(content, error.status, headers)

    def throttled(self, headers: dict[str, str]) -> web.Response:
        return self.error(WahaError(429, "Too Many Requests"), headers)

    def refused(self, fault: ErrorCode) -> web.Response:
        return self.error(scripted_error(fault), fault.headers)


def waha_response(body: Any, status: int, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=waha_encode(body), status=status, content_type="application/json", charset="utf-8", headers=headers
    )


async def body_of(request: web.BaseRequest) -> Any:
    """The JSON body; {} where there is none, or where nothing says that it is JSON, as a server in front reads it."""
    raw = await request.read()
    if not raw or request.content_type != "application/json":
        return {}
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError:
        raise WahaError(400, "Unexpected token in JSON") from None
