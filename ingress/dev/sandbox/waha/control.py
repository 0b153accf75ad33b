"""The control API of the WAHA simulator: what a test in another process can do and see. All JSON.

    GET    /_control                           url, sessions with their URLs, counts
    PUT    /_control/server                    {"healthy", "fetches", "engine", "version", "tier", "waits"}, each where
                                               given (`waha/server.py`); {"restart": true}: it ends and comes back
    POST   /_control/sessions                  a WahaSession; "own_port", "exists", "linked" -> {"url"}
    GET    /_control/sessions                  what the API shows of each, and its "url", "webhooks" and "open"
    POST   /_control/sessions/{name}/scan      {"phone": its own} links a phone by the QR code that is shown
    POST   /_control/sessions/{name}/rotate    the QR code runs out: the next one, or FAILED
    PUT    /_control/sessions/{name}/status    {"status": "FAILED", "data": null, "unlinked": false}
    PUT    /_control/sessions/{name}/me        {field: value} over what the API shows of the account; null takes it back
    PUT    /_control/sessions/{name}/engine    {"starting_s": 0.0 | null, "hides": false}, each where given
    POST   /_control/sessions/{name}/faults    {"queue": [fault], "default": fault | null, "everything": bool}
                                               the queue is appended to; "default" is left alone where absent
    GET    /_control/sessions/{name}/faults    what is scripted still
    DELETE /_control/sessions/{name}/faults    back to normal
    PUT    /_control/sessions/{name}/acks      an AckPolicy; what is absent is its default
    PUT    /_control/people                    {"+5511987654321": "551187654321@c.us" | null}: as WhatsApp knows them
    GET    /_control/accepted                  {"accepted": [WahaMessage], "duplicates": {id or content: N}}
                                               ?id= ?chosen_id= ?session= ?after=<index>
    GET    /_control/sends                     [WahaSend], each send that arrived; ?session= ?after=
    GET    /_control/receipts                  [WahaReceipt]: what was shown as read, and who was seen typing
    GET    /_control/calls                     {"<session or empty> <METHOD operation>": count}
    POST   /_control/sessions/{name}/inbound   {"kind": "text", "arguments": {…}, "count": 1, "seed": 7}, or
                                               {"event": "call.received", "payload": {…}}
                                               -> [{"id", "statuses", "tries"}], in order;
                                               a session's generator is made by the first "seed" it is given
    GET    /_control/wait                      ?accepted=N ?sends=N ?delivered=N ?settled=1 ?timeout_s=5
                                               ?session=NAME&status=WORKING
                                               answers once all of it holds; 408 otherwise
    POST   /_control/reset                     forget everything

A fault is {"fault": "hang"}, {"fault": "error_code", "code": 463}, …: `faults.py` has the list, `waha/errors.py`
the codes.
"""

from typing import Any, Literal

import msgspec
from aiohttp import web

from ..control import Control, InboundRequest
from ..routes import Routes, decoded
from .bodies import Engine, News, WahaSession
from .records import WahaMessage, WahaReceipt, WahaSend
from .server import Tier, WahaServer
from .session import AckPolicy, SessionState
from .world import WahaWorld


class NewSession(WahaSession, frozen=True, kw_only=True):
    own_port: bool = False
    exists: bool = True
    linked: bool = True


class Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body whose fields change what they name, where they are given."""


class ServerChange(Given, frozen=True, kw_only=True):
    healthy: bool | None = None
    fetches: bool | None = None
    engine: Engine | None = None
    version: str | None = None
    tier: Tier | None = None
    waits: float | None = None
    restart: bool = False


class Behaviour(Given, frozen=True, kw_only=True):
    starting_s: float | msgspec.UnsetType | None = msgspec.UNSET
    hides: bool | msgspec.UnsetType = msgspec.UNSET


class NewStatus(Given, frozen=True, kw_only=True):
    status: str
    data: Any = None
    unlinked: bool = False


class Scan(Given, frozen=True, kw_only=True):
    phone: str | None = None


class WahaInboundRequest(InboundRequest, frozen=True, kw_only=True):
    kind: Literal[
        "text", "own", "image", "voice", "video", "document", "location", "contacts", "button_reply", "list_reply",
        "reaction", "edited", "revoked", "mixed",
    ] = "text"  # fmt: skip
    event: str | None = None
    payload: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def webhook(self) -> News | None:
        return None if self.event is None else News((self.event,), self.payload)


def waha_control(world: WahaWorld) -> Routes:
    control = WahaControl(world)
    session = "/_control/sessions/{owner}"
    return Routes(
        {
            **control.shared_routes(session),
            "PUT /_control/server": control.set_server,
            "POST /_control/sessions": control.add_session,
            "GET /_control/sessions": control.sessions,
            f"POST {session}/scan": control.scan,
            f"POST {session}/rotate": control.rotate,
            f"PUT {session}/status": control.set_status,
            f"PUT {session}/me": control.set_me,
            f"PUT {session}/engine": control.set_behaviour,
            f"PUT {session}/acks": control.set_acks,
            "PUT /_control/people": control.set_people,
            "GET /_control/receipts": control.receipts,
        }
    )


class WahaControl(Control[WahaSession, SessionState, WahaMessage, WahaSend]):
    inbound_request = WahaInboundRequest
    owner_field = "session"

    def __init__(self, world: WahaWorld) -> None:
        super().__init__(world)
        self._world = world

    def counts(self) -> dict[str, int]:
        return {"receipts": len(self._world.receipts)}

    # ---------------------------------------------------------------- doing

    async def set_server(self, request: web.BaseRequest) -> dict[str, Any]:
        given = await decoded(request, ServerChange)
        for name in ("healthy", "fetches", "engine", "version", "tier", "waits"):
            if (value := getattr(given, name)) is not None:
                owner = self._world.server if name in WahaServer.__struct_fields__ else self._world
                setattr(owner, name, value)
        if given.restart:
            self._world.restart_server()
        return {}

    async def add_session(self, request: web.BaseRequest) -> dict[str, str]:
        given = await decoded(request, NewSession)
        known = {name: getattr(given, name) for name in WahaSession.__struct_fields__}
        url = await self._world.add_session(
            WahaSession(**known), own_port=given.own_port, exists=given.exists, linked=given.linked
        )
        return {"url": url}

    async def scan(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        given = await decoded(request, Scan) if request.body_exists else Scan()
        self._world.scan(owner, given.phone)
        return {}

    async def rotate(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        self._world.rotate(owner)
        return {}

    async def set_status(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        given = await decoded(request, NewStatus)
        self._world.set_status(owner, given.status, data=given.data, unlinked=given.unlinked)
        return {}

    async def set_me(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        self._world.set_me(owner, **await decoded(request, dict[str, Any]))
        return {}

    async def set_behaviour(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        state, given = self.state(owner), await decoded(request, Behaviour)
        if not isinstance(given.starting_s, msgspec.UnsetType):
            state.starting_s = given.starting_s
        if not isinstance(given.hides, msgspec.UnsetType):
            state.hides = given.hides
        return {}

    async def set_acks(self, request: web.BaseRequest, owner: str) -> AckPolicy:
        self.state(owner)
        policy = await decoded(request, AckPolicy)
        self._world.set_acks(owner, policy)
        return policy

    async def set_people(self, request: web.BaseRequest) -> dict[str, Any]:
        for phone, known_as in (await decoded(request, dict[str, str | None])).items():
            self._world.set_person(phone, known_as)
        return {}

    async def post(self, owner: str, webhook: News) -> dict[str, Any]:
        results = await self._world.post(owner, webhook)
        if not results:
            raise ValueError("no webhook of this session is subscribed to this event")
        return {
            "id": webhook.payload.get("id"),
            "statuses": [result.status for result in results],
            "tries": sum(result.tries for result in results),
        }

    # ---------------------------------------------------------------- seeing

    async def sessions(self, request: web.BaseRequest) -> list[dict[str, Any]]:
        return [
            {
                **state.info(),
                "exists": state.exists,
                "url": state.listener.url,
                "webhooks": [hook["url"] for hook in state.webhooks],
                "open": state.listener.is_open,
            }
            for state in self._world.numbers.values()
        ]

    async def accepted(self, request: web.BaseRequest) -> dict[str, Any]:
        query, answer = request.query, await super().accepted(request)
        if "id" in query:
            answer["accepted"] = [message for message in answer["accepted"] if message.id == query["id"]]
        elif "chosen_id" in query:
            answer["accepted"] = self._world.by_tracker(query["chosen_id"])
        return answer

    async def receipts(self, request: web.BaseRequest) -> list[WahaReceipt]:
        return self._world.receipts

    async def wait(self, request: web.BaseRequest) -> dict[str, Any]:
        query = request.query
        if "status" in query:
            state = self.state(query.get("session", ""))
            await self._world.wait_for(lambda: state.status == query["status"], float(query.get("timeout_s", 5)))
        return await super().wait(request)
