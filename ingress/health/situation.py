"""Where an organization stands, out of what is stored of it; and a step of its policy as the switch to make. Pure."""

from typing import cast
from uuid import UUID

import msgspec

from ..audit.trail import SYSTEM
from ..storage.statements.health import OrganizationHealth
from ..storage.statements.switches import SentSince, TrailedSwitch
from ..switching.change import Requested, StandIn
from .automatic import LastSwitch, Member, Situation, Step
from .judgement import State


def situation_of(
    stored: OrganizationHealth, lately: list[TrailedSwitch], made: TrailedSwitch | None, last: LastSwitch | None
) -> Situation:
    """*lately*: what was begun and made within the last hour, the newest first; *made*: the last that was made."""
    own = [switch.at for switch in lately if switch.action == "switching" and switch.actor == SYSTEM.name]
    failed = [at for at in own if made is None or at > made.at]
    return Situation(stored.version, _route(stored), _stand_in(stored), last, len(own), failed)


def last_switch_of(made: TrailedSwitch, sent: SentSince) -> LastSwitch:
    """A switch that was made, and what was sent since."""
    return LastSwitch(made.at, made.kind or "switch", sent.sends, sent.failed, made.actor == SYSTEM.name)


def _route(stored: OrganizationHealth) -> list[Member]:
    """How the active config is doing, then the fallbacks in their order. Empty where there is no active one."""
    known = {config.config_id: config for config in stored.configs}
    if stored.active_config_id not in known:
        return []
    order = [stored.active_config_id, *stored.fallback_config_ids]
    members = [known[config_id] for config_id in order if config_id in known]
    return [Member(one.config_id, cast("State", one.health), one.since, one.state != "error") for one in members]


def _stand_in(stored: OrganizationHealth) -> StandIn | None:
    return msgspec.json.decode(stored.automatic, type=StandIn) if stored.automatic else None


def request_for(organization_id: UUID, stored: OrganizationHealth, step: Step) -> Requested:
    """The switch that *step* is, valid while all is as it is *stored*."""
    return Requested(
        organization_id=organization_id,
        target=step.target,
        actor=SYSTEM,
        kind=step.kind,
        expected_version=stored.version,
        expected_entries=stored.audit_entries,
        reason=step.reason,
        order=step.order,
        stand_in=step.stand_in,
    )
