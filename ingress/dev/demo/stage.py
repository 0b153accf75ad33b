"""What the scene is played on: the simulators, and an organization with two numbers, set up over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from ..sandbox import CrmSimulator, MetaNumber, MetaSimulator, RetryPolicy, example_number
from .checks import SeenEvent, seen
from .service import Service

PROVIDER = "meta_business"
SCOPES = ["send", "read", "configure", "admin"]
# Enough tries for a provider to outlive a restart of the service.
RETRY = RetryPolicy(tries=60, cap_s=0.5)
CALL_TIMEOUT_S = 30
EVENTS_PAGE, MESSAGES_PAGE = 1_000, 200


class SceneBroken(Exception):
    """The scene cannot go on; the message says what was not as it should be."""


class ServiceAnswer(msgspec.Struct, frozen=True):
    status: int
    headers: Any  # a multidict: names in any case
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class _Page(msgspec.Struct):
    events: list[msgspec.Raw]  # the very bytes: they are compared with what the CRM got
    next: int


class ServiceApi:
    """The service as an organization's CRM uses it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._headers: dict[str, str] = {}

    def act_as(self, key: str, organization_id: str | None = None) -> None:
        """Use *key* from now on, a platform key for the organization in its hands."""
        self._headers = {"authorization": f"Bearer {key}"}
        if organization_id is not None:
            self._headers["x-org-id"] = organization_id

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> ServiceAnswer:
        """One request and its answer, whatever the status."""
        data = None if body is None else msgspec.json.encode(body)
        sent = {**self._headers, "content-type": "application/json", **(headers or {})}
        async with self._session.request(method, self._url + path, data=data, headers=sent) as answer:
            return ServiceAnswer(answer.status, answer.headers, await answer.read())

    async def must(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer of a request that has to succeed. Raises `SceneBroken`."""
        answer = await self.call(method, path, body)
        if answer.status not in (200, 201):
            raise SceneBroken(f"{method} {path} was answered {answer.status}: {answer.body.decode(errors='replace')}")
        return answer.json

    async def events(self, after: int = 0) -> list[SeenEvent]:
        """All events above *after*, page by page, as `GET /events` gives them."""
        found: list[SeenEvent] = []
        while True:
            answer = await self.call("GET", f"/events?after={after}&limit={EVENTS_PAGE}")
            if answer.status != 200:
                raise SceneBroken(f"GET /events was answered {answer.status}")
            page = msgspec.json.decode(answer.body, type=_Page)
            if not page.events:
                return found
            found += [seen(bytes(event)) for event in page.events]
            after = page.next

    async def messages(self) -> list[dict[str, Any]]:
        """All messages that were sent, page by page, newest first."""
        found: list[dict[str, Any]] = []
        before = ""
        while True:
            page = await self.must("GET", f"/messages?limit={MESSAGES_PAGE}{before}")
            found += page["messages"]
            if "next" not in page:
                return found
            before = f"&before={page['next']}"


class Stage(msgspec.Struct, frozen=True):
    meta: MetaSimulator
    crm: CrmSimulator
    api: ServiceApi
    session: aiohttp.ClientSession
    active: MetaNumber
    fallback: MetaNumber


@asynccontextmanager
async def staged(service: Service) -> AsyncIterator[Stage]:
    """Simulators up, the service ready, and an organization: an active number, one to fall back to, a CRM."""
    timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
    async with (
        MetaSimulator(retry=RETRY) as meta,
        CrmSimulator() as crm,
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
    ):
        await service.ready(session)
        api = ServiceApi(service.url, session)
        await found_organization(api, service.platform_key)
        active, fallback = example_number(1), example_number(2)
        await _configure(api, meta, active, is_active=True)
        await _configure(api, meta, fallback, is_active=False)
        callback = await api.must("PUT", "/callback", {"url": crm.url})
        crm.set_secret(callback["secret"])
        yield Stage(meta, crm, api, session, active, fallback)


async def found_organization(api: ServiceApi, platform_key: str) -> None:
    """An organization of our own; *api* acts as it from here on."""
    api.act_as(platform_key)
    organization = await api.must("POST", "/organizations", {"name": "Demo"})
    api.act_as(platform_key, organization["id"])
    api.act_as((await api.must("POST", "/keys", {"name": "demo", "scopes": SCOPES}))["key"])


async def _configure(api: ServiceApi, meta: MetaSimulator, number: MetaNumber, *, is_active: bool) -> None:
    """A config of *number*, which has a port of its own, so that it alone can refuse connections."""
    base_url = await meta.add_number(number, own_port=True)
    body = {
        "provider_type": PROVIDER,
        "name": f"Demo number {number.display_phone_number}",
        "config_data": number.config_data(base_url),
        "is_active": is_active,
    }
    configured = await api.must("POST", "/integrations/whatsapp/provider/configure", body)
    if meta.webhook_url(number) != configured["webhook_url"]:
        raise SceneBroken("the service did not point the number's webhooks to itself")
