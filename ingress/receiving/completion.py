"""What was read of webhooks, completed with what the database knows of the people and messages it is about: rows."""

import logging
from collections.abc import Mapping, Sequence
from itertools import islice

import asyncpg
import msgspec

from providers import Event
from providers.messages import STATUS_RANK, Message, Status

from .. import identifiers
from ..accounts.config import Config
from ..envelope import NOT_OURS, Conversation, Ours, event_row
from ..identifiers import parse_correlation
from ..storage.statements.events import EventRow
from ..storage.statements.receiving.inbound import NO_DAY, FactDay, Held, KeyedEvent, WebhookRow, day_of
from ..storage.statements.receiving.statuses import StatusRow
from ..storage.statements.sending.messages import OwnMessage
from ..switching.manager import WhatsAppProviderManager
from . import own_messages
from .excess import MAX_DATA_BYTES, short_conversation, short_error, without_excess
from .normalise import PARSER_FAILED, ReadWebhook, set_aside
from .own_messages import MAX_ID_CHARACTERS, Known

logger = logging.getLogger("ingress.receiving.completion")
_encode = msgspec.json.Encoder().encode


async def complete(
    connection: asyncpg.Connection,
    manager: WhatsAppProviderManager,
    webhooks: Sequence[ReadWebhook],
    conversations: Sequence[Conversation | None],
    *,
    joined: bool = False,
) -> list[WebhookRow]:
    """*webhooks* as they are stored; *conversations* are those of their events.

    Raises `StoreUnavailable`; and `OnePerson`, unless whom that names is *joined* already.
    """
    known = await own_messages.find(connection, webhooks, conversations)
    if not joined and (sent_to := own_messages.sent_to_others(webhooks, conversations, known)):
        raise own_messages.OnePerson(sent_to)
    rest = iter(conversations)
    rows = []
    for webhook in webhooks:
        of_it = list(islice(rest, len(webhook.events)))
        try:
            rows.append(_row_of(webhook, of_it, known))
        except Exception as error:
            # A mistake of ours must neither make the provider repeat the body for a week, nor fail the rest of a batch.
            logger.error("completing a webhook failed", exc_info=error)
            rows.append(_row_of(await set_aside(manager, webhook, PARSER_FAILED), (), known))
    return rows


def with_contact_events(
    rows: Sequence[WebhookRow], webhooks: Sequence[ReadWebhook], contact_events: Mapping[int, Sequence[EventRow]]
) -> list[WebhookRow]:
    """*rows* with what their events showed of contacts, before these events. *contact_events* are by their places."""
    completed, first = [], 0
    for row, webhook in zip(rows, webhooks, strict=True):
        events = list(row.events)  # none, where the webhook was put aside
        for place in reversed(range(len(webhook.events))):
            events[place:place] = [
                KeyedEvent(identifiers.new_id().bytes, event, None) for event in contact_events.get(first + place, ())
            ]
        first += len(webhook.events)
        completed.append(msgspec.structs.replace(row, events=events))
    return completed


def _row_of(webhook: ReadWebhook, conversations: Sequence[Conversation | None], known: Known) -> WebhookRow:
    return WebhookRow(
        webhook.organization_id,
        webhook.config_id,
        webhook.headers,
        webhook.body,
        [
            _keyed(owned.event, owned.owner, conversation, known)
            for owned, conversation in zip(webhook.events, conversations, strict=True)
        ],
        webhook.quarantine,
        webhook.is_kept,
    )


def _keyed(event: Event, owner: Config, conversation: Conversation | None, known: Known) -> KeyedEvent:
    named = own_messages.of(event, owner, conversation, known)
    ours, waiting = (NOT_OURS, named) if isinstance(named, Held) else (named, None)
    event = own_messages.as_known(event, owner, conversation, known)
    if ours.came_back and event.message is not None:
        event = _as_status(event, event.message)
    row = _row(event, owner, conversation, ours)
    if len(row.data) > MAX_DATA_BYTES:
        event = without_excess(event)
        row = _row(event, owner, conversation and short_conversation(conversation), ours)
    status = _status_row(event, owner, ours.message) if event.status is not None else None
    return KeyedEvent(identifiers.key_hash(event.key, owner.account_id), row, status, waiting, day_of_fact(event))


def day_of_fact(event: Event) -> FactDay:
    """The day of *event*: one whose time is that of its report has another time when it is reported again."""
    return NO_DAY if event.reported_at == event.occurred_at else day_of(event.occurred_at)


def _row(event: Event, owner: Config, conversation: Conversation | None, ours: Ours) -> EventRow:
    return event_row(event, owner.organization_id, owner.id, owner.provider_type, conversation, ours)


def _as_status(event: Event, message: Message) -> Event:
    """What we sent comes back among what others write in the account's name: nobody wrote it, but it is out."""
    sent = Status(provider_message_id=message.provider_message_id, value="sent")
    return msgspec.structs.replace(event, type="message.status", message=None, status=sent)


def _status_row(event: Event, owner: Config, own: OwnMessage | None) -> StatusRow | None:
    """What *event* says of a message that may be ours, *own* where it is.

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
        owner.message_key(status.provider_message_id),
        status.value,
        STATUS_RANK[status.value],
        event.occurred_at,
        _encode(short_error(status.error)) if status.error else None,
        own.id if own else None,
        parse_correlation(event.correlation_id)[1],
    )
