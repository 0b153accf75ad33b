"""Every statement stays as quick as it is in a new database: it reads by indexes, and few rows that it does not need.

Each is planned once for whatever it is asked, as the service has it, with statistics from before a rush, and run in a
database of some size. What it reads of tables that grow is counted.
"""

import ast
import inspect
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.encryption.sealed import EVERYTHING
from ingress.identifiers import LAST_ID
from ingress.storage.database import _session as session
from ingress.storage.migration import migrate
from ingress.storage.statements import audit, sealed
from ingress.storage.statements.receiving import inbound

from ..deploy.boards import statements
from ..test_layout import STATEMENT, own_name, statement_modules
from . import seeded
from .seeded import BIG

# Rows that a statement may read of a table, or pass over in it, that has at least so many. Of an index that it has no
# condition for it may read the first ones.
MOST, GROWN, FIRST = 2_500, 900, 100
ROLES = {"organization": "app", "app": "app", "worker": "worker", "ingest": "ingest"}


def roles_in(tree: ast.Module, name: str | None) -> set[str]:
    """Who executes what the functions that use *name*, or all of them, are for."""
    found = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef) and (
            name is None or any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(function))
        ):
            about = re.findall(r"\(([^()]*)\)", ast.get_docstring(function) or "")
            found |= {ROLES[word] for part in about for word in re.findall(r"\w+", part) if word in ROLES}
    return found


def parts(module: ModuleType) -> Iterator[tuple[str, str, set[str]]]:
    """(module.NAME, text, roles): each statement of a module, and who executes it, as the functions say that use it."""
    tree = ast.parse(inspect.getsource(module))
    # Who may call one that chooses among statements is said by that one.
    every = roles_in(tree, None)
    for name, text in vars(module).items():
        if (
            name.startswith("_")
            or not isinstance(text, str)
            or not STATEMENT.match(re.sub(r"/\*.*?\*/|--[^\n]*", "", text, flags=re.S))
        ):
            continue
        yield f"{own_name(module)}.{name}", text, roles_in(tree, name) or every


STATEMENTS = {name: (text, roles) for module in statement_modules() for name, text, roles in parts(module)}
KINDS = inbound._Kinds._fields
STATEMENTS |= {
    f"inbound._store {kinds}": (inbound._store(inbound._Kinds(*[kind in kinds.split() for kind in KINDS])), {"ingest"})
    for kinds in ("remembered", "statuses remembered", "statuses by_key held quarantine placed")
}
STATEMENTS |= {
    f"audit.TRAIL by {', '.join(columns)}": (audit._by(audit.TRAIL, *columns), {"app"})
    for columns in (("actor",), ("config_id", "action"), ("outcome",), ("action",), ("actor", "outcome"))
}
STATEMENTS |= {f"sealed.page of {kind.column}": (sealed.page_statement(kind.column), {"worker"}) for kind in EVERYTHING}
STATEMENTS |= {f"sealed.renew {kind.column}": (sealed.renew_statement(kind.column), {"worker"}) for kind in EVERYTHING}

# Each for a reason.
EXCEPTIONS = {
    "configs.KINDS": "of configs, which people make: when the doctor is asked",
    "configs.SHARED": "of configs, which people make: when one is saved",
    "deletion.FIRST_NEEDED_EVENT": "one row an organization",
    "deliveries.GAUGES": "what is pending, counted up to a bound",
    "erasure.GROUPS": "a walk through an organization's conversations, when somebody is erased",
    "figures.NEW": "so many events at once, in the background",
    "messages.FIND": "what is held of an organization, at most a thousand; what is under way, where a person is hidden",
    "messages.FIND_WHAT_CAME_IN": "the same",
    "sends.GAUGES": "what is under way, counted up to a bound",
    "statuses.ORPHANS": "what no message was found for, counted up to a bound",
    "switches.SENT_KINDS": "so many messages at most, before somebody switches",
    "switches.SENT_SINCE": "what was sent in some minutes",
    "switches.UNDER_WAY": "what is under way, of all: little",
    "switches.WITHOUT_PHONE": "so many events at most, before somebody switches",
}
# Of the catalogue, of the login, of a sample of pages, or refused by their own conditions here.
CATALOGUE = {"logins", "partitions", "sizes", "upgrades"}

