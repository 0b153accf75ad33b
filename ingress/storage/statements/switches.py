"""Changes of the active config, what one that broke off has left, and what a change would mean for real traffic."""

from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from ...identifiers import id_at

STANDING = """
select version, active_config_id, former_config_id, former_fallback_ids, fallback_config_ids from organizations where id = $1"""


async def standing(connection: asyncpg.Connection, organization_id: UUID) -> asyncpg.Record | None:
    """The organization's version, active and former config, and fallback order (organization)."""
    return await connection.fetchrow(STANDING, organization_id)


BEGIN = """
update whatsapp_provider_configs c set state = 'switching', updated_at = clock_timestamp()
from (select state from whatsapp_provider_configs where organization_id = $1 and id = $2 for update) was
where c.organization_id = $1 and c.id = $2 returning was.state"""


async def begin(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> str:
    """Take a config into `switching`: the state it had (organization)."""
    state: str = await connection.fetchval(BEGIN, organization_id, config_id)
    return state


LEAVE = """
update whatsapp_provider_configs set state = $3, updated_at = clock_timestamp()
where organization_id = $1 and id = $2 and state = 'switching' returning id"""


async def leave(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, state: str) -> bool:
    """Take a config back out of `switching`; False if it is not in it (organization)."""
    return await connection.fetchval(LEAVE, organization_id, config_id, state) is not None


# The compare-and-set, by which of several changes that expect the same version one is made.
ACTIVATE = """
with before as (
    select o.id, o.active_config_id from organizations o
    where o.id = $1 and o.version = $3
        and exists (select from whatsapp_provider_configs c where c.organization_id = $1 and c.id = $2)
    for no key update
),
changed as (
    update organizations o set active_config_id = $2, former_config_id = before.active_config_id,
        former_fallback_ids = o.fallback_config_ids, fallback_config_ids = $6, version = o.version + 1,
        version_at = clock_timestamp(), automatic = $7
    from before where o.id = before.id returning o.version
),
states as (
    update whatsapp_provider_configs c
    set state = case when c.id = $2 then 'active' else 'inactive' end, updated_at = clock_timestamp(),
        broken_at = case when c.id <> $2 then c.broken_at end,
        session = case when c.id = $2 then coalesce($4, c.session) else c.session end,
        sender = case when c.id = $2 then coalesce($5, c.sender) else c.sender end
    from before where c.organization_id = before.id and c.id in ($2, before.active_config_id)
),
looked_at as (
    update provider_health h set due_at = now() from before where h.organization_id = before.id and h.config_id = $2
)
select version from changed"""


async def activate(
    connection: asyncpg.Connection,
    organization_id: UUID,
    config_id: UUID,
    *,
    expected_version: int,
    session: bytes | None,
    sender: str | None,
    order: list[UUID],
    stand_in: bytes | None = None,
) -> int | None:
    """Make a config the active one: the new version; None if the version is another, or it is gone (organization).

    *order* are the fallbacks from now on. *stand_in* says whom it stands in for, as JSON.
    """
    version: int | None = await connection.fetchval(
        ACTIVATE, organization_id, config_id, expected_version, session, sender, order, stand_in
    )
    return version


NOTIFY = "select pg_notify($1, $2)"


async def notify(connection: asyncpg.Connection, organization_id: UUID, channel: str, version: int) -> None:
    """Tell every process that listens, if and when the transaction is committed (organization)."""
    await connection.execute(NOTIFY, channel, f"{organization_id}:{version}")


# One that waits for a phone to be linked belongs to no process, until its time is over.
BROKEN_OFF = """
select distinct organization_id from whatsapp_provider_configs c where state = 'switching' and not exists (
    select from provider_health h
    where h.organization_id = c.organization_id and h.config_id = c.id and h.waiting_until > now())"""


async def broken_off(connection: asyncpg.Connection) -> list[UUID]:
    """Organizations with a switch that is under way, or broke off with its process (worker)."""
    return [row[0] for row in await connection.fetch(BROKEN_OFF)]


MOVING = """
select c.id, c.provider_type, coalesce((
        select l.before ->> 'state' from provider_audit_log l
        where l.organization_id = $1 and l.config_id = c.id and l.action = 'switching' order by l.id desc limit 1),
    'configured') as state, (
        select h.waiting_until > now() from provider_health h
        where h.organization_id = $1 and h.config_id = c.id) as waiting
from whatsapp_provider_configs c where c.organization_id = $1 and c.state = 'switching'"""


async def moving(connection: asyncpg.Connection, organization_id: UUID) -> list[asyncpg.Record]:
    """Configs in `switching`: id, provider_type, and the state each had before (organization).

    ``waiting``: it waits for a phone; False: it did, too long; None: it does not.
    """
    return await connection.fetch(MOVING, organization_id)


# The most recent entries only: a trail is long, and within an hour there are few.
MADE_LATELY = """
select l.at, l.actor, l.action, l.config_id, l.after ->> 'kind' as kind from provider_audit_log l
where l.organization_id = $1 and l.action in ('switching', 'activated') and l.at >= $2
    and l.id > (select o.audit_entries - 500 from organizations o where o.id = $1)
order by l.id desc"""


async def made_lately(connection: asyncpg.Connection, organization_id: UUID, since: datetime) -> list[asyncpg.Record]:
    """Switches begun (`switching`) and made (`activated`, with its kind) since then, the last one first (organization)."""
    return await connection.fetch(MADE_LATELY, organization_id, since)


# A message that was sent in the end, by a repetition, is none that failed.
SENT_SINCE = """
with ended as (
    select message_id, bool_or(class = 'ok') as taken, bool_or(class in ('AccountBroken', 'Unavailable')) as failed
    from attempts where organization_id = $1 and message_id >= $4 and config_id = $2 and started_at >= $3 and class is not null
    group by message_id
)
select count(*) as sends, count(*) filter (where failed and not taken) as failed from ended"""


async def sent_since(
    connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, at: datetime
) -> asyncpg.Record:
    """How many sends were tried through a config since then, and how many of them failed for its fault (organization)."""
    # Messages may wait for some minutes before they are tried.
    found = await connection.fetchrow(SENT_SINCE, organization_id, config_id, at, id_at(at - timedelta(minutes=15)))
    assert found is not None
    return found


# ------------------------------------------------------------------ what a switch would mean

# The most recent sends and people stand for all: counting an organization's whole month would take as long as it sends.
LOOKED_AT = 50_000

SENT_KINDS = f"""
with recent as (
    select request, created_at from messages where organization_id = $1 and id >= $2 order by id desc limit {LOOKED_AT}
)
select request -> 'content' ->> 'type' as kind, request -> 'content' -> 'action' ->> 'type' as action,
    case request -> 'content' ->> 'type' when 'template' then request -> 'content' ->> 'name' end as template, request -> 'content' ->> 'language' as language,
    count(*) as sends, count(*) filter (where request -> 'to' ->> 'phone' is null) as without_phone,
    count(*) filter (where request -> 'to' ->> 'group_id' is not null) as to_groups,
    case when sum(count(*)) over () = {LOOKED_AT} then min(min(created_at)) over () end as since
from recent group by 1, 2, 3, 4 order by sends desc"""


async def sent_kinds(connection: asyncpg.Connection, organization_id: UUID, since: UUID) -> list[asyncpg.Record]:
    """What was sent since the time of the id *since*, by kind of content (organization).

    ``since``, the same in each: the time of the oldest of LOOKED_AT sends; None: there were fewer.
    """
    return await connection.fetch(SENT_KINDS, organization_id, since)


WITHOUT_PHONE = f"""
with recent as (
    select conversation_id, data, created_at from events
    where organization_id = $1 and type = 'message.received' and created_at >= $2 order by sequence desc limit {LOOKED_AT}
)
select count(distinct conversation_id) filter (where data -> 'conversation' -> 'contact' ->> 'phone' is null
        and data -> 'conversation' ->> 'group_id' is null) as people,
    case when count(*) = {LOOKED_AT} then min(created_at) end as since from recent"""


async def people_without_phone(
    connection: asyncpg.Connection, organization_id: UUID, since: datetime
) -> tuple[int, datetime | None]:
    """How many people wrote since then of whom no phone is known; and the time of the oldest of LOOKED_AT messages.

    None: there were fewer (organization).
    """
    found = await connection.fetchrow(WITHOUT_PHONE, organization_id, since)
    assert found is not None
    return found["people"], found["since"]


UNDER_WAY = "select count(*) from messages where organization_id = $1 and state = 'sending'"


async def under_way(connection: asyncpg.Connection, organization_id: UUID) -> int:
    """Sends that have not ended (organization)."""
    count: int = await connection.fetchval(UNDER_WAY, organization_id)
    return count
