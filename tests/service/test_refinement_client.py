"""The client of the refinement "2.0 Multi-Provider Foundation", as it is: its four calls, and its message."""

import json
from typing import Any
from uuid import uuid4

import pytest

from ingress.dev.sandbox import TwilioSimulator, example_number
from ingress.dev.sandbox.faults import ErrorCode
from ingress.dev.sandbox.twilio.bodies import example_sender

from ..gateway import Answer, Gateway, Organization, _numbers

KNOWN = ["meta_business", "twilio_whatsapp", "whatsapp_web"]
QUALITIES = ["excellent", "good", "poor", "disconnected"]


class ClientError(Exception):
    """What its screen shows: ``error.message``, which its base service takes from `detail`."""


class RefinementClient:
    """Field names, headers and what is read are the refinement's."""

    def __init__(self, organization: Organization) -> None:
        self._organization = organization
        self.organization_id = organization.id

    async def providers(self) -> list[str]:
        return [str(name) for name in await self._call("GET", "/providers")]

    async def current(self) -> Any:
        return await self._call("GET", "/provider/current")

    async def configure(self, provider_type: str, config_data: Any, *, is_active: bool = True) -> str:
        return await self._change("configure", provider_type, config_data, is_active)

    async def switch(self, provider_type: str, config_data: Any) -> str:
        return await self._change("switch", provider_type, config_data, True)

    async def _change(self, what: str, provider_type: str, config_data: Any, is_active: bool) -> str:
        body = {
            "provider_type": provider_type,
            "organization_id": self.organization_id,
            "config_data": config_data,
            "is_active": is_active,
        }
        message: str = (await self._call("POST", f"/provider/{what}", body))["message"]
        return message

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        path = f"/integrations/whatsapp{path}"
        answer = await self._organization.call(method, path, body, x_org_id=self._organization.id)
        if answer.status >= 400:
            raise ClientError(answer.json["detail"])
        return answer.json


def is_sentence(text: str) -> bool:
    return text[0].isupper() and text.endswith(".") and " " in text


async def send(organization: Organization, **message: Any) -> Answer:
    """As its back end builds a message for a provider."""
    body = {"to": "+5511987654321", "body": "Olá", "organization_id": organization.id, "attachments": None, **message}
    return await organization.call("POST", "/send", body, x_org_id=organization.id)


async def account(gateway: Gateway) -> dict[str, Any]:
    number = example_number(next(_numbers))
    return number.config_data(await gateway.meta.add_number(number))


@pytest.fixture
async def client(gateway: Gateway) -> RefinementClient:
    return RefinementClient(await gateway.organization())


async def test_its_four_calls(client: RefinementClient, gateway: Gateway) -> None:
    assert set(KNOWN) <= set(await client.providers())
    assert await client.current() == {"provider": None, "status": "not_configured"}
    meta = await account(gateway)
    assert is_sentence(await client.configure("meta_business", meta))
    shown = await client.current()
    assert shown["provider"] == "meta_business"
    status = shown["status"]
    assert set(status) >= {"is_connected", "connection_quality", "last_activity", "session_info"}
    assert status["is_connected"] is True
    assert status["connection_quality"] in QUALITIES
    assert (shown["last_activity"], shown["session_info"]) == (status["last_activity"], status["session_info"])
    async with TwilioSimulator() as twilio:
        sender = example_sender(next(_numbers))
        data = sender.config_data(await twilio.add_number(sender))
        assert is_sentence(await client.switch("twilio_whatsapp", data))
        assert (await client.current())["provider"] == "twilio_whatsapp"


async def test_saving_without_activating(client: RefinementClient, gateway: Gateway) -> None:
    await client.configure("meta_business", await account(gateway))
    active = (await client.current())["config_id"]
    assert "not active" in await client.configure("meta_business", await account(gateway), is_active=False)
    assert (await client.current())["config_id"] == active


