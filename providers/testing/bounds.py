"""What strangers may write without end: texts that have no length, and patterns that take ever longer."""

import re
from collections.abc import Callable, Iterator
from time import thread_time
from typing import Any, AnyStr

import msgspec
from msgspec import inspect

# Of what a pattern fails on, or nearly matches: *n* characters each.
EVIL: dict[str, Callable[[int], str]] = {
    "spaces": lambda n: " " * n,
    "spaces, then a wrong end": lambda n: " " * (n - 1) + "!",
    "digits, then a line break": lambda n: "+" + "1" * (n - 2) + "\n",
    "signs": lambda n: "+-" * (n // 2),
    "digits apart": lambda n: " 1" * (n // 2),
    "dots": lambda n: "." * n,
    "letters beyond ASCII": lambda n: "é\u2003" * (n // 2),
    "line breaks": lambda n: "\r\n" * (n // 2),
    "an address, then a wrong end": lambda n: "https://" + "a" * (n - 9) + "#",
    "a word, again and again": lambda n: "<Message" * (n // 8),
}
# The small ones first: what takes twice as long for each character would never end with the others.
SIZES = (24, 36, 2_000, 8_000, 32_000)
# Four times as much may take four times as long, and some more on a busy machine; a square takes sixteen times.
_GROWTH = 10.0
# Below this the clock says more than the pattern. It counts what this thread works, so that no neighbour matters.
_NOISE_S = 0.02
_AT_MOST_S = 0.25
_TRIES = 4
_BEYOND_NOISE = 5


def slow(pattern: "str | re.Pattern[AnyStr]") -> str | None:
    """The first of EVIL for which *pattern* takes more than its length explains; None: for none of them."""
    compiled: re.Pattern[Any] = re.compile(pattern)
    for name, make in EVIL.items():
        for method in (compiled.match, compiled.fullmatch, compiled.search):
            former_s = 0.0
            for size in SIZES:
                text: Any = make(size).encode() if isinstance(compiled.pattern, bytes) else make(size)
                allowed_s = max(_NOISE_S, min(_AT_MOST_S, _GROWTH * former_s))
                former_s = _fastest_s(method, text, allowed_s)
                if former_s > allowed_s:
                    return name
    return None


def _fastest_s(method: Callable[[Any], object], text: Any, enough_s: float) -> float:
    """The shortest of some tries; one that is short enough, or much too long, ends them."""
    best_s = float("inf")
    for _ in range(_TRIES):
        began = thread_time()
        method(text)
        best_s = min(best_s, thread_time() - began)
        if best_s <= enough_s or best_s > _BEYOND_NOISE * enough_s:
            break
    return best_s


def unbounded(kind: Any) -> list[str]:
    """The texts, lists and objects within *kind* that may be of any length, by their paths."""
    return list(_unbounded(inspect.type_info(kind), "", frozenset()))


def _unbounded(kind: inspect.Type, path: str, within: frozenset[Any]) -> Iterator[str]:
    match kind:
        case inspect.Metadata():
            yield from _unbounded(kind.type, path, within)
        case inspect.StructType() if kind.cls not in within:
            for field in kind.fields:
                yield from _unbounded(field.type, f"{path}.{field.encode_name}".lstrip("."), within | {kind.cls})
        case inspect.UnionType():
            for one in kind.types:
                yield from _unbounded(one, path, within)
        case inspect.DictType():
            yield from [path] if kind.max_length is None else []
            yield from _unbounded(kind.key_type, f"{path}{{}}", within)
            yield from _unbounded(kind.value_type, f"{path}{{}}", within)
        case inspect.CollectionType():
            yield from [path] if kind.max_length is None else []
            yield from _unbounded(kind.item_type, f"{path}[]", within)
        case inspect.StrType() | inspect.BytesType() if kind.max_length is None:
            yield path


def patterns_of(kind: Any) -> Iterator[str]:
    """Every pattern that a text within *kind* is held to."""
    for component in _schemas(msgspec.json.schema(kind)):
        if isinstance(pattern := component.get("pattern"), str):
            yield pattern


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _schemas(part)
