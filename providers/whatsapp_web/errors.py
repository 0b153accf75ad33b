"""What the errors of WAHA and of the libraries behind it mean for whoever sends: one table, the first row that fits.

Matching on text is fragile, so all of it is here, and what fits no row may have been sent.

Source: https://waha.devlike.pro/docs/how-to/send-messages, reports in
    https://github.com/devlikeapro/waha/issues, and the answers in tests/samples/whatsapp_web.
"""

import re
from typing import Any

from .. import _json
from .._values import Object, flag, mapping, text, word
from .._verdicts import Secrets, Verdict, error_of, repeatable, without_secrets
from ..base import Response
from ..errors import (
    AccountBroken,
    Malformed,
    Rejected,
    Restricted,
    SendError,
    Throttled,
    Unavailable,
    Uncertain,
    Unsupported,
)
from ..messages import ErrorInfo

_UNRESOLVED = Verdict(Rejected, "recipient", "recipient_unresolved", "the recipient is probably not on WhatsApp")
_NO_FILE = Verdict(Rejected, "media", "file_unreachable", "the WAHA server could not fetch the file")
_NO_FILE_NOW = Verdict(Unavailable, "media", "file_unreachable", "the WAHA server could not fetch the file now")
_NO_SESSION = Verdict(AccountBroken, "session", "session_missing", "the WAHA server has no such session")
# The server's words: for calls about it, for those to link it, and (422) for sends.
_MISSING = r'session not found|find a session|^session ".*" does not exist'
ONLY_DEFAULT = "only_default_session"
_OTHER_SESSION = Verdict(AccountBroken, "session", ONLY_DEFAULT, "the WAHA server runs no session but `default`")
_NOT_IMPLEMENTED = Verdict(Unsupported, "engine", "not_implemented", "the engine of the WAHA server cannot do this")

# (status, what the answer says, verdict). A session that is not ready says `session <STATUS>`.
_TABLE = (
    (401, "", Verdict(AccountBroken, "token", "unauthorized", "the WAHA server refuses the API key")),
    (403, "", Verdict(AccountBroken, "token", "forbidden", "the API key may not do this with this session")),
    (404, _MISSING, _NO_SESSION),
    # Every version has sessions: where these are not found, the address is another server's.
    (
        404, r"^Cannot \w+ (?!\S*/api/sessions\b)",
        Verdict(Unsupported, "version", "path_missing", "the version of the WAHA server has no such call"),
    ),
    (404, "", Verdict(AccountBroken, "server", "path_missing", "this is no WAHA server, or one that is too old")),
    # Its own limit, or that of a proxy before it.
    (413, "", Verdict(Unsupported, "message", "too_large", "the message is too large for the WAHA server")),
    (422, _MISSING, _NO_SESSION),
    (422, "^session STARTING$", Verdict(Unavailable, "session", "session_starting", "the session is connecting", 10)),
    (
        422, "(?-i:^session [A-Z_]+$)",
        Verdict(AccountBroken, "session", "session_not_working", "no phone is linked to the session"),
    ),
    (422, "support only 'default' session", _OTHER_SESSION),
    (
        422, "available only in Plus",
        Verdict(Unsupported, "version", "plus_only", "the WAHA server can do this as Plus, or since 2026.6.1"),
    ),
    # With this status before June 2025, and still where the image lacks what the engine needs.
    (422, "not implemented|docker image", _NOT_IMPLEMENTED),
    (422, "", Verdict(Rejected, "message", "unprocessable", "the WAHA server refuses the message")),
    (429, "", Verdict(Throttled, None, "too_many_requests", "too many requests", 30)),
    (
        500, "server returned error 463",
        Verdict(Restricted, "new_conversations", "463", "WhatsApp bars the account from new conversations"),
    ),
    (500, "no LID found for|No LID for user|Lid is missing in chat table", _UNRESOLVED),
    (
        500, "server returned error 429|rate-overlimit",
        Verdict(Throttled, "number", "rate_overlimit", "WhatsApp wants fewer messages from the account", 120),
    ),
    (
        500, r"server returned error (479|400)",
        Verdict(Uncertain, None, "server_error", "WhatsApp answered with an error"),
    ),
    (
        500, "invalid media type|ffmpeg",
        Verdict(Rejected, "media", "media_unreadable", "the WAHA server cannot convert the file"),
    ),
    # A judgement: Baileys says so where its socket is not open, which is before it writes the message, or while it asks
    # for keys and devices, which precede the message too. It reconnects each half hour.
    (
        500, "^Connection Closed$",
        Verdict(Unavailable, "session", "connection_closed", "the session is reconnecting", 5),
    ),
    (
        500, "Protocol error|Target closed|Session closed|Execution context was destroyed|detached Frame",
        Verdict(Uncertain, "session", "browser_gone", "the browser of the session crashed during the call"),
    ),
    (501, "", _NOT_IMPLEMENTED),
)  # fmt: skip
_ROWS = tuple((status, re.compile(pattern, re.IGNORECASE), verdict) for status, pattern, verdict in _TABLE)
# Fetching precedes sending: where there was a file to fetch these say that nothing was sent. Of a call without one, or
# within a longer text, as of the socket to an engine, they say nothing.
_REFUSED_FILE = re.compile(
    r"Request failed with status code [34]\d\d$|getaddrinfo ENOTFOUND |Invalid URL$|Unsupported protocol "
)
_NO_ANSWER_FOR_FILE = re.compile(
    r"Request failed with status code 5\d\d$|getaddrinfo EAI_AGAIN |(connect|read|write) E[A-Z]+\b|socket hang up$"
    r"|timeout of \d+ms exceeded$"
)

