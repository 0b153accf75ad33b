"""Finding messages that were sent, and the timeline of one message or event."""

import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ingress.dev.sandbox import CrmSimulator, CrmStatus, ErrorCode, ResetBeforeAccept, StatusPolicy
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements.reports import search
from ingress.storage.statements.reports.search import MessageFilter

from ...gateway import Gateway, Organization, eventually

PHONE, META = "+5511987654321", "WhatsApp Business (Meta Cloud API)"


async def get(organization: Organization, path: str) -> Any:
    answer = await organization.call("GET", path)
    assert answer.status == 200, answer.raw
    return answer.json


async def found(organization: Organization, query: str) -> list[str]:
    return [message["id"] for message in (await get(organization, f"/messages?{query}"))["messages"]]


async def send(organization: Organization, **more: Any) -> Any:
    return (await organization.send({"to": PHONE, "body": "Hello"} | more)).json


@pytest.fixture
async def pair(gateway: Gateway) -> Organization:
    """An organization with an active number and one to fall back to, each with a port of its own."""
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    second = await organization.configure(active=False, own_port=True)
    await organization.fall_back_to(second["config_id"])
    return organization


@pytest.fixture
async def owner(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


# ---------------------------------------------------------------- search


async def test_a_message_is_found_by_each_of_its_names(organization: Organization) -> None:
    await send(organization, lead_id="L2")
    answer = await organization.send({"to": PHONE, "body": "Hello", "lead_id": "L1"})
    sent, request_id = answer.json, answer.headers["x-request-id"]
    for query in (f"provider_message_id={sent['provider_message_id']}", "lead_id=L1", f"request_id={request_id}"):
        assert await found(organization, query) == [sent["id"]], query
    assert (await organization.message(sent["id"]))["request_id"] == request_id
    for query in ("provider_message_id=wamid.none", "lead_id=L3", "request_id=req_0"):
        assert await found(organization, query) == [], query


async def test_errors_are_found_by_code_and_class(pair: Organization, gateway: Gateway) -> None:
    """Of a message's end, and of an attempt that another account made up for."""
    good = await send(pair)
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=131026), ErrorCode(code=190))
    failed, saved = await send(pair), await send(pair)
    for query in ("error=190", "error=AccountBroken"):
        assert await found(pair, query) == [saved["id"]], query
    for query in ("error=131026", "error=Rejected", "error=131026&status=failed", "status=failed"):
        assert await found(pair, query) == [failed["id"]], query
    assert await found(pair, "error=131026&status=read") == []
    first, second = (config["config_id"] for config in pair.configs)
    assert await found(pair, f"config_id={second}") == [saved["id"]]
    assert await found(pair, f"config_id={first}") == [failed["id"], good["id"]]
    assert await found(pair, f"config_id={first}&status=failed") == [failed["id"]]


@pytest.mark.parametrize("status", ["failed", "unknown"])
async def test_what_ended_badly_is_found_without_a_reason(
    organization: Organization, gateway: Gateway, owner: asyncpg.Connection, status: str
) -> None:
    """Nobody has to say why."""
    gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
    sent = await send(organization)
    await owner.execute("update messages set status = $2, error = null where id = $1", UUID(sent["id"]), status)
    assert await found(organization, f"status={status}") == [sent["id"]]


async def test_what_is_wrong_with_a_search_is_said(organization: Organization) -> None:
    answer = await organization.call("GET", "/messages?lead_id=a&error=b")
    assert (answer.status, [each["path"] for each in answer.json["errors"]]) == (422, ["lead_id", "error"])
    for query in ("status=sold", "since=yesterday", "since=2026-01-01T00:00:00"):
        assert (await organization.call("GET", f"/messages?{query}")).status == 422, query


