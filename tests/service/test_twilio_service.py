"""Twilio through the service, both ways, against the simulator: nothing is lost, doubled, or said by mistake."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest

from ingress.dev.sandbox import (
    AnyFault,
    Bare5xxAfterAccept,
    EmptyAnswer,
    ErrorCode,
    HalfAnswer,
    Pace,
    ResetAfterAccept,
    ResetBeforeAccept,
    Throttle429,
    TwilioMessage,
    TwilioSender,
    TwilioSimulator,
    TwilioStatusPolicy,
    example_sender,
    message_sid_of,
)
from ingress.sending import lost_answers
from providers import Event, Webhook
from providers.twilio_whatsapp import TwilioWhatsApp

from ..gateway import Gateway, Organization, eventually

NO_STATUSES = TwilioStatusPolicy(statuses=())
# Every test has a sender of its own, as it has an organization of its own.
_senders = count(60_001)  # those of other files begin elsewhere


@pytest.fixture(scope="session")
async def twilio() -> AsyncIterator[TwilioSimulator]:
    async with TwilioSimulator(pace=Pace(speed=5)) as simulator:
        yield simulator


class Account:
    """An organization with one sender, configured as its users do."""

    config: Any

    def __init__(
        self, organization: Organization, sender: TwilioSender, base_url: str, twilio: TwilioSimulator
    ) -> None:
        self.organization = organization
        self.sender = sender
        self.base_url = base_url
        self.twilio = twilio

    async def configure(self, *, again: bool = False) -> Any:
        body = {
            "provider_type": "twilio_whatsapp",
            "config_data": self.sender.config_data(self.base_url),
            "is_active": True,
            "allow_second": again,
        }
        answer = await self.organization.call("POST", "/integrations/whatsapp/provider/configure", body)
        assert answer.status == 200, answer.raw
        return answer.json

    async def deliver(self, kind: str, **arguments: Any) -> str:
        """Have a person write; the message's SID once our webhook has taken it."""
        form = getattr(self.twilio.inbound(self.sender), kind)(**arguments)
        result = await self.twilio.post(self.sender, form)
        assert result is not None
        assert (result.status, result.tries, result.content_type) == (200, 1, "text/xml")
        return message_sid_of(form)

    def sent(self, message_id: str) -> list[TwilioMessage]:
        """What went out as the message with our id."""
        return self.twilio.by_message_id(message_id.replace("-", ""))


@pytest.fixture
async def account(gateway: Gateway, twilio: TwilioSimulator) -> AsyncIterator[Account]:
    sender = example_sender(next(_senders))
    base_url = await twilio.add_number(sender, own_port=True)
    organization = await gateway.organization()
    account = Account(organization, sender, base_url, twilio)
    account.config = await account.configure()
    yield account
    await twilio.settled()
    mine = [entry for entry in twilio.alerts if entry.url.startswith(account.config["webhook_url"].partition("#")[0])]
    assert mine == []
    assert [one for one in twilio.spoken if one.phone_number == sender.phone_number] == []


async def test_configuring_sets_the_sender_s_webhook(account: Account) -> None:
    """With Twilio's instructions for retries, for messages and for statuses."""
    webhook = account.twilio.state_of(account.sender).webhook
    assert webhook["callback_url"] == webhook["status_callback_url"] == account.config["webhook_url"]
    assert webhook["callback_url"].endswith("#rc=5&rp=all")
    again = await account.configure(again=True)
    assert [check["name"] for check in again["checks"] if not check["passed"]] == []
    assert await account.organization.probe(again["config_id"]) is True
    assert account.twilio.webhook_url(account.sender) == again["webhook_url"]


async def test_what_people_write_comes_out_as_events(account: Account) -> None:
    """Each kind once and in order, however often Twilio posts it."""
    kinds = ["text", "image", "location", "button_reply", "list_reply", "contacts", "flow_reply"]
    sids = [await account.deliver(kind, phone="+5511987654321") for kind in kinds]
    form = account.twilio.inbound(account.sender).text("twice")
    for _ in range(3):
        assert await account.twilio.post(account.sender, form) is not None
    events = [event["data"] for event in await account.organization.events(kind="message.received")]
    assert [data["message"]["provider_message_id"] for data in events] == [*sids, message_sid_of(form)]
    assert [data["message"]["content"]["type"] for data in events] == [*kinds, "text"]
    assert {data["conversation"]["contact"]["phone"] for data in events[:-1]} == {"+5511987654321"}


