"""Send a test message: once for each form, a text or a template, and its way afterwards."""

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest

from ingress.dev.sandbox import Bare5xx
from ingress.dev.sandbox.meta.templates import example_template

from ..gateway import Gateway, Organization, eventually
from .browsing import Console, Page, signed_in

PHONE = "+55 (11) 98765-4321"


def hidden(page: Page) -> dict[str, Any]:
    return {
        one["name"]: one["value"] for one in page.all("input", type="hidden") if one["name"] not in ("csrf", "next")
    }


async def sent(organization: Organization, page: Page) -> Any:
    """What the simulated provider was given of the message whose page *page* leads to."""
    assert page.status == 303, page.text
    message_id = page.location.removeprefix("/console/messages/")
    message = await eventually(
        lambda: organization.call("GET", f"/messages/{message_id}"), lambda answer: answer.json["provider_message_id"]
    )
    accepted = organization.gateway.meta.by_wamid(message.json["provider_message_id"])
    assert accepted is not None
    return accepted.body


async def test_a_text_is_sent_once_however_often_the_form_is_posted(
    console: Console, organization: Organization
) -> None:
    """Also at the same moment; the form of another page sends another one."""
    form = hidden(await console.get("/console/send-test")) | {"to": PHONE, "body": "Olá\nline two"}
    pages = await asyncio.gather(*(console.post("/console/send-test", form) for _ in range(4)))
    assert len({page.location for page in pages}) == 1
    body = await sent(organization, pages[0])
    assert (body["to"], body["text"]["body"]) == ("+5511987654321", "Olá\nline two")
    again = await console.post("/console/send-test", form)
    assert again.location == pages[0].location
    form |= hidden(await console.get("/console/send-test"))
    assert (await console.post("/console/send-test", form)).location != pages[0].location


@pytest.mark.parametrize(("field", "value"), [("to", "12345"), ("to", ""), ("body", "x" * 70_000)])
async def test_what_is_wrong_stands_beside_its_field(console: Console, field: str, value: str) -> None:
    form = hidden(await console.get("/console/send-test")) | {"to": PHONE, "body": "x", field: value}
    page = await console.post("/console/send-test", form)
    assert page.status == 422
    assert page.one("p", id=f"field-{field}-error")
    assert hidden(page)["key"] == form["key"], "nothing was sent with it"


async def test_a_changed_form_is_another_message(console: Console) -> None:
    """Who comes back to the form and changes it sees that, and may send it then."""
    form = hidden(await console.get("/console/send-test")) | {"to": PHONE, "body": "one"}
    first = await console.post("/console/send-test", form)
    page = await console.post("/console/send-test", {**form, "body": "two"})
    assert page.status == 422
    assert hidden(page)["key"] != form["key"]
    second = await console.post("/console/send-test", {**form, "body": "two", **hidden(page)})
    assert second.status == 303
    assert second.location != first.location


async def test_a_template_is_filled_in_and_sent(console: Console, organization: Organization, gateway: Gateway) -> None:
    """Those of the account are offered, but for what is not approved."""
    templates = [example_template(1), example_template(2, status="PENDING")]
    gateway.meta.set_templates(organization.numbers[0], templates)
    page = await console.get("/console/send-test?kind=template")
    assert [one["value"] for one in page.all("option") if "order" in one["value"]] == ["order_update_1|pt_BR"]
    assert "1 other is not approved." in page.text
    page = await console.get("/console/send-test?kind=template&template=order_update_1%7Cpt_BR")
    assert page.one("input", name="v.body.text.1")["placeholder"] == "Ana"
    assert "Olá {{1}}, seu pedido {{2}} saiu." in page.text
    form = hidden(page) | {"to": PHONE, "v.body.text.1": "Bia", "v.body.text.2": "#7"}
    body = await sent(organization, await console.post("/console/send-test", form))
    assert body["template"]["name"] == "order_update_1"
    assert body["template"]["components"] == [
        {"type": "body", "parameters": [{"type": "text", "text": "Bia"}, {"type": "text", "text": "#7"}]}
    ]


async def test_what_a_template_says_is_shown_as_text(
    console: Console, organization: Organization, gateway: Gateway
) -> None:
    words = "<script>ran()</script>"
    body = {"type": "BODY", "text": words + "{{1}}", "example": {"body_text": [[words]]}}
    gateway.meta.set_templates(organization.numbers[0], [example_template(name=words, components=[body])])
    query = urlencode({"kind": "template", "template": f"{words}|pt_BR"})
    page = await console.get(f"/console/send-test?{query}")
    assert page.text.count(words) >= 4, "in the list, as what it says, and in both programs"
    assert page.one("input", name="v.body.text.1")["placeholder"] == words
    assert "<script>ran()" not in page.html


async def test_a_template_that_nobody_lists_is_named(organization: Organization) -> None:
    """As with a key that may not look at the account's, or a provider that lists none."""
    console = await signed_in(organization, "send")
    page = await console.get("/console/send-test?kind=template")
    form = hidden(page) | {
        "to": PHONE,
        "name": "order",
        "language": "en",
        "lines": "Ana\n#7",
        "words.body": "Hi {{1}}: {{2}}",
    }
    page = await console.post("/console/send-test", form)
    assert page.location == "/console/send-test?done=test_accepted"  # it may not see what became of it
    [message] = (await organization.call("GET", "/messages")).json["messages"]
    page.headers = {"location": f"/console/messages/{message['id']}"}
    body = await sent(organization, page)
    assert (body["template"]["name"], body["template"]["language"]["code"]) == ("order", "en")
    assert [one["text"] for one in body["template"]["components"][0]["parameters"]] == ["Ana", "#7"]


async def test_templates_that_cannot_be_read_are_no_dead_end(
    console: Console, organization: Organization, gateway: Gateway
) -> None:
    await gateway.meta.set_default(organization.numbers[0], Bare5xx(), everything=True)
    page = await console.get("/console/send-test?kind=template")
    assert page.status == 200
    assert "The templates could not be read" in page.text
    assert "Try again" in page.text


async def test_without_a_provider_the_page_says_where_to_begin(gateway: Gateway) -> None:
    console = await signed_in(await gateway.organization())
    page = await console.get("/console/send-test")
    assert "No provider is configured." in page.text
    assert page.all("a", href="/console/whatsapp")


async def test_who_may_not_send_sees_why(organization: Organization) -> None:
    console = await signed_in(organization, "read")
    page = await console.get("/console/send-test")
    assert "This key lacks the permission “send”." in page.text
    assert (await console.post("/console/send-test", hidden(page) | {"to": PHONE, "body": "x"})).status == 403


async def test_the_same_is_shown_as_programs(console: Console, organization: Organization, gateway: Gateway) -> None:
    gateway.meta.set_templates(organization.numbers[0], [example_template(1)])
    page = await console.get("/console/send-test?kind=template&template=order_update_1%7Cpt_BR")
    assert f"curl -sS {gateway.url}/send" in page.text
    assert '"name": "order_update_1"' in page.text
    assert "idempotency-key" in page.text
