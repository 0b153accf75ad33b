"""What was counted of each config, read for charts and for a month's sums."""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import msgspec

from ...columns import names, read
from ..figures import HOUR, MINUTE, SUMS, Priced

COUNTED_AT = "select counted_at from figures_progress where organization_id = $1"


async def counted_at(connection: asyncpg.Connection, organization_id: UUID) -> datetime | None:
    """Until when the organization's events are counted (organization)."""
    at: datetime | None = await connection.fetchval(COUNTED_AT, organization_id)
    return at


# From $5 on only what is added up: all else is counted from the messages.
STEPS = f"""
select config_id, date_bin($2, since, $3) as since, max(provider) as provider, {SUMS}
from (
    select * from provider_figures where organization_id = $1 and minutes = {HOUR} and since >= $3 and since < $4
    union all
    select * from provider_figures where organization_id = $1 and minutes = {MINUTE} and since >= $4 and since < $5
    union all
    select organization_id, config_id, minutes, since, provider, 0, 0, 0, received, '{{}}', undelivered, '{{}}', null, null
    from provider_figures where organization_id = $1 and minutes = {MINUTE} and since >= $5
) counts group by 1, 2"""


class StepCounts(msgspec.Struct):
    """What went through a config in one step of a chart."""

    config_id: UUID
    since: datetime
    provider: str | None
    tried: int
    sent: int
    fallbacks: int
    received: int
    errors: list[int]
    undelivered: list[int]
    durations: list[int]


async def steps(
    connection: asyncpg.Connection,
    organization_id: UUID,
    step: timedelta,
    start: datetime,
    minutes_from: datetime,
    live_from: datetime,
) -> list[StepCounts]:
    """What was counted from *start* on, in steps: hours, then minutes, then only what is added up (organization)."""
    rows = await connection.fetch(STEPS, organization_id, step, start, minutes_from, live_from)
    return [read(StepCounts, row) for row in rows]


class MonthCounts(msgspec.Struct, frozen=True):
    """What went through a config in a month."""

    config_id: UUID
    provider: str | None
    sent: int
    received: int
    cost: Decimal | None
    currency: str | None


MONTH = f"""
select config_id, max(provider) as provider, {SUMS} from provider_figures
where organization_id = $1 and minutes = {HOUR} and since >= $2 and since < $3 group by config_id order by config_id"""


async def month(
    connection: asyncpg.Connection, organization_id: UUID, since: datetime, until: datetime
) -> list[MonthCounts]:
    """What went through each config in a month (organization)."""
    return [read(MonthCounts, row) for row in await connection.fetch(MONTH, organization_id, since, until)]


# As many as a provider has categories, and some. Who signs webhooks as a provider does can invent others.
PRICED = f"""
select {names(Priced)} from provider_usage where organization_id = $1 and month = $2
order by messages desc, category, kind limit 200"""


async def priced(connection: asyncpg.Connection, organization_id: UUID, month: datetime) -> list[Priced]:
    """What providers delivered and priced in a month, most first (organization)."""
    return [Priced(*row) for row in await connection.fetch(PRICED, organization_id, month)]
