"""Another encryption key takes the place of one, while the service goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import pytest
import redis.asyncio

from ingress.cli import encryption_keys
from ingress.encryption import rotation
from ingress.encryption.sealed import EVERYTHING
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements import sealed
from ingress.storage.vault import Vault

from ..cli.test_run import ingress
from ..gateway import Gateway, Organization, eventually
from ..storage.conftest import Logins
from .conftest import NEW, NEW_ID, OLD, OLD_ID, Serving, insert_configs, with_secrets

BOTH = f"{NEW},{OLD}"
CONFIG_DATA = next(kind for kind in EVERYTHING if kind.column.name == "config_data")

# ---------------------------------------------------------------- what is sealed

# Signed with a key, and known again by what is left of it.
TRAIL = {"provider_audit_log.hash", "organizations.audit_hash", "organizations.audit_gone_hash"}
TRAIL |= {"organizations.audit_checked_hash"}
# No key has made it, or nothing is to be opened or verified with the key itself: hashes, and what others wrote.
OTHERS = {
    "api_keys.secret_hash",
    "console_sessions.id_hash",
    "console_sessions.platform_hash",
    "events.raw",
    "held_events.raw",
    "idempotency_keys.key_hash",
    "inbound_dedup.key_hash",
    "inbound_webhooks.body",
    "inbound_webhooks.headers",
    "messages.request_hash",
    "provider_apps.signing_keys",
    "provider_apps.webhook_token_hash",
    "quarantine.body",
    "unread_webhooks.body",
    "unread_webhooks.headers",
    "whatsapp_provider_configs.signing_keys",
    "whatsapp_provider_configs.webhook_token_hash",
}
COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, null) as kind
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace = 'public'::regnamespace
    and a.attnum > 0 and not a.attisdropped"""


async def test_nothing_that_is_sealed_is_missing_from_the_list(
    serving_with: Serving, migrated: Logins, settings: Settings
) -> None:
    """Every column of bytes is known to be sealed, or not to be; and nothing else in a used database has a key's id."""
    async with serving_with(OLD) as gateway:
        organization = await with_secrets(gateway)
        assert (await organization.send()).status == 200
    superuser = await asyncpg.connect(migrated.superuser)
    columns = {f"{row['relname']}.{row['attname']}": row["kind"] for row in await superuser.fetch(COLUMNS)}
    listed = {str(kind.column) for kind in EVERYTHING}
    assert {name for name, kind in columns.items() if kind.startswith("bytea")} == listed | TRAIL | OTHERS
    # As text a record of bytes is \x01 or \x, the length of the key's id, and that id, all in hex.
    id = f"{len(OLD_ID):02x}{OLD_ID.encode().hex()}"
    found = set()
    for name in columns:
        table, _, column = name.partition(".")
        looked = f"select exists (select from {table} where {column}::text ~ $1)"
        if await superuser.fetchval(looked, rf"\\x(01)?{id}|{OLD_ID}|{id[2:]}"):
            found.add(name)
    await superuser.close()
    assert found <= listed | TRAIL | {"retired_keys.key_id"}
    assert {name for name in listed if not name.endswith(("gone_seal", "checked_seal"))} <= found
    async with redis.asyncio.from_url(settings.redis_url) as client:
        async for key in client.scan_iter():
            assert OLD_ID.encode() not in key + (await client.dump(key) or b"")


# ---------------------------------------------------------------- the rotation


class Done(NamedTuple):
    """Of a command."""

    text: str
    status: int


async def keys(migrated: Logins, settings: Settings, given: str, *, rotate: bool = True) -> Done:
    """`ingress keys`, or `ingress keys rotate`, with the keys *given*."""
    own = msgspec.structs.replace(settings, database_url=migrated.service, encryption_keys=given)
    lines, status = await encryption_keys._run(own, rotate=rotate)
    return Done("\n".join(lines), status)


@asynccontextmanager
async def sending(organization: Organization) -> AsyncIterator[list[int]]:
    """The statuses of sends, one after the other, meanwhile."""
    statuses, is_over = list[int](), asyncio.Event()

    async def send() -> None:
        while not is_over.is_set():
            statuses.append((await organization.send()).status)

    task = asyncio.create_task(send())
    yield statuses
    is_over.set()
    await task


