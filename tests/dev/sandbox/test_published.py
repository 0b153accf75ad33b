"""The simulators answer as the platforms publish it: each call of their APIs, and what an answer may not have."""

import json
from typing import Any

import msgspec
import pytest

from ingress.dev.sandbox import TwilioSimulator

from .conftest import CONTRACTS
from .test_twilio_api import CONTENT
from .twilio_client import Client

TWILIO = CONTRACTS[TwilioSimulator]


async def test_each_of_twilios_calls_is_answered_as_published(
    twilio: TwilioSimulator, client: Client, answered_calls: set[str]
) -> None:
    service = f"MG{'1' * 32}"
    await twilio.add_number(msgspec.structs.replace(client.sender, messaging_service_sid=service))
    sid = (await (await client.send()).json())["sid"]
    await client.send(From=None, MessagingServiceSid=service)
    form = dict(twilio.inbound(client.sender).image("?"))
    await twilio.post(client.sender, list(form.items()))
    for path in (".json", "/Messages.json?PageSize=2", f"/Messages/{sid}.json"):
        await client.call("GET", client.account + path)
    for method, url in (
        ("GET", form["MediaUrl0"]),
        ("GET", f"{form['MediaUrl0']}.json"),
        ("DELETE", form["MediaUrl0"]),
    ):
        await client.call(method, url)
    await client.call("GET", "/v2/Channels/Senders?Channel=whatsapp")
    sender = f"/v2/Channels/Senders/{client.sender.sender_sid}"
    await client.call("GET", sender)
    await client.call("POST", sender, json={"webhook": {"callback_url": "https://gw.example.com/hook"}})
    typing = [("channel", "whatsapp"), ("messageId", form["MessageSid"])]
    await client.call("POST", "/v2/Indicators/Typing.json", form=typing)
    await client.call("GET", f"/v1/Services/{service}")
    await client.call("POST", f"/v1/Services/{service}", form=[("UseInboundWebhookOnNumber", "false")])
    content = await (await client.call("POST", "/v1/Content", json=CONTENT)).json()
    for path in ("/v1/Content", f"/v1/Content/{content['sid']}", "/v2/Content?ContentName=gw"):
        await client.call("GET", path)
    assert answered_calls == set(TWILIO.calls)


GOOD = {"code": 20404, "message": "?", "more_info": "https://www.twilio.com/docs/errors/20404", "status": 404}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"colour": "red"}, "colour is invented"),
        ({"message": msgspec.UNSET}, "message is missing"),
        ({"code": "20404"}, "code is '20404', not integer"),
        ({"status": 400}, "status is 400, not http_status"),
        ({"more_info": "20404"}, "more_info is '20404', not url"),
    ],
    ids=str,
)
def test_what_is_not_published_is_a_problem(change: dict[str, Any], problem: str | None) -> None:
    """A field that is invented or missing, another type, another status."""
    body = {name: value for name, value in {**GOOD, **change}.items() if value is not msgspec.UNSET}
    problems = TWILIO.problems("GET", "/v1/Content/HX1", 404, json.dumps(body).encode())
    assert problems == ([] if problem is None else [f"GET /v1/Content/HX1 404.{problem}"])


def test_a_status_or_a_call_that_is_not_published_is_a_problem() -> None:
    for method, path, status in (("POST", "/v1/Content", 200), ("GET", "/v1/Pigeons", 200)):
        assert TWILIO.problems(method, path, status, b"{}") == [
            f"{method} {path} {status}: nobody published this answer"
        ]
