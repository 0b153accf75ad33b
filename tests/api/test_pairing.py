"""Linking a phone through the API, and switches that wait for one."""

import base64
from collections.abc import AsyncIterator
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ingress import app
from ingress.dev.sandbox import RetryPolicy, WahaSession, WahaSimulator, example_session
from ingress.settings import Settings

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, command, eventually
from ..health.test_prober import BASE, EXPIRED, current, stream, trail

_sessions = count(7001)


@pytest.fixture
async def waha() -> AsyncIterator[WahaSimulator]:
    async with WahaSimulator(retry=RetryPolicy(tries=40)) as waha:
        yield waha


class Unlinked:
    """An organization with an active account that needs no phone, and a saved one that does."""

    def __init__(self, waha: WahaSimulator, session: WahaSession, organization: Organization, config_id: str) -> None:
        self.waha = waha
        self.session = session
        self.organization = organization
        self.config_id = config_id

    async def pairing(self, method: str = "GET", body: Any = None, query: str = "") -> Answer:
        asked = f"?config_id={self.config_id}{query}" if method != "POST" else ""
        return await self.organization.call(method, f"{BASE}/provider/pairing{asked}", body)

    async def switch(self, config_id: str | None = None, **more: Any) -> Answer:
        body = {"config_id": config_id or self.config_id, **more}
        return await self.organization.call("POST", f"{BASE}/provider/switch", body)

    async def rolled_back(self) -> Any:
        [answer] = await eventually(lambda: self.organization.events(kind="provider.rolled_back"))
        return answer["data"]

    async def config_state(self) -> str:
        listed = (await self.organization.call("GET", f"{BASE}/provider/configs")).json["configs"]
        [state] = [config["state"] for config in listed if config["config_id"] == self.config_id]
        return str(state)


@pytest.fixture
async def unlinked(waha: WahaSimulator, gateway: Gateway) -> Unlinked:
    organization = await gateway.organization()
    await organization.configure()
    session = example_session(next(_sessions), "GOWS")
    config_data = session.config_data(await waha.add_session(session, exists=False))
    body = {"provider_type": "whatsapp_web", "config_data": config_data, "is_active": False, "as_fallback": False}
    answer = await organization.call("POST", f"{BASE}/provider/configure", body)
    assert answer.status == 200, answer.raw
    await waha.wait_for(lambda: waha.state_of(session).status == "SCAN_QR_CODE")
    return Unlinked(waha, session, organization, answer.json["config_id"])


# ---------------------------------------------------------------- linking


async def test_a_phone_is_linked_and_unlinked(unlinked: Unlinked, watching: Gateway, gateway: Gateway) -> None:
    """QR code as text and as a picture, the state as it changes, in the status of another process too."""
    async with stream(gateway, unlinked.organization.key) as shown:
        await shown()
        started = await unlinked.pairing("POST", {"config_id": unlinked.config_id})
        assert (started.status, started.json["state"]) == (200, "scan"), started.raw
        assert started.json["qr"].startswith("2@")
        seen: list[str] = []
        while "scan" not in seen:
            seen += [one["pairing"] for one in (await shown())[1].get("configs", [])]
        assert base64.b64decode(started.json["qr_png"]).startswith(b"\x89PNG")
        picture = await unlinked.pairing(query="&format=png")
        assert (picture.headers["content-type"], picture.headers["cache-control"]) == ("image/png", "no-store")
        assert base64.b64encode(picture.raw).decode() == started.json["qr_png"]
        unlinked.waha.rotate(unlinked.session)
        assert (await unlinked.pairing()).json["qr"] != started.json["qr"]
        unlinked.waha.scan(unlinked.session)
        linked = await eventually(unlinked.pairing, lambda answer: answer.json["state"] == "linked")
        assert "qr" not in linked.json
        while seen[-1] != "linked":
            seen += [one["pairing"] for one in (await shown())[1].get("configs", [])]
        no_code = await unlinked.pairing(query="&format=png")
        assert (no_code.status, no_code.json["code"]) == (409, "no_qr_code")
        assert (await unlinked.pairing("DELETE")).status == 204
        while seen[-1] != "scan":
            seen += [one["pairing"] for one in (await shown())[1].get("configs", [])]
    assert not unlinked.waha.state_of(unlinked.session).is_linked
    actions = [entry["action"] for entry in await trail(unlinked.organization, "pairing_started", "unpaired")]
    assert actions == ["pairing_started", "unpaired"]


