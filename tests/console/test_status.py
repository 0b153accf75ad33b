"""How sending is doing, at a glance: a sentence, a row for each config, charts with tables, the CRM, what happened."""

from playwright.async_api import Page, expect

from ingress.console import charts
from ingress.dev.sandbox import ErrorCode
from ingress.settings import Settings

from ..gateway import Gateway, Organization, eventually
from ..populated import all_counted, connected
from .browsing import Console, signed_in


async def named(settings: Settings, organization: Organization, *names: str) -> None:
    """Call the organization's configs so."""
    async with connected(settings) as owner:
        for config, name in zip(organization.configs, names, strict=True):
            await owner.execute(
                "update whatsapp_provider_configs set name = $2 where id = $1", config["config_id"], name
            )


async def test_nothing_is_there_yet(gateway: Gateway) -> None:
    """What to do first, and no figure that nobody has."""
    page = await (await signed_in(await gateway.organization())).get("/console/status")
    assert page.status == 200
    assert "No provider is active yet: nothing can be sent." in page.text
    assert "No configuration yet" in page.text
    assert "No callback is set" in page.text
    assert page.all("svg", class_="plot") == []


async def test_all_goes_out_through_the_active_one(console: Console, organization: Organization) -> None:
    page = await console.get("/console/status")
    assert "there was none in the last hour." in page.text
    assert "Nothing was sent in this time" in page.text
    assert (await organization.send()).status == 200
    page = await console.get("/console/status?window=24h")
    assert "All sends go out through WhatsApp Business (Meta Cloud API)." in page.text
    assert "1 100 % taken" in page.text
    pictures = [found["aria-label"] for found in page.all("svg", role="img")]
    assert pictures == ["1 of 1 sends were taken", "Sends", "Latency in ms"]
    assert page.one("div", id="status")["data-live"] == "providers tick"


async def test_how_much_of_its_pace_an_account_uses(console: Console, organization: Organization) -> None:
    path = f"/integrations/whatsapp/provider/configs/{organization.configs[0]['config_id']}"
    answer = await organization.call("PATCH", path, {"config_data": {"messages_per_second": 80}})
    assert answer.status == 200, answer.raw
    assert [(await organization.send()).status for _ in range(2)] == [200, 200]
    page = await console.get("/console/status")
    assert "2 of 4,200" in page.text
    assert {name: page.one("meter")[name] for name in ("max", "value")} == {"max": "4200", "value": "2"}


async def test_what_a_fallback_sent_and_why(gateway: Gateway, settings: Settings) -> None:
    """The sentence, the row of the one that failed, and the figures of the chart as a table."""
    organization = await gateway.organization()
    await organization.configure()
    second = await organization.configure(active=False)
    await organization.fall_back_to(second["config_id"])
    await named(settings, organization, "Main number", "<b>Backup</b>")
    await gateway.meta.script(organization.numbers[0], ErrorCode(code=190))
    assert (await organization.send()).status == 200
    page = await (await signed_in(organization)).get("/console/status")
    assert "Main number cannot send at the moment." in page.text
    assert "Others send in its place: 1 by <b>Backup</b> in the last hour." in page.text
    assert "1 The account cannot send" in page.text
    assert "1 went through another one" in page.text
    assert "Circuit breaker: Open: calls are skipped for a while" in page.text
    assert "From Main number <b>Backup</b> Failed attempts" in page.text
    assert "<b>Backup" not in page.html
    assert "Cannot send · Status" in page.text


async def test_the_crm_that_takes_nothing(console: Console, organization: Organization) -> None:
    """How much waits, since when; and what was given up."""
    assert (await organization.call("PUT", "/callback", {"url": "http://127.0.0.1:1/"})).status == 200
    people = organization.gateway.meta.inbound(organization.numbers[0])
    for number in range(3):
        assert (await organization.post_webhook(people.text("hi", phone=f"+551190000000{number}"))).status == 200

    async def shown() -> str:
        return (await console.get("/console/status")).text

    text = await eventually(shown, lambda text: "Failing since not failing" not in text)
    assert "Events that wait 3" in text
    assert "Conversations that wait 3" in text
    assert "Given up (parked) 0" in text


async def test_a_backlog_is_counted_up_to_a_bound(
    console: Console, organization: Organization, settings: Settings
) -> None:
    """Of one conversation too: what waits is all after the last event that does not."""
    async with connected(settings) as owner:
        for state, numbers in (("delivered", (1, 1_500)), ("parked", (1_501, 1_510)), ("pending", (1_511, 3_000))):
            await owner.execute(
                "insert into deliveries (organization_id, sequence, conversation_id, state)"
                " select $1, n, $1, $2 from generate_series($3::bigint, $4) n",
                organization.id,
                state,
                *numbers,
            )
        leased = (
            "insert into delivery_queues (organization_id, conversation_id, leased_until) values ($1, $1, 'infinity')"
        )
        await owner.execute(leased, organization.id)
        await owner.execute(
            "insert into events (organization_id, sequence, type, config_id, conversation_id, created_at, data)"
            " values ($1, 1511, 'account.updated', $1, $1, now() - interval '3 hours', '{}')",
            organization.id,
        )
        await owner.execute(
            "insert into callbacks (organization_id, url, secrets) values ($1, 'x', '')", organization.id
        )
    text = (await console.get("/console/status")).text
    assert "Events that wait more than 1,000 Conversations that wait 1" in text
    assert "Oldest event that waits 3 hours ago" in text
    assert "Given up (parked) 10" in text


