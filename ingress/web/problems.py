"""Errors as answers (RFC 9457), and which exception becomes which."""

import logging
import math
import secrets
from collections.abc import Iterable
from typing import Generic, TypeVar

import aiohttp
import asyncpg
import msgspec
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from providers import AccountBroken, Rejected, Restricted, SendError, Throttled, Unavailable, Uncertain, Unsupported
from providers.messages import ErrorInfo

from ..storage.database import CONNECTION_ERRORS, Busy, LockLost, StoreUnavailable, is_data_error
from ..storage.group_commit import Overloaded, RowRefused

logger = logging.getLogger("ingress.web.problems")

Answer = TypeVar("Answer")


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
        body = {
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
    return Problem(404, "not_found", "Nothing was found here.")


def not_configured() -> Problem:
    return Problem(409, "provider_not_configured", "The organization has no provider: configure one first.")


class Json(Response, Generic[Answer]):
    """An answer in JSON."""


def json_response(
    value: Answer, status: int = 200, headers: dict[str, str] | None = None, media_type: str = "application/json"
) -> Json[Answer]:
    return Json(msgspec.json.encode(value), status, headers, media_type)


def unavailable(detail: str, status: int = 503, code: str = "unavailable") -> Problem:
    return Problem(status, code, detail, headers=soon())


def soon() -> dict[str, str]:
    """When to try again: jittered, so that everybody who was refused does not come back in the same moment."""
    return {"retry-after": str(1 + secrets.randbelow(5))}


def too_many(detail: str, wait_s: float) -> Problem:
    return Problem(429, "too_many_requests", detail, headers={"retry-after": str(max(1, math.ceil(wait_s)))})


# A call that is no send: it may be repeated freely, so nothing about it is uncertain.
_CALLS: dict[type[SendError], tuple[int, str, str]] = {
    Unsupported: (422, "unsupported", "The provider cannot do this."),
    Rejected: (422, "rejected", "The provider refused this for good."),
    Restricted: (422, "restricted", "The provider is restricting the account."),
    AccountBroken: (502, "account_broken", "The provider does not let the account do this until it is repaired."),
    Throttled: (503, "throttled", "The provider refuses this for now."),
    Unavailable: (502, "provider_unreachable", "The provider did not answer as it should: try again."),
    Uncertain: (502, "provider_unreachable", "The provider did not answer as it should: try again."),
}


def call_problem(error: SendError) -> Problem:
    """What a failed call to a provider, other than a send, is to whoever asked for it."""
    status, code, detail = next(_CALLS[kind] for kind in (*type(error).__mro__, Unavailable) if kind in _CALLS)
    wait_s = error.retry_after_s if status >= 500 else None
    return Problem(
        status,
        code,
        detail,
        headers={} if wait_s is None else {"retry-after": str(math.ceil(wait_s))},
        error=ErrorInfo(class_=type(error).__name__, code=error.code, detail=error.detail or None),
    )


# A store, a lock or a peer that gave no answer.
PASSING = (*CONNECTION_ERRORS, RedisError, aiohttp.ClientError)
UNEXPECTED = Problem(500, "internal", "An unexpected error occurred. It is in the log, with the request's id.")


def _unanswered(error: Exception) -> Problem:
    """One of PASSING, and nothing shows which store or peer it is about."""
    logger.warning("something that a request needs gave no answer", exc_info=error)
    return unavailable("Something that the service depends on did not answer. Try again.")


def _of_database(error: Exception) -> Problem:
    if isinstance(error, asyncpg.InterfaceError) and not is_data_error(error):
        return _unanswered(error)
    # A NUL in a text, a number beyond 64 bits: whatever the decoders let through. It may be our mistake.
    logger.warning("the database refused a value", exc_info=error)
    return Problem(422, "invalid_request", "The request holds a value that cannot be stored.")


def _of_router(error: HTTPException) -> Problem:
    if error.status_code == 404:
        return not_found()
    code = error.detail.lower().replace(" ", "_")
    return Problem(error.status_code, code, error.detail, headers=dict(error.headers or {}))


def problem_of(error: Exception) -> Problem | None:
    """The answer to a request that ended with *error*; None for an error that is not expected."""
    match error:
        case Problem():
            return error
        case LockLost():
            return unavailable(
                "The database ended the lock that this change needs. The active config stays active: try again."
            )
        case StoreUnavailable() | Overloaded():
            return unavailable("The service cannot store anything at the moment.")
        case Busy():
            return unavailable("Other changes of this provider, or of many others, are under way. Nothing was changed.")
        case SendError():
            return call_problem(error)
        case asyncpg.DataError() | asyncpg.ProgramLimitExceededError() | asyncpg.InterfaceError() | RowRefused():
            return _of_database(error)
        case _ if isinstance(error, PASSING):
            return _unanswered(error)
        case HTTPException():
            return _of_router(error)
    return None
