"""Finding messages on the page, the way of each, a contact's history, raw bodies and files."""

import csv
import io
import json
from typing import Any
from urllib.parse import quote

import pytest
from playwright.async_api import Page as Tab
from playwright.async_api import expect

from ingress.console.pages import messages as pages
from ingress.dev.sandbox import ErrorCode
from ingress.settings import Settings

from ..gateway import Gateway, Organization, eventually, unused_port
from .browsing import Console, Page, signed_in

PHONE = "+5511987654321"


async def came_in(organization: Organization, text: str, phone: str = PHONE) -> Any:
    """A message comes in; its event."""
    hook = organization.gateway.meta.inbound(organization.numbers[0]).text(text, phone=phone)
    assert (await organization.post_webhook(hook)).status == 200
    events = await organization.events(wait=5, kind="message.received")
    [event] = [event for event in events if event["data"]["message"]["content"].get("body") == text]
    return event


async def send(organization: Organization, body: str = "Hello", **more: Any) -> Any:
    return (await organization.send({"to": PHONE, "body": body} | more)).json


def paths(page: Page) -> list[str]:
    """Of the rows."""
    return [link["href"] for link in page.all("a") if "data-drawer" in link]


# ---------------------------------------------------------------- the list


async def test_both_directions_newest_first(console: Console, organization: Organization) -> None:
    received = await came_in(organization, "Olá <b>")
    sent = await send(organization, "Bom dia")
    page = await console.get("/console/messages")
    assert page.status == 200
    assert paths(page) == [f"/console/messages/{sent['id']}", f"/console/events/{received['id']}"]
    assert "Bom dia" in page.text
    assert "Olá &lt;b&gt;" in page.html
    assert paths(await console.get("/console/messages?direction=inbound")) == [f"/console/events/{received['id']}"]
    assert paths(await console.get("/console/messages?direction=outbound")) == [f"/console/messages/{sent['id']}"]
    assert paths(await console.get("/console/messages?status=failed")) == []
    assert page.one("div", id="said")["data-live"] == "events"


async def test_an_organization_without_messages_gets_the_first_step(console: Console) -> None:
    page = await console.get("/console/messages")
    assert "No messages yet" in page.text
    assert "/console/send-test" in page.html
    assert "Nothing matches" in (await console.get("/console/messages?status=failed")).text


async def test_one_field_finds_by_all_names(console: Console, organization: Organization) -> None:
    """A number however it is written, a provider's id, a lead, a request; an id of ours leads to its own page."""
    received = await came_in(organization, "Olá")
    answer = await organization.send({"to": PHONE, "body": "Hello", "lead_id": "Lead 7"})
    sent = answer.json
    both = [f"/console/messages/{sent['id']}", f"/console/events/{received['id']}"]
    for typed in (PHONE, "5511987654321", "+55 (11) 98765-4321", " 55 11 8765 4321 "):
        assert paths(await console.get(f"/console/messages?q={quote(typed)}")) == both, typed
    for typed in (sent["provider_message_id"], "Lead 7", answer.headers["x-request-id"]):
        assert paths(await console.get(f"/console/messages?q={quote(typed)}")) == both[:1], typed
    theirs = received["data"]["message"]["provider_message_id"]
    assert paths(await console.get(f"/console/messages?q={quote(theirs)}")) == both[1:]
    contact = received["data"]["conversation"]["contact"]["id"]
    for typed, path in ((sent["id"], both[0]), (received["id"], both[1]), (contact, f"/console/contacts/{contact}")):
        page = await console.get(f"/console/messages?q={typed}")
        assert (page.status, page.location) == (303, path)
    conversation = received["data"]["conversation"]["id"]
    assert paths(await console.get(f"/console/messages?q={conversation}")) == both
    page = await console.get("/console/messages?q=nobody")
    assert "Nothing is known by “nobody”" in page.text


async def test_an_error_is_found_by_code_and_class(
    console: Console, organization: Organization, gateway: Gateway
) -> None:
    await send(organization)
    await gateway.meta.script(organization.numbers[0], ErrorCode(code=131026))
    failed = await send(organization)
    for typed in ("131026", "Rejected"):
        page = await console.get(f"/console/messages?q={typed}")
        assert paths(page) == [f"/console/messages/{failed['id']}"]
    assert paths(await console.get("/console/messages?status=failed")) == [f"/console/messages/{failed['id']}"]


@pytest.mark.parametrize(
    ("query", "status"),
    [("q=%00", 422), ("before=x", 422), ("account=x", 422), ("since=0001-01-01", 200), ("until=9999-12-31", 200)],
)
async def test_odd_queries(console: Console, query: str, status: int) -> None:
    assert (await console.get(f"/console/messages?{query}")).status == status


