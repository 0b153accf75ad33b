"""The Dockerfile's own steps, taken by hand in a folder, and what comes out of them.

There is no Docker here: `COPY` and `RUN` are done as they are written, with `/` being that folder. Two steps are not:
the one that downloads what the lock names takes it from where the tests run, in the same versions; and pip is not taken
off the Python that runs the tests.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from fnmatch import fnmatch
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ingress.settings import Settings

from ..gateway import Process, unused_port

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOWNLOAD = "python -m pip install --only-binary :all: --require-hashes --requirement requirements-serve.lock"
WITHOUT_PIP = "python -m pip uninstall --yes --root-user-action ignore pip"


class Step(NamedTuple):
    instruction: str
    arguments: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.arguments)

    @property
    def values(self) -> dict[str, str]:
        """Of `NAME=value` words: ARG, ENV, LABEL."""
        return dict(word.split("=", 1) for word in self.words)


def stages() -> list[list[Step]]:
    """What comes before the first `FROM`, then the steps of each stage."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Step]] = [[]]
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            found.append([])
        found[-1].append(Step(instruction, arguments))
    return found


BEFORE, BUILD, FINAL = stages()


def of(steps: list[Step], instruction: str) -> list[Step]:
    return [step for step in steps if step.instruction == instruction]


def one(instruction: str) -> Step:
    [step] = of(FINAL, instruction)
    return step


def environment(steps: list[Step]) -> dict[str, str]:
    return {name: value for step in of(steps, "ENV") for name, value in step.values.items()}


# ---------------------------------------------------------------- by hand


def context() -> Iterator[Path]:
    """The files that .dockerignore lets through; the last line that speaks of one decides."""
    lines = (ROOT / ".dockerignore").read_text().split()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        path, ignored = Path(name), False
        for line in lines:
            if any(fnmatch(str(each), line.lstrip("!")) for each in (path, *path.parents)):
                ignored = not line.startswith("!")
        if not ignored:
            yield path


def copy(step: Step, folder: Path) -> None:
    *sources, target = step.words
    for path in context():
        for source in map(Path, sources):
            if path.is_relative_to(source):
                place = folder / target / (path.relative_to(source) if (ROOT / source).is_dir() else path.name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, place)


def locked() -> dict[str, str]:
    """Versions by name: of what the lock asks for on this machine."""
    lock = (ROOT / "requirements-serve.lock").read_text()
    found = map(Requirement, re.findall(r"^(\w[^\\\n]+?) \\$", lock, re.MULTILINE))
    return {each.name: str(each.specifier)[2:] for each in found if not each.marker or each.marker.evaluate()}


def download(packages: Path) -> None:
    """As pip would have done it."""
    for name, version in locked().items():
        installed = distribution(name)
        assert installed.version == version, f"{name}: run make"
        for file in installed.files or ():
            if ".." not in file.parts:  # a command
                place = packages / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(installed.locate_file(file)), place)


