"""The control API of the Meta simulator: what a test in another process can do and see. All JSON.

    GET    /_control                         url, numbers with their URLs, counts
    POST   /_control/numbers                 a MetaNumber; "own_port": true for a port of its own -> {"url"}
    GET    /_control/numbers                 [{"phone_number_id", "url", "webhook_url", "open"}]
    PUT    /_control/numbers/{id}/fields     {field: value} over GET /{phone_number_id}; null takes it back
    POST   /_control/numbers/{id}/faults     {"queue": [fault], "default": fault | null, "everything": bool}
                                             the queue is appended to; "default" is left alone where absent
    GET    /_control/numbers/{id}/faults     what is scripted still
    DELETE /_control/numbers/{id}/faults     back to normal
    PUT    /_control/numbers/{id}/templates  [template]: those of its account, as GET /{waba}/message_templates has them
    PUT    /_control/numbers/{id}/statuses   a StatusPolicy; what is absent is its default
    GET    /_control/accepted                {"accepted": [AcceptedMessage], "duplicates": {message id: N}}
                                             ?tracker= ?message_id= ?phone_number_id= ?after=<index>
    GET    /_control/sends                   [SendCall], each send that arrived; ?phone_number_id= ?after=
    GET    /_control/calls                   {"<phone_number_id or empty> <METHOD operation>": count}
    POST   /_control/numbers/{id}/inbound    {"kind": "text", "arguments": {…}, "count": 1, "seed": 7}, or
                                             {"kind": "batch", "arguments": {"messages": 9, "entries": 3}}, or
                                             {"body": {…}} -> [{"message_ids", "status", "tries"}], in order;
                                             a number's generator is made by the first "seed" it is given
    GET    /_control/wait                    ?accepted=N ?sends=N ?delivered=N ?settled=1 ?timeout_s=5
                                             answers once all of it holds; 408 otherwise
    POST   /_control/reset                   forget everything

A fault is {"fault": "hang"}, {"fault": "error_code", "code": 131026}, …: `faults.py` has the list.
"""

from typing import Any, Literal

from aiohttp import web

from ..control import Control, InboundRequest
from ..routes import Routes, decoded
from .bodies import MetaNumber, message_ids
from .records import AcceptedMessage, SendCall
from .world import MetaWorld, NumberState, StatusPolicy


class NewNumber(MetaNumber, frozen=True, kw_only=True):
    own_port: bool = False


class MetaInboundRequest(InboundRequest, frozen=True, kw_only=True):
    kind: Literal[
        "text", "image", "audio", "document", "location", "button_reply", "list_reply", "template_button",
        "reaction", "contacts", "unsupported", "mixed", "batch",
    ] = "text"  # fmt: skip
    body: dict[str, Any] | None = None

    @property
    def webhook(self) -> dict[str, Any] | None:
        return self.body


def meta_control(world: MetaWorld) -> Routes:
    control = MetaControl(world)
    number = "/_control/numbers/{owner}"
    return Routes(
        {
            **control.shared_routes(number),
            "POST /_control/numbers": control.add_number,
            "GET /_control/numbers": control.numbers,
            f"PUT {number}/fields": control.set_fields,
            f"PUT {number}/templates": control.set_templates,
            f"PUT {number}/statuses": control.set_statuses,
        }
    )


class MetaControl(Control[MetaNumber, NumberState, AcceptedMessage, SendCall]):
    inbound_request = MetaInboundRequest
    owner_field = "phone_number_id"

    def __init__(self, world: MetaWorld) -> None:
        super().__init__(world)
        self._world = world

    def counts(self) -> dict[str, int]:
        return {"receipts": len(self._world.receipts)}

    async def add_number(self, request: web.BaseRequest) -> dict[str, str]:
        given = await decoded(request, NewNumber)
        known = {name: getattr(given, name) for name in MetaNumber.__struct_fields__}
        return {"url": await self._world.add_number(MetaNumber(**known), own_port=given.own_port)}

    async def numbers(self, request: web.BaseRequest) -> list[dict[str, Any]]:
        return [
            {
                "phone_number_id": number,
                "url": state.listener.url,
                "webhook_url": self._world.webhook_url(number),
                "open": state.listener.is_open,
            }
            for number, state in self._world.numbers.items()
        ]

    async def set_fields(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        self._world.set_fields(owner, **await decoded(request, dict[str, Any]))
        return {}

    async def set_templates(self, request: web.BaseRequest, owner: str) -> dict[str, Any]:
        self.state(owner)
        self._world.set_templates(owner, await decoded(request, list[dict[str, Any]]))
        return {}

    async def set_statuses(self, request: web.BaseRequest, owner: str) -> StatusPolicy:
        policy = await decoded(request, StatusPolicy)
        self.state(owner).policy = policy
        return policy

    async def post(self, owner: str, webhook: dict[str, Any]) -> dict[str, Any]:
        result = await self._world.post(owner, webhook)
        if result is None:
            raise ValueError("this number has no webhook URL, or its account is not subscribed")
        return {"message_ids": message_ids(webhook), "status": result.status, "tries": result.tries}
