"""The callback as its owner changes it: secrets, removal, repair; and what a slow or gone CRM does to the others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import msgspec
import pytest
from aiohttp import web

from ingress.api import callback
from ingress.calls.egress import Egress
from ingress.delivery import places, relay, schedule, standard_webhooks
from ingress.dev.sandbox import CrmHang, CrmSlow, CrmStatus, MetaSimulator
from ingress.dev.sandbox.standard_webhooks import problem
from ingress.envelope import Envelope
from ingress.settings import Settings
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.migration import migrate
from ingress.storage.statements import deliveries, events, parked

from .. import conftest
from ..delivery.test_delivery import ENDPOINT, LEASE, Crm, bodies, event, health, parked_of, put_callback, queued, text
from ..gateway import Gateway, Organization, eventually

ELSEWHERE = "elsewhere"
DAYS = (86400.0,) * 10
NOBODY = UUID(int=0)


class GatedCrm(Crm):
    """One that answers nothing until its gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.waiting = 0

    async def _receive(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        self.waiting += 1
        self._changes.notify()
        try:
            await self.gate.wait()
            return await super()._receive(request)
        finally:
            self.waiting -= 1


pytestmark = pytest.mark.usefixtures("quick_relay")


@pytest.fixture
async def crm() -> AsyncIterator[GatedCrm]:
    async with GatedCrm() as simulator:
        simulator.gate.set()
        yield simulator
        simulator.gate.set()


@pytest.fixture
async def customer(organization: Organization, crm: Crm) -> AsyncIterator[Organization]:
    """An organization whose events go to the CRM."""
    await point(organization, crm)
    yield organization
    await organization.call("DELETE", "/callback")


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await Database(settings.database_url).connect(WORKER)
    yield connection
    await connection.close()


async def point(organization: Organization, crm: Crm, endpoint: str = ENDPOINT) -> None:
    """Set the callback to *endpoint*, and let it know its newest secret."""
    crm.set_secret(await put_callback(organization, crm.url_for(endpoint)), endpoint=endpoint)


async def postponed(database: asyncpg.Connection, organization: Organization) -> float:
    """For how many seconds the organization's only conversation is left alone, once nobody delivers it."""
    due_in: float = await eventually(
        lambda: database.fetchval(
            "select extract(epoch from due_at - now())::float8 from delivery_queues"
            " where organization_id = $1 and lease_id is null and due_at > now()",
            UUID(organization.id),
        )
    )
    return due_in


async def states(database: asyncpg.Connection, organization: Organization) -> list[tuple[Any, ...]]:
    rows = await database.fetch(
        "select state, attempts, last_error from deliveries where organization_id = $1 order by sequence",
        UUID(organization.id),
    )
    return [tuple(row) for row in rows]


# ---------------------------------------------------------------- not the CRM's fault


async def test_a_key_that_does_not_fit_disables_nothing(
    customer: Organization, crm: Crm, database: asyncpg.Connection
) -> None:
    """Nothing is posted, no attempt counted; whoever has the key delivers it later."""
    sealed = await database.fetchval("select secrets from callbacks where organization_id = $1", UUID(customer.id))
    change = "update callbacks set secrets = $2 where organization_id = $1"
    await database.execute(change, UUID(customer.id), sealed[:-1] + b"?")
    event_id = await text(customer)
    assert 50 < await postponed(database, customer) <= 60
    shown = await health(customer)
    assert (shown["state"], shown["secrets"]) == ("healthy", None)
    assert await states(database, customer) == [("pending", 0, None)]
    assert crm.attempts == []
    await database.execute(change, UUID(customer.id), sealed)
    await database.execute("update delivery_queues set due_at = now() where organization_id = $1", UUID(customer.id))
    await crm.wait_received(1)
    assert list(crm.received) == [event_id]
    assert await customer.events(kind="account.updated") == []


async def test_a_callback_that_is_gone_is_not_disabled(
    customer: Organization, crm: GatedCrm, database: asyncpg.Connection
) -> None:
    """Its row is deleted under a delivery: the post under way counts, the next event is given back untried."""
    conversation = uuid4()
    crm.gate.clear()
    await events.add(database, [event(customer, conversation), event(customer, conversation)])
    await crm.wait_for(lambda: crm.waiting == 1)
    await database.execute("delete from callbacks where organization_id = $1", UUID(customer.id))
    crm.gate.set()
    await eventually(
        lambda: database.fetchval("select lease_id from delivery_queues where conversation_id = $1", conversation),
        lambda lease: lease is None,
    )
    assert await states(database, customer) == [("delivered", 1, None), ("pending", 0, None)]
    assert await customer.events(kind="account.updated") == []
    # What it left is not posted to the next one unasked.
    await point(customer, crm, ELSEWHERE)
    assert await states(database, customer) == [("delivered", 1, None), ("parked", 0, "no callback")]
    assert await queued(database, conversation) == 0


@pytest.mark.parametrize("status", [410, 500])
async def test_a_late_answer_of_the_old_url_says_nothing_about_the_new(
    customer: Organization, crm: GatedCrm, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Even where one failure would be enough; and the event is tried at the new one soon, not in a day."""
    monkeypatch.setattr(relay, "DISABLE_AFTER", timedelta(seconds=-1))
    monkeypatch.setattr(schedule, "SCHEDULE_S", (0.01, *DAYS))
    monkeypatch.setattr(relay, "ENDPOINT_CACHE_S", 0.5)
    crm.set_default(CrmStatus(status=status), endpoint=ENDPOINT)
    crm.gate.clear()
    event_id = await text(customer)
    await crm.wait_for(lambda: crm.waiting == 1)
    await point(customer, crm, ELSEWHERE)
    crm.gate.set()
    await crm.wait_received(1)
    assert (crm.attempts[-1].event_id, crm.attempts[-1].endpoint) == (event_id, ELSEWHERE)
    answer = await health(customer)
    assert (answer["state"], answer["consecutive_failures"]) == ("healthy", 0)
    assert await customer.events(kind="account.updated") == []


async def test_retry_after_makes_no_attempt_earlier(
    customer: Organization, crm: Crm, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "SCHEDULE_S", DAYS)
    crm.script(CrmStatus(status=503, retry_after=1), endpoint=ENDPOINT)
    await text(customer)
    assert await postponed(database, customer) > 0.79 * DAYS[0]


# ---------------------------------------------------------------- the others


async def test_a_slow_crm_leaves_room_for_the_others(
    customer: Organization,
    crm: GatedCrm,
    database: asyncpg.Connection,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One organization has more conversations due than the relay has places, and a CRM that does not answer."""
    crm.gate.clear()
    await events.add(database, [event(customer, uuid4()) for _ in range(2 * places.CONCURRENCY)])
    await crm.wait_for(lambda: crm.waiting == places.PER_ORGANIZATION)
    monkeypatch.setattr(relay, "POLL_S", 60)
    other = await gateway.organization()
    await other.configure()
    async with Crm() as prompt:
        await point(other, prompt)
        for number in range(3):
            await text(other, str(number), f"+551190000000{number}")
        await prompt.wait_received(3)
        assert (await other.call("DELETE", "/callback")).status == 204
    assert crm.waiting == places.PER_ORGANIZATION
    crm.set_default(CrmSlow(seconds=0.05), endpoint=ENDPOINT)
    crm.gate.set()
    # Each end of a delivery makes room for one that waits: it is not left until the next poll.
    await crm.wait_received(2 * places.CONCURRENCY)


async def test_the_wait_for_a_connection_is_not_the_endpoints_fault(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only connecting is limited to CONNECT_TIMEOUT_S. The relay itself has a connection for each place."""
    assert places.CONCURRENCY >= relay.PER_HOST >= places.PER_ORGANIZATION
    monkeypatch.setattr(standard_webhooks, "CONNECT_TIMEOUT_S", 0.1)
    secret = standard_webhooks.new_secret()
    crm.set_secret(secret.secret)
    crm.set_default(CrmSlow(seconds=0.2))
    endpoint = standard_webhooks.Endpoint(crm.url, [secret])
    async with Egress(Settings(egress_allow="127.0.0.0/8").allowed_networks).session(per_host=1) as session:
        answers = await asyncio.gather(
            *[standard_webhooks.post(session, endpoint, f"evt_{number}", b"{}") for number in range(3)]
        )
    assert [answer.kind for answer in answers] == ["ok"] * 3


@asynccontextmanager
async def rolled_back(database: asyncpg.Connection, *organizations: Organization) -> AsyncIterator[None]:
    """A transaction that no relay sees and in which nobody but *organizations* has something to deliver."""
    transaction = database.transaction()
    await transaction.start()
    try:
        mine = [UUID(organization.id) for organization in organizations]
        await database.execute("update callbacks set disabled_at = now() where organization_id <> all($1)", mine)
        yield
    finally:
        await transaction.rollback()


async def test_running_leases_count(customer: Organization, database: asyncpg.Connection) -> None:
    """Of whatever process; one that ran out is free again, at the look after the one that finds it."""
    conversations = [uuid4() for _ in range(10)]
    async with rolled_back(database, customer):
        await events.add(database, [event(customer, conversation) for conversation in conversations])
        for number, conversation in enumerate(conversations[:4]):
            await database.execute(LEASE, conversation, uuid4(), timedelta(seconds=30 if number < 3 else -1))
        assert len(await deliveries.claim(database, uuid4(), NOBODY, deliveries.ClaimLimit(100, 5))) == 2
        assert await deliveries.claim(database, uuid4(), NOBODY, deliveries.ClaimLimit(100, 5)) == []
        claimed = await deliveries.claim(database, uuid4(), NOBODY, deliveries.ClaimLimit(100, 100))
        assert len(claimed) == 5
        assert conversations[3] in [claim.conversation_id for claim in claimed]


async def test_organizations_take_turns(gateway: Gateway, crm: Crm, database: asyncpg.Connection) -> None:
    """Where there is one place only, the next organization gets it, however much the one before has left."""
    organizations = [await gateway.organization() for _ in range(3)]
    for organization in organizations:
        await point(organization, crm)
    async with rolled_back(database, *organizations):
        for organization in organizations:
            await events.add(database, [event(organization, uuid4()) for _ in range(3)])
        served, turn = [], NOBODY
        for _ in range(9):
            [row] = await deliveries.claim(database, uuid4(), turn, deliveries.ClaimLimit(1, 3))
            served.append(turn := row.organization_id)
        assert await deliveries.claim(database, uuid4(), turn, deliveries.ClaimLimit(1, 3)) == []
    assert served == sorted(UUID(organization.id) for organization in organizations) * 3


async def test_the_relay_takes_turns(
    gateway: Gateway, crm: Crm, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "CONCURRENCY", 1)
    organizations = {endpoint: await gateway.organization() for endpoint in ("one", "two")}
    for endpoint, organization in organizations.items():
        await point(organization, crm, endpoint)
    due = [event(organization, uuid4()) for organization in organizations.values() for _ in range(4)]
    await events.add(database, due)
    await crm.wait_received(8)
    order = [attempt.endpoint for attempt in crm.attempts]
    assert order in (["one", "two"] * 4, ["two", "one"] * 4)


async def test_a_backlog_costs_the_others_nothing(customer: Organization, database: asyncpg.Connection) -> None:
    """What a claim reads does not grow with what waits for a paused callback; metrics count up to a bound."""

    async def blocks() -> int:
        explain = f"explain (analyze, buffers, format json) {deliveries.CLAIM}"
        answer = msgspec.json.decode(await database.fetchval(explain, uuid4(), NOBODY, 64, 16, [], False))[0]["Plan"]
        return int(answer["Shared Hit Blocks"] + answer["Shared Read Blocks"])

    async with rolled_back(database, customer):
        # What other tests have left is nobody's here.
        await database.execute("delete from deliveries where organization_id <> $1", UUID(customer.id))
        before = await blocks()
        await events.add(database, [event(customer, uuid4()) for _ in range(deliveries.GAUGES_UP_TO + 1)])
        pause = "update callbacks set paused_until = now() + interval '1 h' where organization_id = $1"
        await database.execute(pause, UUID(customer.id))
        assert await blocks() < before + 100
        gauges = await deliveries.gauges(database)
        assert gauges.pending == deliveries.GAUGES_UP_TO
        assert gauges.oldest_s >= 0
        # What nobody can deliver is nobody's delay, however old it gets.
        await database.execute("update callbacks set disabled_at = now() where organization_id = $1", UUID(customer.id))
        gauges = await deliveries.gauges(database)
        assert (gauges.pending, gauges.oldest_s) == (0, 0)


# ---------------------------------------------------------------- secrets


def test_every_secret_in_force_is_kept() -> None:
    """The CRM may have any of them: who repeats a PUT need not have had the answer to the one before."""
    now = datetime.now(UTC)
    secrets: list[standard_webhooks.SigningSecret] = []
    for hour in range(30):
        secrets = standard_webhooks.rotated(secrets, now + timedelta(hours=hour))
    assert [secret.expires_at for secret in secrets] == [
        None,
        *(now + timedelta(hours=hour + 24) for hour in range(29, 5, -1)),
    ]
    for _ in range(100):
        secrets = standard_webhooks.rotated(secrets, now)
    signatures = standard_webhooks.sign(secrets, "evt_1", int(now.timestamp()), b"{}")
    assert len(signatures.split(" ")) == standard_webhooks.MAX_SECRETS
    assert len(signatures) < 2048


async def test_puts_at_the_same_time_lose_no_secret(organization: Organization, crm: Crm) -> None:
    """Also where none was set before. Whichever of the secrets a CRM has, it can verify what comes."""
    url = crm.url_for(ENDPOINT)
    secrets = await asyncio.gather(*[put_callback(organization, url) for _ in range(8)])
    crm.set_secret(*secrets, endpoint=ENDPOINT)
    await text(organization)
    await crm.wait_received(1)
    [attempt], [headers] = crm.attempts, crm.headers
    for secret in secrets:
        assert problem(headers, attempt.body or b"", [secret]) is None
    assert (await organization.call("DELETE", "/callback")).status == 204


# ---------------------------------------------------------------- disabled, repaired, removed


async def test_the_news_of_a_disabled_callback_is_an_event_like_any_other(customer: Organization, crm: Crm) -> None:
    """As schema/envelope.json says: with a provider, that of the event which was refused."""
    crm.script(CrmStatus(status=410), endpoint=ENDPOINT)
    await text(customer)
    [news] = await eventually(lambda: customer.events(kind="account.updated"))
    answer = msgspec.convert(news, Envelope)
    assert answer.data.provider == "meta_business"
    assert str(answer.data.config_id) == customer.configs[0]["config_id"]


async def test_what_comes_for_a_disabled_callback_can_be_replayed(customer: Organization, crm: Crm) -> None:
    """It is parked, so that nothing is missing without a word: the next event tells of the gap."""
    crm.script(CrmStatus(status=410), endpoint=ENDPOINT)
    await text(customer, "0")
    await eventually(lambda: health(customer), lambda answer: answer["state"] == "disabled")
    await text(customer, "1")
    parked = await eventually(lambda: parked_of(customer), lambda parked: len(parked) == 2)
    assert [(one["attempts"], one["last_error"]) for one in parked] == [(0, "callback disabled")] * 2
    assert all(one["finished_at"] for one in parked)
    await point(customer, crm)
    await crm.wait_received(1)
    await text(customer, "2")
    await crm.wait_received(2)
    assert bodies(crm.attempts[1:]) == ["0", "2"]
    assert [headers.get("ingress-gap") for headers in crm.headers[1:]] == [None, "true"]
    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 2}
    [entry] = (await customer.call("GET", "/integrations/whatsapp/audit?limit=1")).json["entries"]
    assert (entry["action"], entry["after"]) == ("parked_replayed", {"sequences": "all"})
    await crm.wait_received(4)
    assert sorted(attempt.type or "" for attempt in crm.attempts[3:]) == ["account.updated", "message.received"]


async def test_a_repaired_callback_is_tried_at_once(
    customer: Organization, crm: Crm, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sets it again does not wait for the hours that a failing one is left alone."""
    monkeypatch.setattr(schedule, "SCHEDULE_S", DAYS)
    crm.script(CrmStatus(status=500), endpoint=ENDPOINT)
    await text(customer)
    assert await postponed(database, customer) > 3600
    await point(customer, crm)
    await crm.wait_received(1)


async def test_a_callback_is_enabled_again_with_its_secrets(
    customer: Organization, crm: Crm, database: asyncpg.Connection
) -> None:
    """What is kept for it is tried at once; only who may set it may do so, and only where there is one."""
    crm.script(CrmStatus(status=410), endpoint=ENDPOINT)
    event_id = await text(customer)
    disabled = await eventually(lambda: health(customer), lambda answer: answer["state"] == "disabled")
    kept = [("pending", 1, "HTTP 410"), ("parked", 0, "callback disabled")]
    assert await eventually(lambda: states(database, customer), kept.__eq__) == kept
    enabled = (await customer.call("POST", "/callback/enable")).json
    assert (enabled["state"], enabled["disabled_reason"], enabled["last_error"]) == ("healthy", None, None)
    assert enabled["secrets"] == disabled["secrets"]
    await crm.wait_received(1)
    assert (crm.attempts[-1].event_id, crm.attempts[-1].verified) == (event_id, True)
    [entry] = (await customer.call("GET", "/integrations/whatsapp/audit?limit=1")).json["entries"]
    assert entry["action"] == "callback_enabled"


async def test_there_is_no_callback_to_enable(gateway: Gateway) -> None:
    organization = await gateway.organization()
    assert (await organization.call("POST", "/callback/enable")).status == 404


async def test_the_last_deliveries_are_shown_with_their_answers(
    customer: Organization, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newest first, page by page: what was answered, how often it was tried, and what became of it."""
    monkeypatch.setattr(schedule, "SCHEDULE_S", (0.01,))
    taken = await text(customer, "0")
    await crm.wait_received(1)
    crm.set_default(CrmStatus(status=503), endpoint=ENDPOINT)
    given_up = await text(customer, "1")
    await eventually(lambda: parked_of(customer))
    crm.set_default(None, endpoint=ENDPOINT)
    page = (await customer.call("GET", "/callback/deliveries?limit=1")).json
    rest = (await customer.call("GET", f"/callback/deliveries?before={page['next']}")).json
    assert [
        (one["id"], one["type"], one["state"], one["attempts"], one["answer"], one["last_error"])
        for one in page["deliveries"] + rest["deliveries"]
    ] == [
        (given_up, "message.received", "parked", 2, 503, "HTTP 503"),
        (taken, "message.received", "delivered", 1, 200, None),
    ]
    assert all(one["finished_at"] > one["created_at"] for one in page["deliveries"] + rest["deliveries"])
    assert "next" not in rest


async def test_what_is_replayed_is_what_was_counted(
    customer: Organization, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parked events are counted by type and reason; those of one such group are replayed, and none that came later."""
    monkeypatch.setattr(callback, "COUNTED_AT_MOST", 3)
    own = UUID(customer.id)
    pause = "update callbacks set paused_until = now() + interval '1 h' where organization_id = $1"
    await database.execute(pause, own)
    for kind in ("received", "status", "received", "received"):
        await events.add(database, [event(customer, uuid4())._replace(type=f"message.{kind}")])
    await database.execute(
        "update deliveries set state = 'parked', last_error = 'HTTP 500' where organization_id = $1", own
    )
    counted = (await customer.call("GET", "/callback/parked/count")).json
    assert counted == {
        "events": 3,
        "groups": [
            {"type": "message.received", "last_error": "HTTP 500", "events": 2},
            {"type": "message.status", "last_error": "HTTP 500", "events": 1},
        ],
        "through": (await parked_of(customer))[2]["sequence"],
        "more": True,
    }
    group = {"type": "message.received", "last_error": "HTTP 400", "through": counted["through"]}
    assert (await customer.call("POST", "/callback/replay", group)).json == {"replayed": 0}
    group["last_error"] = "HTTP 500"
    assert (await customer.call("POST", "/callback/replay", group)).json == {"replayed": 2}
    [entry] = (await customer.call("GET", "/integrations/whatsapp/audit?limit=1")).json["entries"]
    assert entry["after"] == {"sequences": "all", **group}
    left = (await customer.call("GET", "/callback/parked/count")).json
    assert [one["type"] for one in left["groups"]] == ["message.received", "message.status"]
    assert (left["events"], left["more"]) == (2, False)


async def test_what_is_past_its_time_is_not_replayed(customer: Organization, database: asyncpg.Connection) -> None:
    """Who replays it again and again would keep the partition, and what all others have in it."""
    await events.add(database, [event(customer, uuid4())])
    await database.execute(
        "update deliveries set state = 'parked', last_error = 'HTTP 500' where organization_id = $1", UUID(customer.id)
    )
    [parked] = await parked_of(customer)
    marked = parked["sequence"] + 1
    await database.execute("insert into event_marks values ($1, now() - interval '91 days')", marked)
    try:
        assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 0}
    finally:
        await database.execute("delete from event_marks where sequence = $1", marked)
    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 1}


async def test_a_removed_callback_leaves_nothing_to_be_posted_later(
    customer: Organization, crm: Crm, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was pending is parked: the next callback gets it if somebody asks for it, as soon as there is one."""
    monkeypatch.setattr(schedule, "SCHEDULE_S", DAYS)
    crm.script(CrmStatus(status=500), endpoint=ENDPOINT)
    old = await text(customer, "old")
    await postponed(database, customer)
    assert (await customer.call("DELETE", "/callback")).status == 204
    assert await states(database, customer) == [("parked", 1, "no callback")]
    assert not await database.fetchval(
        "select exists (select from delivery_queues where organization_id = $1)", UUID(customer.id)
    )
    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 0}
    await point(customer, crm, ELSEWHERE)
    await text(customer, "new")
    await crm.wait_received(1)
    assert bodies(crm.attempts[1:]) == ["new"]
    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": 1}
    await crm.wait_received(2)
    assert crm.attempts[-1].event_id == old


async def test_a_long_backlog_is_parked_and_replayed_whole(
    customer: Organization, crm: Crm, database: asyncpg.Connection
) -> None:
    """In several batches."""
    count = 2 * parked.BATCH_ROWS + 10
    hold = "update callbacks set paused_until = now() + interval '1 h' where organization_id = $1"
    await database.execute(hold, UUID(customer.id))
    await events.add(database, [event(customer, uuid4()) for _ in range(count)])
    assert (await customer.call("DELETE", "/callback")).status == 204
    assert Counter(await states(database, customer)) == {("parked", 0, "no callback"): count}
    await point(customer, crm)
    await database.execute(hold, UUID(customer.id))
    assert (await customer.call("POST", "/callback/replay", {})).json == {"replayed": count}
    later = "update delivery_queues set due_at = now() + interval '1 h' where organization_id = $1"
    assert await database.execute(later, UUID(customer.id)) == f"UPDATE {count}"
    crm.set_default(CrmStatus(status=410), endpoint=ENDPOINT)  # enough that it is tried
    await point(customer, crm)
    waiting = "select count(*) from delivery_queues where organization_id = $1 and due_at > now() + interval '1 min'"
    assert await database.fetchval(waiting, UUID(customer.id)) == 0


async def test_a_delivery_is_logged_with_its_event(
    customer: Organization, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(relay.log, "wide", lambda event, **fields: lines.append({"event": event, **fields}))
    event_id = await text(customer)
    await crm.wait_received(1)
    [line] = await eventually(lambda: [line for line in lines if line["event"] == "delivery"])
    assert line["event_id"] == event_id


# ---------------------------------------------------------------- the end of the process


@pytest.fixture
async def own_settings(settings: Settings) -> AsyncIterator[Settings]:
    """A database of its own: no other relay delivers what the one that ends has left."""
    name = f"alone_{uuid4().hex}"
    maker = await asyncpg.connect(settings.database_url)
    await maker.execute(f"create database {name}")
    url = settings.database_url.replace("/postgres?", f"/{name}?")
    try:
        await migrate(url)
        yield msgspec.structs.replace(settings, database_url=url)
        await maker.execute(f"drop database {name} with (force)")
    finally:
        await maker.close()


@asynccontextmanager
async def ending(settings: Settings, meta: MetaSimulator, crm: Crm) -> AsyncIterator[tuple[Organization, Any]]:
    """An organization of a service, and what closes that service: a coroutine that returns when it has ended."""
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        base = await stack.enter_async_context(conftest.serving(settings))
        organization = await Gateway(base, settings.platform_key, session, meta).organization()
        await point(organization, crm)
        yield organization, stack.aclose


@pytest.fixture
async def own_database(own_settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await Database(own_settings.database_url).connect(WORKER)
    yield connection
    await connection.close()


LEASED = "select count(*) from delivery_queues where lease_id is not null"


async def test_a_process_that_ends_begins_no_other_delivery(
    own_settings: Settings, meta: MetaSimulator, crm: GatedCrm, own_database: asyncpg.Connection
) -> None:
    """The post under way is ended and counts; what is behind it, and what comes, is free for another process."""
    async with ending(own_settings, meta, crm) as (organization, end):
        crm.gate.clear()
        conversation = uuid4()
        await events.add(own_database, [event(organization, conversation) for _ in range(3)])
        await crm.wait_for(lambda: crm.waiting == 1)
        ended = asyncio.create_task(end())
        await asyncio.sleep(0)  # it has begun, and said so to everybody, when this goes on
        await events.add(own_database, [event(organization, uuid4())])
        crm.gate.set()
        await asyncio.wait_for(ended, 60)
        assert await states(own_database, organization) == [("delivered", 1, None)] + [("pending", 0, None)] * 3
        assert len(crm.attempts) == 1
        assert await own_database.fetchval(LEASED) == 0


async def test_a_process_does_not_wait_for_a_crm_that_hangs(
    own_settings: Settings,
    meta: MetaSimulator,
    crm: GatedCrm,
    own_database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The post is broken off in time to give its conversation back; no attempt is counted, and it is repeated."""
    async with ending(own_settings, meta, crm) as (organization, end):
        crm.set_default(CrmHang(), endpoint=ENDPOINT)
        await events.add(own_database, [event(organization, uuid4())])
        await crm.wait_for(lambda: crm.attempts)
        monkeypatch.setattr(relay, "TOTAL_TIMEOUT_S", relay.GIVE_BACK_S + 0.1)
        await end()
        assert await states(own_database, organization) == [("pending", 0, None)]
        assert await own_database.fetchval(LEASED) == 0
