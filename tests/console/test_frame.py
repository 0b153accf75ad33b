"""Signing in and out, where a change may come from, what every answer says, languages, and what JavaScript adds."""

import hashlib
from datetime import datetime

import asyncpg
import pytest
from playwright.async_api import BrowserContext, Page, expect

from ingress.console.languages import best_language
from ingress.console.pages import sign_in
from ingress.console.rendering import CONTENT_SECURITY_POLICY
from ingress.settings import Settings
from ingress.storage.vault import _checksum
from ingress.web.limits import per_minute

from ..gateway import Gateway, Organization
from .browsing import Console, signed_in
from .conftest import open_console


async def test_a_key_signs_in_and_the_cookie_is_strict(gateway: Gateway, organization: Organization) -> None:
    console = Console(gateway)
    page = await console.post("/console/sign-in", {"key": organization.key, "next": "/console/_components"})
    assert (page.status, page.location) == (303, "/console/_components")
    cookie = page.headers["set-cookie"]
    assert cookie.startswith("__Host-console=")
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Secure"} <= set(cookie.split("; "))
    assert organization.key not in cookie
    assert (await console.get("/console/_components")).status == 200


@pytest.mark.parametrize("key", ["", "wrong", "ingress_live_aaaaaaaa_" + "a" * 49])
async def test_a_wrong_key_gets_no_session(gateway: Gateway, key: str) -> None:
    console = Console(gateway)
    page = await console.post("/console/sign-in", {"key": key})
    assert page.status in (401, 422)
    assert console.cookies == {}
    assert not key or key not in page.html


async def test_guesses_at_a_key_are_slowed_down_and_its_owner_is_not(
    gateway: Gateway, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "_guesses", per_minute(sign_in.GUESSES_PER_MINUTE))
    made = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json["key"]
    await Console(gateway).sign_in(made)
    head = "_".join([*made.split("_")[:3], "x" * 43])
    wrong = head + _checksum(head)
    answers = [(await Console(gateway).post("/console/sign-in", {"key": wrong})).status for _ in range(11)]
    assert answers == [401] * 10 + [429]
    await Console(gateway).sign_in(made)


@pytest.mark.parametrize(("scope", "page"), [("send", "send-test"), ("configure", "team"), ("read", None)])
async def test_one_comes_to_what_the_key_may_do(organization: Organization, scope: str, page: str | None) -> None:
    first = await (await signed_in(organization, scope)).get("/console/whatsapp")
    assert (first.status, first.headers.get("location")) == ((303, f"/console/{page}") if page else (200, None))


@pytest.mark.parametrize(
    ("next", "target"),
    [
        ("/console/audit?before=3", "/console/audit?before=3"),
        ("https://evil.example/", "/console/whatsapp"),
        ("//evil.example/console/", "/console/whatsapp"),
        ("/console/\\evil.example", "/console/whatsapp"),
        ("/console/a\r\nset-cookie: x=1", "/console/whatsapp"),
        ("javascript:alert(1)", "/console/whatsapp"),
        ("http://[", "/console/whatsapp"),
        ("/console/日本?q=é", "/console/%E6%97%A5%E6%9C%AC?q=%C3%A9"),
    ],
)
async def test_signing_in_leads_to_a_page_of_the_console(organization: Organization, next: str, target: str) -> None:
    console = Console(organization.gateway)
    assert (await console.post("/console/sign-in", {"key": organization.key, "next": next})).location == target


async def test_a_stranger_is_asked_to_sign_in_and_comes_back(gateway: Gateway) -> None:
    page = await Console(gateway).get("/console/_components?a=1")
    assert page.status == 303
    assert page.location == "/console/sign-in?next=%2Fconsole%2F_components%3Fa%3D1"


async def test_from_another_site_a_page_of_ours_comes_between(gateway: Gateway) -> None:
    """There the strict cookie was not sent, whoever is signed in."""
    console = Console(gateway)
    page = await console.get("/console/_components?a=1", sec_fetch_site="cross-site")
    assert page.status == 200
    assert page.one("meta", http_equiv="refresh")["content"] == "0; url=/console/_components?a=1&bounced=1"
    assert (await console.get("/console/_components?a=1&bounced=1", sec_fetch_site="cross-site")).status == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "", "origin": "https://evil.example"},
        {"sec_fetch_site": "", "origin": "null"},
        {"sec_fetch_site": ""},
        {"origin": "https://evil.example"},
        {"origin": "http://["},
        {"sec_fetch_site": "", "origin": "http://["},
    ],
)
async def test_a_change_from_elsewhere_is_refused(console: Console, headers: dict[str, str]) -> None:
    assert (await console.post("/console/sign-out", **headers)).status == 403
    assert (await console.get("/console/_components")).status == 200


