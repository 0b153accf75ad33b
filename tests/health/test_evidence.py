"""Who is well by what went through is not asked, and whoever fails is asked as soon as before."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from ingress.accounts.accounts import Accounts
from ingress.health import evidence
from ingress.health.evidence import good_until
from ingress.health.judgement import Traffic
from ingress.health.prober import Prober
from ingress.settings import Settings
from ingress.storage.statements.configs import StoredConfig
from ingress.storage.statements.health import Look, StoredHealth

from ..conftest import serving
from ..gateway import Gateway, eventually

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
INTERVAL = timedelta(seconds=30)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


CONFIG = StoredConfig(
    UUID(int=1), UUID(int=2), "meta_business", "", "active", None, b"", b"", None, ago(9999), [], False, []
)
LOOK = Look(
    version=1,
    version_at=ago(9999),
    active_config_id=UUID(int=2),
    fallback_policy=None,
    pairing=None,
    waiting=False,
    watched=False,
    in_use=True,
    broken=False,
    stands_in=False,
    checked_at=ago(60),
    webhook_at=ago(12),
    sent_at=ago(5),
    config=CONFIG,
    health=StoredHealth("healthy", ago(9999)),
)
WELL = Traffic(attempts=10, sent=20, acknowledged=15)


def test_who_sends_and_receives_is_not_asked_until_that_is_as_old_as_a_look() -> None:
    """The older of the two decides: whoever falls silent then is asked no later than anybody."""
    assert good_until(LOOK, WELL, INTERVAL, NOW) == ago(12) + INTERVAL
    assert good_until(replace(LOOK, sent_at=ago(20)), WELL, INTERVAL, NOW) == ago(20) + INTERVAL


@pytest.mark.parametrize(
    "change",
    [
        {"webhook_at": None},
        {"sent_at": None},
        {"webhook_at": ago(30)},
        {"sent_at": ago(30)},
        {"checked_at": None},
        {"checked_at": NOW - evidence.ASKED_AT_LEAST_EVERY},
        {"version_at": ago(60)},
        {"watched": True},
        {"waiting": True},
        {"stands_in": True},
        {"health": StoredHealth("unknown")},
        {"health": StoredHealth("degraded", ago(9999), "silent")},
        {"health": StoredHealth("unhealthy", ago(9999), "unreachable")},
        {"health": StoredHealth("healthy", ago(9999), pending="unhealthy", looks=1)},
    ],
    ids=str,
)
def test_who_has_to_be_asked(change: dict[str, Any]) -> None:
    assert good_until(replace(LOOK, **change), WELL, INTERVAL, NOW) is None


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(attempts=100, failed=1),
        Traffic(attempts=10, is_broken=True),
        Traffic(attempts=10, sent=5),
        Traffic(attempts=10, only_refused=True),
    ],
    ids=["failed", "broken", "silent", "refused"],
)
def test_what_went_wrong_has_it_asked(traffic: Traffic) -> None:
    """One send of a hundred is enough."""
    assert good_until(LOOK, traffic, INTERVAL, NOW) is None


# ---------------------------------------------------------------- in the service


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each account was asked how it is doing, by its number's id."""
    found, status = Counter[str](), Accounts.status

    async def counted(self: Accounts, provider: Any) -> Any:
        found[provider.phone_number_id] += 1
        return await status(self, provider)

    monkeypatch.setattr(Accounts, "status", counted)
    return found


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """As many as were taken from the pool for looks."""
    found, worker = list[None](), Prober._worker

    def taken(self: Prober) -> AbstractAsyncContextManager[asyncpg.Connection]:
        found.append(None)
        return worker(self)

    monkeypatch.setattr(Prober, "_worker", taken)
    return found


async def test_traffic_stands_for_looks(
    gateway: Gateway, settings: Settings, sql: asyncpg.Connection, asked: Counter[str]
) -> None:
    """Of two accounts that are due all the time the one that is used is left alone; once it is not, it is asked."""
    busy, idle = await gateway.organization(), await gateway.organization()
    for each in (busy, idle):
        await each.configure(own_port=True)
    ids = [UUID(each.id) for each in (busy, idle)]
    await sql.execute("update provider_health set due_at = 'infinity'")
    await sql.execute("update organizations set version_at = now() - interval '1 hour' where id = any($1)", ids)
    await sql.execute(
        """update provider_health set state = 'healthy', since = now(), checked_at = now(), due_at = now()
        where organization_id = any($1)""",
        ids,
    )
    used = "update provider_health set sent_at = $2, webhook_at = $2 where organization_id = $1"
    await sql.execute(used, ids[0], datetime.now(UTC) + timedelta(minutes=1))
    asked.clear()
    async with serving(replace(settings, health_interval_s=0.1)):
        await eventually(lambda: asked[idle.numbers[0].phone_number_id] > 5)
        assert not asked[busy.numbers[0].phone_number_id]
        await sql.execute(used, ids[0], datetime.now(UTC))
        await sql.execute("update provider_health set due_at = now() where organization_id = $1", ids[0])
        await eventually(lambda: asked[busy.numbers[0].phone_number_id] > 2)


async def test_many_accounts_are_looked_at_together(
    gateway: Gateway, settings: Settings, sql: asyncpg.Connection, asked: Counter[str], connections: list[None]
) -> None:
    """Where nothing is new: one connection to begin all that are due, and one to end them."""
    await sql.execute("update provider_health set due_at = 'infinity'")
    made = [await gateway.organization() for _ in range(6)]
    for each in made:
        await each.configure()
    numbers = [each.numbers[0].phone_number_id for each in made]
    async with serving(replace(settings, health_interval_s=0.1)):
        await eventually(lambda: min(asked[number] for number in numbers) > 3)  # they are well, and that is stored
        asked.clear()
        connections.clear()
        await eventually(lambda: min(asked[number] for number in numbers) > 5)
        assert len(connections) < asked.total()
