"""The page of providers without JavaScript: cards, the form of a configuration, its test, the order of fallbacks."""

import re
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from aiohttp import web

from ingress import app
from ingress.console.config_form import KEPT
from ingress.dev.sandbox import MetaNumber, example_number
from ingress.settings import Settings
from providers import Registry
from providers.registry import ENTRY_POINT_GROUP

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually
from .browsing import Console, Page, signed_in

HOME = "/console/whatsapp"
EXAMPLE = Path(__file__).parents[2] / "examples" / "threesixty"
SECRETS = {"data.access_token", "data.app_secret", "data.verify_token"}
_numbers = count(710_000)


@pytest.fixture
async def empty(gateway: Gateway) -> Console:
    """Somebody of an organization that has nothing yet."""
    return await signed_in(await gateway.organization("Empty"))


@pytest.fixture
async def number(gateway: Gateway) -> MetaNumber:
    made = example_number(next(_numbers))
    await gateway.meta.add_number(made)
    return made


def typed(gateway: Gateway, number: MetaNumber, **changes: str) -> dict[str, str]:
    """What a person types into the form of a simulated number."""
    data = number.config_data(gateway.meta.url_for(number)) | changes
    return {"provider": "meta_business", **{f"data.{name}": str(value) for name, value in data.items()}}


def draft(page: Page) -> str:
    return page.one("input", name="draft")["value"]


def can_save(page: Page) -> bool:
    return any("disabled" not in button for button in page.all("button") if "/save" in button.get("formaction", ""))


def checks(page: Page) -> dict[str, str]:
    """The state of each check that is shown, by its name."""
    lines = re.findall(r'class="check-line (\w+)">.*?<strong>([^<]*)</strong>', page.html, re.DOTALL)
    return {name: state for state, name in lines}


# ---------------------------------------------------------------- cards


async def test_an_empty_organization_sees_three_steps_and_a_card_a_provider(empty: Console) -> None:
    page = await empty.get(HOME)
    assert page.status == 200
    assert "No provider yet" in page.text
    radios = page.all("input", type="radio")
    assert {radio["value"] for radio in radios} >= {"meta_business", "twilio_whatsapp", "whatsapp_web"}
    assert {radio["name"] for radio in radios} == {"provider"}
    assert not any("checked" in radio for radio in radios)
    assert [item["class"] for item in page.all("li") if item.get("class") in ("done", "current", "to_come")] == [
        "current",
        "to_come",
        "to_come",
    ]
    for words in ("Free", "Paid", "Unstable", "Official"):
        assert words in page.text
    assert page.all("form", action=f"{HOME}/test") == []


async def test_a_card_has_the_account_its_health_and_its_last_messages(
    organization: Organization, console: Console
) -> None:
    message = organization.gateway.meta.inbound(organization.numbers[0]).text("hello")
    await organization.post_webhook(message)
    assert (await organization.send()).status == 200
    page = await console.get(HOME)
    sender = organization.numbers[0].display_phone_number
    assert f"{sender} Sandbox" in page.text
    assert "Not known yet" in page.text
    assert "Last in just now Last out just now" in page.text
    assert "100 % of 1" in page.text
    assert page.all("svg", aria_label="1 of 1 sends were taken")
    chosen = page.one("input", type="radio", value="meta_business")
    assert "checked" in chosen


@pytest.mark.parametrize(
    "query", ["provider=nothing", "provider=meta_business&config=x", "config=x&provider=whatsapp_web"]
)
async def test_what_is_not_there_is_not_found(console: Console, query: str) -> None:
    assert (await console.get(f"{HOME}?{query}")).status == 404


async def test_choosing_another_card_shows_its_empty_form_and_the_active_one_its_own(
    organization: Organization, console: Console
) -> None:
    page = await console.get(f"{HOME}?provider=twilio_whatsapp")
    assert page.one("input", name="data.account_sid")["value"] == ""
    assert page.one("input", name="data.phone_number")["placeholder"] == "+55 11 99999-9999"
    assert page.one("input", name="data.auth_token")["type"] == "password"
    page = await console.get(f"{HOME}?provider=meta_business")
    number = organization.numbers[0]
    assert page.one("input", name="data.phone_number_id")["value"] == number.phone_number_id
    assert number.access_token not in page.html
    assert number.app_secret not in page.html
    assert "Replace" in page.text


# ---------------------------------------------------------------- the form


