"""Columns by the names of a struct's fields: neither an argument nor a column is found by counting."""

from datetime import datetime, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

Big = Annotated[int, "bigint"]
Small = Annotated[int, "smallint"]
Json = Annotated[bytes, "json"]
_TYPES = {
    UUID: "uuid",
    str: "text",
    int: "integer",
    bool: "boolean",
    bytes: "bytea",
    datetime: "timestamptz",
    timedelta: "interval",
}


def names(kind: Any, of: str = "") -> str:
    """The columns that *kind* is made of, in its order, each with the prefix *of*."""
    return ", ".join(of + name for name in getattr(kind, "__struct_encode_fields__", None) or kind._fields)


def given(kind: Any, first: int = 1) -> str:
    """A table of rows whose columns are the parameters from *first* on, as `zip(*rows)` has them; ``place`` counts from 1."""
    types = map(_type, get_type_hints(kind, include_extras=True).values())
    parameters = ", ".join(f"${number}::{name}[]" for number, name in enumerate(types, first))
    return f"unnest({parameters}) with ordinality as _({names(kind)}, place)"


def _type(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        [hint] = [each for each in get_args(hint) if each is not NoneType]
    return str(hint.__metadata__[0]) if get_origin(hint) is Annotated else _TYPES[hint]
