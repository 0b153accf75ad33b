"""Events that wait for a send to end: whether they are about it shows then."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ....validation import Unlogged
from ...columns import Big, given, names
from ..events import clock, insert_events
from ..sending.messages import OwnMessage, chats, own
from .statuses import StatusRow, merge, merged

# What has waited for so long is an event as it is.
HELD_MINUTES = 5
ROUND_ROWS = 100

# Rows that $n names by their places in `received` (ingress/storage/statements/receiving/inbound.py).
HOLD = """held as (
    insert into held_events (organization_id, sequence, type, config_id, conversation_id, account_id, provider_message_id,
        message_key, candidates, data, raw)
    select organization_id, clock.start + place, type, config_id, conversation_id, account_id, provider_message_id,
        message_key, candidates::uuid[], convert_from(data, 'UTF8')::json, raw
    from received join fresh using (organization_id, key_hash)
    join unnest(${0}::integer[], ${1}::uuid[], ${2}::text[], ${3}::text[], ${4}::text[])
        as waiting(place, account_id, provider_message_id, message_key, candidates) using (place)
    cross join clock
    returning sequence
)"""


class HeldEvent(Unlogged, frozen=True):
    """An event that waits. ``is_over``: there is nothing more to wait for."""

    organization_id: UUID
    sequence: int
    type: str
    config_id: UUID
    conversation_id: UUID
    account_id: UUID
    provider_message_id: str
    message_key: str
    candidates: list[UUID]
    received_at: datetime
    data: bytes
    is_over: bool


_DUE = f"""cross join lateral (
    select h.received_at < now() - interval '{HELD_MINUTES} minutes' or not exists (
        select from messages m where m.organization_id = h.organization_id and m.id = any(h.candidates) and m.state <> 'done'
    ) as is_over
) waiting
where (is_over or type = 'message.echo' or (
    select true from messages m where m.organization_id = h.organization_id and m.message_key = h.message_key limit 1
))"""
# Of which something may be known now. In their order, and each waits for who has it: what is about one message comes out
# in the order in which it came. One organization's at a time, so that nobody's have to be passed over for another's.
TAKE = f"""
select {names(HeldEvent)} from held_events h {_DUE} and h.organization_id = (
    select h.organization_id from held_events h {_DUE} and h.organization_id > $1 order by h.organization_id limit 1
)
order by sequence limit {ROUND_ROWS} for update of h"""


async def take(connection: asyncpg.Connection, after: UUID) -> list[HeldEvent]:
    """The next organization's held events to be looked at, until the end of the transaction (worker)."""
    return [HeldEvent(*row) for row in await connection.fetch(TAKE, after)]


class OpenAttempt(Unlogged, frozen=True):
    """An attempt that may have been taken, of *message*, and what was asked for."""

    message: OwnMessage
    number: int
    is_under_way: bool
    request: bytes


ATTEMPTS = f"""
select a.number, m.state = 'sending' as is_under_way, m.request, {own("m")}
from messages m join attempts a on a.organization_id = m.organization_id and a.message_id = m.id
join whatsapp_provider_configs asked on asked.organization_id = a.organization_id and asked.id = a.config_id
join whatsapp_provider_configs c on c.organization_id = a.organization_id and c.id = $4
where m.organization_id = $1 and m.id = any($2) and m.conversation_id in ({chats("$1", "$3::uuid")})
    and (c.id = asked.id or (c.provider_type = asked.provider_type and c.sender = asked.sender))
    and (a.class is null or a.class = 'Uncertain') and a.provider_message_id is null
order by m.state = 'done', m.id, a.number"""


async def attempts(connection: asyncpg.Connection, event: HeldEvent) -> list[OpenAttempt]:
    """Attempts that may have been taken in the chat of *event*, in the order in which they were asked for; what was given up last (worker)."""
    whose = event.organization_id, event.candidates, event.conversation_id, event.config_id
    return [OpenAttempt(OwnMessage(*row[3:]), *row[:3]) for row in await connection.fetch(ATTEMPTS, *whose)]


class Release(NamedTuple):
    """What a held event is now that it is known what it is about."""

    organization_id: UUID
    sequence: Big
    type: str
    data: bytes


RELEASE = f"""
with released as (
    delete from held_events h using {given(Release)}
    where h.organization_id = _.organization_id and h.sequence = _.sequence
    returning _.place, h.organization_id, _.type, h.config_id, h.conversation_id, convert_from(_.data, 'UTF8')::json as data, h.raw
),
{clock()},
{insert_events("released")},
{merge(len(Release._fields) + 1)}
select count(*) from stored"""


async def release(connection: asyncpg.Connection, events: Sequence[Release], statuses: Sequence[StatusRow]) -> None:
    """Make events of held ones, and merge what they say of messages (worker)."""
    await connection.execute(RELEASE, *zip(*events, strict=True), *merged(statuses)[1])
