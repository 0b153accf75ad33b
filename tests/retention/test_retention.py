"""What is past its time goes, and nothing before: over simulated months, on real partitions."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from ingress.identifiers import id_at
from ingress.retention.periods import Periods
from ingress.settings import Settings
from ingress.storage import partitions
from ingress.storage.statements import retention
from ingress.storage.statements.retention import OwnPeriods

from .world import DAY, World, world

PERIODS = Periods(bodies=14, events=21, statuses=28, keys=30, audit=1826)


@pytest.fixture
async def simulated(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    # Some transactions a day are a week's block, as billions are in earnest.
    monkeypatch.setattr(partitions, "SMALLEST_BLOCK", 2**5 << 16)
    monkeypatch.setattr(partitions, "BLOCKS_AHEAD", 16)
    async with world(settings) as made:
        yield made


async def test_two_months(simulated: World) -> None:
    """One organization as the service keeps it, and one that keeps events for 7 days and bodies for 3."""
    start = datetime.now(UTC)
    await simulated.go_to(start)
    usual, short = await simulated.organization(), await simulated.organization()
    await retention.set_own(simulated.worker, short, OwnPeriods(bodies_days=3, events_days=7))
    for day in range(70):
        await simulated.go_to(start + day * DAY)
        for organization_id in (usual, short):
            for number in range(2):
                key = f"{day} {number}".encode().ljust(16)
                assert len(await simulated.webhook(organization_id, key)) == 1
            assert len(await simulated.webhook(organization_id, b"u" + key, timed=False)) == 1
            await simulated.webhook(organization_id, b"", aside=True)
            await simulated.send(organization_id, str(day))
        await simulated.delivered()
        await simulated.let_go(PERIODS)
        known = f"{max(0, day - 28)} 0".encode().ljust(16)
        # What its provider repeats is known as long as it may be repeated, whatever is kept of the event.
        assert await simulated.count("inbound_dedup", "key_hash = $1", known) == 2

    now = simulated.now
    assert await simulated.count("inbound_dedup", "first_seen < $1", now - 30 * DAY) == 0
    assert await simulated.count("inbound_dedup") == 2 * 3 * 31
    assert await simulated.count("idempotency_keys", "message_id < $1", id_at(now - 30 * DAY)) == 0
    assert await simulated.count("idempotency_keys") == 2 * 31
    for table, column, own, days, grid in (
        ("inbound_webhooks", "received_at", usual, 14, 1),
        ("inbound_webhooks", "received_at", short, 3, 1),
        ("quarantine", "received_at", usual, 14, 7),
        ("quarantine", "received_at", short, 3, 7),
        ("events", "created_at", usual, 21, 14),
        ("events", "created_at", short, 7, 0),
        ("messages", "created_at", usual, 21, 7),
        ("messages", "created_at", short, 7, 0),
        ("message_statuses", "received_at", usual, 28, 7),
    ):
        where = f"organization_id = $1 and {column} < $2"
        assert await simulated.count(table, where, own, now - (days + grid) * DAY) == 0, (table, own == short)
        where = f"organization_id = $1 and {column} >= $2"
        assert await simulated.count(table, where, own, now - days * DAY) >= days, (table, own == short)
    for one, other in (("events", "deliveries"), ("messages", "attempts")):
        assert await simulated.count(one) == await simulated.count(other)
