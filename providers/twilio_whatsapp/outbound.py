"""Messages to Twilio as the form that its Message resource takes, and what it answers.

Source: https://www.twilio.com/docs/messaging/api/message-resource,
    https://www.twilio.com/docs/whatsapp/api, https://www.twilio.com/docs/content/send-templates-created-with-the-content-template-builder.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from .._values import Object, contact_of, decimal, is_user_id, listed, mail_date, objects, phone, text, word
from .._verdicts import unsupported, unsupported_kind
from ..base import Response
from ..content import Audio, Contacts, Location, MediaContent, OutboundContent, Sticker, Template, Text
from ..errors import Rejected
from ..messages import MessageData, MessageResult, Recipient
from .errors import answer, send_error
from .inbound import REFERENCE

CHANNEL = "whatsapp:"
Form = list[tuple[str, str]]

# By how much Twilio's clock may be behind ours; what is older than a message is another one with the same words.
_CLOCKS_DIFFER = timedelta(minutes=1)
# Seconds that Twilio keeps a message for at most.
_MAX_VALIDITY_S = 36_000


def address(to: Recipient) -> str:
    """*to* with the channel. The phone is preferred; an id has no plus. `Unsupported` for groups and others."""
    known = to.phone or to.user_id
    if known is None:
        raise unsupported("recipient", "a phone or a business-scoped user id is needed")
    return f"{CHANNEL}{known}"


def content_fields(content: OutboundContent) -> Form:
    """The fields that say *content*, or `Unsupported`. Twilio has none for a quoted message or a file's name."""
    match content:
        case Contacts(contacts=[{"url": str(url)}]):
            # A card is sent as the file it is in, which is how it comes in, too.
            return [("MediaUrl", url)]
        case Text(body=body):
            return [("Body", body)]
        case MediaContent():
            return _medium(content)
        case Location():
            return _location(content)
        case Template():
            return _template(content)
    raise unsupported_kind("Twilio", content)


def prepared(content_sid: str, variables: Object) -> Form:
    """The fields for a content resource. Beside them there is neither body nor medium."""
    fields = [("ContentSid", content_sid)]
    if variables:
        written = json.dumps(variables, ensure_ascii=False, separators=(",", ":"))
        fields.append(("ContentVariables", written))
    return fields


def beside(message: MessageData) -> Form:
    """How long Twilio may keep the message waiting, and where its statuses go.

    A code to log in with is of no use tomorrow. The correlation id in the address settles what became of a send whose
    answer was lost.
    """
    fields = []
    if message.valid_for_s is not None:
        fields.append(("ValidityPeriod", str(min(message.valid_for_s, _MAX_VALIDITY_S))))
    if message.callback_url is not None:
        fields.append(("StatusCallback", _named(message.callback_url, message.correlation_id)))
    return fields


def _named(callback_url: str, correlation_id: str) -> str:
    url, reference = urlsplit(callback_url), f"{REFERENCE}={quote(correlation_id, safe=':')}"
    return url._replace(query=f"{url.query}&{reference}" if url.query else reference).geturl()


def _medium(medium: MediaContent) -> Form:
    if medium.url is None:
        if medium.id is None:
            raise Rejected("a medium needs a URL", code="media_missing")
        raise unsupported("media_id", "Twilio fetches media from a URL, and stores none for sending")
    # With these two a caption becomes a message of its own, or is lost.
    caption = None if isinstance(medium, Audio | Sticker) else medium.caption
    return [*([("Body", caption)] if caption else []), ("MediaUrl", medium.url)]


def _location(place: Location) -> Form:
    point = f"{_decimal(place.latitude)},{_decimal(place.longitude)}"
    # One pipe separates the point from its label.
    label = (place.address or place.name or "").replace("|", "/")
    action = f"geo:{point}|{label}" if label else f"geo:{point}"
    # A message without a body is refused, also where the place has no name.
    return [("Body", place.name or place.address or point), ("PersistentAction", action)]


