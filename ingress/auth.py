"""Who is asking, and what they may do."""

import hashlib
import hmac
import os
from ipaddress import IPv4Address, IPv6Address, ip_address
from time import monotonic
from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request

from providers.signing import same_secret

from . import metrics
from .database import Database
from .edge import headers_of
from .identifiers import parse_id
from .problems import Problem, not_found
from .settings import Network
from .storage import organizations
from .vault import Vault, split_api_key

SCOPES = frozenset({"send", "read", "configure", "admin"})
KEY_CACHE_S = 5.0
MAX_CACHED_KEYS = 10_000
PLATFORM = "platform"


class Principal(msgspec.Struct, frozen=True):
    """Who makes a request: a key of an organization, or the platform (then *organization_id* may be None)."""

    name: str
    organization_id: UUID | None
    scopes: frozenset[str]

    @property
    def is_platform(self) -> bool:
        return self.name == PLATFORM


class Authenticator:
    """Knows keys for a few seconds, so that a revoked one stops working within them."""

    def __init__(self, database: Database, vault: Vault, platform_key: str) -> None:
        self._database = database
        self._vault = vault
        self._platform_key = platform_key
        # By a digest that only this process can make: no key stays in memory.
        self._known: dict[bytes, tuple[float, Principal]] = {}
        self._cache_key = os.urandom(32)

    async def principal(self, authorization: str | None, organization: str | None) -> Principal:
        """Whose key this is, in the organization named by X-Org-Id. Raises `Problem` 401 or 404."""
        if authorization is None or not authorization.startswith("Bearer "):
            raise self._refused("missing_key")
        principal = await self._of_key(authorization[7:].strip())
        if organization is None:
            return principal
        organization_id = parse_id(organization)
        if organization_id is None:
            raise not_found()
        if principal.is_platform:
            async with self._database.worker() as connection:
                if not await organizations.exists(connection, organization_id):
                    raise not_found()
            return Principal(PLATFORM, organization_id, SCOPES)
        if principal.organization_id != organization_id:
            raise not_found()
        return principal

    async def _of_key(self, key: str) -> Principal:
        cached = hashlib.blake2b(key.encode("utf-8", "replace"), key=self._cache_key).digest()
        known = self._known.get(cached)
        if known and known[0] > monotonic():
            return known[1]
        if same_secret(key, self._platform_key):
            return Principal(PLATFORM, None, SCOPES)
        parts = split_api_key(key)
        if parts is None:
            raise self._refused("malformed_key")
        key_id, secret = parts
        digest = self._vault.key_hash(secret)
        async with self._database.worker() as connection:
            row = await organizations.key(connection, key_id)
            if row is None or not self._vault.is_key_hash(row["secret_hash"], secret):
                self._known.pop(cached, None)
                raise self._refused("unknown_key")
            if not hmac.compare_digest(row["secret_hash"], digest):  # made with a key that is to be let go
                await organizations.rehash_key(connection, row["organization_id"], key_id, digest)
        principal = Principal(key_id, row["organization_id"], frozenset(row["scopes"]))
        if len(self._known) >= MAX_CACHED_KEYS:
            self._known.clear()
        self._known[cached] = (monotonic() + KEY_CACHE_S, principal)
        return principal

    def _refused(self, reason: str) -> Problem:
        metrics.auth_failures.labels(reason).inc()
        return Problem(
            401, "unauthorized", "A valid API key is needed.", headers={"www-authenticate": 'Bearer realm="ingress"'}
        )


def platform_only(principal: Principal) -> None:
    """Raises `Problem` 403 where it is not the platform's key."""
    if not principal.is_platform:
        raise Problem(403, "forbidden", "Only the platform key may do this.")


async def authorize(request: Request[Any], scope: str) -> Principal:
    """The principal of *request*, who has *scope*. Raises `Problem` 401, 403 or 404."""
    authenticator: Authenticator = request.state["authenticator"]
    headers = headers_of(request)
    principal = await authenticator.principal(headers.get("authorization"), headers.get("x-org-id"))
    if scope not in principal.scopes:
        raise Problem(403, "forbidden", f"This key lacks the scope {scope!r}.")
    request.scope["state"]["caller"] = principal.organization_id or PLATFORM
    return principal


async def organization_of(request: Request[Any], scope: str) -> tuple[UUID, Principal]:
    """The organization *request* acts for, and who asks. Raises `Problem`."""
    principal = await authorize(request, scope)
    if principal.organization_id is None:
        raise Problem(400, "organization_missing", "The platform key needs the header X-Org-Id.")
    return principal.organization_id, principal


def client_address(request: Request[Any]) -> str | None:
    """Where *request* comes from.

    Behind proxies that are trusted (INGRESS_TRUSTED_PROXIES) it is the rightmost entry of X-Forwarded-For that is none
    of them: whatever is left of it, anybody may have written.
    """
    if request.client is None:
        return None
    address, named = request.client.host, _ip(request.client.host)
    trusted: list[Network] = request.state["settings"].trusted_networks
    hops = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    while hops and named is not None and any(named in network for network in trusted):
        if (named := _ip(hops.pop().strip())) is not None:
            address = str(named)
    return address


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # What a socket for both families calls an address of the older one.
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
