"""Who is asking, and what they may do."""

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from time import monotonic
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from starlette.requests import Request

from providers.signing import same_secret

from ..cache import Cache
from ..identifiers import parse_id
from ..settings import Network
from ..storage.database import Database
from ..storage.statements import organizations
from ..storage.statements.organizations import KeyUse
from ..storage.vault import Vault, split_api_key
from .limits import Limiter, per_minute
from .problems import Problem, not_found, too_many
from .refusals import Reason, Refusals

SCOPES = frozenset({"send", "read", "configure", "admin"})
# While nobody says what has changed; else until a change, and for a minute at most.
KEY_CACHE_S, KEPT_S = 5.0, 60.0
MAX_CACHED_KEYS = 10_000
WRITE_USES_EVERY_S = 60.0
# A key that was right is asked for so long whatever strangers at its address do.
RIGHT_S = 24 * 3600.0
PLATFORM = "platform"
# An address of IPv6 costs nothing: who has one has all of its network.
IPV6_PREFIX = 64


Address: TypeAlias = Callable[[], str | None]


class Principal(msgspec.Struct, frozen=True):
    """Who makes a request: a key of an organization, or the platform (then *organization_id* may be None)."""

    name: str
    organization_id: UUID | None
    scopes: frozenset[str]
    expires_at: datetime | None = None

    @property
    def is_platform(self) -> bool:
        return self.name == PLATFORM