def _decimal(degrees: float) -> str:
    """Without an exponent."""
    return format(Decimal(repr(degrees)), "f")


# ---------------------------------------------------------------- templates


def _template(template: Template) -> Form:
    """An approved template is a content resource, and its name here is that resource's SID."""
    if not template.name.startswith("HX"):
        raise unsupported("template_name", "Twilio knows a template by its ContentSid (HX…)")
    return prepared(template.name, _variables(template.components))


def _variables(components: list[Object]) -> Object:
    """The variables of *components* by the names that the template's placeholders have.

    Parameters of the body are numbered as in WhatsApp, {{1}} first. Twilio numbers all placeholders of a template
    in one row, so elsewhere only a parameter with a `parameter_name` can be named.
    """
    variables: Object = {}
    for component in components:
        in_body = word(component, "type") == "body"
        for index, parameter in enumerate(listed(component, "parameters"), 1):
            name = word(parameter, "parameter_name") if isinstance(parameter, dict) else None
            if name is None and in_body:
                name = str(index)
            if name is None:
                raise unsupported("template_parameter", "parameters outside of the body need a parameter_name")
            variables[name] = _value(parameter)
    return variables


def _value(parameter: Any) -> Any:
    kind = word(parameter, "type") if isinstance(parameter, dict) else None
    match kind:
        case "text" | "payload":
            return parameter.get(kind)
        case "currency" | "date_time":
            return (parameter.get(kind) or {}).get("fallback_value")
    raise unsupported("template_parameter", f"Twilio's templates have no parameters of this kind: {kind}")


# ---------------------------------------------------------------- answers


def message_result(response: Response, *, secrets: Sequence[str | None]) -> MessageResult:
    """The acceptance in *response*, or the `SendError` it means. Accepted is not delivered.

    Also where the message failed at once: it exists, and a status says so.
    """
    message = answer(response)
    if not 200 <= response.status < 300 or word(message, "sid") is None:
        raise send_error(response, secrets=tuple(secrets))
    return _result(message)


def search(fields: Form) -> str:
    """The query for what was sent between the same two."""
    ends = [field for field in fields if field[0] in ("To", "From")]
    return urlencode([*ends, ("PageSize", "50")])


def found(response: Response, fields: Form, sent: MessageData) -> MessageResult | None:
    """*sent* in the list in *response*, newest first, which a send of *fields* made; None where others say the same.

    Twilio cannot be asked for our own id, so it is recognised by recipient, words and number of media, and by not being
    older than the send: where that is not known, nothing is found.
    """
    since, lookalikes = sent.created_at, sent.lookalikes
    if since is None or lookalikes is None:
        return None
    wanted = dict(fields)
    messages = reversed(objects(answer(response), "messages"))
    alike = [message for message in messages if _is_same(message, wanted) and _is_since(message, since)]
    return lookalikes.pick([_result(message) for message in alike])


def _is_same(message: Object, wanted: dict[str, str]) -> bool:
    media = "1" if "MediaUrl" in wanted else "0"
    return (
        text(message, "direction") == "outbound-api"
        and word(message, "sid") is not None
        and text(message, "to") == wanted["To"]
        and (text(message, "body") or "") == wanted.get("Body", "")
        and (word(message, "num_media") or "0") == media
    )


def _is_since(message: Object, since: datetime) -> bool:
    created_at = mail_date(text(message, "date_created"))
    return created_at is not None and created_at >= since - _CLOCKS_DIFFER


def _result(message: Object) -> MessageResult:
    to = (text(message, "to") or "").removeprefix(CHANNEL)
    return MessageResult(
        provider_message_id=word(message, "sid") or "",
        timestamp=mail_date(text(message, "date_created")),
        cost=_cost(message),
        contact=contact_of(phone(to), to if is_user_id(to) else None),
    )


def _cost(message: Object) -> str | None:
    """What it costs, once Twilio knows. It writes charges as negative amounts."""
    price, unit = decimal(text(message, "price")), text(message, "price_unit")
    return f"{price.removeprefix('-')} {unit}" if price and unit else None
