"""A switch that is not made: the former state, the trail, the event; also after a process that died in the middle."""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from .. import metrics
from ..accounts.accounts import Accounts
from ..accounts.config import ChangeRefused, NewConfig, TestFailed
from ..audit.trail import RECORDED, SYSTEM, Actor
from ..storage.database import Busy, Database, Exclusive
from ..storage.statements import switches
from ..storage.statements.switches import OpenSwitch, Standing
from .change import Begun
from .journal import Journal, Transition
from .report import Report

logger = logging.getLogger("ingress.switching.undo")


class Undo:
    """Takes switches back."""

    def __init__(self, database: Database, accounts: Accounts, journal: Journal) -> None:
        self._database = database
        self._accounts = accounts
        self._journal = journal

    async def abort(
        self, exclusive: Exclusive, standing: Standing, stage: Begun | NewConfig, error: Exception, report: Report
    ) -> None:
        """Give the config its former state, and the reason to everybody; a new configuration is not stored yet.

        What cannot be written now is put back by `recover`.
        """
        try:
            async with exclusive.transaction() as connection:
                transition = await self._ended(connection, report, standing, stage, error)
                if transition is None:
                    return  # the commit that nobody confirmed was made
                entry = await self._journal.write(
                    connection, report.request.organization_id, standing.version, transition
                )
            if isinstance(error, ChangeRefused):
                error.entry = entry
            error.add_note(RECORDED)
            count([transition])
        except Exception:  # the caller gets why the switch failed, not why it could not be taken back here
            logger.exception("a switch that failed is left to be put back")

    async def _ended(
        self,
        connection: asyncpg.Connection,
        report: Report,
        standing: Standing,
        stage: Begun | NewConfig,
        error: Exception,
    ) -> Transition | None:
        request = report.request
        after: dict[str, Any] = {**_failed(error), "phases_ms": report.phases}
        about = {"kind": request.kind, "reason": error.code if isinstance(error, ChangeRefused) else "error"}
        if not isinstance(stage, Begun):
            after["config_data"] = self._accounts.masked_data(stage.provider_type, stage.config_data)
            return _rolled_back(standing, request.actor, None, stage.provider_type, about, after)
        failed, state = stage.config, "error" if isinstance(error, TestFailed) else stage.former_state
        if not await switches.end(connection, request.organization_id, failed.id, state):
            return None
        return _rolled_back(standing, request.actor, failed.id, failed.provider_type, about, {"state": state, **after})

    async def recover(self) -> None:
        """Put back what processes that died have left, and what waited too long. Raises `StoreUnavailable`."""
        async with self._database.worker() as connection:
            broken_off = await switches.broken_off(connection)
        for organization_id in broken_off:
            await self.recover_one(organization_id, "process_died")

    async def recover_one(self, organization_id: UUID, code: str) -> None:
        """The same of one organization, unless it is being changed; *code* is why. Raises `StoreUnavailable`."""
        try:
            async with (
                self._database.exclusive(organization_id, wait=False) as exclusive,
                exclusive.transaction() as connection,
            ):
                standing = await switches.standing(connection, organization_id)
                if standing is None or not (rows := _stale(standing)):
                    return  # it was one, and ended
                transitions = await self.put_back(connection, organization_id, standing, rows, code)
                await self._journal.write(connection, organization_id, standing.version, *transitions)
        except Busy:
            return  # no rest of a switch, but one that is under way
        count(transitions)

    async def put_back(
        self,
        connection: asyncpg.Connection,
        organization_id: UUID,
        standing: Standing,
        rows: Sequence[OpenSwitch],
        code: str = "process_died",
    ) -> list[Transition]:
        """Give the configs of these switches their former state: what the caller writes down with its own change.

        Under the lock. *code* is the reason where a process has left one; another one waited for a phone too long, or
        its place is taken by the caller's.
        """
        ended = [
            row for row in rows if await switches.end(connection, organization_id, row.config_id, row.former_state)
        ]  # any other was taken back before
        return [_put_back(standing, row, code) for row in ended]


def _failed(error: Exception) -> dict[str, Any]:
    """Which checks refused it."""
    failed = [check.name for check in getattr(error, "checks", ()) if check.fatal and not check.passed]
    return {"failed_checks": failed} if failed else {}


def _put_back(standing: Standing, row: OpenSwitch, code: str) -> Transition:
    reason = "superseded" if row.is_waiting else "pairing_timed_out" if row.waits_until else code
    about = {"kind": row.kind, "reason": reason}
    return _rolled_back(standing, SYSTEM, row.config_id, row.provider_type, about, {"state": row.former_state})


def _rolled_back(
    standing: Standing, actor: Actor, failed: UUID | None, provider: str, about: dict[str, str], after: dict[str, Any]
) -> Transition:
    """The event is about the config in force, and names the other one; without any config there is none."""
    names = {"provider": standing.active_provider or provider, "failed_config_id": failed, "failed_provider": provider}
    return Transition(
        action="rolled_back",
        outcome="undone",
        actor=actor,
        config_id=failed,
        provider=provider,
        version=standing.version,
        before={"state": "switching"} if failed else None,
        after={**after, "active_config_id": standing.active_config_id},
        reason=about["reason"],
        event="provider.rolled_back",
        about=standing.active_config_id or failed,
        data={**names, **about, "version": standing.version},
    )


def _stale(standing: Standing) -> list[OpenSwitch]:
    """Under the lock: what waits for no phone belongs to nobody any more."""
    return [row for row in standing.open if not row.is_waiting]


def count(transitions: Sequence[Transition]) -> None:
    """Once they are committed."""
    for transition in transitions:
        if transition.action == "rolled_back":
            metrics.switch_rollbacks.labels(transition.reason).inc()
