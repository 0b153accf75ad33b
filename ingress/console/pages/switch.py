"""Switching to another config, and back: what it means, the switch as it is made, and what came of it."""

from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import msgspec
from starlette.responses import Response

from providers import Check, SendError

from ...accounts.config import ChangeRefused, Config
from ...api.pairing import pairing_of
from ...api.refusals import refusal, shown_checks
from ...identifiers import parse_id
from ...storage.statements import audit, switches
from ...storage.statements import configs as stored_configs
from ...storage.statements.audit import TrailEntry
from ...storage.statements.switches import Confirmed, OpenSwitch, Standing
from ...switching.change import NoFormerConfig, Requested, Switched, order_after
from ...switching.dry_run import DryRun, another_number
from ...switching.report import Phase, Step
from ...validation import Unlogged
from ...web.bodies import RequestQuery
from ...web.limits import LOOK_WEIGHT
from ...web.problems import Problem, not_found
from ..progress import Followed, Fragment, Go, progress
from ..progress import Step as Piece
from ..qr import qr_code
from ..rendering import page, redirect, render
from ..requests import AnyConsoleRequest, ConsoleRequest

# In the order in which they come; `processes`: until every one uses it.
PHASES = ("lock", "test", "set_up", "commit", "processes")


class SwitchQuery(RequestQuery, frozen=True):
    """``to``: the id of a config."""

    to: str = ""


class Asked(msgspec.Struct, frozen=True):
    """A change that the page is about, of one ``kind``: switch or rollback."""

    kind: str
    standing: Standing
    configs: dict[UUID, Config]
    target: Config

    @property
    def path(self) -> str:
        return f"/console/{self.kind}"

    @property
    def active(self) -> Config | None:
        return self.configs.get(self.standing.active_config_id) if self.standing.active_config_id else None

    @property
    def is_active(self) -> bool:
        return self.target.id == self.standing.active_config_id

    @property
    def another_number(self) -> bool | None:
        return another_number(self.active.sender if self.active else None, self.target.sender)

    @property
    def open(self) -> OpenSwitch | None:
        """The switch to it that is under way, or waits for a phone."""
        return next((one for one in self.standing.open if one.config_id == self.target.id), None)

    def request(self, request: AnyConsoleRequest, **more: Any) -> Requested:
        target = None if self.kind == "rollback" else self.target.id
        return Requested(
            organization_id=request.organization_id, target=target, actor=request.actor, kind=self.kind, **more
        )


async def _asked(request: AnyConsoleRequest, to: str = "", kind: str = "switch") -> Asked:
    """Raises `Problem` 404, or 409 where there is no config to return to."""
    async with request.connection() as connection:
        standing, configs = await _read(request, connection)
    config_id = standing.former_config_id if kind == "rollback" else parse_id(to)
    if kind == "rollback" and config_id is None:
        raise refusal(NoFormerConfig())
    if config_id not in configs:
        raise not_found()
    return Asked(kind, standing, configs, configs[config_id])


async def _read(request: AnyConsoleRequest, connection: asyncpg.Connection) -> tuple[Standing, dict[UUID, Config]]:
    """Where the organization stands, and its configs. Raises `Problem` 404."""
    standing = await switches.standing(connection, request.organization_id)
    if standing is None:
        raise not_found()
    known = request.state["manager"].accounts.known
    rows = await stored_configs.of_organization(connection, request.organization_id)
    return standing, {row.id: known(row) for row in rows}


# ---------------------------------------------------------------- before it is made


async def show(request: ConsoleRequest[SwitchQuery]) -> Response:
    """What a switch to a config means, to be confirmed; or that it waits for a phone, with the code to scan."""
    return await _shown(request, await _asked(request, request.query.to))


async def show_rollback(request: ConsoleRequest) -> Response:
    """The same of a return to the config before."""
    return await _shown(request, await _asked(request, kind="rollback"))


async def _shown(request: AnyConsoleRequest, asked: Asked) -> Response:
    pairing = None
    if asked.open is not None and asked.open.is_waiting and request.can("configure"):
        with suppress(SendError, Problem):  # it does not answer, or was asked too often: the page asks again
            request.check_calls_out(LOOK_WEIGHT)
            pairing = await pairing_of(request, asked.target)
    return _page(request, asked, pairing=pairing)


