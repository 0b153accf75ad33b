"""What the answers of a provider that are no acceptance mean: the machinery. The tables are each provider's own.

What comes from outside has its bounds here: codes, times to wait, and what an error quotes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ._values import mail_date
from .base import Response
from .content import Action, OutboundContent
from .errors import SendError, Unavailable, Uncertain, Unsupported

Secrets = Iterable[str | None]

_CODE = re.compile(r"-?[0-9]{1,9}")
_LARGEST_CODE = 10**9
_SECONDS = re.compile(r"[0-9]{1,9}")
# Thirty years: a longer time to wait is a fault of whoever wrote it. `SendError` makes a day of what is above one.
_LONGEST_WAIT_S = 10**9
_LONG_SECRET = 6


class Verdict(msgspec.Struct, frozen=True):
    """``scope`` is what the trouble is limited to, ``wait_s`` how long to wait where the answer does not say.

    ``code`` and ``meaning`` are words of ours, for a provider that has no codes.
    """

    error: type[SendError]
    scope: str | None = None
    code: str = ""
    meaning: str = ""
    wait_s: float | None = None


def by_code(table: Mapping[tuple[type[SendError], str], Iterable[int]]) -> dict[int, Verdict]:
    """The verdict on each code of *table*, which has the codes under the error and the scope that they mean."""
    return {code: Verdict(error, scope) for (error, scope), codes in table.items() for code in codes}


def code_of(value: Any) -> int | None:
    """*value* as a numeric code, which some answers write as text. None where it is none."""
    if isinstance(value, str):
        return int(value) if _CODE.fullmatch(value) else None
    is_code = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_CODE
    return value if is_code else None


def error_of(
    verdict: Verdict, response: Response, detail: str, *, code: str, secrets: Secrets, wait_s: float | None = None
) -> SendError:
    """The error that *verdict* on *response* says. *wait_s* counts where the answer names no time to wait."""
    asked_s = retry_after_s(response)
    return verdict.error(
        without_secrets(detail, secrets),
        code=code,
        retry_after_s=wait_s if asked_s is None else asked_s,
        scope=verdict.scope,
    )


def repeatable(error: SendError) -> SendError:
    """*error* as it counts for a call that may be repeated freely (reads, configuration): nothing is uncertain."""
    if isinstance(error, Uncertain):
        return Unavailable(error.detail, code=error.code, retry_after_s=error.retry_after_s, scope=error.scope)
    return error


def unexpected_answer() -> Unavailable:
    return Unavailable("the answer is not the one documented", code="unexpected_answer")


def unsupported(code: str, detail: str) -> Unsupported:
    return Unsupported(detail, code=f"{code}_unsupported")


def unsupported_kind(provider: str, content: OutboundContent | Action) -> Unsupported:
    kind = str(content.__struct_config__.tag)
    return unsupported(kind, f"{provider} cannot send a message of the type {kind}")


# ---------------------------------------------------------------- times to wait


def retry_after_s(response: Response) -> float | None:
    """The seconds that ``Retry-After`` asks for; None where it asks for nothing that anybody would wait for.

    A date is compared with the answer's own (RFC 9110, section 10.2.3): a provider reads no clock.
    """
    asked = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(asked):
        return float(asked)
    until, now = mail_date(asked), mail_date(response.headers.get("date"))
    return wait_s(max(0.0, (until - now).total_seconds())) if until and now else None


def wait_s(value: Any, unit_s: float = 1.0) -> float | None:
    """*value*, a number of units of *unit_s* seconds, in seconds; None where it is no time that anybody would wait."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Comparing is safe with any integer, while arithmetic with a float overflows. NaN is in no range.
    return value * unit_s if 0 <= value < _LONGEST_WAIT_S else None


# ---------------------------------------------------------------- what an error quotes


def without_secrets(detail: str, secrets: Secrets) -> str:
    """*detail* without any of *secrets*. A short one is in other words by chance, and hidden where it stands alone."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        if len(secret) >= _LONG_SECRET:
            detail = detail.replace(secret, "…")
        else:
            detail = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "…", detail)
    return detail
