"""The service as its users meet it: an organization with its key, over real HTTP."""

import asyncio
import inspect
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest
from aiohttp import web
from starlette.routing import compile_path

from ingress.api.routes import ROUTES
from ingress.dev.sandbox import MetaNumber, MetaSimulator, PostResult, example_number, signed_headers
from ingress.dev.sandbox.meta.bodies import encode
from ingress.web.openapi import walk
from providers import Registry

ROOT = Path(__file__).parent.parent
# By the name of the operation: what it takes.
BODIES = {route.name: route.body for _, _, route in walk(ROUTES) if route.body is not None}
SCOPES = ["send", "read", "configure", "admin"]
# Tests ask as fast as they can, and all from one address.
UNLIMITED = {
    "INGRESS_REQUESTS_PER_KEY": "0",
    "INGRESS_SIGN_IN_FAILURES_PER_MINUTE": "0",
    "INGRESS_CONNECTION_TESTS_PER_MINUTE": "0",
}
# Every test has numbers of its own, as it has organizations of its own.
_numbers = count(1)


def limit(monkeypatch: pytest.MonkeyPatch, provider: str = "meta_business", **seconds: float) -> None:
    """Have *provider* answer within these time limits."""
    kind = Registry().get(provider)
    limits = msgspec.structs.replace(kind.info.time_limits, **seconds)
    monkeypatch.setattr(kind, "info", msgspec.structs.replace(kind.info, time_limits=limits))


class Answer(msgspec.Struct):
    status: int
    headers: Any
    raw: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.raw)


def is_as_described(method: str, path: str, raw: bytes) -> bool:
    """Whether an answer is of a type that its route has in the API's description, without a field more or less."""
    bare = path.partition("?")[0]
    kinds = next(kinds for pattern, named, kinds in _ROUTES if named == method and pattern.match(bare))
    for kind in kinds:
        try:
            again = msgspec.json.encode(msgspec.json.decode(raw, type=kind))
        except msgspec.ValidationError:
            continue
        if msgspec.json.decode(again) == msgspec.json.decode(raw):
            return True
    # Events are answered as they are stored, and tests store all kinds of things.
    return bare in ("/openapi.json", "/events") or bare.startswith(("/contacts/", "/events/"))


_ROUTES = [(compile_path(path)[0], method, route.answers) for path, method, route in walk(ROUTES)]


class Served(str):
    """The base URL of a running service, and that of its port for metrics."""

    operations: str

    def __new__(cls, port: int, operations_port: int) -> "Served":
        made = super().__new__(cls, f"http://127.0.0.1:{port}")
        made.operations = f"http://127.0.0.1:{operations_port}"
        return made


class Gateway:
    """A running service at *url*; its metrics can be asked for where that is a `Served`."""

    def __init__(self, url: str, platform_key: str, session: aiohttp.ClientSession, meta: MetaSimulator) -> None:
        self.url = url
        self.platform_key = platform_key
        self.session = session
        self.meta = meta

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        raw: bytes | None = None,
        **headers: str,
    ) -> Answer:
        """One request; headers by keyword, `x_org_id` for X-Org-Id."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        data: Any = raw
        if body is not None:
            data, sent["content-type"] = msgspec.json.encode(body), "application/json"
        if data is not None and len(data) > 1_000_000:
            data = io.BytesIO(data)  # aiohttp wants large bodies as files
        url = path if path.startswith("http") else self.url + path
        async with self.session.request(method, url, data=data, headers=sent, allow_redirects=False) as answer:
            answered = Answer(answer.status, answer.headers, await answer.read())
        if answered.status < 300 and path.startswith("/") and answer.content_type == "application/json":
            assert is_as_described(method, path, answered.raw), f"{method} {path}: {answered.raw[:500]!r}"
        return answered

    @property
    def operations(self) -> str:
        assert isinstance(self.url, Served)
        return self.url.operations

    async def metrics(self, accept: str = "") -> Answer:
        return await self.call("GET", f"{self.operations}/metrics", accept=accept)

    async def organization(self, name: str = "Test") -> "Organization":
        made = await self.call("POST", "/organizations", {"name": name}, key=self.platform_key)
        assert made.status == 201, made.raw
        organization_id = made.json["id"]
        key = await self.call("POST", "/keys", {"scopes": SCOPES}, key=self.platform_key, x_org_id=organization_id)
        assert key.status == 201, key.raw
        return Organization(self, organization_id, key.json["key"])


class Organization:
    """One organization of a service, and its simulated numbers."""

    def __init__(self, gateway: Gateway, id: str, key: str) -> None:
        self.gateway = gateway
        self.id = id
        self.key = key
        self.configs: list[dict[str, Any]] = []
        self.numbers: list[MetaNumber] = []

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.gateway.call(method, path, body, key=self.key, **more)

    async def configure(
        self,
        number: MetaNumber | None = None,
        *,
        active: bool = True,
        own_port: bool = False,
        host: str = "127.0.0.1",
        **changes: Any,
    ) -> dict[str, Any]:
        """A config of a new simulated number, or of *number*. At the *host* `localhost` nobody vouches for it.

        Of a number that it has already a second one. It joins no order of fallbacks: tests set theirs.
        """
        if number is None:
            number = msgspec.structs.replace(example_number(next(_numbers)), **changes)
            await self.gateway.meta.add_number(number, own_port=own_port)
        base_url = self.gateway.meta.url_for(number).replace("127.0.0.1", host)
        body = {"provider_type": "meta_business", "config_data": number.config_data(base_url), "is_active": active}
        body["as_fallback"] = False
        body["allow_second"] = number.phone_number_id in {own.phone_number_id for own in self.numbers}
        answer = await self.call("POST", "/integrations/whatsapp/provider/configure", body)
        assert answer.status == 200, answer.raw
        self.configs.append(answer.json)
        self.numbers.append(number)
        return self.configs[-1]

    async def probe(self, config_id: str) -> bool:
        """Whether a signed webhook of a config is seen to arrive through its public address."""
        answer = await self.call("POST", "/integrations/whatsapp/provider/test", {"config_id": config_id})
        [check] = [check for check in answer.json["checks"] if check["name"] == "probe"]
        return bool(check["passed"] and check.get("checkable", True))

    async def fall_back_to(self, *config_ids: str) -> None:
        answer = await self.call("PUT", "/integrations/whatsapp/provider/fallback", {"config_ids": list(config_ids)})
        assert answer.status == 200, answer.raw

    async def post_webhook(self, body: Any, *, config: int = 0) -> Answer:
        """Post *body* once, signed, to a config's webhook."""
        raw = body if isinstance(body, bytes) else encode(body)
        return await self.gateway.call(
            "POST",
            self.configs[config]["webhook_url"],
            raw=raw,
            **{name.lower(): value for name, value in signed_headers(self.numbers[config].app_secret, raw).items()},
        )

    async def deliver(self, body: Any, *, config: int = 0) -> PostResult:
        """Have the simulator post *body* as the provider does: again until it is taken."""
        result = await self.gateway.meta.post(self.numbers[config], body)
        assert result is not None
        return result

    async def send(self, body: Any = None, **headers: str) -> Answer:
        return await self.call("POST", "/send", body or {"to": "+5511987654321", "body": "Hello"}, **headers)

    async def events(self, after: int = 0, *, wait: int = 0, raw: bool = False, kind: str | None = None) -> list[Any]:
        """All events above *after*, page by page."""
        found: list[Any] = []
        while True:
            query = f"after={after}&limit=500&wait={wait}&raw={int(raw)}"
            page = (await self.call("GET", f"/events?{query}")).json
            found += page["events"]
            if not page["events"]:
                return [event for event in found if kind is None or event["type"] == kind]
            after, wait = page["next"], 0

    async def message(self, message_id: str) -> Any:
        answer = await self.call("GET", f"/messages/{message_id}")
        assert answer.status == 200, answer.raw
        return answer.json

    async def settled(self, message_id: str, *statuses: str, timeout: float = 60) -> Any:
        """The message once its status is one of *statuses*."""
        return await eventually(
            lambda: self.message(message_id), lambda message: message["status"] in statuses, timeout=timeout
        )


