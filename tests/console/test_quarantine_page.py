"""The page of the quarantine: what was put aside, looked at safely, read again, let go of."""

import time

import pytest
from playwright.async_api import Page as Tab
from playwright.async_api import expect

from ingress.console.readable import MOST_CHARACTERS, readable
from ingress.dev.sandbox.meta.bodies import encode

from ..gateway import Gateway, Organization, eventually
from .browsing import Console, Page, signed_in

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> \u202egnp.exe'


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        (b'{"a":[1,{"b":"c"}]}', "", '{\n  "a": [\n    1,\n    {\n      "b": "c"\n    }\n  ]\n}'),
        (
            b"Body=Hello+there&From=whatsapp%3A%2B55",
            "application/x-www-form-urlencoded",
            "Body = Hello there\nFrom = whatsapp:+55",
        ),
        (b"plain = & text", "text/plain", "plain = & text"),
        (b"", "", ""),
        (b"\x00a\xff\x1b[2J", "", "\\u0000a\ufffd\\u001b[2J"),
        ("\u202eabc\u2066".encode(), "", "\\u202eabc\\u2066"),
        (b'{"cut', "", '{"cut'),
        (b"[" * 100 + b"]" * 100, "", "[" * 100 + "]" * 100),
    ],
)
def test_a_body_is_made_readable(body: bytes, content_type: str, shown: str) -> None:
    assert readable(body, content_type) == shown


def test_no_body_becomes_a_large_page() -> None:
    deep = b"[" * 30 + b",".join([b"1"] * 30_000) + b"]" * 30
    assert len(readable(deep)) == MOST_CHARACTERS
    assert len(readable(b"[" * 60_000)) == 60_000


async def put_aside(organization: Organization, *bodies: bytes) -> list[str]:
    """The ids of these, oldest first."""
    for body in bodies:
        answer = await organization.post_webhook(body)
        assert answer.status == 200, answer.raw
    found = (await organization.call("GET", "/quarantine")).json["quarantine"]
    return [item["id"] for item in found]


async def actions(organization: Organization) -> list[str]:
    answer = await organization.call("GET", "/integrations/whatsapp/audit?limit=200")
    return [entry["action"] for entry in answer.json["entries"] if entry["action"].startswith("quarantine")]


def rows(page: Page) -> int:
    return len(page.all("tr", **{"data-row": ""}))


async def test_nothing_waits_yet(console: Console) -> None:
    page = await console.get("/console/quarantine")
    assert (page.status, rows(page)) == (200, 0)
    assert "Everything that providers posted could be read." in page.text
    assert "Nothing matches" in (await console.get("/console/quarantine?state=discarded")).text


async def test_what_was_put_aside_is_listed_in_pages(console: Console, organization: Organization) -> None:
    await put_aside(organization, *(b"unreadable %d" % number for number in range(3)))
    page = await console.get("/console/quarantine?limit=2")
    assert rows(page) == 2
    assert "Not in the provider's format" in page.text
    [older] = page.all("a", rel="next")
    assert rows(await console.get(older["href"])) == 1


async def test_a_body_is_shown_on_request_and_the_trail_has_who_looked(
    console: Console, organization: Organization
) -> None:
    """Nothing in it is anything but text."""
    [item] = await put_aside(organization, HOSTILE.encode())
    page = await console.get(f"/console/quarantine/{item}")
    assert "alert(1)" not in page.html
    assert await actions(organization) == []
    page = await console.get(f"/console/quarantine/{item}?body=1")
    assert "<script>alert(1)" not in page.html
    assert "&lt;script&gt;alert(1)" in page.html
    assert "\u202e" not in page.html
    assert page.all("img") == []
    assert await actions(organization) == ["quarantine_shown"]


async def test_a_large_body_is_cut(console: Console, organization: Organization) -> None:
    assert (await organization.post_webhook(b"y" * 70_000 + b"not shown")).status == 200
    [item] = await eventually(lambda: put_aside(organization), len, every=0.2)  # it is read in the background
    page = await console.get(f"/console/quarantine/{item}?body=1")
    assert "The first 64.0 KiB of 68.4 KiB." in page.text
    assert "y" * 65_536 in page.html
    assert "not shown" not in page.html


