"""People through the service: one contact, and one conversation an account, whatever they are known by."""

import asyncio
import hmac
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress.accounts.config import Config
from ingress.accounts.unusable import MissingPlugin
from ingress.dev.sandbox import StatusPolicy, WahaSession, WahaSimulator, example_number, example_session
from ingress.dev.sandbox.meta.bodies import envelope, new_wamid
from ingress.identifiers import new_id
from ingress.people.directory import encounter_of, introduce
from ingress.settings import Settings
from ingress.storage.connections import atomic
from ingress.storage.database import Database
from providers import Contact, Event

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, eventually
from ..service.test_waha_service import Linked

PHONE, LID, USER, PARENT = "+5511960003333", "88234567890123@lid", "BR.13491208655302741918", "BR.ENT.11815799212886"
_ids, _sessions = count(1), count(9_000)


class Table:
    """What is stored of an organization."""

    def __init__(self, connection: asyncpg.Connection, organization_id: str) -> None:
        self._connection = connection
        self._organization_id = UUID(organization_id)

    async def __call__(self, what: str) -> list[tuple[Any, ...]]:
        rows = await self._connection.fetch(f"select {what} where organization_id = $1", self._organization_id)
        return sorted((tuple(row) for row in rows), key=str)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
def table(database: asyncpg.Connection, organization: Organization) -> Table:
    return Table(database, organization.id)


def text(**who: str) -> dict[str, Any]:
    """A message at Meta of whom *who* names: from, from_user_id, from_parent_user_id."""
    identity = new_wamid(random.Random(next(_ids)))
    return {"id": identity, "timestamp": str(int(time.time())), "type": "text", "text": {"body": "Olá"}, **who}


BY_PHONE, BY_USER = {"from": PHONE[1:]}, {"from_user_id": USER}
BY_BOTH = BY_PHONE | BY_USER


async def write(organization: Organization, *messages: dict[str, Any], config: int = 0, **value: Any) -> Answer:
    number = organization.numbers[config]
    answer = await organization.post_webhook(envelope((number, {"messages": [*messages], **value})), config=config)
    assert answer.status == 200
    return answer


async def met(organization: Organization, kind: str = "message.received") -> list[Any]:
    """The conversations of all events of a *kind*, as they are shown."""
    return [event["data"]["conversation"] for event in await organization.events(kind=kind)]


async def of_people(organization: Organization) -> list[Any]:
    """Their events, and those of their messages."""
    return [event for event in await organization.events() if event["type"].startswith(("message", "contact"))]


def ids(conversations: list[Any]) -> list[str]:
    return [conversation["id"] for conversation in conversations]


def contacts(conversations: list[Any]) -> list[str]:
    return [conversation["contact"]["id"] for conversation in conversations]


# ---------------------------------------------------------------- one person


async def test_a_person_who_shows_another_address_each_time(organization: Organization, table: Table) -> None:
    """User id alone, with the number, and alone again: one contact and one conversation throughout."""
    for who in (BY_USER, BY_BOTH, BY_USER, BY_PHONE):
        await write(organization, text(**who))
    conversations = await met(organization)
    assert len(set(ids(conversations))) == len(set(contacts(conversations))) == 1
    assert len(await table("id from contacts")) == len(await table("id from conversations")) == 1
    assert [kind for (kind,) in await table("kind from contact_addresses")] == ["phone", "user"]


async def test_two_contacts_turn_out_to_be_one(organization: Organization, table: Table) -> None:
    """The older id stays, the younger one's conversation is the older one's from then on, and nothing is rewritten."""
    for who in (BY_USER, BY_PHONE, BY_BOTH, BY_PHONE, BY_USER):
        await write(organization, text(**who))
    conversations = await met(organization)
    younger, older = contacts(conversations)[1], contacts(conversations)[0]
    assert contacts(conversations) == [older, younger, older, older, older]
    assert len({*ids(conversations)[:1], *ids(conversations)[2:]}) == 1
    assert dict(await table("id, merged_into from contacts")) == {UUID(older): None, UUID(younger): UUID(older)}
    canonical = UUID(ids(conversations)[0])
    assert dict(await table("id, canonical_id from conversations")) == {
        canonical: None,
        UUID(ids(conversations)[1]): canonical,
    }
    assert {owner for (owner,) in await table("contact_id from contact_addresses")} == {UUID(older)}
    # The CRM learns of it before the event that showed it, which it has everything of that is known.
    kinds = [event["type"] for event in await of_people(organization)]
    assert kinds == ["message.received"] * 2 + ["contact.merged"] + ["message.received"] * 3
    [merged] = await organization.events(kind="contact.merged")
    assert merged["data"]["contact"] == {"merged_id": younger}
    of = merged["data"]["conversation"]
    assert (of["id"], of["sender"]) == (ids(conversations)[0], organization.numbers[0].display_phone_number)
    assert of["contact"] == {"id": older, "phone": PHONE, "user_id": USER}
    assert merged["data"]["config_id"] == organization.configs[0]["config_id"]


