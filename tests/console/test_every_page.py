"""Every page in Chromium: what anybody can use, at three widths, light and dark, and what it weighs."""

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, Response, Route
from playwright.async_api import Error as PlaywrightError

from ingress.console.routes import ROUTES
from ingress.console.routing import ConsoleRoute

from ..gateway import Gateway
from ..populated import Data
from .conftest import open_console
from .test_every_route import filled

# Streams, files and what only leads elsewhere are no pages.
NO_PAGES = {"/console", "/console/", "/console/live", "/console/static/{version}/{name}", "/console/{rest:path}"}
WIDTHS, THEMES = (320, 768, 1280), ("light", "dark")
STATIC, MAX_WEIGHT_BYTES = "/console/static/", 100_000
# What of a page moved after it was first shown: each layout shift, and what was shifted.
SHIFTS = """() => new Promise((resolve) => {
  const shifts = [];
  new PerformanceObserver((list) => {
    for (const { value, sources, hadRecentInput } of list.getEntries())
      if (!hadRecentInput) shifts.push([value, ...sources.map(({ node }) => node?.outerHTML ?? node?.data)]);
  }).observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(shifts)));
})"""


def is_page(route: object) -> bool:
    if not isinstance(route, ConsoleRoute) or "GET" not in (route.methods or ()):
        return False
    return route.path not in NO_PAGES and route.needs != "platform" and not route.is_file


PAGES = [route for route in ROUTES if is_page(route)]


@pytest.fixture(scope="module")
async def visitor(browser: Browser, gateway: Gateway, pair: tuple[Data, Data]) -> AsyncIterator[Page]:
    """A tab of somebody whose organization has something on every page. Nothing is news while a page is looked at."""

    unanswered: list[Route] = []

    async def nothing_new(route: Route) -> None:
        """The stream is not answered until the end: one that ended would say so on the page."""
        unanswered.append(route)

    context = await browser.new_context(locale="en-US")
    await context.route("**/console/live", nothing_new)
    page = await context.new_page()
    await open_console(page, gateway.url, pair[0].organization.key)
    yield page
    for route in unanswered:  # what waits for an answer when the browser goes would be found in another test's log
        with suppress(PlaywrightError):
            await route.abort()
    await context.close()


@pytest.mark.parametrize("route", PAGES, ids=lambda route: route.path)
async def test_everybody_can_use_it_at_every_width_light_and_dark(
    visitor: Page, gateway: Gateway, pair: tuple[Data, Data], route: ConsoleRoute
) -> None:
    """Axe finds nothing, nothing scrolls sideways, nothing moves, no policy is broken, and it is light."""
    wrong: list[str] = []

    def note(line: ConsoleMessage) -> None:
        if line.type == "error":
            wrong.append(line.text)

    def answered(response: Response) -> None:
        answers.append(response)

    answers: list[Response] = []
    visitor.on("response", answered)
    visitor.on("console", note)
    try:
        await visitor.set_viewport_size({"width": WIDTHS[-1], "height": 900})
        answer = await visitor.goto(gateway.url + filled(route, pair[0].ids), wait_until="load")
        assert answer is not None
        assert answer.status in (200, 404, 409), await answer.text()
        assert await visitor.evaluate(SHIFTS) == []
        # As they were sent, if not now then before: some are in the browser's cache.
        weights = {each.url: int(each.headers["content-length"]) for each in answers if STATIC in each.url}
        assert len(weights) > 3
        assert sum(weights.values()) + int(answer.headers["content-length"]) <= MAX_WEIGHT_BYTES
        for theme in THEMES:
            await visitor.emulate_media(color_scheme="dark" if theme == "dark" else "light", reduced_motion="reduce")
            for width in WIDTHS:
                await visitor.set_viewport_size({"width": width, "height": 900})
                assert await visitor.evaluate("document.documentElement.scrollWidth") <= width, width
                found = await Axe().run(visitor)
                assert found.violations_count == 0, f"{theme}, {width} px: {found.generate_report()}"
    finally:
        visitor.remove_listener("response", answered)
        visitor.remove_listener("console", note)
    assert [text for text in wrong if answer.status == 200 or "Failed to load resource" not in text] == []