_LONGEST_QUOTE = 200


_EVENTS = re.compile(r"each value in events must be one of the following values: ([^;]+)")


def send_error(response: Response, *, secrets: Secrets, by_url: bool = False) -> SendError:
    """What an answer that is no acceptance means. *by_url*: WAHA had a file to fetch. *secrets* never appear in it."""
    message = _message(response)
    verdict = _verdict(response.status, message, by_url=by_url)
    # Hidden before it is cut: of a secret at the cut nothing must be left.
    quoted = without_secrets(message, secrets)[:_LONGEST_QUOTE]
    detail = f"{verdict.meaning}: {quoted}" if quoted else verdict.meaning
    return error_of(verdict, response, detail, code=verdict.code, secrets=(), wait_s=verdict.wait_s)


def call_error(response: Response, *, secrets: Secrets) -> SendError:
    """The same for a call that may be repeated freely."""
    return repeatable(send_error(response, secrets=secrets))


def is_missing_session(response: Response) -> bool:
    return _verdict(response.status, _message(response), by_url=False) is _NO_SESSION


def is_conflict(response: Response) -> bool:
    """Whether a session was not created because it is there: a server in front of WAHA may say 409."""
    return response.status == 409 or (response.status == 422 and "already exists" in _message(response))


def known_events(response: Response) -> list[str] | None:
    """The events that the server has, where it refused a webhook because it does not know one of them."""
    found = _EVENTS.search(_message(response)) if response.status == 400 else None
    return found[1].split(", ") if found else None


def is_unresolved(response: Response) -> bool:
    """Whether nothing was sent because the engine does not know who the recipient is."""
    return _verdict(response.status, _message(response), by_url=False) is _UNRESOLVED


def reported(error: Object) -> ErrorInfo:
    """Why a message failed after all, from an ``ERROR`` ack. It is definitive: nothing is uncertain here."""
    code = word(error, "code")  # which some builds write as a number
    until, kind = text(error, "until"), text(error, "enforcementType")
    blocked = "blocked" if error.get("blocked") is True else None
    return ErrorInfo(
        code=code,
        class_=(Restricted if code == "463" or flag(error, "blocked") else Rejected).__name__,
        title=text(error, "reason"),
        detail=", ".join(filter(None, [blocked, until and f"until {until}", kind])) or None,
    )


def answer(response: Response) -> Any:
    """The JSON of *response*, None where there is none."""
    try:
        return _json.read(response.body)
    except Malformed:
        return None


def answered(response: Response, *, secrets: Secrets) -> Any:
    """The answer to a call that may be repeated freely; many of them are empty."""
    if not 200 <= response.status < 300:
        raise call_error(response, secrets=secrets)
    return answer(response)


def answered_object(response: Response) -> Object:
    return _json.object_in(response.body) or {}


def _verdict(status: int, message: str, *, by_url: bool) -> Verdict:
    if status == 500 and by_url:
        if _REFUSED_FILE.match(message):
            return _NO_FILE
        if _NO_ANSWER_FOR_FILE.match(message):
            return _NO_FILE_NOW
    for refused, pattern, verdict in _ROWS:
        if status == refused and pattern.search(message):
            return verdict
    if 400 <= status < 500:
        return Verdict(Rejected, "message", f"http_{status}", "the WAHA server refuses the message")
    # Any other 500 too: in July 2026 WEBJS delivered, and broke down building the answer.
    return Verdict(Uncertain, None, f"http_{status}", f"HTTP {status} without an id of a message")


def _message(response: Response) -> str:
    """What the answer says for people. The rest of a 500 repeats our request, with all that was written in it."""
    body = answered_object(response)
    if isinstance(body.get("status"), str) and "expected" in body:
        return f"session {body['status']}"
    # WAHA's own errors have no message beside `error`, which is the name of the status in all others.
    message = mapping(body, "exception").get("message") or body.get("message") or body.get("error")
    if isinstance(message, list):
        return "; ".join(part for part in message if isinstance(part, str))
    return message if isinstance(message, str) else ""
