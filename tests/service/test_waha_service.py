"""WhatsApp Web through the service, against the simulated WAHA server: nothing lost, nothing doubled."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any, get_args
from unittest.mock import AsyncMock

import msgspec
import pytest

from ingress.dev.sandbox import (
    Accept,
    AckPolicy,
    AnyFault,
    Bare5xx,
    Bare5xxAfterAccept,
    EmptyAnswer,
    ErrorCode,
    HalfAnswer,
    HangAfterAccept,
    ResetAfterAccept,
    ResetBeforeAccept,
    RetryPolicy,
    Slow,
    SlowAnswer,
    Throttle429,
    WahaSession,
    WahaSimulator,
    example_session,
)
from ingress.dev.sandbox.waha.bodies import IN_BROWSER, Engine, News
from ingress.receiving.held_events import HeldEvents
from ingress.settings import Settings

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually, limit

ENGINES = get_args(Engine)
BASE = "/integrations/whatsapp"
PEER = "+5511987654321"
FAULTS: list[AnyFault] = [
    Accept(), Slow(seconds=0.01), ResetBeforeAccept(), ResetAfterAccept(), HalfAnswer(), EmptyAnswer(),
    EmptyAnswer(accepted=False), Bare5xx(), Bare5xxAfterAccept(), Bare5xxAfterAccept(status=500),
    Throttle429(retry_after=0), ErrorCode(code=422, message="no"), ErrorCode(code=500),
]  # fmt: skip
BUTTONS = {
    "type": "interactive",
    "body": "Confirma?",
    "action": {"type": "buttons", "buttons": [{"id": "1", "title": "Sim"}]},
}
NO_ACKS = AckPolicy(statuses=(), echo=False)
_sessions = itertools.count(1)


class Linked:
    """An organization whose active provider is a session of the simulator."""

    def __init__(self, waha: WahaSimulator, session: WahaSession, organization: Organization) -> None:
        self.waha = waha
        self.session = session
        self.organization = organization
        self.config: Any = None

    async def configure(self, *, unlinked: bool = False) -> None:
        """As its users do. The service writes its address into the session, which restarts."""
        config_data = self.session.config_data(self.waha.url_for(self.session))
        body = {"provider_type": "whatsapp_web", "config_data": config_data, "is_active": True}
        body["allow_second"] = self.config is not None
        answer = await self.organization.call("POST", f"{BASE}/provider/configure", body)
        assert answer.status == (202 if unlinked else 200), answer.raw
        self.config = answer.json

    async def working(self) -> None:
        state = self.waha.state_of(self.session)
        await self.waha.wait_for(lambda: state.status == "WORKING" and state.webhooks)

    async def send(self, **headers: str) -> Any:
        return await self.organization.send({"to": PEER, "body": "Olá 🚚"}, **headers)


@pytest.fixture
async def waha() -> AsyncIterator[WahaSimulator]:
    async with WahaSimulator(retry=RetryPolicy(tries=40)) as waha:
        yield waha


@pytest.fixture(params=ENGINES)
async def linked(waha: WahaSimulator, gateway: Gateway, request: pytest.FixtureRequest) -> Linked:
    """A session that was linked before, in an organization of its own, by each engine."""
    session = example_session(next(_sessions), request.param)
    await waha.add_session(session, own_port=True)
    made = Linked(waha, session, await gateway.organization())
    # Where the engine keeps chats at all, messages can be asked for.
    waha.state_of(session).config = {"noweb": {"store": {"enabled": True}}}
    await made.configure()
    await made.working()
    return made


only = pytest.mark.parametrize("linked", ["GOWS", "NOWEB"], indirect=True)


async def test_the_service_writes_its_webhook_into_the_session(linked: Linked) -> None:
    """With our key, beside what was configured before; the account is then as it should be."""
    state = linked.waha.state_of(linked.session)
    [hook] = state.webhooks
    assert (hook["url"], hook["hmac"]) == (linked.config["webhook_url"], {"key": linked.session.hmac_key})
    assert state.config["noweb"] == {"store": {"enabled": True}}
    checks = [(check["name"], check["passed"]) for check in linked.config["checks"]]
    assert len(dict(checks)) == len(checks)
    assert dict(checks)["webhook"] is True
    assert await linked.organization.probe(linked.config["config_id"]) is True


async def test_every_message_of_people_comes_out_once(linked: Linked) -> None:
    """Twelve of all kinds, posted at once and some of them twice, and the person's words as they were."""
    people = linked.waha.inbound(linked.session)
    news = [
        people.text("Olá, tudo bem? 🙂", phone=PEER),
        people.image("foto", phone=PEER),
        people.voice(phone=PEER),
        people.location(phone=PEER),
        people.contacts(phone=PEER),
        *[people.mixed() for _ in range(7)],
    ]
    for one in [*news, *news[:5]]:
        [result] = await linked.waha.post(linked.session, one)
        assert result.delivered
    received = await linked.organization.events(kind="message.received")
    ids = [event["data"]["message"]["provider_message_id"] for event in received]
    assert sorted(ids) == sorted(one.payload["id"] for one in news)
    [text] = [event for event in received if event["data"]["message"]["provider_message_id"] == news[0].payload["id"]]
    assert text["data"]["message"]["content"] == {"type": "text", "body": "Olá, tudo bem? 🙂"}
    assert text["data"]["conversation"]["contact"]["phone"] == PEER


