"""A CRM that was down for long: that it is back is noticed, whatever its events have to wait for."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from ingress import metrics
from ingress.delivery import outages, relay, schedule
from ingress.dev.sandbox import CrmStatus
from ingress.settings import Settings
from ingress.storage.statements.outages import DOWN_AFTER

from ..gateway import Organization, eventually
from .test_delivery import ENDPOINT, Crm, bodies, health, parked_of, put_callback, text

DOWN = CrmStatus(status=503)
PEOPLE = [f"+551190000000{number}" for number in range(DOWN_AFTER + 1)]


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
async def sql(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture(autouse=True)
def patient(quick_relay: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first failure an event waits for two hours; who is down is tried again at once."""
    monkeypatch.setattr(schedule, "SCHEDULE_S", (7200, 7200))
    monkeypatch.setattr(relay, "PAUSE_S", 0.05)
    monkeypatch.setattr(outages, "TRY_AFTER_S", 0.05)
    monkeypatch.setattr(outages, "LOOK_EVERY_S", 0.05)


async def down(customer: Organization, crm: Crm) -> None:
    """Each conversation has failed, and waits."""
    crm.set_default(DOWN, endpoint=ENDPOINT)
    for phone in PEOPLE:
        await text(customer, phone, phone)
    await eventually(lambda: health(customer), lambda shown: shown["consecutive_failures"] > 2 * len(PEOPLE))


def dwelled(state: str) -> float:
    """How many events were delivered at once while the callback was in *state*."""
    name = "whatsapp_ingress_delivery_dwell_seconds_count"
    return metrics.REGISTRY.get_sample_value(name, {"state": state}) or 0.0


async def pauses(sql: asyncpg.Connection, customer: Organization) -> list[timedelta]:
    """How long each conversation waits that nobody delivers."""
    rows = await sql.fetch(
        "select due_at - now() from delivery_queues where organization_id = $1 and lease_id is null", UUID(customer.id)
    )
    return [row[0] for row in rows]


async def test_a_crm_that_is_back_gets_what_was_postponed(customer: Organization, crm: Crm) -> None:
    """Though each conversation was to wait for hours."""
    await down(customer, crm)
    crm.set_default(None, endpoint=ENDPOINT)
    await crm.wait_received(len(PEOPLE))
    assert sorted(bodies(list(crm.received.values()))) == PEOPLE
    crm.assert_sound()
    await eventually(lambda: health(customer), lambda shown: shown["state"] == "healthy")


async def test_what_waited_for_a_crm_was_not_late_by_our_fault(customer: Organization, crm: Crm) -> None:
    """It was never tried: one before it of its conversation was. What comes later counts again."""
    healthy, unhealthy = dwelled("healthy"), dwelled("unhealthy")
    await down(customer, crm)
    await text(customer, "behind", PEOPLE[0])
    crm.set_default(None, endpoint=ENDPOINT)
    await eventually(lambda: dwelled("unhealthy"), lambda count: count == unhealthy + 1)
    assert dwelled("healthy") == healthy
    await eventually(lambda: health(customer), lambda shown: shown["state"] == "healthy")
    await text(customer, "later", PEOPLE[0])
    await eventually(lambda: dwelled("healthy"), lambda count: count == healthy + 1)
    assert dwelled("unhealthy") == unhealthy + 1


async def test_what_is_tried_early_is_given_up_no_sooner(
    customer: Organization, crm: Crm, sql: asyncpg.Connection
) -> None:
    """It was tried many times more than its schedule has, and each of them is as if it had not been."""
    await down(customer, crm)
    await eventually(lambda: len(crm.attempts), lambda many: many > 8 * len(PEOPLE))
    assert await parked_of(customer) == []
    counted = "select max(attempts) from deliveries where organization_id = $1"
    assert await sql.fetchval(counted, UUID(customer.id)) == 1
    left = await pauses(sql, customer)
    assert [pause for pause in left if pause > timedelta(hours=1)]
    assert max(left) <= timedelta(seconds=7200 * (1 + schedule.JITTER))


async def test_what_fails_by_itself_is_not_hurried(customer: Organization, crm: Crm, sql: asyncpg.Connection) -> None:
    """The endpoint takes others: it was not down."""
    crm.script(DOWN, endpoint=ENDPOINT)
    await text(customer, "held", PEOPLE[0])
    await eventually(lambda: pauses(sql, customer), lambda found: any(each > timedelta(hours=1) for each in found))
    for phone in PEOPLE[1:]:
        await text(customer, "free", phone)
    await crm.wait_received(len(PEOPLE) - 1)
    assert set(bodies(list(crm.received.values()))) == {"free"}
    [pause] = await eventually(lambda: pauses(sql, customer), lambda found: len(found) == 1)
    assert pause > timedelta(hours=1)


def test_who_is_back_is_noticed_within_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the post before ran into its time-out."""
    monkeypatch.undo()
    assert relay.TOTAL_TIMEOUT_S + outages.PAUSE_S + outages.TRY_AFTER_S + outages.LOOK_EVERY_S + relay.POLL_S < 30
