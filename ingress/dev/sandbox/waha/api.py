"""WAHA's front door: who asks, and every call but the sends: sessions, linking, chats, files, the server itself.

Source: https://waha.devlike.pro/docs/how-to/sessions, https://waha.devlike.pro/docs/how-to/chats
"""

import base64
import time
from functools import partial
from typing import Any

from aiohttp import web

from ..faulty_answers import perform
from ..routes import Routes
from .answers import WahaAnswers, body_of
from .bodies import IN_BROWSER, Body, chat_of, environment, new_bare_id
from .errors import NO_SESSION, NO_STORE, WahaError, not_implemented, not_started, other_session, unexpected_status
from .messages import payload
from .qr import qr_png, qr_text
from .records import WahaKey, WahaReceipt
from .rules import check
from .send import send
from .server import LOGOUT_S, RESTART_S
from .session import SessionState
from .validation import (
    CHAT,
    NEW_SESSION,
    PAIRING,
    SEEN,
    SEEN_ONE,
    SENDS,
    TYPING,
    UPDATE,
    check_query,
    check_session,
)
from .world import WahaWorld

# What the answer to a version without it is "Cannot POST …".
UNKNOWN_BEFORE = {
    "POST /api/sendList": "sendList",
    "POST /api/sendSticker": "sendSticker",
    "GET /api/{session}/lids/{lid}": "lids",
}
OPEN_TO_ALL = {"GET /ping", "GET /health"}
FILTERS = ("filter.fromMe", "filter.timestamp.gte", "filter.timestamp.lte")
LISTED = ("limit", "offset", "downloadMedia", "sortBy", "sortOrder", "merge", *FILTERS)
USUAL_LIMIT = 10


