"""A send: judged, met by the sender's next fault, accepted or not, and answered or not."""

import secrets
import time
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from .. import faults, faulty_answers
from ..faulty_answers import Work
from .bodies import Body, Form, message_resource, new_sid
from .errors import TwilioError
from .records import TwilioSend
from .rules import CheckedSend, check_send
from .world import SenderState, TwilioWorld

FORM = "application/x-www-form-urlencoded"


async def send(world: TwilioWorld, account_sid: str, request: web.BaseRequest) -> web.StreamResponse:
    """POST ``Messages.json``. What is refused for its content uses up no fault."""
    form = await form_of(request)
    call = world.arrived(account_sid, form)
    senders = [state.sender for state in world.senders_of(account_sid)]
    try:
        if world.account_fields.get(account_sid, {}).get("status", "active") != "active":
            raise TwilioError(20005)
        order = check_send(form, senders, world.contents_of(account_sid))
    except TwilioError as error:
        call.error_code = error.code
        raise
    state = world.state_of(order.sender)
    call.phone_number = order.sender.phone_number
    fault = await world.meet(state, call)
    return await perform(world, fault, request, lambda: accept(world, state, call, fault, order))


async def accept(
    world: TwilioWorld, state: SenderState, call: TwilioSend, fault: faults.AnyFault | None, order: CheckedSend
) -> web.Response:
    """Take the message: from here on a person has it. Returns Twilio's answer."""
    sid = new_sid(world.rng, "MM" if order.has_media else "SM")
    message = world.accept(call, sid, order.sender, order.form)
    held = fault.message_status if isinstance(fault, faults.Accept) else None
    has_service = message.parameter("MessagingServiceSid") is not None
    answer = message_resource(
        order.sender,
        sid,
        order.form,
        status=held or ("accepted" if has_service else "queued"),
        body=order.body,
        at=time.time(),
        is_picked=order.is_picked,
    )
    if held == "failed":
        answer["error_code"] = state.policy.failed_code
    world.messages[sid] = dict(answer)  # the answer stays as it is while the message goes on
    world.changed()
    if state.policy.statuses or order.fails_with is not None:
        await world.post_after(state.policy, world.post_statuses(state, message, order.fails_with))
    return twilio_response(answer, 201)


class TwilioAnswers:
    """How Twilio answers."""

    def answer(self, response: web.Response) -> web.Response:
        return response

    def throttled(self, headers: dict[str, str]) -> web.Response:
        # Source: https://www.twilio.com/docs/api/errors/20429
        return twilio_response(TwilioError(20429).json(), 429, headers)

    def refused(self, fault: faults.ErrorCode) -> web.Response:
        error = TwilioError(fault.code, fault.message, http_status=fault.http_status)
        return twilio_response(error.json(), error.http_status, fault.headers)


async def perform(
    world: TwilioWorld, fault: faults.AnyFault | None, request: web.BaseRequest, work: Work
) -> web.StreamResponse:
    """Do *work*, or not, and answer, or not, as *fault* has it."""
    return await faulty_answers.perform(world, TwilioAnswers(), fault, request, work)


async def form_of(request: web.BaseRequest) -> Form:
    """The parameters of the body, none where it is no form."""
    raw = await request.read()
    if request.content_type != FORM:
        return []
    try:
        return parse_qsl(raw.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise TwilioError(20001, "the body is no UTF-8") from None


def twilio_response(body: Body, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON with the headers of Twilio's answers. Their names are judgement: `T-Request-Id` alone is published."""
    trace = {"Twilio-Request-Id": f"RQ{secrets.token_hex(16)}", "Twilio-Concurrent-Requests": "1"}
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        content_type="application/json",
        headers={**trace, **(headers or {})},
    )
