"""The Twilio simulator is strict where Twilio is, and knows what really went out."""

import json
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from ingress.dev.sandbox import TwilioSender, TwilioSimulator, example_sender

from .twilio_client import PERSON, Client

CALLBACK = "https://gw.example.com/hooks/t0ken?ref=gw1:M1:1"
CONTENT = {
    "friendly_name": "gw_1",
    "language": "en",
    "variables": {"1": "text"},
    "types": {
        "twilio/quick-reply": {"body": "{{1}}", "actions": [{"type": "QUICK_REPLY", "title": "Sim", "id": "yes"}]}
    },
}


async def test_a_good_text_is_accepted_and_remembered(twilio: TwilioSimulator, client: Client) -> None:
    """The answer is Twilio's; the record has SID, callback and reference, and is found by all of them."""
    answer = await client.send(StatusCallback=CALLBACK)
    body = await answer.json()
    assert answer.status == 201
    assert answer.headers["Twilio-Request-Id"].startswith("RQ")
    assert body["sid"].startswith("SM")
    assert (body["status"], body["direction"], body["body"]) == ("queued", "outbound-api", "Olá 🚚")
    assert (body["num_media"], body["date_sent"], body["error_code"]) == ("0", None, None)
    assert parsedate_to_datetime(body["date_created"]).utcoffset() is not None
    [message] = twilio.accepted
    assert (message.sid, message.status_callback, message.tracker) == (body["sid"], CALLBACK, "gw1:M1:1")
    assert (message.phone_number, message.to) == (client.sender.phone_number, "+5511987654321")
    assert twilio.by_tracker("gw1:M1:1") == twilio.by_message_id("M1") == [twilio.by_sid(body["sid"])]
    assert [(call.sid, call.phone_number) for call in twilio.sends] == [(body["sid"], client.sender.phone_number)]
    assert twilio.duplicates() == {}
    await client.send(StatusCallback=CALLBACK.replace("M1:1", "M1:2"))
    assert twilio.duplicates() == {"M1": 2}


GOOD: list[dict[str, Any]] = [
    {"To": "whatsapp:BR.13491208655302741918"},
    {"To": "whatsapp:US.ENT.11815799212886844830"},
    {"Body": "é" * 1600},
    {"Body": None, "MediaUrl": "https://files.example.com/a.jpg"},
    {"MediaUrl": "https://files.example.com/a.jpg"},
    {"PersistentAction": "geo:-23.561414,-46.655881|Av. Paulista, 1578"},
    {"PersistentAction": "geo:41,2"},
    {"StatusCallback": "https://gw.example.com/x?ref=1#rc=5&rp=all"},
    {"ValidityPeriod": "36000"},
]
BAD: list[tuple[dict[str, Any], int, int]] = [
    ({"To": None}, 400, 21604),
    ({"To": "whatsapp:"}, 400, 21211),
    ({"To": "whatsapp: 5511987654321"}, 400, 21211),  # a plus that was not encoded
    ({"To": "whatsapp:5511987654321"}, 400, 21211),
    ({"To": "whatsapp:+US.13491208655302741918"}, 400, 21211),
    ({"To": "+5511987654321"}, 400, 21612),
    ({"To": "me"}, 400, 21211),
    ({"To": example_sender(1).address}, 400, 63031),
    ({"From": None}, 400, 21603),
    ({"From": example_sender(1).phone_number}, 400, 21612),
    ({"From": "whatsapp:Acme"}, 400, 21212),
    ({"From": "whatsapp:+15005550000"}, 400, 63007),
    ({"MessagingServiceSid": "MG0"}, 404, 21701),
    ({"Body": None}, 400, 21619),
    ({"Body": ""}, 400, 21602),
    ({"Body": "é" * 1601}, 400, 21617),
    ({"MediaUrl": "files.example.com/a.jpg"}, 400, 21620),
    ({"MediaUrl": "ftp://files.example.com/a.jpg"}, 400, 21620),
    ({"PersistentAction": "geo:91,0"}, 400, 20422),
    ({"PersistentAction": "geo:1,1|a|b"}, 400, 20422),
    ({"StatusCallback": "gw.example.com/x"}, 400, 21609),
    ({"StatusCallback": "https://my_host.example.com/x"}, 400, 21609),
    ({"ValidityPeriod": "36001"}, 400, 21624),
    ({"ContentVariables": "{}", "Body": None}, 400, 21654),
    ({"ContentSid": f"HX{'0' * 32}", "Body": None}, 400, 21655),
    ({"ContentSid": f"HX{'0' * 32}"}, 400, 20422),
    ({"Colour": "red"}, 400, 20001),
    ({"ReplyTo": "SM1"}, 400, 20001),
]


