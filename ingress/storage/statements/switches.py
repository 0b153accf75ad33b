"""Changes of the active config: under way, made, and what one would mean for real traffic."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from ...identifiers import id_at
from ...validation import Unlogged
from ..columns import names, parameters, read, read_or_none
from .events import of_type


class NewSwitch(Unlogged, frozen=True, kw_only=True):
    """A switch to ``config_id`` that begins."""

    config_id: UUID
    kind: str
    actor: str
    address: str | None
    reason: str | None
    expected_version: int | None


class OpenSwitch(NewSwitch, frozen=True, kw_only=True):
    """A switch that is neither made nor ended. Of a phone it waits for until then; None: a process is at work, or died.

    ``former_state`` is the config's before it. ``is_waiting``: its time is not over.
    """

    former_state: str
    provider_type: str
    waits_until: datetime | None
    is_waiting: bool


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where an organization stands. ``open``: its switches that are neither made nor ended."""

    version: int
    audit_entries: int
    active_config_id: UUID | None
    active_provider: str | None
    former_config_id: UUID | None
    former_fallback_ids: list[UUID] | None
    fallback_config_ids: list[UUID]
    fallback_policy: bytes | None
    open: list[OpenSwitch]


_OPEN = f"""{names(NewSwitch, "s.")}, s.former_state, c.provider_type, s.waits_until,
    coalesce(s.waits_until > now(), false) as is_waiting"""
STANDING = f"""
select o.version, o.audit_entries, o.active_config_id, a.provider_type as active_provider, o.former_config_id,
    o.former_fallback_ids, o.fallback_config_ids, o.fallback_policy, {_OPEN}
from organizations o
left join whatsapp_provider_configs a on a.organization_id = o.id and a.id = o.active_config_id
left join switches s on s.organization_id = o.id
left join whatsapp_provider_configs c on c.organization_id = s.organization_id and c.id = s.config_id
where o.id = $1 order by s.began_at"""


async def standing(connection: asyncpg.Connection, organization_id: UUID) -> Standing | None:
    """Where the organization stands; None: no such organization (organization)."""
    rows = await connection.fetch(STANDING, organization_id)
    if not rows:
        return None
    stands = {name: rows[0][name] for name in Standing.__struct_fields__[:-1]}
    return Standing(**stands, open=[read(OpenSwitch, row) for row in rows if row["config_id"]])


BEGIN = f"""
with was as (select state from whatsapp_provider_configs where organization_id = $1 and id = $2 for update),
taken as (
    update whatsapp_provider_configs c set state = 'switching', updated_at = clock_timestamp()
    from was where c.organization_id = $1 and c.id = $2
)
insert into switches (organization_id, {names(NewSwitch)}, former_state)
select $1, {parameters(NewSwitch, 2)}, was.state from was returning former_state"""


async def begin(connection: asyncpg.Connection, organization_id: UUID, switch: NewSwitch) -> str:
    """Take a config into `switching`: the state it had (organization)."""
    state: str = await connection.fetchval(BEGIN, organization_id, *msgspec.structs.astuple(switch))
    return state


WAIT = """
with due as (update provider_health set due_at = now() where organization_id = $1 and config_id = $2)
update switches set waits_until = clock_timestamp() + make_interval(secs => $3)
where organization_id = $1 and config_id = $2 returning waits_until"""


async def wait(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, seconds: float) -> datetime:
    """Have a switch wait until its phone is linked, and the account looked at meanwhile: until when (organization)."""
    until: datetime = await connection.fetchval(WAIT, organization_id, config_id, seconds)
    return until


TAKE_UP = f"""
update switches s set waits_until = null from whatsapp_provider_configs c
where s.organization_id = $1 and s.config_id = $2 and s.waits_until > now()
    and c.organization_id = $1 and c.id = $2 returning {_OPEN}"""


