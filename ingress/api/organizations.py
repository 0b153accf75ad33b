"""Organizations and their API keys."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from .. import identifiers
from ..envelope import timestamp
from ..retention.periods import Periods
from ..storage.statements import organizations, switches
from ..storage.statements.lifetime import retention
from ..storage.statements.organizations import Organization
from ..storage.vault import is_key_id, new_api_key
from ..validation import Name
from ..web.auth import SCOPES, unauthorized
from ..web.bodies import Paged, RequestBody, RequestQuery, Shown, invalid, page_of
from ..web.limits import quota_reached
from ..web.problems import Problem, not_found
from . import AnyRequest, ApiRequest
from .audit import note

KEY_ENVIRONMENT = "live"
# Of an organization, that are neither revoked nor over.
MAX_KEYS = 50


class NewOrganization(RequestBody, frozen=True, kw_only=True):
    name: Name


class NewKey(RequestBody, frozen=True, kw_only=True):
    scopes: Annotated[list[Literal["send", "read", "configure", "admin"]], msgspec.Meta(min_length=1, max_length=16)]
    name: Name = "key"
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class DaysKept(Shown, frozen=True):
    """For how many days each is kept; `GET /retention` says more."""

    messages: int
    audit_trail: int
    deduplication_keys: int
    unmatched_statuses: int


class OrganizationShown(Shown, frozen=True):
    id: UUID
    name: str
    created_at: datetime
    retention: DaysKept


class OrganizationMade(Shown, frozen=True):
    id: UUID
    name: str


class Organizations(Shown, frozen=True):
    organizations: list[Organization]
    next: UUID | UnsetType = UNSET


class KeyMade(Shown, frozen=True):
    """A new key, shown this once."""

    id: str
    key: str
    name: str
    scopes: list[str]
    expires_at: datetime | None


class Keys(Shown, frozen=True):
    keys: list[organizations.ApiKey]
    next: str | UnsetType = UNSET


class Revoked(Shown, frozen=True):
    """The ids of keys."""

    revoked: list[str]


class OrganizationsQuery(Paged, frozen=True):
    """``search``: a part of the name, or the id; then they are in the order of names, else the oldest is first."""

    search: Annotated[str, msgspec.Meta(max_length=200)] = ""
    after: UUID | None = None


class KeysQuery(Paged, frozen=True):
    """``live``: only keys that are valid now, or only those that are not any more."""

    after: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    live: bool | None = None


class RevokeQuery(RequestQuery, frozen=True):
    """``made``: also every key that it made."""

    made: bool = False


async def create_organization(request: ApiRequest[NewOrganization]) -> OrganizationMade:
    """POST /organizations (platform key)."""
    return await create(request, (await request.decoded()).name)


async def create(request: AnyRequest, name: str) -> OrganizationMade:
    """An organization called *name*."""
    organization_id = identifiers.new_id()
    async with request.state["database"].worker() as connection, connection.transaction():
        await organizations.add(connection, organization_id, name)
        await note(connection, request, organization_id, "organization_created", {"name": name})
    return OrganizationMade(organization_id, name)


async def list_organizations(request: ApiRequest[None, OrganizationsQuery]) -> Organizations:
    """GET /organizations (platform key); `next` is the next page's `after`."""
    query = request.query
    async with request.state["database"].worker() as connection:
        if query.search:
            found = await organizations.search(connection, query.search, query.after, query.size + 1)
        else:
            found = await organizations.page(connection, query.after, query.size + 1)
    return page_of(Organizations, found, query.size)


async def show_organization(request: ApiRequest) -> OrganizationShown:
    """GET /organization: the organization of the key, and how long what is stored of it is kept."""
    async with request.connection() as connection:
        found = await organizations.by_id(connection, request.organization_id)
        own, _ = await retention.own(connection, request.organization_id)
    kept: Periods = request.state["periods"].of(own)
    days = DaysKept(kept.events, kept.audit, kept.keys, kept.statuses)
    return OrganizationShown(found.id, found.name, found.created_at, days)


async def rename_organization(request: ApiRequest[NewOrganization]) -> OrganizationShown:
    """PATCH /organization."""
    return await rename(request, (await request.decoded()).name)


