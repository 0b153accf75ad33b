"""The catalogues: every text of the console in every language, compiled as it stands."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

import providers
from ingress.accounts.advice import Reason
from ingress.console import languages, words
from ingress.web.auth import SCOPES
from providers.messages import STATUS_RANK

from ..test_documents import API, rows, section
from ..test_documents import words as named_in

ROOT = Path(__file__).parents[2]
OTHERS = [language.replace("-", "_") for language in languages.LANGUAGES if language != languages.DEFAULT]


def catalogue(language: str) -> Catalog:
    with (languages.FOLDER / language / "LC_MESSAGES" / "console.po").open("rb") as file:
        return read_po(file)


def texts(message: Message) -> list[str]:
    return [message.string] if isinstance(message.string, str) else list(message.string)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """What the code and the templates hold."""
    found = tmp_path_factory.mktemp("texts") / "console.pot"
    command = [sys.executable, "-m", "babel.messages.frontend", "-q", "extract", "-F", "pyproject.toml"]
    subprocess.run([*command, "-k", "N_", "-k", "NN_:1,2", "-o", found, "ingress"], cwd=ROOT, check=True, timeout=60)
    with found.open("rb") as file:
        return read_po(file)


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_is_translated(extracted: Catalog, language: str) -> None:
    """`make catalogues` takes new ones in."""
    known = catalogue(language)
    assert len(extracted) > 100
    missing = [each.id for each in extracted if each.id and (each.id not in known or not all(texts(known[each.id])))]
    assert missing == []
    assert [each.id for each in known if each.id and each.id not in extracted] == []
    assert [each.id for each in known if each.fuzzy and each.id] == []


@pytest.mark.parametrize("language", OTHERS)
def test_translations_hold_the_same_values(language: str) -> None:
    """A name that a translation lost or misspelt is a value that is not shown, or an error."""
    for message in catalogue(language):
        originals = [message.id] if isinstance(message.id, str) else list(message.id)
        wanted = set().union(*(re.findall(r"%\(\w+\)s", text) for text in originals))
        for text in texts(message):
            assert set(re.findall(r"%\(\w+\)s", text)) <= wanted, text
            assert message.pluralizable or set(re.findall(r"%\(\w+\)s", text)) == wanted, text


@pytest.mark.parametrize("language", OTHERS)
def test_what_is_compiled_is_what_is_written(language: str) -> None:
    compiled = io.BytesIO()
    write_mo(compiled, catalogue(language))
    assert compiled.getvalue() == (languages.FOLDER / language / "LC_MESSAGES" / "console.mo").read_bytes()


def test_every_permission_has_its_sentence() -> None:
    assert set(words.SCOPES) == SCOPES


# Of requests that are no HTTP, which no page answers.
NO_PAGE = {
    "header_too_large",
    "host_missing",
    "malformed_request",
    "transfer_encoding",
    "upgrade_refused",
    "version_not_supported",
    "Retry-After",
    "request_id",
}


def test_every_problem_has_its_sentence() -> None:
    """Each code that the API documents, and so each that a page can show."""
    table = rows(section(API, "## Errors"))
    codes = {code for status, named in table if status != "status" for code in named_in(named)}
    assert len(codes) > 40
    assert codes - NO_PAGE - set(words.PROBLEMS) - set(words.REFUSALS) == set()


def test_every_code_of_accounts_and_messages_has_its_words() -> None:
    assert set(get_args(Reason)) <= set(words.REASONS) & set(words.REMEDIES)
    assert set(STATUS_RANK) <= set(words.STATUSES)
    built_in = Path(providers.__file__).parent
    sources = [path.read_text("utf-8") for folder in (built_in, ROOT / "ingress") for path in folder.rglob("*.py")]
    checks = {name for text in sources for name in re.findall(r'Check\.(?:ok|failed)\(\s*"(\w+)"', text)}
    assert len(checks) > 10
    assert checks <= set(words.CHECKS)