async def test_pages_of_both_directions(
    console: Console, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "SHOWN", 2)
    said = []
    for number in range(5):
        if number % 2:
            said.append(f"/console/events/{(await came_in(organization, f'text {number}'))['id']}")
        else:
            said.append(f"/console/messages/{(await send(organization))['id']}")
    seen: list[str] = []
    page = await console.get("/console/messages")
    while True:
        seen += paths(page)
        following = page.all("a", rel="next")
        if not following:
            break
        page = await console.get(following[0]["href"])
        assert "data-live" not in page.one("div", id="said"), "what is older does not move"
    assert seen == said[::-1]


async def test_a_name_that_nothing_else_has_shows_whose_it_is(console: Console, organization: Organization) -> None:
    event = await came_in(organization, "Olá")
    name = event["data"]["conversation"]["contact"]["name"]
    page = await console.get(f"/console/messages?q={quote(name[:3])}")
    assert page.one("a", href=f"/console/contacts/{event['data']['conversation']['contact']['id']}")


# ---------------------------------------------------------------- one of them


async def test_the_page_of_a_message_that_was_sent(
    console: Console, organization: Organization, gateway: Gateway
) -> None:
    sent = await send(organization, "Olá 'a'", lead_id="L1")
    await organization.settled(sent["id"], "read")
    page = await console.get(f"/console/messages/{sent['id']}")
    [contact] = (await organization.call("GET", f"/contacts?phone={PHONE[1:]}")).json["contacts"]
    assert page.all("a", href=f"/console/contacts/{contact['id']}")
    assert "Read; delivered by WhatsApp Business (Meta Cloud API)." in page.text
    assert "Attempt 1" in page.text
    assert "Reported by the provider." in page.text
    assert sent["provider_message_id"] in page.text
    assert "$INGRESS_API_KEY" in page.text
    assert organization.key not in page.html
    await gateway.meta.script(organization.numbers[0], ErrorCode(code=131026))
    failed = await send(organization)
    page = await console.get(f"/console/messages/{failed['id']}")
    assert "Not sent: WhatsApp Business (Meta Cloud API) refused it: 131026, " in page.text
    assert f"<title>Failed · {PHONE}" in page.html


async def test_the_page_of_what_came_in(console: Console, organization: Organization) -> None:
    event = await came_in(organization, "Olá")
    page = await console.get(f"/console/events/{event['id']}")
    assert page.status == 200
    assert "Received by WhatsApp Business (Meta Cloud API); not posted" in page.text
    assert page.one("a", href=f"/console/events/{event['id']}/raw")
    for other in await organization.events():
        assert (await console.get(f"/console/events/{other['id']}")).status == 200, other["type"]
        assert (await console.get(f"/console/events/{other['id']}/raw")).status == 200, other["type"]


async def test_why_an_event_was_not_delivered_is_said_in_words(console: Console, organization: Organization) -> None:
    nobody = {"url": f"http://127.0.0.1:{unused_port()}/"}
    assert (await organization.call("PUT", "/callback", nobody)).status == 200
    event = await came_in(organization, "Olá")

    async def sentence() -> str:
        return (await console.get(f"/console/events/{event['id']}")).text

    text = await eventually(sentence, lambda text: "not posted to the CRM yet" not in text)
    assert "; the CRM did not take it (No connection could be made), next try at " in text


async def test_who_looks_at_a_raw_body_is_in_the_trail(
    console: Console, organization: Organization, settings: Settings
) -> None:
    """Once, however often the same person looks at the same one."""
    event = await came_in(organization, "Olá")
    for _ in range(2):
        page = await console.get(f"/console/events/{event['id']}/raw")
        assert "wamid." in page.text
    audit = (await organization.call("GET", "/integrations/whatsapp/audit?action=event_raw_shown")).json["entries"]
    assert [entry["after"] for entry in audit] == [{"event_id": event["id"]}]
    assert audit[0]["actor"] == organization.key.split("_")[2]


async def test_without_the_permission_to_read_there_is_nothing(organization: Organization) -> None:
    console = await signed_in(organization, "send", "configure", "admin")
    event = await came_in(organization, "Olá")
    for path in ("messages", "messages/export", f"events/{event['id']}", f"events/{event['id']}/raw"):
        assert (await console.get(f"/console/{path}")).status == 403, path


async def test_a_contacts_history_is_of_all_accounts(console: Console, organization: Organization) -> None:
    event = await came_in(organization, "Olá")
    first = await send(organization)
    second = await organization.configure()
    assert (await organization.call("POST", "/integrations/whatsapp/provider/switch", second)).status in (200, 422)
    later = await send(organization)
    contact = event["data"]["conversation"]["contact"]["id"]
    page = await console.get(f"/console/contacts/{contact}")
    assert paths(page) == [
        f"/console/messages/{later['id']}",
        f"/console/messages/{first['id']}",
        f"/console/events/{event['id']}",
    ]
    assert PHONE in page.text


