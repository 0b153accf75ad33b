"""When something last went through a config, as our own traffic shows it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress import app
from ingress.accounts.activity import Activity
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements import health
from ingress.storage.statements.health import ConfigHealth

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually

BASE = "/integrations/whatsapp"


async def shown(organization: Organization, gateway: Gateway | None = None) -> list[datetime | None]:
    """Of each config, as a process shows it; of the active one everywhere the same, but for what came in between."""
    call = (gateway or organization.gateway).call
    configs = (await call("GET", f"{BASE}/provider/configs", key=organization.key)).json["configs"]
    current = (await call("GET", f"{BASE}/provider/current", key=organization.key)).json
    [active] = [config for config in configs if config["state"] == "active"]
    assert current["status"].get("last_activity") == current["last_activity"]
    if current["last_activity"] != active["last_activity"]:
        assert moment(current["last_activity"]) > moment(active["last_activity"])
    return [moment(config["last_activity"]) for config in configs]


def moment(text: str | None) -> Any:
    return datetime.fromisoformat(text) if text else None


def unseen(config_id: UUID) -> ConfigHealth:
    """A config of which the database knows nothing yet."""
    nothing = dict.fromkeys(ConfigHealth.__struct_fields__)
    return ConfigHealth(**{**nothing, "config_id": config_id})


async def live(organization: Organization) -> Any:
    """The first event of the status, which is the whole."""
    session, url = organization.gateway.session, f"{organization.gateway.url}{BASE}/status"
    async with session.get(url, headers={"authorization": f"Bearer {organization.key}"}) as answer:
        async for line in answer.content:
            if line.startswith(b"data: "):
                return msgspec.json.decode(line[6:])
    return None


async def test_what_comes_in_and_what_is_taken(organization: Organization) -> None:
    """Each config by its own; a send that nobody takes is none, nor is a webhook that says nothing new."""
    await organization.configure(active=False)
    assert await shown(organization) == [None, None]

    message = organization.gateway.meta.inbound(organization.numbers[1]).text("hello")
    assert (await organization.post_webhook(message, config=1)).status == 200
    idle, received = await shown(organization)
    assert (idle, received is not None) == (None, True)
    assert (await organization.post_webhook(message, config=1)).status == 200
    assert (await shown(organization))[1] == received

    before = datetime.now(UTC)
    assert (await organization.send()).status == 200
    [sent, _] = await shown(organization)
    assert sent is not None
    assert before <= sent <= datetime.now(UTC)
    in_status = [moment(config["last_activity"]) for config in (await live(organization))["configs"]]
    assert in_status[1] == received
    assert in_status[0] is not None
    assert in_status[0] >= sent


async def test_what_came_is_told_from_what_people_wrote_and_what_was_taken(organization: Organization) -> None:
    async def times() -> list[Any]:
        [config] = (await organization.call("GET", f"{BASE}/provider/configs")).json["configs"]
        return [config[name] for name in ("webhook_at", "received_at", "sent_at")]

    assert await times() == [None, None, None]
    sent = (await organization.send()).json
    _, received_at, sent_at = await times()
    assert (received_at, sent_at is not None) == (None, True)
    await organization.settled(sent["id"], "read")  # the simulator posts its statuses
    webhook_at, received_at, _ = await times()
    assert (webhook_at is not None, received_at) == (True, None)
    await organization.post_webhook(organization.gateway.meta.inbound(organization.numbers[0]).text("hello"))
    assert (await times())[1] >= webhook_at


async def test_other_processes_know_it_without_a_write_for_each_message(
    organization: Organization, settings: Settings
) -> None:
    """One row for each config, now and then; what came meanwhile is written the next time."""
    config = UUID(organization.id), UUID(organization.configs[0]["config_id"])
    connection = await asyncpg.connect(settings.database_url)
    row = "select xmin::text, sent_at from provider_health where organization_id = $1"
    before = await connection.fetchrow(row, config[0])
    async with Database(settings.database_url) as database:
        process = Activity(database)
        for _ in range(5):
            process.note("sent", [config])
        assert await connection.fetchrow(row, config[0]) == before
        known = process.latest(config[0], unseen(config[1])).last_activity
        await process.write()
        assert await shown(organization) == [known]
        process.note("sent", [config])
        await process.write()
        [later] = await shown(organization)
        assert later is not None
        assert known is not None
        assert later > known
        stored = msgspec.structs.replace(unseen(config[1]), sent_at=later)
        assert process.latest(config[0], stored).sent_at == later
    await connection.close()


async def test_what_is_not_written_yet_is_at_the_end(
    organization: Organization, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that ends as it should."""
    monkeypatch.setattr(app, "WRITE_EVERY_S", 3600.0)
    async with serving(settings) as url:
        first = Gateway(url, settings.platform_key, organization.gateway.session, organization.gateway.meta)
        body = {"to": "+5511987654321", "body": "Hello"}
        assert (await first.call("POST", "/send", body, key=organization.key)).status == 200
        [known] = await shown(organization, first)
    [elsewhere] = await shown(organization)
    assert elsewhere is not None
    assert known is not None
    assert elsewhere >= known


async def test_what_a_provider_says_counts_too(organization: Organization, settings: Settings) -> None:
    """Whichever is later: it may know of what did not come this way."""
    said = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "update whatsapp_provider_configs set session = json_build_object('is_connected', true,"
        " 'connection_quality', 'good', 'last_activity', $2::text) where organization_id = $1",
        UUID(organization.id),
        said.isoformat(),
    )
    await connection.close()
    assert (await organization.send()).status == 200
    assert await eventually(lambda: shown(organization)) == [said]


async def test_a_config_that_is_always_busy_is_written_once_a_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while it is written is for the next time: else the writing never ended."""
    config, written = (UUID(int=1), UUID(int=2)), 0

    async def busy(*_: object) -> None:
        nonlocal written
        written += 1
        if written < 10:
            process.note("sent", [config])

    monkeypatch.setattr(health, "noted", busy)
    async with Database(settings.database_url) as database:
        process = Activity(database)
        process.note("sent", [config])
        await process.write()
    assert written == 1