# What stands for a parameter of each type.
VALUES = {
    "uuid": f"'{BIG}'",
    "text": "'x'",
    "bigint": "0",
    "integer": "50",
    "smallint": "1",
    "boolean": "false",
    "bytea": "'x'",
    "json": "'{}'",
    "interval": "'1 day'",
    "date": "current_date",
    "name": "'events'",
    "timestamp with time zone": "now()",
    "double precision": "60",
    "numeric": "1",
}
NONE, ANY, LAST = "null", "'00000000-0000-0000-0000-000000000000'", str(2**63 - 1)
CHAT, PERSON, CONFIG = (f"md5('{text}')::uuid" for text in ("chat 0", "person 0", f"second {BIG}"))
RECEIVED = "array['message.received', 'message.echo']"
MESSAGES = {2: f"'{LAST_ID}'", 3: ANY, 4: "2000", 5: "51", 6: NONE, 7: NONE}
EVENTS = {2: LAST, 3: "0", 4: "500", 5: "51", 6: NONE, 7: RECEIVED}
# Where what stands for a type asks for nothing.
ARGUMENTS: dict[str, dict[int, str]] = {
    "audit.FORWARD": {3: "100000", 4: "500"},
    "audit.TRAIL": {2: "1", 3: LAST},
    "audit.TRAIL by action": {2: "1", 3: LAST, 5: "'nothing'"},
    "audit.TRAIL by actor": {2: "1", 3: LAST, 5: "'nobody'"},
    "audit.TRAIL by actor, outcome": {2: "1", 3: LAST, 5: "'nobody'", 6: "'done'"},
    "audit.TRAIL by config_id, action": {2: "1", 3: LAST, 6: "'changed'"},
    "audit.TRAIL by outcome": {2: "1", 3: LAST, 5: "'undone'"},
    "callback_history.COUNT_PARKED": {2: "1000"},
    "callback_history.LATEST": {2: NONE},
    "contact_pages.ALL": {2: NONE},
    "contact_pages.BY_ADDRESS": {2: NONE, 4: "'phone:10'"},
    "contact_pages.BY_ID": {2: PERSON},
    "contact_pages.BY_NAME": {2: NONE, 4: "'person'"},
    "contact_pages.BY_USERNAME": {2: NONE, 4: "'user10'"},
    "contact_pages.BY_USER_ID": {2: NONE},
    "deliveries.CLAIM": {2: ANY, 3: "48", 4: "16", 5: "array[]::uuid[]"},
    "parked.DUE_NOW": {2: ANY},
    "deliveries.FINISH": {5: "array['delivered']"},
    "deliveries.PENDING": {2: CHAT},
    "parked.REPLAY": {3: NONE, 4: NONE, 5: LAST},
    "deliveries.REPORT_GAP": {2: CHAT, 3: LAST},
    "events.READ_OF": {5: RECEIVED, 6: PERSON, 7: NONE},
    "events.READ_TYPES": {5: "array['message.edited']"},
    "inbound.LIST": {2: "'open'", 3: ANY},
    "messages.FIND": {5: "array[null]::uuid[]", 6: f"array[{CHAT}]", 7: "array['wamid.10']", 10: "array[true]"},
    "search.SENT": MESSAGES,
    "search.SENT_AS": {**MESSAGES, 8: "array['wamid.10']"},
    "search.SENT_AT": {**MESSAGES, 8: "'req_10'"},
    "search.SENT_BY": {**MESSAGES, 7: f"array[{CONFIG}]"},
    "search.SENT_FAILED": {**MESSAGES, 4: "300", 8: "array['Rejected', 'Throttled']"},
    "search.SENT_FOR": {**MESSAGES, 8: "'lead-3'"},
    "search.SENT_TO": {**MESSAGES, 8: PERSON, 9: NONE, 10: "'1970-01-01'", 11: "'9999-01-01'"},
    "search.SENT_WITH": {**MESSAGES, 4: "51", 8: "'http_503'"},
    "search.RECEIVED": EVENTS,
    "search.RECEIVED_AS": {**EVENTS, 8: "array[decode(md5('in.10'), 'hex')]"},
    "search.RECEIVED_FROM": {**EVENTS, 8: PERSON, 9: NONE},
    "timelines.EVENTS_ABOUT": {2: CHAT, 3: RECEIVED, 5: "array['message', 'id']"},
}


def value(kind: str) -> str:
    return f"array[{VALUES[kind[:-2]]}]::{kind}" if kind.endswith("[]") else f"{VALUES[kind]}::{kind}"


