"""Erasures: what was asked for, how far each is, and where there is something of a person.

A person is cut off first: addresses go, and their conversations count as merged into nobody's. So what comes in from then on,
in any process, begins with somebody new, and what is to be deleted stays as it is.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from ....identifiers import PLATFORM_ID
from ....validation import Unlogged

BATCH_ROWS = 1_000
LEASE_S = 60
# Whose the conversations of an erased person are: nobody has this id.
NOBODY = UUID(int=0)


class Erasure(Unlogged, frozen=True):
    """``step``: what is being deleted, or what it waits for; None: nothing yet. ``deleted``: rows so far."""

    id: UUID
    step: str | None
    deleted: int
    created_at: datetime
    finished_at: datetime | None


_SHOWN = "id, step, deleted, created_at, finished_at"
# Asked for twice, it is one.
ASK = f"""
insert into erasures (organization_id, id, contact_id) values ($1, $2, $3)
on conflict (organization_id, contact_id) where contact_id is not null do update set contact_id = excluded.contact_id
returning {_SHOWN}"""
GET = f"select {_SHOWN} from erasures where organization_id = $1 and id = $2"


async def ask(connection: asyncpg.Connection, organization_id: UUID, erasure_id: UUID, contact_id: UUID) -> Erasure:
    """Have a contact erased; where that was asked for before and is not done, that one (organization)."""
    return Erasure(*(await connection.fetch(ASK, organization_id, erasure_id, contact_id))[0])


async def by_id(connection: asyncpg.Connection, organization_id: UUID, erasure_id: UUID) -> Erasure | None:
    """(organization)"""
    row = await connection.fetchrow(GET, organization_id, erasure_id)
    return Erasure(*row) if row else None


# ------------------------------------------------------------------ whose turn it is


class ErasureClaim(Unlogged, frozen=True):
    """An erasure that is this lease's. ``sought``: what the person is found by in bodies; None: not cut off yet."""

    organization_id: UUID
    id: UUID
    contact_id: UUID
    lease_id: UUID
    cut_at: datetime | None
    sought: Sequence[str] | None
    looked_until: datetime | None


CLAIM = f"""
with due as (
    select organization_id, id from erasures
    where finished_at is null and due_at <= now() and coalesce(leased_until <= now(), true)
    order by due_at limit 1 for update skip locked
)
update erasures e set lease_id = $1, leased_until = now() + interval '{LEASE_S} s'
from due where e.organization_id = due.organization_id and e.id = due.id
returning e.organization_id, e.id, e.contact_id, e.lease_id, e.cut_at, e.sought, e.looked_until"""
HOLD = f"""
update erasures set leased_until = now() + interval '{LEASE_S} s', step = $4, deleted = deleted + $5
where organization_id = $1 and id = $2 and lease_id = $3 returning id"""
WAIT = """
update erasures set lease_id = null, leased_until = null, step = $4, due_at = now() + interval '1 s'
where organization_id = $1 and id = $2 and lease_id = $3"""
# Then nothing says who it was.
FINISH = """
update erasures set contact_id = null, cut_at = null, sought = null, looked_until = null, step = null, finished_at = now(),
    lease_id = null, leased_until = null
where organization_id = $1 and id = $2 and lease_id = $3"""


async def claim(connection: asyncpg.Connection, lease_id: UUID) -> ErasureClaim | None:
    """The erasure that is due for longest (worker, all organizations)."""
    row = await connection.fetchrow(CLAIM, lease_id)
    return ErasureClaim(*row) if row else None


async def hold(connection: asyncpg.Connection, claimed: ErasureClaim, step: str, deleted: int) -> bool:
    """Keep the lease, and say how far it is; False where it is another process's by now (worker)."""
    return await connection.fetchval(HOLD, *_lease(claimed), step, deleted) is not None


async def wait(connection: asyncpg.Connection, claimed: ErasureClaim, step: str) -> None:
    """Let whoever comes next look again, for it has to wait (worker)."""
    await connection.execute(WAIT, *_lease(claimed), step)


async def finish(connection: asyncpg.Connection, claimed: ErasureClaim) -> None:
    """(worker)"""
    await connection.execute(FINISH, *_lease(claimed))