@pytest.mark.parametrize("change", GOOD, ids=str)
async def test_what_twilio_takes_is_taken(twilio: TwilioSimulator, client: Client, change: dict[str, Any]) -> None:
    answer = await client.send(**change)
    body = await answer.json()
    assert answer.status == 201, body
    assert body["sid"][:2] == ("MM" if "MediaUrl" in change else "SM")
    assert len(twilio.accepted) == 1


@pytest.mark.parametrize(("change", "status", "code"), BAD, ids=str)
async def test_what_twilio_refuses_is_refused(
    twilio: TwilioSimulator, client: Client, change: dict[str, Any], status: int, code: int
) -> None:
    """The code and the shape are Twilio's; nothing is accepted, the call is counted and listed."""
    answer = await client.send(**change)
    body = await answer.json()
    assert (answer.status, body["code"], body["status"]) == (status, code, status)
    assert body["more_info"].endswith(str(code))
    assert body["message"]
    assert twilio.accepted == []
    assert twilio.call_count("POST Messages", client.sender.account_sid) == 1
    assert [(call.error_code, call.sid) for call in twilio.sends] == [(code, None)]


async def test_a_parameter_comes_once_and_whatsapp_takes_one_medium(client: Client) -> None:
    twice = await client.send(("To", PERSON))
    assert (await twice.json())["code"] == 20001
    medium = ("MediaUrl", "https://files.example.com/a.jpg")
    assert (await (await client.send(medium, medium)).json())["code"] == 21623


async def test_what_is_no_form_has_no_parameters(client: Client) -> None:
    status, body = await client.json("POST", f"{client.account}/Messages.json", json={"To": PERSON})
    assert (status, body["code"]) == (400, 21603)


async def test_a_service_chooses_its_sender(twilio: TwilioSimulator, client: Client) -> None:
    """`from` is null until then; with From, that must be of the service."""
    service = f"MG{'1' * 32}"
    pooled = TwilioSender(
        account_sid=client.sender.account_sid,
        auth_token=client.sender.auth_token,
        sender_sid=f"XE{'2' * 32}",
        phone_number="+15005559999",
        messaging_service_sid=service,
    )
    await twilio.add_number(pooled)
    body = await (await client.send(From=None, MessagingServiceSid=service)).json()
    assert (body["from"], body["status"], body["messaging_service_sid"]) == (None, "accepted", service)
    assert twilio.accepted[0].phone_number == "+15005559999"
    await twilio.settled()
    _, fetched = await client.json("GET", f"{client.account}/Messages/{body['sid']}.json")
    assert (fetched["from"], fetched["status"]) == (pooled.address, "read")
    refused = await (await client.send(MessagingServiceSid=service)).json()
    assert refused["code"] == 21606
    assert (await client.json("GET", f"/v1/Services/{service}"))[1]["use_inbound_webhook_on_number"] is True
    assert (await client.json("GET", f"/v1/Services/MG{'3' * 32}"))[1]["code"] == 20404


