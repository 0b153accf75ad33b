"""How an organization's providers are doing, as a whole and as a stream of changes."""

from collections.abc import AsyncGenerator
from time import monotonic
from uuid import UUID

import msgspec

from ..health.status import ProvidersStatus, changes, status_of
from ..storage.database import StoreUnavailable
from ..storage.statements import health
from ..storage.statements.health import ConfigHealth, OrganizationHealth
from ..web.problems import Problem, not_found
from ..web.waiting import Stream
from . import AnyRequest, ApiRequest
from .events import HEARTBEAT_S

# Changes wake the stream in every process; what is known of no transaction (a breaker) is found by looking.
LOOK_S = 1.0

_encode = msgspec.json.Encoder().encode


async def health_of(request: AnyRequest) -> dict[UUID, ConfigHealth]:
    """How the account of each config is doing."""
    return {config.config_id: config for config in (await stored_health(request)).configs}


async def stream_status(request: ApiRequest) -> Stream:
    """GET …/status: server-sent events, first `status`, the whole, then a `change` for each.

    `Last-Event-ID` is not needed: who comes back begins with the whole again.
    """
    stream = _stream(request, await current_status(request))
    return Stream(request.state["waiting"].room(request.organization_id), stream)


async def stored_health(request: AnyRequest) -> OrganizationHealth:
    """Where the organization stands, and how each of its configs is doing."""
    async with request.connection() as connection:
        stored = await health.of_organization(connection, request.organization_id)
    if stored is None:
        raise not_found()
    latest = request.state["manager"].activity.latest
    configs = [latest(request.organization_id, config) for config in stored.configs]
    return msgspec.structs.replace(stored, configs=configs)


async def current_status(request: AnyRequest) -> ProvidersStatus:
    """How all of the organization's providers are doing."""
    return status_of(await stored_health(request), request.state["breaker_of"])


async def _status_now(request: AnyRequest, known: ProvidersStatus) -> ProvidersStatus | None:
    """As `_status`; *known* while the database is away, and None where who asks may not see it any more."""
    try:
        await request.authorize()
        return await current_status(request)
    except Problem:
        return None
    except StoreUnavailable:
        return known


async def _stream(request: AnyRequest, known: ProvidersStatus) -> AsyncGenerator[bytes, None]:
    changed, closing = request.state["changes"], request.state["closing"]
    quiet_since = monotonic()
    with changed.subscribed(request.organization_id) as waiter:
        yield b"retry: 1000\n\nevent: status\ndata: %s\n\n" % _encode(known)
        while not closing.is_set():
            await changed.wait(waiter, LOOK_S)
            now = await _status_now(request, known)
            if now is None:  # the stream ends; who comes again learns why
                return
            if found := changes(known, now):
                known, quiet_since = now, monotonic()
                yield b"event: change\ndata: %s\n\n" % _encode(found)
            elif monotonic() - quiet_since > HEARTBEAT_S:
                quiet_since = monotonic()
                yield b": still here\n\n"
