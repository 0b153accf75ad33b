"""Real parts for every test: PostgreSQL, Valkey, the service on a port, simulators of the provider and the CRM."""

import asyncio
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import asyncpg
import hypothesis
import msgspec
import pytest
import uvicorn
import uvloop

from ingress import app
from ingress.api import operations
from ingress.app import Application
from ingress.delivery import relay, schedule
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import CrmSimulator, MetaSimulator, RetryPolicy
from ingress.receiving import completion, normalise
from ingress.sending import outbound
from ingress.server import configuration, listen, operations_configuration
from ingress.settings import Settings
from ingress.storage import database, group_commit, redis_state
from ingress.storage.migration import migrate
from ingress.storage.vault import generate_key
from providers import _values

from .gateway import Gateway, Organization, Served, unused_port
from .populated import Data, populated_pair
from .raw_http import Client

# What some workers' databases may take, with their logs of a gigabyte each.
ROOM_BYTES = 8 * 2**30
# A worker that begins one of these last keeps the others waiting: begun first, the short files fill what is left.
LONG_FILES = (
    "service/test_crash.py",
    "test_scale.py",
    "deploy/test_dashboards.py",
    "deploy/test_series.py",
    "switching/test_switching_machine.py",
    "prove/test_proof.py",
    "cli/test_run.py",
    "console/test_every_page.py",
    "storage/test_redis_cluster.py",
    "api/test_configs.py",
    "dev/test_demo.py",
    "test_store_failures.py",
    "service/test_waha_service.py",
    "prove/test_attacks.py",
    "sending/test_protection.py",
    "storage/test_logins.py",
)


# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first (needs `--no-loadscope-reorder`, which keeps this order): a stable sort, so files stay whole."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The one that the service runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """PostgreSQL and Valkey for all tests but those that kill them: in memory where there is room for all workers'."""
    memory = Path("/dev/shm")
    is_roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES
    with TemporaryDirectory(dir=memory if is_roomy else None) as folder, EmbeddedServers(Path(folder)) as running:
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
        trusted_hosts="127.0.0.1",
        health_interval_s=0,  # nobody asks the simulators anything but what a test does
        # Tests ask as fast as they can, and all from one address.
        requests_per_key=0,
        sign_in_failures_per_minute=0,
        connection_tests_per_minute=0,
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Served]:
    """The application on ports of its own, in this event loop; its base URL."""
    listening, watched = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    application = Application(msgspec.structs.replace(settings, port=port))
    async with (
        _answering(operations_configuration(application), watched),
        _answering(configuration(application), listening, application.closing),
    ):
        yield Served(port, watched.getsockname()[1])


@asynccontextmanager
async def _answering(
    config: uvicorn.Config, listening: socket.socket, closing: asyncio.Event | None = None
) -> AsyncIterator[None]:
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]  # they are pytest's
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        assert not task.done(), "the application could not start"
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        if closing is not None:
            closing.set()
        server.should_exit = True
        await task
        listening.close()


@pytest.fixture(scope="session", autouse=True)
def fresh_metrics() -> Iterator[None]:
    """What a scrape shows has been counted until then, not until a second ago."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "KEEP_S", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _patient_with_the_database() -> Iterator[None]:
    """A database on a busy machine is slow, and not away; tests of one that is away are not so patient."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONNECT_TIMEOUT_S", "STATEMENT_TIMEOUT_S", "ACQUIRE_TIMEOUT_S"):
            patch.setattr(database, name, 30.0)
        patch.setattr(group_commit, "WRITE_TIMEOUT_S", 30.0)
        yield


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
    ending = pytest.MonkeyPatch()
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # what is looked for in Redis is there, however busy the machine is
            patch.setattr(redis_state, "COMMAND_TIMEOUT_S", 2.0)
            for name in ("COUNT_EVERY_S", "ERASE_EVERY_S"):  # a person is erased once all of theirs is counted
                patch.setattr(app, name, 0.5)
            url = await stack.enter_async_context(serving(settings))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Gateway(url, settings.platform_key, session, meta)
        ending.setattr(outbound, "DRAIN_S", 0.1)  # some tests leave sends that hang
    ending.undo()


@pytest.fixture
async def watching(settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A second process, which looks often at the accounts that are made from now on, and soon stores what it saw."""
    monkeypatch.setattr(app, "WRITE_EVERY_S", 0.1)
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


@pytest.fixture(scope="module")
async def pair(gateway: Gateway, settings: Settings) -> tuple[Data, Data]:
    """Two organizations with rows in every table, for a module."""
    return await populated_pair(gateway, settings)


@pytest.fixture
async def fresh_accounts(settings: Settings) -> None:
    """Accounts whose ids are written in the test are nobody's, nor are their secrets, whatever ran before it."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("delete from account_owners")
    await connection.execute("update whatsapp_provider_configs set signing_keys = '{}'")
    await connection.close()


@pytest.fixture
def free_port() -> int:
    return unused_port()


@pytest.fixture
def samples() -> Path:
    return Path(__file__).parent / "samples" / "meta_business"


@pytest.fixture
def any_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """No webhook is stale: captured ones are of other years."""
    monkeypatch.setattr(normalise, "_is_stale", lambda *_: False)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the length of ids were nobody's business but the database's."""
    monkeypatch.setattr(_values, "MAX_WORD", 100_000)
    monkeypatch.setattr(completion, "MAX_ID_CHARACTERS", 100_000)


@pytest.fixture
def quick_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days of retries in a moment; the caches and polls that tests would have to wait for, off."""
    monkeypatch.setattr(schedule, "SCHEDULE_S", (0.01,) * 1000)
    monkeypatch.setattr(relay, "POLL_S", 0.02)
    monkeypatch.setattr(relay, "PAUSE_S", 0.05)
    monkeypatch.setattr(relay, "ENDPOINT_CACHE_S", 0.0)


@pytest.fixture
async def connect(gateway: Gateway) -> AsyncIterator[Callable[..., Any]]:
    """Makes raw connections; closes what the test leaves open."""
    made: list[Client] = []

    async def make(url: str = gateway.url, local: str | None = None) -> Client:
        made.append(await Client.connect(url, local))
        return made[-1]

    yield make
    await asyncio.gather(*[client.close() for client in made])
