"""The quarantine: bodies that could not be read, and reading them again."""

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from providers import Malformed

from ..identifiers import PLATFORM_ID, parse_id
from ..receiving.webhooks import WebhookReceiver
from ..storage.database import Database
from ..storage.statements import inbound
from ..storage.statements.retention import MAX_AGE
from ..switching.manager import WhatsAppProviderManager
from ..web.auth import Principal, authorize_platform, organization_of
from ..web.bodies import id_of, limit_of, page_response
from ..web.problems import Problem, json_response, not_found
from ..web.waiting import Waiting, json_page
from .audit import note


async def _whose(request: Request[Any], scope: str) -> tuple[UUID, Principal, bool]:
    """Under whose addresses it came in, who asks, and whether for what only the platform may see of it (?foreign=1).

    Without an organization that is what came in at the addresses of apps. Raises `Problem`.
    """
    if request.query_params.get("foreign") in ("1", "true"):
        principal = await authorize_platform(request)
        return principal.organization_id or PLATFORM_ID, principal, True
    organization_id, principal = await organization_of(request, scope)
    return organization_id, principal, False


def _quarantine(request: Request[Any], organization_id: UUID, foreign: bool) -> AbstractAsyncContextManager[Any]:
    """A connection that sees the organization's, or, where *foreign*, what row-level security hides from it."""
    database: Database = request.state["database"]
    return database.worker() if foreign else database.organization(organization_id)


async def list_quarantine(request: Request[Any]) -> Response:
    """GET /quarantine?state=open: bodies that could not be read; `next` is the next page's `after`."""
    organization_id, _, foreign = await _whose(request, "read")
    state = request.query_params.get("state", "open")
    if state not in ("open", "replayed", "discarded"):
        raise Problem(
            422, "invalid_request", "A query parameter is not valid.", errors=[("state", "open, replayed or discarded")]
        )
    after, limit = id_of(request, "after"), limit_of(request)
    async with _quarantine(request, organization_id, foreign) as connection:
        rows = await inbound.quarantined(connection, organization_id, state, after, limit + 1, foreign=foreign)
    return page_response("quarantine", [dict(row) for row in rows], limit)


async def _quarantine_item(request: Request[Any], organization_id: UUID, foreign: bool) -> Any:
    quarantine_id = parse_id(request.path_params["quarantine_id"])
    if quarantine_id is None:
        raise not_found()
    async with _quarantine(request, organization_id, foreign) as connection:
        row = await inbound.quarantine_item(connection, organization_id, quarantine_id, foreign=foreign)
    if row is None:
        raise not_found()
    return row


async def show_quarantine(request: Request[Any]) -> Response:
    """GET /quarantine/{id}: with the body, base64 (bytes that could not be read need not be text)."""
    organization_id, principal, foreign = await _whose(request, "read")

    async def read() -> object:
        row = await _quarantine_item(request, organization_id, foreign)
        if foreign:  # nobody else sees it, so who looks at it is written down
            async with _quarantine(request, organization_id, foreign) as connection, connection.transaction():
                await note(connection, request, principal, organization_id, "quarantine_shown", _item(row))
        return {name: row[name] for name in ("id", "config_id", "received_at", "reason", "state", "body")}

    return json_page(request, organization_id, read)


async def replay_quarantine(request: Request[Any]) -> Response:
    """POST /quarantine/{id}/replay: read the body again; 409 if still nothing can be read in it."""
    organization_id, principal, foreign = await _whose(request, "configure")
    waiting: Waiting = request.state["waiting"]
    async with waiting.replay(organization_id):
        return await _replayed(request, principal, organization_id, foreign)


async def _replayed(request: Request[Any], principal: Principal, organization_id: UUID, foreign: bool) -> Response:
    row = await _quarantine_item(request, organization_id, foreign)
    if row["state"] != "open":
        raise Problem(409, "not_open", f"It was {row['state']} already.")
    if row["partly_taken"] and datetime.now(UTC) - row["received_at"] > MAX_AGE:
        raise Problem(
            409, "too_old", "Part of it was taken when it came, too long ago to be known again. It stays here."
        )
    manager: WhatsAppProviderManager = request.state["manager"]
    config = await manager.receiver(organization_id, row["config_id"])
    if config is None:
        raise not_found()
    receiver: WebhookReceiver = request.state["receiver"]
    try:
        fresh, is_whole = await receiver.replay(config, row, foreign=foreign)
    except Malformed:
        raise Problem(409, "still_unreadable", "Still nothing can be read in it; it stays here.") from None
    if not is_whole:  # in part it is about accounts that are nobody's yet
        async with _quarantine(request, organization_id, foreign) as connection, connection.transaction():
            after = {**_item(row), "events": fresh}
            await note(connection, request, principal, organization_id, "quarantine_replayed", after)
        return json_response({"state": "open", "events": fresh})
    await _close(request, principal, organization_id, row, "replayed", foreign)
    return json_response({"state": "replayed", "events": fresh})


async def discard_quarantine(request: Request[Any]) -> Response:
    """POST /quarantine/{id}/discard: nobody needs it."""
    organization_id, principal, foreign = await _whose(request, "configure")
    row = await _quarantine_item(request, organization_id, foreign)
    if not await _close(request, principal, organization_id, row, "discarded", foreign):
        raise Problem(409, "not_open", f"It was {row['state']} already.")
    return json_response({"state": "discarded"})


async def _close(
    request: Request[Any], principal: Principal, organization_id: UUID, row: Any, state: str, foreign: bool
) -> bool:
    """False: somebody else was faster."""
    async with _quarantine(request, organization_id, foreign) as connection, connection.transaction():
        closed = await inbound.close_quarantined(connection, organization_id, row["id"], state, foreign=foreign)
        if closed:
            await note(connection, request, principal, organization_id, f"quarantine_{state}", _item(row))
    return closed


def _item(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "config_id", "reason")}
