"""The CRM's callback: where events are posted, a test of it, and what was given up."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from .. import identifiers
from ..calls.driver import UNREACHED_AFTER_S
from ..calls.egress import InvalidUrl
from ..delivery.standard_webhooks import PostAnswer, endpoint_of, post, rotated, sealed
from ..envelope import timestamp
from ..storage.statements import deliveries, organizations
from ..storage.statements.deliveries import ParkedEvent
from ..storage.statements.organizations import Callback
from ..web.bodies import Number, Paged, RequestBody, Shown, invalid, page_of
from ..web.problems import not_found
from . import AnyRequest, ApiRequest
from .audit import note


class NewCallback(RequestBody, frozen=True, kw_only=True):
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class Replay(RequestBody, frozen=True, kw_only=True):
    """Which parked events: those of ``sequences``, or all."""

    sequences: (
        Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]], msgspec.Meta(max_length=1000)] | None
    ) = None


class CallbackSet(Shown, frozen=True):
    """``secret``: shown this once."""

    url: str
    secret: str


class CallbackShown(Shown, frozen=True):
    """``url``: masked for who may not set it."""

    url: str
    state: str
    disabled_reason: str | None
    failing_since: datetime | None
    last_error: str | None
    consecutive_failures: int
    paused_until: datetime | None


class CallbackTested(Shown, frozen=True):
    """How the test event ``id`` went."""

    delivered: bool
    outcome: str
    error: str | None
    id: str


class ParkedEvents(Shown, frozen=True):
    parked: list[ParkedEvent]
    next: int | UnsetType = UNSET


class ParkedQuery(Paged, frozen=True):
    after: Number = 0


class Replayed(Shown, frozen=True):
    """How many events."""

    replayed: int


_encode = msgspec.json.Encoder().encode


async def put_callback(request: ApiRequest[NewCallback]) -> CallbackSet:
    """PUT /callback: where events are posted; a new secret, shown this once. Former ones sign on for a day."""
    url = (await request.decoded()).url
    try:
        request.state["egress"].check_url(url)
    except InvalidUrl as error:
        raise invalid(("url", str(error))) from None
    # What a callback that was removed has left is for this one only if it is asked for.
    await _throughout(request, deliveries.park)
    secret = await _put(request, url)
    # Who sets it has repaired it: what failed is not kept waiting for the hours it would be left alone.
    await _throughout(request, deliveries.due_now)
    request.state["wakeups"].notify(request.organization_id)
    return CallbackSet(url, secret)


async def _put(request: AnyRequest, url: str) -> str:
    """Its new secret."""
    organization_id, vault = request.organization_id, request.state["vault"]
    async with request.connection() as connection:
        await organizations.lock_callback(connection, organization_id)
        former = await organizations.callback(connection, organization_id)
        secrets = endpoint_of(vault, organization_id, former).secrets if former else []
        secrets = rotated(secrets, datetime.now(UTC))
        await organizations.put_callback(connection, organization_id, url, sealed(vault, organization_id, secrets))
        await note(connection, request, organization_id, "callback_set", {"url": vault.masked_url(url)})
    return secrets[0].secret


async def get_callback(request: ApiRequest) -> CallbackShown:
    """GET /callback: its address (whole for who may set it) and health, without its secret."""
    callback = await _callback_of(request)
    masked = "configure" not in request.principal.scopes
    return CallbackShown(
        request.state["vault"].masked_url(callback.url) if masked else callback.url,
        "disabled" if callback.disabled_at else "failing" if callback.failing_since else "healthy",
        callback.disabled_reason,
        callback.failing_since,
        callback.last_error,
        callback.consecutive_failures,
        callback.paused_until,
    )


async def delete_callback(request: ApiRequest) -> None:
    """DELETE /callback: nothing is posted any more; events stay readable, and what was to be delivered is parked."""
    organization_id = request.organization_id
    async with request.connection() as connection:
        dropped = await organizations.drop_callback(connection, organization_id)
        if dropped:
            await note(connection, request, organization_id, "callback_removed", None)
    await _throughout(request, deliveries.park)  # also the rest, where a former call broke off
    if not dropped:
        raise not_found()


async def test_callback(request: ApiRequest) -> CallbackTested:
    """POST /callback/test: post one signed test event now, and say how it went."""
    organization_id = request.organization_id
    request.check_calls_out()
    callback, event_id = await _callback_of(request), f"evt_{identifiers.new_id().hex}"
    answer = await _post_test(request, callback, event_id)
    async with request.connection() as connection:
        done = {"id": event_id, "outcome": answer.kind}
        await note(connection, request, organization_id, "callback_tested", done)
    return CallbackTested(answer.ok, answer.kind, answer.error, event_id)


async def _post_test(request: AnyRequest, callback: Callback, event_id: str) -> PostAnswer:
    endpoint = endpoint_of(request.state["vault"], request.organization_id, callback)
    began = monotonic()
    with request.state["transfers"].room(request.organization_id):
        event = _test_event(request.organization_id, event_id)
        answer = await post(request.state["session"], endpoint, event_id, event)
    if answer.kind == "connection":  # how fast it fails would say whether there is such a name
        await asyncio.sleep(began + UNREACHED_AFTER_S - monotonic())
    return answer


def _test_event(organization_id: UUID, event_id: str) -> bytes:
    data = {"organization_id": organization_id}
    return _encode({"type": "callback.test", "timestamp": timestamp(datetime.now(UTC)), "id": event_id, "data": data})


async def list_parked(request: ApiRequest[None, ParkedQuery]) -> ParkedEvents:
    """GET /callback/parked: events that were given up; `next` is the next page's `after`."""
    organization_id, query = request.organization_id, request.query
    async with request.connection() as connection:
        found = await deliveries.parked(connection, organization_id, query.after, query.size + 1)
    return page_of(ParkedEvents, found, query.size, "sequence")


async def replay_parked(request: ApiRequest[Replay]) -> Replayed:
    """POST /callback/replay: deliver parked events after all."""
    organization_id = request.organization_id
    sequences = (await request.decoded()).sequences
    replayed = 0
    after: int | None = 0
    while after is not None:
        async with request.connection() as connection:
            is_first = after == 0
            count, after = await deliveries.replay(connection, organization_id, sequences, after)
            if is_first:  # once, with the first batch of them
                await note(connection, request, organization_id, "parked_replayed", {"sequences": sequences or "all"})
        replayed += count
    request.state["wakeups"].notify(organization_id)
    return Replayed(replayed)


async def _throughout(request: AnyRequest, part: Callable[[Any, UUID, UUID], Awaitable[UUID | None]]) -> None:
    """All of a backlog, a batch of conversations in a transaction: see `deliveries.BATCH_ROWS`."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        async with request.connection() as connection:
            after = await part(connection, request.organization_id, after)


async def _callback_of(request: AnyRequest) -> Callback:
    async with request.connection() as connection:
        callback = await organizations.callback(connection, request.organization_id)
    if callback is None:
        raise not_found()
    return callback
