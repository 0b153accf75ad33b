"""A Twilio webhook's form: its bytes for the signature, its text for the meaning.

Source: https://www.twilio.com/docs/usage/webhooks/webhooks-security, https://url.spec.whatwg.org/#urlencoded-parsing.
"""

from urllib.parse import unquote_to_bytes

from ..base import Webhook
from ..errors import Malformed

_FORM = "application/x-www-form-urlencoded"
# Twilio sends about fifty. Each costs time before the signature is known to be good.
_MAX_FIELDS = 1000


def is_form(hook: Webhook) -> bool:
    """Whether the body is a form. One without a content type, as of a GET, counts as one."""
    return essence(hook.headers.get("content-type", _FORM)) == _FORM


def essence(content_type: str) -> str:
    """*content_type* without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    """Decoded names and values as they came, blanks and repeats included; `Malformed` where there are too many.

    Bytes, because a signature is over bytes, and what is no UTF-8 must not be changed before it is checked.
    """
    if body.count(b"&") >= _MAX_FIELDS:
        raise Malformed("too many fields")
    split = (field.partition(b"=") for field in body.split(b"&") if field)
    return [(_decoded(name), _decoded(value)) for name, _, value in split]


def _decoded(part: bytes) -> bytes:
    return unquote_to_bytes(part.replace(b"+", b" "))
