"""Our adapter against the Twilio simulator: each of its flows, over real HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import pytest

from ingress.dev.sandbox import Accept, HangAfterAccept, TwilioSender, TwilioSimulator
from providers import Check, ChecksFlow, Request, Response
from providers.content import (
    Button,
    Buttons,
    CallToAction,
    Image,
    Interactive,
    ListMenu,
    ListRow,
    ListSection,
    Location,
    Template,
    Text,
)
from providers.errors import AccountBroken, Rejected, SendError
from providers.messages import MessageData, Recipient
from providers.twilio_whatsapp import TwilioWhatsApp

from .test_twilio_api import CONTENT

Run = Callable[[ChecksFlow[Any]], Any]
TO = Recipient(phone="+5511987654321")


@pytest.fixture
def run(http: aiohttp.ClientSession) -> Run:
    """Drives a flow as the service does: one request after the other, redirects left alone."""

    async def run(flow: ChecksFlow[Any]) -> Any:
        try:
            request = next(flow)
            while True:
                request = next(flow) if isinstance(request, Check) else flow.send(await answered(http, request))
        except StopIteration as done:
            return done.value

    return run


async def answered(http: aiohttp.ClientSession, request: Request) -> Response:
    async with http.request(
        request.method,
        request.url,
        data=request.body or None,
        headers=request.headers,
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(total=5),
    ) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(status=answer.status, headers=headers, body=await answer.read())


@pytest.fixture
def provider(twilio: TwilioSimulator, sender: TwilioSender) -> TwilioWhatsApp:
    return msgspec.convert(sender.config_data(twilio.url_for(sender)), TwilioWhatsApp)


def message(content: Any, number: int = 1) -> MessageData:
    callback = "https://gw.example.com/webhooks/twilio_whatsapp/t0ken?own=1#rc=5&rp=all"
    return MessageData(
        to=TO,
        content=content,
        organization_id="org",
        correlation_id=f"gw1:M{number}:1",
        callback_url=callback,
        created_at=datetime.now(UTC),
    )


BUTTONS = Interactive(body="Confirma {{x}}?\nAté já", action=Buttons(buttons=[Button(id="y", title="Sim")]))
LIST = Interactive(
    body="Qual?",
    action=ListMenu(button="Ver", sections=[ListSection(rows=[ListRow(id="1", title="Um", description="o primeiro")])]),
)
LINK = Interactive(body="Veja", action=CallToAction(title="Abrir", url="https://example.org/a?b=1"))
CONTENTS = [
    Text(body="Olá 🚚 + 1% & mais"),
    Image(url="https://files.example.com/a.jpg", caption="?"),
    Location(latitude=-23.561414, longitude=-46.655881, name="MASP", address="Av. Paulista, 1578"),
    Location(latitude=1e-7, longitude=0.0),
    BUTTONS,
    LIST,
    LINK,
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: type(content).__name__)
async def test_what_the_adapter_sends_is_taken(
    twilio: TwilioSimulator, provider: TwilioWhatsApp, run: Run, content: Any
) -> None:
    """Every kind passes the simulator's rules, with the reference in its callback."""
    result = await run(provider.send_message(message(content)))
    [accepted] = twilio.accepted
    assert (result.provider_message_id, accepted.tracker) == (accepted.sid, "gw1:M1:1")
    assert accepted.status_callback == (
        "https://gw.example.com/webhooks/twilio_whatsapp/t0ken?own=1&ref=gw1:M1:1#rc=5&rp=all"
    )
    assert result.contact.phone == TO.phone
    if isinstance(content, Interactive):
        assert twilio.messages[accepted.sid]["body"] == content.body


async def test_contents_are_made_once(twilio: TwilioSimulator, provider: TwilioWhatsApp, run: Run) -> None:
    for number in (1, 2):
        await run(provider.send_message(message(BUTTONS, number)))
    assert twilio.call_count("POST Content") == 1
    assert twilio.call_count("GET Contents") == 2
    assert len(twilio.accepted) == 2


