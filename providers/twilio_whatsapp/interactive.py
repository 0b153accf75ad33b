"""Messages with something to tap, as the content resources that Twilio sends them by.

Source: https://www.twilio.com/docs/content/content-types-overview,
    https://www.twilio.com/docs/content/content-api-resources.
"""

import hashlib
from urllib.parse import urlencode

from .. import _json
from .._values import Object, objects, present, word
from .._verdicts import repeatable, unsupported, unsupported_kind
from ..base import Flow
from ..content import Button, Buttons, CallToAction, Interactive, ListMenu, ListRow
from ..errors import Rejected, Unavailable, Uncertain
from .api import Api
from .errors import answer
from .outbound import Form, prepared

# The body, which differs from message to message, is a variable, so that one resource serves all of a kind.
_BODY = "1"
_PLACEHOLDER = f"{{{{{_BODY}}}}}"
# Answers of an address that cannot search; then content is made anew.
_NO_SEARCH = (400, 404, 405)


def fields(api: Api, content: Interactive) -> Flow[Form]:
    """The fields that say *content*, whose content resource is made if it is not there.

    This comes before the message: whatever is lost here, the message surely was not sent.
    """
    try:
        content_sid = yield from _content_sid(api, _resource(content))
    except Uncertain as error:
        raise repeatable(error) from error
    return prepared(content_sid, {_BODY: content.body})


def _content_sid(api: Api, wanted: Object) -> Flow[str]:
    """The content resource *wanted*, made if it is not there. Making one twice harms nobody."""
    if (sid := (yield from _find_content(api, wanted["friendly_name"]))) is not None:
        return sid
    made = yield from api.call(api.post_json(f"{api.host('content')}/v1/Content", wanted))
    sid = word(made, "sid")
    if sid is None:
        raise Unavailable("Twilio answered without the SID of the new content", code="unexpected_answer")
    return sid


def _find_content(api: Api, name: str) -> Flow[str | None]:
    query = urlencode({"ContentName": name, "PageSize": "50"})
    listed = yield api.get(f"{api.host('content')}/v2/Content", query)
    if listed.status not in _NO_SEARCH:
        api.answered(listed)
    contents = objects(answer(listed), "contents")
    return next((word(content, "sid") for content in contents if word(content, "friendly_name") == name), None)


def _resource(message: Interactive) -> Object:
    """The content resource for *message*, named by its digest so that it is made once; or `Unsupported`."""
    kind, parts = _type_of(message)
    if not message.body:
        raise Rejected("the message needs a body", code="text_empty")
    written = _json.canonical(parts)
    if b"{{" in written:
        raise unsupported("braces", "only the body may have double braces: they mark variables")
    types = {f"twilio/{kind}": {"body": _PLACEHOLDER, **parts}}
    digest = hashlib.sha256(kind.encode() + written).hexdigest()[:32]
    return {"friendly_name": f"gw_{digest}", "language": "en", "variables": {_BODY: "text"}, "types": types}


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
