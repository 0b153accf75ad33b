"""A change of a provider as an answer, and a refused one as a problem."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from msgspec import UNSET, UnsetType

from providers import Check

from ..accounts.config import (
    ChangeRefused,
    Config,
    InUse,
    InvalidConfiguration,
    NotFound,
    ProviderUnreachable,
    SecretsNeeded,
    TestFailed,
    WebhooksUnread,
)
from ..accounts.ownership import AccountInUse
from ..switching.change import NoFormerConfig, NotReceiving, Switched, TooSlow, VersionConflict
from ..web.bodies import Shown
from ..web.problems import Problem, not_found


class CheckShown(Shown, frozen=True, omit_defaults=True):
    """A check of the connection test. ``checkable`` False: it cannot be made from here, and counts as passed."""

    name: str
    passed: bool
    checkable: bool = True
    detail: str | None = None
    fix: str | None = None


class ConfigResult(Shown, frozen=True, kw_only=True):
    """A config after a change. One that waits for a phone is ``switching`` until ``waits_until``."""

    config_id: UUID
    provider: str
    state: str
    version: int
    webhook_url: str
    sender: str | None
    checks: list[CheckShown]
    waits_for: str | UnsetType = UNSET
    waits_until: datetime | UnsetType = UNSET


Result = TypeVar("Result", bound=ConfigResult)


def shown_checks(checks: Sequence[Check]) -> list[CheckShown]:
    return [
        CheckShown(
            check.name,
            check.passed,
            check.checkable,
            check.detail or None,
            None if check.passed and check.checkable else check.fix or None,
        )
        for check in checks
    ]


def shown_config(
    kind: type[Result], config: Config, version: int, state: str, checks: Sequence[Check], **more: Any
) -> Result:
    """*config* as *kind*, with *more* of its fields."""
    return kind(
        config_id=config.id,
        provider=config.provider_type,
        state=state,
        version=version,
        webhook_url=config.callback_url,
        sender=config.sender,
        checks=shown_checks(checks),
        **more,
    )


def shown_switch(kind: type[Result], done: Switched, **more: Any) -> tuple[Result, int]:
    """What is in force now, and the status of the answer: 202 where the switch waits."""
    config, version, checks = done.config, done.version, done.checks
    if done.waits_until is None:
        state = "active" if done.changed or kind is not ConfigResult else "configured"
        return shown_config(kind, config, version, state, checks, **more), 200
    more |= {"waits_for": "pairing", "waits_until": done.waits_until}
    return shown_config(kind, config, version, "switching", checks, **more), 202


@contextmanager
def refused_as_problems(*, can_force: bool = False) -> Iterator[None]:
    """Turns what refuses a change into `Problem`; *can_force*: the request has `force`."""
    try:
        yield
    except NotFound:
        raise not_found() from None
    except ChangeRefused as error:
        raise refusal(error, can_force=can_force) from None


def _kept(error: ChangeRefused) -> str:
    if error.saved_as is None:
        return "nothing was changed"
    return f"the active config stays active, and the configuration is saved as {error.saved_as}"


def refusal(error: ChangeRefused, *, can_force: bool = False) -> Problem:
    """What failed, what is in force and saved, and what to do."""
    kept = _kept(error)
    more: dict[str, Any] = {"config_id": error.saved_as} if error.saved_as else {}
    again = "Try again; with force it is not tested." if can_force else "Try again."
    match error:
        case VersionConflict():
            more |= {"version": error.version, "active_config_id": error.active_config_id}
            return Problem(409, error.code, f"{_capitalised(kept)}. {error}", **more)
        case NoFormerConfig() | InUse() | WebhooksUnread():
            return Problem(409, error.code, str(error))
        case TestFailed():
            detail = f"The connection test failed, so {kept}. {error}"
            return Problem(422, error.code, detail, checks=shown_checks(error.checks))
        case NotReceiving():
            detail = f"Messages from people would not arrive here, so {kept}: {error}"
            return Problem(422, error.code, detail, checks=shown_checks(error.checks), **more)
        case SecretsNeeded():
            return Problem(422, error.code, f"Nothing was changed: {error}.", errors=error.errors)
        case AccountInUse():
            return Problem(409, error.code, f"{_capitalised(kept)}. {error}", checks=shown_checks(error.checks), **more)
        case InvalidConfiguration():
            return invalid_configuration(error)
        case ProviderUnreachable():
            detail = f"The provider did not answer the connection test, so {kept}: {error}."
            hint = again if error.timed_out else "Try again."
            return Problem(504 if error.timed_out else 502, error.code, f"{detail} {hint}", **more)
        case TooSlow():
            detail = f"The provider is too slow, so {kept}: {error}."
            return Problem(504, error.code, f"{detail} {again}", **more)
    return Problem(409, error.code, str(error))


def invalid_configuration(error: InvalidConfiguration) -> Problem:
    more: dict[str, Any] = {"checks": shown_checks(error.checks)} if error.checks else {}
    return Problem(400, InvalidConfiguration.code, str(error), errors=error.errors, **more)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
