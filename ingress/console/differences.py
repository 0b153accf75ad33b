"""What a change of the audit trail changed: each field with what it was and what it is."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec


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
