"""A client of the Twilio simulator that knows nothing of our adapter, and an endpoint for its webhooks."""

from typing import Any
from urllib.parse import parse_qsl, urlencode

import aiohttp
from aiohttp import web

from ingress.dev.sandbox import TwilioSender, TwilioSimulator
from ingress.dev.sandbox.conditions import Changes
from ingress.dev.sandbox.listener import Listener

FORM = "application/x-www-form-urlencoded"
TWIML = '<?xml version="1.0" encoding="UTF-8"?><Response/>'
PERSON = "whatsapp:+5511987654321"


class Posted:
    """One webhook that arrived."""

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.url = url
        self.headers = headers
        self.body = body
        self.form = parse_qsl(body.decode(), keep_blank_values=True)
        self.fields = dict(self.form)


class Endpoint:
    """Answers with *answer* (status, content type, text), after those of ``queue``; keeps what came."""

    def __init__(self) -> None:
        self.posts: list[Posted] = []
        self.answer = (200, "text/xml", TWIML)
        self.queue: list[tuple[int, str, str]] = []
        self.changes = Changes()
        self.listener = Listener(self._handle)

    @property
    def url(self) -> str:
        return f"{self.listener.url}/webhooks/twilio_whatsapp/t0ken?own=a%2Fb"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        url = f"{self.listener.url}{request.raw_path}"
        self.posts.append(Posted(url, headers, await request.read()))
        self.changes.notify()
        status, kind, text = self.queue.pop(0) if self.queue else self.answer
        return web.Response(status=status, content_type=kind, text=text)


class Client:
    """Calls the API as *sender*."""

    def __init__(self, twilio: TwilioSimulator, sender: TwilioSender, http: aiohttp.ClientSession) -> None:
        self.twilio = twilio
        self.sender = sender
        self.http = http
        self.auth: tuple[str, str] | None = (sender.account_sid, sender.auth_token)

    @property
    def account(self) -> str:
        return f"/2010-04-01/Accounts/{self.sender.account_sid}"

    async def call(
        self, method: str, path: str, *, timeout: float = 5.0, form: Any = None, **more: Any
    ) -> aiohttp.ClientResponse:
        headers = dict(more.pop("headers", {}))
        if form is not None:
            more["data"], headers["Content-Type"] = urlencode(form), FORM
        if self.auth is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(*self.auth)
        response = await self.http.request(
            method,
            path if path.startswith("http") else self.twilio.url_for(self.sender) + path,
            headers=headers,
            timeout=aiohttp.ClientTimeout(sock_read=timeout),
            allow_redirects=False,
            **more,
        )
        await response.read()
        return response

    async def send(self, *pairs: tuple[str, str], timeout: float = 5.0, **fields: str | None) -> aiohttp.ClientResponse:
        """A good text with *fields* over it; None leaves a field out."""
        known = {"To": PERSON, "From": self.sender.address, "Body": "Olá 🚚", **fields}
        form = [(name, value) for name, value in known.items() if value is not None]
        return await self.call("POST", f"{self.account}/Messages.json", form=[*form, *pairs], timeout=timeout)

    async def json(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        answer = await self.call(method, path, **more)
        return answer.status, await answer.json(content_type=None)
