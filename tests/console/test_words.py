"""What is wrong with a field, in the language of whoever reads it."""

from typing import Any

import msgspec
import pytest

from ingress.api.organizations import NewKey
from ingress.console.languages import LANGUAGES, catalogue
from ingress.console.words.wrong import in_words
from ingress.validation import DETAIL, Name, wrong_fields


class Filled(msgspec.Struct, frozen=True):
    """Types that the console's forms have."""

    name: Name
    note: Name | None = None
    count: int | None = None


@pytest.mark.parametrize(
    ("value", "kind", "english"),
    [
        ({}, Filled, "This is needed."),
        ({"name": ""}, Filled, "Write 1 to 200 characters."),
        ({"name": "x", "note": ""}, Filled, "Write 1 to 200 characters."),
        ({"name": "x", "scopes": []}, NewKey, "Choose at least one."),
        ({"name": "x", "scopes": ["root"]}, NewKey, "Choose one of those offered."),
    ],
)
def test_what_is_wrong_is_said_to_people(value: dict[str, Any], kind: Any, english: str) -> None:
    [(_, said)] = wrong_fields(value, kind)
    assert in_words(said, catalogue("en").gettext) == english
    assert len({in_words(said, catalogue(language).gettext) for language in LANGUAGES}) == len(LANGUAGES)


def test_what_cannot_be_seen_is_said_too() -> None:
    assert in_words(DETAIL, catalogue("es").gettext).startswith("Quite ")


def test_what_is_not_known_is_said_as_it_came() -> None:
    """A provider's own rules: as a sentence, without what only a program could do."""
    assert in_words("must be a number or null", catalogue("es").gettext) == "Must be a number."
