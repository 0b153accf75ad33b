"""Sessions: created, linked, stopped, lost; each state is posted, and only some let anything out."""

import base64
from typing import Any, get_args

import aiohttp
import pytest

from ingress.dev.sandbox import WahaSimulator, example_session
from ingress.dev.sandbox.waha.bodies import IN_BROWSER, Engine
from providers import AccountBroken, Text, Unavailable

from .waha_kit import Hooks, Phone


@pytest.fixture
async def fresh(waha: WahaSimulator, http: aiohttp.ClientSession) -> Phone:
    """A session that nobody has created yet."""
    session = example_session(1)
    await waha.add_session(session, exists=False)
    return Phone(waha, session, http)


def statuses(hooks: Hooks) -> list[str]:
    return sorted(event.account.details["status"] for event in hooks.of("account.updated") if event.account)


async def test_from_nothing_to_a_linked_phone(fresh: Phone) -> None:
    """The adapter creates the session, shows each QR code while it lives, and sees the phone linked."""
    adapter, waha = fresh.adapter, fresh.waha
    assert (await fresh.run(adapter.pairing())).state == "failed"
    await fresh.run(adapter.setup())
    state = waha.state_of(fresh.session)
    await waha.wait_for(lambda: state.status == "SCAN_QR_CODE")
    first = await fresh.run(adapter.pairing())
    assert first.state == "scan"
    assert first.qr is not None
    assert first.qr.startswith("2@")
    assert first.qr_png is not None
    assert first.qr_png.startswith(b"\x89PNG")
    waha.rotate(fresh.session)
    assert (await fresh.run(adapter.pairing())).qr != first.qr
    code = await fresh.run(adapter.pairing_code(fresh.session.phone))
    assert len(code) == 9
    with pytest.raises(AccountBroken):
        await fresh.run(adapter.send_message(fresh.message(Text(body="x"))))
    waha.scan(fresh.session)
    status = await fresh.run(adapter.get_status())
    assert (status.is_connected, status.connection_quality) == (True, "excellent")
    assert (await fresh.run(adapter.pairing())).state == "linked"
    checks = {check.name: check.passed for check in await fresh.run(adapter.validate_config())}
    passed = dict.fromkeys(("credentials", "server", "version", "session", "number"), True)
    assert checks == {**passed, "webhook": False}
    await fresh.run(adapter.send_message(fresh.message(Text(body="x"))))
    assert len(waha.accepted) == 1


@pytest.mark.parametrize("engine", get_args(Engine))
async def test_a_session_of_our_making_can_be_asked_for_messages(
    waha: WahaSimulator, http: aiohttp.ClientSession, engine: Engine
) -> None:
    """By each engine whose calls take an id of ours: NOWEB has to be set to keep messages."""
    session = example_session(1, engine)
    await waha.add_session(session, exists=False)
    phone = Phone(waha, session, http)
    await phone.run(phone.adapter.setup())
    await waha.wait_for(lambda: waha.state_of(session).status == "SCAN_QR_CODE")
    waha.scan(session)
    message = phone.message(Text(body="x"))
    sent = await phone.run(phone.adapter.send_message(message))
    found = await phone.run(phone.adapter.find_message(message))
    assert (found and found.provider_message_id) == (None if engine in IN_BROWSER else sent.provider_message_id)


async def test_qr_codes_run_out(fresh: Phone) -> None:
    """After the sixth the session has failed; set up again, it asks anew."""
    await fresh.run(fresh.adapter.setup())
    state = fresh.waha.state_of(fresh.session)
    await fresh.waha.wait_for(lambda: state.status == "SCAN_QR_CODE")
    for _ in range(5):
        fresh.waha.rotate(fresh.session)
    assert state.status == "SCAN_QR_CODE"
    fresh.waha.rotate(fresh.session)
    assert (await fresh.run(fresh.adapter.pairing())).state == "failed"
    with pytest.raises(ValueError, match="nothing to scan"):
        fresh.waha.scan(fresh.session)
    with pytest.raises(ValueError, match="no QR code"):
        fresh.waha.rotate(fresh.session)
    await fresh.run(fresh.adapter.setup())
    await fresh.waha.wait_for(lambda: state.status == "SCAN_QR_CODE")


async def test_the_qr_code_in_all_its_forms(fresh: Phone) -> None:
    await fresh.run(fresh.adapter.setup())
    await fresh.waha.wait_for(lambda: fresh.waha.state_of(fresh.session).status == "SCAN_QR_CODE")
    url = f"{fresh.base_url}/api/{fresh.session.name}/auth/qr"
    key = {"X-Api-Key": fresh.session.api_key}
    async with fresh.http.get(url, headers=key) as picture:
        assert (picture.status, picture.content_type) == (200, "image/png")
        png = await picture.read()
    async with fresh.http.get(url, headers={**key, "Accept": "application/json"}) as answer:
        shown = await answer.json()
    assert shown == {"mimetype": "image/png", "data": base64.b64encode(png).decode()}
    wrong = await fresh.call("POST", f"/api/{fresh.session.name}/auth/request-code", {"phoneNumber": "+1"})
    assert wrong[0] == 400


