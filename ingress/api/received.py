"""What was received, found again by the id of its event: for what is done to it afterwards."""

from typing import Any
from uuid import UUID

import msgspec
from starlette.requests import Request

from ..envelope import EventData
from ..identifiers import parse_event_id
from ..storage.database import Database
from ..storage.statements import events
from ..switching.manager import Config, WhatsAppProviderManager
from ..web.problems import Problem, not_found

_decoder = msgspec.json.Decoder(EventData)


class Received(msgspec.Struct, frozen=True):
    """An event of a provider, and the config that received it."""

    sequence: int
    type: str
    data: EventData
    config: Config

    def __repr__(self) -> str:
        return f"Received({self.sequence})"


async def received(request: Request[Any], organization_id: UUID) -> Received:
    """The event in the path, of *organization_id*. Raises `Problem` 404 where it has none of that id, or 409."""
    sequence = parse_event_id(request.path_params["event_id"], organization_id)
    if sequence is None:
        raise not_found()
    database: Database = request.state["database"]
    async with database.organization(organization_id) as connection:
        row = await events.at(connection, organization_id, sequence)
    if row is None:
        raise not_found()
    manager: WhatsAppProviderManager = request.state["manager"]
    config = await manager.config(organization_id, row["config_id"])
    if config is None or config.is_unusable:
        raise Problem(409, "provider_not_configured", "The account that received this cannot be used.")
    try:
        data = _decoder.decode(row["data"])
    except msgspec.ValidationError:  # an event of our own, or of another release
        raise not_found() from None
    return Received(sequence, row["type"], data, config)
