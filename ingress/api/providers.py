"""The HTTP face of the manager: providers, the current one, configuration, fallbacks, the trail."""

from typing import Annotated, Any
from uuid import UUID

import asyncpg
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers import Check, SendError
from providers.base import config_fields

from .. import log
from ..accounts.accounts import (
    ChangeRefused,
    Config,
    InUse,
    InvalidConfiguration,
    NewConfig,
    NotFound,
    ProviderUnreachable,
    SecretsNeeded,
    TestFailed,
    WebhooksUnread,
)
from ..accounts.ownership import AccountInUse
from ..accounts.unusable import MissingPlugin
from ..audit import Actor, verify
from ..calls.transfers import Busy, Transfers
from ..identifiers import parse_id
from ..storage.database import Database
from ..storage.statements import audit
from ..switching.change import NoFormerConfig, NotReceiving, Switched, TooSlow, VersionConflict
from ..switching.manager import PluginsUnreadable, WhatsAppProviderManager
from ..switching.policy import FallbackPolicy
from ..validation import ConfigData, Name, ProviderType, Reason
from ..web.auth import Principal, authorize_platform, client_address, organization_of
from ..web.limits import LOOK_WEIGHT, check_calls_out
from ..web.middleware import decode_kept, int_of, limit_of, page_of
from ..web.problems import Problem, call_problem, json_response, not_found, unavailable
from ..web.waiting import json_page
from .status import health_of

Version = Annotated[int, msgspec.Meta(ge=0)]


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