async def test_it_is_read_again_and_stays_where_that_changes_nothing(
    console: Console, organization: Organization
) -> None:
    [item] = await put_aside(organization, b"unreadable")
    page = await console.post(f"/console/quarantine/{item}/replay")
    assert page.status == 409
    assert "This release cannot read it either." in page.text
    assert "Open" in page.text


async def test_what_can_be_read_is_events(console: Console, organization: Organization) -> None:
    body = organization.gateway.meta.inbound(organization.numbers[0]).text("Hello", phone="+5511912345678")
    body["entry"][0]["changes"][0]["value"]["messages"][0]["timestamp"] = str(int(time.time()) - 40 * 86_400)
    [item] = await put_aside(organization, encode(body))
    assert "Too old, or ahead of the clock" in (await console.get("/console/quarantine")).text
    page = await console.post(f"/console/quarantine/{item}/replay")
    assert (page.status, page.location) == (303, f"/console/quarantine/{item}?done=quarantine_replayed")
    assert "what is in it is events now" in (await console.get(page.location)).text
    assert len(await organization.events(kind="message.received")) == 1


async def test_discarding_names_the_count_first(console: Console, organization: Organization) -> None:
    items = await put_aside(organization, b"unreadable 1", b"unreadable 2", b"unreadable 3")
    page = await console.get(f"/console/quarantine/discard?id={items[0]}&id={items[2]}")
    assert "Discard 2 items of the quarantine?" in page.text
    chosen = [field["value"] for field in page.all("input", name="id")]
    assert chosen == [items[0], items[2]]
    page = await console.post("/console/quarantine/discard", {"id": chosen})
    assert (page.status, page.location) == (303, "/console/quarantine?done=quarantine_discarded")
    assert rows(await console.get("/console/quarantine")) == 1
    assert rows(await console.get("/console/quarantine?state=discarded")) == 2
    assert await actions(organization) == ["quarantine_discarded"] * 2
    again = await console.post("/console/quarantine/discard", {"id": chosen})
    assert again.status == 303, "somebody was faster"
    assert await actions(organization) == ["quarantine_discarded"] * 2
    assert (await console.get("/console/quarantine/discard")).location == "/console/quarantine"


async def test_what_is_anothers_cannot_be_discarded(gateway: Gateway, organization: Organization) -> None:
    other = await gateway.organization("Other")
    await other.configure()
    [item] = await put_aside(other, b"unreadable")
    [own] = await put_aside(organization, b"unreadable")
    console = await signed_in(organization)
    for ids in ([item], [own, item], ["x"]):
        assert (await console.get(f"/console/quarantine/discard?id={ids[-1]}")).status == 404
        assert (await console.post("/console/quarantine/discard", {"id": ids})).status == 404
    assert len((await other.call("GET", "/quarantine")).json["quarantine"]) == 1
    assert len((await organization.call("GET", "/quarantine")).json["quarantine"]) == 1


async def test_who_may_not_change_anything_is_shown_why(organization: Organization) -> None:
    [item] = await put_aside(organization, b"unreadable")
    console = await signed_in(organization, "read")
    page = await console.get(f"/console/quarantine/{item}")
    assert "This key lacks the permission “configure”." in page.text
    assert all("disabled" in button for button in page.all("button") if button["class"] == "button danger")
    assert (await console.post(f"/console/quarantine/{item}/replay")).status == 403


async def test_all_of_a_page_are_chosen_with_one_click(browser_page: Tab, organization: Organization) -> None:
    await put_aside(organization, b"unreadable 1", b"unreadable 2")
    await browser_page.goto(f"{organization.gateway.url}/console/quarantine")
    await browser_page.get_by_role("button", name="Choose all of this page").click()
    await browser_page.get_by_role("button", name="Discard the chosen ones").click()
    await expect(browser_page.get_by_role("heading", name="Discard 2 items of the quarantine?")).to_be_visible()
    await expect(browser_page.get_by_role("link", name="Cancel")).to_be_focused()
    await browser_page.get_by_role("button", name="Discard 2 items").click()
    await expect(browser_page.get_by_text("Nothing waits here")).to_be_visible()
