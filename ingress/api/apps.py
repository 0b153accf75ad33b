"""Apps of providers that many organizations share: POST, GET, PATCH and DELETE /apps, for the platform.

An app is kept as a config of no organization: it verifies and reads webhooks, and has no account. Each item of what
comes in at its address goes to the organization whose account it names.
"""

from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import UnknownProvider, WhatsAppProvider
from providers.description import config_fields

from .. import log
from ..accounts.config import Config, InvalidConfiguration, NewConfig, WebhooksUnread
from ..identifiers import PLATFORM_ID
from ..storage.statements import apps, switches
from ..storage.statements.configs import StoredConfig
from ..storage.statements.receiving import unread
from ..storage.vault import VaultError, token_hash
from ..switching.manager import WhatsAppProviderManager
from ..validation import ConfigData, Name, ProviderType, Wrong, listed, sentence, wrong_fields
from ..web.bodies import RequestBody, Shown
from ..web.problems import Problem, not_found
from . import AnyRequest, ApiRequest

Data: TypeAlias = dict[str, Any]


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
    config_data: Data | UnsetType = UNSET


class Apps(Shown, frozen=True):
    apps: list[AppShown]


def _validated(
    manager: WhatsAppProviderManager, provider_type: str, given: Data, former: Data
) -> tuple[Data, WhatsAppProvider]:
    """What is stored of an app, *given* in the place of what it was, and the provider it makes. Raises `Problem`."""
    try:
        kind = manager.registry.get(provider_type)
    except UnknownProvider as error:
        raise _refused(str(error), ("provider_type", "is not a known provider")) from None
    if not kind.no_account:
        raise _refused("The provider has no apps", ("provider_type", "its accounts share no app"))
    of_app = _fields_of_app(kind)
    wrong = [(f"config_data.{name}", "is not a field of an app") for name in sorted({*given} - of_app)]
    changed = {**kind.no_account, **former, **{name: value for name, value in given.items() if name in of_app}}
    data = {name: value for name, value in changed.items() if value is not None}
    try:
        provider = manager.accounts.validate(provider_type, data)
    except InvalidConfiguration as error:
        wrong += error.errors
    if wrong:
        raise _refused(f"The configuration of the app is not valid: {listed(wrong)}", *wrong)
    return data, provider


def _refused(detail: str, *errors: tuple[str, str]) -> Problem:
    return Problem(422, InvalidConfiguration.code, sentence(detail), errors=errors)


def _wrong_app(manager: WhatsAppProviderManager, sent: Data) -> Wrong:
    """What is wrong with the configuration in a body, besides what is wrong with the body."""
    kind, given = sent.get("provider_type"), sent.get("config_data")
    if isinstance(kind, str) and isinstance(given, dict) and not wrong_fields(given, ConfigData):
        try:
            _validated(manager, kind, given, {})
        except Problem as problem:
            yield from problem.errors


async def create_app(request: ApiRequest[NewApp]) -> AppShown:
    """POST /apps (platform key): an address for the webhooks of an app that several organizations share."""
    manager = request.state["manager"]
    body = await request.decoded(partial(_wrong_app, manager))
    data, provider = _validated(manager, body.provider_type, body.config_data, {})
    new = NewConfig(provider_type=body.provider_type, name=body.name, config_data=data)
    app, token = manager.accounts.made(PLATFORM_ID, new, provider, None)
    columns = apps.NewAppColumns(
        id=app.id,
        provider_type=app.provider_type,
        name=app.name,
        webhook_token_hash=token_hash(token),
        webhook_token=manager.accounts.seal(app, "webhook_token", token.encode()),
        **_columns(manager, app, data),
    )
    async with request.state["database"].worker() as connection:
        await apps.add(connection, columns)
    _log(request, "created", app.id, app.provider_type)
    return _shown(app)


def _columns(manager: WhatsAppProviderManager, app: Config, data: Data) -> Data:
    """What is stored of *data*, and of *app*'s provider, which is made of it."""
    return {
        "config_data": manager.accounts.seal(app, "config_data", msgspec.json.encode(data)),
        "signing_keys": manager.ownership.signing_keys(app.provider),
    }


def _log(request: AnyRequest, outcome: str, app_id: UUID, provider_type: str | None) -> None:
    log.wide("app", outcome=outcome, app=app_id, provider=provider_type, actor=request.principal.name)


async def list_apps(request: ApiRequest) -> Apps:
    """GET /apps (platform key): every app with its address, its secrets as fingerprints."""
    manager = request.state["manager"]
    async with request.state["database"].worker() as connection:
        rows = await apps.every_one(connection)
    return Apps([_listed(manager, manager.accounts.known(row)) for row in rows])


def _listed(manager: WhatsAppProviderManager, app: Config) -> AppShown:
    of_app, masked = _fields_of_app(type(app.provider)), manager.masked(app.provider)
    data = {name: value for name, value in masked.items() if name in of_app}
    return _shown(app, state=app.state, config_data=data)


def _shown(app: Config, **more: Any) -> AppShown:
    return AppShown(id=app.id, provider=app.provider_type, name=app.name, webhook_url=app.callback_url, **more)


def _fields_of_app(kind: type[WhatsAppProvider]) -> set[str]:
    return {field.name for field in config_fields(kind) if field.app}


async def edit_app(request: ApiRequest[EditApp]) -> None:
    """PATCH /apps/{app_id} (platform key): change its fields, as while its secret is renewed; its address stays."""
    manager, body = request.state["manager"], await request.decoded()
    app_id = request.id_in_path("app_id")
    async with request.state["database"].worker() as connection, connection.transaction():
        row = await apps.locked(connection, app_id)
        if row is None:
            raise not_found()
        app, former = manager.accounts.known(row), _opened(manager, row)
        data, provider = _validated(manager, app.provider_type, body.config_data, former)
        app = msgspec.structs.replace(app, provider=provider)
        await apps.edit(connection, app.id, **_columns(manager, app, data))
        await switches.notify(connection, PLATFORM_ID, 0)
    manager.routes.forget(PLATFORM_ID)
    _log(request, "edited", app.id, app.provider_type)


def _opened(manager: WhatsAppProviderManager, row: StoredConfig) -> Data:
    """The configuration of a stored app. Raises `Problem` 409."""
    try:
        data: Data = msgspec.json.decode(manager.accounts.data(row))
    except VaultError:
        detail = "The app cannot be decrypted: its encryption key is gone. Delete it and create it again."
        raise Problem(409, "cannot_be_opened", detail) from None
    return data


async def delete_app(request: ApiRequest) -> None:
    """DELETE /apps/{app_id} (platform key): its address ends, within seconds in every process."""
    app_id = request.id_in_path("app_id")
    async with request.state["database"].worker() as connection, connection.transaction():
        if await unread.is_waiting(connection, PLATFORM_ID, app_id):
            raise Problem(409, WebhooksUnread.code, str(WebhooksUnread()))
        if not await apps.remove(connection, app_id):
            raise not_found()
        await switches.notify(connection, PLATFORM_ID, 0)
    request.state["manager"].routes.forget(PLATFORM_ID)
    _log(request, "removed", app_id, None)
