"""The configs of an organization, and the templates of their accounts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from providers import TemplatePage

from ..accounts.config import Config
from ..health.status import HealthShown, health_shown
from ..identifiers import parse_id
from ..storage.statements.health import ConfigHealth
from ..switching.config_store import ConfigEdit
from ..validation import ConfigData, Name
from ..web.bodies import OrganizationBody, RequestQuery, Shown
from ..web.limits import LOOK_WEIGHT
from ..web.problems import not_configured, not_found
from . import AnyRequest, ApiRequest
from .refusals import ConfigResult, refused_as_problems, shown_config
from .status import health_of


class EditRequest(OrganizationBody, frozen=True, kw_only=True):
    """The body of PATCH provider/configs/{config_id}: what changes. null takes a field out, absent ones stay.

    ``allow_second``: it may become another account, which has a config.
    """

    name: Name | None = None
    config_data: ConfigData = msgspec.field(default_factory=dict)
    allow_second: bool = False


class EditResult(ConfigResult, frozen=True, kw_only=True):
    name: str


class ConfigEntry(Shown, frozen=True, kw_only=True):
    """``webhook_at``, ``received_at``, ``sent_at``: the last webhook, message of a person, message that was taken.

    ``config_data``: the secrets as fingerprints.
    """

    config_id: UUID
    provider: str
    name: str
    state: str
    sender: str | None
    health: HealthShown | None
    last_activity: datetime | None
    webhook_at: datetime | None
    received_at: datetime | None
    sent_at: datetime | None
    config_data: dict[str, Any]


class Configs(Shown, frozen=True):
    configs: list[ConfigEntry]


class ConfigQuery(RequestQuery, frozen=True):
    """A config of the organization; none: the active one."""

    config_id: str | None = None  # one that is no id names nothing: 404, as what is somebody else's


class TemplatesQuery(ConfigQuery, frozen=True):
    after: Annotated[str, msgspec.Meta(max_length=512)] | None = None  # far longer than any provider's


async def edit_config(request: ApiRequest[EditRequest]) -> EditResult:
    """PATCH …/provider/configs/{config_id}: change it; what comes out is validated and tested before it is saved."""
    config = await _config(request, request.id_in_path("config_id"))
    change = await _change(request, config)
    with refused_as_problems():
        edited = await request.state["manager"].edit(request.organization_id, config.id, request.actor, change)
    message = "The configuration of {} is changed."
    return shown_config(EditResult, edited, edited.config.state, message, name=edited.config.name)


async def _change(request: ApiRequest[EditRequest], config: Config) -> ConfigEdit:
    """What is asked for. Raises `Problem` 422."""
    accounts = request.state["manager"].accounts
    body = await request.decoded(lambda sent: accounts.wrong_changes(config, sent.get("config_data")))
    if body.config_data:
        request.check_calls_out()
    return ConfigEdit(body.name, body.config_data, body.allow_second)


async def delete_config(request: ApiRequest) -> None:
    """DELETE …/provider/configs/{config_id}: it, its credentials and its webhook address; 409 for the active one."""
    config_id = request.id_in_path("config_id")
    with refused_as_problems():
        await request.state["manager"].remove(request.organization_id, config_id, request.actor)


async def list_configs(request: ApiRequest) -> Configs:
    """GET …/provider/configs: every config, its secrets as fingerprints."""
    manager, health = request.state["manager"], await health_of(request)
    return Configs(
        [
            ConfigEntry(
                **shown_fields(config, health),
                **_last_times(health.get(config.id)),
                config_data=manager.masked(config.provider),
            )
            for config in await manager.configs(request.organization_id)
        ]
    )


def shown_fields(config: Config, health: Mapping[UUID, ConfigHealth]) -> dict[str, Any]:
    """What is shown of every config."""
    known = health.get(config.id)
    return {
        "config_id": config.id,
        "provider": config.provider_type,
        "name": config.name,
        "state": config.state,
        "sender": config.sender,
        "health": health_shown(known, with_time=True) if known else None,
        "last_activity": known.last_activity if known else None,
    }


def _last_times(known: ConfigHealth | None) -> dict[str, Any]:
    return {name: getattr(known, name, None) for name in ("webhook_at", "received_at", "sent_at")}


async def chosen_config(request: AnyRequest) -> Config:
    """The config in the query (`ConfigQuery`), or the active one. Raises `Problem`."""
    text = request.query.config_id
    config_id = parse_id(text) if text else None
    if text and config_id is None:
        raise not_found()
    return await named_config(request, config_id)


async def named_config(request: AnyRequest, config_id: UUID | None) -> Config:
    """That config of the organization, None being the active one. Raises `Problem`."""
    if config_id is not None:
        config = await _config(request, config_id)
    elif (active := await request.state["manager"].provider_for(request.organization_id)) is not None:
        config = active
    else:
        raise not_configured()
    with refused_as_problems():
        return config.usable()


async def _config(request: AnyRequest, config_id: UUID) -> Config:
    config = await request.state["manager"].config(request.organization_id, config_id)
    if config is None:
        raise not_found()
    return config


async def list_templates(request: ApiRequest[None, TemplatesQuery]) -> TemplatePage:
    """GET …/templates?after=&config_id=: the account's message templates; `next` is the next page's `after`."""
    request.check_calls_out(LOOK_WEIGHT)
    return await templates_of(request, await chosen_config(request), request.query.after)


async def templates_of(request: AnyRequest, config: Config, after: str | None) -> TemplatePage:
    """A page of the templates of that config's account."""
    flow = config.provider.list_templates(after)
    return await request.state["transfers"].call(request.organization_id, flow, config.provider)
