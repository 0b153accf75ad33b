"""The messages that sends made: one with its attempts, and pages of them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers.messages import ErrorInfo, StatusValue

from ...accounts.config import message_keys as keys_of
from ...storage.statements.reports import search
from ...storage.statements.reports.search import MessageFilter
from ...storage.statements.sending import messages
from ...storage.statements.sending.messages import Attempt, StoredMessage
from ...web.bodies import Paged, Shown, given_of, one_only
from ...web.waiting import Page
from .. import AnyRequest, ApiRequest
from .gone import missing_message

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
# One of them at a time, but for a contact within a conversation.
FOUND_BY = ("contact_id", "conversation_id", "provider_message_id", "lead_id", "request_id", "error")


class MessagesQuery(Paged, frozen=True):
    """All, or those that are found by one of the first six; and of these the ones that have what the others say.

    ``error``: the code or the class of an error, of the message or of one of its attempts.
    """

    contact_id: UUID | None = None
    conversation_id: UUID | None = None
    provider_message_id: str | None = None
    lead_id: str | None = None
    request_id: str | None = None
    error: str | None = None
    status: StatusValue | None = None
    config_id: UUID | None = None
    since: Moment | None = None
    until: Moment | None = None
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
    request_id: str | None
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
        if message is None:
            raise await missing_message(connection, organization_id, message_id)
        attempts = await messages.attempts(connection, organization_id, message_id)
    return shown(message, attempts)


async def list_messages(request: ApiRequest[None, MessagesQuery]) -> Page[Messages]:
    """GET /messages?contact_id=&error=&status=&before=&limit= …: newest first; `next` is the next page's `before`."""
    query = request.query
    given = given_of(query, FOUND_BY)
    if len(given) > 1 and set(given) != {"contact_id", "conversation_id"}:
        raise one_only(given)
    wanted = await _wanted(request)

    async def read() -> Messages:
        async with request.connection() as connection:
            found = await search.sent(connection, request.organization_id, wanted, query.before, query.size)
        rows = [shown(message, message.attempts) for message in found.rows]
        return Messages(rows) if found.next is None else Messages(rows, found.next)

    return request.page(read)


async def _wanted(request: ApiRequest[None, MessagesQuery]) -> MessageFilter:
    query = request.query
    return MessageFilter(
        contact_id=query.contact_id,
        conversation_id=query.conversation_id,
        lead_id=query.lead_id,
        request_id=query.request_id,
        error=query.error,
        keys=(await message_keys(request, query.provider_message_id)) if query.provider_message_id else (),
        statuses=[query.status] if query.status else (),
        config_ids=[query.config_id] if query.config_id else (),
        since=query.since or search.BEGIN,
        until=query.until or search.END,
    )


async def message_keys(request: AnyRequest, provider_message_id: str) -> list[str]:
    """What the organization's accounts may know a message of ours by, which a provider calls so."""
    configs = await request.state["manager"].configs(request.organization_id)
    return sorted(keys_of(configs, [provider_message_id]))


def shown(message: StoredMessage, attempts: int | list[Attempt]) -> MessageShown:
    values = {name: getattr(message, name) for name in MessageShown.__struct_fields__}
    return MessageShown(**values | {"request": msgspec.Raw(message.request), "attempts": attempts})
