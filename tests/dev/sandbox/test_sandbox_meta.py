"""The Graph API is strict where Meta is, and talks back in Meta's own bytes."""

import hashlib
import hmac
import json
from typing import Any

import aiohttp
import msgspec
import pytest

from ingress.dev.sandbox import (
    MetaNumber,
    MetaSimulator,
    StatusPolicy,
    encode,
    example_number,
    merged,
    message_id_of,
    message_ids,
    signature,
)
from ingress.dev.sandbox.meta.inbound import MetaInbound
from ingress.dev.sandbox.meta.templates import example_template

from .conftest import Hooks, Send, bearer, text_body

LONG = "é" * 4096


async def test_a_good_text_is_accepted_and_remembered(meta: MetaSimulator, number: MetaNumber, send: Send) -> None:
    """The answer is Meta's, the record has wamid, tracker and body, and is found by all of them."""
    answer = await send(text={"body": LONG})
    body = await answer.json()
    assert answer.headers["facebook-api-version"] == "v25.0"
    assert body["messaging_product"] == "whatsapp"
    assert body["contacts"] == [{"input": "+5511987654321", "wa_id": "5511987654321"}]
    wamid = body["messages"][0]["id"]
    assert wamid.startswith("wamid.")
    [message] = meta.accepted
    assert (message.wamid, message.tracker, message.body["text"]) == (wamid, "gw1:M1:1", {"body": LONG})
    assert meta.by_tracker("gw1:M1:1") == meta.by_message_id("M1") == [meta.by_wamid(wamid)]
    assert meta.sends[0].wamid == wamid
    assert meta.duplicates() == {}
    await send(biz_opaque_callback_data="gw1:M1:2")
    assert meta.duplicates() == {"M1": 2}
    assert [message_id_of(tracker) for tracker in ("gw1:M1:2", "other")] == ["M1", "other"]


GOOD: list[dict[str, Any]] = [
    {"to": None, "recipient": "BR.13491208655302741918"},
    {"recipient_type": "group", "to": "Y2FwaV9ncm91cDox"},
    {"context": {"message_id": "wamid.X"}},
    {"type": "image", "text": None, "image": {"link": "https://example.org/a.jpg", "caption": "a"}},
    {"type": "reaction", "text": None, "reaction": {"message_id": "wamid.X", "emoji": ""}},
    {"type": "location", "text": None, "location": {"latitude": -23.5, "longitude": "-46.6"}},
    {"type": "template", "text": None, "template": {"name": "hello", "language": {"code": "pt_BR"}}},
]
BUTTON = {"type": "reply", "reply": {"id": "1", "title": "Sim"}}
LIST_ROW = {"id": "1", "title": "Um"}
BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"messaging_product": None}, 100, "messaging_product is required"),
    ({"messaging_product": "sms"}, 131009, "messaging_product"),
    ({"recipient_type": None}, 131009, "recipient_type"),
    ({"to": "5511987654321"}, 131009, "leading plus"),
    ({"to": "+15550000001"}, 131021, "sender"),
    ({"to": None}, 131008, "to is mandatory"),
    ({"to": None, "recipient": "nobody"}, 131009, "user id"),
    ({"type": None}, 131008, "type is mandatory"),
    ({"type": "poll"}, 131009, "type"),
    ({"text": None}, 131008, "text is mandatory"),
    ({"text": {"body": ""}}, 131008, "body is mandatory for type text"),
    ({"text": {"body": LONG + "é"}}, 131009, "at most 4096 characters"),
    ({"text": {"body": "a", "texto": "b"}}, 100, 'Unexpected key "texto" on param "text"'),
    ({"lead_id": "x"}, 100, 'Unexpected key "lead_id"'),
    ({"biz_opaque_callback_data": "x" * 513}, 131009, "at most 512 characters"),
    (
        {"type": "image", "text": None, "image": {"id": "1", "link": "https://a.example"}},
        131009,
        "exactly one",
    ),
    ({"type": "image", "text": None, "image": {"link": "ftp://a.example"}}, 131009, "URI"),
    ({"type": "location", "text": None, "location": {"latitude": 91, "longitude": 0}}, 131009, "between -90"),
    ({"type": "pin", "text": None, "pin": {"type": "pin", "message_id": "x"}}, 131009, "groups only"),
    ({"recipient_type": "group", "type": "location", "text": None, "location": {}}, 131051, "groups"),
    (
        {
            "type": "interactive",
            "text": None,
            "interactive": {"type": "button", "body": {"text": "?"}, "action": {"buttons": [BUTTON] * 2}},
        },
        131009,
        "unique ids",
    ),
    (
        {
            "type": "interactive",
            "text": None,
            "interactive": {
                "type": "list",
                "body": {"text": "?"},
                "action": {"button": "Ver", "sections": [{"rows": [LIST_ROW] * 11}]},
            },
        },
        131009,
        "1 to 10 elements",
    ),
    (
        {
            "type": "template",
            "text": None,
            "template": {
                "name": "a",
                "language": {"code": "en"},
                "components": [{"type": "body", "parameters": [{"type": "text", "text": "a\nb"}]}],
            },
        },
        132018,
        "new-line",
    ),
]