async def test_what_shows_it_twice_is_one_merge(organization: Organization) -> None:
    """A webhook that is repeated, and another one that says the same."""
    again = text(**BY_BOTH)
    for message in (text(**BY_USER), text(**BY_PHONE), again, again, text(**BY_BOTH)):
        await write(organization, message)
    assert len(await organization.events(kind="contact.merged")) == 1


async def test_all_in_one_webhook(organization: Organization, table: Table) -> None:
    """Both are met and turn out to be one within a transaction."""
    await write(organization, text(**BY_USER), text(**BY_PHONE), text(**BY_BOTH), text(**BY_PHONE))
    kinds = [event["type"] for event in await of_people(organization)]
    assert kinds == ["message.received"] * 2 + ["contact.merged"] + ["message.received"] * 2
    older = min(contacts(await met(organization)))
    assert contacts(await met(organization))[2:] == [older] * 2
    await write(organization, text(**BY_USER), text(**BY_PHONE))
    assert contacts(await met(organization))[4:] == [older] * 2


async def test_in_a_large_webhook_the_events_keep_their_places(organization: Organization) -> None:
    """It is read in slices, each of which has its sequences: what they show of contacts comes after it."""
    rest = [text(**{"from": f"55119700{number:05}"}) for number in range(600)]
    joining = [text(**BY_USER), text(**BY_PHONE), text(**BY_BOTH)]
    await write(organization, *joining, *rest, *joining)
    await eventually(lambda: organization.events(kind="message.received"), lambda found: len(found) == 603)
    events = await of_people(organization)
    assert [event["type"] for event in events] == ["message.received"] * 603 + ["contact.merged"]
    assert len({event["sequence"] for event in events}) == 604


async def test_a_parent_id_joins_accounts(organization: Organization, table: Table) -> None:
    """Its own ids of a person an account has; where portfolios are linked, one more is the same in all of them."""
    other = msgspec.structs.replace(example_number(700_000 + next(_ids)), waba_id="210987654399999")
    await organization.gateway.meta.add_number(other)
    await organization.configure(other, active=False)
    await write(organization, text(from_user_id=USER, from_parent_user_id=PARENT))
    await write(organization, text(from_user_id="BR.999", from_parent_user_id=PARENT), config=1)
    await write(organization, text(from_user_id=USER), config=1)
    assert len(set(contacts(await met(organization))[:2])) == 1
    # Another account's id is nobody's there.
    assert len(await table("id from contacts")) == 2
    assert len(set(ids(await met(organization)))) == 3


async def test_groups_are_conversations_of_their_own(organization: Organization, table: Table) -> None:
    """Whoever writes in them is the contact that writes alone."""
    bia = {"from": "5511960004444"}
    for who in (BY_PHONE, BY_PHONE | {"group_id": "grp.1"}, bia | {"group_id": "grp.1"}, bia):
        await write(organization, text(**who))
    conversations = await met(organization)
    ana, group, same, other = ids(conversations)
    assert group == same
    assert len({ana, group, other}) == 3
    assert contacts(conversations)[0] == contacts(conversations)[1]
    assert contacts(conversations)[2] == contacts(conversations)[3]
    stored = await table("group_id, contact_id from conversations")
    assert [found for found in stored if found[0] is not None] == [("grp.1", None)]


# ---------------------------------------------------------------- WhatsApp Web


@pytest.fixture
async def linked(gateway: Gateway) -> AsyncIterator[Linked]:
    async with WahaSimulator() as waha:
        session = example_session(next(_sessions), "NOWEB")
        await waha.add_session(session, own_port=True)
        made = Linked(waha, session, await gateway.organization())
        await made.configure()
        await made.working()
        yield made


