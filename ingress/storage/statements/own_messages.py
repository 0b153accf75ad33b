"""Which messages of ours events are about."""

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ...validation import Unlogged
from ..columns import given


class NamedMessage(NamedTuple):
    """A message as an event names it: by our own id, which came back, or else by the provider's at an account."""

    organization_id: UUID
    account_id: UUID
    config_id: UUID
    provider_message_id: str | None
    message_id: UUID | None


class OwnMessage(Unlogged, frozen=True):
    """A message that we sent, as the CRM knows it."""

    id: UUID
    lead_id: str | None = None
    fallback_from: UUID | None = None
    fallback_reason: str | None = None


FIND = f"""
with named as (select * from {given(NamedMessage)})
select named.place, own.id, own.request ->> 'lead_id' as lead_id, own.fallback_from, own.fallback_reason
from named cross join lateral (
    select m.id, m.request, m.fallback_from, m.fallback_reason from messages m
    where m.organization_id = named.organization_id and m.id = named.message_id
    union all
    select m.id, m.request, m.fallback_from, m.fallback_reason from messages m
    where m.organization_id = named.organization_id and m.provider_message_id = named.provider_message_id
        -- The config itself, too: its number may have become known since the message was sent.
        and (m.account_id = named.account_id or m.config_id = named.config_id)
    limit 1
) own"""


async def find(connection: asyncpg.Connection, named: Collection[NamedMessage]) -> dict[NamedMessage, OwnMessage]:
    """Those of *named* that we sent (ingest, worker)."""
    places = list(named)
    rows = await connection.fetch(FIND, *zip(*places, strict=True)) if places else []
    return {places[row["place"] - 1]: OwnMessage(*row[1:]) for row in rows}
