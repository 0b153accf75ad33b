"""Who speaks for a send under way, as long as its lease lasts, and who takes over what a dead process left."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ....validation import Unlogged
from ...columns import given, names

LEASE_S = 30


class Lease(NamedTuple):
    """The right of a process to speak for a message."""

    organization_id: UUID
    id: UUID
    lease_id: UUID


# Ordered like every statement that changes several messages; one that is being changed needs no new lease.
SET_LEASES = f"""
with held as (
    select m.organization_id, m.id
    from messages m join {given(Lease)} using (organization_id, id, lease_id)
    where m.state = 'sending' order by m.organization_id, m.id for update of m skip locked
)
update messages m set leased_until = now() + make_interval(secs => $4)
from held where m.organization_id = held.organization_id and m.id = held.id"""


async def set_leases(connection: asyncpg.Connection, leases: Sequence[Lease], *, seconds: int) -> None:
    """Hold messages for *seconds* more, or (0) give them back (worker)."""
    await connection.execute(SET_LEASES, *zip(*leases, strict=True), seconds)


class LostSend(Unlogged, frozen=True):
    """A message that its process left under way, or that is held and whose time is up."""

    organization_id: UUID
    id: UUID
    request: bytes
    state: str
    status_rank: int
    fallback_from: UUID | None
    fallback_reason: str | None
    created_at: datetime
    expires_at: datetime


# In turns: of each organization as many as of the others, as long as it has so many. By key from there on, for the plan is
# made while there are none, and one that looked through them again for each would be of the square of their number.
RECLAIM = f"""
with due as materialized (
    select organization_id, id, leased_until,
        row_number() over (partition by organization_id order by leased_until, queue_place) as place
    from messages where state <> 'done' and leased_until < now()
    order by place, leased_until limit $2
),
lost as materialized (
    select m.organization_id, m.id from due cross join lateral (
        select organization_id, id from messages
        where organization_id = due.organization_id and id = due.id and state <> 'done' and leased_until < now()
        for update skip locked
    ) m
)
update messages m set lease_id = $1, leased_until = now() + interval '{LEASE_S} s'
from lost where m.organization_id = lost.organization_id and m.id = lost.id
returning {names(LostSend, "m.")}"""


async def reclaim(connection: asyncpg.Connection, lease_id: UUID, limit: int) -> list[LostSend]:
    """Take over messages whose process died, and held ones whose time is up (worker, all organizations)."""
    return [LostSend(*row) for row in await connection.fetch(RECLAIM, lease_id, limit)]


# Ordered as above; one that is being changed is met again.
WITHDRAW = f"""
with claimed as (
    select m.organization_id, m.id
    from messages m join {given(Lease)} using (organization_id, id, lease_id)
    where m.state = 'sending' and m.attempts <= 1 order by m.organization_id, m.id for update of m skip locked
),
attempted as (
    delete from attempts a using claimed where a.organization_id = claimed.organization_id and a.message_id = claimed.id
),
keyed as (
    delete from idempotency_keys k using claimed where k.organization_id = claimed.organization_id and k.message_id = claimed.id
)
delete from messages m using claimed where m.organization_id = claimed.organization_id and m.id = claimed.id
returning m.id"""


async def withdraw(connection: asyncpg.Connection, claimed: Sequence[Lease]) -> list[UUID]:
    """Forget messages whose first attempt never was, and that nobody took over: those that there were (worker)."""
    return [row["id"] for row in await connection.fetch(WITHDRAW, *zip(*claimed, strict=True))]