def from_web(session: WahaSession, chat: str, **key: str) -> tuple[bytes, dict[str, str]]:
    """A message of whom *chat* names, with *key* of the engine beside it: a body and its headers."""
    bare = f"3EB0{next(_ids):016X}"
    payload: dict[str, Any] = {"id": f"false_{chat}_{bare}", "timestamp": int(time.time()), "body": "Olá"}
    payload |= {"from": chat, "fromMe": False}
    payload["_data"] = {"key": {"remoteJid": chat, "id": bare, **key}, "message": {"conversation": "Olá"}}
    raw = msgspec.json.encode({"event": "message", "session": session.name, "payload": payload})
    signature = hmac.digest(session.hmac_key.encode(), raw, "sha512").hex()
    return raw, {"x_webhook_hmac": signature, "x_webhook_hmac_algorithm": "sha512"}


async def chat(linked: Linked, chat: str, **key: str) -> None:
    raw, headers = from_web(linked.session, chat, **key)
    answer = await linked.organization.gateway.call("POST", linked.config["webhook_url"], raw=raw, **headers)
    assert answer.status == 200, answer.raw


async def test_a_hidden_number_and_the_phone_behind_it(linked: Linked, database: asyncpg.Connection) -> None:
    """Alone, with the phone, alone, then the phone: four messages of one person in one conversation."""
    await chat(linked, LID)
    await chat(linked, LID, remoteJidAlt=f"{PHONE[1:]}@s.whatsapp.net")
    await chat(linked, LID)
    await chat(linked, f"{PHONE[1:]}@c.us")
    conversations = await met(linked.organization)
    assert len(conversations) == 4
    assert len(set(ids(conversations))) == len(set(contacts(conversations))) == 1
    # And so are those to them, by either address.
    for to in ({"phone": PHONE}, {"lid": LID}):
        sent = (await linked.organization.send({"to": to, "body": "Oi"})).json
        assert (await linked.organization.message(sent["id"]))["conversation_id"] == ids(conversations)[0]


# ---------------------------------------------------------------- the business account


@pytest.mark.parametrize(
    ("configured", "spelled"),
    [
        ("+5554996634363", "555496634363"),
        ("+525512345678", "5215512345678"),
        ("+5491123456789", "541123456789"),
        ("+2250707123456", "22507123456"),
    ],
    ids=["brazil", "mexico", "argentina", "ivory-coast"],
)
async def test_the_account_is_the_configs_number_however_a_body_spells_it(
    gateway: Gateway, configured: str, spelled: str
) -> None:
    """What comes in, what goes out and its statuses are one conversation, which has both in it."""
    organization = await gateway.organization()
    await organization.configure(display_phone_number=configured)
    number = msgspec.structs.replace(organization.numbers[0], display_phone_number=spelled)
    organization.numbers[0] = number
    await write(organization, text(**BY_PHONE))
    sent = (await organization.send({"to": PHONE, "body": "Olá"})).json
    await organization.settled(sent["id"], "read")
    [conversation] = await met(organization)
    assert set(ids(await met(organization, "message.status"))) == {conversation["id"]}
    assert conversation["sender"] == configured
    page = (await organization.call("GET", f"/messages?conversation_id={conversation['id']}")).json
    assert [message["id"] for message in page["messages"]] == [sent["id"]]


async def test_two_configs_of_a_number_are_one_account_however_each_spells_it(gateway: Gateway) -> None:
    """What comes to both is one event."""
    organization = await gateway.organization()
    await organization.configure(display_phone_number="+5554996634363")
    number = msgspec.structs.replace(organization.numbers[0], display_phone_number="+555496634363")
    await organization.configure(number, active=False)
    written = text(**BY_PHONE)
    for config in range(2):
        await write(organization, written, config=config)
    assert len(await met(organization)) == 1


async def test_a_send_without_the_ninth_digit_reaches_the_same_conversation(organization: Organization) -> None:
    await write(organization, text(**BY_PHONE))
    for phone in ("+5511960003333", "+551160003333"):
        sent = (await organization.send({"to": phone, "body": "Olá"})).json
        assert [(await organization.message(sent["id"]))["conversation_id"]] == ids(await met(organization))


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_a_status_of_our_message_that_shows_another_address_joins_both(
    organization: Organization, known: bool
) -> None:
    """Who it was sent to by number has it by user id, as nobody had said before."""
    organization.gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
    if known:
        await write(organization, text(**BY_USER))
    sent = (await organization.send({"to": PHONE, "body": "Olá"})).json
    await report(organization, sent, "delivered", recipient_user_id=USER)
    await report(organization, sent, "read", recipient_user_id=USER)
    await write(organization, text(**BY_PHONE), text(**BY_USER))
    written, statuses = await met(organization), await met(organization, "message.status")
    assert len(set(ids(written[known:]) + ids(statuses[1:]))) == 1
    assert len(set(contacts(written[known:]))) == 1
    assert len(await organization.events(kind="contact.merged")) == known
    path = f"/contacts/{contacts(written)[-1]}/messages"
    page = (await organization.call("GET", path)).json
    assert len(page["messages"]) == 3 + known