async def test_creating_what_is_there(phone: Phone) -> None:
    """422 that names PUT; the adapter goes on with what is there."""
    status, body = await phone.call("POST", "/api/sessions", {"name": phone.session.name}, key=phone.waha.api_key)
    assert (status, body["message"]) == (422, f"Session '{phone.session.name}' already exists. Use PUT to update it.")
    wrong: list[dict[str, Any]] = [
        {"name": "a b"},
        {"name": "a", "config": {"webhooks": [{"url": "nowhere", "events": ["message"]}]}},
        {"name": "a", "config": {"webhooks": [{"url": "https://x.example", "events": ["messages"]}]}},
        {"name": "a", "config": {"hooks": []}},
    ]
    for body in wrong:
        assert (await phone.call("POST", "/api/sessions", body, key=phone.waha.api_key))[0] == 400


async def test_a_put_replaces_all_and_restarts(phone: Phone, waha_hooks: Hooks) -> None:
    """Our webhook, and nothing else changed; a PUT without it removes it, and so does disconnecting."""
    path = f"/api/sessions/{phone.session.name}"
    state = phone.waha.state_of(phone.session)
    [hook] = (await phone.call("GET", path))[1]["config"]["webhooks"]
    assert (hook["url"], hook["hmac"], hook["customHeaders"]) == (waha_hooks.url, {"key": phone.session.hmac_key}, None)
    turns = state.turns
    await phone.run(phone.adapter.receive_messages(waha_hooks.url))
    assert state.turns == turns  # nothing to change: no restart
    config = {"metadata": {"tenant": "a"}, "webhooks": state.webhooks}
    assert (await phone.call("PUT", path, {"config": config}))[0] == 200
    await phone.working()
    await phone.waha.settled()
    assert statuses(waha_hooks) == ["STARTING", "STOPPED", "WORKING"]
    await phone.run(phone.adapter.disconnect())
    assert (state.status, state.config) == ("STOPPED", {"metadata": {"tenant": "a"}, "webhooks": []})
    await phone.run(phone.adapter.setup())
    await phone.working()
    assert phone.waha.undeliverable > 0


async def test_stop_start_restart_logout_delete(phone: Phone, waha_hooks: Hooks) -> None:
    """Stopping keeps the link, logging out ends it, deleting ends all; each may be repeated."""
    path, state = f"/api/sessions/{phone.session.name}", phone.waha.state_of(phone.session)
    for _ in range(2):
        assert (await phone.call("POST", f"{path}/stop"))[0] == 201
    assert state.status == "STOPPED"
    assert (await phone.call("GET", f"{path}/me"))[1]["id"] == state.own
    status, body = await phone.call("POST", "/api/sendText", {"session": state.name, "chatId": state.own, "text": "x"})
    assert (status, body["status"], body["expected"]) == (422, "STOPPED", ["WORKING"])
    for _ in range(2):
        assert (await phone.call("POST", f"{path}/start"))[0] == 201
    await phone.working()
    assert (await phone.call("POST", f"{path}/restart"))[0] == 201
    await phone.working()
    assert (await phone.call("POST", f"{path}/logout"))[0] == 201
    await phone.waha.wait_for(lambda: state.status == "SCAN_QR_CODE")
    assert await phone.call("GET", f"{path}/me") == (200, None)
    await phone.waha.settled()
    assert statuses(waha_hooks) == sorted(
        ["STOPPED", "STARTING", "WORKING"] * 2 + ["STOPPED", "STARTING", "SCAN_QR_CODE"]
    )
    for _ in range(2):
        assert (await phone.call("DELETE", path, key=phone.waha.api_key))[0] == 200
    assert (await phone.call("GET", path))[0] == 404
    assert phone.waha.sends[0].status == 422


async def test_a_session_that_is_starting_can_be_tried_again(phone: Phone) -> None:
    """It stays STARTING until somebody sets another status; what was to follow an older state does not any more."""
    state = phone.waha.state_of(phone.session)
    state.starting_s = None
    phone.waha.restart(state)
    with pytest.raises(Unavailable) as busy:
        await phone.run(phone.adapter.send_message(phone.message(Text(body="x"))))
    assert busy.value.code == "session_starting"
    state.starting_s = 0.01
    phone.waha.restart(state)
    phone.waha.set_status(phone.session, "FAILED", unlinked=True)
    await phone.waha.settled()
    assert state.status == "FAILED"
    assert not state.is_linked


@pytest.mark.parametrize("status", ["PASSKEY_REQUIRED", "HIBERNATING", "FAILED"])
async def test_any_other_state_is_posted(phone: Phone, waha_hooks: Hooks, status: str) -> None:
    phone.waha.set_status(phone.session, status, data={"code": "4711"})
    await phone.waha.settled()
    [event] = waha_hooks.of("account.updated")
    assert event.account is not None
    assert event.account.details["status"] == status
    with pytest.raises(AccountBroken):
        await phone.run(phone.adapter.send_message(phone.message(Text(body="x"))))
    with pytest.raises(ValueError, match=f"a session that is {status}"):
        await phone.waha.post(phone.session, phone.waha.inbound(phone.session).text())


async def test_a_restricted_account_is_seen(phone: Phone) -> None:
    """What the newest builds show of a punishment, laid over the account and taken back."""
    phone.waha.set_me(phone.session, messageCapping={"cappingStatus": "CAPPED"})
    status = await phone.run(phone.adapter.get_status())
    assert (status.is_connected, status.connection_quality) == (True, "poor")
    phone.waha.set_me(phone.session, messageCapping=None)
    assert (await phone.run(phone.adapter.get_status())).connection_quality == "excellent"
