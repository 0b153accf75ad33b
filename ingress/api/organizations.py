"""Organizations and their API keys."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, UnsetType

from .. import identifiers
from ..envelope import timestamp
from ..storage.statements import organizations, switches
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


class OrganizationMade(Shown, frozen=True):
    id: UUID
    name: str


class Organizations(Shown, frozen=True):
    organizations: list[organizations.Organization]
    next: UUID | UnsetType = UNSET


class KeyMade(Shown, frozen=True):
    """A new key, shown this once."""

    id: str
    key: str
    name: str
    scopes: list[str]


class Keys(Shown, frozen=True):
    keys: list[organizations.ApiKey]
    next: str | UnsetType = UNSET


class Revoked(Shown, frozen=True):
    """The ids of keys."""

    revoked: list[str]


class OrganizationsQuery(Paged, frozen=True):
    after: UUID | None = None


class KeysQuery(Paged, frozen=True):
    after: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class RevokeQuery(RequestQuery, frozen=True):
    """``made``: also every key that it made."""

    made: bool = False


async def create_organization(request: ApiRequest[NewOrganization]) -> OrganizationMade:
    """POST /organizations (platform key)."""
    body = await request.decoded()
    organization_id = identifiers.new_id()
    async with request.state["database"].worker() as connection, connection.transaction():
        await organizations.add(connection, organization_id, body.name)
        await note(connection, request, organization_id, "organization_created", {"name": body.name})
    return OrganizationMade(organization_id, body.name)


async def list_organizations(request: ApiRequest[None, OrganizationsQuery]) -> Organizations:
    """GET /organizations (platform key); `next` is the next page's `after`."""
    query = request.query
    async with request.state["database"].worker() as connection:
        found = await organizations.page(connection, query.after, query.size + 1)
    return page_of(Organizations, found, query.size)


async def create_key(request: ApiRequest[NewKey]) -> KeyMade:
    """POST /keys: a new key, shown this once. Nobody can give a scope that is not theirs."""
    organization_id, principal = request.organization_id, request.principal
    body = await request.decoded()
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
        await note(connection, request, organization_id, "key_created", {"id": key_id, "scopes": scopes})
    return KeyMade(key_id, key, body.name, scopes)


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
        found = await organizations.keys(connection, organization_id, query.after, query.size + 1)
    return page_of(Keys, found, query.size)


def _more_than_it_has(request: AnyRequest, detail: str) -> Problem:
    return request.refusal("more_than_it_has", Problem(403, "forbidden", detail))


async def revoke_key(request: ApiRequest[None, RevokeQuery]) -> Revoked | None:
    """DELETE /keys/{id}?made=1: refused everywhere within five seconds; with `made` also every key that it made."""
    organization_id, key_id = request.organization_id, request.path_params["key_id"]
    if not is_key_id(key_id):
        raise not_found()
    async with request.connection() as connection:
        revoked = await _revoke(connection, request, key_id)
        for one in revoked:
            by = {} if one == key_id else {"made_by": key_id}
            await note(connection, request, organization_id, "key_revoked", {"id": one, **by})
        await switches.notify(connection, organization_id, 0)
    return Revoked(revoked) if request.query.made else None


async def _revoke(connection: asyncpg.Connection, request: AnyRequest, key_id: str) -> list[str]:
    """The ids of the keys that were not yet. Raises `Problem` 404 for none."""
    await organizations.lock(connection, request.organization_id)
    revoke = organizations.revoke_made if request.query.made else organizations.revoke
    revoked = await revoke(connection, request.organization_id, key_id)
    if not revoked:
        raise not_found()
    return revoked
