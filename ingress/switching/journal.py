"""What a change leaves behind: the entry of the trail, the event for the CRM, the notification of every process.

All three are of the change's transaction: they are there if it is, and the trail's order is that of the changes.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg

from .. import audit
from ..envelope import own_event
from ..storage.statements import events, switches
from ..storage.vault import Vault


class Transition(audit.AuditEntry, frozen=True, kw_only=True):
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
    ) -> None:
        """Write down all that a transaction changes, which leaves the organization at *version*.

        Once in a transaction: the events of one have their order by their places in it.
        """
        if transitions:
            await audit.record(connection, self._vault, organization_id, *transitions)
        rows = [
            own_event(
                organization_id,
                transition.about,
                transition.event,
                {name: value for name, value in transition.data.items() if value is not None},
            )
            for transition in transitions
            if transition.event is not None and transition.about is not None
        ]
        if rows:
            await events.add(connection, rows)
        await switches.notify(connection, organization_id, version)
