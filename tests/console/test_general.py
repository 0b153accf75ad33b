"""General: renaming, the callback with its test event and its secrets, what was delivered and what was given up."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from ingress.delivery import schedule
from ingress.dev.sandbox import CrmFlood, CrmSimulator, CrmStatus
from ingress.dev.sandbox.crm.answers import AnyAnswer
from ingress.settings import Settings
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.statements import events

from ..delivery.test_delivery import event
from ..gateway import Organization, eventually
from .browsing import Console, Page, signed_in

pytestmark = pytest.mark.usefixtures("quick_relay")
ENDPOINT = "general"
SECRET = re.compile("whsec_([A-Za-z0-9+/=]{32})")


@pytest.fixture
async def crm() -> AsyncIterator[CrmSimulator]:
    async with CrmSimulator() as simulator:
        yield simulator


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await Database(settings.database_url).connect(WORKER)
    yield connection
    await connection.close()


async def point(console: Console, crm: CrmSimulator) -> str:
    """Set the callback as a person does; its secret, from the page that shows it."""
    page = await console.post("/console/general/callback", {"url": crm.url_for(ENDPOINT)})
    assert page.status == 200, page.text
    found = SECRET.search(page.text)
    assert found is not None
    crm.set_secret(found[0], endpoint=ENDPOINT)
    return found[1]


async def test_an_organization_is_renamed(console: Console, organization: Organization) -> None:
    page = await console.post("/console/general/name", {"name": "Later <b>"})
    assert (page.status, page.location) == (303, "/console/general?done=renamed")
    page = await console.get("/console/general")
    assert page.one("input", name="name")["value"] == "Later <b>"
    page = await console.post("/console/general/name", {"name": ""})
    assert page.status == 422
    assert page.one("input", name="name")["aria-invalid"] == "true"
    assert (await organization.call("GET", "/organization")).json["name"] == "Later <b>"
    [entry] = (await organization.call("GET", "/integrations/whatsapp/audit?limit=1")).json["entries"]
    assert (entry["action"], entry["outcome"]) == ("rename_organization", "refused")


async def test_how_long_data_is_kept_is_set(console: Console, organization: Organization) -> None:
    """In days, by who may; what is left empty is as the service has it."""
    page = await console.get("/console/general")
    assert "In force: 90 days" in page.text
    page = await console.post("/console/general/retention", {"events_days": "7", "bodies_days": ""})
    assert (page.status, page.location) == (303, "/console/general?done=kept")
    page = await console.get(page.location)
    assert "past its time goes" in page.text
    assert "In force: 7 days" in page.text
    assert page.one("input", name="events_days")["value"] == "7"
    for wrong in ("91", "0", "many", "9" * 30):
        page = await console.post("/console/general/retention", {"events_days": wrong})
        assert page.status == 422
        field = page.one("input", name="events_days")
        assert (field["value"], field["aria-invalid"]) == (wrong, "true")
    assert (await organization.call("GET", "/retention")).json["events"]["own"] == 7
    reader = await signed_in(organization, "read", "configure")
    assert "readonly" in (await reader.get("/console/general")).one("input", name="events_days")
    assert (await reader.post("/console/general/retention", {"events_days": "8"})).status == 403


async def test_a_secret_is_shown_once(console: Console, organization: Organization, crm: CrmSimulator) -> None:
    """When the callback is set, and when it gets another: both sign for a day, and the page says until when."""
    page = await console.get("/console/general")
    assert "No callback is set." in page.text
    assert page.one("a", href="#callback")
    first = await point(console, crm)
    page = await console.get("/console/general")
    assert first not in page.html
    assert "Not used yet" in page.text
    assert "24 hours" in (await console.get("/console/general/secret")).text
    page = await console.post("/console/general/secret")
    assert page.status == 200
    assert first not in page.html
    assert "2 secrets sign" in page.text
    assert "A former secret signs beside the new one; it expires" in page.text
    assert SECRET.search(page.html)
    assert not SECRET.search((await console.get("/console/general")).html)


@pytest.mark.parametrize("url", ["", "crm", "http://10.0.0.1/"])
async def test_a_wrong_address_is_named_beside_its_field(console: Console, url: str) -> None:
    page = await console.post("/console/general/callback", {"url": url})
    assert page.status == 422
    shown = page.one("input", name="url")
    assert (shown["value"], shown["aria-invalid"]) == (url, "true")
    assert "field-url-error" in shown["aria-describedby"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "Your CRM took the event. HTTP 200"),
        (CrmStatus(status=401), "Your CRM refused the event. HTTP 401"),
        (CrmStatus(status=503), "Your CRM failed on the event. HTTP 503"),
        (CrmStatus(status=302), "Your CRM answered with a redirect, which is not followed. HTTP 302"),
    ],
)
async def test_a_test_event_says_how_it_went(
    console: Console, crm: CrmSimulator, answer: AnyAnswer | None, said: str
) -> None:
    await point(console, crm)
    if answer is not None:
        crm.script(answer, endpoint=ENDPOINT)
    page = await console.post("/console/general/test")
    assert page.status == 200
    assert said in page.text
    assert " ms " in page.text


async def test_no_connection_is_said_without_a_time(console: Console, crm: CrmSimulator) -> None:
    await point(console, crm)
    await crm.refuse()
    page = await console.post("/console/general/test")
    assert "No connection could be made. No answer" in page.text
    assert " ms " not in page.text


async def test_an_answer_is_shown_as_text(console: Console, crm: CrmSimulator) -> None:
    """Its first kilobyte, and never as HTML."""
    await point(console, crm)
    crm.script(CrmFlood(size_bytes=50_000), endpoint=ENDPOINT)
    page = await console.post("/console/general/test")
    assert "What it answered (the first kilobyte)" in page.text
    assert "x" * 1024 in page.text
    assert "x" * 1025 not in page.text
    crm.script(CrmStatus(status=500, body="<script>ran()</script>"), endpoint=ENDPOINT)
    page = await console.post("/console/general/test")
    assert "<script>ran()</script>" in page.text
    assert "<script>ran()" not in page.html


async def park(database: asyncpg.Connection, organization: Organization, count: int, error: str = "HTTP 500") -> None:
    own = UUID(organization.id)
    await database.execute("update callbacks set paused_until = now() + interval '1 h' where organization_id = $1", own)
    await events.add(database, [event(organization, uuid4()) for _ in range(count)])
    change = "update deliveries set state = 'parked', last_error = $2 where organization_id = $1 and state = 'pending'"
    await database.execute(change, own, error)


def fields(page: Page) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in page.all("input", type="hidden") if one["name"] != "csrf"}


async def test_a_replay_names_the_count_and_takes_no_more(
    console: Console, organization: Organization, crm: CrmSimulator, database: asyncpg.Connection
) -> None:
    await point(console, crm)
    await park(database, organization, 3)
    await park(database, organization, 1, "HTTP 422")
    page = await console.get("/console/general")
    assert "4 events were given up" in page.text
    assert (await console.get("/console/general/replay?last_error=none")).status == 303
    page = await console.get("/console/general/replay?type=message.received&last_error=HTTP+500")
    assert "Deliver 3 events again?" in page.text
    await park(database, organization, 2)
    await database.execute("update callbacks set paused_until = null where organization_id = $1", UUID(organization.id))
    answer = await console.post("/console/general/replay", fields(page))
    assert (answer.status, answer.location) == (303, "/console/general?done=replayed")
    await crm.wait_received(3)
    counted = (await organization.call("GET", "/callback/parked/count")).json
    assert sorted((one["last_error"], one["events"]) for one in counted["groups"]) == [("HTTP 422", 1), ("HTTP 500", 2)]


async def test_a_disabled_callback_is_said_and_enabled(
    console: Console, organization: Organization, crm: CrmSimulator, database: asyncpg.Connection
) -> None:
    await point(console, crm)
    crm.script(CrmStatus(status=410), endpoint=ENDPOINT)
    await events.add(database, [event(organization, uuid4())])
    page = await eventually(lambda: console.get("/console/general"), lambda page: "Nothing is delivered" in page.text)
    assert "HTTP 410" in page.text
    assert (await console.post("/console/general/enable")).location == "/console/general?done=callback_enabled"
    await crm.wait_received(1)
    page = await console.get("/console/general?done=callback_enabled")
    assert "The callback is enabled" in page.text
    assert "Healthy" in page.text


async def test_deliveries_are_listed_with_their_answers(
    console: Console,
    organization: Organization,
    crm: CrmSimulator,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "SCHEDULE_S", (0.01,))
    await point(console, crm)
    await events.add(database, [event(organization, uuid4()) for _ in range(12)])
    await crm.wait_received(12)
    page = await eventually(lambda: console.get("/console/general"), lambda page: page.text.count("HTTP 200") == 10)
    older = await console.get(next(one["href"] for one in page.all("a", rel="next")))
    assert older.text.count("HTTP 200") == 2


async def test_a_callback_is_removed_after_a_question(
    console: Console, organization: Organization, crm: CrmSimulator
) -> None:
    await point(console, crm)
    assert "given up" in (await console.get("/console/general/remove")).text
    assert (await console.post("/console/general/remove")).location == "/console/general?done=callback_removed"
    assert (await organization.call("GET", "/callback")).status == 404
    assert (await console.get("/console/general/remove")).status == 404


async def test_who_may_only_read_sees_why_not_more(organization: Organization, crm: CrmSimulator) -> None:
    """Controls are shown disabled with the reason; the address is masked, in the programs too."""
    await point(await signed_in(organization), crm)
    reader = await signed_in(organization, "read")
    page = await reader.get("/console/general")
    assert page.status == 200
    assert "This key lacks the permission “configure”." in page.text
    assert crm.url_for(ENDPOINT) not in page.html
    assert "/console/general/secret" not in page.html
    for path in ("name", "callback", "test", "enable", "secret", "remove", "replay"):
        assert (await reader.post(f"/console/general/{path}", {"name": "x", "url": crm.url_for("y")})).status == 403


async def test_where_a_form_led_is_no_dead_end(console: Console) -> None:
    """Who goes to that address, or reloads a page that looks again by itself, comes back to the page."""
    assert (await console.get("/console/general/test")).location == "/console/general"