# ---------------------------------------------------------------- files


async def test_what_is_found_as_a_file(console: Console, organization: Organization) -> None:
    """All of it, whatever a page shows; no spreadsheet calculates anything; that it was made is in the trail."""
    received = await came_in(organization, '=HYPERLINK("https://evil.example")')
    sent = await send(organization, "Hello", lead_id="L1")
    page = await console.get("/console/messages/export?format=csv")
    assert page.headers["content-type"] == "text/csv; charset=utf-8"
    assert page.headers["content-disposition"].endswith('.csv"')
    [first, second] = csv.DictReader(io.StringIO(page.html))
    assert (first["id"], first["direction"], first["text"], first["lead_id"]) == (sent["id"], "outbound", "Hello", "L1")
    assert (second["id"], second["text"]) == (received["id"], """'=HYPERLINK("https://evil.example")""")
    assert second["phone"] == f"'{PHONE}"
    page = await console.get("/console/messages/export?format=ndjson&direction=inbound")
    [line] = page.html.splitlines()
    assert json.loads(line)["event"] == received
    assert (await console.get("/console/messages/export?q=nobody")).html.count("\n") == 1
    audit = (await organization.call("GET", "/integrations/whatsapp/audit?action=messages_exported")).json["entries"]
    assert [entry["after"] for entry in audit] == [
        {"format": "csv", "by": ["q"]},
        {"format": "ndjson", "by": ["direction"]},
        {"format": "csv", "by": []},
    ]


async def test_a_file_has_no_more_than_its_cap(
    console: Console, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "EXPORTED_AT_MOST", 3)
    monkeypatch.setattr(pages, "EXPORTED_AT_ONCE", 2)
    for _ in range(5):
        await send(organization)
    assert (await console.get("/console/messages/export")).html.count("\n") == 1 + 3
    assert "the newest 3 at most" in (await console.get("/console/messages")).text


# ---------------------------------------------------------------- in a browser


async def test_new_rows_come_by_themselves_until_they_are_paused(
    browser_page: Tab, organization: Organization, gateway: Gateway
) -> None:
    await came_in(organization, "one")
    await browser_page.goto(f"{gateway.url}/console/messages")
    await expect(browser_page.locator("tr[data-row]")).to_have_count(1)
    await expect(browser_page.locator("[data-live-state]")).to_contain_text("live")
    await came_in(organization, "two")
    await expect(browser_page.locator("tr[data-row]")).to_have_count(2)
    await browser_page.get_by_role("button", name="Pause").click()
    await expect(browser_page.locator("[data-live-state]")).to_contain_text("Paused")
    before, more = await browser_page.locator("[data-live-state]").inner_text(), 0
    while await browser_page.locator("[data-live-state]").inner_text() == before:  # until a notice has come
        await came_in(organization, f"more {more}")
        more += 1
    await expect(browser_page.locator("tr[data-row]")).to_have_count(2)
    async with browser_page.expect_response("**/console/messages"):  # it was looked for
        await browser_page.get_by_role("button", name="Pause").click()
    await expect(browser_page.locator("tr[data-row]")).to_have_count(min(2 + more, 50))  # a page


async def test_a_message_opens_beside_the_list_with_an_address_of_its_own(
    browser_page: Tab, organization: Organization, gateway: Gateway
) -> None:
    sent = await send(organization, "Olá")
    await organization.settled(sent["id"], "read")
    await browser_page.goto(f"{gateway.url}/console/messages")
    await browser_page.locator("tr[data-row] a[data-drawer]").first.click()
    drawer = browser_page.locator("dialog.drawer[open]")
    await expect(drawer.get_by_role("heading", name="Message to ")).to_be_visible()
    assert browser_page.url.endswith(f"/console/messages/{sent['id']}")
    await browser_page.keyboard.press("Escape")
    await expect(browser_page.locator("dialog.drawer[open]")).to_have_count(0)
    await browser_page.wait_for_url("**/console/messages")


async def test_on_a_phone_a_row_is_whole(browser_page: Tab, organization: Organization, gateway: Gateway) -> None:
    await came_in(organization, "one")
    await browser_page.set_viewport_size({"width": 320, "height": 900})
    await browser_page.goto(f"{gateway.url}/console/messages")
    table = browser_page.locator("table.message-rows")
    await expect(table.locator("tr[data-row]")).to_have_count(1)
    cut = "table => [...table.querySelectorAll('td')].filter((part) => part.scrollWidth > part.clientWidth).length"
    assert await table.evaluate(cut) == 0
