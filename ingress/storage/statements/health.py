"""How accounts are doing, whose turn it is to look at them, and the evidence of what was sent."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, NamedTuple, get_args
from uuid import UUID

import asyncpg
import msgspec

from ...validation import Unlogged
from ..columns import assignments, given, read
from .configs import CONFIG, ConfigKey, StoredConfig


class StoredHealth(msgspec.Struct, frozen=True):
    """How an account is doing since when, why, and what it is about to become. ``detail`` is its provider's words."""

    state: str = "unknown"
    since: datetime | None = None
    reason: str | None = None
    detail: str | None = None
    pending: str | None = None
    looks: int = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.state!r}, {self.reason!r})"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A config that is looked at, how its account is doing, and what its organization does with it.

    ``in_use``: it is sent through, or may be at any moment. ``waiting``: a switch waits for its phone. ``watched``:
    somebody is linking its phone. ``broken``: its provider refused it within the last minutes. ``stands_in``: the
    organization's active config does for another one. The times as in ConfigHealth.
    """

    version: int
    version_at: datetime
    active_config_id: UUID | None
    fallback_policy: bytes | None
    pairing: str | None
    waiting: bool
    watched: bool
    in_use: bool
    broken: bool
    stands_in: bool
    checked_at: datetime | None
    webhook_at: datetime | None
    sent_at: datetime | None
    config: StoredConfig
    health: StoredHealth


# Whoever wants a look while one is under way sets `due_at` as ever: that ends no lease, and is due right after it.
CLAIM = """
with due as (
    select organization_id, config_id from provider_health
    where due_at <= now() and coalesce(leased_until <= now(), true)
    order by due_at limit $2 for update skip locked
)
update provider_health h set lease_id = $1, leased_until = now() + make_interval(secs => $3),
    due_at = now() + make_interval(secs => $3)
from due where h.organization_id = due.organization_id and h.config_id = due.config_id
returning h.organization_id, h.config_id"""


async def claim(connection: asyncpg.Connection, lease_id: UUID, limit: int, lease_s: float) -> list[ConfigKey]:
    """Configs that are due, now this lease's for *lease_s* (worker, all organizations)."""
    return [ConfigKey(*row) for row in await connection.fetch(CLAIM, lease_id, limit, lease_s)]


LOOKS = f"""
select o.version, o.version_at, o.active_config_id, o.fallback_policy,
    h.state as health, h.since, h.reason, h.detail, h.pending, h.looks, h.pairing, h.checked_at, h.webhook_at, h.sent_at,
    w.waits_until is not null as waiting, coalesce(h.watched_until > now(), false) as watched,
    coalesce(c.id = o.active_config_id or c.id = any (o.fallback_config_ids), false) as in_use,
    coalesce(c.broken_at > now() - interval '15 minutes', false) as broken, o.automatic is not null as stands_in,
    {CONFIG}
from {given(ConfigKey)}
join provider_health h on h.organization_id = _.organization_id and h.config_id = _.id
join organizations o on o.id = h.organization_id
join whatsapp_provider_configs c on c.organization_id = h.organization_id and c.id = h.config_id
left join switches w on w.organization_id = h.organization_id and w.config_id = h.config_id"""


async def looks(connection: asyncpg.Connection, keys: Sequence[ConfigKey]) -> list[Look]:
    """Those of the configs that there are, how they are doing, and what their organizations do with them (worker)."""
    return [_look(row) for row in await connection.fetch(LOOKS, *zip(*keys, strict=True))]


def _look(row: asyncpg.Record) -> Look:
    health = StoredHealth(row["health"], *(row[name] for name in StoredHealth.__struct_fields__[1:]))
    plain = {name: row[name] for name in Look.__struct_fields__[:-2]}
    return Look(**plain, config=read(StoredConfig, row), health=health)


LAST_SENDS, ACKNOWLEDGED_AMONG = 200, 50
REFUSED_WITHIN_S = 600
# Attempts and messages by their ids, which are times: no other index is needed. An open breaker says nothing of the account.
TRAFFIC = f"""
select h.organization_id, h.config_id, recent.*, older.*,
    coalesce(case when h.refused_at > now() - interval '{REFUSED_WITHIN_S} s' then not exists (
        select from inbound_webhooks w where w.received_at > now() - interval '{REFUSED_WITHIN_S} s'
            and w.organization_id = h.organization_id and w.config_id = h.config_id
    ) end, false) as only_refused
from {given(ConfigKey)}
join provider_health h on h.organization_id = _.organization_id and h.config_id = _.id
cross join lateral (
    select count(*) as attempts, count(*) filter (where class in ('AccountBroken', 'Unavailable', 'Uncertain')) as failed,
        count(*) filter (where class = 'AccountBroken') as refused
    from (
        select class from attempts
        where organization_id = h.organization_id and message_id >= $3 and config_id = h.config_id
            and class is not null and code is distinct from 'breaker_open'
        order by message_id desc limit {LAST_SENDS}
    ) last
) recent
cross join lateral (
    select count(*) as sent, count(*) filter (where acknowledged) as acknowledged
    from (
        select acknowledged from messages
        where organization_id = h.organization_id and id >= $4 and id < $5 and config_id = h.config_id
            and provider_message_id is not null
        order by id desc limit {ACKNOWLEDGED_AMONG}
    ) last
) older"""


