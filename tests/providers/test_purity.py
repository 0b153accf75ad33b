"""What `providers` may import: itself in one direction, msgspec, and the standard library less its I/O."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import providers

FOLDER = Path(providers.__file__).parent
FILES = sorted(path for path in FOLDER.rglob("*.py") if path.parent.name != "testing")
INPUT_OUTPUT = {
    "asyncio", "builtins", "concurrent", "ctypes", "fileinput", "ftplib", "glob", "http", "imaplib", "io", "mmap",
    "multiprocessing", "os", "pathlib", "pickle", "poplib", "random", "secrets", "select", "selectors", "shelve",
    "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "tempfile",
    "threading", "time", "urllib.request", "webbrowser", "xmlrpc",
}  # fmt: skip
# Calls that reach outside without an import, and clocks.
OUTSIDE = {"open", "input", "print", "exec", "eval", "now", "utcnow", "today"}


def module_of(path: Path) -> str:
    parts = path.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """Absolute names: of modules where a module is imported, of the package where its names are."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else base for name in names)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_are_pure(path: Path) -> None:
    """No socket, clock, file, environment; no library but msgspec."""
    for name in imports(path):
        top = name.partition(".")[0]
        assert top in {"providers", "msgspec"} or top in sys.stdlib_module_names, name
        assert not {name, top} & INPUT_OUTPUT, name


def test_test_runners_are_imported_by_the_suite_alone() -> None:
    """And no provider imports the kit: it does not come with a server."""
    for path in FOLDER.rglob("*.py"):
        found = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
        assert path.name == "suite.py" or not found & {"pytest", "hypothesis"}, path.name
        assert path.parent.name == "testing" or "testing" not in {name.split(".")[-1] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_reaches_outside(path: Path) -> None:
    """No built-in that does I/O is called, and no clock is read."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)
            assert called not in OUTSIDE, f"{path.name}:{node.lineno}"


def test_imports_make_no_circle() -> None:
    """There is an order in which every module comes after those it imports."""
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
        if module != "providers"
    }
    assert len(graph) > 40
    assert list(TopologicalSorter(graph).static_order())


def test_the_dialect_is_used_by_its_face() -> None:
    """Nobody else's import reaches into a module of `cloud_api`: what a speaker of the dialect needs is named there."""
    for module, path in MODULES.items():
        if not module.startswith("providers.cloud_api"):
            assert not [name for name in imports(path) if name.startswith("providers.cloud_api.")], module
    example = FOLDER.parent / "examples" / "threesixty" / "threesixty.py"
    assert "cloud_api." in example.read_text()
    assert not re.search(r"(?:from|import) providers\.cloud_api\.", example.read_text())


def test_no_provider_knows_another() -> None:
    """Each is a folder of its own, and what several need is above them."""
    folder_of = {module: path.relative_to(FOLDER).parts[0] for module, path in MODULES.items() if path.parent != FOLDER}
    folders = set(folder_of.values()) - {"cloud_api"}
    assert len(folders) == 4
    for module, path in MODULES.items():
        others = folders - {folder_of.get(module)}
        assert not others & {name.split(".")[1] for name in imports(path) if name.count(".")}, module


def test_importing_the_package_imports_no_provider() -> None:
    """Providers are imported when they are asked for."""
    assert not {name for name in imports(FOLDER / "__init__.py") if re.search("meta|cloud|twilio|web|canary", name)}


def test_public_names() -> None:
    """What the package lists is there, once, and nothing private."""
    assert len(set(providers.__all__)) == len(providers.__all__)
    assert all(hasattr(providers, name) and not name.startswith("_") for name in providers.__all__)
