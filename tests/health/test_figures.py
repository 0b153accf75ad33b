"""What went through each config: seen at once, counted in the background, and by every way the same."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ingress.dev.sandbox import ErrorCode, StatusPolicy
from ingress.dev.sandbox.meta.bodies import envelope, status_item
from ingress.health.figures import ConfigFigures, percentile
from ingress.identifiers import new_id
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements import figures
from ingress.storage.statements.figures import BOUNDS_MS, CLASSES, Counted
from providers import Registry, SendError

from ..gateway import Gateway, Organization, eventually
from ..populated import all_counted
from ..test_layout import leaves

BASE = "/integrations/whatsapp/provider"
NONE = [0] * (len(BOUNDS_MS) + 1)


@pytest.fixture
async def owner(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with Database(settings.database_url) as database:
        yield database


@pytest.fixture
async def pair(gateway: Gateway) -> Organization:
    """An organization whose second config stands in for the first."""
    made = await gateway.organization()
    await made.configure()
    await made.configure(active=False)
    await made.fall_back_to(made.configs[1]["config_id"])
    return made


async def shown(organization: Organization, window: str = "1h") -> dict[str, Any]:
    """The figures of each config that has some, by its id."""
    answer = await organization.call("GET", f"{BASE}/figures?window={window}")
    assert answer.status == 200, answer.raw
    return {config["config_id"]: config for config in answer.json["configs"]}


async def usage(organization: Organization, month: str = "") -> dict[str, Any]:
    answer = await organization.call("GET", f"{BASE}/usage?month={month}")
    assert answer.status == 200, answer.raw
    return {config["config_id"]: config for config in answer.json["configs"]}


def totals(config: dict[str, Any]) -> dict[str, Any]:
    names = ("sends", "sent", "errors", "undelivered", "fallbacks", "received")
    return {name: config[name] for name in names if config[name]}


async def test_a_send_is_seen_at_once_and_the_same_when_it_is_counted(
    pair: Organization, settings: Settings, owner: asyncpg.Connection
) -> None:
    """Sends, errors by class, fallbacks and latency; all in the last step of each window."""
    first, second = (config["config_id"] for config in pair.configs)
    assert await shown(pair) == {}
    await pair.gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    assert [(await pair.send()).status for _ in range(2)] == [200, 200]  # the account is broken: both by the other
    expected = {
        first: {"sends": 1, "errors": {"AccountBroken": 1}, "fallbacks": 2},
        second: {"sends": 2, "sent": 2},
    }
    for window in ("1h", "24h", "7d"):
        found = await shown(pair, window)
        assert {id: totals(config) for id, config in found.items()} == expected
        assert sum(step["sent"] for step in found[second]["steps"][-2:]) == 2
        assert found[first]["p95_ms"] is None
        assert 0 < found[second]["p50_ms"] <= found[second]["p95_ms"]
    await all_counted(settings, pair)
    ahead = "update figures_progress set counted_at = now() + interval '5 minutes' where organization_id = $1"
    await owner.execute(ahead, UUID(pair.id))
    for window in ("1h", "24h", "7d"):
        assert {id: totals(config) for id, config in (await shown(pair, window)).items()} == expected


async def test_what_events_say_is_counted_once(organization: Organization, settings: Settings) -> None:
    """What came in, what was not delivered after all, and what was priced, however often somebody counts."""
    number, [config] = organization.numbers[0], organization.configs
    people = organization.gateway.meta.inbound(number)
    for words in ("one", "two"):
        assert (await organization.post_webhook(people.text(words))).status == 200
    organization.gateway.meta.set_statuses(number, StatusPolicy(statuses=("sent", "failed")))
    lost = (await organization.send()).json["id"]
    await organization.settled(lost, "failed")
    organization.gateway.meta.set_statuses(number, StatusPolicy(statuses=("sent", "delivered", "read")))
    read = (await organization.send()).json
    await organization.settled(read["id"], "read")
    # A second word on its price, with the read receipt of somebody who was on another phone.
    again = status_item(read["provider_message_id"], "played", {"to": "+5511987654321"})
    again["pricing"] = {
        "billable": False,
        "pricing_model": "PMP",
        "type": "free_customer_service",
        "category": "service",
    }
    assert (await organization.post_webhook(envelope((number, {"statuses": [again]})))).status == 200
    # Of a message that another system sent through the number.
    stray = status_item("wamid.stray", "failed", {"to": "+5511987654321"})
    assert (await organization.post_webhook(envelope((number, {"statuses": [stray]})))).status == 200
    for _ in range(2):
        await all_counted(settings, organization)
        found = (await shown(organization))[config["config_id"]]
        assert totals(found) == {"sends": 2, "sent": 2, "undelivered": {"Rejected": 1}, "received": 2}
    month = (await usage(organization))[config["config_id"]]
    assert (month["provider"], month["sent"], month["received"], month["cost"]) == ("meta_business", 2, 2, None)
    assert month["priced"] == [
        {"category": "service", "type": "free_customer_service", "billable": False, "messages": 1}
    ]
    assert await usage(organization, "2020-01") == {}


class Past:
    """Messages of other days, as they would be in the tables."""

    def __init__(self, owner: asyncpg.Connection, organization: Organization) -> None:
        self.owner = owner
        self.organization_id = UUID(organization.id)
        self.config_id = UUID(organization.configs[0]["config_id"])

    async def message(self, at: datetime, *classes: str | None, cost: str | None = None) -> UUID:
        """One that was accepted then, and its attempts."""
        id = UUID(int=int(at.timestamp() * 1000) << 80 | new_id().int & (1 << 80) - 1)
        await self.owner.execute(
            "insert into messages (organization_id, id, conversation_id, request_hash, request, state, config_id, cost,"
            " expires_at) values ($1, $2, $3, '', '{}', 'done', $3, $4, now())",
            self.organization_id,
            id,
            self.config_id,
            cost,
        )
        for number, name in enumerate(classes, 1):
            await self.owner.execute(
                "insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at,"
                " class, duration_ms) values ($1, $2, $3, $4, 'meta_business', 1, $5, $6, 120)",
                self.organization_id,
                id,
                number,
                self.config_id,
                at,
                name,
            )
        return id

    async def ended(self, id: UUID) -> None:
        """As the end of a send says it among the events."""
        await self.owner.execute(
            "insert into events (organization_id, sequence, type, config_id, conversation_id, data)"
            " values ($1, next_sequence(1), 'message.status', $2, $2, json_build_object("
            "'message', json_build_object('id', $3::text), 'status', json_build_object('value', 'sent')))",
            self.organization_id,
            self.config_id,
            str(id),
        )


@pytest.fixture
def past(owner: asyncpg.Connection, organization: Organization) -> Past:
    return Past(owner, organization)


async def test_a_late_end_is_counted_where_its_message_was_accepted(
    organization: Organization, past: Past, settings: Settings, owner: asyncpg.Connection
) -> None:
    """Its minute is counted anew, and its hour; so is an hour whose minutes are not kept any more."""
    now = datetime.now(UTC).replace(microsecond=0)
    config_id = organization.configs[0]["config_id"]
    for hours, window in ((3, "24h"), (100, "7d")):
        at = now - timedelta(hours=hours)
        for classes in (("ok",), ("Throttled", "ok"), ("Unavailable", "Unavailable", None)):
            await past.ended(await past.message(at, *classes))
            await all_counted(settings, organization)
        found = (await shown(organization, window))[config_id]
        step = next(step for step in found["steps"] if step["sends"])
        assert (step["sends"], step["sent"], step["errors"]) == (3, 2, 3)
        assert 0 <= (at - datetime.fromisoformat(step["at"])).total_seconds() < 3600
        assert 100 <= step["p50_ms"] <= 150
    week = (await shown(organization, "7d"))[config_id]
    assert totals(week) == {"sends": 6, "sent": 4, "errors": {"Throttled": 2, "Unavailable": 4}}
    assert await shown(organization) == {}
    kept = await owner.fetch(
        "select minutes, since from provider_figures where organization_id = $1", past.organization_id
    )
    assert sorted(row["minutes"] for row in kept) == [1, 60, 60]


async def test_who_was_overtaken_writes_nothing(
    organization: Organization, past: Past, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that read, slept and woke when another had counted: nothing is counted twice, nothing is lost."""
    people = organization.gateway.meta.inbound(organization.numbers[0])
    assert (await organization.post_webhook(people.text("one"))).status == 200
    late: list[Counted] = []
    write = figures.write

    async def sleepy(connection: asyncpg.Connection, counted: Counted) -> bool:
        if counted.organization_id == past.organization_id and not late:
            late.append(counted)
            return False  # it died, or so it seems
        return await write(connection, counted)

    monkeypatch.setattr(figures, "write", sleepy)
    await all_counted(settings, organization)
    async with database.worker() as connection, connection.transaction():
        assert await write(connection, late[0]) is False
    assert (await shown(organization))[organization.configs[0]["config_id"]]["received"] == 1


