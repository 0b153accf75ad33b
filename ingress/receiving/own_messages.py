"""Events about messages that we sent: found by our id where it came back, else by the provider's own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

import asyncpg
import msgspec

from providers import Contact, Event, Recipient
from providers.content import Reaction
from providers.messages import Message, Status

from ..accounts.config import Config
from ..envelope import NOT_OURS, Conversation, Ours
from ..identifiers import key_hash, parse_correlation
from ..people.addresses import addressee
from ..storage.statements.receiving.inbound import Held
from ..storage.statements.sending import messages
from ..storage.statements.sending.messages import KnownMessage, NamedMessage, OwnMessage
from .normalise import ReadWebhook

# A longer id is none that we sent, and too long for an index.
MAX_ID_CHARACTERS = 512

Known = Mapping[NamedMessage, KnownMessage]
_recipient = msgspec.json.Decoder(Recipient).decode


async def find(
    connection: asyncpg.Connection, webhooks: Sequence[ReadWebhook], conversations: Sequence[Conversation | None]
) -> Known:
    """What is known of the messages that *webhooks* name. Most name none, and nothing is asked."""
    events = (owned for webhook in webhooks for owned in webhook.events)
    named = {
        name
        for owned, conversation in zip(events, conversations, strict=True)
        if not _is_plain(owned.event)
        for name in _names(owned.event, owned.owner, conversation)
    }
    return await messages.find(connection, named) if named else {}


def _is_plain(event: Event) -> bool:
    """Whether it is what somebody wrote, about no other message: as most is."""
    message = event.message
    return (
        message is not None
        and event.type == "message.received"
        and message.reply_to is None
        and event.correlation_id is None
        and not isinstance(message.content, Reaction)
    )


def of(event: Event, owner: Config, conversation: Conversation | None, known: Known) -> Ours | Held:
    """The messages of ours that *event* names; or that it waits for the sends which it may be about."""
    if not known and event.correlation_id is None:
        return NOT_OURS
    message_id, _ = parse_correlation(event.correlation_id)
    if message_id is not None:
        found = known.get(_by_our_id(owner, message_id))
        return Ours(found.own if found and found.own else OwnMessage(message_id), came_back=event.message is not None)
    for name in _about(event, owner, conversation):
        found = known.get(name)
        if found is not None and not (found.own is None and found.candidates is None):
            if found.candidates is not None and name.provider_message_id is not None:
                assert name.message_key is not None, "it was named by the provider's id"
                return Held(name.account_id, name.provider_message_id, name.message_key, found.candidates)
            return Ours(found.own, came_back=is_itself(event.type, event.message, name.provider_message_id))
    quoted = _quoted(event, owner)
    found = known.get(quoted) if quoted else None
    return Ours(quoted=found.own) if found and found.own else NOT_OURS


class OnePerson(Exception):
    """Events about messages of ours show somebody else than these were sent to, who so is the same person.

    ``sent_to``: who that is, by the places of the events.
    """

    def __init__(self, sent_to: Mapping[int, Contact]) -> None:
        super().__init__()
        self.sent_to = sent_to


def sent_to_others(
    webhooks: Sequence[ReadWebhook], conversations: Sequence[Conversation | None], known: Known
) -> dict[int, Contact]:
    """By the places of events, to whom the message of each was sent, where that is another contact than it shows.

    By an address of another kind: that a number, say, is another one may have other reasons.
    """
    events = (owned for webhook in webhooks for owned in webhook.events) if known else ()
    found = (_sent_to(each.event, each.owner, one, known) for each, one in zip(events, conversations, strict=False))
    return {place: contact for place, contact in enumerate(found) if contact is not None}


def _sent_to(event: Event, owner: Config, conversation: Conversation | None, known: Known) -> Contact | None:
    if conversation is None or conversation.contact is None or conversation.group_id is not None:
        return None
    for name in _subjects(event, owner, conversation):
        found = known.get(name)
        if found and found.sent_to and found.contact_id not in (None, conversation.contact.id):
            addressed, shown = addressee(_recipient(found.sent_to)), conversation.contact
            kinds = ("phone", "user_id", "lid")
            return None if any(getattr(addressed, kind) and getattr(shown, kind) for kind in kinds) else addressed
    return None


def as_known(event: Event, owner: Config, conversation: Conversation | None, known: Known) -> Event:
    """*event* with the ids by which the CRM knows the messages that it names."""
    if not known:
        return event
    ids: dict[str | None, str] = {}
    for name in _names(event, owner, conversation):
        found, named = known.get(name), name.provider_message_id or _reported(event)
        if found is None or found.known_as is None or named is None or named == found.known_as:
            continue
        # Found by our id it may have been another attempt, with an id of its own.
        if name.message_id is None or owner.message_key(named) == owner.message_key(found.known_as):
            ids[named] = found.known_as
    if not ids:
        return event
    message, status = renamed(event.message, event.status, ids)
    return msgspec.structs.replace(event, message=message, status=status)


def _reported(event: Event) -> str | None:
    return event.status.provider_message_id if event.status is not None else None


AnyMessage = TypeVar("AnyMessage", bound=Message | None)


def renamed(
    message: AnyMessage, status: Status | None, ids: Mapping[str | None, str]
) -> tuple[AnyMessage, Status | None]:
    """What an event says, with the other names that *ids* has for messages."""
    if status is not None and status.provider_message_id in ids:
        status = msgspec.structs.replace(status, provider_message_id=ids[status.provider_message_id])
    if message is None:
        return message, status
    changes: dict[str, object] = {
        field: ids[identity]
        for field in ("provider_message_id", "original_message_id")
        if (identity := getattr(message, field)) in ids
    }
    if (quoted := message.reply_to) is not None and quoted.id in ids:
        changes["reply_to"] = msgspec.structs.replace(quoted, id=ids[quoted.id])
    if isinstance(content := message.content, Reaction) and content.message_id in ids:
        changes["content"] = msgspec.structs.replace(content, message_id=ids[content.message_id])
    return msgspec.structs.replace(message, **changes), status


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
    yield from _subjects(event, owner, conversation)
    if event.message is not None and event.message.by == "contact":
        yield from (_by_its_id(event, owner, identity) for identity in _kept(event.message.original_message_id))
    if quoted := _quoted(event, owner):
        yield quoted


def _subjects(event: Event, owner: Config, conversation: Conversation | None) -> Iterator[NamedMessage]:
    message_id, _ = parse_correlation(event.correlation_id) if event.correlation_id else (None, None)
    if message_id is not None:
        yield _by_our_id(owner, message_id)
    else:
        yield from _about(event, owner, conversation)


def _about(event: Event, owner: Config, conversation: Conversation | None) -> Iterator[NamedMessage]:
    for identity in about(event.type, event.message, event.status):
        source = event.message.source if is_itself(event.type, event.message, identity) and event.message else None
        name = _by_its_id(event, owner, identity)
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
    return next((_by_its_id(event, owner, identity) for identity in _kept(quoted.id)), None) if quoted else None


def _by_our_id(owner: Config, message_id: UUID) -> NamedMessage:
    return NamedMessage(owner.organization_id, owner.account_id, owner.id, None, message_id)


def _by_its_id(event: Event, owner: Config, identity: str) -> NamedMessage:
    event_key = owner.provider.event_key(event, identity)
    return NamedMessage(
        owner.organization_id,
        owner.account_id,
        owner.id,
        identity,
        None,
        message_key=owner.message_key(identity),
        event_key_hash=None if event_key is None else key_hash(event_key, owner.account_id),
    )


def _kept(identity: str | None) -> Iterator[str]:
    if identity and len(identity) <= MAX_ID_CHARACTERS:
        yield identity