async def test_from_nothing_to_an_active_account(empty: Console, gateway: Gateway, number: MetaNumber) -> None:
    """Test, look, save: without a script, and without typing a secret twice."""
    form = typed(gateway, number)
    page = await empty.post(f"{HOME}/test", form)
    assert page.status == 200
    assert checks(page)["Credentials"] == "passed"
    assert "Messages can be sent through this account." in page.text
    assert f"Number {number.display_phone_number}" in page.text
    assert f"{number.phone_number_id}, {number.waba_id}" in page.text
    assert can_save(page)
    for secret in (number.access_token, number.app_secret, number.verify_token):
        assert secret not in page.html
    again = {name: value for name, value in form.items() if name not in SECRETS}
    page = await empty.post(f"{HOME}/save", {**again, "draft": draft(page), "name": "Main number"})
    assert page.status == 303, page.text
    assert page.location.endswith("done=config_active")
    page = await empty.get(page.location)
    assert "Main number is active" in page.text
    assert "The configuration is saved and active" in page.text


async def test_a_secret_of_ones_own_is_made_up_where_none_is_given(
    empty: Console, gateway: Gateway, number: MetaNumber
) -> None:
    """Of a new account, once; the provider gets it with the webhook's address."""
    form = {name: value for name, value in typed(gateway, number).items() if name != "data.verify_token"}
    page = await empty.post(f"{HOME}/save", form)
    assert page.status == 303, page.text
    assert page.location.endswith("done=config_active")
    page = await empty.get(page.location)
    fingerprints = re.findall(r'class="locked">.*?<code>([^<]*)</code>', page.html, re.DOTALL)
    assert len(fingerprints) == 3
    [check] = [form["action"] for form in page.all("form") if form.get("action", "").endswith("/check")]
    page = await empty.post(check)
    assert re.findall(r'class="locked">.*?<code>([^<]*)</code>', page.html, re.DOTALL) == fingerprints
    assert checks(page)["Webhook"] == "passed"


async def test_all_wrong_fields_are_said_at_once_beside_them(
    empty: Console, gateway: Gateway, number: MetaNumber
) -> None:
    form = typed(gateway, number, phone_number_id="+1555", waba_id="", messages_per_second="many")
    page = await empty.post(f"{HOME}/test", form)
    assert page.status == 400
    wrong = {field["name"] for field in page.all("input") if field.get("aria-invalid") == "true"}
    assert wrong == {"data.phone_number_id", "data.waba_id", "data.messages_per_second"}
    for name in ("phone_number_id", "waba_id", "messages_per_second"):
        described = page.one("input", name=f"data.{name}")["aria-describedby"]
        assert page.one("p", id=f"field-data-{name}-error")["id"] in described.split()
    assert page.one("input", name="data.phone_number_id")["value"] == "+1555"
    assert number.access_token not in page.html
    assert not can_save(page)


async def test_wrong_credentials_fail_the_test_and_nothing_is_saved(
    empty: Console, gateway: Gateway, number: MetaNumber
) -> None:
    page = await empty.post(f"{HOME}/test", typed(gateway, number, access_token="wrong"))
    assert page.status == 200
    assert checks(page)["Credentials"] == "failed"
    assert "Messages cannot be sent like this." in page.text
    assert "Create a new token of a system user" in page.text
    assert not can_save(page)
    page = await empty.post(f"{HOME}/save", typed(gateway, number, access_token="wrong"))
    assert page.status == 400
    assert "nothing was changed" in page.text
    assert "No provider yet" in (await empty.get(HOME)).text


async def test_a_secret_that_was_typed_is_good_for_its_session_only(
    empty: Console, gateway: Gateway, number: MetaNumber
) -> None:
    """Not for another session of the same organization, not for another provider, not for ever."""
    form = typed(gateway, number)
    kept = draft(await empty.post(f"{HOME}/test", form))
    bare = {name: value for name, value in form.items() if name not in SECRETS}
    other = await signed_in(await gateway.organization("Other"))
    for console, sent in ((other, kept), (empty, kept[:-8]), (empty, "x"), (empty, "")):
        page = await console.post(f"{HOME}/test", {**bare, "draft": sent})
        assert page.status == 400
        wrong = {field["name"] for field in page.all("input") if field.get("aria-invalid") == "true"}
        assert wrong == SECRETS - {"data.verify_token"}  # which is made up
    assert (await empty.post(f"{HOME}/test", {**bare, "draft": kept})).status == 200
    assert KEPT.total_seconds() == 1800


