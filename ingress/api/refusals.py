"""A change of a provider as an answer, and a refused one as a problem."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from msgspec import UNSET, UnsetType

from providers import Check

from ..accounts.config import (
    AccountExists,
    ChangeRefused,
    InvalidConfiguration,
    NotFound,
    ProviderUnreachable,
    SecretsNeeded,
    TestFailed,
)
from ..accounts.ownership import AccountInUse
from ..switching.change import NotReceiving, Switched, TooSlow, VersionConflict
from ..switching.config_store import Edited
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
    """A config after a change; ``message`` says it to people.

    One that waits for a phone is ``switching`` until ``waits_until``.
    """

    message: str
    config_id: UUID
    provider: str
    state: str
    version: int
    webhook_url: str
    sender: str | None
    checks: list[CheckShown]
    waits_for: str | UnsetType = UNSET
    waits_until: datetime | UnsetType = UNSET


class ConfigureResult(ConfigResult, frozen=True, kw_only=True):
    """``fallback_config_ids``: the order from then on."""

    fallback_config_ids: list[UUID]


Result = TypeVar("Result", bound=ConfigResult)
Made = TypeVar("Made", bound=ConfigureResult)


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


def shown_config(kind: type[Result], done: Switched | Edited, state: str, message: str, **more: Any) -> Result:
    """The config that was changed as *kind*, with *more* of its fields."""
    config = done.config
    return kind(
        message=message.format(config.provider.info.display_name),
        config_id=config.id,
        provider=config.provider_type,
        state=state,
        version=done.version,
        webhook_url=config.callback_url,
        sender=config.sender,
        checks=shown_checks(done.checks),
        **more,
    )


def shown_switch(kind: type[Made], done: Switched, **more: Any) -> tuple[Made, int]:
    """What is in force now, and the status of the answer: 202 where the switch waits."""
    more["fallback_config_ids"] = done.fallback_config_ids
    if done.waits_until is not None:
        more.update(waits_for="pairing", waits_until=done.waits_until)
    return shown_config(kind, done, *_outcome(done), **more), 200 if done.waits_until is None else 202


def _outcome(done: Switched) -> tuple[str, str]:
    """The state of the config, and what to say of it."""
    if done.waits_until is not None:
        return "switching", "{} waits for a phone: link one to make it active."
    if done.changed:
        return "active", "{} is active: messages go out through it now."
    if done.config.state == "active":
        return "active", "{} was active already: nothing changed."
    return done.config.state, "{} is saved, not active."


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
    match error:
        case SecretsNeeded():
            return Problem(422, error.code, f"Nothing was changed: {error}.", errors=error.errors)
        case TestFailed():
            return _invalid(error, f"The connection test failed, so {kept}. {error}")
        case InvalidConfiguration():
            return _invalid(error, str(error))
        case NotReceiving():
            detail = f"Messages from people would not arrive here, so {kept}. {error}"
            return Problem(422, error.code, detail, checks=shown_checks(error.checks), **_saved(error))
        case ProviderUnreachable() | TooSlow():
            return _no_answer(error, kept, can_force)
    return _conflict(error, kept)


def _sentence(kept: str) -> str:
    return f"{kept[0].upper()}{kept[1:]}."


def _conflict(error: ChangeRefused, kept: str) -> Problem:
    detail, more = f"{_sentence(kept)} {error}", _saved(error)
    match error:
        case VersionConflict():
            more |= {"version": error.version, "active_config_id": error.active_config_id}
        case AccountExists():
            more |= {"config_id": error.config_id}
        case AccountInUse():
            more |= {"checks": shown_checks(error.checks)}
        case _:
            detail, more = str(error), {}
    return Problem(409, error.code, detail, **more)


def _no_answer(error: ProviderUnreachable | TooSlow, kept: str, can_force: bool) -> Problem:
    again = "Try again; with force it is not tested." if can_force else "Try again."
    if isinstance(error, TooSlow):
        return Problem(504, error.code, f"The provider is too slow, so {kept}: {error}. {again}", **_saved(error))
    status, again = (504, again) if error.timed_out else (502, "Try again.")
    detail = f"The provider did not answer the connection test, so {kept}: {error}. {again}"
    return Problem(status, error.code, detail, **_saved(error))


def _saved(error: ChangeRefused) -> dict[str, Any]:
    return {"config_id": error.saved_as} if error.saved_as else {}


def _invalid(error: InvalidConfiguration, detail: str) -> Problem:
    """Alike for whatever asks for it: fields that are wrong, and credentials that the provider refuses."""
    more: dict[str, Any] = {"checks": shown_checks(error.checks)} if error.checks else {}
    return Problem(400, InvalidConfiguration.code, detail, errors=error.errors, **more)
