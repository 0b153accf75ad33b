"""Who is signed in to the console: a random id in a cookie, its hash in PostgreSQL, so that every process knows it."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

from ..storage.database import Database
from ..storage.statements import console_sessions
from ..storage.vault import Vault
from ..validation import Unlogged
from .auth import PLATFORM, SCOPES, Principal

# `__Host-`: only over TLS (or on this machine), for this host alone, and no other host of the domain can set it.
COOKIE = "__Host-console"
IDLE, LONGEST = timedelta(minutes=30), timedelta(hours=12)
TOUCH_EVERY = timedelta(minutes=1)


class Session(Unlogged, frozen=True, kw_only=True):
    """A session that may be used now. *token* is what the cookie holds."""

    token: str
    principal: Principal
    organization: str | None
    key_name: str | None

    @property
    def csrf(self) -> str:
        """What a form holds to show that one of our own pages made it: from the cookie, which others cannot read."""
        return hashlib.blake2b(self.token.encode(), digest_size=16, person=b"console-csrf").hexdigest()


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Sessions:
    """The sessions of all processes."""

    def __init__(self, database: Database, vault: Vault, platform_key: str) -> None:
        self._database = database
        self._vault = vault
        self._platform_key = platform_key

    async def begin(self, principal: Principal) -> str:
        """A new session of whoever has shown the key of *principal*; what its cookie is to hold."""
        token = secrets.token_urlsafe(32)
        platform_hash = self._vault.key_hash(self._platform_key) if principal.is_platform else None
        async with self._database.worker() as connection:
            await console_sessions.end_idle(connection, IDLE)
            await console_sessions.add(
                connection, principal.organization_id, _hash(token), principal.name, platform_hash
            )
        return token

    async def find(self, token: str, *, used: bool) -> Session | None:
        """None where it is over, or its key is. *used*: by a person, not by a page that looks again by itself."""
        async with self._database.worker() as connection:
            stored = await console_sessions.find(connection, _hash(token), IDLE, LONGEST)
            if stored is None or (scopes := self._scopes(stored)) is None:
                return None
            if used and datetime.now(UTC) - stored.seen_at > TOUCH_EVERY:
                await console_sessions.touch(connection, _hash(token))
        return Session(
            token=token,
            principal=Principal(stored.key_id, stored.organization_id, scopes, stored.expires_at),
            organization=stored.organization,
            key_name=stored.key_name,
        )

    def _scopes(self, stored: console_sessions.StoredSession) -> frozenset[str] | None:
        if stored.scopes is not None:
            return frozenset(stored.scopes)
        is_current = self._platform_key and self._vault.is_key_hash(stored.platform_hash or b"", self._platform_key)
        return SCOPES if stored.key_id == PLATFORM and is_current else None

    async def choose(self, session: Session, organization_id: UUID) -> None:
        """Have the platform's session act for that organization."""
        async with self._database.worker() as connection:
            await console_sessions.choose(connection, _hash(session.token), organization_id)

    async def end(self, session: Session, *, everywhere: bool = False) -> None:
        """*everywhere*: also all other sessions of its key."""
        async with self._database.worker() as connection:
            if everywhere:
                principal = session.principal
                await console_sessions.end_all(connection, principal.name, principal.organization_id)
            await console_sessions.end(connection, _hash(session.token))
