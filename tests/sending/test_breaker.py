"""The circuit breaker, held against a model that says the same in other words."""

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast, get_args
from uuid import uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from ingress import metrics
from ingress.metrics.labels import VALUES
from ingress.sending import breakers as breakers_module
from ingress.sending.breakers import Breaker, Breakers, Ended, Permit, State
from providers import Unavailable

SEQUENCES = 2_000


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Model:
    """What a breaker should be, as a list of everything that happened since it was closed last."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self.calls: list[tuple[int, bool]] = []
        self.rest_s, self.opened_at, self.successes = 0.0, 0.0, 0

    def opens(self, now: float) -> None:
        self.rest_s = min(120.0, self.rest_s * 2) if self.state == "half_open" else 10.0
        self.state, self.opened_at = "open", now

    def ended(self, now: float, permit: Permit, ended: Ended) -> None:
        if self.state == "closed" and permit == "call" and ended in ("ok", "failed"):
            self.calls.append((int(now), ended == "failed"))
            lately = [failed for second, failed in self.calls if second > int(now) - 10]
            if ended == "failed" and len(lately) >= 10 and sum(lately) * 2 >= len(lately):
                self.opens(now)
        elif self.state == "half_open" and permit == "probe":
            self.successes += ended == "ok"
            if ended == "failed":
                self.opens(now)
            elif self.successes == 3:
                self.state, self.calls = "closed", []


class Comparison:
    """Does the same to a breaker and to the model."""

    def __init__(self) -> None:
        self.clock, self.model = Clock(), Model()
        self.changes: list[tuple[State, State]] = []
        self.breaker = Breaker(self.clock, lambda former, state: self.changes.append((former, state)))
        self.under_way: list[Permit] = []

    def enter(self) -> None:
        resting = self.clock.now - self.model.opened_at
        permit = self.breaker.enter()
        if self.model.state == "closed":
            assert permit == "call"
        elif "probe" in self.under_way or (self.model.state == "open" and resting < self.model.rest_s * 0.8):
            assert permit is None
        elif self.model.state == "half_open" or resting > self.model.rest_s * 1.2:
            assert permit == "probe"
        if permit == "probe" and self.model.state == "open":
            self.model.state, self.model.successes = "half_open", 0
        if permit is not None:
            self.under_way.append(permit)

    def leave(self, place: int, ended: Ended) -> None:
        if not self.under_way:
            return
        permit = self.under_way.pop(place)
        if ended == "broken":
            if not (self.model.state == "open" and self.breaker.broken):
                self.model.opens(self.clock.now)
        else:
            self.model.ended(self.clock.now, permit, ended)
        self.breaker.leave(permit, ended)

    def close(self) -> None:
        """Another process got through."""
        self.breaker.close()
        self.model.state, self.model.calls = "closed", []

    def end_rest(self) -> None:
        resting = self.clock.now - self.model.opened_at
        self.breaker.end_rest()
        if self.model.state == "open" and "probe" not in self.under_way:
            if resting > self.model.rest_s * 1.2:
                assert self.breaker.state == "half_open"
            if self.breaker.state == "half_open":
                assert resting >= self.model.rest_s * 0.8
                self.model.state, self.model.successes = "half_open", 0

    def step(self, what: str | float) -> None:
        match what:
            case float():
                self.clock.now += what
            case "enter":
                self.enter()
            case "enter 10":
                for _ in range(10):
                    self.enter()
            case "6 fail":
                for _ in range(6):
                    self.leave(-1, "failed")
            case "end rest":
                self.end_rest()
            case "close":
                self.close()
            case "first ok":
                self.leave(0, "ok")
            case "ok" | "failed" | "neutral" | "broken":
                self.leave(-1, what)
        assert self.breaker.state == self.model.state
        assert self.under_way.count("probe") <= 1
        assert all(former != state for former, state in self.changes)
        assert self.breaker.wait_s <= 120 * 1.2
        assert not (self.breaker.broken and self.breaker.state == "closed")


STEPS = [
    "enter",
    "enter 10",
    "6 fail",
    "end rest",
    "close",
    "first ok",
    "ok",
    "failed",
    "neutral",
    "broken",
    0.3,
    1.0,
    9.0,
    13.0,
    150.0,
]


@settings(max_examples=SEQUENCES, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_any_sequence_is_as_the_model_says(steps: list[str | float]) -> None:
    both = Comparison()
    for step in steps:
        both.step(step)


def failed_calls(breaker: Breaker, count: int) -> None:
    for _ in range(count):
        if (permit := breaker.enter()) is not None:
            breaker.leave(permit, "failed")


def test_a_provider_that_dies_is_left_alone_within_two_seconds() -> None:
    """At 20 calls a second, half a minute of good ones before: the window forgets nothing, and still it is quick."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(10):
        clock.now += 0.05
        breaker.leave(breaker.enter() or "call", "ok")
    died = clock.now
    while breaker.state == "closed":
        clock.now += 0.05
        failed_calls(breaker, 1)
    assert clock.now - died <= 2


