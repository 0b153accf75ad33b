"""Every route of the console: who may use it, from where, and that it shows nothing of anybody else's."""

import re
from functools import partial
from urllib.parse import quote

import pytest

from ingress.console.routes import ROUTES
from ingress.console.routing import ConsoleRoute
from ingress.settings import Settings

from ..gateway import Gateway, Organization, eventually
from ..populated import Data, random_ids, untouched
from .browsing import Console, signed_in

EVERY = [route for route in ROUTES if isinstance(route, ConsoleRoute)]
# Whoever has no session is who signs in; a browser keeps its preferences without one.
OPEN = {"/console", "/console/", "/console/sign-in", "/console/preferences", "/console/static/{version}/{name}"}
CLOSED = [route for route in EVERY if route.path not in OPEN]
CHANGES = [route for route in CLOSED if "POST" in (route.methods or ())]
PAGES = [route for route in CLOSED if route not in CHANGES]
# What nobody means.
ODD = (
    "9" * 5000,
    "-" + "9" * 30,
    "9" * 30 + ".",
    "\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "0001-01-01",
    "9999-12-31",
    "9999-12",
    "http://[",
    "evt_-" + "f" * 31,
    "(((((((",
)
# Of queries that no type describes.
UNTYPED = {"/console/quarantine/discard": ("id",), "/console/general/replay": ("type", "last_error")}


def name_of(route: ConsoleRoute) -> str:
    return f"{'POST' if route in CHANGES else 'GET'} {route.path}"


def filled(route: ConsoleRoute, ids: dict[str, str]) -> str:
    return re.sub(r"{(\w+)(?::\w+)?}", lambda match: ids.get(match[1], "1"), route.path)


def test_every_page_and_change_is_listed() -> None:
    assert {route.path for route in EVERY if route.needs is None} == OPEN
    assert all(route.path in OPEN or route.needs for route in EVERY)


@pytest.mark.parametrize("route", CLOSED, ids=name_of)
async def test_a_stranger_gets_nothing(gateway: Gateway, route: ConsoleRoute) -> None:
    console = Console(gateway)
    path = filled(route, {})
    for cookies in ({}, {"__Host-console": "x" * 43}):
        console.cookies = dict(cookies)
        if route in CHANGES:
            assert (await console.post(path)).status == 401
        else:
            page = await console.get(path)
            assert page.status == 303
            assert page.location.startswith("/console/sign-in?next=")


@pytest.mark.parametrize("route", CHANGES, ids=name_of)
async def test_a_change_is_refused_without_its_token_and_from_elsewhere(
    settings: Settings, pair: tuple[Data, Data], route: ConsoleRoute
) -> None:
    """Also by somebody who may make it; nothing is changed."""
    own = pair[0]
    console = await signed_in(own.organization)
    path = filled(route, own.ids)
    async with untouched(settings, own.organization):
        assert (await console.post(path, {"csrf": ""})).status == 403
        assert (await console.post(path, {"csrf": "0" * 32})).status == 403
        assert (await console.post(path, origin="https://elsewhere.example")).status == 403
        assert (await console.post(path, sec_fetch_site="cross-site")).status == 403
        assert (await console.post(path, sec_fetch_site="same-site")).status == 403


@pytest.mark.parametrize("route", [route for route in CHANGES if route.needs != "any"], ids=name_of)
async def test_a_change_needs_its_permission(settings: Settings, pair: tuple[Data, Data], route: ConsoleRoute) -> None:
    own = pair[0]
    console = await signed_in(own.organization, *({"send", "read", "configure", "admin"} - {str(route.needs)}))
    async with untouched(settings, own.organization):
        assert (await console.post(filled(route, own.ids))).status == 403


@pytest.mark.parametrize("route", [route for route in CLOSED if set(route.param_convertors) - {"rest"}], ids=name_of)
async def test_what_is_anothers_is_not_there(settings: Settings, pair: tuple[Data, Data], route: ConsoleRoute) -> None:
    """The page is the same, byte for byte, as for an id that nobody has."""
    own, other = pair
    if not set(route.param_convertors) <= set(own.ids):
        return  # numbered within the organization: there is no id of another's
    console = await signed_in(own.organization)
    ask = console.post if route in CHANGES else console.get
    path, nobodys_path = filled(route, other.ids), filled(route, random_ids())
    async with untouched(settings, other.organization):
        page = await ask(path)
    nobodys = await ask(nobodys_path)
    assert (page.status, nobodys.status) == (404, 404)
    # Each has its own address, for who comes back to it in another language.
    assert page.html.replace(path, "") == nobodys.html.replace(nobodys_path, "")
    assert not any(name.decode() in page.html.replace(path, "") for name in other.names)


@pytest.mark.parametrize("route", PAGES, ids=name_of)
async def test_no_page_shows_anything_of_anothers(pair: tuple[Data, Data], route: ConsoleRoute) -> None:
    own, other = pair
    if route.path in ("/console/live", "/console/{rest:path}"):  # streams without content; nothing
        return
    if route.needs == "platform":
        return  # lists every organization: for the platform's key alone
    console = await signed_in(own.organization)
    page = await console.get(filled(route, own.ids))
    assert page.status in (200, 303, 404, 409), page.text[:300]
    assert not any(name.decode() in page.html for name in other.names)


@pytest.mark.parametrize(
    "route", [route for route in EVERY if "GET" in (route.methods or ()) and route.path != "/console/live"], ids=name_of
)
async def test_no_value_is_an_error_of_the_service(pair: tuple[Data, Data], route: ConsoleRoute) -> None:
    """Neither of a stranger, nor of who is signed in; nor is any a file that breaks off."""
    stranger, console = Console(pair[0].organization.gateway), await signed_in(pair[0].organization)
    fields = getattr(route.query, "__struct_fields__", ()) + UNTYPED.get(route.path, ())
    for value in map(quote, ODD):
        paths = [f"{filled(route, pair[0].ids)}?{field}={value}" for field in fields]
        paths += [filled(route, {**pair[0].ids, name: value}) for name in route.param_convertors]
        for path in paths:
            for somebody in (stranger, console):
                page = await eventually(partial(somebody.get, path), lambda page: page.status != 503)  # busy: once more
                assert page.status < 500, path


@pytest.mark.parametrize("through", ["9" * 5000, "9" * 19, "\u0661", "-1", "1e3"])
async def test_no_number_of_a_form_is_an_error_of_the_service(pair: tuple[Data, Data], through: str) -> None:
    console = await signed_in(pair[0].organization)
    assert (await console.post("/console/general/replay", {"through": through, "type": "none"})).status in (303, 422)


async def test_the_pair_has_something_to_show(pair: tuple[Data, Data], organization: Organization) -> None:
    """Else what the tests above do not find proves nothing."""
    assert all(len(data.names) > 10 for data in pair)
    assert organization.id not in {data.organization.id for data in pair}
