"""A browser for the tests that need one."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from ingress.console.pages import sign_in
from ingress.web.limits import per_minute

from ..api.test_pairing import unlinked, waha  # noqa: F401  (fixtures)
from ..gateway import Gateway, Organization
from .browsing import Console, signed_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(autouse=True)
def _sign_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are tests."""
    monkeypatch.setattr(sign_in, "_guesses", per_minute(0))


@pytest.fixture
async def console(organization: Organization) -> Console:
    """Somebody of the organization with a key that may do everything."""
    return await signed_in(organization)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        assert "NEEDS_CHROMIUM" not in os.environ, "no Chromium on this machine"
        pytest.skip("no Chromium on this machine: install the package chromium")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        await running.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A profile of its own, in English, in which nothing that a page logs as an error goes unseen."""
    made = await browser.new_context(locale="en-US", viewport={"width": 1280, "height": 900})
    yield made
    await made.close()


@pytest.fixture
async def browser_page(context: BrowserContext, gateway: Gateway, organization: Organization) -> AsyncIterator[Page]:
    """A tab, signed in with the organization's key. Script errors and broken policies fail the test."""
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    await open_console(page, gateway.url, organization.key)
    yield page
    assert wrong == []


async def open_console(page: Page, url: str, key: str, path: str = "/console/_components") -> None:
    """Sign in as a person does."""
    await page.goto(f"{url}/console/sign-in?next={path}")
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"**{path}")
