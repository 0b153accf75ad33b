"""The project's own rules about its code, read from the code. What `providers` may import: providers/test_purity.py."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

import ingress
import ingress.storage.statements
import providers
from ingress.api import send
from ingress.cli.matrix import limits_matrix, matrix
from providers import ProviderError, Registry

ROOT = Path(__file__).parent.parent
FOLDER = Path(ingress.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
SOURCES = [*FILES, *sorted(Path(providers.__file__).parent.rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_for_development(path: Path) -> bool:
    """What only development needs: no part of the service."""
    return path.relative_to(FOLDER).parts[0] == "dev"


SERVICE = [path for path in FILES if not is_for_development(path)]


# ---------------------------------------------------------------- providers stay in `providers`

PROVIDER_WORDS = re.compile(r"meta_business|twilio|whatsapp_web|waha\b|baileys|graph\.facebook", re.IGNORECASE)


@pytest.mark.parametrize(
    "path",
    [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc" and not is_for_development(path)],
    ids=name_of,
)
def test_the_service_names_no_provider(path: Path) -> None:
    """A provider is added without touching what exists: nothing outside of its own files knows its name."""
    if path.suffix in {".py", ".html", ".js", ".css", ".sql", ".json"}:
        assert PROVIDER_WORDS.findall(path.read_text()) == []


def test_the_schema_names_no_provider() -> None:
    assert PROVIDER_WORDS.findall((ROOT / "schema.sql").read_text()) == []


# ---------------------------------------------------------------- which module knows which


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Modules of `ingress` that *path* imports at module level, under TYPE_CHECKING too, in their absolute names."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in _module_level(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            submodules = [name for alias in node.names if (name := f"{base}.{alias.name}") in MODULES]
            yield from submodules
            if base in MODULES and len(submodules) < len(node.names):
                yield base


def _module_level(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _module_level(node)


def test_imports_make_no_circle() -> None:
    """There is an order in which every module comes after those it imports."""
    graph = {module: set(imported(path)) - {module} for module, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 50
    assert list(TopologicalSorter(graph).static_order())


def test_the_service_does_without_what_is_for_development() -> None:
    """None of its modules imports `dev`, but inside of a function that was asked for it."""
    found = {name_of(path) for path in SERVICE for name in imported(path) if name.startswith("ingress.dev")}
    assert found == set()


def test_what_the_product_imports_is_a_dependency_of_it() -> None:
    """Not of something else that happens to bring it along, today, for this Python."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    declared = {re.split(r"[^\w-]", dependency)[0] for dependency in dependencies}
    distributions = {
        package: {name.replace("_", "-").lower() for name in names}
        for package, names in packages_distributions().items()
    }
    ours = {*sys.stdlib_module_names, "ingress", "providers"}
    found = {
        name.partition(".")[0]
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _absolute(node)
    }
    assert "starlette" in found
    assert {package for package in found - ours if not declared & distributions[package]} == set()