async def test_a_crowd_loses_and_doubles_nothing(account: Account) -> None:
    people = account.twilio.inbound(account.sender)
    forms = [people.mixed() for _ in range(60)]
    results = await asyncio.gather(*(account.twilio.post(account.sender, form) for form in forms + forms))
    assert {result.status for result in results if result is not None} == {200}
    events = await account.organization.events()
    sids = [
        event["data"]["message"]["provider_message_id"]
        for event in events
        if event["type"] in ("message.received", "message.unknown")
    ]
    assert sorted(sids) == sorted(map(message_sid_of, forms))


async def test_a_send_is_followed_to_the_end_by_its_statuses(account: Account) -> None:
    """They come to the address that the message carries, with our id in it."""
    answer = (await account.organization.send({"to": "+5511987654321", "body": "Olá 🚚"})).json
    assert (answer["status"], answer["provider"], answer["attempts"]) == ("sent", "twilio_whatsapp", 1)
    [message] = account.sent(answer["id"])
    assert (message.sid, message.to) == (answer["provider_message_id"], "+5511987654321")
    assert message.parameter("Body") == "Olá 🚚"
    assert message.status_callback is not None
    assert message.status_callback.startswith(account.config["webhook_url"].partition("#")[0])
    assert message.status_callback.endswith("#rc=5&rp=all")
    settled = await account.organization.settled(answer["id"], "read")
    assert settled["attempts"][0]["class"] == "ok"
    statuses = [
        event["data"]["status"]["value"]
        for event in await account.organization.events(kind="message.status")
        if event["data"]["message"]["id"] == answer["id"]
    ]
    assert {"sent", "delivered", "read"} <= set(statuses)


@pytest.mark.parametrize(
    "policy",
    [
        TwilioStatusPolicy(before_answer=True),
        TwilioStatusPolicy(reorder=True),
        TwilioStatusPolicy(duplicates=2, gap_s=0.001),
        TwilioStatusPolicy(before_answer=True, reorder=True, duplicates=2),
    ],
    ids=["before-answer", "reordered", "repeated", "all-of-it"],
)
async def test_statuses_may_come_in_any_way(account: Account, policy: TwilioStatusPolicy) -> None:
    account.twilio.set_statuses(account.sender, policy)
    sent = (await account.organization.send()).json
    assert (await account.organization.settled(sent["id"], "read"))["error"] is None


@pytest.mark.parametrize("forgets", [False, True], ids=["with-our-id", "without"])
@pytest.mark.parametrize("fault", [None, ResetAfterAccept()], ids=["answered", "lost"])
async def test_every_event_about_a_send_names_it(
    account: Account, forgets: bool, fault: AnyFault | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statuses before our own answer, or without one; also where they name the provider's id alone."""
    monkeypatch.setattr(lost_answers, "ASK_AFTER_S", (0.02, 0.1))
    if forgets:
        parse = TwilioWhatsApp.parse

        def parsed(self: TwilioWhatsApp, hook: Webhook) -> list[Event]:
            return [msgspec.structs.replace(event, correlation_id=None) for event in parse(self, hook)]

        monkeypatch.setattr(TwilioWhatsApp, "parse", parsed)
    account.twilio.set_statuses(account.sender, TwilioStatusPolicy(before_answer=True))
    await account.twilio.script(account.sender, *[fault] if fault else [])
    sent = (await account.organization.send({"to": "+5511987654321", "body": "x", "lead_id": "L1"})).json
    await account.organization.settled(sent["id"], "read")
    events = await eventually(
        lambda: account.organization.events(kind="message.status"),
        lambda events: "read" in [event["data"]["status"]["value"] for event in events],
    )
    assert {(event["data"]["message"].get("id"), event["data"]["message"].get("lead_id")) for event in events} == {
        (sent["id"], "L1")
    }


async def test_delivered_may_be_the_last(account: Account) -> None:
    """`read` comes only from people who show that they have read."""
    account.twilio.set_statuses(account.sender, TwilioStatusPolicy(statuses=("queued", "sent", "delivered")))
    sent = (await account.organization.send()).json
    await account.organization.settled(sent["id"], "delivered")


async def test_a_failure_after_acceptance_is_told(account: Account) -> None:
    """The window of 24 hours: the answer was 201 all the same."""
    account.twilio.set_statuses(account.sender, TwilioStatusPolicy(statuses=("undelivered",), failed_code=63016))
    sent = (await account.organization.send()).json
    assert sent["status"] == "sent"
    message = await account.organization.settled(sent["id"], "failed")
    assert (message["error"]["class"], message["error"]["code"]) == ("Rejected", "63016")


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (ErrorCode(code=21610), 422, "rejected"),
        (ErrorCode(code=63112, http_status=403), 422, "restricted"),
        (ErrorCode(code=20003), 502, "no_provider_left"),
    ],
    ids=["rejected", "restricted", "account-broken"],
)
async def test_refusals_are_told_by_class(account: Account, fault: ErrorCode, status: int, code: str) -> None:
    await account.twilio.script(account.sender, fault)
    answer = await account.organization.send()
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["error"]["code"] == str(fault.code)
    assert account.sent(answer.json["id"]) == []


