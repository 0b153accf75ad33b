"""One organization's account at a provider, made of its row, and why a change of it is refused."""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from providers import Check, Event, ProviderStatus, SendError, WhatsAppProvider, phone_key
from providers.content import MAX_ID

from .. import identifiers
from ..storage.statements.configs import StoredConfig
from ..validation import sentence
from .unusable import MissingPlugin, UnreadableConfig

logger = logging.getLogger("ingress.accounts.config")

# Of an organization.
MAX_CONFIGS = 20


class NotFound(Exception):
    """There is no such thing in this organization, or anywhere."""


class ChangeRefused(Exception):
    """Why a change was not made. ``code`` is one word, for the trail, events and metrics; the text is for people."""

    code = "refused"
    saved_as: UUID | None = None  # the config that a new configuration became, though it is not active
    entry: int | None = None  # its number in the trail, where something was taken back


class InvalidConfiguration(ChangeRefused):
    """The configuration cannot be used; ``errors`` are (path, what is wrong) pairs."""

    code = "invalid_configuration"

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = (), checks: Sequence[Check] = ()) -> None:
        super().__init__(detail)
        self.errors = errors
        self.checks = checks


class SecretsNeeded(InvalidConfiguration):
    """A stored secret would go to another host: who changes where it goes has to know it."""

    code = "secrets_needed"


class TestFailed(InvalidConfiguration):
    """Its provider refused it: sending is impossible until somebody does what ``checks`` say."""

    __test__ = False  # not a class of tests
    code = "test_failed"

    def __init__(self, checks: Sequence[Check]) -> None:
        first = next(check for check in checks if check.fatal and not check.passed)
        found = first.detail or f"the check {first.name} failed"
        super().__init__(" ".join(map(sentence, filter(None, [found, first.fix]))), checks=checks)

    @classmethod
    def unless_passed(cls, checks: Sequence[Check]) -> None:
        """Raises it where one of them makes sending impossible."""
        if not all(check.passed for check in checks if check.fatal):
            raise cls(checks)


class ProviderUnreachable(ChangeRefused):
    """The provider did not answer the test: says nothing about the configuration. ``timed_out``: it hung."""

    code = "provider_unreachable"

    def __init__(self, detail: str, *, timed_out: bool = False) -> None:
        super().__init__(detail)
        self.timed_out = timed_out
        if timed_out:
            self.code = "test_timed_out"


_TIMED_OUT = ("read_timeout", "connect_timeout", "deadline")


def unreachable(error: SendError) -> ProviderUnreachable:
    """What a test that ended with *error* says."""
    return ProviderUnreachable(error.detail, timed_out=error.code in _TIMED_OUT)


class TooMany(ChangeRefused):
    """The organization has as many as it may."""

    code = "quota_reached"


class AccountExists(ChangeRefused):
    """Another config of the organization, ``config_id``, is of the same account, and a second one was not asked for."""

    code = "account_exists"

    def __init__(self, config_id: UUID, name: str) -> None:
        super().__init__(
            f"The account is saved already, as the config {name!r}. Switch to that one, or edit it;"
            " with allow_second the account gets a second config."
        )
        self.config_id = config_id


class WebhooksUnread(ChangeRefused):
    """What came in at its address is not read yet, which takes it."""

    code = "webhooks_unread"

    def __init__(self) -> None:
        super().__init__("Webhooks that came in at its address are not read yet. Try again in a moment.")


class InUse(ChangeRefused):
    """It is the active config."""

    code = "config_active"


