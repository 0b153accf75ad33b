"""The real adapter on the wire: whatever it asks for, the simulator answers."""

from typing import Any, TypeVar

import aiohttp
import msgspec

from ingress.dev.sandbox import WahaSession, WahaSimulator
from ingress.dev.sandbox.conditions import Changes
from ingress.dev.sandbox.listener import Listener
from providers import Check, ChecksFlow, Event, MessageData, Recipient, Response, Webhook
from providers.content import OutboundContent
from providers.whatsapp_web import WhatsAppWeb

Result = TypeVar("Result")
PEER = "+5511987654321"
CHAT = "5511987654321@c.us"


class Phone:
    """One session of the simulator, as the gateway's adapter and as a plain client see it."""

    def __init__(self, waha: WahaSimulator, session: WahaSession, http: aiohttp.ClientSession) -> None:
        self.waha = waha
        self.session = session
        self.http = http
        self.base_url = waha.url_for(session)
        self.adapter = msgspec.convert(session.config_data(self.base_url), WhatsAppWeb)

    async def run(self, flow: ChecksFlow[Result]) -> Result:
        """Ask over HTTP what *flow* asks for, to its end."""
        try:
            request = next(flow)
            while True:
                if isinstance(request, Check):
                    request = next(flow)
                    continue
                async with self.http.request(
                    request.method, request.url, headers=request.headers, data=request.body
                ) as answer:
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    response = Response(status=answer.status, headers=headers, body=await answer.read())
                request = flow.send(response)
        except StopIteration as done:
            result: Result = done.value
            return result

    async def call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> tuple[int, Any]:
        """One request to the API: status and JSON, or the bytes where it is none."""
        headers = {"X-Api-Key": self.session.api_key if key is None else key}
        async with self.http.request(method, f"{self.base_url}{path}", json=body, headers=headers) as answer:
            body = await answer.read()
            return answer.status, msgspec.json.decode(body) if answer.content_type == "application/json" else body

    async def post(self, call: str, timeout: float = 5.0, **changes: Any) -> aiohttp.ClientResponse:
        """A send with *changes* over a good text; the answer is read."""
        body = {"session": self.session.name, "chatId": CHAT, "text": "Olá 🚚", **changes}
        answer = await self.http.post(
            f"{self.base_url}/api/{call}",
            json={name: value for name, value in body.items() if value is not None},
            headers={"X-Api-Key": self.session.api_key},
            timeout=aiohttp.ClientTimeout(sock_read=timeout),
        )
        await answer.read()
        return answer

    def message(self, content: OutboundContent, correlation_id: str = "gw1:M1:1", **more: Any) -> MessageData:
        to = more.pop("to", Recipient(phone=PEER))
        return MessageData(to=to, content=content, organization_id="o", correlation_id=correlation_id, **more)

    async def working(self) -> None:
        state = self.waha.state_of(self.session)
        await self.waha.wait_for(lambda: state.status == "WORKING")


class Hooks:
    """A webhook endpoint that verifies and reads what it gets with the real adapter."""

    def __init__(self, adapter: WhatsAppWeb) -> None:
        self.adapter = adapter
        self.raw: list[tuple[dict[str, str], bytes]] = []
        self.events: list[Event] = []
        self.statuses: list[int] = []  # used up one per post; 200 when empty
        self.changes = Changes()
        self.listener = Listener(self._handle)

    @property
    def url(self) -> str:
        return f"{self.listener.url}/webhooks/whatsapp_web/t0ken"

    async def _handle(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.raw.append((headers, body))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            hook = Webhook(method="POST", url=self.url, headers=headers, body=body)
            self.adapter.verify(hook)
            self.events += self.adapter.parse(hook)
        self.changes.notify()
        return aiohttp.web.Response(status=status)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.type == kind]