def until(is_so: Callable[[], bool], *, timeout: float = 60) -> None:
    """Look until something is so, where nothing else goes on; fails after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.01)


async def eventually(
    ask: Callable[[], Any], right: Callable[[Any], bool] = bool, *, timeout: float = 60, every: float = 0.02
) -> Any:
    """What *ask* gives once it is *right*; fails after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if inspect.isawaitable(answer):
            answer = await answer
        if right(answer):
            return answer
        assert time.monotonic() < deadline, f"not within {timeout} s; last: {str(answer)[:500]}"
        await asyncio.sleep(every)


async def leave(connection: asyncpg.Connection, message_id: UUID, *, minutes: float) -> None:
    """As if a message's process had died after an attempt that was not taken, *minutes* before its time is over."""
    await connection.execute(
        "update attempts set class = 'Unavailable', provider_message_id = null where message_id = $1", message_id
    )
    await connection.execute(
        """update messages set state = 'sending', status = 'accepted', status_rank = 0, provider_message_id = null,
        message_key = null, leased_until = now() - interval '1 s', lease_id = null, expires_at = now() + $2
        where id = $1""",
        message_id,
        timedelta(minutes=minutes),
    )


def logged(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    """What *logger* wrote: other tests' services live on in this process, and may warn of something at any time."""
    return [record.getMessage() for record in caplog.records if record.name == logger]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def elsewhere(
    answer: Callable[[], web.Response], address: str = "127.0.0.2"
) -> AsyncIterator[tuple[str, list[Any]]]:
    """A host of its own; the headers of what it is asked."""
    seen: list[Any] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers)
        return answer()

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, address, 0)
    await site.start()
    try:
        yield f"http://{address}:{runner.addresses[0][1]}/file", seen
    finally:
        await runner.cleanup()


async def cut_off_listeners(database_url: str) -> None:
    """End the connection that each process of the database listens on: it is the one that holds such a lock."""
    connection = await asyncpg.connect(database_url)
    try:
        ended = await connection.fetch(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and objsubid = 2"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        assert ended
    finally:
        await connection.close()


async def command(organization: Organization, *arguments: str) -> str:
    """What `ingress …` prints for the organization, as its user runs it; it must succeed."""
    key = ["--url", organization.gateway.url, "--key", organization.key]
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "ingress", *arguments, *key], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Process:
    """`ingress serve` as a process of its own, to be killed and started again on the same port.

    *checkout*: where its source is. *program*: another `ingress` than that of the tests.
    """

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        *arguments: str,
        checkout: Path = ROOT,
        program: Sequence[str] = (sys.executable, "-m", "ingress"),
    ) -> None:
        self._environment = environment
        self._log = log
        self._arguments = arguments
        self._checkout = checkout
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, "serve", *self._arguments],
                env={**os.environ, **UNLIMITED, "INGRESS_METRICS_PORT": "0", **self._environment},
                stdout=log,
                stderr=log,
                cwd=self._checkout,
            )
        url = f"http://127.0.0.1:{self._environment['INGRESS_PORT']}/readyz"
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                assert self._process is not None
                assert self._process.poll() is None, self._log.read_text()[-2000:]
                try:
                    async with session.get(url) as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await eventually(ready)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, 45)
