"""Order: sends of one conversation are called as they were accepted, one after the other, and hold up no other one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.dev.sandbox import (
    AnyFault,
    Bare5xx,
    ErrorCode,
    Hang,
    MetaSimulator,
    Refuse,
    StatusPolicy,
    Throttle429,
    TwilioSimulator,
    WahaSimulator,
    example_sender,
    example_session,
)
from ingress.sending import conversation_order, recovery
from ingress.settings import Settings
from ingress.storage.statements.sending import sends

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, eventually, unused_port
from ..people.test_people import text, write

PERSON, OTHER = "+5511987654321", "+5511912345678"
AT_ONCE = {"prefer": "respond-async"}
PASSING = ErrorCode(code=131016, http_status=503)
_accounts = count(900)


class Chat:
    """An organization at a provider, whose next call can be made to fail, and what its people got, in order."""

    def __init__(self, organization: Organization, script: Callable[[], Any], words: Callable[[], list[str]]) -> None:
        self.organization = organization
        self.script = script
        self.words = words


async def _configured(gateway: Gateway, provider: str, config_data: Any) -> Organization:
    organization = await gateway.organization()
    body = {"provider_type": provider, "config_data": config_data, "is_active": True}
    answer = await organization.call("POST", "/integrations/whatsapp/provider/configure", body)
    assert answer.status == 200, answer.raw
    return organization


def meta_words(organization: Organization, number: int = 0) -> list[str]:
    """What people got from a number of *organization*, in order."""
    meta, id = organization.gateway.meta, organization.numbers[number].phone_number_id
    bodies = [message.body for message in meta.accepted if message.phone_number_id == id]
    return [body.get("text", body.get("image", {})).get("body") or body["image"]["caption"] for body in bodies]


@pytest.fixture(params=["meta_business", "twilio_whatsapp", "whatsapp_web"])
async def chat(gateway: Gateway, request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    if request.param == "meta_business":
        organization = await gateway.organization()
        await organization.configure()
        number = organization.numbers[0]
        yield Chat(organization, lambda: gateway.meta.script(number, PASSING), lambda: meta_words(organization))
    elif request.param == "twilio_whatsapp":
        async with TwilioSimulator() as twilio:
            sender = example_sender(next(_accounts))
            config_data = sender.config_data(await twilio.add_number(sender))
            yield Chat(
                await _configured(gateway, request.param, config_data),
                lambda: twilio.script(sender, ErrorCode(code=63012, http_status=503)),
                lambda: [message.parameter("Body") or "" for message in twilio.accepted],
            )
    else:
        async with WahaSimulator() as waha:
            session = example_session(next(_accounts))
            await waha.add_session(session)
            organization = await _configured(gateway, request.param, session.config_data(waha.url_for(session)))
            state = waha.state_of(session)
            await waha.wait_for(lambda: state.status == "WORKING" and state.webhooks)
            yield Chat(
                organization,
                lambda: waha.script(session, Throttle429(retry_after=0)),
                lambda: [message.body.get("text") or message.body["caption"] for message in waha.accepted],
            )


async def test_a_send_that_is_repeated_is_not_overtaken(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image and two texts, one after the other, of which the provider refuses the first one for now."""
    monkeypatch.setattr("ingress.sending.pacing._distance_s", lambda pacing: 0.0)
    await chat.script()
    image = {"url": "https://example.com/1.jpg", "mime_type": "image/jpeg"}
    for body in ({"attachments": [image], "body": "1"}, {"body": "2"}, {"body": "3"}):
        answer = await chat.organization.send({"to": PERSON, **body}, **AT_ONCE)
        assert answer.status == 202
    words = await eventually(chat.words, lambda words: len(words) == 3)
    assert words == ["1", "2", "3"]


# ---------------------------------------------------------------- what waits, and for what