async def test_a_template_goes_by_its_sid(
    twilio: TwilioSimulator, sender: TwilioSender, provider: TwilioWhatsApp, run: Run
) -> None:
    sid = twilio.add_content(sender.account_sid, CONTENT).sid
    body = {"type": "body", "parameters": [{"type": "text", "text": "Ana"}]}
    await run(provider.send_message(message(Template(name=sid, language="en", components=[body]))))
    assert twilio.messages[twilio.accepted[0].sid]["body"] == "Ana"
    with pytest.raises(Rejected):
        await run(provider.send_message(message(Template(name=f"HX{'0' * 32}", language="en", components=[body]))))


async def test_a_lost_answer_is_found_again(
    twilio: TwilioSimulator, sender: TwilioSender, provider: TwilioWhatsApp, run: Run, http: aiohttp.ClientSession
) -> None:
    """By its words; two of a kind cannot be distinguished, and none is found where none went out."""
    data = message(Text(body="Olá"))
    assert await run(provider.find_message(data)) is None
    await twilio.script(sender, HangAfterAccept(), Accept())
    first = next(provider.send_message(data))
    with pytest.raises(TimeoutError):
        await http.request(
            first.method,
            first.url,
            data=first.body,
            headers=first.headers,
            timeout=aiohttp.ClientTimeout(sock_read=0.25),
        )
    found = await run(provider.find_message(data))
    assert found.provider_message_id == twilio.by_tracker("gw1:M1:1")[0].sid
    assert await run(provider.find_message(message(Text(body="other")))) is None
    await run(provider.send_message(data))
    assert await run(provider.find_message(data)) is None


async def test_the_account_is_checked_and_its_webhook_set(
    twilio: TwilioSimulator, sender: TwilioSender, provider: TwilioWhatsApp, run: Run
) -> None:
    """From no webhook to ours and back; each check says what is there."""
    url = "https://gw.example.com/webhooks/twilio_whatsapp/t0ken"
    checks = {check.name: check.passed for check in await run(provider.validate_config())}
    assert checks == {"account": True, "sender": True, "webhook": False}
    await run(provider.receive_messages(url))
    assert twilio.webhook_url(sender) == f"{url}#rc=5&rp=all"
    assert twilio.state_of(sender).webhook["status_callback_url"] == f"{url}#rc=5&rp=all"
    assert all(check.passed for check in await run(provider.validate_config(provider.callback_url(url))))
    assert (await run(provider.get_status())).is_connected
    reason = {"code": "63020", "message": "Pay first.", "more_info": "https://www.twilio.com/docs/api/errors/63020"}
    twilio.set_fields(sender, status="OFFLINE", offline_reasons=[reason])
    status = await run(provider.get_status())
    assert (status.is_connected, status.detail) == (False, f"Pay first. {reason['more_info']}")
    await run(provider.disconnect())
    assert twilio.webhook_url(sender) is None
    twilio.set_account(sender.account_sid, status="suspended")
    assert not (await run(provider.validate_config()))[0].passed
    with pytest.raises(SendError):
        await run(provider.send_message(message(Text(body="x"))))


async def test_wrong_credentials_are_a_broken_account(
    twilio: TwilioSimulator, provider: TwilioWhatsApp, run: Run
) -> None:
    wrong = msgspec.structs.replace(provider, auth_token="another-token")
    with pytest.raises(AccountBroken) as raised:
        await run(wrong.send_message(message(Text(body="x"))))
    assert raised.value.code == "20003"
    assert not (await run(wrong.validate_config()))[0].passed


async def test_typing_and_media(
    twilio: TwilioSimulator, sender: TwilioSender, provider: TwilioWhatsApp, run: Run, http: aiohttp.ClientSession
) -> None:
    """A medium is fetched where the redirect leads, without credentials."""
    form = twilio.inbound(sender).image(data=b"JPEG")
    await twilio.post(sender, form)
    fields = dict(form)
    await run(provider.mark_read(fields["MessageSid"], TO, typing=True))
    assert [one.message_sid for one in twilio.indicators] == [fields["MessageSid"]]
    medium = await run(provider.media(fields["MediaUrl0"]))
    assert medium.headers == {}
    async with http.get(medium.url, headers=medium.headers) as answer:
        assert await answer.read() == b"JPEG"
    assert twilio.leaks == []
    twilio.media.remove(fields["MediaUrl0"].rpartition("/")[2])
    with pytest.raises(Rejected):
        await run(provider.media(fields["MediaUrl0"]))
