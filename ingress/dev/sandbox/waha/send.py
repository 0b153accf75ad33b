"""A send: judged, met by the session's next fault, accepted or not, and answered or not."""

import time
from typing import Any

from aiohttp import web

from ..faulty_answers import perform
from .answers import WahaAnswers
from .bodies import IN_BROWSER, Body, Engine, News, digits_of, is_group, new_bare_id, wire
from .errors import WahaError, not_implemented, plus_only
from .messages import ChatMessage, reaction_payload, sent
from .records import WahaSend
from .rules import check
from .session import SessionState
from .validation import REACTION, check_send
from .world import WahaWorld

# What the usual image of those engines that drive a browser lacks: from reports in WAHA's tracker, as are lists in
# groups and unknown people below. What is recorded is in errors.py.
NO_VIDEO = 'Use "devlikeapro/waha:chrome" docker image to send video in WEBJS'
FILES = ("sendImage", "sendFile", "sendVoice", "sendVideo", "sendSticker")
CARDS = "sendContactVcard"
KINDS = {
    "sendText": "text",
    "sendImage": "image",
    "sendFile": "document",
    "sendVoice": "voice",
    "sendVideo": "video",
    "sendSticker": "sticker",
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
        state = await _judged(world, call, body)
    except WahaError as error:
        record.status = error.status
        raise
    fault = await world.meet(state, record)
    dialect = WahaAnswers(request, body, world.server, state.engine)
    return await perform(world, dialect, fault, request, lambda: _accept(world, state, record, body))


async def _judged(world: WahaWorld, call: str, body: Any) -> SessionState:
    """The session of a send that WAHA takes."""
    if call == "reaction":
        check(REACTION, body)
    else:
        check_send(call, body)
    state = await world.working(body["session"])
    _check_possible(world, state.engine, call)
    if state.engine == "NOWEB" and not world.server.has("group_ids_of_four_parts") and _parts(body) > 3:
        raise WahaError(400, "the id of a message has three parts")  # its words are not known
    if call == "sendList" and is_group(body["chatId"]):
        raise WahaError(422, "Lists are for direct chats only")
    chat = body.get("chatId")
    if chat is not None and world.chat_known_as(chat) != chat and not world.takes_strangers:
        words = "Lid is missing in chat table" if state.engine in IN_BROWSER else f"no LID found for {wire(chat)}"
        raise WahaError(500, f"2 UNKNOWN: {words} from server")
    return state


def _parts(body: Body) -> int:
    """Of the id of the message that is quoted, or reacted to."""
    return str(body.get("reply_to") or body.get("messageId")).count("_") + 1


def _check_possible(world: WahaWorld, engine: Engine, call: str) -> None:
    """Raise `WahaError` for what the engine, the version or the tier cannot do."""
    in_browser, limited = engine in IN_BROWSER, world.server.is_limited
    if call == "sendVideo" and in_browser:
        raise WahaError(422, NO_VIDEO)
    # NOWEB under 2026.2.1 Core answers a video so, and any other file with "Plus only" (recorded).
    lacks_video = call == "sendVideo" and engine == "NOWEB" and limited
    if call == "sendButtons" or (call == "sendList" and in_browser) or lacks_video:
        raise not_implemented(world.server, engine)
    if limited and call in (*FILES, "sendList"):
        raise plus_only(engine)


async def _accept(world: WahaWorld, state: SessionState, record: WahaSend, body: Body) -> Body | None:
    """Take the message: from here on a person has it. Returns the engine's answer."""
    heeds = state.engine not in IN_BROWSER and world.server.has("chosen_ids")
    heeded = record.chosen_id if heeds else None
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
    if world.chat_known_as(message.chat) != message.chat:
        return sent(state.engine, message, state.own)  # and nobody gets it
    world.accept(record, message.bare, body)
    kept = state.keep(message)
    world.changed()
    if record.call == "reaction":
        reacted = reaction_payload(state.engine, kept, state.own, target=body["messageId"], emoji=body["reaction"])
        world.announce(state, News(("message.reaction",), reacted))
    else:
        await world.post_after(state.policy, world.post_acks(state, kept))
    is_silent = record.call == CARDS and not world.server.has("answers_to_cards")
    return None if is_silent else sent(state.engine, message, state.own)


async def _fetch(world: WahaWorld, body: Body) -> None:
    """The file that a send names by its URL."""
    url = (body.get("file") or {}).get("url")
    if url is None:
        return
    status, _ = await world.webhooks.get(url, {})
    if status is None:
        raise WahaError(500, f"connect ECONNREFUSED {url.split('/')[2]}")
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
            menu = body["message"]
            message.proto = {
                "title": menu["title"],
                "description": menu.get("description"),
                "buttonText": menu["button"],
            }
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