class Authenticator:
    """Knows keys until something of their organizations changes, so that a revoked one stops working."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        platform_key: str,
        *,
        trusted: Sequence[Network] = (),
        requests_per_s: int = 0,
        failures_per_minute: int = 0,
    ) -> None:
        self._database = database
        self._vault = vault
        self._platform_key = platform_key
        self._trusted = trusted
        self.requests = Limiter(1 / requests_per_s if requests_per_s else 0.0, 2 * requests_per_s)
        self.refusals = Refusals()
        self._failures = per_minute(failures_per_minute)
        # By a digest that only this process can make: no key stays in memory.
        self._known: Cache[bytes, tuple[float, Principal]] = Cache(MAX_CACHED_KEYS)
        self._were_right: Cache[bytes, bool] = Cache(MAX_CACHED_KEYS)
        self._cache_key = os.urandom(32)
        self._used: dict[tuple[UUID, str], datetime] = {}

    async def principal(
        self, authorization: str | None, organization: str | None, address: Address = lambda: None
    ) -> Principal:
        """Whose key this is, in the organization named by X-Org-Id. Raises `Problem` 401, 404 or 429.

        *address*: where it comes from, asked for only where the key is not known here.
        """
        principal = await self._authenticated(key_in(authorization), address)
        if organization is None:
            return principal
        organization_id = parse_id(organization)
        if organization_id is None:
            raise not_found()
        if principal.is_platform:
            await self._check_exists(organization_id)
            return Principal(PLATFORM, organization_id, SCOPES)
        if principal.organization_id != organization_id:
            raise Unauthenticated("other_organization", not_found())
        return principal

    async def _check_exists(self, organization_id: UUID) -> None:
        async with self._database.worker() as connection:
            if not await organizations.exists(connection, organization_id):
                raise not_found()

    async def _authenticated(self, key: str | None, address: Address) -> Principal:
        """Whose *key* is, looked up unless it was a moment ago. Raises `Unauthenticated`."""
        if key is None:
            raise Unauthenticated("missing_key", unauthorized())
        cached = self._digest(key)
        if (known := self._known.get(cached)) is not None and self._is_good(*known):
            return known[1]
        return await self._looked_up(key, cached, _origin(address()))

    def _is_good(self, read_at: float, principal: Principal) -> bool:
        organization_id, expires_at = principal.organization_id, principal.expires_at
        return (
            organization_id is not None
            and self._database.changes.is_good(organization_id, read_at, KEY_CACHE_S)
            and (expires_at is None or expires_at > datetime.now(UTC))
        )

    def was_right(self, key: str) -> bool:
        """Whether *key* was shown to this process before, and was right."""
        return bool(self._were_right.get(self._digest(key)))

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode("utf-8", "replace"), key=self._cache_key).digest()

    def _check_failures(self, origin: object) -> None:
        if (wait_s := self._failures.wait_s(origin)) > 0:
            problem = too_many("Too many invalid keys came from this address.", wait_s)
            raise Unauthenticated("too_many_failures", problem)

    async def _looked_up(self, key: str, cached: bytes, origin: object) -> Principal:
        # A key that was right once is looked up all the same: strangers behind the same address lock nobody out.
        if not self._were_right.get(cached):
            self._check_failures(origin)
        began = monotonic()
        try:
            principal = await self._of_key(key)
        except Unauthenticated:
            self._known.drop(cached)
            self._were_right.drop(cached)
            self._failures.take(origin)
            raise
        self._were_right.put(cached, True, RIGHT_S)
        if principal.organization_id is not None:
            self._known.put(cached, (began, principal), KEPT_S)
            self._database.changes.follow(principal.organization_id)
        return principal

    async def _of_key(self, key: str) -> Principal:
        """Whose *key* is. Raises `Unauthenticated`."""
        if same_secret(key, self._platform_key):
            return Principal(PLATFORM, None, SCOPES)
        if (parts := split_api_key(key)) is None:
            raise Unauthenticated("malformed_key", unauthorized())
        found = await self._stored(*parts)
        # Here, now and then, and not for each request.
        self._used[found.organization_id, found.id] = datetime.now(UTC)
        return Principal(found.id, found.organization_id, frozenset(found.scopes), found.expires_at)

    async def _stored(self, key_id: str, secret: str) -> organizations.KeySecret:
        digest = self._vault.key_hash(secret)
        async with self._database.worker() as connection:
            found = await organizations.key(connection, key_id)
            if found is None or not self._vault.is_key_hash(found.secret_hash, secret):
                raise Unauthenticated(await self._why(connection, key_id, secret), unauthorized())
            if not hmac.compare_digest(found.secret_hash, digest):  # made with a key that is to be let go
                await organizations.rehash_key(connection, found.organization_id, key_id, digest)
        return found

    async def _why(self, connection: Any, key_id: str, secret: str) -> Reason:
        """Why a key is refused. The answer is the same; the log shows who still uses one that is over."""
        over = await organizations.key_over(connection, key_id)
        if over is None or not self._vault.is_key_hash(over.secret_hash, secret):
            return "unknown_key"
        return "revoked_key" if over.is_revoked else "expired_key"

    async def write_uses(self) -> None:
        """Write down which keys were used. Raises `StoreUnavailable`; then it is lost, and the next use is not."""
        if used := self._used:
            self._used = {}
            async with self._database.worker() as connection:
                # In one order: two processes that write the same keys wait for one another, and no longer.
                await organizations.used(connection, [KeyUse(*key, at) for key, at in sorted(used.items())])

    def address_of(self, request: Request[Any]) -> str | None:
        """Where *request* comes from.

        Behind proxies that are trusted (INGRESS_TRUSTED_PROXIES) it is the rightmost entry of X-Forwarded-For that is
        none of them: whatever is left of it, anybody may have written.
        """
        if request.client is None:
            return None
        address, named = request.client.host, _ip(request.client.host)
        hops = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        while hops and named and any(named in network for network in self._trusted):
            if named := _ip(hops.pop().strip()):
                address = str(named)
        return address


class Unauthenticated(Problem):
    """Who asks is not known, or not whom they say; ``reason`` is for us, and the answer does not say it."""

    def __init__(self, reason: Reason, problem: Problem) -> None:
        super().__init__(problem.status, problem.code, problem.detail, headers=problem.headers)
        self.reason = reason


def unauthorized() -> Problem:
    """The same, whatever is wrong with a key."""
    challenge = {"www-authenticate": 'Bearer realm="ingress"'}
    return Problem(401, "unauthorized", "A valid API key is needed.", headers=challenge)


def key_in(authorization: str | None) -> str | None:
    """The key in the header *authorization*."""
    return authorization[7:].strip() if authorization is not None and authorization.startswith("Bearer ") else None


def _origin(address: str | None) -> object:
    """Whose failures are counted together: those of an address, or of a network of IPv6."""
    named = _ip(address or "")
    return IPv6Network((named, IPV6_PREFIX), strict=False) if isinstance(named, IPv6Address) else named


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # What a socket for both families calls an address of the older one.
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