def _absolute(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def test_providers_do_not_know_the_service() -> None:
    for path in Path(providers.__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) ingress", path.read_text(), re.MULTILINE), path.name


# ---------------------------------------------------------------- which way imports point, and how large things get

# From top to bottom: a module imports from its own folder and from layers below, never up. A new folder is named here.
LAYERS = (
    "__main__",
    "cli",
    "doctor",
    "processes",
    "server",
    "protocol",
    "app",
    "console",
    "api",
    "receiving sending health",
    "switching",
    "people",
    "accounts delivery retention",
    "calls",
    "web",
    "encryption",
    "envelope wakeups audit",
    "storage",
    "identifiers shares cache",
    "settings log metrics tracing",
    "validation",
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}


def room(module: str) -> str:
    """The folder or the file, right below `ingress`, that *module* is in."""
    return module.split(".")[1]


@pytest.mark.parametrize("path", SERVICE, ids=name_of)
def test_imports_never_point_up(path: Path) -> None:
    module = module_of(path)
    if module == "ingress":
        return
    for other in set(imported(path)) - {module, "ingress"}:
        assert room(other) == room(module) or LAYER[room(module)] < LAYER[room(other)], f"{module} imports {other}"


# What is aimed at. Passed by half it is a defect.
FOLDER_LINES, FOLDER_FILES = 2000, 12
LISTS_LINES, LISTS_FILES = 3000, 18
PROVIDER_LINES, FILE_LINES = 1800, 400
FUNCTION_LINES_P90, FUNCTION_NODES_P90 = 20, 110
NESTING, ARGUMENTS = 4, 6
LISTS = {"ingress/api", "ingress/console/pages", "ingress/storage/statements"}  # one file a subject
PRODUCT = [path for path in SOURCES if "testing" not in path.parts and (FOLDER not in path.parents or path in SERVICE)]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def folders() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in PRODUCT:
        found.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    return found


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def functions() -> Iterator[tuple[str, Function]]:
    """(file:name, function) of every function of the product."""
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                yield f"{name_of(path)}:{node.name}", node


def nesting(node: ast.AST) -> int:
    """How deep blocks stand in blocks, those of functions and classes aside; `elif` is as deep as its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda | ast.ClassDef):
            continue
        block = isinstance(
            child, ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.Match
        )
        chained = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deepest = max(deepest, nesting(child) + (block and not chained))
    return deepest


def p90(numbers: list[int]) -> int:
    return sorted(numbers)[int(len(numbers) * 0.9)]


def budgets() -> Iterator[tuple[str, int, int]]:
    """(what, how much it has, what is aimed at): the largest of each kind."""
    for folder, files in folders().items():
        lines, own = (LISTS_LINES, LISTS_FILES) if folder in LISTS else (FOLDER_LINES, FOLDER_FILES)
        yield f"files in {folder}", sum(file.name != "__init__.py" for file in files), own
        provider = folder.startswith("providers/")
        yield f"lines in {folder}", sum(map(lines_of, files)), PROVIDER_LINES if provider else lines
    for path in PRODUCT:
        yield f"lines of {name_of(path)}", lines_of(path), FILE_LINES
    every = list(functions())
    yield "lines of a function, p90", p90([node.end_lineno - node.lineno + 1 for _, node in every]), FUNCTION_LINES_P90
    yield (
        "syntax nodes of a function, p90",
        p90([sum(1 for _ in ast.walk(node)) for _, node in every]),
        FUNCTION_NODES_P90,
    )
    for name, node in every:
        yield f"blocks in blocks of {name}", nesting(node), NESTING
        taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        yield f"arguments of {name}", sum(argument.arg not in ("self", "cls") for argument in taken), ARGUMENTS


# What was above when the budgets were set, and may only shrink.
TOO_LARGE = {}


def test_budgets_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """What passes its aim by half fails; `BUDGETS=1 make test ARGS=tests/test_layout.py` shows all that is above it."""
    above = {what: (has, aim) for what, has, aim in budgets() if has > aim}
    if os.environ.get("BUDGETS"):
        with capsys.disabled():
            sys.stdout.writelines(f"\n{what}: {has}, aim {aim}" for what, (has, aim) in above.items())
    assert {what: has for what, (has, aim) in above.items() if has > max(aim * 1.5, TOO_LARGE.get(what, 0))} == {}
    assert [what for what in TOO_LARGE if what not in above or above[what][0] <= above[what][1] * 1.5] == []


def test_no_class_name_stands_twice_in_the_product() -> None:
    """Who looks for a class by its name finds one. Private ones are their file's."""
    names = Counter(
        node.name
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} == set()


def fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """The name and the type of each."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id, each.annotation


def test_no_field_hides_what_a_type_names() -> None:
    """From Python 3.14 on types of fields are looked up when they are asked for, and the class's own names first."""
    hidden = [
        f"{name_of(path)}: {node.name}.{name.id}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for _, annotation in fields(node)
        for name in ast.walk(annotation)
        if isinstance(name, ast.Name) and name.id in dict(fields(node))
    ]
    assert hidden == []


def test_no_word_means_many_things() -> None:
    """A message, an event, a status, an answer and a line of the log each have their own word; one word meant all."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [ROOT / name for name in tracked if name.endswith((".py", ".md", ".sql", ".toml", ".yaml"))]
    word = re.compile(r"\b" + "to" + "ld" + r"\b", re.IGNORECASE)
    assert [name_of(path) for path in texts if path.exists() and word.search(path.read_text())] == []


# ---------------------------------------------------------------- SQL

STATEMENT = re.compile(
    r"^\s*(?:select|insert into|update|delete from|with|truncate|alter|create|drop|set local)\s", re.I
)
SQL_AT_HOME = {"ingress/storage/database.py", "ingress/storage/migration.py"}


def constants(tree: ast.AST) -> Iterator[ast.Constant]:
    """String constants that are no docstrings."""
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node


@pytest.mark.parametrize("path", [path for path in SERVICE if "statements" not in path.parts], ids=name_of)
def test_statements_live_in_storage(path: Path) -> None:
    """Who looks for what touches a table looks in one folder."""
    if name_of(path) in SQL_AT_HOME:
        return
    found = [
        (node.lineno, node.value[:60])
        for node in constants(ast.parse(path.read_text()))
        # `select`, `update` and others are words too: a statement also names what it is about.
        if STATEMENT.match(node.value) and re.search(r"\b(from|into|set|table|values|\$1)\b|\$1", node.value, re.I)
    ]
    # The fence of a transaction is the database's business; a session's setting or a lock is nobody's data.
    assert [place for place in found if not LOCK.search(place[1])] == []


LOCK = re.compile(r"pg_(?:try_)?advisory|set_config|pg_notify", re.I)


def tables_of_organizations() -> set[str]:
    """Tables with the column organization_id, as schema.sql creates them."""
    schema = (ROOT / "schema.sql").read_text()
    created = re.findall(r"^create table (\w+) \((.*?)^\)", schema, re.M | re.S)
    return {table for table, columns in created if re.search(r"^\s+organization_id\s", columns, re.M)}


def statement_modules() -> Iterator[ModuleType]:
    package = ingress.storage.statements
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def own_name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def statements() -> Iterator[tuple[str, str]]:
    """(module.NAME, text without comments) of every statement in storage, put together as it runs."""
    for module in statement_modules():
        for name, value in vars(module).items():
            if isinstance(value, str) and not name.startswith("__"):
                text = re.sub(r"/\*.*?\*/|--[^\n]*", "", value, flags=re.S)
                if STATEMENT.match(text):
                    yield f"{own_name(module)}.{name}", text
    from ingress.storage.statements.receiving.inbound import _Kinds, _store

    yield "inbound._store", _store(_Kinds(*[True] * 7))


# Statements that see every organization, each for a reason. All others are held to one, or to rows that name theirs.
EVERY_ORGANIZATION = {
    "audit.CLAIM": "a worker verifies the trails that are due, whoever they belong to",
    "audit.OLD": "a worker lets go of what is past its time, whoever it belongs to",
    "audit.BROKEN_TRAILS": "the operator asks, whoever they belong to",
    "audit.NEWEST": "whether the encryption keys fit is a question about no organization",
    "audit.GAUGES": "a metric, which names no organization",
    "configs.BROKEN": "a process leaves every broken account alone, whoever it belongs to",
    "configs.BY_TOKEN": "the token of a webhook's address is what finds the organization",
    "configs.OWNER_OF": "an item names an account, and no organization",
    "configs.BY_ACCOUNT": "the same; only what came in at an app's address, or the platform replays, asks it",
    "configs.OTHERS_BEHIND": "whether anybody else has a secret, whoever it is",
    "configs.KINDS": "the operator asks which plug-ins are needed, by whomever",
    "configs.NEWEST": "whether the encryption keys fit is a question about no organization",
    "figures.CLAIM": "a worker counts what is due, whoever it belongs to",
    "health.CLAIM": "a worker looks at the accounts that are due, whoever they belong to",
    "health.TROUBLED": "a metric, which names no organization",
    "organizations.CHANGED": "a process looks at all that it remembers, whoever it belongs to",
    "organizations.EXPIRING": "a metric, which names no organization",
    "organizations.KEY": "the API key is what finds the organization",
    "organizations.KEY_OVER": "the same",
    "organizations.LIST": "the platform's list of organizations",
    "console_sessions": "the session is what finds the organization, and the platform's has chosen none",
    "organizations.SEARCH": "the platform looks for one in it",
    "deliveries.CLAIM": "a worker takes what is due, whoever it belongs to",
    "deliveries.DUE_AGAIN": "a worker unmarks what is due, whoever it belongs to",
    "deliveries.GAUGES": "a metric, which names no organization",
    "inbound.COUNT_OPEN": "a metric, which names no organization",
    "sends.GAUGES": "a metric, which names no organization",
    "leases.RECLAIM": "a worker takes over what its process left, whoever it belongs to",
    "deletion.DELETE_UNTIMED_KEYS": "what is old is deleted, whoever it belongs to",
    "deletion.DELETE_IDEMPOTENCY_KEYS": "the same",
    "deletion.BODIES": "the same, where it does not go with a partition",
    "deletion.STATUSES": "the same",
    "deletion.BODIES_OF": "of those that keep it for less time, all at once",
    "deletion.STATUSES_OF": "the same",
    "deletion.FIRST_NEEDED_EVENT": "a partition has events of everybody, and goes as a whole",
    "deletion.FIRST_OPEN_MESSAGE": "the same",
    "outages.TRY": "a worker has endpoints tried that are down, whoever they belong to",
    "retention.MARK_NEXT": "the same",
    "retention.NEXT_ORGANIZATIONS": "a worker looks at one after the other",
    "server.PLANT": "no organization's: it is rolled back",
    "sizes": "the operator sees who has most of it",
    "retention.SHORTER": "a worker deletes what each of them keeps for less time",
    "switches.BROKEN_OFF": "a worker restores what its process left, whoever it belongs to",
    "unread.GAUGES": "a metric, which names no organization",
    "statuses.ORPHANS": "a metric, which names no organization",
    "statuses.SWEEP": "a worker matches statuses with messages; the join is by organization",
}
HELD = re.compile(
    r"\borganization_id\s*=\s*(?:\$|[a-z_.]+organization_id)|insert into \w+ \(\s*organization_id"
    r"|\(organization_id, id\) in"
    r"|\((?:\w+, )?(?:\w+\.)?organization_id(?:, [\w.]+)*\) >=? \(",  # compared as rows: ingress/storage/keys.py
    re.I,
)
HELD_TO_ITSELF = re.compile(r"\borganizations \(id, |\b(?:o\.)?id = (?:\$1|given\.organization_id)\b", re.I)


def test_every_statement_names_its_organization() -> None:
    """Organization-first queries are the first wall; row-level security is only the second."""
    tables = tables_of_organizations()
    assert len(tables) >= 13
    seen, exempt = set(), set()
    for name, text in statements():
        touched = {table for table in [*tables, "organizations"] if re.search(rf"\b{table}\b", text)}
        if not touched:
            continue
        seen.add(name)
        if exemption := {name, name.partition(".")[0]} & set(EVERY_ORGANIZATION):
            exempt |= exemption
            continue
        assert touched == {"organizations"} or re.search(r"\borganization_id\b", text), name
        held = HELD.search(text) or ("organizations" in touched and HELD_TO_ITSELF.search(text))
        assert held, f"{name} is not held to an organization"
    assert len(seen) >= 40
    assert exempt == set(EVERY_ORGANIZATION), "an exemption that nothing needs"


def test_every_statement_has_a_function_that_takes_the_organization_first() -> None:
    """A function of storage that is for the API takes the organization right after the connection."""
    for module in statement_modules():
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            about = inspect.getdoc(function) or ""
            if function.__module__ == module.__name__ and "(organization)" in about:
                assert list(inspect.signature(function).parameters)[1] == "organization_id", (
                    f"{own_name(module)}.{name}"
                )


# ---------------------------------------------------------------- errors


def leaves(kind: type) -> Iterator[type]:
    below = kind.__subclasses__()
    if not below:
        yield kind
    for other in below:
        yield from leaves(other)


# What is answered in another way than by the table of POST /send.
ANSWERED_ELSEWHERE = {
    "Unverified": "ingress/receiving/ingestion.py: 401, always the same body",
    "Malformed": "ingress/receiving/normalise.py: quarantined, 200",
    "Uncertain": "ingress/api/send.py:_answer: 504",
}


def test_every_error_of_a_provider_has_an_answer() -> None:
    """A new class must be given a status before it can be raised."""
    Registry().entries()
    known = {kind.__name__ for kind in leaves(ProviderError) if kind.__module__.startswith("providers")}
    assert known == set(send._FAILURES) | set(ANSWERED_ELSEWHERE)
    assert {status for status, _, _ in send._FAILURES.values()} <= {422, 502}


# ---------------------------------------------------------------- what is not done here


@pytest.mark.parametrize("path", SERVICE, ids=name_of)
def test_connections_go_out_in_one_place(path: Path) -> None:
    """A client session made elsewhere would have no guard."""
    if name_of(path) == "ingress/calls/egress.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert called not in {"ClientSession", "urlopen", "open_connection", "create_connection"}, node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_undone(path: Path) -> None:
    """No promise to come back, no error swallowed without a word, no breakpoint."""
    text = path.read_text()
    assert re.findall(r"\b(TODO|FIXME|XXX|HACK)\b", text) == []
    assert "breakpoint()" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"a bare except in line {node.lineno}"
            assert not all(isinstance(line, ast.Pass) for line in node.body), f"except: pass in line {node.lineno}"


def test_secrets_are_compared_in_constant_time() -> None:
    """In `providers` in one module; nowhere with `==`."""
    word = re.compile(r"secret(?!s\b)|signature|digest\b|hmac|access_token|verify_token|api_key")
    for path in [path for path in SOURCES if FOLDER not in path.parents or not is_for_development(path)]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
                code = ast.unparse(node).lower()
                assert "len(" in code or not word.search(code), f"{name_of(path)}:{node.lineno} {code}"
    homes = {path.name for path in SOURCES if "compare_digest" in path.read_text() and path.parent.name == "providers"}
    assert homes == {"signing.py"}


def test_importing_the_service_does_nothing() -> None:
    """No socket, no server, no environment is read: every module can be imported by a tool."""
    modules = [name for name in MODULES if "__main__" not in name]
    program = (
        "import sys, importlib, socket\n"
        "def refuse(*a, **k): raise SystemExit('a socket was made')\n"
        "socket.socket.connect = socket.socket.bind = refuse\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *modules],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_tables_of_providers_are_current() -> None:
    """As `ingress providers --matrix` prints it."""
    assert matrix(Registry()) in (ROOT / "docs" / "providers.md").read_text()
    assert limits_matrix(Registry()) in (ROOT / "docs" / "providers" / "limits.md").read_text()