async def test_a_provider_that_has_not_answered_yet(client: RefinementClient, organization: Organization) -> None:
    """Saved by force: its status has the same fields, and says that nothing is known."""
    data = example_number(next(_numbers)).config_data("http://127.0.0.1:1")
    body = {"provider_type": "meta_business", "config_data": data, "force": True}
    answer = await organization.call("POST", "/integrations/whatsapp/provider/switch", body)
    assert answer.status == 200, answer.raw
    status = (await RefinementClient(organization).current())["status"]
    assert (status["is_connected"], status["connection_quality"]) == (False, "disconnected")
    assert is_sentence(status["detail"])


async def test_what_is_refused_is_shown_as_a_sentence(client: RefinementClient, gateway: Gateway) -> None:
    """It says by itself what is wrong: the client shows nothing else."""
    data = await account(gateway)
    with pytest.raises(ClientError) as caught:
        await client.configure("carrier_pigeon", {})
    assert is_sentence(str(caught.value))
    with pytest.raises(ClientError) as caught:
        await client.configure("meta_business", {"access_token": "x"})
    assert is_sentence(str(caught.value))
    assert "phone_number_id is missing" in str(caught.value)
    for change in (client.configure, client.switch):
        with pytest.raises(ClientError) as caught:
            await change("meta_business", data | {"access_token": "EAAG-not-this-one"})
        assert is_sentence(str(caught.value))
        assert "Create a new token" in str(caught.value)
    assert await client.current() == {"provider": None, "status": "not_configured"}


async def test_why_a_message_was_refused_is_shown_as_a_sentence(organization: Organization, gateway: Gateway) -> None:
    """By the provider, or before it was asked: also where there is no other one."""
    await gateway.meta.script(organization.numbers[0], ErrorCode(code=131026))
    for message, why in ({}, "Message undeliverable"), ({"body": "", "attachments": []}, "text: 0 characters"):
        answer = await send(organization, **message)
        assert answer.status == 422, answer.raw
        assert is_sentence(answer.json["detail"])
        assert why in answer.json["detail"]
        assert ".." not in answer.json["detail"]


# ---------------------------------------------------------------- its organization


@pytest.mark.parametrize("of_whom", ["another", "nobody", "no id"])
async def test_another_organization_in_a_body_is_nothing_here(
    organization: Organization, gateway: Gateway, of_whom: str
) -> None:
    """Whether there is one or not: the same answer, and nothing is changed or sent."""
    named = {"another": (await gateway.organization()).id, "nobody": str(uuid4()), "no id": "acme"}[of_whom]
    data, config_id = await account(gateway), organization.configs[0]["config_id"]
    new = {"provider_type": "meta_business", "config_data": data}
    calls = [
        ("POST", "configure", new),
        ("POST", "switch", new),
        ("POST", "test", new),
        ("POST", "rollback", {}),
        ("POST", "pairing", {}),
        ("PUT", "fallback", {"config_ids": []}),
        ("PATCH", f"configs/{config_id}", {"name": "x"}),
    ]
    calls_before = gateway.meta.call_count()
    answers = [
        await organization.call(method, f"/integrations/whatsapp/provider/{path}", body | {"organization_id": named})
        for method, path, body in calls
    ]
    answers.append(await send(organization, organization_id=named))
    assert {(answer.status, answer.raw) for answer in answers} == {(404, answers[0].raw)}
    listed = (await organization.call("GET", "/integrations/whatsapp/provider/configs")).json["configs"]
    assert [(config["config_id"], config["name"]) for config in listed] == [(config_id, "meta_business")]
    assert gateway.meta.call_count() == calls_before


async def test_the_platform_names_the_organization_in_both(organization: Organization, gateway: Gateway) -> None:
    body = {"to": "+5511987654321", "body": "Olá", "organization_id": organization.id}
    answer = await gateway.call("POST", "/send", body, key=gateway.platform_key, x_org_id=organization.id)
    assert answer.status == 200
    answer = await gateway.call("POST", "/send", body, key=gateway.platform_key)
    assert (answer.status, answer.json["code"]) == (400, "organization_missing")


