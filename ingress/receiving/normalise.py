"""What a verified webhook says: events of its config, of the config's siblings, and what belongs to neither."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from uuid import UUID

import msgspec

from providers import Event, Malformed, Unverified, Webhook

from .. import identifiers, metrics
from ..accounts.config import Config
from ..metrics.labels import OTHER
from ..storage.database import StoreUnavailable
from ..storage.statements.receiving.inbound import MAX_AHEAD, QuarantineRow
from ..switching.manager import WhatsAppProviderManager
from ..validation import Unlogged

logger = logging.getLogger("ingress.receiving.normalise")
_encode = msgspec.json.Encoder().encode

# Why a body is put into quarantine.
MALFORMED, PARSER_FAILED, REFUSED, FOREIGN, STALE = "malformed", "parser_failed", "refused_by_store", "foreign", "stale"
# So many events of a large webhook are made rows of at once: a few milliseconds of the event loop.
SLICE_EVENTS = 500
# Of a webhook's headers these are kept: what it is verified and read by, and what finds it in the provider's own log.
# No others: a proxy's or a provider's credentials may be among them.
_KEPT_HEADERS = frozenset({"content-type", "content-length", "user-agent", "traceparent", "tracestate", "webhook-id"})
_KEPT_PARTS = ("signature", "hmac", "idempotency", "request-id", "timestamp")


class OwnedEvent(Unlogged, frozen=True):
    """An event, and the config that it belongs to."""

    event: Event
    owner: Config


class ReadWebhook(Unlogged, frozen=True):
    """A verified webhook with everything it says. ``receiver``: whose address it came to; None: that is gone."""

    receiver: Config | None
    organization_id: UUID
    config_id: UUID
    headers: bytes
    body: bytes
    events: Sequence[OwnedEvent]
    quarantine: Sequence[QuarantineRow]
    is_kept: bool = False  # its headers and body are stored already

    @property
    def provider(self) -> str:
        return self.receiver.provider_type if self.receiver else OTHER


class VerifiedWebhook(msgspec.Struct, frozen=True):
    """A verified webhook on its way into the database."""

    config: Config
    hook: Webhook
    refused: bool = False  # the database refused it: now its body goes to quarantine
    read: ReadWebhook | None = None  # where it was read already


class StoredWebhook(msgspec.Struct, frozen=True):
    """What is in the database of a webhook: its events, the new ones' sequences, and why it is in quarantine, if it is.

    ``organizations`` are those that new ones may be for.
    """

    events: int
    sequences: Sequence[int]
    quarantined: frozenset[str]
    organizations: Collection[UUID] = ()


NOTHING_STORED = StoredWebhook(0, (), frozenset())


async def read(manager: WhatsAppProviderManager, config: Config, hook: Webhook, at: datetime) -> ReadWebhook:
    """*hook*, received *at*, whatever is in it.

    Raises `StoreUnavailable` where it cannot be asked whose its items are.
    """
    reader = _Reader(manager, config, hook, at)
    try:
        events, strangers = reader.parse()
        taken = reader.take(events, await reader.owners(events, strangers) if strangers else _NOBODY)
        return reader.webhook(taken, await reader.quarantined() if reader.some_stale or reader.some_foreign else ())
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001  (a fault of ours: `unreadable` logs it)
        return await reader.unreadable(error)


async def read_slices(
    manager: WhatsAppProviderManager, config: Config, hook: Webhook, at: datetime, *, stale: bool | None = False
) -> AsyncIterator[tuple[int, ReadWebhook]]:
    """A *hook* that was stored, as `read` reads one, but in slices and without holding up the event loop.

    Each with the place of its first event among all of them, which is the same whoever reads it and when.

    *at* is when it was received, and *stale* whether to take what was stale then, and nothing else; None takes all.
    """
    reader = _Reader(manager, config, hook, at, stale)
    try:
        async for first, webhook in reader.slices():
            yield first, msgspec.structs.replace(webhook, is_kept=True)
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001  (a fault of ours: `unreadable` logs it)
        yield 0, msgspec.structs.replace(await reader.unreadable(error), is_kept=True)


class _Reader(msgspec.Struct, eq=False):
    """Reads one webhook: whose each of its items is, and what of it goes to quarantine.

    A signature may be shared by all tenants of one app, so it does not say whose an item is. Nor does it say that the
    provider wrote it: any tenant can sign what names another's account, and post it to an address that it knows. Only
    an app's address, which no tenant knows, is for every organization.
    """

    _manager: WhatsAppProviderManager
    _config: Config
    _hook: Webhook
    _at: datetime
    _stale: bool | None = False
    # Whether, as far as it was read, there is what is stored, what was stale, and what is somebody else's.
    some_taken: bool = False
    some_stale: bool = False
    some_foreign: bool = False
    _siblings: list[Config] | None = None

    def __repr__(self) -> str:
        return "_Reader(…)"

    async def slices(self) -> AsyncIterator[tuple[int, ReadWebhook]]:
        events, strangers = await asyncio.to_thread(self.parse)
        for first in range(0, max(1, len(events)), SLICE_EVENTS):
            part = events[first : first + SLICE_EVENTS]
            taken = self.take(part, await self.owners(part, strangers))
            is_last = first + SLICE_EVENTS >= len(events)
            yield first, self.webhook(taken, await self.quarantined() if is_last else ())

    async def unreadable(self, error: Exception) -> ReadWebhook:
        reason = MALFORMED
        if not isinstance(error, Malformed):
            # A mistake of ours must neither make the provider repeat the body for a week, nor fail the rest of a batch.
            logger.error("reading a webhook failed", exc_info=error)
            reason = PARSER_FAILED
        return self.webhook((), [await unreadable_body(self._manager, self._config, reason, self._hook.body)])

    def webhook(self, events: Sequence[OwnedEvent], quarantine: Sequence[QuarantineRow]) -> ReadWebhook:
        config, hook = self._config, self._hook
        headers = kept_headers(hook)
        return ReadWebhook(config, config.organization_id, config.id, headers, hook.body, events, quarantine)

    def parse(self) -> tuple[list[Event], Collection[str]]:
        """The events, and the keys of those that name no account which is the organization's for sure.

        What names one is most of what comes, and asks nobody.
        """
        config = self._config
        account_of, claimed = config.provider.account_of, config.claimed
        events = config.provider.parse(self._hook)
        strangers = [event.key for event in events if account_of(event) not in claimed]
        return events, frozenset(strangers) if strangers else ()

    def take(self, events: Sequence[Event], owners: Mapping[str, Config | None]) -> list[OwnedEvent]:
        """What of *events* is the organization's and new enough. Who is not in *owners* is the config itself."""
        taken, config, at, stale = [], self._config, self._at, self._stale
        for event in events:
            owner = owners.get(event.key, config) if owners else config
            if owner is not None and (stale is None or _is_stale(event, at, self._manager.max_age) is stale):
                if event.occurred_at is not None:
                    metrics.observe(metrics.provider_lag, (at - event.occurred_at).total_seconds(), owner.provider_type)
                taken.append(OwnedEvent(event, owner))
            elif stale:
                continue  # it was stored, or put into quarantine, when it came
            elif owner is None:
                self.some_foreign = True
            else:
                self.some_stale = True
        self.some_taken = self.some_taken or bool(taken)
        return taken

    async def quarantined(self) -> Sequence[QuarantineRow]:
        """The whole body, for quarantine: an item by itself does not say whose it is, and could never be read again.

        Not all of a body need be an event, so where others share the secret it may hold what is theirs all the same.
        """
        reasons = [reason for reason, some in ((FOREIGN, self.some_foreign), (STALE, self.some_stale)) if some]
        theirs = self.some_foreign or (bool(reasons) and await self._manager.ownership.is_shared(self._config))
        body, partly_taken = self._hook.body, self.some_taken
        return [quarantine_row(reason, body, foreign_item=theirs, partly_taken=partly_taken) for reason in reasons]

    async def owners(self, events: Sequence[Event], keys: Collection[str]) -> dict[str, Config | None]:
        """By key whose each of *events* with one of *keys* is: this config's, a sibling's, or nobody's here.

        Raises `StoreUnavailable`.
        """
        find = self._of_app if self._config.is_app else self._of_organization
        return {event.key: await find(event) for event in events if event.key in keys}

    async def _of_organization(self, event: Event) -> Config | None:
        owner = self._config if self._config.provider.owns(event) else await self._sibling(event)
        return owner if owner and await self._manager.ownership.holds(owner, event) else None

    async def _sibling(self, event: Event) -> Config | None:
        if self._siblings is None:
            siblings = await self._manager.routes.siblings(self._config)
            self._siblings = [other for other in siblings if _verifies(other, self._hook)]
        return next((other for other in self._siblings if other.provider.owns(event)), None)

    async def _of_app(self, event: Event) -> Config | None:
        account = self._config.provider.account_of(event)
        if account is None:
            return None
        return await self._manager.ownership.config_of(self._config.provider_type, account)


