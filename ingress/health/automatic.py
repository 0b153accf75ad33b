"""When the service itself changes an organization's provider, which it does only where a policy asks for it. Pure.

    active unhealthy for `auto_switch_after_s`  ──▶ the first healthy fallback
    primary healthy again, `min_stay_s` later   ──▶ back to it, with `return_to_primary`
    most sends after a person's switch failed   ──▶ back, with `auto_rollback`

While another config stands in for the primary, the primary is the last fallback. Its order is restored when it returns.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from ..switching.change import StandIn
from ..switching.policy import FallbackPolicy
from .judgement import State

# However often an account goes and comes: people should look then.
AT_MOST_AN_HOUR = 6
DEFAULT_STAY_S = 300
# A primary that is healthy again proves it for so long.
PROBATION_S = 60
# One that failed is tried again after this, then after twice as long each time.
BACK_OFF = timedelta(seconds=60)
ROLLBACK_WITHIN = timedelta(minutes=5)
ROLLBACK_LEAST_SENDS = 10
ROLLBACK_SHARE = 0.5


class Member(msgspec.Struct, frozen=True):
    """A config in use, and how its account is doing since when. ``usable``: its last test was passed."""

    config_id: UUID
    health: State
    since: datetime | None
    usable: bool = True


class LastSwitch(msgspec.Struct, frozen=True):
    """The switch that made the active config the active one. ``kind``: switch, rollback or fallback.

    ``automatic``: the service made it, not a person.
    """

    at: datetime
    kind: str
    sends: int = 0
    failed: int = 0
    automatic: bool = False


class Situation(msgspec.Struct, frozen=True):
    """Where an organization stands: its active config, then the fallbacks in their order."""

    version: int
    route: Sequence[Member]
    stand_in: StandIn | None = None
    last: LastSwitch | None = None
    automatic_lately: int = 0  # switches that the service began by itself within the last hour
    failed: Sequence[datetime] = ()  # of these those after the last switch that was made, the last one first


class Step(msgspec.Struct, frozen=True):
    """What to do: switch to ``target`` (None: to the config before), the fallbacks then, and who is stood in for."""

    kind: Literal["switch", "fallback", "rollback"]
    reason: str
    target: UUID | None = None
    order: list[UUID] | None = None
    stand_in: StandIn | None = None


def next_step(situation: Situation, policy: FallbackPolicy, now: datetime) -> Step | None:
    """What the organization's policy asks for now, if it does."""
    if not situation.route or situation.automatic_lately >= AT_MOST_AN_HOUR:
        return None
    if situation.failed and now - situation.failed[0] < BACK_OFF * 2 ** (len(situation.failed) - 1):
        return None
    return _rolled_back(situation, policy, now) or _left(situation, policy, now) or _returned(situation, policy, now)


def _rolled_back(situation: Situation, policy: FallbackPolicy, now: datetime) -> Step | None:
    last = situation.last
    # What the service did, a return to the primary too, or a rollback is never undone: that would go to and fro.
    if not policy.auto_rollback or last is None or last.kind != "switch" or last.automatic:
        return None
    if now - last.at > ROLLBACK_WITHIN:
        return None
    if last.sends < _enough_sends(situation.route[0], last) or last.failed < ROLLBACK_SHARE * last.sends:
        return None
    return Step("rollback", f"{last.failed} of {last.sends} sends after the switch failed")


def _enough_sends(active: Member, last: LastSwitch) -> int:
    """How many sends say that the switch was a mistake: one, where the account has become unhealthy since.

    Then its breaker is open, and what is refused for that is no send: there would never be more.
    """
    became_unhealthy = active.health == "unhealthy" and active.since is not None and active.since >= last.at
    return 1 if became_unhealthy else ROLLBACK_LEAST_SENDS


def _left(situation: Situation, policy: FallbackPolicy, now: datetime) -> Step | None:
    active, *others = situation.route
    after_s = policy.auto_switch_after_s
    if after_s is None or active.health != "unhealthy" or active.since is None:
        return None
    if now - active.since < timedelta(seconds=after_s):
        return None
    target = next((other for other in others if other.health == "healthy" and other.usable), None)
    return _to(target, situation, now) if target else None


def _to(target: Member, situation: Situation, now: datetime) -> Step:
    """To the one that stands in for the active config, which is unhealthy."""
    active, *others = situation.route
    assert active.since is not None
    left = [other.config_id for other in others if other.config_id != target.config_id]
    stand_in = situation.stand_in or StandIn(active.config_id, [other.config_id for other in others], now)
    if target.config_id == stand_in.primary:
        return _back(situation, stand_in, "the stand-in is unhealthy, and the primary is not")
    return Step(
        "fallback",
        f"unhealthy for {(now - active.since).total_seconds():.0f} s",
        target.config_id,
        [*left, active.config_id],
        msgspec.structs.replace(stand_in, at=now),
    )


def _returned(situation: Situation, policy: FallbackPolicy, now: datetime) -> Step | None:
    stand_in = situation.stand_in
    if stand_in is None or not policy.return_to_primary:
        return None
    primary = next((one for one in situation.route[1:] if one.config_id == stand_in.primary), None)
    stay = timedelta(seconds=policy.min_stay_s or DEFAULT_STAY_S)
    if primary is None or now - stand_in.at < stay or not _has_recovered(primary, now):
        return None
    return _back(situation, stand_in, "the primary is healthy again")


def _has_recovered(member: Member, now: datetime) -> bool:
    if member.health != "healthy" or member.since is None or not member.usable:
        return False
    return now - member.since >= timedelta(seconds=PROBATION_S)


def _back(situation: Situation, stand_in: StandIn, reason: str) -> Step:
    active, *others = [one.config_id for one in situation.route if one.config_id != stand_in.primary]
    kept = [config_id for config_id in stand_in.order if config_id in (active, *others)]
    joined = [config_id for config_id in others if config_id not in kept]
    # Configs may have come and gone. Who has changed the order meanwhile has theirs, after the one that stood in.
    is_as_it_was = {active, *others} == set(stand_in.order) or (
        active in kept and others == [*(one for one in kept if one != active), *joined]
    )
    return Step("switch", reason, stand_in.primary, [*kept, *joined] if is_as_it_was else [active, *others])
