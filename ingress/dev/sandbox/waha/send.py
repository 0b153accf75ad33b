"""A send: judged, met by the session's next fault, accepted or not, and answered or not."""

import time
from typing import Any

from aiohttp import web

from ..faulty_answers import perform
from .answers import WahaAnswers
from .bodies import Body, News, digits_of, is_group, new_bare_id, wire
from .errors import NO_SESSION, NOT_IMPLEMENTED, WahaError, unexpected_status
from .messages import ChatMessage, reaction_payload, sent
from .records import WahaSend
from .rules import check
from .session import SessionState
from .validation import REACTION, check_send
from .world import WahaWorld

# What one engine cannot do.
NOT_ON_WEBJS = {
    "sendList": NOT_IMPLEMENTED,
    "sendVideo": 'Use "devlikeapro/waha:chrome" docker image to send video in WEBJS',
}
KINDS = {
    "sendText": "text",
    "sendImage": "image",
    "sendFile": "document",
    "sendVoice": "voice",
    "sendVideo": "video",
    "sendLocation": "location",
    "sendContactVcard": "contacts",
    "sendPoll": "poll",
    "sendList": "list",
    "reaction": "reaction",
}


async def send(world: WahaWorld, request: web.BaseRequest, call: str, body: Any) -> web.StreamResponse:
    """POST ``/api/send…`` or PUT ``/api/reaction``. What is refused for its content uses up no fault."""
    name = body.get("session") if isinstance(body, dict) else None
    record = world.arrived(name if isinstance(name, str) else "", call, body)
    try:
        state = _judged(world, call, body)
    except WahaError as error:
        record.status = error.status
        raise
    fault = await world.meet(state, record)
    dialect = WahaAnswers(request, body, state.engine)
    return await perform(world, dialect, fault, request, lambda: _accept(world, state, record, body))


def existing(world: WahaWorld, name: str) -> SessionState:
    state = world.numbers.get(name)
    if state is None or not state.exists:
        raise WahaError(404, NO_SESSION)
    return state


def expect(state: SessionState, status: str) -> None:
    if state.status != status:
        raise unexpected_status(state.name, state.status, status)


def _judged(world: WahaWorld, call: str, body: Any) -> SessionState:
    """The session of a send that WAHA takes."""
    if call == "reaction":
        check(REACTION, body)
    else:
        check_send(call, body)
    state = existing(world, body["session"])
    expect(state, "WORKING")
    if call == "sendButtons":
        raise WahaError(422, NOT_IMPLEMENTED)
    if state.engine == "WEBJS" and call in NOT_ON_WEBJS:
        raise WahaError(422, NOT_ON_WEBJS[call])
    if call == "sendList" and is_group(body["chatId"]):
        raise WahaError(422, "Lists are for direct chats only")
    chat = body.get("chatId")
    if chat is not None and world.chat_known_as(chat) != chat:
        words = "Lid is missing in chat table" if state.engine == "WEBJS" else f"no LID found for {wire(chat)}"
        raise WahaError(500, f"2 UNKNOWN: {words} from server")
    return state


async def _accept(world: WahaWorld, state: SessionState, record: WahaSend, body: Body) -> Body:
    """Take the message: from here on a person has it. Returns the engine's answer."""
    heeded = None if state.engine == "WEBJS" else record.chosen_id
    if heeded is not None and (known := state.sent_as(heeded)) is not None:
        record.id, record.repeated = heeded, True
        return sent(state.engine, known, state.own)
    if world.fetches:
        try:
            await _fetch(world, body)
        except WahaError as error:
            record.status = error.status
            raise
    message = _message(state, record.call, heeded or new_bare_id(state.engine, world.rng), body)
    world.accept(record, message.bare, body)
    kept = state.keep(message)
    world.changed()
    if record.call == "reaction":
        reacted = reaction_payload(state.engine, kept, state.own, target=body["messageId"], emoji=body["reaction"])
        world.announce(state, News(("message.reaction",), reacted))
    else:
        await world.post_after(state.policy, world.post_acks(state, kept))
    return sent(state.engine, message, state.own)


async def _fetch(world: WahaWorld, body: Body) -> None:
    """The file that a send names by its URL."""
    url = (body.get("file") or {}).get("url")
    if url is None:
        return
    status, _ = await world.webhooks.get(url, {})
    if status is None:
        raise WahaError(500, f"getaddrinfo ENOTFOUND {url.split('/')[2]}")
    if status >= 400:
        raise WahaError(500, f"Request failed with status code {status}")


def _message(state: SessionState, call: str, bare: str, body: Body) -> ChatMessage:
    chat = body["messageId"].split("_")[1] if call == "reaction" else body["chatId"]
    reply_to = body.get("reply_to")
    message = ChatMessage(
        bare=bare,
        chat=chat,
        kind=KINDS[call],
        from_me=True,
        by_api=True,
        timestamp=int(time.time()),
        body=body.get("text") or body.get("caption"),
        author=state.own if is_group(chat) else None,
        reply_to={"id": reply_to, "participant": None, "body": None, "hasMedia": False} if reply_to else None,
    )
    match call:
        case "sendLocation":
            message.place = {name: body.get(name) for name in ("latitude", "longitude", "title")}
        case "sendContactVcard":
            message.vcards = [_vcard(card) for card in body["contacts"]]
        case "sendPoll":
            message.proto = {"name": body["poll"]["name"]}
        case "sendList":
            message.proto = {"title": body["message"]["title"], "buttonText": body["message"]["button"]}
        case "reaction":
            message.proto = {"text": body["reaction"]}
    if file := body.get("file"):
        media = {"url": file.get("url"), "mimetype": file["mimetype"], "filename": file.get("filename"), "error": None}
        message.media = media
    return message


def _vcard(card: Body) -> str:
    if card.get("vcard"):
        return str(card["vcard"])
    number = card.get("phoneNumber", "")
    waid = card.get("whatsappId") or digits_of(number)
    return f"BEGIN:VCARD\nVERSION:3.0\nFN:{card['fullName']}\nTEL;type=CELL;waid={waid}:{number}\nEND:VCARD"
