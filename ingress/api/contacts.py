"""People: who they are, what they are known by, all that was said with them, and whether a number is on WhatsApp."""

import re
from collections import deque
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import Contact, Unsupported
from providers.messages import By

from ..accounts.config import Config
from ..envelope import Envelope, render
from ..people.addresses import addresses_of
from ..sending.message import FIND_CONTACT
from ..storage.statements import events, messages
from ..storage.statements.events import StoredEvent
from ..storage.statements.messages import StoredMessage
from ..storage.statements.reports import contact_pages
from ..storage.statements.reports.contact_pages import ContactRecord
from ..web.bodies import Paged, Shown, invalid, page_of
from ..web.problems import not_found
from ..web.waiting import Page
from . import AnyRequest, ApiRequest
from .configs import ConfigQuery, chosen_config
from .messages import MessageShown, shown

# What was said; statuses are what became of it.
SAID = ["message.received", "message.echo", "message.edited", "message.deleted", "message.unknown"]
NEWEST = 2**63 - 1
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
One = TypeVar("One")
Past = tuple[list[One], bool]  # the newest first, and whether there are older ones


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


class Said(Shown, frozen=True):
    """``event``: what came in, or was written on another device. ``message``: what was sent here."""

    at: datetime
    direction: Literal["inbound", "outbound"]
    event: Envelope | UnsetType = UNSET
    message: MessageShown | UnsetType = UNSET


class History(Shown, frozen=True):
    """``next``: the cursor for what was said before."""

    messages: list[Said]
    next: str | UnsetType = UNSET


async def get_contact(request: ApiRequest) -> ContactRecord:
    """GET /contacts/{contact_id}: who it is now, where they were merged into another one."""
    return await _contact(request)


async def _contact(request: ApiRequest[None, Any]) -> ContactRecord:
    async with request.connection() as connection:
        found = await contact_pages.by_id(connection, request.organization_id, request.id_in_path("contact_id"))
    if found is None:
        raise not_found()
    return found


async def list_contacts(request: ApiRequest[None, ContactsQuery]) -> Page[ContactPage]:
    """GET /contacts?phone=&lid=&user_id=&username=&name=&after=&limit=: by one of them, or all, the oldest first."""
    query = request.query
    given = [name for name in ("phone", "lid", "user_id", "username", "name") if getattr(query, name) is not None]
    if len(given) > 1:
        raise invalid(*[(name, "only one of them may be asked for") for name in given], what="The query")

    async def read() -> ContactPage:
        async with request.connection() as connection:
            page = connection, request.organization_id, query.after, query.size + 1
            if query.user_id is not None:
                found = await contact_pages.by_user_id(*page, query.user_id)
            elif query.username is not None:
                found = await contact_pages.by_username(*page, query.username)
            elif query.name is not None:
                found = await contact_pages.by_name(*page, query.name)
            elif given:
                found = await contact_pages.by_address(*page, _compared(query))
            else:
                found = await contact_pages.page(*page)
        return page_of(ContactPage, found, query.size)

    return request.page(read)


def _compared(query: ContactsQuery) -> str:
    addresses = addresses_of(Contact(phone=query.phone, lid=query.lid), "", "")
    return addresses[0].key if addresses else ""


# ------------------------------------------------------------------ what was said


class _Cursor(msgspec.Struct, frozen=True):
    """The last event, and the last message of ours, that were shown."""

    sequence: int = NEWEST
    message_id: UUID | None = None

    def __str__(self) -> str:
        return f"{self.sequence}.{self.message_id or ''}"


def _cursor(text: str | None) -> _Cursor:
    """Raises `Problem` 422."""
    if text is None:
        return _Cursor()
    sequence, _, message_id = text.partition(".")
    try:
        return _Cursor(min(int(sequence), NEWEST), UUID(message_id) if message_id else None)
    except ValueError:
        raise invalid(("before", "must be the next of another page"), what="The query") from None


async def list_said(request: ApiRequest[None, HistoryQuery]) -> Page[History]:
    """GET /contacts/{contact_id}/messages?before=&limit=: in both directions, the newest first."""
    cursor, contact = _cursor(request.query.before), await _contact(request)
    organization_id, size = request.organization_id, request.query.size

    async def read() -> History:
        async with request.connection() as connection:
            came = await events.before(connection, organization_id, contact.id, cursor.sequence, size + 1, SAID)
            went = await messages.page_to(connection, organization_id, contact.id, None, cursor.message_id, size + 1)
        return _history(came, went, cursor, size)

    return request.page(read)


def _history(came: Past[StoredEvent], went: Past[StoredMessage], cursor: _Cursor, size: int) -> History:
    """A page of both, each in its own order. It ends where one ends that has more: what comes next is not known."""
    events_, messages_ = deque(came[0]), deque(went[0])
    said: list[Said] = []
    while len(said) < size and (events_ or not came[1]) and (messages_ or not went[1]) and (events_ or messages_):
        if not messages_ or (events_ and events_[0].created_at >= messages_[0].created_at):
            event = events_.popleft()
            cursor = _Cursor(event.sequence, cursor.message_id)
            said.append(_came(event))
        else:
            message = messages_.popleft()
            cursor = _Cursor(cursor.sequence, message.id)
            said.append(Said(message.created_at, "outbound", message=shown(message, message.attempts)))
    is_end = not (events_ or messages_ or came[1] or went[1])
    return History(said) if is_end else History(said, str(cursor))


def _came(event: StoredEvent) -> Said:
    envelope = cast(Envelope, msgspec.Raw(render(event)))  # as it is stored, whatever release wrote it
    by = msgspec.json.decode(event.data, type=_Data).message.by
    outbound = event.type == "message.echo" or by == "business"
    return Said(event.created_at, "outbound" if outbound else "inbound", event=envelope)


class _Actor(msgspec.Struct, frozen=True):
    by: By | None = None


class _Data(msgspec.Struct, frozen=True):
    message: _Actor = _Actor()


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


async def look_up(request: ApiRequest[None, LookupQuery]) -> ContactFound:
    """GET /contacts/lookup?phone=&config_id=: whether a number is on WhatsApp. What is known is not asked for again."""
    # A plus that is not encoded is a space in a query.
    phone = f"+{request.query.phone.strip().removeprefix('+')}"
    if _PHONE.fullmatch(phone) is None:
        raise invalid(("phone", "must be a number in E.164"))
    request.check_calls_out()
    config = await _asked(request)
    reached = await request.state["lookups"].look_up(config, phone)
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