def _page(request: AnyConsoleRequest, asked: Asked, *, status: int = 200, **more: Any) -> Response:
    context = {"found": None, "checks": [], "refused": None, "pairing": None, "qr_code": qr_code} | more
    return page(request, "switch.html", status=status, asked=asked, order=_order(request, asked), **context)


def _order(request: AnyConsoleRequest, asked: Asked) -> list[Config]:
    """The fallbacks once it is made."""
    order = order_after(asked.request(request), asked.standing, asked.target)
    return [asked.configs[config_id] for config_id in order if config_id in asked.configs]


async def check_switch(request: ConsoleRequest) -> Response:
    """Its dry run: what it means for what was really sent, and its test."""
    return await _checked(request, await _asked(request, (await request.posted())["to"]))


async def check_rollback(request: ConsoleRequest) -> Response:
    """The dry run of a rollback."""
    return await _checked(request, await _asked(request, kind="rollback"))


async def _checked(request: AnyConsoleRequest, asked: Asked) -> Response:
    request.check_calls_out()
    if request.wants_stream:
        return progress(request, _check_steps(request, asked))
    try:
        found, checks = await request.state["manager"].dry_run(asked.request(request))
    except ChangeRefused as error:
        return _page(request, asked, status=refusal(error).status, **_refused(error, is_dry=True))
    return _page(request, asked, found=found, checks=shown_checks(checks))


async def _check_steps(request: AnyConsoleRequest, asked: Asked) -> AsyncGenerator[Piece, None]:
    manager, requested = request.state["manager"], asked.request(request)
    following = Followed[Check, tuple[DryRun, list[Check]]](lambda show: manager.dry_run(requested, show))
    async for check in following:
        yield Fragment("checks", render(request, "switch_check.html", check=shown_checks([check])[0]))
    try:
        found, _ = following.result()
    except ChangeRefused as error:
        yield Fragment(
            "meaning-note", render(request, "switch_refused.html", asked=asked, **_refused(error, is_dry=True)), True
        )
        return
    order = _order(request, asked)
    yield Fragment("meaning", render(request, "switch_meaning.html", asked=asked, found=found, order=order), True)


# ---------------------------------------------------------------- while it is made


async def switch(request: ConsoleRequest) -> Response:
    """Make it: its phases are shown as they end, or its result is another page."""
    return await _made(request, await _asked(request, (await request.posted())["to"]))


async def rollback(request: ConsoleRequest) -> Response:
    """Return to the config before, in the same way."""
    return await _made(request, await _asked(request, kind="rollback"))


async def _requested(request: AnyConsoleRequest, asked: Asked) -> Requested:
    form = await request.posted()
    request.check_printable(form, "reason")
    version = int(form["version"]) if _is_number(form["version"]) else -1
    return asked.request(request, expected_version=version, reason=form.get("reason")[:500] or None)


async def _made(request: AnyConsoleRequest, asked: Asked) -> Response:
    requested = await _requested(request, asked)
    if request.wants_stream:
        return progress(request, _switch_steps(request, asked, requested))
    seen: list[Step] = []
    try:
        switched = await request.state["manager"].switch(requested, seen.append)
    except ChangeRefused as error:
        await request.state["refused_changes"].note(request, error)
        return _page(request, asked, status=refusal(error).status, **_refused(error))
    return redirect(_result_path(asked, switched))


async def _switch_steps(request: AnyConsoleRequest, asked: Asked, requested: Requested) -> AsyncGenerator[Piece, None]:
    manager = request.state["manager"]
    following = Followed[Step, Switched](lambda show: manager.switch(requested, show))
    phases: dict[str, float] = {}
    yield _phases(request, phases)
    async for step in following:
        if isinstance(step, Phase) and step.name in PHASES:
            phases[step.name] = step.ms
            yield _phases(request, phases)
    try:
        switched = following.result()
    except ChangeRefused as error:
        await request.state["refused_changes"].note(request, error)
        yield _phases(request, phases, has_failed=True)
        yield Fragment("refused", render(request, "switch_refused.html", asked=asked, **_refused(error)), True)
        return
    yield Go(_result_path(asked, switched))


