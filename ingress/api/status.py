"""How an organization's providers are doing, as a whole and as a stream of changes."""

from collections.abc import AsyncGenerator
from time import monotonic
from uuid import UUID

import msgspec

from ..health.status import HealthShown, ProvidersStatus, changes, health_by_config, status_of
from ..storage.database import StoreUnavailable
from ..storage.statements import health
from ..storage.statements.health import OrganizationHealth
from ..web.problems import Problem, not_found
from ..web.waiting import Stream
from . import AnyRequest, ApiRequest
from .events import HEARTBEAT_S

# Changes wake the stream in every process; what is known of no transaction (a breaker) is found by looking.
LOOK_S = 1.0

_encode = msgspec.json.Encoder().encode


async def health_of(request: AnyRequest, organization_id: UUID) -> dict[UUID, HealthShown]:
    """How the account of each config is doing, with the time of the last look."""
    return health_by_config(await _stored(request, organization_id))


async def stream_status(request: ApiRequest) -> Stream:
    """GET …/status: server-sent events, first `status`, the whole, then a `change` for each.

    `Last-Event-ID` is not needed: who comes back begins with the whole again.
    """
    organization_id = request.organization_id
    stream = _stream(request, organization_id, await _status(request, organization_id))
    return Stream(request.state["waiting"].room(organization_id), stream)


async def _stored(request: AnyRequest, organization_id: UUID) -> OrganizationHealth:
    async with request.connection() as connection:
        stored = await health.of_organization(connection, organization_id)
    if stored is None:
        raise not_found()
    return stored


async def _status(request: AnyRequest, organization_id: UUID) -> ProvidersStatus:
    return status_of(await _stored(request, organization_id), request.state["breaker_of"])


async def _stream(request: AnyRequest, organization_id: UUID, known: ProvidersStatus) -> AsyncGenerator[bytes, None]:
    changed, closing = request.state["changes"], request.state["closing"]
    waiter = changed.subscribe(organization_id)
    quiet_since = monotonic()
    try:
        yield b"retry: 1000\n\nevent: status\ndata: %s\n\n" % _encode(known)
        while not closing.is_set():
            await changed.wait(waiter, LOOK_S)
            try:
                await request.authorize()
                now = await _status(request, organization_id)
            except Problem:  # revoked or expired: the stream ends; who comes again learns why
                return
            except StoreUnavailable:
                now = known  # it goes on where it was when the database is back
            if found := changes(known, now):
                known, quiet_since = now, monotonic()
                yield b"event: change\ndata: %s\n\n" % _encode(found)
            elif monotonic() - quiet_since > HEARTBEAT_S:
                quiet_since = monotonic()
                yield b": still here\n\n"
    finally:
        changed.unsubscribe(organization_id, waiter)
