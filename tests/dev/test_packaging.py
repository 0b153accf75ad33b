"""What is installed: the service without simulators, and they where the extra `dev` was asked for."""

import os
import shutil
import subprocess
import sys
import sysconfig
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
DEV = ROOT / "ingress" / "dev"
ADVICE = 'not installed: pip install "whatsapp-ingress[dev]"'


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of the service and of the extra, built from a copy: building leaves files behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "README.md", "LICENSE", "schema.sql"):
        shutil.copy(ROOT / name, source)
    left_out = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for name in ("ingress", "providers", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(target), ".", "./ingress/dev"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=source)
    assert done.returncode == 0, done.stderr
    extra, service = sorted(target.iterdir(), key=lambda path: "_dev-" not in path.name)
    return service, extra


@pytest.fixture(scope="module")
def production(wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("production"), wheels[0])


def unpacked(folder: Path, *wheels: Path) -> Path:
    for wheel in wheels:
        with ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def content(wheel: Path) -> set[str]:
    """Its files, but for what describes it."""
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def sources(folder: Path) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in folder.rglob("*.py")}


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Python where what is in *folder* is installed, and this repository is not: without `site` nothing is editable."""
    path = os.pathsep.join([str(folder), sysconfig.get_path("purelib")])
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
    )


def test_the_service_comes_without_simulators(wheels: tuple[Path, Path]) -> None:
    """Every module but theirs, what the console shows, the types of both packages, the schema and what leads to it."""
    service, _ = wheels
    share = f"{service.name.removesuffix('-py3-none-any.whl')}.data/data/share/whatsapp-ingress"
    schema = {f"{share}/schema.sql", *(f"{share}/migrations/{path.name}" for path in (ROOT / "migrations").iterdir())}
    modules = sources(ROOT / "ingress") - sources(DEV) | sources(ROOT / "providers")
    kinds = {".html", ".css", ".js", ".svg", ".mo"}
    pages = {path for path in (ROOT / "ingress" / "console").rglob("*") if path.suffix in kinds}
    modules |= {path.relative_to(ROOT).as_posix() for path in pages}
    assert content(service) == modules | {"ingress/py.typed", "providers/py.typed"} | schema


def test_the_extra_adds_them(wheels: tuple[Path, Path]) -> None:
    """All of them, in the release of the service."""
    service, extra = wheels
    assert content(extra) == sources(DEV)
    version = metadata(extra)["Version"]
    assert version == metadata(service)["Version"]
    assert f'whatsapp-ingress-dev=={version}; extra == "dev"' in metadata(service).get_all("Requires-Dist", [])


def test_the_command_is_installed(wheels: tuple[Path, Path], production: Path) -> None:
    [names] = production.glob("*.dist-info/entry_points.txt")
    assert "ingress = ingress.__main__:main" in names.read_text().splitlines()
    done = run(production, "-c", "import ingress.__main__ as it; print(it.__file__); it.main()", "--version")
    assert done.stdout.split() == [str(production / "ingress" / "__main__.py"), metadata(wheels[0])["Version"]]


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("run", f"the simulators are {ADVICE}"),
        ("demo", f"the demo is {ADVICE}"),
        ("serve", f"embedded servers are {ADVICE} or set DATABASE_URL"),
        ("migrate", f"embedded servers are {ADVICE} or set DATABASE_URL"),
    ],
)
def test_what_needs_the_extra_asks_for_it(production: Path, command: str, advice: str) -> None:
    """In one line."""
    done = run(production, "-m", "ingress", command, INGRESS_PORT="0", INGRESS_METRICS_PORT="0")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"ingress: {advice}\n")


def test_providers_are_checked_without_the_extra(production: Path) -> None:
    """As far as that goes without the simulators' samples."""
    done = run(production, "-m", "ingress", "providers", "check", "meta_business")
    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped: needs --samples" in done.stdout


def test_the_extra_is_found(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    """Beside the service, as pip lays it there."""
    folder = unpacked(tmp_path, *wheels)
    names = "ingress.dev.demo.scene", "ingress.dev.embedded.stores", "ingress.dev.sandbox.development"
    done = run(folder, "-c", f"import {', '.join(names)}; print(ingress.dev.__file__)")
    assert (done.stdout.strip(), done.stderr) == (str(folder / "ingress" / "dev" / "__init__.py"), "")
