"""The audit trail: what handlers write in it, also of what they refuse, reading it, and whether it is whole."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Set
from datetime import datetime
from itertools import takewhile
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from .. import log
from ..accounts.config import ChangeRefused
from ..audit.trail import RECORDED, Actor, AuditEntry, record
from ..audit.verification import verify
from ..identifiers import PLATFORM_ID, parse_id
from ..storage.database import Database
from ..storage.statements import audit
from ..storage.statements.audit import TrailEntry, TrailFilter
from ..storage.vault import Vault
from ..switching.manager import WhatsAppProviderManager
from ..web import routing
from ..web.bodies import Disconnected, Number, Paged, RequestQuery, Shown, page_of
from ..web.limits import Limiter
from ..web.problems import UNEXPECTED, Problem, problem_of
from ..web.waiting import Page
from . import AnyRequest, ApiRequest
from .refusals import refusal

logger = logging.getLogger("ingress.api.audit")

REFUSALS_AT_ONCE, REFUSALS_EVERY_S = 20, 60.0
Who = tuple[UUID, str]  # an organization, and the name of who asked

Word = Annotated[str, msgspec.Meta(max_length=64)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class AuditQuery(Paged, frozen=True):
    """Entries below the number ``before``, from ``since`` on and before ``until``, with all else that is given."""

    before: Number = 0
    action: Word | None = None
    actor: Word | None = None
    config_id: UUID | None = None
    outcome: Literal["done", "refused", "undone"] | None = None
    since: Moment | None = None
    until: Moment | None = None


class Entry(Shown, frozen=True, kw_only=True):
    """``before`` and ``after`` as they were written. ``at`` None: a time that this service writes no entry at."""

    id: int
    at: datetime | None
    action: str
    actor: str
    address: str | None
    config_id: UUID | None
    provider: str | None
    outcome: str
    version: int | None
    reason: str | None
    before: msgspec.Raw
    after: msgspec.Raw
    hash: str


class Trail(Shown, frozen=True):
    entries: list[Entry]
    next: int | UnsetType = UNSET


class VerifyQuery(RequestQuery, frozen=True):
    """An end of the trail that was noted before, and behind which entry to begin."""

    entries: Number = 0
    hash: Annotated[str, msgspec.Meta(pattern=r"^\s*[0-9a-fA-F]*\s*$", max_length=512)] = ""
    after: Number | None = None


class TrailVerdict(Shown, frozen=True):
    """``first_broken``: the first entry that is not as it was written, and why.

    ``first``: where it began, if not with the first one. ``next``: the `after` to go on with, if there is more.
    """

    intact: bool
    entries: int
    hash: str | None
    first_broken: int | UnsetType = UNSET
    reason: str | UnsetType | None = UNSET
    first: int | UnsetType = UNSET
    next: int | UnsetType = UNSET


async def list_audit(request: ApiRequest[None, AuditQuery]) -> Page[Trail]:
    """GET …/audit: every change of a provider, newest first; `next` is the next page's `before`."""

    async def read() -> Trail:
        return await trail_page(request, request.query)

    return request.page(read)


async def trail_page(request: AnyRequest, query: AuditQuery) -> Trail:
    """The entries that *query* is about."""
    organization_id = request.organization_id
    async with request.connection() as connection:
        only = await _filter(connection, organization_id, query)
        found, more = await audit.trail(connection, organization_id, only, query.size + 1)
    return page_of(Trail, list(map(_entry, found)), query.size, more=more)


async def _filter(connection: Any, organization_id: UUID, query: AuditQuery) -> TrailFilter:
    only = TrailFilter(query.config_id, query.actor, query.outcome, query.action)
    if query.since:
        only = only._replace(first=await audit.first_at(connection, organization_id, query.since))
    if query.until:
        only = only._replace(end=await audit.first_at(connection, organization_id, query.until))
    return only._replace(end=min(only.end, query.before or only.end))


def _entry(entry: TrailEntry) -> Entry:
    before, after = (msgspec.Raw(value or b"null") for value in (entry.before, entry.after))
    return Entry(**msgspec.structs.asdict(entry) | {"before": before, "after": after, "hash": entry.hash.hex()})


async def verify_audit(request: ApiRequest[None, VerifyQuery]) -> TrailVerdict:
    """GET …/audit/verify: whether nobody changed the trail. ?entries=&hash= are an end that was noted before.

    Some thousand entries of it: of a longer one, without ?after=, those from where it was last verified.
    """
    query, state = request.query, request.state
    noted = (query.entries, query.hash.lower())
    whose = state["database"], state["vault"], request.organization_id
    found = await verify(*whose, noted if all(noted) else None, query.after)
    rest = found.first if found.first > 1 else UNSET, UNSET if found.next is None else found.next
    if found.broken is None:
        return TrailVerdict(True, found.entries, found.hash, UNSET, UNSET, *rest)
    return TrailVerdict(False, found.entries, found.hash, found.broken, found.reason, *rest)


async def note(
    connection: Any,
    request: AnyRequest,
    organization_id: UUID,
    action: str,
    after: object,
    config_id: UUID | None = None,
    *,
    before: object = None,
) -> None:
    """Write in the organization's trail who did what, in the transaction that does it."""
    actor = request.actor
    if organization_id == PLATFORM_ID:  # what came in at the addresses of apps is in no organization's trail
        log.wide(action, actor=actor.name, address=actor.address, after=after)
        return
    entry = AuditEntry(action=action, actor=actor, before=before, after=after, config_id=config_id)
    await record(connection, request.state["vault"], organization_id, entry)


