"""WAHA servers that forget, refuse and lack things: the service notices, repairs what it can, and falls back."""

import itertools
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress.dev.sandbox import ErrorCode, RetryPolicy, WahaSession, WahaSimulator, example_session
from ingress.dev.sandbox.waha.bodies import Engine
from ingress.dev.sandbox.waha.server import WahaServer
from ingress.settings import Settings

from ..gateway import Gateway, Organization, eventually, limit
from ..health.test_prober import health_of, trail

BASE = "/integrations/whatsapp"
PEER = "+5511987654321"
LIST = {
    "type": "interactive",
    "body": "Escolha",
    "action": {"type": "list", "button": "Ver", "sections": [{"rows": [{"id": "1", "title": "Um"}]}]},
}
_sessions = itertools.count(9001)


class Account:
    """An organization whose active account is a session, with Meta as its fallback."""

    def __init__(self, waha: WahaSimulator, session: WahaSession, organization: Organization) -> None:
        self.waha = waha
        self.session = session
        self.organization = organization
        self.state = waha.state_of(session)
        self.config_id = ""

    async def configure(self) -> None:
        config_data = self.session.config_data(self.waha.url_for(self.session))
        body = {"provider_type": "whatsapp_web", "config_data": config_data, "is_active": True}
        answer = await self.organization.call("POST", f"{BASE}/provider/configure", body)
        assert answer.status == 200, answer.raw
        self.config_id = answer.json["config_id"]
        other = await self.organization.configure(active=False)
        order = {"config_ids": [other["config_id"]]}
        assert (await self.organization.call("PUT", f"{BASE}/provider/fallback", order)).status == 200
        await self.waha.wait_for(lambda: self.state.status == "WORKING" and self.state.webhooks)

    async def post(self, path: str, **body: Any) -> Any:
        answer = await self.organization.call("POST", f"{BASE}/provider/{path}", {"config_id": self.config_id, **body})
        assert answer.status == 200, answer.raw
        return answer.json

    async def write_and_arrive(self) -> None:
        """A person writes, and it comes out."""
        await self.waha.wait_for(lambda: self.state.status == "WORKING")
        await self.waha.post(self.session, self.waha.inbound(self.session).text("Olá", phone=PEER))
        await eventually(lambda: self.organization.events(kind="message.received"))


async def account(waha: WahaSimulator, gateway: Gateway, engine: Engine, **session: str) -> Account:
    """A session that was linked before, as somebody made it."""
    made = msgspec.structs.replace(example_session(next(_sessions), engine), **session)
    await waha.add_session(made, own_port=True)
    account = Account(waha, made, await gateway.organization())
    await account.configure()
    return account


@pytest.fixture
async def waha() -> AsyncIterator[WahaSimulator]:
    async with WahaSimulator(retry=RetryPolicy(tries=40)) as waha:
        yield waha


@pytest.fixture
async def core() -> AsyncIterator[WahaSimulator]:
    """Before the editions were merged: it runs one session, and forgets how that was configured."""
    async with WahaSimulator(retry=RetryPolicy(tries=40), server=WahaServer(version="2026.2.1")) as waha:
        yield waha


async def test_a_webhook_that_a_server_forgot_is_written_again(core: WahaSimulator, watching: Gateway) -> None:
    """The session works, and would post nothing any more. Health says so, and repairs it."""
    forgetful = await account(core, watching, "NOWEB", name="default")
    await health_of(forgetful.organization, "healthy")
    core.restart_server()
    await core.wait_for(lambda: forgetful.state.webhooks)
    await forgetful.write_and_arrive()
    await health_of(forgetful.organization, "healthy")


async def test_what_nobody_repairs_is_said(core: WahaSimulator, watching: Gateway) -> None:
    """A key that may not write it: degraded, with what to do."""
    forgetful = await account(core, watching, "NOWEB", name="default")
    key = core.keys[forgetful.session.api_key]
    core.keys[forgetful.session.api_key] = msgspec.structs.replace(key, may=key.may - {"setting"})
    core.restart_server()
    answer = await health_of(forgetful.organization, "degraded")
    assert answer["reason"] == "webhook_missing"
    assert "provider/repair" in answer["what_to_do"]
    # Once to configure it; once in vain, perhaps after the look that said so; not each time.
    await core.wait_for(lambda: core.call_count("PUT sessions/{session}", "default") > 1)
    await health_of(forgetful.organization, "degraded")
    assert core.call_count("PUT sessions/{session}", "default") == 2


