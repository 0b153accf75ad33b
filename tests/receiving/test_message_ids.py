"""One message with two ids: it is found by either, and the CRM gets the one that it has seen."""

import time
from itertools import count
from typing import Any

import pytest

from ingress.dev.sandbox import StatusPolicy
from ingress.dev.sandbox.meta.bodies import envelope, wamid_of
from providers.cloud_api import message_key

from ..gateway import Organization
from ..service.test_waha_service import Linked, linked, only, waha

__all__ = ["linked", "waha"]

PHONE, USER = "201001112223", "EG.1442738230941002"
_tokens = count(0xA504706C9B6C)


def two_ids() -> tuple[str, str]:
    """The ids of one message: with the person's number, and with their user id."""
    token = f"{next(_tokens):020X}"
    return wamid_of(PHONE, token), wamid_of(USER, token)


def item(identity: str, kind: str, content: Any, **more: Any) -> dict[str, Any]:
    who = {"from": PHONE, "from_user_id": USER}
    return {"id": identity, "timestamp": str(int(time.time())), "type": kind, kind: content, **who, **more}


async def written(organization: Organization, *messages: dict[str, Any]) -> list[Any]:
    """What came out of *messages*, of a POST each."""
    before = await organization.events()
    for message in messages:
        answer = await organization.post_webhook(envelope((organization.numbers[0], {"messages": [message]})))
        assert answer.status == 200
    return [event["data"]["message"] for event in (await organization.events())[len(before) :]]


def text(identity: str, **more: Any) -> dict[str, Any]:
    return item(identity, "text", {"body": "Olá"}, **more)


async def test_a_message_that_comes_under_both_ids_is_one(organization: Organization) -> None:
    first, second = two_ids()
    [message] = await written(organization, text(first), text(second))
    assert message["provider_message_id"] == first


@pytest.mark.parametrize("seen", [0, 1])
async def test_what_people_say_of_their_message_names_it_as_it_came(organization: Organization, seen: int) -> None:
    """An answer, a reaction, an edit and a deletion, by the other id."""
    ids = two_ids()
    came, other = ids[seen], ids[1 - seen]
    await written(organization, text(came))
    edit = {"original_message_id": other, "message": {"type": "text", "text": {"body": "Oi"}, "context": {"id": "M0"}}}
    answer, reaction, edited, deleted = await written(
        organization,
        text(two_ids()[0], context={"from": PHONE, "id": other}),
        item(two_ids()[0], "reaction", {"message_id": other, "emoji": "👍"}),
        item(two_ids()[0], "edit", edit),
        item(two_ids()[0], "revoke", {"original_message_id": other}),
    )
    assert answer["reply_to"]["id"] == came
    assert reaction["content"]["message_id"] == came
    assert [edited["original_message_id"], deleted["original_message_id"]] == [came, came]


async def test_what_happens_to_our_message_names_it_as_we_sent_it(organization: Organization) -> None:
    """Statuses without our correlation id, an answer and a reaction, by the other id."""
    number = organization.numbers[0]
    organization.gateway.meta.set_statuses(number, StatusPolicy(statuses=()))
    sent = (await organization.send({"to": f"+{PHONE}", "body": "Olá"})).json
    ours = sent["provider_message_id"]
    other = wamid_of(USER, message_key(ours))
    assert other != ours
    for value in ("delivered", "read"):
        status = {"id": other, "status": value, "timestamp": str(int(time.time())), "recipient_user_id": USER}
        assert (await organization.post_webhook(envelope((number, {"statuses": [status]})))).status == 200
    assert (await organization.message(sent["id"]))["status"] == "read"
    *statuses, answer, reaction = [
        event["data"]["message"] for event in await organization.events() if "message" in event["data"]
    ] + await written(
        organization,
        text(two_ids()[0], context={"from": number.display_phone_number, "id": other}),
        item(two_ids()[0], "reaction", {"message_id": other, "emoji": "👍"}),
    )
    assert {(status["id"], status["provider_message_id"]) for status in statuses} == {(sent["id"], ours)}
    assert len(statuses) == 3
    assert answer["reply_to"] | {"id": ours, "message_id": sent["id"]} == answer["reply_to"]
    assert (reaction["id"], reaction["content"]["message_id"]) == (sent["id"], ours)


@only
async def test_a_chat_by_phone_and_by_hidden_number(linked: Linked) -> None:
    """On WhatsApp Web the chat is in the ids of what people wrote."""
    people = linked.waha.inbound(linked.session)
    first = people.text("Olá", phone="+5511960003333")
    came = first.payload["id"]
    other = came.replace("5511960003333@c.us", "88234567890123@lid")
    assert other != came
    await linked.waha.post(linked.session, first)
    answer = people.text("Sim", reply_to=other, phone="+5511960003333")
    await linked.waha.post(linked.session, answer)
    await linked.waha.post(linked.session, people.reaction("👍", message_id=other, phone="+5511960003333"))
    _, second, third = [event["data"]["message"] for event in await linked.organization.events(kind="message.received")]
    assert (second["reply_to"]["id"], third["content"]["message_id"]) == (came, came)
