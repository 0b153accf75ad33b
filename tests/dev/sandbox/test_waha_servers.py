"""Servers of several versions and tiers: what each lacks, how long it takes, and that it answers as real ones do."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from ingress.dev.sandbox import ErrorCode, WahaSimulator, example_session
from ingress.dev.sandbox.waha.records import WahaKey
from ingress.dev.sandbox.waha.server import SINCE, WahaServer
from providers import AccountBroken, Text, Unverified, Webhook
from providers.whatsapp_web.account.sessions import EVENTS as EVENTS_ASKED

from ...providers.whatsapp_web.samples import SAMPLES
from .waha_kit import CHAT, Hooks, Phone

DEFAULT = msgspec.structs.replace(example_session(1, "NOWEB"), name="default", phone="+15550001111")
FILE = {"text": None, "file": {"mimetype": "image/png", "url": "https://files.example.org/a"}}
LIST = {"title": "a", "button": "b", "sections": [{"title": "", "rows": [{"title": "c", "rowId": "d"}]}]}
PAIRING = {"phoneNumber": "15550001111"}
EVENTS = [{"url": "https://crm.example", "events": ["message", "message.unheard"]}]


def recorded(name: str) -> Any:
    return json.loads((SAMPLES / "recorded" / f"{name}.json").read_bytes())


@pytest.fixture
async def old(http: aiohttp.ClientSession) -> AsyncIterator[Phone]:
    """The only session of a server as the one that was recorded."""
    async with WahaSimulator(server=WahaServer(version="2026.2.1", waits=0.0)) as waha:
        await waha.add_session(DEFAULT)
        yield Phone(waha, DEFAULT, http)


async def status_of(phone: Phone, status: str | None) -> None:
    state = phone.waha.state_of(phone.session)
    if status is None:
        phone.waha.delete(state)
    else:
        state.starting_s = None
        phone.waha.set_status(phone.session, status)


@pytest.mark.parametrize(
    ("name", "status", "method", "path", "body"),
    [
        ("events_400", "WORKING", "PUT", "/api/sessions/default", {"config": {"webhooks": EVENTS}}),
        ("list_section_title_400", "WORKING", "POST", "/api/sendList", {"message": LIST}),
        ("no_key_401", "WORKING", "GET", "/api/sessions/default", None),
        ("not_implemented_501", "WORKING", "POST", "/api/sendVideo", {"file": FILE["file"]}),
        ("noweb_store_400", "WORKING", "GET", f"/api/default/chats/{CHAT}/messages", None),
        ("other_session_422", "WORKING", "GET", "/api/sessions/shop", None),
        ("plus_only_422", "WORKING", "POST", "/api/sendImage", {"file": FILE["file"]}),
        ("request_code_not_started_404", "STOPPED", "POST", "/api/default/auth/request-code", PAIRING),
        ("scan_qr_422_after_10s", "SCAN_QR_CODE", "POST", "/api/sendText", {"text": "x"}),
        ("session_deleted_422_after_5s", None, "POST", "/api/sendText", {"text": "x"}),
        ("stopped_422_after_5s", "STOPPED", "POST", "/api/sendText", {"text": "x"}),
    ],
)  # fmt: skip
async def test_it_answers_as_the_server_that_was_recorded(
    old: Phone, name: str, status: str | None, method: str, path: str, body: Any
) -> None:
    """Word for word."""
    await status_of(old, status)
    if "send" in path:
        body = {"session": "default", "chatId": CHAT, **body}
    key = "wrong" if name == "no_key_401" else old.waha.api_key
    real = recorded(name)
    assert await old.call(method, path, body, key=key) == (real["status"], real["body"])


async def test_what_it_answers_to_a_text_and_to_a_closed_socket_has_the_same_form(old: Phone) -> None:
    def form(value: Any) -> Any:
        return {name: form(item) for name, item in value.items()} if isinstance(value, dict) else type(value)

    answer = await old.post("sendText", text="x", id="A" * 20)
    real = recorded("send_text_201")
    found = await answer.json()
    assert (answer.status, found["key"].keys(), found["status"]) == (201, real["body"]["key"].keys(), "PENDING")
    assert found["key"]["id"] != "A" * 20  # which it ignores
    await old.waha.script(old.session, ErrorCode(code=500, message="Connection Closed"))
    answer = await old.post("sendText", text="x")
    wanted, found = recorded("connection_closed_500")["body"], await answer.json()
    assert form(found["version"]) == form(wanted["version"])
    assert found["exception"]["message"] == wanted["exception"]["message"]
    assert found.keys() == wanted.keys()


@pytest.mark.parametrize("version", ["2026.2.1", "2026.6.1"])
async def test_an_old_core_forgets_how_sessions_are_configured(old: Phone, version: str) -> None:
    """It comes back linked and working, and posts nothing any more; a newer one keeps it."""
    old.waha.server.version = version
    state, config = old.waha.state_of(old.session), {"metadata": {"a": "b"}}
    old.waha.configure(state, {"config": config})
    await old.working()
    old.waha.restart_server()
    await old.working()
    session = (await old.call("GET", "/api/sessions/default"))[1]
    real = recorded("session_working")["body"]
    assert session["config"] == (real["config"] if version == "2026.2.1" else config)
    assert all(session[name] == real[name] for name in ("name", "status", "engine", "presence"))
    assert real.keys() <= session.keys()


@pytest.mark.parametrize(("status", "seconds"), [("STOPPED", 5), (None, 5), ("SCAN_QR_CODE", 10), ("FAILED", 10)])
async def test_a_session_that_does_not_work_is_waited_for(old: Phone, status: str | None, seconds: float) -> None:
    """By a hundredth of the time that a real server takes; where it works meanwhile, the message goes out."""
    await status_of(old, status)
    old.waha.server.waits = 0.01
    began = time.monotonic()
    with pytest.raises(AccountBroken):
        await old.run(old.adapter.send_message(old.message(Text(body="x"))))
    assert time.monotonic() - began >= seconds * 0.01
    if status == "SCAN_QR_CODE":
        old.waha.server.waits = 1
        sending = old.post("sendText")
        old.waha.scan(old.session)
        assert (await sending).status == 201


@pytest.mark.parametrize(("call", "seconds"), [("PUT", 3), ("restart", 3), ("logout", 4)])
async def test_changing_a_session_takes_its_time(old: Phone, call: str, seconds: float) -> None:
    old.waha.server.waits = 0.01
    began = time.monotonic()
    path = "/api/sessions/default"
    if call == "PUT":
        await old.call("PUT", path, {"config": {"metadata": {"a": "b"}}})
    else:
        await old.call("POST", f"{path}/{call}")
    assert time.monotonic() - began >= seconds * 0.01


async def lacks(phone: Phone, feature: str) -> bool:
    """Whether the server of *phone* lacks *feature*, by how it behaves."""
    waha, path = phone.waha, "/api/sessions/default"
    match feature:
        case "answers_to_cards":
            cards = [{"fullName": "Ana"}]
            return await (await phone.post("sendContactVcard", text=None, contacts=cards)).read() == b""
        case "signatures":
            [(headers, _)] = await posted(phone, waha.inbound(DEFAULT).text())
            return "x-webhook-hmac" not in headers
        case "message_ids_seen":
            ids = {"session": "default", "chatId": CHAT, "messageIds": [f"false_{CHAT}_3EB0AA"]}
            return (await phone.call("POST", "/api/sendSeen", ids))[0] == 400
        case "lids":
            return (await phone.call("GET", "/api/default/lids/77000111222333"))[0] == 404
        case "status_501":
            return (await phone.post("sendButtons", text=None, body="?", buttons=[{}])).status == 422
        case "message.edited" | "message.ack.group":
            hooks_of = [{"url": "https://crm.example", "events": [feature]}]
            return (await phone.call("PUT", path, {"config": {"webhooks": hooks_of}}))[0] == 400
        case "sendList":
            full = {**LIST, "sections": [{"title": "t", "rows": [{"title": "c", "rowId": "d"}]}]}
            return (await phone.post("sendList", text=None, message=full)).status == 404
        case "sendSticker":
            return (await phone.post("sendSticker", **FILE)).status == 404
        case "places":
            [(_, raw)] = await posted(phone, waha.inbound(DEFAULT).location())
            return "location" not in json.loads(raw)["payload"]
        case "chosen_ids":
            return (await (await phone.post("sendText", id="A" * 20)).json())["key"]["id"] != "A" * 20
        case "one_edition":
            return (await phone.post("sendImage", **FILE)).status == 422
        case "group_ids_of_four_parts":
            quoted = "false_120363000000000042@g.us_3EB0AA_5511987654321@c.us"
            return (await phone.post("sendText", reply_to=quoted)).status == 400
    raise AssertionError(feature)


async def posted(phone: Phone, news: Any) -> list[tuple[dict[str, str], bytes]]:
    """What the webhook of the session gets of *news*."""
    hooks = Hooks(phone.adapter)
    await hooks.listener.open()
    hook = {"url": hooks.url, "events": ["message.any"], "hmac": {"key": DEFAULT.hmac_key}}
    phone.waha.state_of(DEFAULT).config = {"webhooks": [hook]}
    hooks.statuses = [202]  # taken, and not looked at
    await phone.waha.post(DEFAULT, news)
    await hooks.listener.close()
    return hooks.raw


@pytest.mark.parametrize("feature", SINCE)
async def test_a_version_has_what_came_until_then(old: Phone, feature: str) -> None:
    """From its version on, and not in the one before."""
    year, month, patch = (int(part) for part in SINCE[feature].split("."))
    old.waha.server.version = SINCE[feature]
    assert not await lacks(old, feature)
    old.waha.server.version = f"{year}.{month}.{patch - 1}"
    await old.working()
    assert await lacks(old, feature)


async def test_webhooks_of_an_old_core_are_not_signed(old: Phone) -> None:
    """So each of them is refused, though the test of the connection is green."""
    old.waha.server.version = "2024.11.5"
    [(headers, raw)] = await posted(old, old.waha.inbound(DEFAULT).text())
    with pytest.raises(Unverified):
        old.adapter.verify(Webhook(method="POST", url="https://gw.example", headers=headers, body=raw))


@pytest.mark.parametrize("version", ["2025.12.2", "2025.12.1", "2025.6.2"])
async def test_the_adapter_gets_its_webhook_from_every_server(old: Phone, version: str) -> None:
    """Where one event is not known, with those that are; and no second time."""
    old.waha.server.version = version
    state, turns = old.waha.state_of(DEFAULT), []
    for _ in range(2):
        await old.run(old.adapter.receive_messages("https://gw.example/webhooks/whatsapp_web/t0ken"))
        turns.append(state.turns)
    [hook] = state.webhooks
    assert turns[0] == turns[1]
    late = ["message.ack.group", "message.edited"]
    missing = {"2025.12.2": [], "2025.12.1": late[:1], "2025.6.2": late}
    assert sorted(event for event in EVENTS_ASKED if event not in hook["events"]) == missing[version]


async def test_a_key_for_one_session_sets_it_and_creates_none(old: Phone) -> None:
    """Its scopes are checked; what the server is, it may see."""
    old.waha.server.version = "2026.7.1"
    waha, key, path = old.waha, old.session.api_key, "/api/sessions/default"
    assert (await old.call("GET", "/api/server/version"))[1]["version"] == "2026.7.1"
    assert (await old.call("POST", "/api/sessions", {"name": "new"}))[0] == 403
    assert (await old.call("DELETE", path))[0] == 403
    for scope, method, call, body in (
        ("setting", "PUT", path, {"config": {}}),
        ("control", "POST", f"{path}/restart", None),
        ("read", "GET", path, None),
        ("send", "POST", "/api/sendText", {"session": "default", "chatId": CHAT, "text": "x"}),
    ):
        waha.keys[key] = WahaKey("default", frozenset({"read", "send", "control", "setting"}) - {scope})
        assert (await old.call(method, call, body))[0] == 403
        waha.keys[key] = WahaKey("default")
        assert (await old.call(method, call, body))[0] in (200, 201)
        await old.working()
