"""Events with more in them than any person writes: what is left of them for readers. Their raw item has all of it."""

import msgspec

from providers import AccountUpdate, Contact, ErrorInfo, Event, Message, Status, UnknownContent
from providers._values import bounded

from ..envelope import Conversation, Person

# Of an event's `data`. The longest text that WhatsApp's apps take, 65,536 characters, is never more than 196,608 bytes.
MAX_DATA_BYTES = 256 * 1024
TOO_LARGE = "too_large"
_WORDS = 1_000


def without_excess(event: Event) -> Event:
    """*event* as it is stored where its `data` would be too large: what it is about, and no words."""
    return msgspec.structs.replace(
        event,
        type="message.unknown" if event.type == "message.received" else event.type,
        contact=_who(event.contact),
        group_id=event.group_id and bounded(event.group_id),
        message=event.message and _message(event.message),
        status=event.status and _status(event.status),
        account=event.account and _account(event.account),
    )


def short_conversation(conversation: Conversation) -> Conversation:
    """*conversation* as it is shown with such an event."""
    contact = conversation.contact
    person = contact and Person(**msgspec.structs.asdict(_who(contact) or Contact()), id=contact.id)
    group_id = conversation.group_id and bounded(conversation.group_id)
    return Conversation(conversation.id, conversation.sender, person, group_id)


def short_error(error: ErrorInfo) -> ErrorInfo:
    """*error* as it is kept beside a message: a provider's own words, which are as long as it likes."""
    return ErrorInfo(
        code=error.code and error.code[:64],
        class_=error.class_,
        title=error.title and error.title[:_WORDS],
        detail=error.detail and error.detail[:_WORDS],
    )


def _who(contact: Contact | None) -> Contact | None:
    if contact is None:
        return None
    addresses = {name: getattr(contact, name) for name in ("user_id", "parent_user_id", "lid")}
    return Contact(phone=contact.phone, **{name: bounded(value) for name, value in addresses.items() if value})


def _message(message: Message) -> Message:
    return Message(
        provider_message_id=message.provider_message_id and bounded(message.provider_message_id),
        original_message_id=message.original_message_id and bounded(message.original_message_id),
        content=UnknownContent(raw_type=TOO_LARGE),
        by=message.by,
        source=message.source,
    )


def _status(status: Status) -> Status:
    return Status(
        provider_message_id=status.provider_message_id and bounded(status.provider_message_id),
        value=status.value,
        raw_value=status.raw_value and status.raw_value[:_WORDS],
        error=status.error and short_error(status.error),
        participant=_who(status.participant),
    )


def _account(account: AccountUpdate) -> AccountUpdate:
    field = account.field and account.field[:_WORDS]
    return AccountUpdate(kind=account.kind[:_WORDS], field=field, health=account.health, details={TOO_LARGE: True})