async def test_credentials_accounts_and_paths_are_checked(
    twilio: TwilioSimulator, client: Client, http: aiohttp.ClientSession
) -> None:
    """20003 for credentials, 20404 for what is another's or not there, 20004 for the method."""
    other = example_sender(2)
    await twilio.add_number(other)
    messages = f"{client.account}/Messages.json"
    assert (await client.json("GET", f"{client.account}.json"))[1]["status"] == "active"
    status, body = await client.json("GET", f"/2010-04-01/Accounts/{other.account_sid}.json")
    assert (status, body["code"]) == (404, 20404)
    assert (await client.json("PUT", messages))[1]["code"] == 20004
    assert (await client.json("GET", "/2010-04-01/Nothing"))[1]["code"] == 20404
    assert (await client.json("GET", f"{client.account}/Messages/SM1.json"))[1]["code"] == 20404
    for auth in (None, (client.sender.account_sid, "wrong"), (other.account_sid, client.sender.auth_token), ("", "")):
        client.auth = auth
        answer = await client.send()
        assert (answer.status, (await answer.json())["code"]) == (401, 20003)
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        status, error = await client.json("GET", "/v2/Channels/Senders?Channel=whatsapp")
        assert (status, error["code"], error["message"]) == (401, 20003, "Authenticate")
    assert twilio.sends == []
    garbage = {"Authorization": "Basic not base64"}
    async with http.get(twilio.url_for(client.sender) + messages, headers=garbage) as answer:
        assert answer.status == 401


async def test_an_api_key_may_send_but_not_read_the_account(
    twilio: TwilioSimulator, http: aiohttp.ClientSession
) -> None:
    key = (f"SK{'4' * 32}", "key-secret")
    sender = TwilioSender(
        account_sid=f"AC{'5' * 32}",
        auth_token="token",
        sender_sid=f"XE{'6' * 32}",
        phone_number="+15005558888",
        api_key_sid=key[0],
        api_key_secret=key[1],
    )
    await twilio.add_number(sender)
    client = Client(twilio, sender, http)
    client.auth = key
    assert (await client.send()).status == 201
    assert (await client.json("GET", f"{client.account}.json"))[1]["code"] == 20003
    client.auth = (sender.account_sid, "token")
    assert (await client.json("GET", f"{client.account}.json"))[0] == 200


async def test_a_suspended_account_sends_nothing(twilio: TwilioSimulator, client: Client) -> None:
    twilio.set_account(client.sender.account_sid, status="suspended")
    answer = await client.send()
    assert (answer.status, (await answer.json())["code"]) == (403, 20005)
    assert (await client.json("GET", f"{client.account}.json"))[1]["status"] == "suspended"


async def test_messages_are_listed_newest_first_and_page_by_page(twilio: TwilioSimulator, client: Client) -> None:
    """By recipient and sender; the next page's address is relative."""
    sids = [(await (await client.send(Body=str(number))).json())["sid"] for number in range(3)]
    await client.send(To="whatsapp:+5511900000000")
    await twilio.post(client.sender, twilio.inbound(client.sender).text("to them"))
    path = f"{client.account}/Messages.json"
    query = {"To": PERSON, "From": client.sender.address, "PageSize": "2"}
    _, first = await client.json("GET", path, params=query)
    assert [message["sid"] for message in first["messages"]] == sids[:0:-1]
    _, second = await client.json("GET", first["next_page_uri"])
    assert [message["sid"] for message in second["messages"]] == sids[:1]
    assert second["next_page_uri"] is None
    _, back = await client.json("GET", second["previous_page_uri"])
    assert back["messages"] == first["messages"]
    _, counted = await client.json("GET", path, params={**query, "Page": "1"})
    assert counted["messages"] == first["messages"]  # a token leads on, not a number
    assert (await client.json("GET", path, params={"PageToken": "x"}))[0] == 400
    _, all_of_them = await client.json("GET", path)
    assert [message["direction"] for message in all_of_them["messages"]] == ["inbound", *["outbound-api"] * 4]
    for wrong in ({"PageSize": "0"}, {"PageSize": "1001"}, {"Page": "x"}, {"Colour": "red"}):
        assert (await client.json("GET", path, params=wrong))[0] == 400


