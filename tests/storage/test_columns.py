"""Columns by the names of a struct's fields."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
import pytest

from ingress.settings import Settings
from ingress.storage.columns import Big, Json, Small, given, names
from ingress.storage.connections import WORKER
from ingress.storage.database import Database


class Row(NamedTuple):
    id: UUID
    number: int
    version: Big | None
    rank: Small
    data: Json
    body: bytes | None
    at: datetime | None
    text: str


class Shown(msgspec.Struct, rename={"class_": "class"}):
    id: UUID
    class_: str | None


def test_names_follow_the_fields() -> None:
    assert names(Row, "m.") == "m.id, m.number, m.version, m.rank, m.data, m.body, m.at, m.text"
    assert names(Shown) == "id, class"


def test_a_field_of_no_known_type_is_refused() -> None:
    class Odd(NamedTuple):
        value: complex

    with pytest.raises(KeyError):
        given(Odd)


async def test_rows_arrive_as_they_are(settings: Settings) -> None:
    """Each value in the column of its field, in the order of the rows, with the types that the fields have."""
    rows = [Row(UUID(int=n), n, 1 << 40, n, b"{}", None, None, str(n)) for n in (2, 1)]
    query = f"select *, pg_typeof(version)::text as big, pg_typeof(rank)::text as small from {given(Row, 2)} where $1"
    database = await Database(settings.database_url).connect(WORKER)
    try:
        found = await database.fetch(query, True, *zip(*rows, strict=True))
    finally:
        await database.close()
    assert [(row["place"], row["id"], row["number"], row["text"]) for row in found] == [
        (1, UUID(int=2), 2, "2"),
        (2, UUID(int=1), 1, "1"),
    ]
    assert {(row["version"], row["big"], row["small"], row["body"]) for row in found} == {
        (1 << 40, "bigint", "smallint", None)
    }
