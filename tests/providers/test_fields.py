"""Fields of configurations, as forms and schemas have them."""

from typing import Annotated, Literal

import msgspec
import pytest

from providers import ConfigField, Registry, RegistryEntry, config_fields
from providers._fields import E164, NOT_EMPTY, Secret, about, secret
from providers.meta_business import MetaBusiness

LINK = "https://provider.example/keys"


class Described(MetaBusiness, frozen=True, kw_only=True):
    key: Annotated[Secret, NOT_EMPTY, secret("Key", "Of the account.", "K…", link=LINK, signs=True, app=True)]
    number: Annotated[E164 | None, about("Number", None, "+15550001111")] = None
    rate: Annotated[int | None, about("Rate")] = 7
    proof: Annotated[bool, about("Proof")] = True
    region: Annotated[Literal["eu", "us"] | None, about("Region")] = "us"


FIELDS = {field.name: field for field in config_fields(Described)}


def test_a_form_gets_all_that_is_written_about_a_field() -> None:
    """Also of a text within a union with None, where msgspec has the pattern."""
    assert FIELDS["key"] == ConfigField(
        name="key", title="Key", help="Of the account.", placeholder="K…", link=LINK, secret=True, signs=True, app=True,
        pattern=r"^\S+(?!\s)$", max_length=512,
    )  # fmt: skip
    number = FIELDS["number"]
    assert (number.title, number.placeholder, number.required, number.secret) == (
        "Number",
        "+15550001111",
        False,
        False,
    )
    assert number.max_length == 16


def test_a_form_gets_the_type_the_choices_and_what_it_is_if_nothing_is_given() -> None:
    types = {name: (field.type, field.choices, field.default) for name, field in FIELDS.items()}
    assert types["key"] == ("string", (), None)
    assert types["rate"] == ("integer", (), 7)
    assert types["proof"] == ("boolean", (), True)
    assert types["region"] == ("string", ("eu", "us"), "us")


@pytest.mark.parametrize("entry", Registry().entries(), ids=lambda entry: entry.name)
def test_what_only_the_provider_knows_has_a_link_to_where_it_is_found(entry: RegistryEntry) -> None:
    """People type credentials in that they have to fetch somewhere."""
    required = [field for field in config_fields(Registry().get(entry.name)) if field.required and field.secret]
    assert [field.name for field in required if field.link is None and not field.own] == []


def test_the_schema_has_the_same() -> None:
    schema = msgspec.json.schema(Described)["$defs"]["Described"]["properties"]
    pattern = r"^\S+(?!\s)$"
    assert schema["key"] == {
        "title": "Key", "description": "Of the account.", "type": "string", "minLength": 1, "maxLength": 512,
        "pattern": pattern,
    }  # fmt: skip
    assert schema["number"]["anyOf"][0]["maxLength"] == 16


@pytest.mark.parametrize("value", ["", "a b", "a\n", "x" * 513])
def test_a_secret_is_one_word(value: str) -> None:
    """A line break at its end would stand in a header."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, Annotated[Secret, NOT_EMPTY])
