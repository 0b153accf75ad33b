"""`ingress retention`: as the service's login and as the owner, on a database of its own."""

from uuid import UUID

import asyncpg
import pytest

from ingress.identifiers import LAST_ID, new_id
from ingress.retention.report import size
from ingress.storage.migration import migrate
from ingress.storage.statements.lifetime import retention
from ingress.storage.statements.lifetime.retention import OwnPeriods
from ingress.storage.vault import generate_key

from ..storage.conftest import Logins
from .test_run import ingress


@pytest.fixture
async def stored(logins: Logins) -> tuple[Logins, UUID]:
    """A database with 1,000 bodies, 900 of which are of one organization that keeps them for 7 days."""
    await migrate(logins.owner, logins.service_name)
    connection = await asyncpg.connect(logins.superuser)
    large, small = new_id(), new_id()
    await connection.execute("insert into organizations (id, name) values ($1, 'large'), ($2, 'small')", large, small)
    insert = """insert into inbound_webhooks (organization_id, config_id, headers, body)
        select case when n <= 900 then $1::uuid else $2::uuid end, $1, '{}', 'body' from generate_series(1, 1000) n"""
    await connection.execute(insert, large, small)
    await connection.execute("analyze inbound_webhooks")
    await retention.set_own(connection, large, OwnPeriods(bodies_days=7))
    insert = "insert into idempotency_keys (organization_id, key_hash, message_id) values ($1, $2, $3)"
    await connection.execute(insert, small, b"old", UUID(int=1))
    await connection.execute(insert, small, b"new", LAST_ID)
    await connection.close()
    return logins, large


async def test_what_is_kept_is_shown(stored: tuple[Logins, UUID]) -> None:
    """To the service's login, and to the owner where that is the only one that is given."""
    those, large = stored
    for given in (
        {"DATABASE_URL": those.service, "REDIS_URL": "redis://unused"},
        {"DATABASE_OWNER_URL": those.owner},
    ):
        done = ingress("retention", INGRESS_RETENTION_EVENTS_DAYS="60", **given)
        assert done.returncode == 0, done.stderr
        rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
        assert rows["table"] == ["table", "days", "partitions", "rows", "size", "goes", "next", "at"]
        assert (rows["inbound_webhooks"][1], rows["inbound_webhooks"][3]) == ("30", "1000")
        assert rows["inbound_webhooks"][6].startswith("inbound_webhooks_p")
        assert [rows[name][1] for name in ("messages", "events", "message_statuses")] == ["60", "60", "180"]
        assert rows["contacts"][1:3] == ["until", "erased"]
        owners = [line.split()[0] for line in done.stdout.partition("sample:")[2].splitlines()[2:]]
        assert len(owners) == 2
        assert owners[0] == str(large)


async def test_what_is_kept_of_one_organization(stored: tuple[Logins, UUID]) -> None:
    those, large = stored
    done = ingress("retention", "--organization", str(large), DATABASE_URL=those.service, REDIS_URL="redis://unused")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["inbound_webhooks"][1] == "7"
    assert rows["inbound_webhooks"][3] == "kB"
    assert rows["events"] == ["events", "90", "0", "B"]


async def test_what_is_past_its_time_goes_now(stored: tuple[Logins, UUID]) -> None:
    those, _ = stored
    given = {"DATABASE_URL": those.service, "REDIS_URL": "redis://unused", "INGRESS_ENCRYPTION_KEYS": generate_key()}
    done = ingress("retention", "--apply", **given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("idempotency_keys: deleted 1 rows\n")
    assert ingress("retention", "--apply", **given).stdout == "Nothing is past its time.\n"
    connection = await asyncpg.connect(those.superuser)
    await connection.execute("update retention_turn set lease_id = $1, leased_until = now() + interval '1 h'", new_id())
    await connection.close()
    done = ingress("retention", "--apply", **given)
    assert (done.returncode, done.stdout) == (1, "Another process is at it.\n")
    del given["INGRESS_ENCRYPTION_KEYS"]
    done = ingress("retention", "--apply", **given)
    assert done.returncode == 1
    assert done.stderr.startswith("ingress: INGRESS_ENCRYPTION_KEYS: ")


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_999, "1000 kB"), (2.1e9, "2.1 GB")]
)
def test_sizes_are_for_people(count: float, shown: str) -> None:
    assert size(int(count)) == shown
