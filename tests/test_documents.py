"""What documents point to is there."""

import argparse
import ast
import importlib
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from ingress import metrics
from ingress.api.routes import ROUTES
from ingress.cli.main import parser
from ingress.cli.reference import reference
from ingress.settings import CLIENT_NAMES, Settings, variable
from ingress.web.openapi import walk
from providers import messages

from .test_layout import EVERY_ORGANIZATION

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
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


def test_the_walks_name_what_is_there() -> None:
    """`file`: `Class.method`, as the map of the code writes them."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    found = re.findall(r"`(ingress/[\w/]+)\.py`: ((?:`[\w.]+`(?:, )?)+)", text)
    assert len(found) > 15
    for path, names in found:
        module = importlib.import_module(path.replace("/", "."))
        for name in re.findall(r"`([\w.]+)`", names):
            assert reduce(getattr, name.split("."), module)


# ---------------------------------------------------------------- what is written down is what the code has, both ways

REGISTRIES = (metrics.REGISTRY, metrics.OF_PARENT, metrics.OF_CANARY)
API = (ROOT / "docs" / "api.md").read_text("utf-8")
METRICS = (ROOT / "docs" / "metrics.md").read_text("utf-8")


def section(document: str, heading: str) -> str:
    """What stands under *heading*, down to the next heading of any level."""
    return document.partition(f"{heading}\n")[2].partition("\n#")[0]


def rows(table: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in *table*, but for their headings."""
    for line in table.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def words(text: str) -> set[str]:
    """What stands between backticks and is one word."""
    return set(re.findall(r"`([a-z_A-Z0-9-]+)`", text))


def test_every_route_is_documented_and_every_documented_route_is_there() -> None:
    served = {(method, path) for path, method, *_ in walk(ROUTES)}
    served |= {("GET", "/webhooks/{provider}/{token}"), ("POST", "/webhooks/{provider}/{token}"), ("GET", "/metrics")}
    written = set()
    for methods, path in re.findall(r"`((?:(?:GET|POST|PUT|PATCH|DELETE)(?:, )?)+) (/[^`?\s]*)", API):
        written |= {(method, path) for method in methods.split(", ")}
    assert served - written == set(), "served, and not documented"
    assert written - served == set(), "documented, and not served"


def problem_codes() -> set[str]:
    """The codes of every `Problem`, of exceptions that become one, and of refusals before there is a request."""
    found = set()
    for path in (ROOT / "ingress").rglob("*.py"):
        if "dev" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Problem", "_refusal", "call_problem"):
                found |= {a.value for a in node.args[1:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def test_every_problem_code_is_documented() -> None:
    assert len(problem_codes()) > 20
    assert problem_codes() - words(section(API, "## Errors")) == set()


def test_every_documented_problem_code_is_used() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "ingress").rglob("*.py"))
    codes = {code for status, codes in rows(section(API, "## Errors")) if status != "status" for code in words(codes)}
    assert len(codes) > 40
    assert [code for code in codes if f'"{code}"' not in sources] == []


def metric_rows() -> list[list[str]]:
    """Each metric of the service with its labels and what it counts, as docs/metrics.md has them."""
    found = []
    for collector in [name for registry in REGISTRIES for name in registry._collector_to_names]:
        if isinstance(collector, MetricWrapperBase):
            name, labels, text = collector._name, collector._labelnames, collector._documentation
            kind = collector._type
        else:  # of the process and of Python
            continue
        name += "_total" if kind == "counter" else ""
        found.append([f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text])
    return sorted(found)


def test_every_metric_is_documented_and_every_documented_metric_is_there() -> None:
    wanted = ["| " + " | ".join(row).replace("|  |", "| |") + " |" for row in metric_rows()]
    assert [line for line in METRICS.splitlines() if line.startswith("| `whatsapp_ingress_")] == wanted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_metrics_that_are_mentioned_are_there(document: Path) -> None:
    if document.name == "CHANGELOG.md":  # of former days
        return
    names = {row[0].strip("`") for row in metric_rows()}
    assert set(re.findall(r"`(whatsapp_ingress_\w+)", document.read_text("utf-8"))) - names == set()


def test_every_content_type_is_documented_and_every_documented_one_is_there() -> None:
    kinds = {kind.__struct_config__.tag for kind in subclasses(messages.Value) if kind.__struct_config__.tag}
    text = section(API, "### Content types")
    fields = {"body", "preview_url", "voice", "filename", "url", "id", "caption", "message_id", "emoji", "name"}
    fields |= {"language", "components", "rendered", "header", "footer", "action", "type"}
    assert words(text) - fields == kinds


def subclasses(kind: type) -> Iterator[type]:
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


def test_the_reference_of_settings_is_what_is_written_beside_them() -> None:
    """`make reference` writes it."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert text == reference()
    written = {cells[0].strip("`") for cells in rows(text)} - {"variable"}
    assert written == {variable(field) for field in Settings.__struct_fields__} | CLIENT_NAMES.keys()


def test_every_command_is_documented_and_every_documented_one_is_there() -> None:
    there = set(commands(parser()))
    assert {"serve", "switch", "key create"} <= there
    everything = "".join(document.read_text("utf-8") for document in DOCUMENTS if document.name != "CHANGELOG.md")
    assert [command for command in there if not re.search(rf"ingress {command}\b", everything)] == []
    written = set(re.findall(r"(?:`|^ {4}|&& |\n    )ingress ((?:[a-z-]+ ?)+)", everything, re.MULTILINE))
    first = {command.split()[0] for command in there}
    assert {command.split()[0] for command in written} - first == set()


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """Every command below *parser*, as it is typed after `ingress`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield f"{before}{name}"
                yield from commands(below, f"{before}{name} ")


def test_every_statement_that_would_ask_all_shards_is_listed() -> None:
    table = section((ROOT / "docs" / "capacity.md").read_text("utf-8"), "### Statements of every organization")
    named = re.findall(r"`([a-z_]+(?:\.[A-Z_]+)?)`", table)
    assert sorted(named) == sorted(EVERY_ORGANIZATION)


def test_every_item_of_the_asvs_names_the_tests_that_show_it() -> None:
    """That those are there is above: `test_files_that_are_named_are_there`."""
    text = (ROOT / "docs" / "asvs.md").read_text("utf-8")
    table = [cells for cells in rows(section(text, "# ASVS 5.0, level 2")) if cells[0] != "item"]
    assert len(table) > 60
    assert [cells[0] for cells in table if not re.search(r"`tests/[\w/]+\.py::test_\w+`", cells[-1])] == []
