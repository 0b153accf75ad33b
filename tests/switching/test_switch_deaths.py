"""kill -9 of a process at four moments of a switch: what it leaves is the old or the new, and a client learns which.

PROVE_DEATHS (1) of each. The process talks to PostgreSQL, to Redis and to its client through proxies; the one that sees
the moment pass by kills it there and then, and passes on, or does not, what the process has sent last.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import asyncpg
import pytest
import redis.asyncio

from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import FaultProxy
from ingress.settings import Settings
from ingress.storage.redis_state import CHANNEL

from ..gateway import Gateway, Organization, Process, eventually

DEATHS = int(os.environ.get("PROVE_DEATHS", "1"))
BASE = "/integrations/whatsapp"


class Dying:
    """A process of the service, and the proxies it talks through."""

    def __init__(self, process: Process, postgres: FaultProxy, redis: FaultProxy, client: FaultProxy) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{client.port}"
        self.postgres = postgres
        self.redis = redis
        self.client = client
        self.is_dead = False

    async def start(self) -> None:
        for proxy in (self.postgres, self.redis, self.client):
            proxy.watch = None
            proxy.resume()
        await self.process.start()
        self.is_dead = False

    def die(self) -> None:
        self.process.kill()
        for proxy in (self.client, self.postgres):  # as its kernel does; PostgreSQL would wait for it
            proxy.reset_all()
        self.is_dead = True

    def at(self, *signs: tuple[FaultProxy, str, bytes], swallowed: bool) -> None:
        """Die when these were seen in this order, each by a proxy, on its way; the last one is *swallowed* or not."""
        left = list(signs)

        def watching(proxy: FaultProxy) -> Callable[[str, bytes], bool]:
            def watch(way: str, chunk: bytes) -> bool:
                while left and left[0][:2] == (proxy, way) and left[0][2] in chunk:
                    left.pop(0)
                    if not left:
                        self.die()
                        return swallowed
                return False

            return watch

        for proxy in (self.postgres, self.redis, self.client):
            proxy.watch = watching(proxy)


@pytest.fixture
async def dying(servers: EmbeddedServers, settings: Settings, free_port: int, tmp_path: Path) -> AsyncIterator[Dying]:
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(FaultProxy(str(servers.postgres.sockets / ".s.PGSQL.5432")))
        valkey = await stack.enter_async_context(FaultProxy(urlsplit(settings.redis_url).path))
        client = await stack.enter_async_context(FaultProxy(("127.0.0.1", free_port)))
        environment = {
            "DATABASE_URL": f"postgresql://svc@127.0.0.1:{postgres.port}/postgres?sslmode=disable",
            "REDIS_URL": f"redis://127.0.0.1:{valkey.port}",
            "INGRESS_PORT": str(free_port),
            "INGRESS_PLATFORM_KEY": settings.platform_key,
            "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
            "INGRESS_EGRESS_ALLOW": settings.egress_allow,
            "INGRESS_HEALTH_INTERVAL_S": "0",
        }
        made = Dying(Process(environment, tmp_path / "log"), postgres, valkey, client)
        try:
            yield made
        finally:
            if not made.is_dead:
                made.process.kill()


@pytest.mark.parametrize("moment", ["before-commit", "committed", "published", "before-answer"])
async def test_a_process_that_dies_in_a_switch(dying: Dying, gateway: Gateway, settings: Settings, moment: str) -> None:
    database = await asyncpg.connect(settings.database_url)
    listener = redis.asyncio.Redis.from_url(settings.redis_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(listener.aclose)
        channel = await stack.enter_async_context(listener.pubsub())
        await channel.subscribe(CHANNEL)
        for _ in range(DEATHS):
            organization = await gateway.organization()
            for active in (True, False):
                await organization.configure(active=active)
            await dying.start()
            # The notification is the last statement of the transaction, and has the version in it.
            notified = (dying.postgres, "up", f"{organization.id}:2".encode())
            published = (dying.redis, "up", f"provider:{organization.id}:2".encode())
            if moment == "before-commit":
                dying.at(notified, (dying.postgres, "up", b"COMMIT;"), swallowed=True)
            elif moment == "committed":
                dying.at(notified, (dying.postgres, "down", b"COMMIT\0"), swallowed=True)
            elif moment == "published":
                dying.at(published, swallowed=False)
            else:
                dying.at((dying.client, "down", b" 200 "), swallowed=True)
            door = Organization(
                Gateway(dying.url, "", gateway.session, gateway.meta), organization.id, organization.key
            )
            wanted = {"config_id": organization.configs[1]["config_id"], "expected_version": 1}
            with pytest.raises(aiohttp.ClientError):
                await door.call("POST", f"{BASE}/provider/switch", wanted)
            assert dying.is_dead
            if moment == "published":
                await _received(channel, f"provider:{organization.id}:2")
            await _is_old_or_new(organization, database, made=moment != "before-commit")
            # The client asks again, at another process, and learns how things stand.
            answer = await organization.call("POST", f"{BASE}/provider/switch", wanted)
            assert answer.status == (200 if moment == "before-commit" else 409), answer.raw
            assert answer.json["version"] == 2
            await _is_old_or_new(organization, database, made=True)


async def _received(channel: redis.asyncio.client.PubSub, expected: str) -> None:
    async def message() -> object:
        found = await channel.get_message(ignore_subscribe_messages=True, timeout=0.01)
        return found and found["data"].decode()

    await eventually(message, lambda data: data == expected)


async def _is_old_or_new(organization: Organization, database: asyncpg.Connection, *, made: bool) -> None:
    """Not a mixture: version, states, trail, events, and where a send goes."""
    version, place = (2, 1) if made else (1, 0)
    active = organization.configs[place]["config_id"]
    row = await database.fetchrow(
        "select version, active_config_id::text from organizations where id = $1", UUID(organization.id)
    )
    assert tuple(row or ()) == (version, active)
    states = [
        config["state"] for config in (await organization.call("GET", f"{BASE}/provider/configs")).json["configs"]
    ]
    # Any process restores the former state by itself, within seconds.
    assert states in ([["inactive", "active"]] if made else [["active", "switching"], ["active", "configured"]])
    entries = (await organization.call("GET", f"{BASE}/audit?limit=200")).json["entries"]
    activated = [(entry["version"], entry["config_id"]) for entry in entries[::-1] if entry["action"] == "activated"]
    assert activated == [
        (number + 1, config["config_id"]) for number, config in enumerate(organization.configs[:version])
    ]
    switched = [event["data"]["version"] for event in await organization.events(kind="provider.switched")]
    assert switched == list(range(1, version + 1))
    assert (await organization.call("GET", f"{BASE}/audit/verify")).json["intact"]
    sent = await organization.send()
    assert (sent.status, sent.json["config_id"]) == (200, active)
