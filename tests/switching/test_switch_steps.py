"""What a switch shows while it is made, and what the trail keeps of it; which processes use it."""

from typing import Any

import asyncpg
import pytest

from ingress.dev.sandbox import ErrorCode, MetaSimulator
from ingress.settings import Settings
from ingress.storage.database import StoreUnavailable
from ingress.storage.statements import switches
from ingress.storage.statements.switches import Confirmed
from ingress.switching.dry_run import another_number
from ingress.switching.manager import WhatsAppProviderManager
from ingress.switching.report import Phase, Step
from providers import Check

from ..gateway import Gateway, Organization, eventually
from .test_switching import at, service, switch, trail


@pytest.fixture
async def two(organization: Organization) -> Organization:
    """Two configs, the first one active, at version 1."""
    await organization.configure(active=False, own_port=True)
    return organization


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What switches show, whoever asks for them."""
    seen: list[Step] = []
    make = WhatsAppProviderManager.switch

    async def watched(self: WhatsAppProviderManager, request: Any, show: Any = None) -> Any:
        return await make(self, request, seen.append)

    monkeypatch.setattr(WhatsAppProviderManager, "switch", watched)
    return seen


async def confirmed(settings: Settings, organization: Organization, version: int) -> tuple[int, int]:
    """How many processes the switch to *version* was announced to, and how many confirmed it."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        found = await connection.fetchrow(
            "select count(*), count(used_at) from switch_processes"
            " where organization_id = $1::text::uuid and version = $2",
            *(organization.id, version),
        )
    finally:
        await connection.close()
    assert found is not None
    return found[0], found[1]


async def test_a_switch_shows_its_phases_and_checks_in_their_order(two: Organization, steps: list[Step]) -> None:
    """And how long each phase took; at last which processes use it. The trail keeps those before the commit."""
    assert (await switch(two, 1)).status == 200
    names = [step.name for step in steps if isinstance(step, Phase)]
    assert names == ["lock", "test", "set_up", "commit", "propagate"]
    assert all(step.ms >= 0 for step in steps if isinstance(step, Phase))
    before_test, after_test = (steps.index(next(s for s in steps if getattr(s, "name", "") == n)) for n in names[:2])
    checks = [place for place, step in enumerate(steps) if isinstance(step, Check)]
    assert checks, "no check was shown"
    assert before_test < min(checks) < max(checks) < after_test
    last = steps[-1]
    assert isinstance(last, Confirmed)
    assert last.processes == last.confirmed >= 1
    assert last.last_at is not None
    kept = (await trail(two, "activated"))[-1]["after"]["phases_ms"]
    assert kept == {step.name: step.ms for step in steps if isinstance(step, Phase) and step.name in kept}
    assert kept.keys() == {"lock", "test", "set_up"}


async def test_a_refused_switch_says_which_check_failed(two: Organization, gateway: Gateway, steps: list[Step]) -> None:
    """And how far it came; no process is waited for."""
    await gateway.meta.set_default(two.numbers[1], ErrorCode(code=190), everything=True)
    assert (await switch(two, 1)).status == 400
    await gateway.meta.clear_faults(two.numbers[1])
    [failed] = [step for step in steps if isinstance(step, Check)]
    assert (failed.name, failed.passed, bool(failed.fix)) == ("credentials", False, True)
    assert [step.name for step in steps if isinstance(step, Phase)] == ["lock", "test"]
    after = (await trail(two, "rolled_back"))[-1]["after"]
    assert after["failed_checks"] == ["credentials"]
    assert after["phases_ms"].keys() == {"lock", "test"}


async def test_every_process_confirms_a_switch(two: Organization, settings: Settings, meta: MetaSimulator) -> None:
    """Whether or not it has sent anything for the organization."""
    async with service(settings, meta) as other, service(settings, meta):
        assert (await at(other, two).send()).status == 200
        assert (await switch(two, 1)).status == 200
        processes, _ = await confirmed(settings, two, 2)
        assert processes >= 3
        assert await eventually(lambda: all_confirmed(settings, two, 2))
        assert (await at(other, two).send()).json["config_id"] == two.configs[1]["config_id"]


async def all_confirmed(settings: Settings, organization: Organization, version: int) -> bool:
    processes, used = await confirmed(settings, organization, version)
    return 0 < processes == used


@pytest.mark.parametrize(
    ("former", "sender", "another"),
    [
        ("+5511987654321", "+551187654321", False),  # with and without the ninth digit
        ("+15550001111", "+15550001111", False),
        ("+15550001111", "+15550002222", True),
        ("+15550001111", None, None),
        (None, "+15550001111", False),
        (None, None, False),
    ],
)
def test_people_see_another_number(former: str | None, sender: str | None, another: bool | None) -> None:
    """Not where it is only spelled otherwise; before a phone is linked nobody knows."""
    assert another_number(former, sender) is another


async def test_a_switch_is_made_where_nobody_can_say_who_uses_it(
    two: Organization, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database that has committed it is away when it is asked for that."""

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(switches, "confirmed", away)
    answer = await switch(two, 1)
    assert (answer.status, answer.json["changed"]) == (200, True)
    assert not [step for step in steps if isinstance(step, Confirmed)]
