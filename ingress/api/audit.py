"""The audit trail: what handlers write in it, reading it, and whether it is whole."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from .. import log
from ..audit import AuditEntry, record, verify
from ..identifiers import PLATFORM_ID
from ..storage.statements import audit
from ..storage.statements.audit import TrailEntry
from ..web.bodies import Number, Paged, RequestQuery, Shown, page_of
from ..web.waiting import Page
from . import AnyRequest, ApiRequest


class AuditQuery(Paged, frozen=True):
    before: Number = 0


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
    """An end of the trail that was noted before."""

    entries: Number = 0
    hash: str = ""


class TrailVerdict(Shown, frozen=True):
    """``first_broken``: the first entry that is not as it was written, and why."""

    intact: bool
    entries: int
    hash: str | None
    first_broken: int | UnsetType = UNSET
    reason: str | UnsetType | None = UNSET


async def list_audit(request: ApiRequest[None, AuditQuery]) -> Page[Trail]:
    """GET …/audit: every change of a provider, newest first; `next` is the next page's `before`."""
    organization_id, query = request.organization_id, request.query

    async def read() -> Trail:
        async with request.connection() as connection:
            found, more = await audit.trail(connection, organization_id, query.before or None, query.size + 1)
        return page_of(Trail, list(map(_entry, found)), query.size, more=more)

    return request.page(read)


def _entry(entry: TrailEntry) -> Entry:
    before, after = (msgspec.Raw(value or b"null") for value in (entry.before, entry.after))
    return Entry(**msgspec.structs.asdict(entry) | {"before": before, "after": after, "hash": entry.hash.hex()})


async def verify_audit(request: ApiRequest[None, VerifyQuery]) -> TrailVerdict:
    """GET …/audit/verify: whether nobody changed the trail. ?entries=&hash= are an end that was noted before."""
    noted = (request.query.entries, request.query.hash.lower())
    state = request.state
    found = await verify(state["database"], state["vault"], request.organization_id, noted if all(noted) else None)
    if found.broken is None:
        return TrailVerdict(True, found.entries, found.hash)
    return TrailVerdict(False, found.entries, found.hash, found.broken, found.reason)


async def note(
    connection: Any,
    request: AnyRequest,
    organization_id: UUID,
    action: str,
    after: object,
    config_id: UUID | None = None,
) -> None:
    """Write in the organization's trail who did what, in the transaction that does it."""
    actor = request.actor
    if organization_id == PLATFORM_ID:  # what came in at the addresses of apps is in no organization's trail
        log.wide(action, actor=actor.name, address=actor.address, after=after)
        return
    entry = AuditEntry(action=action, actor=actor, after=after, config_id=config_id)
    await record(connection, request.state["vault"], organization_id, entry)
