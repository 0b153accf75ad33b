"""Providers: every plug-in, the one in use, configuring one and testing it."""

from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import ConfigField, Pacing, ProviderStatus, Registry, RegistryEntry, TimeLimits
from providers.base import config_fields

from .. import log
from ..accounts.config import InvalidConfiguration, NewConfig
from ..accounts.unusable import MissingPlugin
from ..health.status import HealthShown
from ..switching.manager import PluginsUnreadable, Reloaded
from ..validation import ConfigData, Name, ProviderType
from ..web.bodies import RequestBody, Shown, invalid
from ..web.problems import Json, json_response, unavailable
from . import ApiRequest
from .configs import shown_fields
from .refusals import CheckShown, ConfigResult, invalid_configuration, refused_as_problems, shown_checks, shown_switch
from .status import health_of


class ConfigureRequest(RequestBody, frozen=True, kw_only=True):
    """The body of provider/configure."""

    provider_type: ProviderType
    config_data: ConfigData
    name: Name | None = None
    is_active: bool = True

    @property
    def new(self) -> NewConfig:
        kind = self.provider_type
        return NewConfig(provider_type=kind, name=self.name or kind, config_data=self.config_data)


class TestRequest(RequestBody, frozen=True, kw_only=True):
    """The body of provider/test: a config by its id, or a configuration as provider/configure takes it."""

    __test__ = False  # not a class of tests

    config_id: UUID | None = None
    provider_type: ProviderType | None = None
    config_data: ConfigData | None = None
    name: Name | None = None
    is_active: bool = True

    @property
    def target(self) -> UUID | NewConfig:
        """Raises `Problem` where it is neither, or both."""
        kind, data = self.provider_type, self.config_data
        if self.config_id is not None and kind is None and data is None:
            return self.config_id
        if self.config_id is None and kind is not None and data is not None and self.is_active:
            return NewConfig(provider_type=kind, name=self.name or kind, config_data=data)
        raise invalid(("config_id", "must be given, or else provider_type and config_data"))


class ProviderShown(Shown, frozen=True, kw_only=True):
    """A plug-in as it describes itself, with the fields of its configuration; of one that failed the ``reason``."""

    name: str
    state: str
    reason: str | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    pricing: str | UnsetType = UNSET
    stability: str | UnsetType = UNSET
    official: bool | UnsetType = UNSET
    capabilities: list[str] | UnsetType = UNSET
    pacing: Pacing | UnsetType = UNSET
    time_limits: TimeLimits | UnsetType = UNSET
    max_webhook_bytes: int | UnsetType = UNSET
    hosts: list[str] | UnsetType = UNSET
    fields: list[ConfigField] | UnsetType = UNSET


class Providers(Shown, frozen=True):
    providers: list[ProviderShown]


class FallbackShown(Shown, frozen=True):
    config_id: UUID
    provider: str
    name: str


class Current(Shown, frozen=True, kw_only=True):
    """The active config; without one only ``provider`` (null) and ``status`` (`not_configured`).

    ``status`` is the provider's last word on the account, ``detail`` why its plug-in cannot be used.
    """

    provider: str | None
    status: ProviderStatus | str
    config_id: UUID | UnsetType = UNSET
    name: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    sender: str | UnsetType | None = UNSET
    version: int | UnsetType = UNSET
    health: HealthShown | UnsetType | None = UNSET
    fallback: list[FallbackShown] | UnsetType = UNSET
    config_data: dict[str, Any] | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class ConnectionTest(Shown, frozen=True):
    """``passed``: messages can be sent. ``webhook_url``: where the provider has to post its webhooks."""

    passed: bool
    checks: list[CheckShown]
    webhook_url: str | UnsetType = UNSET


async def list_providers(request: ApiRequest) -> Providers:
    """GET …/providers: every plug-in, with the fields of its configuration; failed ones with their reason."""
    manager = request.state["manager"]
    return Providers([_shown(manager.registry, entry) for entry in manager.list_providers()])


def _shown(registry: Registry, entry: RegistryEntry) -> ProviderShown:
    info: dict[str, Any] = {}
    if entry.info is not None:
        info = msgspec.to_builtins(entry.info)
        info |= {"capabilities": sorted(info["capabilities"]), "fields": config_fields(registry.get(entry.name))}
    return ProviderShown(**info | {"name": entry.name, "state": entry.state, "reason": entry.reason or UNSET})


async def reload_providers(request: ApiRequest) -> Reloaded:
    """POST …/providers/reload (platform key): plug-ins that were installed or uninstalled, in every process."""
    try:
        found = await request.state["manager"].reload_plugins()
    except PluginsUnreadable as error:
        raise unavailable(str(error)) from None
    names = {what: sorted(each) for what, each in msgspec.structs.asdict(found).items()}
    log.wide("plugins", outcome="reloaded", **names, actor=request.principal.name)
    return found


async def current(request: ApiRequest) -> Current:
    """GET …/provider/current: the active provider and how it is doing."""
    manager = request.state["manager"]
    route, status = await manager.current(request.organization_id)
    if not route.order:
        return Current(provider=None, status="not_configured")
    active, *fallbacks = route.order
    return Current(
        **shown_fields(active, await health_of(request)),
        version=route.version,
        status="error" if active.is_damaged else status or "unknown",
        fallback=[FallbackShown(config.id, config.provider_type, config.name) for config in fallbacks],
        config_data=manager.masked(active.provider),
        detail=active.provider.why if isinstance(active.provider, MissingPlugin) else UNSET,
    )


async def configure(request: ApiRequest[ConfigureRequest]) -> Json[ConfigResult]:
    """POST …/provider/configure: validate, test against the provider, save encrypted, set up, activate."""
    body = await request.decoded()
    request.check_calls_out()
    configure = request.state["manager"].configure
    with refused_as_problems():
        try:
            done = await configure(request.organization_id, request.actor, body.new, activate=body.is_active)
        except InvalidConfiguration as error:  # also one that its provider refused: it is not saved
            raise invalid_configuration(error) from None
    return json_response(*shown_switch(ConfigResult, done))


async def test_connection(request: ApiRequest[TestRequest]) -> ConnectionTest:
    """POST …/provider/test: every check of a config or configuration, with what to do about it; nothing is saved."""
    body = await request.decoded()
    request.check_calls_out()
    with refused_as_problems():
        checks, webhook_url = await request.state["manager"].test(request.organization_id, body.target)
    passed = all(check.passed for check in checks if check.fatal)
    return ConnectionTest(passed, shown_checks(checks), webhook_url or UNSET)
