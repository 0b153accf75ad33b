"""What documents point to is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)]+)\)", document.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place), target


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(document: Path) -> None:
    """Tests and modules, by their path from the root; with `::`, the test as well."""
    if document.name in ("CHANGELOG.md", "writing-a-provider.md"):  # of former days; of the reader's own project
        return
    for path, test in re.findall(
        r"`((?:tests|ingress|providers|prove|bench|k8s)/[\w./*-]+?)(?:::(\w+))?`", document.read_text("utf-8")
    ):
        if path.endswith(".json"):  # made by a run
            continue
        found = sorted(ROOT.glob(path))
        assert found, path
        if test:
            names = {node.name for node in ast.walk(ast.parse(found[0].read_text())) if hasattr(node, "name")}
            assert test in names, f"{path}::{test}"
