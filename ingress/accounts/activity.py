"""When something last went through each config, or was refused there: written now and then, not for each message."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

import msgspec

from providers import Unsupported, Webhook

from ..storage.database import Database
from ..storage.statements import health
from ..storage.statements.health import ConfigHealth, Trace
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
        self._seen: dict[Trace, Seen] = {trace: {} for trace in health.NOTED}

    def note(self, trace: Trace, configs: Configs) -> None:
        """A webhook or a person's message came in through these, or their providers took a message."""
        self._seen[trace].update(dict.fromkeys(configs, datetime.now(UTC)))

    def note_refused(self, config: Config, hook: Webhook) -> None:
        """*hook* came to the address of *config*, and is not signed as its own are. Our own test of that is none."""
        refused, key = self._seen["refused"], (config.organization_id, config.id)
        if key not in refused and not _is_probe(config, hook):
            refused[key] = datetime.now(UTC)

    def latest(self, organization_id: UUID, config: ConfigHealth) -> ConfigHealth:
        """*config*, with what this process knows and has not written yet."""
        key, seen = (organization_id, config.config_id), self._seen
        webhook_at = _later(seen["webhook"].get(key), config.webhook_at)
        sent_at = _later(seen["sent"].get(key), config.sent_at)
        return msgspec.structs.replace(
            config,
            webhook_at=webhook_at,
            received_at=_later(seen["received"].get(key), config.received_at),
            sent_at=sent_at,
            last_activity=_later(webhook_at, sent_at, config.last_activity),
        )

    async def write(self) -> None:
        """Write down what is not yet. Raises `StoreUnavailable`; then it is kept."""
        for trace, kept in self._seen.items():
            # What comes meanwhile waits for the next time: a busy config would be written for ever.
            due = iter([*kept.items()])
            while seen := dict(islice(due, WRITTEN_AT_ONCE)):
                async with self._database.worker() as connection:
                    await health.noted(connection, trace, [(*config, at) for config, at in seen.items()])
                for config in seen.items() & kept.items():
                    del kept[config[0]]


def _later(*moments: datetime | None) -> datetime | None:
    return max(filter(None, moments), default=None)


def _is_probe(config: Config, hook: Webhook) -> bool:
    try:
        return hook.body == config.provider.probe(hook.url).body
    except Unsupported:
        return False
