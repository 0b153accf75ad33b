"""The HTTP face of the manager: providers, the current one, configuration, fallbacks, the trail."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers import Check
from providers.base import config_fields

from .auth import Principal, client_address, organization_of
from .database import Database
from .edge import decode_body, int_of, limit_of, page_response
from .manager import Actor, InvalidConfiguration, NotFound, ProviderUnreachable, WhatsAppProviderManager
from .policy import FallbackPolicy
from .problems import Problem, json_response, not_found
from .storage import configs


class ConfigureRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/configure."""

    provider_type: str
    config_data: dict[str, Any]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    is_active: bool = True

    def __repr__(self) -> str:
        return f"ConfigureRequest(provider_type={self.provider_type!r})"


class FallbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/fallback: configs in the order they are tried after the active one, and the rules.

    A policy takes the place of the former one as a whole; None: that stays.
    """

    config_ids: Annotated[list[UUID], msgspec.Meta(max_length=20)]
    policy: FallbackPolicy | None = None


_configure = msgspec.json.Decoder(ConfigureRequest)
_fallback = msgspec.json.Decoder(FallbackRequest)


def _manager(request: Request[Any]) -> WhatsAppProviderManager:
    manager: WhatsAppProviderManager = request.state["manager"]
    return manager


def _actor(request: Request[Any], principal: Principal) -> Actor:
    return Actor(principal.name, client_address(request))


def _checks(checks: list[Check] | tuple[Check, ...]) -> list[dict[str, Any]]:
    return [
        {"name": check.name, "passed": check.passed}
        | ({"detail": check.detail} if check.detail else {})
        | ({"fix": check.fix} if check.fix and not check.passed else {})
        for check in checks
    ]


async def list_providers(request: Request[Any]) -> Response:
    """GET …/providers: every plug-in, with the fields of its configuration; failed ones with their reason."""
    await organization_of(request, "read")
    listed = []
    for entry in _manager(request).registry.entries():
        shown: dict[str, Any] = {"name": entry.name, "state": entry.state}
        if entry.reason:
            shown["reason"] = entry.reason
        if entry.info is not None:
            info = msgspec.to_builtins(entry.info)
            shown |= info | {"capabilities": sorted(info["capabilities"])}
            shown["fields"] = config_fields(_manager(request).registry.get(entry.name))
        listed.append(shown)
    return json_response({"providers": listed})


async def current(request: Request[Any]) -> Response:
    """GET …/provider/current: the active provider and how it is doing."""
    organization_id, _ = await organization_of(request, "read")
    route, status = await _manager(request).current(organization_id)
    if not route.order:
        return json_response({"provider": None, "status": "not_configured"})
    active, *fallbacks = route.order
    return json_response(
        {
            "provider": active.provider_type,
            "config_id": active.id,
            "name": active.name,
            "state": active.state,
            "sender": active.sender,
            "version": route.version,
            "status": status or "unknown",
            "fallback": [
                {"config_id": config.id, "provider": config.provider_type, "name": config.name} for config in fallbacks
            ],
            "config_data": _manager(request).masked(active.provider),
        }
    )


async def configure(request: Request[Any]) -> Response:
    """POST …/provider/configure: validate, test against the provider, save encrypted, set up, activate."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_body(request, _configure)
    try:
        config, version, checks = await _manager(request).configure(
            organization_id,
            _actor(request, principal),
            provider_type=asked.provider_type,
            name=asked.name or asked.provider_type,
            config_data=asked.config_data,
            activate=asked.is_active,
        )
    except InvalidConfiguration as error:
        raise Problem(
            400, "invalid_configuration", str(error), errors=error.errors, checks=_checks(list(error.checks))
        ) from None
    except ProviderUnreachable as error:
        raise Problem(
            502,
            "provider_unreachable",
            f"The provider did not answer the connection test, so nothing was saved: {error}. Try again.",
        ) from None
    return json_response(
        {
            "config_id": config.id,
            "provider": config.provider_type,
            "state": "active" if asked.is_active else "configured",
            "version": version,
            "webhook_url": config.callback_url,
            "sender": config.sender,
            "checks": _checks(checks),
        }
    )


async def get_fallback(request: Request[Any]) -> Response:
    """GET …/provider/fallback: the order after the active config, and the policy."""
    organization_id, _ = await organization_of(request, "read")
    route = await _manager(request).route(organization_id, fresh=True)
    order = [config.id for config in route.order[1:]]
    return json_response({"config_ids": order, "policy": route.policy, "version": route.version})


async def put_fallback(request: Request[Any]) -> Response:
    """PUT …/provider/fallback: set that order, and the policy where one is given."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_body(request, _fallback)
    if len(set(asked.config_ids)) != len(asked.config_ids):
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[("config_ids", "names a config twice")])
    try:
        version, order, policy = await _manager(request).set_fallbacks(
            organization_id, asked.config_ids, asked.policy, _actor(request, principal)
        )
    except NotFound:
        raise not_found() from None
    return json_response({"config_ids": order, "policy": policy, "version": version})


async def list_configs(request: Request[Any]) -> Response:
    """GET …/provider/configs: every config, its secrets as fingerprints."""
    organization_id, _ = await organization_of(request, "read")
    manager = _manager(request)
    return json_response(
        {
            "configs": [
                {
                    "config_id": config.id,
                    "provider": config.provider_type,
                    "name": config.name,
                    "state": config.state,
                    "sender": config.sender,
                    "config_data": manager.masked(config.provider),
                }
                for config in await manager.configs(organization_id)
            ]
        }
    )


async def audit(request: Request[Any]) -> Response:
    """GET …/audit: every change of a provider, newest first; `next` is the next page's `before`."""
    organization_id, _ = await organization_of(request, "admin")
    before = int_of(request, "before", 0) or None
    limit = limit_of(request)
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        rows = await configs.trail(connection, organization_id, before, limit + 1)
    shown = [dict(row) | {name: msgspec.Raw(row[name] or b"null") for name in ("before", "after")} for row in rows]
    return page_response("entries", shown, limit)
