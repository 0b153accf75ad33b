"""What a verified webhook says: events of its config, of the config's siblings, and what belongs to neither."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from providers import Event, Malformed, Unverified, Webhook
from providers.messages import STATUS_RANK, Status

from . import identifiers, metrics
from .correlation import parse_correlation
from .database import StoreUnavailable
from .envelope import event_row
from .manager import Config, WhatsAppProviderManager
from .storage.inbound import KeyedEvent, QuarantineRow, WebhookRow
from .storage.statuses import StatusRow

logger = logging.getLogger("ingress.reading")
_encode = msgspec.json.Encoder().encode

# Why a body is put aside.
MALFORMED, PARSER_FAILED, REFUSED, FOREIGN = "malformed", "parser_failed", "refused_by_store", "foreign"
# A longer id is none that we sent, and too long for an index.
MAX_ID_CHARACTERS = 512
# Of a webhook's headers these are kept: what it is verified and read by, and what finds it in the provider's own log.
# No others: a proxy's or a provider's credentials may be among them.
_KEPT_HEADERS = frozenset({"content-type", "content-length", "user-agent", "traceparent", "tracestate", "webhook-id"})
_KEPT_PARTS = ("signature", "hmac", "idempotency", "request-id", "timestamp")


async def read(manager: WhatsAppProviderManager, config: Config, hook: Webhook) -> WebhookRow:
    """*hook* as a row, whatever is in it. Raises `StoreUnavailable` where the config's siblings cannot be asked for."""
    provider = config.provider
    quarantine: list[QuarantineRow] = []
    try:
        events = provider.parse(hook)
        strangers = [event for event in events if not provider.owns(event)]
        owners = await _owners(manager, config, hook, strangers) if strangers else {}
        now = datetime.now(UTC)
        keyed = [_keyed(event, owner, now) for event in events if (owner := owners.get(event.key, config)) is not None]
        quarantine = [
            _aside(FOREIGN, bytes(event.raw), foreign_item=True) for event in strangers if owners[event.key] is None
        ]
    except StoreUnavailable:
        raise
    except Malformed:
        keyed, quarantine = [], [_aside(MALFORMED, hook.body)]
    except Exception:
        # A mistake of ours must neither make the provider repeat the body for a week, nor fail the rest of a batch.
        logger.exception("reading a webhook failed")
        keyed, quarantine = [], [_aside(PARSER_FAILED, hook.body)]
    return WebhookRow(config.organization_id, config.id, kept_headers(hook), hook.body, keyed, quarantine)


def kept_headers(hook: Webhook) -> bytes:
    headers = hook.headers
    return _encode({name: headers[name] for name in _kept(tuple(headers))})


@lru_cache(64)  # a provider's requests have the same headers
def _kept(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in _KEPT_HEADERS or any(part in name for part in _KEPT_PARTS)]


def refused(row: WebhookRow) -> WebhookRow:
    """*row* without its events, its body put aside. With items of somebody else in it, it is not the organization's."""
    foreign = [item for item in row.quarantine if item.foreign_item]
    aside = _aside(REFUSED, row.body, foreign_item=bool(foreign))
    return msgspec.structs.replace(row, events=(), quarantine=[aside, *foreign])


async def _owners(
    manager: WhatsAppProviderManager, config: Config, hook: Webhook, events: Sequence[Event]
) -> dict[str, Config | None]:
    """By key the config that each of *events* is about: another of the organization behind the same secret, or None.

    A signature may be shared by all tenants of one app, so it does not say whose an item is.
    """
    siblings = [other for other in await manager.siblings(config) if _verifies(other, hook)]
    return {event.key: next((other for other in siblings if other.provider.owns(event)), None) for event in events}


def _verifies(config: Config, hook: Webhook) -> bool:
    try:
        config.provider.verify(hook)
    except Unverified:
        return False
    return True


def _aside(reason: str, body: bytes, *, foreign_item: bool = False) -> QuarantineRow:
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
