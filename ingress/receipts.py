"""Showing the person that their message was read, or that an answer is being written. Costs no send anything."""

from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from providers import Recipient, SendError

from . import metrics
from .auth import organization_of
from .envelope import Conversation
from .problems import call_problem, not_found, unavailable
from .received import received
from .transfers import Busy, Transfers

# Shorter than a send's: who waits for this waits to answer a person.
RECEIPT_TIMEOUT_S = 8.0


def _chat(conversation: Conversation | None) -> Recipient:
    """Where the message was written: the group, or the person."""
    if conversation is None:
        return Recipient()
    if conversation.group_id is not None:
        return Recipient(group_id=conversation.group_id)
    contact = conversation.contact
    return Recipient(phone=contact.phone, user_id=contact.user_id, lid=contact.lid) if contact else Recipient()


async def _show(request: Request[Any], kind: Literal["read", "typing"]) -> Response:
    organization_id, _ = await organization_of(request, "send")
    found = await received(request, organization_id)
    message = found.data.message
    if found.type != "message.received" or message is None or message.provider_message_id is None:
        raise not_found()
    transfers: Transfers = request.state["transfers"]
    provider, outcome = found.config.provider, "ok"
    try:
        with transfers.room(organization_id):
            flow = provider.mark_read(
                message.provider_message_id, _chat(found.data.conversation), typing=kind == "typing"
            )
            await transfers.run(flow, RECEIPT_TIMEOUT_S)
    except Busy:
        outcome = "busy"
        raise unavailable("Too many calls of the organization are under way.") from None
    except SendError as error:
        outcome = type(error).__name__
        raise call_problem(error) from error
    finally:
        metrics.receipts.labels(found.config.provider_type, kind, outcome).inc()
    return Response(status_code=204)


async def mark_read(request: Request[Any]) -> Response:
    """POST /messages/{event_id}/read: show the person that the message of this event was read."""
    return await _show(request, "read")


async def show_typing(request: Request[Any]) -> Response:
    """POST /messages/{event_id}/typing: show that an answer is being written, and the message as read."""
    return await _show(request, "typing")
