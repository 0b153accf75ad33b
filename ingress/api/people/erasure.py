"""What the law asks for of a person: all that is there of them as a file, and none of it left."""

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from ...envelope import render
from ...identifiers import new_id
from ...storage.statements import events as stored
from ...storage.statements.events import EventFilter
from ...storage.statements.lifetime import erasure
from ...storage.statements.lifetime.erasure import Erasure
from ...storage.statements.reports import search
from ...storage.statements.reports.contact_pages import ContactRecord
from ...storage.statements.reports.search import MessageFilter
from ...storage.statements.sending import messages
from ...web.bodies import Shown
from ...web.files import NDJSON, FileStream, pieces
from ...web.problems import Json, json_response, not_found
from .. import AnyRequest, ApiRequest
from ..audit import note
from ..events import TYPES
from ..history.messages import shown
from .contacts import contact_of

_PAGE = 200


class ErasureShown(Shown, frozen=True):
    """``state``: waiting, running, done. ``step``: what it waits for (webhooks, sends, figures), or is deleting.

    ``deleted``: rows, so far.
    """

    id: UUID
    state: str
    step: str | None
    deleted: int
    created_at: datetime
    finished_at: datetime | None


_WAITS_FOR = ("webhooks", "sends", "figures")


def _shown(found: Erasure) -> ErasureShown:
    state = "waiting" if found.step is None or found.step in _WAITS_FOR else "running"
    state = state if found.finished_at is None else "done"
    return ErasureShown(found.id, state, found.step, found.deleted, found.created_at, found.finished_at)


async def erase_contact(request: ApiRequest) -> Json[ErasureShown]:
    """POST /contacts/{contact_id}/erasure: delete all there is of a person; 202, and where to see how far it is."""
    contact = await contact_of(request)
    organization_id = request.organization_id
    async with request.connection() as connection:
        asked = await erasure.ask(connection, organization_id, new_id(), contact.id)
        # Not of whom: the trail is kept for years.
        await note(connection, request, organization_id, "contact_erased", {"erasure_id": asked.id})
    return json_response(_shown(asked), 202, {"location": f"/erasures/{asked.id}"})


async def show_erasure(request: ApiRequest) -> ErasureShown:
    """GET /erasures/{erasure_id}: how far it is."""
    async with request.connection() as connection:
        found = await erasure.by_id(connection, request.organization_id, request.id_in_path("erasure_id"))
    if found is None:
        raise not_found()
    return _shown(found)


# ------------------------------------------------------------------ a file


async def export_contact(request: ApiRequest) -> FileStream:
    """GET /contacts/{contact_id}/export: all that is there of a person, a line of JSON for each thing.

    First the contact, then every event with what its provider sent, the oldest first, then every message that was sent
    to them, the newest first.
    """
    contact = await contact_of(request)
    async with request.connection() as connection:
        await note(connection, request, request.organization_id, "contact_exported", {})  # see `erase_contact`
    room = request.state["waiting"].room(request.organization_id)
    return FileStream(room, f"contact-{contact.id}.ndjson", NDJSON, pieces(room, _pages(request, contact), bytes))


async def _pages(request: AnyRequest, contact: ContactRecord) -> AsyncGenerator[Iterable[bytes], None]:
    """Page by page, each in a transaction of its own."""
    yield [_line(contact=contact)]
    async for page in _events(request, contact.id):
        yield page
    async for page in _messages(request, contact.id):
        yield page


async def _events(request: AnyRequest, contact_id: UUID) -> AsyncGenerator[Iterable[bytes], None]:
    only = EventFilter(TYPES, contact_id, None)
    after: int | None = 0
    while after is not None:
        async with request.connection() as connection:
            events = await stored.read_of(connection, request.organization_id, after, _PAGE, True, only)
        yield [_line(event=msgspec.Raw(render(event, event.raw))) for event in events]
        after = events[-1].sequence if events else None


async def _messages(request: AnyRequest, contact_id: UUID) -> AsyncGenerator[Iterable[bytes], None]:
    organization_id, wanted = request.organization_id, MessageFilter(contact_id=contact_id)
    below: UUID | None = None
    while True:
        async with request.connection() as connection:
            found = await search.sent(connection, organization_id, wanted, below, _PAGE)
            attempts = [await messages.attempts(connection, organization_id, each.id) for each in found.rows]
        yield [_line(message=shown(*each)) for each in zip(found.rows, attempts, strict=True)]
        if (below := found.next) is None:
            return


def _line(**thing: Any) -> bytes:
    return msgspec.json.encode(thing) + b"\n"