@pytest.mark.parametrize("change", GOOD, ids=str)
async def test_what_meta_takes_is_taken(meta: MetaSimulator, send: Send, change: dict[str, Any]) -> None:
    """A sample of each kind of address and content."""
    answer = await send(**change)
    assert answer.status == 200, await answer.text()
    assert len(meta.accepted) == 1


@pytest.mark.parametrize(("change", "code", "words"), BAD, ids=str)
async def test_what_meta_refuses_is_refused(
    meta: MetaSimulator, number: MetaNumber, send: Send, change: dict[str, Any], code: int, words: str
) -> None:
    """The code and the words are Meta's; nothing is accepted, the call is counted."""
    answer = await send(**change)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (400, code)
    assert words in error.get("error_data", {}).get("details", "") + error["message"]
    assert error["fbtrace_id"]
    assert meta.accepted == []
    assert meta.call_count("POST messages", number.phone_number_id) == 1


async def test_read_receipts_and_typing_are_no_sends(meta: MetaSimulator, number: MetaNumber, send: Send) -> None:
    """They answer {"success": true} and are kept apart; a typing indicator without read does not exist."""
    empty = dict.fromkeys(text_body())
    receipt = {**empty, "messaging_product": "whatsapp", "status": "read", "message_id": "wamid.A"}
    assert await (await send(**receipt)).json() == {"success": True}
    assert (await send(**{**receipt, "typing_indicator": {"type": "text"}})).status == 200
    assert (await send(**{**receipt, "status": "delivered"})).status == 400
    assert [(one.message_id, one.typing) for one in meta.receipts] == [("wamid.A", False), ("wamid.A", True)]
    assert meta.sends == []


async def test_marketing_messages_takes_templates_only(meta: MetaSimulator, send: Send) -> None:
    """The endpoint has keys of its own and refuses everything else with 131055."""
    template = {"name": "promo", "language": {"code": "pt_BR"}}
    good = await send(edge="marketing_messages", type="template", text=None, template=template, product_policy="STRICT")
    assert (await good.json())["messages"][0]["message_status"] == "accepted"
    refused = await send(edge="marketing_messages")
    assert (await refused.json())["error"]["code"] == 131055


async def test_tokens_ids_versions_and_paths_are_checked(
    meta: MetaSimulator, number: MetaNumber, http: aiohttp.ClientSession
) -> None:
    """Unknown token 190; unknown id, or one of another token, 100 with subcode 33; anything else 2500."""
    other = example_number(2)
    await meta.add_number(other)

    async def get(path: str, token: str = number.access_token) -> tuple[int, dict[str, Any]]:
        async with http.get(meta.url_for(number) + path, headers={"Authorization": f"Bearer {token}"}) as answer:
            body = await answer.json()
            return answer.status, body.get("error", body)

    mine = f"/v25.0/{number.phone_number_id}"
    assert (await get(mine))[1]["display_phone_number"] == "+1 555-000-0001"
    status, error = await get(mine, "wrong")
    assert (status, error["code"], error["type"]) == (401, 190, "OAuthException")
    for unseen in ("/v25.0/999", f"/v25.0/{other.phone_number_id}", f"/v25.0/{other.waba_id}/phone_numbers"):
        status, error = await get(unseen)
        assert (status, error["code"], error["error_subcode"]) == (400, 100, 33)
    for path in (number.phone_number_id, "/v9.0/1", f"{mine}/nonsense", f"{mine}/messages/more"):
        status, error = await get("/" + path.lstrip("/"))
        assert (status, error["code"]) == (400, 2500)
    status, error = await get(f"{mine}?fields=id,colour")
    assert (status, error["code"]) == (400, 100)
    assert "nonexisting field (colour)" in error["message"]
    proof = hmac.new(number.app_secret.encode(), number.access_token.encode(), "sha256").hexdigest()
    assert (await get(f"{mine}?appsecret_proof={proof}"))[0] == 200
    assert (await get(f"{mine}?appsecret_proof=0"))[0] == 400
    meta.set_fields(number, status="BANNED")
    assert (await get(f"{mine}?fields=status"))[1] == {"status": "BANNED", "id": number.phone_number_id}
    numbers = (await get(f"/v25.0/{number.waba_id}/phone_numbers"))[1]["data"]
    assert [one["id"] for one in numbers] == [number.phone_number_id]
    numbers = (await get(f"/v25.0/{number.waba_id}/phone_numbers?fields=status"))[1]["data"]
    assert numbers == [{"status": "BANNED", "id": number.phone_number_id}]
    debug = f"/v25.0/debug_token?input_token={number.access_token}"
    assert (await get(debug, f"{number.app_id}|{number.app_secret}"))[1]["data"]["is_valid"] is True
    assert (await get(debug))[1]["code"] == 190
    stale = await get("/v25.0/debug_token?input_token=old", f"{number.app_id}|{number.app_secret}")
    assert (stale[1]["data"]["is_valid"], stale[1]["data"]["error"]["code"]) == (False, 190)


