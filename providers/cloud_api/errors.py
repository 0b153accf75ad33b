"""What the errors of the WhatsApp Cloud API mean for whoever sends: one table, judged in one order.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes,
    and the rows of tests/samples/meta_business/error_classification.json.
"""

from typing import Any, Literal

import msgspec

from .. import _json
from .._values import Object, error_info, mapping, text, word
from .._verdicts import Secrets, Verdict, by_code, code_of, error_of, repeatable, unexpected_answer, wait_s
from ..base import Response
from ..errors import AccountBroken, Rejected, Restricted, SendError, Throttled, Unavailable, Uncertain
from ..messages import ErrorInfo

# (class, scope): the codes. Restricted are those by which Meta punishes the account. Codes
# that are never the result of a send (inbound notices, answers of management calls) are left out.
_TABLE: dict[tuple[type[SendError], str], tuple[int, ...]] = {
    (AccountBroken, "token"): (0, 10, 102, 190, 2500, 131005, *range(200, 300)),
    (AccountBroken, "app"): (3,),
    (AccountBroken, "number"): (33, 131030, 131037, 131045, 133010),
    (AccountBroken, "waba"): (131042, 131044),
    (AccountBroken, "feature"): (131215, 134011, 138000, 138018),
    (AccountBroken, "template"): (132001, 132007, 132015, 132016, 134102),
    (AccountBroken, "template_category"): (131063,),
    (AccountBroken, "flow"): (132068,),
    (Restricted, "waba"): (368, 131031, 131064),
    (Restricted, "waba_country"): (130497,),
    (Restricted, "number"): (131048,),
    (Throttled, "app"): (4, 341, 613),
    (Throttled, "token"): (17,),
    (Throttled, "waba"): (80007, 80008, 131214),
    (Throttled, "number"): (130429, 131208, 133016, 138002, 138005, 138013),
    (Throttled, "pair"): (131056, 138009, 138012),
    (Throttled, "flow"): (132069,),
    (Unavailable, "platform"): (2, 131016, 133004, 138004, 138007),
    (Unavailable, "number"): (131057, 133015, 2494100),
    (Unavailable, "template"): (134101,),
    (Uncertain, "message"): (1, 131000),
    (Rejected, "recipient"): (
        130472, 131021, 131026, 131047, 131049, 131050, 131062, 137000, 138001, 138003, 138006,
    ),
    (Rejected, "group"): (131020, 131041, 131207),
    (Rejected, "message"): (
        100, 506, 131008, 131009, 131014, 131051, 131052, 131053, 131055, 132000, 132005, 132008, 132012,
        132018, 134100, 135000,
    ),
}  # fmt: skip
_VERDICTS = by_code(_TABLE)

# Code 100 is a bad parameter of the message, unless it is about the object in the path, about the app, or for a while.
# What Meta's OpenAPI file (https://github.com/facebook/openapi) has is not what people report: 803 for that object,
# other words for a missing field. Nothing but the words tells the cases of 100 apart.
_PARAMETER = 100
_NOT_FOUND = 803
_UNKNOWN_FIELD = ("nonexisting field", "Invalid field requested", "fields are not available")
_FOR_A_WHILE = "temporarily unavailable"
_MISSING_OBJECT = Verdict(AccountBroken, "number")
_MISSING_PROOF = Verdict(AccountBroken, "app")
_LATER = Verdict(Unavailable, "number")

# Seconds to wait first, where the answer does not say. 130429 starts within the usual backoff.
_WAIT_S: dict[int, float] = {
    131048: 3600, 131064: 3600, 131056: 4, 131057: 30, 2494100: 30, 134101: 120, 132069: 900,
}  # fmt: skip
_BACKOFF = {130429}
_THROTTLED_WAIT_S = 30.0
# Allowances that are counted per hour; a header says when they are back.
_METERED = {4, 17, 341, 613, 80007, 80008}
_METERED_WAIT_S = 300.0


def reported(error: Object, place: Literal["W", "I", "G"]) -> ErrorInfo:
    """An error inside a webhook: in a failed status (W), a notice (I), or about a group (G).

    It is definitive: the message is dead and another one cannot duplicate it, so nothing is uncertain here.
    """
    code = code_of(error.get("code"))
    verdict = _lookup(code, error)
    if verdict is None:
        return error_info(error, Rejected.__name__ if place == "W" else None)
    class_ = Unavailable if verdict.error is Uncertain else verdict.error
    return error_info(error, class_.__name__)


