"""GET /contacts and what it leads to: one's own people, what they are known by, and all that was said with them."""

from typing import Any

import msgspec
import pytest

from ingress.dev.sandbox.meta.bodies import envelope

from ..gateway import Gateway, Organization
from .test_people import BY_BOTH, BY_PHONE, BY_USER, PARENT, PHONE, USER, contacts, ids, met, text, write


async def get(organization: Organization, path: str) -> Any:
    answer = await organization.call("GET", path)
    assert answer.status == 200, answer.raw
    return answer.json


async def pages(organization: Organization, path: str, name: str, cursor: str, size: int = 2) -> list[Any]:
    """All of a list, page by page."""
    found: list[Any] = []
    page = await get(organization, f"{path}limit={size}")
    while True:
        assert len(page[name]) <= size
        found += page[name]
        if "next" not in page:
            return found
        page = await get(organization, f"{path}limit={size}&{cursor}={page['next']}")


@pytest.fixture
async def ana(organization: Organization) -> str:
    """Two contacts who turned out to be one; the older id."""
    for who in (BY_USER, BY_PHONE | {"from_parent_user_id": PARENT}, BY_BOTH):
        await write(
            organization, text(**who), contacts=[{"profile": {"name": "Ana Souza", "username": "@ana.s"}} | _card(who)]
        )
    older: str = contacts(await met(organization))[0]
    return older


def _card(who: dict[str, str]) -> dict[str, str]:
    names = {"from": "wa_id", "from_user_id": "user_id"}
    return {names[name]: value for name, value in who.items() if name in names}


async def test_a_contact_by_either_id(organization: Organization, ana: str) -> None:
    found = await get(organization, f"/contacts/{ana}")
    younger = contacts(await met(organization))[1]
    assert (found["id"], found["name"], found["username"]) == (ana, "Ana Souza", "ana.s")
    assert {(each["kind"], each["value"]) for each in found["addresses"]} == {
        ("phone", PHONE),
        ("user", USER),
        ("parent", PARENT),
    }
    assert [each["id"] for each in found["conversations"]] == ids(await met(organization))[:1]
    assert found["merged"] == [younger]
    assert await get(organization, f"/contacts/{younger}") == found


@pytest.mark.parametrize(
    "query",
    [
        f"phone=%2B{PHONE[1:]}", f"phone={PHONE[1:]}", "phone=551160003333", f"user_id={USER}", f"user_id={PARENT}",
        "username=ANA.s", "name=ana", "name=Ana%20Souza",
    ],
)  # fmt: skip
async def test_contacts_are_found_by_what_they_are_known_by(organization: Organization, ana: str, query: str) -> None:
    await write(
        organization,
        text(**{"from": "5511960004444"}),
        contacts=[{"profile": {"name": "Bia"}, "wa_id": "5511960004444"}],
    )
    found = await get(organization, f"/contacts?{query}")
    assert [each["id"] for each in found["contacts"]] == [ana]


@pytest.mark.parametrize("query", ["phone=1", "lid=1%40lid", "user_id=BR.1", "username=ana", "name=souza", "name=%25"])
async def test_others_are_not_found(organization: Organization, ana: str, query: str) -> None:
    assert await get(organization, f"/contacts?{query}") == {"contacts": []}


async def test_one_thing_is_asked_for_at_a_time(organization: Organization) -> None:
    answer = await organization.call("GET", "/contacts?name=a&phone=1")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


async def test_pages_of_contacts(organization: Organization) -> None:
    """All of them, and those whose names begin alike, in the order of names."""
    names = ["Bia", "ana", "Ana", "Anabel", "Andre", "Álvaro", "aNa 2"]
    for number, name in enumerate(names):
        who = {"from": f"55119600055{number:02}"}
        await write(organization, text(**who), contacts=[{"profile": {"name": name}, "wa_id": who["from"]}])
    assert [each["name"] for each in await pages(organization, "/contacts?", "contacts", "after")] == names
    found = [each["name"] for each in await pages(organization, "/contacts?name=an&", "contacts", "after")]
    assert found == ["ana", "Ana", "aNa 2", "Anabel", "Andre"]


# ---------------------------------------------------------------- what was said


async def test_a_whole_history_over_all_senders(organization: Organization, gateway: Gateway) -> None:
    """In and out, through two accounts, before and after two contacts turned out to be one."""
    await organization.configure(active=False, waba_id=organization.numbers[0].waba_id)
    said: list[str] = []
    for number in range(12):
        if number % 3 == 2:
            sent = await organization.send({"to": PHONE, "body": "Olá"})
            said.append(sent.json["id"])
        else:
            message = text(**(BY_BOTH if number == 6 else BY_USER if number % 2 else BY_PHONE))
            await write(organization, message, config=number % 2)
            said.append(message["id"])
    await write(organization, text(**{"from": "5511960004444"}))
    [contact] = {each["id"] for each in (await get(organization, f"/contacts?phone={PHONE[1:]}"))["contacts"]}
    for size in (1, 2, 5, 50):
        found = await pages(organization, f"/contacts/{contact}/messages?", "messages", "before", size)
        names = [_name(each) for each in found]
        assert names == said[::-1]
        assert [each["direction"] for each in found] == [
            "outbound" if "message" in each else "inbound" for each in found
        ]
    sent = [name for name in said if not name.startswith("wamid")]
    listed = await pages(organization, f"/messages?contact_id={contact}&", "messages", "before")
    assert [message["id"] for message in listed] == sent[::-1]