def run(step: Step, folder: Path) -> None:
    if step.arguments == DOWNLOAD:
        return download(packages(folder))
    settings = {name: value.replace("/opt", f"{folder}/opt") for name, value in environment(BUILD).items()}
    subprocess.run(
        ["sh", "-ec", step.arguments.replace("/opt", f"{folder}/opt")],
        env={"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), **settings},
        cwd=folder / "src",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return None


def packages(root: Path) -> Path:
    [found] = (root / "opt/ingress/lib").glob("python3.*/site-packages")
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a file system as the first stage leaves it."""
    root = tmp_path_factory.mktemp("image")
    for step in BUILD:
        match step.instruction:
            case "WORKDIR":
                (root / step.arguments.strip("/")).mkdir()
            case "COPY":
                copy(step, root / "src")
            case "RUN":
                run(step, root)
            case "FROM" | "ENV":
                pass
            case other:
                pytest.fail(f"a step that is not taken here: {other}")
    return root


@pytest.fixture(scope="module")
async def service(image: Path, settings: Settings) -> AsyncIterator[dict[str, str]]:
    """The image's command, with its environment; the environment."""
    own = environment(FINAL)
    path = own.pop("PATH").replace("/opt", f"{image}/opt").replace("$PATH", os.defpath)
    ports = {name: str(unused_port()) for name in ("INGRESS_PORT", "INGRESS_METRICS_PORT")}
    wanted = {
        **own,
        "INGRESS_HOST": "127.0.0.1",  # on this machine, not for everybody around it
        **ports,
        "PATH": path,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
    }
    (image / "tmp").mkdir()
    program = str(image / "opt/ingress/bin" / json.loads(one("ENTRYPOINT").arguments)[0])
    process = Process(wanted, image / "log", checkout=image / "tmp", program=[program])
    await process.start()
    yield wanted
    assert await process.stop() == 0


# ---------------------------------------------------------------- what comes out


def ingress(image: Path, *arguments: str) -> str:
    done = subprocess.run(
        [image / "opt/ingress/bin/ingress", *arguments], env={}, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_only_what_serves_is_there(image: Path) -> None:
    """What the lock pins and this package; nothing that builds, no simulators."""
    there = {canonicalize_name(each.name): each.version for each in distributions(path=[str(packages(image))])}
    built = {PROJECT["name"]: PROJECT["version"]}
    assert there == {name: version for name, version in locked().items() if name != "setuptools"} | built
    assert not (packages(image) / "ingress" / "dev").exists()
    assert sorted(path.name for path in (image / "opt/ingress/share/whatsapp-ingress").iterdir()) == [
        "migrations",
        "schema.sql",
    ]


def test_commands_run(image: Path) -> None:
    assert ingress(image, "--version").strip() == PROJECT["version"]
    assert "--processes" in ingress(image, "serve", "--help")


def healthcheck(environment: dict[str, str]) -> int:
    """The exit status of the image's own."""
    arguments = one("HEALTHCHECK").arguments
    command = json.loads(arguments[arguments.index("[") :])
    return subprocess.run(command, env=environment, timeout=30, stderr=subprocess.DEVNULL).returncode


async def test_the_healthcheck_sees_whether_it_serves(service: dict[str, str]) -> None:
    assert healthcheck(service) == 0
    nobody = service | {"INGRESS_METRICS_PORT": str(unused_port())}
    assert healthcheck(nobody) == 1


async def test_nothing_is_written_where_it_serves(image: Path, service: dict[str, str]) -> None:
    """So the file system may be read-only."""
    began = (image / "tmp").stat().st_mtime
    newer = [path for path in (image / "opt").rglob("*") if path.stat().st_mtime > began]
    assert (list((image / "tmp").iterdir()), newer) == ([], [])


# ---------------------------------------------------------------- what the file says


def test_the_base_is_named_by_its_digest_and_can_be_another() -> None:
    [base] = of(BEFORE, "ARG")
    assert re.fullmatch(r"BASE=python:3\.14\.\d+-slim-trixie@sha256:[0-9a-f]{64}", base.arguments)
    assert [step.arguments for stage in (BUILD, FINAL) for step in of(stage, "FROM")] == ["${BASE} AS build", "${BASE}"]


def test_who_runs_it_and_how() -> None:
    assert one("USER").arguments == "10001:10001"
    assert json.loads(one("ENTRYPOINT").arguments) == ["ingress"]
    assert json.loads(one("CMD").arguments) == ["serve"]
    defaults = msgspec.structs.asdict(Settings())
    assert one("EXPOSE").words == [str(defaults["port"]), str(defaults["metrics_port"])]
    assert environment(FINAL)["INGRESS_METRICS_PORT"] == str(defaults["metrics_port"])


def test_the_final_stage_takes_the_result_and_runs_only_what_takes_away() -> None:
    assert [step.arguments for step in of(FINAL, "RUN")] == [WITHOUT_PIP]
    assert one("COPY").words == ["--from=build", "/opt/ingress", "/opt/ingress"]
    assert FINAL.index(one("USER")) > FINAL.index(one("COPY"))


def test_labels_say_what_it_is() -> None:
    labels = one("LABEL").values
    given = {name: value for step in of(FINAL, "ARG") for name, value in step.values.items()}
    assert given["VERSION"] == PROJECT["version"]
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert {labels[f"org.opencontainers.image.{name.lower()}"] for name in given} == {f"${{{name}}}" for name in given}


def test_everything_that_is_downloaded_has_a_hash_and_a_version() -> None:
    assert DOWNLOAD in [step.arguments for step in of(BUILD, "RUN")]
    lock = re.split(r"\n(?=\w)", (ROOT / "requirements-serve.lock").read_text())
    assert len(lock) > 20
    assert [each for each in lock if not re.match(r"[\w.-]+==\S+.* \\\n +--hash=sha256:", each)] == []


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", DOCKERFILE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")
