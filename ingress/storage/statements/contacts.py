"""Contacts, what they are known by, and the conversations they are part of.

Whoever is to add or change some locks the buckets of their organizations first, sorted, and finds them after that: one
transaction after the other meets somebody new, and none waits for another in a circle.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ..columns import given, names

# Fewer than the locks that a server has room for, where a batch is of as many organizations.
BUCKETS = 256
_LOCK = 0x70_65_6F_70
# What `refuse_merged_conversations` in schema.sql raises.
OUTDATED = "WI001"

LOCK = f"select pg_advisory_xact_lock({_LOCK}, bucket) from unnest($1::integer[]) as bucket"


async def lock(connection: asyncpg.Connection, organization_ids: Iterable[UUID]) -> None:
    """Be alone in changing the contacts of *organization_ids*, to the end of the transaction (ingest, worker)."""
    await connection.execute(LOCK, _buckets(organization_ids))


def _buckets(organization_ids: Iterable[UUID]) -> list[int]:
    return sorted({organization_id.bytes[15] % BUCKETS for organization_id in organization_ids})


def is_merged(of: str = "") -> str:
    """Of a conversation named by its key: no condition for the index of the merged ones, which may be many."""
    return f"coalesce({of}canonical_id, {of}id) <> {of}id"


# For the rows of `received`, once a statement: a process remembers conversations, and another one may have merged one of
# them. Then it fails with OUTDATED.
ARE_CURRENT = f"""case when not exists (
        select from received join conversations c
            on c.organization_id = received.organization_id and c.id = received.conversation_id
        where {is_merged("c.")}
    ) then true else refuse_merged_conversations() end"""


def conversations_with(contact: str, conversation: str) -> str:
    """A query of the ids of all conversations with *contact*, or of *conversation* alone, where one of them is no null;
    each with those that were merged into it. *contact* may be one who was merged; $1 is the organization.

    Row-level security keeps conditions with a `coalesce` from indexes, so each stands in a query of its own.
    """
    person = f"(select coalesce(merged_into, id) from contacts where organization_id = $1 and id = {contact})"
    canonical = f"""(select coalesce(
        (select canonical_id from conversations where organization_id = $1 and id = {conversation}), {conversation}))"""
    return f"""select c.id from conversations c
        where c.organization_id = $1 and c.contact_id = {person}
            and ({conversation} is null or {canonical} in (c.id, c.canonical_id))
        -- What is about no contact has a conversation of its own that stands in no table.
        union all select {canonical} where {contact} is null
        union all select c.id from conversations c
        where {contact} is null and c.organization_id = $1 and c.canonical_id = {canonical}"""


class ConversationNamed(NamedTuple):
    organization_id: UUID
    id: UUID


class ContactsOutdated(Exception):
    """Contacts were merged since they were found."""


ARE_MERGED = f"""
select exists (
    select from {given(ConversationNamed)} join conversations c on c.organization_id = _.organization_id and c.id = _.id
    where {is_merged("c.")})"""


async def are_merged(connection: asyncpg.Connection, conversations: Collection[ConversationNamed]) -> bool:
    """Whether one of *conversations* was merged into another (ingest, worker)."""
    found: bool = await connection.fetchval(ARE_MERGED, *_columns(ConversationNamed, list(conversations)))
    return found


class AddressAsked(NamedTuple):
    organization_id: UUID
    address: str


class AddressKnown(NamedTuple):
    """An address of a contact, who has others."""

    organization_id: UUID
    contact_id: UUID
    name: str | None
    name_since: datetime | None
    username: str | None
    username_since: datetime | None
    address: str
    kind: str
    scope: str
    value: str
    since: datetime
    reached_by: str | None
    asked_at: datetime | None


FIND = f"""
with found as materialized (
    select distinct a.organization_id, a.contact_id
    from {given(AddressAsked)} join contact_addresses a on a.organization_id = _.organization_id and a.address = _.address
)
select {names(AddressKnown)}
from found join contact_addresses using (organization_id, contact_id)
join (select organization_id, id as contact_id, name, name_since, username, username_since from contacts) c
    using (organization_id, contact_id)
