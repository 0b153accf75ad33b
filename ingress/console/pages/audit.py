"""The audit trail: what was changed, by whom, as a difference; whether it is whole; and as a file."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from uuid import UUID

import msgspec
from starlette.responses import Response

from ...accounts.config import Config
from ...api.audit import AuditQuery, Entry, VerifyQuery, Word, trail_page
from ...audit.trail import SYSTEM
from ...audit.verification import verify as verify_trail
from ...storage.statements import organizations
from ...web.auth import PLATFORM
from ...web.bodies import Number, RequestQuery
from ...web.problems import not_found
from ..csv_export import csv_export
from ..readable import differences
from ..rendering import page
from ..requests import AnyConsoleRequest, ConsoleRequest
from ..words.trail import ACTIONS

COLUMNS = Entry.__struct_fields__
EXPORTED = 200


class AuditSearch(RequestQuery, frozen=True):
    """From the day ``since`` to the day ``until``, in UTC; ``before``: entries below that number."""

    before: Number = 0
    action: Word | None = None
    actor: Word | None = None
    config: UUID | None = None
    outcome: Literal["done", "refused", "undone"] | None = None
    since: date | None = None
    until: date | None = None

    @property
    def is_filtered(self) -> bool:
        return any((self.action, self.actor, self.config, self.outcome, self.since, self.until))

    def of_api(self, limit: int = 50) -> AuditQuery:
        return AuditQuery(
            limit=limit,
            before=self.before,
            action=self.action,
            actor=self.actor,
            config_id=self.config,
            outcome=self.outcome,
            since=_midnight(self.since) if self.since else None,
            until=_midnight(self.until + timedelta(days=1)) if self.until and self.until < date.max else None,
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


async def show(request: ConsoleRequest[AuditSearch]) -> Response:
    """The trail, newest first."""
    search, found = request.query, await trail_page(request, request.query.of_api())
    keys, configs = await _keys(request), await configs_of(request)
    actions = sorted(_actions(request), key=lambda option: option[1])
    return page(
        request,
        "audit.html",
        search=search,
        entries=found.entries,
        next_before=found.next or None,
        keys=keys,
        configs=configs,
        providers=_providers(request),
        actions=_with(search.action, actions),
        actors=_with(search.actor, _actors(request, keys)),
        config_options=[(str(config.id), config.name) for config in configs.values()],
    )


Options = list[tuple[str, str]]


def _actions(request: AnyConsoleRequest) -> Options:
    return [(code, request.gettext(text)) for code, text in ACTIONS.items()]


def _actors(request: AnyConsoleRequest, keys: dict[str, str]) -> Options:
    others = [(PLATFORM, request.gettext("Platform")), (SYSTEM.name, request.gettext("The gateway itself"))]
    return others + [(key_id, f"{name} ({key_id})") for key_id, name in keys.items()]


def _with(chosen: str | None, options: Options) -> Options:
    """Also what was chosen otherwise, as by a link: what a refused change asked for is an action, too."""
    is_there = chosen is None or any(value == chosen for value, _ in options)
    return options if is_there else [*options, (chosen or "", chosen or "")]


async def show_entry(request: ConsoleRequest) -> Response:
    """One entry, with what it changed."""
    entry, is_newest = await _entry(request, request.number_in_path("entry_id"))
    configs = await configs_of(request)
    return page(
        request,
        "audit_entry.html",
        entry=entry,
        is_newest=is_newest,
        differences=differences(entry.before, entry.after),
        keys=await _keys(request),
        configs=configs,
        providers=_providers(request),
        names={str(config.id): config.name for config in configs.values()},
    )


async def _entry(request: AnyConsoleRequest, number: int) -> tuple[Entry, bool]:
    """That of the *number*, and whether it is the newest. Raises `Problem` 404."""
    found = {entry.id: entry for entry in (await trail_page(request, AuditQuery(limit=2, before=number + 2))).entries}
    if number not in found:
        raise not_found()
    return found[number], number + 1 not in found


async def verify(request: ConsoleRequest[VerifyQuery]) -> Response:
    """Whether the trail is whole, and its end, to be noted elsewhere."""
    query, state = request.query, request.state
    noted = (query.entries, query.hash.strip().lower())
    found = await verify_trail(
        state["database"], state["vault"], request.organization_id, noted if all(noted) else None
    )
    return page(request, "audit_verified.html", found=found, noted=query, is_compared=all(noted))


async def export(request: ConsoleRequest[AuditSearch]) -> Response:
    """All that the filters leave, as a file."""
    room = request.state["waiting"].room(request.organization_id)
    return csv_export(room, "audit", COLUMNS, _pages(request, request.query.of_api(EXPORTED)))


async def _pages(request: AnyConsoleRequest, query: AuditQuery) -> AsyncGenerator[Iterable[Sequence[object]], None]:
    while True:
        found = await trail_page(request, query)
        yield map(_row, found.entries)
        if not found.next:
            return
        query = msgspec.structs.replace(query, before=found.next)


def _row(entry: Entry) -> Sequence[object]:
    changed = [bytes(value).decode() if value != b"null" else None for value in (entry.before, entry.after)]
    return msgspec.structs.astuple(msgspec.structs.replace(entry, before=changed[0], after=changed[1]))


async def _keys(request: AnyConsoleRequest) -> dict[str, str]:
    """The names of the organization's keys."""
    async with request.connection() as connection:
        found = await organizations.keys(connection, request.organization_id, None, 200)
    return {key.id: key.name for key in found}


async def configs_of(request: AnyConsoleRequest) -> dict[UUID, Config]:
    """The organization's, by their ids."""
    return {config.id: config for config in await request.state["manager"].configs(request.organization_id)}


def _providers(request: AnyConsoleRequest) -> dict[str, str]:
    """What each is called."""
    known = request.state["manager"].registry.entries()
    return {entry.name: entry.info.display_name for entry in known if entry.info is not None}
