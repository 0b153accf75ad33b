"""The simulators answer as the platforms publish it: each call of their APIs, and what an answer may not have."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from ingress.dev.sandbox import (
    ErrorCode,
    MetaNumber,
    MetaSimulator,
    TwilioSimulator,
    example_number,
    example_sender,
)
from ingress.dev.sandbox.meta.bodies import envelope, status_item, statuses_value
from ingress.dev.sandbox.meta.inbound import MetaInbound
from ingress.dev.sandbox.twilio.bodies import status_form
from ingress.dev.sandbox.twilio.inbound import TwilioInbound

from .conftest import CONTRACTS, Hooks, Send, bearer, text_body
from .test_twilio_api import CONTENT
from .twilio_client import Client

META = CONTRACTS[MetaSimulator]
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


ALL_FIELDS = (
    "id,display_phone_number,verified_name,quality_rating,name_status,code_verification_status,throughput,"
    "platform_type,status,account_mode,is_official_business_account,webhook_configuration,health_status,"
    "whatsapp_business_manager_messaging_limit"
)


async def test_each_of_metas_calls_is_answered_as_published(
    meta: MetaSimulator,
    number: MetaNumber,
    send: Send,
    http: aiohttp.ClientSession,
    hooks: Hooks,
    answered_calls: set[str],
) -> None:
    root, account = f"{meta.url_for(number)}/v25.0", number.waba_id

    async def call(method: str, path: str, token: str = "", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else bearer(number)
        async with http.request(method, f"{root}/{path}", headers=headers, **more) as answer:
            return await answer.json()

    await send()
    await send(to=None, recipient="BR.13491208655302741918")
    await send(recipient_type="group", to="Y2FwaV9ncm91cDox")
    template = {"type": "template", "text": None, "template": {"name": "a", "language": {"code": "en"}}}
    await send(edge="marketing_messages", **template)
    await send(**{**dict.fromkeys(text_body()), "messaging_product": "whatsapp", "status": "read", "message_id": "w"})
    callback = {"override_callback_uri": hooks.url, "verify_token": hooks.verify_token}
    await call("POST", f"{account}/subscribed_apps", json=callback)
    await call("GET", f"{account}/subscribed_apps")
    await call("POST", number.phone_number_id, json={"webhook_configuration": callback})
    for path in (number.phone_number_id, f"{account}/phone_numbers"):
        await call("GET", f"{path}?fields={ALL_FIELDS}")
    await call("GET", f"{account}/message_templates")
    await call("DELETE", f"{account}/subscribed_apps")
    await call("POST", f"{number.phone_number_id}/register", json={"messaging_product": "whatsapp", "pin": "123456"})
    form = aiohttp.FormData({"messaging_product": "whatsapp", "type": "text/plain"})
    form.add_field("file", b"?", filename="a.txt", content_type="text/plain")
    uploaded = await call("POST", f"{number.phone_number_id}/media", data=form)
    await call("GET", f"{uploaded['id']}?phone_number_id={number.phone_number_id}")
    await call("DELETE", uploaded["id"])
    for token in (number.access_token, "old"):
        await call("GET", f"debug_token?input_token={token}", f"{number.app_id}|{number.app_secret}")
    assert answered_calls == set(META.calls)


@pytest.mark.parametrize("code", [4, 190, 803, 131026])
async def test_scripted_errors_are_as_published(meta: MetaSimulator, number: MetaNumber, send: Send, code: int) -> None:
    """With the version that was asked for, and what Meta's support asks for."""
    await meta.script(number, ErrorCode(code=code, details="Why."))
    answer = await send()
    error = (await answer.json())["error"]
    assert (error["code"], error.get("is_transient", False)) == (code, code == 4)
    assert answer.headers["facebook-api-version"] == "v25.0"


@pytest.mark.parametrize("status", ["accepted", "queued", "sent", "delivered", "read", "undelivered", "failed"])
@pytest.mark.parametrize("to", ["+5511987654321", "BR.13491208655302741918"])
def test_statuses_say_what_is_published(status: str, to: str) -> None:
    """Of a message to a phone and to a user id, and why one failed."""
    code = 63016 if status in ("undelivered", "failed") else None
    sender = msgspec.structs.replace(example_sender(1), messaging_service_sid=f"MG{'1' * 32}")
    form = status_form(sender, f"SM{'2' * 32}", to, status, error_code=code, has_service=True)
    assert TWILIO.webhook_problems("status", dict(form)) == []
    if status in ("sent", "delivered", "read", "failed"):
        address = {"to": to} if to.startswith("+") else {"recipient": to}
        value = statuses_value([status_item("wamid.A", status, {**address, "biz_opaque_callback_data": "M1"})])
        assert META.webhook_problems("messages", envelope((example_number(1), value))) == []


KINDS = (
    "text image audio video document sticker contacts location button_reply list_reply template_button flow_reply "
    "reaction unsupported"
)


@pytest.mark.parametrize("kind", KINDS.split())
def test_what_people_write_is_as_published(kind: str) -> None:
    """Each kind that a simulator has."""
    number, sender = example_number(1), example_sender(1)
    makers = (MetaInbound(number, seed=7), TwilioInbound(sender, seed=7, keep=lambda *_: "https://api.twilio.com/m"))
    if make := getattr(makers[0], kind, None):
        assert META.webhook_problems("messages", make()) == []
    if make := getattr(makers[1], kind, None):
        assert TWILIO.webhook_problems("inbound", dict(make())) == []


def test_the_document_has_each_answer() -> None:
    """Each call that is published, and none that is not."""
    text = (Path(__file__).parents[3] / "docs" / "simulators.md").read_text("utf-8")
    rows = re.findall(r"^\| `((?:GET|POST|DELETE) [^`]+)`", text, re.MULTILINE)
    assert set(rows) == set(META.calls) | set(TWILIO.calls)


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
