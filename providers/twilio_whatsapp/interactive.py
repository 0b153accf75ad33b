"""Messages with something to tap, as the content resources that Twilio sends them by.

Source: https://www.twilio.com/docs/content/content-types-overview,
    https://www.twilio.com/docs/content/content-api-resources.
"""

import hashlib

from .. import _json
from .._values import Object, objects, present, word
from .._verdicts import unsupported, unsupported_kind
from ..base import Response
from ..content import Button, Buttons, CallToAction, Interactive, ListMenu, ListRow
from ..errors import Rejected
from .errors import answer

# The body, which differs from message to message, is a variable, so that one resource serves all of a kind.
BODY = "1"
_PLACEHOLDER = f"{{{{{BODY}}}}}"


def resource(message: Interactive) -> Object:
    """The content resource for *message*, named by its digest so that it is made once; or `Unsupported`."""
    kind, parts = _type_of(message)
    if not message.body:
        raise Rejected("the message needs a body", code="text_empty")
    written = _json.canonical(parts)
    if b"{{" in written:
        raise unsupported("braces", "only the body may have double braces: they mark variables")
    types = {f"twilio/{kind}": {"body": _PLACEHOLDER, **parts}}
    digest = hashlib.sha256(kind.encode() + written).hexdigest()[:32]
    return {"friendly_name": f"gw_{digest}", "language": "en", "variables": {BODY: "text"}, "types": types}


def sid_in(response: Response, name: str) -> str | None:
    """The SID of the resource *name* in a list of resources, None where it is not there."""
    contents = objects(answer(response), "contents")
    return next((word(content, "sid") for content in contents if word(content, "friendly_name") == name), None)


def _type_of(message: Interactive) -> tuple[str, Object]:
    match message.action:
        case Buttons(buttons=buttons):
            return "quick-reply", {"actions": [_reply(button) for button in buttons]}
        case ListMenu(button=button, sections=sections):
            return "list-picker", {"button": button, "items": [_item(row) for one in sections for row in one.rows]}
        case CallToAction(title=title, url=url):
            return "call-to-action", {"actions": [{"type": "URL", "title": title, "url": url}]}
    raise unsupported_kind("Twilio", message.action)


def _reply(button: Button) -> Object:
    return {"type": "QUICK_REPLY", "title": button.title, "id": button.id}


def _item(row: ListRow) -> Object:
    return present(item=row.title, id=row.id, description=row.description)
