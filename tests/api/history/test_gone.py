"""What is older than what is kept: 410, and where to go on."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from ingress.dev.sandbox.meta.bodies import envelope, status_item
from ingress.identifiers import event_id, id_at, moment_of
from ingress.retention.deletion import Deletion
from ingress.retention.pace import Pace
from ingress.settings import Settings
from ingress.storage.database import Database

from ...gateway import Gateway, Organization
from ...populated import all_counted, connected


async def let_go(settings: Settings, organization: Organization, before: datetime) -> None:
    """As the service lets go of one organization's events and messages."""
    await all_counted(settings, organization)
    async with Database(settings.database_url) as database:
        rows = Deletion(database, Pace(1, None))
        await rows.events(UUID(organization.id), before)
        await rows.messages(UUID(organization.id), before)


class Past:
    """An organization of which a picture, a text and a send are gone, and one text is there."""

    def __init__(self, organization: Organization, message_id: str, gone: list[Any], before: datetime) -> None:
        self.organization = organization
        self.message_id = message_id
        self.gone = gone
        self.before = before


@pytest.fixture
async def past(organization: Organization, settings: Settings) -> Past:
    people = organization.gateway.meta.inbound(organization.numbers[0])
    assert (await organization.post_webhook(people.text("one"))).status == 200
    assert (await organization.post_webhook(people.image(data=b"\xff\xd8\xff"))).status == 200
    sent = (await organization.send(idempotency_key="once")).json
    await organization.settled(sent["id"], "read")
    gone, before = await organization.events(), datetime.now(UTC) + timedelta(seconds=1)
    await let_go(settings, organization, before)
    assert (await organization.post_webhook(people.text("two"))).status == 200
    return Past(organization, sent["id"], gone, before)


def is_gone(answer: Any, past: Past) -> bool:
    assert answer.status == 410, answer.raw
    assert datetime.fromisoformat(answer.json["since"]) <= past.before
    return bool(answer.json["code"] == "gone")


async def test_messages_and_events_that_are_gone(past: Past, gateway: Gateway) -> None:
    """Whatever names them. What never was there is not found, as before."""
    call = past.organization.call
    [picture] = [
        event for event in past.gone if event["data"].get("message", {}).get("content", {}).get("type") == "image"
    ]
    for method, path in (
        ("GET", f"/messages/{past.message_id}"),
        ("GET", f"/messages/{past.message_id}/timeline"),
        ("GET", f"/events/{picture['id']}/timeline"),
        ("POST", f"/messages/{picture['id']}/read"),
        ("POST", f"/messages/{picture['id']}/typing"),
        ("GET", f"/media/{picture['id']}"),
    ):
        assert is_gone(await call(method, path), past), path
    reply = {"to": "+5511987654321", "body": "Hello", "reply_to": past.message_id}
    assert is_gone(await call("POST", "/send", reply), past)
    earlier = id_at(datetime.fromtimestamp(0, UTC)).hex
    never = (str(uuid4()), str(id_at(past.before + timedelta(days=1))), earlier)
    assert {(await call("GET", f"/messages/{message_id}")).status for message_id in never} == {404}
    later = event_id(UUID(past.organization.id), past.gone[-1]["sequence"] + 2**40)
    assert (await call("GET", f"/events/{later}/timeline")).status == 404
    stranger = await gateway.organization()
    for path in (f"/messages/{past.message_id}", f"/events/{picture['id']}/timeline"):
        assert (await stranger.call("GET", path)).status == 404


async def test_a_send_whose_message_is_gone_is_not_made_again(past: Past) -> None:
    """Its key is known for longer than what was sent; another key is another send."""
    for body in (None, {"to": "+5511987654321", "body": "Other"}):
        answer = await past.organization.send(body, idempotency_key="once")
        assert (answer.status, answer.json["code"]) == (410, "gone")
    again = (await past.organization.send(idempotency_key="twice")).json
    assert [one["id"] for one in (await past.organization.call("GET", "/messages")).json["messages"]] == [again["id"]]


async def age(settings: Settings, organization: Organization, by: timedelta) -> None:
    """Have all that was sent, and what was counted of it, be older."""
    async with connected(settings) as connection:
        own = UUID(organization.id)
        for (message_id,) in await connection.fetch("select id from messages where organization_id = $1", own):
            older = UUID(int=id_at(moment_of(message_id) - by).int | message_id.int & (1 << 80) - 1)
            for table, column in (("attempts", "message_id"), ("messages", "id")):
                await connection.execute(f"update {table} set {column} = $2 where {column} = $1", message_id, older)
        await connection.execute(
            "update provider_figures set since = since - $2::interval where organization_id = $1", own, by
        )


async def test_what_is_counted_stays_so(organization: Organization, settings: Settings) -> None:
    """Also where one of an hour's messages is gone when another one's status has the hour counted anew."""
    for _ in range(2):
        sent = (await organization.send()).json
        sent = await organization.settled(sent["id"], "read")
    await all_counted(settings, organization)
    await age(settings, organization, timedelta(hours=30))
    before = moment_of(UUID(sent["id"])) - timedelta(hours=30)
    await let_go(settings, organization, before)
    async with connected(settings) as connection:
        left = "select count(*) from messages where organization_id = $1"
        assert await connection.fetchval(left, UUID(organization.id)) == 1
        failed = status_item(sent["provider_message_id"], "failed", {"to": "+5511987654321"})
        body = envelope((organization.numbers[0], {"statuses": [failed]}))
        assert (await organization.post_webhook(body)).status == 200
        await all_counted(settings, organization)
        tried = "select sum(tried) from provider_figures where organization_id = $1 and minutes = 1 and since < $2"
        assert await connection.fetchval(tried, UUID(organization.id), before + timedelta(minutes=1)) == 2


async def test_a_cursor_that_has_missed_something(past: Past) -> None:
    """It is given the one to go on from. Who has read everything, or begins, has missed nothing."""
    first, last = past.gone[0]["sequence"], past.gone[-1]["sequence"]
    for query in (f"after={first}", f"after={first}&wait=20", f"after={first}&type=message.received", "after=1"):
        answer = await past.organization.call("GET", f"/events?{query}")
        assert is_gone(answer, past)
        assert answer.json["next"] == last
    for after in (0, last):
        [event] = (await past.organization.call("GET", f"/events?after={after}")).json["events"]
        assert event["data"]["message"]["content"]["body"] == "two"
    assert (await past.organization.call("GET", f"/events?after={event['sequence']}")).json["events"] == []


async def test_a_stream_begins_only_where_nothing_is_missing(past: Past, gateway: Gateway) -> None:
    first, last = past.gone[0], past.gone[-1]
    for last_event_id in (str(first["sequence"]), first["id"]):
        answer = await past.organization.call("GET", "/events/stream", last_event_id=last_event_id)
        assert is_gone(answer, past)
        assert answer.json["next"] == last["sequence"]
    headers = {"authorization": f"Bearer {past.organization.key}", "last-event-id": last["id"]}
    timeout = aiohttp.ClientTimeout(total=30)
    async with gateway.session.get(f"{gateway.url}/events/stream", headers=headers, timeout=timeout) as answer:
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data:"):
                assert b'"two"' in line
                break
