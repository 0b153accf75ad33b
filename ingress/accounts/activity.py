"""When something last went in or out through each config: not a write a message, but one a config now and then."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

from ..storage.database import Database
from ..storage.statements import health

# How late other processes know it; what a process that is killed has not written is lost.
WRITE_EVERY_S = 10.0
WRITTEN_AT_ONCE = 1_000

Configs = Iterable[tuple[UUID, UUID]]  # organizations with a config of theirs


class Activity:
    """What this process has seen."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: dict[tuple[UUID, UUID], datetime] = {}

    def note(self, configs: Configs) -> None:
        """Something came in through these, or was taken by their providers."""
        self._unwritten.update(dict.fromkeys(configs, datetime.now(UTC)))

    def latest(self, organization_id: UUID, config_id: UUID, stored: datetime | None) -> datetime | None:
        """What this process knows and what is *stored* of a config, whichever is later."""
        return max(filter(None, (self._unwritten.get((organization_id, config_id)), stored)), default=None)

    async def write(self) -> None:
        """Write down what is not yet. Raises `StoreUnavailable`; then it is kept."""
        while seen := dict(islice(self._unwritten.items(), WRITTEN_AT_ONCE)):
            async with self._database.worker() as connection:
                await health.active(connection, [(*config, at) for config, at in seen.items()])
            for config, at in seen.items():
                if self._unwritten.get(config) == at:
                    del self._unwritten[config]