def send_error(response: Response, *, secrets: Secrets = ()) -> SendError:
    """What an answer to a send that is no acceptance means. *secrets* never appear in it.

    The code decides, then the status: statuses are not reliable (131045 is 500 and permanent).
    """
    error = _error_in(response)
    code = code_of(error.get("code"))
    verdict = _lookup(code, error) or _unknown(code, error, response.status)
    return error_of(
        verdict,
        response,
        f"HTTP {response.status} without a readable error" if code is None else _detail(error),
        code=f"http_{response.status}" if code is None else str(code),
        secrets=secrets,
        wait_s=_wait_s(response, code, verdict),
    )


def call_error(response: Response, *, secrets: Secrets = ()) -> SendError:
    """The same for a call that may be repeated freely."""
    return repeatable(send_error(response, secrets=secrets))


def answered(response: Response, *, secrets: Secrets = ()) -> Object:
    """The answer to a call that may be repeated freely; raises the error that it is, where it is one."""
    body = answer(response)
    if not 200 <= response.status < 300 or "error" in body:
        raise call_error(response, secrets=secrets)
    if not body or body.get("success") is False:
        raise unexpected_answer()
    return body


def is_missing_object(response: Response) -> bool:
    """Whether the object in the path is gone, or not ours."""
    error = _error_in(response)
    return _lookup(code_of(error.get("code")), error) is _MISSING_OBJECT


def is_unknown_field(response: Response) -> bool:
    """Whether a field was asked for that this version or account does not have: that fails the whole call."""
    error = _error_in(response)
    message = text(error, "message") or ""
    return code_of(error.get("code")) == _PARAMETER and any(words in message for words in _UNKNOWN_FIELD)


def answer(response: Response) -> Object:
    """The JSON object of *response*, empty where there is none."""
    return _json.object_in(response.body) or {}


def _error_in(response: Response) -> Object:
    return mapping(answer(response), "error")


def _lookup(code: int | None, error: Object) -> Verdict | None:
    if code == _NOT_FOUND:
        return _MISSING_OBJECT
    if code == _PARAMETER:
        message = text(error, "message") or text(error, "title") or ""
        if "appsecret_proof" in message:
            return _MISSING_PROOF
        if _FOR_A_WHILE in message:
            return _LATER
        gone = "does not exist" in message or "missing permissions" in message
        if gone or code_of(error.get("error_subcode")) == 33:
            return _MISSING_OBJECT
    return None if code is None else _VERDICTS.get(code)


def _unknown(code: int | None, error: Object, status: int) -> Verdict:
    """A code that is not in the table, or none."""
    if code is not None and error.get("is_transient") is True and 400 <= status < 500:
        return Verdict(Unavailable)
    return _by_status(status)


def _by_status(status: int) -> Verdict:
    if status in (401, 403):
        return Verdict(AccountBroken)
    if status == 429:
        return Verdict(Throttled)
    # Neither accepted nor refused: a bare 5xx, and a 2xx without a message id.
    return Verdict(Rejected if 400 <= status < 500 else Uncertain)


def _wait_s(response: Response, code: int | None, verdict: Verdict) -> float | None:
    if code in _METERED:
        return _regain_s(response.headers.get("x-business-use-case-usage")) or _METERED_WAIT_S
    if code in _WAIT_S:
        return _WAIT_S[code]
    return _THROTTLED_WAIT_S if verdict.error is Throttled and code not in _BACKOFF else None


def _regain_s(header: str | None) -> float | None:
    """Seconds until the allowance is back, from minutes per business; the longest of all elements."""
    try:
        usage = msgspec.json.decode(header or "", type=dict[str, list[dict[str, Any]]])
    except msgspec.MsgspecError:
        return None
    elements = [element for group in usage.values() for element in group]
    waits = [wait_s(element.get("estimated_time_to_regain_access"), 60) for element in elements]
    return max(filter(None, waits), default=None)


def _detail(error: Object) -> str:
    parts = [text(error, "message"), error_info(error).detail]
    # Meta's support asks for the trace id.
    if trace := word(error, "fbtrace_id"):
        parts.append(f"fbtrace_id {trace}")
    return "; ".join(dict.fromkeys(part for part in parts if part))
