"""Events to the CRM: signed, in order within a conversation, again until they are taken, parked when they never are."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from aiohttp import web

from ingress import metrics
from ingress.delivery import relay, schedule, standard_webhooks
from ingress.dev.sandbox import CrmFlood, CrmReset, CrmSimulator, CrmSlow, CrmStatus, Delivered, FaultProxy
from ingress.dev.sandbox.standard_webhooks import problem
from ingress.identifiers import new_id
from ingress.settings import Settings
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.statements import deliveries, events
from ingress.storage.statements.deliveries import ClaimedConversation, PostResult
from ingress.storage.statements.events import EventRow
from ingress.wakeups import Wakeups

from ..gateway import Gateway, Organization, eventually

ENDPOINT = "crm"
SCHEDULE_S = schedule.SCHEDULE_S  # the real one; tests run with a quick one
LEASE = "update delivery_queues set lease_id = $2, leased_until = now() + $3 where conversation_id = $1"


class Crm(CrmSimulator):
    """One that remembers the headers of every attempt, too."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []  # of `attempts`, in their order

    async def _receive(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return await super()._receive(request)

    def of(self, conversation: str) -> list[Delivered]:
        return [attempt for attempt in self.attempts if attempt.conversation_id == conversation]

    def assert_sound(self) -> None:
        """Every attempt signed, the same bytes each time, in order and one at a time in each conversation."""
        assert self.unverified() == []
        assert self.changed_bytes() == {}
        assert self.inversions() == []
        assert self.overlaps() == []


pytestmark = pytest.mark.usefixtures("quick_relay")


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    """A CRM of the test's own: what it saw is what this test sent."""
    async with Crm() as simulator:
        yield simulator


@pytest.fixture
async def customer(organization: Organization, crm: Crm) -> AsyncIterator[Organization]:
    """An organization whose events go to the CRM."""
    crm.set_secret(await put_callback(organization, crm.url_for(ENDPOINT)), endpoint=ENDPOINT)
    yield organization
    await organization.call("DELETE", "/callback")


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await Database(settings.database_url).connect(WORKER)
    yield connection
    await connection.close()


async def put_callback(organization: Organization, url: str) -> str:
    """The callback set; its secret."""
    answer = await organization.call("PUT", "/callback", {"url": url})
    assert answer.status == 200, answer.raw
    assert answer.json["url"] == url
    secret: str = answer.json["secret"]
    return secret


async def health(organization: Organization) -> Any:
    answer = await organization.call("GET", "/callback")
    assert answer.status == 200, answer.raw
    return answer.json


async def text(organization: Organization, body: str = "x", phone: str = "+5511900000001") -> str:
    """A message comes in from *phone*; the id of its event."""
    hook = organization.gateway.meta.inbound(organization.numbers[0]).text(body, phone=phone)
    assert (await organization.post_webhook(hook)).status == 200
    wamid = hook["entry"][0]["changes"][0]["value"]["messages"][0]["id"]
    async with asyncio.timeout(60):
        while True:
            for event in await organization.events(kind="message.received"):
                if event["data"]["message"]["provider_message_id"] == wamid:
                    found: str = event["id"]
                    return found


async def conversation_of(organization: Organization, event_id: str) -> str:
    [event] = [event for event in await organization.events() if event["id"] == event_id]
    found: str = event["data"]["conversation"]["id"]
    return found


def bodies(attempts: list[Delivered]) -> list[str]:
    decoded = [msgspec.json.decode(attempt.body or b"") for attempt in attempts]
    return [event["data"]["message"]["content"]["body"] for event in decoded]


def event(organization: Organization, conversation: UUID) -> EventRow:
    """An event that no webhook brought, in a conversation of its own."""
    data = {"organization_id": organization.id, "conversation": {"id": conversation}}
    return EventRow(
        UUID(organization.id),
        "message.received",
        new_id(),
        conversation,
        msgspec.json.encode(data),
    )


# ---------------------------------------------------------------- what arrives


async def test_a_delivery_is_signed_and_is_the_event(customer: Organization, crm: Crm) -> None:
    """Standard Webhooks headers over the very envelope that GET /events gives."""
    event_id = await text(customer, "Olá \U0001f680")
    await crm.wait_received(1)
    [attempt], [headers] = crm.attempts, crm.headers
    assert attempt.verified
    assert attempt.event_id == event_id
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("whatsapp-ingress/")
    assert "ingress-gap" not in headers
    [received] = await customer.events(kind="message.received")
    assert msgspec.json.decode(attempt.body or b"") == received


async def test_one_changed_byte_breaks_the_signature(customer: Organization, crm: Crm) -> None:
    """The simulator's own check can fail: it is what the other tests rely on."""
    await text(customer)
    await crm.wait_received(1)
    [attempt], [headers], secrets = crm.attempts, crm.headers, crm.secrets[ENDPOINT]
    assert problem(headers, attempt.body or b"", secrets) is None
    assert problem(headers, (attempt.body or b"") + b" ", secrets) == "no signature matches"


async def test_events_before_the_callback_are_not_delivered(organization: Organization, crm: Crm) -> None:
    """They stay readable; delivery begins with what comes next."""
    await text(organization, "before")
    crm.set_secret(await put_callback(organization, crm.url_for(ENDPOINT)), endpoint=ENDPOINT)
    await text(organization, "after")
    await crm.wait_received(1)
    assert bodies(crm.attempts) == ["after"]
    assert (await organization.call("DELETE", "/callback")).status == 204


# ---------------------------------------------------------------- order


async def test_twenty_conversations_of_ten_events_in_order(customer: Organization, gateway: Gateway, crm: Crm) -> None:
    """Under failures of all kinds: each conversation in order and one at a time, each event received once."""
    dice = random.Random(3)
    inbound = gateway.meta.inbound(customer.numbers[0])
    faults = [CrmStatus(status=503), CrmReset(), CrmStatus(status=400), CrmStatus(status=301), CrmSlow(seconds=0.02)]
    crm.set_default(CrmSlow(seconds=0.005), endpoint=ENDPOINT)
    crm.script(*[dice.choice(faults) if dice.random() < 0.2 else CrmStatus() for _ in range(300)], endpoint=ENDPOINT)

    async def talk(phone: str) -> None:
        for number in range(10):
            assert (await customer.post_webhook(inbound.text(f"{phone}:{number}", phone=phone))).status == 200

    await asyncio.gather(*[talk(f"+55119{number:08}") for number in range(20)])
    await crm.wait_received(200)
    crm.assert_sound()
    assert crm.duplicates() == {}
    assert crm.missing([event["id"] for event in await customer.events(kind="message.received")]) == []
    for number in range(20):
        phone = f"+55119{number:08}"
        shown = [body for body in bodies(list(crm.received.values())) if body.startswith(phone)]
        assert shown == [f"{phone}:{place}" for place in range(10)]


@pytest.mark.parametrize("count", [relay.BATCH - 1, relay.BATCH, 2 * relay.BATCH, 2 * relay.BATCH + 7])
async def test_a_long_conversation_is_delivered_whole(
    customer: Organization, crm: Crm, database: asyncpg.Connection, count: int
) -> None:
    """In several pages, while results of the former are still being written."""
    conversation = uuid4()
    await events.add(database, [event(customer, conversation) for _ in range(count)])
    await crm.wait_received(count)
    crm.assert_sound()
    assert crm.duplicates() == {}
    await eventually(lambda: queued(database, conversation), lambda left: left == 0)
    states = "select state, count(*) from deliveries where conversation_id = $1 group by 1"
    assert [tuple(row) for row in await database.fetch(states, conversation)] == [("delivered", count)]


async def test_a_failing_event_holds_up_its_own_conversation_only(customer: Organization, crm: Crm) -> None:
    first = await text(customer, "held 0", "+5511900000001")
    await crm.wait_received(1)
    held = await conversation_of(customer, first)
    crm.set_default(CrmStatus(status=503), endpoint=ENDPOINT, conversation=held)
    for number in range(1, 4):
        await text(customer, f"held {number}", "+5511900000001")
        await text(customer, f"free {number}", "+5511900000002")
    await crm.wait_received(4)
    assert bodies(list(crm.received.values())) == ["held 0", "free 1", "free 2", "free 3"]
    await crm.wait_for(lambda: len(crm.of(held)) > 4)
    assert set(bodies(crm.of(held)[1:])) == {"held 1"}  # what is behind it waits
    crm.set_default(None, endpoint=ENDPOINT, conversation=held)
    await crm.wait_received(7)
    assert bodies(list(crm.received.values()))[4:] == ["held 1", "held 2", "held 3"]
    crm.assert_sound()


# ---------------------------------------------------------------- again and again


@pytest.mark.parametrize(
    "fault",
    [
        CrmStatus(status=503),
        CrmStatus(status=500),
        CrmStatus(status=429),
        CrmStatus(status=408),
        CrmStatus(status=404),
        CrmStatus(status=302),
        CrmStatus(status=304),
        CrmReset(),
    ],
    ids=lambda fault: str(getattr(fault, "status", "reset")),
)
async def test_only_2xx_is_taken_for_an_answer(customer: Organization, crm: Crm, fault: Any) -> None:
    """Anything else: the same bytes under the same id again, each time signed."""
    crm.script(fault, fault, fault, CrmStatus(status=204), endpoint=ENDPOINT)
    event_id = await text(customer)
    await crm.wait_received(1)
    assert [attempt.event_id for attempt in crm.attempts] == [event_id] * 4
    assert len({attempt.digest for attempt in crm.attempts}) == 1
    crm.assert_sound()
    assert await eventually(lambda: health(customer), lambda shown: shown["state"] == "healthy")


async def test_a_refused_connection_is_tried_again(customer: Organization, crm: Crm) -> None:
    await crm.refuse()
    event_id = await text(customer)
    failing = await eventually(lambda: health(customer), lambda shown: shown["consecutive_failures"] >= 6)
    assert failing["state"] == "failing"
    assert failing["failing_since"]
    assert failing["paused_until"]  # the endpoint as a whole
    await crm.resume()
    await crm.wait_received(1)
    assert list(crm.received) == [event_id]
    healthy = await eventually(lambda: health(customer), lambda shown: shown["state"] == "healthy")
    assert (healthy["consecutive_failures"], healthy["failing_since"], healthy["paused_until"]) == (0, None, None)


async def test_a_silent_endpoint_is_given_up_in_time(
    customer: Organization, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard_webhooks, "TOTAL_TIMEOUT_S", 0.1)
    crm.script(CrmSlow(seconds=5), endpoint=ENDPOINT)
    await text(customer)
    await crm.wait_received(1)
    assert len(crm.attempts) == 2


@pytest.mark.parametrize(
    ("asked", "waits", "dated"),
    [(30, 30, False), (999_999, 3600, False), (600, 600, True)],
    ids=["as-asked", "an-hour-at-most", "date"],
)
async def test_retry_after_is_honoured(
    customer: Organization, crm: Crm, database: asyncpg.Connection, asked: int, waits: int, dated: bool
) -> None:
    """Where the schedule says 10 ms."""
    wanted = formatdate(time.time() + asked, usegmt=True) if dated else str(asked)
    crm.script(CrmStatus(status=503, headers={"Retry-After": wanted}), endpoint=ENDPOINT)
    began = time.time()
    await text(customer)
    due_in = await eventually(
        lambda: database.fetchval(
            "select extract(epoch from due_at - now())::float8 from delivery_queues"
            " where organization_id = $1 and lease_id is null and due_at > now()",
            UUID(customer.id),
        )
    )
    assert waits - (time.time() - began) - 1 < due_in < waits + 1
    assert len(crm.attempts) == 1
    await database.execute("update delivery_queues set due_at = now() where organization_id = $1", UUID(customer.id))
    await crm.wait_received(1)


@pytest.mark.parametrize("value", ["²", "-5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1" * 400])
async def test_a_strange_retry_after_is_no_harm(customer: Organization, crm: Crm, value: str) -> None:
    crm.script(CrmStatus(status=503, headers={"Retry-After": value}), endpoint=ENDPOINT)
    await text(customer)
    await crm.wait_received(1)
    assert len(crm.attempts) == 2


async def test_what_fails_to_the_end_of_the_schedule_is_parked(
    customer: Organization, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt at once and one a step of the schedule; then the event is parked with its last error."""
    monkeypatch.setattr(schedule, "SCHEDULE_S", (0.01, 0.02, 0.03))
    crm.script(*[CrmStatus(status=500)] * 4, endpoint=ENDPOINT)
    event_id = await text(customer)
    [parked] = await eventually(lambda: parked_of(customer))
    assert (parked["attempts"], parked["last_error"]) == (4, "HTTP 500")
    assert [attempt.event_id for attempt in crm.attempts] == [event_id] * 4


def test_the_schedule_lasts_three_days() -> None:
    assert sum(SCHEDULE_S) >= 3 * 86400
    assert sorted(SCHEDULE_S) == list(SCHEDULE_S)
    waits = [schedule._jittered(100) for _ in range(1000)]
    assert 80 <= min(waits) < 85
    assert 115 < max(waits) <= 120


# ---------------------------------------------------------------- parked and replayed


async def parked_of(organization: Organization) -> list[Any]:
    listed: list[Any] = (await organization.call("GET", "/callback/parked")).json["parked"]
    return listed


OTHER = "+5511900000009"


async def other_taken(customer: Organization, crm: Crm) -> None:
    event_id = await text(customer, "other", OTHER)
    await crm.wait_for(lambda: event_id in crm.received)


async def others_until_parked(customer: Organization, crm: Crm) -> list[Any]:
    """Messages of somebody else are taken one after the other, until an event is parked."""
    while not (parked := await parked_of(customer)):
        await other_taken(customer, crm)
    return parked


async def test_an_event_that_alone_is_refused_is_parked_and_the_next_says_so(customer: Organization, crm: Crm) -> None:
    """The ones behind it go on, the first of them with a mark; a replay delivers it after all."""
    conversation = await conversation_of(customer, await text(customer, "0"))
    await crm.wait_received(1)
    crm.set_default(CrmStatus(status=422), endpoint=ENDPOINT, conversation=conversation)
    refused = await text(customer, "1")
    [parked] = await others_until_parked(customer, crm)
    crm.set_default(None, endpoint=ENDPOINT, conversation=conversation)
    assert parked["attempts"] >= 5
    assert parked["last_error"] == "HTTP 422"
    assert parked["conversation_id"] == conversation
    for number in (2, 3):
        await text(customer, str(number))
    await crm.wait_for(lambda: bodies(crm.of(conversation))[-2:] == ["2", "3"])
    gaps = [
        headers.get("ingress-gap")
        for attempt, headers in zip(crm.attempts, crm.headers, strict=True)
        if attempt.conversation_id == conversation
    ]
    assert gaps == [None] * (1 + parked["attempts"]) + ["true", None]
    # The event was at fault, not the endpoint.
    await eventually(lambda: health(customer), lambda shown: (shown["state"], shown["last_error"]) == ("healthy", None))

    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 1}
    await crm.wait_for(lambda: bodies(crm.of(conversation))[-1] == "1")
    assert crm.attempts[-1].event_id == refused
    assert crm.changed_bytes() == {}
    assert await parked_of(customer) == []
    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 0}


async def test_an_outage_is_not_the_events_fault(customer: Organization, crm: Crm) -> None:
    """Failures of the endpoint do not count as refusals: only five of those park an event."""
    conversation = await conversation_of(customer, await text(customer, "0"))
    await crm.wait_received(1)
    crm.script(*[CrmStatus(status=503)] * 30, endpoint=ENDPOINT, conversation=conversation)
    await text(customer, "1")
    while "1" not in bodies(list(crm.received.values())):
        await other_taken(customer, crm)
    assert bodies(crm.of(conversation)) == ["0", *["1"] * 31]
    assert await parked_of(customer) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 302])
async def test_a_crm_that_refuses_everything_loses_nothing(customer: Organization, crm: Crm, status: int) -> None:
    """A bad deploy, or expired rights: it is the endpoint that fails, and each event has its three days."""
    crm.set_default(CrmStatus(status=status), endpoint=ENDPOINT)
    for number in range(3):
        await text(customer, str(number), f"+551190000000{number}")
    failing = await eventually(lambda: health(customer), lambda shown: shown["consecutive_failures"] > 30)
    assert (failing["state"], failing["last_error"]) == ("failing", f"HTTP {status}")
    assert failing["paused_until"]
    assert await parked_of(customer) == []
    crm.set_default(None, endpoint=ENDPOINT)
    await crm.wait_received(3)
    assert await parked_of(customer) == []


async def test_a_replayed_event_may_be_refused_as_often_again(
    customer: Organization, crm: Crm, database: asyncpg.Connection
) -> None:
    conversation = await conversation_of(customer, await text(customer, "0"))
    await crm.wait_received(1)
    crm.set_default(CrmStatus(status=400), endpoint=ENDPOINT, conversation=conversation)
    await text(customer, "1")
    [parked] = await others_until_parked(customer, crm)
    held = "select refusals, failed_at from deliveries where organization_id = $1 and sequence = $2"
    assert (await database.fetchrow(held, UUID(customer.id), parked["sequence"]))["refusals"] == 4
    await crm.refuse()
    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 1}
    refusals: int = await database.fetchval(held, UUID(customer.id), parked["sequence"])
    assert refusals == 0


async def test_parked_events_are_paged_and_replayed_one_by_one(
    customer: Organization, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "SCHEDULE_S", (0.01,))
    crm.set_default(CrmStatus(status=400), endpoint=ENDPOINT)
    for number in range(3):
        await text(customer, str(number), f"+551190000000{number}")
    listed = await eventually(lambda: parked_of(customer), lambda parked: len(parked) == 3)
    page = (await customer.call("GET", "/callback/parked?limit=2")).json
    assert page == {"parked": listed[:2], "next": listed[1]["sequence"]}
    rest = (await customer.call("GET", f"/callback/parked?limit=2&after={page['next']}")).json
    assert rest == {"parked": listed[2:]}
    crm.set_default(None, endpoint=ENDPOINT)
    one = {"sequences": [listed[1]["sequence"], 12345]}
    assert (await customer.call("POST", "/callback/replay", one)).json == {"replayed": 1}
    await crm.wait_received(1)
    assert bodies(list(crm.received.values())) == ["1"]
    assert await parked_of(customer) == [listed[0], listed[2]]


async def test_nobody_sees_or_replays_what_another_organization_parked(
    customer: Organization, crm: Crm, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "SCHEDULE_S", (0.01,))
    crm.set_default(CrmStatus(status=400), endpoint=ENDPOINT)
    await text(customer)
    [parked] = await eventually(lambda: parked_of(customer))
    other = await gateway.organization()
    assert await parked_of(other) == []
    assert (await other.call("GET", "/callback/parked/count")).json["groups"] == []
    assert (await other.call("GET", "/callback/deliveries")).json == {"deliveries": []}
    stolen = await other.call("POST", "/callback/replay", {"sequences": [parked["sequence"]]})
    assert stolen.json == {"replayed": 0}
    assert await parked_of(customer) == [parked]


# ---------------------------------------------------------------- the endpoint


async def test_410_disables_the_callback(customer: Organization, crm: Crm) -> None:
    """It is an event; nothing more is posted until the callback is set again, then nothing is missing."""
    crm.script(CrmStatus(status=410), endpoint=ENDPOINT)
    first = await text(customer, "0")
    shown = await eventually(lambda: health(customer), lambda shown: shown["state"] == "disabled")
    assert shown["disabled_reason"] == "HTTP 410"
    [disabled] = await eventually(lambda: customer.events(kind="account.updated"))
    assert disabled["data"]["account"] == {"kind": "callback_disabled", "details": {"reason": "HTTP 410"}}
    await text(customer, "1")
    assert len(crm.attempts) == 1
    crm.set_secret(await put_callback(customer, crm.url_for(ENDPOINT)), endpoint=ENDPOINT)
    assert (await health(customer))["state"] == "healthy"
    await crm.wait_received(1)
    assert crm.attempts[1].event_id == first


async def test_days_of_failure_disable_the_callback(
    customer: Organization, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "DISABLE_AFTER", timedelta(seconds=0.1))
    crm.set_default(CrmStatus(status=500), endpoint=ENDPOINT)
    await text(customer)
    shown = await eventually(lambda: health(customer), lambda shown: shown["state"] == "disabled")
    assert shown["disabled_reason"] == "failing for days"
    assert len(await eventually(lambda: customer.events(kind="account.updated"))) == 1


async def test_secrets_that_cannot_be_opened_put_deliveries_off(
    customer: Organization, crm: Crm, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, and nothing is lost: another process may have the key."""
    monkeypatch.setattr(relay, "KEYLESS_DELAY", timedelta(seconds=0.01))
    before = metrics.callback_unreadable._value.get()
    replace = "update callbacks set secrets = $2 where organization_id = $1"
    secrets = await database.fetchval("select secrets from callbacks where organization_id = $1", UUID(customer.id))
    await database.execute(replace, UUID(customer.id), b"unknown key")
    await text(customer)
    await eventually(metrics.callback_unreadable._value.get, lambda count: count > before)
    assert crm.attempts == []
    await database.execute(replace, UUID(customer.id), secrets)
    await crm.wait_received(1)


async def test_redirects_are_not_followed(customer: Organization, crm: Crm) -> None:
    elsewhere = CrmStatus(status=307, headers={"Location": crm.url_for("elsewhere")})
    crm.script(elsewhere, elsewhere, endpoint=ENDPOINT)
    await text(customer)
    await crm.wait_received(1)
    assert [attempt.endpoint for attempt in crm.attempts] == [ENDPOINT] * 3


async def test_a_flood_of_an_answer_is_cut(customer: Organization, crm: Crm) -> None:
    """200 MB come back: 16 KiB are read (the rest is what sockets hold), and 200 is 200."""
    crm.script(CrmFlood(), endpoint=ENDPOINT)
    port = int(crm.url.rpartition(":")[2].partition("/")[0])
    async with FaultProxy(("127.0.0.1", port)) as proxy:
        await put_callback(customer, f"http://127.0.0.1:{proxy.port}/hooks/{ENDPOINT}")
        await text(customer, "flooded")
        await crm.wait_for(lambda: crm.attempts)
        await text(customer, "next")
        await crm.wait_for(lambda: "next" in bodies(crm.attempts))
        assert proxy.forwarded["down"] < 32 * 1024 * 1024
    assert bodies(crm.attempts) == ["flooded", "next"]


async def test_the_health_of_a_callback_shows_no_secret(customer: Organization, crm: Crm) -> None:
    """A fingerprint of each, and what else there is to see of it."""
    answer = await customer.call("GET", "/callback")
    [secret] = [secret.removeprefix("whsec_") for secret in crm.secrets[ENDPOINT]]
    assert secret[:-4].encode() not in answer.raw
    shown = answer.json
    [signing] = shown.pop("secrets")
    assert re.fullmatch(rf"…{re.escape(secret[-4:])} \([0-9a-f]{{8}}\)", signing.pop("fingerprint"))
    assert signing == {"expires_at": None}
    assert shown == {
        "url": crm.url_for(ENDPOINT),
        "state": "healthy",
        "disabled_reason": None,
        "failing_since": None,
        "last_error": None,
        "consecutive_failures": 0,
        "paused_until": None,
    }


async def test_a_deleted_callback_gets_nothing(customer: Organization, crm: Crm) -> None:
    await text(customer, "delivered")
    await crm.wait_received(1)
    assert (await customer.call("DELETE", "/callback")).status == 204
    assert (await customer.call("GET", "/callback")).status == 404
    assert (await customer.call("DELETE", "/callback")).status == 404
    await text(customer, "kept")
    assert len(await customer.events(kind="message.received")) == 2
    crm.set_secret(await put_callback(customer, crm.url_for(ENDPOINT)), endpoint=ENDPOINT)
    await text(customer, "delivered again")
    await crm.wait_received(2)
    assert bodies(crm.attempts) == ["delivered", "delivered again"]


async def test_a_test_event(customer: Organization, crm: Crm) -> None:
    """POST /callback/test says how it went; it is signed like any other and is no event."""
    shown = (await customer.call("POST", "/callback/test")).json
    assert (shown["delivered"], shown["outcome"], shown["error"], shown["answer"]) == (True, "ok", None, 200)
    assert 0 <= shown["ms"] < 15_000
    [attempt] = crm.attempts
    assert (attempt.verified, attempt.event_id, attempt.type) == (True, shown["id"], "callback.test")
    crm.script(CrmStatus(status=500), CrmStatus(status=404), endpoint=ENDPOINT)
    for outcome, error in (("5xx", "HTTP 500"), ("4xx", "HTTP 404")):
        shown = (await customer.call("POST", "/callback/test")).json
        assert (shown["delivered"], shown["outcome"], shown["error"]) == (False, outcome, error)
    await crm.refuse()
    shown = (await customer.call("POST", "/callback/test")).json
    assert (shown["delivered"], shown["outcome"]) == (False, "connection")
    assert (shown["answer"], shown["ms"], shown["body"]) == (None, None, "")
    assert (await health(customer))["state"] == "healthy"
    assert await customer.events(kind="callback.test") == []


async def test_a_test_shows_what_an_answer_begins_with(customer: Organization, crm: Crm) -> None:
    """A kilobyte of it, whatever bytes they are and however long it goes on."""
    crm.script(CrmFlood(size_bytes=100_000), endpoint=ENDPOINT)
    shown = (await customer.call("POST", "/callback/test")).json
    assert (shown["answer"], len(shown["body"])) == (200, standard_webhooks.SHOWN_BYTES)


async def test_nothing_to_test(gateway: Gateway) -> None:
    organization = await gateway.organization()
    assert (await organization.call("POST", "/callback/test")).status == 404


@pytest.mark.parametrize(
    "url",
    [
        "",
        "crm.example/hooks",
        "ftp://crm.example/hooks",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///hooks",
        "https://user:secret@crm.example/hooks",
        "https://user@crm.example/hooks",
        "https://crm.example:0/hooks",
        "https://crm.example:99999/hooks",
        "https://[::1/hooks",
        "https://crm..example/hooks",
        f"https://{'a' * 64}.example/hooks",
        "https://crm.example/a b",
        "https://crm.example/\x00",
        "https://crm.example/\r\nx: y",
        f"https://crm.example/{'x' * 2048}",
    ],
)
async def test_what_cannot_be_a_callback(organization: Organization, url: str) -> None:
    answer = await organization.call("PUT", "/callback", {"url": url})
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert [error["path"] for error in answer.json["errors"]] == ["url"]
    assert (await organization.call("GET", "/callback")).status == 404


# ---------------------------------------------------------------- secrets


async def test_a_new_secret_signs_beside_the_old_one(customer: Organization, crm: Crm) -> None:
    """Rotation needs no moment at which both sides change: either secret verifies until the old one runs out."""
    [old] = crm.secrets[ENDPOINT]
    new = await put_callback(customer, crm.url_for(ENDPOINT))
    assert new != old
    await text(customer, "to whom knows the old one")
    await crm.wait_received(1)
    crm.set_secret(new, endpoint=ENDPOINT)
    await text(customer, "to whom knows the new one")
    await crm.wait_received(2)
    crm.assert_sound()
    assert [len(headers["webhook-signature"].split(" ")) for headers in crm.headers] == [2, 2]


def test_a_secret_that_ran_out_signs_no_more() -> None:
    now = datetime.now(UTC)
    [first] = standard_webhooks.rotated([], now)
    second, former = standard_webhooks.rotated([first], now)
    assert (former.secret, former.expires_at) == (first.secret, now + timedelta(hours=24))
    assert second.expires_at is None
    for hours, signing in ((23, [second, first]), (25, [second])):
        timestamp = int((now + timedelta(hours=hours)).timestamp())
        signatures = standard_webhooks.sign([second, former], "evt_1", timestamp, b"{}")
        headers = {"webhook-id": "evt_1", "webhook-timestamp": str(timestamp), "webhook-signature": signatures}
        assert len(signatures.split(" ")) == len(signing)
        for secret in signing:
            assert problem(headers, b"{}", [secret.secret], now=timestamp) is None
    assert first.secret not in repr([second, former, standard_webhooks.Endpoint("https://x.example", [first])])


async def test_nothing_overtakes_what_is_not_committed_yet(
    customer: Organization, crm: Crm, database: asyncpg.Connection, settings: Settings
) -> None:
    """Its sequence is the lower one, so it comes first: readers of /events wait for it, and so does the callback."""
    conversation = uuid4()
    slow = await Database(settings.database_url).connect(WORKER)
    try:
        async with slow.transaction():
            await slow.execute("select pg_current_xact_id()")
            await events.add(database, [event(customer, conversation)])
            # The relay has had its look, and has put it off.
            await eventually(lambda: postponed(database, conversation), lambda is_put_off: is_put_off or crm.attempts)
            await events.add(slow, [event(customer, conversation)])
    finally:
        await slow.close()
    await crm.wait_received(2)
    assert crm.inversions() == []


async def postponed(database: asyncpg.Connection, conversation: UUID) -> bool:
    found: bool = await database.fetchval(
        "select due_at > now() from delivery_queues where conversation_id = $1", conversation
    )
    return found


# ---------------------------------------------------------------- leases


async def test_a_dead_relays_conversation_is_taken_over(
    customer: Organization, crm: Crm, database: asyncpg.Connection
) -> None:
    """A lease keeps others away while it lasts, and nobody once it ran out."""
    conversation, other = uuid4(), uuid4()
    async with database.transaction():
        await events.add(database, [event(customer, conversation)])
        await database.execute(LEASE, conversation, uuid4(), timedelta(hours=1))
    await events.add(database, [event(customer, other)])
    await crm.wait_received(1)
    assert [attempt.conversation_id for attempt in crm.attempts] == [str(other)]
    await database.execute(LEASE, conversation, uuid4(), timedelta(seconds=-1))
    await crm.wait_received(2)
    assert crm.attempts[1].conversation_id == str(conversation)
    await eventually(lambda: queued(database, conversation), lambda count: count == 0)


async def queued(database: asyncpg.Connection, conversation: UUID) -> int:
    count: int = await database.fetchval(
        "select count(*) from delivery_queues where conversation_id = $1", conversation
    )
    return count


@pytest.mark.parametrize("status", [200, 500])
async def test_who_lost_the_lease_marks_nothing(
    customer: Organization, crm: Crm, database: asyncpg.Connection, status: int
) -> None:
    """A relay that was away for too long: its answer came late, another has the conversation by then."""
    conversation, thief = uuid4(), uuid4()
    crm.script(CrmSlow(seconds=0.2, status=status), endpoint=ENDPOINT)
    await events.add(database, [event(customer, conversation)])
    await crm.wait_for(lambda: crm.attempts)
    await database.execute(LEASE, conversation, thief, timedelta(hours=1))
    await crm.wait_for(lambda: crm.attempts[0].status == status)
    # Nothing shows that the late relay is done with it; the delivery of another conversation comes after that.
    await events.add(database, [event(customer, uuid4())])
    await crm.wait_for(lambda: len(crm.attempts) == 2 and crm.attempts[1].status)
    held = "select lease_id, state, attempts from deliveries join delivery_queues using (conversation_id)"
    assert tuple(await database.fetchrow(f"{held} where conversation_id = $1", conversation)) == (thief, "pending", 0)
    await database.execute(LEASE, conversation, thief, timedelta(seconds=-1))
    await eventually(lambda: queued(database, conversation), lambda count: count == 0)
    state = await database.fetchrow("select state, attempts from deliveries where conversation_id = $1", conversation)
    assert tuple(state) == ("delivered", 1)
    assert [attempt.conversation_id for attempt in crm.attempts].count(str(conversation)) == 2
    assert crm.changed_bytes() == {}


async def test_an_event_that_comes_while_the_queue_is_emptied_is_not_left_behind(
    customer: Organization, crm: Crm, database: asyncpg.Connection, settings: Settings
) -> None:
    """An arrival whose transaction was still open when the relay found nothing more."""
    conversation, lease_id = uuid4(), uuid4()
    async with database.transaction():  # this test is the relay
        await events.add(database, [event(customer, conversation)])
        await database.execute(LEASE, conversation, lease_id, timedelta(hours=1))
    query = "select arrivals from delivery_queues where conversation_id = $1"
    organization_id = UUID(customer.id)
    claim = ClaimedConversation(organization_id, conversation, lease_id, await database.fetchval(query, conversation))
    [row] = await deliveries.pending(database, organization_id, conversation, 10)
    assert await deliveries.finish(database, [PostResult(*claim[:3], row.sequence, "delivered")])
    arriving = await Database(settings.database_url).connect(WORKER)
    try:
        transaction = arriving.transaction()
        await transaction.start()
        late = event(customer, conversation)
        await events.add(arriving, [late])
        assert await deliveries.pending(database, organization_id, conversation, 10) == []
        releasing = asyncio.create_task(deliveries.release(database, claim))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(releasing), 0.05)  # it waits for the arrival's lock
        await transaction.commit()
        await releasing
    finally:
        await arriving.close()
    await crm.wait_received(1)
    assert msgspec.json.decode(crm.attempts[0].body or b"")["data"] == msgspec.json.decode(late.data)


async def test_who_is_woken_for_nothing_looks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever less, down to a bound; a quiet second makes it as quick as before."""
    slept: list[float] = []
    sleeping, here = asyncio.sleep, asyncio.current_task()

    async def sleep(seconds: float) -> None:
        if asyncio.current_task() is not here:  # the service of the other tests has naps of its own
            await sleeping(seconds)
            return
        slept.append(seconds)

    wakeups = Wakeups(cast(Any, None))
    unused = cast(Any, None)
    looking = relay.Relay(unused, unused, unused, wakeups, asyncio.Event())
    closing = asyncio.create_task(asyncio.Event().wait())
    monkeypatch.setattr(relay, "POLL_S", 0.001)
    with monkeypatch.context() as without:
        without.setattr(asyncio, "sleep", sleep)
        for _ in range(5):
            wakeups.notified(uuid4())
            await looking._idle(closing)
        for _ in range(2):
            await looking._idle(closing)
    closing.cancel()
    assert slept == [0.03, 0.06, 0.12, 0.24, 0.25, 0.25, 0.03]
