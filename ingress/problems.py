"""How errors are told: RFC 9457, one handler a kind of exception."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import asyncpg
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .database import StoreUnavailable
from .group_commit import Overloaded, RowRefused

logger = logging.getLogger("ingress.problems")


class Problem(Exception):
    """An answer as `application/problem+json` (RFC 9457). ``code`` is stable, ``errors`` are (path, detail) pairs."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Iterable[tuple[str, str]] = (),
        headers: dict[str, str] | None = None,
        **extra: object,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers or {}
        self.extra = extra

    def response(self, request_id: str) -> Response:
        body: dict[str, Any] = {
            "type": f"urn:whatsapp-ingress:problem:{self.code}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [{"path": path, "detail": detail} for path, detail in self.errors]
        body |= self.extra
        # A 404 says the same whatever is missing, to whomever asks: no id of its own.
        if self.status != 404:
            body["request_id"] = request_id
        return json_response(body, self.status, self.headers, "application/problem+json")


def not_found() -> Problem:
    return Problem(404, "not_found", "There is nothing here.")


def json_response(
    value: object, status: int = 200, headers: dict[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type)


def unavailable(detail: str) -> Problem:
    # Jittered, so that everybody who was refused does not come back in the same moment.
    return Problem(503, "unavailable", detail, headers={"retry-after": str(1 + secrets.randbelow(5))})


Handler = Callable[[Request[Any], Exception], Awaitable[Response]]


async def _problem(request: Request[Any], error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(request.state["request_id"])


async def _store_away(request: Request[Any], error: Exception) -> Response:
    return unavailable("The service cannot store anything at the moment.").response(request.state["request_id"])


async def _unstorable(request: Request[Any], error: Exception) -> Response:
    # A NUL in a text, a number beyond 64 bits: whatever the decoders let through. Logged, for it may be our mistake.
    logger.warning("the database refused a value", exc_info=error)
    detail = "The request holds a value that cannot be stored."
    return Problem(422, "invalid_request", detail).response(request.state["request_id"])


async def _http(request: Request[Any], error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return not_found().response("")
    problem = Problem(
        error.status_code, error.detail.lower().replace(" ", "_"), error.detail, headers=dict(error.headers or {})
    )
    return problem.response(request.state["request_id"])


async def _unexpected(request: Request[Any], error: Exception) -> Response:
    return Problem(500, "internal", "Something went wrong here.").response(request.state["request_id"])


EXCEPTION_HANDLERS: dict[Any, Handler] = {
    Problem: _problem,
    StoreUnavailable: _store_away,
    Overloaded: _store_away,
    asyncpg.DataError: _unstorable,
    asyncpg.ProgramLimitExceededError: _unstorable,
    asyncpg.InterfaceError: _unstorable,  # of these, `store_errors` lets through what asyncpg cannot write
    RowRefused: _unstorable,
    HTTPException: _http,
    Exception: _unexpected,
}
