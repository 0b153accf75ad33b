"""A change of a provider as an answer, and a refused one as a problem."""

from typing import Any

from starlette.requests import Request

from providers import Check

from ..accounts.accounts import (
    ChangeRefused,
    Config,
    InUse,
    InvalidConfiguration,
    ProviderUnreachable,
    SecretsNeeded,
    TestFailed,
    WebhooksUnread,
)
from ..accounts.ownership import AccountInUse
from ..audit import Actor
from ..switching.change import NoFormerConfig, NotReceiving, Switched, TooSlow, VersionConflict
from ..switching.manager import WhatsAppProviderManager
from ..web.auth import Principal, client_address
from ..web.problems import Problem


def shown_checks(checks: list[Check] | tuple[Check, ...]) -> list[dict[str, Any]]:
    return [
        {"name": check.name, "passed": check.passed}
        | ({} if check.checkable else {"checkable": False})
        | ({"detail": check.detail} if check.detail else {})
        | ({"fix": check.fix} if check.fix and not (check.passed and check.checkable) else {})
        for check in checks
    ]


def waits(done: Switched) -> dict[str, Any]:
    """Of a switch that waits: until when, and for what."""
    if done.waits_until is None:
        return {}
    return {"state": "switching", "waits_for": "pairing", "waits_until": done.waits_until}


def shown_config(config: Config, version: int, state: str) -> dict[str, Any]:
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


def refusal(error: ChangeRefused, *, can_force: bool = False) -> Problem:
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
            return Problem(422, error.code, detail, checks=shown_checks(list(error.checks)))
        case NotReceiving():
            detail = f"What people write would not arrive here, so {kept}: {error}"
            return Problem(422, error.code, detail, checks=shown_checks(error.checks), **saved)
        case SecretsNeeded():
            return Problem(422, error.code, f"Nothing was changed: {error}.", errors=error.errors)
        case AccountInUse():
            detail = f"{kept[0].upper()}{kept[1:]}. {error}"
            return Problem(409, error.code, detail, checks=shown_checks(error.checks), **saved)
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


def manager_of(request: Request[Any]) -> WhatsAppProviderManager:
    manager: WhatsAppProviderManager = request.state["manager"]
    return manager


def actor_of(request: Request[Any], principal: Principal) -> Actor:
    return Actor(principal.name, client_address(request))