class WahaApi:
    """The handler of every API port. A request is counted before anything is judged about it."""

    def __init__(self, world: WahaWorld) -> None:
        self._world = world
        session = "/api/sessions/{session}"
        chat = "/api/{session}/chats/{chat}/messages"
        self._sends = {f"POST /api/{call}": call for call in SENDS} | {"PUT /api/reaction": "reaction"}
        self._routes = Routes(
            {
                **dict.fromkeys(self._sends, partial(send, world)),
                "GET /ping": self._ping,
                "GET /health": self._health,
                "GET /api/server/version": self._version,
                "GET /api/server/status": self._server_status,
                "GET /api/sessions": self._sessions,
                "POST /api/sessions": self._create,
                f"GET {session}": self._session,
                f"PUT {session}": self._update,
                f"DELETE {session}": self._delete,
                f"GET {session}/me": self._me,
                f"POST {session}/start": self._start,
                f"POST {session}/stop": self._stop,
                f"POST {session}/restart": self._restart,
                f"POST {session}/logout": self._logout,
                "GET /api/contacts/check-exists": self._check_exists,
                "POST /api/sendSeen": partial(self._shown, "sendSeen"),
                "POST /api/startTyping": partial(self._shown, "startTyping"),
                "POST /api/stopTyping": partial(self._shown, "stopTyping"),
                "GET /api/files/{session}/{name}": self._file,
                "GET /api/{session}/auth/qr": self._qr,
                "POST /api/{session}/auth/request-code": self._pairing_code,
                "GET /api/{session}/new-message-id": self._new_message_id,
                "GET /api/{session}/lids/{lid}": self._lid,
                f"GET {chat}": self._messages,
                f"GET {chat}/{{message_id}}": self._message,
            }
        )

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body: Any = {}
        try:
            body = await body_of(request)
            return await self._route(request, body)
        except WahaError as error:
            return WahaAnswers(request, body, self._world.server, self._world.engine).error(error)
        finally:
            self._world.changed()

    async def _route(self, request: web.BaseRequest, body: Any) -> web.StreamResponse:
        found = self._routes.find(request)
        if found is None or not self._world.server.has(UNKNOWN_BEFORE.get(found[0], "")):
            self._world.calls["", "unknown"] += 1
            raise WahaError(404, f"Cannot {request.method} {request.path}")
        route, function, names = found
        fields = body if isinstance(body, dict) else {}
        name = names.get("session") or fields.get("session") or fields.get("name") or request.query.get("session")
        state = self._world.numbers.get(name) if isinstance(name, str) else None
        self._world.calls[state.name if state else "", route.replace("/api/", "").replace(" /", " ")] += 1
        if route not in OPEN_TO_ALL:
            self._check_key(request, route, name)
            if self._world.server.is_limited and isinstance(name, str) and name != "default":
                raise other_session(name)
        if route in self._sends:
            return await send(self._world, request, self._sends[route], body)
        dialect = WahaAnswers(request, body, self._world.server, state.engine if state else self._world.engine)
        fault = state.script.standing if state else None
        return await perform(self._world, dialect, fault, request, partial(function, request, body, **names))

    def _check_key(self, request: web.BaseRequest, route: str, session: Any) -> None:
        """A key for one session sees the server too, and creates nothing (casl.rules.ts of 2026.7.1)."""
        given = request.headers.get("X-Api-Key", "")
        key = WahaKey(None) if given == self._world.api_key else self._world.keys.get(given)
        if key is None:
            raise WahaError(401, "Unauthorized")
        if key.session is None or route.startswith("GET /api/server/"):
            return
        if session != key.session or _scope_of(route) not in key.may:
            raise WahaError(403, "Forbidden resource")

    # ---------------------------------------------------------------- the server

    async def _ping(self, request: web.BaseRequest, body: Any) -> Body:
        return {"message": "pong"}

    async def _health(self, request: web.BaseRequest, body: Any) -> Any:
        if self._world.healthy:
            return {"status": "ok", "info": {"mediaFiles.space": {"status": "up"}}, "error": {}, "details": {}}
        trouble = {"mediaFiles.space": {"status": "down", "message": "low space"}}
        raise WahaError(503, "low space", {"status": "error", "info": {}, "error": trouble, "details": trouble})

    async def _version(self, request: web.BaseRequest, body: Any) -> Body:
        return environment(self._world.server, self._world.engine)

    async def _server_status(self, request: web.BaseRequest, body: Any) -> Body:
        return {"startTimestamp": int(time.time() * 1000), "uptime": 1000, "worker": {"id": None}}

    # ---------------------------------------------------------------- sessions

    async def _sessions(self, request: web.BaseRequest, body: Any) -> list[Body]:
        everything = request.query.get("all") == "true"
        known = [state for state in self._world.numbers.values() if state.exists]
        return [state.info() for state in known if everything or state.is_running]

    async def _create(self, request: web.BaseRequest, body: Any) -> Body:
        check_session(NEW_SESSION, body, self._world.server)
        state = await self._world.session(body["name"])
        if state.exists:
            raise WahaError(422, f"Session '{state.name}' already exists. Use PUT to update it.")
        self._world.create(state, body)
        return state.info()

    async def _session(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        return self._existing(session).info()

    async def _update(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        check_session(UPDATE, body, self._world.server)
        state = self._existing(session)
        runs = state.is_running
        self._world.configure(state, body)
        await self._world.pause(RESTART_S if runs else 0)
        return state.info()

    async def _delete(self, request: web.BaseRequest, body: Any, session: str) -> None:
        if state := self._world.numbers.get(session):
            self._world.delete(state)

    async def _me(self, request: web.BaseRequest, body: Any, session: str) -> web.Response | Body:
        return self._existing(session).me or web.json_response(None)

    async def _start(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        state = self._existing(session)
        if not state.is_running:  # one that failed is: it has to be restarted
            self._world.begin(state)
        return state.info()

    async def _stop(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        state = self._existing(session)
        self._world.stop(state)
        return state.info()

    async def _restart(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        state = self._existing(session)
        self._world.restart(state)
        await self._world.pause(RESTART_S)
        return state.info()

    async def _logout(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        state = self._existing(session)
        self._world.log_out(state)
        await self._world.pause(LOGOUT_S)
        return state.info()

    # ---------------------------------------------------------------- linking

    async def _qr(self, request: web.BaseRequest, body: Any, session: str) -> web.Response | Body:
        state = self._showing_a_code(session)
        text = qr_text(session, state.qr)
        if request.query.get("format") == "raw":
            return {"value": text}
        if "application/json" in request.headers.get("Accept", ""):
            return {"mimetype": "image/png", "data": base64.b64encode(qr_png(text)).decode()}
        return web.Response(body=qr_png(text), content_type="image/png")

    async def _pairing_code(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        check(PAIRING, body)
        self._showing_a_code(session)
        letters = "".join(self._world.rng.choices("ABCDEFGHJKLMNPQRSTVWXYZ123456789", k=8))
        return {"code": f"{letters[:4]}-{letters[4:]}"}

    # ---------------------------------------------------------------- people and chats

    async def _check_exists(self, request: web.BaseRequest, body: Any) -> Body:
        query = dict(request.query)
        check_query(query, "phone", "session")
        if not query.get("phone", "").isdecimal():
            raise WahaError(400, ["phone must be digits"])
        await self._world.working(query.get("session", ""))
        self._world.lookups.append(query["phone"])
        chat = self._world.chat_known_as(chat_of(query["phone"]))
        return {"numberExists": False} if chat is None else {"numberExists": True, "chatId": chat}

    async def _shown(self, call: str, request: web.BaseRequest, body: Any) -> Body:
        several = self._world.server.has("message_ids_seen")
        check(TYPING if call != "sendSeen" else SEEN if several else SEEN_ONE, body)
        state = await self._world.working(body["session"])
        ids = body.get("messageIds") or []
        receipt = WahaReceipt(session=state.name, chat=body["chatId"], call=call, message_ids=ids)
        self._world.receipts.append(receipt)
        return {} if call == "sendSeen" else {"result": True}

    async def _new_message_id(self, request: web.BaseRequest, body: Any, session: str) -> Body:
        state = await self._world.working(session)
        if state.engine in IN_BROWSER:
            raise not_implemented(self._world.server, state.engine)
        return {"id": new_bare_id(state.engine, self._world.rng)}

    async def _lid(self, request: web.BaseRequest, body: Any, session: str, lid: str) -> Body:
        whole = f"{lid.removesuffix('@lid')}@lid"
        return {"lid": whole, "pn": (await self._world.working(session)).phone_of(whole)}

    async def _messages(self, request: web.BaseRequest, body: Any, session: str, chat: str) -> list[Body]:
        query = dict(request.query)
        check_query(query, *LISTED)
        state = await self._chats(session, chat)
        since = int(query.get("filter.timestamp.gte", 0))
        until = int(query.get("filter.timestamp.lte", 10**12))
        mine = query.get("filter.fromMe")
        found = [
            message
            for message in state.chat(chat)
            if since <= message.timestamp <= until and mine in (None, str(message.from_me).lower())
        ]
        start = int(query.get("offset", 0))
        shown = [payload(state.engine, one, state.own) for one in found[start:][: int(query.get("limit", USUAL_LIMIT))]]
        if query.get("downloadMedia") == "false":
            return [{**one, "media": None} for one in shown]
        return shown

    async def _message(self, request: web.BaseRequest, body: Any, session: str, chat: str, message_id: str) -> Body:
        state = await self._chats(session, chat)
        found = [message for message in state.chat(chat) if message.id == message_id]
        if not found:
            raise WahaError(404, "Message not found")
        return payload(state.engine, found[0], state.own)

    async def _file(self, request: web.BaseRequest, body: Any, session: str, name: str) -> web.Response:
        return self._world.files.download(session, name)

    async def _chats(self, session: str, chat: str) -> SessionState:
        check(CHAT, chat)
        state = await self._world.working(session)
        if not state.has_store:
            raise WahaError(400, NO_STORE)
        return state

    def _existing(self, session: str) -> SessionState:
        state = self._world.numbers.get(session)
        if state is None or not state.exists:
            raise WahaError(404, NO_SESSION)
        return state

    def _showing_a_code(self, session: str) -> SessionState:
        state = self._world.numbers.get(session)
        if state is None or not (state.exists and state.is_running):
            raise not_started(session)
        if state.status != "SCAN_QR_CODE":
            raise unexpected_status(session, state.status, "SCAN_QR_CODE")
        return state


def _scope_of(route: str) -> str:
    """What a key for one session must be allowed, as in `POST /api/keys`."""
    match route.split():
        case ["POST", "/api/sessions"]:
            return "create"  # which no such key may
        case ["PUT", "/api/sessions/{session}"]:
            return "setting"
        case ["DELETE", _]:
            return "delete"
        case ["POST", path] if path.startswith("/api/sessions/"):
            return "control"
        case ["GET", _]:
            return "read"
    return "send"
