"""Organizations, API keys, the CRM's callback, and the quarantine."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any, Literal
from uuid import UUID

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers import Malformed

from .. import identifiers, log
from ..audit import Actor, record
from ..calls.driver import UNREACHED_AFTER_S
from ..calls.egress import Egress, InvalidUrl
from ..calls.transfers import Busy, Transfers
from ..delivery.relay import Endpoint, Secret, post, rotated
from ..envelope import timestamp
from ..identifiers import PLATFORM_ID, parse_id
from ..receiving.webhooks import WebhookReceiver
from ..storage.database import Database
from ..storage.statements import deliveries, inbound, organizations
from ..storage.statements.retention import MAX_AGE
from ..storage.vault import Vault, is_key_id, new_api_key
from ..switching.manager import WhatsAppProviderManager
from ..validation import Name
from ..web.auth import SCOPES, Principal, authorize_platform, client_address, organization_of, refusal, unauthorized
from ..web.limits import check_calls_out, quota_reached
from ..web.middleware import decode_kept, id_of, int_of, limit_of, page_response
from ..web.problems import Problem, json_response, not_found, unavailable
from ..web.waiting import Waiting, json_page

KEY_ENVIRONMENT = "live"
# Of an organization, that are neither revoked nor over.
MAX_KEYS = 50


class NewOrganization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scopes: Annotated[list[Literal["send", "read", "configure", "admin"]], msgspec.Meta(min_length=1, max_length=16)]
    name: Name = "key"
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class NewCallback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]

    def __repr__(self) -> str:
        return "NewCallback(…)"


class Replay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which parked events: those of ``sequences``, or all."""

    sequences: (
        Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]], msgspec.Meta(max_length=1000)] | None
    ) = None


_organization = msgspec.json.Decoder(NewOrganization)
_key = msgspec.json.Decoder(NewKey)
_callback = msgspec.json.Decoder(NewCallback)
_replay = msgspec.json.Decoder(Replay)
_encode = msgspec.json.Encoder().encode


async def _audit(
    connection: Any, request: Request[Any], principal: Principal, organization_id: UUID, action: str, after: object
) -> None:
    actor = Actor(principal.name, client_address(request))
    if organization_id == PLATFORM_ID:  # what came in at the addresses of apps is in no organization's trail
        log.wide(action, actor=actor.name, address=actor.address, after=after)
        return
    await record(connection, request.state["vault"], organization_id, actor, action, after=after)


# ------------------------------------------------------------------ organizations


async def create_organization(request: Request[Any]) -> Response:
    """POST /organizations (platform key)."""
    principal = await authorize_platform(request)
    asked = await decode_kept(request, _organization)
    organization_id = identifiers.new_id()
    database: Database = request.state["database"]
    async with database.worker() as connection, connection.transaction():
        await organizations.add(connection, organization_id, asked.name)
        await _audit(connection, request, principal, organization_id, "organization_created", {"name": asked.name})
    return json_response({"id": organization_id, "name": asked.name}, 201)


async def list_organizations(request: Request[Any]) -> Response:
    """GET /organizations (platform key); `next` is the next page's `after`."""
    await authorize_platform(request)
    after, limit = id_of(request, "after"), limit_of(request)
    database: Database = request.state["database"]
    async with database.worker() as connection:
        rows = await organizations.page(connection, after, limit + 1)
    return page_response("organizations", [dict(row) for row in rows], limit)


# ------------------------------------------------------------------ keys


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
        await _audit(connection, request, principal, organization_id, "key_created", after)
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
            await _audit(connection, request, principal, organization_id, "key_revoked", after)
    return json_response({"revoked": revoked}) if made else Response(status_code=204)


# ------------------------------------------------------------------ callback


