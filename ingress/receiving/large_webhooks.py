"""Large webhooks: acknowledged as they came, and read in the background, where nobody else waits for it."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import monotonic
from uuid import UUID

import asyncpg
import msgspec

from providers import Webhook

from .. import identifiers, log
from ..accounts.config import Config
from ..storage.database import Database, StoreUnavailable, is_data_error
from ..storage.group_commit import GroupCommit, Overloaded, Reply
from ..storage.statements.receiving import unread
from ..storage.statements.receiving.inbound import WebhookRow
from ..switching.manager import WhatsAppProviderManager
from ..wakeups import Wakeups
from .normalise import (
    NOTHING_STORED,
    PARSER_FAILED,
    REFUSED,
    ReadWebhook,
    StoredWebhook,
    VerifiedWebhook,
    kept_headers,
    quarantine_row,
    read_slices,
    set_aside,
    unreadable_body,
)

logger = logging.getLogger("ingress.receiving.large_webhooks")

# A webhook is large by its bytes, or by its items, of which it has one more than commas at most. An ordinary one has a
# dozen commas or a few, so these are batches of dozens of messages. A small one has no room for so many.
SMALL_BYTES, LARGE_BYTES = 4 * 1024, 64 * 1024
LARGE_COMMAS = 1_000
# What another process left is looked for so often; what this one stored is read at once.
POLL_S = 5.0
# What was begun so often, by processes that died or had not the plug-in for it, goes to quarantine.
MAX_TRIES = 10
GIVE_BACK_S = 2.0
# A transaction has room for no more events (see `events` in schema.sql).
MAX_PLACES = 0xFFFF


def is_large(body: bytes) -> bool:
    return len(body) > LARGE_BYTES or body.count(b",") > LARGE_COMMAS


Store = Callable[[asyncpg.Connection, ReadWebhook, int], Awaitable[StoredWebhook]]


class _Lost(Exception):
    """Another process has the lease now."""


class LargeWebhooks:
    """Keeps large webhooks, and reads them: each organization's in turn, one at a time. Enter it once a process.

    What *store* is given of one follows the sequence that its webhook was stored at, and readers of events wait there
    until all of it is read (ingress/storage/statements/receiving/unread.py). So the order is that of receipt,
    whichever process reads when.
    """

    def __init__(self, database: Database, manager: WhatsAppProviderManager, wakeups: Wakeups, store: Store) -> None:
        self._database = database
        self._manager = manager
        self._wakeups = wakeups
        self._store = store
        # One a transaction, whose sequences are for it alone.
        self._commit: GroupCommit[VerifiedWebhook, StoredWebhook] = GroupCommit(
            "large", database, self._keep, batch_weight=1
        )
        self._arrived = asyncio.Event()
        self._turn = UUID(int=0)  # the organization served last
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "LargeWebhooks":
        await self._commit.__aenter__()
        self._reader = asyncio.create_task(self._read_forever())
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Store what is queued. What is not read, another process reads, or this one after its next start."""
        await self._commit.__aexit__(*reason)
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.wait({self._reader})

    def enqueue(self, verified: VerifiedWebhook, reply: Reply[StoredWebhook]) -> None:
        """Queue *verified* to be stored as it came. Raises `Overloaded`."""
        size_bytes = len(verified.hook.body)
        self._commit.enqueue(verified, reply, organization=verified.config.share, size_bytes=size_bytes)

    async def _keep(self, connection: asyncpg.Connection, batch: Sequence[VerifiedWebhook]) -> list[StoredWebhook]:
        [verified] = batch
        config, hook = verified.config, verified.hook
        row = WebhookRow(config.organization_id, config.id, kept_headers(hook), hook.body, (), ())
        if not await unread.keep(connection, row, hook.url.partition("?")[2]):
            raise Overloaded
        self._arrived.set()
        return [NOTHING_STORED]

    # -- reading

    async def _read_forever(self) -> None:
        while True:
            self._arrived.clear()
            try:
                while await self._read_next():
                    continue
            except StoreUnavailable:
                logger.warning("the database is away; large webhooks wait")
            except Exception:  # the loop must live on, for everybody's
                logger.exception("large webhooks cannot be read")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._arrived.wait()

    async def _read_next(self) -> bool:
        """Read one webhook; False where there is none. One that fails is tried again when its lease has run out."""
        lease_id = identifiers.new_id()
        async with self._database.worker() as connection:
            found = await unread.claim(connection, lease_id, self._turn)
        if found is None:
            return False
        self._turn = found.organization_id
        await self._read(found, lease_id)
        return True

    async def _read(self, found: unread.UnreadWebhook, lease_id: UUID) -> None:
        webhook = _LargeWebhook(self._database, found, lease_id, self._store)
        try:
            await webhook.run(self._manager)
            for organization_id in {found.organization_id, *webhook.organizations}:
                self._wakeups.notify(organization_id)
        except (StoreUnavailable, asyncio.CancelledError):
            await self._give_back(found, lease_id)
            raise
        except _Lost:
            logger.warning("a large webhook took too long, and another process reads it")
        except Exception:  # the next one may be readable, and this one is tried again when its lease has run out
            logger.exception("a large webhook cannot be read now")

    async def _give_back(self, found: unread.UnreadWebhook, lease_id: UUID) -> None:
        """For whoever comes next, at once; where the database is away, when the lease has run out."""
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_S), self._database.worker() as connection:
                await unread.give_back(connection, found.organization_id, found.sequence, lease_id)


