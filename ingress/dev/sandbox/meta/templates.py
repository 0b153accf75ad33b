"""The message templates of an account, listed as the Graph API lists them.

Source: https://developers.facebook.com/docs/graph-api/reference/whats-app-business-account/message_templates,
    https://developers.facebook.com/docs/graph-api/results.
"""

from collections.abc import Mapping, Sequence

from .bodies import Body
from .errors import GraphError
from .paging import page_of

# What every template has, so that a field of none is refused, as Meta does.
FIELDS = {
    "id", "name", "status", "category", "language", "components", "quality_score", "parameter_format", "sub_category",
    "rejected_reason", "previous_category", "message_send_ttl_seconds", "library_template_name",
}  # fmt: skip
DEFAULT_FIELDS = "name,parameter_format,components,language,status,category,id"


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
    """One page, with the fields that are asked for."""
    names = query.get("fields", DEFAULT_FIELDS).split(",")
    if unknown := [name for name in names if name not in FIELDS]:
        message = f"(#100) Tried accessing nonexisting field ({unknown[0]}) on node type (WhatsAppMessageTemplate)"
        raise GraphError(100, message=message)
    return page_of(templates, names, query, url)
