"""How long an organization keeps what is its own, from where on it is all there, and whose turn it is to delete."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from ....validation import Unlogged
from ...columns import assignments, names, parameters


class OwnPeriods(Unlogged, frozen=True):
    """Days that an organization has set. None: as the service."""

    bodies_days: int | None = None
    events_days: int | None = None
    statuses_days: int | None = None


_OWN = names(OwnPeriods)
GET = f"select {_OWN}, updated_at from retention_settings where organization_id = $1"
PUT = f"""
insert into retention_settings (organization_id, {_OWN}) values ($1, {parameters(OwnPeriods, 2)})
on conflict (organization_id) do update set {assignments(OwnPeriods, 2)}, updated_at = now()"""


async def own(connection: asyncpg.Connection, organization_id: UUID) -> tuple[OwnPeriods, datetime | None]:
    """What the organization has set, and when; None: never (organization, worker)."""
    row = await connection.fetchrow(GET, organization_id)
    return (OwnPeriods(*row[:-1]), row["updated_at"]) if row else (OwnPeriods(), None)


async def set_own(connection: asyncpg.Connection, organization_id: UUID, periods: OwnPeriods) -> None:
    """(organization)"""
    await connection.execute(PUT, organization_id, *msgspec.structs.astuple(periods))


class KeptShorter(NamedTuple):
    """An organization that keeps something shorter than the service, and since when."""

    organization_id: UUID
    own: OwnPeriods
    updated_at: datetime


SHORTER = f"""
select organization_id, {_OWN}, updated_at from retention_settings
where num_nonnulls({_OWN}) > 0 order by organization_id /* every organization_id */"""


async def shorter(connection: asyncpg.Connection) -> list[KeptShorter]:
    """Every organization that has set something (worker, all organizations)."""
    rows = await connection.fetch(SHORTER)
    return [KeptShorter(row[0], OwnPeriods(*row[1:-1]), row["updated_at"]) for row in rows]


# ------------------------------------------------------------------ from where on it is all there


class KeptSince(NamedTuple):
    """All events above ``sequence``, and all messages since ``since``, are there."""

    sequence: int
    since: datetime


KEPT = "select sequence, since from retention_marks where organization_id = $1"
# Before rows are deleted, in a transaction of its own or in theirs: who is not given them is sure to be given this.
MARK = """
insert into retention_marks (organization_id, sequence, since) values ($1, $2, $3)
on conflict (organization_id) do update set sequence = greatest(retention_marks.sequence, excluded.sequence),
    since = greatest(retention_marks.since, excluded.since)"""
MARK_NEXT = """
with marked as (
    insert into retention_marks (organization_id, sequence, since)
    select o.id, coalesce((select e.sequence from events e where e.organization_id = o.id and e.sequence < (select $3::bigint)
        order by e.sequence desc limit 1), 0), $4
    from organizations o where o.id > $1 and o.created_at < $4 order by o.id limit $2
    on conflict (organization_id) do update set sequence = greatest(retention_marks.sequence, excluded.sequence),
        since = greatest(retention_marks.since, excluded.since)
    returning organization_id
)
select organization_id from marked order by organization_id desc limit 1 /* every organization_id */"""


async def kept(connection: asyncpg.Connection, organization_id: UUID) -> KeptSince | None:
    """None: nothing of the organization was deleted yet (organization, worker)."""
    row = await connection.fetchrow(KEPT, organization_id)
    return KeptSince(*row) if row else None


async def mark(connection: asyncpg.Connection, organization_id: UUID, kept: KeptSince) -> None:
    """Note what is about to be deleted of one organization (worker)."""
    await connection.execute(MARK, organization_id, *kept)


async def mark_next(connection: asyncpg.Connection, after: UUID, limit: int, kept: KeptSince) -> UUID | None:
    """Note of the organizations above *after* that their events below a sequence, and what is older, may go.

    The last of them; None: there was none (worker, all organizations).
    """
    last: UUID | None = await connection.fetchval(MARK_NEXT, after, limit, *kept)
    return last


# ------------------------------------------------------------------ whose turn it is

TAKE_TURN = """
update retention_turn set lease_id = $1, leased_until = now() + make_interval(secs => $2)
where (lease_id is null or leased_until < now() or lease_id = $1)
    and (ran_at is null or ran_at <= now() - make_interval(secs => $3))
returning lease_id"""
END_TURN = """
update retention_turn set lease_id = null, leased_until = null, ran_at = case when $2 then now() else ran_at end
where lease_id = $1"""
RAN_AT = "select ran_at from retention_turn"


async def take_turn(connection: asyncpg.Connection, lease_id: UUID, lease_s: float, every_s: float) -> bool:
    """Whether it is the caller's turn, for *lease_s*, or still is (worker)."""
    return await connection.fetchval(TAKE_TURN, lease_id, lease_s, every_s) is not None


async def end_turn(connection: asyncpg.Connection, lease_id: UUID, *, is_done: bool) -> None:
    """Leave it to others: next time after *every_s* where all *is_done* (worker)."""
    await connection.execute(END_TURN, lease_id, is_done)


async def ran_at(connection: asyncpg.Connection) -> datetime | None:
    """When everything past its time was last let go of (worker)."""
    moment: datetime | None = await connection.fetchval(RAN_AT)
    return moment


# ------------------------------------------------------------------ how far rows are deleted

PROGRESS = "select through, at from retention_progress where kind = $1 and days = $2"
SET_PROGRESS = """
insert into retention_progress (kind, days, through, at) values ($1, $2, $3, $4)
on conflict (kind, days) do update set through = excluded.through, at = excluded.at"""


class DeletedThrough(NamedTuple):
    """What came before ``through`` is gone, of who kept it so long ``at`` that time."""

    through: datetime
    at: datetime


async def progress(connection: asyncpg.Connection, kind: str, days: int) -> DeletedThrough | None:
    """None: nothing was deleted yet (worker)."""
    row = await connection.fetchrow(PROGRESS, kind, days)
    return DeletedThrough(*row) if row else None


async def set_progress(connection: asyncpg.Connection, kind: str, days: int, reached: DeletedThrough) -> None:
    """(worker)"""
    await connection.execute(SET_PROGRESS, kind, days, *reached)


NEXT_ORGANIZATIONS = "select id from organizations where id > $1 order by id limit $2 /* every organization_id */"


async def next_organizations(connection: asyncpg.Connection, after: UUID, limit: int) -> Sequence[UUID]:
    """Ids of organizations, oldest first (worker, all organizations)."""
    return [row[0] for row in await connection.fetch(NEXT_ORGANIZATIONS, after, limit)]