async def test_a_send_goes_out_and_its_acks_come_back(linked: Linked) -> None:
    """Accepted under the id that the answer names, and read in the end; each ack is an event."""
    answer = await linked.send()
    assert (answer.status, answer.json["provider"], answer.json["status"]) == (200, "whatsapp_web", "sent")
    accepted = linked.waha.by_id(answer.json["provider_message_id"])
    assert accepted is not None
    assert (accepted.call, accepted.body["text"]) == ("sendText", "Olá 🚚")
    message = await linked.organization.settled(answer.json["id"], "read")
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
    await eventually(
        lambda: linked.organization.events(kind="message.status"),
        lambda events: {"delivered", "read"} <= {event["data"]["status"]["value"] for event in events},
    )
    events = await linked.organization.events(kind="message.status")
    assert {event["data"]["message"]["provider_message_id"] for event in events} == {accepted.id}
    assert len(linked.waha.accepted) == 1


async def test_acks_in_any_order_before_our_own_answer(linked: Linked) -> None:
    """Three times each, the last one first, before the send is answered: the same end."""
    linked.waha.set_acks(linked.session, AckPolicy(before_answer=True, duplicates=2, reorder=True))
    answer = await linked.send()
    assert answer.status == 200
    assert (await linked.organization.settled(answer.json["id"], "read"))["status"] == "read"


async def test_a_new_config_of_the_session_knows_what_the_old_one_sent(linked: Linked) -> None:
    """With a key of its own it has an address beside the old one's: each webhook comes to both, and is one fact."""
    linked.waha.set_acks(linked.session, NO_ACKS)
    sent = (await linked.send()).json
    linked.session = msgspec.structs.replace(linked.session, hmac_key="renewed")
    await linked.configure()
    await linked.working()
    state = linked.waha.state_of(linked.session)
    assert len(state.webhooks) == 2
    [message] = state.messages
    linked.waha.set_acks(linked.session, AckPolicy())
    await linked.waha.post_acks(state, message)
    assert (await linked.organization.settled(sent["id"], "read"))["config_id"] == sent["config_id"]
    results = await linked.waha.post(linked.session, linked.waha.inbound(linked.session).text("Olá"))
    assert [result.delivered for result in results] == [True, True]
    assert len(await linked.organization.events(kind="message.received")) == 1
    answer = [event["data"]["status"]["value"] for event in await linked.organization.events(kind="message.status")]
    assert sorted(value for value in answer if value != "sent") == ["delivered", "read"]


async def test_an_ack_may_be_a_failure(linked: Linked) -> None:
    linked.waha.set_acks(linked.session, AckPolicy(statuses=("SERVER", "ERROR")))
    answer = await linked.send()
    message = await linked.organization.settled(answer.json["id"], "failed")
    assert message["error"]["class"] == "Rejected"


