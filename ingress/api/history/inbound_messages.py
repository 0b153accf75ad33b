"""Inbound messages, found by the id of their event: showing them as read, or an answer as being written; who wrote.

Costs no send anything.
"""

from collections.abc import Callable
from typing import Literal, TypeVar
from uuid import UUID

import msgspec

from providers import Contact, Flow, Recipient, SendError

from ... import metrics
from ...accounts.config import Config
from ...calls.transfers import TransfersBusy
from ...envelope import Conversation, EventData
from ...identifiers import parse_event_id
from ...storage.statements import events
from ...storage.statements.events import StoredEvent
from ...web.bodies import Shown
from ...web.problems import Problem, not_found
from .. import AnyRequest, ApiRequest
from .gone import missing_event

Kind = Literal["read", "typing", "stop_typing", "find_phone"]
Result = TypeVar("Result")

_decoder = msgspec.json.Decoder(EventData)


class Received(msgspec.Struct, frozen=True):
    """An event of a provider, and the config that received it."""

    sequence: int
    type: str
    data: EventData
    config: Config

    def __repr__(self) -> str:
        return f"Received({self.sequence})"


class PhoneFound(Shown, frozen=True):
    """None: the provider does not know it either."""

    phone: str | None


async def received(request: AnyRequest) -> Received:
    """The event in the path, if it is the organization's. Raises `Problem` 404, 409 or 410."""
    event = await _event(request)
    config = await _receiver(request, event.config_id)
    try:
        return Received(event.sequence, event.type, _decoder.decode(event.data), config)
    except msgspec.ValidationError:  # an event of our own, or of another release
        raise not_found() from None


async def _event(request: AnyRequest) -> StoredEvent:
    organization_id = request.organization_id
    sequence = parse_event_id(request.path_params["event_id"], organization_id)
    async with request.connection() as connection:
        event = await events.at(connection, organization_id, sequence) if sequence is not None else None
        if event is None:
            raise await missing_event(connection, organization_id, sequence)
    return event


async def _receiver(request: AnyRequest, config_id: UUID) -> Config:
    config = await request.state["manager"].config(request.organization_id, config_id)
    if config is None or config.is_unusable:
        raise Problem(409, "provider_not_configured", "The account that received this cannot be used.")
    return config


def _chat(conversation: Conversation | None) -> Recipient:
    """Where the message was written: the group, or the person."""
    if conversation is None:
        return Recipient()
    if conversation.group_id is not None:
        return Recipient(group_id=conversation.group_id)
    contact = conversation.contact
    return Recipient(phone=contact.phone, user_id=contact.user_id, lid=contact.lid) if contact else Recipient()


async def _message(request: AnyRequest) -> tuple[Received, str]:
    """The inbound message whose event the path names, and the provider's id of it. Raises `Problem` 404."""
    found = await received(request)
    message = found.data.message
    if found.type != "message.received" or message is None or message.provider_message_id is None:
        raise not_found()
    return found, message.provider_message_id


async def _run(request: AnyRequest, found: Received, kind: Kind, start: Callable[[], Flow[Result]]) -> Result:
    """The result of a call to the provider that received *found*. Raises `Problem`."""
    config, outcome = found.config, "ok"
    try:
        return await request.state["transfers"].call(config.organization_id, start(), config.provider)
    except TransfersBusy:
        outcome = "busy"
        raise
    except SendError as error:
        outcome = type(error).__name__
        raise
    finally:
        metrics.receipts.labels(config.provider_type, kind, outcome).inc()


async def _show(request: AnyRequest, kind: Literal["read", "typing"]) -> None:
    found, message_id = await _message(request)
    provider, chat = found.config.provider, _chat(found.data.conversation)
    await _run(request, found, kind, lambda: provider.mark_read(message_id, chat, typing=kind == "typing"))


async def mark_read(request: ApiRequest) -> None:
    """POST /messages/{event_id}/read: show the person that the message of this event was read."""
    await _show(request, "read")


async def show_typing(request: ApiRequest) -> None:
    """POST /messages/{event_id}/typing: show that an answer is being written, and the message as read."""
    await _show(request, "typing")


async def stop_typing(request: ApiRequest) -> None:
    """DELETE /messages/{event_id}/typing: show no longer that an answer is being written."""
    found, _ = await _message(request)
    provider, chat = found.config.provider, _chat(found.data.conversation)
    await _run(request, found, "stop_typing", lambda: provider.stop_typing(chat))


async def find_phone(request: ApiRequest) -> PhoneFound:
    """GET /messages/{event_id}/phone: the number of who wrote this message; null where the provider knows none."""
    found, _ = await _message(request)
    provider, conversation = found.config.provider, found.data.conversation
    contact = (conversation and conversation.contact) or Contact()
    phone = contact.phone or await _run(request, found, "find_phone", lambda: provider.find_phone(contact.lid or ""))
    return PhoneFound(phone)
