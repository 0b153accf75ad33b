"""What a webhook is answered with: bytes made once, for a provider asks all day."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from providers import Response, WhatsAppProvider

from ..web.middleware import CAREFUL
from ..web.problems import unavailable

Header = tuple[bytes, bytes]
_JSON: Header = (b"content-type", b"application/json")
_TEXT: Header = (b"content-type", b"text/plain; charset=utf-8")


class WebhookAnswer(NamedTuple):
    """What a webhook is answered with; ``head`` is its headers as they are written, each with its line's end."""

    status: int
    headers: Sequence[Header]
    body: bytes
    head: bytes


def _answer(status: int, body: bytes, *headers: Header) -> WebhookAnswer:
    everything = (*headers, (b"content-length", b"%d" % len(body)), *CAREFUL)
    return WebhookAnswer(status, everything, body, b"".join(b"%b: %b\r\n" % header for header in everything))


def _refusal(status: int, code: str, *headers: Header) -> WebhookAnswer:
    return _answer(status, b'{"status":%d,"code":"%s"}' % (status, code.encode()), _JSON, *headers)


def away() -> WebhookAnswer:
    """It cannot be stored now: the provider comes again."""
    return _refusal(503, "unavailable", (b"retry-after", unavailable("").headers["retry-after"].encode()))


@cache
def acknowledgement(provider_type: type[WhatsAppProvider]) -> WebhookAnswer:
    """The provider's own words for: it is stored."""
    answer = provider_type.acknowledgement
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    return _answer(answer.status, answer.body, *headers)


def challenge_answer(challenge: Response) -> WebhookAnswer:
    return _answer(challenge.status, challenge.body, _TEXT)


UNVERIFIED = _refusal(401, "unverified")
NOT_FOUND = _refusal(404, "not_found")
NO_METHOD = _refusal(405, "method_not_allowed")
TOO_LARGE = _refusal(413, "too_large")
ENCODED = _refusal(415, "encoded")
