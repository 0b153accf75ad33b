"""Twilio's connection overrides: how often a webhook is tried, from the fragment of its address. In fast motion.

Source: https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
"""

import re
from urllib.parse import parse_qsl, urldefrag

import msgspec

from ..webhook_post import RetryPolicy

# Milliseconds and counts: (least, most, default).
_RANGES = {
    "ct": (100, 10_000, 5_000),
    "rt": (100, 15_000, 15_000),
    "tt": (100, 15_000, 15_000),
    "rc": (0, 5, 1),
}
_CAUSES = {"4xx", "5xx", "ct", "rt", "all"}
_OTHERS = {"sni": r"[yn]", "e": r"[a-z0-9,-]+"}  # known, and of no consequence here


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How much faster than Twilio, and the wait between two tries, which Twilio does not document."""

    speed: float = 10.0  # 15 seconds become 1.5
    backoff_s: float = 0.02
    cap_s: float = 0.5


def policy_of(url: str, pace: Pace) -> RetryPolicy:
    """What the fragment of *url* asks for. Raises `ValueError` where Twilio reports 11243 and calls nobody."""
    given = dict(parse_qsl(urldefrag(url).fragment, keep_blank_values=True, strict_parsing=bool(urldefrag(url)[1])))
    causes = given.pop("rp", "ct").split(",")
    if not _CAUSES.issuperset(causes):
        raise ValueError(f"11243: rp={','.join(causes)}")
    for name, pattern in _OTHERS.items():
        if not re.fullmatch(pattern, given.pop(name, "y")):
            raise ValueError(f"11243: {name}")
    if unknown := set(given) - set(_RANGES):
        raise ValueError(f"11243: {min(unknown)}")
    numbers = {name: _number(given.get(name), *limits) for name, limits in _RANGES.items()}
    return RetryPolicy(
        tries=1 + numbers["rc"],
        backoff_s=pace.backoff_s,
        cap_s=pace.cap_s,
        timeout_s=(numbers["ct"] + numbers["rt"]) / 1000 / pace.speed,
        connect_timeout_s=numbers["ct"] / 1000 / pace.speed,
        total_s=numbers["tt"] / 1000 / pace.speed,
        causes=frozenset(causes),
        any_2xx=True,
    )


def _number(written: str | None, least: int, most: int, default: int) -> int:
    if written is None:
        return default
    if not re.fullmatch(r"[0-9]{1,5}", written) or not least <= int(written) <= most:
        raise ValueError(f"11243: {written}")
    return int(written)
