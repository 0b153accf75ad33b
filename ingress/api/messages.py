"""The messages that sends made: one with its attempts, and pages of them."""

from typing import Any

import asyncpg
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..identifiers import parse_id
from ..sending.message import state_of
from ..storage.database import Database
from ..storage.statements import sends
from ..web.auth import organization_of
from ..web.bodies import id_of, limit_of, page_of
from ..web.problems import json_response, not_found
from ..web.waiting import json_page


def _record(row: asyncpg.Record) -> dict[str, Any]:
    state = state_of(row)
    return {
        "id": state.id,
        "conversation_id": row["conversation_id"],
        "state": state.state,
        "status": state.status,
        "provider": state.provider,
        "config_id": state.config_id,
        "provider_message_id": state.provider_message_id,
        "fallback_from": state.fallback_from,
        "fallback_reason": state.fallback_reason,
        "attempts": state.attempts,
        "error": state.error,
        "cost": state.cost,
        "idempotency_key": row["idempotency_key"],
        "request": msgspec.Raw(row["request"]),
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "sent_at": state.sent_at,
        "expires_at": row["expires_at"],
    }


async def get_message(request: Request[Any]) -> Response:
    """GET /messages/{id}: its state, and every attempt with provider, class, code and duration."""
    organization_id, _ = await organization_of(request, "read")
    message_id = parse_id(request.path_params["message_id"])
    if message_id is None:
        raise not_found()
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        row = await sends.by_id(connection, organization_id, message_id)
        attempts = await sends.attempts(connection, organization_id, message_id)
    if row is None:
        raise not_found()
    return json_response(_record(row) | {"attempts": [dict(attempt) for attempt in attempts]})


async def list_messages(request: Request[Any]) -> Response:
    """GET /messages?conversation_id=&before=&limit=: newest first; `next` is the next page's `before`."""
    organization_id, _ = await organization_of(request, "read")
    conversation_id, before, limit = id_of(request, "conversation_id"), id_of(request, "before"), limit_of(request)
    database: Database = request.state["database"]

    async def read() -> object:
        async with database.organization(organization_id) as connection:
            rows = await sends.page(connection, organization_id, conversation_id, before, limit + 1)
        more = bool(rows) and rows[-1]["followed"]
        return page_of("messages", [_record(row) for row in rows], limit, more=more)

    return json_page(request, organization_id, read)
