"""One account in two configs, as while its credentials are renewed: wherever it appears, it is one account."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from ingress.dev.sandbox import ResetAfterAccept, StatusPolicy
from ingress.dev.sandbox.meta.bodies import envelope, status_item
from ingress.identifiers import account_id
from ingress.settings import Settings
from ingress.storage.statements import health
from ingress.storage.statements.configs import ConfigKey
from ingress.storage.statements.receiving import statuses
from providers.meta_business import MetaBusiness

from ..gateway import Gateway, Organization

OLD, NEW, OTHER = 0, 1, 2


@pytest.fixture
async def renewed(gateway: Gateway) -> Organization:
    """An active config of a number, a newer one of the same, and one of another number; all post no statuses."""
    organization = await gateway.organization()
    await organization.configure()
    await organization.configure(organization.numbers[OLD], active=False)
    await organization.configure(active=False)
    for number in organization.numbers:
        gateway.meta.set_statuses(number, StatusPolicy(statuses=()))
    return organization


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def acknowledge(organization: Organization, wamid: str, value: str, *, config: int) -> None:
    """A status without our correlation id, at the address of a config."""
    item = status_item(wamid, value, {"to": "+5511987654321"})
    body = envelope((organization.numbers[config], {"statuses": [item]}))
    assert (await organization.post_webhook(body, config=config)).status == 200


async def values(organization: Organization) -> list[Any]:
    """Of all statuses that its provider reported, as they came; ours is `sent`."""
    events = await organization.events(kind="message.status")
    return [value for event in events if (value := event["data"]["status"]["value"]) != "sent"]


@pytest.mark.parametrize("address", [OLD, NEW], ids=["old", "new"])
async def test_a_status_moves_the_message_at_whichever_address_it_comes_in(renewed: Organization, address: int) -> None:
    """And repeated at the other one it is no second event."""
    sent = (await renewed.send()).json
    assert sent["config_id"] == renewed.configs[OLD]["config_id"]
    for config in (address, NEW - address):
        await acknowledge(renewed, sent["provider_message_id"], "delivered", config=config)
    message = await renewed.message(sent["id"])
    assert (message["status"], message["config_id"]) == ("delivered", sent["config_id"])
    assert await values(renewed) == ["delivered"]


async def test_a_status_that_comes_before_our_own_answer(
    renewed: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_the_other_address(_: object, message: Any) -> None:
        await acknowledge(renewed, message.wamid, "read", config=NEW)

    monkeypatch.setattr(gateway.meta, "post_statuses", at_the_other_address)
    gateway.meta.set_statuses(renewed.numbers[OLD], StatusPolicy(before_answer=True))
    sent = (await renewed.send()).json
    message = await renewed.message(sent["id"])
    assert (message["status"], message["config_id"]) == ("read", renewed.configs[OLD]["config_id"])


async def test_a_status_that_came_in_the_moment_of_our_answer(renewed: Organization, sql: asyncpg.Connection) -> None:
    """Neither saw the other: the sweep finds them, as a message of the config that sent it."""
    organization = UUID(renewed.id)
    await acknowledge(renewed, "wamid.AT_ONCE", "read", config=NEW)
    sent = (await renewed.send()).json
    rename = """update messages set provider_message_id = 'wamid.AT_ONCE', message_key = 'wamid.AT_ONCE'
        where organization_id = $1"""
    await sql.execute(rename, organization)
    await statuses.sweep(sql)
    message = await renewed.message(sent["id"])
    assert (message["status"], message["config_id"]) == ("read", sent["config_id"])


async def test_a_lost_answer_is_settled_for_the_config_that_was_called(renewed: Organization, gateway: Gateway) -> None:
    """By a status at the other one's address, where the number's webhook was set to last."""
    number = renewed.numbers[OLD]
    assert gateway.meta.webhook_url(number) == renewed.configs[NEW]["webhook_url"]
    gateway.meta.set_statuses(number, StatusPolicy(statuses=("delivered",)))
    await gateway.meta.script(number, ResetAfterAccept())
    sent = (await renewed.send(prefer="wait=5")).json
    message = await renewed.settled(sent["id"], "delivered")
    assert message["config_id"] == renewed.configs[OLD]["config_id"]


async def test_a_webhook_repeated_at_the_other_address_is_no_second_event(
    renewed: Organization, gateway: Gateway
) -> None:
    """One after the other, and both at once."""
    people = gateway.meta.inbound(renewed.numbers[OLD])
    for together in (False, True):
        hook = people.text("once")
        posts = [renewed.post_webhook(hook, config=config) for config in (OLD, NEW)]
        answers = await asyncio.gather(*posts) if together else [await post for post in posts]
        assert [answer.status for answer in answers] == [200, 200]
    assert len(await renewed.events(kind="message.received")) == 2


async def test_a_replay_of_what_the_other_address_has_received(
    renewed: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put aside at one, read at the other: replayed, it is known."""
    hook = gateway.meta.inbound(renewed.numbers[OLD]).text("once")
    with monkeypatch.context() as patch:
        patch.setattr(MetaBusiness, "parse", lambda self, hook: 1 / 0)
        assert (await renewed.post_webhook(hook, config=NEW)).status == 200
    assert (await renewed.post_webhook(hook, config=OLD)).status == 200
    [item] = (await renewed.call("GET", "/quarantine")).json["quarantine"]
    replayed = await renewed.call("POST", f"/quarantine/{item['id']}/replay")
    assert (replayed.status, replayed.json) == (200, {"state": "replayed", "events": 0})
    assert len(await renewed.events(kind="message.received")) == 1


