"""A change that is not made: the former state, the trail, the event; also after a process that died in the middle."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from .. import audit, metrics
from ..accounts.accounts import ChangeRefused, TestFailed
from ..audit import SYSTEM
from ..envelope import own_event
from ..storage.database import Busy, Database, Exclusive
from ..storage.statements import events, health, switches
from ..storage.statements.events import EventRow
from ..storage.vault import Vault
from .change import CHANNEL, Change

logger = logging.getLogger("ingress.switching.undo")


class Undoing:
    """Takes changes back."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def recover(self) -> None:
        """Restore what processes that died have left in `switching`. Raises `StoreUnavailable`."""
        async with self._database.worker() as connection:
            left = await switches.broken_off(connection)
        for organization_id in left:
            await self.recover_one(organization_id, "process_died")

    async def recover_one(self, organization_id: UUID, code: str) -> None:
        """The same of one organization, unless it is being changed; *code* is why. Raises `StoreUnavailable`."""
        try:
            async with self._database.exclusive(organization_id, wait=False) as exclusive:
                async with exclusive.transaction() as connection:
                    if organization_id not in await switches.broken_off(connection):
                        return  # it was one, and ended
                await self.restore(exclusive, organization_id, code)
        except Busy:
            return  # it is no rest of a switch, but one

    async def undo(self, exclusive: Exclusive, change: Change, error: Exception) -> None:
        """The former state, and everybody told why. What cannot be written now is restored by whoever comes next."""
        code = error.code if isinstance(error, ChangeRefused) else "error"
        refused = isinstance(error, TestFailed) and change.state != ""
        state = "error" if refused else change.state
        try:
            async with exclusive.transaction() as connection:
                begun = change.config if change.state else None
                if begun and not await switches.leave(connection, change.organization_id, begun.id, state):
                    return  # the commit that nobody confirmed was made
                if told := await self._told(connection, change, code, state):
                    await events.add(connection, told)
            _count([code])
        except Exception:  # the caller is told why the switch failed, not why it could not be taken back here
            logger.exception("a switch that failed is left to be restored")

    async def restore(self, exclusive: Exclusive, organization_id: UUID, code: str = "process_died") -> None:
        """Under the lock, what is in `switching` and waits for no phone belongs to nobody any more; *code* is why."""
        async with exclusive.transaction() as connection:
            rows = [row for row in await switches.moving(connection, organization_id) if not row["waiting"]]
            codes = [code if row["waiting"] is None else "pairing_timed_out" for row in rows]
            if rows:
                await events.add(connection, await self._restore(connection, organization_id, rows, codes))
        _count(codes)

    @asynccontextmanager
    async def superseding(
        self, exclusive: Exclusive, organization_id: UUID, config_id: UUID | None = None
    ) -> AsyncIterator[tuple[asyncpg.Connection, list[EventRow]]]:
        """A transaction in which a change takes the place of the switch that waits for a phone, where one does.

        With *config_id* only of a switch to that config. The events in the list are stored at its end, all at once.
        """
        async with exclusive.transaction() as connection:
            rows = [
                row
                for row in await switches.moving(connection, organization_id)
                if row["waiting"] and config_id in (None, row["id"])
            ]
            codes = ["superseded"] * len(rows)
            told = await self._restore(connection, organization_id, rows, codes) if rows else []
            yield connection, told
            if told:
                await events.add(connection, told)
        _count(codes)

    async def _restore(
        self, connection: asyncpg.Connection, organization_id: UUID, rows: Sequence[asyncpg.Record], codes: list[str]
    ) -> list[EventRow]:
        """Give these configs the state they had before, each for the reason in its place: the events of it."""
        standing = await switches.standing(connection, organization_id)
        assert standing is not None
        told: list[EventRow] = []
        for row, code in zip(rows, codes, strict=True):
            change = Change(organization_id, SYSTEM, "switch", None)
            change.version, change.active = standing["version"], standing["active_config_id"]
            change.provider_type, change.state = row["provider_type"], row["state"]
            await switches.leave(connection, organization_id, row["id"], row["state"])
            await health.stop_waiting(connection, organization_id, row["id"])
            told += await self._told(connection, change, code, row["state"], row["id"])
        return told

    async def _told(
        self, connection: asyncpg.Connection, change: Change, code: str, state: str, config_id: UUID | None = None
    ) -> list[EventRow]:
        """The entry, and the event to be stored. It is about the config in force, and names the other one."""
        failed = config_id or (change.config.id if change.config and change.state else None)
        await audit.record(
            connection,
            self._vault,
            change.organization_id,
            change.actor,
            "rolled_back",
            config_id=failed,
            version=change.version,
            before={"state": "switching"} if failed else None,
            after={"state": state, "active_config_id": change.active} if failed else None,
            reason=code,
        )
        await health.tell(connection, change.organization_id, CHANNEL, change.version)
        about = change.active or failed
        if about is None:
            return []  # the organization has no config at all that an event could be about
        news = {"provider": change.provider_type, "version": change.version, "kind": change.kind, "reason": code}
        if failed:
            news["failed_config_id"] = failed
        return [own_event(change.organization_id, about, "provider.rolled_back", news)]


def _count(codes: Sequence[str]) -> None:
    """Once it is committed."""
    for code in codes:
        metrics.switch_rollbacks.labels(code).inc()
