"""Calls to Meta's Graph API: how they are written, and what their answers mean.

Source: https://developers.facebook.com/docs/graph-api/overview,
    https://developers.facebook.com/docs/graph-api/guides/secure-requests.
"""

from .._calls import JsonApi, Query
from .._values import Object, mapping, text
from ..signing import hmac_hex


class Graph(JsonApi, frozen=True, kw_only=True):
    """The Graph API for whoever holds ``access_token``. All calls but those that send may be repeated freely."""

    access_token: str
    app_secret: str | None = None  # None: without proof of it

    def url(self, path: str, query: Query) -> str:
        if self.app_secret is not None:
            query = {**query, "appsecret_proof": hmac_hex(self.app_secret, self.access_token.encode(), "sha256")}
        return JsonApi.url(self, path, query)


def next_cursor(page: Object) -> str | None:
    """What the page after *page* is asked for with, None at the last.

    The address of it that Meta gives may carry the token, so it is not followed.
    """
    paging = mapping(page, "paging")
    return text(mapping(paging, "cursors"), "after") if "next" in paging else None
