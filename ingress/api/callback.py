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
from ..storage.partitions import sequence_of
from ..storage.statements import organizations, parked
from ..storage.statements.organizations import Callback
from ..storage.statements.parked import ParkedEvent, ParkedFilter
from ..storage.statements.reports import callback_history
from ..storage.statements.reports.callback_history import ParkedGroup
from ..storage.vault import VaultError
from ..web.bodies import Number, Paged, RequestBody, RequestQuery, Shown, invalid, page_of
from ..web.problems import not_found
from . import AnyRequest, ApiRequest
from .audit import note


class NewCallback(RequestBody, frozen=True, kw_only=True):
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


_Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class Replay(RequestBody, frozen=True, kw_only=True):
    """Which parked events: all, but for what is given. ``after``, ``through``: as GET /callback/parked/count says."""

    sequences: Annotated[list[_Sequence], msgspec.Meta(max_length=1000)] | None = None
    last_error: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    type: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    after: _Sequence | None = None
    through: _Sequence | None = None


class CallbackSet(Shown, frozen=True):
    """``secret``: shown this once."""

    url: str
    secret: str


class SecretShown(Shown, frozen=True):
    """A secret that signs. ``expires_at`` None: the newest."""

    fingerprint: str
    expires_at: datetime | None


class CallbackShown(Shown, frozen=True):
    """``url``: masked for who may not set it. ``secrets`` None: they cannot be opened."""

    url: str
    state: str
    disabled_reason: str | None
    failing_since: datetime | None
    last_error: str | None
    consecutive_failures: int
    paused_until: datetime | None
    secrets: list[SecretShown] | None


class CallbackTested(Shown, frozen=True):
    """How the test event ``id`` went. ``answer`` is the HTTP status, ``body`` what the answer began with."""

    delivered: bool
    outcome: str
    error: str | None
    id: str
    answer: int | None
    ms: int | None
    body: str


class DeliveryShown(Shown, frozen=True):
    """``id``: of the event. ``answer``: the HTTP status of the last attempt."""

    id: str
    sequence: int
    type: str
    conversation_id: UUID
    state: str
    attempts: int
    answer: int | None
    last_error: str | None
    created_at: datetime
    failed_at: datetime | None
    finished_at: datetime | None


class Deliveries(Shown, frozen=True):
    deliveries: list[DeliveryShown]
    next: int | UnsetType = UNSET


class DeliveriesQuery(Paged, frozen=True):
    before: Number = 0


class ParkedEvents(Shown, frozen=True):
    parked: list[ParkedEvent]
    next: int | UnsetType = UNSET


class ParkedQuery(Paged, frozen=True):
    after: Number = 0


class CountQuery(RequestQuery, frozen=True):
    """Behind which event."""

    after: Number = 0


class ParkedCounted(Shown, frozen=True):
    """The oldest ``events`` of those that were given up. ``more``: there are others: ``through`` is their ``after``."""

    events: int
    groups: list[ParkedGroup]
    through: int | None
    more: bool


class Replayed(Shown, frozen=True):
    """How many events."""

    replayed: int


# Of parked events: a fifth of a second's work.
COUNTED_AT_MOST = 10_000
_encode = msgspec.json.Encoder().encode


async def put_callback(request: ApiRequest[NewCallback]) -> CallbackSet:
    """PUT /callback: where events are posted; a new secret, shown this once. Former ones sign on for a day."""
    return await set_callback(request, (await request.decoded()).url)


async def set_callback(request: AnyRequest, url: str) -> CallbackSet:
    """Have events posted to *url*. Raises `Problem` 422."""
    try:
        request.state["egress"].check_url(url)
    except InvalidUrl as error:
        raise invalid(("url", str(error))) from None
    # What a callback that was removed has left is for this one only if it is asked for.
    await _throughout(request, parked.park)
    secret = await _put(request, url)
    # Who sets it has repaired it: what failed is not kept waiting for the hours it would be left alone.
    await _throughout(request, parked.due_now)
    request.state["wakeups"].notify(request.organization_id)
    return CallbackSet(url, secret)


async def _put(request: AnyRequest, url: str) -> str:
    """Its new secret."""
    organization_id, vault = request.organization_id, request.state["vault"]
    async with request.connection() as connection:
        await organizations.lock_callback(connection, organization_id)
        former = await organizations.callback(connection, organization_id)
        in_use = endpoint_of(vault, organization_id, former).secrets if former else []
        secrets = rotated(in_use, datetime.now(UTC))
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
        _secrets_of(request, callback),
    )


def _secrets_of(request: AnyRequest, callback: Callback) -> list[SecretShown] | None:
    vault, now = request.state["vault"], datetime.now(UTC)
    try:
        secrets = endpoint_of(vault, request.organization_id, callback).secrets
    except VaultError:  # the rest is of use all the same
        return None
    return [
        SecretShown(vault.fingerprint(each.secret), each.expires_at)
        for each in secrets
        if each.expires_at is None or each.expires_at > now
    ]


async def enable_callback(request: ApiRequest) -> CallbackShown:
    """POST /callback/enable: post to it again, as it is; what failed is tried at once."""
    organization_id = request.organization_id
    async with request.connection() as connection:
        if not await organizations.enable_callback(connection, organization_id):
            raise not_found()
        await note(connection, request, organization_id, "callback_enabled", None)
    await _throughout(request, parked.due_now)
    request.state["wakeups"].notify(organization_id)
    return await get_callback(request)