async def test_another_account_is_another(renewed: Organization) -> None:
    """The same id of a message, or of a fact, at another number of the organization names something else."""
    sent = (await renewed.send()).json
    for config in (OTHER, NEW):
        await acknowledge(renewed, sent["provider_message_id"], "delivered", config=config)
        moved = (await renewed.message(sent["id"]))["status"]
        assert moved == {OTHER: "sent", NEW: "delivered"}[config]
    assert await values(renewed) == ["delivered", "delivered"]


async def test_a_message_from_before_accounts_were_known(renewed: Organization, sql: asyncpg.Connection) -> None:
    """Or before the number was: it is the config's own."""
    sent = (await renewed.send()).json
    await sql.execute("update messages set account_id = null where organization_id = $1", UUID(renewed.id))
    await acknowledge(renewed, sent["provider_message_id"], "delivered", config=OLD)
    assert (await renewed.message(sent["id"]))["status"] == "delivered"


async def test_acknowledgements_at_the_other_address_are_no_silence(
    renewed: Organization, sql: asyncpg.Connection
) -> None:
    """Or the account would be taken for one whose messages arrive nowhere."""
    sent = (await renewed.send()).json
    await acknowledge(renewed, sent["provider_message_id"], "delivered", config=NEW)
    ever = {"attempts_since": UUID(int=0), "sent_since": UUID(int=0), "sent_until": UUID(int=2**128 - 1)}
    [found] = (await health.traffic(sql, [ConfigKey(UUID(renewed.id), UUID(sent["config_id"]))], **ever)).values()
    assert (found.sent, found.acknowledged) == (1, 1)


def test_what_an_account_is_known_by() -> None:
    organization, config = uuid4(), uuid4()
    known = account_id(organization, config, "one", "+15550001111")
    assert known == account_id(organization, uuid4(), "one", "+15550001111")
    others = {
        account_id(uuid4(), config, "one", "+15550001111"),
        account_id(organization, config, "two", "+15550001111"),
        account_id(organization, config, "one", "+15550001112"),
        account_id(organization, config, "one", None),
    }
    assert len(others | {known}) == 5
    assert account_id(organization, config, "one", None) == config
