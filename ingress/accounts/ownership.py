"""Whose an account is, and whose an item of a webhook.

Several organizations may share an app of a provider, and with it the secret that signs webhooks: what comes in at the
address of one may be about an account of another. An account is an organization's once a connection test of it has
passed at a host that the provider, or the platform (INGRESS_TRUSTED_HOSTS), vouches for; it stays so until the last
config of the organization that names it is gone. What nobody has shown to be theirs is the config's at whose address it
came in as long as nobody else has the secret, and nobody's otherwise: then it is put aside for the platform.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from providers import Check, Event, WhatsAppProvider
from providers.description import config_fields

from ..cache import Cache
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import configs
from .accounts import Accounts
from .config import ChangeRefused, Config
from .fields import addresses

# What is asked for an unusual webhook is remembered so long: the next ones are alike.
REMEMBERED_S = 1.0
# All webhooks of a flush wait for such an answer. Where there was none, none is asked for a while.
ASK_S, AWAY_S = 2.0, 1.0
MAX_REMEMBERED = 10_000

Value = TypeVar("Value")


class AccountInUse(ChangeRefused):
    """Another organization has shown that the account is theirs. ``checks`` show that, and not whose it is."""

    code = "account_in_use"

    def __init__(self, checks: Sequence[Check]) -> None:
        super().__init__(f"Another organization of this service uses the account. {_OTHERS.fix}")
        self.checks = [*checks, _OTHERS]


_OTHERS = Check(
    name="ownership",
    passed=False,
    detail="another organization of this service uses the account",
    fix="Ask the people who run this service: an account is one organization's at a time.",
)
_UNPROVEN = Check(
    name="ownership",
    passed=True,
    detail="the address is not the provider's own, so this test does not show whose the account is",
    fix="While another organization has the same webhook secret, neither is shown what comes in: have a secret of your"
    " own, or ask the people who run this service to trust the host (INGRESS_TRUSTED_HOSTS).",
    fatal=False,
    checkable=False,
)


class Ownership:
    """Asks and decides. *trusted_hosts* vouch for accounts as the provider's own hosts do."""

    def __init__(self, database: Database, accounts: Accounts, trusted_hosts: frozenset[str]) -> None:
        self._database = database
        self._accounts = accounts
        self._vault = accounts.vault
        self._trusted_hosts = trusted_hosts
        self._remembered: Cache[object, tuple[Any]] = Cache(MAX_REMEMBERED)
        self._away_until = 0.0

    # -- accounts

    def proven(self, provider: WhatsAppProvider, checks: Sequence[Check]) -> list[str]:
        """The accounts that a connection test that passed has shown to be in the hands of who made it."""
        return list(provider.proven(checks)) if self._is_vouched_for(provider) else []

    async def claim(
        self, connection: asyncpg.Connection, organization_id: UUID, provider: WhatsAppProvider, checks: Sequence[Check]
    ) -> None:
        """Make an account that was tested the organization's. Raises `AccountInUse`, and nothing is claimed."""
        if proven := self.proven(provider, checks):
            # The first is the number itself. Of what it shares with others, such as a business account, who was first.
            held = await configs.claim_accounts(connection, organization_id, provider.name, proven)
            if proven[0] not in held:
                raise AccountInUse(checks)

    async def check(self, organization_id: UUID, provider: WhatsAppProvider, checks: Sequence[Check]) -> list[Check]:
        """What a test that passed says about whose the account is, without claiming it."""
        if not provider.accounts:
            return []
        proven = self.proven(provider, checks)
        if not proven:
            return [_UNPROVEN]
        async with self._database.worker() as connection:
            owner = await configs.owner_of(connection, provider.name, proven[0])
        return [Check(name="ownership", passed=True) if owner in (None, organization_id) else _OTHERS]

    def signing_keys(self, provider: WhatsAppProvider) -> list[bytes]:
        """What is stored of the secrets that sign its webhooks."""
        return [self._vault.lookup_hashes(secret)[0] for secret in _signing_secrets(provider)]

    # -- items

    async def holds(self, config: Config, event: Event) -> bool:
        """Whether *event*, which is about the account of *config*, is its organization's. Raises `StoreUnavailable`."""
        account = config.provider.account_of(event)
        if account in config.claimed:
            return True
        owner = await self._owner(config.provider_type, account) if account is not None else None
        return owner == config.organization_id if owner is not None else not await self.is_shared(config)

    async def is_shared(self, config: Config) -> bool:
        """Whether others than its organization have a secret of *config*, and what it signs may be theirs.

        Raises `StoreUnavailable`.
        """

        if config.is_app:
            return True

        async def ask() -> bool:
            # With every key: what others have was stored with the newest of then.
            secrets = _signing_secrets(config.provider)
            keys = [key for secret in secrets for key in self._vault.lookup_hashes(secret)]
            async with self._database.lookup() as connection:
                return await configs.others_behind(connection, config.organization_id, keys)

        return await self._once(("shared", config.organization_id, config.id), ask)

    async def config_of(self, provider_type: str, account: str) -> Config | None:
        """The config of an account, whoever's it is. None where it is nobody's, or cannot be used.

        Raises `StoreUnavailable`.
        """

        async def ask() -> Config | None:
            async with self._database.lookup() as connection:
                row = await configs.by_account(connection, provider_type, account)
            return self._accounts.open(row) if row is not None else None

        return await self._once(("config", provider_type, account), ask)

    async def _owner(self, provider_type: str, account: str) -> UUID | None:
        async def ask() -> UUID | None:
            async with self._database.lookup() as connection:
                return await configs.owner_of(connection, provider_type, account)

        return await self._once(("owner", provider_type, account), ask)

    async def _once(self, key: object, ask: Callable[[], Awaitable[Value]]) -> Value:
        held = self._remembered.get(key)
        if held is None:
            held = (await self._asked(ask),)
            self._remembered.put(key, held, REMEMBERED_S)
        value: Value = held[0]  # what its key was asked for
        return value

    async def _asked(self, ask: Callable[[], Awaitable[Value]]) -> Value:
        if monotonic() < self._away_until:
            raise StoreUnavailable("whose it is could not be asked a moment ago")
        try:
            async with asyncio.timeout(ASK_S):
                return await ask()
        except (TimeoutError, StoreUnavailable):
            self._away_until = monotonic() + AWAY_S
            raise StoreUnavailable("whose it is cannot be asked") from None

    def _is_vouched_for(self, provider: WhatsAppProvider) -> bool:
        """Whether all that the account was asked went to hosts that say whose it is."""
        return all(
            url.host in self._trusted_hosts
            or (url.scheme == "https" and url.port == 443 and url.path == "/" and _is_own(url.host or "", provider))
            for _, url in addresses(provider)
        )


def _is_own(host: str, provider: WhatsAppProvider) -> bool:
    return any(host.endswith(own) if own.startswith(".") else host == own for own in provider.info.hosts)


def _signing_secrets(provider: WhatsAppProvider) -> list[str]:
    """Zero bytes at the end, which make no other HMAC key of a text, are refused where a secret is given."""
    values = [getattr(provider, field.name) for field in config_fields(type(provider)) if field.signs]
    return [value for value in values if value]