async def test_where_nothing_is_new_all_is_counted(
    organization: Organization, past: Past, settings: Settings, owner: asyncpg.Connection
) -> None:
    """Who looks at a month of a quiet organization is not shown hours ago as if something were left out."""
    await all_counted(settings, organization)
    long_ago = datetime.now(UTC) - timedelta(hours=5)
    await owner.execute(
        "update figures_progress set counted_at = $2 where organization_id = $1", past.organization_id, long_ago
    )
    await all_counted(settings, organization)

    async def counted_at() -> datetime:
        return datetime.fromisoformat((await organization.call("GET", f"{BASE}/usage")).json["counted_at"])

    await eventually(counted_at, lambda at: at > long_ago + timedelta(hours=4))


async def test_what_is_old_goes(
    organization: Organization, past: Past, settings: Settings, owner: asyncpg.Connection
) -> None:
    """Minutes after two days, hours after thirteen months: by whoever counts next."""
    now = datetime.now(UTC)
    for minutes, since in ((1, now - timedelta(hours=50)), (1, now), (60, now - timedelta(days=401)), (60, now)):
        await owner.execute(
            "insert into provider_figures (organization_id, config_id, minutes, since, errors, undelivered, durations)"
            " values ($1, $2, $3, $4, '{}', '{}', '{}')",
            past.organization_id,
            new_id(),
            minutes,
            since,
        )
    await past.ended(await past.message(now, "ok"))
    await all_counted(settings, organization)
    kept = await owner.fetch(
        "select minutes, since from provider_figures where organization_id = $1", past.organization_id
    )
    assert min(row["since"] for row in kept) > now - timedelta(hours=1)
    assert {row["minutes"] for row in kept} == {1, 60}