async def test_a_code_in_place_of_the_picture(unlinked: Unlinked) -> None:
    body = {"config_id": unlinked.config_id, "phone": "+15005550199"}
    assert len((await unlinked.pairing("POST", body)).json["code"]) == 9
    refused = await unlinked.pairing("POST", {"config_id": unlinked.config_id, "phone": "12"})
    assert (refused.status, refused.json["errors"][0]["path"]) == (422, "phone")


async def test_a_session_that_failed_is_set_up_again(unlinked: Unlinked) -> None:
    unlinked.waha.set_status(unlinked.session, "FAILED", unlinked=True)
    assert (await unlinked.pairing()).json["state"] == "failed"
    assert (await unlinked.pairing("POST", {"config_id": unlinked.config_id})).json["state"] == "scan"


async def test_who_may_link_what(unlinked: Unlinked, gateway: Gateway) -> None:
    """An account without a phone, somebody else's, one that is not there; a key that may only read."""
    unsupported = await unlinked.organization.call("POST", f"{BASE}/provider/pairing", {})
    assert (unsupported.status, unsupported.json["code"]) == (422, "unsupported")
    other = await gateway.organization()
    for config_id in (unlinked.config_id, str(UUID(int=1))):
        for method, body in (("GET", None), ("DELETE", None), ("POST", {"config_id": config_id})):
            asked = "" if body else f"?config_id={config_id}"
            assert (await other.call(method, f"{BASE}/provider/pairing{asked}", body)).status == 404
    key = (await unlinked.organization.call("POST", "/keys", {"scopes": ["read"]})).json["key"]
    assert (await gateway.call("GET", f"{BASE}/provider/pairing", key=key)).status == 403


# ---------------------------------------------------------------- a switch that waits


async def test_a_switch_waits_for_the_phone(unlinked: Unlinked, watching: Gateway) -> None:
    """In `switching`, with the former one in force; made by a process that was not asked for it."""
    answer = await unlinked.switch(reason="cheaper")
    assert (answer.status, answer.json["state"], answer.json["waits_for"]) == (202, "switching", "pairing")
    assert "for its phone" in await command(unlinked.organization, "switch", unlinked.config_id)
    again = await unlinked.switch()
    assert (again.status, again.json["waits_until"]) == (202, answer.json["waits_until"])
    assert await unlinked.config_state() == "switching"
    shown = await current(unlinked.organization)
    assert (shown["provider"], shown["version"]) == ("meta_business", 1)
    assert (await unlinked.organization.send()).status == 200
    unlinked.waha.scan(unlinked.session)
    shown = await eventually(lambda: current(unlinked.organization), lambda shown: shown["version"] == 2)
    assert shown["config_id"] == unlinked.config_id
    [*_, made] = await trail(unlinked.organization, "activated")
    assert (made["reason"], made["actor"] not in ("system", "platform")) == ("cheaper", True)
    assert (await unlinked.organization.send()).json["provider"] == "whatsapp_web"
    assert await unlinked.organization.events(kind="provider.rolled_back") == []


