"""Twilio and WhatsApp Web through the service: webhooks in, their own acknowledgement, sends out, statuses back.

What the providers answer is recorded (tests/samples); what is said to them is looked at.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from aiohttp import web

from ingress.dev.sandbox.listener import HOST

from ..gateway import Answer, Gateway, Organization, elsewhere

# Samples have the ids that they have.
pytestmark = pytest.mark.usefixtures("fresh_accounts", "any_age")

SAMPLES = Path(__file__).parents[1] / "samples"
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40


def sample(provider: str, name: str) -> Any:
    return json.loads((SAMPLES / provider / f"{name}.json").read_text())


class Recorded:
    """An HTTP server that answers by method and path: a status and JSON, or what a function makes of the body, which
    may also be a whole response.
    """

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []  # of each of `asked`
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, bytes]] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = await request.read()
        self.asked.append((request.method, request.path, asked))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = self.answers.get((request.method, request.path), (404, {"message": "not found"}))
        answer = answer(asked) if callable(answer) else answer
        if isinstance(answer, web.StreamResponse):
            return answer
        status, body = answer
        return web.json_response(body, status=status)

    def bodies(self, method: str, path: str) -> list[bytes]:
        return [body for one, asked, body in self.asked if (one, asked) == (method, path)]


@pytest.fixture
async def recorded() -> AsyncIterator[tuple[Recorded, str]]:
    server = Recorded()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    yield server, f"http://{HOST}:{runner.addresses[0][1]}"
    await runner.cleanup()


async def configured(gateway: Gateway, provider: str, config_data: dict[str, Any]) -> tuple[Organization, Any]:
    organization = await gateway.organization()
    body = {"provider_type": provider, "config_data": config_data, "is_active": True}
    answer = await organization.call("POST", "/integrations/whatsapp/provider/configure", body)
    assert answer.status == 200, answer.raw
    # What is recorded does not change: the webhook is not seen where it was put.
    assert [check["name"] for check in answer.json["checks"] if not check["passed"]] == ["webhook"]
    return organization, answer.json


# ------------------------------------------------------------------ Twilio

SID, TOKEN = "AC7F3A9C2E5B1D48060F9E8D7C6B5A4938", "5d1f8c0e7ab94263b1d07c9ae4f2365b"
SENDER = "/v2/Channels/Senders/XE91b7d3f50c2e4a6880a1b2c3d4e5f607"
MESSAGES = f"/2010-04-01/Accounts/{SID}/Messages.json"


def twilio_signature(url: str, form: list[list[str]], token: str = TOKEN) -> str:
    """Section "Validating requests" of Twilio's documentation, over."""
    text = url.partition("#")[0] + "".join(f"{name}{value}" for name, value in sorted(map(tuple, form)))
    return base64.b64encode(hmac.digest(token.encode(), text.encode(), "sha1")).decode()


async def posted_by_twilio(gateway: Gateway, url: str, form: list[list[str]], signature: str | None = None) -> Answer:
    return await gateway.call(
        "POST",
        url.partition("#")[0],
        raw=urlencode([tuple(pair) for pair in form]).encode(),
        content_type="application/x-www-form-urlencoded",
        x_twilio_signature=signature or twilio_signature(url, form),
    )


@pytest.fixture
async def twilio(gateway: Gateway, recorded: tuple[Recorded, str]) -> tuple[Organization, Any, Recorded]:
    server, url = recorded
    server.answers = {
        ("GET", f"/2010-04-01/Accounts/{SID}.json"): (
            200,
            sample("twilio_whatsapp", "ops_connection_account_ok")["http_response"]["json"],
        ),
        ("GET", "/v2/Channels/Senders"): (200, sample("twilio_whatsapp", "ops_senders_list")["http_response"]["json"]),
        ("POST", SENDER): (202, sample("twilio_whatsapp", "ops_sender_set_webhook")["http_response"]["json"]),
        ("POST", MESSAGES): (201, sample("twilio_whatsapp", "send_text")["http_response"]["json"]),
    }
    config_data = {"account_sid": SID, "auth_token": TOKEN, "phone_number": "+1 500 555-0199", "base_url": url}
    organization, config = await configured(gateway, "twilio_whatsapp", config_data)
    return organization, config, server


