"""Three processes of the service, their servers, and the simulated providers; each can be killed and comes back."""

import asyncio
import os
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import (
    MetaSimulator,
    RetryPolicy,
    StatusPolicy,
    TwilioSimulator,
    TwilioStatusPolicy,
    example_sender,
)
from ingress.dev.sandbox.webhook_post import PostResult, Try, WebhookPoster
from ingress.settings import Settings
from ingress.storage.migration import migrate
from ingress.storage.vault import generate_key
from tests.gateway import UNLIMITED, Answer, Gateway, Organization, Process, Served

from .history import Call, Down, History

PROCESSES = 3
# As a provider that goes on for days: a webhook outlives any number of kills.
PATIENT = RetryPolicy(tries=400, backoff_s=0.02, cap_s=0.2, timeout_s=10)
UNBOUNDED = {**UNLIMITED, "INGRESS_CONNECTIONS_PER_ADDRESS": "0"}
SWITCH = "/integrations/whatsapp/provider"


class ClusterMember:
    """One process, and its lives."""

    def __init__(self, name: str, url: Served, process: Process, history: History) -> None:
        self.name = name
        self.url = url
        self.life = 1
        self.alive = False
        self.stopped = False
        self._process = process
        self._history = history

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        await self._process.start()
        self.alive = True

    async def restart(self) -> None:
        """kill -9, and up again."""
        down = Down(self.name, time(), float("inf"))
        self._history.down.append(down)
        self.alive = False
        self._process.kill()
        self.life += 1
        await self.start()
        down.until = time()

    async def renew(self) -> None:
        """Let it end what it has, with no new requests, and start it again."""
        self.alive = False
        assert await self._process.stop() == 0
        self.life += 1
        await self.start()

    def stop(self) -> None:
        """It keeps what it has, and does nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)
        self.stopped = False

    def kill(self) -> None:
        if self.alive:
            self._process.kill()


class Poster(WebhookPoster):
    """Posts to any process that is alive, as a load balancer would have it, and remembers each answer."""

    def __init__(self, cluster: "Cluster") -> None:
        super().__init__(PATIENT)
        self._cluster = cluster

    async def post(self, url: str, raw: bytes, headers: dict[str, str], retry: RetryPolicy | None = None) -> PostResult:
        return await super().post(url, raw, headers, PATIENT)

    async def get(self, url: str, params: dict[str, str]) -> tuple[int | None, bytes]:
        # A handshake is part of a switch. At a stopped process that switch, and all behind it, would wait for its end.
        member = random.choice([member for member in self._cluster.members if member.alive and not member.stopped])
        return await super().get(member.url + urlsplit(url).path, params)

    async def _try(self, url: str, *more: Any) -> Try:
        member, parts = self._cluster.pick(), urlsplit(url)
        asked = time()
        tried = await super()._try(f"{member.url}{parts.path}?{parts.query}".rstrip("?"), *more)
        self._cluster.history.calls.append(Call("webhook", member.name, asked, time(), tried.status))
        return tried


class Cluster:
    """What a run plays with. ``history`` fills as it goes."""

    history: History
    settings: Settings
    servers: EmbeddedServers
    members: list[ClusterMember]
    meta: MetaSimulator
    twilio: TwilioSimulator
    session: aiohttp.ClientSession

    def pick(self) -> ClusterMember:
        return random.choice([member for member in self.members if member.alive])

    async def call(
        self, kind: str, member: ClusterMember, key: str, method: str, path: str, **more: Any
    ) -> Answer | None:
        """One request to *member*; None: no answer. It is part of the history."""
        gateway, asked = Gateway(member.url, "", self.session, self.meta), time()
        try:
            answer = await gateway.call(method, path, key=key, **more)
        except (aiohttp.ClientError, TimeoutError):
            answer = None
        self.history.calls.append(Call(kind, member.name, asked, time(), answer.status if answer else None))
        return answer

    async def organization(self) -> Organization:
        platform = Gateway(self.members[0].url, self.settings.platform_key, self.session, self.meta)
        return await platform.organization()

    async def add_meta(self, organization: Organization, *, active: bool = False) -> str:
        config = await organization.configure(active=active, own_port=True)
        self.meta.set_statuses(organization.numbers[-1], StatusPolicy(statuses=("delivered",)))
        return str(config["config_id"])

    async def add_twilio(self, organization: Organization) -> str:
        sender = example_sender()
        config_data = sender.config_data(await self.twilio.add_number(sender))
        body = {
            "provider_type": "twilio_whatsapp",
            "config_data": config_data,
            "is_active": False,
            "as_fallback": False,
        }
        answer = await organization.call("POST", f"{SWITCH}/configure", body)
        assert answer.status == 200, answer.raw
        self.twilio.set_statuses(sender, TwilioStatusPolicy(statuses=("delivered",)))
        return str(answer.json["config_id"])


@asynccontextmanager
async def cluster(
    folder: Path, processes: int = PROCESSES, limits: Mapping[str, str] = UNBOUNDED
) -> AsyncIterator[Cluster]:
    """Everything up; all of it ends with the block. Data and logs are in *folder*.

    *limits* are settings that hold back who comes often, as all clients of a run do from one address with one key.
    """
    made = Cluster()
    made.history = History()
    async with AsyncExitStack() as stack:
        made.servers = stack.enter_context(EmbeddedServers(folder / "servers"))
        ports = _free_ports(2 * processes)
        urls = [Served(*ports[2 * place : 2 * place + 2]) for place in range(processes)]
        made.settings = Settings(
            database_url=made.servers.database_url or "",
            redis_url=made.servers.redis_url or "",
            public_url=urls[0],
            platform_key=f"platform_{secrets.token_urlsafe(32)}",
            encryption_keys=generate_key(),
            egress_allow="127.0.0.0/8",
        )
        await migrate(made.settings.database_url)
        made.members = []
        for number, url in enumerate(urls, 1):
            environment = {
                "DATABASE_URL": made.settings.database_url,
                "REDIS_URL": made.settings.redis_url,
                "INGRESS_PORT": str(urlsplit(url).port),
                "INGRESS_METRICS_PORT": str(urlsplit(url.operations).port),
                "INGRESS_PUBLIC_URL": made.settings.public_url,
                "INGRESS_PLATFORM_KEY": made.settings.platform_key,
                "INGRESS_ENCRYPTION_KEYS": made.settings.encryption_keys,
                "INGRESS_EGRESS_ALLOW": made.settings.egress_allow,
                "INGRESS_LOG_LEVEL": "warning",
                **limits,
            }
            process = Process(environment, folder / f"process{number}.log")
            made.members.append(ClusterMember(f"process {number}", url, process, made.history))
        made.meta, made.twilio = MetaSimulator(), TwilioSimulator()
        made.meta.webhooks, made.twilio.webhooks = Poster(made), Poster(made)
        timeout = aiohttp.ClientTimeout(total=30)
        made.session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, trust_env=False)
        )
        await stack.enter_async_context(made.meta)
        await stack.enter_async_context(made.twilio)
        for member in made.members:
            stack.callback(member.kill)
        await asyncio.gather(*(member.start() for member in made.members))
        yield made


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