async def test_webhooks_that_are_not_signed_are_missed(
    waha: WahaSimulator, watching: Gateway, settings: Settings
) -> None:
    """Each is refused, though the session is as it should be: health says so, until one comes that is signed."""
    unsigned = await account(waha, watching, "NOWEB")
    assert await unsigned.organization.probe(unsigned.config_id) is True  # what it posts unsigned is our own
    await health_of(unsigned.organization, "healthy")
    signed = unsigned.state.config
    [hook] = unsigned.state.webhooks
    unsigned.state.config = {**signed, "webhooks": [{**hook, "retries": {"attempts": 0}, "hmac": {"key": "another"}}]}
    [post] = await waha.post(unsigned.session, waha.inbound(unsigned.session).text("Olá", phone=PEER))
    assert post.status == 401
    unsigned.state.config = signed
    connection = await asyncpg.connect(settings.database_url)
    before = "update inbound_webhooks set received_at = received_at - interval '1 hour' where config_id = $1"
    await connection.execute(before, UUID(unsigned.config_id))  # those of setting it up were signed
    await connection.close()
    answer = await health_of(unsigned.organization, "degraded")
    assert (answer["reason"], "signs" in answer["what_to_do"]) == ("webhooks_refused", True)
    await unsigned.write_and_arrive()
    await health_of(unsigned.organization, "healthy")


@pytest.mark.parametrize("how", ["force", "pairing", "repair"])
async def test_the_webhook_is_written_again_where_somebody_asks(
    core: WahaSimulator, gateway: Gateway, how: str
) -> None:
    forgetful = await account(core, gateway, "NOWEB", name="default")
    other = forgetful.organization.configs[-1]["config_id"]
    assert (await forgetful.organization.call("POST", f"{BASE}/provider/switch", {"config_id": other})).status == 200
    core.restart_server()
    assert forgetful.state.webhooks == []
    await core.wait_for(lambda: forgetful.state.status == "WORKING")
    if how == "force":
        assert (await forgetful.post("switch", force=True))["changed"] is True
    else:
        await forgetful.post(how)
    await forgetful.write_and_arrive()


@pytest.mark.parametrize("engine", ["WEBJS", "NOWEB"])
async def test_what_an_engine_needs_is_missed_and_switched_on(
    waha: WahaSimulator, gateway: Gateway, engine: Engine
) -> None:
    """In a session that somebody made: by a test it is found, by a repair it is mended, and the trail has it."""
    made = await account(waha, gateway, engine)
    assert "webjs" not in made.state.config
    assert "noweb" not in made.state.config
    [found] = [check for check in (await made.post("test"))["checks"] if check["name"] == "settings"]
    assert (found["passed"], "provider/repair" in found["fix"]) == (False, True)
    repaired = await made.post("repair")
    assert repaired["passed"] is True
    assert [check["name"] for check in repaired["checks"] if not check["passed"]] in ([], ["session"])
    wanted = {"webjs": {"tagsEventsOn": True}} if engine == "WEBJS" else {"noweb": {"store": {"enabled": True}}}
    assert made.state.config.items() >= wanted.items()
    assert [entry["config_id"] for entry in await trail(made.organization, "repaired")] == [made.config_id]
    await made.write_and_arrive()


async def test_a_session_that_somebody_deleted(waha: WahaSimulator, gateway: Gateway) -> None:
    """Its messages go out by the fallback, and it is not called for each."""
    lost = await account(waha, gateway, "GOWS")
    waha.delete(lost.state)
    sent = await lost.organization.send({"to": PEER, "body": "Olá"})
    assert (sent.status, sent.json["provider"], sent.json["fallback_from"]) == (200, "meta_business", lost.config_id)
    message = await lost.organization.message(sent.json["id"])
    assert (message["attempts"][0]["class"], message["attempts"][0]["code"]) == ("AccountBroken", "session_missing")


@pytest.mark.parametrize("version", ["2026.7.1", "2025.8.1"])
async def test_a_list_that_cannot_be_sent(waha: WahaSimulator, gateway: Gateway, version: str) -> None:
    """By the engine, or as the version has no such call: nothing was sent, and the fallback can say it."""
    usual = await account(waha, gateway, "WEBJS")
    waha.server.version = version
    sent = await usual.organization.send({"to": PEER, "content": LIST})
    assert (sent.status, sent.json["provider"], sent.json["fallback_reason"]) == (200, "meta_business", "Unsupported")
    assert waha.accepted == []


