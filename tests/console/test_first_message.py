"""In Chromium: from an organization that has nothing to its first message, and what goes wrong on the way."""

from itertools import count

import pytest
from playwright.async_api import Page, expect

from ingress.dev.sandbox import MetaNumber, Slow, example_number

from ..gateway import Gateway, Organization
from .test_whatsapp import HOME

_numbers = count(720_000)
# When each check was shown, in ms.
NOTE_CHECKS = """() => {
  window.shownAt = [];
  new MutationObserver((changes) => {
    for (const each of changes) {
      for (const node of each.addedNodes) if (node.matches?.(".check-line")) window.shownAt.push(performance.now());
    }
  }).observe(document.getElementById("checks"), { childList: true });
}"""
CARD = "WhatsApp Business (Meta Cloud API)"


@pytest.fixture
async def organization(gateway: Gateway) -> Organization:
    """One that has nothing yet."""
    return await gateway.organization("Empty")


@pytest.fixture
async def number(gateway: Gateway) -> MetaNumber:
    made = example_number(next(_numbers))
    await gateway.meta.add_number(made)
    return made


async def fill(page: Page, gateway: Gateway, number: MetaNumber, **changes: str) -> None:
    """Type what the form of the simulated number wants."""
    await page.get_by_label("Access token").fill(changes.get("access_token", number.access_token))
    await page.get_by_label("Phone number ID").fill(changes.get("phone_number_id", number.phone_number_id))
    await page.get_by_label("WhatsApp Business Account ID").fill(number.waba_id)
    await page.get_by_label("App secret", exact=True).fill(number.app_secret)
    if not await page.get_by_label("API address").is_visible():
        await page.get_by_text("more settings").click()
    await page.get_by_label("API address").fill(gateway.meta.url_for(number))


async def test_from_nothing_to_the_first_message(
    browser_page: Page, gateway: Gateway, organization: Organization, number: MetaNumber
) -> None:
    """Choose, configure, receive: without a reload, and the steps tick themselves."""
    page, steps = browser_page, browser_page.locator("#first-run")
    await page.goto(f"{gateway.url}{HOME}")
    await expect(page.get_by_text("Choose a provider").first).to_be_visible()
    await expect(page.get_by_role("button", name="Show the chosen one")).to_be_hidden()
    await page.locator(".radio-card", has_text=CARD).click()
    await expect(page.get_by_role("radio", name=CARD)).to_be_checked()
    await expect(page).to_have_url(f"{gateway.url}{HOME}?provider=meta_business")
    save = page.get_by_role("button", name="Save Configuration")
    await expect(save).to_be_disabled()
    await expect(page.get_by_text("Test the connection first.")).to_be_visible()

    await fill(page, gateway, number)
    await page.get_by_role("button", name="Test Connection").click()
    await expect(page.get_by_text("Is this the account you mean?")).to_be_visible()
    await expect(page.locator("#review")).to_contain_text("Sandbox")
    await expect(page.locator("#review")).to_contain_text(number.display_phone_number)
    await expect(page.locator("#checks .check-line")).to_have_count(6)
    await expect(page.get_by_text("Saving sets up what the provider lets us set up.")).to_be_visible()
    await expect(save).to_be_enabled()
    # What was tested is what is saved.
    await page.get_by_label("Name optional").fill("Main number")
    await expect(save).to_be_disabled()
    await expect(page.get_by_text("Is this the account you mean?")).to_be_hidden()
    await page.get_by_role("button", name="Test Connection").click()
    await expect(save).to_be_enabled()
    await save.click()
    await expect(page.get_by_text("The configuration is saved and active")).to_be_visible()
    await expect(page).to_have_title("Main number is active · WhatsApp · WhatsApp Ingress")
    await expect(steps.get_by_text("Done", exact=True)).to_have_count(2)

    await gateway.meta.post(number, gateway.meta.inbound(number).text("hello"))
    await expect(steps.get_by_text("Done", exact=True)).to_have_count(3)
    await expect(steps.get_by_text("messages come in and go out")).to_be_visible()


async def test_each_check_is_shown_as_it_is_done(browser_page: Page, gateway: Gateway, number: MetaNumber) -> None:
    """Every call of the test takes a moment: what was found before is there meanwhile."""
    page = browser_page
    await page.goto(f"{gateway.url}{HOME}?provider=meta_business")
    await fill(page, gateway, number)
    await gateway.meta.set_default(number, Slow(seconds=0.5), everything=True)
    await page.evaluate(NOTE_CHECKS)
    await page.get_by_role("button", name="Test Connection").click()
    await expect(page.get_by_text("Is this the account you mean?")).to_be_visible(timeout=15_000)
    shown_at = await page.evaluate("window.shownAt")
    assert len(shown_at) == 6
    # The number, the account, the subscription: three calls.
    assert shown_at[2] - shown_at[0] > 400
    assert shown_at[3] - shown_at[2] > 400


async def test_wrong_credentials_and_wrong_fields(browser_page: Page, gateway: Gateway, number: MetaNumber) -> None:
    """Everything that is wrong at once; what is right is not typed again."""
    page = browser_page
    await page.goto(f"{gateway.url}{HOME}?provider=meta_business")
    await fill(page, gateway, number, phone_number_id="+1555")
    await page.get_by_label("App secret", exact=True).fill("")
    await page.get_by_role("button", name="Test Connection").click()
    field = page.get_by_label("Phone number ID")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("App secret", exact=True)).to_have_attribute("aria-invalid", "true")
    await page.get_by_label("App secret", exact=True).fill(number.app_secret)
    await expect(page.get_by_label("Access token")).to_be_hidden()  # it is kept, sealed, behind its fingerprint
    await field.fill(number.phone_number_id)
    await expect(field).not_to_have_attribute("aria-invalid", "true")
    await page.locator("summary", has_text="Access token").click()
    await page.locator("#field-data-access_token").fill("wrong")
    await page.get_by_role("button", name="Test Connection").click()
    await expect(page.locator("#checks .check-line.failed")).to_have_count(1)
    await expect(page.get_by_text("Create a new token of a system user")).to_be_visible()
    await expect(page.get_by_text("Messages cannot be sent like this.")).to_be_visible()
    await expect(page.get_by_role("button", name="Save Configuration")).to_be_disabled()
    await page.locator("#field-data-access_token").fill(number.access_token)
    await page.get_by_role("button", name="Test Connection").click()
    await expect(page.get_by_role("button", name="Save Configuration")).to_be_enabled()


async def test_cards_guessesboard(browser_page: Page, gateway: Gateway) -> None:
    """Arrows choose; the focus stays, each form begins empty."""
    page = browser_page
    await page.goto(f"{gateway.url}{HOME}?provider=meta_business")
    await page.get_by_role("radio", name=CARD).focus()
    await page.get_by_label("Phone number ID").fill("123")
    await page.get_by_role("radio", name=CARD).focus()
    await page.keyboard.press("ArrowDown")
    await expect(page.get_by_label("Account SID")).to_be_visible()
    await expect(page.get_by_role("radio", name="WhatsApp by Twilio")).to_be_focused()
    await page.keyboard.press("ArrowUp")
    await expect(page.get_by_label("Phone number ID")).to_have_value("")
