"""In Chromium: the accounts that there are, their stored secrets, their order by hand, what changes by itself."""

from playwright.async_api import Page, expect

from ..gateway import Gateway, Organization
from .test_whatsapp import HOME, order


async def test_who_cancels_a_new_secret_keeps_the_stored_one(browser_page: Page, gateway: Gateway) -> None:
    page = browser_page
    await page.goto(f"{gateway.url}{HOME}")
    token = page.locator("#field-data-access_token")
    await page.locator("summary", has_text="Access token").click()
    await token.fill("another")
    await page.locator("summary", has_text="Access token").click()
    await expect(token).to_be_hidden()
    await expect(token).to_have_value("")
    await page.get_by_role("button", name="Test Connection").click()
    await expect(page.get_by_text("Messages can be sent through this account.")).to_be_visible()


async def test_rows_are_dragged_into_another_order(
    browser_page: Page, gateway: Gateway, organization: Organization
) -> None:
    first, second = [(await organization.configure(active=False))["config_id"] for _ in range(2)]
    await organization.fall_back_to(first, second)
    page, rows = browser_page, browser_page.locator(".order li")
    await page.goto(f"{gateway.url}{HOME}")
    await rows.nth(0).drag_to(rows.nth(1), target_position={"x": 30, "y": 60})
    await expect(page.get_by_text("The fallback order is changed.")).to_be_visible()
    assert await order(organization) == [second, first]


async def test_what_comes_in_and_goes_out_is_on_the_card_by_itself(
    browser_page: Page, gateway: Gateway, organization: Organization
) -> None:
    """Also while the focus is on the card."""
    page, card = browser_page, browser_page.locator("#providers .account")
    await page.goto(f"{gateway.url}{HOME}")
    await page.get_by_role("radio").first.focus()
    await expect(card).to_contain_text("no sends")
    await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("hello"))
    assert (await organization.send()).status == 200
    await expect(card.get_by_role("img")).to_be_visible(timeout=20_000)
    await expect(card).to_contain_text("100 % of 1")
    await expect(card.get_by_text("never")).to_have_count(0)
