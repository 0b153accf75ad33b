"""Routes that carry the types of what they take and answer, and the requests that handlers get from them."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypedDict, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from typing_extensions import TypeVar

from ..audit.trail import Actor
from ..identifiers import parse_id
from ..metrics.labels import VALUES
from ..storage.database import Database
from ..storage.vault import split_api_key
from .auth import PLATFORM, Authenticator, Principal, Unauthenticated, key_in
from .bodies import LargeBodies, MoreWrong, OrganizationBody, body_of, decode, decode_query, text_of
from .limits import Limiter
from .problems import Problem, json_response, not_found, too_many
from .refusals import Reason
from .waiting import Page, Waiting, json_page

# What a key must have; ``platform``: it must be the platform's; ``any``: any key will do.
Needs = Literal["send", "read", "configure", "admin", "platform", "any"]


class WebState(TypedDict):
    """What a request's own methods find in its state."""

    authenticator: Authenticator
    bodies: LargeBodies
    refused_changes: "_RefusedChanges"
    connection_tests: Limiter
    database: Database
    waiting: Waiting


class _RefusedChanges(Protocol):
    async def note(self, request: "AnyRequest", error: Exception) -> None: ...


StateT = TypeVar("StateT", bound=WebState)
Body = TypeVar("Body", default=None)
Query = TypeVar("Query", default=None)
Answer = TypeVar("Answer")


