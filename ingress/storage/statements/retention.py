"""How long an organization keeps what is its own."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from ...validation import Unlogged
from ..columns import assignments, names, parameters


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