async def test_webhooks_need_a_handshake_and_a_subscription(
    meta: MetaSimulator, number: MetaNumber, http: aiohttp.ClientSession, hooks: Hooks
) -> None:
    """The order of overrides is number, account, app; without a subscription nothing arrives at all."""
    base = f"{meta.url_for(number)}/v25.0"
    apps, node = f"{base}/{number.waba_id}/subscribed_apps", f"{base}/{number.phone_number_id}"

    async def call(method: str, url: str, body: Any = None) -> Any:
        async with http.request(method, url, json=body, headers=bearer(number)) as answer:
            return await answer.json()

    def override(url: str, token: str = "verify-1") -> dict[str, str]:
        return {"override_callback_uri": url, "verify_token": token}

    people = meta.inbound(number)
    assert await meta.post(number, people.text()) is None
    assert meta.undeliverable == 1
    assert (await call("GET", apps))["data"] == []
    assert (await call("POST", apps)) == {"success": True}
    assert meta.webhook_url(number) is None  # subscribed, but no URL anywhere
    refused = await call("POST", node, {"webhook_configuration": override(hooks.url, "wrong")})
    assert "does not match challenge" in refused["error"]["error_data"]["details"]
    assert "error" in await call("POST", node, {"webhook_configuration": override("https://x.example/" + "y" * 200)})
    assert await call("POST", node, {"webhook_configuration": override(hooks.url)}) == {"success": True}
    assert meta.webhook_url(number) == hooks.url
    result = await meta.post(number, people.text())
    assert result is not None
    assert result.delivered
    configuration = (await call("GET", f"{node}?fields=webhook_configuration"))["webhook_configuration"]
    assert configuration == {"phone_number": hooks.url}
    assert await call("POST", node, {"webhook_configuration": override("")}) == {"success": True}
    assert await call("POST", apps, override(hooks.url)) == {"success": True}
    assert (await call("GET", apps))["data"][0]["override_callback_uri"] == hooks.url
    assert await call("POST", apps) == {"success": True}
    assert "override_callback_uri" not in (await call("GET", apps))["data"][0]
    assert await call("DELETE", apps) == {"success": True}
    assert (await call("GET", apps))["data"] == []


async def test_a_number_is_registered_with_its_own_pin(
    meta: MetaSimulator, http: aiohttp.ClientSession, send: Send, number: MetaNumber
) -> None:
    """Until then it cannot send; ten tries are taken."""
    fresh = msgspec.structs.replace(example_number(3), registered=False, pin="123456")
    base = f"{await meta.add_number(fresh)}/v25.0/{fresh.phone_number_id}"

    async def post(edge: str, body: Any) -> Any:
        async with http.post(f"{base}/{edge}", json=body, headers=bearer(fresh)) as answer:
            body = await answer.json()
            return body.get("error", {}).get("code", body)

    async def fields() -> Any:
        async with http.get(f"{base}?fields=status,platform_type,health_status", headers=bearer(fresh)) as answer:
            body = await answer.json()
            return body["status"], body["platform_type"], body["health_status"]["can_send_message"]

    pin = {"messaging_product": "whatsapp", "pin": "123456"}
    assert await fields() == ("PENDING", "NOT_APPLICABLE", "BLOCKED")
    assert await post("messages", text_body()) == 133010
    for body in ({}, {"pin": "123456"}, {**pin, "pin": 123456}, {**pin, "pin": "12345"}, {**pin, "code": "1"}):
        assert await post("register", body) == 100
    assert await post("register", {**pin, "pin": "000000"}) == 133005
    assert await fields() == ("PENDING", "NOT_APPLICABLE", "BLOCKED")
    assert await post("register", pin) == {"success": True}
    assert await fields() == ("CONNECTED", "CLOUD_API", "AVAILABLE")
    assert (await post("messages", text_body()))["messages"]
    assert [await post("register", pin) for _ in range(9)] == [{"success": True}] * 8 + [133016]


