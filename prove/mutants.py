"""The tests, on copies of the code with one promise taken out of each: a test must turn red."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("ingress", "providers", "tests", "prove", "docs", "schema", "migrations")
COPIED = (*FOLDERS, "schema.sql", "pyproject.toml", "README.md")
TIMEOUT_S = 600
NO_VERDICT = -1
AT_ONCE = 2


class Mutant(msgspec.Struct, frozen=True):
    """``old`` stands once in ``path`` and becomes ``new``; then one of ``tests`` must fail."""

    what: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MACHINE = "tests/switching/test_switching_machine.py"
RACE = "tests/switching/test_switching.py::test_of_those_who_expect_the_same_version_one_wins"
TROUBLES = "tests/switching/test_switching.py::test_every_process_uses_a_change_within_two_seconds"
WORKER = "tests/service/test_isolation.py::test_who_sees_every_organization_asks_for_one"
ORDER = "tests/sending/test_order.py"
DEATHS = "tests/switching/test_switch_deaths.py"
MUTANTS = (
    Mutant(
        "the fence out of the claim",
        "ingress/storage/statements/sending/sends.py",
        "o.id = given.organization_id and o.version = given.version",
        "o.id = given.organization_id",
        ("tests/storage/test_redis.py::test_a_stale_value_sends_nothing_the_old_way",),
    ),
    Mutant(
        "the same, found by the state machine",
        "ingress/storage/statements/sending/sends.py",
        "o.id = given.organization_id and o.version = given.version",
        "o.id = given.organization_id",
        (MACHINE,),
    ),
    Mutant(
        "the same, found by the run",
        "ingress/storage/statements/sending/sends.py",
        "o.id = given.organization_id and o.version = given.version",
        "o.id = given.organization_id",
        ("tests/prove/test_proof.py",),
    ),
    Mutant(
        "the fence out of a repetition",
        "ingress/storage/statements/sending/sends.py",
        "select o.version = given.version as current, m.lease_id",
        "select true as current, m.lease_id",
        ("tests/switching/test_switching.py::test_a_repetition_after_a_switch_goes_the_new_way",),
    ),
    Mutant(
        "the order out of the claim",
        "ingress/storage/statements/sending/sends.py",
        """heads_batch and {_first("given", "is not null", len(Claim._fields) + 2)} is null as is_first""",
        "true as is_first",
        (f"{ORDER}::test_another_conversation_is_not_held_up",),
    ),
    Mutant(
        "the order out of a repetition",
        "ingress/storage/statements/sending/sends.py",
        "m.status_rank > 1 as settled, {_earlier(_OF_ATTEMPT)} is null as is_first",
        "m.status_rank > 1 as settled, true as is_first",
        (f"{ORDER}::test_processes_keep_one_order",),
    ),
    Mutant(
        "the compare out of the Lua script",
        "ingress/storage/redis_state.py",
        "return version or -1",
        "return -1",
        ("tests/storage/test_redis.py::test_only_a_newer_version_is_stored",),
    ),
    Mutant(
        "the same, found by the state machine",
        "ingress/storage/redis_state.py",
        "return version or -1",
        "return -1",
        (MACHINE,),
    ),
    Mutant(
        "the compare out of the switch",
        "ingress/storage/statements/switches.py",
        "where o.id = $1 and o.version = $3\n",
        "where o.id = $1 and $3::bigint is not null\n",
        ("tests/switching/test_switching.py::test_the_commit_compares_what_it_sets",),
    ),
    Mutant(
        "the audit entry of a switch, not written",
        "ingress/switching/switch.py",
        "made = switch_made(ready, version, phases)",
        "made = switch_made(ready, version, phases)[:1]",
        ("tests/switching/test_switching.py::test_a_switch_to_a_config_that_is_there",),
    ),
    Mutant(
        "the audit entry of a switch in another transaction",
        "ingress/switching/switch.py",
        "            made = switch_made(ready, version, phases)\n",
        "            made = switch_made(ready, version, phases)\n"
        "            await connection.execute('commit')\n"
        "            await connection.execute('begin')\n"
        "            organization = str(request.organization_id)\n"
        "            await connection.execute(\"select set_config('app.org_id', $1, true)\", organization)\n",
        ("tests/switching/test_switching.py::test_a_failure_in_the_transaction_undoes_all_of_it",),
    ),
    Mutant(
        "the same, found by a process that dies",
        "ingress/switching/switch.py",
        "            made = switch_made(ready, version, phases)\n",
        "            made = switch_made(ready, version, phases)\n"
        "            await connection.execute('commit')\n"
        "            await connection.execute('begin')\n"
        "            organization = str(request.organization_id)\n"
        "            await connection.execute(\"select set_config('app.org_id', $1, true)\", organization)\n",
        (DEATHS,),
    ),
    Mutant(
        "the role of a transaction, not proven",
        "ingress/storage/database.py",
        "    if role != APP:\n        raise WrongRole",
        "    if not role:\n        raise WrongRole",
        ("tests/storage/test_logins.py::test_each_transaction_of_an_organization_proves_its_role",),
    ),
    Mutant(
        "an end that is stored again is a second event",
        "ingress/storage/statements/sending/sends.py",
        "o.event_type is not null and l.state <> 'done'",
        "o.event_type is not null",
        ("tests/sending/test_unconfirmed.py::test_an_outcome_that_is_stored_again_is_one_event",),
    ),
    Mutant(
        "the horizon out of deliveries",
        "ingress/storage/statements/deliveries.py",
        "sequence >= (select sequence_horizon())\n            or sequence > coalesce",
        "sequence > coalesce",
        ("tests/delivery/test_delivery.py::test_nothing_overtakes_what_is_not_committed_yet",),
    ),
    Mutant(
        "the organization out of a query of the API",
        "ingress/storage/statements/sending/messages.py",
        'BY_ID = f"select {_MESSAGE} from messages where organization_id = $1 and id = $2"',
        'BY_ID = f"select {_MESSAGE} from messages where $1::uuid is not null and id = $2"',
        ("tests/test_layout.py::test_every_statement_names_its_organization",),
    ),
    Mutant(
        "the organization out of the route, which the worker's role reads",
        "ingress/storage/statements/configs.py",
        "where o.id = $1 order by step.place",
        "where $1::uuid is not null order by step.place",
        (WORKER,),
    ),
    Mutant(
        "the lock out of meeting people",
        "ingress/storage/statements/contacts.py",
        "    await connection.execute(LOCK, _buckets(organization_ids))",
        "    _buckets(organization_ids)",
        ("tests/people/test_one_person.py",),
    ),
    Mutant(
        "what another process has merged out of the claim",
        "ingress/storage/statements/sending/sends.py",
        """c.id = given.conversation_id and {is_merged("c.")}""",
        "c.id = given.conversation_id and false",
        ("tests/people/test_people.py::test_what_another_process_has_merged_is_found_out",),
    ),
    Mutant(
        "the organization out of a look at an account, likewise",
        "ingress/storage/statements/health.py",
        "h.organization_id = _.organization_id and h.config_id = _.id\njoin organizations",
        "h.config_id = _.id\njoin organizations",
        (WORKER,),
    ),
    Mutant(
        "the organization out of a write of the worker",
        "ingress/storage/statements/configs.py",
        "set broken_at = now() where organization_id = $1 and",
        "set broken_at = now() where $1::uuid is not null and",
        (WORKER,),
    ),
    Mutant(
        "the organization out of the row-level policy",
        "schema.sql",
        "using (%2$I = nullif(current_setting(''app.org_id'', true), '''')::uuid)",
        "using (%2$I is not null)",
        ("tests/service/test_isolation.py::test_queries_without_a_condition_see_one_organization",),
    ),
)


def run_tests(folder: Path, tests: tuple[str, ...], timeout_s: float | None, **environment: str) -> tuple[int, str]:
    """pytest's exit status in *folder*, and its last line. *timeout_s* None: however long it takes."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return NO_VERDICT, f"no end in {timeout_s} s"
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
    failed = [line for line in lines if line.startswith("FAILED ")]
    return done.returncode, (failed or lines)[-1]