async def delete_callback(request: ApiRequest) -> None:
    """DELETE /callback: nothing is posted any more; events stay readable, and what was to be delivered is parked."""
    organization_id = request.organization_id
    async with request.connection() as connection:
        dropped = await organizations.drop_callback(connection, organization_id)
        if dropped:
            await note(connection, request, organization_id, "callback_removed", None)
    await _throughout(request, parked.park)  # also the rest, where a former call broke off
    if not dropped:
        raise not_found()


async def test_callback(request: ApiRequest) -> CallbackTested:
    """POST /callback/test: post one signed test event now, and say how it went."""
    organization_id = request.organization_id
    request.check_calls_out()
    callback, event_id = await _callback_of(request), f"evt_{identifiers.new_id().hex}"
    answer, elapsed_s = await _post_test(request, callback, event_id)
    async with request.connection() as connection:
        done = {"id": event_id, "outcome": answer.kind}
        await note(connection, request, organization_id, "callback_tested", done)
    return _tested(event_id, answer, elapsed_s)


def _tested(event_id: str, answer: PostAnswer, elapsed_s: float) -> CallbackTested:
    # What it was with no answer would say whether there is such a name.
    ms = None if answer.status is None else round(elapsed_s * 1000)
    body = answer.body.decode(errors="replace")
    return CallbackTested(answer.ok, answer.kind, answer.error, event_id, answer.status, ms, body)


async def _post_test(request: AnyRequest, callback: Callback, event_id: str) -> tuple[PostAnswer, float]:
    """How it went, and how long it took."""
    endpoint = endpoint_of(request.state["vault"], request.organization_id, callback)
    began = monotonic()
    with request.state["transfers"].room(request.organization_id):
        event = _test_event(request.organization_id, event_id)
        answer = await post(request.state["session"], endpoint, event_id, event)
    elapsed_s = monotonic() - began
    if answer.kind == "connection":  # how fast it fails would say whether there is such a name
        await asyncio.sleep(began + UNREACHED_AFTER_S - monotonic())
    return answer, elapsed_s


def _test_event(organization_id: UUID, event_id: str) -> bytes:
    data = {"organization_id": organization_id}
    return _encode({"type": "callback.test", "timestamp": timestamp(datetime.now(UTC)), "id": event_id, "data": data})


async def list_deliveries(request: ApiRequest[None, DeliveriesQuery]) -> Deliveries:
    """GET /callback/deliveries: how deliveries to the callback ended, newest first; `next` is the next `before`."""
    return await latest_deliveries(request, request.query)


async def latest_deliveries(request: AnyRequest, query: DeliveriesQuery) -> Deliveries:
    """A page of them."""
    organization_id = request.organization_id
    async with request.connection() as connection:
        found = await callback_history.latest(connection, organization_id, query.before or None, query.size + 1)
    shown = [
        DeliveryShown(identifiers.event_id(organization_id, each.sequence), *msgspec.structs.astuple(each))
        for each in found
    ]
    return page_of(Deliveries, shown, query.size, "sequence")


async def count_parked(request: ApiRequest[None, CountQuery]) -> ParkedCounted:
    """GET /callback/parked/count?after=0: how many events were given up, by type and reason, 10,000 at a time."""
    return await parked_counted(request, COUNTED_AT_MOST, request.query.after)


async def parked_counted(request: AnyRequest, at_most: int, after: int = 0) -> ParkedCounted:
    """The oldest *at_most* of them, behind *after*."""
    async with request.connection() as connection:
        found = await callback_history.count_parked(connection, request.organization_id, at_most, after)
    return ParkedCounted(sum(group.events for group in found.groups), *found)


async def list_parked(request: ApiRequest[None, ParkedQuery]) -> ParkedEvents:
    """GET /callback/parked: events that were given up; `next` is the next page's `after`."""
    organization_id, query = request.organization_id, request.query
    async with request.connection() as connection:
        found = await parked.parked(connection, organization_id, query.after, query.size + 1)
    return page_of(ParkedEvents, found, query.size, "sequence")


async def replay_parked(request: ApiRequest[Replay]) -> Replayed:
    """POST /callback/replay: deliver parked events after all."""
    body = await request.decoded()
    return await replay(request, ParkedFilter(body.sequences, body.last_error, body.type, body.through, body.after))


async def replay(request: AnyRequest, wanted: ParkedFilter) -> Replayed:
    """Deliver the parked events that are *wanted*, but for those past the service's time.

    A delivery that is tried holds the partition that it is in, and with it what all others have there.
    """
    organization_id, replayed, is_first = request.organization_id, 0, True
    noted = {name: value for name, value in wanted._asdict().items() if value is not None}
    async with request.connection() as connection:
        kept_since = request.state["periods"].before("events", datetime.now(UTC))
        after: int | None = max(await sequence_of(connection, kept_since), wanted.after or 0)
    while after is not None:
        async with request.connection() as connection:
            count, after = await parked.replay(connection, organization_id, wanted, after)
            if is_first:  # once, with the first batch of them
                await note(connection, request, organization_id, "parked_replayed", {"sequences": "all"} | noted)
                is_first = False
        replayed += count
    request.state["wakeups"].notify(organization_id)
    return Replayed(replayed)


async def _throughout(request: AnyRequest, part: Callable[[Any, UUID, UUID], Awaitable[UUID | None]]) -> None:
    """All of a backlog, a batch of conversations in a transaction: see `parked.BATCH_ROWS`."""
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
