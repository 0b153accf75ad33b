"""How long an organization keeps what is its own: as the service, or shorter."""

from collections.abc import Iterator
from datetime import datetime

from ...retention.periods import Periods
from ...settings import Days
from ...storage.statements import organizations
from ...storage.statements.lifetime import retention
from ...storage.statements.lifetime.retention import OwnPeriods
from ...web.bodies import RequestBody, Shown, invalid
from .. import AnyRequest, ApiRequest
from ..audit import note


class NewRetention(RequestBody, frozen=True, kw_only=True):
    """Days. Null or left out: as the service."""

    bodies_days: Days | None = None
    events_days: Days | None = None
    statuses_days: Days | None = None


class Period(Shown, frozen=True):
    """``days`` are in force: the organization's ``own``, where it has any, else those of the ``service``."""

    days: int
    own: int | None
    service: int


class RetentionShown(Shown, frozen=True):
    """``keys`` are what repetitions are recognised by. ``updated_at`` None: the organization never set anything."""

    bodies: Period
    events: Period
    statuses: Period
    keys: Period
    audit: Period
    updated_at: datetime | None


async def show_retention(request: ApiRequest) -> RetentionShown:
    """GET /retention: for how many days each kind of data is kept."""
    async with request.connection() as connection:
        own, updated_at = await retention.own(connection, request.organization_id)
    return _shown(request, own, updated_at)


def _shown(request: AnyRequest, own: OwnPeriods, updated_at: datetime | None) -> RetentionShown:
    service: Periods = request.state["periods"]
    in_force = service.of(own)
    kinds = {
        kind: Period(getattr(in_force, kind), getattr(own, f"{kind}_days", None), getattr(service, kind))
        for kind in Periods.__struct_fields__
    }
    return RetentionShown(**kinds, updated_at=updated_at)


async def put_retention(request: ApiRequest[NewRetention]) -> RetentionShown:
    """PUT /retention: keep some of it shorter than the service does. What is past its time goes within a day or so."""
    return await set_retention(request, await request.decoded())


async def set_retention(request: AnyRequest, body: NewRetention) -> RetentionShown:
    """As *body* says. Raises `Problem` 422 where that is longer than the service."""
    organization_id = request.organization_id
    wanted = OwnPeriods(body.bodies_days, body.events_days, body.statuses_days)
    if wrong := list(_too_long(wanted, request.state["periods"])):
        raise invalid(*wrong)
    async with request.connection() as connection:
        await organizations.lock(connection, organization_id)
        former, _ = await retention.own(connection, organization_id)
        if wanted != former:
            await retention.set_own(connection, organization_id, wanted)
            await note(connection, request, organization_id, "retention_changed", wanted, before=former)
        return _shown(request, *await retention.own(connection, organization_id))


def _too_long(wanted: OwnPeriods, service: Periods) -> Iterator[tuple[str, str]]:
    for name in OwnPeriods.__struct_fields__:
        most = getattr(service, name.removesuffix("_days"))
        if (getattr(wanted, name) or 0) > most:
            yield name, f"must be a whole number from 1 to {most}"
