"""Team: the organization's API keys, what each may do, and when it was used last."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from starlette.responses import Response

from ...api.organizations import MAX_KEYS, KeyMade, NewKey, make_key
from ...api.organizations import revoke as revoke_key
from ...storage.statements import organizations
from ...storage.statements.organizations import ApiKey
from ...storage.vault import is_key_id
from ...web.bodies import RequestQuery, invalid
from ...web.problems import Problem, not_found
from .. import snippets
from ..forms.bodies import decoded
from ..languages import N_
from ..rendering import form_page, page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest, Form

PATH = "/console/team"
SHOWN = 50
# Days that a key is valid; none: it never expires.
LIFETIMES = {
    "": N_("Never"),
    "7": N_("In 7 days"),
    "30": N_("In 30 days"),
    "90": N_("In 90 days"),
    "365": N_("In a year"),
}
# As the key that makes it.
SAME = "same"
SCOPES = ("send", "read", "configure", "admin")


class TeamQuery(RequestQuery, frozen=True):
    """``ended``: the keys that are not valid any more."""

    ended: bool = False
    after: Annotated[str, msgspec.Meta(max_length=64)] | None = None


async def show(request: ConsoleRequest[TeamQuery]) -> Response:
    """The keys, and the form for another one."""
    return await _shown(request, ended=request.query.ended, after=request.query.after)


async def _shown(
    request: AnyConsoleRequest,
    *,
    ended: bool = False,
    after: str | None = None,
    wrong: Problem | None = None,
    form: Form | None = None,
) -> Response:
    """The page; with what is *wrong* in a *form*."""
    if wrong:
        await request.state["refused_changes"].note(request, wrong)
    keys: list[ApiKey] = []
    if request.can("admin"):
        after = after if after and is_key_id(after) else None
        async with request.connection() as connection:
            keys = await organizations.keys(connection, request.organization_id, after, SHOWN + 1, live=not ended)
    return form_page(
        request,
        "team.html",
        wrong,
        keys=keys[:SHOWN],
        next=keys[SHOWN - 1].id if len(keys) > SHOWN else None,
        ended=ended,
        soon=datetime.now(UTC) + organizations.EXPIRES_SOON,
        scopes=SCOPES,
        lifetimes=_lifetimes(request),
        most=MAX_KEYS,
        form=form,
    )


def _lifetimes(request: AnyConsoleRequest) -> list[tuple[str, str]]:
    """Choices: those that the key in use may give, which are no longer than its own."""
    _, ends = request.gettext, request.principal.expires_at
    every = [(days, _(text)) for days, text in LIFETIMES.items()]
    if ends is None:
        return every
    left = ends - datetime.now(UTC)
    shorter = [(days, text) for days, text in every if days and timedelta(days=int(days)) <= left]
    return [*shorter, (SAME, _("When the key in use expires"))]


async def make(request: ConsoleRequest) -> Response:
    """Another key, shown this once."""
    form = await request.posted()
    try:
        made = await make_key(request, _new_key(request, form))
    except Problem as problem:
        return await _shown(request, wrong=problem, form=form)
    return _made(request, made)


def _new_key(request: AnyConsoleRequest, form: Form) -> NewKey:
    lifetime, expires_at = form.get("lifetime"), request.principal.expires_at
    if lifetime != SAME:
        if lifetime not in LIFETIMES:
            raise invalid(("lifetime", "must be one of those offered"), what="The form")
        expires_at = datetime.now(UTC) + timedelta(days=int(lifetime)) if lifetime else None
    return decoded({"name": form.get("name"), "scopes": form.all("scopes"), "expires_at": expires_at}, NewKey)


def _made(request: AnyConsoleRequest, made: KeyMade) -> Response:
    programs = snippets.calling(request.state["manager"].origin, made.key)
    return page(request, "team_made.html", status=201, made=made, programs=programs)


async def confirm_revoke(request: ConsoleRequest) -> Response:
    """Ask before a key is revoked, naming what stops."""
    key_id, organization_id = request.path_params["key_id"], request.organization_id
    async with request.connection() as connection:
        found = await organizations.one_key(connection, organization_id, key_id) if is_key_id(key_id) else None
        if found is None or found.revoked_at:
            raise not_found()
        made = await organizations.made_by(connection, organization_id, key_id)
        live = await organizations.keys(connection, organization_id, None, MAX_KEYS, live=True)
    left = [key for key in live if key.id != key_id and "admin" in key.scopes]
    return page(
        request,
        "team_revoke.html",
        key=found,
        scopes=SCOPES,
        made=made,
        is_own=request.principal.name == key_id,
        is_last_admin="admin" in found.scopes and not left,
    )


async def revoke(request: ConsoleRequest) -> Response:
    """Revoke it; ``made``: also the keys that it made."""
    made = (await request.posted()).get("made") == "1"
    revoked = await revoke_key(request, request.path_params["key_id"], made=made)
    is_over = request.principal.name in revoked
    return redirect("/console/sign-in" if is_over else PATH, done="key_revoked")