def _lease(claimed: ErasureClaim) -> tuple[UUID, UUID, UUID]:
    return claimed.organization_id, claimed.id, claimed.lease_id


# ------------------------------------------------------------------ the person


class Known(Unlogged, frozen=True):
    """Who it is: the ids of the contact and of those who turned out to be the same, and their addresses."""

    contact_ids: Sequence[UUID]
    values: Sequence[str]


KNOWN = """
with one as (select coalesce(merged_into, id) as id from contacts where organization_id = $1 and id = $2),
same as (select c.id from contacts c join one on c.id = one.id where c.organization_id = $1
    union all select c.id from contacts c join one on c.merged_into = one.id where c.organization_id = $1)
select coalesce(array_agg(id), '{}') as contact_ids,
    (select coalesce(array_agg(distinct value) filter (where value <> ''), '{}') from (
        select a.value from same join contact_addresses a on a.organization_id = $1 and a.contact_id = same.id
        union all
        select a.reached_by from same join contact_addresses a on a.organization_id = $1 and a.contact_id = same.id
    ) of_them) as values
from same"""
CUT_CONVERSATIONS = f"""
update conversations set canonical_id = '{NOBODY}' where organization_id = $1 and contact_id = any($2)"""
CUT_ADDRESSES = "delete from contact_addresses where organization_id = $1 and contact_id = any($2)"
CUT_NAMES = """
update contacts set name = null, name_since = null, username = null, username_since = null
where organization_id = $1 and id = any($2)"""
CUT = """
update erasures set cut_at = now(), sought = $4, looked_until = $5
where organization_id = $1 and id = $2 and lease_id = $3 returning cut_at"""


async def known(connection: asyncpg.Connection, organization_id: UUID, contact_id: UUID) -> Known:
    """Who a contact is, all spellings of each address included; nobody, where there is none (worker)."""
    return Known(*(await connection.fetch(KNOWN, organization_id, contact_id))[0])


async def cut_off(
    connection: asyncpg.Connection, claimed: ErasureClaim, known: Known, sought: Sequence[str], oldest_body: datetime
) -> datetime | None:
    """When that was; in a transaction that is alone in changing contacts (`contacts.lock`) (worker).

    None: the erasure is another process's by now.
    """
    for statement in (CUT_CONVERSATIONS, CUT_ADDRESSES, CUT_NAMES):
        await connection.execute(statement, claimed.organization_id, known.contact_ids)
    cut_at: datetime | None = await connection.fetchval(CUT, *_lease(claimed), sought, oldest_body)
    return cut_at


CONVERSATIONS = "select id from conversations where organization_id = $1 and contact_id = any($2) order by id"
GROUPS = """
select id from conversations where organization_id = $1 and id > $2 and group_id is not null order by id limit 200"""
FORGET = "update conversations set contact_id = null where organization_id = $1 and contact_id = any($2)"
DELETE_CONTACTS = "delete from contacts where organization_id = $1 and id = any($2)"


async def conversations(
    connection: asyncpg.Connection, organization_id: UUID, contact_ids: Sequence[UUID]
) -> list[UUID]:
    """(worker)"""
    return [row["id"] for row in await connection.fetch(CONVERSATIONS, organization_id, contact_ids)]


async def groups(connection: asyncpg.Connection, organization_id: UUID, after: UUID) -> list[UUID]:
    """Conversations with groups, of an id above *after* (worker)."""
    return [row["id"] for row in await connection.fetch(GROUPS, organization_id, after)]


async def forget(connection: asyncpg.Connection, organization_id: UUID, contact_ids: Sequence[UUID]) -> int:
    """The contacts themselves; what is left of their conversations is the number of the business (worker)."""
    await connection.execute(FORGET, organization_id, contact_ids)
    return _count(await connection.execute(DELETE_CONTACTS, organization_id, contact_ids))


# ------------------------------------------------------------------ what has to end first

