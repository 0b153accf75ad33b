"""The configs of an organization, and the templates of their accounts."""

from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers import SendError

from ..accounts.accounts import (
    ChangeRefused,
    Config,
    InvalidConfiguration,
    NotFound,
)
from ..calls.transfers import Busy, Transfers
from ..identifiers import parse_id
from ..validation import ConfigData, Name
from ..web.auth import organization_of
from ..web.bodies import decode_kept
from ..web.limits import LOOK_WEIGHT, check_calls_out
from ..web.problems import Problem, call_problem, json_response, not_found, unavailable
from .refusals import actor_of, manager_of, refusal, shown_checks, shown_config
from .status import health_of


class EditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of PATCH provider/configs/{config_id}: what changes. null takes a field out, absent ones stay."""

    name: Name | None = None
    config_data: ConfigData = {}

    def __repr__(self) -> str:
        return f"EditRequest(fields={sorted(self.config_data)})"


# Far longer than any provider's.
MAX_CURSOR = 512
_edit = msgspec.json.Decoder(EditRequest)


async def edit_config(request: Request[Any]) -> Response:
    """PATCH …/provider/configs/{config_id}: change it; what comes out is validated and tested before it is saved."""
    organization_id, principal = await organization_of(request, "configure")
    config_id = parse_id(request.path_params["config_id"])
    if config_id is None or await manager_of(request).config(organization_id, config_id) is None:
        raise not_found()
    asked = await decode_kept(request, _edit)
    if asked.config_data:
        check_calls_out(request, organization_id)
    try:
        config, version, checks = await manager_of(request).edit(
            organization_id, config_id, actor_of(request, principal), name=asked.name, changes=asked.config_data
        )
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise refusal(error) from None
    return json_response(
        shown_config(config, version, config.state) | {"name": config.name, "checks": shown_checks(checks)}
    )


async def delete_config(request: Request[Any]) -> Response:
    """DELETE …/provider/configs/{config_id}: it, its credentials and its webhook address; 409 for the active one."""
    organization_id, principal = await organization_of(request, "configure")
    config_id = parse_id(request.path_params["config_id"])
    if config_id is None:
        raise not_found()
    try:
        await manager_of(request).remove(organization_id, config_id, actor_of(request, principal))
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise refusal(error) from None
    return Response(status_code=204)


async def list_configs(request: Request[Any]) -> Response:
    """GET …/provider/configs: every config, its secrets as fingerprints."""
    organization_id, _ = await organization_of(request, "read")
    manager, health = manager_of(request), await health_of(request, organization_id)
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
    manager = manager_of(request)
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
        raise refusal(error) from None


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