async def test_pages_go_on_where_few_of_many_are_meant(
    organization: Organization, gateway: Gateway, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that looked at as many as it may ends before it is full, and the next one goes on there."""
    monkeypatch.setattr(search, "SCANNED", 3)
    gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
    sent = [(await send(organization))["id"] for _ in range(8)]
    played = sent[0], sent[4]
    await owner.execute("update messages set status = 'played' where id = any($1)", [UUID(one) for one in played])
    seen, pages, query = [], 0, ""
    while True:
        page = await get(organization, f"/messages?status=played{query}")
        seen += [message["id"] for message in page["messages"]]
        pages += 1
        if "next" not in page:
            break
        query = f"&before={page['next']}"
    assert seen == [sent[4], sent[0]]
    assert pages == 3


async def test_a_time_bounds_what_is_found(organization: Organization) -> None:
    """What was sent by its id, what is with a person by its time."""
    sent = [await send(organization) for _ in range(3)]
    middle = (await organization.message(sent[1]["id"]))["created_at"].replace("+", "%2B")
    last = (await organization.message(sent[2]["id"]))["created_at"].replace("+", "%2B")
    [contact] = (await get(organization, f"/contacts?phone={PHONE[1:]}"))["contacts"]
    for query in ("", f"&contact_id={contact['id']}"):
        assert sent[0]["id"] not in await found(organization, f"since={middle}{query}")
        assert sent[2]["id"] in await found(organization, f"since={middle}{query}")
        assert sent[0]["id"] in await found(organization, f"until={last}{query}")
    assert await found(organization, f"until={last}&contact_id={contact['id']}") == [sent[1]["id"], sent[0]["id"]]


async def test_events_of_a_moment_begin_at_a_sequence(
    organization: Organization, settings: Settings, owner: asyncpg.Connection
) -> None:
    """By halves, whatever gaps there are between sequences: the first event of that time or later."""
    organization_id = UUID(organization.id)
    begin = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    await owner.execute("delete from events where organization_id = $1", organization_id)
    places = [1, 2, 3, 1000, 65536, 65537, 2**37, 2**37 + 1, 2**38]
    rows = [(organization_id, place, begin + timedelta(hours=hour)) for hour, place in enumerate(places)]
    await owner.executemany(
        "insert into events (organization_id, sequence, type, config_id, conversation_id, data, created_at)"
        " values ($1, $2, 'account.updated', $1, $1, '{}', $3)",
        rows,
    )
    async with Database(settings.database_url) as database, database.organization(organization_id) as connection:
        for hour, (former, place) in enumerate(itertools.pairwise([0, *places])):
            for moment in (begin + timedelta(hours=hour), begin + timedelta(hours=hour, minutes=-1)):
                assert former < await search.sequence_at(connection, organization_id, moment) <= place
        assert await search.sequence_at(connection, organization_id, begin + timedelta(days=1)) > places[-1]
        [earliest] = (
            await search.received(
                connection,
                organization_id,
                MessageFilter(since=begin, until=begin + timedelta(minutes=1)),
                None,
                10,
                ["account.updated"],
            )
        ).rows
        assert earliest.sequence == places[0]
    await owner.execute("delete from events where organization_id = $1", organization_id)


# ---------------------------------------------------------------- timelines


def steps(timeline: Any, *kinds: str) -> list[Any]:
    return [step for step in timeline["steps"] if not kinds or step["step"] in kinds]


@pytest.mark.usefixtures("quick_relay")
async def test_the_timeline_of_a_message(pair: Organization, gateway: Gateway, crm: CrmSimulator) -> None:
    """Request, both attempts and the fallback between them, each status, its event, and how the CRM took it."""
    endpoint = f"timeline-{pair.id}"
    crm.set_secret(
        (await pair.call("PUT", "/callback", {"url": crm.url_for(endpoint)})).json["secret"], endpoint=endpoint
    )
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    sent = await send(pair)
    await pair.settled(sent["id"], "read")
    path = f"/messages/{sent['id']}/timeline"

    def is_whole(timeline: Any) -> bool:
        return {"read"} <= {step.get("status") for step in steps(timeline, "event")} and all(
            step["state"] == "delivered" for step in steps(timeline, "delivery")
        )

    timeline = await eventually(lambda: get(pair, path), is_whole)
    assert [step["step"] for step in timeline["steps"]][:4] == ["request", "attempt", "fallback", "attempt"]
    refused, taken = steps(timeline, "attempt")
    assert (refused["class"], refused["code"], taken["class"]) == ("AccountBroken", "190", "ok")
    [fallback] = steps(timeline, "fallback")
    assert (fallback["from_config_id"], fallback["config_id"], fallback["reason"]) == (
        *(config["config_id"] for config in pair.configs),
        "AccountBroken",
    )
    events = steps(timeline, "event")
    assert {"sent", "delivered", "read"} <= {event["status"] for event in events}
    assert len({event["event_id"] for event in events}) == len(events)
    assert not events[0].get("is_reported")
    assert events[-1]["is_reported"]
    answers = steps(timeline, "delivery")
    assert {answer["event_id"] for answer in answers} == {event["event_id"] for event in events}
    assert {(answer["attempts"], answer["answer"]) for answer in answers} == {(1, 200)}
    times = [step["at"] for step in timeline["steps"]]
    assert times == sorted(times)
    assert timeline["message"]["id"] == sent["id"]
    assert timeline["summary"].startswith(
        f"Read; delivered by {META} after the account at {META} could not send: 190, "
    )
    await pair.call("DELETE", "/callback")


@pytest.mark.usefixtures("quick_relay")
async def test_the_timeline_of_what_came_in(organization: Organization, gateway: Gateway, crm: CrmSimulator) -> None:
    """The webhook, the event, and the CRM's last answer, which it refused once."""
    endpoint = f"timeline-{organization.id}"
    secret = (await organization.call("PUT", "/callback", {"url": crm.url_for(endpoint)})).json["secret"]
    crm.set_secret(secret, endpoint=endpoint)
    crm.script(CrmStatus(status=503), endpoint=endpoint)
    hook = gateway.meta.inbound(organization.numbers[0]).text("Olá", phone=PHONE)
    assert (await organization.post_webhook(hook)).status == 200
    [event] = await organization.events(wait=5, kind="message.received")
    path = f"/events/{event['id']}/timeline"
    timeline = await eventually(
        lambda: get(organization, path), lambda timeline: steps(timeline, "delivery")[0]["state"] == "delivered"
    )
    assert [step["step"] for step in timeline["steps"]] == ["webhook", "event", "delivery"]
    [delivery] = steps(timeline, "delivery")
    assert (delivery["attempts"], delivery["answer"], delivery.get("error")) == (2, 200, None)
    assert timeline["event"] == event
    assert timeline["summary"] == f"Received by {META}; the CRM took it at attempt 2 (HTTP 200)."
    await organization.call("DELETE", "/callback")


async def test_a_message_that_may_have_been_taken(pair: Organization, gateway: Gateway) -> None:
    await gateway.meta.script(pair.numbers[0], ResetBeforeAccept())
    sent = (await pair.send()).json
    timeline = await get(pair, f"/messages/{sent['id']}/timeline")
    [hold] = steps(timeline, "hold")
    until = datetime.fromisoformat(hold["until"])
    assert timeline["summary"] == (
        f"{META} may have taken it; not repeated. Settled by a status, or reported as unknown at {until:%H:%M} UTC."
    )


async def test_without_a_callback_nothing_is_posted(organization: Organization, gateway: Gateway) -> None:
    """And what edits a message stands in its timeline."""
    hook = gateway.meta.inbound(organization.numbers[0]).text("Olá", phone=PHONE)
    assert (await organization.post_webhook(hook)).status == 200
    [event] = await organization.events(wait=5, kind="message.received")
    timeline = await get(organization, f"/events/{event['id']}/timeline")
    assert [step["step"] for step in timeline["steps"]] == ["webhook", "event"]
    assert timeline["summary"].startswith(f"Received by {META}; not posted, as no callback was set")
