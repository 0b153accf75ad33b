"""Linking a phone to the account of a config that needs one."""

import asyncio
from time import monotonic
from typing import Annotated, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from providers import Flow, Pairing
from providers.phones import Phone

from ..accounts.config import Config
from ..storage.statements import health, switches
from ..switching.journal import Transition
from ..web.bodies import OrganizationBody, Shown
from ..web.limits import LOOK_WEIGHT
from ..web.problems import Problem
from . import AnyRequest, ApiRequest
from .configs import ConfigQuery, chosen_config, named_config

# Somebody fetches the phone, and scans.
WATCHED_S = 300.0
# A session that was started just now is not ready to be linked.
READY_WITHIN_S, READY_POLL_S = 3.0, 0.1
# WhatsApp's have some 250. One of 2,000 takes a fifth of a second to draw, and none is drawn of more.
MAX_QR_CHARACTERS = 1_000

Result = TypeVar("Result")


class PairingRequest(OrganizationBody, frozen=True, kw_only=True):
    """The body of POST provider/pairing. ``phone``: also answer a code to type into WhatsApp on that phone."""

    config_id: UUID | None = None  # None: the active one
    phone: Annotated[Phone, msgspec.Meta(max_length=16)] | None = None


class PairingQuery(ConfigQuery, frozen=True):
    """``format``: `png`, the QR code itself."""

    format: Annotated[str, msgspec.Meta(max_length=16)] | None = None


class PairingShown(Shown, frozen=True, kw_only=True):
    """``qr`` is what the QR code says, ``qr_png`` its picture in base64, ``code`` what is typed in on the phone."""

    config_id: UUID
    state: str
    detail: str | UnsetType = UNSET
    qr: str | UnsetType = UNSET
    qr_png: bytes | UnsetType = UNSET
    code: str | UnsetType = UNSET


async def start_pairing(request: ApiRequest[PairingRequest]) -> PairingShown:
    """POST …/provider/pairing: link a phone to a config, or go on with it: the QR code as text and as a picture."""
    body = await request.decoded()
    request.check_calls_out()
    config = await named_config(request, body.config_id)
    return _shown(config, *await begin_pairing(request, config, body.phone))


async def show_pairing(request: ApiRequest[None, PairingQuery]) -> PairingShown | Response:
    """GET …/provider/pairing?config_id=&format=png: how it stands, with the QR code that is shown now."""
    request.check_calls_out(LOOK_WEIGHT)
    config = await chosen_config(request)
    pairing = await pairing_of(request, config)
    if request.query.format != "png":
        return _shown(config, pairing)
    if pairing.qr_png is None:
        raise Problem(409, "no_qr_code", f"There is no QR code to show: the pairing is {pairing.state}.")
    return Response(pairing.qr_png, media_type="image/png")


async def end_pairing(request: ApiRequest[None, ConfigQuery]) -> None:
    """DELETE …/provider/pairing?config_id=: log out: unlink the phone."""
    request.check_calls_out()
    await unpair(request, await chosen_config(request))


async def begin_pairing(request: AnyRequest, config: Config, phone: str | None = None) -> tuple[Pairing, str | None]:
    """Link a phone to *config*, or go on with it: how it stands; with a *phone* also the code to type in there."""
    pairing = await _started(request, config)
    code = await _run(request, config, config.provider.pairing_code(phone)) if phone else None
    await _note(request, config, pairing.state, "pairing_started")
    return pairing, code


async def unpair(request: AnyRequest, config: Config) -> None:
    """Unlink the phone."""
    await request.state["manager"].accounts.run(config.provider.unpair(), config.provider.time_limits.set_up_s)
    await _note(request, config, "starting", "unpaired")


async def _run(request: AnyRequest, config: Config, flow: Flow[Result]) -> Result:
    return await request.state["manager"].accounts.run(flow, config.provider.time_limits.test_s)


async def _started(request: AnyRequest, config: Config) -> Pairing:
    """How a phone is linked; a session that has failed is started anew. Raises `Problem`.

    The webhook is written first, where the provider has lost it: a session restarts by it, and shows another code.
    """
    accounts = request.state["manager"].accounts
    await accounts.write_webhook(config)
    pairing = await _ready(request, config)
    if pairing.state != "failed":
        return pairing
    for check in await accounts.set_up(config.provider, config.callback_url):
        if not check.passed and check.name == "setup":
            raise Problem(502, "provider_unreachable", f"The account could not be set up: {check.detail}")
    return await _ready(request, config)


async def _ready(request: AnyRequest, config: Config) -> Pairing:
    """How a phone is linked, once the session has come up or failed."""
    until = monotonic() + READY_WITHIN_S
    while True:
        pairing = await _run(request, config, config.provider.pairing())
        if pairing.state != "starting" or monotonic() > until:
            return pairing
        await asyncio.sleep(READY_POLL_S)


async def pairing_of(request: AnyRequest, config: Config) -> Pairing:
    """How it stands now, which every process is notified of. Raises `SendError`."""
    pairing = await _run(request, config, config.provider.pairing())
    await _note(request, config, pairing.state)
    if pairing.qr and len(pairing.qr) > MAX_QR_CHARACTERS:
        return msgspec.structs.replace(pairing, qr=None)
    return pairing


async def _note(request: AnyRequest, config: Config, state: str, action: str | None = None) -> None:
    """Have every process know how it stands, and the account looked at until it is linked."""
    organization_id = config.organization_id
    async with request.connection() as connection:
        if action or await health.pairing(connection, organization_id, config.id) != state:
            await _write(connection, request, config, action)
            await health.watch(connection, organization_id, config.id, WATCHED_S, state)


async def _write(connection: asyncpg.Connection, request: AnyRequest, config: Config, action: str | None) -> None:
    """In the journal, which notifies every process."""
    standing = await switches.standing(connection, config.organization_id)
    version = standing.version if standing else 0
    steps = [Transition(action=action, actor=request.actor, config_id=config.id)] if action else []
    await request.state["manager"].journal.write(connection, config.organization_id, version, *steps)


def _shown(config: Config, pairing: Pairing, code: str | None = None) -> PairingShown:
    return PairingShown(
        config_id=config.id,
        state=pairing.state,
        detail=pairing.detail or UNSET,
        qr=pairing.qr or UNSET,
        qr_png=pairing.qr_png or UNSET,
        code=code or UNSET,
    )