async def put_callback(request: Request[Any]) -> Response:
    """PUT /callback: where events are posted; a new secret, shown this once. Former ones sign on for a day."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _callback)
    egress: Egress = request.state["egress"]
    try:
        egress.check_url(asked.url)
    except InvalidUrl as error:
        raise Problem(422, "invalid_request", "The body is not valid.", errors=[("url", str(error))]) from None
    database: Database = request.state["database"]
    # What a callback that was removed has left is for this one only if it is asked for.
    await _throughout(database, organization_id, deliveries.park)
    async with database.organization(organization_id) as connection:
        await deliveries.lock_callback(connection, organization_id)
        former = await deliveries.callback(connection, organization_id)
        secrets = rotated(_secrets(request, organization_id, former) if former else [], datetime.now(UTC))
        vault: Vault = request.state["vault"]
        sealed = vault.seal(_encode(secrets), str(organization_id), "callback", "secrets")
        await deliveries.put_callback(connection, organization_id, asked.url, sealed)
        await _audit(
            connection, request, principal, organization_id, "callback_set", {"url": vault.masked_url(asked.url)}
        )
    # Who sets it has repaired it: what failed is not kept waiting for the hours it would be left alone.
    await _throughout(database, organization_id, deliveries.due_now)
    request.state["wakeups"].notify(organization_id)
    return json_response({"url": asked.url, "secret": secrets[0].secret})


async def get_callback(request: Request[Any]) -> Response:
    """GET /callback: its address (whole for who may set it) and health, without its secret."""
    organization_id, principal = await organization_of(request, "read")
    row = await _callback_row(request, organization_id)
    vault: Vault = request.state["vault"]
    return json_response(
        {
            "url": row["url"] if "configure" in principal.scopes else vault.masked_url(row["url"]),
            "state": "disabled" if row["disabled_at"] else "failing" if row["failing_since"] else "healthy",
            "disabled_reason": row["disabled_reason"],
            "failing_since": row["failing_since"],
            "last_error": row["last_error"],
            "consecutive_failures": row["consecutive_failures"],
            "paused_until": row["paused_until"],
        }
    )


async def delete_callback(request: Request[Any]) -> Response:
    """DELETE /callback: nothing is posted any more; events stay readable, and what was to be delivered is parked."""
    organization_id, principal = await organization_of(request, "configure")
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        dropped = await deliveries.drop_callback(connection, organization_id)
        if dropped:
            await _audit(connection, request, principal, organization_id, "callback_removed", None)
    await _throughout(database, organization_id, deliveries.park)  # also the rest, where a former call broke off
    if not dropped:
        raise not_found()
    return Response(status_code=204)


async def test_callback(request: Request[Any]) -> Response:
    """POST /callback/test: post one signed test event now, and say how it went."""
    organization_id, principal = await organization_of(request, "configure")
    check_calls_out(request, organization_id)
    row = await _callback_row(request, organization_id)
    endpoint = Endpoint(row["url"], _secrets(request, organization_id, row))
    event_id = f"evt_{identifiers.new_id().hex}"
    data = {"organization_id": organization_id}
    body = _encode({"type": "callback.test", "timestamp": timestamp(datetime.now(UTC)), "id": event_id, "data": data})
    session: aiohttp.ClientSession = request.state["session"]
    transfers: Transfers = request.state["transfers"]
    began = monotonic()
    try:
        with transfers.room(organization_id):
            answer = await post(session, endpoint, event_id, body)
    except Busy:
        raise unavailable("Too many calls of the organization are under way.") from None
    if answer.kind == "connection":  # how fast it fails would say whether there is such a name
        await asyncio.sleep(began + UNREACHED_AFTER_S - monotonic())
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        after = {"id": event_id, "outcome": answer.kind}
        await _audit(connection, request, principal, organization_id, "callback_tested", after)
    return json_response({"delivered": answer.ok, "outcome": answer.kind, "error": answer.error, "id": event_id})


async def list_parked(request: Request[Any]) -> Response:
    """GET /callback/parked: events that were given up; `next` is the next page's `after`."""
    organization_id, _ = await organization_of(request, "read")
    limit = limit_of(request)
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        rows = await deliveries.parked(connection, organization_id, int_of(request, "after", 0), limit + 1)
    return page_response("parked", [dict(row) for row in rows], limit, "sequence")


async def replay_parked(request: Request[Any]) -> Response:
    """POST /callback/replay: deliver parked events after all."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_kept(request, _replay)
    database: Database = request.state["database"]
    replayed = 0
    after: int | None = 0
    while after is not None:
        async with database.organization(organization_id) as connection:
            count, after = await deliveries.replay(connection, organization_id, asked.sequences, after)
            if count and not replayed:  # once, with the first batch of them
                wanted = {"sequences": asked.sequences or "all"}
                await _audit(connection, request, principal, organization_id, "parked_replayed", wanted)
        replayed += count
    request.state["wakeups"].notify(organization_id)
    return json_response({"replayed": replayed})


async def _throughout(
    database: Database, organization_id: UUID, part: Callable[[Any, UUID, UUID], Awaitable[UUID | None]]
) -> None:
    """All of a backlog, a batch of conversations in a transaction: see `deliveries.BATCH_ROWS`."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        async with database.organization(organization_id) as connection:
            after = await part(connection, organization_id, after)


async def _callback_row(request: Request[Any], organization_id: UUID) -> Any:
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        row = await deliveries.callback(connection, organization_id)
    if row is None:
        raise not_found()
    return row


def _secrets(request: Request[Any], organization_id: UUID, row: Any) -> list[Secret]:
    vault: Vault = request.state["vault"]
    plain = vault.open(row["secrets"], str(organization_id), "callback", "secrets")
    return msgspec.json.decode(plain, type=list[Secret])


# ------------------------------------------------------------------ quarantine


async def _whose(request: Request[Any], scope: str) -> tuple[UUID, Principal, bool]:
    """Under whose addresses it came in, who asks, and whether for what only the platform may see of it (?foreign=1).

    Without an organization that is what came in at the addresses of apps. Raises `Problem`.
    """
    if request.query_params.get("foreign") in ("1", "true"):
        principal = await authorize_platform(request)
        return principal.organization_id or PLATFORM_ID, principal, True
    organization_id, principal = await organization_of(request, scope)
    return organization_id, principal, False


