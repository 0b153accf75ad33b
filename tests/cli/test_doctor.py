"""`ingress doctor` as people and programs read it."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingress.cli import doctor
from ingress.cli.main import parser
from ingress.doctor import outgoing
from ingress.doctor.examination import CHECKS, CheckResult
from ingress.doctor.findings import DoctorFinding, error, ok, warning

REPOSITORY = Path(__file__).parents[2]
PASSWORD = "canary-0f6b1f0a"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs the command with these options and settings: its exit status."""

    class Ended(Exception):
        pass

    def end(status: int) -> None:
        raise Ended(status)

    def run(*options: str, **environment: str) -> int:
        with pytest.raises(Ended) as caught:
            doctor.run(environment, parser().parse_args(["doctor", *options]))
        status: int = caught.value.args[0]
        return status

    monkeypatch.setattr(doctor.os, "_exit", end)
    monkeypatch.setattr(outgoing, "hosts_of", lambda _: [])
    yield run
    logging.disable(logging.NOTSET)


def test_programs_get_every_finding(ended: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Of a set-up with nothing but wrong settings: what is documented is there, and no secret is."""
    status = ended("--json", INGRESS_PORT="x", DATABASE_URL=f"postgresql://u:{PASSWORD}@127.0.0.1:1/d", REDIS_URL="y")
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert (status, report["status"], report["format"]) == (2, "error", 1)
    assert set(report) == {"format", "release", "at", "status", "findings", "left_out", "seconds"}
    assert {tuple(finding) for finding in report["findings"]} == {("check", "severity", "found", "means", "fix")}
    checks = {finding["check"] for finding in report["findings"]} | set(report["left_out"])
    assert checks == {check.name for check in CHECKS}
    errors = [finding for finding in report["findings"] if finding["severity"] == "error"]
    assert {"settings.valid", "postgres.reachable"} <= {finding["check"] for finding in errors}
    assert all(finding["means"] and finding["fix"] for finding in errors)
    assert PASSWORD not in printed


def test_people_get_the_fix_in_a_line_of_its_own() -> None:
    long = "word " * 60
    results = [
        CheckResult("a.good", [ok("fine")]),
        CheckResult("a.bad", [warning(long.strip(), "it is slow", f"psql -c '{long.strip()}'")]),
        CheckResult("a.unknown", None),
    ]
    lines = list(doctor.lines(results))
    assert lines[0] == "ok      a.good: fine"
    assert lines[-2:] == ["", "0 errors, 1 warnings, 1 as they should be"]
    assert lines[-3].startswith("left out a.unknown")
    assert f"        fix:   psql -c '{long.strip()}'" in lines
    assert max(len(line) for line in lines if "fix:" not in line) <= doctor.WIDTH
    assert not [line for line in doctor.lines(results, quiet=True) if line.startswith("ok")]


@pytest.mark.parametrize(
    ("findings", "status"), [([ok("a")], 0), ([ok("a"), warning("b", "", "")], 1), ([error("c", "", ""), ok("a")], 2)]
)
def test_the_worst_finding_is_the_status(findings: list[DoctorFinding], status: int) -> None:
    assert doctor.status_of([CheckResult("a", findings), CheckResult("b", None)]) == status


@pytest.mark.parametrize(
    ("text", "bytes"), [("500GB", 500 * 10**9), ("1.5t", 1_500_000_000_000), ("10", 10), ("20 GiB", 20 * 10**9)]
)
def test_a_disk_is_given_as_people_say_it(text: str, bytes: int) -> None:
    assert parser().parse_args(["doctor", "--disk", text]).disk == bytes


def test_every_check_is_documented_and_every_documented_one_is_there() -> None:
    page = (REPOSITORY / "docs" / "operating.md").read_text()
    table = page.partition("### What it looks at")[2].partition("\n#")[0]
    assert re.findall(r"^\| `([a-z.]+)`", table, re.M) == [check.name for check in CHECKS]
