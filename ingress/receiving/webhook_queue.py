"""Verified webhooks on their way into the database, read where they are written: a batch at a time."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from providers import Contact, Malformed

from .. import metrics
from ..envelope import Conversation
from ..people.directory import Directory, Encounter, encounter_of, introduce
from ..storage.connections import atomic
from ..storage.database import Database, StoreUnavailable
from ..storage.group_commit import GroupCommit, Reply, RowRefused
from ..storage.statements.contacts import ContactsOutdated, ConversationNamed, are_merged
from ..storage.statements.events import add
from ..storage.statements.health import look_soon
from ..storage.statements.receiving.inbound import KeyedEvent, QuarantineRow, Stored, WebhookRow, store
from ..switching.manager import WhatsAppProviderManager
from ..wakeups import Wakeups
from .completion import complete, with_contact_events
from .large_webhooks import SMALL_BYTES, LargeWebhooks, is_large
from .normalise import NOTHING_STORED, REFUSED, ReadWebhook, StoredWebhook, VerifiedWebhook, read, set_aside
from .own_messages import OnePerson

# What may say that an account does better, or worse.
ACCOUNT_UPDATED = "account.updated"
# A statement stores so many events, or a few more where the last webhook has more of them: their readers wait for it.
MAX_FLUSH_EVENTS = 500
# What a webhook weighs in the queue is its size, from this on.
LIGHT_BYTES, BYTES_A_ROW = 16 * 1024, 2 * 1024


# Of events, by provider, type and what became of them: for each one a counter of the metrics costs more than this.
_Counts = Counter[tuple[str, str, str]]


class WebhookQueue:
    """Queues webhooks and stores them. Enter it once a process.

    Read in a row, thirty take two thirds of the time they take each on its own, between two calls of the system.
    """

    def __init__(
        self,
        database: Database,
        manager: WhatsAppProviderManager,
        directory: Directory,
        wakeups: Wakeups,
        held: asyncio.Event,
    ) -> None:
        self._manager = manager
        self._directory = directory
        self._wakeups = wakeups
        self._held = held
        self._commit: GroupCommit[VerifiedWebhook, StoredWebhook] = GroupCommit(
            "ingest", database, self._write, flushers=2
        )
        self._large = LargeWebhooks(database, manager, wakeups, self._store_slice)

    async def __aenter__(self) -> "WebhookQueue":
        await self._commit.__aenter__()
        await self._large.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._large.__aexit__(*reason)
        await self._commit.__aexit__(*reason)

    def enqueue(self, verified: VerifiedWebhook, reply: Reply[StoredWebhook]) -> None:
        """Queue *verified*, and call *reply* once with its outcome. Raises `Overloaded`."""
        size_bytes = len(verified.hook.body)
        if verified.refused:
            size_bytes = 0  # one at a time, and in no need of reading
        elif size_bytes > SMALL_BYTES and is_large(verified.hook.body):
            self._large.enqueue(verified, reply)
            return
        self._commit.enqueue(
            verified,
            reply,
            organization=verified.config.share,
            weight=1 if size_bytes <= LIGHT_BYTES else 1 + (size_bytes - LIGHT_BYTES) // BYTES_A_ROW,
            size_bytes=size_bytes,
        )

    async def submit(self, verified: VerifiedWebhook) -> StoredWebhook:
        """Queue *verified* and wait until it is stored. Raises `Malformed` where the database refuses it."""
        try:
            stored = await self._commit.submit(verified, organization=verified.config.share)
        except RowRefused as error:
            raise Malformed from error
        self.notify(stored)
        return stored

    def notify(self, stored: StoredWebhook) -> None:
        for organization_id in stored.organizations:
            self._wakeups.notify(organization_id)

    async def _write(
        self, connection: asyncpg.Connection, batch: Sequence[VerifiedWebhook]
    ) -> Sequence[StoredWebhook | Exception]:
        webhooks, failed = await self._read(batch)
        stored = await self._store(connection, webhooks) if webhooks else []
        if not failed:
            return stored
        succeeded = iter(stored)
        return [failed.get(place) or next(succeeded) for place in range(len(webhooks) + len(failed))]

    async def _read(self, batch: Sequence[VerifiedWebhook]) -> tuple[list[ReadWebhook], dict[int, StoreUnavailable]]:
        """What the first of *batch* say; and, by place, why one cannot be read yet."""
        webhooks: list[ReadWebhook] = []
        failed: dict[int, StoreUnavailable] = {}
        events, now = 0, datetime.now(UTC)
        for place, verified in enumerate(batch):
            try:
                webhook = verified.read or await read(self._manager, verified.config, verified.hook, now)
                if verified.refused:
                    webhook = await set_aside(self._manager, webhook, REFUSED)
            except StoreUnavailable as error:  # whose its items are cannot be asked: its neighbours need not
                failed[place] = error.with_traceback(None)  # which holds this frame, and so the error
                continue
            webhooks.append(webhook)
            events += len(webhook.events) + len(webhook.quarantine)
            if events >= MAX_FLUSH_EVENTS:
                break
        return webhooks, failed

    async def _store_slice(self, connection: asyncpg.Connection, webhook: ReadWebhook, start: int) -> StoredWebhook:
        [stored] = await self._store(connection, [webhook], start)
        return stored

    async def _store(
        self, connection: asyncpg.Connection, webhooks: Sequence[ReadWebhook], start: int = 0
    ) -> list[StoredWebhook]:
        """Store *webhooks* (see `inbound.store`). What became of each."""
        encounters = [encounter_of(owned.event, owned.owner) for webhook in webhooks for owned in webhook.events]
        try:
            rows, stored = await self._store_people(connection, webhooks, encounters, start)
        except ContactsOutdated:
            self._directory.forget(filter(None, encounters))
            rows, stored = await self._store_people(connection, webhooks, encounters, start)
        new = [keyed.event for row, each in zip(rows, stored, strict=True) if each.sequences for keyed in row.events]
        self._manager.activity.note("webhook", ((event.organization_id, event.config_id) for event in new))
        written = ((event.organization_id, event.config_id) for event in new if event.type == "message.received")
        self._manager.activity.note("received", written)
        if metrics.by_organization.named:
            for organization_id, many in Counter(event.organization_id for event in new).items():
                metrics.by_organization.count(metrics.by_organization.events, organization_id, many)
        if any(keyed.waiting is not None for row in rows for keyed in row.events):
            self._held.set()
        counts: _Counts = Counter()
        became = [
            _counted(webhook.provider, row, each, counts)
            for webhook, row, each in zip(webhooks, rows, stored, strict=True)
        ]
        for labels, count in counts.items():
            metrics.child(metrics.ingest_events, *labels).inc(count)
        return became

    async def _store_people(
        self,
        connection: asyncpg.Connection,
        webhooks: Sequence[ReadWebhook],
        encounters: Sequence[Encounter | None],
        start: int,
    ) -> tuple[list[WebhookRow], list[Stored]]:
        try:
            return await self._store_once(connection, webhooks, encounters, start)
        except OnePerson as found:
            joined = [_joined(each, found.sent_to.get(place)) for place, each in enumerate(encounters)]
            return await self._store_once(connection, webhooks, joined, start, joined=True)

    async def _store_once(
        self,
        connection: asyncpg.Connection,
        webhooks: Sequence[ReadWebhook],
        encounters: Sequence[Encounter | None],
        start: int,
        *,
        joined: bool = False,
    ) -> tuple[list[WebhookRow], list[Stored]]:
        """In one statement, where all people are remembered; else in a transaction that introduces the others first.

        Raises `ContactsOutdated`: what is remembered of people is wrong; and `OnePerson`, unless that is *joined*.
        """
        known = [self._directory.known(each) if each is not None else None for each in encounters]
        new = [place for place, each in enumerate(encounters) if each is not None and known[place] is None]
        is_slice = connection.is_in_transaction()
        async with atomic(connection) if new or is_slice else nullcontext():
            strangers = [each for place in new if (each := encounters[place]) is not None]
            met = await introduce(connection, strangers) if new else []
            if new:
                await self._check(connection, zip(encounters, known, strict=True))
            for place, found in zip(new, met, strict=True):
                known[place] = found.conversation
            rows = await complete(connection, self._manager, webhooks, known, joined=joined)
            if contact_events := {place: found.events for place, found in zip(new, met, strict=True) if found.events}:
                if start:  # the places of a large webhook are all taken: these come after it
                    await add(connection, [event for events in contact_events.values() for event in events])
                else:
                    rows = with_contact_events(rows, webhooks, contact_events)
            # Of those who were met just now, one may be another by now, and known to be.
            stored = await store(connection, rows, start, remembered=not new)
            await _look_soon(connection, rows)
        self._directory.forget_contacts({contact_id for found in met for contact_id in found.bereft})
        if not is_slice:  # which is not committed yet
            self._directory.remember((each, found.conversation) for each, found in zip(strangers, met, strict=True))
        return rows, stored

    @staticmethod
    async def _check(
        connection: asyncpg.Connection, known: Iterable[tuple[Encounter | None, Conversation | None]]
    ) -> None:
        """Raise `ContactsOutdated` where what is remembered is wrong."""
        named = {
            ConversationNamed(encounter.config.organization_id, conversation.id)
            for encounter, conversation in known
            if encounter is not None and conversation is not None
        }
        if named and await are_merged(connection, named):
            raise ContactsOutdated


async def _look_soon(connection: asyncpg.Connection, rows: Sequence[WebhookRow]) -> None:
    updated = {
        (keyed.event.organization_id, keyed.event.config_id)
        for row in rows
        for keyed in row.events
        if keyed.event.type == ACCOUNT_UPDATED
    }
    if updated:
        await look_soon(connection, sorted(updated))


def _counted(provider: str, row: WebhookRow, stored: Stored, counts: _Counts) -> StoredWebhook:
    """What became of *row*, counted in the metrics, and its events in *counts*."""
    outcome = "stored" if stored.sequences else "duplicate"
    for keyed in row.events:
        counts[provider, keyed.event.type, outcome] += 1
    for value, became in stored.statuses:
        metrics.child(metrics.status_updates, provider, value, became).inc()
    reasons = _reasons(provider, row.quarantine) if row.quarantine else NOTHING_STORED.quarantined
    organizations = _organizations(row.events) if stored.sequences else ()
    return StoredWebhook(len(row.events), stored.sequences, reasons, organizations)


def _organizations(events: Sequence[KeyedEvent]) -> Collection[UUID]:
    if len(events) == 1:
        return (events[0].event.organization_id,)
    return {keyed.event.organization_id for keyed in events}


def _reasons(provider: str, quarantine: Sequence[QuarantineRow]) -> frozenset[str]:
    for item in quarantine:
        metrics.child(metrics.quarantined, provider, item.reason).inc()
    return frozenset([item.reason for item in quarantine])


def _joined(encounter: Encounter | None, sent_to: Contact | None) -> Encounter | None:
    return encounter.joined(sent_to) if encounter and sent_to else encounter