async def test_what_was_surely_not_taken_is_sent_again(account: Account) -> None:
    await account.twilio.script(account.sender, Throttle429(retry_after=0), ErrorCode(code=20409))
    answer = await account.organization.send()
    assert (answer.status, answer.json["attempts"]) == (200, 3)
    assert len(account.sent(answer.json["id"])) == 1


@pytest.mark.parametrize(
    "fault",
    [ResetAfterAccept(), HalfAnswer(), EmptyAnswer(), Bare5xxAfterAccept()],
    ids=["reset", "half", "empty", "5xx"],
)
async def test_a_lost_answer_is_settled_by_the_callback(account: Account, fault: AnyFault) -> None:
    """Sent once, by the one call there was: the callback's address carries our id, and it names the SID."""
    await account.twilio.script(account.sender, fault)
    answer = await account.organization.send()
    assert answer.status == 200, answer.raw
    message = await account.organization.settled(answer.json["id"], "read")
    [accepted] = account.sent(answer.json["id"])
    assert message["provider_message_id"] == accepted.sid
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]


async def test_a_lost_answer_without_callbacks_is_asked_for(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twilio's list of messages has it."""
    monkeypatch.setattr(lost_answers, "ASK_AFTER_S", (0.01, 0.01))
    account.twilio.set_statuses(account.sender, NO_STATUSES)
    await account.twilio.script(account.sender, ResetAfterAccept())
    answer = await account.organization.send({"to": "+5511987654321", "body": "Só esta"})
    assert answer.status == 200, answer.raw
    [accepted] = account.sent(answer.json["id"])
    message = await account.organization.message(answer.json["id"])
    assert (message["state"], message["provider_message_id"]) == ("done", accepted.sid)


async def test_what_nobody_can_tell_stays_uncertain(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_answers, "ASK_AFTER_S", (0.01, 0.01))
    await account.twilio.script(account.sender, ResetBeforeAccept())
    answer = await account.organization.send(prefer="wait=1")
    assert (answer.status, answer.json["code"]) == (504, "uncertain")
    assert account.sent(answer.json["id"]) == []


async def test_something_to_tap_goes_out_by_its_content(account: Account) -> None:
    """Made once, used by both; what the person taps comes back as their answer."""
    buttons = {"type": "buttons", "buttons": [{"id": "yes", "title": "Sim"}, {"id": "no", "title": "Não"}]}
    before = account.twilio.call_count("POST Content")
    for body in ("Confirma?", "E agora?"):
        content = {"type": "interactive", "body": body, "action": buttons}
        answer = (await account.organization.send({"to": "+5511987654321", "content": content})).json
        [message] = account.sent(answer["id"])
        assert account.twilio.messages[message.sid]["body"] == body
    assert account.twilio.call_count("POST Content") == before + 1
    await account.deliver("button_reply", title="Sim", id="yes", phone="+5511987654321", reply_to=message.sid)
    [event] = await account.organization.events(kind="message.received")
    answered = event["data"]["message"]
    assert (answered["content"]["type"], answered["content"]["id"]) == ("button_reply", "yes")
    assert answered["reply_to"]["id"] == message.sid


async def test_a_message_says_how_long_it_is_worth_delivering(account: Account) -> None:
    """Twilio keeps it that long; where nobody said, as long as Twilio will."""
    expires_at = datetime.now(UTC) + timedelta(seconds=120)
    body = {"to": "+5511987654321", "body": "Código 1234"}
    answer = (await account.organization.send({**body, "expires_at": expires_at.isoformat()})).json
    [message] = account.sent(answer["id"])
    assert 110 <= int(message.parameter("ValidityPeriod") or 0) <= 120
    [message] = account.sent((await account.organization.send(body)).json["id"])
    assert message.parameter("ValidityPeriod") is None


async def test_a_card_goes_out_as_its_file(account: Account) -> None:
    content = {"type": "contacts", "contacts": [{"url": "https://files.example.com/ana.vcf"}]}
    answer = (await account.organization.send({"to": "+5511987654321", "content": content})).json
    [message] = account.sent(answer["id"])
    assert message.parameter("MediaUrl") == "https://files.example.com/ana.vcf"


async def test_a_service_may_pick_the_sender(gateway: Gateway, twilio: TwilioSimulator) -> None:
    """Configured without a number: it takes what comes in for any of its senders, and the answer is its own choice."""
    service = f"MG{next(_senders):032x}"
    sender = msgspec.structs.replace(example_sender(next(_senders)), messaging_service_sid=service)
    account = Account(await gateway.organization(), sender, await twilio.add_number(sender, own_port=True), twilio)
    config_data = {
        name: value for name, value in sender.config_data(account.base_url).items() if name != "phone_number"
    }
    body = {"provider_type": "twilio_whatsapp", "config_data": config_data, "is_active": True}
    answer = await account.organization.call("POST", "/integrations/whatsapp/provider/configure", body)
    assert answer.status == 200, answer.raw
    assert [check["name"] for check in answer.json["checks"] if not check["passed"]] == []
    assert twilio.webhook_url(sender) == answer.json["webhook_url"]
    sid = await account.deliver("text", phone="+5511987654321")
    [event] = await account.organization.events(kind="message.received")
    assert event["data"]["message"]["provider_message_id"] == sid
    shown = (await account.organization.send()).json
    await account.organization.settled(shown["id"], "read")
    [message] = account.sent(shown["id"])
    assert (message.parameter("From"), message.parameter("MessagingServiceSid")) == (None, service)


async def test_a_storm_of_faults_doubles_nothing(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the network does, each message goes out at most once, and what was sent is known as sent."""
    monkeypatch.setattr("ingress.sending.breakers.LEAST_CALLS", 1000)  # else it may open before all are accepted
    faults: list[AnyFault] = [
        ResetBeforeAccept(), ResetAfterAccept(), HalfAnswer(), EmptyAnswer(), EmptyAnswer(accepted=False),
        Bare5xxAfterAccept(), Throttle429(retry_after=0), ErrorCode(code=20409), ErrorCode(code=21610),
    ]  # fmt: skip
    await account.twilio.script(account.sender, *faults * 4)
    answers = await asyncio.gather(*(account.organization.send(prefer="respond-async") for _ in range(40)))
    ids = [answer.json["id"] for answer in answers if answer.status == 202]
    # The breaker may open before the last of them is accepted: then nothing is taken, and nothing goes out.
    assert {answer.json["code"] for answer in answers if answer.status != 202} <= {"providers_resting"}
    assert len(ids) >= 10
    await account.twilio.settled(20)
    for message_id in ids:
        sent = account.sent(message_id)
        assert len(sent) <= 1
        if sent:
            message = await account.organization.settled(message_id, "read")
            assert message["provider_message_id"] == sent[0].sid
    mine = [message for message in account.twilio.accepted if message.phone_number == account.sender.phone_number]
    known = {message_id.replace("-", "") for message_id in ids}
    assert {(message.tracker or "").split(":")[1] for message in mine} <= known
