"""Posting an event to an endpoint as Standard Webhooks say: signed over its bytes; what the answer means.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from time import time
from uuid import UUID

import aiohttp
import msgspec
from yarl import URL

from ..storage.statements.organizations import Callback
from ..storage.vault import Vault
from ..validation import Unlogged

CONNECT_TIMEOUT_S, TOTAL_TIMEOUT_S = 3.0, 15.0
MAX_ANSWER_BYTES = 16 * 1024
# What is kept of it, for who tests the endpoint.
SHOWN_BYTES = 1024
MAX_RETRY_AFTER_S = 3600
OVERLAP = timedelta(hours=24)
# As many signatures fit into a header of 2 KiB; servers refuse more than 4 to 8 KiB.
MAX_SECRETS = 32


class SigningSecret(Unlogged, frozen=True):
    """``expires_at`` None: the current one."""

    secret: str
    expires_at: datetime | None = None


class Endpoint(Unlogged, frozen=True):
    """Where an organization's events go. ``taking_since``: it has failed no post since; None: it fails."""

    url: str
    secrets: list[SigningSecret]
    taking_since: datetime | None = None


class PostAnswer(Unlogged, frozen=True):
    """How a post ended. ``body``: the first SHOWN_BYTES of the answer's."""

    ok: bool
    kind: str  # for metrics: ok, 4xx, 5xx, 3xx, gone, timeout, connection
    status: int | None = None  # None: no answer came
    error: str | None = None
    retry_after_s: float | None = None
    body: bytes = b""


_secrets = msgspec.json.Decoder(list[SigningSecret])


def endpoint_of(vault: Vault, organization_id: UUID, callback: Callback) -> Endpoint:
    """*callback* with its secrets opened. Raises `VaultError`."""
    plain = vault.open(callback.secrets, str(organization_id), "callback", "secrets")
    return Endpoint(callback.url, _secrets.decode(plain), None if callback.failing_since else callback.updated_at)


def sealed(vault: Vault, organization_id: UUID, secrets: Sequence[SigningSecret]) -> bytes:
    """*secrets* as a `Callback` holds them."""
    return vault.seal(msgspec.json.encode(secrets), str(organization_id), "callback", "secrets")


def new_secret() -> SigningSecret:
    return SigningSecret(f"whsec_{base64.b64encode(os.urandom(24)).decode()}")


def rotated(secrets: Sequence[SigningSecret], now: datetime) -> list[SigningSecret]:
    """A new secret in front; the former ones go on signing beside it for OVERLAP since each was replaced.

    All of them, for nobody knows which one the CRM has: the answer to any call may have got lost.
    """
    former = [SigningSecret(old.secret, old.expires_at or now + OVERLAP) for old in secrets]
    in_force = [old for old in former if old.expires_at and old.expires_at > now]
    return [new_secret(), *in_force[: MAX_SECRETS - 1]]


def sign(secrets: Sequence[SigningSecret], event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature a secret that is in force, over the very bytes."""
    now = datetime.fromtimestamp(timestamp, UTC)
    content = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(_key(secret), content, hashlib.sha256)).decode()
        for secret in secrets
        if secret.expires_at is None or secret.expires_at > now
    )


def _key(secret: SigningSecret) -> bytes:
    return base64.b64decode(secret.secret.removeprefix("whsec_"))


async def post(
    session: aiohttp.ClientSession, endpoint: Endpoint, event_id: str, body: bytes, *, gap: bool = False
) -> PostAnswer:
    """Post one event, signed. Only 2xx is a success; redirects are not followed; the answer is read up to a limit."""
    try:
        async with session.post(
            URL(endpoint.url),
            data=body,
            headers=_headers(endpoint, event_id, body, gap),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
        ) as response:
            body = await _drained(response)
            return msgspec.structs.replace(_meaning(response), body=body)
    except TimeoutError:
        return PostAnswer(False, "timeout", error="no answer in time")
    except (aiohttp.ClientError, OSError) as error:
        return PostAnswer(False, "connection", error=_shown(error))


def _headers(endpoint: Endpoint, event_id: str, body: bytes, gap: bool) -> dict[str, str]:
    now = int(time())
    headers = {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(endpoint.secrets, event_id, now, body),
    }
    if gap:  # the event before it in this conversation was given up
        headers["ingress-gap"] = "true"
    return headers


async def _drained(response: aiohttp.ClientResponse) -> bytes:
    """The first SHOWN_BYTES. All is read, so that its connection serves again, but beyond a limit it is closed."""
    left, shown = MAX_ANSWER_BYTES, b""
    async for chunk in response.content.iter_any():
        shown += chunk[: SHOWN_BYTES - len(shown)]
        left -= len(chunk)
        if left <= 0:
            response.close()
            break
    return shown


def _shown(error: Exception) -> str:
    """What went wrong; as in `calls`, not whether there is such a name."""
    return "ClientConnectorError" if isinstance(error, aiohttp.ClientConnectorDNSError) else type(error).__name__


def _meaning(response: aiohttp.ClientResponse) -> PostAnswer:
    status = response.status
    if 200 <= status < 300:
        return PostAnswer(True, "ok", status)
    if status == 410:
        return PostAnswer(False, "gone", status, "HTTP 410")
    retry_after_s = _wanted_s(response.headers.get("retry-after", ""))
    # 429 and 408 are about the moment, not about the event.
    kind = "5xx" if status >= 500 or status in (408, 429) else "3xx" if status < 400 else "4xx"
    return PostAnswer(False, kind, status, f"HTTP {status}", retry_after_s)


def _wanted_s(retry_after: str) -> float | None:
    """Seconds, out of a number of them or a date, MAX_RETRY_AFTER_S at most; None where it is neither."""
    try:
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9:
            seconds = float(retry_after)
        else:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time()
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return min(seconds, MAX_RETRY_AFTER_S)
