"""Rates: what all processes together send is never above them, and most sends need not ask Redis."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import pytest

from ingress.accounts.config import Config
from ingress.dev.sandbox import ErrorCode
from ingress.sending import pacing
from ingress.sending.pacing import Pacer
from ingress.settings import Settings
from ingress.storage import redis_state
from ingress.storage.redis_state import Line, RedisState, Reserved
from providers import Throttled
from providers.description import Pacing
from providers.meta_business import MetaBusiness

from ..gateway import Gateway, Organization

# Far more than a busy machine takes to ask for a turn. BRISK is for who waits for it.
DISTANCE_S = 2.0
STRICT, BRISK = Pacing(messages_per_minute=30), Pacing(messages_per_minute=300)
PERSON = "+5511987654321"


def account(of: Pacing = STRICT) -> Config:
    class Paced(MetaBusiness, frozen=True, kw_only=True):
        @property
        def pacing(self) -> Pacing | None:
            return of

    provider = Paced(access_token="a", phone_number_id="1", waba_id="2", app_secret="s", verify_token="v")
    return Config(uuid4(), uuid4(), "paced", "Paced", "active", None, provider, "https://gw.example/w", uuid4())


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no Redis that is away."""
    monkeypatch.setattr(redis_state, "COMMAND_TIMEOUT_S", 2.0)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[RedisState]:
    async with RedisState(settings.redis_url) as state:
        yield state


@pytest.fixture
async def away() -> AsyncIterator[RedisState]:
    """A Redis that nobody runs."""
    async with RedisState("redis://127.0.0.1:1/0") as state:
        yield state


async def wait_s(pacer: Pacer, config: Config, at_most_s: float = 60, contact: str = PERSON) -> float:
    return (await pacer.turn(config, contact, at_most_s)).wait_s


# ---------------------------------------------------------------- one after the other


async def test_turns_of_many_processes_stand_in_one_line(redis: RedisState) -> None:
    """Twenty turns asked for at once by four processes: a distance apart, none at the time of another."""
    config, pacers = account(), [Pacer(redis) for _ in range(4)]
    # Connections first: whom Redis does not answer in 50 ms goes on alone.
    await asyncio.gather(*(wait_s(pacers[0], account()) for _ in range(20)))
    waits = await asyncio.gather(*(wait_s(pacer, config) for _ in range(5) for pacer in pacers))
    asked_within_s = DISTANCE_S / 2
    for place, waited_s in enumerate(sorted(waits)):
        assert place * DISTANCE_S - asked_within_s <= waited_s <= place * DISTANCE_S + 0.001


async def test_accounts_do_not_wait_for_each_other(redis: RedisState) -> None:
    pacer = Pacer(redis)
    assert [await wait_s(pacer, account()) for _ in range(5)] == [0.0] * 5


async def test_a_turn_that_is_too_late_is_not_taken(redis: RedisState) -> None:
    """Else those who cannot wait would keep those waiting who can."""
    config, pacer = account(), Pacer(redis)
    assert await wait_s(pacer, config) == 0
    for _ in range(50):
        assert 0.05 < await wait_s(pacer, config, 0.05) <= DISTANCE_S
    assert await wait_s(pacer, config) <= DISTANCE_S


async def test_without_redis_each_process_keeps_twice_the_distance(away: RedisState) -> None:
    config, pacer = account(), Pacer(away)
    waits = [await wait_s(pacer, config) for _ in range(3)]
    assert waits[0] == 0
    assert waits[2] == pytest.approx(2 * 2 * DISTANCE_S, abs=DISTANCE_S)
    assert waits[2] > 2 * DISTANCE_S


async def test_losing_redis_forgets_no_turn(redis: RedisState, away: RedisState) -> None:
    """What this process reserved while Redis was there counts when it is gone."""
    config, pacer = account(), Pacer(redis)
    for _ in range(4):
        await wait_s(pacer, config)
    pacer._redis = away
    assert await wait_s(pacer, config) > 2.5 * DISTANCE_S


def test_no_two_distances_are_alike() -> None:
    """Never below what the rate allows, and spread over the whole jitter."""
    distances = [pacing._distance_s(Pacing(messages_per_minute=20, jitter_s=3.0)) for _ in range(200)]
    assert min(distances) >= 3.0
    assert max(distances) <= 6.0
    assert len({round(distance, 2) for distance in distances}) > 100
    assert max(distances) - min(distances) > 2


# ---------------------------------------------------------------- bursts, by several processes


class Asked(RedisState):
    """Counts how often Redis was asked for a turn."""

    def __init__(self, url: str, processes: int) -> None:
        super().__init__(url)
        self.processes = processes
        self.times = 0

    async def __aenter__(self) -> "Asked":
        return self

    async def reserve(self, organization_id: UUID, config_id: UUID, lines: Any, at_most_s: float) -> Reserved | None:
        self.times += 1
        return await super().reserve(organization_id, config_id, lines, at_most_s)


