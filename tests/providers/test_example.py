"""examples/threesixty as its author has it: installed, found by its entry point, tested, and in the tutorial."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "threesixty"

# What the service does with a plug-in, without the service.
PROGRAM = """
import json, sys
from pathlib import Path
import msgspec
from providers import MessageData, Recipient, Registry, Response, Text, Webhook

samples = Path(sys.argv[1])
account = msgspec.json.decode((samples / "account.json").read_bytes(), type=Registry().get("threesixty"))
body = msgspec.json.encode(json.loads((samples / "in_text.json").read_bytes())["request"]["body"])
[event] = account.parse(Webhook(method="POST", url="https://gw.example.org/x", headers={}, body=body))
flow = account.send_message(
    MessageData(to=Recipient(phone="+5511987654321"), content=Text(body="Hi"), organization_id="o", correlation_id="c")
)
request = next(flow)
try:
    flow.send(Response(status=200, body=b'{"messages":[{"id":"wamid.1"}]}'))
except StopIteration as done:
    sent = done.value.provider_message_id
print(json.dumps([event.type, event.message.content.body, request.method, request.url, request.headers, sent]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's distribution, installed from a copy: building leaves files behind."""
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / EXAMPLE.name)
    target = tmp_path_factory.mktemp("installed")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python where the example is installed beside the service."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={"CONTRACT_EXAMPLES": "50", **os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=installed,
    )


def test_it_is_listed(installed: Path) -> None:
    """By the name of its entry point, with where it is from."""
    done = run(installed, "-m", "ingress", "providers")
    [line] = [line for line in done.stdout.splitlines() if line.startswith("threesixty ")]
    assert line.split()[1:] == ["registered", "threesixty:ThreeSixty", "360dialog"]
    assert (done.returncode, done.stderr) == (0, "")


def test_it_receives_and_sends(installed: Path) -> None:
    """A sample is read; a message goes to 360dialog's host, with the key in its header."""
    done = run(installed, "-c", PROGRAM, str(EXAMPLE / "tests" / "samples"))
    assert done.returncode == 0, done.stderr
    kind, body, method, url, headers, sent = json.loads(done.stdout)
    assert (kind, body) == ("message.received", "Hello, is the store open?")
    assert (method, url) == ("POST", "https://waba-v2.360dialog.io/messages")
    assert headers == {"d360-api-key": "ts-api-key", "content-type": "application/json"}
    assert sent == "wamid.1"


def test_it_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    """By its own test file, as an author runs it: apart from ours and their settings."""
    tests = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    done = run(installed, "-m", "pytest", "-q", "-p", "no:asyncio", "--rootdir", str(tmp_path), str(tests))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d{2,} passed", done.stdout, re.MULTILINE)


def test_it_is_checked_from_the_command_line(installed: Path) -> None:
    """With its samples, without its test file."""
    samples = str(EXAMPLE / "tests" / "samples")
    done = run(installed, "-m", "ingress", "providers", "check", "threesixty", "--samples", samples)
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout


def test_it_is_checked_without_its_samples(installed: Path) -> None:
    """As far as that goes, and it says how far."""
    done = run(installed, "-m", "ingress", "providers", "check", "threesixty")
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    assert done.stdout.count("skipped: needs --samples") == 9


def test_the_tutorial_shows_what_is_in_the_files() -> None:
    """Each block of code is, line by line, a piece of the file that is named above it; and all of the code is there."""
    text = (ROOT / "docs" / "writing-a-provider.md").read_text()
    blocks = re.findall(r"^`([\w./]+)`:\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```") // 2, "a block of code without the name of its file"
    shown: dict[str, list[str]] = {}
    for name, code in blocks:
        source = (EXAMPLE / name).read_text()
        assert code in source, f"{name} has not:\n{code}"
        shown.setdefault(name, []).append(code)
    for name in ("pyproject.toml", "threesixty.py", "tests/test_threesixty.py"):
        lines = {line for code in shown[name] for line in code.splitlines()}
        left = [line for line in (EXAMPLE / name).read_text().splitlines() if line not in lines]
        assert left == [], f"the tutorial leaves out of {name}"
