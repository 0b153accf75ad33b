"""Whether a number is on WhatsApp, as a provider says that can."""

import re
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import Unsupported

from ..accounts.config import Config
from ..sending.message import FIND_CONTACT
from ..web.bodies import Shown, invalid
from . import AnyRequest, ApiRequest
from .configs import ConfigQuery, chosen_config

_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")


class LookupQuery(ConfigQuery, frozen=True):
    """``config_id``: whom to ask; none: the first that can say, of those that messages may go out through."""

    phone: Annotated[str, msgspec.Meta(max_length=32)] = ""


class ContactFound(Shown, frozen=True, kw_only=True):
    """``phone`` as WhatsApp spells it, which may be in another length; ``lid`` where it says that.

    ``asked_at``: when the provider was asked; absent where the person was seen there.
    """

    on_whatsapp: bool
    phone: str | UnsetType = UNSET
    lid: str | UnsetType = UNSET
    asked_at: datetime | UnsetType = UNSET
    provider: str
    config_id: UUID


async def look_up(request: ApiRequest[None, LookupQuery]) -> ContactFound:
    """GET /contacts/lookup?phone=&config_id=: whether a number is on WhatsApp. What is known is not asked for again."""
    # A plus that is not encoded is a space in a query.
    phone = f"+{request.query.phone.strip().removeprefix('+')}"
    if _PHONE.fullmatch(phone) is None:
        raise invalid(("phone", "must be a number in E.164"))
    request.check_calls_out()
    config = await _asked(request)
    reached = await request.state["lookups"].look_up(config, phone)
    by = reached.reached_by or ""
    return ContactFound(
        on_whatsapp=bool(by),
        phone=by if by.startswith("+") else UNSET,
        lid=by if by.endswith("@lid") else UNSET,
        asked_at=reached.asked_at or UNSET,
        provider=config.provider_type,
        config_id=config.id,
    )


async def _asked(request: AnyRequest) -> Config:
    """The config that is asked. Raises `Problem`, and `Unsupported` where none can say."""
    config = await chosen_config(request)
    if request.query.config_id is None:
        route = await request.state["manager"].routes.route(request.organization_id)
        config = next((each for each in route.order if _can_say(each)), config)
    if not _can_say(config):
        raise Unsupported("no provider at hand says whether a number is on WhatsApp", code="find_contact")
    return config


def _can_say(config: Config) -> bool:
    return FIND_CONTACT in config.provider.info.capabilities
