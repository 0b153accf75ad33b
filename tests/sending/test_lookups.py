"""Who has a number: asked once before the first message, and never where the person was seen."""

from typing import Any

import asyncpg
import msgspec
import pytest

from ingress.dev.sandbox import AckPolicy, StatusPolicy, example_session
from ingress.settings import Settings
from providers import Contact, Flow, Unavailable, Uncertain
from providers.whatsapp_web import WhatsAppWeb

from ..conftest import serving
from ..gateway import Gateway, Organization
from ..people.test_people import chat
from ..service.test_twilio_service import Account, account, twilio
from ..service.test_waha_service import Linked, linked, waha

__all__ = ["account", "linked", "twilio", "waha"]

# As people write them, and as WhatsApp knows them.
PAIRS = {
    "brazil": ("+5554991112222", "555491112222"),
    "brazil, longer": ("+555491112222", "5554991112222"),
    "mexico": ("+525512345678", "5215512345678"),
    "argentina": ("+541123456789", "5491123456789"),
    "ivory coast": ("+22501234567", "2250701234567"),
}
ASKED, KNOWN = PAIRS["brazil"]
QUIET = AckPolicy(statuses=(), echo=False)


only = pytest.mark.parametrize("linked", ["NOWEB"], indirect=True)


@pytest.fixture
def line(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> Linked:
    """Its server takes what it is given, and has the people of `PAIRS` under the other form of their number."""
    monkeypatch.setattr(WhatsAppWeb, "info", msgspec.structs.replace(WhatsAppWeb.info, pacing=None))
    linked.waha.takes_strangers = True
    linked.waha.set_acks(linked.session, QUIET)
    for asked, known in PAIRS.values():
        if linked.waha.known_as.get(known) is None:
            linked.waha.set_person(asked, f"{known}@c.us")
    return linked


async def send(line: Linked, phone: str = ASKED) -> Any:
    return await line.organization.send({"to": phone, "body": "Olá"})


def reached(line: Linked) -> list[str]:
    """The chats in which somebody got a message."""
    return [message.chat for message in line.waha.state_of(line.session).messages if message.from_me]


@only
@pytest.mark.parametrize("kind", ["brazil", "mexico", "argentina", "ivory coast"])
async def test_a_number_never_seen_is_asked_for_once(line: Linked, kind: str) -> None:
    """And the message goes to the number that the server knows."""
    asked, known = PAIRS[kind]
    for _ in range(3):
        assert (await send(line, asked)).json["status"] == "sent"
    assert reached(line) == [f"{known}@c.us"] * 3
    assert line.waha.lookups == [asked[1:]]


@only
@pytest.mark.parametrize("kind", PAIRS)
async def test_where_a_person_was_seen_nobody_is_asked(line: Linked, kind: str) -> None:
    asked, known = PAIRS[kind]
    line.waha.set_person(asked, f"{known}@c.us")
    line.waha.known_as.pop(known, None)
    await line.waha.post(line.session, line.waha.inbound(line.session).text("Oi", phone=f"+{known}"))
    assert (await send(line, asked)).json["status"] == "sent"
    assert (reached(line), line.waha.lookups) == ([f"{known}@c.us"], [])


@only
async def test_who_writes_is_reached_there_from_then_on(line: Linked) -> None:
    """Also where something else was found before."""
    line.waha.known_as.clear()
    assert (await send(line)).json["status"] == "sent"
    line.waha.set_person(ASKED, f"{KNOWN}@c.us")
    await line.waha.post(line.session, line.waha.inbound(line.session).text("Oi", phone=f"+{KNOWN}"))
    assert (await send(line)).json["status"] == "sent"
    assert reached(line) == [f"{ASKED[1:]}@c.us", f"{KNOWN}@c.us"]
    assert line.waha.lookups == [ASKED[1:]]


@only
async def test_a_number_that_is_not_on_whatsapp(line: Linked) -> None:
    """Refused, clearly, and not asked for again for hours; until the person writes."""
    line.waha.set_person(ASKED, None)
    for _ in range(2):
        refused = await send(line)
        assert (refused.status, refused.json["error"]["code"]) == (422, "not_on_whatsapp"), refused.raw
    assert (reached(line), len(line.waha.lookups)) == ([], 1)
    line.waha.known_as.clear()
    await line.waha.post(line.session, line.waha.inbound(line.session).text("Oi", phone=f"+{KNOWN}"))
    assert (await send(line)).status == 200
    assert (reached(line), len(line.waha.lookups)) == ([f"{KNOWN}@c.us"], 1)


@only
async def test_what_one_process_finds_out_every_other_knows(line: Linked, settings: Settings, gateway: Gateway) -> None:
    """The answer of a look-up; and who was missing, and wrote to another process meanwhile."""
    missing, seen = PAIRS["mexico"]
    line.waha.set_person(missing, None)
    assert [(await send(line, phone)).status for phone in (ASKED, missing)] == [200, 422]
    line.waha.known_as.pop(missing[1:])
    news = line.waha.inbound(line.session).text("Hola", phone=f"+{seen}")
    async with serving(settings) as url:
        elsewhere = Organization(
            Gateway(url, settings.platform_key, gateway.session, gateway.meta),
            line.organization.id,
            line.organization.key,
        )
        assert (await elsewhere.send({"to": ASKED, "body": "Olá"})).status == 200
        [hook] = line.waha.state_of(line.session).webhooks
        hook["url"] = hook["url"].replace(gateway.url, url)
        await line.waha.post(line.session, news)
    assert (await send(line, missing)).status == 200
    assert reached(line) == [f"{KNOWN}@c.us", f"{KNOWN}@c.us", f"{seen}@c.us"]
    assert line.waha.lookups == [ASKED[1:], missing[1:]]


@only
@pytest.mark.parametrize("error", [Unavailable("away"), Uncertain("late"), ValueError("broken")])
async def test_a_look_up_that_fails_costs_no_message(
    line: Linked, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes out once, as it was asked for; and the next ones do not wait for another failure."""
    asked = []

    def failing(self: WhatsAppWeb, phone: str) -> Flow[Contact | None]:
        asked.append(phone)
        raise error
        yield

    monkeypatch.setattr(WhatsAppWeb, "find_contact", failing)
    line.waha.known_as.clear()
    assert [(await send(line, phone)).status for phone in (ASKED, "+5511960004444")] == [200, 200]
    assert reached(line) == [f"{ASKED[1:]}@c.us", "5511960004444@c.us"]
    assert asked == [ASKED]


@only
async def test_what_is_not_sent_is_not_asked_for(line: Linked) -> None:
    """A template without its text: WhatsApp Web cannot express it."""
    template = {"type": "template", "name": "welcome", "language": "pt_BR"}
    answer = await line.organization.send({"to": ASKED, "content": template})
    assert (answer.status, line.waha.lookups) == (422, [])


@only
@pytest.mark.parametrize(("days", "lookups"), [(27, 1), (29, 2)])
async def test_old_answers_are_asked_for_again(
    line: Linked, settings: Settings, monkeypatch: pytest.MonkeyPatch, days: int, lookups: int
) -> None:
    """After weeks."""
    line.waha.known_as.clear()
    monkeypatch.setattr("ingress.people.directory.REMEMBERED_S", 0.0)
    await send(line)
    connection = await asyncpg.connect(settings.database_url)
    try:
        aged = "update contact_addresses set asked_at = now() - make_interval(days => $1) where organization_id = $2"
        await connection.execute(aged, days, line.organization.id)
    finally:
        await connection.close()
    monkeypatch.setattr("ingress.sending.lookups.REMEMBERED_S", 0.0)
    await send(line)
    assert len(line.waha.lookups) == lookups


# ---------------------------------------------------------------- other providers


@pytest.mark.parametrize("statuses", [(), ("delivered",)])
async def test_the_answer_of_meta_corrects_us(
    organization: Organization, gateway: Gateway, statuses: tuple[Any, ...]
) -> None:
    """It knows the person without the ninth digit, and says so: they are sent to there from then on."""
    number = organization.numbers[0]
    gateway.meta.set_statuses(number, StatusPolicy(statuses=statuses))
    gateway.meta.wa_ids[ASKED] = KNOWN
    for _ in range(2):
        sent = (await organization.send({"to": ASKED, "body": "Olá"})).json
        await organization.settled(sent["id"], *(statuses or ["sent"]))
    assert [one.body["to"] for one in gateway.meta.accepted if one.phone_number_id == number.phone_number_id] == [
        ASKED,
        f"+{KNOWN}",
    ]


async def test_an_answer_that_names_somebody_else_is_not_believed(organization: Organization, gateway: Gateway) -> None:
    """As that of a mock with one answer for all: what is written to one person never goes to another."""
    number = organization.numbers[0]
    gateway.meta.set_statuses(number, StatusPolicy(statuses=()))
    gateway.meta.wa_ids[ASKED] = "5511960009999"
    for _ in range(2):
        assert (await organization.send({"to": ASKED, "body": "Olá"})).status == 200
    sent = [one.body["to"] for one in gateway.meta.accepted if one.phone_number_id == number.phone_number_id]
    assert sent == [ASKED, ASKED]


@pytest.mark.parametrize("kind", PAIRS)
async def test_meta_and_twilio_send_to_where_people_were_seen(
    organization: Organization, gateway: Gateway, account: Account, kind: str
) -> None:
    """In the spelling in which they wrote."""
    asked, known = PAIRS[kind]
    number = organization.numbers[0]
    await organization.deliver(gateway.meta.inbound(number).text("Oi", phone=f"+{known}"))
    assert (await organization.send({"to": asked, "body": "Olá"})).status == 200
    sent = [one.body["to"] for one in gateway.meta.accepted if one.phone_number_id == number.phone_number_id]
    await account.deliver("text", phone=f"+{known}")
    message = (await account.organization.send({"to": asked, "body": "Olá"})).json
    assert [*sent, *(one.to for one in account.sent(message["id"]))] == [f"+{known}", f"+{known}"]


# ---------------------------------------------------------------- hidden numbers


@only
async def test_who_shows_a_hidden_number(line: Linked) -> None:
    """Alone, they are sent to there; with the number behind it, each is sent to as it is, and nobody is asked."""
    lid = "88234567890123@lid"
    await chat(line, lid)
    assert (await line.organization.send({"to": {"lid": lid}, "body": "Olá"})).status == 200
    await chat(line, lid, remoteJidAlt=f"{KNOWN}@s.whatsapp.net")
    for to in ({"lid": lid}, ASKED):
        assert (await line.organization.send({"to": to, "body": "Olá"})).status == 200
    assert reached(line) == [lid, lid, f"{KNOWN}@c.us"]
    assert line.waha.lookups == []


@only
async def test_a_look_up_that_finds_a_hidden_number(line: Linked) -> None:
    """It is sent to there."""
    line.waha.set_person(ASKED, "88234567890123@lid")
    for _ in range(2):
        assert (await send(line)).status == 200
    assert (reached(line), line.waha.lookups) == (["88234567890123@lid"] * 2, [ASKED[1:]])


# ---------------------------------------------------------------- for whoever asks


@only
async def test_whether_a_number_is_on_whatsapp(line: Linked) -> None:
    """Asked for once, also for the message that follows."""
    found = (await line.organization.call("GET", f"/contacts/lookup?phone=%2B{ASKED[1:]}")).json
    assert (found["on_whatsapp"], found["phone"], found["provider"]) == (True, f"+{KNOWN}", "whatsapp_web")
    again = await line.organization.call("GET", f"/contacts/lookup?phone=+{ASKED[1:]}")
    assert again.json == found
    assert (await send(line)).status == 200
    assert (reached(line), line.waha.lookups) == ([f"{KNOWN}@c.us"], [ASKED[1:]])
    line.waha.set_person("+5511960005555", None)
    missing = (await line.organization.call("GET", "/contacts/lookup?phone=5511960005555")).json
    assert (missing["on_whatsapp"], "phone" in missing) == (False, False)


@only
async def test_what_one_organization_asked_for_another_does_not_see(
    line: Linked, organization: Organization, gateway: Gateway
) -> None:
    """Its own account is asked, or nobody."""
    session = example_session(7_001, "NOWEB")
    await line.waha.add_session(session, own_port=True)
    other = Linked(line.waha, session, await gateway.organization())
    await other.configure()
    await other.working()
    for asking in (line, other):
        found = (await asking.organization.call("GET", f"/contacts/lookup?phone={ASKED[1:]}")).json
        assert (found["on_whatsapp"], found["config_id"]) == (True, asking.config["config_id"])
    assert line.waha.lookups == [ASKED[1:]] * 2
    answer = await organization.call("GET", f"/contacts/lookup?phone={ASKED[1:]}")
    assert (answer.status, answer.json["code"]) == (422, "unsupported")


async def test_who_cannot_ask(organization: Organization, gateway: Gateway) -> None:
    for phone in ("", "Ana", "+0", "1" * 16):
        assert (await organization.call("GET", f"/contacts/lookup?phone={phone}")).status == 422
    nobody = await gateway.organization()
    assert (await nobody.call("GET", f"/contacts/lookup?phone={ASKED[1:]}")).status == 409
