"""The audit trail: what is written in it by handlers, reading it, and whether it is whole."""

from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .. import log
from ..audit import Actor, record, verify
from ..identifiers import PLATFORM_ID
from ..storage.database import Database
from ..storage.statements import audit
from ..web.auth import Principal, client_address, organization_of
from ..web.bodies import int_of, limit_of, page_of
from ..web.problems import json_response
from ..web.waiting import json_page


async def list_audit(request: Request[Any]) -> Response:
    """GET …/audit: every change of a provider, newest first; `next` is the next page's `before`."""
    organization_id, _ = await organization_of(request, "admin")
    before = int_of(request, "before", 0) or None
    limit = limit_of(request)
    database: Database = request.state["database"]

    async def read() -> object:
        async with database.organization(organization_id) as connection:
            rows = await audit.trail(connection, organization_id, before, limit + 1)
        more = bool(rows) and rows[-1]["followed"]
        return page_of("entries", [_entry(row) for row in rows], limit, more=more)

    return json_page(request, organization_id, read)


def _entry(row: asyncpg.Record) -> dict[str, Any]:
    plain = {name: row[name] for name in ("id", "at", "action", "actor", "address", "config_id", "version", "reason")}
    as_they_are = {name: msgspec.Raw(row[name] or b"null") for name in ("before", "after")}
    return {**plain, **as_they_are, "hash": row["hash"].hex()}


async def verify_audit(request: Request[Any]) -> Response:
    """GET …/audit/verify: whether nobody changed the trail. ?entries=&hash= are an end that was noted before."""
    organization_id, _ = await organization_of(request, "admin")
    noted = (int_of(request, "entries", 0), request.query_params.get("hash", "").lower())
    database, vault = request.state["database"], request.state["vault"]
    verdict = await verify(database, vault, organization_id, noted if all(noted) else None)
    return json_response(
        {"intact": verdict.broken is None, "entries": verdict.entries, "hash": verdict.hash}
        | ({"first_broken": verdict.broken, "reason": verdict.reason} if verdict.broken is not None else {})
    )


async def note(
    connection: Any, request: Request[Any], principal: Principal, organization_id: UUID, action: str, after: object
) -> None:
    actor = Actor(principal.name, client_address(request))
    if organization_id == PLATFORM_ID:  # what came in at the addresses of apps is in no organization's trail
        log.wide(action, actor=actor.name, address=actor.address, after=after)
        return
    await record(connection, request.state["vault"], organization_id, actor, action, after=after)
