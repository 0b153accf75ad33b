"""The form of a configuration: tested before it is saved, each check shown as it is done."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.responses import Response

from providers import Check, ProviderStatus, SendError, WhatsAppProvider

from ...accounts.config import ChangeRefused, Config, NewConfig, TestFailed
from ...accounts.progress import ShowCheck
from ...api.configs import named_config
from ...api.providers import repaired
from ...api.refusals import refusal, refused_as_problems, shown_checks
from ...switching.config_store import ConfigEdit
from ...validation import Unlogged
from ...web.problems import Problem
from ..config_form import ConfigForm, filled
from ..progress import Followed, Fragment, Go, Step, progress
from ..rendering import redirect, render
from ..requests import AnyConsoleRequest, ConsoleRequest
from . import whatsapp

# Of a name, as the API has it.
MAX_NAME = 200
# Where checks are shown: of what is typed, and of what is stored.
TYPED, STORED = "checks", "stored-checks"


class Sent(Unlogged, frozen=True, kw_only=True):
    """A form as it was sent: of a stored ``config``, or of a new one."""

    form: ConfigForm
    config: Config | None
    name: str
    as_fallback: bool
    allow_second: bool

    @property
    def new(self) -> NewConfig:
        kind = self.form.kind.info
        return NewConfig(
            provider_type=kind.name,
            name=self.name or kind.display_name,
            config_data=self.form.data,
            if_saved="add" if self.allow_second else "refuse",
            as_fallback=self.as_fallback,
        )


class Review(Unlogged, frozen=True, kw_only=True):
    """A test that passed: what its provider says of the account, to be looked at before that is saved."""

    status: ProviderStatus | None
    sender: str | None
    ids: tuple[str, ...]


async def test(request: ConsoleRequest) -> Response:
    """Test what is typed, without saving it."""
    sent = await _sent(request)
    try:
        request.check_calls_out()
        provider = await _provider(request, sent)
        if request.wants_stream:
            return progress(request, _test_steps(request, sent, provider, TYPED))
        checks, passed = await _tested(request, sent)
    except Problem as problem:
        return await _again(request, sent, problem)
    review = await _review(request, provider) if passed else None
    return await _again(request, sent, checks=checks, passed=passed, review=review)


async def check(request: ConsoleRequest) -> Response:
    """Test a config as it is stored, its webhook too."""
    sent = await _sent(request)
    request.check_calls_out()
    if request.wants_stream:
        return progress(request, _test_steps(request, sent, None, STORED))
    checks, passed = await _tested(request, sent)
    return await _again(request, sent, stored_checks=checks, passed=passed)


async def repair(request: ConsoleRequest) -> Response:
    """Have what is missing at the provider set there, as far as its API can."""
    sent = await _sent(request)
    assert sent.config is not None
    request.check_calls_out()
    checks = await repaired(request, sent.config)
    if request.wants_stream:
        return progress(request, _show(request, checks, STORED))
    return await _again(request, sent, stored_checks=checks, passed=_passes(checks))


async def save(request: ConsoleRequest) -> Response:
    """Save what is typed, once it has passed its test. The first config of an organization becomes active."""
    sent, manager = await _sent(request), request.state["manager"]
    organization_id, checks = request.organization_id, list[Check]()
    try:
        request.check_calls_out()
        if sent.config is None:
            is_first = await manager.provider_for(organization_id) is None
            done = await manager.configure(organization_id, request.actor, sent.new, activate=is_first)
            config, checks, code = done.config, done.checks, "config_active" if done.changed else "config_saved"
        else:
            change = ConfigEdit(sent.name or None, sent.form.changes, sent.allow_second)
            edited = await manager.edit(organization_id, sent.config.id, request.actor, change)
            config, checks, code = edited.config, edited.checks, "config_saved"
    except (ChangeRefused, Problem) as error:
        await request.state["refused_changes"].note(request, error)
        problem = refusal(error) if isinstance(error, ChangeRefused) else error
        return await _again(request, sent, problem, checks=getattr(error, "checks", ()), passed=False)
    path = whatsapp.address_of(config)
    if sent.config is None and whatsapp.can_pair(config.provider.info):
        path = f"{whatsapp.HOME}/{config.id}/pairing"
    elif not all(check.passed for check in checks):
        path, code = f"{path}&look=1", "config_incomplete"
    answer = redirect(path, done=code)
    return progress(request, _go(answer.headers["location"])) if request.wants_stream else answer


async def _sent(request: AnyConsoleRequest) -> Sent:
    """Raises `Problem` 404."""
    form = await request.posted()
    is_stored = "config_id" in request.path_params
    config = await named_config(request, request.id_in_path("config_id")) if is_stored else None
    kind = whatsapp.kind_of(request, config.provider_type if config else form["provider"])
    return Sent(
        form=filled(request, form, kind, config),
        config=config,
        name=form.get("name")[:MAX_NAME],
        as_fallback=form.get("as_fallback") == "1",
        allow_second=form.get("allow_second") == "1",
    )


async def _provider(request: AnyConsoleRequest, sent: Sent) -> WhatsAppProvider:
    """What is typed, as a provider. Raises `Problem`, with every field that is wrong."""
    manager = request.state["manager"]
    with refused_as_problems():
        if sent.config is None:
            return manager.accounts.validate(sent.form.kind.info.name, sent.form.data)
        return (await manager.edited(request.organization_id, sent.config.id, sent.form.changes)).provider


async def _run(request: AnyConsoleRequest, sent: Sent, show: ShowCheck | None = None) -> list[Check]:
    """Every check, passed or not."""
    manager, organization_id = request.state["manager"], request.organization_id
    target = sent.config.id if sent.config else sent.new
    try:
        return (await manager.test(organization_id, target, show, sent.form.changes))[0]
    except TestFailed as error:
        return list(error.checks)


async def _tested(request: AnyConsoleRequest, sent: Sent) -> tuple[list[Check], bool]:
    """Raises `Problem`."""
    with refused_as_problems():
        checks = await _run(request, sent)
    return checks, _passes(checks)


def _passes(checks: Sequence[Check]) -> bool:
    """Whether messages can be sent."""
    return all(check.passed for check in checks if check.fatal)


async def _test_steps(
    request: AnyConsoleRequest, sent: Sent, provider: WhatsAppProvider | None, into: str
) -> AsyncGenerator[Step, None]:
    """Each check; in the end, of what is typed and passes, what is to be looked at before it is saved."""
    following = Followed[Check, list[Check]](lambda show: _run(request, sent, show))
    async for found in following:
        yield _fragment(request, found, into)
    with refused_as_problems():
        checks = following.result()
    yield _verdict(request, checks, into)
    if _passes(checks) and provider is not None:
        review = await _review(request, provider)
        yield Fragment("review", render(request, "whatsapp_review.html", review=review), replace=True)
        yield Fragment("save", render(request, "whatsapp_save.html", config=sent.config, passed=True), replace=True)


async def _show(request: AnyConsoleRequest, checks: Sequence[Check], into: str) -> AsyncGenerator[Step, None]:
    for found in checks:
        yield _fragment(request, found, into)
    yield _verdict(request, checks, into)


def _fragment(request: AnyConsoleRequest, found: Check, into: str) -> Fragment:
    return Fragment(into, render(request, "switch_check.html", check=shown_checks([found])[0]))


def _verdict(request: AnyConsoleRequest, checks: Sequence[Check], into: str) -> Fragment:
    found = {"passed": _passes(checks), "checks": checks, "is_typed": into == TYPED}
    return Fragment(f"{into}-verdict", render(request, "whatsapp_verdict.html", **found), replace=True)


async def _go(location: str) -> AsyncGenerator[Step, None]:
    yield Go(location)


async def _review(request: AnyConsoleRequest, provider: WhatsAppProvider) -> Review:
    try:
        status = await request.state["manager"].accounts.status(provider)
    except SendError:  # the test has passed: what it does not say now is not shown
        status = None
    sender = provider.sender or (status.session_info.get("sender") if status else None)
    return Review(status=status, sender=sender, ids=provider.accounts)


async def _again(request: AnyConsoleRequest, sent: Sent, problem: Problem | None = None, **more: Any) -> Response:
    """The page with the form as it was sent."""
    found = await whatsapp.overview(request)
    card = found.card(sent.form.kind.info.name)
    account = found.accounts.get(sent.config.id) if sent.config else None
    for name in ("checks", "stored_checks"):
        more[name] = shown_checks(more.get(name, ()))
    more |= {"config_name": sent.name, "as_fallback": sent.as_fallback, "allow_second": sent.allow_second}
    return whatsapp.shown(request, found, card, account, sent.form, problem=problem, **more)
