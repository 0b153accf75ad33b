"""What a change leaves behind: the entry of the trail, the event for the CRM, the notification of every process.

All three are of the change's transaction: they are there if it is, and the trail's order is that of the changes. Those
of a switch are made here; those of other changes beside what makes them.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg

from ..accounts.config import Config
from ..audit import trail
from ..envelope import own_event
from ..storage.statements import switches
from ..storage.statements.events import EventRow
from ..storage.vault import Vault
from .change import Ready, Requested


class Transition(trail.AuditEntry, frozen=True, kw_only=True):
    """A change as the trail has it; and where the CRM is to know, the event of that type, ``about`` a config."""

    event: str | None = None
    about: UUID | None = None
    data: Mapping[str, Any] = {}  # of the event; what is None is left out

    def __repr__(self) -> str:
        return f"Transition({self.action!r})"


class Journal:
    """Writes transitions down. Nobody else writes the three of one apart."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def write(
        self, connection: asyncpg.Connection, organization_id: UUID, version: int, *transitions: Transition
    ) -> int | None:
        """Write down all that a transaction changes, which leaves the organization at *version*.

        The number of the last entry, None where there is none. Once in a transaction: the events of one have their
        order by their places in it.
        """
        if not transitions:
            await switches.notify(connection, organization_id, version)
            return None
        events = [event for each in transitions if (event := _event(organization_id, each)) is not None]
        return await trail.record(
            connection, self._vault, organization_id, *transitions, events=events, version=version
        )


def _event(organization_id: UUID, transition: Transition) -> EventRow | None:
    if transition.event is None or transition.about is None:
        return None
    data = {name: value for name, value in transition.data.items() if value is not None}
    return own_event(organization_id, transition.about, transition.event, data)


def switch_begun(request: Requested, config: Config, state: str, masked: dict[str, Any]) -> Transition:
    """A config that is taken into `switching`, out of *state*; *masked* is its configuration."""
    return Transition(
        action="switching",
        actor=request.actor,
        config_id=config.id,
        before={"state": state},
        after={"state": "switching", "config_data": masked},
        reason=request.reason,
    )


def switch_made(ready: Ready, version: int, phases: Mapping[str, float]) -> list[Transition]:
    """A switch that is made: what is active now, after what was; and what its parts took, in milliseconds."""
    request, former = ready.begun.request, ready.begun.standing.active_config_id
    deactivated = Transition(
        action="deactivated",
        actor=request.actor,
        config_id=former,
        version=version,
        before={"state": "active"},
        after={"state": "inactive"},
    )
    activated = _activated(ready, version, phases)
    return [activated] if former is None else [deactivated, activated]


def _activated(ready: Ready, version: int, phases: Mapping[str, float]) -> Transition:
    begun, request = ready.begun, ready.begun.request
    config_id, former = begun.config.id, begun.standing.active_config_id
    about = {"kind": request.kind, "reason": request.reason}
    checks = {check.name: check.passed for check in ready.checks}
    tests = {"forced": True} if request.force else {"checks": checks}
    return Transition(
        action="activated",
        actor=request.actor,
        config_id=config_id,
        version=version,
        before={"active_config_id": former},
        after={"active_config_id": config_id, "kind": request.kind, **tests, "phases_ms": phases},
        reason=request.reason,
        event="provider.switched",
        about=config_id,
        data={"provider": begun.config.provider_type, "version": version, "from_config_id": former, **about},
    )
