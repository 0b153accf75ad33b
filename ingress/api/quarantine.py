"""The quarantine: bodies that could not be read, and reading them again."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from msgspec import UNSET, UnsetType

from providers import Malformed

from ..identifiers import PLATFORM_ID
from ..storage.statements.receiving import inbound
from ..storage.statements.receiving.inbound import QuarantinedBody, QuarantinedItem
from ..web.bodies import Paged, RequestQuery, Shown, page_of
from ..web.problems import Problem, not_found
from ..web.waiting import Page
from . import AnyRequest, ApiRequest
from .audit import note


class QuarantineScope(RequestQuery, frozen=True):
    """``foreign``: what only the platform may see, under the addresses of the organization, or those of apps."""

    foreign: bool = False


class QuarantineQuery(Paged, frozen=True):
    foreign: bool = False
    state: Literal["open", "replayed", "discarded"] = "open"
    after: UUID | None = None


class Quarantine(Shown, frozen=True):
    quarantine: list[QuarantinedItem]
    next: UUID | UnsetType = UNSET


class QuarantineShown(Shown, frozen=True):
    """``body`` in base64: bytes that could not be read need not be text."""

    id: UUID
    config_id: UUID
    received_at: datetime
    reason: str
    state: str
    body: bytes


class QuarantineState(Shown, frozen=True):
    """``open``: others have a part in it, and it stays. ``events``: how many there are now that were not."""

    state: str
    events: int | UnsetType = UNSET


ItemRequest = ApiRequest[None, QuarantineScope]


def _whose(request: ApiRequest[None, Any]) -> UUID:
    """Under whose addresses it came in; of apps' without an organization, which only the platform may ask for."""
    if request.query.foreign:
        request.check_platform()
        return request.principal.organization_id or PLATFORM_ID
    return request.organization_id


def _connection(request: ApiRequest[None, Any]) -> AbstractAsyncContextManager[Any]:
    """One that sees the organization's, or, where foreign, what row-level security hides from it."""
    return request.state["database"].worker() if request.query.foreign else request.connection()


async def list_quarantine(request: ApiRequest[None, QuarantineQuery]) -> Quarantine:
    """GET /quarantine?state=open: bodies that could not be read; `next` is the next page's `after`."""
    organization_id, query = _whose(request), request.query
    async with _connection(request) as connection:
        found = await inbound.quarantined(
            connection, organization_id, query.state, query.after, query.size + 1, foreign=query.foreign
        )
    return page_of(Quarantine, found, query.size)


async def item_of(
    request: AnyRequest, organization_id: UUID, quarantine_id: UUID, most_bytes: int = 2**31 - 1
) -> QuarantinedBody:
    """One of it, with the first bytes of its body. Raises `Problem` 404."""
    async with _connection(request) as connection:
        item = await inbound.quarantine_item(
            connection, organization_id, quarantine_id, foreign=request.query.foreign, most_bytes=most_bytes
        )
    if item is None:
        raise not_found()
    return item


async def show_quarantine(request: ItemRequest) -> Page[QuarantineShown]:
    """GET /quarantine/{id}: with the body, base64 (bytes that could not be read need not be text)."""
    organization_id = _whose(request)

    async def read() -> QuarantineShown:
        item = await item_of(request, organization_id, request.id_in_path("quarantine_id"))
        await note_look(request, organization_id, item)
        return QuarantineShown(item.id, item.config_id, item.received_at, item.reason, item.state, item.body)

    return request.page(read, organization_id)


async def note_look(request: AnyRequest, organization_id: UUID, item: QuarantinedBody) -> None:
    """People wrote it, so who reads it is written down; not each time, or who reads it all day would fill the trail."""
    looks, who = request.state["looks"], (request.principal.name, item.id)
    if looks.wait_s(who) == 0:
        await _note(request, organization_id, "quarantine_shown", item)
        looks.take(who)


async def replay_quarantine(request: ItemRequest) -> QuarantineState:
    """POST /quarantine/{id}/replay: read the body again; 409 if still nothing can be read in it."""
    return await replay(request, request.id_in_path("quarantine_id"))


async def replay(request: AnyRequest, quarantine_id: UUID) -> QuarantineState:
    """Read that one again. Raises `Problem` 404, 409 or 429."""
    organization_id = _whose(request)
    async with request.state["waiting"].replay(organization_id):
        return await _replayed(request, organization_id, quarantine_id)


async def _replayed(request: AnyRequest, organization_id: UUID, quarantine_id: UUID) -> QuarantineState:
    item = await item_of(request, organization_id, quarantine_id)
    _check_replayable(item, request.state["manager"].max_age)
    fresh, is_whole = await _read(request, organization_id, item)
    if not is_whole:  # in part it is about accounts that are nobody's yet
        await _note(request, organization_id, "quarantine_replayed", item, events=fresh)
        return QuarantineState("open", fresh)
    await _close(request, organization_id, item, "replayed")
    return QuarantineState("replayed", fresh)


async def _read(request: AnyRequest, organization_id: UUID, item: QuarantinedBody) -> tuple[int, bool]:
    """As `WebhookReceiver.replay`. Raises `Problem`."""
    config = await request.state["manager"].receiver(organization_id, item.config_id)
    if config is None:
        raise not_found()
    try:
        return await request.state["receiver"].replay(config, item, foreign=request.query.foreign)
    except Malformed:
        raise Problem(409, "still_unreadable", "This release cannot read it either. The item stays here.") from None


def _check_replayable(item: QuarantinedBody, max_age: timedelta) -> None:
    """Raises `Problem` 409."""
    if item.state != "open":
        raise _not_open(item)
    if item.partly_taken and datetime.now(UTC) - item.received_at > max_age:
        detail = "Part of it was taken when it came, too long ago to recognise it now. The item stays here."
        raise Problem(409, "too_old", detail)


async def discard_quarantine(request: ItemRequest) -> QuarantineState:
    """POST /quarantine/{id}/discard: nobody needs it."""
    return await discard(request, request.id_in_path("quarantine_id"))


async def discard(request: AnyRequest, quarantine_id: UUID) -> QuarantineState:
    """Let go of that one. Raises `Problem` 404, or 409 where it is not open."""
    organization_id = _whose(request)
    item = await item_of(request, organization_id, quarantine_id, 0)
    if not await _close(request, organization_id, item, "discarded"):
        raise _not_open(item)
    return QuarantineState("discarded")


def _not_open(item: QuarantinedBody) -> Problem:
    return Problem(409, "not_open", f"The item was {item.state} already.")


async def _close(request: AnyRequest, organization_id: UUID, item: QuarantinedBody, state: str) -> bool:
    """False: somebody else was faster."""
    async with _connection(request) as connection, connection.transaction():
        closed = await inbound.close_quarantined(
            connection, organization_id, item.id, state, foreign=request.query.foreign
        )
        if closed:
            await note(connection, request, organization_id, f"quarantine_{state}", _named(item), item.config_id)
    return closed


async def _note(request: AnyRequest, organization_id: UUID, action: str, item: QuarantinedBody, **more: object) -> None:
    async with _connection(request) as connection, connection.transaction():
        await note(connection, request, organization_id, action, _named(item) | more, item.config_id)


def _named(item: QuarantinedBody) -> dict[str, object]:
    return {"id": item.id, "config_id": item.config_id, "reason": item.reason}