async def test_twilio_is_told_our_address_with_its_retries(twilio: tuple[Organization, Any, Recorded]) -> None:
    """The same in the answer of configure and at the sender; no secret anywhere in what is shown."""
    organization, config, server = twilio
    assert config["webhook_url"].endswith("#rc=5&rp=all")
    answer = json.loads(server.bodies("POST", SENDER)[0])["webhook"]
    assert answer["callback_url"] == config["webhook_url"]
    current = await organization.call("GET", "/integrations/whatsapp/provider/current")
    assert TOKEN.encode() not in current.raw
    assert current.json["sender"] == "+15005550199"


async def test_a_message_from_twilio_is_an_event_and_answered_with_twiml(
    twilio: tuple[Organization, Any, Recorded], gateway: Gateway
) -> None:
    """Empty TwiML, or Twilio would tell the person that something went wrong. Again: the same, and no second event."""
    organization, config, _ = twilio
    form = sample("twilio_whatsapp", "msg_text_basic")["form"]
    for _ in range(2):
        answer = await posted_by_twilio(gateway, config["webhook_url"], form)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/xml")
        assert b"<Response" in answer.raw
        assert b"Hello" not in answer.raw
    [event] = await organization.events(kind="message.received")
    assert event["data"]["message"]["content"] == {"type": "text", "body": "Hello, is anybody there?"}
    assert event["data"]["conversation"]["contact"]["phone"] == "+15005550100"
    forged = await posted_by_twilio(
        gateway, config["webhook_url"], [*form, ["Body", "more"]], twilio_signature("", form)
    )
    assert forged.status == 401


async def test_a_send_through_twilio_is_settled_by_its_own_callback(
    twilio: tuple[Organization, Any, Recorded], gateway: Gateway
) -> None:
    """The callback's address carries our id, so a status finds its message whatever became of the answer."""
    organization, config, server = twilio
    answer = (await organization.send({"to": "+15005550100", "body": "Hi"})).json
    assert (answer["status"], answer["provider"]) == ("sent", "twilio_whatsapp")
    sent = dict(parse_qsl(server.bodies("POST", MESSAGES)[0].decode()))
    assert (sent["To"], sent["From"], sent["Body"]) == ("whatsapp:+15005550100", "whatsapp:+15005550199", "Hi")
    callback = sent["StatusCallback"]
    assert callback.startswith(config["webhook_url"].partition("#")[0])
    assert answer["id"].replace("-", "") in urlsplit(callback).query
    form = [
        [name, answer["provider_message_id"] if name in ("MessageSid", "SmsSid") else value]
        for name, value in sample("twilio_whatsapp", "status_delivered")["form"]
    ]
    assert (await posted_by_twilio(gateway, callback, form)).status == 200
    assert (await organization.message(answer["id"]))["status"] == "delivered"
    # An address is no authentication: the signature is over this very one.
    assert (
        await posted_by_twilio(gateway, callback, form, twilio_signature(config["webhook_url"], form))
    ).status == 401


async def test_twilios_token_is_promoted_without_losing_a_webhook(
    twilio: tuple[Organization, Any, Recorded], gateway: Gateway
) -> None:
    """The secondary token is good for calls before it is promoted: it is given first, beside the former."""
    organization, config, server = twilio
    path, url, renewed = (
        f"/integrations/whatsapp/provider/configs/{config['config_id']}",
        config["webhook_url"],
        "0" * 32,
    )

    async def edited(**changes: Any) -> list[int]:
        """How webhooks are answered then that are signed with the former, and with the new one."""
        edit = await organization.call("PATCH", path, {"config_data": changes})
        assert edit.status == 200, edit.raw
        form = sample("twilio_whatsapp", "msg_text_basic")["form"]
        signatures = [twilio_signature(url, form, token) for token in (TOKEN, renewed)]
        return [(await posted_by_twilio(gateway, url, form, signature)).status for signature in signatures]

    assert await edited(auth_token=renewed, auth_token_secondary=TOKEN) == [200, 200]
    assert (await organization.send({"to": "+15005550100", "body": "Hi"})).status == 200
    credentials = base64.b64encode(f"{SID}:{renewed}".encode()).decode()
    assert server.headers[-1]["authorization"] == f"Basic {credentials}"
    assert await edited(auth_token_secondary=None) == [401, 200]


async def test_a_body_longer_than_twilio_ever_sends_is_refused(
    twilio: tuple[Organization, Any, Recorded], gateway: Gateway
) -> None:
    form = [*sample("twilio_whatsapp", "msg_text_basic")["form"], ["More", "x" * 300_000]]
    assert (await posted_by_twilio(gateway, twilio[1]["webhook_url"], form)).status == 413


