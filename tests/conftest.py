"""Real parts for every test: PostgreSQL, Valkey, the service on a port, simulators of the provider and the CRM."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import asyncpg
import msgspec
import pytest
import uvicorn

from ingress import reading, relay
from ingress.app import Application
from ingress.database import migrate
from ingress.sandbox import CrmSimulator, MetaSimulator, RetryPolicy
from ingress.server import configuration, listen
from ingress.servers import EmbeddedServers
from ingress.settings import Settings
from ingress.vault import generate_key

from .gateway import Gateway, Organization


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """PostgreSQL and Valkey for all tests but those that kill them."""
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="session")
async def settings(servers: EmbeddedServers) -> Settings:
    assert servers.database_url
    assert servers.redis_url
    await migrate(servers.database_url)
    return Settings(
        database_url=servers.database_url,
        redis_url=servers.redis_url,
        platform_key=f"platform_{secrets.token_urlsafe(32)}",
        encryption_keys=generate_key(),
        egress_allow="127.0.0.0/8",
        health_interval_s=0,  # nobody asks the simulators anything but what a test does
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """The application on a port of its own, in this event loop; its base URL."""
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    application = Application(msgspec.structs.replace(settings, port=port))
    server = uvicorn.Server(configuration(application))
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        assert not task.done(), "the application could not start"
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        application.closing.set()
        server.should_exit = True
        await task
        listening.close()


def _no_signals() -> object:
    from contextlib import nullcontext

    return nullcontext()


@pytest.fixture(scope="session")
async def meta() -> AsyncIterator[MetaSimulator]:
    async with MetaSimulator(retry=RetryPolicy(tries=40)) as simulator:
        yield simulator


@pytest.fixture(scope="session")
async def crm() -> AsyncIterator[CrmSimulator]:
    async with CrmSimulator() as simulator:
        yield simulator


@pytest.fixture(scope="session")
async def gateway(settings: Settings, meta: MetaSimulator) -> AsyncIterator[Gateway]:
    """The service, shared by tests: each makes organizations of its own."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(settings))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Gateway(url, settings.platform_key, session, meta)


@pytest.fixture
async def watching(settings: Settings, gateway: Gateway) -> AsyncIterator[Gateway]:
    """A second process, which looks at the accounts that are made from now on, and often."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update provider_health set due_at = 'infinity'")
    await connection.close()
    async with serving(msgspec.structs.replace(settings, health_interval_s=0.1)) as url:
        yield Gateway(url, settings.platform_key, gateway.session, gateway.meta)


@pytest.fixture
async def organization(gateway: Gateway) -> Organization:
    """An organization with one active config."""
    made = await gateway.organization()
    await made.configure()
    return made


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def samples() -> Path:
    return Path(__file__).parent / "samples" / "meta_business"


@pytest.fixture
def any_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """No webhook is stale: captured ones are of other years."""
    monkeypatch.setattr(reading, "MAX_AGE", timedelta.max)
    monkeypatch.setattr(reading, "MIN_AGE", timedelta.min)


@pytest.fixture
def quick_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days of retries in a moment; the caches and polls that tests would have to wait for, off."""
    monkeypatch.setattr(relay, "SCHEDULE_S", (0.01,) * 1000)
    monkeypatch.setattr(relay, "POLL_S", 0.02)
    monkeypatch.setattr(relay, "PAUSE_S", 0.05)
    monkeypatch.setattr(relay, "ENDPOINT_CACHE_S", 0.0)
