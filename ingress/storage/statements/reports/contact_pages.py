"""Contacts for the API: one with all that is known of them, and pages of them."""

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from ....validation import Unlogged


class ContactAddress(Unlogged, frozen=True):
    """What a contact is known by, or was: of a kind and scope, the last one is theirs now."""

    kind: str
    scope: str
    value: str
    since: datetime


class ContactConversation(Unlogged, frozen=True):
    """``account``: the digits of the business number, or the id of a config without one."""

    id: UUID
    account: str


class ContactRecord(Unlogged, frozen=True):
    """A contact, with the ids of those who turned out to be the same person."""

    id: UUID
    name: str | None
    name_since: datetime | None
    username: str | None
    username_since: datetime | None
    created_at: datetime
    updated_at: datetime
    addresses: list[ContactAddress]
    conversations: list[ContactConversation]
    merged: list[UUID]


_OF_IT = msgspec.json.Decoder(tuple[list[ContactAddress], list[ContactConversation], list[UUID]])
_SELECT = """
select c.id, c.name, c.name_since, c.username, c.username_since, c.created_at, c.updated_at, json_build_array(
    (select coalesce(json_agg(json_build_object('kind', a.kind, 'scope', a.scope, 'value', a.value, 'since', a.since)
        order by a.since, a.address), '[]') from contact_addresses a
        where a.organization_id = c.organization_id and a.contact_id = c.id),
    (select coalesce(json_agg(json_build_object('id', v.id, 'account', v.account) order by v.created_at, v.id), '[]')
        from conversations v
        where v.organization_id = c.organization_id and v.contact_id = c.id and v.canonical_id is null),
    (select coalesce(json_agg(m.id order by m.id), '[]') from contacts m
        where m.organization_id = c.organization_id and m.merged_into = c.id)
) as of_it
from contacts c"""


# In a query of its own: row-level security keeps conditions with a `coalesce` from indexes.
_AFTER = f"(select coalesce($2, '{UUID(int=0)}'::uuid))"


def _record(row: asyncpg.Record) -> ContactRecord:
    columns: list[Any] = [*row[:-1], *_OF_IT.decode(row["of_it"])]
    return ContactRecord(*columns)


BY_ID = f"""{_SELECT}
where c.organization_id = $1
    and c.id = (select coalesce(merged_into, id) from contacts where organization_id = $1 and id = $2)"""


async def by_id(connection: asyncpg.Connection, organization_id: UUID, contact_id: UUID) -> ContactRecord | None:
    """A contact by their own id, or that of somebody who was merged into them (organization)."""
    row = await connection.fetchrow(BY_ID, organization_id, contact_id)
    return _record(row) if row else None


ALL = f"""{_SELECT}
where c.organization_id = $1 and c.merged_into is null and c.id > {_AFTER}
order by c.id limit $3"""


async def page(
    connection: asyncpg.Connection, organization_id: UUID, after: UUID | None, limit: int
) -> list[ContactRecord]:
    """Contacts above *after*, the oldest first (organization)."""
    return [_record(row) for row in await connection.fetch(ALL, organization_id, after, limit)]


BY_ADDRESS = f"""{_SELECT}
where c.organization_id = $1 and c.id > {_AFTER} and c.id in (
    select contact_id from contact_addresses where organization_id = $1 and address = $4)
order by c.id limit $3"""


async def by_address(
    connection: asyncpg.Connection, organization_id: UUID, after: UUID | None, limit: int, address: str
) -> list[ContactRecord]:
    """Who is known by *address*, as it is compared (organization)."""
    return [_record(row) for row in await connection.fetch(BY_ADDRESS, organization_id, after, limit, address)]


BY_USER_ID = f"""{_SELECT}
where c.organization_id = $1 and c.id > {_AFTER} and c.id in (
    select contact_id from contact_addresses
    where organization_id = $1 and value = $4 and kind in ('user', 'parent'))
order by c.id limit $3"""


async def by_user_id(
    connection: asyncpg.Connection, organization_id: UUID, after: UUID | None, limit: int, user_id: str
) -> list[ContactRecord]:
    """Who has *user_id* within any scope (organization)."""
    return [_record(row) for row in await connection.fetch(BY_USER_ID, organization_id, after, limit, user_id)]


BY_USERNAME = f"""{_SELECT}
where c.organization_id = $1 and c.id > {_AFTER} and c.merged_into is null
    and c.username_key = (select lower($4))
order by c.username_key, c.id limit $3"""


async def by_username(
    connection: asyncpg.Connection, organization_id: UUID, after: UUID | None, limit: int, username: str
) -> list[ContactRecord]:
    """Who calls themselves *username*, in whatever case (organization)."""
    return [_record(row) for row in await connection.fetch(BY_USERNAME, organization_id, after, limit, username)]


# In the order of names; the last character of all stands behind whatever begins like that.
BY_NAME = f"""{_SELECT}
where c.organization_id = $1 and c.merged_into is null and (c.name_key, c.id) > (
        (select coalesce((select name_key from contacts where organization_id = $1 and id = $2), lower($4))), {_AFTER})
    and c.name_key < (select lower($4) || chr(1114111))
order by c.name_key, c.id limit $3"""


async def by_name(
    connection: asyncpg.Connection, organization_id: UUID, after: UUID | None, limit: int, name: str
) -> list[ContactRecord]:
    """Whose name begins with *name*, in whatever case, in the order of names (organization)."""
    return [_record(row) for row in await connection.fetch(BY_NAME, organization_id, after, limit, name)]
