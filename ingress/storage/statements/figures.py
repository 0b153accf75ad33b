"""What went through each config: counted from events, attempts and messages in the background, and read from the counts.

Nothing of it is on the way of a send or a webhook. Events say which minutes have changed: each of those is counted anew,
as a whole, from the messages that were accepted in it. What only events tell is added up.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import asyncpg

from ..columns import Big, Small, given, names
from ..keys import same_key
from .events import FINAL

# Of errors, in the order of the columns `errors` and `undelivered`; `other`: a plug-in's own.
CLASSES = (
    "Unsupported",
    "Rejected",
    "Restricted",
    "AccountBroken",
    "Throttled",
    "Unavailable",
    "Uncertain",
    "breaker_open",
    "other",
)
# Of the column `durations`: up to the first one, between each and the next, above the last one.
BOUNDS_MS = (25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000, 3000, 5000, 10000)
MINUTE, HOUR = 1, 60
MINUTES_KEPT, HOURS_KEPT = timedelta(hours=49), timedelta(days=400)
EVERY_S = 60
# Of an organization at a time: a tenth of a second.
EVENTS_AT_ONCE = 10_000
# A later status changes no attempt but as a failure: what is uncertain is settled or reported by then.
SETTLED_AFTER = "5 minutes"

# Not a lease: who is overtaken writes nothing (`WRITE`).
CLAIM = f"""
with due as (
    select organization_id, sequence from figures_progress
    where due_at <= now() order by due_at limit 100 for update skip locked
),
found as materialized (
    select organization_id, exists (
        select from events e where e.organization_id = due.organization_id and e.sequence > due.sequence
    ) as has_more from due
)
update figures_progress p set due_at = now() + interval '{EVERY_S} s',
    counted_at = case when has_more then counted_at else now() end
from found where {same_key("organization_id", "p", "found")}
returning p.organization_id, p.sequence, has_more /* every organization_id */"""


class Progress(NamedTuple):
    """How far an organization's events are counted. ``has_more``: there are others."""

    organization_id: UUID
    sequence: int
    has_more: bool


async def claim(connection: asyncpg.Connection) -> list[Progress]:
    """Organizations whose turn it is, which nobody else looks at for a while (worker, all organizations)."""
    return [Progress(*row) for row in await connection.fetch(CLAIM)]


# What a message costs is said in one of its statuses, or in two: then the first one counts.
NEW = f"""
with fresh as materialized (
    select sequence, type, config_id, conversation_id, created_at, is_own, data #>> '{{message,id}}' as id,
        data #>> '{{message,provider_message_id}}' as provider_message_id, data #>> '{{status,value}}' as value,
        data #>> '{{status,error,class}}' as class, data #> '{{status,pricing}}' as pricing,
        data #> '{{status,participant}}' as participant
    from (
        select sequence, type, config_id, conversation_id, created_at, raw is null as is_own,
            case type when 'message.status' then data::jsonb end as data
        from events where organization_id = $1 and sequence > $2 and {FINAL} order by sequence limit {EVENTS_AT_ONCE}
    ) page
),
statuses as (
    select *, to_timestamp(('x' || translate(left(id, 13), '-', ''))::bit(48)::bigint / 1000.0) as accepted_at
    from fresh where type = 'message.status'
)
select 'read' as what, null::uuid as config_id, now() as at, null as a, null as b, null as c, count(*) as n,
    max(sequence) as sequence
from fresh
union all
select 'received', config_id, date_trunc('minute', created_at), null, null, null, count(*), null
from fresh where type = 'message.received' group by 2, 3
union all
select 'undelivered', config_id, date_trunc('minute', created_at), class, null, null, count(*), null
from statuses where value = 'failed' and not is_own and id is not null group by 2, 3, 4
union all
select 'changed', null, date_trunc('minute', accepted_at), null, null, null, count(*), null
from statuses where id is not null and (is_own or value = 'failed' or created_at < accepted_at + interval '{SETTLED_AFTER}')
group by 3
union all
select 'priced', config_id, date_trunc('month', created_at, 'UTC'), pricing ->> 'category', pricing ->> 'type',
    pricing ->> 'billable', count(*), null
from statuses s where pricing is not null and value in ('delivered', 'read', 'played') and (value = 'delivered' or not exists (
    select from events e where e.organization_id = $1 and e.conversation_id = s.conversation_id and e.type = 'message.status'
        and e.sequence < s.sequence and e.data #>> '{{message,provider_message_id}}' = s.provider_message_id
        and e.data #>> '{{status,value}}' in ('delivered', 'read') and e.data #> '{{status,pricing}}' is not null
        and (e.data #> '{{status,participant}}')::jsonb is not distinct from s.participant
))
group by 2, 3, 4, 5, 6"""


