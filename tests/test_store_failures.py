"""Every route while the database is cut off, hangs or refuses: 503 with a time to come back, and no 500."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.api import events, operations
from ingress.api.routes import ROUTES
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import FaultProxy, MetaSimulator
from ingress.sending.attempts import Attempts
from ingress.settings import Settings
from ingress.storage import database, group_commit
from ingress.storage.changes import Changes
from ingress.web import auth, problems
from ingress.web.middleware import Middleware
from ingress.web.openapi import walk
from ingress.web.problems import problem_of

from .conftest import serving
from .gateway import Answer, Gateway, Organization, eventually

CONFIGS = "/integrations/whatsapp/provider"
# Nothing of the database is to be had.
TOTAL = ("refused", "hung", "0")
# Then these are answered all the same: what they need is known here, or nobody's but the provider's.
SERVED = {
    "/healthz",
    "/openapi.json",
    "/media",
    "/contacts/lookup",
    "/integrations/whatsapp/providers",
    "/integrations/whatsapp/templates",
    f"{CONFIGS}/pairing",
}
STREAMS = (("GET", "/events/stream"), ("GET", "/integrations/whatsapp/status"))


@pytest.fixture(scope="module")
def impatient() -> Iterator[None]:
    """What hangs is given up soon; a key that was known is known all along, so that handlers are reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "KEY_CACHE_S", 3600.0)
        patch.setattr(Changes, "add_all", lambda self: None)  # as when nobody listens any more
        for name in ("CONNECT_TIMEOUT_S", "STATEMENT_TIMEOUT_S", "ACQUIRE_TIMEOUT_S"):
            patch.setattr(database, name, 0.5)
        patch.setattr(database, "EXCLUSIVE_WAIT_S", 1.0)
        patch.setattr(group_commit, "WRITE_TIMEOUT_S", 0.5)
        patch.setattr(operations, "READY_WITHIN_S", 0.5)
        yield


@pytest.fixture(scope="module")
async def proxy(servers: EmbeddedServers) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(str(servers.postgres.sockets / ".s.PGSQL.5432")) as between:
        yield between


@pytest.fixture(scope="module")
async def behind(
    gateway: Gateway, settings: Settings, meta: MetaSimulator, proxy: FaultProxy, impatient: None
) -> AsyncIterator[Organization]:
    """An organization with a config and an event, at a service of its own that reaches the database by the proxy."""
    url = f"postgresql://svc@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
    async with serving(msgspec.structs.replace(settings, database_url=url)) as base:
        made = await Gateway(base, settings.platform_key, gateway.session, meta).organization()
        await made.configure()
        await made.post_webhook(meta.inbound(made.numbers[0]).text("x"))
        yield made


QUERIES = {"/media": "?id=1", "/events/stream": "?after=0", "/contacts/lookup": "?phone=%2B5511987654321"}


def requests_of(organization: Organization, event_id: str) -> dict[tuple[str, str], tuple[str, Any]]:
    """The address and the body of a request to every route, by method and path."""
    config, number = organization.configs[0]["config_id"], organization.numbers[0]
    data = number.config_data(organization.gateway.meta.url_for(number))
    account = {"provider_type": "meta_business", "config_data": data}
    secrets = {name: data[name] for name in ("app_secret", "verify_token")}
    bodies: dict[tuple[str, str], Any] = {
        ("POST", "/send"): {"to": "+5511987654321", "body": "Hello"},
        ("POST", f"{CONFIGS}/configure"): account | {"is_active": True},
        ("PUT", f"{CONFIGS}/fallback"): {"config_ids": []},
        ("POST", f"{CONFIGS}/fallback"): {"config_ids": []},
        ("POST", f"{CONFIGS}/switch"): {"config_id": config},
        ("POST", f"{CONFIGS}/rollback"): {},
        ("POST", f"{CONFIGS}/test"): {"config_id": config},
        ("POST", f"{CONFIGS}/pairing"): {},
        ("POST", f"{CONFIGS}/repair"): {},
        ("PATCH", f"{CONFIGS}/configs/{{config_id}}"): {"name": "x"},
        ("PUT", "/retention"): {"bodies_days": 8},
        ("PUT", "/callback"): {"url": "http://127.0.0.1:9/"},
        ("POST", "/callback/replay"): {},
        ("POST", "/organizations"): {"name": "x"},
        ("PATCH", "/organization"): {"name": "x"},
        ("POST", "/keys"): {"scopes": ["read"]},
        ("POST", "/apps"): account | {"name": "x", "config_data": secrets},
        ("PATCH", "/apps/{app_id}"): {"config_data": secrets},
    }
    ids = {"event_id": event_id, "config_id": config, "key_id": "0123abcd"}
    found = {}
    for path, method, _ in walk(ROUTES):
        names = [part.partition("}")[0] for part in path.split("{")[1:]]
        address = path.format(**{name: ids.get(name, uuid4()) for name in names})
        query = QUERIES.get(path, "")
        found[method, path] = address + query, bodies.get((method, path))
    return found


async def ask(organization: Organization, method: str, address: str, body: Any) -> Answer:
    gateway = organization.gateway
    if address.startswith(("/organizations", "/apps", "/integrations/whatsapp/providers/")):
        return await gateway.call(method, address, body, key=gateway.platform_key)
    if address.startswith("/media") and method == "POST":
        return await organization.call(method, address, raw=b"x", content_type="image/png")
    return await organization.call(method, address, body)


@asynccontextmanager
async def failing(proxy: FaultProxy, how: str) -> AsyncIterator[None]:
    """While the database cannot be used: *how* is `refused`, `hung`, or after how many bytes of it all ends."""
    try:
        if how == "refused":
            await proxy.refuse()
            proxy.reset_all()
        elif how == "hung":
            proxy.pause()
        else:
            proxy.cut_after = {"down": int(how)}
        yield
    finally:
        proxy.cut_after = {}
        proxy.resume()
        proxy.reset_all()
        await proxy.refuse()
        await proxy.start()