# ---------------------------------------------------------------- its message


@pytest.mark.parametrize("lead_id", [None, "01900000-0000-7000-8000-000000000000"])
async def test_its_message_is_sent(organization: Organization, lead_id: str | None) -> None:
    result = (await send(organization, lead_id=lead_id)).json
    assert set(result) >= {"provider_message_id", "status", "timestamp", "cost"}
    assert (result["status"], bool(result["provider_message_id"])) == ("sent", True)
    later = (
        await organization.call("POST", "/send", {"to": "+5511987654321", "body": "x"}, prefer="respond-async")
    ).json
    assert set(later) >= {"provider_message_id", "status", "timestamp", "cost"}


@pytest.mark.parametrize(
    ("address", "kind", "sent"),
    [
        ("https://files.example/a.pdf", "document", {"filename": "a.pdf"}),
        ("https://files.example/a/Or%C3%A7amento.PDF?v=1.png#x.jpg", "document", {"filename": "Orçamento.PDF"}),
        ("https://files.example/a.jpeg?size=2", "image", {}),
        ("https://files.example/a.png", "image", {}),
        ("https://files.example/a.mp4", "video", {}),
        ("https://files.example/a.gif", "document", {"filename": "a.gif"}),
        ("https://files.example/a.webp", "document", {"filename": "a.webp"}),
        ("https://files.example/a.zip", "document", {"filename": "a.zip"}),
        ("https://files.example.jpg", "document", {}),
        ("https://files.example/jpg", "document", {}),
        ("https://files.example/123?name=a.png", "document", {}),
        ("https://files.example/%0A%2F.", "document", {}),
        ("https://[files.example/a.png", "image", {}),
    ],
)
async def test_an_attachment_as_an_address(
    organization: Organization, gateway: Gateway, address: str, kind: str, sent: dict[str, str]
) -> None:
    """What it is follows from the name as far as that is sure; anything may be sent as a document."""
    for attachment in (address, {"url": address}):
        result = (await send(organization, body="Veja", attachments=[attachment])).json
        accepted = gateway.meta.by_wamid(result["provider_message_id"])
        assert accepted is not None
        assert accepted.body["type"] == kind
        assert accepted.body[kind] == {"link": address, "caption": "Veja", **sent}


async def test_audio_has_no_caption(organization: Organization, gateway: Gateway) -> None:
    """The words would be lost: said before anything is sent. An empty body is none."""
    address = "https://files.example/a.mp3"
    answer = await send(organization, body="Veja", attachments=[address])
    assert (answer.status, [error["path"] for error in answer.json["errors"]]) == (422, ["body"])
    assert is_sentence(answer.json["detail"])
    result = (await send(organization, body="", attachments=[address])).json
    accepted = gateway.meta.by_wamid(result["provider_message_id"])
    assert accepted is not None
    assert accepted.body["audio"] == {"link": address}


async def test_several_attachments_are_several_messages(organization: Organization) -> None:
    """One result tells of one message: nothing is left out, and nothing sent that it does not tell of."""
    answer = await send(organization, attachments=["https://files.example/a.pdf", "https://files.example/b.pdf"])
    assert (answer.status, [error["path"] for error in answer.json["errors"]]) == (422, ["attachments"])
    assert "send one each" in answer.json["detail"]
    assert (await send(organization, attachments=[])).status == 200


@pytest.mark.parametrize("wrong", [7, "", None, {"href": "x"}], ids=json.dumps)
async def test_what_is_no_attachment(organization: Organization, wrong: Any) -> None:
    answer = await send(organization, attachments=[wrong])
    assert answer.status == 422
    assert all(error["path"].startswith("attachments[0]") for error in answer.json["errors"])
