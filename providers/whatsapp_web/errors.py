"""What the errors of WAHA and of the libraries behind it mean for whoever sends: one table, the first row that fits.

Matching on text is fragile, so all of it is here, and what fits no row may have been sent.

Source: https://waha.devlike.pro/docs/how-to/send-messages, reports in
    https://github.com/devlikeapro/waha/issues, and the answers in tests/samples/whatsapp_web.
"""

import re
from typing import Any

import msgspec

from .. import _json
from .._values import Object, mapping, text
from ..base import Response
from ..errors import AccountBroken, Malformed, Rejected, Restricted, SendError, Throttled, Unavailable, Uncertain
from ..messages import ErrorInfo

ErrorClass = type[SendError]


class Verdict(msgspec.Struct, frozen=True):
    """``scope`` is what the trouble is limited to; ``wait_s`` how long to wait where the answer does not say."""

    error: ErrorClass
    code: str
    meaning: str
    scope: str | None = None
    wait_s: float | None = None


_UNRESOLVED = Verdict(Rejected, "recipient_unresolved", "the recipient is probably not on WhatsApp", "recipient")
_NO_FILE = Verdict(Rejected, "file_unreachable", "the WAHA server could not fetch the file", "media")
_STARTING = Verdict(Unavailable, "session_starting", "the session is connecting", "session", 10)
_UNLINKED = Verdict(AccountBroken, "session_not_working", "the session is not linked to a phone", "session")
_ENGINE = Verdict(Rejected, "not_implemented", "the engine of the WAHA server cannot do this", "engine")
_GONE = "the browser of the session broke down during the call"
# The server's words, now and before 2025. An address it does not know is repeated, with `sessions` in it.
_NO_SESSION = r"session not found|find a session"

# (statuses, what the answer says, verdict). A session that is not ready says `session <STATUS>`.
_TABLE: tuple[tuple[tuple[int, ...], str, Verdict], ...] = (
    ((401,), "", Verdict(AccountBroken, "unauthorized", "the WAHA server refuses the API key", "token")),
    ((403,), "", Verdict(AccountBroken, "forbidden", "the API key may not do this with this session", "token")),
    ((404,), _NO_SESSION, Verdict(AccountBroken, "session_missing", "the WAHA server has no such session", "session")),
    ((404,), "", Verdict(AccountBroken, "path_missing", "the WAHA server is too old, or is none", "server")),
    ((413,), "", Verdict(Rejected, "too_large", "the message is too large for the WAHA server", "message")),
    ((422,), r"^session STARTING$", _STARTING),
    ((422,), r"^session ", _UNLINKED),
    ((422,), r"not implemented|docker image", _ENGINE),
    ((422,), "", Verdict(Rejected, "unprocessable", "the WAHA server refuses the message", "message")),
    ((429,), "", Verdict(Throttled, "too_many_requests", "too many requests", wait_s=30)),
    (
        (500,),
        r"server returned error 463",
        Verdict(Restricted, "463", "WhatsApp bars the account from new conversations", "new_conversations"),
    ),
    ((500,), r"no LID found for|No LID for user|Lid is missing in chat table", _UNRESOLVED),
    (
        (500,),
        r"server returned error 429|rate-overlimit",
        Verdict(Throttled, "rate_overlimit", "WhatsApp wants fewer messages from the account", "number", 120),
    ),
    ((500,), r"server returned error (479|400)", Verdict(Uncertain, "server_error", "WhatsApp answered with an error")),
    (
        (500,),
        r"invalid media type|ffmpeg",
        Verdict(Rejected, "media_unreadable", "the WAHA server cannot convert the file", "media"),
    ),
    (
        (500,),
        r"Protocol error|Target closed|Session closed|Execution context was destroyed|detached Frame",
        Verdict(Uncertain, "browser_gone", _GONE, "session"),
    ),
)
_ROWS = tuple((statuses, re.compile(pattern, re.IGNORECASE), verdict) for statuses, pattern, verdict in _TABLE)
# Fetching precedes sending, so these are refusals where there was a file to fetch, and riddles where there was none.
_FETCH = re.compile(r"Request failed with status code 4\d\d|ENOTFOUND|getaddrinfo")

