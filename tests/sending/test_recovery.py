"""Taking over what processes that died have left: many at once, and in turns."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ingress.dev.sandbox import StatusPolicy
from ingress.identifiers import new_id
from ingress.sending import recovery
from ingress.sending.recovery import Recovery
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements.sending import leases

from ..gateway import Gateway, Organization, eventually

MESSAGES = 20


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


async def sent(gateway: Gateway, many: int) -> tuple[Organization, list[UUID]]:
    """An organization with so many messages of which no status comes."""
    organization = await gateway.organization()
    await organization.configure()
    gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
    answers = await asyncio.gather(*(organization.send() for _ in range(many)))
    return organization, [UUID(answer.json["id"]) for answer in answers]


async def leave(sql: asyncpg.Connection, ids: list[UUID]) -> None:
    """As a process leaves them that dies in the middle of their calls."""
    async with sql.transaction():
        await sql.execute("update attempts set class = null where message_id = any($1)", ids)
        await sql.execute(
            """update messages set state = 'sending', status = 'accepted', status_rank = 0, provider_message_id = null,
                message_key = null, lease_id = gen_random_uuid(), leased_until = now() - interval '1 s'
            where id = any($1)""",
            ids,
        )


async def test_what_it_takes_to_go_on_is_asked_for_at_once(
    gateway: Gateway, settings: Settings, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each message: a process that dies leaves thousands."""
    made = [await sent(gateway, MESSAGES) for _ in range(2)]
    ids = [message_id for _, of_one in made for message_id in of_one]
    in_round, rounds = ContextVar("in_round", default=0), Counter[int]()
    go_round, acquire = Recovery._round, Database.connection

    async def counted(self: Recovery) -> int:
        in_round.set(in_round.get() + 1)
        return await go_round(self)

    def acquired(self: Database, name: str) -> AbstractAsyncContextManager[Any]:
        if (number := in_round.get()) > 0:
            rounds[number] += 1
        return acquire(self, name)

    monkeypatch.setattr(Recovery, "_round", counted)
    monkeypatch.setattr(Database, "connection", acquired)
    monkeypatch.setattr(recovery, "SWEEP_S", 0.05)
    await leave(sql, ids)
    held = "select count(*) from messages where id = any($1) and state = 'uncertain'"
    await eventually(lambda: sql.fetchval(held, ids), lambda many: many == len(ids))
    assert max(rounds.values()) < len(ids) / 2


async def test_organizations_are_taken_over_in_turns(gateway: Gateway, sql: asyncpg.Connection) -> None:
    """Who has few that are younger does not wait for who has many."""
    _, many = await sent(gateway, MESSAGES)
    _, few = await sent(gateway, 2)
    transaction = sql.transaction()
    await transaction.start()  # and no end: no service sees them
    await leave(sql, many + few)
    await sql.execute("update messages set leased_until = now() - interval '1 minute' where id = any($1)", many)
    await sql.execute("update messages set leased_until = now() + interval '1 hour' where not id = any($1)", many + few)
    taken = {send.id for send in await leases.reclaim(sql, new_id(), 6)}
    assert taken >= set(few)
    assert len(taken) == 6
    rest = await leases.reclaim(sql, new_id(), 1000)
    assert {send.id for send in rest} == {*many, *few} - taken
    await transaction.rollback()