async def test_templates_are_listed_by_cursor(
    meta: MetaSimulator, number: MetaNumber, http: aiohttp.ClientSession
) -> None:
    """Of the account alone, the fields asked for alone; cursors of somebody else are refused."""
    meta.set_templates(number, [example_template(index) for index in range(1, 6)])
    url = f"{meta.url_for(number)}/v25.0/{number.waba_id}/message_templates"

    async def listed(**query: str) -> Any:
        async with http.get(url, params=query, headers=bearer(number)) as answer:
            return await answer.json()

    first = await listed(fields="name", limit="2")
    assert first["data"] == [{"id": f"168955690812000{n}", "name": f"order_update_{n}"} for n in (1, 2)]
    assert "access_token=" in first["paging"]["next"]
    second = await listed(fields="name", limit="2", after=first["paging"]["cursors"]["after"])
    assert [one["name"] for one in second["data"]] == ["order_update_3", "order_update_4"]
    last = await listed(fields="name", limit="2", after=second["paging"]["cursors"]["after"])
    assert [one["name"] for one in last["data"]] == ["order_update_5"]
    assert "next" not in last["paging"]
    back = await listed(fields="name", limit="2", before=last["paging"]["cursors"]["before"])
    assert back["data"] == second["data"]
    assert {"previous", "next"} < set(back["paging"])
    assert len((await listed())["data"]) == 5
    for wrong in ({"fields": "colour"}, {"limit": "0"}, {"limit": "x"}, {"after": "x"}, {"after": "bm8="}):
        assert (await listed(**wrong))["error"]["code"] == 100


async def test_media_want_the_token_and_urls_expire(
    meta: MetaSimulator, number: MetaNumber, http: aiohttp.ClientSession
) -> None:
    """The webhook's URL works until it expires; the id gives a new one; the digest is over the bytes."""
    body = meta.inbound(number).image("legenda", data=b"jpeg")
    image = body["entry"][0]["changes"][0]["value"]["messages"][0]["image"]
    assert (await http.get(image["url"])).status == 401
    async with http.get(image["url"], headers=bearer(number)) as answer:
        assert (await answer.read(), answer.content_type) == (b"jpeg", "image/jpeg")
    meta.media.expire_url(image["id"])
    assert (await http.get(image["url"], headers=bearer(number))).status == 404
    async with http.get(f"{meta.url_for(number)}/v25.0/{image['id']}", headers=bearer(number)) as answer:
        described = await answer.json()
    assert described["sha256"] == hashlib.sha256(b"jpeg").hexdigest()
    assert (await http.get(described["url"], headers=bearer(number))).status == 200
    theirs = {"phone_number_id": "1"}
    async with http.get(f"{meta.url_for(number)}/v25.0/{image['id']}", params=theirs, headers=bearer(number)) as answer:
        assert (await answer.json())["error"]["error_subcode"] == 33
    meta.media.remove(image["id"])
    async with http.get(f"{meta.url_for(number)}/v25.0/{image['id']}", headers=bearer(number)) as answer:
        assert (await answer.json())["error"]["error_subcode"] == 33


def test_bytes_and_signature_are_metas_own() -> None:
    """As the provider spells it: lower-case escapes, escaped slashes, no spaces."""
    raw = encode({"text": "olá / café"})
    assert raw == rb'{"text":"ol\u00e1 \/ caf\u00e9"}'
    digest = "9833b523ea56b4eec37cc690414f99da6226f6fc1cc55934d7d0cd6ee02333b7"
    assert signature("0123456789abcdef0123456789abcdef", raw) == f"sha256={digest}"
    assert encode({"emoji": "🚚"}) == rb'{"emoji":"\ud83d\ude9a"}'


