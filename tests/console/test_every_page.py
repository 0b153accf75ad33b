"""Every page in Chromium: what anybody can use, at three widths, light and dark, and what it weighs."""

from collections.abc import AsyncIterator

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, Response

from ingress.console.routes import ROUTES
from ingress.console.routing import ConsoleRoute

from ..gateway import Gateway
from ..populated import Data
from .conftest import open_console
from .test_every_route import filled

# Streams, files and what only leads elsewhere are no pages.
NO_PAGES = {"/console", "/console/", "/console/live", "/console/static/{version}/{name}", "/console/{rest:path}"}
WIDTHS, THEMES = (320, 768, 1280), ("light", "dark")
MAX_WEIGHT_BYTES = 100_000
# What of a page moved after it was first shown (the sum of layout shifts). Gives 0 where the browser saw none.
SHIFTS = """() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) sum += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(sum)));
})"""


def is_page(route: object) -> bool:
    if not isinstance(route, ConsoleRoute) or "GET" not in (route.methods or ()):
        return False
    return route.path not in NO_PAGES and route.needs != "platform" and not route.is_file


PAGES = [route for route in ROUTES if is_page(route)]


@pytest.fixture(scope="module")
async def visitor(browser: Browser, gateway: Gateway, pair: tuple[Data, Data]) -> AsyncIterator[Page]:
    """A tab of somebody whose organization has something on every page."""
    context = await browser.new_context(locale="en-US")
    page = await context.new_page()
    await open_console(page, gateway.url, pair[0].organization.key)
    yield page
    await context.close()


@pytest.mark.parametrize("route", PAGES, ids=lambda route: route.path)
async def test_everybody_can_use_it_at_every_width_light_and_dark(
    visitor: Page, gateway: Gateway, pair: tuple[Data, Data], route: ConsoleRoute
) -> None:
    """Axe finds nothing, nothing scrolls sideways, nothing moves, no policy is broken, and it is light."""
    weighed: list[int] = []
    wrong: list[str] = []

    async def weigh(answer: Response) -> None:
        sizes = await answer.request.sizes()
        weighed.append(sizes["responseBodySize"])

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
        assert await visitor.evaluate(SHIFTS) == 0
        for each in answers:
            if not each.url.endswith("/console/live"):
                await weigh(each)
        assert sum(weighed) <= MAX_WEIGHT_BYTES
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
