"""Entries of the audit trail that are past their time go, and it still shows whether anybody changed it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress.audit.trail import SYSTEM, AuditEntry
from ingress.audit.trail import record as write
from ingress.audit.verification import PAGE, verify
from ingress.retention.periods import Periods
from ingress.settings import Settings
from ingress.storage.statements import audit as statements
from ingress.storage.statements.audit import TrailEnd

from .world import DAY, World, world

PERIODS = Periods(bodies=30, events=90, statuses=180, keys=30, audit=1826)
OLD = PAGE + 20


@pytest.fixture(scope="module")
async def made(settings: Settings) -> AsyncIterator[World]:
    async with world(settings) as made:
        yield made


@pytest.fixture
def then(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are of the time that it is in the world."""
    end = statements.end

    async def at_that_time(*arguments: object) -> TrailEnd:
        return msgspec.structs.replace(await end(*arguments), at=made.now)

    monkeypatch.setattr(statements, "end", at_that_time)


@pytest.fixture
async def trail(made: World, then: None) -> UUID:
    """An organization with OLD entries of six years ago, and three of today."""
    now = datetime.now(UTC)
    made.now = now - 6 * 366 * DAY
    organization_id = await made.organization()
    await record(made, organization_id, OLD)
    made.now = now
    await record(made, organization_id, 3)
    return organization_id


async def record(made: World, organization_id: UUID, count: int) -> None:
    async with made.worker.transaction():
        entries = [AuditEntry(action="fallback_changed", actor=SYSTEM) for _ in range(count)]
        await write(made.worker, made.vault, organization_id, *entries)


async def broken(made: World, organization_id: UUID, noted: tuple[int, str] | None = None) -> int | None:
    """The first entry that is wrong."""
    return (await verify(made.database, made.vault, organization_id, noted)).broken


async def kept(made: World, organization_id: UUID) -> list[int]:
    select = "select id from provider_audit_log where organization_id = $1 order by id"
    return [row["id"] for row in await made.owner.fetch(select, organization_id)]


async def hash_of(made: World, organization_id: UUID, number: int) -> str:
    select = "select hash from provider_audit_log where organization_id = $1 and id = $2"
    found: bytes = await made.owner.fetchval(select, organization_id, number)
    return found.hex()


async def test_old_entries_go_and_the_trail_verifies_from_there(made: World, trail: UUID) -> None:
    """Ends that were noted before are held against it as far as they are there."""
    last, first = await hash_of(made, trail, OLD + 3), await hash_of(made, trail, OLD)
    await made.let_go(PERIODS)
    assert await kept(made, trail) == [OLD + 1, OLD + 2, OLD + 3]
    found = await verify(made.database, made.vault, trail)
    assert (found.broken, found.entries, found.hash) == (None, OLD + 3, last)
    assert await broken(made, trail, (OLD + 3, last)) is None
    assert await broken(made, trail, (OLD, first)) is None
    assert await broken(made, trail, (OLD, last)) == 1
    assert await broken(made, trail, (3, last)) is None, "nobody can say any more"
    await record(made, trail, 1)
    assert await broken(made, trail) is None
    await made.let_go(PERIODS)
    assert await kept(made, trail) == [OLD + 1, OLD + 2, OLD + 3, OLD + 4]


async def test_a_trail_that_is_past_its_time_as_a_whole(made: World, then: None) -> None:
    """It goes on with the next entry."""
    now = datetime.now(UTC)
    made.now = now - 6 * 366 * DAY
    organization_id = await made.organization()
    await record(made, organization_id, 5)
    made.now = now
    await made.let_go(PERIODS)
    assert await kept(made, organization_id) == []
    assert await broken(made, organization_id) is None
    await record(made, organization_id, 1)
    assert await kept(made, organization_id) == [6]
    assert await broken(made, organization_id) is None


@pytest.mark.parametrize(
    "statement",
    [
        "delete from provider_audit_log where organization_id = $1 and id > 3",
        "delete from provider_audit_log where organization_id = $1 and id = 1",
        "update provider_audit_log set reason = 'x' where organization_id = $1",
    ],
)
async def test_nobody_else_deletes_or_changes_an_entry(made: World, trail: UUID, statement: str) -> None:
    """Not the owner either, nor the service's own login, as long as the trail does not begin behind it."""
    for who in (made.owner, made.worker):
        with pytest.raises((asyncpg.IntegrityConstraintViolationError, asyncpg.InsufficientPrivilegeError)):
            await who.execute(statement, trail)


async def test_a_beginning_that_is_made_up_is_found(made: World, trail: UUID) -> None:
    """Who may write to the database can have entries go, and cannot seal it."""
    seals = [None, b"", await made.owner.fetchval("select audit_seal from organizations where id = $1", trail)]
    hash_ = bytes.fromhex(await hash_of(made, trail, 4))
    for seal in seals:
        change = "update organizations set audit_gone = 4, audit_gone_hash = $2, audit_gone_seal = $3 where id = $1"
        await made.worker.execute(change, trail, hash_, seal)
        assert await broken(made, trail) == 1
    await made.worker.execute("delete from provider_audit_log where organization_id = $1 and id <= 4", trail)
    assert await broken(made, trail) == 1
    await made.let_go(PERIODS)
    assert len(await kept(made, trail)) == OLD - 1, "what is wrong stays"
    await made.worker.execute("update organizations set audit_gone = 10000 where id = $1", trail)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):  # some are of today
        await made.worker.execute("delete from provider_audit_log where organization_id = $1", trail)


async def test_entries_before_a_wrong_one_go_and_it_is_found(made: World, trail: UUID) -> None:
    async with made.owner.transaction():
        await made.owner.execute("set local session_replication_role = replica")
        change = "update provider_audit_log set reason = 'x' where organization_id = $1 and id = 3"
        await made.owner.execute(change, trail)
    await made.let_go(PERIODS)
    assert await broken(made, trail) == 3
    assert (await kept(made, trail))[0] == 3