class Config(msgspec.Struct, frozen=True):
    """One organization's account at a provider, ready to use."""

    organization_id: UUID
    id: UUID
    provider_type: str
    name: str
    state: str
    sender: str | None
    provider: WhatsAppProvider
    callback_url: str  # where its provider reaches us, as the provider is to be given it
    account_id: UUID  # of all configs of the account: what the provider's ids are unique in
    claimed: frozenset[str] = frozenset()  # those of the provider's `accounts` that are the organization's for sure
    updated_at: datetime | None = None  # when its state or its configuration last changed; None: it is not stored
    joins_order: bool = False  # the fallbacks, once it is active

    @property
    def is_unusable(self) -> bool:
        """Its plug-in is not there, or it is damaged: nothing can be done with it here."""
        return isinstance(self.provider, MissingPlugin)

    @property
    def is_app(self) -> bool:
        """It is of no organization: what comes in at its address is about the accounts of many."""
        return self.organization_id is identifiers.PLATFORM_ID

    @property
    def share(self) -> UUID:
        """Whose part it takes of what organizations share: an app is one of its own."""
        return self.id if self.organization_id is identifiers.PLATFORM_ID else self.organization_id

    @property
    def is_damaged(self) -> bool:
        """What is stored of it cannot be opened."""
        return isinstance(self.provider, UnreadableConfig)

    def message_key(self, provider_message_id: str) -> str:
        """What all of the provider's ids of one message have in common (see `WhatsAppProvider.message_key`)."""
        try:
            key = self.provider.message_key(provider_message_id)
        except Exception:  # a plug-in that breaks here must not lose what became of a message
            logger.exception("the provider plug-in failed")
            return provider_message_id
        return key if len(key) <= MAX_ID else provider_message_id

    def received_key_hash(self, provider_message_id: str) -> bytes:
        """What a message that came in under this id is found by among the deduplication keys."""
        # The first account is the number's name, behind the host where it is at one.
        sender_id = next(iter(self.provider.accounts), "").rpartition("/")[2]
        about = Event(type="message.received", key="", sender_id=sender_id)
        key = self.provider.event_key(about, provider_message_id) or provider_message_id
        return identifiers.key_hash(key, self.account_id)

    def usable(self) -> "Config":
        """It, where something can be done with it. Raises `InvalidConfiguration`, which says what to do."""
        if isinstance(self.provider, MissingPlugin):
            raise InvalidConfiguration(self.provider.why)
        return self

    def __repr__(self) -> str:
        return f"Config({self.id})"


def owner_in(row: StoredConfig) -> UUID:
    """Whose the config in a row is; the platform by the very constant, which is compared for each webhook."""
    return identifiers.PLATFORM_ID if row.organization_id == identifiers.PLATFORM_ID else row.organization_id


def config_in(
    row: StoredConfig,
    state: str,
    provider: WhatsAppProvider,
    callback_url: str,
    claimed: frozenset[str] = frozenset(),
) -> Config:
    """The config of a row, as far as it could be opened."""
    owner, sender = owner_in(row), row.sender
    return Config(
        owner,
        row.id,
        row.provider_type,
        row.name,
        state,
        sender,
        provider,
        callback_url,
        identifiers.account_id(owner, row.id, row.provider_type, account_number(sender, row.accounts)),
        claimed,
        row.updated_at,
        row.joins_order,
    )


def account_number(sender: str | None, accounts: Sequence[str]) -> str | None:
    """What tells the account from others: its number, however it is spelled, and else what webhooks call it."""
    return f"+{phone_key(sender)}" if sender else next(iter(accounts), None)


def sender_of(provider: WhatsAppProvider, status: ProviderStatus | None) -> str | None:
    """The business number, as configured or as the provider says."""
    return provider.sender or (status.session_info.get("sender") if status else None)


class NewConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that is not stored yet. ``as_fallback``: it joins the fallback order, at its end.

    ``if_saved``: what becomes of one whose account has a config; `use`: that is meant, where it is the very same.
    """

    provider_type: str
    name: str
    config_data: dict[str, Any]
    if_saved: Literal["refuse", "use", "add"] = "refuse"
    as_fallback: bool = True

    def __repr__(self) -> str:
        return f"NewConfig({self.provider_type!r})"


def message_keys(configs: Iterable[Config], provider_message_ids: Iterable[str]) -> set[str]:
    """What accounts may know messages of ours by which a provider calls so."""
    configs = list(configs)
    return {key for one in provider_message_ids for key in (one, *[config.message_key(one) for config in configs])}