async def test_a_socket_that_is_closed_for_a_moment(waha: WahaSimulator, gateway: Gateway) -> None:
    """Nothing was written: it goes out all the same, by the next provider."""
    usual = await account(waha, gateway, "NOWEB")
    await waha.script(usual.session, *[ErrorCode(code=500, message="Connection Closed")] * 3)
    sent = await usual.organization.send({"to": PEER, "body": "Olá"})
    assert (sent.status, sent.json["provider"]) == (200, "meta_business"), sent.raw
    first = (await usual.organization.message(sent.json["id"]))["attempts"][0]
    assert (first["class"], first["code"]) == ("Unavailable", "connection_closed")


async def test_two_configs_of_one_session_are_one_account(waha: WahaSimulator, gateway: Gateway) -> None:
    """Each has its webhook there, and what people write comes out once, also where nobody says the number."""
    session = example_session(next(_sessions))
    await waha.add_session(session, linked=False, own_port=True)
    organization = await gateway.organization()
    config_data = session.config_data(waha.url_for(session))
    del config_data["phone_number"]
    for number in range(2):
        body = {"provider_type": "whatsapp_web", "name": f"{number}", "is_active": False}
        body |= {"config_data": {**config_data, "hmac_key": f"{session.hmac_key}{number}"}}
        answer = await organization.call("POST", f"{BASE}/provider/configure", body)
        if answer.status == 409:  # a second config has to be asked for
            answer = await organization.call("POST", f"{BASE}/provider/configure", {**body, "allow_second": True})
        assert answer.status == 200, answer.raw
    state = waha.state_of(session)
    assert len(state.webhooks) == 2
    await waha.wait_for(lambda: state.status == "SCAN_QR_CODE")
    waha.scan(session)
    assert [post.status for post in await waha.post(session, waha.inbound(session).text("Olá", phone=PEER))] == [
        200,
        200,
    ]
    assert len(await organization.events(kind="message.received")) == 1


async def test_who_is_not_linked_is_not_waited_for_in_vain(
    waha: WahaSimulator, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes after ten seconds, here after one, within the limit: the message was surely not sent."""
    unlinked = await account(waha, gateway, "NOWEB")
    limit(monkeypatch, "whatsapp_web", call_s=1.5)
    waha.server.waits = 0.1
    waha.set_status(unlinked.session, "SCAN_QR_CODE", unlinked=True)
    sent = await unlinked.organization.send({"to": PEER, "body": "Olá"})
    assert (sent.status, sent.json["provider"], sent.json["fallback_reason"]) == (200, "meta_business", "AccountBroken")
    attempt = (await unlinked.organization.message(sent.json["id"]))["attempts"][0]
    assert (attempt["code"], attempt["duration_ms"] >= 1000) == ("session_not_working", True)


async def test_a_session_that_failed_restarts_once(waha: WahaSimulator, gateway: Gateway) -> None:
    """Writing the webhook starts it anew: nothing is left to do for the set-up."""
    session = example_session(next(_sessions))
    await waha.add_session(session, own_port=True)
    waha.set_status(session, "FAILED")
    made = Account(waha, session, await gateway.organization())
    await made.configure()
    assert made.state.status == "WORKING"
    calls = {
        call: waha.call_count(call, session.name)
        for call in ("PUT sessions/{session}", "POST sessions/{session}/restart")
    }
    assert list(calls.values()) == [1, 0]


async def test_an_acceptance_without_an_id(waha: WahaSimulator, gateway: Gateway) -> None:
    """As an old server answers a card: it was sent, nobody knows under which id, and nothing is made up."""
    usual = await account(waha, gateway, "NOWEB")
    waha.server.version, waha.server.tier = "2024.10.8", "PLUS"
    card = {"type": "contacts", "contacts": [{"name": {"formatted_name": "Ana"}, "phones": [{"phone": PEER}]}]}
    sent = await usual.organization.send({"to": PEER, "content": card})
    assert (sent.status, sent.json["status"], sent.json["provider"]) == (200, "sent", "whatsapp_web"), sent.raw
    assert (sent.json["provider_message_id"], len(waha.accepted)) == (None, 1)
    message = await usual.organization.message(sent.json["id"])
    assert (message["state"], message["attempts"][0]["class"]) == ("done", "ok")