async def test_sends_go_on_while_everything_is_sealed_anew_and_then_the_old_key_goes(
    serving_with: Serving, migrated: Logins, settings: Settings
) -> None:
    superuser = await asyncpg.connect(migrated.superuser)
    async with serving_with(OLD) as gateway:
        organization = await with_secrets(gateway)
        unused = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json["key"]
        await insert_configs(superuser, 300)
        begin = await keys(migrated, settings, OLD)
        assert (begin.status, begin.text.startswith(f"Everything is sealed with {OLD_ID}.")) == (0, True)
        refused = await keys(migrated, settings, f"{OLD},{NEW}")
        assert (refused.status, "0 of 1 processes have it" in refused.text) == (1, True), refused.text
    async with serving_with(f"{OLD},{NEW}") as gateway:
        await everywhere(gateway)
        advised = await keys(migrated, settings, f"{OLD},{NEW}")
        assert (advised.status, "Move it to the front" in advised.text) == (1, True), advised.text
        refused = await keys(migrated, settings, BOTH)
        assert (refused.status, f"do not seal with {NEW_ID}" in refused.text) == (1, True), refused.text
    async with serving_with(BOTH) as gateway:
        await everywhere(gateway)
        organization.gateway = gateway
        environment = {
            "DATABASE_URL": migrated.service,
            "REDIS_URL": settings.redis_url,
            "INGRESS_ENCRYPTION_KEYS": BOTH,
        }
        async with sending(organization) as statuses:
            ran = await asyncio.to_thread(ingress, "keys", "rotate", **environment)
        assert (ran.returncode, f"All of it opens. {OLD_ID} can go" in ran.stdout) == (0, True), ran
        assert set(statuses) == {200}
        again = await keys(migrated, settings, BOTH)
        assert (again.status, again.text.startswith("0 records were sealed anew")) == (0, True), again
    async with serving_with(NEW) as gateway:
        organization.gateway = gateway
        await is_all_there(organization, unused)
        shown = await keys(migrated, settings, NEW, rotate=False)
    await superuser.close()
    assert shown.status == 0
    rows = [line.split() for line in shown.text.splitlines() if line]
    assert {row[0] for row in rows} == {"key", NEW_ID}
    assert rows[1][3:] == ["1", "of", "1", "1", "of", "1"]


async def everywhere(gateway: Gateway) -> None:
    """Until the process says which keys it has."""
    await eventually(lambda: gateway.call("GET", "/readyz"), lambda answer: answer.status == 200)


async def is_all_there(organization: Organization, unused: str) -> None:
    """What was made with the key that is gone."""
    gateway = organization.gateway
    assert (await organization.send()).status == 200
    assert (await gateway.call("GET", "/events", key=unused)).status == 200
    assert (await organization.call("GET", "/callback")).json["secrets"]
    verified = (await organization.call("GET", "/integrations/whatsapp/audit/verify")).json
    assert verified["intact"], verified
    token = organization.configs[0]["webhook_url"].partition("/webhooks/")[2]
    organization.configs[0]["webhook_url"] = f"{gateway.url}/webhooks/{token}"
    people = gateway.meta.inbound(organization.numbers[0])
    assert (await organization.post_webhook(people.text("Hello", phone="+5511987654321"))).status == 200


async def test_an_old_key_that_has_nothing_left_but_hashes_is_kept_before_it_goes(
    serving_with: Serving, migrated: Logins, settings: Settings
) -> None:
    """All that it had sealed was changed since: API keys and audit entries need what is left of it all the same."""
    async with serving_with(OLD) as gateway:
        await everywhere(gateway)
        organization = await gateway.organization()
    async with serving_with(BOTH) as gateway:
        await everywhere(gateway)
        organization.gateway = gateway
        unused = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json["key"]
        rotated = await keys(migrated, settings, BOTH)
        assert (rotated.status, f"{OLD_ID} can go" in rotated.text) == (0, True), rotated.text
    async with serving_with(NEW) as gateway:
        organization.gateway = gateway
        for key in (organization.key, unused):
            assert (await gateway.call("GET", "/events", key=key)).status == 200
        verified = (await organization.call("GET", "/integrations/whatsapp/audit/verify")).json
        assert verified["intact"], verified


