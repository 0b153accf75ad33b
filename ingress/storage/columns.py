"""Columns by the names of a struct's fields: neither an argument nor a column is found by counting."""

from datetime import datetime, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import msgspec

Row = TypeVar("Row", bound=msgspec.Struct)
Big = Annotated[int, "bigint"]
Small = Annotated[int, "smallint"]
Json = Annotated[bytes, "json"]
_TYPES = {
    UUID: "uuid",
    str: "text",
    int: "integer",
    Decimal: "numeric",
    bool: "boolean",
    bytes: "bytea",
    datetime: "timestamptz",
    timedelta: "interval",
}


def names(kind: Any, of: str = "") -> str:
    """The columns that *kind* is made of, in its order, each with the prefix *of*."""
    return ", ".join(of + name for name in getattr(kind, "__struct_encode_fields__", None) or kind._fields)


def parameters(kind: type[msgspec.Struct], first: int) -> str:
    """A parameter for each field, from *first* on: what `msgspec.structs.astuple` passes."""
    return ", ".join(f"${number}" for number in range(first, first + len(kind.__struct_fields__)))


def assignments(kind: type[msgspec.Struct], first: int) -> str:
    """Each column set to its parameter."""
    return ", ".join(f"{name} = ${number}" for number, name in enumerate(kind.__struct_fields__, first))


def read(kind: type[Row], row: asyncpg.Record) -> Row:
    """The struct of a row, which may have more columns."""
    return kind(**{name: row[name] for name in kind.__struct_fields__})


def read_or_none(kind: type[Row], row: asyncpg.Record | None) -> Row | None:
    return None if row is None else read(kind, row)


def given(kind: Any, first: int = 1) -> str:
    """A table of rows: its columns are the parameters from *first* on, as `zip(*rows)` has them, then ``place``."""
    types = map(_type, get_type_hints(kind, include_extras=True).values())
    arrays = ", ".join(f"${number}::{name}[]" for number, name in enumerate(types, first))
    return f"unnest({arrays}) with ordinality as _({names(kind)}, place)"


def between(column: str, first: int, kind: str = "uuid") -> str:
    """That *column*, of that *kind*, is between the two parameters from *first* on: no partition beyond them is read.

    As selects, so that partitions are left out while the statement runs, and not as it starts. Where a row was changed
    meanwhile, PostgreSQL looks at it again, and does not know then which ones were left out as it started: 18.6 forgets
    to change the row, or breaks down with the whole server.
    """
    return f"{column} between (select ${first}::{kind}) and (select ${first + 1}::{kind})"


def _type(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        [hint] = [each for each in get_args(hint) if each is not NoneType]
    return str(hint.__metadata__[0]) if get_origin(hint) is Annotated else _TYPES[hint]