def test_rests_get_longer_up_to_two_minutes_and_start_anew() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    failed_calls(breaker, 10)
    rests = []
    for _ in range(6):
        rests.append(breaker.wait_s)
        clock.now += rests[-1]
        failed_calls(breaker, 1)
    for rest_s, expected_s in zip(rests, (10, 20, 40, 80, 120, 120), strict=True):
        assert 0.8 * expected_s <= rest_s <= 1.2 * expected_s
    clock.now += breaker.wait_s
    for _ in range(3):
        permit = breaker.enter()
        assert permit == "probe"
        breaker.leave(permit, "ok")
    assert breaker.state == "closed"
    failed_calls(breaker, 10)
    assert breaker.wait_s <= 12


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A provider that no other test of this process knows: its series go with it."""
    monkeypatch.setitem(VALUES, "provider", {"made_up"})
    yield "made_up"
    for metric in (metrics.breakers, metrics.breaker_transitions):
        metric.remove_by_labels({"provider": "made_up"})


def test_what_nobody_calls_any_more_is_not_shown_as_open(monkeypatch: pytest.MonkeyPatch, made_up: str) -> None:
    """After a switch away from a dead provider: half open once it has rested, and forgotten with the account."""
    monkeypatch.setattr(breakers_module, "OPEN_S", 0.0)
    breakers = Breakers(cast(Any, None), cast(Any, None))
    config = cast(Any, SimpleNamespace(id=uuid4(), provider_type=made_up, is_unusable=False))

    def shown() -> list[float | None]:
        labels = [{"provider": made_up, "state": state} for state in get_args(State)]
        return [metrics.REGISTRY.get_sample_value("whatsapp_ingress_breakers", each) for each in labels]

    for _ in range(10):
        with suppress(Unavailable), breakers.permit(config):
            raise Unavailable("down")
    assert (breakers.state_of(config.id), shown()) == ("open", [0, 1, None])
    breakers.look()
    assert (breakers.state_of(config.id), shown()) == ("half_open", [0, 0, 1])
    monkeypatch.setattr(breakers_module, "FORGET_AFTER_S", -1.0)
    breakers.look()
    assert (breakers.state_of(config.id), shown()) == (None, [0, 0, 0])
    with breakers.permit(config):
        assert breakers.state_of(config.id) == "closed"


def test_a_host_of_files_that_is_down_closes_no_account(made_up: str) -> None:
    """Texts go out all the same."""
    breakers = Breakers(cast(Any, None), cast(Any, None))
    config = cast(Any, SimpleNamespace(id=uuid4(), provider_type=made_up, is_unusable=False))
    for _ in range(20):
        with suppress(Unavailable), breakers.permit(config):
            raise Unavailable("down", scope="media")
    assert breakers.state_of(config.id) == "closed"


def test_refusals_never_open_it() -> None:
    breaker = Breaker(Clock())
    for _ in range(1000):
        permit = breaker.enter()
        assert permit == "call"
        breaker.leave(permit, "neutral")