# ------------------------------------------------------------------ WhatsApp Web

HMAC_KEY, SESSION = "waha-fixture-hmac-key-7c1e9f", "/api/sessions/acme"


async def posted_by_waha(gateway: Gateway, url: str, body: str) -> Answer:
    digest = hmac.new(HMAC_KEY.encode(), body.encode(), hashlib.sha512).hexdigest()
    headers = {"x_webhook_hmac": digest, "x_webhook_hmac_algorithm": "sha512", "content_type": "application/json"}
    return await gateway.call("POST", url, raw=body.encode(), **headers)


@pytest.fixture
async def waha(gateway: Gateway, recorded: tuple[Recorded, str]) -> tuple[Organization, Any, Recorded]:
    server, url = recorded
    working = sample("whatsapp_web", "ops_session_get_working")["http_response"]["json"]
    sent = sample("whatsapp_web", "send_text_gows")["http_response"]
    server.answers = {
        ("GET", SESSION): (200, working),
        ("PUT", SESSION): (200, working),
        ("GET", "/health"): (200, {"status": "ok"}),
        ("POST", "/api/sendText"): (sent["status"], sent["json"]),
    }
    config_data = {"base_url": url, "api_key": "waha-key", "hmac_key": HMAC_KEY, "session": "acme"}
    organization, config = await configured(gateway, "whatsapp_web", config_data)
    return organization, config, server


async def test_whatsapp_web_both_ways(waha: tuple[Organization, Any, Recorded], gateway: Gateway) -> None:
    """The webhook is written into the session; a message comes in; a send goes out, and its ack comes back."""
    organization, config, server = waha
    [written] = [json.loads(body) for body in server.bodies("PUT", SESSION)]
    ours = written["config"]["webhooks"][-1]
    assert (ours["url"], ours["hmac"]) == (config["webhook_url"], {"key": HMAC_KEY})
    received = sample("whatsapp_web", "msg_text_gows_unicode")["body"]
    for _ in range(2):
        assert (await posted_by_waha(gateway, config["webhook_url"], received)).status == 200
    [event] = await organization.events(kind="message.received")
    assert event["data"]["conversation"]["contact"]["phone"] == "+15005550100"
    sent = (await organization.send({"to": "+15005550100", "body": "Hi"})).json
    assert (sent["status"], sent["provider"]) == ("sent", "whatsapp_web")
    ack = sample("whatsapp_web", "ack_device_gows")["body"].replace(
        "3EB0F8796E3BBCCE81C20C", sent["provider_message_id"]
    )
    assert (await posted_by_waha(gateway, config["webhook_url"], ack)).status == 200
    assert (await organization.message(sent["id"]))["status"] == "delivered"


