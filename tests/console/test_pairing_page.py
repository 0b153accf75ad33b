"""In Chromium: linking a phone. The code is read off a screenshot, as a phone reads it off the screen."""

import struct
import zlib
from collections.abc import AsyncIterator
from itertools import count

import pytest
import zxingcpp
from playwright.async_api import Page, expect

from ingress.dev.sandbox import RetryPolicy, WahaSession, WahaSimulator, example_session
from ingress.dev.sandbox.waha.qr import qr_text

from ..gateway import Gateway, Organization
from .browsing import Console
from .test_whatsapp import HOME

_sessions = count(7_400)
CARD = "WhatsApp Web"


@pytest.fixture
async def waha() -> AsyncIterator[WahaSimulator]:
    async with WahaSimulator(retry=RetryPolicy(tries=40)) as waha:
        yield waha


@pytest.fixture
async def session(waha: WahaSimulator) -> WahaSession:
    return example_session(next(_sessions), "GOWS")


def read(png: bytes) -> str | None:
    """What the QR code in a screenshot says."""
    width, height, channels, raw = _pixels(png)
    grey = bytes(raw[at] for at in range(0, len(raw), channels))
    found = zxingcpp.read_barcode(memoryview(grey).cast("B", shape=[height, width]))
    return found.text if found else None


def _pixels(png: bytes) -> tuple[int, int, int, bytes]:
    """Width, height, bytes a pixel and pixels of a PNG as Chromium writes it: 8 bits, not interlaced."""
    at, data, header = 8, b"", b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        part = png[at + 8 : at + 8 + length]
        header, data = (part, data) if kind == b"IHDR" else (header, data + part if kind == b"IDAT" else data)
        at += 12 + length
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", header)
    assert (depth, interlaced) == (8, 0)
    channels = {0: 1, 2: 3, 6: 4}[colour]
    stride, lines, before, pixels = width * channels, zlib.decompress(data), bytearray(width * channels), bytearray()
    for row in range(height):
        line = bytearray(lines[row * (stride + 1) + 1 : (row + 1) * (stride + 1)])
        _unfilter(lines[row * (stride + 1)], line, before, channels)
        pixels += line
        before = line
    return width, height, channels, bytes(pixels)


def _unfilter(kind: int, line: bytearray, above: bytearray, channels: int) -> None:
    """Undo a line's filter (PNG specification, section 9)."""
    for at in range(len(line)):
        a = line[at - channels] if at >= channels else 0
        b, c = above[at], above[at - channels] if at >= channels else 0
        nearest = min((a, b, c), key=lambda each: abs(a + b - c - each))
        line[at] = (line[at] + (0, a, b, (a + b) // 2, nearest)[kind]) & 0xFF


async def shown(page: Page) -> str | None:
    return read(await page.locator(".plate").screenshot())


async def test_a_phone_is_linked_by_the_code_on_the_screen(
    browser_page: Page, gateway: Gateway, waha: WahaSimulator, session: WahaSession
) -> None:
    """Saved with a made-up key, scanned, linked; black on white in the dark, too; another code when one is over."""
    page, data = browser_page, session.config_data(await waha.add_session(session, exists=False))
    await page.emulate_media(color_scheme="dark")
    await page.goto(f"{gateway.url}{HOME}?provider=whatsapp_web")
    await page.get_by_label("WAHA address").fill(data["base_url"])
    await page.get_by_label("API key").fill(data["api_key"])
    await page.get_by_label("Session").fill(data["session"])
    await page.get_by_role("button", name="Test Connection").click()
    await page.get_by_role("button", name="Save Configuration").click(timeout=15_000)

    await expect(page.get_by_role("heading", name="Link a phone")).to_be_visible(timeout=15_000)
    await expect(page.get_by_role("img", name="QR code to scan with WhatsApp")).to_be_visible(timeout=15_000)
    await expect(page.get_by_role("timer")).to_contain_text("left")
    await expect(page).to_have_title(f"Scan the code · {CARD} · WhatsApp Ingress")
    assert await shown(page) == qr_text(session.name, 1)
    await page.emulate_media(color_scheme="light")
    assert await shown(page) == qr_text(session.name, 1)

    first = await page.locator(".plate").inner_html()
    waha.rotate(session)
    await expect(page.locator(".plate")).not_to_have_js_property("innerHTML", first, timeout=15_000)
    assert await shown(page) == qr_text(session.name, 2)

    waha.scan(session)
    await expect(page.get_by_text(f"Linked as {session.phone}")).to_be_visible(timeout=15_000)
    await expect(page).to_have_title(f"Linked · {CARD} · WhatsApp Ingress")


async def test_a_code_to_type(
    organization: Organization, console: Console, waha: WahaSimulator, session: WahaSession
) -> None:
    """Without a script: the number is asked for, and its code shown; then the phone is linked, and unlinked."""
    data = session.config_data(await waha.add_session(session, exists=False))
    form = {"provider": "whatsapp_web", "name": "Phone", **{f"data.{name}": str(value) for name, value in data.items()}}
    page = await console.post(f"{HOME}/save", form)
    assert page.status == 303, page.text
    path = page.location.partition("?")[0]
    assert path.endswith("/pairing")
    await waha.wait_for(lambda: waha.state_of(session).status == "SCAN_QR_CODE")
    assert (await console.post(path)).location == path
    page = await console.post(path, {"phone": "not a number"})
    assert page.status == 422
    assert page.one("input", name="phone")["aria-invalid"] == "true"
    page = await console.post(path, {"phone": "+55 11 99999-9999"})
    assert page.status == 200
    assert len(page.one("button", aria_label="Copy the code")["data-copy-text"]) >= 8
    waha.scan(session)
    page = await console.get(path)
    assert f"Linked as {session.phone}" in page.text
    assert (await console.post(f"{path}/end")).location == f"{path}?done=unpaired"
    await waha.wait_for(lambda: waha.state_of(session).status == "SCAN_QR_CODE")


async def test_only_what_links_phones_has_the_page(organization: Organization, console: Console) -> None:
    config = organization.configs[0]["config_id"]
    assert (await console.get(f"{HOME}/{config}/pairing")).status == 404
    assert "Link a phone" not in (await console.get(HOME)).text