_NOBODY: dict[str, Config | None] = {}


def _is_stale(event: Event, at: datetime, max_age: timedelta) -> bool:
    """Its age says that it may be a repetition whose key is not kept any more, or that its time is made up."""
    when = event.reported_at or event.occurred_at
    return when is not None and not -MAX_AHEAD <= at - when <= max_age


def kept_headers(hook: Webhook) -> bytes:
    headers = hook.headers.copy()
    for name in _dropped(tuple(headers)):
        del headers[name]
    return _encode(headers)


@lru_cache(64)  # a provider's requests have the same headers
def _dropped(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name not in _KEPT_HEADERS and not any(part in name for part in _KEPT_PARTS)]


async def set_aside(manager: WhatsAppProviderManager, webhook: ReadWebhook, reason: str) -> ReadWebhook:
    """*webhook* without its events, its body in quarantine: not the organization's where others' items are in it."""
    assert webhook.receiver is not None, "only what its config has read has events"
    quarantine = await unreadable_body(manager, webhook.receiver, reason, webhook.body)
    if any(item.foreign_item for item in webhook.quarantine):
        quarantine = msgspec.structs.replace(quarantine, foreign_item=True)
    return msgspec.structs.replace(webhook, events=(), quarantine=[quarantine])


def _verifies(config: Config, hook: Webhook) -> bool:
    try:
        config.provider.verify(hook)
    except Unverified:
        return False
    return True


async def unreadable_body(manager: WhatsAppProviderManager, config: Config, reason: str, body: bytes) -> QuarantineRow:
    """Whose *body* is nobody can see: where others share a secret with *config*, it may be theirs."""
    return quarantine_row(reason, body, foreign_item=await manager.ownership.is_shared(config))


def quarantine_row(
    reason: str, body: bytes, *, foreign_item: bool = False, partly_taken: bool = False
) -> QuarantineRow:
    return QuarantineRow(identifiers.new_id(), reason, body, foreign_item, partly_taken)
