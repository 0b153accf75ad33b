"""Deliveries of two conversations that turned out to be one: one queue, in order."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from ingress.dev.sandbox import CrmSlow, CrmStatus
from ingress.settings import Settings
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.statements import deliveries, events, parked
from ingress.storage.statements.deliveries import ClaimedConversation

from ..delivery.test_delivery import ENDPOINT, LEASE, Crm, event, put_callback
from ..gateway import Organization, eventually
from .test_people import BY_BOTH, BY_PHONE, BY_USER, ids, met, of_people, text, write

pytestmark = pytest.mark.usefixtures("quick_relay")


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    async with Crm() as simulator:
        yield simulator


@pytest.fixture
async def customer(organization: Organization, crm: Crm) -> AsyncIterator[Organization]:
    crm.set_secret(await put_callback(organization, crm.url_for(ENDPOINT)), endpoint=ENDPOINT)
    yield organization
    await organization.call("DELETE", "/callback")


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await Database(settings.database_url).connect(WORKER)
    yield connection
    await connection.close()


def sequences(crm: Crm) -> list[int]:
    return [msgspec.json.decode(each.body or b"")["sequence"] for each in crm.attempts if each.received]


async def test_pending_deliveries_of_both_are_one_queue_in_order(customer: Organization, crm: Crm) -> None:
    """The CRM takes nothing while two contacts are met and merged; then it gets all of it in the order of sequences."""
    crm.set_default(CrmStatus(status=503), endpoint=ENDPOINT)
    for who in (BY_USER, *[BY_PHONE] * 5, BY_USER, BY_BOTH, BY_PHONE, BY_USER):
        await write(customer, text(**who))
    await crm.wait_for(lambda: crm.attempts)
    crm.set_default(CrmSlow(seconds=0.01), endpoint=ENDPOINT)
    await crm.wait_received(11)
    assert sequences(crm) == [each["sequence"] for each in await of_people(customer)]
    assert crm.overlaps() == []


async def test_what_comes_into_a_merged_conversation_is_delivered_with_the_other(
    customer: Organization, crm: Crm, database: asyncpg.Connection
) -> None:
    """A process that had not heard of it wrote there in that very moment; and so did a send under way."""
    for who in (BY_USER, BY_PHONE, BY_BOTH):
        await write(customer, text(**who))
    merged = UUID(ids(await met(customer))[1])
    await events.add(database, [event(customer, merged)])
    await write(customer, text(**BY_PHONE))
    await crm.wait_received(6)
    assert sequences(crm)[-2:] == [each["sequence"] for each in await customer.events()][-2:]
    left = "select count(*) from delivery_queues where organization_id = $1"
    await eventually(lambda: database.fetchval(left, UUID(customer.id)), lambda count: count == 0)


@pytest.fixture
async def merged(customer: Organization, crm: Crm, database: asyncpg.Connection) -> tuple[UUID, UUID]:
    """Two conversations that nobody delivers, the second one merged into the first, an event in each."""
    for who in (BY_USER, BY_PHONE, BY_BOTH):
        await write(customer, text(**who))
    await crm.wait_received(4)
    older, younger = (UUID(found) for found in ids(await met(customer))[:2])
    async with database.transaction():  # this test is the relay
        await events.add(database, [event(customer, younger), event(customer, older)])
        for conversation in (older, younger):
            await database.execute(LEASE, conversation, uuid4(), timedelta(hours=1))
    return older, younger


async def test_a_merged_conversation_waits_for_who_delivers_the_other(
    customer: Organization, database: asyncpg.Connection, merged: tuple[UUID, UUID]
) -> None:
    """Who claimed the younger one before it was merged posts what they have; nothing passes them by."""
    older, younger = merged
    organization_id = UUID(customer.id)
    pending = await deliveries.pending(database, organization_id, older, 10)
    assert [row.must_wait for row in pending] == [True, True]
    assert await deliveries.pending(database, organization_id, younger, 10) == []
    await database.execute("update delivery_queues set leased_until = now() where conversation_id = $1", younger)
    pending = await deliveries.pending(database, organization_id, older, 10)
    assert [row.must_wait for row in pending] == [False, False]
    assert [msgspec.json.decode(row.data)["conversation"]["id"] for row in pending] == [str(younger), str(older)]


async def test_the_queue_of_a_merged_conversation_is_given_on(
    customer: Organization, database: asyncpg.Connection, merged: tuple[UUID, UUID]
) -> None:
    older, younger = merged
    queue = "select lease_id, arrivals from delivery_queues where conversation_id = $1"
    lease_id, arrivals = await database.fetchrow(queue, younger)
    before = (await database.fetchrow(queue, older))["arrivals"]
    await deliveries.release(database, ClaimedConversation(UUID(customer.id), younger, lease_id, arrivals))
    assert await database.fetchrow(queue, younger) is None
    assert (await database.fetchrow(queue, older))["arrivals"] == before + 1


async def test_without_a_callback_what_was_merged_is_given_up_too(
    customer: Organization, database: asyncpg.Connection, merged: tuple[UUID, UUID]
) -> None:
    older, younger = merged
    await database.execute("delete from delivery_queues where conversation_id = $1", younger)
    await database.execute("delete from callbacks where organization_id = $1", UUID(customer.id))
    await parked.park(database, UUID(customer.id), UUID(int=0))
    states = "select conversation_id from deliveries where organization_id = $1 and state = 'parked'"
    assert {row["conversation_id"] for row in await database.fetch(states, UUID(customer.id))} == {older, younger}