async def test_a_second_account_does_not_become_active_and_joins_the_order(
    organization: Organization, console: Console, gateway: Gateway, number: MetaNumber
) -> None:
    form = typed(gateway, number) | {"name": "Second", "as_fallback": "1"}
    page = await console.post(f"{HOME}/save", form)
    assert page.status == 303, page.text
    assert page.location.endswith("done=config_saved")
    page = await console.get(page.location)
    assert "Second" in page.text
    assert "Fallback 1" in page.text
    assert "Switch Provider" in page.text
    # And the same once more is the one that is there.
    page = await console.post(f"{HOME}/save", form)
    assert page.status == 409
    assert "Open the account that is there" in page.text
    assert page.one("input", name="allow_second")["value"] == "1"


async def test_a_stored_secret_is_replaced_kept_and_taken_out(organization: Organization, console: Console) -> None:
    config = organization.configs[0]["config_id"]
    before = (await console.get(HOME)).html.count('class="locked"')
    page = await console.post(f"{HOME}/{config}/save", {"data.app_secret_previous": "an-older-secret-of-the-app"})
    assert page.status == 303, page.text
    page = await console.get(HOME)
    assert page.html.count('class="locked"') == before + 1
    assert page.one("input", name="clear.app_secret_previous")["value"] == "1"
    page = await console.post(f"{HOME}/{config}/save", {"clear.app_secret_previous": "1"})
    assert page.status == 303, page.text
    assert (await console.get(HOME)).html.count('class="locked"') == before
    page = await console.post(f"{HOME}/{config}/test", {"data.access_token": "wrong"})
    assert checks(page)["Credentials"] == "failed"
    assert organization.numbers[0].access_token not in page.html
    assert (await organization.send()).status == 200, "the stored one is as it was"


async def test_another_host_needs_every_secret_again(organization: Organization, console: Console) -> None:
    config = organization.configs[0]["config_id"]
    page = await console.post(f"{HOME}/{config}/test", {"data.base_url": "http://127.0.0.1:9"})
    assert page.status == 422
    wrong = {field["name"] for field in page.all("input") if field.get("aria-invalid") == "true"}
    assert wrong == SECRETS


async def test_who_tests_too_often_loses_nothing_typed(
    settings: Settings, gateway: Gateway, number: MetaNumber
) -> None:
    async with serving(msgspec.structs.replace(settings, connection_tests_per_minute=1)) as url:
        service = Gateway(url, settings.platform_key, gateway.session, gateway.meta)
        console = await signed_in(await service.organization("Hasty"))
        form = typed(gateway, number)
        statuses = [(page := await console.post(f"{HOME}/test", form)).status for _ in range(30)]
        assert statuses[-1] == 429
        assert "Retry-After" in page.headers
        assert page.one("input", name="data.phone_number_id")["value"] == number.phone_number_id
        assert draft(page)


async def test_an_account_whose_plug_in_is_gone_is_shown_and_can_be_deleted(
    settings: Settings, organization: Organization, console: Console
) -> None:
    spare = (await organization.configure(active=False))["config_id"]
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update whatsapp_provider_configs set provider_type = 'gone' where id = $1", UUID(spare))
    await connection.close()
    page = await console.get(f"{HOME}?provider=gone")
    assert page.status == 200
    assert "The plug-in of this provider is not installed." in page.text
    assert page.all("form", action=f"{HOME}/{spare}/test") == []
    assert (await console.post(f"{HOME}/{spare}/delete")).status == 303


async def test_the_webhook_is_looked_at_and_repaired(organization: Organization, console: Console) -> None:
    config = organization.configs[0]
    page = await console.get(HOME)
    assert config["webhook_url"] in page.text
    page = await console.post(f"{HOME}/{config['config_id']}/check")
    assert checks(page)["Webhook"] == "passed"
    assert checks(page)["A webhook posted to ourselves"] == "passed"
    organization.gateway.meta.state_of(organization.numbers[0]).override_url = None
    page = await console.post(f"{HOME}/{config['config_id']}/check")
    assert checks(page)["Webhook"] == "failed"
    page = await console.post(f"{HOME}/{config['config_id']}/repair")
    assert (checks(page)["Repair"], checks(page)["Webhook"]) == ("passed", "passed")


# ---------------------------------------------------------------- the order, the name, the end


async def order(organization: Organization) -> list[str]:
    found = (await organization.call("GET", "/integrations/whatsapp/provider/fallback")).json["config_ids"]
    return [str(config_id) for config_id in found]