class ApiRequest(Request[StateT], Generic[StateT, Body, Query]):
    """A request of the API, from somebody who may make it."""

    principal: Principal
    sent = b""  # its body, once it was read, where it is to change something
    _is_counted = False

    def __init__(self, scope: Scope, receive: Receive, send: Send, route: "ApiRoute") -> None:
        super().__init__(scope, receive, send)
        self._route = route
        # By name in lower case, of a repeated one the first: Starlette walks through all for each that is wanted.
        self.header = text_of(reversed(scope["headers"]))

    @property
    def organization_id(self) -> UUID:
        """The organization that it acts for. Raises `Problem` 400."""
        if self.principal.organization_id is None:
            raise Problem(400, "organization_missing", "The platform key needs the header X-Org-Id.")
        return self.principal.organization_id

    @property
    def id(self) -> str:
        request_id: str = self.scope["state"]["request_id"]
        return request_id

    @property
    def operation(self) -> str:
        """As the description of the API names it."""
        return self._route.name

    @property
    def changes(self) -> bool:
        """Whether it is to change something, so that the trail has it where it is refused."""
        return self._route.changes

    @property
    def field_names(self) -> tuple[str, ...]:
        """Those that its body may have."""
        names: tuple[str, ...] = getattr(self._route.body, "__struct_fields__", ())
        return names

    @property
    def actor(self) -> Actor:
        return Actor(self.principal.name, self.address)

    @property
    def address(self) -> str | None:
        """Where it comes from."""
        return self.state["authenticator"].address_of(self)

    def id_in_path(self, name: str) -> UUID:
        """Raises `Problem` 404 for what is no id: there is nothing that it names."""
        found = parse_id(self.path_params[name])
        if found is None:
            raise not_found()
        return found

    @cached_property
    def query(self) -> Query:
        """Its query as the route's type. Raises `Problem` 422, naming every parameter that is wrong."""
        query: Query = decode_query(self.scope["query_string"], self._route.query)
        return query

    async def decoded(self, more: MoreWrong | None = None) -> Body:
        """Its body as the route's type. Raises `Problem` 404, 413, 415 or 422, naming every field that is wrong."""
        owner = self.principal.organization_id or PLATFORM
        sent = await body_of(self, self.header, self.state["bodies"], owner)
        if self.changes:  # a send that waits holds no more than what was read of it
            self.sent = sent
        body: Body = decode(sent, self._route.decoder, more, any_text=self._route.any_text)
        if isinstance(body, OrganizationBody) and body.organization_id is not None:
            self._check_organization(body.organization_id)
        return body

    def _check_organization(self, named: str) -> None:
        """Raises `Problem` 404 where *named* is any other than the request's organization, or none at all."""
        if parse_id(named) != self.organization_id:
            raise self.refusal("other_organization", not_found())

    def connection(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """A transaction that sees what is the organization's."""
        return self.state["database"].organization(self.organization_id)

    def check_calls_out(self, weight: float = 1.0) -> None:
        """Before the service calls out to where the organization says. Raises `Problem` 429: it did so too often."""
        if (wait_s := self.state["connection_tests"].take(self.organization_id, weight)) > 0:
            raise too_many("The organization made too many connection tests and the like. Try again later.", wait_s)

    def page(self, read: Callable[[], Awaitable[Answer]], organization_id: UUID | None = None) -> Page[Answer]:
        """What *read* gives as JSON, in the room that the organization has for it."""
        return json_page(self.state["waiting"].room(organization_id or self.organization_id), read)

    async def authorize(self) -> None:
        """See who makes it, and whether they may (still). Raises `Problem` 401, 403, 404 or 429."""
        needs = self._route.needs
        await self._identify()
        scope = "admin" if needs == "platform" else needs
        if scope not in ("any", *self.principal.scopes):
            raise self.refusal("scope", Problem(403, "forbidden", f"This key lacks the scope {scope!r}."))
        if not self._is_counted:  # a stream is authorized again and again
            self._count()
        if needs == "platform":
            self.check_platform()

    async def _identify(self) -> None:
        headers = self.header.get("authorization"), self.header.get("x-org-id")
        try:
            self.principal = await self.state["authenticator"].principal(*headers, lambda: self.address)
        except Unauthenticated as error:
            raise self.refusal(error.reason, error) from None

    def _count(self) -> None:
        self._is_counted = True
        key = self.principal.name, self.principal.organization_id
        if (wait_s := self.state["authenticator"].requests.take(key)) > 0:
            raise self.refusal("too_many_requests", too_many("This key makes too many requests.", wait_s))

    def check_platform(self) -> None:
        """Raises `Problem` 403 where it is made with an organization's key."""
        if not self.principal.is_platform:
            raise self.refusal("platform_only", Problem(403, "forbidden", "Only the platform key may do this."))

    def refusal(self, reason: Reason, problem: Problem) -> Problem:
        """*problem*, counted and logged with who asked, from where: of a key its id, and nothing that is not one."""
        principal = getattr(self, "principal", None)
        parts = split_api_key(key_in(self.header.get("authorization")) or "") if principal is None else None
        self.state["authenticator"].refusals.note(
            reason,
            status=problem.status,
            key=principal.name if principal else parts and parts[0],
            organization=principal and principal.organization_id,
            address=self.address,
            route=self._route.path,
            request_id=self.id,
        )
        return problem


AnyRequest: TypeAlias = ApiRequest[Any, Any, Any]


class ApiRoute(Route):
    """A route with the types of its body, its query and its answers, as its handler's signature has them.

    *needs*: what a key must have; None: no key at all. *any_text*: its body may hold line breaks and the like.
    *changes*: what it refuses is in the trail; by default where more than reading and sending is needed.
    A handler gives the answer itself, None for one without a body (204), or a `Response`. What it raises the middleware
    turns into answers, so there is no handling of exceptions around each of them.
    """

    def __init__(
        self,
        methods: str,
        path: str,
        endpoint: Callable[[AnyRequest], Awaitable[object]],
        needs: Needs | None,
        *,
        status: int = 200,
        any_text: bool = False,
        file: Literal["body", "answer"] | None = None,
        changes: bool = True,
    ) -> None:
        super().__init__(path, endpoint, methods=methods.split(", "))
        self.needs, self.any_text, self.file = needs, any_text, file
        self._status = status
        self.changes = changes and "GET" not in methods and needs in ("configure", "admin", "platform")
        self.body, self.query, self.answers = _types(endpoint)
        self.decoder = msgspec.json.Decoder(self.body or Any)
        VALUES["route"].add(path)
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["served"] = self.path, scope["method"]  # for the metric: what there is no route for is `other`
        request: AnyRequest = ApiRequest(scope, receive, send, self)
        try:
            if self.needs is not None:
                await request.authorize()
            answer = await self.endpoint(request)
        except Exception as error:
            if self.changes:
                await request.state["refused_changes"].note(request, error)
            raise
        await self._response(answer)(scope, receive, send)

    def _response(self, answer: Any) -> Response:
        if answer is None:
            return Response(status_code=204)
        return answer if isinstance(answer, Response) else json_response(answer, self._status)


def _types(endpoint: Callable[..., object]) -> tuple[Any, Any, list[Any]]:
    """The types of the body, the query and the answers of a handler; None: it takes no body, or no query."""
    kinds = get_type_hints(endpoint)
    answer, request = kinds.pop("return"), *kinds.values()
    body, query = (None if kind is NoneType or isinstance(kind, TypeVar) else kind for kind in get_args(request)[1:])
    return body, query, list(_answers(answer))


def _answers(kind: Any) -> Iterator[Any]:
    origin = get_origin(kind)
    if origin in (Union, UnionType) or (isinstance(origin, type) and issubclass(origin, Response)):
        for part in get_args(kind):
            yield from _answers(part)
    elif kind is not NoneType and not (isinstance(kind, type) and issubclass(kind, Response)):
        yield kind
