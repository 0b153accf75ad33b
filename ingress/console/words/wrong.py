"""What is wrong with a field, for people: the API says it for programs, in English."""

import re
from collections.abc import Callable
from typing import NamedTuple

from ...validation import DETAIL, sentence
from ..languages import N_


class _Form(NamedTuple):
    """What the API says, and the sentence for people: its parts in both by their names."""

    said: re.Pattern[str]
    text: str


# An optional field's may be null as well, which is nothing to do in a form.
_OR_NULL = " or null"
_FORMS = [
    _Form(re.compile(said), text)
    for said, text in (
        ("is missing|must be given", N_("This is needed.")),
        (r"must be text of (?P<least>\d+) to (?P<most>\d+) characters", N_("Write %(least)s to %(most)s characters.")),
        (
            r"must be text of (?P<least>\d+) to (?P<most>\d+) characters, like (?P<example>.+)",
            N_("Write %(least)s to %(most)s characters, like %(example)s"),
        ),
        (r"must be text of at most (?P<most>\d+) characters", N_("Write at most %(most)s characters.")),
        (r"must be a list of 1 to \d+ items", N_("Choose at least one.")),
        (r"must be one of .+", N_("Choose one of those offered.")),
        (
            r"must be a whole number from (?P<least>-?\d+) to (?P<most>\d+)",
            N_("Write a whole number from %(least)s to %(most)s."),
        ),
        (r"must start with https:// or http://", N_("Start it with https:// or http://")),
        (re.escape(DETAIL), N_("Leave out line breaks, and what cannot be seen.")),
    )
]


def in_words(said: str, gettext: Callable[[str], str]) -> str:
    """What the API *said* of a field, in the reader's language where it is known, and else as it is."""
    said = said.removesuffix(_OR_NULL)
    for form in _FORMS:
        if found := form.said.fullmatch(said):
            return gettext(form.text) % found.groupdict()
    return sentence(said)
