"""Linking a phone: the QR code as it is shown now, or a code to type, until it is linked."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from starlette.responses import Response

from providers import Pairing, SendError
from providers.phones import Phone

from ...accounts.config import Config
from ...api.configs import named_config
from ...api.pairing import begin_pairing, pairing_of, unpair
from ...cache import Cache
from ...web.bodies import invalid
from ...web.limits import LOOK_WEIGHT
from ...web.problems import not_found
from ..qr import qr_code
from ..rendering import page, redirect
from ..requests import AnyConsoleRequest, ConsoleRequest
from .whatsapp import HOME, address_of, can_pair

# When this process first saw the code that a config shows: from then on it is counted how long it still lives.
_first_seen: Cache[UUID, tuple[str, datetime]] = Cache(1000)
_SEEN_FOR_S = 120.0


async def show(request: ConsoleRequest) -> Response:
    """How it stands; the page asks again by itself."""
    request.check_calls_out(LOOK_WEIGHT)
    config = await _config(request)
    return await _shown(request, config)


async def begin(request: ConsoleRequest) -> Response:
    """Have the provider show a code, also where it gave up showing any; with a ``phone`` one to type in there."""
    request.check_calls_out()
    config, form, note = await _config(request), await request.posted(), request.state["refused_changes"].note
    if "phone" not in form:
        await begin_pairing(request, config)
        return redirect(_path(config))
    try:
        phone = msgspec.convert(re.sub(r"[\s().-]", "", form.get("phone")), Phone)
    except msgspec.ValidationError:
        await note(request, invalid(("phone", "must be a phone number"), what="The form"))
        wrong = request.gettext("Give the number of the phone with its country code, as +55 11 99999-9999.")
        return await _shown(request, config, status=422, phone=form.get("phone"), wrong=wrong)
    try:
        _, code = await begin_pairing(request, config, phone)
    except SendError as error:
        await note(request, error)
        return await _shown(request, config, status=409, phone=phone, wrong=error.detail or str(error.code))
    return await _shown(request, config, phone=phone, code=code or "")


async def end(request: ConsoleRequest) -> Response:
    """Unlink the phone."""
    request.check_calls_out()
    config = await _config(request)
    await unpair(request, config)
    return redirect(_path(config), done="unpaired")


async def _config(request: AnyConsoleRequest) -> Config:
    """Raises `Problem` 404, also where its provider links no phones."""
    config = await named_config(request, request.id_in_path("config_id"))
    if not can_pair(config.provider.info):
        raise not_found()
    return config


def _path(config: Config) -> str:
    return f"{HOME}/{config.id}/pairing"


async def _shown(request: AnyConsoleRequest, config: Config, *, status: int = 200, **typed: str) -> Response:
    """The page; *typed*: the ``phone`` whose code was asked for, the ``code``, or what is ``wrong``."""
    manager, pairing, linked_as, unreachable = request.state["manager"], None, config.sender, ""
    try:
        pairing = await pairing_of(request, config)
        if pairing.state == "linked":
            linked_as = (await manager.accounts.status(config.provider)).session_info.get("sender") or linked_as
    except SendError as error:
        unreachable = error.detail or str(error.code)
    active = await manager.provider_for(request.organization_id)
    return page(
        request,
        "pairing.html",
        status=status,
        config=config,
        address=address_of(config),
        is_active=active is not None and active.id == config.id,
        pairing=pairing,
        until=_until(config, pairing) if pairing else None,
        linked_as=linked_as,
        unreachable=unreachable,
        qr_code=qr_code,
        **{"phone": "", "code": "", "wrong": ""} | typed,
    )


def _until(config: Config, pairing: Pairing) -> datetime | None:
    """When the code that is shown is replaced; None: nobody knows."""
    if pairing.qr is None or pairing.qr_lives_s is None:
        return None
    now = datetime.now(UTC)
    until = _since(config.id, pairing.qr, now) + timedelta(seconds=pairing.qr_lives_s)
    return until if until > now else None


def _since(config_id: UUID, qr: str, now: datetime) -> datetime:
    """When the code was shown first."""
    seen = _first_seen.get(config_id)
    if seen is None or seen[0] != qr:
        _first_seen.put(config_id, seen := (qr, now), _SEEN_FOR_S)
    return seen[1]