async def test_statuses_follow_as_the_policy_has_them(
    meta: MetaSimulator, number: MetaNumber, send: Send, hooks: Hooks
) -> None:
    """Signed posts that carry the tracker; batches, copies, order and a `failed` as asked for."""
    await meta.add_number(msgspec.structs.replace(number, webhook_url=hooks.url))

    async def statuses(policy: StatusPolicy) -> list[list[str]]:
        hooks.posts.clear()
        meta.set_statuses(number, policy)
        assert (await send()).status == 200
        await meta.settled()
        posts = [json.loads(raw)["entry"][0]["changes"][0]["value"] for _, raw in hooks.posts]
        assert all(item["id"] == meta.accepted[-1].wamid for post in posts for item in post["statuses"])
        return [[item["status"] for item in post["statuses"]] for post in posts]

    assert await statuses(StatusPolicy()) == [["sent"], ["delivered"], ["read"]]
    headers, raw = hooks.posts[0]
    expected = hmac.new(number.app_secret.encode(), raw, "sha256").hexdigest()
    assert headers["X-Hub-Signature-256"] == f"sha256={expected}"
    sent = json.loads(raw)["entry"][0]["changes"][0]["value"]["statuses"][0]
    assert (sent["biz_opaque_callback_data"], sent["recipient_id"]) == ("gw1:M1:1", "5511987654321")
    assert sent["pricing"]["pricing_model"] == "PMP"
    assert await statuses(StatusPolicy(batch=2)) == [["sent", "delivered"], ["read"]]
    assert await statuses(StatusPolicy(reorder=True, batch=3)) == [["read", "delivered", "sent"]]
    assert await statuses(StatusPolicy(statuses=("sent",), duplicates=2)) == [["sent"]] * 3
    assert await statuses(StatusPolicy(statuses=("failed",), failed_code=131049)) == [["failed"]]
    assert (
        json.loads(hooks.posts[0][1])["entry"][0]["changes"][0]["value"]["statuses"][0]["errors"][0]["code"] == 131049
    )
    assert await statuses(StatusPolicy(statuses=())) == []
    assert meta.webhooks.delivered == 3 + 2 + 1 + 3 + 1


async def test_a_status_may_come_before_the_answer(
    meta: MetaSimulator, number: MetaNumber, send: Send, hooks: Hooks
) -> None:
    """With before_answer every status has been posted when the send returns."""
    await meta.add_number(msgspec.structs.replace(number, webhook_url=hooks.url))
    meta.set_statuses(number, StatusPolicy(before_answer=True))
    assert (await send()).status == 200
    assert len(hooks.posts) == 3


async def test_webhooks_are_retried_until_200(meta: MetaSimulator, number: MetaNumber, hooks: Hooks) -> None:
    """Only 200 counts, not 201 nor a redirect; the same bytes come again; at last it is given up."""
    await meta.add_number(msgspec.structs.replace(number, webhook_url=hooks.url))
    body = meta.inbound(number).mixed()
    hooks.statuses = [503, 201, 302]
    result = await meta.post(number, body)
    assert result is not None
    assert (result.status, result.tries, result.delivered) == (200, 4, True)
    assert len({raw for _, raw in hooks.posts}) == 1
    hooks.statuses = [401] * 4
    body = meta.inbound(number, seed=2).text("x" * 2_900_000)  # Meta's largest is 3 MB
    refused = await meta.post(number, body)
    assert refused is not None
    assert (refused.status, refused.tries) == (401, 4)
    await hooks.listener.refuse()
    unreachable = await meta.post(number, body)
    assert unreachable is not None
    assert unreachable.status is None
    assert (meta.webhooks.delivered, meta.webhooks.failed, meta.webhooks.tries) == (1, 2, 12)


def test_inbound_bodies_are_deterministic_and_of_all_kinds() -> None:
    """The same seed gives the same bodies; ids never repeat; mixed has every kind."""

    def make(seed: int) -> list[dict[str, Any]]:
        people = MetaInbound(example_number(), seed=seed, clock=lambda: 1_793_800_900.0)
        return [people.mixed() for _ in range(300)]

    assert make(1) == make(1) != make(2)
    bodies = make(1)
    assert len({one for body in bodies for one in message_ids(body)}) == 300
    messages = [body["entry"][0]["changes"][0]["value"]["messages"][0] for body in bodies]
    assert {message["type"] for message in messages} == {
        "text", "image", "audio", "document", "location", "interactive", "button", "reaction", "contacts",
        "unsupported",
    }  # fmt: skip
    assert all(message["type"] in message for message in messages)


def test_batches_hold_all_messages_over_entries_and_changes() -> None:
    """Every entry, change and message is filled; each message's contact is beside it."""
    people = MetaInbound(example_number(), seed=3)
    body = people.batch(9, entries=2)
    assert len(body["entry"]) == 2
    assert all(len(entry["changes"]) == 2 for entry in body["entry"])
    assert len(set(message_ids(body))) == 9
    for entry in body["entry"]:
        for change in entry["changes"]:
            known = {contact["wa_id"] for contact in change["value"]["contacts"]}
            assert {message["from"] for message in change["value"]["messages"]} == known
    both = merged(body, people.text(phone="+5511900000000"))
    assert len(both["entry"]) == 3
    assert len(message_ids(both)) == 10
