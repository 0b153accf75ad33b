"""The quarantine: what could not be read, looked at safely, read again or let go of."""

from typing import ClassVar
from uuid import UUID

import msgspec
from starlette.responses import Response

from ...api import quarantine
from ...api.quarantine import QuarantineQuery
from ...identifiers import parse_id
from ...storage.statements.receiving.inbound import QuarantinedBody
from ...web.bodies import RequestQuery
from ...web.problems import Problem, not_found
from ..readable import readable
from ..rendering import form_page, page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest
from .audit import configs_of

PATH = "/console/quarantine"
# Of a body that is looked at.
SHOWN_BYTES = 64 * 1024
MOST_AT_ONCE = 50


class OwnQuarantine(RequestQuery, frozen=True):
    """What is the organization's. ``body``: with what came in, which the trail has."""

    foreign: ClassVar[bool] = False
    body: bool = False


async def show(request: ConsoleRequest[QuarantineQuery]) -> Response:
    """What was put aside, the oldest first."""
    found = await quarantine.list_quarantine(request)
    return page(
        request,
        "quarantine.html",
        items=found.quarantine,
        state=request.query.state,
        next_after=found.next or None,
        is_first=request.query.after is None,
        configs=await configs_of(request),
    )


async def show_item(request: ConsoleRequest[OwnQuarantine]) -> Response:
    """One of it; its body only where it is asked for."""
    return await _shown(request, request.id_in_path("quarantine_id"))


async def _shown(request: AnyConsoleRequest, quarantine_id: UUID, problem: Problem | None = None) -> Response:
    organization_id, with_body = request.organization_id, request.query.body and problem is None
    size = SHOWN_BYTES if with_body else 0
    item = await quarantine.item_of(request, organization_id, quarantine_id, size)
    headers: dict[str, str] = {}
    if with_body:
        await quarantine.note_look(request, organization_id, item)
        headers = msgspec.json.decode(item.headers, type=dict[str, str])
    return form_page(
        request,
        "quarantine_item.html",
        problem,
        item=item,
        headers=headers,
        body=readable(item.body, headers.get("content-type", "")) if with_body else None,
        shown_bytes=SHOWN_BYTES,
        configs=await configs_of(request),
    )


async def replay(request: ConsoleRequest[OwnQuarantine]) -> Response:
    """Read it again with this release."""
    quarantine_id = request.id_in_path("quarantine_id")
    try:
        found = await quarantine.replay(request, quarantine_id)
    except Problem as problem:
        if problem.status == 404:
            raise
        await request.state["refused_changes"].note(request, problem)
        return await _shown(request, quarantine_id, problem)
    done = "quarantine_kept" if found.state == "open" else "quarantine_replayed"
    return redirect(f"{PATH}/{quarantine_id}", done=done)


async def confirm_discard(request: ConsoleRequest[OwnQuarantine]) -> Response:
    """What it means to let go of those that were chosen."""
    items = await _chosen(request, request.query_params.getlist("id"))
    return page(request, "quarantine_discard.html", items=items) if items else redirect(PATH)


async def discard(request: ConsoleRequest[OwnQuarantine]) -> Response:
    """Let go of those that were chosen; what somebody else did so with before is no error."""
    items = await _chosen(request, (await request.posted()).all("id"))
    for item in items:
        if item.state == "open":
            await quarantine.discard(request, item.id)
    return redirect(PATH, done="quarantine_discarded")


async def _chosen(request: AnyConsoleRequest, ids: list[str]) -> list[QuarantinedBody]:
    """Raises `Problem` 404 where any of them is nothing of the organization's."""
    items = []
    for text in dict.fromkeys(ids[:MOST_AT_ONCE]):
        if (quarantine_id := parse_id(text)) is None:
            raise not_found()
        items.append(await quarantine.item_of(request, request.organization_id, quarantine_id, 0))
    return items
