"""Large webhooks: acknowledged at once, read later, in order; and a flood of them is its sender's trouble alone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from statistics import median
from time import monotonic
from typing import Any, cast
from uuid import uuid4

import asyncpg
import pytest

from ingress import metrics
from ingress.dev.sandbox import CrmSimulator
from ingress.dev.sandbox.meta.bodies import encode
from ingress.health.gauges import watch_gauges
from ingress.receiving import completion, large_webhooks, normalise
from ingress.settings import Settings
from ingress.storage.database import Database, StoreUnavailable
from ingress.storage.statements.receiving import unread
from providers import _values
from providers.meta_business import MetaBusiness

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nobody reads what is stored to be read later, until `undo`."""

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(unread, "claim", nothing)
    return monkeypatch


def statuses(organization: Organization, count: int, mark: str = "wamid.") -> bytes:
    """One webhook with as many statuses, each of a message of its own that nobody sent."""
    return webhook(organization, statuses=[{"id": f"{mark}{number}", "status": "read"} for number in range(count)])


def webhook(organization: Organization, **lists: Any) -> bytes:
    number = organization.numbers[0]
    value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": number.phone_number_id}, **lists}
    entry = {"id": number.waba_id, "changes": [{"field": "messages", "value": value}]}
    return encode({"object": "whatsapp_business_account", "entry": [entry]})


def ids_of(events: list[Any]) -> list[str]:
    return [event["data"]["status"]["provider_message_id"] for event in events]


async def unread_of(connection: asyncpg.Connection, organization: Organization) -> int:
    count: int = await connection.fetchval(
        "select count(*) from unread_webhooks where organization_id = $1", organization.id
    )
    return count


# ---------------------------------------------------------------- acknowledged at once, read later