async def test_what_happened_is_shown_and_drawn(gateway: Gateway, settings: Settings) -> None:
    organization = await gateway.organization()
    await organization.configure()
    second = await organization.configure(active=False)
    await named(settings, organization, "Main number", "Backup")
    assert (await organization.send()).status == 200
    switch = "/integrations/whatsapp/provider/switch"
    answer = await organization.call("POST", switch, {"config_id": second["config_id"], "reason": "a <i>trial</i>"})
    assert answer.status == 200, answer.raw
    assert (await organization.call("POST", "/integrations/whatsapp/provider/rollback", {})).status == 200
    page = await (await signed_in(organization)).get("/console/status")
    assert page.text.count("Switched to Backup") == 3  # in both charts, too
    assert page.text.rindex("Rolled back to Main number") < page.text.rindex("Switched to Backup"), "the newest first"
    assert "All sends go out through Main number." in page.text
    assert "a <i>trial</i>" in page.text
    assert "<i>trial" not in page.html


async def test_what_went_through_a_deleted_config_stays(gateway: Gateway, settings: Settings) -> None:
    """Counted or not, in Status and in the month's sums, under its provider's name."""
    organization = await gateway.organization()
    await organization.configure()
    assert (await organization.send()).status == 200
    await all_counted(settings, organization)
    assert (await organization.send()).status == 200
    gone, second = organization.configs[0], await organization.configure()
    assert second["state"] == "active"
    path = f"/integrations/whatsapp/provider/configs/{gone['config_id']}"
    assert (await organization.call("DELETE", path)).status == 204
    console = await signed_in(organization)
    text = (await console.get("/console/status")).text
    assert "A deleted configuration WhatsApp Business (Meta Cloud API) – 2 100 % taken" in text
    assert "2 by A deleted configuration in the last hour." in text
    await all_counted(settings, organization)
    text = (await console.get("/console/billing")).text
    assert "A deleted configuration WhatsApp Business (Meta Cloud API) 2 0" in text


async def test_only_windows_that_there_are(console: Console) -> None:
    assert (await console.get("/console/status?window=2h")).status == 422


async def test_a_key_that_may_not_read(organization: Organization) -> None:
    console = await signed_in(organization, "send")
    for path in ("/console/status", "/console/billing"):
        assert (await console.get(path)).status == 403


def test_an_axis_ends_above_what_is_drawn() -> None:
    assert [charts.nice(most) for most in (0, 1, 3, 12, 99, 101, 4_999)] == [1, 1, 5, 20, 100, 200, 5_000]


def test_what_is_drawn_is_escaped() -> None:
    picture = charts.Picture(
        '"><script>', ["series-0"], [[1.0, None]], ["<b>", "</title>"], [charts.Mark(0.5, "x", "<i>")]
    )
    for drawn, top in (charts.bars(picture), charts.lines(picture)):
        assert top == 1
        assert drawn.count("<") == drawn.count(">")
        assert not any(word in drawn for word in ("<script", "<b>", "<i>", "</title></title>"))
    assert 'aria-label="&#34;&gt;"' in charts.sparkline([], '">')


# ---------------------------------------------------------------- in Chromium


async def test_figures_follow_what_is_sent(browser_page: Page, gateway: Gateway, organization: Organization) -> None:
    """The page renews itself, and says when it did."""
    await browser_page.goto(f"{gateway.url}/console/status")
    await expect(browser_page.get_by_text("Nothing was sent in this time")).to_be_visible()
    await expect(browser_page.locator("[data-live-state]")).to_contain_text("live")
    assert (await organization.send()).status == 200
    await organization.configure(active=False)  # providers have changed
    await expect(browser_page.get_by_role("img", name="1 of 1 sends were taken")).to_be_visible(timeout=30_000)


async def test_a_page_that_does_not_follow_says_so(
    browser_page: Page, gateway: Gateway, organization: Organization
) -> None:
    """Where the server does not answer; and where it is silent, though nobody closed the connection."""
    await browser_page.clock.install()
    await browser_page.goto(f"{gateway.url}/console/status")
    state = browser_page.locator("[data-live-state]")
    await expect(state).to_contain_text("live")
    await browser_page.route("**/console/status", lambda route: route.abort())
    await organization.configure(active=False)
    await expect(state).to_have_text("Connection lost, trying again", timeout=30_000)
    await browser_page.unroute("**/console/status")
    async with browser_page.expect_request("**/console/live"):
        await browser_page.clock.fast_forward(60_000)
    await expect(state).to_contain_text("live")