async def report(organization: Organization, sent: Any, status: str, **recipient: str) -> None:
    number, at = organization.numbers[0], str(int(time.time()))
    item = {"id": sent["provider_message_id"], "status": status, "timestamp": at, **recipient}
    answer = await organization.post_webhook(envelope((number, {"statuses": [item]})))
    assert answer.status == 200


async def test_what_a_send_names_together_joins_nobody(organization: Organization, table: Table) -> None:
    """Nor is it learned: whoever sends may be wrong, or lie. The number counts."""
    await write(organization, text(**BY_PHONE))
    await write(organization, text(from_user_id="BR.2"))
    sent = (await organization.send({"to": {"phone": PHONE, "user_id": "BR.2"}, "body": "Olá"})).json
    assert (await organization.message(sent["id"]))["conversation_id"] == ids(await met(organization))[0]
    assert await table("merged_into from contacts") == [(None,), (None,)]


async def test_cards_that_people_send_join_nobody(organization: Organization, table: Table) -> None:
    """Whoever writes may claim any number in one."""
    await write(organization, text(from_user_id="BR.2"))
    await write(organization, text(**BY_PHONE))
    card = {"name": {"formatted_name": "Eu"}, "phones": [{"phone": PHONE, "wa_id": PHONE[1:]}]}
    await write(organization, text(from_user_id="BR.2") | {"type": "contacts", "contacts": [card]})
    assert await table("merged_into from contacts") == [(None,), (None,)]


async def test_an_address_of_any_length(organization: Organization, table: Table) -> None:
    """Fits, and is somebody else's than the next one."""
    for number, letter in enumerate("ab"):
        who = {"from": f"551196000333{number}", "from_user_id": "BR." + letter * 5000}
        await write(organization, text(**who), text(**who))
    assert len(await table("id from contacts")) == 2
    assert all(len(value) <= 256 for (value,) in await table("value from contact_addresses"))


# ---------------------------------------------------------------- another number, another id


def system(kind: str, **news: str) -> dict[str, Any]:
    return text() | {"type": "system", "system": {"type": kind, "body": "User changed", **news}}


@pytest.mark.parametrize("kind", ["user_changed_number", "customer_changed_number"])
async def test_a_person_with_another_number_is_the_same(organization: Organization, table: Table, kind: str) -> None:
    new = "5521970001111"
    await write(organization, text(**BY_PHONE))
    await write(organization, system(kind, wa_id=new) | BY_PHONE)
    await write(organization, text(**{"from": new}))
    conversations = await met(organization)
    assert len(set(ids(conversations))) == len(set(contacts(conversations))) == 1
    assert await table("id from contacts") == [(UUID(contacts(conversations)[0]),)]
    [updated] = await organization.events(kind="contact.updated")
    assert updated["data"]["contact"] == {"former": {"phone": PHONE}}
    assert updated["data"]["conversation"]["contact"] == {"id": contacts(conversations)[0], "phone": f"+{new}"}


async def test_a_person_with_another_user_id_is_the_same(organization: Organization, table: Table) -> None:
    """No number is shown, neither before nor after."""
    await write(organization, text(**BY_USER))
    await write(organization, system("user_changed_user_id", previous_user_id=USER, user_id="BR.777"))
    await write(organization, text(from_user_id="BR.777"))
    conversations = await met(organization)
    assert len(set(contacts(conversations))) == 1
    assert len(await table("id from contacts")) == 1
    [updated] = await organization.events(kind="contact.updated")
    assert updated["data"]["contact"] == {"former": {"user_id": USER}}


async def test_a_hidden_person_with_another_phone_is_the_same(linked: Linked) -> None:
    """WhatsApp Web tells of no change: the hidden number stays, and the one beside it is another."""
    new = "5521970001111"
    await chat(linked, LID, remoteJidAlt=f"{PHONE[1:]}@s.whatsapp.net")
    await chat(linked, LID, remoteJidAlt=f"{new}@s.whatsapp.net")
    await chat(linked, f"{new}@c.us")
    assert len(set(contacts(await met(linked.organization)))) == 1
    [updated] = await linked.organization.events(kind="contact.updated")
    assert updated["data"]["contact"] == {"former": {"phone": PHONE}}


