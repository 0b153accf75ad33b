"""What a verified webhook says: events of its config, of the config's siblings, and what belongs to neither."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from providers import Event, Malformed, Unverified, Webhook, WhatsAppProvider
from providers.messages import STATUS_RANK, Status

from . import identifiers, metrics
from .correlation import parse_correlation
from .database import StoreUnavailable
from .envelope import event_row
from .manager import Config, WhatsAppProviderManager
from .storage.inbound import KeyedEvent, QuarantineRow, WebhookRow
from .storage.retention import MAX_AGE, MAX_AHEAD
from .storage.statuses import StatusRow

logger = logging.getLogger("ingress.reading")
_encode = msgspec.json.Encoder().encode

# Why a body is put aside.
MALFORMED, PARSER_FAILED, REFUSED, FOREIGN, STALE = "malformed", "parser_failed", "refused_by_store", "foreign", "stale"
MIN_AGE = -MAX_AHEAD
# So many events of a large webhook are made rows of at once: a few milliseconds of the event loop.
SLICE_EVENTS = 500
# A longer id is none that we sent, and too long for an index.
MAX_ID_CHARACTERS = 512
# Of a webhook's headers these are kept: what it is verified and read by, and what finds it in the provider's own log.
# No others: a proxy's or a provider's credentials may be among them.
_KEPT_HEADERS = frozenset({"content-type", "content-length", "user-agent", "traceparent", "tracestate", "webhook-id"})
_KEPT_PARTS = ("signature", "hmac", "idempotency", "request-id", "timestamp")


class Taken(msgspec.Struct, frozen=True):
    """A verified webhook on its way into the database."""

    config: Config
    hook: Webhook
    refused: bool = False  # the database took it not: now its body is put aside
    row: WebhookRow | None = None  # where it was read already


class Receipt(msgspec.Struct, frozen=True):
    """What is in the database of a webhook: its events, the new ones' sequences, and why it was put aside, if so."""

    events: int
    sequences: Sequence[int]
    aside: frozenset[str]


NOTHING = Receipt(0, (), frozenset())


async def read(manager: WhatsAppProviderManager, config: Config, hook: Webhook, at: datetime) -> WebhookRow:
    """*hook*, received *at*, as a row, whatever is in it.

    Raises `StoreUnavailable` where the config's siblings cannot be asked for.
    """
    try:
        events, strangers = _parsed(config.provider, hook)
        siblings = await _siblings(manager, config, hook) if strangers else ()
        keyed, aside, stale = _sorted(config, events, strangers, siblings, at)
        if stale:
            aside.append(put_aside(STALE, hook.body, foreign_item=bool(aside)))
        return _row(config, hook, keyed, aside)
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001  (logged there)
        return _row(config, hook, [], [_unreadable(hook, error)])


async def read_slices(
    manager: WhatsAppProviderManager, config: Config, hook: Webhook, at: datetime, *, stale: bool | None = False
) -> AsyncIterator[WebhookRow]:
    """A *hook* that was stored, as `read` reads one, but in slices and without holding up the event loop.

    *at* is when it was received, and *stale* whether to take what was stale then, and nothing else; None takes all.
    """
    try:
        events, strangers = await asyncio.to_thread(_parsed, config.provider, hook)
        siblings = await _siblings(manager, config, hook) if strangers else ()
        some_stale = some_foreign = False
        for first in range(0, max(1, len(events)), SLICE_EVENTS):
            part = events[first : first + SLICE_EVENTS]
            keyed, aside, is_stale = _sorted(config, part, strangers, siblings, at, stale)
            some_stale, some_foreign = some_stale or is_stale, some_foreign or bool(aside)
            if some_stale and first + SLICE_EVENTS >= len(events):
                aside.append(put_aside(STALE, hook.body, foreign_item=some_foreign))
            yield msgspec.structs.replace(_row(config, hook, keyed, aside), is_kept=True)
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001  (logged there)
        yield msgspec.structs.replace(_row(config, hook, [], [_unreadable(hook, error)]), is_kept=True)


def _parsed(provider: WhatsAppProvider, hook: Webhook) -> tuple[list[Event], set[str]]:
    """The events of *hook*, and the keys of those that are of another account."""
    events = provider.parse(hook)
    return events, {event.key for event in events if not provider.owns(event)}


