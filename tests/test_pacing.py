"""Pacing: accounts that must not send like a machine send in turns, whichever process they send from."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from itertools import pairwise
from uuid import uuid4

import msgspec
import pytest

from ingress import pacing
from ingress.manager import Config
from ingress.pacing import Pacer
from ingress.redis_state import RedisState
from ingress.sandbox import ErrorCode
from ingress.settings import Settings
from providers.base import Pacing
from providers.meta_business import MetaBusiness

from .gateway import Gateway, Organization

DISTANCE_S = 0.2
PACED = msgspec.structs.replace(MetaBusiness.info, pacing=Pacing(messages_per_minute=300, jitter_s=0.0))


class Paced(MetaBusiness, frozen=True, kw_only=True):
    info = PACED


def account() -> Config:
    provider = Paced(access_token="a", phone_number_id="1", waba_id="2", app_secret="s", verify_token="v")
    return Config(uuid4(), uuid4(), "paced", "Paced", "active", None, provider, "https://gw.example/w")


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[RedisState]:
    async with RedisState(settings.redis_url) as state:
        yield state


@pytest.fixture
async def away() -> AsyncIterator[RedisState]:
    """A Redis that nobody runs."""
    async with RedisState("redis://127.0.0.1:1/0") as state:
        yield state


async def test_turns_of_many_processes_stand_in_one_line(redis: RedisState) -> None:
    """Twenty turns asked for at once by four processes: a distance apart, none at the time of another."""
    config, pacers = account(), [Pacer(redis) for _ in range(4)]
    waits = await asyncio.gather(*(pacer.turn(config, 60) for _ in range(5) for pacer in pacers))
    asked_within_s = 0.1
    for place, wait_s in enumerate(sorted(waits)):
        assert place * DISTANCE_S - asked_within_s <= wait_s <= place * DISTANCE_S + 0.001


async def test_accounts_do_not_wait_for_each_other(redis: RedisState) -> None:
    pacer = Pacer(redis)
    assert [await pacer.turn(account(), 60) for _ in range(5)] == [0.0] * 5


async def test_a_turn_that_is_too_late_is_not_taken(redis: RedisState) -> None:
    """Else those who cannot wait would keep those waiting who can."""
    config, pacer = account(), Pacer(redis)
    assert await pacer.turn(config, 60) == 0
    for _ in range(50):
        assert 0.1 < await pacer.turn(config, 0.05) <= DISTANCE_S
    assert await pacer.turn(config, 60) <= DISTANCE_S


async def test_without_redis_each_process_keeps_twice_the_distance(away: RedisState) -> None:
    config, pacer = account(), Pacer(away)
    waits = [await pacer.turn(config, 60) for _ in range(3)]
    assert waits[0] == 0
    assert waits[2] == pytest.approx(2 * 2 * DISTANCE_S, abs=0.3)
    assert waits[2] > 2 * DISTANCE_S


async def test_losing_redis_forgets_no_turn(redis: RedisState, away: RedisState) -> None:
    """What this process reserved while Redis was there counts when it is gone."""
    config, pacer = account(), Pacer(redis)
    for _ in range(4):
        await pacer.turn(config, 60)
    pacer._redis = away
    assert await pacer.turn(config, 60) > 2.5 * DISTANCE_S


def test_no_two_distances_are_alike() -> None:
    """Never below what the rate allows, and spread over the whole jitter."""
    distances = [pacing._distance_s(Pacing(messages_per_minute=20, jitter_s=3.0)) for _ in range(200)]
    assert min(distances) >= 3.0
    assert max(distances) <= 6.0
    assert len({round(distance, 2) for distance in distances}) > 100
    assert max(distances) - min(distances) > 2


async def test_sends_of_a_paced_account_go_out_in_turns(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five at once: each is accepted, the provider is called a distance apart, and waiting is told as it is."""
    monkeypatch.setattr(MetaBusiness, "info", PACED)
    answers = await asyncio.gather(*(organization.send() for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    messages = [await organization.message(answer.json["id"]) for answer in answers]
    classes = sorted([(attempt["class"], attempt["code"]) for attempt in message["attempts"]] for message in messages)
    assert classes[0] == [("Throttled", "pacing"), ("ok", None)]
    assert classes[-1] == [("ok", None)]
    starts = sorted(message["attempts"][-1]["started_at"] for message in messages)
    times = [datetime.fromisoformat(start) for start in starts]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    assert min(gaps) > DISTANCE_S / 2
    assert (times[-1] - times[0]).total_seconds() > 4 * DISTANCE_S - 0.1


async def test_whose_turn_is_too_late_falls_back(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another account at hand nobody waits for minutes."""
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    second = await organization.configure(active=False, own_port=True)
    await organization.fall_back_to(second["config_id"])
    slow = msgspec.structs.replace(MetaBusiness.info, pacing=Pacing(messages_per_minute=1, jitter_s=0.0))
    monkeypatch.setattr(MetaBusiness, "info", slow)
    first = await organization.send()
    other = await organization.send()
    assert (first.json["config_id"], other.json["config_id"]) == (
        organization.configs[0]["config_id"],
        second["config_id"],
    )
    # And with none, the answer says so.
    third = await organization.send({"to": "+5511987654321", "body": "x", "fallback": False}, prefer="wait=1")
    assert third.status == 202


async def test_waiting_for_a_turn_costs_no_retry(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal after the wait is one: it is told by its class."""
    monkeypatch.setattr(MetaBusiness, "info", PACED)
    assert (await organization.send()).status == 200
    await gateway.meta.script(organization.numbers[0], ErrorCode(code=131026))
    answer = await organization.send()
    assert (answer.status, answer.json["code"]) == (422, "rejected")