async def rename(request: AnyRequest, name: str) -> OrganizationShown:
    """The organization, called *name* from now on."""
    organization_id = request.organization_id
    async with request.connection() as connection:
        former = await organizations.rename(connection, organization_id, name)
        if former != name:
            before, after = {"name": former}, {"name": name}
            await note(connection, request, organization_id, "organization_renamed", after, before=before)
    return await show_organization(request)


async def create_key(request: ApiRequest[NewKey]) -> KeyMade:
    """POST /keys: a new key, shown this once. Nobody can give a scope that is not theirs."""
    return await make_key(request, await request.decoded())


async def make_key(request: AnyRequest, body: NewKey) -> KeyMade:
    """A key as *body* says. Raises `Problem` 403, 409 or 422."""
    organization_id, principal = request.organization_id, request.principal
    _check_grant(request, body)
    scopes: list[str] = sorted(set(body.scopes))
    key_id, secret, key = new_api_key(KEY_ENVIRONMENT)
    async with request.connection() as connection:
        await organizations.lock(connection, organization_id)
        if await organizations.live_keys(connection, organization_id) >= MAX_KEYS:
            raise quota_reached(MAX_KEYS, "keys", "Revoke one first.")
        made = await organizations.add_key(
            connection,
            organization_id,
            key_id,
            name=body.name,
            secret_hash=request.state["vault"].key_hash(secret),
            scopes=scopes,
            expires_at=body.expires_at,
            made_by=None if principal.is_platform else principal.name,
        )
        if not made:  # revoked while it was still known here: what it makes now would outlive it
            raise request.refusal("unknown_key", unauthorized())
        ends = {"expires_at": timestamp(body.expires_at)} if body.expires_at else {}
        await note(connection, request, organization_id, "key_created", {"id": key_id, "scopes": scopes, **ends})
    return KeyMade(key_id, key, body.name, scopes, body.expires_at)


def _check_grant(request: AnyRequest, new: NewKey) -> None:
    """Raises `Problem` where the key that makes the request may not make *new*."""
    expires_at, ends = new.expires_at, request.principal.expires_at
    if not set(new.scopes) <= request.principal.scopes & SCOPES:
        raise _more_than_it_has(request, "A key cannot grant a scope that it lacks.")
    if ends and not (expires_at and expires_at <= ends):
        detail = f"This key expires, so expires_at must be given, and be {timestamp(ends)} at the latest."
        raise _more_than_it_has(request, detail)
    if expires_at and expires_at <= datetime.now(UTC):
        raise invalid(("expires_at", "is in the past"))


async def list_keys(request: ApiRequest[None, KeysQuery]) -> Keys:
    """GET /keys; `next` is the next page's `after`."""
    organization_id, query = request.organization_id, request.query
    if query.after is not None and not is_key_id(query.after):
        raise invalid(("after", "must be the id of a key"), what="The query")
    async with request.connection() as connection:
        found = await organizations.keys(connection, organization_id, query.after, query.size + 1, live=query.live)
    return page_of(Keys, found, query.size)


def _more_than_it_has(request: AnyRequest, detail: str) -> Problem:
    return request.refusal("more_than_it_has", Problem(403, "forbidden", detail))


async def revoke_key(request: ApiRequest[None, RevokeQuery]) -> Revoked | None:
    """DELETE /keys/{id}?made=1: refused everywhere within five seconds; with `made` also every key that it made."""
    revoked = await revoke(request, request.path_params["key_id"], made=request.query.made)
    return Revoked(revoked) if request.query.made else None


async def revoke(request: AnyRequest, key_id: str, *, made: bool) -> list[str]:
    """The ids of the keys that are not valid any more: *made* also those that it made. Raises `Problem` 404."""
    organization_id = request.organization_id
    if not is_key_id(key_id):
        raise not_found()
    async with request.connection() as connection:
        await organizations.lock(connection, organization_id)
        statement = organizations.revoke_made if made else organizations.revoke
        revoked = await statement(connection, organization_id, key_id)
        if not revoked:
            raise not_found()
        for after in ({"id": one} if one == key_id else {"id": one, "made_by": key_id} for one in revoked):
            await note(connection, request, organization_id, "key_revoked", after)
        await switches.notify(connection, organization_id, 0)
    return revoked