async def admitted(pacers: list[Pacer], config: Config, seconds: float) -> tuple[list[float], int]:
    """When turns were given to eight tasks a process that ask for more all the time, for *seconds*; of how many."""
    until, times, asked = monotonic() + seconds, [], count()

    async def ask(pacer: Pacer) -> None:
        while (now := monotonic()) < until:
            turn = await pacer.turn(config, str(next(asked)), 0.02)
            if turn.wait_s <= 0.02:
                times.append(now + turn.wait_s)
            await asyncio.sleep(random.random() * 0.004)

    await asyncio.gather(*(ask(pacer) for pacer in pacers for _ in range(8)))
    return sorted(times), next(asked)


def most_within(times: list[float], seconds: float) -> int:
    """The most in any window of *seconds*."""
    return max(sum(1 for time in times[place:] if time <= begin + seconds) for place, begin in enumerate(times))


@pytest.mark.parametrize("per_second", [80, 400])
async def test_four_processes_are_never_over_the_rate(settings: Settings, per_second: int) -> None:
    """In no second more than the number is allowed, bursts included; and not much less, of what they can ask for."""
    limit = MetaBusiness(
        access_token="a",
        phone_number_id="1",
        waba_id="2",
        app_secret="s",
        verify_token="v",
        messages_per_second=per_second,
    ).pacing
    assert limit is not None
    states = [Asked(settings.redis_url, 4) for _ in range(4)]
    config = account(limit)
    times, asked = await admitted([Pacer(state) for state in states], config, 2.5)
    # The clock of the processes and that of Redis are read at different moments: 20 ms of it.
    assert most_within(times, 0.98) <= per_second
    assert len(times) >= min(2.5 * per_second * 0.3, asked / 2)
    for state in states:
        await state.__aexit__()


async def test_without_redis_they_are_under_the_rate_but_not_by_half(away: RedisState) -> None:
    away.processes = 4
    config, now, given = account(Pacing(messages_per_minute=6000, burst=16)), 1000.0, 0
    pacers = [Pacer(away, lambda: now) for _ in range(4)]
    while now < 1002.5:
        turns = [await pacer.turn(config, str(now), 0.02) for pacer in pacers]
        given += sum(turn.wait_s <= 0.02 for turn in turns)
        now += 0.002
    assert 2.5 * 100 * 0.45 <= given <= 2.5 * 100


async def test_one_contact_gets_a_burst_then_one_at_a_time(settings: Settings) -> None:
    """45 by all four processes together, whoever sends them; others are not kept waiting."""
    config = account(Pacing(messages_per_minute=600_000, burst=10_000, contact_every_s=6.0, contact_burst=45))
    states = [Asked(settings.redis_url, 4) for _ in range(4)]
    pacers = [Pacer(state) for state in states]
    turns = [await pacer.turn(config, PERSON, 0.5) for _ in range(30) for pacer in pacers]
    given = [turn for turn in turns if turn.wait_s == 0]
    assert 40 <= len(given) <= 45
    assert {turn.scope for turn in turns if turn.wait_s} == {"pair"}
    assert min(turn.wait_s for turn in turns if turn.wait_s) > 0.5
    assert await wait_s(pacers[0], config, 0.5, "+5511900000000") == 0
    for state in states:
        await state.__aexit__()


async def test_ordinary_traffic_does_not_ask_redis(settings: Settings) -> None:
    """Thirty messages a second to as many people, of 80 that are allowed: two processes find it in their shares."""
    clock = iter(count(1000.0, 1 / 30))
    now = next(clock)
    limit = MetaBusiness(access_token="a", phone_number_id="1", waba_id="2", app_secret="s", verify_token="v").pacing
    assert limit is not None
    async with Asked(settings.redis_url, 2) as state:
        config = account(limit)
        pacer = Pacer(state, lambda: now)
        for place in range(300):
            if place % 2 == 0:  # the other half of the traffic is the other process's
                assert await wait_s(pacer, config, contact=str(place)) == 0
            now = next(clock)
        assert state.times == 0


async def test_contacts_of_the_past_are_forgotten(settings: Settings) -> None:
    """A thousand new ones a second for a minute: only those are remembered whose next message would have to wait."""
    now = 1000.0
    async with Asked(settings.redis_url, 1) as state:
        config = account(Pacing(messages_per_minute=600_000, burst=10_000, contact_every_s=6.0, contact_burst=45))
        pacer = Pacer(state, lambda: now)
        for place in range(60_000):
            await pacer.turn(config, str(place), 60)
            now += 0.001
        pacer._due.sweep()
        assert len(pacer._due) <= 12_000 + 1


