"""What was read of webhooks, completed with what the database knows of the people and messages it is about: rows."""

import logging
from collections.abc import Sequence
from uuid import UUID

import msgspec

from providers import Event
from providers.messages import STATUS_RANK, Message, Status

from .. import identifiers
from ..accounts.config import Config
from ..envelope import event_row
from ..identifiers import parse_correlation
from ..storage.statements.events import EventRow
from ..storage.statements.inbound import KeyedEvent, WebhookRow
from ..storage.statements.statuses import StatusRow
from ..switching.manager import WhatsAppProviderManager
from .excess import MAX_DATA_BYTES, short_error, without_excess
from .normalise import PARSER_FAILED, ReadWebhook, set_aside

logger = logging.getLogger("ingress.receiving.completion")
_encode = msgspec.json.Encoder().encode

# A longer id is none that we sent, and too long for an index.
MAX_ID_CHARACTERS = 512


async def complete(manager: WhatsAppProviderManager, webhooks: Sequence[ReadWebhook]) -> list[WebhookRow]:
    """*webhooks* as they are stored. Raises `StoreUnavailable`."""
    rows = []
    for webhook in webhooks:
        try:
            rows.append(_row_of(webhook))
        except Exception as error:
            # A mistake of ours must neither make the provider repeat the body for a week, nor fail the rest of a batch.
            logger.error("completing a webhook failed", exc_info=error)
            rows.append(_row_of(await set_aside(manager, webhook, PARSER_FAILED)))
    return rows


def _row_of(webhook: ReadWebhook) -> WebhookRow:
    return WebhookRow(
        webhook.organization_id,
        webhook.config_id,
        webhook.headers,
        webhook.body,
        [_keyed(owned.event, owned.owner) for owned in webhook.events],
        webhook.quarantine,
        webhook.is_kept,
    )


def _keyed(event: Event, owner: Config) -> KeyedEvent:
    message_id, attempt = parse_correlation(event.correlation_id) if event.correlation_id else (None, None)
    if message_id is not None and event.message is not None:
        event = _as_status(event, event.message)
    row = _row(event, owner, message_id)
    if len(row.data) > MAX_DATA_BYTES:
        event = without_excess(event)
        row = _row(event, owner, message_id)
    status = _status_row(event, owner, message_id, attempt) if event.status is not None else None
    return KeyedEvent(identifiers.key_hash(event.key, owner.account_id), row, status)


def _row(event: Event, owner: Config, message_id: UUID | None) -> EventRow:
    return event_row(event, owner.organization_id, owner.id, owner.provider_type, message_id)


def _as_status(event: Event, message: Message) -> Event:
    """What we sent comes back among what others write in the account's name: nobody wrote it, but it is out."""
    sent = Status(provider_message_id=message.provider_message_id, value="sent")
    return msgspec.structs.replace(event, type="message.status", message=None, status=sent)


def _status_row(event: Event, owner: Config, message_id: UUID | None, attempt: int | None) -> StatusRow | None:
    """What *event* says of a message that may be ours.

    In a group each member has a status of their own; none of them is the message's.
    """
    status = event.status
    if status is None or status.value is None or status.participant is not None:
        return None
    if not status.provider_message_id or len(status.provider_message_id) > MAX_ID_CHARACTERS:
        return None
    return StatusRow(
        owner.organization_id,
        owner.id,
        owner.account_id,
        status.provider_message_id,
        status.value,
        STATUS_RANK[status.value],
        event.occurred_at,
        _encode(short_error(status.error)) if status.error else None,
        message_id,
        attempt,
    )
