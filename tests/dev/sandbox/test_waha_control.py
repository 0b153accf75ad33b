"""Another process can do and see over HTTP what a test in this one does over methods."""

import msgspec
import pytest

from ingress.dev.sandbox import WahaSimulator, example_session

from .test_sandbox_control import Control
from .waha_kit import CHAT, PEER, Hooks, Phone


@pytest.fixture
def control(phone: Phone) -> Control:
    return Control(phone.http, phone.waha.control_url)


async def test_a_session_from_its_making_to_its_end(control: Control, phone: Phone, waha: WahaSimulator) -> None:
    """Added, linked, failed; what a test waits for is answered when it is so."""
    other = example_session(2, "NOWEB")
    added = await control("POST", "/sessions", {**msgspec.to_builtins(other), "linked": False, "own_port": True})
    mine = f"/sessions/{other.name}"
    assert added["url"] == waha.url_for(other) != waha.url
    await control("POST", f"{mine}/rotate")
    await control("POST", f"{mine}/scan", {"phone": PEER})
    await control("GET", f"/wait?session={other.name}&status=WORKING")
    seen = {one["name"]: one for one in await control("GET", "/sessions")}
    assert seen[other.name]["me"]["id"] == CHAT
    assert (seen[other.name]["engine"], seen[other.name]["open"]) == ({"engine": "NOWEB"}, True)
    await control("PUT", f"{mine}/me", {"messageCapping": {"cappingStatus": "CAPPED"}})
    await control("PUT", f"{mine}/engine", {"starting_s": None, "hides": True})
    assert (waha.state_of(other).starting_s, waha.state_of(other).hides) == (None, True)
    await control("PUT", f"{mine}/status", {"status": "FAILED", "unlinked": True})
    assert waha.state_of(other).me is None
    await control("PUT", "/server", {"healthy": False, "engine": "WEBJS"})
    assert (waha.healthy, waha.engine, waha.fetches) == (False, "WEBJS", False)
    await control("POST", "/reset")
    assert (await control("GET", ""))["numbers"] == {}
    assert waha.healthy


async def test_faults_acks_and_ground_truth(control: Control, phone: Phone, waha: WahaSimulator) -> None:
    mine = f"/sessions/{phone.session.name}"
    await control("PUT", f"{mine}/acks", {"statuses": ["DEVICE"], "echo": False})
    scripted = await control("POST", f"{mine}/faults", {"queue": [{"fault": "error_code", "code": 463}]})
    assert scripted["queue"][0]["code"] == 463
    assert (await phone.post("sendText", id="A" * 20)).status == 500
    assert (await phone.post("sendText", id="A" * 20)).status == 201
    assert (await phone.post("sendText", id="A" * 20)).status == 201
    counts = await control("GET", "/wait?accepted=1&sends=3&settled=1")
    assert (counts["accepted"], counts["sends"], counts["duplicates"]) == (1, 3, 0)
    for query in (f"id={'A' * 20}", f"chosen_id={'A' * 20}", f"session={phone.session.name}", "after=0"):
        found = await control("GET", f"/accepted?{query}")
        assert [one["body"]["text"] for one in found["accepted"]] == ["Olá 🚚"]
    sends = await control("GET", f"/sends?session={phone.session.name}")
    assert [(send["fault"], send["id"] is not None, send["repeated"]) for send in sends] == [
        ("error_code", False, False),
        (None, True, False),
        (None, True, True),
    ]
    await phone.call("POST", "/api/startTyping", {"session": phone.session.name, "chatId": CHAT})
    assert [one["call"] for one in await control("GET", "/receipts")] == ["startTyping"]
    assert (await control("GET", "/calls"))[f"{phone.session.name} POST sendText"] == 3
    await control("PUT", "/people", {PEER: None})
    assert (await phone.post("sendText")).status == 500
    await control("DELETE", f"{mine}/faults")


async def test_inbound_on_demand(control: Control, phone: Phone, waha_hooks: Hooks) -> None:
    """By kind, or any event; the ids are those of what must come out at the other end."""
    mine = f"/sessions/{phone.session.name}/inbound"
    posted = await control("POST", mine, {"arguments": {"body": "Oi", "phone": PEER}, "count": 2, "seed": 5})
    assert [(one["statuses"], one["tries"]) for one in posted] == [([200], 1)] * 2
    ids = [event.message.provider_message_id for event in waha_hooks.of("message.received") if event.message]
    assert ids == [one["id"] for one in posted]
    call = {"id": "c1", "from": CHAT, "timestamp": 1790676900, "isVideo": False, "isGroup": False}
    await control("POST", mine, {"event": "call.received", "payload": call})
    assert len(waha_hooks.of("account.updated")) == 1


async def test_mistakes_are_answered_as_such(control: Control, phone: Phone) -> None:
    """404 for what is unknown, 400 that names the field, 408 for a wait in vain."""
    mine = f"/sessions/{phone.session.name}"
    assert "no number nobody" in (await control("POST", "/sessions/nobody/faults", {}, status=404))["error"]
    await control("POST", f"{mine}/faults", {"queue": [{"fault": "hang", "seconds": 1}]}, status=400)
    assert "nothing to scan" in (await control("POST", f"{mine}/scan", status=400))["error"]
    assert "no such ack" in (await control("PUT", f"{mine}/acks", {"statuses": ["SEEN"]}, status=400))["error"]
    assert "no webhook" in (await control("POST", f"{mine}/inbound", {}, status=400))["error"]
    await control("POST", f"{mine}/inbound", {"arguments": {"colour": "red"}}, status=400)
    await control("PUT", "/server", {"colour": "red"}, status=400)
    await control("GET", f"/wait?session={phone.session.name}&status=FAILED&timeout_s=0.01", status=408)