async def test_turns_are_taken_several_at_a_time(settings: Settings) -> None:
    """A busy number asks Redis for one in several."""
    async with Asked(settings.redis_url, 1) as state:
        config, pacer = account(Pacing(messages_per_minute=60_000, burst=400)), Pacer(state)
        times, _ = await admitted([pacer], config, 1.0)
        assert len(times) > 500
        assert state.times < len(times) / 3


# ---------------------------------------------------------------- refused for now


async def test_a_provider_that_refuses_for_now_is_asked_for_half(settings: Settings) -> None:
    """By every process, for a minute."""
    states = [Asked(settings.redis_url, 2) for _ in range(2)]
    pacers = [Pacer(state) for state in states]
    config = account(Pacing(messages_per_minute=12_000, burst=8))
    await pacers[0].throttled(config, PERSON, Throttled(scope="number"))
    times, _ = await admitted(pacers, config, 1.5)
    assert len(times) <= 1.5 * 100 + 30
    for state in states:
        await state.__aexit__()


async def test_a_refused_pair_slows_down_alone(redis: RedisState) -> None:
    config, pacer = account(Pacing(messages_per_minute=600_000, burst=10_000, contact_every_s=0.1)), Pacer(redis)
    await pacer.throttled(config, PERSON, Throttled(scope="pair"))
    for contact, distance_s in ((PERSON, 0.2), ("+5511900000000", 0.1)):
        await wait_s(pacer, config, contact=contact)
        assert distance_s - 0.05 <= await wait_s(pacer, config, contact=contact) <= distance_s


async def test_all_lines_are_moved_on_or_none(redis: RedisState) -> None:
    """A turn that one line refuses is not charged to the other."""
    organization_id, config_id = uuid4(), uuid4()
    lines = [Line("", 1.0, 2), Line(":person", 10.0, 1)]
    first = await redis.reserve(organization_id, config_id, lines, 0.1)
    assert first is not None
    assert first.wait_s == 0
    for _ in range(5):
        refused = await redis.reserve(organization_id, config_id, lines, 0.1)
        assert refused is not None
        assert (refused.wait_s > 9, refused.longest) == (True, 1)
    other = await redis.reserve(organization_id, config_id, [lines[0], Line(":other", 10.0, 1)], 0.1)
    assert other is not None
    assert other.wait_s == 0


# ---------------------------------------------------------------- as part of sending


def paced(monkeypatch: pytest.MonkeyPatch, of: Pacing) -> None:
    monkeypatch.setattr(MetaBusiness, "pacing", of)


async def test_sends_of_a_paced_account_go_out_in_turns(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five at once: each is accepted, the provider is called a distance apart, and waiting is reported as it is."""
    paced(monkeypatch, BRISK)
    begun = datetime.now(UTC)
    answers = await asyncio.gather(*(organization.send() for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    messages = [await organization.message(answer.json["id"]) for answer in answers]
    classes = sorted([(attempt["class"], attempt["code"]) for attempt in message["attempts"]] for message in messages)
    assert classes[0] == [("Throttled", "pacing"), ("ok", None)]
    assert classes[-1] == [("ok", None)]
    starts = sorted(message["attempts"][-1]["started_at"] for message in messages)
    for place, start in enumerate(starts):  # one may be late on a busy machine, and none early
        assert (datetime.fromisoformat(start) - begun).total_seconds() > place * 0.2 - 0.1


async def test_whose_turn_is_too_late_falls_back(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another account at hand nobody waits for minutes."""
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    second = await organization.configure(active=False, own_port=True)
    await organization.fall_back_to(second["config_id"])
    paced(monkeypatch, Pacing(messages_per_minute=1))
    first = await organization.send()
    other = await organization.send()
    assert (first.json["config_id"], other.json["config_id"]) == (
        organization.configs[0]["config_id"],
        second["config_id"],
    )
    assert other.json["fallback_reason"] == "Throttled"
    # And with none, the answer says so.
    third = await organization.send({"to": "+5511987654321", "body": "x", "fallback": False}, prefer="wait=1")
    assert third.status == 202


async def test_a_person_who_got_too_many_gets_none_from_another_number(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for its pair's turn does not fall back."""
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    second = await organization.configure(active=False, own_port=True)
    await organization.fall_back_to(second["config_id"])
    paced(monkeypatch, Pacing(messages_per_minute=60_000, burst=100, contact_every_s=60.0))
    assert (await organization.send()).status == 200
    waiting = await organization.send(prefer="wait=1")
    assert waiting.status == 202
    other = await organization.send({"to": "+5511900000000", "body": "x"})
    assert (other.status, other.json["fallback_from"]) == (200, None)


async def test_waiting_for_a_turn_costs_no_retry(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal after the wait is one: it is reported by its class."""
    paced(monkeypatch, BRISK)
    assert (await organization.send()).status == 200
    await gateway.meta.script(organization.numbers[0], ErrorCode(code=131026))
    answer = await organization.send()
    assert (answer.status, answer.json["code"]) == (422, "rejected")
