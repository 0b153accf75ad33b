"""Rows that are past their time, in batches, each found by an ordered walk down an index from where the last one ended.

Partitions in which everything is past its time are dropped instead (ingress/storage/partitions.py). What is deleted here is
what an organization keeps shorter than the service, and what a partition holds that lasts longer than it should.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from ...columns import between

BATCH_ROWS = 1_000

# ------------------------------------------------------------------ events, with their deliveries

# Not above these: an event that is not counted yet, and what is to come before others of a webhook that waits to be read.
REACH = """
select least(
    (select sequence from figures_progress where organization_id = $1),
    (select min(sequence) - 1 from unread_webhooks where organization_id = $1)
)"""
COUNTED = """
select not exists (
    select from figures_progress p cross join lateral (
        select e.created_at from events e where e.organization_id = $1 and e.sequence > p.sequence order by e.sequence limit 1
    ) next where p.organization_id = $1 and next.created_at < $2
)"""
# A delivery that is still tried is not cut short. What a disabled callback has left will not be tried.
EVENTS = f"""
select e.sequence, e.created_at < $4 as is_past, exists (
        select from deliveries d where d.organization_id = $1 and d.sequence = e.sequence and d.state = 'pending'
    ) and exists (select from callbacks c where c.organization_id = $1 and c.disabled_at is null) as is_held
from events e where e.organization_id = $1 and e.sequence > $2 and e.sequence <= $3
order by e.sequence limit {BATCH_ROWS}"""


def _range(key: str, kind: str) -> str:
    return f"organization_id = $1 and {between(key, 2, kind)} and {key} <> all($4)"


DELETE_DELIVERIES = f"delete from deliveries where {_range('sequence', 'bigint')}"
DELETE_EVENTS = f"delete from events where {_range('sequence', 'bigint')}"


class OldRow(NamedTuple):
    """A row by its key. Not ``is_past``: its time is not over. ``is_held``: it is needed still."""

    key: Any
    is_past: bool
    is_held: bool


async def is_counted(connection: asyncpg.Connection, organization_id: UUID, before: datetime) -> bool:
    """Whether the figures have all of the organization's events that are older (worker)."""
    counted: bool = await connection.fetchval(COUNTED, organization_id, before)
    return counted


async def reach(connection: asyncpg.Connection, organization_id: UUID) -> int:
    """The last event of the organization that may be deleted, however old it is (worker)."""
    sequence: int | None = await connection.fetchval(REACH, organization_id)
    return sequence or 0


async def next_events(
    connection: asyncpg.Connection, organization_id: UUID, after: int, reach: int, before: datetime
) -> list[OldRow]:
    """The oldest events above *after* up to *reach*; *before*: what is older is past its time (worker)."""
    return [OldRow(*row) for row in await connection.fetch(EVENTS, organization_id, after, reach, before)]


# ------------------------------------------------------------------ messages, with their attempts

MESSAGES = f"""
select id, true as is_past, state <> 'done' as is_held
from messages where organization_id = $1 and id > $2 and id < $3 order by id limit {BATCH_ROWS}"""
DELETE_ATTEMPTS = f"delete from attempts where {_range('message_id', 'uuid')}"
DELETE_MESSAGES = f"delete from messages where {_range('id', 'uuid')}"


async def next_messages(
    connection: asyncpg.Connection, organization_id: UUID, after: UUID, below: UUID
) -> list[OldRow]:
    """The oldest messages above *after* and *below* an id (worker)."""
    return [OldRow(*row) for row in await connection.fetch(MESSAGES, organization_id, after, below)]


async def delete(connection: asyncpg.Connection, statement: str, organization_id: UUID, rows: Sequence[OldRow]) -> int:
    """Delete from the first of *rows* to the last by one of the statements above, but for those that are held (worker)."""
    held = [row.key for row in rows if row.is_held]
    return _count(await connection.execute(statement, organization_id, rows[0].key, rows[-1].key, held))


# ------------------------------------------------------------------ the quarantine

DELETE_QUARANTINED = f"""
delete from quarantine where organization_id = $1 and id in (
    select id from quarantine where organization_id = $1 and id < (select $2::uuid) order by id limit {BATCH_ROWS})"""


async def delete_quarantined(connection: asyncpg.Connection, organization_id: UUID, below: UUID) -> int:
    """A batch of what has an id *below* that one (worker)."""
    return _count(await connection.execute(DELETE_QUARANTINED, organization_id, below))


# ------------------------------------------------------------------ keys that tell repetitions