def _sorted(
    config: Config,
    events: Sequence[Event],
    strangers: set[str],
    siblings: Sequence[Config],
    at: datetime,
    stale: bool | None = False,
) -> tuple[list[KeyedEvent], list[QuarantineRow], bool]:
    """What of *events* is taken, what is nobody's here, and whether some were stale.

    Those are put aside together, with the whole body: an item by itself could not be read again.
    """
    keyed, aside, some_stale = [], [], False
    for event in events:
        owner: Config | None = config
        if event.key in strangers:
            owner = next((other for other in siblings if other.provider.owns(event)), None)
        is_stale = _is_stale(event, at)
        if owner is not None and (is_stale is stale or stale is None):
            keyed.append(_keyed(event, owner, at))
        elif stale:
            continue  # it was taken, or put aside, when it came
        elif owner is None:
            aside.append(put_aside(FOREIGN, bytes(event.raw), foreign_item=True))
        else:
            some_stale = True
    return keyed, aside, some_stale


def _row(config: Config, hook: Webhook, events: list[KeyedEvent], aside: list[QuarantineRow]) -> WebhookRow:
    return WebhookRow(config.organization_id, config.id, kept_headers(hook), hook.body, events, aside)


def _unreadable(hook: Webhook, error: Exception) -> QuarantineRow:
    if isinstance(error, Malformed):
        return put_aside(MALFORMED, hook.body)
    # A mistake of ours must neither make the provider repeat the body for a week, nor fail the rest of a batch.
    logger.error("reading a webhook failed", exc_info=error)
    return put_aside(PARSER_FAILED, hook.body)


def _is_stale(event: Event, at: datetime) -> bool:
    """Whether its age says that *event* may be a repetition whose key is not kept any more, or a time made up."""
    when = event.reported_at or event.occurred_at
    return when is not None and not MIN_AGE <= at - when <= MAX_AGE


def kept_headers(hook: Webhook) -> bytes:
    headers = hook.headers.copy()
    for name in _dropped(tuple(headers)):
        del headers[name]
    return _encode(headers)


@lru_cache(64)  # a provider's requests have the same headers
def _dropped(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name not in _KEPT_HEADERS and not any(part in name for part in _KEPT_PARTS)]


def refused(row: WebhookRow) -> WebhookRow:
    """*row* without its events, its body put aside. With items of somebody else in it, it is not the organization's."""
    foreign = [item for item in row.quarantine if item.foreign_item]
    aside = put_aside(REFUSED, row.body, foreign_item=bool(foreign))
    return msgspec.structs.replace(row, events=(), quarantine=[aside, *foreign])


async def _siblings(manager: WhatsAppProviderManager, config: Config, hook: Webhook) -> list[Config]:
    """The organization's other configs behind the same secret.

    A signature may be shared by all tenants of one app, so it does not say whose an item is.
    """
    return [other for other in await manager.siblings(config) if _verifies(other, hook)]


def _verifies(config: Config, hook: Webhook) -> bool:
    try:
        config.provider.verify(hook)
    except Unverified:
        return False
    return True


def put_aside(reason: str, body: bytes, *, foreign_item: bool = False) -> QuarantineRow:
    return QuarantineRow(identifiers.new_id(), reason, body, foreign_item)


def _keyed(event: Event, owner: Config, now: datetime) -> KeyedEvent:
    message_id, attempt = parse_correlation(event.correlation_id) if event.correlation_id else (None, None)
    if message_id is not None and event.message is not None:
        # What we sent comes back among what others write in the account's name: nobody wrote it, but it is out.
        sent = Status(provider_message_id=event.message.provider_message_id, value="sent")
        event = msgspec.structs.replace(event, type="message.status", message=None, status=sent)
    row = event_row(event, owner.organization_id, owner.id, owner.provider_type, message_id)
    if event.occurred_at is not None:
        metrics.provider_lag.observe((now - event.occurred_at).total_seconds(), owner.provider_type)
    status = None
    said = event.status
    # In a group each member has a status of their own; none of them is the message's.
    if (
        said is not None
        and said.value is not None
        and said.provider_message_id
        and len(said.provider_message_id) <= MAX_ID_CHARACTERS
        and said.participant is None
    ):
        status = StatusRow(
            owner.organization_id,
            owner.id,
            owner.account_id,
            said.provider_message_id,
            said.value,
            STATUS_RANK[said.value],
            event.occurred_at,
            _encode(said.error) if said.error else None,
            message_id,
            attempt,
        )
    return KeyedEvent(identifiers.key_hash(event.key, owner.account_id), row, status)