async def test_senders_are_listed_fetched_and_given_a_webhook(twilio: TwilioSimulator, client: Client) -> None:
    """Only the webhook may be changed, part by part; a blank address takes one away."""
    assert (await client.json("GET", "/v2/Channels/Senders"))[0] == 400
    _, listed = await client.json("GET", "/v2/Channels/Senders?Channel=whatsapp&PageSize=50")
    assert [one["sender_id"] for one in listed["senders"]] == [client.sender.address]
    assert listed["meta"]["next_page_url"] is None
    path = f"/v2/Channels/Senders/{client.sender.sender_sid}"
    webhook = {"callback_url": "https://gw.example.com/hook#rc=5&rp=all", "callback_method": "POST"}
    status, updated = await client.json("POST", path, json={"webhook": webhook})
    assert (status, updated["status"]) == (202, "ONLINE:UPDATING")
    assert (await client.json("GET", path))[1]["webhook"] | webhook == updated["webhook"]
    assert twilio.webhook_url(client.sender) == webhook["callback_url"]
    for body in (
        {"webhook": {"callback_url": "gw.example.com"}},
        {"webhook": {"callback_method": "GET"}},
        {"webhook": {"colour": "red"}},
        {"webhook": webhook, "profile": {"name": "x"}},
        {},
        [],
    ):
        assert (await client.json("POST", path, json=body))[0] == 400
    assert (await client.json("POST", path, form=[("webhook", "x")]))[0] == 400
    await client.json("POST", path, json={"webhook": {"callback_url": ""}})
    assert twilio.webhook_url(client.sender) is None
    twilio.set_fields(client.sender, status="OFFLINE")
    assert (await client.json("GET", path))[1]["status"] == "OFFLINE"
    missing = await client.call("GET", "/v2/Channels/Senders/XE0")
    error = await missing.json()
    assert (missing.status, error["code"]) == (404, 20404)
    assert error["message"] == "The requested resource /v2/Channels/Senders/XE0 was not found"
    assert missing.headers["T-Request-Id"].startswith("RQ")


async def test_many_senders_have_more_than_one_page(twilio: TwilioSimulator, client: Client) -> None:
    for index in range(60):
        await twilio.add_number(
            TwilioSender(
                account_sid=client.sender.account_sid,
                auth_token=client.sender.auth_token,
                sender_sid=f"XE{index:032x}",
                phone_number=f"+1501{index:07d}",
            )
        )
    _, first = await client.json("GET", "/v2/Channels/Senders?Channel=whatsapp&PageSize=50")
    _, second = await client.json("GET", first["meta"]["next_page_url"])
    assert [len(first["senders"]), len(second["senders"])] == [50, 11]


async def test_contents_are_made_found_and_sent(twilio: TwilioSimulator, client: Client) -> None:
    """The body of the message is the content's with its variables; a wrong number of them fails later."""
    status, made = await client.json("POST", "/v1/Content", json=CONTENT)
    assert (status, made["sid"][:2], made["types"]) == (201, "HX", CONTENT["types"])
    assert (await client.json("GET", f"/v1/Content/{made['sid']}"))[1]["friendly_name"] == "gw_1"
    await client.json("POST", "/v1/Content", json={**CONTENT, "friendly_name": "gw_12"})
    _, found = await client.json("GET", "/v2/Content?ContentName=gw_1&PageSize=50")
    assert [one["friendly_name"] for one in found["contents"]] == ["gw_1", "gw_12"]  # names are patterns
    _, none = await client.json("GET", "/v2/Content?ContentName=gw_3")
    assert none["contents"] == []
    prepared = {"Body": None, "ContentSid": made["sid"]}
    sent = await (await client.send(**prepared, ContentVariables=json.dumps({"1": "Tudo bem?"}))).json()
    assert sent["body"] == "Tudo bem?"
    for wrong in ('{"1": 1}', "[]", "x"):
        assert (await (await client.send(**prepared, ContentVariables=wrong)).json())["code"] == 21656
    failing = await (await client.send(**prepared, ContentVariables='{"2": "x"}')).json()
    assert failing["status"] == "queued"
    await twilio.settled()
    failed = (await client.json("GET", f"{client.account}/Messages/{failing['sid']}.json"))[1]
    assert (failed["status"], failed["error_code"]) == ("failed", 63028)


