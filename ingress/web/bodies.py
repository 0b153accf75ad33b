"""What was sent: reading a body within bounds, decoding it, a query and headers; and pages of an answer."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from .. import identifiers
from ..storage.group_commit import Overloaded
from ..validation import DETAIL, unprintable
from .problems import Problem, json_response

Value = TypeVar("Value")

MAX_BODY_BYTES = 256 * 1024
SMALL_BODY_BYTES = 64 * 1024
MAX_HELD_BYTES = 64 * 1024 * 1024
# What one organization may have of that.
MAX_SHARE_BYTES = MAX_HELD_BYTES // 4
# Of JSON in a body: each takes some ten times what it took to write.
MAX_VALUES = 10_000


class TooLarge(Exception):
    """The body is longer than its limit; the rest was not read."""


class Disconnected(Exception):
    """The client went away, or was cut off for being too slow, before its body was complete."""


class LargeBodies:
    """What this process holds of large bodies, from their receipt until they are queued or refused.

    A small one is not counted: a thousand of them are little, and must not wait for a few clients that send much.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._held_of: Counter[Hashable] = Counter()

    def grow(self, size_bytes: int, added_bytes: int, owner: Hashable) -> None:
        """Count a body that has *size_bytes* now, also where it raises `Overloaded`: all of them, or of its *owner*'s,
        are too much.
        """
        if size_bytes > SMALL_BODY_BYTES:
            counted = added_bytes if size_bytes - added_bytes > SMALL_BODY_BYTES else size_bytes
            self.held_bytes += counted
            self._held_of[owner] += counted
            if self.held_bytes > MAX_HELD_BYTES or self._held_of[owner] > MAX_SHARE_BYTES:
                raise Overloaded

    def release(self, size_bytes: int, owner: Hashable) -> None:
        if size_bytes > SMALL_BODY_BYTES:
            self.held_bytes -= size_bytes
            self._held_of[owner] -= size_bytes
            if not self._held_of[owner]:
                del self._held_of[owner]


async def read_body(receive: Receive, limit_bytes: int, bodies: LargeBodies, owner: Hashable) -> bytes:
    """The body, counted on the stream: a length that a client declares is not believed. *owner* is who sends it.

    Raises `TooLarge`, `Disconnected`, and `Overloaded` where the process receives too much at once.
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body") and len(body) <= limit_bytes:
        return body  # nearly every request: all of it in one piece
    chunks, size = [], 0
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise Disconnected
            body = message.get("body", b"")
            chunks.append(body)
            size += len(body)
            bodies.grow(size, len(body), owner)
            if size > limit_bytes:
                raise TooLarge
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await receive()
    finally:
        bodies.release(size, owner)


async def decode_body(request: Request[Any], decoder: "msgspec.json.Decoder[Value]") -> Value:
    """The request's JSON body as *decoder*'s type. Raises `Problem` 413, 415 or 422, naming the field by its path.

    To be called when it is known who asks (`auth.authorize`): nobody's body is read.
    """
    headers = headers_of(request)
    encoding = headers.get("content-encoding", "identity")
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if encoding != "identity" or kind not in ("application/json", ""):
        raise Problem(415, "unsupported_media_type", "The body must be plain application/json.")
    try:
        body = await read_body(request.receive, MAX_BODY_BYTES, request.state["bodies"], request.state["caller"])
        value = decoder.decode(body)
        if len(body) > MAX_VALUES or b"\\u0000" in body:  # a value takes a byte or more
            _check_values(value)
        return value
    except TooLarge:
        raise Problem(413, "too_large", f"The body may have {MAX_BODY_BYTES} bytes.") from None
    except msgspec.ValidationError as error:
        detail, path = path_of(error)
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[(path, detail)]) from None
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Problem(422, "invalid_json", f"The body is no JSON: {type(error).__name__}.") from None


def _check_values(body: object) -> None:
    """What no type of a body says. Raises `Problem` 422, naming the field by its path."""
    left, count = [("", msgspec.to_builtins(body))], 0
    while left:
        path, value = left.pop()
        count += 1
        if count > MAX_VALUES:
            raise Problem(422, "invalid_request", "The body is not valid.", errors=[("", "has too many values")])
        if isinstance(value, dict):
            left += [(path, key) for key in value]
            left += [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
        elif isinstance(value, list):
            left += [(f"{path}[{place}]", item) for place, item in enumerate(value)]
        elif isinstance(value, str) and "\0" in value:  # which PostgreSQL has no text for
            raise Problem(422, "invalid_request", "The body is not valid.", errors=[(path, "holds U+0000")])


async def decode_kept(request: Request[Any], decoder: "msgspec.json.Decoder[Value]") -> Value:
    """As `decode_body`, of what is kept and shown to people: also `Problem` 422 where a text has control characters.

    But for a configuration, which is looked at with all else that may be wrong with it (`Accounts.validate`).
    """
    asked = await decode_body(request, decoder)
    texts = {name: value for name, value in msgspec.to_builtins(asked).items() if name != "config_data"}
    if errors := [(path, DETAIL) for path in unprintable(texts)]:
        raise Problem(422, "invalid_request", "The body is not valid.", errors=errors)
    return asked


def path_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """(what is wrong, path of the field) out of a decoder's message; an unknown or missing one is part of the path."""
    detail, _, path = str(error).partition(" - at `")
    if path.startswith("key` in `"):
        detail, path = f"{detail} of a name", path.removeprefix("key` in `")
    path = path.rstrip("`").removeprefix("$").lstrip(".")
    if "field `" in detail:
        field = detail.rpartition("field `")[2].partition("`")[0]
        path = f"{path}.{field}".lstrip(".")
    return detail, path


