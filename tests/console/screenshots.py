"""`make screenshots`: the console's main screens as docs/screenshots shows them, from a service of its own."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from playwright.async_api import Browser, Page, async_playwright

from ..gateway import unused_port
from .conftest import CHROMIUM, open_console

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
# Name, what stands behind /console, and how it is seen.
SCREENS = (
    ("whatsapp", "/whatsapp", ("desktop-light", "desktop-dark", "phone-light", "phone-dark")),
    ("switch", "/switch?to={config_id}", ("desktop-light", "phone-dark")),
    ("messages", "/messages", ("desktop-light", "phone-light")),
    ("message", "/messages/{message_id}", ("desktop-light", "phone-dark")),
    ("status", "/status", ("desktop-light", "desktop-dark", "phone-dark")),
    ("general", "/general", ("desktop-light",)),
)
WORDS = (
    "Your order 4711 has left our warehouse.",
    "Olá Ana! Your table for two is reserved: Friday, 20:00.",
    "The invoice of November is ready.",
    "Thank you for calling. How was our service?",
    "Your parcel arrives between 14:00 and 16:00.",
)


@contextmanager
def service(folder: Path) -> Iterator[dict[str, Any]]:
    """A service with its simulators; the facts that it writes down."""
    command = [sys.executable, "-m", "ingress", "run"]
    ports = {"INGRESS_PORT": str(unused_port()), "INGRESS_METRICS_PORT": str(unused_port())}
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "INGRESS_DATA_DIR": str(folder / "data"), **ports}
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        yield json.loads((folder / "data" / "dev.json").read_text())
    finally:
        process.terminate()
        process.communicate(timeout=60)


async def traffic(facts: dict[str, Any]) -> dict[str, str]:
    """Some messages, one of them through a fallback; what the addresses of pages need."""
    headers = {"authorization": f"Bearer {facts['api_key']}"}
    last = ""
    async with aiohttp.ClientSession(facts["url"], headers=headers) as session:
        for number, words in enumerate(WORDS * 4):
            body = {"to": f"+551198765{4320 + number % 5}", "body": words, "lead_id": f"lead-{4711 + number}"}
            async with session.post("/send", json=body) as answer:
                last = (await answer.json())["id"]
    second = next(config for config in facts["configs"] if not config.get("active"))
    return {"message_id": last, "config_id": second["config_id"]}


async def take(browser: Browser, facts: dict[str, Any], ids: dict[str, str]) -> None:
    for seen in sorted({each for _, _, many in SCREENS for each in many}):
        device, theme = seen.split("-")
        context = await browser.new_context(
            locale="en-US",
            viewport=DESKTOP if device == "desktop" else PHONE,
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",
        )
        page = await context.new_page()
        await open_console(page, facts["url"], facts["api_key"])
        for name, path, many in SCREENS:
            if seen in many:
                await shoot(page, facts["url"] + "/console" + path.format(**ids), FOLDER / f"{name}-{seen}.png")
        await context.close()


async def shoot(page: Page, address: str, target: Path) -> None:
    await page.goto(address, wait_until="networkidle" if "switch" in address else "load")
    await page.evaluate("document.activeElement?.blur(); scrollTo(0, 0)")
    await page.screenshot(path=target)


async def main() -> None:
    assert CHROMIUM is not None, "no Chromium on this machine"
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="screenshots-") as name,
        service(Path(name)) as facts,
    ):
        ids = await traffic(facts)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            await take(browser, facts, ids)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