async def test_a_switch_that_nobody_scans_for_is_undone(
    unlinked: Unlinked, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is over, by any process."""
    await unlinked.switch()
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "update switches set waits_until = now() - interval '1 s' where config_id = $1",
        UUID(unlinked.config_id),
    )
    await connection.close()
    monkeypatch.setattr(app, "RECOVER_EVERY_S", 0.05)
    async with serving(settings):
        answer = await unlinked.rolled_back()
    assert (answer["reason"], answer["failed_config_id"]) == ("pairing_timed_out", unlinked.config_id)
    assert await unlinked.config_state() == "configured"


async def test_a_process_that_recovers_leaves_who_waits_alone(
    unlinked: Unlinked, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await unlinked.switch()
    recovered = count()
    recover = app.WhatsAppProviderManager.__init__
    monkeypatch.setattr(app, "RECOVER_EVERY_S", 0.01)

    def counted(self: Any, *arguments: Any, **named: Any) -> None:
        recover(self, *arguments, **named)
        once = self.recover

        async def noted() -> None:
            await once()
            next(recovered)

        self.recover = noted

    monkeypatch.setattr(app.WhatsAppProviderManager, "__init__", counted)
    async with serving(settings):
        await eventually(lambda: next(recovered) > 3)
    assert await unlinked.config_state() == "switching"


async def test_another_change_takes_its_place(unlinked: Unlinked, watching: Gateway) -> None:
    """Its event says that it was not made; the phone may be linked later, and changes nothing."""
    await unlinked.switch()
    await unlinked.organization.configure(active=False)
    other = unlinked.organization.configs[1]["config_id"]
    assert (await unlinked.switch(other)).status == 200
    shown = await unlinked.rolled_back()
    assert (shown["reason"], shown["failed_config_id"]) == ("superseded", unlinked.config_id)
    unlinked.waha.scan(unlinked.session)
    await eventually(unlinked.pairing, lambda answer: answer.json["state"] == "linked")
    assert (await current(unlinked.organization))["config_id"] == other
    assert await unlinked.config_state() == "configured"
    assert (await unlinked.switch()).status == 200


@pytest.mark.parametrize("asked", ["stale", "unknown", "active", "no-former", "failing", "failing-new"])
async def test_what_changes_nothing_leaves_who_waits_alone(unlinked: Unlinked, gateway: Gateway, asked: str) -> None:
    """Its place is taken by a change that is made, and by no other."""
    organization = unlinked.organization
    await organization.configure(active=False, own_port=True)
    active, other = (config["config_id"] for config in organization.configs)
    until = (await unlinked.switch()).json["waits_until"]
    if asked == "stale":
        answer = await unlinked.switch(other, expected_version=0)
    elif asked == "unknown":
        answer = await unlinked.switch(str(UUID(int=1)))
    elif asked == "active":
        answer = await unlinked.switch(active)
    elif asked == "no-former":
        answer = await organization.call("POST", f"{BASE}/provider/rollback", {})
    elif asked == "failing":
        await gateway.meta.set_default(organization.numbers[1], EXPIRED, everything=True)
        answer = await unlinked.switch(other)
    else:
        number = organization.numbers[1]
        config_data = number.config_data(gateway.meta.url_for(number)) | {"access_token": "EAAG-not-this-one"}
        body = {"provider_type": "meta_business", "config_data": config_data, "allow_second": True}
        answer = await organization.call("POST", f"{BASE}/provider/switch", body)
    wanted = {"stale": 409, "unknown": 404, "active": 200, "no-former": 409, "failing": 400, "failing-new": 400}[asked]
    assert answer.status == wanted, answer.raw
    assert await unlinked.config_state() == "switching"
    shown = [event["data"]["reason"] for event in await organization.events(kind="provider.rolled_back")]
    assert shown == (["test_failed"] if asked.startswith("failing") else [])
    again = await unlinked.switch()
    assert (again.status, again.json["waits_until"]) == (202, until)


async def test_what_is_asked_for_otherwise_begins_anew(unlinked: Unlinked) -> None:
    """At another version, or without a test: an event says that what waited was not made."""
    until = (await unlinked.switch()).json["waits_until"]
    again = await unlinked.switch(expected_version=1)
    assert again.status == 202
    assert again.json["waits_until"] > until
    same = await unlinked.switch(expected_version=1)
    assert same.json["waits_until"] == again.json["waits_until"]
    assert (await unlinked.switch(force=True)).status == 200
    answer = [event["data"]["reason"] for event in await unlinked.organization.events(kind="provider.rolled_back")]
    assert answer == ["superseded", "superseded"]


async def test_a_config_whose_switch_waits_is_deleted(unlinked: Unlinked) -> None:
    """The switch is undone, and the event says so."""
    await unlinked.switch()
    path = f"{BASE}/provider/configs/{unlinked.config_id}"
    assert (await unlinked.organization.call("DELETE", path)).status == 204
    answer = await unlinked.rolled_back()
    assert (answer["reason"], answer["failed_config_id"]) == ("superseded", unlinked.config_id)
    undone, removed = await trail(unlinked.organization, "rolled_back", "removed")
    assert (undone["action"], undone["after"]["state"]) == ("rolled_back", "configured")
    assert (removed["action"], removed["before"]["state"]) == ("removed", "configured")


async def test_deleting_another_config_leaves_who_waits_alone(unlinked: Unlinked) -> None:
    await unlinked.organization.configure(active=False)
    await unlinked.switch()
    path = f"{BASE}/provider/configs/{unlinked.organization.configs[1]['config_id']}"
    assert (await unlinked.organization.call("DELETE", path)).status == 204
    assert await unlinked.config_state() == "switching"


async def test_a_rollback_that_waited_brings_back_the_fallbacks_of_then(unlinked: Unlinked, watching: Gateway) -> None:
    organization = unlinked.organization
    await organization.configure(active=False)
    other = organization.configs[1]["config_id"]
    assert (await unlinked.switch(force=True)).status == 200
    await organization.fall_back_to(other)
    assert (await unlinked.switch(other)).status == 200
    assert (await organization.call("GET", f"{BASE}/provider/fallback")).json["config_ids"] == [unlinked.config_id]
    answer = await organization.call("POST", f"{BASE}/provider/rollback", {})
    assert (answer.status, answer.json["waits_for"]) == (202, "pairing"), answer.raw
    unlinked.waha.scan(unlinked.session)
    await eventually(lambda: current(organization), lambda shown: shown["config_id"] == unlinked.config_id)
    assert (await organization.call("GET", f"{BASE}/provider/fallback")).json["config_ids"] == [other]
    [*_, made] = await trail(organization, "activated")
    assert made["after"]["kind"] == "rollback"


async def test_a_switch_that_waited_is_made_at_the_version_it_was_for(unlinked: Unlinked, watching: Gateway) -> None:
    """An order of fallbacks was set meanwhile: it is undone."""
    organization = unlinked.organization
    assert (await unlinked.switch(expected_version=1)).status == 202
    await organization.fall_back_to(unlinked.config_id)
    unlinked.waha.scan(unlinked.session)
    answer = await unlinked.rolled_back()
    assert (answer["reason"], answer["version"]) == ("version_conflict", 2)
    assert await unlinked.config_state() == "configured"
    assert (await current(organization))["version"] == 2


async def test_with_force_nobody_waits(unlinked: Unlinked) -> None:
    answer = await unlinked.switch(force=True)
    assert (answer.status, answer.json["state"]) == (200, "active")


async def test_a_new_account_that_shall_be_active_waits_too(waha: WahaSimulator, watching: Gateway) -> None:
    """The first one of an organization: until then nothing is sent."""
    organization = await watching.organization()
    session = example_session(next(_sessions), "WEBJS")
    config_data = session.config_data(await waha.add_session(session, exists=False))
    body = {"provider_type": "whatsapp_web", "config_data": config_data}
    answer = await organization.call("POST", f"{BASE}/provider/configure", body)
    assert (answer.status, answer.json["state"]) == (202, "switching"), answer.raw
    assert (await organization.send()).json["code"] == "provider_not_configured"
    pairing = await organization.call("POST", f"{BASE}/provider/pairing", {"config_id": answer.json["config_id"]})
    assert pairing.json["state"] == "scan"
    waha.scan(session)
    await eventually(lambda: current(organization), lambda shown: shown.get("version") == 1)
    assert (await organization.send()).status == 200


async def test_what_a_webhook_says_of_an_account_is_looked_into(
    unlinked: Unlinked, settings: Settings, watching: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the next look is due."""
    await unlinked.switch()
    unlinked.waha.scan(unlinked.session)
    await eventually(lambda: current(unlinked.organization), lambda answer: answer["version"] == 2)
    await eventually(lambda: current(unlinked.organization), lambda answer: answer["health"]["state"] == "healthy")
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        """update provider_health set due_at = now() + interval '1 h', checked_at = now() - interval '1 min',
            lease_id = null, leased_until = null where config_id = $1""",
        UUID(unlinked.config_id),
    )
    await connection.close()
    unlinked.waha.set_status(unlinked.session, "FAILED", unlinked=True)
    answer = await eventually(
        lambda: current(unlinked.organization), lambda answer: answer["health"]["state"] == "unhealthy"
    )
    assert answer["health"]["reason"] == "session_lost"
