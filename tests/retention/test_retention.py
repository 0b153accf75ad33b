"""What is past its time goes, and nothing before: over simulated months, on real partitions."""

from datetime import UTC, datetime, timedelta

from ingress.identifiers import PLATFORM_ID, id_at
from ingress.retention.periods import Periods
from ingress.storage.statements.lifetime import retention
from ingress.storage.statements.lifetime.partitions import all_of
from ingress.storage.statements.lifetime.retention import OwnPeriods

from .world import DAY, World

PERIODS = Periods(bodies=14, events=21, statuses=28, keys=30, audit=1826)


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


async def test_an_organization_that_changes_its_mind(simulated: World) -> None:
    """What it keeps shorter from now on goes at once; nothing that came before goes again when it keeps it longer."""
    await simulated.go_to(datetime.now(UTC))
    first, second = await simulated.organization(), await simulated.organization()
    change = "update retention_settings set updated_at = $1"
    await retention.set_own(simulated.worker, first, OwnPeriods(bodies_days=5, statuses_days=5))
    for _ in range(12):
        await simulated.go_to(simulated.now + DAY)
        for organization_id in (first, second):
            await simulated.webhook(organization_id, simulated.id().bytes)
            await simulated.send(organization_id, simulated.id().hex)
        await simulated.let_go(PERIODS)
    tables = ("inbound_webhooks", "message_statuses")
    assert [await simulated.count(table, "organization_id = $1", first) for table in tables] == [6, 6]
    assert [await simulated.count(table, "organization_id = $1", second) for table in tables] == [12, 12]
    await retention.set_own(simulated.worker, second, OwnPeriods(bodies_days=5, statuses_days=5))
    await simulated.owner.execute(change, simulated.now)
    await simulated.go_to(simulated.now + timedelta(hours=1))
    await simulated.let_go(PERIODS)
    assert [await simulated.count(table, "organization_id = $1", second) for table in tables] == [5, 5]
    await retention.set_own(simulated.worker, second, OwnPeriods())
    await simulated.owner.execute(change, simulated.now)
    for _ in range(3):
        await simulated.go_to(simulated.now + DAY)
        await simulated.let_go(PERIODS)
    assert [await simulated.count(table, "organization_id = $1", second) for table in tables] == [5, 5]


async def one_partition(world: World) -> None:
    """As an upgrade leaves it: each table is one partition, from the first row on to weeks ahead."""
    ahead = world.now + 60 * DAY
    bounds = {"inbound_webhooks": str(ahead), "message_statuses": str(ahead)}
    bounds |= dict.fromkeys(("quarantine", "messages", "attempts"), str(id_at(ahead)))
    bounds |= dict.fromkeys(("events", "deliveries"), str(2**33))
    async with world.database.worker() as connection:
        parts = await all_of(connection)
    for table, bound in bounds.items():
        first, *others = [part.name for part in parts if part.table == table]
        for name in (first, *others):
            await world.owner.execute(f"alter table {table} detach partition {name}")
        for name in others:
            await world.owner.execute(f"drop table {name}")
        attach = f"alter table {table} attach partition {first} for values from (minvalue) to ('{bound}')"
        await world.owner.execute(attach)


async def test_what_an_upgrade_made_one_partition(simulated: World) -> None:
    """Rows go as they pass their time, everybody's, and the platform's own."""
    await simulated.go_to(datetime.now(UTC))
    await one_partition(simulated)
    organization_id = await simulated.organization()
    for _ in range(45):
        await simulated.go_to(simulated.now + DAY)
        await simulated.webhook(organization_id, simulated.id().bytes)
        await simulated.webhook(organization_id, b"", aside=True)
        await simulated.webhook(PLATFORM_ID, b"", aside=True)
        await simulated.send(organization_id, simulated.id().hex)
        await simulated.delivered()
    await simulated.let_go(PERIODS)
    tables = ("events", "deliveries", "messages", "attempts", "message_statuses", "quarantine")
    counts = [await simulated.count(table) for table in tables]
    assert counts == [22, 22, 22, 22, 29, 2 * 15]
    assert await simulated.count("inbound_webhooks") == 3 * 15
    kept = await retention.kept(simulated.worker, organization_id)
    assert kept is not None
    assert kept.since == simulated.now - 21 * DAY
    assert await simulated.count("events", "sequence <= $1", kept.sequence) == 0
