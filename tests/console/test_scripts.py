"""What people and providers write is shown, and never run: on every page, by a real browser."""

import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from ingress.console.routing import ConsoleRoute
from ingress.dev.sandbox.meta.bodies import envelope, status_item
from ingress.dev.sandbox.meta.templates import example_template

from ..gateway import Gateway, Organization
from .conftest import open_console
from .test_every_page import PAGES
from .test_every_route import filled

# Each runs `ran()` where it is taken for HTML, an attribute, an address, a script, a style or a template.
VECTORS = [
    "<script>ran()</script>",
    "<img src=x onerror=ran()>",
    "<svg onload=ran()>",
    "<svg><script>ran()</script></svg>",
    "<body onpageshow=ran()>",
    "<iframe srcdoc='<script>parent.ran()</script>'></iframe>",
    "<iframe src='javascript:parent.ran()'></iframe>",
    "<a href='javascript:ran()' autofocus onfocus=ran()>x</a>",
    "<input autofocus onfocus=ran()>",
    "<details open ontoggle=ran()>",
    "<video><source onerror=ran()></video>",
    "<object data='javascript:ran()'></object>",
    "<form action='javascript:ran()'><button autofocus>x</button></form>",
    "<style>@import 'https://elsewhere.example/x.css';</style>",
    "<link rel=stylesheet href='https://elsewhere.example/x.css'>",
    "<base href='https://elsewhere.example/'>",
    "<meta http-equiv=refresh content='0;url=https://elsewhere.example/'>",
    "<math><mtext><img src=x onerror=ran()></mtext></math>",
    "<noscript><p title='</noscript><img src=x onerror=ran()>'>",
    "<template><img src=x onerror=ran()></template>",
    "{{ 7 * 7 }}{% raw %}{{ request.signed_in }}",
    "${ran()}",
    "%(message)s %s %n",
    "javascript:ran()",
    "data:text/html,<script>ran()</script>",
]
# What they stand behind: out of a text, an attribute of either kind, a tag, a comment, a block of script.
CONTEXTS = ["", '">', "'>", '" onmouseover=ran() x="', "</textarea></title>", "-->", "</script>", "\\u003c/script>"]
STRINGS = [before + vector for vector, before in itertools.product(VECTORS, CONTEXTS)]
WATCH = """
window.ran = () => { window.hasRun = true; };
window.broken = [];
document.addEventListener("securitypolicyviolation", (event) => window.broken.push(event.violatedDirective));
"""


def inbound(number: Any) -> Any:
    """A body with a message for each string: as its text or the name of its file, and as the name of who wrote."""
    people, messages = [], []
    for place, text in enumerate(STRINGS):
        phone = f"55119{place:08}"
        people.append({"profile": {"name": text}, "wa_id": phone})
        message = {"from": phone, "id": f"wamid.x{number.phone_number_id}{place}", "timestamp": str(int(time.time()))}
        if place % 2:
            document = {"id": str(place), "mime_type": "text/html", "filename": text, "caption": text, "sha256": "x"}
            messages.append(message | {"type": "document", "document": document})
        else:
            messages.append(message | {"type": "text", "text": {"body": text}})
    return envelope((number, {"messaging_product": "whatsapp", "contacts": people, "messages": messages}))


async def refused(organization: Organization) -> str:
    """A message that the provider failed, in words of its own."""
    sent = (await organization.send({"to": "+5511987654321", "body": STRINGS[0], "lead_id": STRINGS[1]})).json
    failed = status_item(sent["provider_message_id"], "failed", {"to": "5511987654321"})
    failed["errors"] = [
        {"code": 131026, "title": STRINGS[2], "message": STRINGS[3], "error_data": {"details": STRINGS[9]}}
    ]
    answer = await organization.post_webhook(envelope((organization.numbers[0], {"statuses": [failed]})))
    assert answer.status == 200
    message_id: str = sent["id"]
    return message_id


@pytest.fixture(scope="module")
async def attacked(gateway: Gateway) -> tuple[Organization, dict[str, str]]:
    """An organization that others fill with what should not run, and the ids of its things."""
    organization = await gateway.organization(STRINGS[1])
    await organization.configure()
    await organization.configure(active=False)
    for config, name in zip(organization.configs, STRINGS[4:], strict=False):
        path = f"/integrations/whatsapp/provider/configs/{config['config_id']}"
        assert (await organization.call("PATCH", path, {"name": name})).status == 200
    templates = [example_template(name=f"offer{text}") for text in STRINGS[:25]]
    gateway.meta.set_templates(organization.numbers[0], templates)
    made = await organization.call("POST", "/keys", {"scopes": ["read"], "name": STRINGS[8]})
    assert (await organization.post_webhook(inbound(organization.numbers[0]))).status == 200
    assert (await organization.post_webhook(b"<script>ran()</script>")).status == 200
    switch = {"config_id": organization.configs[1]["config_id"], "reason": STRINGS[6]}
    assert (await organization.call("POST", "/integrations/whatsapp/provider/switch", switch)).status == 200
    message_id = await refused(organization)
    events = await organization.events(kind="message.received")
    assert len(events) == len(STRINGS)
    [aside] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    ids = {
        "message_id": message_id,
        "event_id": events[1]["id"],
        "contact_id": events[1]["data"]["conversation"]["contact"]["id"],
        "config_id": organization.configs[0]["config_id"],
        "quarantine_id": aside["id"],
        "key_id": made.json["id"],
    }
    return organization, ids


@pytest.fixture(scope="module")
async def watched(
    browser: Browser, gateway: Gateway, attacked: tuple[Organization, dict[str, str]]
) -> AsyncIterator[Page]:
    context = await browser.new_context(locale="en-US")
    await context.add_init_script(WATCH)
    page = await context.new_page()
    await open_console(page, gateway.url, attacked[0].key)
    yield page
    await context.close()


def test_there_are_enough_of_them() -> None:
    assert len(set(STRINGS)) >= 200


@pytest.mark.parametrize("route", PAGES, ids=lambda route: route.path)
async def test_nothing_of_others_runs(
    watched: Page, gateway: Gateway, attacked: tuple[Organization, dict[str, str]], route: ConsoleRoute
) -> None:
    """Nor does the policy have to stop anything: it is the second wall."""
    path = filled(route, attacked[1])
    await watched.goto(gateway.url + path, wait_until="load")
    assert await watched.evaluate("[window.hasRun ?? false, window.broken]") == [False, []]
    assert watched.url.startswith(gateway.url)


async def test_each_of_them_is_shown_as_it_was_written(
    watched: Page, gateway: Gateway, attacked: tuple[Organization, dict[str, str]]
) -> None:
    """Over all pages of the list; else that nothing ran would prove nothing."""
    shown = ""
    await watched.goto(f"{gateway.url}/console/messages", wait_until="load")
    while True:
        assert await watched.evaluate("[window.hasRun ?? false, window.broken]") == [False, []]
        shown += await watched.evaluate("document.getElementById('content').textContent")
        older = watched.get_by_role("link", name="Older")
        if not await older.count():
            break
        await watched.goto(gateway.url + str(await older.get_attribute("href")), wait_until="load")
    assert [text for text in STRINGS if text not in shown] == []
