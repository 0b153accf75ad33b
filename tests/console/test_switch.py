"""The page on which people switch: what it means, the switch while messages go out, a refused one, and the way back."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page as Tab
from playwright.async_api import expect

from ingress.accounts.accounts import Accounts
from ingress.dev.sandbox import ErrorCode, TwilioSimulator
from ingress.dev.sandbox.twilio.bodies import example_sender
from ingress.dev.sandbox.waha import api
from ingress.storage.database import StoreUnavailable
from ingress.switching import confirmations, manager

from ..api.test_pairing import Unlinked
from ..gateway import Gateway, Organization, eventually
from .browsing import Console, Page, signed_in
from .conftest import open_console

EXPIRED = ErrorCode(code=190)
SENTENCES = (
    "The switch will happen without downtime",
    "All message history preserved",
    "This will affect all WhatsApp communications for your organization",
)


@pytest.fixture
async def two(organization: Organization) -> Organization:
    """Two configs, the first one active, at version 1."""
    await organization.configure(active=False, own_port=True)
    return organization


@pytest.fixture
async def refusing(two: Organization, gateway: Gateway) -> AsyncIterator[Organization]:
    """The second one's credentials have expired."""
    await gateway.meta.set_default(two.numbers[1], EXPIRED, everything=True)
    yield two
    await gateway.meta.clear_faults(two.numbers[1])


def address(organization: Organization, place: int = 1) -> str:
    return f"/console/switch?to={organization.configs[place]['config_id']}"


async def current(organization: Organization) -> tuple[str, int]:
    """The active config's id, and the version."""
    found = (await organization.call("GET", "/integrations/whatsapp/provider/current")).json
    return found["config_id"], found["version"]


def form_of(organization: Organization, version: int = 1, place: int = 1) -> dict[str, Any]:
    return {"to": organization.configs[place]["config_id"], "version": version, "reason": ""}


def page_version(page: Page) -> int:
    """The version at which what the page shows would be made."""
    return int(page.one("input", name="version")["value"])


def events(page: Page) -> list[tuple[str, Any]]:
    """What a stream sent."""
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", page.html)
    return [(kind, msgspec.json.decode(data)) for kind, data in found]


# ---------------------------------------------------------------- without JavaScript


async def test_the_page_says_what_a_switch_means(console: Console, two: Organization) -> None:
    """The three sentences, both numbers loudest, and Cancel focused first; nothing is asked of the provider yet."""
    page = await console.get(address(two))
    assert page.status == 200, page.text
    for sentence in SENTENCES:
        assert sentence in page.text
    former, number = (config["sender"] for config in two.configs)
    assert f"Customers will see another number {former} becomes {number}" in page.text
    focused = [attributes for _, attributes in page.elements if "autofocus" in attributes]
    assert [each["href"] for each in focused] == ["/console/whatsapp"]
    assert page.html.index("Cancel") < page.html.index("Confirm Switch")


async def test_its_dry_run_is_held_against_what_was_sent(console: Console, two: Organization) -> None:
    assert (await two.send()).status == 200
    await console.get(address(two))
    page = await console.post("/console/switch/check", form_of(two))
    assert page.status == 200, page.text
    assert "Credentials passed" in page.text
    assert "not checked yet" not in page.text
    assert re.search(r"Nothing else of what was sent since \d{4}-", page.text)
    assert await current(two) == (two.configs[0]["config_id"], 1)


async def test_what_the_other_provider_cannot_say_is_called_by_its_name(
    console: Console, organization: Organization
) -> None:
    async with TwilioSimulator() as twilio:
        sender = example_sender(811)
        data = {"config_data": sender.config_data(await twilio.add_number(sender)), "is_active": False}
        body = {"provider_type": "twilio_whatsapp", "name": "Other", **data}
        saved = await organization.call("POST", "/integrations/whatsapp/provider/configure", body)
        assert saved.status == 200, saved.raw
        reaction = {"type": "reaction", "message_id": "wamid.A", "emoji": "👍"}
        assert (await organization.send({"to": "+5511987654321", "content": reaction})).status == 200
        page = await console.post("/console/switch/check", {"to": saved.json["config_id"]})
    assert "1 send (reactions): this provider cannot say that" in page.text


