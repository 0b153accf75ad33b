"""The organizations, for the platform's key: which one its session acts for, and another one."""

from starlette.responses import Response

from ...api import organizations
from ...api.organizations import NewOrganization, OrganizationsQuery
from ...identifiers import parse_id
from ...storage.statements import organizations as stored
from ...web.problems import Problem, not_found
from ..forms.bodies import decoded
from ..rendering import form_page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest

HOME = "/console/whatsapp"


async def show(request: ConsoleRequest[OrganizationsQuery]) -> Response:
    """By name, those that are looked for."""
    return await _shown(request, request.query)


async def _shown(
    request: AnyConsoleRequest, query: OrganizationsQuery, wrong: Problem | None = None, name: str = ""
) -> Response:
    async with request.state["database"].worker() as connection:
        found = await stored.search(connection, query.search, query.after, query.size + 1)
    shown = found[: query.size]
    return form_page(
        request,
        "organizations.html",
        wrong,
        organizations=shown,
        next_after=shown[-1].id if len(found) > query.size else None,
        search=query.search,
        is_first=query.after is None,
        chosen=request.principal.organization_id,
        name=name,
    )


async def choose(request: ConsoleRequest) -> Response:
    """Act for that one from now on."""
    organization_id = parse_id((await request.posted())["organization_id"])
    async with request.state["database"].worker() as connection:
        if organization_id is None or not await stored.exists(connection, organization_id):
            raise not_found()
    await request.state["sessions"].choose(request.signed_in, organization_id)
    return redirect(HOME, done="organization_chosen")


async def create(request: ConsoleRequest) -> Response:
    """Another organization, which the session acts for from now on."""
    name = (await request.posted()).get("name")
    try:
        made = await organizations.create(request, decoded({"name": name}, NewOrganization).name)
    except Problem as problem:
        await request.state["refused_changes"].note(request, problem)
        return await _shown(request, OrganizationsQuery(), problem, name)
    await request.state["sessions"].choose(request.signed_in, made.id)
    return redirect(HOME, done="organization_created")
