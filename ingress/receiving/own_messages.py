"""Events about messages that we sent: found by our id where it came back, else by the provider's own."""

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

import asyncpg

from providers import Event
from providers.content import Reaction

from ..accounts.config import Config
from ..envelope import NOT_OURS, Ours
from ..identifiers import parse_correlation
from ..storage.statements import own_messages
from ..storage.statements.own_messages import NamedMessage, OwnMessage
from .normalise import ReadWebhook

# A longer id is none that we sent, and too long for an index.
MAX_ID_CHARACTERS = 512

Found = Mapping[NamedMessage, OwnMessage]


async def find(connection: asyncpg.Connection, webhooks: Sequence[ReadWebhook]) -> Found:
    """The messages of ours that *webhooks* name. Most name none, and nothing is asked."""
    named = {name for webhook in webhooks for owned in webhook.events for name in _names(owned.event, owned.owner)}
    return await own_messages.find(connection, named) if named else {}


def of(event: Event, owner: Config, found: Found) -> Ours:
    """The messages of ours that *event* names, among those *found*."""
    if not found and event.correlation_id is None:
        return NOT_OURS
    message_id, _ = parse_correlation(event.correlation_id)
    if message_id is not None:
        message = found.get(_by_our_id(owner, message_id), OwnMessage(message_id))
        return Ours(message, came_back=event.message is not None)
    about = next((name for name in _about(event, owner) if name in found), None)
    quoted = _quoted(event, owner)
    if about is None and quoted not in found:
        return NOT_OURS
    return Ours(about and found[about], quoted and found.get(quoted), came_back=_is_itself(event, about))


def _names(event: Event, owner: Config) -> Iterator[NamedMessage]:
    message_id, _ = parse_correlation(event.correlation_id) if event.correlation_id else (None, None)
    if message_id is not None:
        yield _by_our_id(owner, message_id)
        return
    yield from _about(event, owner)
    if quoted := _quoted(event, owner):
        yield quoted


def _about(event: Event, owner: Config) -> Iterator[NamedMessage]:
    """What *event* reports on, or changes, as it may be ours; what came back in it first."""
    if event.status is not None:
        yield from _by_its_id(owner, event.status.provider_message_id)
    elif (message := event.message) is not None:
        if event.type == "message.echo":
            yield from _by_its_id(owner, message.provider_message_id)
        if isinstance(message.content, Reaction):
            yield from _by_its_id(owner, message.content.message_id)
        if message.by == "business":
            yield from _by_its_id(owner, message.original_message_id)


def _quoted(event: Event, owner: Config) -> NamedMessage | None:
    quoted = event.message and event.message.reply_to
    return next(_by_its_id(owner, quoted.id), None) if quoted else None


def _by_our_id(owner: Config, message_id: UUID) -> NamedMessage:
    return NamedMessage(owner.organization_id, owner.account_id, owner.id, None, message_id)


def _by_its_id(owner: Config, provider_message_id: str | None) -> Iterator[NamedMessage]:
    if provider_message_id and len(provider_message_id) <= MAX_ID_CHARACTERS:
        yield NamedMessage(owner.organization_id, owner.account_id, owner.id, provider_message_id, None)


def _is_itself(event: Event, about: NamedMessage | None) -> bool:
    """Whether a message that we sent came back, as if somebody had written it in the account's name."""
    message = event.message
    return (
        event.type == "message.echo"
        and message is not None
        and about is not None
        and about.provider_message_id == message.provider_message_id
    )
