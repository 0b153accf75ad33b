"""The languages of the console: gettext catalogues, chosen by the person, or else by their browser."""

import gettext
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "locale"
DOMAIN = "console"
# By the tags that browsers send; what is written in the code is English.
LANGUAGES = {"en": "English", "pt-BR": "Português (Brasil)", "es": "Español"}
DEFAULT = "en"


def N_(text: str) -> str:
    """Marks *text*, which is translated where it is shown."""
    return text


def NN_(one: str, many: str) -> tuple[str, str]:
    """As `N_`, of what is counted."""
    return one, many


@cache
def catalogue(language: str) -> gettext.NullTranslations:
    """The texts in that language, one of LANGUAGES."""
    if language == DEFAULT:
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, FOLDER, [language.replace("-", "_")])


def best_language(chosen: str | None, accept_language: str) -> str:
    """The one that was *chosen*, or the first of a browser's that there is; English where there is none."""
    if chosen in LANGUAGES:
        return chosen
    wanted = [_weighed(part) for part in accept_language.split(",")[:20]]
    for _, tag in sorted(wanted, key=lambda each: -each[0]):
        for language in LANGUAGES:
            if tag and tag.split("-")[0] == language.split("-")[0]:
                return language
    return DEFAULT


def _weighed(part: str) -> tuple[float, str]:
    tag, _, parameter = part.strip().lower().partition(";")
    try:
        return float(parameter.strip().removeprefix("q=") or 1), tag.strip()
    except ValueError:
        return 0.0, ""
