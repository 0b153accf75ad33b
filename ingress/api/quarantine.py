"""The quarantine: bodies that could not be read, and reading them again."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from msgspec import UNSET, UnsetType

from providers import Malformed

from ..identifiers import PLATFORM_ID
from ..storage.statements import inbound
from ..storage.statements.inbound import MAX_AGE, QuarantinedBody, QuarantinedItem
from ..web.bodies import Paged, RequestQuery, Shown, page_of
from ..web.problems import Problem, not_found
from ..web.waiting import Page
from . import ApiRequest
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


async def _item(request: ItemRequest, organization_id: UUID) -> QuarantinedBody:
    quarantine_id = request.id_in_path("quarantine_id")
    async with _connection(request) as connection:
        item = await inbound.quarantine_item(connection, organization_id, quarantine_id, foreign=request.query.foreign)
    if item is None:
        raise not_found()
    return item


async def show_quarantine(request: ItemRequest) -> Page[QuarantineShown]:
    """GET /quarantine/{id}: with the body, base64 (bytes that could not be read need not be text)."""
    organization_id = _whose(request)

    async def read() -> QuarantineShown:
        item = await _item(request, organization_id)
        await _note_look(request, organization_id, item)
        return QuarantineShown(item.id, item.config_id, item.received_at, item.reason, item.state, item.body)

    return request.page(read, organization_id)


async def _note_look(request: ItemRequest, organization_id: UUID, item: QuarantinedBody) -> None:
    """People wrote it, so who reads it is written down; not each time, or who reads it all day would fill the trail."""
    looks, who = request.state["looks"], (request.principal.name, item.id)
    if looks.wait_s(who) == 0:
        await _note(request, organization_id, "quarantine_shown", item)
        looks.take(who)


async def replay_quarantine(request: ItemRequest) -> QuarantineState:
    """POST /quarantine/{id}/replay: read the body again; 409 if still nothing can be read in it."""
    organization_id = _whose(request)
    async with request.state["waiting"].replay(organization_id):
        return await _replayed(request, organization_id)


async def _replayed(request: ItemRequest, organization_id: UUID) -> QuarantineState:
    item = await _item(request, organization_id)
    _check_replayable(item)
    fresh, is_whole = await _read(request, organization_id, item)
    if not is_whole:  # in part it is about accounts that are nobody's yet
        await _note(request, organization_id, "quarantine_replayed", item, events=fresh)
        return QuarantineState("open", fresh)
    await _close(request, organization_id, item, "replayed")
    return QuarantineState("replayed", fresh)


async def _read(request: ItemRequest, organization_id: UUID, item: QuarantinedBody) -> tuple[int, bool]:
    """As `WebhookReceiver.replay`. Raises `Problem`."""
    config = await request.state["manager"].receiver(organization_id, item.config_id)
    if config is None:
        raise not_found()
    try:
        return await request.state["receiver"].replay(config, item, foreign=request.query.foreign)
    except Malformed:
        raise Problem(409, "still_unreadable", "This release cannot read it either. The item stays here.") from None


def _check_replayable(item: QuarantinedBody) -> None:
    """Raises `Problem` 409."""
    if item.state != "open":
        raise _not_open(item)
    if item.partly_taken and datetime.now(UTC) - item.received_at > MAX_AGE:
        detail = "Part of it was taken when it came, too long ago to recognise it now. The item stays here."
        raise Problem(409, "too_old", detail)


async def discard_quarantine(request: ItemRequest) -> QuarantineState:
    """POST /quarantine/{id}/discard: nobody needs it."""
    organization_id = _whose(request)
    item = await _item(request, organization_id)
    if not await _close(request, organization_id, item, "discarded"):
        raise _not_open(item)
    return QuarantineState("discarded")


def _not_open(item: QuarantinedBody) -> Problem:
    return Problem(409, "not_open", f"The item was {item.state} already.")


async def _close(request: ItemRequest, organization_id: UUID, item: QuarantinedBody, state: str) -> bool:
    """False: somebody else was faster."""
    async with _connection(request) as connection, connection.transaction():
        closed = await inbound.close_quarantined(
            connection, organization_id, item.id, state, foreign=request.query.foreign
        )
        if closed:
            await note(connection, request, organization_id, f"quarantine_{state}", _named(item), item.config_id)
    return closed


async def _note(
    request: ItemRequest, organization_id: UUID, action: str, item: QuarantinedBody, **more: object
) -> None:
    async with _connection(request) as connection, connection.transaction():
        await note(connection, request, organization_id, action, _named(item) | more, item.config_id)


def _named(item: QuarantinedBody) -> dict[str, object]:
    return {"id": item.id, "config_id": item.config_id, "reason": item.reason}