async def test_a_switch_and_the_way_back(console: Console, two: Organization) -> None:
    """Each ends on a page of its own, with times that were measured, and which processes use it."""
    await console.get(address(two))
    made = await console.post("/console/switch", {**form_of(two), "reason": "cheaper"})
    assert made.status == 303, made.text
    assert await current(two) == (two.configs[1]["config_id"], 2)
    page = await console.get(made.location)
    assert "Switched to" in page.text
    assert "cheaper" in page.text
    assert page.text.count(" ms") >= 5
    assert re.search(r"(\d+) of \1 process(es)? uses? it", page.text)
    assert any(link.get("href") == "/console/rollback" for link in page.all("a"))
    page = await console.get("/console/rollback")
    assert "Roll back to" in page.text
    assert "becomes" in page.text
    made = await console.post("/console/rollback", {"version": "2"})
    assert made.status == 303, made.text
    assert await current(two) == (two.configs[0]["config_id"], 3)
    page = await console.get(made.location)
    assert "Rolled back to" in page.text
    assert "Made by" in page.text
    trail = (await two.call("GET", "/integrations/whatsapp/audit")).json["entries"]
    assert trail[0]["after"]["kind"] == "rollback"
    assert f"/console/switches/{trail[0]['id']}" == made.location
    reader = await signed_in(two, "read")
    assert "Made by" not in (await reader.get(made.location)).text, "the trail is for who may administer"


async def test_a_refused_switch_says_which_check_failed_and_what_to_do(
    console: Console, refusing: Organization
) -> None:
    """And that nothing was changed; its entry in the trail says it again."""
    await console.get(address(refusing))
    page = await console.post("/console/switch", form_of(refusing))
    assert page.status == 400
    assert "The switch was refused: nothing was changed" in page.text
    assert "Credentials failed" in page.text
    assert await current(refusing) == (refusing.configs[0]["config_id"], 1)
    [entry] = re.findall(r'href="(/console/switches/\d+)"', page.html)
    result = await console.get(entry)
    assert "Nothing was changed" in result.text
    assert "Failed checks: Credentials" in result.text


async def test_a_dry_run_that_fails_says_so(console: Console, refusing: Organization) -> None:
    await console.get(address(refusing))
    page = await console.post("/console/switch/check", form_of(refusing))
    assert "Credentials failed" in page.text
    assert "The test fails: the switch would be refused" in page.text