@pytest.fixture
async def other(settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """Another process of the same service; it does not wait for its sends when it ends."""
    monkeypatch.setattr("ingress.sending.outbound.DRAIN_S", 0.1)
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, settings.platform_key, session, meta)


@pytest.fixture
async def pair(gateway: Gateway) -> Organization:
    """An organization with an active number and one to fall back to, each with a port of its own."""
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    second = await organization.configure(active=False, own_port=True)
    await organization.fall_back_to(second["config_id"])
    return organization


def at(gateway: Gateway, organization: Organization) -> Organization:
    """The same organization, by way of another process."""
    return Organization(gateway, organization.id, organization.key)


async def post(organization: Organization, words: str, to: str | dict[str, str] = PERSON, **more: Any) -> str:
    """Have it sent without waiting for it; its id."""
    answer = await organization.send({"to": to, "body": words, **more}, **AT_ONCE)
    assert answer.status == 202, answer.raw
    return str(answer.json["id"])


async def script(organization: Organization, *faults: AnyFault) -> None:
    await organization.gateway.meta.script(organization.numbers[0], *faults)


async def refused_once(organization: Organization, message_id: str) -> Any:
    """The message, once its first call was refused: it waits to be repeated."""
    return await eventually(
        lambda: organization.message(message_id),
        lambda message: message["attempts"] and message["attempts"][0].get("class") is not None,
    )


async def test_processes_keep_one_order(organization: Organization, other: Gateway) -> None:
    """What comes next is woken where it waits."""
    await script(organization, Throttle429(retry_after=0.5))
    ways = [organization, at(other, organization)]
    for place in range(10):
        await post(ways[place % 2], str(place))
    words = await eventually(lambda: meta_words(organization), lambda words: len(words) == 10)
    assert words == [str(place) for place in range(10)]


