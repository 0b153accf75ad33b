"""The search field for messages: what somebody typed, as what it names of them."""

import re
from collections.abc import Sequence

from ..api.history.pages import history_page, keys_of
from ..identifiers import parse_event_id, parse_id
from ..people.addresses import phone_address
from ..storage.statements import events
from ..storage.statements.reports import contact_pages
from ..storage.statements.reports.contact_pages import ContactRecord
from ..storage.statements.reports.search import MessageFilter
from ..storage.statements.sending import messages
from ..validation import Unlogged
from .requests import AnyConsoleRequest

_PHONE = re.compile(r"\+?[\d\s().-]{7,24}")
_LONGEST = 512  # of an id
PEOPLE = 5


class Understood(Unlogged, frozen=True):
    """What was typed. ``kind``: of what it names (`words.SEARCHED`), None where nothing was found.

    ``path``: the page of the one thing that it names. ``people``: whose names begin like that, where it names nothing.
    """

    kind: str | None = None
    wanted: MessageFilter | None = None
    path: str | None = None
    people: Sequence[ContactRecord] = ()


async def understood(request: AnyConsoleRequest, typed: str) -> Understood:
    """What *typed* names of the organization's: the first of an id, a number, a lead, a provider's id and an error."""
    text = typed.strip()[:_LONGEST]
    organization_id = request.organization_id
    if (named := await _by_id(request, text)) is not None:
        return named
    if _PHONE.fullmatch(text) and (found := await _with_number(request, text)) is not None:
        return found
    kinds = {
        "request": MessageFilter(request_id=text),
        "lead": MessageFilter(lead_id=text),
        "provider_message_id": MessageFilter(**await keys_of(request, text)),
        "error": MessageFilter(error=text),
    }
    for kind, wanted in kinds.items():
        if (await history_page(request, wanted, None, 1)).messages:
            return Understood(kind, wanted)
    async with request.connection() as connection:
        people = await contact_pages.by_name(connection, organization_id, None, PEOPLE, text)
    return Understood(people=people)


async def _by_id(request: AnyConsoleRequest, text: str) -> Understood | None:
    """What has an id of ours: an event, a message, a contact or a conversation."""
    organization_id = request.organization_id
    sequence, id = parse_event_id(text, organization_id), parse_id(text)
    async with request.connection() as connection:
        if sequence is not None and await events.at(connection, organization_id, sequence):
            return Understood("event", path=f"/console/events/{text}")
        if id is None:
            return None
        if await messages.by_id(connection, organization_id, id):
            return Understood("message", path=f"/console/messages/{id}")
        if await contact_pages.by_id(connection, organization_id, id):
            return Understood("contact", path=f"/console/contacts/{id}")
    wanted = MessageFilter(conversation_id=id)
    found = await history_page(request, wanted, None, 1)
    return Understood("conversation", wanted) if found.messages else None


async def _with_number(request: AnyConsoleRequest, text: str) -> Understood | None:
    async with request.connection() as connection:
        address = phone_address(text).key
        found = await contact_pages.by_address(connection, request.organization_id, None, 1, address)
    return Understood("phone", MessageFilter(contact_id=found[0].id), people=found) if found else None