async def test_a_lost_answer_of_whatsapp_web_is_found_by_the_id_we_chose(
    waha: tuple[Organization, Any, Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway answers 502 after it sent; asked for the message, it has it: sent, once."""
    monkeypatch.setattr("ingress.sending.lost_answers.ASK_AFTER_S", (0.05, 0.05))
    organization, _, server = waha

    def sent_and_lost(body: bytes) -> tuple[int, Any]:
        whole = f"true_15005550100@c.us_{json.loads(body)['id'].rpartition('_')[2]}"
        held = {"id": whole, "fromMe": True, "timestamp": 1790676900, "ack": 1}
        server.answers["GET", f"/api/acme/chats/15005550100@c.us/messages/{whole}"] = (200, held)
        return 502, {}

    server.answers["POST", "/api/sendText"] = sent_and_lost
    answer = await organization.send({"to": "+15005550100", "body": "Hi"}, prefer="wait=5")
    assert answer.status == 200, answer.raw
    message = await organization.message(answer.json["id"])
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
    assert len(server.bodies("POST", "/api/sendText")) == 1


# ------------------------------------------------------------------ media and receipts


async def test_media_of_twilio_come_from_a_store_that_gets_no_credentials(
    twilio: tuple[Organization, Any, Recorded],
    gateway: Gateway,
) -> None:
    organization, config, shown = twilio
    form = sample("twilio_whatsapp", "msg_image_caption")["form"]
    assert (await posted_by_twilio(gateway, config["webhook_url"], form)).status == 200
    [event] = await organization.events(kind="message.received")
    path = dict(form)["MediaUrl0"].removeprefix("https://api.twilio.com")
    async with elsewhere(lambda: web.Response(body=JPEG)) as (url, seen):
        shown.answers["GET", path] = lambda _: web.Response(status=307, headers={"location": url})
        answer = await organization.call("GET", f"/media/{event['id']}")
        assert (answer.status, answer.raw) == (200, JPEG)
        assert [headers.get("authorization") for headers in seen] == [None]
    # What Twilio serves itself is fetched with the credentials, and however long it is.
    shown.answers["GET", path] = lambda _: web.Response(body=JPEG * 200, content_type="image/jpeg")
    answer = await organization.call("GET", f"/media/{event['id']}")
    assert (answer.status, answer.raw) == (200, JPEG * 200)
    assert shown.headers[-1]["authorization"].startswith("Basic ")
    shown.answers["GET", path] = (404, {"code": 20404, "message": "not found"})
    assert (await organization.call("GET", f"/media/{event['id']}")).json["code"] == "media_gone"


async def test_media_of_whatsapp_web_come_from_its_server(
    waha: tuple[Organization, Any, Recorded],
    gateway: Gateway,
) -> None:
    """By the server's address as we know it, with the key; the id in the event is an address, and never in ours."""
    organization, config, shown = waha
    assert (
        await posted_by_waha(gateway, config["webhook_url"], sample("whatsapp_web", "msg_image_gows")["body"])
    ).status == 200
    [event] = await organization.events(kind="message.received")
    path = "/api/files/acme/3EB0C91746FB37804C5D4F.jpeg"
    shown.answers["GET", path] = lambda _: web.Response(body=JPEG)
    answer = await organization.call("GET", f"/media/{event['id']}")
    assert (answer.status, answer.raw, answer.headers["content-type"]) == (200, JPEG, "image/jpeg")
    assert shown.headers[-1]["x-api-key"] == "waha-key"
    del shown.answers["GET", path]
    assert (await organization.call("GET", f"/media/{event['id']}")).json["code"] == "media_gone"


async def test_receipts_of_the_others(
    twilio: tuple[Organization, Any, Recorded],
    waha: tuple[Organization, Any, Recorded],
    gateway: Gateway,
) -> None:
    """Each as it can: Twilio knows no bare receipt, which is said before anything is called."""
    organization, config, shown = twilio
    assert shown is waha[2]
    form = sample("twilio_whatsapp", "msg_text_basic")["form"]
    assert (await posted_by_twilio(gateway, config["webhook_url"], form)).status == 200
    [event] = await organization.events(kind="message.received")
    asked = len(shown.asked)
    for method, path in (("POST", "read"), ("DELETE", "typing")):
        answer = await organization.call(method, f"/messages/{event['id']}/{path}")
        assert (answer.status, answer.json["code"]) == (422, "unsupported")
    answer = await organization.call("GET", f"/messages/{event['id']}/phone")
    assert (answer.status, answer.json) == (200, {"phone": "+15005550100"})
    assert len(shown.asked) == asked


async def test_receipts_of_whatsapp_web_name_the_chat(
    waha: tuple[Organization, Any, Recorded],
    gateway: Gateway,
) -> None:
    organization, config, answer = waha
    body = sample("whatsapp_web", "msg_text_gows_unicode")["body"]
    assert (await posted_by_waha(gateway, config["webhook_url"], body)).status == 200
    [event] = await organization.events(kind="message.received")
    for path in ("/api/sendSeen", "/api/startTyping"):
        answer.answers["POST", path] = (201, {})
    assert (await organization.call("POST", f"/messages/{event['id']}/typing")).status == 204
    seen, typing = (json.loads(answer.bodies("POST", f"/api/{name}")[0]) for name in ("sendSeen", "startTyping"))
    assert (seen["session"], seen["chatId"]) == ("acme", "15005550100@c.us")
    assert typing == {"session": "acme", "chatId": "15005550100@c.us"}


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_providers_without_uploads(
    waha: tuple[Organization, Any, Recorded],
    method: str,
) -> None:
    organization, _, shown = waha
    asked = len(shown.asked)
    answer = await organization.call(method, "/media?id=1", raw=JPEG, content_type="image/jpeg")
    assert (answer.status, answer.json["code"]) == (422, "unsupported")
    assert len(shown.asked) == asked
