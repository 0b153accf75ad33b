"""The control API of the Twilio simulator: what a test in another process can do and see. All JSON.

    GET    /_control                         url, numbers with their URLs, counts
    POST   /_control/numbers                 a TwilioSender; "own_port": true for a port of its own -> {"url"}
    GET    /_control/numbers                 [{"phone_number", "url", "webhook_url", "open"}]
    PUT    /_control/numbers/{+E164}/fields  {field: value} over the sender as the API shows it; null takes it back
    POST   /_control/numbers/{+E164}/faults  {"queue": [fault], "default": fault | null, "everything": bool}
                                             the queue is appended to; "default" is left alone where absent
    GET    /_control/numbers/{+E164}/faults  what is scripted still
    DELETE /_control/numbers/{+E164}/faults  back to normal
    PUT    /_control/numbers/{+E164}/statuses  a TwilioStatusPolicy; what is absent is its default
    POST   /_control/numbers/{+E164}/inbound   {"kind": "text", "arguments": {…}, "count": 1, "seed": 7}, or
                                             {"form": [[name, value], …]} -> [{"message_sid", "status", "tries"}],
                                             in order; a sender's generator is made by the first "seed" it is given
    PUT    /_control/accounts/{AC…}          {field: value} over the account, as {"status": "suspended"}
    POST   /_control/accounts/{AC…}/contents  a content resource, as an approved template is -> {"sid"}
    GET    /_control/accepted                {"accepted": [TwilioMessage], "duplicates": {message id: N}}
                                             ?tracker= ?message_id= ?phone_number= ?after=<index>
    GET    /_control/sends                   [TwilioSend], each send that arrived; ?phone_number= ?after=
    GET    /_control/calls                   {"<account SID or empty> <METHOD operation>": count}
    GET    /_control/trouble                 {"leaks", "alerts", "spoken"}: credentials at the store, the debugger's
                                             entries, answers to webhooks that people got as messages
    GET    /_control/wait                    ?accepted=N ?sends=N ?delivered=N ?settled=1 ?timeout_s=5
                                             answers once all of it holds; 408 otherwise
    POST   /_control/reset                   forget everything

A fault is {"fault": "hang"}, {"fault": "error_code", "code": 63016}, …: `faults.py` has the list.
In a query the plus of a number is %2B.
"""

from typing import Any, Literal

from aiohttp import web

from ..control import Control, InboundRequest
from ..routes import Routes, decoded
from .bodies import Form, TwilioSender, message_sid_of
from .errors import TwilioError
from .records import TwilioMessage, TwilioSend
from .world import SenderState, TwilioStatusPolicy, TwilioWorld


class NewSender(TwilioSender, frozen=True, kw_only=True):
    own_port: bool = False


class TwilioInboundRequest(InboundRequest, frozen=True, kw_only=True):
    kind: Literal[
        "text", "image", "audio", "video", "document", "sticker", "contacts", "location", "button_reply",
        "list_reply", "template_button", "flow_reply", "unsupported", "mixed",
    ] = "text"  # fmt: skip
    form: Form | None = None

    @property
    def webhook(self) -> Form | None:
        return self.form


def twilio_control(world: TwilioWorld) -> Routes:
    control = TwilioControl(world)
    number = "/_control/numbers/{owner}"
    return Routes(
        {
            **control.shared_routes(number),
            "POST /_control/numbers": control.add_number,
            "GET /_control/numbers": control.numbers,
            f"PUT {number}/fields": control.set_fields,
            f"PUT {number}/statuses": control.set_statuses,
            "PUT /_control/accounts/{account_sid}": control.set_account,
            "POST /_control/accounts/{account_sid}/contents": control.add_content,
            "GET /_control/trouble": control.trouble,
        }
    )


class TwilioControl(Control[TwilioSender, SenderState, TwilioMessage, TwilioSend]):
    inbound_request = TwilioInboundRequest
    owner_field = "phone_number"

    def __init__(self, world: TwilioWorld) -> None:
        super().__init__(world)
        self._world = world

    def counts(self) -> dict[str, int]:
        world = self._world
        return {
            "leaks": len(world.leaks),
            "alerts": len(world.alerts),
            "spoken": len(world.spoken),
            "indicators": len(world.indicators),
        }

    async def add_number(self, request: web.BaseRequest) -> dict[str, str]:
        given = await decoded(request, NewSender)
        known = {name: getattr(given, name) for name in TwilioSender.__struct_fields__}
        return {"url": await self._world.add_number(TwilioSender(**known), own_port=given.own_port)}

    async def numbers(self, request: web.BaseRequest) -> list[dict[str, Any]]:
        return [
            {
                "phone_number": number,
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

    async def set_account(self, request: web.BaseRequest, account_sid: str) -> dict[str, Any]:
        self._world.set_account(account_sid, **await decoded(request, dict[str, Any]))
        return {}

    async def add_content(self, request: web.BaseRequest, account_sid: str) -> dict[str, str]:
        try:
            return {"sid": self._world.add_content(account_sid, await decoded(request, dict[str, Any])).sid}
        except TwilioError as error:
            raise ValueError(str(error)) from None

    async def set_statuses(self, request: web.BaseRequest, owner: str) -> TwilioStatusPolicy:
        policy = await decoded(request, TwilioStatusPolicy)
        self.state(owner).policy = policy
        return policy

    async def post(self, owner: str, webhook: Form) -> dict[str, Any]:
        if not {"MessageSid", "From", "To"} <= set(dict(webhook)):
            raise ValueError("a message has MessageSid, From and To")
        result = await self._world.post(owner, webhook)
        if result is None:
            raise ValueError("this sender has no webhook URL, or one that Twilio cannot read")
        return {"message_sid": message_sid_of(webhook), "status": result.status, "tries": result.tries}

    async def trouble(self, request: web.BaseRequest) -> dict[str, Any]:
        return {"leaks": self._world.leaks, "alerts": self._world.alerts, "spoken": self._world.spoken}
