"""JSON as providers send it: read leniently, handed on in a form that PostgreSQL can store.

Decoding is strict first, because that is fast, and forgiving where it must be: WhatsApp cuts names and
captions in the middle of an emoji, which leaves half a surrogate pair that strict decoders refuse, and people
send U+0000, which JSON can hold and PostgreSQL cannot. Both become U+FFFD.
"""

import json
from typing import Any

import msgspec

from .errors import Malformed

MAX_DEPTH = 64
MAX_VALUES = 50_000
# Python takes a millisecond for an integer of thousands of digits, and they are nobody's.
_MANY_DIGITS = b"0" * 400
_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")

NUL = b"\\u0000"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def read(body: bytes) -> Any:
    """The value that *body* holds. `Malformed`: not JSON or UTF-8, nested too deeply, or too many values."""
    if len(body) > 2 * MAX_VALUES:
        _check_outline(body)
    try:
        value = _decode(body) if NUL not in body else _mended(body)
    except (msgspec.MsgspecError, UnicodeError):
        value = _mended(body)
    except RecursionError:
        raise Malformed("nested too deeply") from None
    # Cheap tests first: one message has a dozen brackets, and a value takes two bytes or more.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH or len(body) > 2 * MAX_VALUES:
        _check_size(value)
    return value


def object_in(body: bytes | str) -> dict[str, Any] | None:
    """The object that *body* holds; None where it holds none."""
    try:
        value = read(body.encode() if isinstance(body, str) else body)
    except (Malformed, UnicodeError):  # half a surrogate pair has no bytes
        return None
    return value if isinstance(value, dict) else None


def raw(value: Any) -> msgspec.Raw:
    """*value*, which `read` returned, written as JSON again."""
    return msgspec.Raw(_encode(value))


def canonical(value: Any) -> bytes:
    """The same bytes for the same *value*, whatever the order of its keys."""
    return msgspec.json.encode(value, order="deterministic")


def _mended(body: bytes) -> Any:
    try:
        # Decoded here, because `json.loads` would also guess at UTF-16 and UTF-32.
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # The cause is dropped: its text quotes the body.
        raise Malformed("not JSON") from None
    _check_size(value)
    return _clean(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_outline(body: bytes) -> None:
    """Refuse what would take long to decode, before that: a decoder lets no other thread run meanwhile.

    Outside of texts, each comma and each bracket stands for a value at least.
    """
    if _fault_in(body):
        # The texts are every second piece between quotation marks that no backslash belongs to.
        pieces = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        if fault := _fault_in(b"".join(pieces[::2])):
            raise Malformed(fault)


def _fault_in(outline: bytes) -> str | None:
    if max(map(outline.count, (b",", b"[", b"{"))) >= MAX_VALUES:
        return "too many values"
    return "a number is too long" if _MANY_DIGITS in outline.translate(_AS_ZERO) else None


def _check_size(value: Any) -> None:
    """Walk *value* level by level: no recursion, so no depth can hurt."""
    level, total = [value], 0
    for _ in range(MAX_DEPTH + 1):
        total += len(level)
        if total > MAX_VALUES:
            raise Malformed("too many values")
        holders = [item for item in level if isinstance(item, (dict, list))]
        level = [part for holder in holders for part in (holder.values() if isinstance(holder, dict) else holder)]
        if not level:
            return
    raise Malformed("nested too deeply")


def _clean(value: Any) -> Any:
    match value:
        case str():
            return clean_text(value)
        case list():
            return [_clean(item) for item in value]
        case dict():
            return {clean_text(key): _clean(item) for key, item in value.items()}
    return value


def clean_text(text: str) -> str:
    """*text* with half surrogate pairs and U+0000 replaced."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")
