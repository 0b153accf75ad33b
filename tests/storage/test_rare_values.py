"""What is rare in an organization is found by its index, however much else the organization has."""

import re
from typing import Any
from uuid import UUID

import pytest

from ingress.settings import Settings
from ingress.storage.connections import APP
from ingress.storage.database import _session as session
from ingress.storage.statements import audit, events
from ingress.storage.statements.reports import notifications, search

from ..gateway import Organization
from ..populated import connected

ROWS = 30_000
MANY_EVENTS = f"""
insert into events (organization_id, sequence, type, config_id, conversation_id, data)
select $1, n, case when n % 2 = 0 then 'message.received' else 'message.status' end, $1, $1, '{{}}'
from generate_series(1, {ROWS}) n"""
MANY_ENTRIES = f"""
insert into provider_audit_log (organization_id, id, at, action, actor, outcome, hash)
select $1, n, now(), 'fallback_changed', 'platform', 'done', '' from generate_series(100, {ROWS}) n"""
LAST = 2**63 - 1
# Stands for the id of the organization, which is that of its conversation here.
ORGANIZATION = "the organization"
STATEMENTS = {
    "events of a type": (events.READ_TYPES, ["0", "50", "false", "array['provider.rolled_back']"]),
    "events of a type in a conversation": (
        events.READ_OF,
        ["0", "50", "false", "array['message.edited']", "null", f"'{ORGANIZATION}'"],
    ),
    "what came in": (search.RECEIVED, [str(LAST), "0", "2000", "51", "null", "array['message.edited']"]),
    "what came in from somebody": (
        search.RECEIVED_FROM,
        [str(LAST), "0", "2000", "51", "null", "array['message.edited']", "null", f"'{ORGANIZATION}'"],
    ),
    "notifications": (notifications.NEWEST, ["'somebody'", "50"]),
    "entries of an actor": (audit._by(audit.TRAIL, "actor"), ["1", str(LAST), "50", "'nobody'"]),
    "entries of a config": (
        audit._by(audit.TRAIL, "config_id", "action"),
        ["1", str(LAST), "50", f"'{UUID(int=0)}'", "'activated'"],
    ),
    "entries of an outcome": (audit._by(audit.TRAIL, "outcome"), ["1", str(LAST), "50", "'undone'"]),
    "entries of a kind": (audit._by(audit.TRAIL, "action"), ["1", str(LAST), "50", "'nothing'"]),
}


@pytest.mark.parametrize("what", STATEMENTS)
async def test_what_is_rare_is_found_by_its_index(settings: Settings, organization: Organization, what: str) -> None:
    """Where one organization has all there is, and most of that is alike."""
    statement, arguments = STATEMENTS[what]
    given = ", ".join(arguments).replace(ORGANIZATION, organization.id)
    async with connected(settings) as connection:
        transaction = connection.transaction()
        await transaction.start()  # taken back at the end
        await connection.execute("set local session_replication_role = replica")  # the trail is append-only
        for table, fill in {"events": MANY_EVENTS, "provider_audit_log": MANY_ENTRIES}.items():
            await connection.execute(f"delete from {table}")
            await connection.execute(fill, UUID(organization.id))
        await connection.execute("analyze events, provider_audit_log")
        for name, setting in session(APP).items():  # as the service plans it
            await connection.execute("select set_config($1, $2, true)", name, setting)
        await connection.execute(f"set local app.org_id = '{organization.id}'")
        await connection.execute(f"prepare looked as {statement}")
        plan: Any = await connection.fetch(
            f"explain (analyze, timing off) execute looked ('{organization.id}', {given})"
        )
        text = "\n".join(row[0] for row in plan)
        assert "Index" in text
        assert sum(map(int, re.findall(r"Rows Removed by Filter: (\d+)", text))) < 1000, text
        await transaction.rollback()
