"""Events about messages that we sent: found by our id where it came back, else by the provider's own."""

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

import asyncpg

from providers import Contact, Event
from providers.content import Reaction
from providers.messages import Message, Status

from ..accounts.config import Config
from ..envelope import NOT_OURS, Conversation, Ours
from ..identifiers import parse_correlation
from ..storage.statements import own_messages
from ..storage.statements.inbound import Held
from ..storage.statements.own_messages import KnownMessage, NamedMessage, OwnMessage
from .normalise import ReadWebhook

# A longer id is none that we sent, and too long for an index.
MAX_ID_CHARACTERS = 512

Known = Mapping[NamedMessage, KnownMessage]


async def find(
    connection: asyncpg.Connection, webhooks: Sequence[ReadWebhook], conversations: Sequence[Conversation | None]
) -> Known:
    """What is known of the messages that *webhooks* name. Most name none, and nothing is asked."""
    events = (owned for webhook in webhooks for owned in webhook.events)
    named = {
        name
        for owned, conversation in zip(events, conversations, strict=True)
        for name in _names(owned.event, owned.owner, conversation)
    }
    return await own_messages.find(connection, named) if named else {}


def of(event: Event, owner: Config, conversation: Conversation | None, known: Known) -> Ours | Held:
    """The messages of ours that *event* names; or that it waits for the sends which it may be about."""
    if not known and event.correlation_id is None:
        return NOT_OURS
    message_id, _ = parse_correlation(event.correlation_id)
    if message_id is not None:
        found = known.get(_by_our_id(owner, message_id))
        return Ours(found.own if found and found.own else OwnMessage(message_id), came_back=event.message is not None)
    for name in _about(event, owner, conversation):
        if found := known.get(name):
            if found.candidates is not None and name.provider_message_id is not None:
                return Held(name.account_id, name.provider_message_id, found.candidates)
            return Ours(found.own, came_back=is_itself(event.type, event.message, name.provider_message_id))
    quoted = _quoted(event, owner)
    found = known.get(quoted) if quoted else None
    return Ours(quoted=found.own) if found else NOT_OURS


def about(type_: str, message: Message | None, status: Status | None) -> Iterator[str]:
    """The provider's ids of what an event reports on, or changes, as it may be ours; what came back in it first."""
    if status is not None:
        yield from _kept(status.provider_message_id)
    elif message is not None:
        if type_ == "message.echo":
            yield from _kept(message.provider_message_id)
        if isinstance(message.content, Reaction):
            yield from _kept(message.content.message_id)
        if message.by == "business":
            yield from _kept(message.original_message_id)


def is_itself(type_: str, message: Message | None, provider_message_id: str | None) -> bool:
    """Whether the message with this id came back, as if somebody had written it in the account's name."""
    return type_ == "message.echo" and message is not None and message.provider_message_id == provider_message_id


def _names(event: Event, owner: Config, conversation: Conversation | None) -> Iterator[NamedMessage]:
    message_id, _ = parse_correlation(event.correlation_id) if event.correlation_id else (None, None)
    if message_id is not None:
        yield _by_our_id(owner, message_id)
        return
    yield from _about(event, owner, conversation)
    if quoted := _quoted(event, owner):
        yield quoted


def _about(event: Event, owner: Config, conversation: Conversation | None) -> Iterator[NamedMessage]:
    for identity in about(event.type, event.message, event.status):
        source = event.message.source if is_itself(event.type, event.message, identity) and event.message else None
        name = _by_its_id(owner, identity)
        # What a person typed on the phone was not sent by us, however it is called.
        if conversation is None or source == "app":
            yield name
        else:
            is_hidden = conversation.group_id is None and _is_hidden(conversation.contact)
            yield name._replace(conversation_id=conversation.id, is_hidden=is_hidden, came_back=source == "api")


def _is_hidden(contact: Contact | None) -> bool:
    return contact is not None and contact.phone is None and contact.lid is not None


def _quoted(event: Event, owner: Config) -> NamedMessage | None:
    quoted = event.message and event.message.reply_to
    return next((_by_its_id(owner, identity) for identity in _kept(quoted.id)), None) if quoted else None


def _by_our_id(owner: Config, message_id: UUID) -> NamedMessage:
    return NamedMessage(owner.organization_id, owner.account_id, owner.id, None, message_id)


def _by_its_id(owner: Config, provider_message_id: str) -> NamedMessage:
    return NamedMessage(owner.organization_id, owner.account_id, owner.id, provider_message_id, None)


def _kept(identity: str | None) -> Iterator[str]:
    if identity and len(identity) <= MAX_ID_CHARACTERS:
        yield identity
