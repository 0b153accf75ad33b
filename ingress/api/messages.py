"""The messages that sends made: one with its attempts, and pages of them."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..identifiers import parse_id
from ..storage.database import Database
from ..storage.statements import sends
from ..storage.statements.sends import StoredMessage
from ..web.auth import organization_of
from ..web.bodies import id_of, limit_of, page_of
from ..web.problems import json_response, not_found
from ..web.waiting import json_page


def _record(message: StoredMessage) -> dict[str, Any]:
    shown = msgspec.structs.asdict(message)
    del shown["request_hash"]
    return shown | {"request": msgspec.Raw(message.request)}


async def get_message(request: Request[Any]) -> Response:
    """GET /messages/{id}: its state, and every attempt with provider, class, code and duration."""
    organization_id, _ = await organization_of(request, "read")
    message_id = parse_id(request.path_params["message_id"])
    if message_id is None:
        raise not_found()
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        message = await sends.by_id(connection, organization_id, message_id)
        attempts = await sends.attempts(connection, organization_id, message_id)
    if message is None:
        raise not_found()
    return json_response(_record(message) | {"attempts": attempts})


async def list_messages(request: Request[Any]) -> Response:
    """GET /messages?conversation_id=&before=&limit=: newest first; `next` is the next page's `before`."""
    organization_id, _ = await organization_of(request, "read")
    conversation_id, before, limit = id_of(request, "conversation_id"), id_of(request, "before"), limit_of(request)
    database: Database = request.state["database"]

    async def read() -> object:
        async with database.organization(organization_id) as connection:
            messages, more = await sends.page(connection, organization_id, conversation_id, before, limit + 1)
        return page_of("messages", list(map(_record, messages)), limit, more=more)

    return json_page(request, organization_id, read)
