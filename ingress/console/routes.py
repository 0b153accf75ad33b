"""The console's table of routes."""

from starlette.routing import BaseRoute

from . import live
from .pages import components, sign_in
from .routing import ConsoleRoute, nothing_here

ROUTES: list[BaseRoute] = [
    ConsoleRoute("GET", "", sign_in.home, None),
    ConsoleRoute("GET", "/", sign_in.home, None),
    ConsoleRoute("GET", "/static/{version}/{name}", sign_in.static, None),
    ConsoleRoute("GET", "/sign-in", sign_in.show, None),
    ConsoleRoute("POST", "/sign-in", sign_in.sign_in, None),
    ConsoleRoute("POST", "/sign-out", sign_in.sign_out, "any", organization=False),
    ConsoleRoute("POST", "/preferences", sign_in.prefer, None),
    ConsoleRoute("GET", "/live", live.follow, "any"),
    ConsoleRoute("GET", "/_components", components.show, "any"),
]
# Behind all others.
ROUTES += [ConsoleRoute("GET", "/{rest:path}", nothing_here, "any", organization=False)]
