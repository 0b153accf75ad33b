"""The simulator's resources, held against Twilio's own client, which is generated from Twilio's OpenAPI description."""

from typing import Any

import aiohttp
import msgspec
import pytest
from twilio.rest.api.v2010.account import AccountInstance
from twilio.rest.api.v2010.account.message import MessageInstance
from twilio.rest.content.v1.content import ContentInstance
from twilio.rest.messaging.v1.service import ServiceInstance
from twilio.rest.messaging.v2.channels_sender import ChannelsSenderInstance

from ingress.dev.sandbox import TwilioSimulator, example_sender

from .twilio_client import Client

SERVICE = f"MG{'5' * 32}"
CONTENT = {"friendly_name": "greeting", "language": "pt_BR", "types": {"twilio/text": {"body": "Olá"}}}


LEFT_OUT = {
    "sender": {
        "display_name_status", "friendly_name", "pending_display_name", "pending_display_name_status",
        "pending_display_name_status_date",
    },
}  # fmt: skip


class Read(dict[str, Any]):
    """A payload that knows what was looked for in it."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(payload)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def differences(payload: dict[str, Any], kind: Any, *parts: Any) -> tuple[set[str], set[str]]:
    """What the simulator shows and Twilio does not; what Twilio shows and the simulator leaves out."""
    read = Read(payload)
    kind(None, read, *parts)
    return payload.keys() - read.names, read.names - payload.keys()


@pytest.fixture
async def served(twilio: TwilioSimulator, http: aiohttp.ClientSession) -> Client:
    """A sender of a Messaging Service."""
    sender = msgspec.structs.replace(example_sender(3), messaging_service_sid=SERVICE)
    await twilio.add_number(sender)
    return Client(twilio, sender, http)


async def test_it_shows_what_twilio_shows(served: Client) -> None:
    """No field more; those that it leaves out nobody here asks for."""
    sid = served.sender.account_sid
    message = await (await served.send()).json()
    account = (await served.json("GET", f"{served.account}.json"))[1]
    sender = (await served.json("GET", f"/v2/Channels/Senders/{served.sender.sender_sid}"))[1]
    service = (await served.json("GET", f"/v1/Services/{SERVICE}"))[1]
    content = (await served.json("POST", "/v1/Content", json=CONTENT))[1]
    found = {
        "message": differences(message, MessageInstance, sid),
        "account": differences(account, AccountInstance),
        "sender": differences(sender, ChannelsSenderInstance),
        "service": differences(service, ServiceInstance),
        "content": differences(content, ContentInstance),
    }
    assert {name: invented for name, (invented, _) in found.items() if invented} == {}
    assert {name: missing for name, (_, missing) in found.items() if missing} == LEFT_OUT
