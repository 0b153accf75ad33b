"""Sends to one person arrive in the order of their acceptance, whatever happens; and what others notice of a queue."""

import asyncio
from itertools import pairwise
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from ingress.dev.sandbox import Accept, AnyFault, Throttle429
from tests.gateway import Gateway, Organization, eventually

from .cluster import Cluster
from .propagation import shown
from .protection import paced

PERSON = "+5511987654321"
REFUSED_EVERY = 10
# Whoever takes over what a dead process left waits half a minute for it, each time.
SETTLE_S = 300.0
QUEUED, QUEUED_S, ROUNDS = 200, 30, 5


class Plan(msgspec.Struct, frozen=True):
    """Of the calls one in REFUSED_EVERY is refused for now."""

    sends: int = 1_000
    kills: int = 5


async def ordered(cluster: Cluster, plan: Plan) -> dict[str, Any]:
    """Have any process accept one send after the other, kill processes in turn, and see in what order they arrive."""
    organization = await _organization(cluster)
    number = organization.numbers[0]
    calls: list[AnyFault] = [Throttle429(retry_after=0), *[Accept()] * (REFUSED_EVERY - 1)]
    await cluster.meta.script(number, *calls * (plan.sends // REFUSED_EVERY))
    kills = {plan.sends * kill // (plan.kills + 1): kill for kill in range(1, plan.kills + 1)}
    restart: asyncio.Task[None] | None = None
    for place in range(plan.sends):
        await _accepted(cluster, organization, place)
        if place in kills:
            if restart is not None:
                await restart
            restart = asyncio.create_task(cluster.members[kills[place] % len(cluster.members)].restart())
    if restart is not None:
        await restart
    rows = await _ended(cluster, organization)
    arrived = [
        int(message.body["text"]["body"])
        for message in cluster.meta.accepted
        if message.phone_number_id == number.phone_number_id
    ]
    failed = sum(row["status"] == "failed" for row in rows)  # the retry budget was spent
    return {
        "order_sends": len(rows),
        "order_kills": plan.kills,
        "order_retried": sum(row["attempts"] > 1 for row in rows),
        "order_unknown": sum(row["state"] == "uncertain" or row["status"] == "unknown" for row in rows),
        "order_failed": failed,
        "order_lost": plan.sends - len(set(arrived)) - failed,
        "order_doubled": len(arrived) - len(set(arrived)),
        "order_inversions": sum(after < before for before, after in pairwise(arrived)),
    }


async def queued(cluster: Cluster) -> dict[str, float]:
    """p99 of sends to others while QUEUED wait for one to the same person, and its growth: the medians."""
    alone, beside = zip(*[await _queued(cluster) for _ in range(ROUNDS)], strict=True)
    growth = [with_queue - without for without, with_queue in zip(alone, beside, strict=True)]
    return {"queued_ms": shown(median(beside)), "queued_growth_ms": shown(median(growth))}


async def _queued(cluster: Cluster) -> tuple[float, float]:
    """p99 in seconds, without the queue and with it."""
    organization = await _organization(cluster)
    gateway = Gateway(cluster.members[0].url, "", cluster.session, cluster.meta)
    others = Organization(gateway, organization.id, organization.key)
    await paced(others)  # to warm up
    alone = await paced(others)
    await cluster.meta.script(organization.numbers[0], Throttle429(retry_after=QUEUED_S))
    for place in range(QUEUED):
        await _accepted(cluster, organization, place)
    return alone, await paced(others)


async def _organization(cluster: Cluster) -> Organization:
    organization = await cluster.organization()
    await cluster.add_meta(organization, active=True)
    return organization


async def _accepted(cluster: Cluster, organization: Organization, place: int) -> None:
    """As a CRM does: again under the same key where the answer was lost, until somebody knows of it."""
    body, headers = {"to": PERSON, "body": str(place)}, {"idempotency_key": str(place), "prefer": "respond-async"}
    answer = None
    while answer is None or answer.status == 503:
        answer = await cluster.call("send", cluster.pick(), organization.key, "POST", "/send", body=body, **headers)


async def _ended(cluster: Cluster, organization: Organization) -> list[asyncpg.Record]:
    """The messages, once none is under way."""
    connection = await asyncpg.connect(cluster.settings.database_url)
    every = "select state, status, attempts from messages where organization_id = $1"
    try:
        rows: list[asyncpg.Record] = await eventually(
            lambda: connection.fetch(every, UUID(organization.id)),
            lambda rows: all(row["state"] != "sending" for row in rows),
            timeout=SETTLE_S,
            every=0.5,
        )
        return rows
    finally:
        await connection.close()