async def test_costs_are_what_providers_said(organization: Organization, past: Past, settings: Settings) -> None:
    """To the last digit; what nobody said or can read, or said in several currencies, is not made up."""
    now = datetime.now(UTC)
    config_id = organization.configs[0]["config_id"]
    for costs, expected in (
        (("0.0050 USD", "0.10 USD", "a lot", None), (4, "0.1050", "USD")),
        (("1 BRL",), (5, None, None)),
    ):
        for cost in costs:
            await past.ended(await past.message(now, "ok", cost=cost))
        await all_counted(settings, organization)
        month = (await usage(organization))[config_id]
        assert (month["sent"], month["cost"], month["currency"]) == expected


async def test_no_window_or_month_but_these(organization: Organization) -> None:
    for path in ("figures?window=2h", "usage?month=2026-13", "usage?month=november"):
        answer = await organization.call("GET", f"{BASE}/{path}")
        assert (answer.status, answer.json["code"]) == (422, "invalid_request"), path


def test_every_class_of_error_is_counted_by_its_name() -> None:
    Registry().entries()
    known = {kind.__name__ for kind in leaves(SendError) if kind.__module__.startswith("providers")}
    assert known | {"breaker_open", "other"} == set(CLASSES)


@pytest.mark.parametrize(
    ("durations", "p50_ms", "p95_ms"),
    [
        (NONE, None, None),
        ([4, *NONE[1:]], 12, 24),
        ([50, 50, *NONE[2:]], 25, 48),
        ([0, 99, *NONE[3:], 1], 38, 49),
        ([*NONE[1:], 1], 10_000, 10_000),
    ],
)
def test_percentiles_lie_between_two_bounds(durations: list[int], p50_ms: int | None, p95_ms: int | None) -> None:
    assert (percentile(durations, 0.5), percentile(durations, 0.95)) == (p50_ms, p95_ms)


@pytest.mark.parametrize(
    ("sent", "sends", "percent"),
    [(0, 0, None), (0, 3, 0), (2, 3, 66.6), (3, 3, 100), (9_999, 10_000, 99.9), (4, 3, 100)],
)
def test_all_is_a_hundred_per_cent_and_no_less(sent: int, sends: int, percent: float | None) -> None:
    nothing = {
        "errors": {},
        "undelivered": {},
        "fallbacks": 0,
        "received": 0,
        "p50_ms": None,
        "p95_ms": None,
        "steps": [],
    }
    shown = ConfigFigures(config_id=new_id(), provider=None, sends=sends, sent=sent, **nothing)
    assert shown.percent == percent