# Those of facts with a time go with their partitions.
DELETE_UNTIMED_KEYS = f"""
delete from inbound_dedup where day = '-infinity' and (organization_id, key_hash) in (
    select organization_id, key_hash from inbound_dedup where day = '-infinity' and first_seen < $1
    order by first_seen limit {BATCH_ROWS} for update skip locked) /* every organization_id */"""
DELETE_IDEMPOTENCY_KEYS = f"""
delete from idempotency_keys where (organization_id, key_hash) in (
    select organization_id, key_hash from idempotency_keys where message_id < $1
    order by message_id limit {BATCH_ROWS} for update skip locked) /* every organization_id */"""


async def delete_untimed_keys(connection: asyncpg.Connection, before: datetime) -> int:
    """A batch of those of facts without a time that were first seen *before* (worker, all organizations)."""
    return _count(await connection.execute(DELETE_UNTIMED_KEYS, before))


async def delete_idempotency_keys(connection: asyncpg.Connection, below: UUID) -> int:
    """A batch of those of messages with an id *below* that one (worker, all organizations)."""
    return _count(await connection.execute(DELETE_IDEMPOTENCY_KEYS, below))


# ------------------------------------------------------------------ bodies and statuses, by when they came

# Their rows lie in the order in which they came, and no index has them by organization: it would cost each webhook more
# than to walk through what has just passed its time. So they are walked by slices of time.
_SLICE = "received_at >= (select $1::timestamptz) and received_at < (select $2::timestamptz)"
BODIES = f"delete from inbound_webhooks where {_SLICE} /* every organization_id */"
BODIES_OF = f"delete from inbound_webhooks where {_SLICE} and organization_id = any($3)"
STATUSES = f"delete from message_statuses where {_SLICE} /* every organization_id */"
STATUSES_OF = f"delete from message_statuses where {_SLICE} and organization_id = any($3)"


async def delete_slice(
    connection: asyncpg.Connection, kind: str, since: datetime, until: datetime, only: Sequence[UUID] | None
) -> int:
    """Bodies, or statuses, that came in a slice of time, *only* of these organizations; None: of all (worker)."""
    statement = {"bodies": BODIES, "statuses": STATUSES}[kind]
    if only is None:
        return _count(await connection.execute(statement, since, until))
    statement = {"bodies": BODIES_OF, "statuses": STATUSES_OF}[kind]
    return _count(await connection.execute(statement, since, until, only))


# ------------------------------------------------------------------ what keeps a partition

# The first event that is needed still: it is to be delivered, or to be counted, or a webhook is to be read behind it.
FIRST_NEEDED_EVENT = """
select least(
    (select min(first.sequence) from callbacks c cross join lateral (
        select d.sequence from deliveries d
        where d.state = 'pending' and d.organization_id = c.organization_id and d.sequence < $1
        order by d.sequence limit 1
    ) first where c.disabled_at is null),
    (select min(first.sequence) from figures_progress p cross join lateral (
        select e.sequence from events e
        where e.organization_id = p.organization_id and e.sequence > p.sequence and e.sequence < $1
        order by e.sequence limit 1
    ) first where p.sequence < $1),
    (select min(sequence) from unread_webhooks where sequence < $1)
) /* every organization_id */"""
FIRST_OPEN_MESSAGE = """
select id from messages where leased_until is not null and id < $1 order by id limit 1 /* every organization_id */"""


async def first_needed_event(connection: asyncpg.Connection, below: int) -> int | None:
    """Its sequence; None: no event below is needed (worker, all organizations)."""
    sequence: int | None = await connection.fetchval(FIRST_NEEDED_EVENT, below)
    return sequence


async def first_open_message(connection: asyncpg.Connection, below: UUID) -> UUID | None:
    """The oldest message that is not done, of those with an id *below* (worker, all organizations)."""
    found: UUID | None = await connection.fetchval(FIRST_OPEN_MESSAGE, below)
    return found


# By the database's statistics: none yet is no row.
ROWS = """
select relname, greatest(reltuples, 0)::bigint as rows from pg_class
where relname = any($1) and relnamespace = current_schema()::regnamespace"""


async def count_rows(connection: asyncpg.Connection, names: Sequence[str]) -> dict[str, int]:
    """About how many rows these partitions have (worker)."""
    return {row["relname"]: row["rows"] for row in await connection.fetch(ROWS, names)}


def _count(answer: str) -> int:
    return int(answer.rpartition(" ")[2])
