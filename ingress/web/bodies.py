"""What was sent: reading a body within bounds, decoding it, a query and headers; and pages of an answer."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.types import Message, Receive

from ..storage.group_commit import Overloaded
from ..validation import DETAIL, Unlogged, Wrong, listed, once, unprintable, wrong_fields
from .problems import Problem

Value = TypeVar("Value")
Page = TypeVar("Page")
# What else is wrong in a body as JSON has it, of which something is wrong: so that all is named at once.
MoreWrong: TypeAlias = Callable[[dict[str, Any]], Wrong]

MAX_BODY_BYTES = 256 * 1024
SMALL_BODY_BYTES = 64 * 1024
MAX_HELD_BYTES = 64 * 1024 * 1024
# What one organization may have of that.
MAX_SHARE_BYTES = MAX_HELD_BYTES // 4
# Of JSON in a body: each takes some ten times what it took to write.
MAX_VALUES = 10_000


_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


class RequestBody(Unlogged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a body is decoded as."""


class OrganizationBody(RequestBody, frozen=True, kw_only=True):
    """One that may name the organization, as X-Org-Id does: it is the request's, or there is nothing here (404)."""

    organization_id: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class RequestQuery(Unlogged, frozen=True):
    """What a query is decoded as."""


class Shown(Unlogged, frozen=True):
    """What is answered."""


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
    return await _in_pieces(message, receive, limit_bytes, bodies, owner)


async def _in_pieces(
    message: Message, receive: Receive, limit_bytes: int, bodies: LargeBodies, owner: Hashable
) -> bytes:
    """As `read_body`, of a body that begins with *message*."""
    chunks, size = [], 0
    try:
        while message["type"] != "http.disconnect":
            body: bytes = message.get("body", b"")
            chunks.append(body)
            size += len(body)
            bodies.grow(size, len(body), owner)
            if size > limit_bytes:
                raise TooLarge
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await receive()
        raise Disconnected
    finally:
        bodies.release(size, owner)


async def body_of(request: Request[Any], header: dict[str, str], bodies: LargeBodies, owner: Hashable) -> bytes:
    """The request's body, which must be JSON. Raises `Problem` 413 or 415.

    To be called when it is known who makes the request: nobody's body is read.
    """
    encoding = header.get("content-encoding", "identity")
    kind = header.get("content-type", "application/json").partition(";")[0].strip().lower()
    if encoding != "identity" or kind not in ("application/json", ""):
        raise Problem(415, "unsupported_media_type", "The body must be plain application/json.")
    try:
        return await read_body(request.receive, MAX_BODY_BYTES, bodies, owner)
    except TooLarge:
        raise Problem(413, "too_large", f"The body must be at most {MAX_BODY_BYTES} bytes.") from None


def decode(
    body: bytes, decoder: "msgspec.json.Decoder[Value]", more: MoreWrong | None = None, *, any_text: bool = False
) -> Value:
    """*body* as *decoder*'s type. Raises `Problem` 422, naming every field that is wrong by its path, *more* too.

    Where not *any_text*, what is kept and shown to people has no control characters; but for a configuration, which is
    looked at with all else that may be wrong with it (`Accounts.validate`).
    """
    read = _read(body, decoder, any_text)
    value, sent = read
    errors = [*_unstorable(sent), *(() if any_text else _unprintable(sent))]
    if value is None:
        errors += wrong_fields(sent, decoder.type)
    if errors or value is None:
        if more is not None and isinstance(sent, dict):
            errors += more(sent)
        raise invalid(*errors)
    return value


def _unprintable(body: object) -> Iterator[tuple[str, str]]:
    if isinstance(body, dict):
        yield from ((path, DETAIL) for path in unprintable({**body, "config_data": None}))


def _read(body: bytes, decoder: "msgspec.json.Decoder[Value]", any_text: bool) -> tuple[Value | None, Any]:
    """*body* as *decoder*'s type, None where it is not; and as JSON has it, None where it need not be looked at."""
    try:
        try:
            value = decoder.decode(body)
        except msgspec.ValidationError:
            return None, msgspec.json.decode(body)
        if any_text and len(body) <= MAX_VALUES and b"\\u0000" not in body:  # a value takes a byte or more
            return value, None
        return value, msgspec.to_builtins(value)
    except _UNREADABLE as error:
        raise Problem(422, "invalid_json", f"The body is not valid JSON: {type(error).__name__}.") from None


def invalid(*errors: tuple[str, str], what: str = "The body") -> Problem:
    found = once(errors)
    return Problem(422, "invalid_request", f"{what} is not valid: {listed(found)}.", errors=found)


def given_of(query: RequestQuery, names: Iterable[str]) -> list[str]:
    """Those of *names* that the query has."""
    return [name for name in names if getattr(query, name) is not None]


def one_only(names: Iterable[str]) -> Problem:
    return invalid(*[(name, "only one of them may be asked for") for name in names], what="The query")


def _unstorable(body: object) -> Iterator[tuple[str, str]]:
    """What no type of a body says. Raises `Problem` where there are too many values to look at."""
    left, count = [("", body)], 0
    while left:
        path, value = left.pop()
        count += 1
        if count > MAX_VALUES:
            raise invalid(("", f"must have at most {MAX_VALUES} values"))
        left += _parts(path, value)
        if isinstance(value, str) and "\0" in value:  # which PostgreSQL has no text for
            yield path, "must not hold U+0000"


def _parts(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((path, key) for key in value)
        yield from ((f"{path}.{key}".lstrip("."), item) for key, item in value.items())
    elif isinstance(value, list):
        yield from ((f"{path}[{place}]", item) for place, item in enumerate(value))


def decode_query(query_string: bytes, kind: type[Value]) -> Value:
    """A query as *kind*; of a repeated parameter the last, and an empty one is none. Raises `Problem` 422."""
    given = dict(parse_qsl(query_string.decode("latin-1")))
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError:
        raise invalid(*wrong_fields(given, kind, strict=False), what="The query") from None


# Of a query: no number that PostgreSQL has no bigint for.
Number = Annotated[int, msgspec.Meta(ge=0, le=10**18 - 1)]


class Paged(RequestQuery, frozen=True):
    """The query of a list: how many of it."""

    limit: Number = 50

    @property
    def size(self) -> int:
        return max(1, min(200, self.limit))


def page_of(
    kind: Callable[..., Page], records: Sequence[Any], size: int, cursor: str = "id", *, more: bool = False
) -> Page:
    """The first *size* of *records* as *kind*; its ``next`` is the last one's *cursor* where there are more.

    *more*: there are, although *records* are not more than *size*.
    """
    if more or len(records) > size:
        return kind(records[:size], next=getattr(records[:size][-1], cursor))
    return kind(records)


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