async def test_the_order_is_changed_row_by_row(organization: Organization, console: Console) -> None:
    first, second, third = [(await organization.configure(active=False))["config_id"] for _ in range(3)]

    async def move(*rows: str, move: str = "") -> list[str]:
        page = await console.post(f"{HOME}/fallback", {"order": list(rows), "move": move})
        assert page.location == f"{HOME}?done=fallback_order"
        return await order(organization)

    assert await move(first, move=f"add:{second}") == [first, second]
    assert await move(first, second, move=f"add:{third}") == [first, second, third]
    assert await move(first, second, third, move=f"up:{third}") == [first, third, second]
    assert await move(first, third, second, move=f"up:{first}") == [first, third, second]
    assert await move(first, third, second, move=f"down:{first}") == [third, first, second]
    assert await move(third, first, second, move=f"remove:{first}") == [third, second]
    assert await move(second, third) == [second, third], "as the rows were dragged"
    page = await console.get(HOME)
    assert "Can do all that the active one can." in page.text
    for wrong in (f"up:{first}", "up:x", "remove:"):
        answer = await console.post(f"{HOME}/fallback", {"order": [second, third], "move": wrong})
        assert answer.status == 404


async def test_nobody_elses_config_joins_the_order(console: Console, gateway: Gateway) -> None:
    other = await gateway.organization()
    [theirs] = [(await other.configure())["config_id"]]
    assert (await console.post(f"{HOME}/fallback", {"move": f"add:{theirs}"})).status == 404


async def test_renamed_and_deleted(organization: Organization, console: Console) -> None:
    active, spare = organization.configs[0]["config_id"], (await organization.configure(active=False))["config_id"]
    page = await console.post(f"{HOME}/{spare}/name", {"name": "Spare <b>"})
    assert page.location.endswith("done=config_renamed")
    page = await console.get(page.location)
    assert "Spare <b>" in page.text
    assert (await console.post(f"{HOME}/{spare}/name", {"name": "x" * 201})).status == 422
    page = await console.get(HOME)
    assert "It is the active account: switch to another one first." in page.text
    assert (await console.post(f"{HOME}/{active}/delete")).status == 409
    assert (await console.post(f"{HOME}/{spare}/delete")).location == f"{HOME}?done=config_deleted"
    assert "Spare" not in (await console.get(HOME)).text


async def test_a_key_that_only_reads_sees_why_it_changes_nothing(organization: Organization) -> None:
    await organization.configure(active=False)
    console = await signed_in(organization, "read")
    page = await console.get(HOME)
    assert page.status == 200
    assert "This key lacks the permission “configure”." in page.text
    forms = {form["action"] for form in page.all("form", method="post")}
    enabled = [button for button in page.all("button", type="submit") if "disabled" not in button]
    assert forms
    assert {button.get("class") for button in enabled} <= {
        "button outline small", "button ghost", "button outline small unscripted"
    }  # fmt: skip


# ---------------------------------------------------------------- a plug-in


@pytest.fixture
async def hub() -> AsyncIterator[str]:
    """Where the example's provider would be: it knows one key."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("d360-api-key") != "ts-api-key":
            return web.json_response({"error": {"code": 401, "message": "Invalid api key"}}, status=401)
        state: dict[str, Any] = {"can_send_message": "AVAILABLE", "entities": []}
        return web.json_response({"health_status": state} if request.path == "/health_status" else {"url": "…"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_card_and_the_form_of_a_plug_in_are_there_by_themselves(
    settings: Settings, gateway: Gateway, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example, installed: without a line of the console's that knows it."""
    monkeypatch.syspath_prepend(EXAMPLE)
    point = EntryPoint(name="threesixty", value="threesixty:ThreeSixty", group=ENTRY_POINT_GROUP)
    monkeypatch.setattr(app, "Registry", lambda **_: Registry([point]))
    async with serving(settings) as url:
        service = Gateway(url, settings.platform_key, gateway.session, gateway.meta)
        console = await signed_in(await service.organization("Plug-in"))
        page = await console.get(f"{HOME}?provider=threesixty")
        assert "An official partner of Meta's." in page.text
        assert page.one("input", name="data.api_key")["type"] == "password"
        assert page.one("a", href="https://hub.360dialog.com")["rel"] == "noopener noreferrer"
        form = {
            "provider": "threesixty",
            "data.api_key": "wrong",
            "data.platform_secret": "secret",
            "data.phone_number": "+15550001111",
            "data.base_url": hub,
        }
        page = await console.post(f"{HOME}/test", form)
        assert checks(page)["Credentials"] == "failed"
        page = await console.post(f"{HOME}/test", form | {"data.api_key": "ts-api-key"})
        assert can_save(page), page.text
        page = await console.post(f"{HOME}/save", form | {"data.api_key": "ts-api-key", "name": "Dialog"})
        assert page.status == 303, page.text
        await eventually(lambda: console.get(HOME), lambda page: "Dialog is active" in page.text)
