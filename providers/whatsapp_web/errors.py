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
from ..errors import AccountBroken, Malformed, Rejected, Restricted, SendError, Throttled, Unavailable, Uncertain
from ..messages import ErrorInfo

_UNRESOLVED = Verdict(Rejected, "recipient", "recipient_unresolved", "the recipient is probably not on WhatsApp")
_NO_FILE = Verdict(Rejected, "media", "file_unreachable", "the WAHA server could not fetch the file")
# The server's words, now and before 2025. An address it does not know is repeated, with `sessions` in it.
_NO_SESSION = r"session not found|find a session"

# (status, what the answer says, verdict). A session that is not ready says `session <STATUS>`.
_TABLE = (
    (401, "", Verdict(AccountBroken, "token", "unauthorized", "the WAHA server refuses the API key")),
    (403, "", Verdict(AccountBroken, "token", "forbidden", "the API key may not do this with this session")),
    (404, _NO_SESSION, Verdict(AccountBroken, "session", "session_missing", "the WAHA server has no such session")),
    (404, "", Verdict(AccountBroken, "server", "path_missing", "this is no WAHA server, or one that is too old")),
    (413, "", Verdict(Rejected, "message", "too_large", "the message is too large for the WAHA server")),
    (422, "^session STARTING$", Verdict(Unavailable, "session", "session_starting", "the session is connecting", 10)),
    (422, "^session ", Verdict(AccountBroken, "session", "session_not_working", "no phone is linked to the session")),
    (
        422, "not implemented|docker image",
        Verdict(Rejected, "engine", "not_implemented", "the engine of the WAHA server cannot do this"),
    ),
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
    (
        500, "Protocol error|Target closed|Session closed|Execution context was destroyed|detached Frame",
        Verdict(Uncertain, "session", "browser_gone", "the browser of the session crashed during the call"),
    ),
)  # fmt: skip
_ROWS = tuple((status, re.compile(pattern, re.IGNORECASE), verdict) for status, pattern, verdict in _TABLE)
# Fetching precedes sending, so these are refusals where there was a file to fetch, and uncertain where there was none.
_FETCH = re.compile(r"Request failed with status code 4\d\d|ENOTFOUND|getaddrinfo")

_LONGEST_QUOTE = 200


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
    return response.status == 404 and re.search(_NO_SESSION, _message(response), re.IGNORECASE) is not None


def is_unresolved(response: Response) -> bool:
    """Whether nothing was sent because the engine does not know who the recipient is."""
    return _verdict(response.status, _message(response), by_url=False) is _UNRESOLVED


def reported(error: Object) -> ErrorInfo:
    """Why a message failed after all, from an ``ERROR`` ack. It is definitive: nothing is uncertain here."""
    code = word(error, "code")  # which some builds write as a number
    until, kind = text(error, "until"), text(error, "enforcementType")
    return ErrorInfo(
        code=code,
        class_=(Restricted if code == "463" or flag(error, "blocked") else Rejected).__name__,
        title=text(error, "reason"),
        detail=", ".join(filter(None, [until and f"until {until}", kind])) or None,
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
    if status == 500 and by_url and _FETCH.search(message):
        return _NO_FILE
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
    message = mapping(body, "exception").get("message") or body.get("message")
    if isinstance(message, list):
        return "; ".join(part for part in message if isinstance(part, str))
    return message if isinstance(message, str) else ""