async def test_what_only_looks_leaves_no_entry_where_it_is_refused(
    two: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for who may not, nor where something is away; a switch that is refused so does."""

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    async def entries() -> int:
        found = (await two.call("GET", "/integrations/whatsapp/audit?limit=1")).json["entries"]
        return int(found[0]["id"])

    reader, console = await signed_in(two, "read"), await signed_in(two)
    await console.get(address(two))
    before = await entries()
    assert (await reader.post("/console/switch/check", form_of(two))).status == 403
    monkeypatch.setattr(manager.WhatsAppProviderManager, "dry_run", away)
    assert (await console.post("/console/switch/check", form_of(two))).status == 503
    sent = events(await console.post("/console/switch/check", form_of(two), accept="text/event-stream"))
    assert [data["target"] for _, data in sent] == ["problem"]
    assert await entries() == before
    assert (await reader.post("/console/switch", form_of(two))).status == 403
    assert await entries() == before + 1


@pytest.mark.parametrize("version", ["x", "-1", "9" * 5000, "٣"])
async def test_a_version_that_is_none_is_another_one(console: Console, two: Organization, version: str) -> None:
    await console.get(address(two))
    assert (await console.post("/console/switch", {**form_of(two), "version": version})).status == 409
    assert await current(two) == (two.configs[0]["config_id"], 1)


async def test_somebody_else_was_faster(console: Console, two: Organization) -> None:
    """What is confirmed is what the page showed."""
    await console.get(address(two))
    await two.call("POST", "/integrations/whatsapp/provider/switch", {"config_id": two.configs[1]["config_id"]})
    await two.call("POST", "/integrations/whatsapp/provider/rollback", {})
    page = await console.post("/console/switch", form_of(two))
    assert page.status == 409
    assert "Somebody has changed the provider since this page was opened." in page.text
    assert await current(two) == (two.configs[0]["config_id"], 3)


async def test_who_may_only_read_sees_why_it_cannot_be_confirmed(two: Organization) -> None:
    console = await signed_in(two, "read")
    page = await console.get(address(two))
    assert page.status == 200
    assert "This key lacks the permission “configure”." in page.text
    assert all("disabled" in button for button in page.all("button", class_="button primary"))
    assert (await console.post("/console/switch", form_of(two))).status == 403
    assert await current(two) == (two.configs[0]["config_id"], 1)


async def test_nothing_to_switch_to(console: Console, two: Organization, gateway: Gateway) -> None:
    """The active config; one of another organization; no id; nothing to return to."""
    assert "is active already" in (await console.get(address(two, 0))).text
    other = await gateway.organization()
    await other.configure()
    for path in (address(other, 0), "/console/switch?to=x", "/console/switch", "/console/switches/0"):
        assert (await console.get(path)).status == 404
    assert (await console.get("/console/switches/99999999999999999999")).status == 404
    assert (await console.get("/console/rollback")).status == 409


async def test_the_first_switch_has_nothing_to_leave(gateway: Gateway) -> None:
    """And nothing to return to."""
    organization = await gateway.organization()
    await organization.configure(active=False)
    console = await signed_in(organization)
    page = await console.get(address(organization, 0))
    assert "Nothing is active" in page.text
    assert "another number" not in page.text
    made = await console.post("/console/switch", form_of(organization, version=page_version(page), place=0))
    page = await console.get(made.location)
    assert "Switched to" in page.text
    assert not [link for link in page.all("a") if link.get("href") == "/console/rollback"]


# ---------------------------------------------------------------- as it is made


async def test_phases_are_sent_as_they_end(console: Console, two: Organization) -> None:
    """And then where the result is."""
    await console.get(address(two))
    sent = events(await console.post("/console/switch", form_of(two), accept="text/event-stream"))
    shown = [data["html"] for kind, data in sent if kind == "fragment"]
    done = [html.count('class="phase done"') for html in shown]
    assert done == [0, 1, 2, 3, 4]
    [location] = [data["location"] for kind, data in sent if kind == "go"]
    assert location.startswith("/console/switches/")


async def test_checks_are_sent_as_they_are_done(console: Console, two: Organization) -> None:
    await console.get(address(two))
    sent = events(await console.post("/console/switch/check", form_of(two), accept="text/event-stream"))
    assert [data["target"] for _, data in sent[:2]] == ["checks", "checks"]
    assert (sent[-1][1]["target"], sent[-1][1]["replace"]) == ("meaning", True)


async def test_a_refusal_is_sent_as_well(console: Console, refusing: Organization) -> None:
    await console.get(address(refusing))
    sent = events(await console.post("/console/switch", form_of(refusing), accept="text/event-stream"))
    assert 'class="phase failed"' in sent[-2][1]["html"]
    assert sent[-1][1]["target"] == "refused"
    assert "nothing was changed" in sent[-1][1]["html"]


async def test_a_process_that_does_not_answer_is_not_counted(
    console: Console, two: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says how many use it, and no more."""
    monkeypatch.setattr(confirmations, "CONFIRMED_WITHIN_S", 0.0)
    monkeypatch.setattr("ingress.switching.confirmations.Confirmations.add", lambda *_: None)
    await console.get(address(two))
    made = await console.post("/console/switch", form_of(two))
    page = await console.get(made.location)
    assert re.search(r"0 of \d+ process(es)? uses? it", page.text)
    assert 'class="phase done"' in page.html
    assert page.html.count('class="phase to_come"') == 2, "the commit was not seen to be used, nor by every process"


# ---------------------------------------------------------------- a phone is needed


async def test_a_switch_that_waits_for_a_phone_shows_the_code(unlinked: Unlinked, watching: Gateway) -> None:
    """And until when; it is made by itself once the phone is linked."""
    console = await signed_in(unlinked.organization)
    path = f"/console/switch?to={unlinked.config_id}"
    page = await console.get(path)
    assert "Customers will see another number" in page.text
    made = await console.post("/console/switch", {"to": unlinked.config_id, "version": "1"})
    assert (made.status, made.location) == (303, path)
    page = await console.get(path)
    assert "The switch waits for a phone" in page.text
    assert any(link.get("href") == f"/console/whatsapp/{unlinked.config_id}/pairing" for link in page.all("a"))
    assert page.one("div", class_="qr")["role"] == "img"
    assert [time for time in page.all("time") if "data-ticking" in time]
    unlinked.waha.scan(unlinked.session)
    await eventually(lambda: console.get(path), lambda shown: "is active already" in shown.text)


# ---------------------------------------------------------------- in Chromium


async def test_a_switch_guessesboard_while_messages_go_out(
    browser_page: Tab, gateway: Gateway, two: Organization
) -> None:
    """None is lost or refused; phases are shown live; afterwards the way back, by keyboard, too."""
    answers: list[int] = []
    ends = asyncio.Event()

    async def send_all_the_time() -> None:
        while not ends.is_set():
            answers.append((await two.send()).status)

    sending = [asyncio.create_task(send_all_the_time()) for _ in range(2)]
    await browser_page.goto(gateway.url + address(two))
    cancel = browser_page.get_by_role("link", name="Cancel")
    await expect(cancel).to_be_focused()
    await expect(browser_page.get_by_text("Credentials")).to_be_visible()
    await browser_page.keyboard.press("Tab")
    await expect(browser_page.get_by_role("button", name="Confirm Switch")).to_be_focused()
    await browser_page.keyboard.press("Enter")
    await browser_page.wait_for_url("**/console/switches/*")
    await expect(browser_page.get_by_role("heading", name="Switched to")).to_be_visible()
    back = browser_page.get_by_role("link", name="Roll back")
    while not await back.evaluate("link => link === document.activeElement"):
        await browser_page.keyboard.press("Tab")
    await browser_page.keyboard.press("Enter")
    drawer = browser_page.get_by_role("dialog")
    await expect(drawer.get_by_role("link", name="Cancel")).to_be_focused()
    await expect(browser_page).to_have_url(re.compile("/console/rollback$"))
    await browser_page.keyboard.press("Tab")
    await browser_page.keyboard.press("Enter")
    await expect(browser_page.get_by_role("heading", name="Rolled back to")).to_be_visible()
    ends.set()
    await asyncio.gather(*sending)
    assert set(answers) == {200}
    assert await current(two) == (two.configs[0]["config_id"], 3)


async def test_phases_are_shown_live(
    browser_page: Tab, gateway: Gateway, two: Organization, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the account is being set up the page says so, with what the test took; who looks now sees that it is."""
    go_on, set_up = asyncio.Event(), Accounts.set_up

    async def held(*arguments: Any) -> Any:
        await go_on.wait()
        return await set_up(*arguments)

    monkeypatch.setattr(Accounts, "set_up", held)
    await browser_page.goto(gateway.url + address(two))
    await browser_page.get_by_role("button", name="Confirm Switch").click()
    await expect(browser_page.locator(".phase.done", has_text="Test")).to_contain_text(" ms")
    await expect(browser_page.locator("[aria-current=step]")).to_contain_text("Set up")
    assert await current(two) == (two.configs[0]["config_id"], 1)
    assert "is under way" in (await console.get(address(two))).text
    go_on.set()
    await expect(browser_page.get_by_role("heading", name="Switched to")).to_be_visible()
    await expect(browser_page.locator(".phase.done")).to_have_count(5)


async def test_everybody_can_use_what_is_shown(browser_page: Tab, gateway: Gateway, refusing: Organization) -> None:
    """Axe finds nothing in a dry run, a refused switch and its result, and nothing scrolls sideways."""
    await browser_page.emulate_media(reduced_motion="reduce")
    await browser_page.goto(gateway.url + address(refusing))
    await expect(browser_page.get_by_text("The test fails: the switch would be refused")).to_be_visible()
    await browser_page.get_by_role("button", name="Confirm Switch").click()
    await expect(browser_page.get_by_text("The switch was refused: nothing was changed")).to_be_visible()
    await is_usable(browser_page)
    await browser_page.get_by_role("link", name="of the audit trail").click()
    await expect(browser_page.get_by_role("heading", name="Nothing was changed")).to_be_visible()
    await is_usable(browser_page)


async def is_usable(page: Tab) -> None:
    for theme in ("light", "dark"):
        await page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        for width in (320, 768, 1280):
            await page.set_viewport_size({"width": width, "height": 900})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            found = await Axe().run(page)
            assert found.violations_count == 0, f"{theme}, {width} px: {found.generate_report()}"


async def test_cancel_closes_the_drawer_and_changes_nothing(
    browser_page: Tab, gateway: Gateway, two: Organization, console: Console
) -> None:
    await console.get(address(two))
    made = await console.post("/console/switch", form_of(two))
    await browser_page.goto(gateway.url + made.location)
    await browser_page.get_by_role("link", name="Roll back").click()
    drawer = browser_page.get_by_role("dialog")
    await expect(drawer.get_by_text("Credentials")).to_be_visible()
    await browser_page.keyboard.press("Enter")
    await expect(drawer).to_be_hidden()
    await expect(browser_page).to_have_url(gateway.url + made.location)
    assert await current(two) == (two.configs[1]["config_id"], 2)


async def test_what_goes_wrong_in_the_drawer_is_shown_there(
    browser_page: Tab, gateway: Gateway, two: Organization, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page behind it cannot be seen: as a piece of the page, and as a whole one."""

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    await console.get(address(two))
    made = await console.post("/console/switch", form_of(two))
    monkeypatch.setattr(manager.WhatsAppProviderManager, "dry_run", away)
    await browser_page.goto(gateway.url + made.location)
    await browser_page.get_by_role("link", name="Roll back").click()
    drawer = browser_page.get_by_role("dialog")
    await expect(drawer.get_by_text("Something that the service depends on does not answer.")).to_be_visible()
    monkeypatch.setattr("ingress.storage.statements.switches.standing", away)
    await drawer.get_by_role("button", name="Roll back").click()
    await expect(drawer.get_by_role("heading", name="Not available")).to_be_visible()


async def test_a_refused_switch_stays_on_its_page(browser_page: Tab, gateway: Gateway, refusing: Organization) -> None:
    await browser_page.goto(gateway.url + address(refusing))
    await browser_page.get_by_role("button", name="Confirm Switch").click()
    refused = browser_page.get_by_text("The switch was refused: nothing was changed")
    await expect(refused).to_be_visible()
    await expect(browser_page.locator("#phases .phase.failed")).to_be_visible()
    await expect(browser_page).to_have_url(gateway.url + address(refusing))


async def test_a_switch_without_javascript(browser: Any, gateway: Gateway, two: Organization) -> None:
    context = await browser.new_context(java_script_enabled=False, locale="en-US")
    page = await context.new_page()
    await open_console(page, gateway.url, two.key, address(two))
    await page.get_by_role("button", name="Run the check").click()
    await expect(page.get_by_text("Credentials")).to_be_visible()
    await page.get_by_role("button", name="Confirm Switch").click()
    await expect(page.get_by_role("heading", name="Switched to")).to_be_visible()
    await context.close()
    assert await current(two) == (two.configs[1]["config_id"], 2)


@pytest.mark.parametrize("length", [1_001, 3_000])
async def test_a_code_that_is_none_of_whatsapps_is_not_drawn(
    unlinked: Unlinked, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Its server is somebody's own: what it says may take long to draw, or be too much for any code."""
    monkeypatch.setattr(api, "qr_text", lambda *_: "x" * length)
    console = await signed_in(unlinked.organization)
    page = await console.get(f"/console/whatsapp/{unlinked.config_id}/pairing")
    assert page.status == 200
    assert "There is no code to scan now." in page.text
