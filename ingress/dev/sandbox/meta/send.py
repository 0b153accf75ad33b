"""A send: judged, met by the number's next fault, accepted or not, and answered or not."""

import secrets
from typing import Any

import msgspec
from aiohttp import web

from .. import faults, faulty_answers
from ..faulty_answers import Work
from .bodies import Body, encode, new_wamid
from .errors import GraphError
from .records import MetaReceipt, SendCall
from .validation import check_product, check_receipt, check_send
from .world import MetaWorld, NumberState


async def send(
    world: MetaWorld, state: NumberState, request: web.BaseRequest, *, marketing: bool
) -> web.StreamResponse:
    """POST ``/messages`` or ``/marketing_messages``. What is refused for its content uses up no fault."""
    body = await _body(request)
    number = state.number
    if "status" in body:
        check_receipt(body)
        world.receipts.append(
            MetaReceipt(number.phone_number_id, body["message_id"], typing="typing_indicator" in body)
        )
        return await perform(world, state.script.standing, request, _success)
    tracker = body.get("biz_opaque_callback_data")
    call = world.arrived(number.phone_number_id, tracker if isinstance(tracker, str) else None)
    try:
        check_send(body, sender=number.digits, marketing=marketing)
        if not state.registered:
            raise GraphError(133010)
    except GraphError as error:
        call.error_code = error.code
        raise
    fault = await world.meet(state, call)
    return await perform(world, fault, request, lambda: accept(world, state, call, fault, body))


async def accept(
    world: MetaWorld, state: NumberState, call: SendCall, fault: faults.AnyFault | None, body: Body
) -> Body:
    """Take the message: from here on a person has it. Returns Meta's answer.

    Source: https://github.com/facebook/openapi (`MessageResponsePayload`)
    """
    message = world.accept(call, new_wamid(world.rng), body)
    world.changed()
    if state.policy.statuses:
        await world.post_after(state.policy, world.post_statuses(state, message))
    answer: Body = {"id": message.wamid}
    held = fault.message_status if isinstance(fault, faults.Accept) else None
    if held or body["type"] == "template":
        answer["message_status"] = held or "accepted"
    return {"messaging_product": "whatsapp", "contacts": [_contact(world, body)], "messages": [answer]}


class GraphAnswers:
    """How Meta answers."""

    def answer(self, content: Body) -> web.Response:
        return graph_response(content)

    def throttled(self, headers: dict[str, str]) -> web.Response:
        # Source: https://github.com/facebook/openapi has 429, with code 4 alone; the error codes' page has 400.
        return graph_response(GraphError(130429).json(), 429, headers)

    def refused(self, fault: faults.ErrorCode) -> web.Response:
        error = GraphError(
            fault.code,
            fault.details,
            http_status=fault.http_status,
            subcode=fault.subcode,
            message=fault.message,
            is_transient=fault.is_transient,
        )
        return graph_response(error.json(), error.http_status, fault.headers)


async def perform(
    world: MetaWorld, fault: faults.AnyFault | None, request: web.BaseRequest, work: Work
) -> web.StreamResponse:
    return await faulty_answers.perform(world, GraphAnswers(), fault, request, work)


def graph_response(body: Body, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON with the headers that Graph answers carry.

    Source: https://github.com/facebook/openapi (the headers of `sendMessage`), of which these are some
    """
    trace = {
        "facebook-api-version": "v25.0",
        "x-fb-trace-id": secrets.token_urlsafe(8),
        "x-fb-request-id": secrets.token_urlsafe(16),
    }
    return web.Response(
        body=encode(body),
        status=status,
        content_type="application/json",
        charset="UTF-8",
        headers={**trace, **(headers or {})},
    )


async def _success() -> Body:
    return {"success": True}


async def _body(request: web.BaseRequest) -> dict[str, Any]:
    raw = await request.read()
    try:
        # Meta also reads forms; the gateway has no reason to send one.
        body = msgspec.json.decode(raw) if request.content_type == "application/json" else None
    except msgspec.MsgspecError:
        body = None
    check_product(body)
    assert isinstance(body, dict)
    return body


def _contact(world: MetaWorld, body: Body) -> Body:
    # Source: https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids
    if body["recipient_type"] == "group":
        return {"input": body["to"]}
    if "to" in body:
        return {"input": body["to"], "wa_id": world.wa_id(body["to"])}
    return {"input": body["recipient"], "user_id": body["recipient"]}
