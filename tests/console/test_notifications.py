"""Notifications: what the bell calls attention to, what is unread and for whom, and that it changes by itself."""

from uuid import UUID

import pytest
from playwright.async_api import Page as Tab
from playwright.async_api import expect

from ingress.settings import Settings

from ..gateway import Gateway, Organization
from ..populated import connected
from .browsing import Console, Page, signed_in

BELL = {"id": "bell-button"}


def unread(page: Page) -> int:
    """What the bell says."""
    label = page.one("button", **BELL)["aria-label"]
    return int(label.split()[1]) if "unread" in label else 0


async def test_a_switch_is_news_until_it_is_read(organization: Organization) -> None:
    """For everybody who uses the key, on every page; another key's users read for themselves."""
    console, other = await signed_in(organization), await signed_in(organization, "read")
    page = await console.get("/console/notifications")
    assert "Switched to another provider" in page.text
    assert unread(page) == unread(await other.get("/console/quarantine")) == 1
    assert "(1) Notifications" in page.html
    form = {"until": page.all("input", name="until")[0]["value"], "next": "/console/quarantine?state=discarded"}
    page = await console.post("/console/notifications/read", form)
    assert (page.status, page.location) == (303, "/console/quarantine?state=discarded&done=notifications_read")
    assert unread(await console.get("/console/notifications")) == 0
    assert unread(await other.get("/console/notifications")) == 1
    again = await signed_in(organization)
    assert unread(await again.get("/console/notifications")) == 0, "in another session of the key, too"
    await organization.configure()
    assert unread(await console.get("/console/quarantine")) == 1


@pytest.mark.parametrize("until", ["", "yesterday", "9999-12-31T23:59:59-23:00"])
async def test_what_is_no_time_marks_nothing(console: Console, until: str) -> None:
    assert (await console.post("/console/notifications/read", {"until": until})).status == 422
    assert unread(await console.get("/console/notifications")) == 1


async def test_what_comes_later_is_news_whatever_was_marked(console: Console, organization: Organization) -> None:
    """Nobody marks what is to come."""
    await console.post("/console/notifications/read", {"until": "2999-01-01T00:00:00+00:00"})
    await organization.configure()
    assert unread(await console.get("/console/notifications")) == 1


async def test_what_waits_for_somebody(console: Console, organization: Organization, settings: Settings) -> None:
    """Parked deliveries, the quarantine, a broken trail: each once, with how many."""
    assert (await organization.call("PUT", "/callback", {"url": "http://127.0.0.1:1/"})).status == 200
    people = organization.gateway.meta.inbound(organization.numbers[0])
    await organization.post_webhook(people.text("Hello"))
    for _ in range(2):
        await organization.post_webhook(b"unreadable")
    organization_id = UUID(organization.id)
    async with connected(settings) as owner:
        await owner.execute(
            "update deliveries set state = 'parked', finished_at = now() where organization_id = $1", organization_id
        )
        await owner.execute("update organizations set audit_broken = 2 where id = $1", organization_id)
    page = await console.get("/console/notifications")
    for said in (
        "1 delivery was given up.",
        "2 items could not be read.",
        "The first entry that is wrong is number 2.",
    ):
        assert said in page.text
    links = {link["href"] for link in page.all("a")}
    assert {"/console/general", "/console/quarantine", "/console/audit/verify"} <= links
    assert unread(page) == 4
    async with connected(settings) as owner:
        await owner.execute(
            """insert into deliveries (organization_id, sequence, conversation_id, state, finished_at)
            select $1, n, $1, 'parked', now() from generate_series(1, 200) n""",
            organization_id,
        )
        await owner.execute("update organizations set audit_broken = null where id = $1", organization_id)
    page = await console.get("/console/notifications")
    assert "More than 100 deliveries were given up." in page.text
    assert "trail was changed" not in page.text


async def test_codes_are_said_in_words(console: Console, organization: Organization, settings: Settings) -> None:
    """In the bell and in the trail; what a person gave as a reason is said as it is."""
    other = await organization.configure(active=False)
    switch = {"config_id": other["config_id"], "reason": "not_paired_any_more"}
    assert (await organization.call("POST", "/integrations/whatsapp/provider/switch", switch)).status == 200
    await organization.configure()
    async with connected(settings) as owner:
        await owner.execute(
            """insert into events (organization_id, sequence, type, config_id, conversation_id, data)
            values ($1, 1, 'provider.unhealthy', $2, $2, '{"reason": "not_paired", "detail": "gone"}')""",
            UUID(organization.id),
            UUID(other["config_id"]),
        )
    page = await console.get("/console/notifications")
    assert "No phone is linked. gone" in page.text
    assert "not_paired_any_more" in page.text
    assert "not_paired_any_more" in (await console.get("/console/audit")).text


async def test_nothing_to_look_at(gateway: Gateway) -> None:
    """And no bell for who may not read."""
    empty = await gateway.organization("Empty")
    page = await (await signed_in(empty)).get("/console/notifications")
    assert (page.status, unread(page)) == (200, 0)
    assert "Nothing to look at" in page.text
    page = await (await signed_in(empty, "admin")).get("/console/audit")
    assert page.all("button", **BELL) == []
    assert (await (await signed_in(empty, "admin")).get("/console/notifications")).status == 403


async def test_the_bell_rings_by_itself(browser_page: Tab, organization: Organization) -> None:
    await browser_page.goto(f"{organization.gateway.url}/console/audit")
    bell = browser_page.get_by_role("button", name="Notifications, 1 unread")
    await bell.click()
    popover = browser_page.locator("#notifications")
    await expect(popover.get_by_role("link", name="Switched to another provider")).to_be_visible()
    await expect(popover.get_by_role("listitem")).to_have_count(1)
    await browser_page.evaluate("window.unchanged = true")
    await organization.configure()
    await expect(popover.get_by_role("listitem")).to_have_count(2)
    await expect(browser_page.get_by_role("button", name="Notifications, 2 unread")).to_be_visible()
    assert await browser_page.evaluate("window.unchanged"), "the page was not loaded again"
    await popover.get_by_role("button", name="Mark all as read").click()
    await expect(browser_page.get_by_role("button", name="Notifications", exact=True)).to_be_visible()
    await expect(browser_page).to_have_url(f"{organization.gateway.url}/console/audit")
