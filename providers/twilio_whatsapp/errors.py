"""What Twilio's errors mean for a message: one table for answers and for failed statuses.

Source: https://www.twilio.com/docs/api/errors, https://www.twilio.com/docs/usage/twilios-response.
"""

from .. import _json
from .._values import Object, text, word
from .._verdicts import Secrets, Verdict, by_code, code_of, error_of, repeatable
from ..base import Response
from ..errors import AccountBroken, Rejected, Restricted, SendError, Throttled, Unavailable, Uncertain, Unsupported
from ..messages import ErrorInfo
from .content import Fields

# (class, scope): the codes. Restricted are those by which the account is punished. Uncertain are also some of
# statuses: Twilio stands between, and the message may have reached the phone although it says that it failed.
_TABLE: dict[tuple[type[SendError], str], tuple[int, ...]] = {
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
    # Longer than Twilio takes, by its own way of counting characters: the body, and any other part.
    (Unsupported, "message"): (21617, 21658),
    (Rejected, "template"): (21654, 21655, 21656, 63027, 63028, 63029, 63040, 63041),
    (Rejected, "message"): (
        20001, 20422, 21602, 21618, 21619, 21620, 21623, 21624, 30007, 30010, 30015, 30016, 63005, 63006, 63011,
        63013, 63019, 63021, 63030, 63034, 63035, 63036,
    ),
}  # fmt: skip
_VERDICTS = by_code(_TABLE)

# Seconds to wait first, where the answer does not say: a full queue drains in minutes, a daily limit in hours.
_WAIT_S: dict[int, float] = {21611: 120, 30001: 120, 63038: 3600}

_NOT_FOUND = 20404


def reported(fields: Fields) -> ErrorInfo | None:
    """The error of a failed status, None where it names none. A code that is not in the table is the message's end."""
    code, title, detail = fields.get("ErrorCode"), fields.get("ErrorMessage"), fields.get("ChannelStatusMessage")
    if code is None and title is None and detail is None:
        return None
    verdict = _VERDICTS.get(code_of(code) or 0, Verdict(Rejected))
    return ErrorInfo(code=code, class_=verdict.error.__name__, title=title, detail=detail)


def send_error(response: Response, *, secrets: Secrets = ()) -> SendError:
    """What an answer to a send that is no acceptance means. *secrets* never appear in it.

    The code decides, then the status: which status a code comes with is not documented for all of them.
    """
    problem = answer(response)
    code = code_of(problem.get("code"))
    return error_of(
        _VERDICTS.get(code or 0) or _by_status(response.status),
        response,
        _detail(problem, response),
        code=f"http_{response.status}" if code is None else str(code),
        secrets=secrets,
        wait_s=_WAIT_S.get(code or 0),
    )


def call_error(response: Response, *, secrets: Secrets = ()) -> SendError:
    """The same for a call that may be repeated freely."""
    return repeatable(send_error(response, secrets=secrets))


def is_missing(response: Response) -> bool:
    """Whether what the path names is not there."""
    return response.status == 404 or code_of(answer(response).get("code")) == _NOT_FOUND


def answer(response: Response) -> Object:
    """The JSON object of *response*, empty where there is none."""
    return _json.object_in(response.body) or {}


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


def _request_id(response: Response) -> str | None:
    """What Twilio's support asks for. The newer hosts have another header for it."""
    headers = (response.headers.get(name) for name in ("twilio-request-id", "t-request-id"))
    return next(filter(None, headers), None)


def _detail(problem: Object, response: Response) -> str:
    """Older APIs answer with a message, newer ones with a title and a detail."""
    parts = [text(problem, name) for name in ("message", "title", "detail")]
    if not any(parts):
        parts = [f"HTTP {response.status} without a readable error"]
    if request_id := _request_id(response) or word(problem, "instance"):
        parts.append(f"request {request_id}")
    return "; ".join(dict.fromkeys(part for part in parts if part))