class SwitchRequest(TestRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/switch. ``dry_run``: tell what it would mean. ``force``: without testing it first."""

    expected_version: Version | None = None
    dry_run: bool = False
    force: bool = False
    reason: Reason | None = None

    def __repr__(self) -> str:
        return super().__repr__()


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/rollback; an empty one will do."""

    expected_version: Version | None = None
    dry_run: bool = False
    force: bool = False
    reason: Reason | None = None


class EditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of PATCH provider/configs/{config_id}: what changes. null takes a field out, absent ones stay."""

    name: Name | None = None
    config_data: ConfigData = {}

    def __repr__(self) -> str:
        return f"EditRequest(fields={sorted(self.config_data)})"


class FallbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/fallback: configs in the order they are tried after the active one, and the rules.

    A policy takes the place of the former one as a whole; None: that stays.
    """

    config_ids: Annotated[list[UUID], msgspec.Meta(max_length=20)]
    policy: FallbackPolicy | None = None


# Far longer than any provider's.
MAX_CURSOR = 512

_configure = msgspec.json.Decoder(ConfigureRequest)
_fallback = msgspec.json.Decoder(FallbackRequest)
_test = msgspec.json.Decoder(TestRequest)
_switch = msgspec.json.Decoder(SwitchRequest)
_rollback = msgspec.json.Decoder(RollbackRequest)
_edit = msgspec.json.Decoder(EditRequest)


def _manager(request: Request[Any]) -> WhatsAppProviderManager:
    manager: WhatsAppProviderManager = request.state["manager"]
    return manager


def _actor(request: Request[Any], principal: Principal) -> Actor:
    return Actor(principal.name, client_address(request))


def _checks(checks: list[Check] | tuple[Check, ...]) -> list[dict[str, Any]]:
    return [
        {"name": check.name, "passed": check.passed}
        | ({} if check.checkable else {"checkable": False})
        | ({"detail": check.detail} if check.detail else {})
        | ({"fix": check.fix} if check.fix and not (check.passed and check.checkable) else {})
        for check in checks
    ]


async def list_providers(request: Request[Any]) -> Response:
    """GET …/providers: every plug-in, with the fields of its configuration; failed ones with their reason."""
    await organization_of(request, "read")
    listed = []
    for entry in _manager(request).list_providers():
        shown: dict[str, Any] = {"name": entry.name, "state": entry.state}
        if entry.reason:
            shown["reason"] = entry.reason
        if entry.info is not None:
            info = msgspec.to_builtins(entry.info)
            shown |= info | {"capabilities": sorted(info["capabilities"])}
            shown["fields"] = config_fields(_manager(request).registry.get(entry.name))
        listed.append(shown)
    return json_response({"providers": listed})


async def reload_providers(request: Request[Any]) -> Response:
    """POST …/providers/reload (platform key): plug-ins that were installed or uninstalled, in every process."""
    principal = await authorize_platform(request)
    try:
        found = await _manager(request).reload_plugins()
    except PluginsUnreadable as error:
        raise unavailable(str(error)) from None
    names = {what: sorted(each) for what, each in msgspec.structs.asdict(found).items()}
    log.wide("plugins", outcome="reloaded", **names, actor=principal.name)
    return json_response(found)


async def current(request: Request[Any]) -> Response:
    """GET …/provider/current: the active provider and how it is doing."""
    organization_id, _ = await organization_of(request, "read")
    route, status = await _manager(request).current(organization_id)
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
            "config_data": _manager(request).masked(active.provider),
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
        done = await _manager(request).configure(
            organization_id, _actor(request, principal), new, activate=asked.is_active
        )
    except InvalidConfiguration as error:
        raise Problem(
            400, "invalid_configuration", str(error), errors=error.errors, checks=_checks(list(error.checks))
        ) from None
    except ChangeRefused as error:
        raise _refusal(error) from None
    state = "active" if done.changed else "configured"
    shown = _shown(done.config, done.version, state) | {"checks": _checks(done.checks)}
    return json_response(shown | _waits(done), 202 if done.waits_until else 200)


def _waits(done: Switched) -> dict[str, Any]:
    """Of a switch that waits: until when, and for what."""
    if done.waits_until is None:
        return {}
    return {"state": "switching", "waits_for": "pairing", "waits_until": done.waits_until}


def _shown(config: Config, version: int, state: str) -> dict[str, Any]:
    return {
        "config_id": config.id,
        "provider": config.provider_type,
        "state": state,
        "version": version,
        "webhook_url": config.callback_url,
        "sender": config.sender,
    }


def _kept(error: ChangeRefused) -> str:
    if error.saved_as is None:
        return "nothing was changed"
    return f"what was active stays so, and the configuration is saved as {error.saved_as}"


def _saved(error: ChangeRefused) -> dict[str, Any]:
    """The id of the config that is saved all the same."""
    return {"config_id": error.saved_as} if error.saved_as else {}


def _refusal(error: ChangeRefused, *, can_force: bool = False) -> Problem:
    """What failed, what is in force and saved, and what to do; *can_force*: the request has `force`."""
    kept, saved = _kept(error), _saved(error)
    again = "Try again; with force it is not tested." if can_force else "Try again."
    match error:
        case VersionConflict():
            saved |= {"version": error.version, "active_config_id": error.active_config_id}
            return Problem(409, error.code, f"{kept[0].upper()}{kept[1:]}. {error}", **saved)
        case NoFormerConfig() | InUse() | WebhooksUnread():
            return Problem(409, error.code, str(error))
        case TestFailed():
            detail = f"The connection test failed, so {kept}. {error}"
            return Problem(422, error.code, detail, checks=_checks(list(error.checks)))
        case NotReceiving():
            detail = f"What people write would not arrive here, so {kept}: {error}"
            return Problem(422, error.code, detail, checks=_checks(error.checks), **saved)
        case SecretsNeeded():
            return Problem(422, error.code, f"Nothing was changed: {error}.", errors=error.errors)
        case AccountInUse():
            detail = f"{kept[0].upper()}{kept[1:]}. {error}"
            return Problem(409, error.code, detail, checks=_checks(error.checks), **saved)
        case InvalidConfiguration():
            return Problem(400, error.code, str(error), errors=error.errors)
        case ProviderUnreachable():
            detail = f"The provider did not answer the connection test, so {kept}: {error}."
            hint = again if error.timed_out else "Try again."
            return Problem(504 if error.timed_out else 502, error.code, f"{detail} {hint}", **saved)
        case TooSlow():
            detail = f"The provider is too slow, so {kept}: {error}."
            return Problem(504, error.code, f"{detail} {again}", **saved)
    return Problem(409, error.code, str(error))


async def switch(request: Request[Any]) -> Response:
    """POST …/provider/switch: make another config the active one, without a message lost; or, dry, what that means."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _switch)
    # One that is stored was tried when it was saved; and to switch to it is never refused.
    if isinstance(target := asked.target, NewConfig) or asked.dry_run:
        check_calls_out(request, organization_id)
    return await _switched(request, principal, organization_id, target, asked, "switch")


async def rollback(request: Request[Any]) -> Response:
    """POST …/provider/rollback: return to the config that was active before; a new version."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _rollback)
    if asked.dry_run:
        check_calls_out(request, organization_id)
    return await _switched(request, principal, organization_id, None, asked, "rollback")


async def _switched(
    request: Request[Any],
    principal: Principal,
    organization_id: UUID,
    target: UUID | NewConfig | None,
    asked: SwitchRequest | RollbackRequest,
    kind: str,
) -> Response:
    manager = _manager(request)
    try:
        if asked.dry_run:
            outlook = await manager.forecast(
                organization_id, target, expected_version=asked.expected_version, force=asked.force
            )
            told = {name: getattr(outlook, name) for name in outlook.__struct_fields__}
            return json_response({"dry_run": True, **told, "checks": _checks(outlook.checks)})
        done = await manager.switch(
            organization_id,
            target,
            _actor(request, principal),
            kind=kind,
            expected_version=asked.expected_version,
            force=asked.force,
            reason=asked.reason,
        )
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise _refusal(error, can_force=True) from None
    return json_response(
        _shown(done.config, done.version, "active")
        | {"changed": done.changed, "from_config_id": done.former_config_id}
        | {"fallback_config_ids": done.fallback_config_ids, "checks": _checks(done.checks)}
        | _waits(done),
        202 if done.waits_until else 200,
    )


async def test_connection(request: Request[Any]) -> Response:
    """POST …/provider/test: every check of a config or configuration, with what to do about it; nothing is saved."""
    organization_id, _ = await organization_of(request, "configure")
    asked = await decode_kept(request, _test)
    check_calls_out(request, organization_id)
    try:
        checks, webhook_url = await _manager(request).test(organization_id, asked.target)
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise _refusal(error) from None
    passed = all(check.passed for check in checks if check.fatal)
    told = {"webhook_url": webhook_url} if webhook_url else {}
    return json_response({"passed": passed, "checks": _checks(checks), **told})


async def edit_config(request: Request[Any]) -> Response:
    """PATCH …/provider/configs/{config_id}: change it; what comes out is validated and tested before it is saved."""
    organization_id, principal = await organization_of(request, "configure")
    config_id = parse_id(request.path_params["config_id"])
    if config_id is None or await _manager(request).config(organization_id, config_id) is None:
        raise not_found()
    asked = await decode_kept(request, _edit)
    if asked.config_data:
        check_calls_out(request, organization_id)
    try:
        config, version, checks = await _manager(request).edit(
            organization_id, config_id, _actor(request, principal), name=asked.name, changes=asked.config_data
        )
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise _refusal(error) from None
    return json_response(_shown(config, version, config.state) | {"name": config.name, "checks": _checks(checks)})


async def delete_config(request: Request[Any]) -> Response:
    """DELETE …/provider/configs/{config_id}: it, its credentials and its webhook address; 409 for the active one."""
    organization_id, principal = await organization_of(request, "configure")
    config_id = parse_id(request.path_params["config_id"])
    if config_id is None:
        raise not_found()
    try:
        await _manager(request).remove(organization_id, config_id, _actor(request, principal))
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise _refusal(error) from None
    return Response(status_code=204)


async def get_fallback(request: Request[Any]) -> Response:
    """GET …/provider/fallback: the order after the active config, and the policy."""
    organization_id, _ = await organization_of(request, "read")
    try:
        version, order, policy = await _manager(request).fallbacks(organization_id)
    except NotFound:
        raise not_found() from None
    return json_response({"config_ids": order, "policy": policy, "version": version})


async def put_fallback(request: Request[Any]) -> Response:
    """PUT …/provider/fallback: set that order, and the policy where one is given."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _fallback)
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
    manager, health = _manager(request), await health_of(request, organization_id)
    return json_response(
        {
            "configs": [
                {
                    "config_id": config.id,
                    "provider": config.provider_type,
                    "name": config.name,
                    "state": config.state,
                    "sender": config.sender,
                    "health": health.get(config.id),
                    "config_data": manager.masked(config.provider),
                }
                for config in await manager.configs(organization_id)
            ]
        }
    )


async def chosen_config(request: Request[Any], organization_id: UUID) -> Config:
    """The config in the query, or the active one. Raises `Problem`."""
    text = request.query_params.get("config_id")
    config_id = parse_id(text) if text else None
    if text and config_id is None:
        raise not_found()
    return await named_config(request, organization_id, config_id)


async def named_config(request: Request[Any], organization_id: UUID, config_id: UUID | None) -> Config:
    """That config of the organization, None being the active one. Raises `Problem`."""
    manager = _manager(request)
    if config_id is not None:
        config = await manager.config(organization_id, config_id)
        if config is None:
            raise not_found()
    else:
        config = await manager.provider_for(organization_id)
        if config is None:
            raise Problem(409, "provider_not_configured", "The organization has no provider: configure one first.")
    try:
        return config.usable()
    except InvalidConfiguration as error:
        raise _refusal(error) from None


async def list_templates(request: Request[Any]) -> Response:
    """GET …/templates?after=&config_id=: the account's message templates; `next` is the next page's `after`."""
    organization_id, _ = await organization_of(request, "read")
    after = request.query_params.get("after") or None
    if after is not None and len(after) > MAX_CURSOR:
        raise Problem(
            422, "invalid_request", "A query parameter is not valid.", errors=[("after", "is no `next` of a page")]
        )
    check_calls_out(request, organization_id, LOOK_WEIGHT)
    config = await chosen_config(request, organization_id)
    transfers: Transfers = request.state["transfers"]
    try:
        with transfers.room(organization_id):
            page = await transfers.run(config.provider.list_templates(after))
    except Busy:
        raise unavailable("Too many calls of the organization are under way.") from None
    except SendError as error:
        raise call_problem(error) from error
    return json_response(page)


async def list_audit(request: Request[Any]) -> Response:
    """GET …/audit: every change of a provider, newest first; `next` is the next page's `before`."""
    organization_id, _ = await organization_of(request, "admin")
    before = int_of(request, "before", 0) or None
    limit = limit_of(request)
    database: Database = request.state["database"]

    async def read() -> object:
        async with database.organization(organization_id) as connection:
            rows = await audit.trail(connection, organization_id, before, limit + 1)
        more = bool(rows) and rows[-1]["followed"]
        return page_of("entries", [_entry(row) for row in rows], limit, more=more)

    return json_page(request, organization_id, read)


def _entry(row: asyncpg.Record) -> dict[str, Any]:
    plain = {name: row[name] for name in ("id", "at", "action", "actor", "address", "config_id", "version", "reason")}
    as_they_are = {name: msgspec.Raw(row[name] or b"null") for name in ("before", "after")}
    return {**plain, **as_they_are, "hash": row["hash"].hex()}


async def verify_audit(request: Request[Any]) -> Response:
    """GET …/audit/verify: whether nobody changed the trail. ?entries=&hash= are an end that was noted before."""
    organization_id, _ = await organization_of(request, "admin")
    noted = (int_of(request, "entries", 0), request.query_params.get("hash", "").lower())
    database, vault = request.state["database"], request.state["vault"]
    verdict = await verify(database, vault, organization_id, noted if all(noted) else None)
    return json_response(
        {"intact": verdict.broken is None, "entries": verdict.entries, "hash": verdict.hash}
        | ({"first_broken": verdict.broken, "reason": verdict.reason} if verdict.broken is not None else {})
    )