class _LargeWebhook:
    """One webhook on its way from `unread_webhooks` into events. What is stored twice is known by its keys."""

    def __init__(self, database: Database, found: unread.UnreadWebhook, lease_id: UUID, store: Store) -> None:
        self._database = database
        self._found = found
        self._lease = found.organization_id, found.sequence, lease_id
        self._store = store
        self._config: Config | None = None  # it is gone
        self.organizations: set[UUID] = set()  # that new events may be for
        self._events = self._fresh = 0
        self._is_refused = False

    async def run(self, manager: WhatsAppProviderManager) -> None:
        """Raises `_Lost`, `StoreUnavailable`, `InvalidConfiguration`."""
        started = monotonic()
        found = self._found
        self._config = config = await manager.receiver(found.organization_id, found.config_id)
        async for first, row in self._rows(manager, config):
            await self._write(first, row)
        if self._is_refused:  # the last slice says whether others' items are in the whole of it
            await self._write(first, await self._whole(manager, row))
        async with self._database.worker() as connection:
            await unread.finish(connection, found.organization_id, found.sequence)
        self._log(started)

    def _log(self, started: float) -> None:
        log.wide(
            "webhook_read",
            organization=self._found.organization_id,
            config=self._found.config_id,
            provider=self._provider_name,
            events=self._events,
            fresh=self._fresh,
            ms=round((monotonic() - started) * 1000, 1),
        )

    async def _whole(self, manager: WhatsAppProviderManager, last: ReadWebhook) -> ReadWebhook:
        """All of the body as it goes to quarantine, given the *last* slice of it."""
        whole = await set_aside(manager, last, REFUSED)
        quarantined = [msgspec.structs.replace(item, partly_taken=self._events > 0) for item in whole.quarantine]
        return msgspec.structs.replace(whole, quarantine=quarantined)

    @property
    def _provider_name(self) -> str:
        return self._config.provider_type if self._config else "other"

    async def _rows(
        self, manager: WhatsAppProviderManager, config: Config | None
    ) -> AsyncIterator[tuple[int, ReadWebhook]]:
        found = self._found
        if config is None or found.tries > MAX_TRIES:
            yield 0, await self._unreadable(manager, config)
            return
        async for first, row in read_slices(manager, config, self._hook(config.usable()), found.received_at):
            yield first, row

    def _hook(self, config: Config) -> Webhook:
        found = self._found
        query = f"?{found.query}" if found.query else ""
        url = config.callback_url.partition("#")[0] + query
        return Webhook(method="POST", url=url, headers=json.loads(found.headers), body=found.body)

    async def _unreadable(self, manager: WhatsAppProviderManager, config: Config | None) -> ReadWebhook:
        found = self._found
        if config is None:  # who else has its secret, nobody can say any more
            quarantined = quarantine_row(PARSER_FAILED, found.body, foreign_item=True)
        else:
            quarantined = await unreadable_body(manager, config, PARSER_FAILED, found.body)
        quarantined = msgspec.structs.replace(quarantined, partly_taken=found.tries > 1)
        whose = found.organization_id, found.config_id
        return ReadWebhook(config, *whose, found.headers, found.body, (), [quarantined], is_kept=True)

    async def _write(self, first: int, row: ReadWebhook) -> None:
        """Store a slice, whose events come from the place *first* on; where the database refuses it, without them."""
        if first + len(row.events) > MAX_PLACES:
            self._is_refused, row = True, msgspec.structs.replace(row, events=())
        try:
            await self._write_once(first, row)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not row.events or not is_data_error(error):
                raise
            self._is_refused = True
            foreign = [item for item in row.quarantine if item.foreign_item]
            await self._write_once(first, msgspec.structs.replace(row, events=(), quarantine=foreign))

    async def _write_once(self, first: int, row: ReadWebhook) -> None:
        async with self._database.worker() as connection, connection.transaction():
            if not await unread.renew(connection, *self._lease):
                raise _Lost
            stored = await self._store(connection, row, self._sequence(first))
        self._events += stored.events
        self._fresh += len(stored.sequences)
        self.organizations.update(stored.organizations)

    def _sequence(self, first: int) -> int:
        """Where the event at the place *first* is stored: behind its webhook's own sequence.

        What came in at an app's address is of many organizations, and none of them waits for it: 0, so that it comes
        after what they have read already.
        """
        return 0 if self._config is None or self._config.is_app else self._lease[1] + first
