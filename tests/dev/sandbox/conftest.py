"""The simulators under test, a plain client, and a plain webhook endpoint: none of the service."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ingress.dev.sandbox import (
    AckPolicy,
    CrmSimulator,
    MetaNumber,
    MetaSimulator,
    Pace,
    RetryPolicy,
    StatusPolicy,
    TwilioSender,
    TwilioSimulator,
    TwilioStatusPolicy,
    WahaSimulator,
    example_number,
    example_sender,
    example_session,
)
from ingress.dev.sandbox.conditions import Changes
from ingress.dev.sandbox.listener import Listener

from .published import Published
from .twilio_client import Client, Endpoint
from .waha_kit import Hooks as WahaHooks
from .waha_kit import Phone

Send = Callable[..., Coroutine[Any, Any, aiohttp.ClientResponse]]


class Hooks:
    """A webhook endpoint: answers handshakes for *verify_token*, keeps posts, answers ``statuses``."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []  # used up one per post; 200 when empty
        self.verify_token = "verify-1"
        self.changes = Changes()
        self.listener = Listener(self._handle)

    @property
    def url(self) -> str:
        return f"{self.listener.url}/webhooks/meta_business/t0ken?own=1"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            assert request.query["own"] == "1"
            same = request.query["hub.verify_token"] == self.verify_token
            return web.Response(text=request.query["hub.challenge"]) if same else web.Response(status=403)
        self.posts.append((dict(request.headers), await request.read()))
        self.changes.notify()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


CONTRACTS = {MetaSimulator: Published("meta_business"), TwilioSimulator: Published("twilio_whatsapp")}


@pytest.fixture(autouse=True)
def answered_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The published calls that were answered well. Every answer of JSON is held against what is published of it."""
    calls: set[str] = set()
    problems: list[str] = []
    for simulator, contract in CONTRACTS.items():
        monkeypatch.setattr(simulator, "answer", _held(simulator.answer, contract, calls, problems))
    yield calls
    assert problems == []


def _held(answer: Callable[..., Any], contract: Published, calls: set[str], problems: list[str]) -> Callable[..., Any]:
    async def held(simulator: Any, request: web.BaseRequest) -> web.StreamResponse:
        response: web.StreamResponse = await answer(simulator, request)
        assert isinstance(response, web.Response)
        body = response.body if isinstance(response.body, bytes) else b""
        if response.status in (204, 307) or (response.content_type.endswith("json") and body):
            problems.extend(contract.problems(request.method, request.path, response.status, body))
            calls.update({contract.call(request.method, request.path) or ""} if response.status < 400 else ())
        return response

    return held


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    hooks = Hooks()
    await hooks.listener.open()
    yield hooks
    await hooks.listener.close()


@pytest.fixture
async def meta() -> AsyncIterator[MetaSimulator]:
    async with MetaSimulator(seed=7, retry=RetryPolicy(tries=4, backoff_s=0.001)) as meta:
        yield meta


@pytest.fixture
async def number(meta: MetaSimulator) -> MetaNumber:
    """A number with a port of its own that posts no statuses."""
    number = example_number(1)
    await meta.add_number(number, own_port=True)
    meta.set_statuses(number, StatusPolicy(statuses=()))
    return number


@pytest.fixture
async def twilio() -> AsyncIterator[TwilioSimulator]:
    async with TwilioSimulator(seed=7, pace=Pace(speed=1, backoff_s=0.001)) as twilio:
        yield twilio


@pytest.fixture
async def sender(twilio: TwilioSimulator) -> TwilioSender:
    """A sender with a port of its own whose messages have no statuses."""
    sender = example_sender(1)
    await twilio.add_number(sender, own_port=True)
    twilio.set_statuses(sender, TwilioStatusPolicy(statuses=()))
    return sender


@pytest.fixture
def client(twilio: TwilioSimulator, sender: TwilioSender, http: aiohttp.ClientSession) -> Client:
    return Client(twilio, sender, http)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    await endpoint.listener.open()
    yield endpoint
    await endpoint.listener.close()


@pytest.fixture
async def crm() -> AsyncIterator[CrmSimulator]:
    async with CrmSimulator() as crm:
        yield crm


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield session


@pytest.fixture
def send(meta: MetaSimulator, number: MetaNumber, http: aiohttp.ClientSession) -> Send:
    """Sends *body*'s keys over those of a good text, with a *timeout* for the answer in seconds."""

    async def send(timeout: float = 5.0, edge: str = "messages", **body: Any) -> aiohttp.ClientResponse:
        whole = {**text_body(), **body}
        response = await http.post(
            f"{meta.url_for(number)}/v25.0/{number.phone_number_id}/{edge}",
            json={name: value for name, value in whole.items() if value is not None},
            headers=bearer(number),
            timeout=aiohttp.ClientTimeout(sock_read=timeout),
        )
        await response.read()
        return response

    return send


def text_body(tracker: str = "gw1:M1:1") -> dict[str, Any]:
    return {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "+5511987654321",
        "type": "text",
        "text": {"body": "Olá 🚚"},
        "biz_opaque_callback_data": tracker,
    }


def bearer(number: MetaNumber) -> dict[str, str]:
    return {"Authorization": f"Bearer {number.access_token}"}


# ---------------------------------------------------------------- WhatsApp Web


@pytest.fixture
async def waha() -> AsyncIterator[WahaSimulator]:
    async with WahaSimulator(seed=7, retry=RetryPolicy(tries=4, backoff_s=0.001)) as waha:
        yield waha


@pytest.fixture
async def phone(waha: WahaSimulator, http: aiohttp.ClientSession, request: pytest.FixtureRequest) -> Phone:
    """A session that works, with a port of its own and without acks; its engine by parameter, GOWS without."""
    session = example_session(1, getattr(request, "param", "GOWS"))
    await waha.add_session(session, own_port=True)
    waha.set_acks(session, AckPolicy(statuses=(), echo=False))
    return Phone(waha, session, http)


@pytest.fixture
async def waha_hooks(phone: Phone) -> AsyncIterator[WahaHooks]:
    """What the webhooks of *phone* post: the adapter has written the address into the session."""
    hooks = WahaHooks(phone.adapter)
    await hooks.listener.open()
    await phone.run(phone.adapter.receive_messages(hooks.url))
    await phone.working()
    await phone.waha.settled()
    hooks.raw.clear()
    hooks.events.clear()
    yield hooks
    await hooks.listener.close()
