"""What Twilio's errors mean for a message: one table for answers and for failed statuses.

Source: https://www.twilio.com/docs/api/errors, https://www.twilio.com/docs/usage/twilios-response.
"""

from typing import Any

import msgspec

from .. import _json
from .._values import Object, text, word
from ..base import Response
from ..errors import AccountBroken, Malformed, Rejected, Restricted, SendError, Throttled, Unavailable, Uncertain
from ..messages import ErrorInfo
from .content import Fields

ErrorClass = type[SendError]


class Verdict(msgspec.Struct, frozen=True):
    """``scope`` is what the trouble is limited to."""

    error: ErrorClass
    scope: str | None = None


# (class, scope): the codes. Restricted are those by which the account is punished. Uncertain are also some of
# statuses: Twilio stands between, and the message may have reached the phone although it says that it failed.
_TABLE: dict[tuple[ErrorClass, str], tuple[int, ...]] = {
    (AccountBroken, "token"): (20003, 20006, 20008, 20101, 20103, 20104),
    (AccountBroken, "account"): (20004, 20005, 20404, 63001, 63008),
    (AccountBroken, "waba"): (63020, 63101),
    (AccountBroken, "number"): (21212, 21601, 21603, 21606, 63002, 63007, 63022, 63039),
    (AccountBroken, "service"): (21701, 21702, 21703, 21704, 21705),
    (AccountBroken, "country"): (21408,),
    (AccountBroken, "trial"): (21607, 21608),
    (AccountBroken, "callback"): (21609, 21626),
    (AccountBroken, "template_category"): (63062,),
    (Restricted, "account"): (30002,),
    (Restricted, "waba"): (63051, 63112),
    (Restricted, "number"): (63026,),
    (Throttled, "account"): (14107, 20429, 63038),
    (Throttled, "number"): (21611, 30001, 63017),
    (Throttled, "pair"): (63018,),
    (Unavailable, "platform"): (20409, 30017, 63012),
    (Unavailable, "message"): (63025, 63037),
    (Uncertain, "message"): (20500, 20503, 30008, 30021, 30410, 63009, 63010, 63023),
    (Rejected, "recipient"): (
        21211, 21604, 21610, 21612, 21614, 30003, 30004, 30005, 30006, 63003, 63014, 63015, 63016, 63024, 63031, 63032,
        63033, 63049, 63050,
    ),
    (Rejected, "template"): (21654, 21655, 21656, 63027, 63028, 63029, 63040, 63041),
    (Rejected, "message"): (
        20001, 20422, 21602, 21617, 21618, 21619, 21620, 21623, 21624, 30007, 30010, 30015, 30016, 63005, 63006, 63011,
        63013, 63019, 63021, 63030, 63034, 63035, 63036,
    ),
}  # fmt: skip
_VERDICTS = {code: Verdict(error, scope) for (error, scope), codes in _TABLE.items() for code in codes}

# Seconds to wait first, where the answer does not say: a full queue drains in minutes, a daily limit in hours.
_WAIT_S: dict[int, float] = {21611: 120, 30001: 120, 63038: 3600}

_NOT_FOUND = 20404
_SHORTEST_SECRET = 8


def reported(fields: Fields) -> ErrorInfo | None:
    """The error of a failed status, None where it names none. A code that is not in the table is the message's end."""
    code, title, detail = fields.get("ErrorCode"), fields.get("ErrorMessage"), fields.get("ChannelStatusMessage")
    if code is None and title is None and detail is None:
        return None
    verdict = _VERDICTS.get(_number(code) or 0, Verdict(Rejected))
    return ErrorInfo(code=code, class_=verdict.error.__name__, title=title, detail=detail)


def send_error(response: Response, *, secrets: tuple[str | None, ...] = ()) -> SendError:
    """What an answer to a send that is no acceptance means. *secrets* never appear in it.

    The code decides, then the status: which status a code comes with is not documented for all of them.
    """
    problem = answer(response)
    code = _number(problem.get("code"))
    verdict = _VERDICTS.get(code or 0) or _by_status(response.status)
    return verdict.error(
        _detail(problem, response, secrets),
        code=f"http_{response.status}" if code is None else str(code),
        retry_after_s=_wait_s(response, code),
        scope=verdict.scope,
    )


def call_error(response: Response, *, secrets: tuple[str | None, ...] = ()) -> SendError:
    """The same for a call that may be repeated freely (reads, configuration): nothing is uncertain."""
    return repeatable(send_error(response, secrets=secrets))


def repeatable(error: SendError) -> SendError:
    """*error* as it counts where no message can have gone out."""
    if isinstance(error, Uncertain):
        return Unavailable(error.detail, code=error.code, retry_after_s=error.retry_after_s, scope=error.scope)
    return error


def is_missing(response: Response) -> bool:
    """Whether what the path names is not there."""
    return response.status == 404 or _number(answer(response).get("code")) == _NOT_FOUND


def answer(response: Response) -> Object:
    """The JSON object of *response*, empty where there is none."""
    try:
        value = _json.read(response.body)
    except Malformed:
        return {}
    return value if isinstance(value, dict) else {}


def _number(code: Any) -> int | None:
    try:
        return None if isinstance(code, bool) else int(code)
    except (TypeError, ValueError, OverflowError):
        return None


def _by_status(status: int) -> Verdict:
    """A code that is not in the table, or none at all. With a 4xx nothing was created."""
    if status == 429:
        return Verdict(Throttled)
    if status == 401:
        return Verdict(AccountBroken, "token")
    # A redirect, and a missing account or path: the address is not Twilio's, or the account is not ours.
    if status in (403, 404) or 300 <= status < 400:
        return Verdict(AccountBroken)
    # These two are about time, and whoever answered need not have been the one that sends.
    if 400 <= status < 500 and status not in (408, 425):
        return Verdict(Rejected)
    return Verdict(Uncertain)


def _wait_s(response: Response, code: int | None) -> float | None:
    asked = response.headers.get("retry-after", "")
    if asked.isascii() and asked.isdecimal() and len(asked) < 8:
        return float(asked)
    return _WAIT_S.get(code or 0)


def _detail(problem: Object, response: Response, secrets: tuple[str | None, ...]) -> str:
    """Older APIs answer with a message, newer ones with a title and a detail."""
    parts = [text(problem, name) for name in ("message", "title", "detail")]
    if not any(parts):
        parts = [f"HTTP {response.status} without a readable error"]
    # Twilio's support asks for the request id.
    if request_id := response.headers.get("twilio-request-id") or word(problem, "instance"):
        parts.append(f"request {request_id}")
    detail = "; ".join(dict.fromkeys(part for part in parts if part))
    for secret in secrets:
        # A shorter word is in any sentence by chance.
        detail = detail.replace(secret, "…") if secret and len(secret) >= _SHORTEST_SECRET else detail
    return detail