class SentLately(msgspec.Struct, frozen=True, kw_only=True):
    """How the last attempts through a config ended, and how many of its messages some minutes old have a status.

    ``only_refused``: webhooks came lately, and the signature of each of them was not the config's.
    """

    attempts: int
    failed: int
    refused: int
    sent: int
    acknowledged: int
    only_refused: bool


async def traffic(
    connection: asyncpg.Connection,
    keys: Sequence[ConfigKey],
    *,
    attempts_since: UUID,
    sent_since: UUID,
    sent_until: UUID,
) -> dict[ConfigKey, SentLately]:
    """How the last sends through configs ended; times are given as ids of that moment (worker)."""
    times = attempts_since, sent_since, sent_until
    rows = await connection.fetch(TRAFFIC, *zip(*keys, strict=True), *times)
    return {ConfigKey(row["organization_id"], row["config_id"]): read(SentLately, row) for row in rows}


SOON_S = 2


def _released(next_in_s: str) -> str:
    """Sets the columns of who is looked at when: in *next_in_s*, or soon where a look was asked for meanwhile."""
    return f"""lease_id = null, leased_until = null, due_at = now() + make_interval(
        secs => case when due_at < leased_until then least({next_in_s}, {SOON_S}) else {next_in_s} end)"""


STORE = f"""
update provider_health set {assignments(StoredHealth, 6)}, pairing = $5, checked_at = clock_timestamp(), {_released("$4")}
where organization_id = $1 and config_id = $2 and lease_id = $3 returning config_id"""


async def store(
    connection: asyncpg.Connection,
    config: StoredConfig,
    lease_id: UUID,
    found: StoredHealth,
    pairing: str | None,
    next_in_s: float,
) -> bool:
    """Write down what a look found, and when the next is due; False if the lease is another's by now (worker)."""
    columns = (next_in_s, pairing, *(getattr(found, name) for name in StoredHealth.__struct_fields__))
    return await connection.fetchval(STORE, config.organization_id, config.id, lease_id, *columns) is not None


class EndedLook(NamedTuple):
    """A look that found nothing new; without ``is_checked`` nobody was asked."""

    organization_id: UUID
    config_id: UUID
    lease_id: UUID
    is_checked: bool
    next_in_s: Annotated[float, "double precision"]


GIVE_BACK = f"""
with given as (
    select g.* from (select * from {given(EndedLook)}) g
    join provider_health h on h.organization_id = g.organization_id and h.config_id = g.config_id
    order by g.organization_id, g.config_id for update of h
)
update provider_health h set checked_at = case when given.is_checked then clock_timestamp() else h.checked_at end,
    {_released("given.next_in_s")}
from given where h.organization_id = given.organization_id and h.config_id = given.config_id
    and h.lease_id = given.lease_id"""


async def give_back(connection: asyncpg.Connection, ended: Sequence[EndedLook]) -> None:
    """End looks, and say when the next ones are due (worker)."""
    await connection.execute(GIVE_BACK, *zip(*ended, strict=True))


SESSION = """
update whatsapp_provider_configs set session = $3 where organization_id = $1 and id = $2"""


async def set_session(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, session: bytes) -> None:
    """Remember what the provider says of the account, as JSON (worker)."""
    await connection.execute(SESSION, organization_id, config_id, session)


# Not more often than that, however much comes in; and no webhook waits for who is looking now.
SOON = f"""
with due as (
    select h.organization_id, h.config_id from provider_health h
    join unnest($1::uuid[], $2::uuid[]) as _(organization_id, config_id)
        on h.organization_id = _.organization_id and h.config_id = _.config_id
    for update of h skip locked
)
update provider_health h set due_at = least(h.due_at, coalesce(h.checked_at, '-infinity') + interval '{SOON_S} s')
from due where h.organization_id = due.organization_id and h.config_id = due.config_id"""


