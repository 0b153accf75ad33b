"""CRMs that answer slowly, or not at all, leave room for the deliveries of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.delivery import places
from ingress.delivery.places import CONCURRENCY, PER_ORGANIZATION, RESERVE, SLOW_PLACES, SLOW_S, Places
from ingress.dev.sandbox import CrmSlow
from ingress.settings import Settings
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.statements import events
from ingress.storage.statements.deliveries import ClaimLimit

from ..api.test_callbacks import GatedCrm, point
from ..gateway import Gateway, Organization, eventually
from .test_delivery import Crm, event, text

ORGANIZATIONS = [UUID(int=number) for number in range(1, 200)]
ONE, TWO, THREE = ORGANIZATIONS[:3]

# ---------------------------------------------------------------- who gets how much


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answered(made: Places, clock: Clock, organization: UUID, *times: float) -> None:
    for seconds in times:
        post = made.begin(organization)
        clock.now += seconds
        assert made.end(post) == pytest.approx(seconds)


def test_the_last_places_are_for_whoever_has_none(clock: Clock) -> None:
    made = Places(clock)
    assert made.limits() == [ClaimLimit(CONCURRENCY - RESERVE, PER_ORGANIZATION, [])]
    for organization in ORGANIZATIONS[: CONCURRENCY - RESERVE]:
        made.take(organization)
    assert made.limits() == [ClaimLimit(RESERVE, 1, [])]
    for _ in range(RESERVE):
        made.take(ONE)
    assert made.limits() == []
    made.give(ONE)
    assert made.limits() == [ClaimLimit(1, 1, [])]


def test_who_answers_slowly_has_a_part_of_the_places(clock: Clock) -> None:
    made = Places(clock)
    answered(made, clock, ONE, 14.0)
    assert made.is_slow(ONE)
    assert made.limits() == [
        ClaimLimit(SLOW_PLACES, PER_ORGANIZATION, [ONE], True),
        ClaimLimit(CONCURRENCY - RESERVE - SLOW_PLACES, PER_ORGANIZATION, [ONE]),
    ]
    answered(made, clock, TWO, 14.0)
    made.take(ONE)
    made.take(TWO)
    [slow, _] = made.limits()
    assert slow == ClaimLimit(SLOW_PLACES - 2, SLOW_PLACES // 3, [ONE, TWO], True)


def test_who_hangs_is_slow_before_there_is_an_answer(clock: Clock) -> None:
    made = Places(clock)
    made.take(ONE)
    made.begin(ONE)
    clock.now += SLOW_S + 0.1
    assert made.limits()[0].slow == [ONE]
    assert not made.is_slow(ONE)  # nothing is known of its answers


def test_one_slow_answer_among_quick_ones_is_forgiven(clock: Clock) -> None:
    made = Places(clock)
    answered(made, clock, ONE, 0.02, 2.0, 0.02)
    assert not made.is_slow(ONE)
    answered(made, clock, ONE, 14.0, 14.0)
    assert made.is_slow(ONE)
    answered(made, clock, ONE, *[0.02] * 10)
    assert not made.is_slow(ONE)
    assert [share.slow for share in made.limits()] == [[]]


def test_what_was_slow_long_ago_is_forgotten(clock: Clock) -> None:
    made = Places(clock)
    answered(made, clock, ONE, 14.0)
    clock.now += places.FORGET_AFTER_S + 1
    assert [share.slow for share in made.limits()] == [[]]
    assert made._means == {}


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 20)), max_size=60))
def test_no_more_is_claimed_than_there_are_places(steps: list[tuple[int, float]]) -> None:
    """Whatever is claimed and however long it takes: all shares taken up whole, as they come."""
    clock = Clock()
    made = Places(clock)
    under_way: list[tuple[UUID, Any]] = []
    for number, seconds in steps:
        for share in made.limits():
            of_slow = sum(count for organization, count in made._taken.items() if organization in share.slow)
            assert 1 <= share.per_organization <= PER_ORGANIZATION
            assert not share.of_slow or share.limit + of_slow <= SLOW_PLACES
            chosen = share.slow[0] if share.of_slow else ORGANIZATIONS[number]
            if chosen in share.slow and not share.of_slow:
                continue
            for _ in range(share.limit):
                made.take(chosen)
                under_way.append((chosen, made.begin(chosen)))
        assert len(under_way) <= CONCURRENCY
        clock.now += seconds
        for organization, post in under_way[: number * 10]:
            made.end(post)
            made.give(organization)
        del under_way[: number * 10]


# ---------------------------------------------------------------- real ones

pytestmark = pytest.mark.usefixtures("quick_relay")
SLOW_ONES, CONVERSATIONS = 4, 60


class CountedCrm(GatedCrm):
    """One that remembers how many posts it had at a time, at most."""

    most = 0

    async def _receive(self, request: Any) -> Any:
        self.most = max(self.most, self.waiting + 1)
        return await super()._receive(request)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await Database(settings.database_url).connect(WORKER)
    yield connection
    await connection.close()


@asynccontextmanager
async def delivering(gateway: Gateway, crm: Crm, count: int) -> AsyncIterator[list[Organization]]:
    """Organizations whose events go to *crm*, each to an endpoint of its own."""
    made = [await gateway.organization() for _ in range(count)]
    for number, organization in enumerate(made):
        await organization.configure()
        await point(organization, crm, f"endpoint{number}")
    yield made
    for organization in made:
        await organization.call("DELETE", "/callback")


async def test_crms_that_hang_hold_nobody_up(gateway: Gateway, database: asyncpg.Connection) -> None:
    """With more to deliver than there are places; they take what they can get, and one event of another goes out."""
    async with (
        CountedCrm() as hanging,
        Crm() as prompt,
        delivering(gateway, hanging, SLOW_ONES) as slow,
        delivering(gateway, prompt, 1) as [quiet],
    ):
        for organization in slow:
            await events.add(database, [event(organization, uuid4()) for _ in range(CONVERSATIONS)])
        await hanging.wait_for(lambda: hanging.waiting > CONCURRENCY - RESERVE)
        for number in range(3):
            await text(quiet, str(number))
            await prompt.wait_received(number + 1)
        assert hanging.attempts == []
        hanging.gate.set()
        await hanging.wait_received(SLOW_ONES * CONVERSATIONS, timeout=60)


async def test_slow_crms_share_a_part_and_lose_nothing(
    gateway: Gateway, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known as slow they have no more than their part at a time; in order, each event once, as ever."""
    monkeypatch.setattr(places, "SLOW_S", 0.01)
    async with (
        CountedCrm() as crm,
        Crm() as prompt,
        delivering(gateway, crm, SLOW_ONES) as slow,
        delivering(gateway, prompt, 1) as [quiet],
    ):
        crm.gate.set()
        for number, organization in enumerate(slow):
            crm.set_default(CrmSlow(seconds=0.1), endpoint=f"endpoint{number}")
            await events.add(database, [event(organization, uuid4())])
        await crm.wait_received(SLOW_ONES)
        crm.most = 0
        for organization in slow:
            conversations = [uuid4() for _ in range(CONVERSATIONS // 4)]
            await events.add(database, [event(organization, each) for each in conversations * 3])
        received = asyncio.create_task(crm.wait_received(SLOW_ONES * (1 + 3 * (CONVERSATIONS // 4)), timeout=60))
        await text(quiet)
        await prompt.wait_received(1)
        await received
        crm.assert_sound()
        assert PER_ORGANIZATION < crm.most <= SLOW_PLACES
        await eventually(lambda: database.fetchval(QUEUED, [UUID(each.id) for each in slow]), lambda left: left == 0)


QUEUED = "select count(*) from delivery_queues where organization_id = any($1)"
