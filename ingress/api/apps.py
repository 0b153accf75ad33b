"""Apps of providers that many organizations share: POST, GET, PATCH and DELETE /apps, for the platform.

An app is kept as a config of no organization: it verifies and reads webhooks, and has no account. Each item of what
comes in at its address goes to the organization whose account it names.
"""

from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import UnknownProvider, WhatsAppProvider
from providers.base import config_fields

from .. import log
from ..accounts.config import Config, InvalidConfiguration, NewConfig, WebhooksUnread
from ..identifiers import PLATFORM_ID, parse_id
from ..storage.statements import apps, unread
from ..storage.vault import VaultError, token_hash
from ..switching.manager import WhatsAppProviderManager
from ..validation import ConfigData, Name, ProviderType
from ..web.bodies import RequestBody, Shown
from ..web.problems import Problem, not_found
from . import ApiRequest


class NewApp(RequestBody, frozen=True, kw_only=True):
    """The body of POST /apps. ``config_data``: the provider's fields that are of the app, and not of one account."""

    provider_type: ProviderType
    name: Name
    config_data: ConfigData


class EditApp(RequestBody, frozen=True, kw_only=True):
    """The body of PATCH /apps/{app_id}: the fields that change. null takes one out, absent ones stay."""

    config_data: ConfigData


class AppShown(Shown, frozen=True, kw_only=True):
    """``config_data``: its fields, the secrets as fingerprints."""

    id: UUID
    provider: str
    name: str
    webhook_url: str | None
    state: str | UnsetType = UNSET
    config_data: dict[str, Any] | UnsetType = UNSET


class Apps(Shown, frozen=True):
    apps: list[AppShown]


def _validated(
    manager: WhatsAppProviderManager, provider_type: str, given: dict[str, Any], former: dict[str, Any]
) -> tuple[dict[str, Any], WhatsAppProvider]:
    """What is stored of an app, *given* in the place of what it was, and the provider it makes. Raises `Problem`."""
    try:
        kind = manager.registry.get(provider_type)
        if not kind.no_account:
            raise InvalidConfiguration("the provider has no apps", [("provider_type", "its accounts share no app")])
        known = {field.name for field in config_fields(kind) if field.app}
        if unknown := sorted(set(given) - known):
            errors = [(f"config_data.{name}", "is not a field of an app") for name in unknown]
            raise InvalidConfiguration("only the fields of an app may be given", errors)
        data = {**kind.no_account, **former, **given}
        data = {name: value for name, value in data.items() if value is not None}
        return data, manager.accounts.validate(provider_type, data)
    except UnknownProvider as error:
        raise Problem(
            422, "invalid_configuration", str(error), errors=[("provider_type", "is not a known provider")]
        ) from None
    except InvalidConfiguration as error:
        raise Problem(422, error.code, str(error), errors=error.errors) from None


async def create_app(request: ApiRequest[NewApp]) -> AppShown:
    """POST /apps (platform key): an address for the webhooks of an app that several organizations share."""
    manager, database = request.state["manager"], request.state["database"]
    body = await request.decoded()
    data, provider = _validated(manager, body.provider_type, body.config_data, {})
    new = NewConfig(provider_type=body.provider_type, name=body.name, config_data=data)
    app, token = manager.accounts.made(PLATFORM_ID, new, provider, None)
    async with database.worker() as connection:
        columns = apps.NewAppColumns(
            id=app.id,
            provider_type=app.provider_type,
            name=app.name,
            config_data=manager.accounts.seal(app, "config_data", msgspec.json.encode(data)),
            signing_keys=manager.ownership.signing_keys(provider),
            webhook_token_hash=token_hash(token),
            webhook_token=manager.accounts.seal(app, "webhook_token", token.encode()),
        )
        await apps.add(connection, columns)
    log.wide("app", outcome="created", app=app.id, provider=app.provider_type, actor=request.principal.name)
    return AppShown(id=app.id, provider=app.provider_type, name=app.name, webhook_url=app.callback_url)


async def list_apps(request: ApiRequest) -> Apps:
    """GET /apps (platform key): every app with its address, its secrets as fingerprints."""
    manager, database = request.state["manager"], request.state["database"]
    async with database.worker() as connection:
        rows = await apps.every_one(connection)
    return Apps([_shown(manager, manager.accounts.known(row)) for row in rows])


def _shown(manager: WhatsAppProviderManager, app: Config) -> AppShown:
    of_app, masked = _names(app.provider), manager.masked(app.provider)
    return AppShown(
        id=app.id,
        provider=app.provider_type,
        name=app.name,
        webhook_url=app.callback_url,
        state=app.state,
        config_data={name: value for name, value in masked.items() if name in of_app},
    )


def _names(provider: WhatsAppProvider) -> set[str]:
    return {field.name for field in config_fields(type(provider)) if field.app}


async def edit_app(request: ApiRequest[EditApp]) -> None:
    """PATCH /apps/{app_id} (platform key): change its fields, as while its secret is renewed; its address stays."""
    manager, database = request.state["manager"], request.state["database"]
    body = await request.decoded()
    app_id = parse_id(request.path_params["app_id"])
    async with database.worker() as connection, connection.transaction():
        row = await apps.locked(connection, app_id) if app_id else None
        if row is None:
            raise not_found()
        app = manager.accounts.known(row)
        try:
            former = msgspec.json.decode(manager.accounts.data(row))
        except VaultError:
            raise Problem(
                409,
                "cannot_be_opened",
                "The app cannot be decrypted: its encryption key is gone. Delete it and create it again.",
            ) from None
        data, provider = _validated(manager, app.provider_type, body.config_data, former)
        await apps.edit(
            connection,
            app.id,
            config_data=manager.accounts.seal(app, "config_data", msgspec.json.encode(data)),
            signing_keys=manager.ownership.signing_keys(provider),
        )
    manager.routes.forget(PLATFORM_ID)
    log.wide("app", outcome="edited", app=app.id, provider=app.provider_type, actor=request.principal.name)


async def delete_app(request: ApiRequest) -> None:
    """DELETE /apps/{app_id} (platform key): its address ends, within seconds in every process."""
    manager, database = request.state["manager"], request.state["database"]
    app_id = parse_id(request.path_params["app_id"])
    async with database.worker() as connection:
        if app_id is None:
            raise not_found()
        if await unread.is_waiting(connection, PLATFORM_ID, app_id):
            raise Problem(409, WebhooksUnread.code, str(WebhooksUnread()))
        if not await apps.remove(connection, app_id):
            raise not_found()
    manager.routes.forget(PLATFORM_ID)
    log.wide("app", outcome="removed", app=app_id, provider=None, actor=request.principal.name)
