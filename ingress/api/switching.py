"""Which config is active: switch, rollback, and the order of the fallbacks."""

from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import msgspec

from ..accounts.config import NewConfig
from ..switching.change import Requested, Switched
from ..switching.dry_run import DryRun
from ..switching.policy import FallbackPolicy
from ..validation import Reason
from ..web.bodies import OrganizationBody, Shown, invalid
from ..web.problems import Json, json_response
from . import AnyRequest, ApiRequest
from .providers import TestRequest, wrong_configuration
from .refusals import CheckShown, ConfigureResult, refused_as_problems, shown_checks, shown_switch

Version = Annotated[int, msgspec.Meta(ge=0)]


class SwitchRequest(TestRequest, frozen=True, kw_only=True):
    """The body of provider/switch. ``dry_run``: only what it would mean. ``force``: without testing it first."""

    expected_version: Version | None = None
    dry_run: bool = False
    force: bool = False
    reason: Reason | None = None


class RollbackRequest(OrganizationBody, frozen=True, kw_only=True):
    """The body of provider/rollback; an empty one will do."""

    expected_version: Version | None = None
    dry_run: bool = False
    force: bool = False
    reason: Reason | None = None


class FallbackRequest(OrganizationBody, frozen=True, kw_only=True):
    """The body of provider/fallback: configs in the order they are tried after the active one, and the rules.

    A policy takes the place of the former one as a whole; None: that stays.
    """

    config_ids: Annotated[list[UUID], msgspec.Meta(max_length=20)]
    policy: FallbackPolicy | None = None


class SwitchResult(ConfigureResult, frozen=True, kw_only=True):
    """``changed`` False: it was active before, or it is not yet."""

    changed: bool
    from_config_id: UUID | None


class DryRunShown(DryRun, frozen=True, kw_only=True):
    """What a switch would mean, with its checks as they are shown."""

    dry_run: Literal[True] = True
    checks: list[CheckShown]


SwitchAnswer: TypeAlias = Json[SwitchResult | DryRunShown]


class Fallbacks(Shown, frozen=True):
    config_ids: list[UUID]
    policy: FallbackPolicy
    version: int


async def switch(request: ApiRequest[SwitchRequest]) -> SwitchAnswer:
    """POST …/provider/switch: make another config the active one, without a message lost; or, dry, what that means."""
    body = await _decoded(request)
    # One that is stored was tried when it was saved; and to switch to it is never refused.
    if isinstance(target := body.target, NewConfig) or body.dry_run:
        request.check_calls_out()
    wanted = _requested(request, target, body)
    if body.dry_run:
        return await _dry_run(request, wanted)
    with refused_as_problems(can_force=True):
        done = await request.state["manager"].switch(wanted)
    return _shown(done)


async def _decoded(request: ApiRequest[SwitchRequest]) -> SwitchRequest:
    """The body. Raises `Problem` 422, with all that is wrong in it."""
    wrong = wrong_configuration(request)
    body = await request.decoded(wrong)
    if not body.is_active:
        more = wrong({"provider_type": body.provider_type, "config_data": body.config_data})
        raise invalid(("is_active", "must be true: provider/configure saves without activating"), *more)
    return body


async def rollback(request: ApiRequest[RollbackRequest]) -> SwitchAnswer:
    """POST …/provider/rollback: return to the config that was active before; a new version."""
    body = await request.decoded()
    if body.dry_run:
        request.check_calls_out()
    wanted = _requested(request, None, body)
    if body.dry_run:
        return await _dry_run(request, wanted)
    with refused_as_problems(can_force=True):
        done = await request.state["manager"].rollback(wanted)
    return _shown(done)


def _requested(
    request: AnyRequest, target: UUID | NewConfig | None, body: SwitchRequest | RollbackRequest
) -> Requested:
    return Requested(
        organization_id=request.organization_id,
        target=target,
        actor=request.actor,
        expected_version=body.expected_version,
        force=body.force,
        reason=body.reason,
    )


async def _dry_run(request: AnyRequest, wanted: Requested) -> SwitchAnswer:
    with refused_as_problems(can_force=True):
        found, checks = await request.state["manager"].dry_run(wanted)
    return json_response(DryRunShown(**msgspec.structs.asdict(found), checks=shown_checks(checks)))


def _shown(done: Switched) -> SwitchAnswer:
    return json_response(*shown_switch(SwitchResult, done, changed=done.changed, from_config_id=done.former_config_id))


async def get_fallback(request: ApiRequest) -> Fallbacks:
    """GET …/provider/fallback: the order after the active config, and the policy."""
    with refused_as_problems():
        now = await request.state["manager"].fallbacks(request.organization_id)
    return Fallbacks(now.config_ids, now.policy, now.version)


async def put_fallback(request: ApiRequest[FallbackRequest]) -> Fallbacks:
    """PUT …/provider/fallback: set that order, and the policy where one is given."""
    body = await request.decoded()
    if len(set(body.config_ids)) != len(body.config_ids):
        raise invalid(("config_ids", "must name each config once"))
    with refused_as_problems():
        now = await request.state["manager"].set_fallbacks(
            request.organization_id, body.config_ids, body.policy, request.actor
        )
    return Fallbacks(now.config_ids, now.policy, now.version)
