"""Calls to Meta's Graph API: how they are written, and what their answers mean.

Source: https://developers.facebook.com/docs/graph-api/overview,
    https://developers.facebook.com/docs/graph-api/guides/secure-requests.
"""

from typing import Literal
from urllib.parse import urlencode

import msgspec

from .._values import Object, mapping, text
from ..base import Flow, Request, Response
from ..cloud_api import answered
from ..signing import hmac_hex


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """The Graph API for whoever holds ``access_token``. All calls but those that send may be repeated freely."""

    root: str  # address and version, under which nodes and edges are found
    access_token: str
    app_secret: str | None = None  # None: without proof of it
    secrets: tuple[str | None, ...] = ()  # what no error may quote

    @property
    def authorization(self) -> dict[str, str]:
        """Only ever a header: a token in a URL lands in logs."""
        return {"authorization": f"Bearer {self.access_token}"}

    def get(self, path: str, query: dict[str, str] | None = None) -> Request:
        return self._request("GET", path, query or {})

    def delete(self, path: str) -> Request:
        return self._request("DELETE", path, {})

    def post(self, path: str, body: Object | None = None) -> Request:
        if body is None:
            return self._request("POST", path, {})
        headers = {**self.authorization, "content-type": "application/json"}
        return Request(method="POST", url=self.url(path), headers=headers, body=msgspec.json.encode(body))

    def url(self, path: str, query: dict[str, str] | None = None) -> str:
        query = query or {}
        if self.app_secret is not None:
            proof = hmac_hex(self.app_secret, self.access_token.encode(), "sha256")
            query = {**query, "appsecret_proof": proof}
        asked = urlencode(query, safe=",")
        return f"{self.root}/{path}?{asked}" if asked else f"{self.root}/{path}"

    def call(self, request: Request) -> Flow[Object]:
        """One call that may be repeated freely, and its answer."""
        return self.answered((yield request))

    def answered(self, response: Response) -> Object:
        return answered(response, secrets=self.secrets)

    def _request(self, method: Literal["GET", "POST", "DELETE"], path: str, query: dict[str, str]) -> Request:
        return Request(method=method, url=self.url(path, query), headers=self.authorization)

    def __repr__(self) -> str:
        return "Graph(…)"


def next_cursor(page: Object) -> str | None:
    """What the page after *page* is asked for with, None at the last.

    The address of it that Meta gives may carry the token, so it is not followed.
    """
    paging = mapping(page, "paging")
    return text(mapping(paging, "cursors"), "after") if "next" in paging else None
