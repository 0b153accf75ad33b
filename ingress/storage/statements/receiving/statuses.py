"""Statuses of sent messages: merged by rank, so that their order of arrival does not matter.

Every one acknowledges its message (`messages.acknowledged`). `message_statuses` holds only those without our id.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from ....identifiers import FIRST_ID, LAST_ID
from ...columns import Json, Small, between, given
from ...keys import same_key


class StatusRow(NamedTuple):
    """A status as a provider reported it. ``message_id`` and ``attempt`` where it carried our correlation id."""

    organization_id: UUID
    config_id: UUID
    account_id: UUID
    provider_message_id: str
    message_key: str
    value: str
    rank: Small
    occurred_at: datetime | None
    error: Json | None
    message_id: UUID | None
    attempt: int | None


# `locked` takes the messages in the order of their ids, as every statement that changes several does. A failure
# counts only for the attempt that is the message's last: an earlier one may have been given up for another.
def _apply(ids: int) -> str:
    """What `known` says of messages whose ids are between the two parameters from *ids* on."""
    return f"""
locked as (
    select m.organization_id, m.id, m.state, m.attempts, m.status_rank
    from messages m join known on {same_key("organization_id, id", "m", "known")} and {between("m.id", ids)}
    order by m.organization_id, m.id for update of m
),
best as (
    select distinct on (known.organization_id, known.id) known.*, known.id as message_id, known.attempt as number,
        locked.state as was, locked.status_rank as rank_was
    from known join locked using (organization_id, id)
    where known.value <> 'failed' or known.attempt is null or known.attempt = locked.attempts
    order by known.organization_id, known.id, known.rank desc
),
merged as (
    update messages m set
        status = best.value,
        status_rank = best.rank,
        acknowledged = true,
        provider_message_id = coalesce(m.provider_message_id, best.provider_message_id),
        message_key = coalesce(m.message_key, best.message_key),
        -- Of who took it. An attempt that failed before may have left its own there.
        provider = case when m.provider_message_id is null then coalesce(attempt.provider, m.provider) else m.provider end,
        config_id = case when m.provider_message_id is null then coalesce(attempt.config_id, m.config_id, best.config_id)
            else m.config_id end,
        account_id = case when m.provider_message_id is null then best.account_id else m.account_id end,
        error = case when best.value = 'failed' then best.error end,
        state = case m.state when 'uncertain' then 'done' else m.state end,
        leased_until = case m.state when 'uncertain' then null else m.leased_until end,
        sent_at = case when best.value = 'failed' then m.sent_at else coalesce(m.sent_at, best.occurred_at, now()) end,
        updated_at = now()
    from best left join attempts attempt
        on {same_key("organization_id, message_id, number", "attempt", "best")}
        and {between("attempt.message_id", ids)}
    where {same_key("organization_id, id", "m", "best")} and m.status_rank < best.rank and {between("m.id", ids)}
    returning m.id
),
-- By the rank under the lock: our own answer may have raised it since this statement began.
acknowledged as (
    update messages m set acknowledged = true from best
    where {same_key("organization_id, id", "m", "best")} and best.rank_was >= best.rank and not m.acknowledged
        and {between("m.id", ids)}
),
settled as (
    update attempts a set
        class = case best.value when 'failed' then coalesce(best.error ->> 'class', 'Rejected') else 'ok' end,
        code = 'settled_by_status',
        provider_message_id = best.provider_message_id
    from best
    where best.was <> 'sending' and {same_key("organization_id, message_id, number", "a", "best")}
        and (a.class is null or a.class = 'Uncertain') and {between("a.message_id", ids)}
)"""


# Of `given_status`: those with our own id, and those whose message is the one that their provider's id names, if any.
_BY_ID = """
    select organization_id, message_id as id, config_id, account_id, provider_message_id, message_key, value, rank, occurred_at,
        error, attempt, place
    from given_status where message_id is not null"""
_BY_KEY = """
    union all
    select s.organization_id, m.id, s.config_id, s.account_id, s.provider_message_id, s.message_key, s.value, s.rank, s.occurred_at,
        s.error, s.attempt, s.place
    from given_status s left join messages m
        on m.organization_id = s.organization_id and m.message_key = s.message_key
        -- The config itself, too: its number may have become known since the message was sent.
        and (m.account_id = s.account_id or m.config_id = s.config_id)
    where s.message_id is null"""
# Parameters of `merge`.
MERGED = len(StatusRow._fields) + 2


def merged(statuses: Sequence[StatusRow]) -> tuple[bool, list[Any]]:
    """Whether messages must be found by the provider's ids, whenever they were sent; and the parameters of `merge`."""
    columns: list[Any] = [*zip(*statuses, strict=True)] if statuses else [[]] * len(StatusRow._fields)
    ids = [status.message_id for status in statuses if status.message_id is not None]
    by_key = len(ids) < len(statuses)
    return by_key, [*columns, *((FIRST_ID, LAST_ID) if by_key or not ids else (min(ids), max(ids)))]


def merge(first: int, is_new: str = "true", *, by_key: bool = True) -> str:
    """CTEs that merge the statuses in the parameters from *first* on, which are those of `merged`, into messages.

    *is_new* says, by its `place`, that one is no repetition: others are kept already.
    """
    return f"""given_status as (select * from {given(StatusRow, first)}),
known as ({_BY_ID}{_BY_KEY if by_key else ""}
),
parked as (
    insert into message_statuses (organization_id, account_id, message_key, value, status_rank, occurred_at, error, matched)
    select organization_id, account_id, message_key, value, rank, occurred_at, error, id is not null
    from known where attempt is null and {is_new}
    on conflict do nothing  -- in a database that is not partitioned yet, statuses have a key of their own
),
{_apply(first + len(StatusRow._fields))}"""


# Our own answer may have been stored in the very moment a status came without our correlation id: each of the two
# transactions missed the other. So look again for a while.
SWEEP = (
    """with unmatched as (
    select s.organization_id, s.account_id, s.message_key, s.value, m.id, m.config_id, m.provider_message_id
    from message_statuses s join messages m using (organization_id, account_id, message_key)
    where not s.matched and s.received_at > (select now() - interval '10 minutes')
    limit 1000 for update of s skip locked
),
found as (
    update message_statuses s set matched = true
    from unmatched u
    where s.organization_id = u.organization_id and s.account_id = u.account_id
        and s.message_key = u.message_key and s.value = u.value
    returning u.organization_id, u.id, u.config_id, s.account_id, u.provider_message_id, s.message_key, s.value,
        s.status_rank as rank, s.occurred_at, s.error, null::integer as attempt
),
known as (select * from found),"""
    + _apply(1)
    + " select count(*) from merged"
)


# As far back as they are kept (`purge` in ingress/storage/statements/receiving/inbound.py), and up to a bound.
ORPHANS = """
select count(*) from (
    select from message_statuses where not matched and received_at < now() - interval '24 hours' limit 10000
) bounded /* every organization_id */"""


async def orphans(connection: asyncpg.Connection) -> int:
    """Statuses that no message of ours was found for in 24 hours, up to 10,000 (worker, all organizations)."""
    count: int = await connection.fetchval(ORPHANS)
    return count


async def sweep(connection: asyncpg.Connection) -> int:
    """Match statuses that came before the send they are about was known; how many (worker, all organizations)."""
    count: int = await connection.fetchval(SWEEP, FIRST_ID, LAST_ID)
    return count