async def test_a_large_webhook_is_read_in_slices(
    organization: Organization, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events appear when all of them are there, in its order; its body ends where all bodies do."""
    monkeypatch.setattr(normalise, "SLICE_EVENTS", 100)
    body = statuses(organization, 1_050)
    for _ in range(2):  # repeated, it is known
        assert (await organization.post_webhook(body)).status == 200
        found = await eventually(lambda: organization.events(kind="message.status"))
        assert ids_of(found) == [f"wamid.{number}" for number in range(1_050)]
        await eventually(lambda: unread_of(connection, organization), lambda count: count == 0)
    kept = await connection.fetch("select body from inbound_webhooks where organization_id = $1", organization.id)
    assert [row["body"] for row in kept] == [body, body]


async def test_what_a_dead_process_began_another_ends(
    organization: Organization, settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it stored is not stored twice, and nobody sees a part of a webhook."""
    monkeypatch.setattr(normalise, "SLICE_EVENTS", 100)
    renew, slices = unread.renew, 0

    async def dying(*lease: Any) -> bool:
        nonlocal slices
        slices += 1
        if slices > 3:
            raise RuntimeError("dead")
        return await renew(*lease)

    with monkeypatch.context() as patch:
        patch.setattr(unread, "renew", dying)
        assert (await organization.post_webhook(statuses(organization, 1_050))).status == 200
        await eventually(lambda: slices > 3)
    assert await organization.events(kind="message.status") == []
    stored = "select count(*) from events where organization_id = $1 and type = 'message.status'"
    assert await connection.fetchval(stored, organization.id) == 300
    await connection.execute(
        "update unread_webhooks set leased_until = now() where organization_id = $1", organization.id
    )
    async with serving(settings):
        found = await eventually(lambda: organization.events(kind="message.status"))
    assert ids_of(found) == [f"wamid.{number}" for number in range(1_050)]


async def test_a_reader_whose_lease_ran_out_stops(
    organization: Organization, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has it then, and stores what is left."""
    monkeypatch.setattr(normalise, "SLICE_EVENTS", 500)
    renew, refused = unread.renew, 0

    async def robbed(reader: asyncpg.Connection, *lease: Any) -> bool:
        nonlocal refused
        if not refused:
            await connection.execute(
                "update unread_webhooks set lease_id = null, leased_until = null where organization_id = $1", lease[0]
            )
        kept = await renew(reader, *lease)
        refused += not kept
        return kept

    monkeypatch.setattr(unread, "renew", robbed)
    assert (await organization.post_webhook(statuses(organization, 1_050))).status == 200
    found = await eventually(lambda: organization.events(kind="message.status"))
    assert (len(found), refused) == (1_050, 1)


async def test_a_config_stays_until_what_it_was_sent_is_read(
    organization: Organization, settings: Settings, connection: asyncpg.Connection, idle: pytest.MonkeyPatch
) -> None:
    """Its provider got a 200, and nobody could read it any more."""
    path = f"/integrations/whatsapp/provider/configs/{organization.configs[0]['config_id']}"
    assert (await organization.post_webhook(statuses(organization, 1_050))).status == 200
    await organization.configure()
    refused = await organization.call("DELETE", path)
    assert (refused.status, refused.json["code"]) == (409, "webhooks_unread")
    idle.undo()
    async with serving(settings):
        await eventually(lambda: unread_of(connection, organization), lambda count: count == 0)
    assert (await organization.call("DELETE", path)).status == 204
    assert len(await organization.events(kind="message.status")) == 1_050


async def test_what_kills_its_readers_is_put_aside(
    organization: Organization, settings: Settings, connection: asyncpg.Connection, idle: pytest.MonkeyPatch
) -> None:
    body = statuses(organization, 1_050)
    assert (await organization.post_webhook(body)).status == 200
    await connection.execute("update unread_webhooks set tries = 10 where organization_id = $1", organization.id)
    idle.undo()
    async with serving(settings):
        await eventually(lambda: unread_of(connection, organization), lambda count: count == 0)
    [item] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    assert (item["reason"], item["size_bytes"]) == ("parser_failed", len(body))
    assert await organization.events(kind="message.status") == []
    # A person reads it again all the same.
    replayed = await organization.call("POST", f"/quarantine/{item['id']}/replay")
    assert (replayed.status, replayed.json) == (200, {"state": "replayed", "events": 1_050})
    assert len(await organization.events(kind="message.status")) == 1_050


async def test_one_that_cannot_be_read_is_put_aside(
    organization: Organization, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MetaBusiness, "parse", lambda self, hook: 1 / 0)
        assert (await organization.post_webhook(statuses(organization, 1_050))).status == 200
        await eventually(lambda: unread_of(connection, organization), lambda count: count == 0)
    [item] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    assert item["reason"] == "parser_failed"


async def test_a_slice_that_the_database_refuses_costs_no_other(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body is put aside, as that of a small webhook is, for what was in that slice."""
    monkeypatch.setattr(normalise, "SLICE_EVENTS", 500)
    monkeypatch.setattr(completion, "MAX_ID_CHARACTERS", 100_000)
    monkeypatch.setattr(_values, "MAX_WORD", 100_000)
    items = [{"id": f"wamid.{number}", "status": "read"} for number in range(1_200)]
    items[700]["id"] = "".join(chr(0x4E00 + 7 * number % 20_000) for number in range(5_000))
    assert (await organization.post_webhook(webhook(organization, statuses=items))).status == 200
    found = await eventually(lambda: organization.events(kind="message.status"))
    assert ids_of(found) == [f"wamid.{number}" for number in (*range(500), *range(1_000, 1_200))]
    [item] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    assert item["reason"] == "refused_by_store"


async def test_how_much_is_unread_is_shown(
    organization: Organization, settings: Settings, connection: asyncpg.Connection, idle: pytest.MonkeyPatch
) -> None:
    assert (await organization.post_webhook(statuses(organization, 1_050))).status == 200
    await connection.execute(
        "update unread_webhooks set received_at = now() - interval '90 s' where organization_id = $1", organization.id
    )
    async with Database(settings.database_url) as database:
        await watch_gauges(database)
    assert metrics.unread._value.get() >= 1
    assert 90 <= metrics.unread_oldest._value.get() < 1000
    await connection.execute("delete from unread_webhooks where organization_id = $1", organization.id)


# ---------------------------------------------------------------- in order


@pytest.mark.usefixtures("quick_relay")
async def test_nothing_overtakes_a_webhook_that_is_not_read(
    organization: Organization,
    crm: CrmSimulator,
    settings: Settings,
    connection: asyncpg.Connection,
    idle: pytest.MonkeyPatch,
) -> None:
    """What came later, to another process even, neither appears nor is delivered before it."""
    callback = await organization.call("PUT", "/callback", {"url": crm.url_for(organization.id)})
    crm.set_secret(callback.json["secret"], endpoint=organization.id)
    hook = organization.gateway.meta.inbound(organization.numbers[0])
    messages = [
        hook.text(f"{number} {'x' * 100}", phone="+5511900000001")["entry"][0]["changes"][0]["value"]["messages"][0]
        for number in range(200)
    ]
    assert (await organization.post_webhook(webhook(organization, messages=messages))).status == 200
    later = hook.text("later", phone="+5511900000001")
    metadata = {"phone_number_id": organization.numbers[0].phone_number_id}  # the same conversation: no number shown
    later["entry"][0]["changes"][0]["value"]["metadata"] = metadata
    async with serving(settings) as elsewhere:
        url = organization.configs[0]["webhook_url"]
        organization.configs[0]["webhook_url"] = url.replace(organization.gateway.url, elsewhere)
        assert (await organization.post_webhook(later)).status == 200
        assert await organization.events(kind="message.received") == []
        # The relay has looked, and left it for later.
        await eventually(
            lambda: connection.fetchval(
                "select count(*) from delivery_queues q join events e using (organization_id, conversation_id)"
                " where q.organization_id = $1 and e.type = 'message.received' and q.lease_id is null"
                " and q.due_at > e.created_at + interval '0.2 s'",
                organization.id,
            )
        )
        idle.undo()
        async with serving(settings):
            found = await eventually(lambda: organization.events(kind="message.received"))
    bodies = [event["data"]["message"]["content"]["body"].split()[0] for event in found]
    assert bodies == [*map(str, range(200)), "later"]
    assert len({event["data"]["conversation"]["id"] for event in found}) == 1

    def delivered() -> list[str | None]:
        mine = [attempt for attempt in crm.attempts if attempt.endpoint == organization.id]
        return [attempt.event_id for attempt in mine if attempt.type == "message.received"]

    wanted = [event["id"] for event in found]
    await eventually(delivered, lambda ids: len(ids) >= len(wanted))
    assert delivered() == wanted
    await organization.call("DELETE", "/callback")


async def test_others_do_not_wait(gateway: Gateway, organization: Organization, idle: pytest.MonkeyPatch) -> None:
    """An unread webhook stands in its organization's way only."""
    other = await gateway.organization()
    await other.configure()
    assert (await organization.post_webhook(statuses(organization, 1_050))).status == 200
    assert (await other.post_webhook(gateway.meta.inbound(other.numbers[0]).text("x"))).status == 200
    assert len(await other.events(kind="message.received")) == 1


# ---------------------------------------------------------------- floods


async def test_a_quiet_organization_notices_no_flood(gateway: Gateway, connection: asyncpg.Connection) -> None:
    """Eight connections with 16,000 items a webhook, again and again; all of another are taken, and soon."""
    flooding, quiet = await gateway.organization(), await gateway.organization()
    for organization in (flooding, quiet):
        await organization.configure()
    hook = gateway.meta.inbound(quiet.numbers[0])
    marks = count()
    ended = asyncio.Event()

    async def flood() -> int:
        taken = 0
        while not ended.is_set():
            answer = await flooding.post_webhook(statuses(flooding, 16_000, f"{next(marks)}."))
            taken += answer.status == 200
            await asyncio.sleep(0.01)  # that it takes to make them is no part of the service's work
        return taken

    async def taken_s() -> float:
        began = monotonic()
        assert (await quiet.post_webhook(hook.text("quiet"))).status == 200
        return monotonic() - began

    alone = [await taken_s() for _ in range(9)]
    floods = [asyncio.create_task(flood()) for _ in range(8)]
    waits = [await taken_s() for _ in range(100)]
    ended.set()
    assert sum(await asyncio.gather(*floods)) >= 8
    await connection.execute("delete from unread_webhooks where organization_id = $1", flooding.id)
    assert median(waits) < 0.25 + 10 * median(alone)  # the machine may be busy with other things


async def test_how_many_may_wait(gateway: Gateway, organization: Organization, idle: pytest.MonkeyPatch) -> None:
    """Of one organization 64: more are refused, to come again, and another's are taken."""
    other = await gateway.organization()
    await other.configure()
    body = webhook(organization, padding="x" * 70_000)
    answers = await asyncio.gather(*[organization.post_webhook(body) for _ in range(unread.MOST)])
    assert {answer.status for answer in answers} == {200}
    refused = await organization.post_webhook(body)
    assert (refused.status, "retry-after" in refused.headers) == (503, True)
    small = gateway.meta.inbound(organization.numbers[0]).text("small")
    assert (await organization.post_webhook(small)).status == 200
    assert (await other.post_webhook(webhook(other, padding="x" * 70_000))).status == 200


async def test_a_process_ends_though_the_database_is_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a large webhook, whose lease it cannot give back."""
    begun = asyncio.Event()

    async def hanging(*_: Any) -> None:
        begun.set()
        await asyncio.sleep(60)

    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    reader = large_webhooks.LargeWebhooks(
        Database(settings.database_url), cast(Any, None), cast(Any, None), cast(Any, None)
    )
    monkeypatch.setattr(large_webhooks._LargeWebhook, "run", hanging)
    monkeypatch.setattr(unread, "claim", found_one)
    monkeypatch.setattr(unread, "give_back", away)
    async with asyncio.timeout(30):
        async with reader._database:
            task = asyncio.create_task(reader._read_forever())
            await begun.wait()
            task.cancel()
            await asyncio.wait({task})
    assert task.cancelled()


async def found_one(*_: Any) -> unread.UnreadWebhook:
    return unread.UnreadWebhook(uuid4(), 1, uuid4(), datetime.now(UTC), "", b"{}", b"", 1)
