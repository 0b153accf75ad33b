"""Commits that PostgreSQL made and nobody confirmed, for the connection broke: sends, attempts and outcomes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import ErrorCode, FaultProxy, MetaSimulator, ResetBeforeAccept, Slow, StatusPolicy, Throttle429
from ingress.sending.recovery import Recovery
from ingress.settings import Settings
from ingress.storage.database import StoreUnavailable
from ingress.storage.statements.sending import leases
from ingress.storage.statements.sending.leases import Lease
from tests.conftest import serving
from tests.gateway import Answer, Gateway, Organization, eventually

NO_STATUSES = StatusPolicy(statuses=())


class Line:
    """The way of a service to PostgreSQL, which can be cut behind a statement; and another way to look."""

    def __init__(self, proxy: FaultProxy, database: asyncpg.Pool, organization: Organization) -> None:
        self.proxy = proxy
        self.database = database
        self.organization = organization

    async def cut(self, request: Awaitable[Answer], *signs: bytes, committed: str) -> Answer:
        """The answer to *request*, of which the statement that says *signs* is *committed* and not confirmed.

        *signs* go by in this order, the last one in the statement's arguments; *committed* counts messages.
        """
        left = list(signs)

        def watch(way: str, chunk: bytes) -> bool:
            while way == "up" and left and left[0] in chunk:
                left.pop(0)
                if not left:
                    self.proxy.pause("down")
            return False

        self.proxy.watch = watch
        asking = asyncio.ensure_future(request)
        await eventually(lambda: self.count(committed), lambda count: not left and count > 0, every=0.002)
        self.proxy.watch = None
        self.proxy.reset_all()
        self.proxy.resume()
        return await asking

    async def count(self, condition: str) -> int:
        found: int = await self.database.fetchval(
            f"select count(*) from messages m where organization_id = $1 and {condition}", UUID(self.organization.id)
        )
        return found


@pytest.fixture
async def line(servers: EmbeddedServers, settings: Settings, meta: MetaSimulator) -> AsyncIterator[Line]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(asyncpg.create_pool(settings.database_url, min_size=1))
        proxy = await stack.enter_async_context(FaultProxy(str(servers.postgres.sockets / ".s.PGSQL.5432")))
        url = f"postgresql://svc@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        base = await stack.enter_async_context(serving(msgspec.structs.replace(settings, database_url=url)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        organization = await Gateway(base, settings.platform_key, session, meta).organization()
        await organization.configure()
        meta.set_statuses(organization.numbers[0], NO_STATUSES)
        yield Line(proxy, database, organization)


@pytest.mark.parametrize(
    ("fault", "status", "value"),
    [(None, 200, "sent"), (ErrorCode(code=131026), 422, "failed")],
    ids=["accepted", "refused"],
)
async def test_an_outcome_that_is_stored_again_is_one_event(
    line: Line, meta: MetaSimulator, fault: Any, status: int, value: str
) -> None:
    organization = line.organization
    await meta.script(organization.numbers[0], *[fault] if fault else [])
    answer = await line.cut(organization.send(), b"message.status", committed="state = 'done'")
    assert answer.status == status
    message = await organization.message(answer.json["id"])
    assert (message["state"], message["status"], len(message["attempts"])) == ("done", value, 1)
    result = [event["data"]["status"]["value"] for event in await organization.events(kind="message.status")]
    assert result == [value]


async def test_an_outcome_is_stored_again_by_who_lost_its_lease(line: Line, meta: MetaSimulator) -> None:
    """A provider took it while another process was given the message: the answer is the same, the first time or not."""
    organization = line.organization
    await meta.script(organization.numbers[0], Slow(seconds=0.5))
    asking = asyncio.create_task(line.cut(organization.send(), b"message.status", committed="state = 'done'"))
    taken = "update messages set lease_id = gen_random_uuid() where organization_id = $1 and state = 'sending'"
    await eventually(lambda: line.database.execute(taken, UUID(organization.id)), lambda done: done == "UPDATE 1")
    answer = await asking
    assert (answer.status, answer.json["status"]) == (200, "sent")
    assert len(await organization.events(kind="message.status")) == 1


@pytest.mark.parametrize("key", ["unconfirmed-1", None], ids=["with-key", "without"])
async def test_a_claim_that_nobody_confirmed_is_taken_back(line: Line, meta: MetaSimulator, key: str | None) -> None:
    """503 says that nothing was accepted: nothing is sent, nothing is uncertain, and the key is free."""
    organization = line.organization
    headers = {"idempotency_key": key} if key else {}
    body = {"to": "+5511987654321", "body": "refused at first"}
    calls = len(meta.sends)
    refused = await line.cut(organization.send(body, **headers), b"refused at first", committed="state = 'sending'")
    assert refused.status == 503

    await eventually(lambda: line.count("true"), lambda count: count == 0)
    assert len(meta.sends) == calls
    again = await organization.send(body, **headers)
    assert (again.status, again.headers.get("idempotency-replayed")) == (200, None)
    assert len(meta.sends) == calls + 1
    assert await line.count("true") == 1
    events = await organization.events(kind="message.status")
    assert [event["data"]["message"]["id"] for event in events] == [again.json["id"]]


async def test_a_claim_that_waits_and_nobody_confirmed_is_taken_back(line: Line, meta: MetaSimulator) -> None:
    """Nobody is called for it, and who comes after it does not wait for it."""
    organization, to = line.organization, "+5511987654321"
    await meta.script(organization.numbers[0], Throttle429(retry_after=3))
    first = await organization.send({"to": to, "body": "first"}, prefer="respond-async")
    await eventually(
        lambda: organization.message(first.json["id"]), lambda message: message["attempts"][0].get("class")
    )
    body = {"to": to, "body": "refused at first"}
    refused = await line.cut(organization.send(body), b"refused at first", committed="attempts = 0")
    assert refused.status == 503

    last = await organization.send({"to": to, "body": "last"})
    assert last.status == 200
    number = organization.numbers[0].phone_number_id
    sent = [message.body["text"]["body"] for message in meta.accepted if message.phone_number_id == number]
    assert sent == ["first", "last"]
    assert await line.count("true") == 2


async def test_a_claim_that_somebody_took_over_is_not_taken_back(line: Line) -> None:
    organization = line.organization
    ids = UUID(organization.id), UUID((await organization.send()).json["id"])
    taken = "update messages set state = 'sending', lease_id = gen_random_uuid() where id = $1 returning lease_id"
    async with line.database.acquire() as connection:
        lease_id = await connection.fetchval(taken, ids[1])
        assert await leases.withdraw(connection, [Lease(*ids, UUID(int=1))]) == []
        assert await leases.withdraw(connection, [Lease(*ids, lease_id)]) == [ids[1]]


@pytest.mark.parametrize(
    "fault", [Throttle429(retry_after=0), ResetBeforeAccept()], ids=["after-a-refusal", "after-a-lost-answer"]
)
async def test_an_attempt_that_nobody_confirmed_is_made(line: Line, meta: MetaSimulator, fault: Any) -> None:
    """It was begun and nobody was called: so it is begun again, not called uncertain."""
    organization = line.organization
    await meta.script(organization.numbers[0], fault)
    answer = await line.cut(
        organization.send({"to": "+5511987654321", "body": "x", "on_uncertain": "retry"}),
        b"renewed as (",
        b"meta_business",
        committed="attempts = 2",
    )
    assert (answer.status, answer.json["attempts"]) == (200, 2)
    message = await organization.message(answer.json["id"])
    assert [attempt["class"] for attempt in message["attempts"]][-1] == "ok"
    assert (message["state"], len(message["attempts"])) == ("done", 2)


async def test_what_is_left_is_not_taken_over_in_the_moment_the_store_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases ran out while nobody could renew them: their owners come first, who know whether they called."""
    rounds, looks = AsyncMock(side_effect=[StoreUnavailable("away"), 0]), AsyncMock(side_effect=[OSError, None])
    monkeypatch.setattr(Recovery, "_round", rounds)
    monkeypatch.setattr(Recovery, "_match_statuses", looks)
    recovery = Recovery(*(AsyncMock() for _ in range(6)), asyncio.Event())
    for error in (StoreUnavailable, OSError):
        with pytest.raises(error):
            await recovery._recover()
    await recovery._recover()
    assert rounds.await_count == 1
    await recovery._recover()
    assert rounds.await_count == 2