class NewEvents(NamedTuple):
    """What events say, by ``what``, counted in ``n``. Of `read`: how many there were, the time, the last ``sequence``."""

    what: str
    config_id: UUID | None
    at: datetime
    a: str | None
    b: str | None
    c: str | None
    n: int
    sequence: int | None


async def new_events(connection: asyncpg.Connection, organization_id: UUID, after: int) -> list[NewEvents]:
    """The next events above *after*, counted (worker)."""
    return [NewEvents(*row) for row in await connection.fetch(NEW, organization_id, after)]


class Span(NamedTuple):
    """Messages that were accepted in it have an id from ``low`` on, below ``high``."""

    since: datetime
    low: UUID
    high: UUID


_BOUNDS = ",".join(map(str, BOUNDS_MS))
CALLS = f"""
select _.since, a.config_id, a.provider, a.ended, a.bucket, count(*) as calls, count(*) filter (where a.is_first) as tried
from {given(Span, 2)} cross join lateral (
    select config_id, provider, case code when 'breaker_open' then code else class end as ended,
        width_bucket(duration_ms, '{{{_BOUNDS}}}'::integer[]) as bucket, number = 1 or not exists (
            select from attempts former where former.organization_id = $1 and former.message_id = one.message_id
                and former.number < one.number and former.config_id = one.config_id and former.class is not null
        ) as is_first
    from attempts one
    where organization_id = $1 and message_id >= _.low and message_id < _.high and class is not null offset 0
) a group by 1, 2, 3, 4, 5"""


class Calls(NamedTuple):
    """Attempts of messages of a span that ended alike; for ``tried`` of the messages they were the config's first."""

    since: datetime
    config_id: UUID
    provider: str
    ended: str
    bucket: int | None
    calls: int
    tried: int


async def calls(connection: asyncpg.Connection, organization_id: UUID, spans: Sequence[Span]) -> list[Calls]:
    """How the attempts of messages that were accepted in *spans* ended (organization, worker)."""
    return [Calls(*row) for row in await connection.fetch(CALLS, organization_id, *_columns(Span, spans))]


ASIDE = f"""
select _.since, m.fallback_from, m.config_id, m.currency, count(*) as messages, sum(m.amount) as amount
from {given(Span, 2)} cross join lateral (
    select fallback_from, config_id, split_part(priced, ' ', 1)::numeric as amount, split_part(priced, ' ', 2) as currency
    from messages cross join lateral (select substring(cost from '^[0-9]{{1,12}}(?:[.][0-9]{{1,12}})? [A-Z]{{3}}$')) as its (priced)
    where organization_id = $1 and id >= _.low and id < _.high and (fallback_from is not null or cost is not null) offset 0
) m group by 1, 2, 3, 4"""


class Aside(NamedTuple):
    """Messages of a span that another config was given than should have sent them, or that their provider priced."""

    since: datetime
    fallback_from: UUID | None
    config_id: UUID | None
    currency: str | None
    messages: int
    amount: Decimal | None


async def aside(connection: asyncpg.Connection, organization_id: UUID, spans: Sequence[Span]) -> list[Aside]:
    """What attempts do not say of messages that were accepted in *spans* (organization, worker)."""
    return [Aside(*row) for row in await connection.fetch(ASIDE, organization_id, *_columns(Span, spans))]


def _columns(kind: type[NamedTuple], rows: Sequence[NamedTuple]) -> Sequence[tuple[object, ...]]:
    return list(zip(*rows, strict=True)) or [()] * len(kind._fields)


class Counts(NamedTuple):
    """A minute or hour of a config as it is written: ``received`` and ``undelivered`` are added to what is there.

    Lists are written as PostgreSQL does, which takes a list of lists for one list.
    """

    config_id: UUID
    minutes: Small
    since: datetime
    provider: str | None
    tried: int
    sent: int
    fallbacks: int
    received: int
    errors: str
    undelivered: str
    durations: str
    cost: Decimal | None
    currency: str | None