_LONGEST_QUOTE = 200
_LONG_SECRET = 8


def send_error(response: Response, *, secrets: tuple[str, ...], by_url: bool = False) -> SendError:
    """What an answer that is no acceptance means. *by_url*: WAHA had a file to fetch. *secrets* never appear in it."""
    said = _said(response)
    verdict = _verdict(response.status, said, by_url=by_url)
    asked_s = _asked_wait_s(response)
    return verdict.error(
        _detail(verdict, said, secrets),
        code=verdict.code,
        retry_after_s=verdict.wait_s if asked_s is None else asked_s,
        scope=verdict.scope,
    )


def call_error(response: Response, *, secrets: tuple[str, ...]) -> SendError:
    """The same for a call that may be repeated freely (reads, configuration): nothing is uncertain."""
    error = send_error(response, secrets=secrets)
    if isinstance(error, Uncertain):
        return Unavailable(error.detail, code=error.code, retry_after_s=error.retry_after_s, scope=error.scope)
    return error


def is_missing_session(response: Response) -> bool:
    return response.status == 404 and re.search(_NO_SESSION, _said(response), re.IGNORECASE) is not None


def is_unresolved(response: Response) -> bool:
    """Whether nothing was sent because the engine could not tell who the recipient is."""
    return _verdict(response.status, _said(response), by_url=False) is _UNRESOLVED


def reported(error: Object) -> ErrorInfo:
    """Why a message failed after all, from an ``ERROR`` ack. It is definitive: nothing is uncertain here."""
    code = error.get("code")
    # Some builds write the code as a number.
    code = str(code) if isinstance(code, int | str) and not isinstance(code, bool) else None
    until, kind = text(error, "until"), text(error, "enforcementType")
    return ErrorInfo(
        code=code,
        class_=(Restricted if code == "463" else Rejected).__name__,
        title=text(error, "reason"),
        detail=", ".join(filter(None, [until and f"until {until}", kind])) or None,
    )


def answer(response: Response) -> Any:
    """The JSON of *response*, None where there is none."""
    try:
        return _json.read(response.body)
    except Malformed:
        return None


def answered_object(response: Response) -> Object:
    value = answer(response)
    return value if isinstance(value, dict) else {}


def _verdict(status: int, said: str, *, by_url: bool) -> Verdict:
    if status == 500 and by_url and _FETCH.search(said):
        return _NO_FILE
    for statuses, pattern, verdict in _ROWS:
        if status in statuses and pattern.search(said):
            return verdict
    if 400 <= status < 500:
        return Verdict(Rejected, f"http_{status}", "the WAHA server refuses the message", "message")
    # Any other 500 too: in July 2026 WEBJS delivered, and broke down building the answer.
    return Verdict(Uncertain, f"http_{status}", f"HTTP {status} without an id of a message")


def _said(response: Response) -> str:
    """What the answer says for people. The rest of a 500 repeats our request, with all that was written in it."""
    body = answered_object(response)
    if isinstance(body.get("status"), str) and "expected" in body:
        return f"session {body['status']}"
    message = mapping(body, "exception").get("message") or body.get("message")
    if isinstance(message, list):
        return "; ".join(part for part in message if isinstance(part, str))
    return message if isinstance(message, str) else ""


def _detail(verdict: Verdict, said: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        # A short one is in other words by chance.
        bound = "" if len(secret) >= _LONG_SECRET else r"\b"
        said = re.sub(bound + re.escape(secret) + bound, "…", said)
    quoted = said[:_LONGEST_QUOTE]
    return f"{verdict.meaning}: {quoted}" if quoted else verdict.meaning


def _asked_wait_s(response: Response) -> float | None:
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 7 else None
