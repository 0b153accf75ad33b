"""kill -9 of the service and of PostgreSQL under load: what was acknowledged is there, once; nothing is sent twice.

CRASH_CYCLES (6) kills and CRASH_EVENTS (150) webhooks acknowledged before each of them; the figures are printed.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import (
    CrmSimulator,
    FaultProxy,
    Hang,
    HangAfterAccept,
    MetaSimulator,
    RetryPolicy,
    Slow,
    StatusPolicy,
    Throttle429,
    message_ids,
)
from ingress.dev.sandbox.conditions import Changes
from ingress.dev.sandbox.meta.bodies import Body, encode, envelope, status_item, statuses_value
from ingress.dev.sandbox.webhook_post import Try, WebhookPoster
from ingress.settings import Settings
from ingress.storage.group_commit import COALESCE_ROWS
from ingress.storage.migration import migrate
from ingress.storage.vault import generate_key

from ..conftest import serving
from ..gateway import Gateway, Organization, Process, eventually

CYCLES = int(os.environ.get("CRASH_CYCLES", "6"))
EVENTS = int(os.environ.get("CRASH_EVENTS", "150"))
WRITERS = 24
CUTS = int(os.environ.get("CRASH_CUTS", "25"))
SENDS = 8
NO_STATUSES = StatusPolicy(statuses=())
PATIENT = RetryPolicy(tries=400, backoff_s=0.02, cap_s=0.2, timeout_s=10)


class CountingPoster(WebhookPoster):
    """Posts as the provider does, and remembers the answer to every single try."""

    def __init__(self) -> None:
        super().__init__(PATIENT)
        self.answers: Counter[int | None] = Counter()
        self.changes = Changes()

    async def _try(self, *arguments: Any) -> Try:
        tried = await super()._try(*arguments)
        self.answers[tried.status] += 1
        self.changes.notify()
        return tried

    @property
    def refused(self) -> int:
        return self.answers.total() - self.answers[200]


class Service:
    """Servers to be killed, the service as a process to be killed, and a provider that goes on posting."""

    def __init__(self, servers: EmbeddedServers, process: Process, gateway: Gateway, poster: CountingPoster) -> None:
        self.servers = servers
        self.process = process
        self.gateway = gateway
        self.meta = gateway.meta
        self.poster = poster

    async def sql(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.servers.database_url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def restart(self, *aging: str) -> None:
        """kill -9, then start again; leases grow old in between, as they would in half a minute."""
        self.process.kill()
        for statement in aging:
            await self.sql(statement)
        await self.process.start()


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("crash")) as running:
        yield running


@pytest.fixture(scope="module")
def own_settings(own_servers: EmbeddedServers) -> Settings:
    return Settings(
        database_url=own_servers.database_url or "",
        redis_url=own_servers.redis_url or "",
        platform_key=f"platform_{secrets.token_urlsafe(32)}",
        encryption_keys=generate_key(),
        egress_allow="127.0.0.0/8",
    )


@pytest.fixture(scope="module")
async def service(
    own_servers: EmbeddedServers, own_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    with contextlib.closing(__import__("socket").socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "DATABASE_URL": own_settings.database_url,
        "REDIS_URL": own_settings.redis_url,
        "INGRESS_PORT": str(port),
        "INGRESS_PLATFORM_KEY": own_settings.platform_key,
        "INGRESS_ENCRYPTION_KEYS": own_settings.encryption_keys,
        "INGRESS_EGRESS_ALLOW": own_settings.egress_allow,
        "INGRESS_LOG_LEVEL": "warning",
    }
    process = Process(environment, tmp_path_factory.mktemp("log") / "service.log")
    meta, poster = MetaSimulator(), CountingPoster()
    meta.webhooks = poster
    async with meta, aiohttp.ClientSession() as session:
        await process.start()
        try:
            yield Service(
                own_servers,
                process,
                Gateway(f"http://127.0.0.1:{port}", own_settings.platform_key, session, meta),
                poster,
            )
        finally:
            process.kill()


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Any:
    """Prints a figure, whatever pytest captures."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {text}\n")

    return write


# ---------------------------------------------------------------- webhooks