class Priced(NamedTuple):
    """Messages of a month that were priced alike."""

    month: datetime
    config_id: UUID
    category: str
    kind: str
    billable: str
    messages: Big


def _sum(column: str, length: int) -> str:
    """The sums of the elements of a column of lists."""
    return f"array[{', '.join(f'coalesce(sum({column}[{place}]), 0)' for place in range(1, length + 1))}]::integer[]"


_LISTS = {"errors": len(CLASSES), "undelivered": len(CLASSES), "durations": len(BOUNDS_MS) + 1}
_NUMBERS = ("tried", "sent", "fallbacks", "received")
_ONE = "case when min(currency) = max(currency) then"
SUMS = ", ".join(
    [f"sum({name})::integer as {name}" for name in _NUMBERS]
    + [f"{_sum(name, length)} as {name}" for name, length in _LISTS.items()]
    + [f"{_ONE} sum(cost) end as cost", f"{_ONE} min(currency) end as currency"]
)
_SUMMED = ("provider", *_NUMBERS, *_LISTS, "cost", "currency")
_PRICED = 8 + len(Counts._fields)
WRITE = f"""
with moved as (
    update figures_progress set sequence = $3, counted_at = $4, due_at = case when $5 then now() else due_at end
    where organization_id = $1 and sequence = $2 returning organization_id
),
counted as (
    insert into provider_figures as f (organization_id, {names(Counts)})
    select moved.organization_id, given.config_id, minutes, since, coalesce(c.provider_type, provider), tried, sent, fallbacks,
        received, errors::integer[], undelivered::integer[], durations::integer[], cost, currency
    from moved cross join (select * from {given(Counts, 8)}) given
    left join whatsapp_provider_configs c on c.organization_id = moved.organization_id and c.id = given.config_id
    on conflict (organization_id, minutes, since, config_id) do update set
        provider = coalesce(excluded.provider, f.provider), tried = excluded.tried, sent = excluded.sent,
        fallbacks = excluded.fallbacks, received = f.received + excluded.received, errors = excluded.errors,
        undelivered = array(select a + b from unnest(f.undelivered, excluded.undelivered) as _ (a, b)),
        durations = excluded.durations, cost = excluded.cost, currency = excluded.currency
),
priced as (
    insert into provider_usage as u (organization_id, {names(Priced)})
    select moved.organization_id, {names(Priced)} from moved cross join (select * from {given(Priced, _PRICED)}) given
    on conflict (organization_id, month, config_id, category, kind, billable)
        do update set messages = u.messages + excluded.messages
),
dropped as (
    delete from provider_figures f using moved, (values ({MINUTE}, $4 - $6::interval), ({HOUR}, $4 - $7::interval)) as _ (of, before)
    where f.organization_id = moved.organization_id and f.minutes = _.of and f.since < _.before
)
select exists (select from moved)"""
# From all the minutes of the hour, as long as those are kept.
SUM_UP = f"""
insert into provider_figures (organization_id, config_id, minutes, since, {", ".join(_SUMMED)})
select $1, config_id, {HOUR}, hour, max(provider), {SUMS}
from unnest($2::timestamptz[]) as hour cross join lateral (
    select * from provider_figures where organization_id = $1 and minutes = {MINUTE}
        and since >= hour and since < hour + interval '1 hour' offset 0
) f
group by config_id, hour
on conflict (organization_id, minutes, since, config_id) do update set
    {", ".join(f"{name} = excluded.{name}" for name in _SUMMED)}"""


class Counted(NamedTuple):
    """What is to be written of events that were counted. ``has_more``: there are others, so it is due again at once."""

    organization_id: UUID
    after: int
    sequence: int
    at: datetime
    has_more: bool
    counts: Sequence[Counts]
    priced: Sequence[Priced]
    hours: Sequence[datetime]


async def write(connection: asyncpg.Connection, counted: Counted) -> bool:
    """Write counts and how far they go, unless somebody else was faster (worker, in a transaction)."""
    rows = *_columns(Counts, counted.counts), *_columns(Priced, counted.priced)
    is_first: bool = await connection.fetchval(WRITE, *counted[:5], MINUTES_KEPT, HOURS_KEPT, *rows)
    if is_first and counted.hours:
        await connection.execute(SUM_UP, counted.organization_id, counted.hours)
    return is_first
