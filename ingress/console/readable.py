"""What machines wrote, made readable: what came from outside, and what a change of the audit trail changed."""

import unicodedata
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import msgspec

MOST_CHARACTERS = 256 * 1024
# Each level indents all that is in it: of deeper ones a small body would become a large page.
MOST_LEVELS = 32
# Characters that are not seen, or that have others be shown elsewhere: bidirectional controls among them.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def readable(body: bytes, content_type: str = "") -> str:
    """JSON with its structure, a form a field a line, anything else as it is, up to MOST_CHARACTERS.

    Nothing in it hides or moves text: what cannot be seen is shown as its number.
    """
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


# ---------------------------------------------------------------- differences


class Difference(NamedTuple):
    """A field by its path. None: there was no such field, or there is none any more."""

    path: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> Literal["added", "removed", "changed"]:
        return "added" if self.before is None else "removed" if self.after is None else "changed"


def differences(before: bytes, after: bytes) -> list[Difference]:
    """What is in only one of the two, and what is not the same; of lists the whole, as their order means something."""
    old, new = (dict(_leaves("", msgspec.json.decode(value))) for value in (before, after))
    paths = [*new, *(path for path in old if path not in new)]
    return [Difference(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path)]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(f"{path}.{name}".lstrip("."), part)
    elif value is not None:
        yield path, value if isinstance(value, str) else msgspec.json.encode(value).decode()
