"""People: who they are, what they are known by, all that was said with them, and whether a number is on WhatsApp."""

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, UnsetType

from providers import Contact, Unsupported

from ...accounts.config import Config
from ...people.addresses import addresses_of
from ...sending.message import FIND_CONTACT
from ...storage.statements.contacts import Reached
from ...storage.statements.reports import contact_pages
from ...storage.statements.reports.contact_pages import ContactRecord
from ...storage.statements.reports.search import MessageFilter
from ...web.bodies import Paged, Shown, given_of, invalid, one_only, page_of
from ...web.problems import not_found
from ...web.waiting import Page
from .. import AnyRequest, ApiRequest
from ..configs import ConfigQuery, chosen_config
from ..history.pages import History, history_page

_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
FOUND_BY = ("phone", "lid", "user_id", "username", "name")


class ContactsQuery(Paged, frozen=True):
    """All, or by one of the others: exactly, or by how the ``name`` begins."""

    phone: str | None = None
    lid: str | None = None
    user_id: str | None = None
    username: str | None = None
    name: str | None = None
    after: UUID | None = None


class ContactPage(Shown, frozen=True):
    contacts: list[ContactRecord]
    next: UUID | UnsetType = UNSET


class HistoryQuery(Paged, frozen=True):
    before: str | None = None


async def get_contact(request: ApiRequest) -> ContactRecord:
    """GET /contacts/{contact_id}: who it is now, where they were merged into another one."""
    return await contact_of(request)


async def contact_of(request: ApiRequest[None, Any]) -> ContactRecord:
    """The contact that the path names. Raises `Problem` 404."""
    async with request.connection() as connection:
        found = await contact_pages.by_id(connection, request.organization_id, request.id_in_path("contact_id"))
    if found is None:
        raise not_found()
    return found


async def list_contacts(request: ApiRequest[None, ContactsQuery]) -> Page[ContactPage]:
    """GET /contacts?phone=&lid=&user_id=&username=&name=&after=&limit=: by one of them, or all, the oldest first."""
    query = request.query
    given = given_of(query, FOUND_BY)
    if len(given) > 1:
        raise one_only(given)

    async def read() -> ContactPage:
        async with request.connection() as connection:
            found = await _records(connection, request.organization_id, query)
        return page_of(ContactPage, found, query.size)

    return request.page(read)


async def _records(connection: asyncpg.Connection, organization_id: UUID, query: ContactsQuery) -> list[ContactRecord]:
    """One more than the page has, where there are more."""
    page = connection, organization_id, query.after, query.size + 1
    if query.user_id is not None:
        return await contact_pages.by_user_id(*page, query.user_id)
    if query.username is not None:
        return await contact_pages.by_username(*page, query.username)
    if query.name is not None:
        return await contact_pages.by_name(*page, query.name)
    if query.phone is not None or query.lid is not None:
        return await contact_pages.by_address(*page, _compared(query))
    return await contact_pages.page(*page)


def _compared(query: ContactsQuery) -> str:
    addresses = addresses_of(Contact(phone=query.phone, lid=query.lid), "", "")
    return addresses[0].key if addresses else ""


# ------------------------------------------------------------------ what was said


async def list_said(request: ApiRequest[None, HistoryQuery]) -> Page[History]:
    """GET /contacts/{contact_id}/messages?before=&limit=: in both directions, the newest first."""
    query, contact = request.query, await contact_of(request)
    return request.page(lambda: history_page(request, MessageFilter(contact_id=contact.id), query.before, query.size))


# ------------------------------------------------------------------ whether a number is on WhatsApp


class LookupQuery(ConfigQuery, frozen=True):
    """``config_id``: whom to ask; none: the first that can say, of those that messages may go out through."""

    phone: Annotated[str, msgspec.Meta(max_length=32)] = ""


class ContactFound(Shown, frozen=True, kw_only=True):
    """``phone`` as WhatsApp spells it, which may be in another length; ``lid`` where it says that.

    ``asked_at``: when the provider was asked; absent where the person was seen there.
    """

    on_whatsapp: bool
    phone: str | UnsetType = UNSET
    lid: str | UnsetType = UNSET
    asked_at: datetime | UnsetType = UNSET
    provider: str
    config_id: UUID


def _phone(text: str) -> str:
    # A plus that is not encoded is a space in a query.
    phone = f"+{text.strip().removeprefix('+')}"
    if _PHONE.fullmatch(phone) is None:
        raise invalid(("phone", "must be a number in E.164"))
    return phone


async def look_up(request: ApiRequest[None, LookupQuery]) -> ContactFound:
    """GET /contacts/lookup?phone=&config_id=: whether a number is on WhatsApp. What is known is not asked for again."""
    phone = _phone(request.query.phone)
    request.check_calls_out()
    config = await _asked(request)
    reached = await request.state["lookups"].look_up(config, phone)
    return _found(config, reached)


def _found(config: Config, reached: Reached) -> ContactFound:
    by = reached.reached_by or ""
    return ContactFound(
        on_whatsapp=bool(by),
        phone=by if by.startswith("+") else UNSET,
        lid=by if by.endswith("@lid") else UNSET,
        asked_at=reached.asked_at or UNSET,
        provider=config.provider_type,
        config_id=config.id,
    )


async def _asked(request: AnyRequest) -> Config:
    """The config that is asked. Raises `Problem`, and `Unsupported` where none can say."""
    config = await chosen_config(request)
    if request.query.config_id is None:
        route = await request.state["manager"].routes.route(request.organization_id)
        config = next((each for each in route.order if _can_say(each)), config)
    if not _can_say(config):
        raise Unsupported("no provider at hand says whether a number is on WhatsApp", code="find_contact")
    return config


def _can_say(config: Config) -> bool:
    return FIND_CONTACT in config.provider.info.capabilities
