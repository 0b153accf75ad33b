"""Showing the person that their message was read, or that an answer is being written; finding out their number.

Costs no send anything.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from providers import Contact, Flow, Recipient, SendError

from .. import metrics
from ..calls.transfers import Busy, Transfers
from ..envelope import Conversation
from ..web.auth import organization_of
from ..web.problems import call_problem, json_response, not_found, unavailable
from .received import Received, received

# Shorter than a send's: who waits for this waits to answer a person.
RECEIPT_TIMEOUT_S = 8.0

Kind = Literal["read", "typing", "stop_typing", "find_phone"]
Result = TypeVar("Result")


def _chat(conversation: Conversation | None) -> Recipient:
    """Where the message was written: the group, or the person."""
    if conversation is None:
        return Recipient()
    if conversation.group_id is not None:
        return Recipient(group_id=conversation.group_id)
    contact = conversation.contact
    return Recipient(phone=contact.phone, user_id=contact.user_id, lid=contact.lid) if contact else Recipient()


async def _message(request: Request[Any], scope: Literal["read", "send"]) -> tuple[Received, str]:
    """The inbound message whose event the path names, and the provider's id of it. Raises `Problem` 404."""
    organization_id, _ = await organization_of(request, scope)
    found = await received(request, organization_id)
    message = found.data.message
    if found.type != "message.received" or message is None or message.provider_message_id is None:
        raise not_found()
    return found, message.provider_message_id


async def _run(request: Request[Any], found: Received, kind: Kind, start: Callable[[], Flow[Result]]) -> Result:
    """The result of a call to the provider that received *found*. Raises `Problem`."""
    transfers: Transfers = request.state["transfers"]
    outcome = "ok"
    try:
        with transfers.room(found.config.organization_id):
            return await transfers.run(start(), RECEIPT_TIMEOUT_S)
    except Busy:
        outcome = "busy"
        raise unavailable("Too many calls of the organization are under way.") from None
    except SendError as error:
        outcome = type(error).__name__
        raise call_problem(error) from error
    finally:
        metrics.receipts.labels(found.config.provider_type, kind, outcome).inc()


async def _show(request: Request[Any], kind: Literal["read", "typing"]) -> Response:
    found, message_id = await _message(request, "send")
    provider, chat = found.config.provider, _chat(found.data.conversation)
    await _run(request, found, kind, lambda: provider.mark_read(message_id, chat, typing=kind == "typing"))
    return Response(status_code=204)


async def mark_read(request: Request[Any]) -> Response:
    """POST /messages/{event_id}/read: show the person that the message of this event was read."""
    return await _show(request, "read")


async def show_typing(request: Request[Any]) -> Response:
    """POST /messages/{event_id}/typing: show that an answer is being written, and the message as read."""
    return await _show(request, "typing")


async def stop_typing(request: Request[Any]) -> Response:
    """DELETE /messages/{event_id}/typing: show no longer that an answer is being written."""
    found, _ = await _message(request, "send")
    provider, chat = found.config.provider, _chat(found.data.conversation)
    await _run(request, found, "stop_typing", lambda: provider.stop_typing(chat))
    return Response(status_code=204)


async def find_phone(request: Request[Any]) -> Response:
    """GET /messages/{event_id}/phone: the number of who wrote this message; null where the provider knows none."""
    found, _ = await _message(request, "read")
    provider, conversation = found.config.provider, found.data.conversation
    contact = (conversation and conversation.contact) or Contact()
    phone = contact.phone or await _run(request, found, "find_phone", lambda: provider.find_phone(contact.lid or ""))
    return json_response({"phone": phone})
