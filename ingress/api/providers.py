"""Providers: every plug-in, the one in use, configuring one and testing it."""

from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers.base import config_fields

from .. import log
from ..accounts.accounts import (
    ChangeRefused,
    InvalidConfiguration,
    NewConfig,
    NotFound,
)
from ..accounts.unusable import MissingPlugin
from ..switching.manager import PluginsUnreadable
from ..validation import ConfigData, Name, ProviderType
from ..web.auth import authorize_platform, organization_of
from ..web.bodies import decode_kept
from ..web.limits import check_calls_out
from ..web.problems import Problem, json_response, not_found, unavailable
from .refusals import actor_of, manager_of, refusal, shown_checks, shown_config, waits
from .status import health_of


class ConfigureRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/configure."""

    provider_type: ProviderType
    config_data: ConfigData
    name: Name | None = None
    is_active: bool = True

    def __repr__(self) -> str:
        return f"ConfigureRequest(provider_type={self.provider_type!r})"


class TestRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/test: a config by its id, or a configuration as provider/configure takes it."""

    __test__ = False  # not a class of tests

    config_id: UUID | None = None
    provider_type: ProviderType | None = None
    config_data: ConfigData | None = None
    name: Name | None = None
    is_active: bool = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(config_id={self.config_id}, provider_type={self.provider_type!r})"

    @property
    def target(self) -> UUID | NewConfig:
        """Raises `Problem` where it is neither, or both."""
        new = self.provider_type is not None and self.config_data is not None
        if self.config_id is not None and self.provider_type is None and self.config_data is None:
            return self.config_id
        if self.config_id is None and new and self.is_active:
            assert self.provider_type is not None
            assert self.config_data is not None
            return NewConfig(
                provider_type=self.provider_type,
                name=self.name or self.provider_type,
                config_data=self.config_data,
            )
        detail = "either config_id, or provider_type and config_data"
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[("config_id", detail)])


_configure = msgspec.json.Decoder(ConfigureRequest)
_test = msgspec.json.Decoder(TestRequest)


async def list_providers(request: Request[Any]) -> Response:
    """GET …/providers: every plug-in, with the fields of its configuration; failed ones with their reason."""
    await organization_of(request, "read")
    listed = []
    for entry in manager_of(request).list_providers():
        shown: dict[str, Any] = {"name": entry.name, "state": entry.state}
        if entry.reason:
            shown["reason"] = entry.reason
        if entry.info is not None:
            info = msgspec.to_builtins(entry.info)
            shown |= info | {"capabilities": sorted(info["capabilities"])}
            shown["fields"] = config_fields(manager_of(request).registry.get(entry.name))
        listed.append(shown)
    return json_response({"providers": listed})


async def reload_providers(request: Request[Any]) -> Response:
    """POST …/providers/reload (platform key): plug-ins that were installed or uninstalled, in every process."""
    principal = await authorize_platform(request)
    try:
        found = await manager_of(request).reload_plugins()
    except PluginsUnreadable as error:
        raise unavailable(str(error)) from None
    names = {what: sorted(each) for what, each in msgspec.structs.asdict(found).items()}
    log.wide("plugins", outcome="reloaded", **names, actor=principal.name)
    return json_response(found)


async def current(request: Request[Any]) -> Response:
    """GET …/provider/current: the active provider and how it is doing."""
    organization_id, _ = await organization_of(request, "read")
    route, status = await manager_of(request).current(organization_id)
    if not route.order:
        return json_response({"provider": None, "status": "not_configured"})
    active, *fallbacks = route.order
    health = await health_of(request, organization_id)
    return json_response(
        {
            "provider": active.provider_type,
            "config_id": active.id,
            "name": active.name,
            "state": active.state,
            "sender": active.sender,
            "version": route.version,
            "status": "error" if active.is_damaged else status or "unknown",
            "health": health.get(active.id),
            "fallback": [
                {"config_id": config.id, "provider": config.provider_type, "name": config.name} for config in fallbacks
            ],
            "config_data": manager_of(request).masked(active.provider),
        }
        | ({"detail": active.provider.why} if isinstance(active.provider, MissingPlugin) else {})
    )


async def configure(request: Request[Any]) -> Response:
    """POST …/provider/configure: validate, test against the provider, save encrypted, set up, activate."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _configure)
    check_calls_out(request, organization_id)
    new = NewConfig(
        provider_type=asked.provider_type, name=asked.name or asked.provider_type, config_data=asked.config_data
    )
    try:
        done = await manager_of(request).configure(
            organization_id, actor_of(request, principal), new, activate=asked.is_active
        )
    except InvalidConfiguration as error:
        raise Problem(
            400, "invalid_configuration", str(error), errors=error.errors, checks=shown_checks(list(error.checks))
        ) from None
    except ChangeRefused as error:
        raise refusal(error) from None
    state = "active" if done.changed else "configured"
    shown = shown_config(done.config, done.version, state) | {"checks": shown_checks(done.checks)}
    return json_response(shown | waits(done), 202 if done.waits_until else 200)


async def test_connection(request: Request[Any]) -> Response:
    """POST …/provider/test: every check of a config or configuration, with what to do about it; nothing is saved."""
    organization_id, _ = await organization_of(request, "configure")
    asked = await decode_kept(request, _test)
    check_calls_out(request, organization_id)
    try:
        checks, webhook_url = await manager_of(request).test(organization_id, asked.target)
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise refusal(error) from None
    passed = all(check.passed for check in checks if check.fatal)
    told = {"webhook_url": webhook_url} if webhook_url else {}
    return json_response({"passed": passed, "checks": shown_checks(checks), **told})
