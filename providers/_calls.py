"""Calls to the API of a provider as one account: how those are written that take JSON."""

from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec

from ._values import Object
from .base import Flow, Request, Response

Query = Mapping[str, str]


class JsonApi(msgspec.Struct, frozen=True, kw_only=True):
    """``headers`` authorize: a credential in a URL would land in logs. ``secrets`` are what no error may quote."""

    root: str  # the address under which all paths are found
    headers: dict[str, str]
    secrets: tuple[str | None, ...]
    read: Callable[..., Any]  # (response, secrets=…): what an answer says to a call that may be repeated freely

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    # msgspec gives a struct with its own __rich_repr__.
    def __rich_repr__(self) -> Any:
        yield from ()

    def call(self, request: Request) -> Flow[Any]:
        """One call that may be repeated freely, and its answer."""
        return self.answered((yield request))

    def answered(self, response: Response) -> Any:
        return self.read(response, secrets=self.secrets)

    def get(self, path: str, query: Query | None = None) -> Request:
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Object | None = None) -> Request:
        return self.request("POST", path, body)

    def request(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        body: Object | None = None,
        query: Query | None = None,
    ) -> Request:
        url = self.url(path, query or {})
        if body is None:
            return Request(method=method, url=url, headers=self.headers)
        headers = {**self.headers, "content-type": "application/json"}
        return Request(method=method, url=url, headers=headers, body=msgspec.json.encode(body))

    def url(self, path: str, query: Query) -> str:
        parameters = urlencode(query, safe=",")
        return f"{self.root}/{path}?{parameters}" if parameters else f"{self.root}/{path}"