async def test_processes_keep_one_order_without_redis(
    organization: Organization, settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is woken elsewhere: who waits looks."""
    monkeypatch.setattr(conversation_order, "LOOK_EVERY_S", 0.1)
    away = msgspec.structs.replace(settings, redis_url=f"redis://127.0.0.1:{unused_port()}")
    async with serving(away) as first, serving(away) as second:
        ways = [
            at(Gateway(url, settings.platform_key, gateway.session, gateway.meta), organization)
            for url in (first, second)
        ]
        await script(organization, Throttle429(retry_after=0.5))
        for place in range(6):
            await post(ways[place % 2], str(place))
        words = await eventually(lambda: meta_words(organization), lambda words: len(words) == 6)
    assert words == [str(place) for place in range(6)]


async def test_another_conversation_is_not_held_up(organization: Organization) -> None:
    await script(organization, Throttle429(retry_after=30))
    first = await post(organization, "1")
    await refused_once(organization, first)
    second = await post(organization, "2")
    answer = await organization.send({"to": OTHER, "body": "elsewhere"})
    assert answer.status == 200
    assert meta_words(organization) == ["elsewhere"]
    assert (await organization.message(second))["attempts"] == []


async def gauge(gateway: Gateway, name: str) -> float:
    """Of the process that was started last."""
    [line] = [line for line in (await gateway.metrics()).raw.decode().splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


async def wait_in_line(organization: Organization, count: int) -> None:
    waiting = "whatsapp_ingress_order_waiting"
    await eventually(lambda: gauge(organization.gateway, waiting), lambda found: found == count)


async def test_who_waits_holds_no_slot_and_no_turn(organization: Organization, other: Gateway) -> None:
    """More than there are slots wait behind one that hangs, and leave all but its own to others."""
    await script(organization, Hang())
    here = at(other, organization)
    for place in range(120):
        await post(here, str(place))
    await wait_in_line(here, 119)
    answer = await here.send({"to": OTHER, "body": "elsewhere"})
    assert answer.status == 200
    assert meta_words(organization) == ["elsewhere"]
    assert await gauge(other, "whatsapp_ingress_bulkhead_waiting") == 0


@pytest.mark.parametrize("place", [0, 1])
async def test_in_any_order_nobody_waits(organization: Organization, place: int) -> None:
    """Who opts out waits for nobody, and nobody waits for it."""
    await script(organization, Throttle429(retry_after=30))
    orders = ["accepted", "accepted"]
    orders[place] = "any"
    await refused_once(organization, await post(organization, "1", order=orders[0]))
    answer = await organization.send({"to": PERSON, "body": "2", "order": orders[1]})
    assert answer.status == 200
    assert meta_words(organization) == ["2"]


async def test_what_may_have_been_taken_holds_up_nobody(organization: Organization) -> None:
    await script(organization, Bare5xx())
    assert (await organization.send({"to": PERSON, "body": "1"}, prefer="wait=0")).status == 202
    answer = await organization.send({"to": PERSON, "body": "2"})
    assert answer.status == 200
    assert meta_words(organization) == ["2"]


async def test_who_expires_while_it_waits_is_not_called(organization: Organization) -> None:
    await script(organization, Throttle429(retry_after=30))
    await refused_once(organization, await post(organization, "1"))
    soon = datetime.now(UTC) + timedelta(seconds=1)
    answer = await organization.send({"to": PERSON, "body": "2", "expires_at": soon.isoformat()})
    assert (answer.status, answer.json["error"]["code"]) == (422, "expired")
    message = await organization.message(answer.json["id"])
    assert (message["status"], message["attempts"]) == ("failed", [])
    [event] = await organization.events(kind="message.status")
    assert (event["data"]["message"]["id"], event["data"]["message"]["attempts"]) == (answer.json["id"], 0)
    assert meta_words(organization) == []


async def test_a_send_through_the_fallback_keeps_its_place(pair: Organization) -> None:
    meta = pair.gateway.meta
    await meta.set_default(pair.numbers[0], Refuse())
    for place in range(5):
        await post(pair, str(place))
    words = await eventually(lambda: meta_words(pair, 1), lambda words: len(words) == 5)
    assert words == [str(place) for place in range(5)]


async def test_a_send_through_the_fallback_is_of_the_account_that_it_went_out_by(pair: Organization) -> None:
    """As are its statuses, and what the person answers to it."""
    await script(pair, Refuse())
    sent = (await pair.send({"to": PERSON, "body": "1"})).json
    assert sent["config_id"] == pair.configs[1]["config_id"]
    await pair.settled(sent["id"], "read")
    await write(pair, text(**{"from": PERSON[1:]}), config=1)
    [answer] = [event["data"]["conversation"]["id"] for event in await pair.events(kind="message.received")]
    page = (await pair.call("GET", f"/messages?conversation_id={answer}")).json
    assert [message["id"] for message in page["messages"]] == [sent["id"]]


async def test_a_switch_finds_who_waits_in_their_order(pair: Organization) -> None:
    """They go out through the new account: none is called by the old one after the switch."""
    await script(pair, Throttle429(retry_after=3))
    first = await post(pair, "0", fallback=False)
    await refused_once(pair, first)
    for place in range(1, 4):
        await post(pair, str(place))
    body = {"config_id": pair.configs[1]["config_id"]}
    switched = await pair.call("POST", "/integrations/whatsapp/provider/switch", body)
    assert switched.status == 200
    words = await eventually(lambda: meta_words(pair, 1), lambda words: len(words) == 4)
    assert words == ["0", "1", "2", "3"]
    assert meta_words(pair, 0) == []


async def test_a_group_is_a_conversation(organization: Organization) -> None:
    await script(organization, Throttle429(retry_after=0.5))
    group = {"group_id": "Y2FwaV9ncm91cDoxNzA1NTU1MDEzOToxMjAzNjM0MDQ2OTQyMzM4MjAZD"}
    for place in range(3):
        await post(organization, str(place), to=group)
    words = await eventually(lambda: meta_words(organization), lambda words: len(words) == 3)
    assert words == ["0", "1", "2"]


async def test_what_is_under_way_to_two_who_are_one_keeps_its_order(organization: Organization) -> None:
    """Sent to a user id, which turns out to be the number's in between: the number's next one waits for them."""
    by_phone, by_user = {"from": PERSON[1:]}, {"from_user_id": "BR.1"}
    await write(organization, text(**by_phone), text(**by_user))
    await script(organization, Throttle429(retry_after=2))
    to = {"user_id": "BR.1"}
    ids = [await post(organization, "1", to), await post(organization, "2", to)]
    await refused_once(organization, ids[0])
    await write(organization, text(**by_phone, **by_user))
    ids.append(await post(organization, "3"))
    for id in ids:
        await organization.settled(id, "read")
    assert meta_words(organization) == ["1", "2", "3"]


async def test_who_repeats_a_key_while_it_waits_is_told_so(organization: Organization) -> None:
    await script(organization, Throttle429(retry_after=2))
    await refused_once(organization, await post(organization, "1"))
    body = {"to": PERSON, "body": "2"}
    first = await organization.send(body, idempotency_key="waits", **AT_ONCE)
    again = await organization.send(body, idempotency_key="waits")
    assert (first.status, again.status, again.json["code"]) == (202, 409, "in_flight")
    message = await organization.settled(first.json["id"], "sent", "delivered", "read")
    assert meta_words(organization) == ["1", "2"]
    [attempt] = message["attempts"]
    assert attempt["duration_ms"] < 1_500, "the wait is no part of the attempt"


async def test_who_comes_when_too_many_wait_is_refused(
    organization: Organization, other: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_order, "MAX_WAITING", 2)
    await script(organization, Throttle429(retry_after=30))
    here = at(other, organization)
    for place in range(3):
        await post(here, str(place))
    # Who looks whether it is first does not wait in that moment.
    answer = await eventually(lambda: here.send({"to": OTHER, "body": "x"}), lambda answer: answer.status != 200)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")


async def test_who_has_nobody_before_it_asks_nobody(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt is written down with the claim: no statement more than without an order."""
    begun: list[Any] = []
    begin = sends.begin_attempt

    async def counted(connection: asyncpg.Connection, attempt: sends.NextAttempt) -> sends.BegunAttempt:
        begun.append(attempt)
        return await begin(connection, attempt)

    monkeypatch.setattr(sends, "begin_attempt", counted)
    for place in range(3):
        assert (await organization.send({"to": PERSON, "body": str(place)})).status == 200
    answers: list[Answer] = await asyncio.gather(
        *(organization.send({"to": f"+55119000000{place:02d}", "body": "x"}) for place in range(20))
    )
    assert {(answer.status, answer.json["attempts"]) for answer in answers} == {(200, 1)}
    assert begun == []


# ---------------------------------------------------------------- processes that die


async def test_what_a_dead_process_left_goes_on_in_order(
    organization: Organization, settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one under way may be out; those behind it were surely not called, and go out in their order."""
    monkeypatch.setattr(recovery, "SWEEP_S", 0.05)
    gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
    await script(organization, Hang())
    lost = await post(organization, "0")
    behind = [await post(organization, str(place)) for place in range(1, 5)]
    connection = await asyncpg.connect(settings.database_url)
    try:
        # As if the process that has them were dead, whatever it still says.
        left = await connection.fetchval(
            """with left_behind as (
                update messages set lease_id = gen_random_uuid(), leased_until = now() - interval '1 s'
                where organization_id = $1 returning 1
            ) select count(*) from left_behind""",
            UUID(organization.id),
        )
    finally:
        await connection.close()
    assert left == 5
    async with serving(settings):
        words = await eventually(lambda: meta_words(organization), lambda words: len(words) == 4)
        assert words == ["1", "2", "3", "4"]
        assert (await organization.message(lost))["state"] == "uncertain"
        for message_id in behind:
            message = await organization.settled(message_id, "sent")
            assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
