"""One process at a time, in batches that leave room, and nobody waits for it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from ingress import metrics
from ingress.retention import pace
from ingress.retention import retention as module
from ingress.retention.pace import Pace
from ingress.retention.periods import Periods
from ingress.retention.retention import Retention
from ingress.settings import Settings
from ingress.storage import partitions
from ingress.storage.statements.lifetime import retention
from ingress.storage.statements.lifetime.retention import OwnPeriods

from .world import DAY, World, world

PERIODS = Periods(bodies=30, events=90, statuses=180, keys=30, audit=1826)


@pytest.fixture
async def made(settings: Settings) -> AsyncIterator[World]:
    async with world(settings) as made:
        await made.go_to(datetime.now(UTC))
        yield made


async def test_batches_are_a_bounded_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each there is a pause that is as much longer as the share is small."""
    paused: list[float] = []
    now = 0.0

    async def batch() -> int:
        nonlocal now
        now += 0.3
        return 5

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(pace, "monotonic", lambda: now)
    monkeypatch.setattr(asyncio, "sleep", pause)
    assert [await Pace(share, None).run(batch) for share in (0.2, 1)] == [5, 5]
    assert paused == [pytest.approx(1.2), pytest.approx(0)]


async def test_processes_take_turns(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks first; the others look again, and nobody does it twice within the hour."""
    processes = [Retention(made.database, made.vault, PERIODS) for _ in range(3)]
    began, goes_on = asyncio.Event(), asyncio.Event()
    ran = 0

    async def run(*_: object) -> module.LetGo:
        nonlocal ran
        ran += 1
        began.set()
        await goes_on.wait()
        return module.LetGo({}, {})

    monkeypatch.setattr(Retention, "run", run)
    first = asyncio.create_task(processes[0].take_turn())
    await began.wait()
    assert await processes[1].take_turn() is None
    assert await processes[1].take_turn(every_s=0) is None, "it is under way"
    goes_on.set()
    assert await first is not None
    assert await processes[2].take_turn() is None
    await processes[2].look()
    assert metrics.retention_ran.collect()[0].samples[0].value == pytest.approx(made.now.timestamp(), abs=600)
    assert ran == 1
    assert await processes[2].take_turn(every_s=0) is not None
    await made.owner.execute("update retention_turn set ran_at = now() - interval '61 minutes'")
    assert await processes[1].take_turn() is not None
    assert ran == 3


async def test_who_fails_leaves_it_to_the_next(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Retention(made.database, made.vault, PERIODS)
    with monkeypatch.context() as patch:
        patch.setattr(Retention, "_drop", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await process.take_turn()
    assert await process.take_turn() is not None


async def test_who_said_nothing_for_long_ends(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has begun by then."""
    monkeypatch.setattr(pace, "RENEW_EVERY_S", -1.0)
    process, other = Retention(made.database, made.vault, PERIODS), UUID(int=1)

    async def superseded(*_: object) -> dict[str, list[str]]:
        await made.owner.execute("update retention_turn set leased_until = now() - interval '1 s'")
        assert await retention.take_turn(made.worker, other, 60, 0)
        return {}

    monkeypatch.setattr(Retention, "_drop", superseded)
    await made.organization()
    assert await process.take_turn() is None
    assert await made.owner.fetchval("select lease_id from retention_turn") == other


async def test_webhooks_and_sends_come_in_meanwhile(made: World) -> None:
    """All of them are stored, while thousands of rows go from the partitions that they are stored in."""
    usual, short = await made.organization(), await made.organization()
    own = OwnPeriods(bodies_days=1, events_days=1, statuses_days=1)
    await retention.set_own(made.worker, short, own)
    insert = """insert into inbound_webhooks (organization_id, config_id, headers, body, received_at)
        select case n % 2 when 0 then $1::uuid else $2::uuid end, $1, '', '', $3::timestamptz + n * interval '1 second'
        from generate_series(1, 4000) n"""
    await made.owner.execute(insert, usual, short, made.now)
    insert = """insert into events (organization_id, sequence, type, config_id, conversation_id, data, created_at)
        select case n % 2 when 0 then $1::uuid else $2::uuid end, sequence_horizon() + n, 'message.received', $1, $1,
            '{}', $3 from generate_series(1, 4000) n"""
    await made.owner.execute(insert, usual, short, made.now)
    await made.go_to(made.now + 2 * DAY)
    going, stored = asyncio.create_task(made.let_go(PERIODS)), 0
    while not going.done() or stored < 10:
        assert len(await made.webhook(usual, f"{stored}".encode())) == 1
        assert len(await made.webhook(short, f"{stored}".encode())) == 1
        await made.send(short, str(stored))
        stored += 1
    await going
    for organization_id, old in ((usual, 2000), (short, 0)):
        assert await made.count("inbound_webhooks", "organization_id = $1", organization_id) == old + stored
        assert await made.count("events", "organization_id = $1", organization_id) == old + stored
    assert await made.count("messages", "organization_id = $1", short) == stored


async def test_rows_that_should_be_gone_are_counted(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a partition that somebody uses for long; keys of facts without a time are in none that ever goes."""

    def overdue(table: str) -> float:
        return metrics.retention_overdue.labels(table)._value.get()

    monkeypatch.setattr(partitions, "DETACH_TRIES", 1)
    organization_id = await made.organization()
    await made.webhook(organization_id, b"untimed", timed=False)
    await made.owner.execute("select make_partition('inbound_webhooks', 'p20200101', '2020-01-01', '2020-01-02')")
    insert = """insert into inbound_webhooks (organization_id, config_id, headers, body, received_at)
        select $1, $1, '', '', '2020-01-01' from generate_series(1, 3)"""
    await made.owner.execute(insert, organization_id)
    await made.owner.execute("analyze")
    process = Retention(made.database, made.vault, PERIODS)
    async with made.owner.transaction():
        await made.owner.execute("select from inbound_webhooks")
        await process.look()
        assert (overdue("inbound_webhooks"), overdue("inbound_dedup")) == (3, 0)
    await made.owner.execute("update retention_turn set ran_at = null")
    await process.look()
    assert overdue("inbound_webhooks") == 0
