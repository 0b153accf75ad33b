"""What a request of HTTP/1.1 may be: where its header ends, how its body is framed, and what is refused."""

import logging
import re
from functools import partial
from typing import cast
from urllib.parse import unquote

from httptools import HttpParserInvalidURLError, parse_url

from .bodies import SMALL_BODY_BYTES
from .problems import UNEXPECTED, Problem

logger = logging.getLogger("ingress.web.http_requests")

# The request's line and the empty one at the end included.
MAX_HEADER_BYTES = 64 * 1024
# Each costs more than its bytes do. Trailers count by themselves.
MAX_HEADERS = 128
# Of a chunked body all that is not its content: sizes, extensions, trailers.
MAX_FRAMING_BYTES = 1024 * 1024
# Where a connection is in its requests. The first is between two of them, before the first and behind the last.
BETWEEN, HEADER, BODY = range(3)
# In place of the length of a body.
CHUNKED = -1

# Each made anew: an exception that is raised twice keeps both tracebacks.
MALFORMED = partial(Problem, 400, "malformed_request", "This is no request of HTTP/1.1.")
HOST = partial(Problem, 400, "host_missing", "A request names its Host, once.")
UPGRADE = partial(Problem, 400, "upgrade_refused", "Only HTTP/1.1 is spoken here: no Upgrade, and no CONNECT.")
ENCODED = partial(Problem, 400, "transfer_encoding", "The only Transfer-Encoding is chunked, of HTTP/1.1.")
BODY_TOO_LARGE = partial(Problem, 413, "too_large", "The chunks of the body hold too much besides its content.")
HEADER_TOO_LARGE = partial(Problem, 431, "header_too_large", f"The header may have {MAX_HEADER_BYTES} bytes.")
TOO_MANY_HEADERS = partial(Problem, 431, "header_too_large", f"A request may have {MAX_HEADERS} headers.")
VERSION = partial(Problem, 505, "version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")

_EMPTY_LINES = re.compile(rb"[\r\n]+")
_EMPTY_LINE = b"\r\n\r\n"
_OF_INTEREST = frozenset((b"host", b"content-length", b"expect", b"transfer-encoding"))


class RequestBounds:
    """How far a connection is in its requests, and where the piece ends that comes next: a header, or a body."""

    __slots__ = ("_tail", "left_bytes", "part", "size_bytes")

    def __init__(self) -> None:
        self.part = BETWEEN
        self.size_bytes = 0  # of the header; or, of a chunked body, what is no content
        self.left_bytes = 0  # of the body; or CHUNKED
        self._tail = b""  # the last bytes of what was searched for an empty line in vain

    @property
    def much_is_left(self) -> bool:
        """More of the body than is worth waiting for, only to use the connection again."""
        return not 0 <= self.left_bytes <= SMALL_BODY_BYTES

    def end(self, data: bytes, at: int) -> int:
        """Where in *data* the piece ends that goes on at *at*, or all that is here of it does. Raises `Problem`."""
        if self.part == BODY and self.left_bytes != CHUNKED:
            return self._end_of_body(data, at)
        end = self._behind_empty_line(data, at)
        self.size_bytes += end - at
        if self.part == HEADER and self.size_bytes > MAX_HEADER_BYTES:
            raise HEADER_TOO_LARGE()
        return end

    def _end_of_body(self, data: bytes, at: int) -> int:
        if not self.left_bytes:
            raise MALFORMED()  # the parser waits for more of it than was declared
        end = min(len(data), at + self.left_bytes)
        self.left_bytes -= end - at
        return end

    def _behind_empty_line(self, data: bytes, at: int) -> int:
        """A chunked body ends like a header; within its content there may be other empty lines."""
        tail, self._tail = self._tail, b""
        if tail and (seam := (tail + data[at : at + 3]).find(_EMPTY_LINE)) >= 0:
            return at + seam + 4 - len(tail)
        if (found := data.find(_EMPTY_LINE, at)) >= 0:
            return found + 4
        self._tail = (tail + data[max(at, len(data) - 3) :])[-3:]
        return len(data)


def behind_empty_lines(data: bytes, at: int) -> int:
    return cast("re.Match[bytes]", _EMPTY_LINES.match(data, at)).end()


def body_of(headers: list[tuple[bytes, bytes]], version: str, *, upgrade: bool) -> tuple[int, bool]:
    """The length of the body that *headers* announce, or CHUNKED; and whether its client waits for our consent.

    Raises `Problem`.
    """
    body_bytes, expects_continue, hosts = 0, False, 0
    for name, value in headers:
        if name not in _OF_INTEREST:
            continue
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            body_bytes = int(value)  # the parser lets only digits pass, and one such header
        elif name == b"expect":
            expects_continue = value.lower() == b"100-continue"
        elif value.strip().lower() == b"chunked" and version == "1.1":
            body_bytes = CHUNKED
        else:
            raise ENCODED()
    _check_kind(version, hosts, upgrade)
    return body_bytes, expects_continue


def _check_kind(version: str, hosts: int, upgrade: bool) -> None:
    if upgrade:
        raise UPGRADE()
    if version not in ("1.1", "1.0"):
        raise VERSION()
    if hosts != 1 and (hosts or version == "1.1"):
        raise HOST()


def target_of(url: bytes) -> tuple[str, bytes, bytes]:
    """The path of *url*, also as it is written, and the query. Raises `Problem`."""
    try:
        target = parse_url(url)
        return unquote(target.path.decode("ascii")), target.path, target.query or b""
    except (HttpParserInvalidURLError, AttributeError, UnicodeError):  # no path: `*`, or a name only
        raise MALFORMED() from None


def problem_of(raised: BaseException | None) -> Problem:
    """What the parser's error means, given what was *raised* in what it called, if that was the reason."""
    if raised is None:
        return MALFORMED()
    if not isinstance(raised, Problem):
        logger.error("reading a request failed", exc_info=raised)
        return UNEXPECTED
    return raised
