"""What a look at an account finds, when that is a change, and what the service then does: decisions, no I/O."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from ingress.accounts.advice import WHAT_TO_DO, Reason
from ingress.health.automatic import LastSwitch, Member, Situation, Step, next_step
from ingress.health.judgement import Finding, Health, Traffic, judge
from ingress.switching.change import StandIn
from ingress.switching.policy import DEFAULT_POLICY, FallbackPolicy
from providers import (
    AccountBroken,
    ProviderStatus,
    Rejected,
    Restricted,
    SendError,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
QUIET = Traffic()
OK = Finding("healthy")
DOWN = Finding("unhealthy", "unreachable")
POOR = Finding("degraded", "degraded")


def status(quality: Any = "excellent", **fields: Any) -> ProviderStatus:
    return ProviderStatus(is_connected=quality != "disconnected", connection_quality=quality, **fields)


def seconds(many: float) -> timedelta:
    return timedelta(seconds=many)


# ---------------------------------------------------------------- a look


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (status(), "healthy", None),
        (status("good"), "healthy", None),
        (status("poor"), "degraded", "degraded"),
        (status("poor", trouble="account_restricted"), "degraded", "account_restricted"),
        (status("disconnected", trouble="not_paired"), "unhealthy", "not_paired"),
        (status("disconnected", trouble="credentials"), "unhealthy", "credentials"),
        (status("disconnected"), "unhealthy", "session_lost"),
        (AccountBroken("no", code="190"), "unhealthy", "credentials"),
        (AccountBroken("gone", scope="session"), "unhealthy", "session_lost"),
        (Rejected("no"), "unhealthy", "credentials"),
        (Restricted("spam"), "unhealthy", "account_restricted"),
    ],
)
def test_what_the_provider_says(answer: ProviderStatus | SendError, state: str, reason: str | None) -> None:
    found = judge(answer, QUIET)
    assert found is not None
    assert (found.state, found.reason, found.confirmed) == (state, reason, False)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("no answer from the provider (read_timeout)", code="read_timeout"),
        Unavailable("no answer", code="connect_refused"),
        Uncertain("no answer", code="read_timeout"),
        Unavailable("the provider plug-in failed", code="plugin_failed"),
    ],
    ids=repr,
)
def test_who_does_not_answer_has_no_bad_credentials(error: SendError) -> None:
    found = judge(error, QUIET)
    assert found is not None
    assert (found.state, found.reason) == ("unhealthy", "unreachable")


@pytest.mark.parametrize("error", [Throttled("slow"), Unsupported("no status")], ids=repr)
def test_an_answer_that_says_nothing_changes_nothing(error: SendError) -> None:
    assert judge(error, QUIET) is None
    known = Health("unhealthy", NOW, "unreachable", pending="healthy", looks=1)
    assert known.after(None, NOW) is known


@pytest.mark.parametrize(
    ("answer", "traffic", "state", "reason", "confirmed"),
    [
        # Sends fail though the account looks well.
        (status(), Traffic(attempts=6, failed=3), "unhealthy", "unreachable", False),
        (status(), Traffic(attempts=6, failed=3, refused=3), "unhealthy", "sends_refused", False),
        (status(), Traffic(is_broken=True), "unhealthy", "sends_refused", True),
        (status(), Traffic(attempts=4, failed=4), "healthy", None, False),
        (status(), Traffic(attempts=6, failed=2), "healthy", None, False),
        # Both say the same.
        (Unavailable("refused"), Traffic(attempts=6, failed=6), "unhealthy", "unreachable", True),
        (status("disconnected", trouble="credentials"), Traffic(is_broken=True), "unhealthy", "credentials", True),
        # It does not say how it is doing, and takes messages.
        (Unavailable("timed out"), Traffic(attempts=6, failed=1), "degraded", "unreachable", False),
        (AccountBroken("no"), Traffic(attempts=6), "unhealthy", "credentials", False),
        # No status of what was sent has come.
        (status(), Traffic(sent=5), "degraded", "silent", False),
        (status(), Traffic(sent=4), "healthy", None, False),
        # Webhooks come, and none of them is the provider's.
        (status(), Traffic(only_refused=True, sent=5), "degraded", "webhooks_refused", False),
        (status("poor"), Traffic(only_refused=True), "degraded", "degraded", False),
        (status(), Traffic(sent=5, acknowledged=1), "healthy", None, False),
        (status("poor"), Traffic(sent=5), "degraded", "degraded", False),
        (Throttled("slow"), Traffic(attempts=6, failed=6), "unhealthy", "unreachable", False),
    ],
)
def test_what_the_traffic_says(
    answer: ProviderStatus | SendError, traffic: Traffic, state: str, reason: str | None, confirmed: bool
) -> None:
    found = judge(answer, traffic)
    assert found is not None
    assert (found.state, found.reason, found.confirmed) == (state, reason, confirmed)


def test_every_reason_has_something_to_do() -> None:
    assert set(WHAT_TO_DO) == set(Reason.__args__)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- when that is a change


def after(*findings: Finding, start: Health | None = None) -> list[str]:
    """The state after each of *findings*, a second apart."""
    known, states = start or Health(), []
    for number, finding in enumerate(findings):
        known = known.after(finding, NOW + seconds(number))
        states.append(known.state)
    return states


def test_one_bad_look_is_no_change() -> None:
    assert after(OK, DOWN, OK, DOWN, DOWN, OK) == ["healthy"] * 6
    assert after(OK, DOWN, DOWN, DOWN) == ["healthy", "healthy", "healthy", "unhealthy"]
    assert after(DOWN, DOWN, DOWN) == ["unknown", "unknown", "unhealthy"]


def test_what_the_traffic_confirms_is_one_at_once() -> None:
    assert after(OK, msgspec.structs.replace(DOWN, confirmed=True)) == ["healthy", "unhealthy"]


def test_one_good_look_is_no_recovery() -> None:
    sick = Health("unhealthy", NOW, "unreachable")
    assert after(OK, DOWN, OK, OK, start=sick) == ["unhealthy", "unhealthy", "unhealthy", "healthy"]
    assert after(OK, POOR, start=sick) == ["unhealthy", "degraded"]


def test_it_becomes_degraded_and_well_by_two_looks() -> None:
    assert after(OK, POOR, OK, POOR, POOR, OK, OK) == [*["healthy"] * 4, "degraded", "degraded", "healthy"]
    # A look of another kind begins to count anew.
    assert after(OK, DOWN, DOWN, POOR, DOWN, DOWN, DOWN)[-2:] == ["healthy", "unhealthy"]


def test_since_is_when_it_became_so() -> None:
    """The reason may change meanwhile; the time does not."""
    known = Health("healthy", NOW)
    for number in range(3):
        known = known.after(DOWN, NOW + seconds(number))
    assert (known.state, known.since, known.pending) == ("unhealthy", NOW + seconds(2), None)
    known = known.after(Finding("unhealthy", "credentials", "expired"), NOW + seconds(60))
    assert (known.since, known.reason, known.detail) == (NOW + seconds(2), "credentials", "expired")


# ---------------------------------------------------------------- what the service does by itself

A, B, C, D = (UUID(int=number) for number in (1, 2, 3, 4))
SWITCHES = FallbackPolicy(auto_switch_after_s=60, min_stay_s=600, return_to_primary=True)


def member(config_id: UUID, health: Any = "healthy", since_s: float = 3600, **more: Any) -> Member:
    return Member(config_id, health, NOW - seconds(since_s), **more)


def sick(config_id: UUID, since_s: float = 60) -> Member:
    return member(config_id, "unhealthy", since_s)


def step(policy: FallbackPolicy, *route: Member, **more: Any) -> Step | None:
    return next_step(Situation(7, route, **more), policy, NOW)


def test_without_a_policy_nothing_is_done() -> None:
    last = LastSwitch(NOW - seconds(60), "switch", 100, 100)
    stand_in = StandIn(B, [A], NOW - seconds(9999))
    assert step(DEFAULT_POLICY, sick(A, 9999), member(B), last=last, stand_in=stand_in) is None
    assert step(SWITCHES) is None


def test_an_unhealthy_provider_is_left_for_the_first_healthy_fallback() -> None:
    """Which then has the others behind it, and the primary last."""
    found = step(SWITCHES, sick(A), member(B, "degraded"), member(C))
    assert found is not None
    assert (found.kind, found.target, found.order) == ("fallback", C, [B, A])
    assert found.stand_in == StandIn(A, [B, C], NOW)
    assert step(SWITCHES, sick(A, 59), member(B)) is None
    assert step(SWITCHES, sick(A), sick(B), member(C, "unknown")) is None
    assert step(SWITCHES, sick(A), member(B, usable=False)) is None
    assert step(SWITCHES, sick(A)) is None


def test_a_stand_in_that_fails_is_left_for_the_next() -> None:
    """Whom they stand in for stays the same; and if that is healthy again, it is the one."""
    stood = StandIn(A, [B, C], NOW - seconds(100))
    found = step(SWITCHES, sick(B), member(C), sick(A), stand_in=stood)
    assert found is not None
    assert (found.target, found.order, found.stand_in) == (C, [A, B], StandIn(A, [B, C], NOW))
    found = step(SWITCHES, sick(B), sick(C), member(A, since_s=5), stand_in=stood)
    assert found is not None
    assert (found.kind, found.target, found.order, found.stand_in) == ("switch", A, [B, C], None)


@pytest.mark.parametrize(("stayed_s", "healthy_s", "returns"), [(600, 60, True), (599, 3600, False), (3600, 59, False)])
def test_it_returns_after_the_stay_and_a_probation(stayed_s: float, healthy_s: float, returns: bool) -> None:
    """To the very order that was left."""
    stood = StandIn(A, [B, C], NOW - seconds(stayed_s))
    found = step(SWITCHES, member(C), member(B), member(A, since_s=healthy_s), stand_in=stood)
    assert (found is not None) == returns
    if found is not None:
        assert (found.kind, found.target, found.order, found.stand_in) == ("switch", A, [B, C], None)


def test_it_returns_only_where_it_was_asked_to() -> None:
    stood = StandIn(A, [B], NOW - seconds(9999))
    asked = msgspec.structs.replace(SWITCHES, return_to_primary=False)
    assert step(asked, member(B), member(A), stand_in=stood) is None
    assert step(SWITCHES, member(B), member(A, "degraded"), stand_in=stood) is None
    assert step(SWITCHES, member(B), stand_in=stood) is None, "the primary is no fallback any more"


@pytest.mark.parametrize(
    ("then", "now", "order"),
    [
        ([C, B], [B, C, A], [C, B]),
        ([C, B], [B, C, A, D], [C, B, D]),
        ([C, B, D], [B, D, A], [B, D]),
        ([D, C, B], [B, D, A], [D, B]),
        ([C, B], [B, D, C, A], [B, D, C]),
    ],
    ids=["as it was", "one joined", "one is gone", "the first is there", "people put one first"],
)
def test_the_order_of_then_without_who_is_gone_and_with_who_has_joined(
    then: list[UUID], now: list[UUID], order: list[UUID]
) -> None:
    stood = StandIn(A, then, NOW - seconds(9999))
    found = step(SWITCHES, *map(member, now), stand_in=stood)
    assert found is not None
    assert (found.target, found.order) == (A, order)


def test_an_order_that_people_changed_meanwhile_is_theirs() -> None:
    stood = StandIn(A, [B], NOW - seconds(9999))
    found = step(SWITCHES, member(B), member(C), member(A), stand_in=stood)
    assert found is not None
    assert found.order == [B, C]


def test_it_never_goes_to_and_fro_for_long() -> None:
    assert step(SWITCHES, sick(A), member(B), automatic_lately=6) is None


@pytest.mark.parametrize(("failed", "wait_s"), [(1, 60), (2, 120), (3, 240), (5, 960)])
def test_a_switch_that_failed_is_tried_again_later_each_time(failed: int, wait_s: int) -> None:
    for ago_s, tried in ((wait_s - 1, False), (wait_s, True)):
        before = [NOW - seconds(ago_s + place * 60) for place in range(failed)]
        assert (step(SWITCHES, sick(A), member(B), failed=before) is not None) == tried


@pytest.mark.parametrize(
    ("ago_s", "sends", "failed", "kind", "automatic", "undone"),
    [
        (300, 10, 5, "switch", False, True),
        (301, 10, 10, "switch", False, False),
        (60, 9, 9, "switch", False, False),
        (60, 20, 9, "switch", False, False),
        (60, 10, 10, "rollback", False, False),
        (60, 10, 10, "fallback", True, False),
        (60, 10, 10, "switch", True, False),
    ],
)
def test_a_switch_after_which_most_sends_fail_is_undone(
    ago_s: float, sends: int, failed: int, kind: str, automatic: bool, undone: bool
) -> None:
    """Within five minutes, of ten sends at least; a rollback never is, nor what the service did by itself."""
    last = LastSwitch(NOW - seconds(ago_s), kind, sends, failed, automatic)
    found = step(FallbackPolicy(auto_rollback=True), member(B), last=last)
    assert (found is not None) == undone
    if found is not None:
        assert (found.kind, found.target) == ("rollback", None)


@pytest.mark.parametrize(
    ("since_s", "sends", "failed", "undone"),
    [(60, 1, 1, True), (60, 9, 4, False), (60, 0, 0, False), (61, 9, 9, False)],
    ids=["one", "a-few", "none", "it-was-before"],
)
def test_a_switch_to_what_becomes_unhealthy_is_undone(since_s: float, sends: int, failed: int, undone: bool) -> None:
    """Few sends are enough then: its breaker is open, so that no more are made through it."""
    last = LastSwitch(NOW - seconds(60), "switch", sends, failed)
    found = step(FallbackPolicy(auto_rollback=True), sick(A, since_s), member(B), last=last)
    assert (found is not None) == undone


def test_accounts_that_come_and_go_do_not_make_the_service_do_so() -> None:
    """Simulated, second by second for two hours: both accounts fail and recover all the time."""
    policy = FallbackPolicy(auto_switch_after_s=10, min_stay_s=1, return_to_primary=True)
    order, stand_in, made = [A, B], None, []
    for now_s in range(7200):
        now = NOW + seconds(now_s)
        route = []
        for place, config_id in enumerate(order):
            is_down = (now_s // 75 + (config_id == B)) % 2 == 0
            since = NOW + seconds(now_s // 75 * 75)
            route.append(Member(config_id, "unhealthy" if is_down else "healthy", since, usable=place >= 0))
        lately = sum(1 for at in made if now_s - at < 3600)
        found = next_step(Situation(1, route, stand_in, automatic_lately=lately), policy, now)
        if found is not None:
            assert found.target is not None
            assert found.order is not None
            made.append(now_s)
            order, stand_in = [found.target, *found.order], found.stand_in
    assert 0 < len(made) <= 12