async def look_soon(connection: asyncpg.Connection, pairs: Sequence[tuple[UUID, UUID]]) -> None:
    """Something came in about these (organization, config) pairs: look at them now (ingest, worker)."""
    await connection.execute(SOON, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _noted(column: str) -> str:
    """When something last happened, in *column*; in order, so that two processes never wait for each other."""
    return f"""
with seen as (
    select h.organization_id, h.config_id, _.at from provider_health h
    join unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) as _(organization_id, config_id, at)
        on h.organization_id = _.organization_id and h.config_id = _.config_id
    order by 1, 2 for update of h
)
update provider_health h set {column} = greatest(h.{column}, seen.at)
from seen where h.organization_id = seen.organization_id and h.config_id = seen.config_id"""


# A webhook that says something new, a message of a person, a message that was taken, a webhook that was refused.
Trace = Literal["webhook", "received", "sent", "refused"]
NOTED: dict[Trace, str] = {trace: _noted(f"{trace}_at") for trace in get_args(Trace)}


async def noted(connection: asyncpg.Connection, trace: Trace, seen: Sequence[tuple[UUID, UUID, datetime]]) -> None:
    """When that was last seen of these (organization, config) pairs (worker)."""
    await connection.execute(NOTED[trace], *zip(*seen, strict=True))


WATCH = """
update provider_health set watched_until = now() + make_interval(secs => $3), due_at = now(),
    pairing = coalesce($4, pairing)
where organization_id = $1 and config_id = $2"""


async def watch(
    connection: asyncpg.Connection, organization_id: UUID, config_id: UUID, seconds: float, pairing: str | None
) -> None:
    """Look at a config again and again for a while: somebody is linking its phone (organization)."""
    await connection.execute(WATCH, organization_id, config_id, seconds, pairing)


PAIRING = "select pairing from provider_health where organization_id = $1 and config_id = $2"


async def pairing(connection: asyncpg.Connection, organization_id: UUID, config_id: UUID) -> str | None:
    """How the phone of a config is linked, as far as known (organization)."""
    state: str | None = await connection.fetchval(PAIRING, organization_id, config_id)
    return state


class ConfigHealth(Unlogged, frozen=True, kw_only=True):
    """A config and how it is doing. ``waits_until``: a switch to it waits for its phone.

    ``webhook_at``, ``received_at``, ``sent_at``: when a webhook or a person's message last came in, and when one was last
    taken. ``last_activity``: of our traffic, or as its provider says, whichever is later. ``session``: what its
    provider last said of the account, as JSON.
    """

    config_id: UUID
    provider: str
    name: str
    state: str
    health: str
    since: datetime | None
    reason: str | None
    detail: str | None
    checked_at: datetime | None
    pairing: str | None
    waits_until: datetime | None
    webhook_at: datetime | None
    received_at: datetime | None
    sent_at: datetime | None
    last_activity: datetime | None
    session: str | None


class OrganizationHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Where an organization stands, and how each of its configs is doing. ``automatic``: a stand-in, as JSON."""

    version: int
    audit_entries: int
    active_config_id: UUID | None
    fallback_config_ids: list[UUID]
    automatic: bytes | None
    configs: list[ConfigHealth]


OF_ORGANIZATION = """
select c.id as config_id, c.provider_type as provider, c.name, c.state,
    coalesce(h.state, 'unknown') as health, h.since, h.reason, h.detail, h.checked_at, h.pairing, w.waits_until,
    h.webhook_at, h.received_at, h.sent_at, c.session,
    greatest(h.webhook_at, h.sent_at, (c.session ->> 'last_activity')::timestamptz) as last_activity,
    o.version, o.audit_entries, o.active_config_id, o.fallback_config_ids, o.automatic
from organizations o
left join whatsapp_provider_configs c on c.organization_id = o.id
left join provider_health h on h.organization_id = c.organization_id and h.config_id = c.id
left join switches w on w.organization_id = c.organization_id and w.config_id = c.id
where o.id = $1 order by c.id"""


async def of_organization(connection: asyncpg.Connection, organization_id: UUID) -> OrganizationHealth | None:
    """Every config with how it is doing; None if there is no such organization (organization)."""
    rows = await connection.fetch(OF_ORGANIZATION, organization_id)
    if not rows:
        return None
    configs = [read(ConfigHealth, row) for row in rows if row["config_id"]]
    names = ("version", "audit_entries", "active_config_id", "fallback_config_ids", "automatic")
    return OrganizationHealth(**{name: rows[0][name] for name in names}, configs=configs)


# By the index of those who are not well: as few as there are troubles.
TROUBLED = """
select c.provider_type as provider, h.state, count(*) as configs
from provider_health h join whatsapp_provider_configs c on c.organization_id = h.organization_id and c.id = h.config_id
where h.state in ('degraded', 'unhealthy') group by 1, 2"""


async def troubled(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """How many configs are degraded or unhealthy, by provider (worker, all organizations)."""
    return await connection.fetch(TROUBLED)