def _quarantine(request: Request[Any], organization_id: UUID, foreign: bool) -> AbstractAsyncContextManager[Any]:
    """A connection that sees the organization's, or, where *foreign*, what row-level security hides from it."""
    database: Database = request.state["database"]
    return database.worker() if foreign else database.organization(organization_id)


async def list_quarantine(request: Request[Any]) -> Response:
    """GET /quarantine?state=open: bodies that could not be read; `next` is the next page's `after`."""
    organization_id, _, foreign = await _whose(request, "read")
    state = request.query_params.get("state", "open")
    if state not in ("open", "replayed", "discarded"):
        raise Problem(
            422, "invalid_request", "A query parameter is not valid.", errors=[("state", "open, replayed or discarded")]
        )
    after, limit = id_of(request, "after"), limit_of(request)
    async with _quarantine(request, organization_id, foreign) as connection:
        rows = await inbound.quarantined(connection, organization_id, state, after, limit + 1, foreign=foreign)
    return page_response("quarantine", [dict(row) for row in rows], limit)


async def _quarantine_item(request: Request[Any], organization_id: UUID, foreign: bool) -> Any:
    quarantine_id = parse_id(request.path_params["quarantine_id"])
    if quarantine_id is None:
        raise not_found()
    async with _quarantine(request, organization_id, foreign) as connection:
        row = await inbound.quarantine_item(connection, organization_id, quarantine_id, foreign=foreign)
    if row is None:
        raise not_found()
    return row


async def show_quarantine(request: Request[Any]) -> Response:
    """GET /quarantine/{id}: with the body, base64 (bytes that could not be read need not be text)."""
    organization_id, principal, foreign = await _whose(request, "read")

    async def read() -> object:
        row = await _quarantine_item(request, organization_id, foreign)
        if foreign:  # nobody else sees it, so who looks at it is written down
            async with _quarantine(request, organization_id, foreign) as connection, connection.transaction():
                await _audit(connection, request, principal, organization_id, "quarantine_shown", _item(row))
        return {name: row[name] for name in ("id", "config_id", "received_at", "reason", "state", "body")}

    return json_page(request, organization_id, read)


async def replay_quarantine(request: Request[Any]) -> Response:
    """POST /quarantine/{id}/replay: read the body again; 409 if still nothing can be read in it."""
    organization_id, principal, foreign = await _whose(request, "configure")
    waiting: Waiting = request.state["waiting"]
    async with waiting.replay(organization_id):
        return await _replayed(request, principal, organization_id, foreign)


async def _replayed(request: Request[Any], principal: Principal, organization_id: UUID, foreign: bool) -> Response:
    row = await _quarantine_item(request, organization_id, foreign)
    if row["state"] != "open":
        raise Problem(409, "not_open", f"It was {row['state']} already.")
    if row["partly_taken"] and datetime.now(UTC) - row["received_at"] > MAX_AGE:
        raise Problem(
            409, "too_old", "Part of it was taken when it came, too long ago to be known again. It stays here."
        )
    manager: WhatsAppProviderManager = request.state["manager"]
    config = await manager.receiver(organization_id, row["config_id"])
    if config is None:
        raise not_found()
    receiver: WebhookReceiver = request.state["receiver"]
    try:
        fresh, is_whole = await receiver.replay(config, row, foreign=foreign)
    except Malformed:
        raise Problem(409, "still_unreadable", "Still nothing can be read in it; it stays here.") from None
    if not is_whole:  # in part it is about accounts that are nobody's yet
        async with _quarantine(request, organization_id, foreign) as connection, connection.transaction():
            after = {**_item(row), "events": fresh}
            await _audit(connection, request, principal, organization_id, "quarantine_replayed", after)
        return json_response({"state": "open", "events": fresh})
    await _close(request, principal, organization_id, row, "replayed", foreign)
    return json_response({"state": "replayed", "events": fresh})


async def discard_quarantine(request: Request[Any]) -> Response:
    """POST /quarantine/{id}/discard: nobody needs it."""
    organization_id, principal, foreign = await _whose(request, "configure")
    row = await _quarantine_item(request, organization_id, foreign)
    if not await _close(request, principal, organization_id, row, "discarded", foreign):
        raise Problem(409, "not_open", f"It was {row['state']} already.")
    return json_response({"state": "discarded"})


async def _close(
    request: Request[Any], principal: Principal, organization_id: UUID, row: Any, state: str, foreign: bool
) -> bool:
    """False: somebody else was faster."""
    async with _quarantine(request, organization_id, foreign) as connection, connection.transaction():
        closed = await inbound.close_quarantined(connection, organization_id, row["id"], state, foreign=foreign)
        if closed:
            await _audit(connection, request, principal, organization_id, f"quarantine_{state}", _item(row))
    return closed


def _item(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "config_id", "reason")}
