"""The bulkhead: slots are shared out fairly, none gets lost, none is given twice."""

import asyncio
import random
from uuid import UUID

import pytest

from ingress.sending import bulkhead
from ingress.sending.bulkhead import Bulkhead

A, B, C = (UUID(int=number) for number in range(1, 4))


async def test_one_organization_gets_its_share_and_no_more() -> None:
    slots = Bulkhead(40)
    taken = [await slots.enter(A, 0) for _ in range(12)]
    assert taken == [True] * 10 + [False] * 2
    assert await slots.enter(B, 0)


async def test_a_small_process_gives_everybody_four() -> None:
    slots = Bulkhead(8)
    assert [await slots.enter(A, 0) for _ in range(5)] == [True] * 4 + [False]


async def test_who_waits_gets_a_slot_in_order() -> None:
    slots = Bulkhead(16)
    for _ in range(4):
        assert await slots.enter(A, 0)
    order: list[int] = []

    async def wait(place: int) -> None:
        assert await slots.enter(A, 5)
        order.append(place)
        slots.leave(A)

    waiting = [asyncio.create_task(wait(place)) for place in range(5)]
    await asyncio.sleep(0)
    assert slots.waiting == 5
    slots.leave(A)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    assert slots.waiting == 0


async def test_scarce_slots_go_around() -> None:
    """All are taken; each that gets free goes to another organization than the one before."""
    slots = Bulkhead(4)
    for _ in range(4):
        assert await slots.enter(C, 0)
    order: list[UUID] = []

    async def wait(organization: UUID) -> None:
        assert await slots.enter(organization, 5)
        order.append(organization)

    waiting = [asyncio.create_task(wait(organization)) for organization in (A, A, B, B)]
    await asyncio.sleep(0)
    for _ in range(4):
        slots.leave(C)
        await asyncio.sleep(0.001)
    await asyncio.gather(*waiting)
    assert order == [A, B, A, B]


async def test_no_slot_gets_lost_by_giving_up_or_being_cancelled() -> None:
    """2,000 calls that wait for a random while, some cancelled in any moment: in the end all slots are free."""
    slots, dice = Bulkhead(8), random.Random(3)
    under_way = 0

    async def call(organization: UUID) -> None:
        nonlocal under_way
        if await slots.enter(organization, dice.random() * 0.02):
            under_way += 1
            assert under_way <= 8
            try:
                await asyncio.sleep(dice.random() * 0.002)
            finally:
                under_way -= 1
                slots.leave(organization)

    tasks = []
    for _ in range(2000):
        tasks.append(asyncio.create_task(call(dice.choice((A, B, C)))))
        if dice.random() < 0.3:
            dice.choice(tasks).cancel()
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert slots.waiting == 0
    assert [await slots.enter(organization, 0) for organization in (A, B) for _ in range(4)] == [True] * 8


async def test_a_full_queue_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "MAX_WAITING", 3)
    slots = Bulkhead(4)
    for _ in range(4):
        assert await slots.enter(A, 0)
    waiting = [asyncio.create_task(slots.enter(A, 5)) for _ in range(3)]
    await asyncio.sleep(0)
    assert slots.is_full(A)
    assert not slots.is_full(B)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not slots.is_full(A)
