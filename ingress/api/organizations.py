"""Organizations and their API keys."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .. import identifiers
from ..envelope import timestamp
from ..storage.database import Database
from ..storage.statements import organizations, switches
from ..storage.vault import Vault, is_key_id, new_api_key
from ..switching.change import CHANNEL
from ..validation import Name
from ..web.auth import SCOPES, Principal, authorize_platform, organization_of, refusal, unauthorized
from ..web.bodies import decode_kept, id_of, limit_of, page_response
from ..web.limits import quota_reached
from ..web.problems import Problem, json_response, not_found
from .audit import note

KEY_ENVIRONMENT = "live"
# Of an organization, that are neither revoked nor over.
MAX_KEYS = 50


class NewOrganization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scopes: Annotated[list[Literal["send", "read", "configure", "admin"]], msgspec.Meta(min_length=1, max_length=16)]
    name: Name = "key"
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


_organization = msgspec.json.Decoder(NewOrganization)
_key = msgspec.json.Decoder(NewKey)


async def create_organization(request: Request[Any]) -> Response:
    """POST /organizations (platform key)."""
    principal = await authorize_platform(request)
    asked = await decode_kept(request, _organization)
    organization_id = identifiers.new_id()
    database: Database = request.state["database"]
    async with database.worker() as connection, connection.transaction():
        await organizations.add(connection, organization_id, asked.name)
        await note(connection, request, principal, organization_id, "organization_created", {"name": asked.name})
    return json_response({"id": organization_id, "name": asked.name}, 201)


async def list_organizations(request: Request[Any]) -> Response:
    """GET /organizations (platform key); `next` is the next page's `after`."""
    await authorize_platform(request)
    after, limit = id_of(request, "after"), limit_of(request)
    database: Database = request.state["database"]
    async with database.worker() as connection:
        rows = await organizations.page(connection, after, limit + 1)
    return page_response("organizations", [dict(row) for row in rows], limit)


async def create_key(request: Request[Any]) -> Response:
    """POST /keys: a new key, shown this once. Nobody can give a scope that is not theirs."""
    organization_id, principal = await organization_of(request, "admin")
    asked = await decode_kept(request, _key)
    scopes: list[str] = sorted(set(asked.scopes))
    ends = principal.expires_at
    if not set(scopes) <= principal.scopes & SCOPES:
        raise _more_than_it_has(request, principal, "A key cannot give more than it has.")
    if ends is not None and (asked.expires_at is None or asked.expires_at > ends):
        detail = f"This key ends, so expires_at must be given, and no later than {timestamp(ends)}."
        raise _more_than_it_has(request, principal, detail)
    if asked.expires_at is not None and asked.expires_at <= datetime.now(UTC):
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[("expires_at", "is in the past")])
    vault: Vault = request.state["vault"]
    key_id, secret, key = new_api_key(KEY_ENVIRONMENT)
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        await organizations.lock(connection, organization_id)
        if await organizations.live_keys(connection, organization_id) >= MAX_KEYS:
            raise quota_reached(MAX_KEYS, "keys", "Revoke one first.")
        made = await organizations.add_key(
            connection,
            organization_id,
            key_id,
            name=asked.name,
            secret_hash=vault.key_hash(secret),
            scopes=scopes,
            expires_at=asked.expires_at,
            made_by=None if principal.is_platform else principal.name,
        )
        if not made:  # revoked while it was still known here: what it makes now would outlive it
            raise refusal(request, principal, "unknown_key", unauthorized())
        after = {"id": key_id, "scopes": scopes}
        await note(connection, request, principal, organization_id, "key_created", after)
    return json_response({"id": key_id, "key": key, "name": asked.name, "scopes": scopes}, 201)


async def list_keys(request: Request[Any]) -> Response:
    """GET /keys; `next` is the next page's `after`."""
    organization_id, _ = await organization_of(request, "admin")
    limit = limit_of(request)
    after = request.query_params.get("after")
    if after and not is_key_id(after):
        raise Problem(422, "invalid_request", "A query parameter is not valid.", errors=[("after", "is no key's id")])
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        rows = await organizations.keys(connection, organization_id, after, limit + 1)
    return page_response("keys", [dict(row) for row in rows], limit)


def _more_than_it_has(request: Request[Any], principal: Principal, detail: str) -> Problem:
    return refusal(request, principal, "more_than_it_has", Problem(403, "forbidden", detail))


async def revoke_key(request: Request[Any]) -> Response:
    """DELETE /keys/{id}?made=1: refused everywhere within five seconds; with `made` also every key that it made."""
    organization_id, principal = await organization_of(request, "admin")
    key_id = request.path_params["key_id"]
    made = request.query_params.get("made") in ("1", "true")
    if not is_key_id(key_id):
        raise not_found()
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        await organizations.lock(connection, organization_id)
        if made:
            revoked = await organizations.revoke_made(connection, organization_id, key_id)
        else:
            revoked = [key_id] if await organizations.revoke(connection, organization_id, key_id) else []
        if not revoked:
            raise not_found()
        for one in revoked:
            after = {"id": one} if one == key_id else {"id": one, "made_by": key_id}
            await note(connection, request, principal, organization_id, "key_revoked", after)
        await switches.notify(connection, organization_id, CHANNEL, 0)
    return json_response({"revoked": revoked}) if made else Response(status_code=204)
