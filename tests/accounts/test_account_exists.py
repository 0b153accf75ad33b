"""A form that is saved twice makes no second config of the same account, unless that is asked for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ingress.dev.sandbox import MetaNumber, RetryPolicy, TwilioSimulator, WahaSimulator, example_number, example_session
from ingress.dev.sandbox.twilio.bodies import example_sender
from ingress.dev.sandbox.waha.bodies import waha_encode, waha_envelope, waha_headers
from ingress.settings import Settings

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, _numbers

BASE = "/integrations/whatsapp/provider"


async def post(organization: Organization, what: str, body: Any, **more: Any) -> Answer:
    return await organization.call("POST", f"{BASE}/{what}", body | more)


async def saved(organization: Organization) -> list[str]:
    listed = (await organization.call("GET", f"{BASE}/configs")).json["configs"]
    return [config["config_id"] for config in listed]


def exists(answer: Answer, config_id: str) -> bool:
    assert (answer.status, answer.json["code"], answer.json["config_id"]) == (409, "account_exists", config_id)
    return bool(answer.json["detail"])


@pytest.fixture
async def empty(gateway: Gateway) -> Organization:
    return await gateway.organization()


@pytest.fixture
async def number(gateway: Gateway) -> MetaNumber:
    number = example_number(next(_numbers))
    await gateway.meta.add_number(number)
    return number


@pytest.fixture
def form(gateway: Gateway, number: MetaNumber) -> dict[str, Any]:
    return {"provider_type": "meta_business", "config_data": number.config_data(gateway.meta.url)}


@pytest.fixture(params=["meta_business", "twilio_whatsapp", "whatsapp_web"])
async def any_form(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncIterator[dict[str, Any]]:
    """A form of each provider, and what may be other in one of the same account."""
    index = 40_000 + next(_numbers)
    async with TwilioSimulator() as twilio, WahaSimulator() as waha:
        if request.param == "twilio_whatsapp":
            sender = example_sender(index)
            data = sender.config_data(await twilio.add_number(sender))
        elif request.param == "whatsapp_web":
            session = example_session(index, "GOWS")
            data = session.config_data(await waha.add_session(session))
        else:
            number = example_number(index)
            data = number.config_data(await gateway.meta.add_number(number))
        yield {"provider_type": request.param, "config_data": data}


@pytest.mark.parametrize("active", [True, False])
async def test_saving_a_form_twice(empty: Organization, any_form: dict[str, Any], active: bool) -> None:
    """The answer names the config that is there; asked for, there are two."""
    first = await post(empty, "configure", any_form, is_active=active)
    assert first.status in (200, 202), first.raw
    config_id = first.json["config_id"]
    for again in (any_form, any_form | {"name": "Another name", "is_active": not active}):
        assert exists(await post(empty, "configure", again), config_id)
    assert await saved(empty) == [config_id]
    second = await post(empty, "configure", any_form, is_active=False, allow_second=True)
    assert second.status == 200, second.raw
    assert await saved(empty) == [config_id, second.json["config_id"]]


async def test_it_is_known_before_the_provider_is_asked(
    organization: Organization, gateway: Gateway, number: MetaNumber, form: dict[str, Any]
) -> None:
    config_id = (await organization.configure(number, active=False))["config_id"]
    calls = gateway.meta.call_count(owner=number.phone_number_id)
    other = form | {"config_data": form["config_data"] | {"access_token": "EAAG-another"}}
    for what, body in (("configure", form), ("configure", other | {"is_active": False}), ("switch", other)):
        assert exists(await post(organization, what, body), config_id)
    assert exists(await post(organization, "switch", other, force=True), config_id)
    assert exists(await post(organization, "switch", other, dry_run=True), config_id)
    assert gateway.meta.call_count(owner=number.phone_number_id) == calls


async def test_it_is_known_by_the_number_that_the_provider_names(
    empty: Organization, gateway: Gateway, number: MetaNumber, form: dict[str, Any]
) -> None:
    """One number under two ids, as after it moved to another account of the provider: known once it was tested."""
    config_id = (await empty.configure(number))["config_id"]
    moved = msgspec.structs.replace(example_number(next(_numbers)), display_phone_number=number.display_phone_number)
    await gateway.meta.add_number(moved)
    data = moved.config_data(gateway.meta.url)
    del data["display_phone_number"]
    body = form | {"config_data": data}
    for active in (True, False):
        assert exists(await post(empty, "configure", body, is_active=active), config_id)
    assert await saved(empty) == [config_id]
    assert (await post(empty, "configure", body, allow_second=True)).status == 200


async def test_of_saves_at_once_one_is_made(
    empty: Organization, gateway: Gateway, settings: Settings, form: dict[str, Any]
) -> None:
    """In two processes, with and without activating."""
    async with serving(settings) as url:
        there = Organization(Gateway(url, gateway.platform_key, gateway.session, gateway.meta), empty.id, empty.key)
        answers = await asyncio.gather(
            *(
                post(asked, "configure", form, is_active=active)
                for asked in (empty, there)
                for active in (True, False, True)
            )
        )
    [config_id] = await saved(empty)
    made = [answer for answer in answers if answer.status == 200]
    assert [answer.json["config_id"] for answer in made] == [config_id]
    assert all(exists(answer, config_id) for answer in answers if answer not in made)
    assert len(answers) == 6


async def test_a_switch_with_the_form_of_a_saved_config_is_one_to_it(
    empty: Organization, gateway: Gateway, form: dict[str, Any]
) -> None:
    """A client that knows no ids switches there and back with its forms, and no configs pile up."""
    other = example_number(next(_numbers))
    second = form | {"config_data": other.config_data(await gateway.meta.add_number(other))}
    ids = [(await post(empty, "configure", each)).json["config_id"] for each in (form, second)]
    for version, place in ((3, 0), (4, 1), (4, 1)):
        body = [form, second][place]
        foreseen = (await post(empty, "switch", body, dry_run=True)).json
        answer = await post(empty, "switch", body)
        assert (answer.status, answer.json["version"], answer.json["config_id"]) == (200, version, ids[place])
        assert (foreseen["to_config_id"], foreseen["changed"]) == (ids[place], answer.json["changed"])
    assert await saved(empty) == ids
    added = await post(empty, "switch", form, allow_second=True)
    assert (added.status, added.json["changed"]) == (200, True)
    assert len(await saved(empty)) == 3


async def test_an_edit_makes_no_second_config_of_an_account(organization: Organization) -> None:
    """Of its own account it is edited as ever."""
    first, second = organization.configs[0], await organization.configure(active=False)
    number = organization.numbers[0]
    change = {"phone_number_id": number.phone_number_id, "waba_id": number.waba_id}
    change |= {"access_token": number.access_token, "display_phone_number": number.display_phone_number}
    path = f"{BASE}/configs/{second['config_id']}"
    assert exists(await organization.call("PATCH", path, {"config_data": change}), first["config_id"])
    body = {"config_data": change, "allow_second": True}
    assert (await organization.call("PATCH", path, body)).status == 200
    assert (await organization.call("PATCH", path, {"name": "Renewed"})).status == 200
    body = {"config_data": {"verify_token": "another"}}
    assert (await organization.call("PATCH", path, body)).status == 200


async def test_another_organization_is_told_nothing_of_it(empty: Organization, form: dict[str, Any]) -> None:
    """An account of another one is `account_in_use` as before, and no config is named."""
    assert (await post(empty, "configure", form)).status == 200
    other = await empty.gateway.organization()
    answer = await post(other, "configure", form)
    assert (answer.status, answer.json["code"], "config_id" in answer.json) == (409, "account_in_use", False)


async def test_two_configs_of_one_session_are_one_account(empty: Organization) -> None:
    """Also before a phone is linked: what comes in at both addresses is one event."""
    async with WahaSimulator(retry=RetryPolicy(tries=40)) as waha:
        session = example_session(40_000 + next(_numbers), "GOWS")
        data = session.config_data(await waha.add_session(session, exists=False)) | {"phone_number": None}
        data = {name: value for name, value in data.items() if value is not None}
        body = {"provider_type": "whatsapp_web", "config_data": data, "is_active": False, "allow_second": True}
        made = [(await post(empty, "configure", body)).json for _ in range(2)]
        assert len({config["webhook_url"] for config in made}) == 2
        await waha.wait_for(lambda: waha.state_of(session).status == "SCAN_QR_CODE")
        news = waha.inbound(session).text()
        about: dict[str, Any] = {"session": session.name, "engine": session.engine, "me": None, "metadata": None}
        raw = waha_encode(waha_envelope(news.events[0], news.payload, waha.server, event_id="evt_1", **about))
        for config in made:
            headers = dict(waha_headers(raw, waha.server.version, request_id="req_1", key=session.hmac_key))
            assert (await empty.gateway.call("POST", config["webhook_url"], raw=raw, **headers)).status == 200
    listed = (await empty.call("GET", f"{BASE}/configs")).json["configs"]
    assert [config["sender"] for config in listed] == [None, None]
    assert len(await empty.events(kind="message.received")) == 1
