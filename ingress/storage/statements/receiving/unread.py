"""Webhooks that are too large to be read at once: stored as they came, and read in the background."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from ....identifiers import PLATFORM_ID
from .inbound import WebhookRow

LEASE_S = 30
# So many of an organization may wait.
MOST = 64

# One a transaction: what the webhook says is stored at the sequences that follow the transaction's own, later. So it
# stands before all that was received after it, and readers wait for it (`FINAL` in ingress/storage/statements/events.py, PENDING
# in deliveries.py).
KEEP = f"""
insert into unread_webhooks (organization_id, sequence, config_id, query, headers, body)
select $1, next_sequence(0), $2, $3, $4, $5
where (
    -- Apps have a part each, as organizations have.
    select count(*) from unread_webhooks where organization_id = $1 and (config_id = $2 or organization_id <> '{PLATFORM_ID}')
) < {MOST}
returning sequence"""


async def keep(connection: asyncpg.Connection, row: WebhookRow, query: str) -> bool:
    """Store *row* to be read later; False where too many of the organization wait for that (ingest)."""
    kept = await connection.fetchval(KEEP, row.organization_id, row.config_id, query, row.headers, row.body)
    return kept is not None


# The first of the organization after the one served last: each in its turn, however much another has waiting.
CLAIM = f"""
with next as (
    select organization_id, sequence from unread_webhooks
    where leased_until is null or leased_until < now()
    order by organization_id <= $2, organization_id, sequence limit 1 for update skip locked
)
update unread_webhooks u set lease_id = $1, leased_until = now() + interval '{LEASE_S} s', tries = u.tries + 1
from next where u.organization_id = next.organization_id and u.sequence = next.sequence
returning u.organization_id, u.sequence, u.config_id, u.received_at, u.query, u.headers, u.body, u.tries"""


class UnreadWebhook(msgspec.Struct, frozen=True):
    """A large webhook as it was stored; ``tries`` counts who began to read it."""

    organization_id: UUID
    sequence: int
    config_id: UUID
    received_at: datetime
    query: str
    headers: bytes
    body: bytes
    tries: int

    def __repr__(self) -> str:
        return f"UnreadWebhook({self.organization_id}, {self.sequence})"


async def claim(connection: asyncpg.Connection, lease_id: UUID, after: UUID) -> UnreadWebhook | None:
    """A webhook that nobody reads, now leased; None where there is none (worker, all organizations).

    *after*: whose turn it was last.
    """
    row = await connection.fetchrow(CLAIM, lease_id, after)
    return UnreadWebhook(**row) if row else None


RENEW = f"""
update unread_webhooks set leased_until = now() + interval '{LEASE_S} s'
where organization_id = $1 and sequence = $2 and lease_id = $3 returning sequence"""


async def renew(connection: asyncpg.Connection, organization_id: UUID, sequence: int, lease_id: UUID) -> bool:
    """Whether the webhook is still leased, which it is to the end of the transaction at least (worker)."""
    return await connection.fetchval(RENEW, organization_id, sequence, lease_id) is not None


GIVE_BACK = """
update unread_webhooks set lease_id = null, leased_until = null, tries = tries - 1
where organization_id = $1 and sequence = $2 and lease_id = $3"""


async def give_back(connection: asyncpg.Connection, organization_id: UUID, sequence: int, lease_id: UUID) -> None:
    """Leave the webhook to whoever comes next, at once (worker)."""
    await connection.execute(GIVE_BACK, organization_id, sequence, lease_id)


FINISH = """
with read as (
    delete from unread_webhooks where organization_id = $1 and sequence = $2
    returning organization_id, config_id, received_at, headers, body
)
insert into inbound_webhooks (organization_id, config_id, received_at, headers, body)
select organization_id, config_id, received_at, headers, body from read"""


async def finish(connection: asyncpg.Connection, organization_id: UUID, sequence: int) -> None:
    """All that the webhook says is stored: it goes where those are that were read at once (worker)."""
    await connection.execute(FINISH, organization_id, sequence)


IS_WAITING = "select exists (select from unread_webhooks where organization_id = $1 and config_id = $2)"


async def is_waiting(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> bool:
    """Whether a webhook of the config is not read yet (app)."""
    waits: bool = await connection.fetchval(IS_WAITING, organization_id, config_id)
    return waits


GAUGES = "select count(*) as webhooks, min(received_at) as oldest from unread_webhooks"


async def gauges(connection: asyncpg.Connection) -> tuple[int, datetime | None]:
    """How many webhooks of all organizations are not read yet, and when the first of them was received (worker)."""
    [row] = await connection.fetch(GAUGES)
    return row["webhooks"], row["oldest"]