# What is read later would make the person known again.
IS_UNREAD = f"""
select exists (select from unread_webhooks where organization_id = $1 or organization_id = '{PLATFORM_ID}')"""
IS_SENDING = """
select exists (select from messages m where m.organization_id = $1 and m.conversation_id = any($2) and m.state <> 'done')"""
HASTEN = "update figures_progress set due_at = now() where organization_id = $1"


async def is_unread(connection: asyncpg.Connection, organization_id: UUID) -> bool:
    """Whether a large webhook is still to be read that may be about the organization (worker)."""
    found: bool = await connection.fetchval(IS_UNREAD, organization_id)
    return found


async def is_sending(connection: asyncpg.Connection, organization_id: UUID, conversations: Collection[UUID]) -> bool:
    """Whether a send to the person has not ended (worker)."""
    found: bool = await connection.fetchval(IS_SENDING, organization_id, conversations)
    return found


async def hasten_counting(connection: asyncpg.Connection, organization_id: UUID) -> None:
    """Have the figures counted now that are counted from what goes (worker)."""
    await connection.execute(HASTEN, organization_id)


# ------------------------------------------------------------------ events and messages


class Named(NamedTuple):
    """An event of a conversation; by which provider's id it names a message, if it does."""

    sequence: int
    provider_message_id: str | None


EVENTS = f"""
select sequence, coalesce(data #>> '{{message,provider_message_id}}', data #>> '{{status,provider_message_id}}')
from events where organization_id = $1 and conversation_id = $2 order by type, sequence limit {BATCH_ROWS}"""
MESSAGES = f"""
select id, message_key from messages where organization_id = $1 and conversation_id = $2 order by created_at limit {BATCH_ROWS}"""
OF_EVENTS = ("deliveries", "events")
DELETE_DELIVERIES = "delete from deliveries where organization_id = $1 and sequence = any($2)"
DELETE_EVENTS = "delete from events where organization_id = $1 and sequence = any($2)"
# What a repeated send is known by stays; the time in it says until when.
UNNAME_KEYS = """
update idempotency_keys set message_id = (substr(message_id::text, 1, 14) || substr(gen_random_uuid()::text, 15))::uuid
where organization_id = $1 and message_id = any($2)"""
DELETE_ATTEMPTS = "delete from attempts where organization_id = $1 and message_id = any($2)"
DELETE_MESSAGES = "delete from messages where organization_id = $1 and id = any($2)"
DELETE_STATUSES = "delete from message_statuses where organization_id = $1 and message_key = any($2)"
DELETE_HELD = "delete from held_events where organization_id = $1 and conversation_id = any($2)"


async def events(connection: asyncpg.Connection, organization_id: UUID, conversation_id: UUID) -> list[Named]:
    """A batch of a conversation's (worker)."""
    return [Named(*row) for row in await connection.fetch(EVENTS, organization_id, conversation_id)]


async def messages(
    connection: asyncpg.Connection, organization_id: UUID, conversation_id: UUID
) -> dict[UUID, str | None]:
    """A batch of a conversation's, each with what statuses name it by (worker)."""
    rows = await connection.fetch(MESSAGES, organization_id, conversation_id)
    return {row["id"]: row["message_key"] for row in rows}


async def delete_events(connection: asyncpg.Connection, organization_id: UUID, sequences: Collection[int]) -> int:
    """With their deliveries (worker)."""
    await connection.execute(DELETE_DELIVERIES, organization_id, sequences)
    return _count(await connection.execute(DELETE_EVENTS, organization_id, sequences))


async def delete_messages(connection: asyncpg.Connection, organization_id: UUID, ids: Collection[UUID]) -> int:
    """With their attempts (worker)."""
    await connection.execute(UNNAME_KEYS, organization_id, ids)
    await connection.execute(DELETE_ATTEMPTS, organization_id, ids)
    return _count(await connection.execute(DELETE_MESSAGES, organization_id, ids))


async def delete_statuses(connection: asyncpg.Connection, organization_id: UUID, keys: Collection[str]) -> int:
    """Those of messages with such keys (worker)."""
    return _count(await connection.execute(DELETE_STATUSES, organization_id, keys))