class Explainer:
    """Plans statements as the service does, and runs them, in a database that nothing of it is kept in."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connections: dict[str, asyncpg.Connection] = {}
        self._tables: dict[str, str] = {}

    async def __aenter__(self) -> "Explainer":
        for role in set(ROLES.values()):
            self._connections[role] = await asyncpg.connect(
                self._url, server_settings=session(f"ingress_{role}"), statement_cache_size=0
            )
            await self._connections[role].execute(f"set app.org_id = '{BIG}'")
        await self._find_tables()
        return self

    async def _find_tables(self) -> None:
        """Those that have grown, by the names of them and of their partitions."""
        worker = self._connections["worker"]
        rows = await worker.fetch(
            """select coalesce(p.relname, c.relname) as name, array_agg(c.relname::text) as parts
            from pg_class c left join pg_inherits i on i.inhrelid = c.oid left join pg_class p on p.oid = i.inhparent
            where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
                and has_table_privilege(coalesce(p.oid, c.oid), 'select') group by 1"""
        )
        for name, tables in rows:
            if await worker.fetchval(f"select count(*) from (select from {name} limit {GROWN}) counted") == GROWN:
                self._tables |= dict.fromkeys([name, *tables], name)

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections.values():
            await connection.close()

    async def costs(self, name: str) -> list[str]:
        """What is wrong with how the statement is run, by whoever may run it."""
        text, roles = STATEMENTS[name]
        return [found for role in sorted(roles) for found in await self.costs_to(role, name, text)]

    async def costs_to(self, role: str, name: str, text: str) -> list[str]:
        connection = self._connections[role]
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(f"prepare looked as {text}")
            kinds = await connection.fetchval(
                "select parameter_types::text[] from pg_prepared_statements where name = 'looked'"
            )
            given = ARGUMENTS.get(name, {})
            values = ", ".join(given.get(number) or value(kind) for number, kind in enumerate(kinds, 1))
            plan = await _plan(connection, f"execute looked {f'({values})' if kinds else ''}")
        finally:
            await transaction.rollback()
            await connection.execute("deallocate all")
        read: Counter[str] = Counter()
        whole = [found for node, parent in nodes(plan) if (found := self._read(node, parent, read))]
        whole += ["changes or locks rows, and leaves out partitions as it starts"] * prunes_at_its_start(plan)
        return whole + [f"{role} reads {rows} rows of {table}" for table, rows in read.items() if rows > MOST]

    def _read(self, node: dict[str, Any], parent: dict[str, Any], read: Counter[str]) -> str | None:
        """Count what a node reads, by table; what it reads the whole of."""
        table = self._tables.get(node.get("Relation Name") or node.get("Index Name", "").partition("_pkey")[0])
        if table is None:
            return None
        loops = node.get("Actual Loops", 0)
        rows = round((node.get("Actual Rows", 0) + node.get("Rows Removed by Filter", 0)) * loops)
        read[table] += rows if node["Node Type"] != "Bitmap Index Scan" else 0  # but what is read by it
        if "Index Cond" in node or "Recheck Cond" in node or "TID Cond" in node or node["Node Type"] == "ModifyTable":
            return None
        is_first_only = parent["Node Type"] == "Limit" or (loops and rows <= FIRST)
        if node["Node Type"] != "Seq Scan" and is_first_only:
            return None
        return f"reads the whole of {table} by {node.get('Index Name')}, {rows} rows"


async def _plan(connection: asyncpg.Connection, execution: str) -> dict[str, Any]:
    """How it was run; where its values are refused, how it would have been."""
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        found = await connection.fetchval(f"explain (analyze, timing off, format json) {execution}")
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError):
        await savepoint.rollback()
        found = await connection.fetchval(f"explain (format json) {execution}")
    plan: dict[str, Any] = json.loads(found)[0]["Plan"]
    return plan


def nodes(
    plan: dict[str, Any], parent: dict[str, Any] | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every node of a plan with the one above it, where partitions stand for their table."""
    yield plan, parent or plan
    is_through = plan["Node Type"] in ("Append", "Merge Append", "LockRows", "Result", "Subquery Scan") and parent
    for part in plan.get("Plans", ()):
        yield from nodes(part, parent if is_through else plan)


def prunes_at_its_start(plan: dict[str, Any]) -> bool:
    """Whether one that changes or locks rows leaves out partitions as it starts: `between` says why none may."""
    every = [node for node, _ in nodes(plan)]
    changes = any(node["Node Type"] in ("ModifyTable", "LockRows") for node in every)
    return changes and any(node.get("Subplans Removed", 0) for node in every)


@pytest.fixture(scope="module")
async def explainer(servers: EmbeddedServers) -> AsyncIterator[Explainer]:
    assert servers.database_url
    owner = await asyncpg.connect(servers.database_url)
    await owner.execute("create database plans")
    url = urlsplit(servers.database_url)._replace(path="/plans").geturl()
    await migrate(url)
    await seeded.fill(url)
    async with Explainer(url) as found:
        yield found
    await owner.execute("drop database plans with (force)")
    await owner.close()


@pytest.mark.parametrize("name", [name for name in STATEMENTS if name.partition(".")[0] not in CATALOGUE])
async def test_a_statement_reads_little_however_much_there_is(explainer: Explainer, name: str) -> None:
    """An exception that nothing needs fails as well."""
    found = await explainer.costs(name)
    assert bool(found) == (name in EXCEPTIONS), found


# One row an organization: a board that is about all of them reads them all.
OF_ALL = re.compile("reads the whole of (organizations|callbacks|figures_progress) ")
BOARDS = statements(BIG)


@pytest.mark.parametrize("where", BOARDS)
async def test_a_board_reads_little(explainer: Explainer, where: str) -> None:
    """Of tables that grow by what happens: those are looked at every minute, and by several people at night."""
    found = await explainer.costs_to("worker", where, BOARDS[where])
    assert [each for each in found if not OF_ALL.match(each)] == []