@pytest.mark.parametrize("token", ["", "0" * 32])
async def test_a_change_without_the_sessions_token_is_refused(console: Console, token: str) -> None:
    assert (await console.post("/console/sign-out", {"csrf": token})).status == 403
    assert (await console.get("/console/_components")).status == 200


async def test_signing_out_ends_the_session_or_all_of_the_key(organization: Organization) -> None:
    first, second, third = [await signed_in(organization) for _ in range(3)]
    kept = dict(first.cookies)
    assert (await first.post("/console/sign-out")).location == "/console/sign-in?done=signed_out"
    first.cookies = kept
    assert (await first.get("/console/_components")).status == 303
    assert (await second.get("/console/_components")).status == 200
    await second.post("/console/sign-out", {"everywhere": "1"})
    assert (await third.get("/console/_components")).status == 303


async def test_revoking_the_key_ends_its_sessions(organization: Organization) -> None:
    made = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json
    console = await Console(organization.gateway).sign_in(made["key"])
    assert (await organization.call("DELETE", f"/keys/{made['id']}")).status == 204
    assert (await console.get("/console/_components")).status == 303
    assert (await console.get("/console/live")).status in (303, 401)


@pytest.mark.parametrize("column", ["seen_at", "created_at"])
async def test_a_session_ends_when_it_is_left_alone_or_too_old(
    settings: Settings, console: Console, column: str
) -> None:
    connection = await asyncpg.connect(settings.database_url)
    age = {"seen_at": "31 minutes", "created_at": "721 minutes"}[column]
    await connection.execute(f"update console_sessions set {column} = now() - interval '{age}'")
    await connection.close()
    assert (await console.get("/console/_components")).status == 303


async def test_a_page_that_is_only_open_is_no_use_of_its_session(
    settings: Settings, gateway: Gateway, console: Console
) -> None:
    """Neither its stream, opened again and again, nor what it asks for by itself; what a person has it ask for is."""
    token = console.cookies["__Host-console"]
    connection = await asyncpg.connect(settings.database_url)

    async def session(what: str) -> datetime:
        seen_at: datetime = await connection.fetchval(what, hashlib.sha256(token.encode()).digest())
        return seen_at

    seen_at = "select seen_at from console_sessions where id_hash = $1"
    left = await session(
        "update console_sessions set seen_at = now() - interval '20 minutes' where id_hash = $1 returning seen_at"
    )
    sent = {"cookie": f"__Host-console={token}", "accept": "text/event-stream"}
    async with gateway.session.get(f"{gateway.url}/console/live", headers=sent) as stream:
        assert b"event: open" in await stream.content.readuntil(b"data: \n\n")
    await console.get("/console/status", x_console_live="1")
    assert await session(seen_at) == left
    await console.get("/console/status", x_console_live="0")
    assert await session(seen_at) > left
    await connection.close()


async def test_signing_in_again_ends_the_session_before(organization: Organization) -> None:
    console = await Console(organization.gateway).sign_in(organization.key)
    before = Console(organization.gateway)
    before.cookies = dict(console.cookies)
    await console.sign_in(organization.key)
    assert (await console.get("/console/_components")).status == 200
    assert (await before.get("/console/_components")).status == 303


async def test_signing_in_lets_go_of_sessions_that_nobody_uses(
    settings: Settings, console: Console, organization: Organization
) -> None:
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update console_sessions set seen_at = now() - interval '31 minutes'")
    left = await connection.fetchval("select count(*) from console_sessions")
    await Console(organization.gateway).sign_in(organization.gateway.platform_key, organization.id)
    assert left >= 1
    assert await connection.fetchval("select count(*) from console_sessions") == 1
    await connection.close()


async def test_nothing_of_a_session_can_be_used_from_the_database(settings: Settings, console: Console) -> None:
    connection = await asyncpg.connect(settings.database_url)
    rows = [str(dict(row)) for row in await connection.fetch("select * from console_sessions")]
    await connection.close()
    assert rows
    assert not any(console.cookies["__Host-console"] in row for row in rows)


async def test_the_platform_key_chooses_an_organization(gateway: Gateway, organization: Organization) -> None:
    console = Console(gateway)
    assert (await console.post("/console/sign-in", {"key": gateway.platform_key})).status == 303
    assert (await console.get("/console/_components")).location == "/console/organizations"
    console = await Console(gateway).sign_in(gateway.platform_key, organization.id)
    assert (await console.get("/console/_components")).status == 200
    missing = {"key": gateway.platform_key, "organization": "0190a5b2-7c1d-7000-8000-1234567890ab"}
    assert (await Console(gateway).post("/console/sign-in", missing)).status == 404