def _phases(request: AnyConsoleRequest, phases: dict[str, float], *, has_failed: bool = False) -> Fragment:
    html = render(request, "switch_phases.html", phases=_rows(phases, is_running=True, has_failed=has_failed))
    return Fragment("phases", html, replace=True)


class PhaseRow(Unlogged, frozen=True):
    """A phase as it is shown: done, running, failed, skipped or to_come."""

    name: str
    state: str
    ms: float | None = None


def _rows(phases: dict[str, float], *, is_running: bool = False, has_failed: bool = False) -> list[PhaseRow]:
    """All of them; those that ended have their time, the last one of a change that was refused has failed."""
    last = max((PHASES.index(name) for name in phases), default=-1)
    states = dict.fromkeys(PHASES[: last + 1], "skipped") | dict.fromkeys(phases, "done")
    if has_failed and phases:
        states[PHASES[last]] = "failed"
    if is_running and not has_failed and last + 1 < len(PHASES):
        states[PHASES[last + 1]] = "running"
    return [PhaseRow(name, states.get(name, "to_come"), phases.get(name)) for name in PHASES]


def _result_path(asked: Asked, switched: Switched) -> str:
    if switched.entry is not None:
        return f"/console/switches/{switched.entry}"
    # It waits for a phone, or was active before.
    return asked.path + ("" if asked.kind == "rollback" else f"?to={asked.target.id}")


def _refused(error: ChangeRefused, *, is_dry: bool = False) -> dict[str, Any]:
    """Why it was not made, for people: what failed, what to do, and that nothing was changed."""
    failed = [check for check in shown_checks(getattr(error, "checks", ())) if not check.passed]
    return {"refused": refusal(error), "code": error.code, "failed": failed, "entry": error.entry, "is_dry": is_dry}


# ---------------------------------------------------------------- what came of it


class SwitchOutcome(msgspec.Struct, frozen=True):
    """What the trail has of a switch that was made, or taken back."""

    kind: str | None = None
    active_config_id: UUID | None = None
    checks: dict[str, bool] = {}
    failed_checks: list[str] = []
    phases_ms: dict[str, float] = {}
    forced: bool = False


class InForceBefore(msgspec.Struct, frozen=True):
    """What was in force before it."""

    active_config_id: UUID | None = None


Place = Annotated[int, msgspec.Meta(ge=1)]


async def show_result(request: ConsoleRequest) -> Response:
    """What became of a switch, by its entry in the trail: its phases, which processes use it, and the way back."""
    number = request.number_in_path("entry")
    async with request.connection() as connection:
        entry = await audit.entry(connection, request.organization_id, number)
        if entry is None or entry.action not in ("activated", "rolled_back"):
            raise not_found()
        is_made = entry.action == "activated"
        version = entry.version if is_made else None
        used = await switches.confirmed(connection, request.organization_id, version) if version else None
        standing, configs = await _read(request, connection)
    outcome = msgspec.json.decode(entry.after or b"{}", type=SwitchOutcome)
    before = msgspec.json.decode(entry.before or b"{}", type=InForceBefore)
    phases = outcome.phases_ms | _committed(entry, used)
    return page(
        request,
        "switch_result.html",
        entry=entry,
        outcome=outcome,
        is_made=is_made,
        config=_config_in(configs, entry.config_id),
        former=_config_in(configs, before.active_config_id if is_made else outcome.active_config_id),
        phases=_rows(phases, has_failed=not is_made),
        total_ms=sum(phases.values()),
        used=used,
        is_active=standing.active_config_id == entry.config_id,
        can_return=standing.former_config_id is not None,
    )


def _config_in(configs: dict[UUID, Config], config_id: UUID | None) -> Config | None:
    return configs.get(config_id) if config_id else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16


def _committed(entry: TrailEntry, used: Confirmed | None) -> dict[str, float]:
    """From the entry to the first process that used it, and on to the last one: by the clock of the database."""
    if entry.at is None or used is None or used.first_at is None or used.last_at is None:
        return {}
    phases = {"commit": _ms(entry.at, used.first_at)}
    if used.confirmed == used.processes:
        phases["processes"] = _ms(used.first_at, used.last_at)
    return phases


def _ms(begin: datetime, end: datetime) -> float:
    return round(max(0.0, (end - begin).total_seconds()) * 1000, 1)
