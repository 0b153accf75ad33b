"""Lists as the Graph API gives them, a page at a time.

Source: https://developers.facebook.com/docs/graph-api/results,
    https://github.com/facebook/openapi (`CursorPaging`)
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from .bodies import Body
from .errors import GraphError

_DEFAULT_LIMIT = 25


def page_of(found: Sequence[Body], names: Sequence[str], query: Mapping[str, str], url: str) -> Body:
    """The page of *found* that *query* asks for, with the fields *names* and the id of each.

    The addresses of other pages carry the token, as Meta's may, so nobody should follow or log them.
    """
    limit = query.get("limit", str(_DEFAULT_LIMIT))
    if not limit.isdecimal() or int(limit) == 0:
        raise GraphError(100, message="(#100) Param limit must be a positive integer")
    start, end = _range(query, int(limit), len(found))
    shown = [{name: one[name] for name in {*names, "id"} if name in one} for one in found[start:end]]
    if not shown:
        return {"data": []}
    others: dict[str, Any] = {name: query[name] for name in query if name not in ("after", "before")}
    others["access_token"] = "EAAG"  # noqa: S105  (a simulator's)
    cursors = {"before": _cursor(start), "after": _cursor(end)}
    paging: Body = {"cursors": cursors}
    if start:
        paging["previous"] = f"{url}?{urlencode({**others, 'before': cursors['before']})}"
    if end < len(found):
        paging["next"] = f"{url}?{urlencode({**others, 'after': cursors['after']})}"
    return {"data": shown, "paging": paging}


def _range(query: Mapping[str, str], limit: int, count: int) -> tuple[int, int]:
    if "before" in query:
        end = _offset(query["before"], count)
        return max(end - limit, 0), end
    start = _offset(query["after"], count) if "after" in query else 0
    return start, min(start + limit, count)


def _cursor(offset: int) -> str:
    return base64.urlsafe_b64encode(f"item:{offset}".encode()).decode()


def _offset(cursor: str, count: int) -> int:
    """Only a cursor that was given out is taken."""
    try:
        kind, _, offset = base64.urlsafe_b64decode(cursor).decode().partition(":")
    except ValueError:
        kind, offset = "", ""
    if kind != "item" or not offset.isdecimal() or int(offset) > count:
        raise GraphError(100, message="(#100) Invalid parameter: the cursor is not valid")
    return int(offset)