def survivors(folder: Path) -> tuple[list[str], Table]:
    """What no test noticed, and a table of all. The unchanged code must pass the same tests, or they prove nothing."""
    named = {test for mutant in MUTANTS for test in mutant.tests}
    control = Mutant("nothing (all must pass)", "README.md", "", "", tuple(sorted(named)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [
            (mutant, pool.submit(_tried, folder / str(place), mutant))
            for place, mutant in enumerate([control, *MUTANTS])
        ]
        results = [(mutant, *job.result()) for mutant, job in jobs]
    made = Table(title="Mutations")
    for column in ("taken out", "tests", "which"):
        made.add_column(column)
    alive = []
    for mutant, status, line in results:
        # 1: tests ran, and some failed. Anything else is no verdict.
        good = status == (0 if mutant is control else 1)
        verdict = {0: "green", 1: "red"}.get(status, f"pytest ended with {status}")
        if not good:
            alive.append(f"{mutant.what}: {verdict}: {line}")
        made.add_row(mutant.what, verdict if good else f"[bold red]{verdict}[/]", line)
    return alive, made


def _tried(folder: Path, mutant: Mutant) -> tuple[int, str]:
    folder.mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    if mutant.old:
        path = folder / mutant.path
        text = path.read_text()
        if text.count(mutant.old) != 1:
            raise LookupError(
                f"{mutant.what}: {text.count(mutant.old)} places in {mutant.path}; adapt prove/mutants.py"
            )
        path.write_text(text.replace(mutant.old, mutant.new))
    return run_tests(folder, mutant.tests, TIMEOUT_S, PROVE_EXAMPLES="100" if mutant.old else "15", PROVE_SHRINK="0")