@only
@pytest.mark.parametrize("hides", [False, True], ids=["phone", "hidden"])
async def test_a_lost_answer_is_settled_by_asking(linked: Linked, hides: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted, then a reset, and no ack at all: the service asks for the id that it chose, and sends nothing again."""
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", (0.02, 0.05))
    linked.waha.state_of(linked.session).hides = hides
    linked.waha.set_acks(linked.session, NO_ACKS)
    await linked.waha.script(linked.session, ResetAfterAccept())
    answer = await linked.send(prefer="wait=5")
    assert (answer.status, answer.json["status"]) == (200, "sent")
    [accepted] = linked.waha.accepted
    assert answer.json["provider_message_id"] == accepted.id == accepted.chosen_id
    message = await linked.organization.message(answer.json["id"])
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
    assert linked.waha.call_count("POST sendText", linked.session.name) == 1


@only
async def test_acks_of_a_lost_answer_count_once_it_is_found(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    """They came first, for a message that nobody knew yet: asked for, it is known, and as far as they said."""
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", (0.05, 0.05))
    linked.waha.set_acks(linked.session, AckPolicy(before_answer=True))
    await linked.waha.script(linked.session, ResetAfterAccept())
    answer = await linked.send(prefer="respond-async")
    message = await linked.organization.settled(answer.json["id"], "read")
    assert message["provider_message_id"] == linked.waha.accepted[0].id
    assert linked.waha.call_count("POST sendText", linked.session.name) == 1
    assert linked.waha.duplicates() == {}


@only
@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (AckPolicy(before_answer=True), "read"),
        (AckPolicy(duplicates=2, reorder=True), "read"),
        (AckPolicy(statuses=("DEVICE",), echo=False), "delivered"),
        (AckPolicy(statuses=()), "sent"),
    ],
    ids=["early", "shuffled", "ack", "echo"],
)
@pytest.mark.parametrize("asked", [{"body": "Olá"}, {"content": BUTTONS}], ids=["text", "buttons"])
async def test_a_lost_answer_is_settled_by_what_comes_back(
    linked: Linked, policy: AckPolicy, status: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ack, or the message itself, names the id chosen before the call: nobody asks, nothing is sent again."""
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", ())
    linked.waha.set_acks(linked.session, policy)
    await linked.waha.script(linked.session, ResetAfterAccept())
    answer = await linked.organization.send({"to": PEER, **asked}, prefer="wait=5")
    assert (answer.status, answer.json["status"]) == (200, "sent")
    [accepted] = linked.waha.accepted
    message = await linked.organization.settled(answer.json["id"], status)
    assert (message["state"], message["provider_message_id"]) == ("done", accepted.id)
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
    assert linked.waha.call_count("POST sendText", linked.session.name) == 1
    await linked.waha.settled()
    events = await linked.organization.events(kind="message.status")
    assert {event["data"]["message"]["id"] for event in events} == {answer.json["id"]}
    assert {event["data"]["message"]["provider_message_id"] for event in events} == {accepted.id}


@only
async def test_what_comes_before_our_own_answer_names_our_message(linked: Linked) -> None:
    """Each ack, and the echo, is an event with our id of the message, and nothing that somebody wrote."""
    linked.waha.set_acks(linked.session, AckPolicy(before_answer=True))
    answer = await linked.send()
    await linked.organization.settled(answer.json["id"], "read")
    await linked.waha.settled()
    assert await linked.organization.events(kind="message.echo") == []
    events = await linked.organization.events(kind="message.status")
    assert {"sent", "delivered", "read"} == {event["data"]["status"]["value"] for event in events}
    assert {event["data"]["message"]["id"] for event in events} == {answer.json["id"]}


@only
async def test_no_sequence_of_faults_makes_two_messages_of_one_send(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 sends at once: what is sent went out once, what is failed or held did not."""
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", (0.02, 0.05))
    monkeypatch.setattr("ingress.sending.pacing._distance_s", lambda pacing: 0.0)
    monkeypatch.setattr("ingress.sending.breakers.LEAST_CALLS", 1000)  # else most would wait for it
    dice = random.Random(11)
    await linked.waha.script(linked.session, *[dice.choice(FAULTS) for _ in range(400)])
    linked.waha.set_acks(linked.session, AckPolicy(duplicates=1, reorder=True))
    answers = await asyncio.gather(*[linked.send(prefer="respond-async") for _ in range(40)])
    assert {answer.status for answer in answers} == {202}
    ids = [answer.json["id"] for answer in answers]
    accepted = linked.waha.accepted

    async def messages() -> list[Any]:
        return [await linked.organization.message(id) for id in ids]

    def sent(shown: list[Any]) -> list[str]:
        return sorted(message["provider_message_id"] for message in shown if message["provider_message_id"])

    shown = await eventually(
        messages,
        lambda shown: (
            all(message["state"] != "sending" for message in shown)
            and sent(shown) == sorted(one.id for one in accepted)
        ),
    )
    assert linked.waha.duplicates() == {}
    # Some never arrived, which only WhatsApp knows: they are held, and not sent again.
    assert "uncertain" in {message["state"] for message in shown}


async def test_the_phone_behind_a_hidden_number_is_found_once_it_is_known(linked: Linked) -> None:
    """WEBJS does not tell it beside the message; the session knows it when it has seen it elsewhere."""
    people = linked.waha.inbound(linked.session)
    await linked.waha.post(linked.session, people.text("Olá", phone=PEER, hidden=True))
    [event] = await linked.organization.events(kind="message.received")
    known = linked.session.engine not in IN_BROWSER
    assert ("phone" in event["data"]["conversation"]["contact"]) == known
    path = f"/messages/{event['id']}/phone"
    answer = await linked.organization.call("GET", path)
    assert (answer.status, answer.json) == (200, {"phone": PEER if known else None})
    people.text("Oi", phone=PEER)
    assert (await linked.organization.call("GET", path)).json == {"phone": PEER}
    assert linked.waha.call_count("GET {session}/lids/{lid}", linked.session.name) == (0 if known else 2)


async def test_typing_is_shown_and_stopped(linked: Linked) -> None:
    """As often as one likes."""
    await linked.waha.post(linked.session, linked.waha.inbound(linked.session).text("Olá", phone=PEER))
    [event] = await linked.organization.events(kind="message.received")
    for method in ("POST", "DELETE", "DELETE"):
        answer = await linked.organization.call(method, f"/messages/{event['id']}/typing")
        assert (answer.status, answer.raw) == (204, b"")
    shown = [(receipt.call, receipt.chat) for receipt in linked.waha.receipts]
    chat = f"{PEER[1:]}@c.us"
    assert shown == [("sendSeen", chat), ("startTyping", chat), ("stopTyping", chat), ("stopTyping", chat)]


async def test_a_template_goes_out_as_the_text_that_is_given_for_it(linked: Linked) -> None:
    template = {"type": "template", "name": "order_update", "language": "pt_BR", "rendered": "Seu pedido saiu."}
    assert (await linked.organization.send({"to": PEER, "content": template})).status == 200
    assert linked.waha.accepted[0].body["text"] == "Seu pedido saiu."
    del template["rendered"]
    answer = await linked.organization.send({"to": PEER, "content": template})
    assert (answer.status, answer.json["code"]) == (422, "unsupported")
    assert len(linked.waha.accepted) == 1


@pytest.mark.parametrize("linked", ["WEBJS"], indirect=True)
async def test_a_file_may_take_longer_than_a_text(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers once it has fetched the file and passed it on."""
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", ())
    limit(monkeypatch, "whatsapp_web", call_s=0.5, mib_per_s=16)
    await linked.waha.set_default(linked.session, Slow(seconds=0.9))
    linked.waha.set_acks(linked.session, NO_ACKS)
    image = {"type": "image", "url": "https://files.example.com/16-mib.jpg"}
    sent = await linked.organization.send({"to": PEER, "content": image})
    assert (sent.status, sent.json["status"]) == (200, "sent"), sent.raw
    slow = await linked.send()
    assert (slow.status, slow.json["error"]["code"]) == (504, "read_timeout"), slow.raw


@pytest.mark.parametrize("linked", ["GOWS"], indirect=True)
async def test_a_server_that_hangs_does_not_get_it_twice(linked: Linked) -> None:
    """The caller waits a moment only; the message stays one, however often the same is asked for."""
    linked.waha.set_acks(linked.session, NO_ACKS)
    await linked.waha.script(linked.session, HangAfterAccept())
    first = await linked.send(prefer="wait=1", idempotency_key="one")
    again = await linked.send(prefer="wait=1", idempotency_key="one")
    assert {first.status, again.status} <= {202, 409, 504}
    assert first.json["id"] == again.json["id"]
    assert len(linked.waha.accepted) == len(linked.waha.sends) == 1


@pytest.mark.parametrize("linked", ["GOWS"], indirect=True)
async def test_the_key_of_webhooks_is_renewed_without_losing_one(linked: Linked, gateway: Gateway) -> None:
    """Both keys are good while both are configured: WAHA signs with the new one, and repeats with the one of then."""
    former, path = linked.session.hmac_key, f"{BASE}/provider/configs/{linked.config['config_id']}"
    state = linked.waha.state_of(linked.session)
    [old_hook] = state.webhooks

    async def answer(hook: Any, words: str) -> int | None:
        state.config = {**state.config, "webhooks": [hook]}
        [result] = await linked.waha.post(linked.session, linked.waha.inbound(linked.session).text(words))
        return result.status

    async def edited(**changes: Any) -> Any:
        assert (await linked.organization.call("PATCH", path, {"config_data": changes})).status == 200
        await linked.working()
        return state.webhooks[0]

    new_hook = await edited(hmac_key="renewed", hmac_key_previous=former)
    assert (new_hook["url"], new_hook["hmac"]) == (old_hook["url"], {"key": "renewed"})
    old_hook = {**old_hook, "retries": {"attempts": 0}}
    assert [await answer(hook, "both") for hook in (new_hook, old_hook)] == [200, 200]
    await edited(hmac_key_previous=None)
    assert [await answer(hook, "one") for hook in (new_hook, old_hook)] == [200, 401]
    received = await linked.organization.events(kind="message.received")
    assert [event["data"]["message"]["content"]["body"] for event in received] == ["both", "both", "one"]


@pytest.mark.parametrize("linked", ["GOWS"], indirect=True)
async def test_a_forged_webhook_is_refused(linked: Linked, gateway: Gateway) -> None:
    """Signed with another key: 401, and no event."""
    state = linked.waha.state_of(linked.session)
    before = await linked.organization.events()
    state.config = {"webhooks": [{**state.webhooks[0], "hmac": {"key": "another"}, "retries": {"attempts": 0}}]}
    [result] = await linked.waha.post(linked.session, linked.waha.inbound(linked.session).text("x"))
    assert (result.status, result.tries) == (401, 1)
    assert await linked.organization.events() == before


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_phone_is_linked_through_the_service(waha: WahaSimulator, watching: Gateway, engine: Engine) -> None:
    """The service creates the session; what the phone then says is an event, and sends go out from there on."""
    gateway = watching
    waha.engine = engine
    session = example_session(next(_sessions), engine)
    await waha.add_session(session, exists=False)
    linked = Linked(waha, session, await gateway.organization())
    await linked.configure(unlinked=True)
    state = waha.state_of(session)
    await waha.wait_for(lambda: state.status == "SCAN_QR_CODE" and state.webhooks)
    waha.scan(session)
    await waha.settled()
    news = await linked.organization.events(kind="account.updated")
    assert {"scan_qr", "working"} <= {event["data"]["account"]["details"]["state"] for event in news}
    await eventually(lambda: linked.organization.events(kind="provider.switched"))
    assert (await linked.send()).status == 200
    assert len(waha.accepted) == 1
    path = f"/api/{session.name}/chats/{PEER[1:]}@c.us/messages"
    headers = {"X-Api-Key": session.api_key}
    async with gateway.session.get(f"{waha.url}{path}", headers=headers) as answer:
        assert (answer.status, len(await answer.json())) == (200, 1)


PHOTO = {"type": "image", "url": "https://files.example.com/1.jpg", "caption": "Nota"}


@pytest.mark.parametrize("content", [{"type": "text", "body": "Olá"}, PHOTO], ids=["text", "image"])
async def test_what_happens_to_our_message_names_it(linked: Linked, content: Any) -> None:
    """Echo, acks, a reaction, an edit and a deletion on the phone, an answer: each has our id and the CRM's."""
    linked.waha.set_acks(linked.session, NO_ACKS)
    sent = (await linked.organization.send({"to": PEER, "content": content, "lead_id": "L1"})).json
    people, state = linked.waha.inbound(linked.session), linked.waha.state_of(linked.session)
    [message] = state.messages
    linked.waha.set_acks(linked.session, AckPolicy())
    await linked.waha.post_acks(state, message)
    for news in (
        people.reaction("👍", message_id=message.id, phone=PEER),
        people.edited(message.bare, phone=PEER, from_me=True),
        people.revoked(message.bare, phone=PEER, from_me=True),
        people.text("Obrigado", reply_to=message.bare, phone=PEER),
    ):
        await linked.waha.post(linked.session, news)
    *ours, answer = [event for event in await linked.organization.events() if "message" in event["data"]]
    known = [{"id": sent["id"], "lead_id": "L1"}] * len(ours)
    assert [{name: event["data"]["message"].get(name) for name in ("id", "lead_id")} for event in ours] == known
    statuses, others = ours[:-3], ours[-3:]
    assert {event["type"] for event in statuses} == {"message.status"}
    assert {event["data"]["status"]["value"] for event in statuses} == {"sent", "delivered", "read"}
    kinds = [(event["type"], event["data"]["message"].get("by")) for event in others]
    expected = [("message.received", None), ("message.edited", "business"), ("message.deleted", "business")]
    assert kinds == expected
    assert answer["data"]["message"]["reply_to"]["message_id"] == sent["id"]
    assert "id" not in answer["data"]["message"]


DOCUMENT = {"type": "document", "url": "https://files.example.com/1.pdf", "filename": "nota.pdf"}
TEXT = {"type": "text", "body": "Olá 🚚"}
PLACE = {"type": "location", "latitude": -23.56135, "longitude": -46.65653, "name": "Loja"}
CARD = {"type": "contacts", "contacts": [{"name": {"formatted_name": "Ana"}, "phones": [{"phone": "+5511900000000"}]}]}
VOICE = {"type": "audio", "url": "https://files.example.com/1.ogg", "voice": True}
CONTENTS = [TEXT, PHOTO, DOCUMENT, PLACE, CARD, VOICE]
each_content = pytest.mark.parametrize("content", CONTENTS, ids=[str(each["type"]) for each in CONTENTS])


async def ends_as_read(linked: Linked, message_id: str) -> None:
    """Nobody wrote it; its statuses have our id and the CRM's, and come out in their order."""
    assert (await linked.organization.settled(message_id, "read"))["state"] == "done"
    await linked.waha.settled()
    statuses = await eventually(
        lambda: linked.organization.events(kind="message.status"),
        lambda events: "read" in [event["data"]["status"]["value"] for event in events],
    )
    assert await linked.organization.events(kind="message.echo") == []
    assert {(event["data"]["message"].get("id"), event["data"]["message"].get("lead_id")) for event in statuses} == {
        (message_id, "L1")
    }
    values = [event["data"]["status"]["value"] for event in statuses]
    assert [value for value in values if value != "sent"] == ["delivered", "read"]
    assert values.index("sent") < values.index("delivered")
    assert len({event["data"]["message"]["provider_message_id"] for event in statuses}) == 1


@each_content
@pytest.mark.parametrize("hides", [False, True], ids=["phone", "hidden"])
async def test_what_comes_before_our_own_answer_waits_for_it(linked: Linked, content: Any, hides: bool) -> None:
    """The message comes back, arrives and is read, and then the call that sent it is answered."""
    await linked.waha.script(linked.session, SlowAnswer(seconds=0.1))
    linked.waha.state_of(linked.session).hides = hides
    linked.waha.set_acks(linked.session, AckPolicy(before_answer=True, duplicates=1))
    sent = (await linked.organization.send({"to": PEER, "content": content, "lead_id": "L1"})).json
    await ends_as_read(linked, sent["id"])


async def test_acks_under_the_hidden_number_are_of_whom_it_was_sent_to(linked: Linked) -> None:
    """Nothing else says whose hidden number that is."""
    linked.waha.state_of(linked.session).hides = True
    linked.waha.set_acks(linked.session, AckPolicy(echo=False))
    sent = (await linked.send()).json
    await linked.organization.settled(sent["id"], "read")
    await linked.waha.settled()
    message = await linked.organization.message(sent["id"])
    events = await linked.organization.events(kind="message.status")
    assert {event["data"]["conversation"]["id"] for event in events} == {message["conversation_id"]}
    assert "lid" in events[-1]["data"]["conversation"]["contact"]


@each_content
async def test_an_answer_that_comes_too_late_is_not_needed(
    linked: Linked, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server took it and answers long after our limit; what came back of it meanwhile settles it."""
    limit(monkeypatch, "whatsapp_web", call_s=1.0, mib_per_s=None)
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", ())
    linked.waha.set_acks(linked.session, AckPolicy(duplicates=1))
    await linked.waha.script(linked.session, SlowAnswer(seconds=14))
    sent = (await linked.organization.send({"to": PEER, "content": content, "lead_id": "L1"})).json
    assert sent["status"] == "sent"
    await ends_as_read(linked, sent["id"])
    message = await linked.organization.message(sent["id"])
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
    assert message["provider_message_id"] == linked.waha.accepted[0].id


@only
async def test_nor_is_that_to_a_list(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which WEBJS does not have."""
    rows = [{"rows": [{"id": "1", "title": "Sim"}]}]
    menu = {"type": "interactive", "body": "Confirma?", "action": {"type": "list", "button": "Ver", "sections": rows}}
    await test_an_answer_that_comes_too_late_is_not_needed(linked, menu, monkeypatch)


@pytest.mark.parametrize("content", [TEXT, PHOTO], ids=["text", "image"])
@pytest.mark.parametrize("hides", [False, True], ids=["phone", "hidden"])
async def test_a_lost_answer_is_found_by_what_the_message_says(
    linked: Linked, content: Any, hides: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing came back of it, and most engines take no id: of what the chat has, none of our other messages."""
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", (0.02, 0.05))
    monkeypatch.setattr("ingress.sending.pacing._distance_s", lambda pacing: 0.0)
    linked.waha.state_of(linked.session).hides = hides
    linked.waha.set_acks(linked.session, NO_ACKS)
    body = {"to": PEER, "content": content}
    before = (await linked.organization.send(body)).json
    await linked.waha.script(linked.session, ResetAfterAccept())
    sent = (await linked.organization.send(body)).json
    after = (await linked.organization.send(body)).json
    assert [sent["status"], after["status"]] == ["sent", "sent"]
    found = [each["provider_message_id"] for each in (before, sent, after)]
    assert found == [accepted.id for accepted in linked.waha.accepted]


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers do not come, and the server does not know what was sent."""
    limit(monkeypatch, "whatsapp_web", call_s=0.5, mib_per_s=None)
    monkeypatch.setattr("ingress.sending.lost_answers.LostAnswers.find", AsyncMock(return_value=None))
    monkeypatch.setattr("ingress.api.send.SETTLE_WAIT_S", 0.0)


async def unanswered(linked: Linked, body: str) -> str:
    """Send a text whose answer is lost, and of which nothing comes back yet; our id of it."""
    linked.waha.set_acks(linked.session, NO_ACKS)
    await linked.waha.script(linked.session, HangAfterAccept())
    answer = await linked.organization.send({"to": PEER, "body": body, "lead_id": "L1"})
    assert answer.status == 504
    return str(answer.json["id"])


only_by_content = pytest.mark.parametrize("linked", ["WEBJS"], indirect=True)


@only_by_content
@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("source", ["app", None], ids=["phone", "unknown"])
async def test_the_same_words_by_somebody_else_settle_nothing(linked: Linked, source: str | None) -> None:
    """A colleague types them into the phone in the moment in which our answer is lost."""
    sent = await unanswered(linked, "Olá")
    people = linked.waha.inbound(linked.session)
    await linked.waha.post(
        linked.session, News(("message.any",), {**people.own("Olá", phone=PEER).payload, "source": source})
    )
    if source == "app":  # it is nobody's but theirs; else it waits until the send has ended
        await eventually(lambda: linked.organization.events(kind="message.echo"))
    await linked.waha.post(linked.session, people.text("Oi", phone=PEER))
    await eventually(lambda: linked.organization.events(kind="message.received"))
    message = await linked.organization.message(sent)
    assert (message["state"], message["provider_message_id"]) == ("uncertain", None)


@only_by_content
@pytest.mark.usefixtures("lost")
async def test_each_echo_is_of_one_send(linked: Linked) -> None:
    """Two texts alike whose answers were lost: the first that comes back is the first one's."""
    first, second = [await unanswered(linked, "Olá") for _ in range(2)]
    state = linked.waha.state_of(linked.session)
    linked.waha.set_acks(linked.session, AckPolicy())
    for message in state.messages:
        await linked.waha.post_acks(state, message)
    shown = [await linked.organization.settled(each, "read") for each in (first, second)]
    assert [each["provider_message_id"] for each in shown] == [message.bare for message in state.messages]
    assert await linked.organization.events(kind="message.echo") == []


@only_by_content
@pytest.mark.usefixtures("lost")
async def test_an_echo_of_the_next_send_does_not_settle_the_last(linked: Linked) -> None:
    """Of two texts alike the first never went out; the second comes back before its own answer."""
    linked.waha.set_acks(linked.session, NO_ACKS)
    await linked.waha.script(linked.session, Bare5xx())
    lost_id = (await linked.organization.send({"to": PEER, "body": "Olá"})).json["id"]
    linked.waha.set_acks(linked.session, AckPolicy(before_answer=True))
    answer = await linked.organization.send({"to": PEER, "body": "Olá", "lead_id": "L1"})
    await ends_as_read(linked, answer.json["id"])
    message = await linked.organization.message(lost_id)
    assert (message["state"], message["provider_message_id"]) == ("uncertain", None)


@only_by_content
@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("together", [False, True], ids=["one-by-one", "together"])
async def test_what_comes_back_after_it_was_given_up_is_reported_again(
    linked: Linked, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown after its time; then the engine reconnects, and the message comes back with all that became of it."""
    look = HeldEvents._look
    monkeypatch.setattr("ingress.sending.outcomes.HOLD_S", 0)
    sent = await unanswered(linked, "Olá")
    await linked.organization.settled(sent, "unknown")
    state = linked.waha.state_of(linked.session)
    linked.waha.set_acks(linked.session, AckPolicy())
    if together:
        monkeypatch.setattr(HeldEvents, "_look", AsyncMock())
    await linked.waha.post_acks(state, state.messages[0])
    await linked.waha.settled()
    if together:
        monkeypatch.setattr(HeldEvents, "_look", look)
    message = await linked.organization.settled(sent, "read")
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
    events = await eventually(
        lambda: linked.organization.events(kind="message.status"),
        lambda events: events[-1]["data"]["status"]["value"] == "read",
    )
    values = [event["data"]["status"]["value"] for event in events]
    assert list(dict.fromkeys(values)) == ["unknown", "sent", "delivered", "read"]
    assert {event["data"]["message"]["id"] for event in events} == {sent}
    assert {event["data"]["message"]["lead_id"] for event in events} == {"L1"}


@only_by_content
@pytest.mark.usefixtures("lost")
async def test_what_belongs_to_no_send_is_an_event_once_they_have_ended(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program sends through the account: its message, posted twice, is one echo, before what came later."""
    monkeypatch.setattr("ingress.sending.outcomes.HOLD_S", 1)
    sent = await unanswered(linked, "Olá")
    news = linked.waha.inbound(linked.session).own("Promoção", phone=PEER)
    shown = News(("message.any",), {**news.payload, "source": "api"})
    for _ in range(2):
        await linked.waha.post(linked.session, shown)
    assert await linked.organization.events(kind="message.echo") == []
    await linked.organization.settled(sent, "unknown")
    await eventually(lambda: linked.organization.events(kind="message.echo"))
    await linked.waha.post(linked.session, shown)
    [echo] = await linked.organization.events(kind="message.echo")
    assert "id" not in echo["data"]["message"]
    assert echo["data"]["message"]["content"] == {"type": "text", "body": "Promoção"}


async def test_a_reaction_of_ours_is_no_echo(linked: Linked) -> None:
    """It comes back like every message, and names two: itself, and what it is a reaction to."""
    first = (await linked.organization.send({"to": PEER, "body": "Olá", "lead_id": "L0"})).json
    reaction = {"type": "reaction", "message_id": first["provider_message_id"], "emoji": "👍"}
    sent = (await linked.organization.send({"to": PEER, "content": reaction, "lead_id": "L1"})).json
    await linked.waha.settled()
    status = await eventually(
        lambda: linked.organization.events(kind="message.status"),
        lambda events: sum(event["data"]["message"].get("id") == sent["id"] for event in events) >= 2,
    )
    assert await linked.organization.events(kind="message.echo") == []
    assert {event["data"]["message"].get("lead_id") for event in status} == {"L0", "L1"}


@only_by_content
@pytest.mark.usefixtures("lost")
async def test_what_cannot_be_read_again_holds_up_nobody(linked: Linked) -> None:
    """Longer than anybody may send it: it is an event as it came; what came with it is settled."""
    sent = await unanswered(linked, "Olá")
    people, state = linked.waha.inbound(linked.session), linked.waha.state_of(linked.session)
    shown = {**people.own("x" * 70_000, phone=PEER).payload, "source": "api"}
    await linked.waha.post(linked.session, News(("message.any",), shown))
    linked.waha.set_acks(linked.session, AckPolicy())
    await linked.waha.post_acks(state, state.messages[0])
    await linked.organization.settled(sent, "read")
    [echo] = await eventually(lambda: linked.organization.events(kind="message.echo"))
    assert "id" not in echo["data"]["message"]


TAKEN: list[AnyFault] = [
    Accept(), Slow(seconds=0.01), HangAfterAccept(), ResetAfterAccept(), HalfAnswer(), EmptyAnswer(),
    Bare5xxAfterAccept(status=500),
]  # fmt: skip


async def test_whatever_becomes_of_answers_each_message_is_known_by_what_comes_back(
    linked: Linked, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, 24 sends, two alike to each person, most without an answer; the last receipt comes first."""
    limit(monkeypatch, "whatsapp_web", call_s=1.0, mib_per_s=None)
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", ())
    monkeypatch.setattr("ingress.sending.pacing._distance_s", lambda pacing: 0.0)
    monkeypatch.setattr("ingress.sending.breakers.LEAST_CALLS", 1000)
    dice = random.Random(7)
    await linked.waha.script(linked.session, *[dice.choice(TAKEN) for _ in range(24)])
    linked.waha.set_acks(linked.session, AckPolicy(before_answer=True, duplicates=1, reorder=True))
    organization = linked.organization
    async with serving(settings) as url:
        elsewhere = Gateway(url, settings.platform_key, organization.gateway.session, organization.gateway.meta)

        async def send(index: int) -> str:
            body = {"to": f"+55119{index // 2:08d}", "body": "Olá", "lead_id": "L1"}
            gateway = (organization.gateway, elsewhere)[index % 2]
            answer = await gateway.call("POST", "/send", body, key=organization.key, prefer="respond-async")
            return str(answer.json["id"])

        ids = await asyncio.gather(*[send(index) for index in range(24)])
        shown = [await organization.settled(id, "read", timeout=120) for id in ids]
        await linked.waha.settled()
        statuses = await eventually(
            lambda: organization.events(kind="message.status"),
            lambda events: sum(event["data"]["status"]["value"] == "read" for event in events) == 24,
        )
    assert sorted(each["provider_message_id"] for each in shown) == sorted(one.id for one in linked.waha.accepted)
    assert await organization.events(kind="message.echo") == []
    assert {event["data"]["message"].get("lead_id") for event in statuses} == {"L1"}
    found = {(event["data"]["message"]["id"], event["data"]["message"]["provider_message_id"]) for event in statuses}
    assert found == {(each["id"], each["provider_message_id"]) for each in shown}


@only_by_content
@pytest.mark.usefixtures("lost")
async def test_an_answer_lost_after_a_fallback_is_settled_where_it_went(linked: Linked, gateway: Gateway) -> None:
    """The send was accepted for another number, so the conversation in which its message comes back is another one."""
    active = await linked.organization.configure(own_port=True)
    await linked.organization.fall_back_to(linked.config["config_id"])
    await gateway.meta.script(linked.organization.numbers[0], ErrorCode(code=190))
    await linked.waha.script(linked.session, SlowAnswer(seconds=14))
    answer = await linked.organization.send({"to": PEER, "content": PHOTO, "lead_id": "L1"})
    await ends_as_read(linked, answer.json["id"])
    statuses = await linked.organization.events(kind="message.status")
    assert {event["data"]["message"]["fallback_from"] for event in statuses} == {active["config_id"]}
    assert {event["data"]["message"]["fallback_reason"] for event in statuses} == {"AccountBroken"}