ACTION = {"type": "QUICK_REPLY", "title": "Sim", "id": "yes"}
ITEM = {"item": "Um", "id": "1"}


@pytest.mark.parametrize(
    "change",
    [
        {"types": {}},
        {"types": {"twilio/pigeon": {"body": "a"}}},
        {"types": {"twilio/text": {"body": ""}}},
        {"types": {"twilio/quick-reply": {"body": "a", "actions": [ACTION] * 4}}},
        {"types": {"twilio/quick-reply": {"body": "a", "actions": [{**ACTION, "title": "x" * 21}]}}},
        {"types": {"twilio/quick-reply": {"body": "a", "actions": [{**ACTION, "type": "URL"}]}}},
        {"types": {"twilio/list-picker": {"body": "a", "button": "b", "items": [ITEM] * 11}}},
        {"types": {"twilio/list-picker": {"body": "a", "button": "b", "items": [ITEM] * 2}}},
        {"types": {"twilio/call-to-action": {"body": "a", "actions": [{"type": "URL", "title": "a"}]}}},
        {"language": "English"},
        {"variables": {"1": 1}},
        {"colour": "red"},
    ],
    ids=str,
)
async def test_contents_are_checked(client: Client, change: dict[str, Any]) -> None:
    assert (await client.json("POST", "/v1/Content", json={**CONTENT, **change}))[0] == 400


async def test_media_are_a_redirect_to_a_store_that_wants_no_credentials(
    twilio: TwilioSimulator, client: Client, http: aiohttp.ClientSession
) -> None:
    """Whoever takes them there is refused, and remembered."""
    form = dict(twilio.inbound(client.sender).image("?", data=b"JPEG"))
    url = form["MediaUrl0"]
    answer = await client.call("GET", url)
    place = answer.headers["Location"]
    assert answer.status == 307
    assert place.split("/")[2] != url.split("/")[2]
    async with http.get(place) as stored:
        assert (await stored.read(), stored.headers["Content-Type"]) == (b"JPEG", "image/jpeg")
    assert twilio.leaks == []
    assert (await client.call("GET", place)).status == 400
    assert [(leak.method, leak.header) for leak in twilio.leaks] == [("GET", "Authorization")]
    assert (await client.json("GET", f"{url}.json"))[1]["content_type"] == "image/jpeg"
    sid = url.rpartition("/")[2]
    twilio.media.expire_url(sid)
    async with http.get(place) as stored:
        assert stored.status == 403
    client.auth = None
    assert (await client.call("GET", url)).status == 401
    client.auth = (client.sender.account_sid, client.sender.auth_token)
    assert (await client.call("DELETE", url)).status == 204
    status, gone = await client.json("GET", url)
    assert (status, gone["code"]) == (404, 20404)


async def test_typing_is_about_a_message_that_came(twilio: TwilioSimulator, client: Client) -> None:
    path = "/v2/Indicators/Typing.json"
    form = twilio.inbound(client.sender).text("?")
    sid = dict(form)["MessageSid"]
    wanted = [("channel", "whatsapp"), ("messageId", sid)]
    assert (await client.json("POST", path, form=wanted))[1]["code"] == 20404
    await twilio.post(client.sender, form)
    assert twilio.undeliverable == 1  # there is no webhook
    assert (await client.json("POST", path, form=wanted)) == (200, {"success": True})
    assert [one.message_sid for one in twilio.indicators] == [sid]
    sent = (await (await client.send()).json())["sid"]
    assert (await client.json("POST", path, form=[("channel", "whatsapp"), ("messageId", sent)]))[0] == 404
    assert (await client.json("POST", path, form=[("messageId", sid)]))[0] == 400
