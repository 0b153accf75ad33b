"""What is needed still is never deleted early, however old it is."""

from datetime import UTC, datetime
from uuid import UUID

from ingress.retention.periods import Periods
from ingress.storage.statements.lifetime import retention
from ingress.storage.statements.lifetime.retention import OwnPeriods

from .world import DAY, World

PERIODS = Periods(bodies=7, events=7, statuses=7, keys=30, audit=1826)


async def begin(world: World) -> tuple[UUID, UUID]:
    """Two organizations, the second of which keeps events for 2 days."""
    await world.go_to(datetime.now(UTC))
    usual, short = await world.organization(), await world.organization()
    await retention.set_own(world.worker, short, OwnPeriods(events_days=2))
    return usual, short


async def pass_days(world: World, *organizations: UUID, days: int = 35) -> None:
    """Days with something in them; what comes is delivered."""
    for _ in range(days):
        await world.go_to(world.now + DAY)
        for organization_id in organizations:
            await world.webhook(organization_id, world.id().bytes)
            await world.send(organization_id, world.id().hex)
        await world.owner.execute(
            "update deliveries set state = 'delivered' where state = 'pending' and conversation_id = organization_id"
        )
    await world.let_go(PERIODS)


async def test_a_message_that_is_not_done(simulated: World) -> None:
    """And what came after it in its partition. It goes when it is done."""
    for organization_id in await begin(simulated):
        message_id = await simulated.send(organization_id, "open", "uncertain")
        await pass_days(simulated, organization_id)
        assert await simulated.count("messages", "id = $1", message_id) == 1
        assert await simulated.count("attempts", "message_id = $1", message_id) == 1
        await simulated.owner.execute("update messages set state = 'done', leased_until = null")
        await simulated.let_go(PERIODS)
        assert await simulated.count("messages", "id = $1", message_id) == 0
        assert await simulated.count("attempts", "message_id = $1", message_id) == 0


async def test_an_event_that_is_to_be_delivered(simulated: World) -> None:
    """As long as it is tried: what a disabled callback has left goes."""
    for organization_id in await begin(simulated):
        [sequence] = await simulated.webhook(organization_id, b"pending")
        await simulated.owner.execute(
            "update deliveries set conversation_id = $2 where sequence = $1", sequence, simulated.id()
        )
        await pass_days(simulated, organization_id)
        assert await simulated.count("events", "sequence = $1", sequence) == 1
        assert await simulated.count("deliveries", "sequence = $1", sequence) == 1
        await simulated.owner.execute("update callbacks set disabled_at = now()")
        await simulated.let_go(PERIODS)
        assert await simulated.count("events", "sequence = $1", sequence) == 0
        assert await simulated.count("deliveries", "sequence = $1", sequence) == 0
        await simulated.owner.execute("update callbacks set disabled_at = null")


async def test_an_event_that_is_not_counted(simulated: World) -> None:
    for organization_id in await begin(simulated):
        [sequence] = await simulated.webhook(organization_id, b"uncounted")
        progress = "update figures_progress set sequence = $1 where organization_id = $2"
        await simulated.owner.execute(progress, sequence - 1, organization_id)
        await pass_days(simulated, organization_id)
        assert await simulated.count("events", "sequence = $1", sequence) == 1
        await simulated.owner.execute(progress, 2**62, organization_id)
        await simulated.let_go(PERIODS)
        assert await simulated.count("events", "sequence = $1", sequence) == 0


async def test_what_is_to_come_before_others_is_waited_for(simulated: World) -> None:
    """A webhook that waits to be read has a place among the events."""
    for organization_id in await begin(simulated):
        await simulated.owner.execute(
            "insert into unread_webhooks (organization_id, sequence, config_id, query, headers, body)"
            " values ($1, next_sequence(0), $1, '', '', '')",
            organization_id,
        )
        [sequence] = await simulated.webhook(organization_id, b"behind")
        await pass_days(simulated, organization_id)
        assert await simulated.count("events", "sequence = $1", sequence) == 1
        await simulated.owner.execute("delete from unread_webhooks")
        await simulated.let_go(PERIODS)
        assert await simulated.count("events", "sequence = $1", sequence) == 0


async def test_what_a_provider_may_repeat(simulated: World) -> None:
    """Facts are taken when they are 29 days old, so their keys are known for 30, however short others are kept."""
    usual, _ = await begin(simulated)
    periods = Periods(bodies=7, events=7, statuses=7, keys=8, audit=1826)
    for day in range(35):
        await simulated.go_to(simulated.now + DAY)
        await simulated.webhook(usual, f"timed {day}".encode())
        await simulated.webhook(usual, f"untimed {day}".encode(), timed=False)
        await simulated.send(usual, str(day))
    await simulated.let_go(periods)
    assert await simulated.count("inbound_dedup", "day > '-infinity'") == 31
    assert await simulated.count("inbound_dedup", "day = '-infinity'") == 9
    assert await simulated.count("idempotency_keys") == 9
