"""Alerts: each fires and clears when it should, asks for what is counted, and has a page that says what to do."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from prometheus_client import CollectorRegistry

from ingress import metrics
from ingress.cli.main import parser
from ingress.metrics.labels import OTHER, VALUES
from ingress.settings import Settings

from ..test_documents import commands
from .manifests import DASHBOARDS, RULES, WRITTEN, dashboard, groups, prometheus_rule

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "runbooks"
CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
# Prometheus' own.
OTHERS = {"up"}
# Whose values nobody here knows: plug-ins', and those of the table of routes.
OPEN = {"provider", "route"}
ALERTS = [rule for group in groups() for rule in group["rules"] if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        assert "NEEDS_PROMETHEUS" not in os.environ, "no promtool on this machine"
        pytest.skip("no promtool on this machine")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- the rules


def test_rules_are_sound(promtool: str) -> None:
    run(promtool, "check", "rules", *RULES)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_each_alert_fires_and_clears_when_it_should(promtool: str, case: Path) -> None:
    run(promtool, "test", "rules", case)


def firing(check: dict[str, Any]) -> set[tuple[str, str]]:
    """The alerts that are to fire, with their severity."""
    assert check["expr"] == 'count by (alertname, severity) (ALERTS{alertstate="firing"})'
    labels = "".join(sample["labels"] for sample in check["exp_samples"])
    return set(re.findall(r'alertname="(\w+)", severity="(\w+)"', labels))


def test_every_alert_is_tested_to_fire_and_to_clear() -> None:
    """In the same play: it does not fire, it does, and later it does not any more."""
    fires, clears = set(), set()
    for case in CASES:
        for play in yaml.safe_load(case.read_text("utf-8"))["tests"]:
            steps = [firing(check) for check in play["promql_expr_test"]]
            for before, after in pairwise(steps):
                fires |= after - before
                clears |= before - after
    wanted = {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}
    assert wanted - fires == set()
    assert wanted - clears == set()


def counted() -> Iterator[str]:
    """The names of all series that a process, and a parent, may have."""
    registries: tuple[CollectorRegistry, ...] = (metrics.REGISTRY, metrics.OF_PARENT, metrics.OF_CANARY)
    for registry in registries:
        for family in registry.collect():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            yield from (family.name + suffix for suffix in suffixes)


def series_in(query: str) -> set[str]:
    """The names in *query*, but for those that other rules record, which have a colon."""
    return set(re.findall(r"(?<![\w:])(whatsapp_ingress_\w+|process_\w+|up)(?![\w:])", query))


def values_in(query: str) -> Iterator[tuple[str, str]]:
    """Each label of a closed set in *query*, and a value that it is compared with."""
    for label, values in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', query):
        if label in VALUES.keys() - OPEN:
            yield from ((label, value) for value in values.split("|"))


def queries(name: str) -> list[str]:
    """Those on the page of an alert."""
    return re.findall(r"```promql\n(.*?)```", (PAGES / f"{name}.md").read_text("utf-8"), re.DOTALL)


def test_what_rules_and_pages_ask_for_is_counted() -> None:
    """Series that nobody has, and values that no label may have, would be an alert that never fires."""
    asked = [rule["expr"] for group in groups() for rule in group["rules"]]
    asked += [query for name in NAMES for query in queries(name)]
    assert {name for query in asked for name in series_in(query)} - {*counted()} - OTHERS == set()
    pairs = {pair for query in asked for pair in values_in(query)}
    assert len(pairs) > 20
    assert {(label, value) for label, value in pairs if value not in VALUES[label] | {OTHER}} == set()


def test_what_is_recorded_is_asked_for_by_its_name() -> None:
    """And by no other: a record that is spelled otherwise is empty."""
    rules = [rule for group in groups() for rule in group["rules"]]
    asked = {name for rule in rules for name in re.findall(r"\w+:\w+:?\w*", re.sub(r"\[\w+:\w+\]", "", rule["expr"]))}
    recorded = {rule["record"] for rule in rules if "record" in rule}
    assert asked - recorded == set()
    assert recorded - asked == {"slo:whatsapp_ingress_left:ratio28d"}, "for people to look at"


def test_alerts_say_how_bad_it_is_and_what_to_read() -> None:
    for rule in ALERTS:
        assert rule["alert"].startswith("WhatsAppIngress")
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"


def test_the_manifest_is_what_the_rules_make() -> None:
    """With the runbooks wherever they are read there."""
    written = WRITTEN.read_text("utf-8")
    [docs] = set(re.findall(r"runbook_url: (.*)/runbooks/", written))
    assert written == prometheus_rule(docs), "make manifests"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_alerts_and_dashboards_link_to_where_the_documents_are_read(path: Path) -> None:
    docs = "https://git.example.com/elsewhere/docs"
    assert f"runbook_url: {docs}/runbooks/{NAMES[0]}.md\n" in prometheus_rule(docs)
    before, after = (json.loads(text) for text in (path.read_text("utf-8"), dashboard(path.read_text("utf-8"), docs)))
    [variable] = [each for each in after["templating"]["list"] if each["name"] == "docs"]
    assert (variable["query"], variable["current"]) == (docs, {"text": docs, "value": docs})
    without = [[each for each in board["templating"]["list"] if each["name"] != "docs"] for board in (before, after)]
    assert without[0] == without[1]
    assert before["panels"] == after["panels"]


def test_the_jobs_that_scrape_are_those_that_alerts_look_at() -> None:
    """By compose.yaml's Prometheus, and by the ServiceMonitor, which takes the Service's label."""
    compose = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text("utf-8"))
    jobs = {each["job_name"] for each in compose["scrape_configs"]}
    monitor = yaml.safe_load((ROOT / "k8s/components/monitoring/service-monitor.yaml").read_text("utf-8"))["spec"]
    jobs.add(monitor["selector"]["matchLabels"][monitor["jobLabel"]])
    looked_at = {job for rule in ALERTS for job in re.findall(r'job=~"([^"]*)"', rule["expr"])}
    assert looked_at
    assert [(job, each) for job in jobs for each in looked_at if not re.fullmatch(each, job)] == []


# ---------------------------------------------------------------- the pages


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == set(NAMES)
    index = (PAGES / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (.+?) \|", index, re.MULTILINE)
    severities = {name: {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name} for name in NAMES}
    assert {page: set(severity.split(", ")) for name, page, severity in rows if name == page} == severities


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_a_query_and_a_command(name: str) -> None:
    """Under the four headings, each with something below it."""
    page = (PAGES / f"{name}.md").read_text("utf-8")
    headings, *texts = page.split("\n## ")
    assert headings.strip() == f"# {name}"
    assert [text.partition("\n")[0] for text in texts] == SECTIONS
    assert all(text.partition("\n")[2].strip() for text in texts)
    assert queries(name)
    there = set(commands(parser()))
    typed = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    typed += re.findall(r"`(ingress [^`]+)`", page)
    found = [match.split() for line in typed for match in re.findall(r"(?:^|-- )ingress ([a-z-]+(?: [a-z-]+)?)", line)]
    assert found
    assert [words for words in found if not {words[0], " ".join(words)} & there] == []


async def test_statements_on_pages_can_be_asked(settings: Settings) -> None:
    """Of the schema as it is, by who owns it."""
    pages = "".join(path.read_text("utf-8") for path in PAGES.glob("*.md"))
    statements = [*re.findall(r'-c "((?:select|show) [^"]+)"', pages), *re.findall(r"`(select [^`]+)`", pages)]
    assert len(statements) > 20
    connection = await asyncpg.connect(settings.database_url)
    try:
        for statement in statements:
            await connection.prepare(statement.replace("PID", "1"))
    finally:
        await connection.close()


def test_queries_on_pages_parse(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"page:{name}_{number}", "expr": query}
        for name in NAMES
        for number, query in enumerate(queries(name))
    ]
    path = tmp_path / "pages.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "pages", "rules": rules}]}), "utf-8")
    run(promtool, "check", "rules", path)
