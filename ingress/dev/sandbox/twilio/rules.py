"""What Twilio refuses about a send, with the code it says so with. The order is Twilio's: people, then contents.

Source: https://www.twilio.com/docs/messaging/api/message-resource, https://www.twilio.com/docs/api/errors
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from .bodies import CHANNEL, USER_ID, Form, TwilioSender
from .contents import TwilioContent
from .errors import TwilioError

MAX_BODY = 1600  # code points
# What a gateway has a reason to send. Twilio knows more; a typing error would pass as one of those.
_KNOWN = {
    "To", "From", "MessagingServiceSid", "Body", "MediaUrl", "ContentSid", "ContentVariables", "PersistentAction",
    "StatusCallback", "ValidityPeriod",
}  # fmt: skip
_REPEATABLE = {"MediaUrl"}
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_CONTENT_SID = re.compile(r"HX[0-9a-fA-F]{32}")
_PLACE = re.compile(r"geo:(-?[0-9]{1,2}(?:\.[0-9]+)?),(-?[0-9]{1,3}(?:\.[0-9]+)?)(\|[^|]+)?")


class CheckedSend(msgspec.Struct, frozen=True, kw_only=True):
    """A send that is in order. *fails_with*: what it will fail with all the same, once WhatsApp has seen it."""

    sender: TwilioSender
    form: Form
    body: str
    is_picked: bool = True  # by the caller; else by the service
    fails_with: int | None = None

    @property
    def has_media(self) -> bool:
        return any(name == "MediaUrl" for name, _ in self.form)


def check_send(form: Form, senders: list[TwilioSender], contents: Mapping[str, TwilioContent]) -> CheckedSend:
    """The send that *form* asks for, of an account that has *senders* and *contents*."""
    fields = dict(form)
    for name in fields:
        if name not in _KNOWN:
            raise TwilioError(20001, f"Unknown parameter: {name}")
        if name not in _REPEATABLE and sum(other == name for other, _ in form) > 1:
            raise TwilioError(20001, f"Repeated parameter: {name}")
    sender = _sender(fields, senders)
    _check_recipient(fields, sender)
    callback = fields.get("StatusCallback")
    if callback is not None and not is_callback(callback):
        raise TwilioError(21609, f"The 'StatusCallback' URL {callback} is not a valid URL.")
    period = fields.get("ValidityPeriod")
    if period is not None and not (re.fullmatch(r"[0-9]{1,5}", period) and 1 <= int(period) <= 36000):
        raise TwilioError(21624)
    body, fails_with = _content(form, fields, contents)
    return CheckedSend(sender=sender, form=form, body=body, is_picked="From" in fields, fails_with=fails_with)


def _sender(fields: dict[str, str], senders: list[TwilioSender]) -> TwilioSender:
    given, service = fields.get("From"), fields.get("MessagingServiceSid")
    if not given and not service:
        raise TwilioError(21603)
    pool = senders
    if service is not None:
        pool = [sender for sender in senders if sender.messaging_service_sid == service]
        if not pool:
            raise TwilioError(21701)
    if given is None:
        return pool[0]
    if not given.startswith(CHANNEL):
        raise TwilioError(21612 if _PHONE.fullmatch(given) else 21212)
    if not _PHONE.fullmatch(given.removeprefix(CHANNEL)):
        raise TwilioError(21212)
    known = [sender for sender in senders if sender.address == given]
    if not known:
        raise TwilioError(63007)
    if known[0] not in pool:
        raise TwilioError(21606)
    return known[0]


def _check_recipient(fields: dict[str, str], sender: TwilioSender) -> None:
    to = fields.get("To", "")
    if not to:
        raise TwilioError(21604)
    if not to.startswith(CHANNEL):
        raise TwilioError(21612 if _PHONE.fullmatch(to) else 21211)
    address = to.removeprefix(CHANNEL)
    if not (_PHONE.fullmatch(address) or USER_ID.fullmatch(address)):
        raise TwilioError(21211, f"Invalid 'To' Phone Number: {to}")
    if to == sender.address:
        raise TwilioError(63031)


def _content(form: Form, fields: dict[str, str], contents: Mapping[str, TwilioContent]) -> tuple[str, int | None]:
    media = [value for name, value in form if name == "MediaUrl"]
    if "ContentSid" in fields or "ContentVariables" in fields:
        if media or "Body" in fields or "PersistentAction" in fields:
            raise TwilioError(20422, "Invalid Parameter: a ContentSid stands alone")
        return _prepared(fields, contents)
    if len(media) > 1:
        raise TwilioError(21623)
    if not all(_is_url(url) for url in media):
        raise TwilioError(21620)
    body = fields.get("Body")
    if not media and not body:
        raise TwilioError(21619 if body is None else 21602)
    if body is not None and len(body) > MAX_BODY:
        raise TwilioError(21617)
    if "PersistentAction" in fields:
        _check_place(fields["PersistentAction"])
    return body or "", None


def _prepared(fields: dict[str, str], contents: Mapping[str, TwilioContent]) -> tuple[str, int | None]:
    sid = fields.get("ContentSid", "")
    if not sid:
        raise TwilioError(21654)
    content = contents.get(sid)
    if content is None or not _CONTENT_SID.fullmatch(sid):
        raise TwilioError(21655)
    try:
        variables = msgspec.json.decode(fields.get("ContentVariables", "{}"), type=dict[str, str])
    except msgspec.MsgspecError:
        raise TwilioError(21656) from None
    # Too few and too many are WhatsApp's business: the send is taken, the message fails.
    is_right = content.placeholders - set(content.variables) <= set(variables) <= content.placeholders
    return content.words(variables), None if is_right else 63028


def _check_place(action: str) -> None:
    match = _PLACE.fullmatch(action)
    if match is None or abs(float(match[1])) > 90 or abs(float(match[2])) > 180:
        raise TwilioError(20422, "Invalid Parameter: PersistentAction")


def _is_url(url: str) -> bool:
    return _is_absolute(url, lambda host: True)


def is_callback(url: str) -> bool:
    """Absolute, and without an underscore in its host's name."""
    return _is_absolute(url, lambda host: "_" not in host)


def _is_absolute(url: str, is_right: Callable[[str], bool]) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and not re.search(r"\s", url) and is_right(host)
