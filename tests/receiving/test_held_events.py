"""Events that wait for a send: how many may, and what comes in at once in a large webhook."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ingress.dev.sandbox import HangAfterAccept, StatusPolicy
from ingress.dev.sandbox.meta.bodies import encode, envelope, status_item, statuses_value
from ingress.receiving.large_webhooks import is_large
from ingress.settings import Settings
from ingress.storage.statements.sending.messages import MAX_HELD

from ..gateway import Gateway, Organization, eventually, limit

TO = "+5511987654321"


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def under_way(organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    """A send that is not answered, nor will be: our id of it."""
    limit(monkeypatch, call_s=1.0)
    monkeypatch.setattr("ingress.sending.outcomes.HOLD_S", 0)
    number = organization.numbers[0]
    gateway.meta.set_statuses(number, StatusPolicy(statuses=()))
    await gateway.meta.script(number, HangAfterAccept())
    sent = (await organization.send({"to": TO, "body": "x"}, prefer="respond-async")).json["id"]
    await gateway.meta.wait_for(
        lambda: any(call.phone_number_id == number.phone_number_id for call in gateway.meta.sends)
    )
    return str(sent)


def statuses(organization: Organization, wamids: list[str], to: str = TO) -> Any:
    """One POST that says of each that it was delivered."""
    items = [status_item(wamid, "delivered", {"to": to}) for wamid in wamids]
    return envelope((organization.numbers[0], statuses_value(items)))


async def reported(organization: Organization) -> list[str]:
    return [
        event["data"]["message"]["provider_message_id"]
        for event in await organization.events(kind="message.status")
        if event["data"]["status"]["value"] == "delivered"
    ]


async def test_a_large_webhook_waits_like_a_small_one(
    organization: Organization, under_way: str, database: asyncpg.Connection
) -> None:
    """All of it, through several rounds: each once, in its order, when the send has ended."""
    wamids = [f"wamid.{number:04d}" for number in range(250)]
    body = statuses(organization, wamids)
    assert is_large(encode(body))
    assert (await organization.post_webhook(body)).status == 200
    held = "select count(*) from held_events where organization_id = $1"
    await eventually(lambda: database.fetchval(held, UUID(organization.id)), lambda count: count == len(wamids))
    assert await reported(organization) == []
    await organization.settled(under_way, "unknown")
    found = await eventually(lambda: reported(organization), lambda found: len(found) >= len(wamids))
    assert found == wamids
    assert await database.fetchval(held, UUID(organization.id)) == 0


async def test_no_more_than_so_many_wait(
    organization: Organization, under_way: str, database: asyncpg.Connection
) -> None:
    """Beyond that they come at once, as they are; those to other people always do."""
    await organization.post_webhook(statuses(organization, ["wamid.other"], "+5511900000000"))
    await eventually(lambda: reported(organization), lambda found: found == ["wamid.other"])
    await organization.post_webhook(statuses(organization, ["wamid.first"]))
    await database.execute(
        "insert into held_events select organization_id, sequence + place, type, config_id, conversation_id,"
        " account_id, provider_message_id || place, message_key || place, candidates, received_at, data, raw"
        " from held_events, generate_series(1, $2) as place where organization_id = $1",
        UUID(organization.id),
        MAX_HELD,
    )
    await organization.post_webhook(statuses(organization, ["wamid.beyond"]))
    assert await reported(organization) == ["wamid.other", "wamid.beyond"]
    await database.execute("delete from held_events where organization_id = $1", UUID(organization.id))