order by since, address"""


async def find(connection: asyncpg.Connection, asked: Iterable[AddressAsked]) -> list[AddressKnown]:
    """All addresses of every contact that is known by one of *asked*, the older ones first (ingest, worker)."""
    rows = await connection.fetch(FIND, *_columns(AddressAsked, list(asked)))
    return [AddressKnown(*row) for row in rows]


class ContactRow(NamedTuple):
    organization_id: UUID
    id: UUID
    name: str | None
    name_since: datetime | None
    username: str | None
    username_since: datetime | None
    merged_into: UUID | None


class AddressRow(NamedTuple):
    organization_id: UUID
    address: str
    contact_id: UUID
    kind: str
    scope: str
    value: str
    since: datetime
    reached_by: str | None
    asked_at: datetime | None


class ConversationRow(NamedTuple):
    organization_id: UUID
    id: UUID
    account: str
    contact_id: UUID | None
    group_id: str | None


_ADDRESSES = 1 + len(ContactRow._fields)
_CONVERSATIONS = _ADDRESSES + len(AddressRow._fields)
WRITE = f"""
with written as (
    insert into contacts ({names(ContactRow)}) select {names(ContactRow)} from {given(ContactRow)}
    on conflict (organization_id, id) do update set name = excluded.name, name_since = excluded.name_since,
        username = excluded.username, username_since = excluded.username_since,
        merged_into = excluded.merged_into, updated_at = now()
),
addressed as (
    insert into contact_addresses ({names(AddressRow)}) select {names(AddressRow)} from {given(AddressRow, _ADDRESSES)}
    on conflict (organization_id, address) do update set contact_id = excluded.contact_id, value = excluded.value,
        since = excluded.since, reached_by = excluded.reached_by, asked_at = excluded.asked_at
)
insert into conversations ({names(ConversationRow)})
select {names(ConversationRow)} from {given(ConversationRow, _CONVERSATIONS)}
on conflict (organization_id, id) do nothing"""


async def write(
    connection: asyncpg.Connection,
    contacts: Sequence[ContactRow],
    addresses: Sequence[AddressRow],
    conversations: Sequence[ConversationRow],
) -> None:
    """Add or change *contacts* and *addresses*, no one twice, and add *conversations* (ingest, worker)."""
    await connection.execute(
        WRITE,
        *_columns(ContactRow, contacts),
        *_columns(AddressRow, addresses),
        *_columns(ConversationRow, conversations),
    )


class Reached(NamedTuple):
    """How a number is sent to (see contact_addresses in schema.sql)."""

    reached_by: str | None
    asked_at: datetime | None


NOBODY_KNOWS = Reached(None, None)


REACHED = f"select {names(Reached)} from contact_addresses where organization_id = $1 and address = $2"


async def reached(connection: asyncpg.Connection, organization_id: UUID, address: str) -> Reached | None:
    """How a number is sent to; None: it is nobody's (organization, worker)."""
    row = await connection.fetchrow(REACHED, organization_id, address)
    return Reached(*row) if row else None


# What the person was seen by is not changed by what somebody says of them.
SET_REACHED = """
update contact_addresses set reached_by = $3, asked_at = $4
where organization_id = $1 and address = $2 and (reached_by is null or asked_at is not null)"""


async def set_reached(connection: asyncpg.Connection, organization_id: UUID, address: str, reached: Reached) -> None:
    """Keep what a provider says of a number, if it is somebody's (organization, worker)."""
    await connection.execute(SET_REACHED, organization_id, address, *reached)


def _columns(kind: type[tuple[object, ...]], rows: Sequence[tuple[object, ...]]) -> Iterable[Sequence[object]]:
    return zip(*rows, strict=True) if rows else [()] * len(names(kind).split(","))


class Newcomer(NamedTuple):
    """Who may be new: by one address, with what they would be called, and their conversation."""

    organization_id: UUID
    address: str
    contact_id: UUID
    kind: str
    scope: str
    value: str
    conversation_id: UUID
    account: str


