"""The console's routes: who may, where a change comes from, and errors as pages."""

from collections.abc import Awaitable, Callable
from typing import Any, cast, get_args, get_type_hints
from urllib.parse import quote

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from typing_extensions import TypeVar

from ..api.refusals import refused_as_problems
from ..metrics.labels import VALUES
from ..web.bodies import Disconnected
from ..web.problems import Problem, not_found
from ..web.routing import Needs
from .notifications import newest
from .rendering import bounce, problem_page, redirect
from .requests import BOUNCED, AnyConsoleRequest, ConsoleRequest, Redirected, SignedOut

PREFIX = "/console"


class ConsoleRoute(Route):
    """A page, or a form's action, below /console. *needs*: what the key in use must have; None: nobody is signed in.

    Every POST is held against where it comes from, and against the session's token, before its handler is called.
    *organization* False: also for the platform's key that has chosen none. *is_file*: it is downloaded.
    *operation*: what it changes, as the API names that; what it refuses is in the trail as such.
    """

    body = None
    answers: tuple[type, ...] = ()

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: Callable[[Any], Awaitable[Response]],
        needs: Needs | None,
        *,
        organization: bool = True,
        is_file: bool = False,
        operation: str | None = None,
    ) -> None:
        super().__init__(PREFIX + path, endpoint, methods=[method], name=operation, include_in_schema=False)
        self.needs, self.organization, self.is_file = needs, organization, is_file
        self.changes = operation is not None
        self.query = _query_of(endpoint)
        VALUES["route"].add(self.path)
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["served"] = self.path, scope["method"]
        request: AnyConsoleRequest = ConsoleRequest(scope, receive, send, cast("Any", self))
        try:
            answer = await self._answer(request)
        except Redirected as elsewhere:
            answer = redirect(elsewhere.path)
        except SignedOut:
            answer = _signed_out(request)
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001  (`problem_with` logs it)
            answer = problem_page(request, await request.problem_with(error))
        await answer(scope, receive, send)

    async def _answer(self, request: AnyConsoleRequest) -> Response:
        changes = request.method == "POST"
        if changes:
            request.check_origin()
        if self.needs is not None:
            await request.authorize()
            if self.organization:
                _ = request.organization_id
            if changes:
                await request.posted()
            if not self.is_file:
                request.notifications = await newest(request)
        with refused_as_problems():
            return cast("Response", await self.endpoint(request))


def _query_of(endpoint: Callable[..., object]) -> Any:
    hints = get_type_hints(endpoint)
    hints.pop("return")
    [request] = hints.values()
    [query] = get_args(request) or (None,)
    return None if query in (None, type(None), Any) or isinstance(query, TypeVar) else query


def _signed_out(request: AnyConsoleRequest) -> Response:
    if request.method != "GET" or request.is_of_script or request.wants_stream:
        return problem_page(request, Problem(401, "signed_out", "The session is over: sign in again."))
    # A link in a mail comes from another site, where the strict cookie is not sent: once more, from a page of ours.
    is_foreign = request.header.get("sec-fetch-site") in ("cross-site", "same-site")
    if is_foreign and BOUNCED not in request.query_params:
        return bounce(request)
    return redirect(f"/console/sign-in?next={quote(request.target, safe='')}")


async def nothing_here(_: ConsoleRequest) -> Response:
    """What there is no page for."""
    raise not_found()
