"""What the console calls attention to: news of providers and accounts, and what waits for somebody."""

from datetime import datetime
from uuid import UUID

import asyncpg

from ....validation import Unlogged
from ..deliveries import waiting_of
from ..events import of_type

# Of what waits no more are counted: nobody does anything else about thousands than about these.
COUNTED = 100
TYPES = ("provider.switched", "provider.unhealthy", "provider.recovered", "provider.rolled_back", "account.updated")


class Notification(Unlogged, frozen=True):
    """``kind``: the type of an event, whose ``data`` is here; or `deliveries_parked`, `quarantine_open`, each with how many
    (``number``, more than COUNTED counts as one more), or `audit_broken` with the number of the entry.
    """

    kind: str
    at: datetime
    number: int | None
    config_id: UUID | None
    config_name: str | None
    data: bytes | None
    is_unread: bool


# Some steps in an index for each of them, whatever the organization has. The end of a trail that is broken is verified every
# hour, and said every hour.
NEWEST = f"""
with found as (
    (select type as kind, created_at as at, null::bigint as number, config_id, data
    from unnest(array{[*TYPES]}) as kinds (wanted) cross join lateral (
        select * from events where organization_id = $1 and {of_type("wanted")}
        order by type desc, sequence desc limit $3
    ) as newest order by sequence desc limit $3)
    union all
    select 'deliveries_parked', coalesce(max(finished_at), 'epoch'), count(*), null, null from (
        select finished_at from deliveries where {waiting_of("$1", "parked")}
        order by state desc, organization_id desc, sequence desc limit {COUNTED + 1}
    ) as parked having count(*) > 0
    union all
    select 'quarantine_open', max(received_at), count(*), null, null from (
        select received_at from quarantine where organization_id = $1 and state = 'open' and not foreign_item
        order by id desc limit {COUNTED + 1}
    ) as aside having count(*) > 0
    union all
    select 'audit_broken', least(now(), audit_due_at - interval '1 hour'), audit_broken, null, null
    from organizations where id = $1 and coalesce(audit_broken, 0) > 0
)
select found.kind, found.at, found.number, found.config_id, c.name as config_name, found.data,
    found.at > coalesce(mark.seen_at, '-infinity') as is_unread
from found
left join whatsapp_provider_configs c on c.organization_id = $1 and c.id = found.config_id
left join notification_marks mark on mark.organization_id = $1 and mark.key_id = $2
order by found.at desc limit $3"""


async def newest(connection: asyncpg.Connection, organization_id: UUID, key_id: str, limit: int) -> list[Notification]:
    """The newest first; which are unread depends on who asks (organization)."""
    rows = await connection.fetch(NEWEST, organization_id, key_id, limit)
    return [Notification(*row) for row in rows]


MARK = """
insert into notification_marks (organization_id, key_id, seen_at) values ($1, $2, $3)
on conflict (organization_id, key_id) do update set seen_at = greatest(notification_marks.seen_at, excluded.seen_at)"""


async def mark(connection: asyncpg.Connection, organization_id: UUID, key_id: str, seen_at: datetime) -> None:
    """Who uses the key has seen all until then (organization)."""
    await connection.execute(MARK, organization_id, key_id, seen_at)