async def test_a_former_number_that_somebody_else_has_now(linked: Linked) -> None:
    """Met before by that number alone, and sent to: what comes and goes there now is with the other person."""
    organization, number = linked.organization, f"{PHONE[1:]}@s.whatsapp.net"
    await chat(linked, LID, remoteJidAlt=number)
    await chat(linked, f"{PHONE[1:]}@c.us")
    await organization.send({"to": PHONE, "body": "Olá"})
    await chat(linked, LID, remoteJidAlt="5521970001111@s.whatsapp.net")
    await chat(linked, "99234567890123@lid", remoteJidAlt=number)
    await chat(linked, f"{PHONE[1:]}@c.us")
    await chat(linked, LID)
    ana, *_, bia, same, last = await met(organization)
    assert contacts([bia, last]) == contacts([same, ana])
    assert bia["id"] != ana["id"]
    sent = (await organization.send({"to": PHONE, "body": "Olá"})).json
    assert (await organization.message(sent["id"]))["conversation_id"] == bia["id"]


# ---------------------------------------------------------------- several processes


async def test_what_another_process_has_merged_is_found_out(
    gateway: Gateway, settings: Settings, organization: Organization, table: Table
) -> None:
    """One process remembers both as they were, for webhooks and for sends, and writes nothing to the younger one."""
    other = {"to": {"user_id": USER}, "body": "Olá"}
    await write(organization, text(**BY_PHONE))
    await write(organization, text(**BY_USER))
    assert (await organization.send(other)).status == 200
    async with serving(settings) as url:
        process = Gateway(url, settings.platform_key, gateway.session, gateway.meta)
        elsewhere = Organization(process, organization.id, organization.key)
        config = organization.configs[0]
        elsewhere.configs = [config | {"webhook_url": config["webhook_url"].replace(gateway.url, url)}]
        elsewhere.numbers = organization.numbers
        await write(elsewhere, text(**BY_BOTH))
    await write(organization, text(**BY_USER), text(**BY_PHONE))
    sent = (await organization.send(other)).json
    conversations = await met(organization)
    older = min(contacts(conversations))
    assert contacts(conversations)[2:] == [older] * 3
    assert len(set(ids(conversations)[2:])) == 1
    assert (await organization.message(sent["id"]))["conversation_id"] == ids(conversations)[2]


async def test_many_processes_meet_the_same_people_at_once(settings: Settings, organization: Organization) -> None:
    """Batches of many organizations, in any order: nobody waits in a circle, and everybody is met once."""
    organizations = [new_id() for _ in range(300)]
    people = [Contact(phone=f"+55119700{number:05}") for number in range(2)]
    events = [Event(type="message.received", key="k", contact=person) for person in people]
    order = random.Random(7)

    async def meet_all(database: Database) -> set[UUID | None]:
        shuffled = order.sample(organizations, len(organizations))
        found = [encounter_of(event, config_of(one)) for one in shuffled for event in events]
        async with database.worker() as connection, atomic(connection):
            met = await introduce(connection, [each for each in found if each is not None])
        return {each.conversation.contact.id for each in met if each.conversation.contact}

    async with Database(settings.database_url) as database:
        rounds = await asyncio.gather(*[meet_all(database) for _ in range(4)])
    assert [len(found) for found in rounds] == [len(organizations) * len(people)] * 4
    assert rounds[0] == rounds[1] == rounds[2] == rounds[3]


def config_of(organization_id: UUID) -> Config:
    one = organization_id
    return Config(one, one, "a_provider", "", "active", "+15550001111", MissingPlugin(), "", one)


async def test_sends_to_new_people_at_once(organization: Organization, settings: Settings, table: Table) -> None:
    """From two processes, in either spelling: one contact and conversation each. Who is known stays who they are."""
    await write(organization, text(**BY_PHONE))
    people = [f"+5511960004{number:03}" for number in range(20)] + [PHONE]
    short = [phone[:5] + phone[6:] for phone in people]  # without the ninth digit
    async with serving(settings) as url:
        gateway = organization.gateway
        process = Gateway(url, settings.platform_key, gateway.session, gateway.meta)
        elsewhere = Organization(process, organization.id, organization.key)
        answers = await asyncio.gather(
            *[organization.send({"to": phone, "body": "Olá"}) for phone in people],
            *[elsewhere.send({"to": phone, "body": "Olá"}) for phone in short],
        )
    assert {answer.status for answer in answers} == {200}
    assert len(await table("id from contacts")) == len(await table("id from conversations")) == len(people)
    of_messages = Counter(await table("conversation_id from messages"))
    assert of_messages == dict.fromkeys(await table("id from conversations"), 2)
