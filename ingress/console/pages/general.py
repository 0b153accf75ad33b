"""General: the organization, where its events are delivered and how that goes, and what is kept for how long."""

from collections.abc import Mapping
from types import MappingProxyType

from starlette.responses import Response

from ...api import callback
from ...api.callback import CallbackSet, CallbackShown, CallbackTested, DeliveriesQuery, ParkedCounted
from ...api.history import retention
from ...api.history.retention import NewRetention
from ...api.organizations import NewOrganization, rename, show_organization
from ...storage.statements.parked import ParkedFilter
from ...storage.statements.reports.callback_history import ParkedGroup
from ...web.bodies import Number, RequestQuery
from ...web.problems import Problem
from .. import snippets
from ..forms.bodies import decoded
from ..rendering import form_page, page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest

PATH = "/console/general"
SHOWN = 10
# Of parked events, on a page that is looked at all the time.
COUNTED = 1_000
GROUPED_BY = ("type", "last_error")
# What a program to copy has where no callback is set yet.
EXAMPLE_URL = "https://crm.example.com/hooks/whatsapp"


class GeneralQuery(RequestQuery, frozen=True):
    """``before``: of the deliveries."""

    before: Number = 0


async def show(request: ConsoleRequest[GeneralQuery]) -> Response:
    """All of it."""
    return await _shown(request, before=request.query.before)


async def _shown(
    request: AnyConsoleRequest,
    *,
    before: int = 0,
    tested: CallbackTested | None = None,
    made: CallbackSet | None = None,
    wrong: Problem | None = None,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """The page, with what a form of it has done, or with what is *wrong* in what was *typed*."""
    if wrong:
        await request.state["refused_changes"].note(request, wrong)
    current = await _callback(request)
    return form_page(
        request,
        "general.html",
        wrong,
        organization=await show_organization(request),
        kept=await retention.show_retention(request),
        callback=current,
        deliveries=await callback.latest_deliveries(request, DeliveriesQuery(limit=SHOWN, before=before)),
        before=before,
        parked=await callback.parked_counted(request, COUNTED),
        programs=snippets.verification(current.url if current and request.can("configure") else EXAMPLE_URL),
        secret_name=snippets.SECRET,
        tested=tested,
        made=made,
        typed=typed,
    )


async def _callback(request: AnyConsoleRequest) -> CallbackShown | None:
    try:
        return await callback.get_callback(request)
    except Problem as problem:
        if problem.status == 404:
            return None
        raise


async def name(request: ConsoleRequest) -> Response:
    """Rename the organization."""
    given = (await request.posted()).get("name")
    try:
        await rename(request, decoded({"name": given}, NewOrganization).name)
    except Problem as problem:
        return await _shown(request, wrong=problem, typed={"name": given})
    return redirect(PATH, done="renamed")


async def keep(request: ConsoleRequest) -> Response:
    """Set for how many days the organization's data is kept; what is left empty is as the service has it."""
    form = await request.posted()
    typed = {name: form.get(name) for name in NewRetention.__struct_fields__}
    days = {name: _days(text) for name, text in typed.items()}
    try:
        await retention.set_retention(request, decoded(days, NewRetention))
    except Problem as problem:
        return await _shown(request, wrong=problem, typed=typed)
    return redirect(PATH, done="kept")


def _days(text: str) -> int | str | None:
    """A number where it is one; else what is typed, for the API to refuse. None: nothing."""
    return int(text) if text.isdecimal() and len(text) < 9 else text or None


async def put_callback(request: ConsoleRequest) -> Response:
    """Have events posted to the address in the form; its secret is shown this once."""
    url = (await request.posted()).get("url")
    try:
        made = await callback.set_callback(request, decoded({"url": url}, callback.NewCallback).url)
    except Problem as problem:
        return await _shown(request, wrong=problem, typed={"url": url})
    return await _shown(request, made=made)


async def confirm_secret(request: ConsoleRequest) -> Response:
    """Ask before another secret is made."""
    await callback.get_callback(request)
    return page(request, "general_secret.html")


async def rotate(request: ConsoleRequest) -> Response:
    """Another secret, shown this once."""
    current = await callback.get_callback(request)
    return await _shown(request, made=await callback.set_callback(request, current.url))


async def test(request: ConsoleRequest) -> Response:
    """Post a test event, and show how it went."""
    return await _shown(request, tested=await callback.test_callback(request))


async def enable(request: ConsoleRequest) -> Response:
    """Post to a disabled callback again."""
    await callback.enable_callback(request)
    return redirect(PATH, done="callback_enabled")


async def confirm_removal(request: ConsoleRequest) -> Response:
    """Ask before the callback is removed."""
    return page(request, "general_remove.html", callback=await callback.get_callback(request))


async def remove(request: ConsoleRequest) -> Response:
    """Post nothing any more."""
    await callback.delete_callback(request)
    return redirect(PATH, done="callback_removed")


def _groups(counted: ParkedCounted, chosen: Mapping[str, str]) -> list[ParkedGroup]:
    return [one for one in counted.groups if all(getattr(one, name) == chosen[name] for name in chosen)]


async def confirm_replay(request: ConsoleRequest) -> Response:
    """Ask before parked events are delivered after all, naming how many they are: those of a group, or all."""
    counted, current = await callback.parked_counted(request, callback.COUNTED_AT_MOST), await _callback(request)
    chosen = {name: request.query_params[name] for name in GROUPED_BY if name in request.query_params}
    groups = _groups(counted, chosen)
    if not groups:
        return redirect(f"{PATH}#parked")
    return page(
        request,
        "general_replay.html",
        counted=counted,
        chosen=chosen,
        groups=groups,
        events=sum(group.events for group in groups),
        callback=current,
    )


async def replay(request: ConsoleRequest) -> Response:
    """Deliver them, and none that came after the count."""
    form = await request.posted()
    through = form["through"]
    named = {name: form[name] for name in GROUPED_BY if name in form}
    body = decoded(
        {**named, "through": int(through) if through.isdecimal() and len(through) < 20 else through}, callback.Replay
    )
    await callback.replay(request, ParkedFilter(None, body.last_error, body.type, body.through))
    return redirect(PATH, done="replayed")


async def back(_: ConsoleRequest) -> Response:
    """Where a form of it has led, asked for again."""
    return redirect(PATH)
