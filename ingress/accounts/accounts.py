"""Accounts at providers: a configuration validated, tested, set up; sealed to be stored, opened to be used."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from providers import (
    Check,
    ChecksFlow,
    Flow,
    ProviderStatus,
    Registry,
    SendError,
    Unavailable,
    Uncertain,
    UnknownProvider,
    Unsupported,
    WhatsAppProvider,
)
from providers.description import config_fields

from .. import identifiers
from ..cache import Cache
from ..calls.driver import Caller
from ..calls.egress import Egress, InvalidUrl
from ..metrics.labels import VALUES
from ..storage.statements.configs import StoredConfig
from ..storage.vault import Vault, VaultError, new_webhook_token
from ..validation import ConfigData, Wrong, listed, once, wrong_fields
from .advice import WHAT_TO_DO
from .config import (
    Config,
    InvalidConfiguration,
    NewConfig,
    ProviderUnreachable,
    SecretsNeeded,
    TestFailed,
    account_number,
    config_in,
    owner_in,
    unreachable,
)
from .fields import addresses, is_url, secrets_of, wrong_data
from .progress import ShowCheck, ShownChecks, each_once
from .unusable import MissingPlugin, UnreadableConfig

logger = logging.getLogger("ingress.accounts.accounts")

_UNKNOWN = ("provider_type", "unknown provider")
# Organizations whose configs stay decrypted, and how long after they were: then it is done anew.
KEPT, KEPT_S = 10_000, 60.0
# What the token of an app's webhook address begins with.
APP_PATH = "app/"
_FIX_PROBE = (
    "Have {} (INGRESS_PUBLIC_URL) lead to this service, by name, certificate and proxy, and nothing on the way change"
    " an address, a header or a body. A private address needs INGRESS_EGRESS_ALLOW."
)
# Of a webhook that we post to ourselves.
PROBE_TIMEOUT_S = 5.0
# Of the webhook that a switch by force writes: its provider may not answer at all. What it has read it writes anyway.
FORCED_WITHIN_S = 3.0

Result = TypeVar("Result")


class Accounts:
    """What is done with the account of a config, whoever's it is."""

    def __init__(self, registry: Registry, vault: Vault, caller: Caller, egress: Egress, origin: str) -> None:
        self.registry = registry
        VALUES["provider"].update(registry.names())
        self.vault = vault
        self.origin = origin
        self._caller = caller
        self._egress = egress
        self._opened: Cache[UUID, dict[UUID, tuple[datetime, Config]]] = Cache(KEPT)  # of each organization

    # -- the configuration

    def validate(self, provider_type: str, config_data: Mapping[str, Any]) -> WhatsAppProvider:
        """The provider with this configuration. Raises `InvalidConfiguration` naming what is wrong."""
        kind = self._kind(provider_type)
        if kind is None:
            raise self._unknown(provider_type)
        data = dict(config_data)
        if wrong := once(self._wrong_in(data, kind)):
            fields = ((path.removeprefix("config_data."), detail) for path, detail in wrong)
            raise InvalidConfiguration(f"The configuration is not valid: {listed(fields)}.", wrong)
        return msgspec.convert(data, kind)

    def wrong_fields(self, provider_type: object, config_data: object) -> Wrong:
        """What is wrong with a configuration in a body of which something else is wrong, too."""
        kind = self._kind(provider_type) if isinstance(provider_type, str) else None
        if kind is not None and isinstance(config_data, dict) and not wrong_fields(config_data, ConfigData):
            yield from self._wrong_in(config_data, kind)
        elif kind is None and provider_type is not None:
            yield _UNKNOWN

    def wrong_changes(self, config: Config, changes: object) -> Wrong:
        """The same of what is to change in the configuration of *config*."""
        if isinstance(changes, dict) and not config.is_unusable:
            changed = {**msgspec.to_builtins(config.provider), **changes}
            data = {name: value for name, value in changed.items() if value is not None}
            yield from self.wrong_fields(config.provider_type, data)

    def _wrong_in(self, config_data: dict[str, Any], kind: type[WhatsAppProvider]) -> Wrong:
        yield from wrong_data(config_data, kind)
        yield from self._wrong_addresses(config_data)

    def _unknown(self, provider_type: str) -> InvalidConfiguration:
        known = ", ".join(entry.name for entry in self.registry.entries() if entry.state == "registered")
        return InvalidConfiguration(f"There is no provider {provider_type!r}. Known are {known}.", [_UNKNOWN])

    def _wrong_addresses(self, config_data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, value in config_data.items():
            if isinstance(value, str) and (name == "base_url" or is_url(value)):
                try:
                    self._egress.check_url(value)
                except InvalidUrl as error:
                    yield f"config_data.{name}", str(error)

    def check_secrets(self, former: WhatsAppProvider, provider: WhatsAppProvider, given: Mapping[str, Any]) -> None:
        """Raise `SecretsNeeded` where *provider* is at another host than *former*, and a secret is not *given*."""
        before, now = ([(name, url.origin()) for name, url in addresses(each)] for each in (former, provider))
        kept = [name for name in secrets_of(provider) if not given.get(name)]
        if kept and before != now:
            wrong = [(f"config_data.{name}", "is needed again: it would go to another host") for name in kept]
            raise SecretsNeeded("with another host, every secret is to be given anew", wrong)

    def masked(self, provider: WhatsAppProvider) -> dict[str, Any]:
        """The configuration with every secret replaced by its fingerprint: all that ever leaves the service."""
        shown = {}
        for field in config_fields(type(provider)):
            value = getattr(provider, field.name)
            shown[field.name] = self.vault.fingerprint(value) if field.secret and value else value
        return shown

    def field_names(self, provider_type: str) -> set[str]:
        """The fields of a configuration; none of a provider that cannot be used."""
        kind = self._kind(provider_type)
        return {field.name for field in config_fields(kind)} if kind else set()

    def masked_data(self, provider_type: str, config_data: Mapping[str, Any]) -> dict[str, Any]:
        """As `masked`, of what need not be valid: whatever is wrong may be a secret in the wrong place."""
        kind = self._kind(provider_type)
        if kind is None:
            return {}
        data = dict(config_data)
        # The path of what is wrong within a field begins with the field's.
        wrong = {re.split(r"[.\[]", path)[1] for path, _ in self._wrong_in(data, kind)}
        plain = {field.name for field in config_fields(kind) if not field.secret} - wrong
        given = {field.name: data[field.name] for field in config_fields(kind) if data.get(field.name) is not None}
        return {name: value if name in plain else self._fingerprint(value) for name, value in given.items()}

    def _fingerprint(self, value: object) -> str:
        return self.vault.fingerprint(value if isinstance(value, str) else msgspec.json.encode(value).decode())

    def webhook_url(self, provider_type: str, token: str) -> str:
        return f"{self.origin}/webhooks/{provider_type}/{token}"

    def made(
        self, organization_id: UUID, new: NewConfig, provider: WhatsAppProvider, sender: str | None
    ) -> tuple[Config, str]:
        """The config that *new* becomes, and the token of its webhook address; an app's begins with APP_PATH."""
        token, config_id = _token_of(organization_id), identifiers.new_id()
        config = Config(
            organization_id,
            config_id,
            new.provider_type,
            new.name,
            "configured",
            sender,
            provider,
            provider.callback_url(self.webhook_url(new.provider_type, token)),
            identifiers.account_id(
                organization_id, config_id, new.provider_type, account_number(sender, provider.accounts)
            ),
        )
        return config, token

    # -- at rest

    def open(self, row: StoredConfig) -> Config | None:
        """The config of a row. None, and a line in the log, where its plug-in is gone or the row cannot be opened."""
        kind = self._kind(row.provider_type)
        if kind is None:
            logger.error("config %s needs the provider %s, which is not installed", row.id, row.provider_type)
            return None
        owner, claimed = owner_in(row), frozenset(row.claimed)
        opened = self._opened.get(owner)
        if opened is None:
            self._opened.put(owner, opened := {}, KEPT_S)
        held = opened.get(row.id)
        if held and held[0] == row.updated_at and held[1].claimed == claimed and type(held[1].provider) is kind:
            return held[1]
        config = self._decrypted(row, kind, claimed)
        if config is not None:
            opened[row.id] = (row.updated_at, config)
        return config

    def _decrypted(self, row: StoredConfig, kind: type[WhatsAppProvider], claimed: frozenset[str]) -> Config | None:
        try:
            provider = msgspec.json.decode(self.data(row), type=kind)
            return config_in(row, row.state, provider, self.callback_url(row, provider), claimed)
        except (VaultError, msgspec.MsgspecError) as error:
            # One config alone: the organization's others go on. The error's text may quote what is in it.
            logger.error("config %s cannot be opened: %s", row.id, type(error).__name__)
            return None

    def known(self, row: StoredConfig) -> Config:
        """As `open` has it; but where that is None, one that can do nothing, in the state `error`."""
        if (config := self.open(row)) is not None:
            return config
        return config_in(row, "error", UnreadableConfig() if self._kind(row.provider_type) else MissingPlugin(), "")

    def usable(self, row: StoredConfig) -> Config:
        """The config of a row, where something can be done with it. Raises `InvalidConfiguration`."""
        return self.known(row).usable()

    def is_current(self, config: Config) -> bool:
        """Whether its plug-in is there, or not, as when it was opened. A damaged one may be mended at any time."""
        return type(config.provider) is (self._kind(config.provider_type) or MissingPlugin)

    def forget(self, organization_id: UUID) -> None:
        """Some of its credentials may not be needed any more."""
        self._opened.drop(organization_id)

    def forget_all(self) -> None:
        self._opened.clear()

    def data(self, row: StoredConfig) -> bytes:
        """The configuration in a row, as JSON. Raises `VaultError`."""
        return self.vault.open(row.config_data, str(row.organization_id), str(row.id), "config_data")

    def callback_url(self, row: StoredConfig, provider: WhatsAppProvider) -> str:
        """The webhook address of a row, as its provider is to be given it. Raises `VaultError`."""
        token = self.vault.open(row.webhook_token, str(row.organization_id), str(row.id), "webhook_token")
        return provider.callback_url(self.webhook_url(row.provider_type, token.decode()))

    def seal(self, config: Config, field: str, plain: bytes) -> bytes:
        return self.vault.seal(plain, str(config.organization_id), str(config.id), field)

    def _kind(self, provider_type: str) -> type[WhatsAppProvider] | None:
        try:
            return self.registry.get(provider_type)
        except UnknownProvider:
            return None

    # -- at its provider

    async def checks(
        self, provider: WhatsAppProvider, callback_url: str | None = None, show: ShowCheck | None = None
    ) -> list[Check]:
        """The connection test, whatever comes of it; *show* gets each check as it is done.

        Raises `TestFailed`, `ProviderUnreachable` where there is none.
        """
        try:
            return await self.run(provider.validate_config(callback_url), provider.time_limits.test_s, show)
        except (Unavailable, Uncertain) as error:
            raise unreachable(error) from error
        except SendError as error:
            check = Check(
                name="account", passed=False, detail=error.detail or error.code, fix=WHAT_TO_DO["account_restricted"]
            )
            raise TestFailed([check]) from error

    async def test(
        self, provider: WhatsAppProvider, callback_url: str | None = None, show: ShowCheck | None = None
    ) -> tuple[list[Check], ProviderStatus | None]:
        """The connection test of an account that shall be used, and how it is doing; *show* gets each check when done.

        Raises `TestFailed` where sending is impossible, `ProviderUnreachable`.
        """
        shown = ShownChecks(show)
        checks, status = await asyncio.gather(self.checks(provider, callback_url, shown), self._status(provider))
        shown.all(checks)
        TestFailed.unless_passed(checks)
        return checks, status

    async def probe(self, provider: WhatsAppProvider, callback_url: str) -> Check:
        """Whether a webhook that is signed as the provider's arrives at *callback_url*: posted from here."""
        try:
            taken, refused = await self.run(_probe(provider, callback_url), PROBE_TIMEOUT_S)
            found = f"a signed webhook was answered with {taken}, an unsigned one with {refused}"
            if (taken, refused) == (provider.acknowledgement.status, 401):
                return Check(name="probe", passed=True, detail=found, fatal=False)
        except Unsupported as error:
            return Check(name="probe", passed=True, detail=error.detail, fatal=False, checkable=False)
        except SendError as error:
            found = f"a signed webhook was not answered ({error.code})"
        return Check(name="probe", passed=False, detail=found, fix=_FIX_PROBE.format(self.origin), fatal=False)

    async def set_up(self, provider: WhatsAppProvider, callback_url: str) -> list[Check]:
        """Prepare the account, point its webhooks here, and test it as it is then: each check once.

        Failing leaves sending possible, so it is reported only. A `webhook` that failed and is fatal: what people write
        does not arrive here, and the provider could not be made to post it here.
        """
        until = monotonic() + provider.time_limits.set_up_s
        by_hand = f"Set the webhook address at the provider by hand: {callback_url}"
        starts: dict[str, Callable[[], Flow[None]]] = {
            "setup": provider.setup,
            "webhook": lambda: provider.receive_messages(callback_url),
        }
        names = reversed(starts) if provider.webhook_first else starts
        checks = [await self._step(name, starts[name], until, by_hand if name == "webhook" else None) for name in names]
        return each_once(checks, await self._tested(provider, callback_url))

    async def repair(self, provider: WhatsAppProvider, callback_url: str) -> list[Check]:
        """Have what a test finds missing at the provider set there, and test it as it is then: each check once."""
        until = monotonic() + provider.time_limits.set_up_s
        repaired = await self._step("repair", lambda: provider.repair(callback_url), until, None)
        return each_once([repaired], await self._tested(provider, callback_url))

    async def write_webhook(self, config: Config, timeout_s: float | None = None) -> None:
        """Have the provider post here, where it does not do so already. Failing is logged: health says so, too."""
        limit_s = config.provider.time_limits.set_up_s if timeout_s is None else timeout_s
        try:
            await self.run(config.provider.receive_messages(config.callback_url), limit_s)
        except Unsupported:
            return  # only people can
        except SendError as error:
            logger.warning("the webhook of config %s cannot be written: %s", config.id, error.code)

    async def _tested(self, provider: WhatsAppProvider, callback_url: str) -> list[Check]:
        try:
            return await self.checks(provider, callback_url)
        except (TestFailed, ProviderUnreachable) as error:
            fix = "Test the connection again."
            return [Check(name="test", passed=False, detail=str(error), fix=fix, fatal=False)]

    async def _step(self, name: str, start: Callable[[], Flow[None]], until: float, fix: str | None) -> Check:
        try:
            await self.run(start(), max(0.1, until - monotonic()))
        except Unsupported as error:
            return Check(name=name, passed=True, detail=error.detail, fix=fix, fatal=False, checkable=False)
        except SendError as error:
            return Check(name=name, passed=False, detail=error.detail or error.code, fix=fix, fatal=name == "webhook")
        return Check(name=name, passed=True, fatal=False)

    async def disconnect(self, config: Config) -> None:
        """Have the provider post no more webhooks here. Failing is logged: the address ends all the same."""
        try:
            await self.run(config.provider.disconnect(), config.provider.time_limits.set_up_s)
        except SendError as error:
            logger.warning("config %s stays connected at its provider: %s", config.id, error.code)

    async def status(self, provider: WhatsAppProvider) -> ProviderStatus:
        """How the account is doing, as its provider says. Raises `SendError`."""
        return await self.run(provider.get_status(), provider.time_limits.test_s)

    async def _status(self, provider: WhatsAppProvider) -> ProviderStatus | None:
        try:
            return await self.status(provider)
        except SendError as error:
            logger.warning("the provider reports no status: %s", error.code)
            return None

    async def run(self, flow: "ChecksFlow[Result]", timeout_s: float, show: ShowCheck | None = None) -> Result:
        """A call that a person waits for. Raises `SendError`, also where the plug-in itself breaks."""
        try:
            async with asyncio.timeout(timeout_s + 0.5):  # the driver's own limit fires first, and says more
                return await self._caller.run(flow, timeout_s, self._caller.unhurried, show)
        except SendError:
            raise
        except TimeoutError:
            raise Unavailable("no answer from the provider in time", code="deadline") from None
        except Exception as error:
            logger.exception("the provider plug-in failed")
            raise Unavailable("the provider plug-in failed", code="plugin_failed") from error


def _probe(provider: WhatsAppProvider, callback_url: str) -> Flow[tuple[int, int]]:
    """What a signed webhook is answered with, and what one that is not: who takes both is not this service."""
    signed = provider.probe(callback_url)
    bare = {name: value for name, value in signed.headers.items() if name == "content-type"}
    taken = yield signed
    refused = yield msgspec.structs.replace(signed, headers=bare)
    return taken.status, refused.status


def _token_of(organization_id: UUID) -> str:
    return (APP_PATH if organization_id == identifiers.PLATFORM_ID else "") + new_webhook_token()