# One statement, which holds the lock to its end: an address that somebody else has taken meanwhile is seen by its conflict.
# In the order of addresses, as all that changes several.
WELCOME = f"""
with locked as materialized (
    select count(*) from (
        select pg_advisory_xact_lock({_LOCK}, bucket) from unnest(${len(Newcomer._fields) + 1}::integer[]) as bucket) taken
),
given as materialized (select * from {given(Newcomer)}),
fresh as (
    insert into contact_addresses (organization_id, address, contact_id, kind, scope, value)
    select organization_id, address, contact_id, kind, scope, value from given cross join locked
    order by organization_id, address
    on conflict (organization_id, address) do nothing returning organization_id, address
),
welcomed as (select given.* from given join fresh using (organization_id, address)),
added as (insert into contacts (organization_id, id) select organization_id, contact_id from welcomed)
insert into conversations (organization_id, id, account, contact_id)
select organization_id, conversation_id, account, contact_id from welcomed
returning contact_id"""


async def welcome(connection: asyncpg.Connection, newcomers: Sequence[Newcomer]) -> set[UUID]:
    """Add those of *newcomers* whom nobody knows, no address twice: the ids of their contacts (worker)."""
    buckets = _buckets(each.organization_id for each in newcomers)
    rows = await connection.fetch(WELCOME, *zip(*newcomers, strict=True), buckets)
    return {row["contact_id"] for row in rows}


class ConversationFound(NamedTuple):
    organization_id: UUID
    id: UUID
    account: str
    contact_id: UUID


class Merged(NamedTuple):
    """A contact that is another one now."""

    organization_id: UUID
    merged_id: UUID
    contact_id: UUID


class ConversationMerged(NamedTuple):
    """A conversation of a contact that was merged, and the one that it is now."""

    organization_id: UUID
    id: UUID
    canonical_id: UUID
    account: str
    contact_id: UUID


CONVERSATIONS = f"""
with given as (select * from {given(Merged)})
select c.organization_id, c.id, coalesce(canonical.account, c.account) as account, given.contact_id
from given
join conversations c on c.organization_id = given.organization_id and c.contact_id = given.merged_id
left join conversations canonical on canonical.organization_id = c.organization_id and canonical.id = c.canonical_id"""
MERGE = f"""
with given as materialized (select * from {given(Merged)}),
followed as (
    update contacts c set merged_into = given.contact_id from given
    where c.organization_id = given.organization_id and c.merged_into = given.merged_id
),
moved as (
    update contact_addresses a set contact_id = given.contact_id from given
    where a.organization_id = given.organization_id and a.contact_id = given.merged_id
)
select"""
MERGE_CONVERSATIONS = f"""
with given as materialized (select * from {given(ConversationMerged)}),
moved as (
    update conversations c set canonical_id = given.canonical_id, contact_id = given.contact_id from given
    where c.organization_id = given.organization_id and c.id = given.id
),
-- Whoever is sent something from now on waits for what is under way to the same person.
under_way as (
    update messages m set conversation_id = given.canonical_id from given
    where m.organization_id = given.organization_id and m.conversation_id = given.id and m.state = 'sending'
)
insert into conversations (organization_id, id, account, contact_id)
select distinct organization_id, canonical_id, account, contact_id from given
on conflict (organization_id, id) do nothing"""


async def conversations_of(connection: asyncpg.Connection, merged: Sequence[Merged]) -> list[ConversationFound]:
    """Conversations of those who were merged, each with whose it is now, and the account of that (ingest, worker)."""
    rows = await connection.fetch(CONVERSATIONS, *zip(*merged, strict=True))
    return [ConversationFound(*row) for row in rows]


async def merge(
    connection: asyncpg.Connection, merged: Sequence[Merged], conversations: Sequence[ConversationMerged]
) -> None:
    """Give all that contacts have to those who they are now (ingest, worker)."""
    await connection.execute(MERGE, *zip(*merged, strict=True))
    if conversations:
        await connection.execute(MERGE_CONVERSATIONS, *zip(*conversations, strict=True))
