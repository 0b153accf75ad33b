"""Which config is active: switch, rollback, and the order of the fallbacks."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..accounts.accounts import (
    ChangeRefused,
    NewConfig,
    NotFound,
)
from ..switching.policy import FallbackPolicy
from ..validation import Reason
from ..web.auth import Principal, organization_of
from ..web.bodies import decode_kept
from ..web.limits import check_calls_out
from ..web.problems import Problem, json_response, not_found
from .providers import TestRequest
from .refusals import actor_of, manager_of, refusal, shown_checks, shown_config, waits

Version = Annotated[int, msgspec.Meta(ge=0)]


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


class FallbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of provider/fallback: configs in the order they are tried after the active one, and the rules.

    A policy takes the place of the former one as a whole; None: that stays.
    """

    config_ids: Annotated[list[UUID], msgspec.Meta(max_length=20)]
    policy: FallbackPolicy | None = None


_fallback = msgspec.json.Decoder(FallbackRequest)
_switch = msgspec.json.Decoder(SwitchRequest)
_rollback = msgspec.json.Decoder(RollbackRequest)


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
    manager = manager_of(request)
    try:
        if asked.dry_run:
            outlook = await manager.forecast(
                organization_id, target, expected_version=asked.expected_version, force=asked.force
            )
            told = {name: getattr(outlook, name) for name in outlook.__struct_fields__}
            return json_response({"dry_run": True, **told, "checks": shown_checks(outlook.checks)})
        done = await manager.switch(
            organization_id,
            target,
            actor_of(request, principal),
            kind=kind,
            expected_version=asked.expected_version,
            force=asked.force,
            reason=asked.reason,
        )
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise refusal(error, can_force=True) from None
    return json_response(
        shown_config(done.config, done.version, "active")
        | {"changed": done.changed, "from_config_id": done.former_config_id}
        | {"fallback_config_ids": done.fallback_config_ids, "checks": shown_checks(done.checks)}
        | waits(done),
        202 if done.waits_until else 200,
    )


async def get_fallback(request: Request[Any]) -> Response:
    """GET …/provider/fallback: the order after the active config, and the policy."""
    organization_id, _ = await organization_of(request, "read")
    try:
        version, order, policy = await manager_of(request).fallbacks(organization_id)
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
        version, order, policy = await manager_of(request).set_fallbacks(
            organization_id, asked.config_ids, asked.policy, actor_of(request, principal)
        )
    except NotFound:
        raise not_found() from None
    return json_response({"config_ids": order, "policy": policy, "version": version})
