"""The one place where a secret is compared: in constant time, on bytes; a malformed header is a mismatch."""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence

from .errors import Unverified

_HEX_LENGTH = {name: 2 * hashlib.new(name).digest_size for name in ("sha1", "sha256", "sha512")}
_BASE64_LENGTH = {name: len(base64.b64encode(bytes(length // 2))) for name, length in _HEX_LENGTH.items()}


def same_secret(given: str, expected: str) -> bool:
    """Whether *given* is *expected*. An empty *expected* matches nothing."""
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def hmac_hex(secret: str, message: bytes, algorithm: str) -> str:
    """Lower-case hex HMAC of *message*, keyed with *secret*'s UTF-8 bytes."""
    return hmac.digest(secret.encode(), message, algorithm).hex()


def hmac_base64(secret: str, message: bytes, algorithm: str) -> str:
    """Base64 HMAC of *message*, keyed with *secret*'s UTF-8 bytes."""
    return base64.b64encode(hmac.digest(secret.encode(), message, algorithm)).decode()


def verify_hmac_hex(secrets: Iterable[str], message: bytes, signature: str, algorithm: str) -> None:
    """Return if *signature* is the hex HMAC of *message* under any of *secrets*, else raise `Unverified`.

    Empty secrets never match. Every secret is tried, so the time does not show which one did.
    """
    given = signature.encode("utf-8", "replace")
    if len(given) != _HEX_LENGTH[algorithm]:
        raise Unverified
    matched = False
    for secret in secrets:
        if secret:
            matched |= hmac.compare_digest(hmac_hex(secret, message, algorithm).encode(), given)
    if not matched:
        raise Unverified


def verify_hmac_base64(secrets: Iterable[str], messages: Sequence[bytes], signature: str, algorithm: str) -> None:
    """Return if *signature* is the base64 HMAC of one of *messages* under any of *secrets*, else raise `Unverified`.

    Empty secrets never match. Every pair is tried, so the time does not show which one did.
    """
    given = signature.encode("utf-8", "replace")
    if len(given) != _BASE64_LENGTH[algorithm]:
        raise Unverified
    matched = False
    for secret in secrets:
        for message in messages if secret else ():
            matched |= hmac.compare_digest(hmac_base64(secret, message, algorithm).encode(), given)
    if not matched:
        raise Unverified
