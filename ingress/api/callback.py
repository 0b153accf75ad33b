"""The CRM's callback: where events are posted, a test of it, and what was given up."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .. import identifiers
from ..calls.driver import UNREACHED_AFTER_S
from ..calls.egress import Egress, InvalidUrl
from ..calls.transfers import Busy, Transfers
from ..delivery.standard_webhooks import endpoint_of, post, rotated, sealed
from ..envelope import timestamp
from ..storage.database import Database
from ..storage.statements import deliveries
from ..storage.statements.deliveries import Callback
from ..storage.vault import Vault
from ..web.auth import organization_of
from ..web.bodies import decode_kept, int_of, limit_of, page_response
from ..web.limits import check_calls_out
from ..web.problems import Problem, json_response, not_found, unavailable
from .audit import note


class NewCallback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]

    def __repr__(self) -> str:
        return "NewCallback(…)"


class Replay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which parked events: those of ``sequences``, or all."""

    sequences: (
        Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]], msgspec.Meta(max_length=1000)] | None
    ) = None


_callback = msgspec.json.Decoder(NewCallback)
_replay = msgspec.json.Decoder(Replay)
_encode = msgspec.json.Encoder().encode


async def put_callback(request: Request[Any]) -> Response:
    """PUT /callback: where events are posted; a new secret, shown this once. Former ones sign on for a day."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _callback)
    egress: Egress = request.state["egress"]
    try:
        egress.check_url(asked.url)
    except InvalidUrl as error:
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[("url", str(error))]) from None
    database: Database = request.state["database"]
    # What a callback that was removed has left is for this one only if it is asked for.
    await _throughout(database, organization_id, deliveries.park)
    async with database.organization(organization_id) as connection:
        await deliveries.lock_callback(connection, organization_id)
        former = await deliveries.callback(connection, organization_id)
        vault: Vault = request.state["vault"]
        secrets = endpoint_of(vault, organization_id, former).secrets if former else []
        secrets = rotated(secrets, datetime.now(UTC))
        await deliveries.put_callback(connection, organization_id, asked.url, sealed(vault, organization_id, secrets))
        await note(
            connection, request, principal, organization_id, "callback_set", {"url": vault.masked_url(asked.url)}
        )
    # Who sets it has repaired it: what failed is not kept waiting for the hours it would be left alone.
    await _throughout(database, organization_id, deliveries.due_now)
    request.state["wakeups"].notify(organization_id)
    return json_response({"url": asked.url, "secret": secrets[0].secret})


async def get_callback(request: Request[Any]) -> Response:
    """GET /callback: its address (whole for who may set it) and health, without its secret."""
    organization_id, principal = await organization_of(request, "read")
    callback = await _callback_of(request, organization_id)
    vault: Vault = request.state["vault"]
    return json_response(
        {
            "url": callback.url if "configure" in principal.scopes else vault.masked_url(callback.url),
            "state": "disabled" if callback.disabled_at else "failing" if callback.failing_since else "healthy",
            "disabled_reason": callback.disabled_reason,
            "failing_since": callback.failing_since,
            "last_error": callback.last_error,
            "consecutive_failures": callback.consecutive_failures,
            "paused_until": callback.paused_until,
        }
    )


async def delete_callback(request: Request[Any]) -> Response:
    """DELETE /callback: nothing is posted any more; events stay readable, and what was to be delivered is parked."""
    organization_id, principal = await organization_of(request, "configure")
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        dropped = await deliveries.drop_callback(connection, organization_id)
        if dropped:
            await note(connection, request, principal, organization_id, "callback_removed", None)
    await _throughout(database, organization_id, deliveries.park)  # also the rest, where a former call broke off
    if not dropped:
        raise not_found()
    return Response(status_code=204)


async def test_callback(request: Request[Any]) -> Response:
    """POST /callback/test: post one signed test event now, and say how it went."""
    organization_id, principal = await organization_of(request, "configure")
    check_calls_out(request, organization_id)
    callback = await _callback_of(request, organization_id)
    endpoint = endpoint_of(request.state["vault"], organization_id, callback)
    event_id = f"evt_{identifiers.new_id().hex}"
    data = {"organization_id": organization_id}
    body = _encode({"type": "callback.test", "timestamp": timestamp(datetime.now(UTC)), "id": event_id, "data": data})
    session: aiohttp.ClientSession = request.state["session"]
    transfers: Transfers = request.state["transfers"]
    began = monotonic()
    try:
        with transfers.room(organization_id):
            answer = await post(session, endpoint, event_id, body)
    except Busy:
        raise unavailable("Too many calls of the organization are under way.") from None
    if answer.kind == "connection":  # how fast it fails would say whether there is such a name
        await asyncio.sleep(began + UNREACHED_AFTER_S - monotonic())
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        after = {"id": event_id, "outcome": answer.kind}
        await note(connection, request, principal, organization_id, "callback_tested", after)
    return json_response({"delivered": answer.ok, "outcome": answer.kind, "error": answer.error, "id": event_id})


async def list_parked(request: Request[Any]) -> Response:
    """GET /callback/parked: events that were given up; `next` is the next page's `after`."""
    organization_id, _ = await organization_of(request, "read")
    limit = limit_of(request)
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        rows = await deliveries.parked(connection, organization_id, int_of(request, "after", 0), limit + 1)
    return page_response("parked", [row._asdict() for row in rows], limit, "sequence")


async def replay_parked(request: Request[Any]) -> Response:
    """POST /callback/replay: deliver parked events after all."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _replay)
    database: Database = request.state["database"]
    replayed = 0
    after: int | None = 0
    while after is not None:
        async with database.organization(organization_id) as connection:
            count, after = await deliveries.replay(connection, organization_id, asked.sequences, after)
            if count and not replayed:  # once, with the first batch of them
                wanted = {"sequences": asked.sequences or "all"}
                await note(connection, request, principal, organization_id, "parked_replayed", wanted)
        replayed += count
    request.state["wakeups"].notify(organization_id)
    return json_response({"replayed": replayed})


async def _throughout(
    database: Database, organization_id: UUID, part: Callable[[Any, UUID, UUID], Awaitable[UUID | None]]
) -> None:
    """All of a backlog, a batch of conversations in a transaction: see `deliveries.BATCH_ROWS`."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        async with database.organization(organization_id) as connection:
            after = await part(connection, organization_id, after)


async def _callback_of(request: Request[Any], organization_id: UUID) -> Callback:
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        callback = await deliveries.callback(connection, organization_id)
    if callback is None:
        raise not_found()
    return callback