async def take_up(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> OpenSwitch | None:
    """The switch that waited for the config, which the caller is to make now; None if none does (organization)."""
    return read_or_none(OpenSwitch, await connection.fetchrow(TAKE_UP, organization_id, config_id))


END = """
with ended as (delete from switches where organization_id = $1 and config_id = $2 returning config_id)
update whatsapp_provider_configs c set state = $3, updated_at = clock_timestamp()
from ended where c.organization_id = $1 and c.id = ended.config_id and c.state = 'switching' returning c.id"""


async def end(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, state: str) -> bool:
    """End a switch that is not made, its config in *state*; False if there is none any more (organization)."""
    return await connection.fetchval(END, organization_id, config_id, state) is not None


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes the active config at ``expected_version``, with the fallbacks from then on.

    ``session`` and ``sender`` None: as they are. ``stand_in``: whom it stands in for, as JSON.
    """

    config_id: UUID
    expected_version: int
    session: bytes | None
    sender: str | None
    fallback_config_ids: Sequence[UUID]
    stand_in: bytes | None


# Held, shared, on the connection that a process listens on, with the number of connections that it may open
# (storage/listener.py): by these locks all see which processes there are.
PROCESSES_LOCK = 0x63_6F_6E_6E
# The compare-and-set, by which of several changes that expect the same version one is made.
ACTIVATE = f"""
with before as (
    select o.id, o.active_config_id, o.fallback_config_ids || case
        when c.joins_order and $2 <> all(o.fallback_config_ids) then array[$2::uuid] else '{{}}' end as order
    from organizations o join whatsapp_provider_configs c on c.organization_id = o.id and c.id = $2
    where o.id = $1 and o.version = $3
    for no key update of o
),
changed as (
    update organizations o set active_config_id = $2, former_config_id = before.active_config_id,
        former_fallback_ids = before.order, fallback_config_ids = $6, version = o.version + 1,
        version_at = clock_timestamp(), automatic = $7
    from before where o.id = before.id returning o.version
),
states as (
    update whatsapp_provider_configs c
    set state = case when c.id = $2 then 'active' else 'inactive' end, updated_at = clock_timestamp(),
        joins_order = c.joins_order and c.id <> $2,
        broken_at = case when c.id <> $2 then c.broken_at end,
        session = case when c.id = $2 then coalesce($4, c.session) else c.session end,
        sender = case when c.id = $2 then coalesce($5, c.sender) else c.sender end
    from before where c.organization_id = before.id and c.id in ($2, before.active_config_id)
),
looked_at as (
    update provider_health h set due_at = now() from before where h.organization_id = before.id and h.config_id = $2
),
made as (
    delete from switches s using before where s.organization_id = before.id and s.config_id = $2
),
announced as (
    insert into switch_processes (organization_id, version, process)
    select $1, changed.version, l.pid from changed, pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and l.classid = {PROCESSES_LOCK} and l.objsubid = 2 and d.datname = current_database()
)
select version from changed"""


async def activate(connection: asyncpg.Connection, organization_id: UUID, activation: Activation) -> int | None:
    """Make a config the active one: the new version; None if the version is another, or it is gone (organization)."""
    version: int | None = await connection.fetchval(ACTIVATE, organization_id, *msgspec.structs.astuple(activation))
    return version


CONFIRM = """
update switch_processes p set used_at = clock_timestamp()
from unnest($2::uuid[], $3::bigint[]) as used (organization_id, version)
where p.process = $1 and p.used_at is null and p.organization_id = used.organization_id and p.version = used.version"""


async def confirm(connection: asyncpg.Connection, process: int, used: Collection[tuple[UUID, int]]) -> None:
    """Note that *process* uses these versions of organizations from now on (worker)."""
    await connection.execute(CONFIRM, process, *zip(*used, strict=True))


class Confirmed(msgspec.Struct, frozen=True):
    """How many processes a switch was announced to, how many confirmed that they use it, the first and the last when."""

    processes: int
    confirmed: int
    first_at: datetime | None
    last_at: datetime | None


CONFIRMED = """
select count(*) as processes, count(used_at) as confirmed, min(used_at) as first_at, max(used_at) as last_at
from switch_processes
where organization_id = $1 and version = $2"""


async def confirmed(connection: asyncpg.Connection, organization_id: UUID, version: int) -> Confirmed:
    """Which processes use the switch that made *version* (organization)."""
    found = await connection.fetchrow(CONFIRMED, organization_id, version)
    assert found is not None
    return read(Confirmed, found)


# What every process listens to.
CHANNEL = "ingress_provider"
NOTIFY = f"select pg_notify('{CHANNEL}', $1)"


async def notify(connection: asyncpg.Connection, organization_id: UUID, version: int) -> None:
    """Notify every process that listens, if and when the transaction is committed (organization)."""
    await connection.execute(NOTIFY, f"{organization_id}:{version}")


# One that waits for a phone to be linked belongs to no process, until its time is over.
BROKEN_OFF = "select distinct organization_id from switches where waits_until is null or waits_until <= now()"


async def broken_off(connection: asyncpg.Connection) -> list[UUID]:
    """Organizations with a switch that is under way, or broke off with its process (worker)."""
    return [row[0] for row in await connection.fetch(BROKEN_OFF)]


class TrailedSwitch(msgspec.Struct, frozen=True):
    """A switch in the trail: begun (`switching`), or made (`activated`, with its kind)."""

    at: datetime
    actor: str
    action: str
    config_id: UUID
    kind: str | None


# The most recent entries only: a trail is long, and within an hour there are few.
MADE_LATELY = """
select l.at, l.actor, l.action, l.config_id, l.after ->> 'kind' as kind from provider_audit_log l
where l.organization_id = $1 and l.action in ('switching', 'activated') and l.at >= $2
    and l.id > (select o.audit_entries - 5000 from organizations o where o.id = $1)
order by l.id desc"""


async def made_lately(connection: asyncpg.Connection, organization_id: UUID, since: datetime) -> list[TrailedSwitch]:
    """Switches begun and made since then, the last one first (organization)."""
    return [read(TrailedSwitch, row) for row in await connection.fetch(MADE_LATELY, organization_id, since)]


class SentSince(msgspec.Struct, frozen=True):
    """How many sends were tried through a config, and how many of them failed for its fault."""

    sends: int
    failed: int


# A message that was sent in the end, by a repetition, is none that failed.
SENT_SINCE = """
with ended as (
    select message_id, bool_or(class = 'ok') as taken, bool_or(class in ('AccountBroken', 'Unavailable')) as failed
    from attempts where organization_id = $1 and message_id >= $4 and config_id = $2 and started_at >= $3 and class is not null
    group by message_id
)
select count(*) as sends, count(*) filter (where failed and not taken) as failed from ended"""


async def sent_since(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, at: datetime) -> SentSince:
    """What became of the sends through a config since then (organization)."""
    # Messages may wait for some minutes before they are tried.
    found = await connection.fetchrow(SENT_SINCE, organization_id, config_id, at, id_at(at - timedelta(minutes=15)))
    assert found is not None
    return read(SentSince, found)


# ------------------------------------------------------------------ what a switch would mean

# The most recent sends and people stand for all: counting an organization's whole month would take as long as it sends.
LOOKED_AT = 50_000


class SentKind(msgspec.Struct, frozen=True):
    """A kind of content that was sent, how often, and how often without a phone and to groups.

    ``since``, the same in each: the time of the oldest of LOOKED_AT sends; None: there were fewer.
    """

    kind: str
    action: str | None
    template: str | None
    language: str | None
    sends: int
    without_phone: int
    to_groups: int
    since: datetime | None


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


async def sent_kinds(connection: asyncpg.Connection, organization_id: UUID, since: UUID) -> list[SentKind]:
    """What was sent since the time of the id *since*, by kind of content (organization)."""
    return [read(SentKind, row) for row in await connection.fetch(SENT_KINDS, organization_id, since)]


WITHOUT_PHONE = f"""
with recent as (
    select * from (
        select conversation_id, data, created_at from events
        where organization_id = $1 and {of_type("'message.received'")} order by type desc, sequence desc limit {LOOKED_AT}
    ) last where created_at >= $2
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


# Of all that is under way, which is little: the organization may have millions that are not.
UNDER_WAY = """
select count(*) from messages where leased_until is not null and organization_id = $1 and state = 'sending'"""


async def under_way(connection: asyncpg.Connection, organization_id: UUID) -> int:
    """Sends that have not ended (organization)."""
    count: int = await connection.fetchval(UNDER_WAY, organization_id)
    return count
