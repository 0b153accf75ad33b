"""The few lines of routing that the simulators' own APIs need, with errors as JSON."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

T = TypeVar("T")
Route = Callable[..., Awaitable[Any]]  # (request, **names in the pattern) -> anything msgspec encodes


class UnknownName(Exception):
    """Nothing has that name; answered 404."""


class Routes:
    """A handler for `Listener`: ``METHOD /path/{name}`` to functions whose result becomes the JSON answer."""

    def __init__(self, routes: dict[str, Route]) -> None:
        self._routes = []
        for route, function in routes.items():
            method, pattern = route.split(" ")
            compiled = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))
            self._routes.append((route, method, compiled, function))

    def find(self, request: web.BaseRequest) -> tuple[str, Route, dict[str, str]] | None:
        """The route as it was given, its function, and the names in the path; None where there is no route."""
        for route, method, pattern, function in self._routes:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                return route, function, match.groupdict()
        return None

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        found = self.find(request)
        if found is None:
            return json_response({"error": f"no route {request.method} {request.path}"}, 404)
        _, function, names = found
        try:
            return json_response(await function(request, **names))
        except UnknownName as error:
            return json_response({"error": str(error)}, 404)
        except (msgspec.MsgspecError, ValueError) as error:
            return json_response({"error": str(error)}, 400)
        except TimeoutError as error:
            return json_response({"error": str(error)}, 408)


def json_response(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


async def decoded(request: web.BaseRequest, kind: type[T]) -> T:
    """The JSON body as *kind*. Raises `msgspec.MsgspecError`, which names the field."""
    return msgspec.json.decode(await request.read(), type=kind)