@pytest.mark.parametrize("how", ["refused", "hung", "0", "300", "700", "1500"])
async def test_no_route_answers_500(
    behind: Organization, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Every one of the table, all at once: first with connections that stood before, then with none."""
    [event, *_] = await eventually(lambda: behind.events(kind="message.received"))
    await known(behind)
    asked = requests_of(behind, event["id"])
    streams = [asked.pop(key)[0] for key in STREAMS]
    caplog.clear()
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(stream(behind, path)) for path in streams]
        async with failing(proxy, how):
            for _ in range(2):
                answers = await asyncio.gather(*(ask(behind, *key[:1], *asked[key]) for key in asked))
                for key, answer in zip(asked, answers, strict=True):
                    if answer.status >= 500 or (how in TOTAL and key[1] not in SERVED):
                        assert answer.status == 503, (key, answer.raw)
                        assert "retry-after" in answer.headers or key[1] == "/readyz", key
        # Who reads a stream loses nothing: it goes on.
        news, config = uuid4().hex, behind.configs[0]["config_id"]
        await known(behind)
        webhook = behind.gateway.meta.inbound(behind.numbers[0]).text(news)
        renaming = "PATCH", f"{CONFIGS}/configs/{config}", {"name": news}
        for ask_again in (lambda: behind.post_webhook(webhook), lambda: behind.call(*renaming)):
            await eventually(ask_again, lambda answer: answer.status == 200)  # 503 until all connections are back
        for answer in opened:
            await asyncio.wait_for(answer.content.readuntil(news.encode()), 60)
    away = [record for record in caplog.records if record.levelno > logging.WARNING or record.exc_info]
    assert [record.getMessage() for record in away] == []
    of_requests = [record for record in caplog.records if record.name in ("ingress.web.middleware", "uvicorn.error")]
    assert of_requests == []


async def known(organization: Organization) -> None:
    """From now on the service knows the keys, and the route that is sent by."""
    gateway = organization.gateway
    assert (await gateway.call("GET", "/organizations", key=gateway.platform_key)).status == 200
    answer = await eventually(lambda: organization.call("GET", f"{CONFIGS}/current"), lambda shown: shown.status == 200)
    assert answer.json["provider"] == "meta_business"


@asynccontextmanager
async def stream(organization: Organization, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"authorization": f"Bearer {organization.key}"}
    async with organization.gateway.session.get(organization.gateway.url + path, headers=headers) as answer:
        yield answer


@pytest.mark.parametrize("error", [kind for kind in problems.PASSING if kind is not asyncpg.InterfaceError], ids=str)
def test_what_nobody_foresaw_of_a_store_or_a_peer_passes(error: type[Exception]) -> None:
    """It is raised past all that knows what it means, and still no mistake of ours."""
    for kind in (error, *error.__subclasses__()):
        problem = problem_of(kind.__new__(kind))
        assert problem is not None
        assert (problem.status, "retry-after" in problem.headers) == (503, True), kind


def test_a_connection_that_breaks_is_not_a_value_that_cannot_be_stored() -> None:
    for error, status in ((asyncpg.InterfaceError("closed"), 503), (asyncpg.exceptions.DataError("NUL"), 422)):
        problem = problem_of(error)
        assert problem is not None
        assert problem.status == status


async def test_a_request_that_is_ended_with_the_process_is_answered() -> None:
    """By the server it would be with 500, and an error in the log."""
    sent: list[Any] = []
    begun = asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": {}}
    task = asyncio.create_task(Middleware(hang)(scope, send, send))
    await begun.wait()
    task.cancel()
    await task
    assert sent[0]["status"] == 503
    assert b"retry-after" in dict(sent[0]["headers"])


async def test_an_accepted_send_is_no_error_whatever_ends_it(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process goes on with it; an error would invite a second one."""

    async def ended(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Attempts, "through", ended)
    answer = await organization.send()
    assert (answer.status, answer.json["status"]) == (202, "accepted")


async def test_an_answer_that_breaks_off_is_one_line_in_the_log(
    organization: Organization, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await organization.send()

    def broken(*_: object) -> bytes:
        raise RuntimeError

    monkeypatch.setattr(events, "render", broken)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with stream(organization, "/events/stream?after=0") as answer:
            await answer.read()
    [record] = [record for record in caplog.records if record.levelno > logging.WARNING]
    assert record.name == "ingress.web.middleware"


WRONG = ["", "-1", "9" * 18, "9" * 30, "\N{SUPERSCRIPT TWO}", "%00", "%ff", "infinity", "0001-01-01T00:00:00%2B14:00"]


@pytest.mark.parametrize("value", WRONG)
async def test_no_query_parameter_makes_a_500(organization: Organization, value: str) -> None:
    """Whichever a route has, on every route that only reads."""
    queries = [route.query for _, _, route in walk(ROUTES) if route.query is not None]
    names = {field.encode_name for query in queries for field in msgspec.structs.fields(query)}
    assert names >= {"after", "before", "limit", "entries", "hash", "config_id"}
    addresses = [
        f"{address}{'&' if '?' in address else '?'}{name}={value}"
        for (method, path), (address, _) in requests_of(organization, "evt_1").items()
        for name in names - {"wait"}
        if method == "GET" and not path.endswith(("/stream", "/status"))
    ]
    for number in range(0, len(addresses), 8):
        answers = await asyncio.gather(
            *(ask(organization, "GET", each, None) for each in addresses[number : number + 8])
        )
        assert [answer.raw for answer in answers if answer.status in (500, 502)] == []