class Load:
    """Conversations in which people write without a pause, each next message once the last one was taken."""

    def __init__(self, service: Service, organization: Organization) -> None:
        self._service = service
        self._number = organization.numbers[0]
        self._stopping = False
        self._writers: list[asyncio.Task[None]] = []
        self.acked: dict[str, list[str]] = defaultdict(list)  # wamids by phone, in their order
        self.bodies: set[bytes] = set()

    async def __aenter__(self) -> "Load":
        self._writers = [asyncio.create_task(self._write(f"+55119{index:08d}")) for index in range(WRITERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.wait_for(asyncio.gather(*self._writers), 60)

    async def _write(self, phone: str) -> None:
        inbound = self._service.meta.inbound(self._number)
        while not self._stopping:
            body = inbound.text(phone=phone)
            # Meta delivers some twice, at the same moment.
            copies = 2 if len(self.acked[phone]) % 10 == 9 else 1
            results = await asyncio.gather(*[self._service.meta.post(self._number, body) for _ in range(copies)])
            assert all(result is not None and result.delivered for result in results)
            self.acked[phone] += message_ids(body)
            self.bodies.add(encode(body))

    @property
    def count(self) -> int:
        return sum(map(len, self.acked.values()))

    async def acknowledged(self, more: int) -> None:
        until = self._service.poster.answers[200] + more
        await self._service.poster.changes.wait_for(lambda: self._service.poster.answers[200] >= until, 120)

    async def refused(self) -> None:
        until = self._service.poster.refused + 1
        await self._service.poster.changes.wait_for(lambda: self._service.poster.refused >= until, 120)


async def test_what_was_acknowledged_is_stored_and_delivered_once(service: Service, tell: Any) -> None:
    """The raw bytes and the event of every 200 are there after any number of kills, and reach the CRM."""
    organization = await service.gateway.organization()
    await organization.configure()
    service.poster.answers.clear()
    recoveries: dict[str, list[float]] = defaultdict(list)
    async with CrmSimulator() as crm:
        callback = await organization.call("PUT", "/callback", {"url": crm.url})
        crm.set_secret(callback.json["secret"])
        async with Load(service, organization) as load:
            for cycle in range(CYCLES):
                victim = ("app", "postgres", "both")[cycle % 3]
                await load.acknowledged(EVENTS)
                killed = time.monotonic()
                if victim != "app":
                    service.servers.postgres.kill()
                if victim != "postgres":
                    service.process.kill()
                await load.refused()
                service.servers.postgres.start()
                if victim != "postgres":
                    await service.process.start()
                await load.acknowledged(1)
                recoveries[victim].append(time.monotonic() - killed)
            await load.acknowledged(EVENTS)
        await service.restart("update delivery_queues set leased_until = now() - interval '1 s'")

        assert set(service.poster.answers) <= {200, 503, None}
        events = await organization.events(kind="message.received")
        stored: dict[str, list[str]] = defaultdict(list)
        for event in events:
            data = event["data"]
            stored[data["conversation"]["contact"]["phone"]].append(data["message"]["provider_message_id"])
        times = Counter(wamid for wamids in stored.values() for wamid in wamids)
        lost = [wamid for wamids in load.acked.values() for wamid in wamids if wamid not in times]
        doubled = [wamid for wamid, count in times.items() if count > 1]
        await crm.wait_for(lambda: len(crm.received) >= len(events), 60)
        slowest = ", ".join(f"{victim} {max(times_s):.2f} s" for victim, times_s in recoveries.items())
        tell(
            f"{CYCLES} kills: {load.count} webhooks acked, {len(lost)} lost, {len(doubled)} doubled, "
            f"{service.poster.answers[200]} answers 200, {service.poster.answers[503]} of 503, "
            f"{service.poster.answers[None]} none; slowest recovery: {slowest}"
        )
        assert lost == []
        assert doubled == []
        # In the order in which they were acknowledged, and nothing that nobody sent.
        assert stored == load.acked
        assert len({event["id"] for event in events}) == len(events)
        raw = await service.sql("select body from inbound_webhooks where organization_id = $1", organization.id)
        assert load.bodies <= {row["body"] for row in raw}

        await crm.wait_for(lambda: not crm.missing(event["id"] for event in events), 60)
        delivered = {event["id"]: event for event in crm.events()}
        assert all(delivered[event["id"]] == event for event in events)
        assert crm.changed_bytes() == {}
        assert crm.inversions() == []
        assert crm.unverified() == []


async def test_commits_that_nobody_confirmed(own_servers: EmbeddedServers, own_settings: Settings, tell: Any) -> None:
    """The connection breaks after the statement was sent; the answer is 503, the repetition adds nothing."""
    await migrate(own_settings.database_url)
    socket_path = own_servers.postgres.sockets / ".s.PGSQL.5432"
    direct = await asyncpg.connect(own_settings.database_url)
    meta, poster = MetaSimulator(), CountingPoster()
    meta.webhooks = poster
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(direct.close)
        proxy = await stack.enter_async_context(FaultProxy(str(socket_path)))
        url = f"postgresql://svc@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        base = await stack.enter_async_context(serving(msgspec.structs.replace(own_settings, database_url=url)))
        await stack.enter_async_context(meta)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        organization = await Gateway(base, own_settings.platform_key, session, meta).organization()
        await organization.configure(app_secret="ambiguous")
        number = organization.numbers[0]
        poster.answers.clear()
        posted: list[str] = []
        stopping = False

        async def write(phone: str) -> None:
            inbound = meta.inbound(number)
            while not stopping:
                body = inbound.text(phone=phone)
                result = await meta.post(number, body)
                assert result is not None
                assert result.delivered
                posted.extend(message_ids(body))

        async def rows() -> int:
            count: int = await direct.fetchval(
                "select count(*) from inbound_webhooks where organization_id = $1::uuid", organization.id
            )
            return count

        # Enough that another statement is begun while the answer of one is held back.
        writers = [asyncio.create_task(write(f"+55118{index:08d}")) for index in range(3 * COALESCE_ROWS)]
        unconfirmed = 0
        for _ in range(CUTS):
            until = poster.answers[200] + 1
            await poster.changes.wait_for(lambda until=until: poster.answers[200] >= until, 120)
            proxy.pause("down")
            before = await rows()
            # Nothing of what PostgreSQL answers reaches the service any more, yet a statement still gets through.
            with contextlib.suppress(AssertionError):  # its flusher had no connection at the moment
                await eventually(rows, lambda count, before=before: count > before, timeout=0.1, every=0.001)
                unconfirmed += 1
            proxy.reset_all()
            proxy.resume()
        stopping = True
        await asyncio.wait_for(asyncio.gather(*writers), 60)

        events = [
            event["data"]["message"]["provider_message_id"]
            for event in await organization.events(kind="message.received")
        ]
        surplus = await rows() - poster.answers[200]
        tell(
            f"{CUTS} cuts: {poster.answers[200]} answers 200, {poster.answers[503]} of 503, {surplus} webhooks stored "
            f"without an answer, {len(posted)} sent, {len(events)} events, {len(events) - len(set(events))} doubled"
        )
        assert set(poster.answers) == {200, 503}
        assert sorted(events) == sorted(posted)
        # The test is about such commits, so there must have been many.
        assert surplus >= CUTS // 4


# ---------------------------------------------------------------- sends


async def _sender(service: Service, policy: StatusPolicy, *faults: Any, default: Any = None) -> Organization:
    organization = await service.gateway.organization()
    await organization.configure()
    service.meta.set_statuses(organization.numbers[0], policy)
    await service.meta.script(organization.numbers[0], *faults)
    await service.meta.set_default(organization.numbers[0], default)
    return organization


async def _accepted(organization: Organization, count: int) -> list[str]:
    answers = await asyncio.gather(
        *[
            organization.send({"to": f"+55117{index:08d}", "body": "x"}, prefer="respond-async")
            for index in range(count)
        ]
    )
    assert {answer.status for answer in answers} == {202}
    return [answer.json["id"] for answer in answers]


async def _insist(organization: Organization, key: str) -> int:
    """POST /send under *key* until there is an answer that ends it, as a CRM does."""
    for _ in range(2000):
        try:
            answer = await organization.send({"to": "+5511987654321", "body": key}, idempotency_key=key)
        except aiohttp.ClientError:
            await asyncio.sleep(0.01)
            continue
        if answer.status not in (409, 503):
            return answer.status
        await asyncio.sleep(0.01)
    raise AssertionError(f"no end for {key}")


@pytest.mark.parametrize("cycle", range(max(1, CYCLES // 3)))
async def test_no_send_goes_out_twice_when_its_process_dies(service: Service, cycle: int, tell: Any) -> None:
    """What the provider took is found out by its statuses, or ends as unknown; nothing is repeated blindly."""
    statuses = StatusPolicy()
    reported = await _sender(service, statuses, default=HangAfterAccept())
    slow = await _sender(service, statuses, default=Slow(seconds=0.3))
    silent = await _sender(service, NO_STATUSES, *[HangAfterAccept(), Hang()] * (SENDS // 2), default=HangAfterAccept())
    refused = await _sender(service, statuses, *[Throttle429(retry_after=20)] * 4)
    keyed = await _sender(service, statuses, default=Slow(seconds=0.05))
    ids = {
        name: await _accepted(organization, count)
        for name, organization, count in (
            ("reported", reported, SENDS),
            ("slow", slow, SENDS),
            ("silent", silent, SENDS),
            ("refused", refused, 4),
        )
    }
    noted = "select count(*) from attempts where organization_id = $1 and class = 'Throttled'"
    await eventually(lambda: service.sql(noted, refused.id), lambda found: found[0][0] == 4)
    arrived = [organization.numbers[0].phone_number_id for organization in (reported, slow, silent)]
    await service.meta.wait_for(
        lambda: sum(call.phone_number_id in arrived for call in service.meta.sends) == 3 * SENDS, 60
    )
    clients = [asyncio.create_task(_insist(keyed, f"key-{cycle}-{index}")) for index in range(40)]
    number = keyed.numbers[0].phone_number_id
    # Some were taken, others are on their way, the rest not even claimed.
    await service.meta.wait_for(
        lambda: sum(message.phone_number_id == number for message in service.meta.accepted) >= 3 + 12 * (cycle % 3), 60
    )
    await service.restart("update messages set leased_until = now() - interval '1 s' where state = 'sending'")

    under_way = "select count(*) from messages where state = 'sending'"
    ends = Counter(await asyncio.wait_for(asyncio.gather(*clients), 60))
    await eventually(lambda: service.sql(under_way), lambda found: found[0][0] == 0)
    await service.meta.settled(60)
    for id in ids["silent"]:
        message = await silent.message(id)
        assert message["state"] == "uncertain"
        assert [(attempt["class"], attempt["code"]) for attempt in message["attempts"]] == [
            ("Uncertain", "process_died")
        ]
    # Nobody tells what became of them for a minute.
    await service.restart("update messages set leased_until = now() - interval '1 s' where state = 'uncertain'")
    await eventually(
        lambda: service.sql("select count(*) from messages where state <> 'done'"), lambda found: found[0][0] == 0
    )

    ended = Counter()
    for name, organization in (("reported", reported), ("slow", slow), ("silent", silent), ("refused", refused)):
        for id in ids[name]:
            message = await organization.message(id)
            ended[name, message["status"]] += 1
            assert (
                message["status"] == "unknown"
                if name == "silent"
                else message["status"] in ("sent", "delivered", "read")
            )
            # Only a refusal in plain words allows a second call.
            assert len(message["attempts"]) == (2 if name == "refused" else 1)
    unknown = [
        event["data"]["message"]["id"]
        for event in await silent.events(kind="message.status")
        if event["data"]["status"]["value"] == "unknown"
    ]
    assert sorted(unknown) == sorted(ids["silent"])
    organizations = [organization.id for organization in (reported, slow, silent, refused, keyed)]
    recorded = await service.sql(
        "select message_id, number from attempts where organization_id = any($1::uuid[])", organizations
    )
    intents = {f"gw1:{row['message_id'].hex}:{row['number']}" for row in recorded}
    numbers = {organization.numbers[0].phone_number_id for organization in (reported, slow, silent, refused, keyed)}
    calls = [call.tracker for call in service.meta.sends if call.phone_number_id in numbers]
    went_out = Counter(
        message.body["text"]["body"] for message in service.meta.accepted if message.phone_number_id == number
    )
    tell(
        f"{sum(map(len, ids.values()))} sends and {len(clients)} keys when the process died: "
        f"{len(service.meta.duplicates())} accepted twice; ends {dict(ends)}, {dict(ended)}"
    )
    assert set(calls) <= intents
    assert service.meta.duplicates() == {}
    assert set(went_out.values()) <= {1}
    assert set(ends) <= {200, 202, 504}


async def test_held_events_outlive_the_process_that_took_them(service: Service) -> None:
    """Statuses of a message that may be a send under way are answered, wait through kill -9, and are events once."""
    organization = await _sender(service, NO_STATUSES, default=HangAfterAccept())
    number, to = organization.numbers[0], "+5511987654321"
    sent = (await organization.send({"to": to, "body": "x"}, prefer="respond-async")).json["id"]
    await service.meta.wait_for(
        lambda: any(call.phone_number_id == number.phone_number_id for call in service.meta.sends)
    )
    for value in ("sent", "delivered", "read"):
        body = envelope((number, statuses_value([status_item("wamid.OTHERS", value, {"to": to})])))
        results = await asyncio.gather(*[service.meta.post(number, body) for _ in range(3)])
        assert all(result is not None and result.delivered for result in results)
    held = "select count(*) from held_events where organization_id = $1"
    assert (await service.sql(held, UUID(organization.id)))[0][0] == 3
    await service.restart("update messages set leased_until = now() - interval '1 s' where state = 'sending'")
    await eventually(lambda: organization.message(sent), lambda message: message["state"] == "uncertain")
    assert await organization.events(kind="message.status") == []
    await service.restart("update messages set leased_until = now() - interval '1 s' where state = 'uncertain'")
    await organization.settled(sent, "unknown")
    await eventually(lambda: service.sql(held, UUID(organization.id)), lambda found: found[0][0] == 0)
    ended, *others = await organization.events(kind="message.status")
    assert (ended["data"]["message"]["id"], ended["data"]["status"]["value"]) == (sent, "unknown")
    assert [event["data"]["status"]["value"] for event in others] == ["sent", "delivered", "read"]
    assert not any("id" in event["data"]["message"] for event in others)


async def test_sends_survive_the_end_of_postgresql(service: Service) -> None:
    """The provider's answer comes while the database is away: it is kept until it can be stored."""
    organization = await _sender(service, StatusPolicy(), default=Slow(seconds=0.5))
    sends = [
        asyncio.create_task(organization.send({"to": f"+55116{index:08d}", "body": "x"})) for index in range(SENDS)
    ]
    number = organization.numbers[0].phone_number_id
    await service.meta.wait_for(lambda: sum(call.phone_number_id == number for call in service.meta.sends) == SENDS, 60)
    service.servers.postgres.kill()
    await service.meta.wait_for(
        lambda: sum(message.phone_number_id == number for message in service.meta.accepted) == SENDS, 60
    )
    service.servers.postgres.start()
    answers = await asyncio.wait_for(asyncio.gather(*sends), 60)
    assert [(answer.status, answer.json["attempts"]) for answer in answers] == [(200, 1)] * SENDS
    for answer in answers:
        message = await organization.message(answer.json["id"])
        assert (message["state"], [attempt["class"] for attempt in message["attempts"]]) == ("done", ["ok"])
    assert service.meta.duplicates() == {}


async def test_no_send_is_uncertain_because_postgresql_ended(service: Service, tell: Any) -> None:
    """Whoever got 503 asks again under the same key. Each send ends as sent, was sent once, and is one event."""
    organization = await _sender(service, NO_STATUSES)
    number, keys = organization.numbers[0].phone_number_id, itertools.count()
    ends: Counter[int] = Counter()
    stopping = False

    async def write() -> None:
        while not stopping:
            ends[await _insist(organization, f"ending-{next(keys)}")] += 1

    def accepted() -> list[str]:
        return [item.body["text"]["body"] for item in service.meta.accepted if item.phone_number_id == number]

    writers = [asyncio.create_task(write()) for _ in range(WRITERS)]
    for _ in range(CYCLES):
        until = len(accepted()) + EVENTS
        await service.meta.wait_for(lambda until=until: len(accepted()) >= until, 120)
        service.servers.postgres.kill()
        service.servers.postgres.start()
    stopping = True
    await asyncio.wait_for(asyncio.gather(*writers), 60)

    open_ones = "select count(*) from messages where organization_id = $1 and state <> 'done'"
    await eventually(lambda: service.sql(open_ones, organization.id), lambda found: found[0][0] == 0)
    states = await service.sql("select status from messages where organization_id = $1", organization.id)
    ends_seen = Counter(event["data"]["message"]["id"] for event in await organization.events(kind="message.status"))
    statuses = Counter(row["status"] for row in states)
    tell(f"{CYCLES} kills: {ends.total()} sends, answers {dict(ends)}, ends {dict(statuses)}")
    assert set(statuses) == {"sent"}
    assert len(ends_seen) == len(states) == len(accepted()) == len(set(accepted()))
    assert set(ends_seen.values()) == {1}


# ---------------------------------------------------------------- without PostgreSQL


def _signal_postgres(servers: EmbeddedServers, number: signal.Signals) -> None:
    """To the postmaster and all of its children, as a machine that stalls."""
    pid = servers.postgres.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (pid, *map(int, children)):
        assert process is not None
        os.kill(process, number)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_without_postgresql_nothing_is_taken_and_nothing_called(service: Service, how: str, tell: Any) -> None:
    """503 with Retry-After, alive but not ready, no provider call begun; all by itself well again."""
    organization = await _sender(service, StatusPolicy())
    gateway, number = service.gateway, organization.numbers[0]
    assert (await organization.send()).status == 200
    assert (await organization.post_webhook(service.meta.inbound(number).text("before"))).status == 200
    calls = len(service.meta.sends)
    bodies: list[Body] = [service.meta.inbound(number).text(f"during {index}") for index in range(20)]

    away = time.monotonic()
    if how == "killed":
        service.servers.postgres.kill()
    else:
        _signal_postgres(service.servers, signal.SIGSTOP)
    try:
        webhooks = [asyncio.create_task(organization.post_webhook(body)) for body in bodies]
        sends = [asyncio.create_task(organization.send()) for _ in range(5)]
        ready = await eventually(lambda: gateway.call("GET", "/readyz"), lambda answer: answer.status != 200)
        unready_s = time.monotonic() - away
        asked = time.monotonic()
        alive = await asyncio.wait_for(gateway.call("GET", "/healthz"), 60)
        alive_s = time.monotonic() - asked
        answers = await asyncio.wait_for(asyncio.gather(*webhooks, *sends), 60)
        answered_s = time.monotonic() - away
    finally:
        if how == "stopped":
            _signal_postgres(service.servers, signal.SIGCONT)
    back = time.monotonic()
    service.servers.postgres.start()
    await eventually(lambda: gateway.call("GET", "/readyz"), lambda answer: answer.status == 200)
    tell(
        f"PostgreSQL {how}: not ready after {unready_s:.2f} s, alive in {alive_s * 1000:.0f} ms, all refused after "
        f"{answered_s:.2f} s, ready {time.monotonic() - back:.2f} s after its return"
    )
    assert (ready.status, ready.json["status"]) == (503, "unavailable")
    assert (alive.status, alive.json) == (200, {"status": "ok"})
    assert {answer.status for answer in answers} == {503}
    assert {int(answer.headers["retry-after"]) for answer in answers} <= {1, 2, 3, 4, 5}
    assert len(service.meta.sends) == calls

    for body in bodies:
        await organization.deliver(body)
    texts = Counter(
        event["data"]["message"]["content"]["body"] for event in await organization.events(kind="message.received")
    )
    assert texts == Counter(["before", *[f"during {index}" for index in range(20)]])
    assert (await organization.send()).status == 200
