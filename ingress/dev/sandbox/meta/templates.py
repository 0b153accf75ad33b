"""The message templates of an account, listed as the Graph API lists them.

Source: https://developers.facebook.com/docs/graph-api/reference/whats-app-business-account/message_templates,
    https://developers.facebook.com/docs/graph-api/results.
"""

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from .bodies import Body
from .errors import GraphError

# What every template has, so that a field of none is refused, as Meta does.
FIELDS = {
    "id", "name", "status", "category", "language", "components", "quality_score", "parameter_format", "sub_category",
    "rejected_reason", "previous_category", "message_send_ttl_seconds", "library_template_name",
}  # fmt: skip
DEFAULT_FIELDS = "name,parameter_format,components,language,status,category,id"
DEFAULT_LIMIT = 25


def example_template(index: int = 1, **fields: object) -> Body:
    """An invented template, a different one for each *index*."""
    return {
        "id": str(1689556908120000 + index),
        "name": f"order_update_{index}",
        "status": "APPROVED",
        "category": "UTILITY",
        "language": "pt_BR",
        "parameter_format": "POSITIONAL",
        "quality_score": {"score": "GREEN", "date": 1793800800},
        "components": [
            {
                "type": "BODY",
                "text": "Olá {{1}}, seu pedido {{2}} saiu.",
                "example": {"body_text": [["Ana", "#1"]]},
            }
        ],
        **fields,
    }


def list_templates(templates: Sequence[Body], query: Mapping[str, str], url: str) -> Body:
    """One page. The address of the next one carries the token, as Meta's may, so nobody should follow or log it."""
    names = query.get("fields", DEFAULT_FIELDS).split(",")
    if unknown := [name for name in names if name not in FIELDS]:
        message = f"(#100) Tried accessing nonexisting field ({unknown[0]}) on node type (WhatsAppMessageTemplate)"
        raise GraphError(100, message=message)
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not limit.isdecimal() or int(limit) == 0:
        raise GraphError(100, message="(#100) Param limit must be a positive integer")
    start = _offset(query.get("after"), len(templates))
    shown = templates[start : start + int(limit)]
    page: Body = {"data": [{name: one[name] for name in {*names, "id"} if name in one} for one in shown]}
    if shown:
        end = start + len(shown)
        page["paging"] = {"cursors": {"before": _cursor(start), "after": _cursor(end)}}
        if end < len(templates):
            page["paging"]["next"] = f"{url}?{urlencode({**query, 'access_token': 'EAAG', 'after': _cursor(end)})}"
    return page


def _cursor(offset: int) -> str:
    return base64.urlsafe_b64encode(f"templates:{offset}".encode()).decode()


def _offset(cursor: str | None, count: int) -> int:
    """Where the page after *cursor* begins; only what was given out is taken."""
    if cursor is None:
        return 0
    try:
        kind, _, offset = base64.urlsafe_b64decode(cursor).decode().partition(":")
    except ValueError:
        kind, offset = "", ""
    if kind != "templates" or not offset.isdecimal() or int(offset) > count:
        raise GraphError(100, message="(#100) Invalid parameter: the cursor is not valid")
    return int(offset)
