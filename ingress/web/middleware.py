"""What is around every handler (plain ASGI)."""

import asyncio
import logging
from time import monotonic

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import identifiers, metrics
from ..metrics.labels import OTHER
from .bodies import Disconnected
from .problems import UNEXPECTED, problem_of, unavailable

logger = logging.getLogger("ingress.web.middleware")

# Of every answer; the second not of what says itself how long it may be kept.
NO_SNIFFING, NO_STORING = (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")
CAREFUL = (NO_SNIFFING, NO_STORING)


def _response_to(error: Exception, request_id: str, *, is_begun: bool) -> Response:
    """What a request is answered that ended with *error*.

    Not in the frame that caught it: a name there for the error would keep all frames, with the body, for the collector.
    """
    answer = problem_of(error)
    if answer is None or is_begun:
        logger.exception("request %s failed", request_id)
    return (answer or UNEXPECTED).response(request_id)


class Middleware:
    """Gives each request an id, measures it, sets headers that are always right, and turns exceptions into answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic()
        request_id = identifiers.request_id()
        scope["state"]["request_id"] = request_id
        scope["app"] = self  # so that the router raises what it does not find
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    NO_SNIFFING,
                ]
                if "keeps_cache_control" not in scope:
                    message["headers"].append(NO_STORING)
            await send(message)

        response = None
        try:
            try:
                await self._app(scope, receive, send_marked)
            except Disconnected:
                return
            except asyncio.CancelledError:  # the process ends, and this took longer than it waits for
                if status:
                    raise
                response = unavailable("The service is restarting.").response(request_id)
            except Exception as error:  # noqa: BLE001  (none may cost the client its connection; logged there)
                response = _response_to(error, request_id, is_begun=bool(status))
            if response is not None and not status:
                await response(scope, receive, send_marked)
        finally:
            if status:
                route, method = scope.get("served", (OTHER, OTHER))
                labels = route, method, f"{status // 100}xx"
                metrics.observe_request(metrics.http_seconds, monotonic() - started, request_id, *labels)
