"""The HTTP edge: who is asking, what was sent, and how errors are told. Plain ASGI, before any handler."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from providers.signing import same_secret

from . import metrics
from .database import Database, StoreUnavailable
from .group_commit import Overloaded, RowRefused
from .identifiers import parse_id
from .storage import organizations
from .vault import Vault, split_api_key

logger = logging.getLogger("ingress.edge")

Value = TypeVar("Value")

SCOPES = frozenset({"send", "read", "configure", "admin"})
MAX_BODY_BYTES = 256 * 1024
KEY_CACHE_S = 5.0
MAX_CACHED_KEYS = 10_000
PLATFORM = "platform"


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


# ------------------------------------------------------------------ who is asking


class Principal(msgspec.Struct, frozen=True):
    """Who makes a request: a key of an organization, or the platform (then *organization_id* may be None)."""

    name: str
    organization_id: UUID | None
    scopes: frozenset[str]

    @property
    def is_platform(self) -> bool:
        return self.name == PLATFORM


class Authenticator:
    """Knows keys for a few seconds, so that a revoked one stops working within them."""

    def __init__(self, database: Database, vault: Vault, platform_key: str) -> None:
        self._database = database
        self._vault = vault
        self._platform_key = platform_key
        self._known: dict[bytes, tuple[float, Principal]] = {}

    async def principal(self, authorization: str | None, organization: str | None) -> Principal:
        """Whose key this is, in the organization named by X-Org-Id. Raises `Problem` 401 or 404."""
        if authorization is None or not authorization.startswith("Bearer "):
            raise self._refused("missing_key")
        principal = await self._of_key(authorization[7:].strip())
        if organization is None:
            return principal
        organization_id = parse_id(organization)
        if organization_id is None:
            raise not_found()
        if principal.is_platform:
            async with self._database.worker() as connection:
                if not await organizations.exists(connection, organization_id):
                    raise not_found()
            return Principal(PLATFORM, organization_id, SCOPES)
        if principal.organization_id != organization_id:
            raise not_found()
        return principal

    async def _of_key(self, key: str) -> Principal:
        if same_secret(key, self._platform_key):
            return Principal(PLATFORM, None, SCOPES)
        parts = split_api_key(key)
        if parts is None:
            raise self._refused("malformed_key")
        key_id, secret = parts
        digest = self._vault.key_hash(secret)
        known = self._known.get(digest)
        if known and known[0] > monotonic():
            return known[1]
        async with self._database.worker() as connection:
            row = await organizations.key(connection, key_id)
            if row is None or not self._vault.is_key_hash(row["secret_hash"], secret):
                self._known.pop(digest, None)
                raise self._refused("unknown_key")
            if row["secret_hash"] != digest:  # made with a key that is to be let go
                await organizations.rehash_key(connection, row["organization_id"], key_id, digest)
        principal = Principal(key_id, row["organization_id"], frozenset(row["scopes"]))
        if len(self._known) >= MAX_CACHED_KEYS:
            self._known.clear()
        self._known[digest] = (monotonic() + KEY_CACHE_S, principal)
        return principal

    def _refused(self, reason: str) -> Problem:
        metrics.auth_failures.labels(reason).inc()
        return Problem(
            401, "unauthorized", "A valid API key is needed.", headers={"www-authenticate": 'Bearer realm="ingress"'}
        )


async def authorize(request: Request[Any], scope: str) -> Principal:
    """The principal of *request*, who has *scope*. Raises `Problem` 401, 403 or 404."""
    authenticator: Authenticator = request.state["authenticator"]
    principal = await authenticator.principal(request.headers.get("authorization"), request.headers.get("x-org-id"))
    if scope not in principal.scopes:
        raise Problem(403, "forbidden", f"This key lacks the scope {scope!r}.")
    return principal


async def organization_of(request: Request[Any], scope: str) -> tuple[UUID, Principal]:
    """The organization *request* acts for, and who asks. Raises `Problem`."""
    principal = await authorize(request, scope)
    if principal.organization_id is None:
        raise Problem(400, "organization_missing", "The platform key needs the header X-Org-Id.")
    return principal.organization_id, principal


def client_address(request: Request[Any]) -> str | None:
    return request.client.host if request.client else None


# ------------------------------------------------------------------ what was sent


class TooLarge(Exception):
    """The body is longer than its limit; the rest was not read."""


class Disconnected(Exception):
    """The client went away, or was cut off for being too slow, before its body was complete."""


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """The body, counted on the stream: a length that a client declares is not believed."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body") and len(body) <= limit_bytes:
        return body  # nearly every request: all of it in one piece
    chunks, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        body = message.get("body", b"")
        chunks.append(body)
        size += len(body)
        if size > limit_bytes:
            raise TooLarge
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


async def decode_body(request: Request[Any], decoder: "msgspec.json.Decoder[Value]") -> Value:
    """The request's JSON body as *decoder*'s type. Raises `Problem` 413, 415 or 422, naming the field by its path."""
    encoding = request.headers.get("content-encoding", "identity")
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if encoding != "identity" or kind not in ("application/json", ""):
        raise Problem(415, "unsupported_media_type", "The body must be plain application/json.")
    try:
        return decoder.decode(await read_body(request.receive, MAX_BODY_BYTES))
    except TooLarge:
        raise Problem(413, "too_large", f"The body may have {MAX_BODY_BYTES} bytes.") from None
    except msgspec.ValidationError as error:
        detail, path = path_of(error)
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[(path, detail)]) from None
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Problem(422, "invalid_json", f"The body is no JSON: {type(error).__name__}.") from None


def path_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """(what is wrong, path of the field) out of a decoder's message; an unknown or missing one is part of the path."""
    detail, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if "field `" in detail:
        field = detail.rpartition("field `")[2].partition("`")[0]
        path = f"{path}.{field}".lstrip(".")
    return detail, path


def limit_of(request: Request[Any], default: int = 50, most: int = 200) -> int:
    return max(1, min(most, int_of(request, "limit", default)))


def int_of(request: Request[Any], name: str, default: int) -> int:
    """A query parameter that must be a number from 0 up. Raises `Problem` 422."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Problem(422, "invalid_request", "A query parameter is not valid.", errors=[(name, "must be a number")])
    return int(text)


# ------------------------------------------------------------------ around every handler


def text_of(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as text, names in lower case (as ASGI has them)."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


class Edge:
    """Gives each request an id, measures it, sets headers that are always right, and turns exceptions into answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic()
        request_id = f"req_{secrets.token_hex(8)}"
        scope["state"]["request_id"] = request_id
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Disconnected:
            return
        except Exception:
            # Answered already, by `_unexpected`; raised further it would cost the client its connection.
            logger.exception("request %s failed", request_id)
            if not status:
                raise
        finally:
            if status:
                route = getattr(scope.get("route"), "path", "other")
                metrics.http_seconds.labels(route, scope["method"], f"{status // 100}xx").observe(monotonic() - started)


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
    RowRefused: _unstorable,
    HTTPException: _http,
    Exception: _unexpected,
}
