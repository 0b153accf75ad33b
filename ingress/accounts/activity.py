"""When something last went through each config, or was refused there: written now and then, not for each message."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

from providers import Unsupported, Webhook

from ..storage.database import Database
from ..storage.statements import health
from .config import Config

# How late other processes know it; what a process that is killed has not written is lost.
WRITE_EVERY_S = 10.0
WRITTEN_AT_ONCE = 1_000

Configs = Iterable[tuple[UUID, UUID]]  # organizations with a config of theirs


Seen = dict[tuple[UUID, UUID], datetime]


class Activity:
    """What this process has seen."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: Seen = {}
        self._refused: Seen = {}

    def note(self, configs: Configs) -> None:
        """Something came in through these, or was taken by their providers."""
        self._unwritten.update(dict.fromkeys(configs, datetime.now(UTC)))

    def note_refused(self, config: Config, hook: Webhook) -> None:
        """*hook* came to the address of *config*, and is not signed as its own are. Our own test of that is none."""
        if (key := (config.organization_id, config.id)) not in self._refused and not _is_probe(config, hook):
            self._refused[key] = datetime.now(UTC)

    def latest(self, organization_id: UUID, config_id: UUID, stored: datetime | None) -> datetime | None:
        """What this process knows and what is *stored* of a config, whichever is later."""
        return max(filter(None, (self._unwritten.get((organization_id, config_id)), stored)), default=None)

    async def write(self) -> None:
        """Write down what is not yet. Raises `StoreUnavailable`; then it is kept."""
        for kept, statement in ((self._unwritten, health.active), (self._refused, health.refused)):
            # What comes meanwhile waits for the next time: a busy config would be written for ever.
            due = iter([*kept.items()])
            while seen := dict(islice(due, WRITTEN_AT_ONCE)):
                async with self._database.worker() as connection:
                    await statement(connection, [(*config, at) for config, at in seen.items()])
                for config, at in seen.items():
                    if kept.get(config) == at:
                        del kept[config]


def _is_probe(config: Config, hook: Webhook) -> bool:
    try:
        return hook.body == config.provider.probe(hook.url).body
    except Unsupported:
        return False
