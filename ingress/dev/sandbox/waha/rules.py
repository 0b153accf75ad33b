"""The vocabulary that describes bodies to WAHA: all that is wrong with a value, as its validator words it.

Stricter than WAHA, which lets pass what it does not know: here a misspelt key is refused, and so is a number as text.
"""

import base64
import re
from collections.abc import Callable
from typing import Any

from .errors import WahaError

Rule = Callable[[Any, str], list[str]]  # (value, its path) -> what is wrong


def check(rule: Rule, value: Any) -> None:
    """Raise `WahaError` with all that is wrong with *value*."""
    if wrong := rule(value, ""):
        raise WahaError(400, wrong)


def anything(value: Any, path: str) -> list[str]:
    return []


def string(value: Any, path: str) -> list[str]:
    return [] if isinstance(value, str) else [f"{path} must be a string"]


def filled(value: Any, path: str) -> list[str]:
    return string(value, path) or ([] if value else [f"{path} should not be empty"])


def flag(value: Any, path: str) -> list[str]:
    return [] if isinstance(value, bool) else [f"{path} must be a boolean value"]


def matching(pattern: str, words: str) -> Rule:
    compiled = re.compile(pattern)

    def rule(value: Any, path: str) -> list[str]:
        return string(value, path) or ([] if compiled.fullmatch(value) else [f"{path} must be {words}"])

    return rule


def number(low: float, high: float) -> Rule:
    def rule(value: Any, path: str) -> list[str]:
        inside = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return [] if inside else [f"{path} must be a number between {low:g} and {high:g}"]

    return rule


def choice(*values: str) -> Rule:
    def rule(value: Any, path: str) -> list[str]:
        known = isinstance(value, str) and value in values
        return [] if known else [f"{path} must be one of the following values: {', '.join(values)}"]

    return rule


def array(of: Rule, least: int = 0, most: int = 1000) -> Rule:
    def rule(value: Any, path: str) -> list[str]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            return [f"{path} must be an array of {least} to {most} elements"]
        return [wrong for index, item in enumerate(value) for wrong in of(item, f"{path}.{index}")]

    return rule


def texts(value: Any, path: str) -> list[str]:
    """An object of texts only."""
    if not isinstance(value, dict):
        return [f"{path} must be an object"]
    return [wrong for name, item in value.items() for wrong in string(item, f"{path}.{name}")]


def struct(required: dict[str, Rule], optional: dict[str, Rule] | None = None) -> Rule:
    """An object with these keys and no others; an optional one may be null."""
    known = {**required, **(optional or {})}

    def rule(value: Any, path: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{path or 'body'} must be an object"]
        wrong = [f"property {_below(path, name)} should not exist" for name in value if name not in known]
        for name, inner in known.items():
            item = value.get(name)
            if item is not None or name in required:
                wrong += inner(item, _below(path, name))
        return wrong

    return rule


def one_of(shape: Rule, *names: str) -> Rule:
    """*shape*, and exactly one of *names*."""

    def rule(value: Any, path: str) -> list[str]:
        wrong = shape(value, path)
        if not wrong and sum(value.get(name) is not None for name in names) != 1:
            return [f"{path} must have exactly one of {', '.join(names)}"]
        return wrong

    return rule


def content(value: Any, path: str) -> list[str]:
    """Bytes as base64."""
    try:
        base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        return [f"{path} must be base64 encoded"]
    return []


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
