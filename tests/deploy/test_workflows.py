"""Workflows of continuous integration and of releases, and the list of what a release is made of."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from .test_image import BEFORE, FINAL, PROJECT, locked, of

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name(name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_they_are_workflows_and_nothing_is_found_in_them() -> None:
    """By GitHub's schema, and by zizmor: images by digest, permissions, injection, credentials that stay behind."""
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]
    done = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    assert done.returncode == 0, done.stdout
    done = tool("zizmor", "--offline", "--no-progress", "--quiet", ROOT / ".github")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_named_by_commit_and_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", each)] == []


def test_the_suite_runs_on_the_oldest_python_and_on_that_of_the_image() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    pythons = {each["python"]: each["image"] for each in jobs["suite"]["strategy"]["matrix"]["include"]}
    assert f">={min(pythons, key=lambda version: int(version[2:]))}" == PROJECT["requires-python"]
    [base] = of(BEFORE, "ARG")
    assert f"BASE={pythons['3.14']}" == base.arguments
    assert ".ci/run" in [step.get("run") for step in jobs["suite"]["steps"]]


def test_a_release_builds_signs_and_says_what_is_in_it() -> None:
    [job] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"].values()
    [build] = [step["with"] for step in job["steps"] if "build-push" in step.get("uses", "")]
    given = {name for step in of(FINAL, "ARG") for name in step.values}
    assert {line.split("=")[0] for line in build["build-args"].splitlines()} == given
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    assert all(each in commands for each in ("make sbom", "cosign sign --yes", "cosign attest --yes"))


def test_the_list_of_what_it_is_made_of_is_the_lock(tmp_path: Path) -> None:
    """With a hash for each."""
    done = subprocess.run(
        ["make", "--no-print-directory", "sbom", f"SBOM={tmp_path}/sbom.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "sbom.json").read_text())
    about = bill["metadata"]["component"]
    assert (bill["bomFormat"], about["name"], about["version"]) == ("CycloneDX", PROJECT["name"], PROJECT["version"])
    listed = {canonicalize_name(each["name"]): each for each in bill["components"]}
    assert {name: listed[name]["version"] for name in locked()} == locked()
    assert all(each["externalReferences"][0]["hashes"] for each in listed.values())
