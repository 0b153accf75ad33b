"""A set-up as it should be: nothing is found, but what is known."""

import re

import pytest

from ingress.doctor import outgoing
from ingress.doctor.examination import CHECKS

from .conftest import SetUp

# It calls simulators on this machine, and may.
KNOWN = {("egress.guard", "warning")}


async def test_a_healthy_set_up_has_no_finding_but_known_ones(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "hosts_of", lambda _: [])
    results = await set_up.findings()
    assert [result.name for result in results] == [check.name for check in CHECKS]
    findings = [(result.name, finding) for result in results for finding in result.findings or []]
    assert {(name, finding.severity) for name, finding in findings if finding.severity != "ok"} == KNOWN
    assert all(result.findings for result in results), "a check that says nothing"
    [signed] = [finding.found for name, finding in findings if name == "public.answers"]
    assert "a signed webhook was answered with 200, an unsigned one with 401" in signed
    [secrets] = [finding.found for name, finding in findings if name == "keys.secrets"]
    assert re.match(r"\d+ records open: \d+ made with '[0-9a-f]{8}'$", secrets)