@pytest.mark.parametrize("path", ["", "/sign-in", "/_components", "/nothing", "/static/x/y"])
async def test_every_answer_has_the_careful_headers(console: Console, path: str) -> None:
    headers = (await console.get(f"/console{path}")).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


async def test_static_files_are_kept_for_ever_at_an_address_of_their_content(console: Console) -> None:
    page = await console.get("/console/_components")
    for address in (page.one("script")["src"], page.one("link", rel="stylesheet")["href"]):
        found = await console.get(address)
        assert found.status == 200
        assert found.headers.getall("cache-control") == ["public, max-age=31536000, immutable"]
        assert (await console.get(address.replace("/static/", "/static/0"))).status == 404


async def test_pages_hold_no_inline_style_or_script(console: Console) -> None:
    page = await console.get("/console/_components")
    assert [attributes for _, attributes in page.elements if "style" in attributes] == []
    assert all(attributes.get("src") for attributes in page.all("script"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


async def test_what_is_not_there_is_a_page(console: Console) -> None:
    page = await console.get("/console/nothing/here")
    assert page.status == 404
    assert "There is nothing here, or it belongs to another organization." in page.text


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "de, fr;q=0.5", "en"),
        (None, "pt-PT,pt;q=0.9,en;q=0.8", "pt-BR"),
        (None, "en;q=0.2, es-MX", "es"),
        ("es", "pt-BR", "es"),
        ("xx", "pt", "pt-BR"),
        (None, "es;q=nonsense, en", "en"),
    ],
)
def test_the_language_is_the_persons_or_the_browsers(chosen: str | None, accepted: str, language: str) -> None:
    assert best_language(chosen, accepted) == language


# ---------------------------------------------------------------- in Chromium


async def test_a_link_from_another_site_finds_the_session(
    browser_page: Page, context: BrowserContext, gateway: Gateway
) -> None:
    """As from a mail: the strict cookie is not sent with the first request."""
    foreign = await context.new_page()
    address = gateway.url.replace("127.0.0.1", "localhost")
    await foreign.goto(f"{address}/healthz")
    await foreign.evaluate("address => { location.href = address }", f"{gateway.url}/console/_components")
    await foreign.wait_for_url(f"{gateway.url}/console/_components**")
    await expect(foreign.get_by_role("heading", name="Components", level=1)).to_be_visible()


async def test_what_a_person_opens_is_asked_for_as_such(browser_page: Page, gateway: Gateway) -> None:
    """Not as what a page asks for by itself, which keeps no session."""
    await browser_page.goto(f"{gateway.url}/console/audit")
    async with browser_page.expect_request("**/console/audit/*") as asked:
        await browser_page.locator("[data-row] a").first.click()
    assert (await (await asked.value).all_headers())["x-console-live"] == "0"
    await expect(browser_page.locator("dialog.drawer")).to_be_visible()


async def test_keys_and_the_sheet_that_shows_them(browser_page: Page) -> None:
    await browser_page.keyboard.press("?")
    sheet = browser_page.get_by_role("dialog", name="Keyboard shortcuts")
    await expect(sheet).to_be_visible()
    await browser_page.keyboard.press("Escape")
    await expect(sheet).to_be_hidden()
    await browser_page.get_by_label("Phone number").fill("?")
    await expect(sheet).to_be_hidden()


async def test_a_revoked_key_ends_what_is_open(
    context: BrowserContext, gateway: Gateway, organization: Organization
) -> None:
    made = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json
    page = await context.new_page()
    await open_console(page, gateway.url, made["key"])
    await organization.call("DELETE", f"/keys/{made['id']}")
    await page.reload()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.parametrize("width", [320, 768, 1280])
async def test_nothing_scrolls_sideways(browser_page: Page, width: int) -> None:
    await browser_page.set_viewport_size({"width": width, "height": 900})
    assert await browser_page.evaluate("document.documentElement.scrollWidth") <= width


async def test_what_is_wrong_is_said_once(console: Console) -> None:
    """On a page for a problem, too: not the API's sentence beside the console's own."""
    problem = await console.get("/console/billing?month=never")
    assert problem.status == 422
    assert problem.text.count("month") == 1
    assert "null" not in problem.text


async def test_a_long_name_does_not_scroll_sideways(browser_page: Page, gateway: Gateway) -> None:
    """A chip ends where the page does."""
    await browser_page.set_viewport_size({"width": 1280, "height": 900})
    await browser_page.goto(f"{gateway.url}/console/messages")
    await browser_page.locator(".chip").first.evaluate("chip => { chip.textContent = 'x'.repeat(200) }")
    assert await browser_page.evaluate("document.documentElement.scrollWidth") <= 1280