def limit_of(request: Request[Any], default: int = 50, most: int = 200) -> int:
    return max(1, min(most, int_of(request, "limit", default)))


def page_response(name: str, records: Sequence[dict[str, Any]], limit: int, cursor: str = "id") -> Response:
    """The first *limit* of *records* as *name*; where there are more, the last one's *cursor* as ``next``."""
    return json_response(page_of(name, records, limit, cursor))


def page_of(
    name: str, records: Sequence[dict[str, Any]], limit: int, cursor: str = "id", *, more: bool = False
) -> dict[str, Any]:
    """What `page_response` answers. *more*: there are more although *records* are not more than *limit*."""
    page: dict[str, Any] = {name: records[:limit]}
    if more or len(records) > limit:
        page["next"] = records[:limit][-1][cursor]
    return page


def int_of(request: Request[Any], name: str, default: int) -> int:
    """A query parameter that must be a number from 0 up. Raises `Problem` 422."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Problem(422, "invalid_request", "A query parameter is not valid.", errors=[(name, "must be a number")])
    return int(text)


def id_of(request: Request[Any], name: str) -> UUID | None:
    """A query parameter that must be an id; None: not given. Raises `Problem` 422."""
    text = request.query_params.get(name)
    found = identifiers.parse_id(text) if text else None
    if text and found is None:
        raise Problem(422, "invalid_request", "A query parameter is not valid.", errors=[(name, "is no id")])
    return found


def headers_of(request: Request[Any]) -> dict[str, str]:
    """The headers of *request* by their names in lower case; of a repeated one the first.

    Made once a request: Starlette walks through all of them for each one that is asked for.
    """
    state: dict[str, Any] = request.scope["state"]
    if "headers" not in state:
        state["headers"] = text_of(reversed(request.scope["headers"]))
    headers: dict[str, str] = state["headers"]
    return headers


class _Names(dict[bytes, str]):
    """Names of headers as text, a bounded number of them: nearly all requests have the same few."""

    def __missing__(self, name: bytes) -> str:
        text = name.decode("latin-1")
        if len(self) < 256 and len(name) <= 64:
            self[name] = text
        return text


_names = _Names()


def text_of(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as text, names in lower case (as ASGI has them)."""
    return {_names[name]: value.decode("latin-1") for name, value in headers}
