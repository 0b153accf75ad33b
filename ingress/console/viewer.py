"""Bytes that came from outside, made readable: bounded, and without anything that hides or moves text."""

import unicodedata
from urllib.parse import parse_qsl

import msgspec

MOST_CHARACTERS = 256 * 1024
# Each level indents all that is in it: of deeper ones a small body would become a large page.
MOST_LEVELS = 32
# Characters that are not seen, or that have others be shown elsewhere: bidirectional controls among them.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def readable(body: bytes, content_type: str = "") -> str:
    """JSON with its structure, a form a field a line, anything else as it is; what cannot be seen as its number."""
    text = (
        _json(body) or (_form(body) if "form-urlencoded" in content_type else None) or body.decode("utf-8", "replace")
    )
    return "".join(map(_seen, text[:MOST_CHARACTERS]))


def _json(body: bytes) -> str | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    # A text is as deep as what stands in it looks: then it is shown as it came.
    depth = deepest = 0
    for byte in body:
        depth += (byte in b"{[") - (byte in b"}]")
        deepest = max(deepest, depth)
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() if deepest <= MOST_LEVELS else None


def _form(body: bytes) -> str:
    return "\n".join(f"{name} = {value}" for name, value in parse_qsl(body.decode("latin-1"), keep_blank_values=True))


def _seen(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _UNSEEN:
        return character
    return f"\\u{ord(character):04x}"
