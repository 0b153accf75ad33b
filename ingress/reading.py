"""What a verified webhook says: events of its config, of the config's siblings, and what belongs to neither."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from providers import Event, Malformed, Unverified, Webhook
from providers.messages import STATUS_RANK, Status

from . import identifiers, metrics
from .correlation import parse_correlation
from .database import StoreUnavailable
from .envelope import event_row
from .excess import MAX_DATA_BYTES, short_error, without_excess
from .manager import Config, WhatsAppProviderManager
from .storage.inbound import KeyedEvent, QuarantineRow, WebhookRow
from .storage.statuses import StatusRow

logger = logging.getLogger("ingress.reading")
_encode = msgspec.json.Encoder().encode

# Why a body is put aside.
MALFORMED, PARSER_FAILED, REFUSED, FOREIGN = "malformed", "parser_failed", "refused_by_store", "foreign"


async def read(manager: WhatsAppProviderManager, config: Config, hook: Webhook) -> WebhookRow:
    """*hook* as a row, whatever is in it. Raises `StoreUnavailable` where it cannot be asked whose its items are."""
    provider, claimed = config.provider, config.claimed
    quarantine: list[QuarantineRow] = []
    try:
        events = provider.parse(hook)
        # What names an account that is the organization's for sure is most of what comes, and asks nobody.
        strangers = [event for event in events if provider.account_of(event) not in claimed]
        owners = await _owners(manager, config, hook, strangers) if strangers else {}
        now = datetime.now(UTC)
        keyed = [_keyed(event, owner, now) for event in events if (owner := owners.get(event.key, config)) is not None]
        if len(keyed) < len(events):  # as a whole: an item by itself does not say whose it is, and could never be read
            quarantine = [_aside(FOREIGN, hook.body, foreign_item=True)]
    except StoreUnavailable:
        raise
    except Malformed:
        keyed, quarantine = [], [await _unread(manager, config, MALFORMED, hook.body)]
    except Exception:
        # A mistake of ours must neither make the provider repeat the body for a week, nor fail the rest of a batch.
        logger.exception("reading a webhook failed")
        keyed, quarantine = [], [await _unread(manager, config, PARSER_FAILED, hook.body)]
    return WebhookRow(config.organization_id, config.id, _encode(hook.headers), hook.body, keyed, quarantine)


async def refused(manager: WhatsAppProviderManager, config: Config, row: WebhookRow) -> WebhookRow:
    """*row* without its events, its body put aside. With items of somebody else in it, it is not the organization's."""
    aside = await _unread(manager, config, REFUSED, row.body)
    if any(item.foreign_item for item in row.quarantine):
        aside = msgspec.structs.replace(aside, foreign_item=True)
    return msgspec.structs.replace(row, events=(), quarantine=[aside])


async def _owners(
    manager: WhatsAppProviderManager, config: Config, hook: Webhook, events: Sequence[Event]
) -> dict[str, Config | None]:
    """By key whose each of *events* is: this config's, another's of the organization behind the same secret, or None.

    A signature may be shared by all tenants of one app, so it does not say whose an item is. Nor does it say that the
    provider wrote it: any tenant can sign what names another's account, and post it to an address that it knows. Only
    an app's address, which no tenant knows, is for every organization.
    """
    if config.is_app:
        return {event.key: await _owner(manager, config, event) for event in events}
    siblings: list[Config] | None = None
    owners: dict[str, Config | None] = {}
    for event in events:
        owner: Config | None = config
        if not config.provider.owns(event):
            if siblings is None:
                siblings = [other for other in await manager.siblings(config) if _verifies(other, hook)]
            owner = next((other for other in siblings if other.provider.owns(event)), None)
        owners[event.key] = owner if owner and await manager.ownership.holds(owner, event) else None
    return owners


async def _owner(manager: WhatsAppProviderManager, app: Config, event: Event) -> Config | None:
    account = app.provider.account_of(event)
    return await manager.ownership.config_of(app.provider_type, account) if account is not None else None


def _verifies(config: Config, hook: Webhook) -> bool:
    try:
        config.provider.verify(hook)
    except Unverified:
        return False
    return True


async def _unread(manager: WhatsAppProviderManager, config: Config, reason: str, body: bytes) -> QuarantineRow:
    """Whose *body* is nobody can see: where others share a secret with *config*, it may be theirs."""
    return _aside(reason, body, foreign_item=await manager.ownership.is_shared(config))


def _aside(reason: str, body: bytes, *, foreign_item: bool = False) -> QuarantineRow:
    return QuarantineRow(identifiers.new_id(), reason, body, foreign_item)


def _keyed(event: Event, owner: Config, now: datetime) -> KeyedEvent:
    message_id, attempt = parse_correlation(event.correlation_id) if event.correlation_id else (None, None)
    if message_id is not None and event.message is not None:
        # What we sent comes back among what others write in the account's name: nobody wrote it, but it is out.
        sent = Status(provider_message_id=event.message.provider_message_id, value="sent")
        event = msgspec.structs.replace(event, type="message.status", message=None, status=sent)
    row = event_row(event, owner.organization_id, owner.id, owner.provider_type, message_id)
    if len(row.data) > MAX_DATA_BYTES:
        event = without_excess(event)
        row = event_row(event, owner.organization_id, owner.id, owner.provider_type, message_id)
    if event.occurred_at is not None:
        metrics.provider_lag.observe((now - event.occurred_at).total_seconds(), owner.provider_type)
    status = None
    said = event.status
    # In a group each member has a status of their own; none of them is the message's.
    if said is not None and said.value is not None and said.provider_message_id and said.participant is None:
        status = StatusRow(
            owner.organization_id,
            owner.id,
            owner.account_id,
            said.provider_message_id,
            said.value,
            STATUS_RANK[said.value],
            event.occurred_at,
            _encode(short_error(said.error)) if said.error else None,
            message_id,
            attempt,
        )
    return KeyedEvent(identifiers.key_hash(event.key, owner.account_id), row, status)
