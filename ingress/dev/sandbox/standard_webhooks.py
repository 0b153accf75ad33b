"""The receiver's half of Standard Webhooks, written from the specification and not from our own sender.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
import time
from collections.abc import Iterable, Mapping

TOLERANCE_S = 300


def problem(headers: Mapping[str, str], body: bytes, secrets: Iterable[str], *, now: float | None = None) -> str | None:
    """What is wrong with the signature of *body*, or None. Header names are matched as *headers* does it.

    *secrets* are ``whsec_<base64>``; any of them may have signed, and a header may carry several signatures.
    """
    event_id, timestamp, given = (headers.get(f"webhook-{name}") for name in ("id", "timestamp", "signature"))
    if not event_id or not timestamp or not given:
        return "a webhook-* header is missing"
    if not timestamp.isascii() or not timestamp.isdigit():
        return "webhook-timestamp is no number"
    if abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE_S:
        return "webhook-timestamp is too old or too new"
    signed = b".".join((event_id.encode(), timestamp.encode(), body))
    expected = [hmac.digest(key_of(secret), signed, "sha256") for secret in secrets]
    if not expected:
        return "no secret is known"
    signatures = [_decoded(part.partition(",")[2]) for part in given.split(" ") if part.startswith("v1,")]
    if any(hmac.compare_digest(one, other) for one in signatures for other in expected):
        return None
    return "no signature matches"


def key_of(secret: str) -> bytes:
    """The key in a ``whsec_`` secret. Raises `ValueError` where it is none."""
    prefix, _, encoded = secret.partition("_")
    if prefix != "whsec" or not encoded:
        raise ValueError("a secret starts with whsec_")
    return base64.b64decode(encoded, validate=True)


def _decoded(signature: str) -> bytes:
    try:
        return base64.b64decode(signature, validate=True)
    except binascii.Error:
        return b""
