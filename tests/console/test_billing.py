"""What a month came to, and nothing that nobody said."""

from datetime import UTC, datetime

from ingress.console.pages.billing import _months
from ingress.dev.sandbox.meta.bodies import envelope, status_item
from ingress.settings import Settings

from ..gateway import Organization
from ..populated import all_counted
from .browsing import Console


async def test_a_month_without_anything(console: Console) -> None:
    page = await console.get("/console/billing?month=2025-12")
    assert "Nothing was sent or received in this month" in page.text
    assert "2025-12 · Billing" in page.text


async def test_what_nobody_said_is_unknown(console: Console, organization: Organization, settings: Settings) -> None:
    """Until a status has a price."""
    number = organization.numbers[0]
    assert (await organization.post_webhook(organization.gateway.meta.inbound(number).text("hi"))).status == 200
    await all_counted(settings, organization)
    page = await console.get("/console/billing")
    assert "WhatsApp Business (Meta Cloud API) 0 1 unknown unknown" in page.text
    assert "No provider said anything of prices" in page.text
    price = {"billable": True, "type": "regular", "category": "<b>marketing</b>"}
    priced = [
        status_item("wamid.1", "delivered", {"to": "+5511987654321"}) | {"pricing": price},
        status_item("wamid.2", "delivered", {"to": "+5511987654321"}),
        status_item("wamid.3", "delivered", {"to": "+5511987654321"}) | {"pricing": {"category": "odd_one"}},
    ]
    assert (await organization.post_webhook(envelope((number, {"statuses": priced})))).status == 200
    await all_counted(settings, organization)
    page = await console.get("/console/billing")
    assert "WhatsApp Business (Meta Cloud API) 0 1 1 unknown" in page.text
    assert "<b>marketing</b> regular yes 1" in page.text
    assert "service free customer service free 1" in page.text
    assert "odd one unknown unknown 1" in page.text
    assert "<b>marketing" not in page.html


async def test_only_months_that_there_are(console: Console) -> None:
    assert (await console.get("/console/billing?month=2025-13")).status == 422


def test_months_go_back_over_the_years() -> None:
    assert _months(datetime(2026, 2, 28, tzinfo=UTC))[:4] == ["2026-02", "2026-01", "2025-12", "2025-11"]
