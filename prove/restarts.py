"""A rolling restart under load: each process ends in order and comes back, while webhooks and sends go on."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from ingress.dev.sandbox import message_ids
from tests.gateway import Organization, eventually

from .cluster import Cluster
from .propagation import shown

SETTLE_S = 60.0
# 503 says that the same comes through a moment later, which the run sees to.
WELL_ANSWERED = {200, 202, 503}


class Plan(msgspec.Struct, frozen=True):
    """How often each process is restarted, and what comes in and goes out meanwhile."""

    rounds: int = 10
    webhooks_per_s: float = 300
    sends_per_s: float = 50


class RollingRestart:
    """One organization, people who write to it, and a CRM that sends."""

    def __init__(self, cluster: Cluster, organization: Organization, plan: Plan) -> None:
        self._cluster = cluster
        self._organization = organization
        self._plan = plan
        self._people = cluster.meta.inbound(organization.numbers[0])
        self._ended = asyncio.Event()
        self._posted: list[str] = []
        self._sent = 0
        self._slowest_s = 0.0

    async def play(self) -> dict[str, Any]:
        before = len(self._cluster.history.calls)
        async with asyncio.TaskGroup() as group:
            for rate, act in ((self._plan.webhooks_per_s, self._write), (self._plan.sends_per_s, self._send)):
                group.create_task(self._paced(rate, act))
            await self._roll()
            self._ended.set()
        answers = Counter(call.status for call in self._cluster.history.calls[before:])
        received, arrived = await self._received(), self._arrived()
        return {
            "restarts": self._plan.rounds * len(self._cluster.members),
            "restart_slowest_ms": shown(self._slowest_s),
            "restart_webhooks": len(self._posted),
            "restart_sends": self._sent,
            "restart_again": answers[503],
            "restart_unanswered": sum(times for status, times in answers.items() if status not in WELL_ANSWERED),
            "restart_lost": len(set(self._posted) - received.keys()) + self._sent - len(arrived),
            "restart_doubled": sum((received + arrived).values()) - len(received) - len(arrived),
        }

    async def _roll(self) -> None:
        for _ in range(self._plan.rounds):
            for member in self._cluster.members:
                began = monotonic()
                await member.renew()
                self._slowest_s = max(self._slowest_s, monotonic() - began)

    async def _paced(self, rate: float, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """*act* as often a second, whether or not the last one has ended."""
        started, count = monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self._ended.is_set():
                group.create_task(act())
                count += 1
                await asyncio.sleep(max(0.0, started + count / rate - monotonic()))

    async def _write(self) -> None:
        body = self._people.text()
        self._posted += message_ids(body)
        await self._cluster.meta.post(self._organization.numbers[0], body)

    async def _send(self) -> None:
        """Under the same key until it was taken."""
        place, answer = self._sent, None
        self._sent += 1
        body = {"to": f"+55119{place:08d}", "body": str(place)}
        while answer is None or answer.status not in (200, 202):
            key = {"idempotency_key": f"restart-{place}"}
            member, secret = self._cluster.pick(), self._organization.key
            answer = await self._cluster.call("send", member, secret, "POST", "/send", body=body, **key)

    async def _received(self) -> Counter[str]:
        """Messages of people by the provider's ids, once nothing is under way."""
        connection = await asyncpg.connect(self._cluster.settings.database_url)
        organization_id = UUID(self._organization.id)
        under_way = "select count(*) from messages where organization_id = $1 and state = 'sending'"
        received = (
            "select data -> 'message' ->> 'provider_message_id' from events"
            " where organization_id = $1 and type = 'message.received'"
        )
        try:
            await eventually(
                lambda: connection.fetchval(under_way, organization_id), lambda count: count == 0, timeout=SETTLE_S
            )
            await self._cluster.meta.settled(SETTLE_S)
            return Counter(row[0] for row in await connection.fetch(received, organization_id))
        finally:
            await connection.close()

    def _arrived(self) -> Counter[str]:
        number = self._organization.numbers[0].phone_number_id
        accepted = (each for each in self._cluster.meta.accepted if each.phone_number_id == number)
        return Counter(each.body["text"]["body"] for each in accepted)


async def restarted(cluster: Cluster, plan: Plan) -> dict[str, Any]:
    """Restart each process in turn, as Kubernetes does: no new requests, SIGTERM, up again."""
    organization = await cluster.organization()
    await cluster.add_meta(organization, active=True)
    return await RollingRestart(cluster, organization, plan).play()
