"""Linking a phone to the account of a config that needs one."""

import asyncio
import base64
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from providers import Pairing, SendError

from .. import audit
from ..accounts.accounts import Config
from ..audit import Actor
from ..storage.database import Database
from ..storage.statements import health, switches
from ..switching.change import CHANNEL
from ..switching.manager import WhatsAppProviderManager
from ..web.auth import client_address, organization_of
from ..web.bodies import decode_body
from ..web.limits import LOOK_WEIGHT, check_calls_out
from ..web.problems import Problem, call_problem, json_response
from .configs import chosen_config, named_config

# Somebody fetches the phone, and scans.
WATCHED_S = 300.0
# A session that was started just now is not ready to be linked.
READY_WITHIN_S, READY_POLL_S = 3.0, 0.1


class PairingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST provider/pairing. ``phone``: also tell a code to type into WhatsApp on that phone."""

    config_id: UUID | None = None  # None: the active one
    phone: Annotated[str, msgspec.Meta(max_length=16, pattern=r"^\+[1-9][0-9]{6,14}(?!\s)$")] | None = None

    def __repr__(self) -> str:
        return f"PairingRequest({self.config_id})"


_pairing = msgspec.json.Decoder(PairingRequest)


async def start_pairing(request: Request[Any]) -> Response:
    """POST …/provider/pairing: link a phone to a config, or go on with it: the QR code as text and as a picture."""
    organization_id, principal = await organization_of(request, "configure")
    asked = await decode_body(request, _pairing)
    check_calls_out(request, organization_id)
    config = await named_config(request, organization_id, asked.config_id)
    manager: WhatsAppProviderManager = request.state["manager"]
    try:
        told = await _ready(manager, config)
        if told.state == "failed":
            checks = await manager.accounts.set_up(config.provider, config.callback_url)
            if failed := next((check for check in checks if not check.passed and check.name == "setup"), None):
                raise Problem(502, "provider_unreachable", f"The account could not be set up: {failed.detail}")
            told = await _ready(manager, config)
        code = await manager.accounts.run(config.provider.pairing_code(asked.phone)) if asked.phone else None
    except SendError as error:
        raise call_problem(error) from error
    await _note(request, config, told.state, "pairing_started", Actor(principal.name, client_address(request)))
    return json_response(_shown(config, told) | ({"code": code} if code else {}))


async def show_pairing(request: Request[Any]) -> Response:
    """GET …/provider/pairing?config_id=&format=png: how it stands, with the QR code that is shown now."""
    organization_id, _ = await organization_of(request, "configure")
    check_calls_out(request, organization_id, LOOK_WEIGHT)
    config = await chosen_config(request, organization_id)
    manager: WhatsAppProviderManager = request.state["manager"]
    try:
        told = await manager.accounts.run(config.provider.pairing())
    except SendError as error:
        raise call_problem(error) from error
    await _note(request, config, told.state)
    if request.query_params.get("format") != "png":
        return json_response(_shown(config, told))
    if told.qr_png is None:
        raise Problem(409, "no_qr_code", f"There is no QR code to show: the link is {told.state}.")
    return Response(told.qr_png, media_type="image/png")


async def end_pairing(request: Request[Any]) -> Response:
    """DELETE …/provider/pairing?config_id=: log out: unlink the phone."""
    organization_id, principal = await organization_of(request, "configure")
    check_calls_out(request, organization_id)
    config = await chosen_config(request, organization_id)
    manager: WhatsAppProviderManager = request.state["manager"]
    try:
        await manager.accounts.run(config.provider.unpair())
    except SendError as error:
        raise call_problem(error) from error
    await _note(request, config, "starting", "unpaired", Actor(principal.name, client_address(request)))
    return Response(status_code=204)


async def _ready(manager: WhatsAppProviderManager, config: Config) -> Pairing:
    """How a phone is linked, once the session has come up or failed."""
    until = monotonic() + READY_WITHIN_S
    while True:
        told = await manager.accounts.run(config.provider.pairing())
        if told.state != "starting" or monotonic() > until:
            return told
        await asyncio.sleep(READY_POLL_S)


async def _note(
    request: Request[Any], config: Config, state: str, action: str | None = None, actor: Actor | None = None
) -> None:
    """Have every process know how it stands, and the account looked at until it is linked."""
    database: Database = request.state["database"]
    manager: WhatsAppProviderManager = request.state["manager"]
    organization_id = config.organization_id
    async with database.organization(organization_id) as connection:
        if action is not None and actor is not None:
            await audit.record(connection, manager.accounts.vault, organization_id, actor, action, config_id=config.id)
        if action is not None or await health.pairing(connection, organization_id, config.id) != state:
            await health.watch(connection, organization_id, config.id, WATCHED_S, state)
            standing = await switches.standing(connection, organization_id)
            await health.tell(connection, organization_id, CHANNEL, standing["version"] if standing else 0)


def _shown(config: Config, told: Pairing) -> dict[str, Any]:
    shown: dict[str, Any] = {"config_id": config.id, "state": told.state}
    if told.detail:
        shown["detail"] = told.detail
    if told.qr:
        shown["qr"] = told.qr
    if told.qr_png:
        shown["qr_png"] = base64.b64encode(told.qr_png).decode()
    return shown
