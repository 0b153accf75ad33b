"""Apps of providers that many organizations share: POST, GET, PATCH and DELETE /apps, for the platform.

An app is kept as a config of no organization: it verifies and reads webhooks, and has no account. Each item of what
comes in at its address goes to the organization whose account it names.
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers import UnknownProvider, WhatsAppProvider
from providers.base import config_fields

from .. import log
from ..accounts.accounts import InvalidConfiguration, NewConfig, WebhooksUnread
from ..identifiers import PLATFORM_ID, parse_id
from ..storage.database import Database
from ..storage.statements import apps, unread
from ..storage.vault import VaultError, token_hash
from ..switching.manager import APP_PATH, WhatsAppProviderManager
from ..validation import ConfigData, Name, ProviderType
from ..web.auth import Principal, authorize_platform
from ..web.bodies import decode_kept
from ..web.problems import Problem, json_response, not_found


class NewApp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /apps. ``config_data``: the provider's fields that are of the app, and not of one account."""

    provider_type: ProviderType
    name: Name
    config_data: ConfigData

    def __repr__(self) -> str:
        return f"NewApp({self.provider_type!r})"


class EditApp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of PATCH /apps/{app_id}: the fields that change. null takes one out, absent ones stay."""

    config_data: ConfigData

    def __repr__(self) -> str:
        return f"EditApp(fields={sorted(self.config_data)})"


_app = msgspec.json.Decoder(NewApp)
_edit = msgspec.json.Decoder(EditApp)


async def _platform(request: Request[Any]) -> tuple[Principal, WhatsAppProviderManager, Database]:
    principal = await authorize_platform(request)
    return principal, request.state["manager"], request.state["database"]


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
            errors = [(f"config_data.{name}", "is no field of an app") for name in unknown]
            raise InvalidConfiguration("only the fields of an app are taken", errors)
        data = {**kind.no_account, **former, **given}
        data = {name: value for name, value in data.items() if value is not None}
        return data, manager.accounts.validate(provider_type, data)
    except UnknownProvider as error:
        raise Problem(422, "invalid_configuration", str(error), errors=[("provider_type", "unknown")]) from None
    except InvalidConfiguration as error:
        raise Problem(422, error.code, str(error), errors=error.errors) from None


async def create_app(request: Request[Any]) -> Response:
    """POST /apps (platform key): an address for the webhooks of an app that several organizations share."""
    principal, manager, database = await _platform(request)
    asked = await decode_kept(request, _app)
    data, provider = _validated(manager, asked.provider_type, asked.config_data, {})
    new = NewConfig(provider_type=asked.provider_type, name=asked.name, config_data=data)
    app, token = manager.accounts.made(PLATFORM_ID, new, provider, None, path=APP_PATH)
    async with database.worker() as connection:
        await apps.add(
            connection,
            app.id,
            provider_type=app.provider_type,
            name=app.name,
            config_data=manager.accounts.seal(app, "config_data", msgspec.json.encode(data)),
            signing_keys=manager.ownership.signing_keys(provider),
            token_hash=token_hash(token),
            token=manager.accounts.seal(app, "webhook_token", token.encode()),
        )
    log.wide("app", outcome="created", app=app.id, provider=app.provider_type, actor=principal.name)
    shown = {"id": app.id, "provider": app.provider_type, "name": app.name, "webhook_url": app.callback_url}
    return json_response(shown, 201)


async def list_apps(request: Request[Any]) -> Response:
    """GET /apps (platform key): every app with its address, its secrets as fingerprints."""
    _, manager, database = await _platform(request)
    async with database.worker() as connection:
        rows = await apps.every_one(connection)
    found = [manager.accounts.known(row) for row in rows]
    return json_response(
        {
            "apps": [
                {
                    "id": app.id,
                    "provider": app.provider_type,
                    "name": app.name,
                    "state": app.state,
                    "webhook_url": app.callback_url,
                    "config_data": {
                        name: value
                        for name, value in manager.masked(app.provider).items()
                        if name in _names(app.provider)
                    },
                }
                for app in found
            ]
        }
    )


def _names(provider: WhatsAppProvider) -> set[str]:
    return {field.name for field in config_fields(type(provider)) if field.app}


async def edit_app(request: Request[Any]) -> Response:
    """PATCH /apps/{app_id} (platform key): change its fields, as while its secret is renewed; its address stays."""
    principal, manager, database = await _platform(request)
    asked = await decode_kept(request, _edit)
    app_id = parse_id(request.path_params["app_id"])
    async with database.worker() as connection, connection.transaction():
        row = await apps.locked(connection, app_id) if app_id else None
        if row is None:
            raise not_found()
        app = manager.accounts.known(row)
        try:
            former = msgspec.json.decode(manager.accounts.data(row))
        except VaultError:
            raise Problem(409, "cannot_be_opened", "Its encryption key is gone: delete it, and make it anew.") from None
        data, provider = _validated(manager, app.provider_type, asked.config_data, former)
        await apps.edit(
            connection,
            app.id,
            config_data=manager.accounts.seal(app, "config_data", msgspec.json.encode(data)),
            signing_keys=manager.ownership.signing_keys(provider),
        )
    manager.forget(PLATFORM_ID)
    log.wide("app", outcome="edited", app=app.id, provider=app.provider_type, actor=principal.name)
    return Response(status_code=204)


async def delete_app(request: Request[Any]) -> Response:
    """DELETE /apps/{app_id} (platform key): its address ends, within seconds in every process."""
    principal, manager, database = await _platform(request)
    app_id = parse_id(request.path_params["app_id"])
    async with database.worker() as connection:
        if app_id is None:
            raise not_found()
        if await unread.is_waiting(connection, PLATFORM_ID, app_id):
            raise Problem(409, WebhooksUnread.code, str(WebhooksUnread()))
        if not await apps.remove(connection, app_id):
            raise not_found()
    manager.forget(PLATFORM_ID)
    log.wide("app", outcome="removed", app=app_id, provider=None, actor=principal.name)
    return Response(status_code=204)