@pytest.mark.parametrize(("by", "direction"), [("contact", "inbound"), ("business", "outbound")])
async def test_who_edits_and_deletes_is_in_the_history(organization: Organization, by: str, direction: str) -> None:
    """What the business changes on its phone went out, as what it writes there."""
    field, items = ("messages", "messages") if by == "contact" else ("smb_message_echoes", "message_echoes")
    who = {"from": PHONE[1:]} if by == "contact" else {"from": organization.numbers[0].digits, "to": PHONE[1:]}
    for kind in ("edit", "revoke", "text"):
        value = {"original_message_id": "wamid.x", "message": {"type": "text", "text": {"body": "new"}}}
        body = envelope((organization.numbers[0], {items: [text() | who | {"type": kind, kind: value}]}))
        body["entry"][0]["changes"][0]["field"] = field
        assert (await organization.post_webhook(body)).status == 200
    [contact] = (await get(organization, f"/contacts?phone={PHONE[1:]}"))["contacts"]
    said = (await get(organization, f"/contacts/{contact['id']}/messages"))["messages"]
    assert [each["event"]["type"] for each in said[1:]] == ["message.deleted", "message.edited"]
    assert {each["direction"] for each in said} == {direction}


def _name(said: Any) -> str:
    identity = said["message"]["id"] if "message" in said else said["event"]["data"]["message"]["provider_message_id"]
    return str(identity)


@pytest.mark.parametrize("cursor", ["x", "1.x", ".", "1e9"])
async def test_a_cursor_that_is_none(organization: Organization, ana: str, cursor: str) -> None:
    answer = await organization.call("GET", f"/contacts/{ana}/messages?before={cursor}")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


async def test_events_of_a_person_a_conversation_a_type(organization: Organization, ana: str) -> None:
    """What was merged is of the one it was merged into; a younger id is as good as the older one."""
    bia = {"from": "5511960004444"}
    await write(organization, text(**bia), text(**BY_PHONE, group_id="grp.1"))
    every = await organization.events()
    hers = [
        event
        for event in every
        if _contact(event) in contacts(await met(organization))[:2] and "group_id" not in _of(event)
    ]
    younger = contacts(await met(organization))[1]
    assert len(hers) == 4
    for contact in (ana, younger):
        assert await events(organization, f"contact_id={contact}") == hers
    for conversation in ids(await met(organization))[:2]:
        assert await events(organization, f"conversation_id={conversation}") == hers
        assert await events(organization, f"conversation_id={conversation}&contact_id={ana}") == hers
    [group] = [event for event in every if "group_id" in _of(event)]
    assert await events(organization, f"conversation_id={_of(group)['id']}") == [group]
    assert await events(organization, f"conversation_id={_of(group)['id']}&contact_id={ana}") == []
    # What is about nobody has the config's own.
    switched = f"conversation_id={organization.configs[0]['config_id']}&type=provider.switched"
    assert [event["type"] for event in await events(organization, switched)] == ["provider.switched"]
    merged = [event for event in every if event["type"] == "contact.merged"]
    assert await events(organization, "type=contact.merged") == merged
    assert await events(organization, f"type=contact.merged,message.status&contact_id={ana}") == merged
    assert await events(organization, "type=message.received,contact.merged") == [
        event for event in every if event["type"] in ("message.received", "contact.merged")
    ]
    answer = await organization.call("GET", "/events?type=message.receive")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


def _of(event: Any) -> Any:
    return event["data"].get("conversation", {})


def _contact(event: Any) -> Any:
    return _of(event).get("contact", {}).get("id")


async def events(organization: Organization, query: str) -> list[Any]:
    """All that *query* selects, one at a time."""
    found: list[Any] = []
    after = 0
    while True:
        page = await get(organization, f"/events?{query}&after={after}&limit=1")
        if not page["events"]:
            return found
        found += page["events"]
        after = page["next"]


async def test_a_stream_of_one_person(organization: Organization, ana: str) -> None:
    """Also what comes while it is read; of others nothing."""
    url = f"{organization.gateway.url}/events/stream?contact_id={ana}&type=message.received&after=0"
    headers = {"authorization": f"Bearer {organization.key}"}
    async with organization.gateway.session.get(url, headers=headers) as answer:
        assert answer.status == 200
        await write(organization, text(**{"from": "5511960004444"}), text(**BY_PHONE))
        read = b""
        while read.count(b"data:") < 4:
            read += await answer.content.readany()
    sent = [msgspec.json.decode(line[6:]) for line in read.split(b"\n") if line.startswith(b"data: ")]
    assert [event["type"] for event in sent] == ["message.received"] * 4
    assert b"5511960004444" not in read
    async with organization.gateway.session.get(url.replace("message.received", "x"), headers=headers) as answer:
        assert answer.status == 422


async def test_another_organizations_people_are_nobody(organization: Organization, ana: str, gateway: Gateway) -> None:
    other = await gateway.organization()
    for path in (f"/contacts/{ana}", f"/contacts/{ana}/messages"):
        assert (await other.call("GET", path)).status == 404
    conversation = ids(await met(organization))[0]
    for query in (
        f"contact_id={ana}",
        f"conversation_id={conversation}",
        f"contact_id={ana}&conversation_id={conversation}",
    ):
        assert (await get(other, f"/events?{query}"))["events"] == []
        assert await get(other, f"/messages?{query}") == {"messages": []}
    assert await get(other, f"/contacts?phone={PHONE[1:]}") == {"contacts": []}