async def delete_held(connection: asyncpg.Connection, organization_id: UUID, conversations: Collection[UUID]) -> int:
    """(worker)"""
    return _count(await connection.execute(DELETE_HELD, organization_id, conversations))


class Looked(NamedTuple):
    """A batch of a group's events: where it ends, and which of them show one of what was sought."""

    type: str | None  # None: there is no further one
    sequence: int | None
    found: Sequence[int]


IN_GROUP = f"""
with page as (
    select type, sequence, data from events
    where organization_id = $1 and conversation_id = $2 and (type, sequence) > ($3, $4) order by type, sequence limit {BATCH_ROWS}
)
select last.type, last.sequence, (
    select coalesce(array_agg(page.sequence), '{{}}') from page
    where exists (select from unnest($5::text[]) sought where page.data::text ~ sought)
) from (select 1) one left join lateral (select type, sequence from page order by type desc, sequence desc limit 1) last on true"""


async def in_group(
    connection: asyncpg.Connection, organization_id: UUID, conversation_id: UUID, after: Looked, sought: Sequence[str]
) -> Looked:
    """The events of a group that come after those of *after*; *sought* are regular expressions (worker)."""
    place = after.type or "", after.sequence or 0
    return Looked(*(await connection.fetch(IN_GROUP, organization_id, conversation_id, *place, sought))[0])


# ------------------------------------------------------------------ bodies

# Also of apps, under the platform's id: there one of the organization's accounts has to be named, too.
DELETE_BODIES = f"""
delete from inbound_webhooks where received_at >= (select $2::timestamptz) and received_at < (select $3::timestamptz)
    and (organization_id = $1 or organization_id = '{PLATFORM_ID}'
        and exists (select from unnest($5::bytea[]) account where position(account in body) > 0))
    and exists (select from unnest($4::bytea[]) sought where position(sought in body) > 0)"""
LOOKED = """
update erasures set looked_until = $4 where organization_id = $1 and id = $2 and lease_id = $3"""
QUARANTINED = f"""
select id, exists (select from unnest($3::bytea[]) sought where position(sought in body) > 0)
    and exists (select from unnest($4::bytea[]) account where position(account in body) > 0) as is_found
from quarantine where organization_id = $1 and id > $2 order by id limit {BATCH_ROWS}"""
DELETE_QUARANTINED = "delete from quarantine where organization_id = $1 and id = any($2)"
# Not those that its configs say they are of: these may be another's.
ACCOUNTS = "select account from account_owners where organization_id = $1"


async def delete_bodies(
    connection: asyncpg.Connection,
    organization_id: UUID,
    since: datetime,
    until: datetime,
    sought: Sequence[bytes],
    accounts: Sequence[bytes],
) -> int:
    """Raw bodies of a span of time that show one of what is *sought* (worker)."""
    span = since, until
    return _count(await connection.execute(DELETE_BODIES, organization_id, *span, sought, accounts))


async def looked(connection: asyncpg.Connection, claimed: ErasureClaim, until: datetime) -> None:
    """Note up to when raw bodies are looked through, for whoever goes on with it (worker)."""
    await connection.execute(LOOKED, *_lease(claimed), until)


async def quarantined(
    connection: asyncpg.Connection,
    organization_id: UUID,
    after: UUID,
    sought: Sequence[bytes],
    accounts: Sequence[bytes],
) -> list[tuple[UUID, bool]]:
    """A batch of what was put aside, and whether each shows one of what is *sought* and of *accounts* (worker)."""
    rows: list[Any] = await connection.fetch(QUARANTINED, organization_id, after, sought, accounts)
    return [(row["id"], row["is_found"]) for row in rows]


async def delete_quarantined(connection: asyncpg.Connection, organization_id: UUID, ids: Collection[UUID]) -> int:
    """(worker)"""
    return _count(await connection.execute(DELETE_QUARANTINED, organization_id, ids))


async def accounts(connection: asyncpg.Connection, organization_id: UUID) -> list[str]:
    """What webhooks call the accounts that are shown to be the organization's (worker)."""
    return [row["account"] for row in await connection.fetch(ACCOUNTS, organization_id)]


def _count(answer: str) -> int:
    return int(answer.rpartition(" ")[2])
