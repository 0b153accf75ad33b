"""The unit for a machine without containers, as systemd itself reads it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ingress.cli.main import parser
from ingress.processes.parent import ENDS_WITHIN_S

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "whatsapp-ingress.service"
INSTALLED = "/opt/ingress/bin/ingress"
# Of systemd's measure from 0 to 100: 12 by the version of Debian 12. What has no sandbox has 96.
EXPOSURE = "15"


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None and not os.environ.get("NEEDS_SYSTEMD"):
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    return str(found)


def values(name: str) -> list[str]:
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


def test_systemd_reads_it(analyze: str, tmp_path: Path) -> None:
    """Without a word; the command is looked for where the tests have it."""
    text = UNIT.read_text().replace(INSTALLED, str(Path(sys.executable).with_name("ingress")))
    (tmp_path / UNIT.name).write_text(text)
    command = [analyze, "verify", "--man=no", tmp_path / UNIT.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_it_may_is_little(analyze: str) -> None:
    command = [analyze, "security", "--offline=true", f"--threshold={EXPOSURE}", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-300:]


def test_it_serves_and_is_given_time_to_drain() -> None:
    [command] = values("ExecStart")
    program, *arguments = command.split()
    assert program == INSTALLED
    assert parser().parse_args(arguments).command == "serve"
    assert int(values("TimeoutStopSec")[0]) > ENDS_WITHIN_S
    assert values("KillMode") == ["mixed"]


def test_the_document_installs_it_where_it_looks() -> None:
    text = (ROOT / "docs" / "deploying.md").read_text()
    assert "/opt/ingress" in text
    assert values("EnvironmentFile")[0] in text
    assert str(UNIT.relative_to(ROOT)) in text