# ------------------------------------------------------------------ changes that were refused


class RefusedChanges:
    """What was asked to change and was not changed, in the trail of whose key asked: written here, and nowhere else.

    A key that asks for nonsense all day makes REFUSALS_AT_ONCE entries, then one in REFUSALS_EVERY_S; the requests
    between are counted, and the counts are an entry of their own, once in REFUSALS_EVERY_S. That is of each process.
    """

    def __init__(self, database: Database, vault: Vault, manager: WhatsAppProviderManager) -> None:
        self._database = database
        self._vault = vault
        self._manager = manager
        self._turns = Limiter(REFUSALS_EVERY_S, REFUSALS_AT_ONCE)
        self._counted: dict[Who, Counter[str]] = {}  # by operation and code, since they were last written

    async def note(self, request: routing.AnyRequest, error: Exception) -> None:
        """Write down that *request* ended with *error*, unless a change that was taken back has left its entry."""
        principal = getattr(request, "principal", None)  # a stranger has no trail
        if principal is None or isinstance(error, Disconnected) or _is_recorded(error) or _is_dry(request):
            return
        problem = refusal(error) if isinstance(error, ChangeRefused) else problem_of(error) or UNEXPECTED
        organization_id = principal.organization_id
        if organization_id is None:
            log.wide("change_refused", operation=request.operation, reason=problem.code, **request.actor._asdict())
            return
        if self._turns.take((organization_id, principal.name)) > 0:
            return self._count((organization_id, principal.name), request, problem)
        try:
            await self._write(organization_id, await self._entry(request, organization_id, problem))
        except Exception as failed:  # noqa: BLE001  (the answer is why it was refused, not why that was not written)
            logger.warning("a refused change has no entry yet: %s", type(failed).__name__)
            self._count((organization_id, principal.name), request, problem)

    def _count(self, who: Who, request: routing.AnyRequest, problem: Problem) -> None:
        self._counted.setdefault(who, Counter())[f"{request.operation} {problem.code}"] += 1

    async def sum_up(self) -> None:
        """Write the counts of what had no entry of its own. Raises `StoreUnavailable`; then they are kept."""
        for who in [*self._counted]:
            counts = self._counted.pop(who)
            try:
                await self._write(who[0], _summary(who, counts))
            except BaseException:
                self._counted.setdefault(who, Counter()).update(counts)
                raise

    async def _write(self, organization_id: UUID, entry: AuditEntry) -> None:
        async with self._database.organization(organization_id) as connection:
            await record(connection, self._vault, organization_id, entry)

    async def _entry(self, request: routing.AnyRequest, organization_id: UUID, problem: Problem) -> AuditEntry:
        body = _object_in(request.sent)
        config_id, kind = await self._config(request, organization_id, body)
        kind = kind or body.get("provider_type")
        provider = kind if isinstance(kind, str) and kind in self._manager.registry.names() else None
        accounts, after = self._manager.accounts, dict[str, Any](status=problem.status)
        names = {*request.field_names, *(accounts.field_names(provider) if provider else ())}
        if wrong := {_known_part(path, names) for path, _ in problem.errors} - {""}:
            after["errors"] = sorted(wrong)
        if provider is not None and isinstance(data := body.get("config_data"), dict):
            after["config_data"] = accounts.masked_data(provider, data)
        return AuditEntry(
            action=request.operation,
            actor=request.actor,
            config_id=config_id,
            provider=provider,
            outcome="refused",
            after=after,
            reason=problem.code,
        )

    async def _config(
        self, request: routing.AnyRequest, organization_id: UUID, body: Mapping[str, Any]
    ) -> tuple[UUID | None, str | None]:
        """The config that was to be changed, and its provider: one of its own. Nobody's else is named."""
        named = request.path_params.get("config_id") or body.get("config_id")
        config_id = parse_id(named) if isinstance(named, str) else None
        config = await self._manager.config(organization_id, config_id) if config_id else None
        return (config.id, config.provider_type) if config else (None, None)


def _known_part(path: str, names: Set[str]) -> str:
    """*path* as far as it has *names*: what nobody knows is named as somebody likes, and may be a secret."""
    return ".".join(takewhile(names.__contains__, re.split(r"[.\[]", path)))


def _summary(who: Who, counts: Counter[str]) -> AuditEntry:
    return AuditEntry(
        action="more_refused",
        actor=Actor(who[1]),
        outcome="refused",
        after={"requests": counts.total(), "by_operation": dict(counts.most_common())},
    )


def _is_recorded(error: BaseException | None) -> bool:
    """Whether the trail has it already, also where it was made a problem of."""
    while error is not None:
        if RECORDED in getattr(error, "__notes__", ()):
            return True
        error = error.__context__
    return False


def _is_dry(request: routing.AnyRequest) -> bool:
    """Whether it only asked what a change would mean, where that can be asked."""
    return "dry_run" in request.field_names and _object_in(request.sent).get("dry_run") is True


def _object_in(body: bytes) -> dict[str, Any]:
    """*body* where it is a JSON object, else an empty one."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return {}
