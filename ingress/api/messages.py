"""The messages that sends made: one with its attempts, and pages of them."""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers.messages import ErrorInfo

from ..storage.statements import messages
from ..storage.statements.messages import Attempt, StoredMessage
from ..web.bodies import Paged, Shown, page_of
from ..web.problems import not_found
from ..web.waiting import Page
from . import ApiRequest


class MessagesQuery(Paged, frozen=True):
    contact_id: UUID | None = None
    conversation_id: UUID | None = None
    before: UUID | None = None


class MessageShown(Shown, frozen=True, kw_only=True):
    """A message as it stands. ``attempts``: all of them in `GET /messages/{message_id}`, their number in a list."""

    id: UUID
    conversation_id: UUID
    state: str
    status: str
    provider: str | None
    config_id: UUID | None
    provider_message_id: str | None
    fallback_from: UUID | None
    fallback_reason: str | None
    attempts: int | list[Attempt]
    error: ErrorInfo | None
    cost: str | None
    idempotency_key: str | None
    request: msgspec.Raw
    created_at: datetime
    updated_at: datetime
    sent_at: datetime | None
    expires_at: datetime


class Messages(Shown, frozen=True):
    messages: list[MessageShown]
    next: UUID | UnsetType = UNSET


async def get_message(request: ApiRequest) -> MessageShown:
    """GET /messages/{id}: its state, and every attempt with provider, class, code and duration."""
    organization_id, message_id = request.organization_id, request.id_in_path("message_id")
    async with request.connection() as connection:
        message = await messages.by_id(connection, organization_id, message_id)
        attempts = await messages.attempts(connection, organization_id, message_id)
    if message is None:
        raise not_found()
    return shown(message, attempts)


async def list_messages(request: ApiRequest[None, MessagesQuery]) -> Page[Messages]:
    """GET /messages?contact_id=&conversation_id=&before=&limit=: newest first; `next` is the next page's `before`."""
    organization_id, query = request.organization_id, request.query

    async def read() -> Messages:
        async with request.connection() as connection:
            of = query.contact_id, query.conversation_id
            if any(of):
                found, more = await messages.page_to(connection, organization_id, *of, query.before, query.size + 1)
            else:
                found, more = await messages.page(connection, organization_id, query.before, query.size + 1)
        return page_of(Messages, [shown(message, message.attempts) for message in found], query.size, more=more)

    return request.page(read)


def shown(message: StoredMessage, attempts: int | list[Attempt]) -> MessageShown:
    values = {name: getattr(message, name) for name in MessageShown.__struct_fields__}
    return MessageShown(**values | {"request": msgspec.Raw(message.request), "attempts": attempts})
