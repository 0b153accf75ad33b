"""`X-Twilio-Signature`: what Twilio signs, and with which key.

Source: https://www.twilio.com/docs/usage/webhooks/webhooks-security, and the official SDK's `RequestValidator`
    where they leave something open: blank values count, repeated pairs count once, both spellings of a port do.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

from ..base import Request, Webhook
from ..errors import Malformed, Unverified
from ..signing import hmac_base64, same_secret, verify_hmac_base64
from .form import is_form, pairs

_URL = re.compile(r"((https?)://(?:[^/?#@]*@)?(?:\[[^\]/?#]*\]|[^/?#:]*+))(?::([0-9]+))?([^#]*)", re.DOTALL)
_BODY_HASH = re.compile(r"[?&]bodySHA256=([0-9a-f]{64})(?=[&#]|$)")
_DEFAULT_PORTS = {"https": "443", "http": "80"}
_ALGORITHMS = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}


def verify(hook: Webhook, *, auth_tokens: Sequence[str], shared_keys: Mapping[str, str]) -> None:
    """Return if *hook* is signed with one of *auth_tokens*, or with the one of *shared_keys* that it names.

    Else raise `Unverified`. ``hook.url`` must be the address that Twilio was given, byte for byte.
    """
    algorithm, key_id = _settings(hook.headers.get("x-twilio-webhooks-signature-settings"))
    secrets = auth_tokens if key_id is None else [shared_keys.get(key_id, "")]
    parameters = _parameters(hook)
    messages = [url.encode("utf-8", "replace") + parameters for url in spellings(hook.url)]
    verify_hmac_base64(secrets, messages, hook.headers.get("x-twilio-signature", ""), algorithm)


def probe(callback_url: str, auth_token: str) -> Request:
    """An empty batch of events for *callback_url*: a form cannot be empty."""
    body = b"[]"
    address, _, _ = callback_url.partition("#")
    url = f"{address}{'&' if '?' in address else '?'}bodySHA256={hashlib.sha256(body).hexdigest()}"
    headers = {"content-type": "application/json", "x-twilio-signature": hmac_base64(auth_token, url.encode(), "sha1")}
    return Request(method="POST", url=url, headers=headers, body=body)


def spellings(url: str) -> list[str]:
    """*url* in the forms that Twilio may have signed: with and without its port, without an empty query.

    Nothing else is touched: whatever decodes and encodes a query again makes another URL of it. The fragment,
    which holds instructions for Twilio's client, is never signed.
    """
    match = _URL.match(url)
    if match is None:
        return [url]
    origin, scheme, port, rest = match.groups()
    rest = rest.removesuffix("?")
    with_port = f"{origin}:{port or _DEFAULT_PORTS[scheme]}{rest}"
    return list(dict.fromkeys((match[0], f"{origin}{rest}", with_port)))


def _settings(header: str | None) -> tuple[str, str | None]:
    """The hash, and the id of the shared key. A shared key signs with either hash, the Auth Token with SHA-1 only."""
    settings = {} if header is None else _named(header)
    algorithm = _ALGORITHMS.get(settings.get("algorithm", "HMAC_SHA1").upper())
    key_id = settings.get("key")
    if algorithm is None or (key_id is None and algorithm != "sha1"):
        raise Unverified
    return algorithm, key_id


def _named(header: str) -> dict[str, str]:
    """The values of ``name=value, …`` by their names; `Unverified` where one has no value, or two."""
    parts = [part.partition("=") for part in header.split(",")]
    values = {name.strip().lower(): value.strip() for name, _, value in parts}
    if len(values) < len(parts) or not all(separator for _, separator, _ in parts):
        raise Unverified
    return values


def _parameters(hook: Webhook) -> bytes:
    """What follows the URL in the signed text: a form's pairs; of any other body the URL has the digest."""
    if is_form(hook):
        return _signed_form(hook.body)
    claimed = _BODY_HASH.search(hook.url)
    if claimed is None or not same_secret(claimed[1], hashlib.sha256(hook.body).hexdigest()):
        raise Unverified
    return b""


def _signed_form(body: bytes) -> bytes:
    # Twilio writes `name=` where there is no value. Else `ab` would be signed as well as `a=b` is.
    if any(field and b"=" not in field for field in body.split(b"&")):
        raise Unverified
    try:
        # UTF-8 keeps the order of code points, so bytes sort as Twilio sorts.
        return b"".join(name + value for name, value in sorted(set(pairs(body))))
    except Malformed:
        raise Unverified from None
