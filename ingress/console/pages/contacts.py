"""A contact: what they are known by, and all that was said with them, over all senders and providers."""

from msgspec import UNSET
from starlette.responses import Response

from ...api.history.pages import history_page
from ...api.history.timelines import narrator
from ...api.people import contacts, erasure
from ...storage.statements.reports.contact_pages import ContactRecord
from ...storage.statements.reports.search import MessageFilter
from ...web.bodies import RequestQuery
from ..rendering import page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest
from ..said_rows import rows_of

SHOWN = 50


class ContactQuery(RequestQuery, frozen=True):
    """``before``: of the messages."""

    before: str | None = None


async def show(request: ConsoleRequest[ContactQuery]) -> Response:
    """The contact in the path."""
    contact = await _contact(request)
    wanted = MessageFilter(contact_id=contact.id)
    found = await history_page(request, wanted, request.query.before, SHOWN)
    return page(
        request,
        "contact.html",
        contact=contact,
        rows=list(rows_of(found.messages)),
        next=None if found.next is UNSET else found.next,
        names=(await narrator(request)).names,
    )


async def export(request: ConsoleRequest) -> Response:
    """All that is there of the contact, as a file."""
    return await erasure.export_contact(request)


async def confirm_erase(request: ConsoleRequest) -> Response:
    """Ask before all of it is deleted, naming what goes."""
    contact = await _contact(request)
    phones = [address.value for address in contact.addresses if address.kind == "phone"]
    called = contact.name or contact.username or (phones[-1] if phones else request.gettext("this person"))
    return page(request, "contact_erase.html", contact=contact, called=called)


async def erase(request: ConsoleRequest) -> Response:
    """Have it deleted."""
    await erasure.erase_contact(request)
    return redirect("/console/messages", done="contact_erased")


async def _contact(request: AnyConsoleRequest) -> ContactRecord:
    return await contacts.get_contact(request)