async def test_who_changes_a_secret_meanwhile_has_the_last_word(migrated: Logins) -> None:
    """Also one who has only begun to: the row is left to them, nobody waits, and the old key may not go yet."""
    superuser = await asyncpg.connect(migrated.superuser)
    await insert_configs(superuser, 3)
    vault = Vault(BOTH)
    async with Database(migrated.service) as database, database.worker() as connection:
        rows = await sealed.page(connection, CONFIG_DATA.column, None)
        anew = [(row, CONFIG_DATA.renewed(vault, row)) for row in rows]
        edit = "update whatsapp_provider_configs set config_data = $1 where id = $2"
        edited = vault.seal(b"edited", *map(str, rows[0].key), "config_data")
        await superuser.execute(edit, edited, rows[0].key[1])
        async with superuser.transaction():
            await superuser.execute(edit, rows[1].record, rows[1].key[1])
            assert await sealed.renew(connection, CONFIG_DATA.column, anew) == 1
        stored = {row.key: row.record for row in await sealed.page(connection, CONFIG_DATA.column, None)}
    await superuser.close()
    assert stored == {rows[0].key: edited, rows[1].key: rows[1].record, rows[2].key: anew[2][1]}


@pytest.mark.parametrize("damage", ["config_data = 'x'", "webhook_token = config_data"])
async def test_the_old_key_stays_while_anything_needs_it(migrated: Logins, settings: Settings, damage: str) -> None:
    """What does not open is named by its place, and nothing of it is shown."""
    superuser = await asyncpg.connect(migrated.superuser)
    await insert_configs(superuser, 2)
    damaged = await superuser.fetchval("select id from whatsapp_provider_configs limit 1")
    await superuser.execute(f"update whatsapp_provider_configs set {damage} where id = $1", damaged)
    await superuser.close()
    done = await keys(migrated, settings, BOTH)
    assert done.status == 1
    assert f"{damaged} does not open" in done.text or "put it back" in done.text
    assert f"{OLD_ID} can go" not in done.text


async def test_a_trail_that_was_tampered_with_is_not_signed_anew(
    serving_with: Serving, migrated: Logins, settings: Settings
) -> None:
    async with serving_with(OLD) as gateway:
        organization = UUID((await gateway.organization()).id)
    superuser = await asyncpg.connect(migrated.superuser)
    await superuser.execute("update organizations set audit_entries = 1 where id = $1", organization)
    before = await superuser.fetchval("select audit_seal from organizations where id = $1", organization)
    done = await keys(migrated, settings, BOTH)
    assert (done.status, f"organizations.audit_seal of {organization} does not open" in done.text) == (1, True)
    assert await superuser.fetchval("select audit_seal from organizations where id = $1", organization) == before
    await superuser.close()


async def test_what_was_sealed_with_a_key_that_is_gone_stops_it(migrated: Logins, settings: Settings) -> None:
    superuser = await asyncpg.connect(migrated.superuser)
    await insert_configs(superuser, 2)
    await superuser.close()
    for rotate in (False, True):
        done = await keys(migrated, settings, NEW, rotate=rotate)
        assert (done.status, OLD_ID in done.text, "not in INGRESS_ENCRYPTION_KEYS" in done.text) == (
            1,
            True,
            True,
        )


async def test_it_goes_on_where_it_was_broken_off(migrated: Logins) -> None:
    """What has the newest key already is passed over."""
    superuser = await asyncpg.connect(migrated.superuser)
    await insert_configs(superuser, sealed.PAGE + 1)
    await superuser.close()
    async with Database(migrated.service) as database:
        seen = list[int]()

        def stop(count: int) -> None:
            seen.append(count)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            await rotation.renew(database, Vault(BOTH), stop)
        assert (await rotation.look(database)).by(
            NEW_ID
        ) == sealed.PAGE + 1  # one page, and what is left of the old key
        assert await rotation.renew(database, Vault(BOTH)) == sealed.PAGE + 2
        made = await rotation.look(database, Vault(NEW))
    assert (made.by(OLD_ID), made.unopened) == (0, [])
