"""Providers: every plug-in, the one in use, configuring one and testing it."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import Check, ConfigField, Limits, Pacing, Registry, RegistryEntry, TimeLimits
from providers.description import config_fields

from .. import log
from ..accounts.config import Config, NewConfig
from ..accounts.unusable import MissingPlugin
from ..health.status import HealthShown, StatusShown, status_shown
from ..switching.plugins import PluginsUnreadable, Reloaded
from ..validation import ConfigData, Name, ProviderType
from ..web.bodies import MoreWrong, OrganizationBody, RequestQuery, Shown, invalid
from ..web.problems import Json, json_response, unavailable
from . import AnyRequest, ApiRequest
from .audit import note
from .configs import named_config, shown_fields
from .refusals import CheckShown, ConfigureResult, refused_as_problems, shown_checks, shown_switch
from .status import health_of


class _Configuration(OrganizationBody, frozen=True, kw_only=True):
    """A configuration that may be saved."""

    provider_type: ProviderType | None = None
    config_data: ConfigData | None = None
    name: Name | None = None
    is_active: bool = True
    as_fallback: bool = True
    allow_second: bool = False

    def new(self, if_saved: Literal["refuse", "use"]) -> NewConfig | None:
        """None where it is incomplete."""
        kind, data = self.provider_type, self.config_data
        if kind is None or data is None:
            return None
        saved = "add" if self.allow_second else if_saved
        name, as_fallback = self.name or kind, self.as_fallback
        return NewConfig(provider_type=kind, name=name, config_data=data, if_saved=saved, as_fallback=as_fallback)


class ConfigureRequest(_Configuration, frozen=True, kw_only=True):
    """The body of provider/configure. Where not ``is_active`` it is saved, and the active config stays.

    ``as_fallback`` False: it does not join the fallback order. ``allow_second``: also where the account has a config.
    """

    provider_type: ProviderType
    config_data: ConfigData


class TestRequest(_Configuration, frozen=True, kw_only=True):
    """The body of provider/test: a config by its id, or a configuration as provider/configure takes it."""

    __test__ = False  # not a class of tests

    config_id: UUID | None = None

    @property
    def target(self) -> UUID | NewConfig:
        """Raises `Problem` where it is neither, or both."""
        if self.config_id is not None and self.provider_type is None and self.config_data is None:
            return self.config_id
        if self.config_id is None and (new := self.new("use")) is not None:
            return new
        raise invalid(("config_id", "must be given, or else provider_type and config_data"))


class RepairRequest(OrganizationBody, frozen=True, kw_only=True):
    """The body of provider/repair."""

    config_id: UUID | None = None  # None: the active one


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
    limits: dict[str, Limits] | UnsetType = UNSET
    pacing: Pacing | UnsetType = UNSET
    time_limits: TimeLimits | UnsetType = UNSET
    max_webhook_bytes: int | UnsetType = UNSET
    hosts: list[str] | UnsetType = UNSET
    fields: list[ConfigField] | UnsetType = UNSET


class ProvidersQuery(RequestQuery, frozen=True):
    """``details``: with their fields, what they can, and why one failed."""

    details: bool = False


class Providers(Shown, frozen=True):
    providers: list[ProviderShown]


class FallbackShown(Shown, frozen=True):
    config_id: UUID
    provider: str
    name: str


class Current(Shown, frozen=True, kw_only=True):
    """The active config; without one only ``provider`` (null) and ``status`` (`not_configured`).

    ``last_activity`` and ``session_info`` are those of ``status``; ``detail`` is why its plug-in cannot be used.
    """

    provider: str | None
    status: StatusShown | Literal["not_configured"]
    last_activity: datetime | UnsetType | None = UNSET
    session_info: dict[str, Any] | UnsetType = UNSET
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
    """``passed``: messages can be sent. ``webhook_url``: where the provider has to post its webhooks.

    Not passed where the provider does not answer, or the account is another organization's; what it refuses is a
    problem, as in provider/configure.
    """

    passed: bool
    checks: list[CheckShown]
    webhook_url: str | UnsetType = UNSET


async def list_providers(request: ApiRequest[None, ProvidersQuery]) -> list[str] | Providers:
    """GET …/providers: the names that provider/configure takes; with details=true every plug-in, also failed ones."""
    manager = request.state["manager"]
    entries = manager.list_providers()
    if not request.query.details:
        return [entry.name for entry in entries if entry.state == "registered"]
    return Providers([_shown(manager.registry, entry) for entry in entries])


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
    fields = shown_fields(active, await health_of(request))
    shown = status_shown(status, fields["last_activity"])
    return Current(
        **fields,
        version=route.version,
        status=shown,
        session_info=shown.session_info,
        fallback=[FallbackShown(config.id, config.provider_type, config.name) for config in fallbacks],
        config_data=manager.masked(active.provider),
        detail=active.provider.why if isinstance(active.provider, MissingPlugin) else UNSET,
    )


def wrong_configuration(request: AnyRequest) -> MoreWrong:
    """What is wrong with the configuration in a body, besides what is wrong with the body."""
    wrong_fields = request.state["manager"].accounts.wrong_fields
    return lambda sent: wrong_fields(sent.get("provider_type"), sent.get("config_data"))


async def configure(request: ApiRequest[ConfigureRequest]) -> Json[ConfigureResult]:
    """POST …/provider/configure: validate, test against the provider, save encrypted, set up, activate."""
    body = await request.decoded(wrong_configuration(request))
    request.check_calls_out()
    new = body.new("refuse")
    assert new is not None
    configure = request.state["manager"].configure
    with refused_as_problems():
        done = await configure(request.organization_id, request.actor, new, activate=body.is_active)
    return json_response(*shown_switch(ConfigureResult, done))


async def test_connection(request: ApiRequest[TestRequest]) -> ConnectionTest:
    """POST …/provider/test: every check of a config or configuration, with what to do about it; nothing is saved."""
    body = await request.decoded(wrong_configuration(request))
    request.check_calls_out()
    with refused_as_problems():
        checks, webhook_url = await request.state["manager"].test(request.organization_id, body.target)
    passed = all(check.passed for check in checks if check.fatal)
    return ConnectionTest(passed, shown_checks(checks), webhook_url or UNSET)


async def repair(request: ApiRequest[RepairRequest]) -> ConnectionTest:
    """POST …/provider/repair: have what a config's test finds missing set at its provider, and test it again."""
    body = await request.decoded()
    request.check_calls_out()
    config = await named_config(request, body.config_id)
    checks = await repaired(request, config)
    passed = all(check.passed for check in checks if check.fatal)
    return ConnectionTest(passed, shown_checks(checks), config.callback_url)


async def repaired(request: AnyRequest, config: Config) -> list[Check]:
    """Every check of *config* after what they find missing was set at its provider, as far as that can be."""
    checks: list[Check] = await request.state["manager"].accounts.repair(config.provider, config.callback_url)
    async with request.connection() as connection:
        found = {check.name: check.passed for check in checks}
        await note(connection, request, request.organization_id, "repaired", {"checks": found}, config.id)
    return checks
