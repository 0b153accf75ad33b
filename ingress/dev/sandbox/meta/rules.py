"""The vocabulary that describes the bodies of sends: what a value must be, and what Meta says if not."""

import re
from collections.abc import Callable
from typing import Any

from .errors import GraphError

Rule = Callable[[Any, str], None]  # (value, its path) -> None, or GraphError

ROOT = "root"  # Meta's name for the whole body


def missing(path: str) -> GraphError:
    *parents, name = path.replace("]", "").replace('"', "").split("[")
    return GraphError(131008, f"Parameter {name} is mandatory" + (f" for type {parents[-1]}" if parents else ""))


def member(path: str, name: str) -> str:
    return name if path == ROOT else f'{path}["{name}"]'


def invalid(path: str, rule: str) -> GraphError:
    return GraphError(131009, f"Param {path} {rule}.")


def anything(value: Any, path: str) -> None:
    pass


def flag(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise invalid(path, "must be a boolean")


def text(limit: int) -> Rule:
    """Some characters, at most *limit*."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise invalid(path, "must be a string")
        if not value:
            raise missing(path)
        if len(value) > limit:
            raise invalid(path, f"must be at most {limit} characters long")

    return check


def choice(*values: str) -> Rule:
    def check(value: Any, path: str) -> None:
        if value not in values:
            raise invalid(path, f"must be one of {{{', '.join(values)}}}")

    return check


def number(low: float, high: float) -> Rule:
    """A number, or its text, as Meta's own samples write coordinates."""

    def check(value: Any, path: str) -> None:
        try:
            inside = not isinstance(value, bool) and low <= float(value) <= high
        except (TypeError, ValueError):
            inside = False
        if not inside:
            raise invalid(path, f"must be a number between {low:g} and {high:g}")

    return check


def array(of: Rule, least: int, most: int) -> Rule:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise invalid(path, f"must be an array of {least} to {most} elements")
        for index, item in enumerate(value):
            of(item, f"{path}[{index}]")

    return check


def struct(required: dict[str, Rule], optional: dict[str, Rule] | None = None) -> Rule:
    """An object with these keys and no others."""
    known = {**required, **(optional or {})}

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise invalid(path, "must be a JSON object")
        for name in value:
            if name not in known:
                raise GraphError(100, f'Unexpected key "{name}" on param "{path}".')
        for name in required:
            if name not in value:
                raise missing(member(path, name))
        for name, item in value.items():
            known[name](item, member(path, name))

    return check


def url(value: Any, path: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"https?://\S+", value):
        raise invalid(path, "is not a valid URI")


def media(**extra: Rule) -> Rule:
    """Exactly one of ``id`` and ``link``, and what else that kind of medium may have."""
    shape = struct({}, {"id": text(512), "link": url, **extra})

    def check(value: Any, path: str) -> None:
        shape(value, path)
        if ("id" in value) == ("link" in value):
            raise invalid(path, "must have exactly one of id and link")

    return check


def unique(of: Rule, *keys: str) -> Rule:
    """*of*, and no two elements with the same value at the end of *keys*."""

    def check(value: Any, path: str) -> None:
        of(value, path)
        seen = set()
        for item in value:
            for key in keys:
                item = item[key]
            if item in seen:
                raise invalid(path, f"must have unique {keys[-1]}s")
            seen.add(item)

    return check
