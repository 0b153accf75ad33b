"""That this process uses a switch, noted in the database: so whoever made it can say how many do."""

import asyncio
import logging
from time import monotonic
from uuid import UUID

from ..storage.database import Database, StoreUnavailable
from ..storage.statements import switches
from ..storage.statements.switches import Confirmed

logger = logging.getLogger("ingress.switching.confirmations")

# Whoever watches a switch waits so long for all processes to say that they use it: they do within a moment.
CONFIRMED_WITHIN_S, CONFIRMED_POLL_S = 2.0, 0.02


class Confirmations:
    """Those of one process; what comes while one is being written is written together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: set[tuple[UUID, int]] = set()
        self._writing: asyncio.Task[None] | None = None

    def add(self, organization_id: UUID, version: int) -> None:
        """The organization's *version* is used here from now on."""
        self._pending.add((organization_id, version))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._pending and (process := self._database.process) is not None:
            used, self._pending = self._pending, set()
            try:
                async with self._database.worker() as connection:
                    await switches.confirm(connection, process, used)
            except StoreUnavailable:
                logger.warning("the database is away; that %d switches are used here stays unconfirmed", len(used))


async def confirmed_by_all(database: Database, organization_id: UUID, version: int) -> Confirmed:
    """Which processes use a switch that was made just now: once all do, or after CONFIRMED_WITHIN_S."""
    until = monotonic() + CONFIRMED_WITHIN_S
    while True:
        async with database.organization(organization_id) as connection:
            found = await switches.confirmed(connection, organization_id, version)
        if found.confirmed == found.processes or monotonic() > until:
            return found
        await asyncio.sleep(CONFIRMED_POLL_S)
