"""What the Twilio simulator posts: signed as Twilio signs, read by our adapter, tried as the address asks."""

from typing import Any

import msgspec
import pytest
from twilio.request_validator import RequestValidator, get_signature_algorithm

from ingress.dev.sandbox import Pace, TwilioSender, TwilioSimulator, TwilioStatusPolicy, example_sender
from ingress.dev.sandbox.listener import Listener
from ingress.dev.sandbox.twilio.records import Alert, Spoken
from ingress.dev.sandbox.twilio.retries import policy_of
from providers import Webhook
from providers.errors import Unverified
from providers.twilio_whatsapp import TwilioWhatsApp

from .twilio_client import TWIML, Client, Endpoint, Posted

KINDS = [
    "text", "image", "audio", "video", "document", "sticker", "contacts", "location", "button_reply", "list_reply",
    "template_button", "flow_reply", "unsupported", "mixed",
]  # fmt: skip
READ_AS = {"unsupported": "unsupported", "template_button": "button_reply"}


def provider_of(sender: TwilioSender) -> TwilioWhatsApp:
    return msgspec.convert(sender.config_data("http://127.0.0.1:1"), TwilioWhatsApp)


def hook_of(posted: Posted) -> Webhook:
    return Webhook(method="POST", url=posted.url, headers=posted.headers, body=posted.body)


async def set_webhook(twilio: TwilioSimulator, sender: TwilioSender, url: str | None) -> TwilioSender:
    """The sender with this address, as the console sets it."""
    twilio.state_of(sender).webhook["callback_url"] = url
    return sender


@pytest.mark.parametrize("kind", KINDS)
async def test_inbound_messages_are_signed_and_read(
    twilio: TwilioSimulator, sender: TwilioSender, endpoint: Endpoint, kind: str
) -> None:
    """The SDK and the adapter verify the same bytes, and refuse others; each kind is what it says."""
    await set_webhook(twilio, sender, f"{endpoint.url}#rc=5&rp=all")
    form = getattr(twilio.inbound(sender, seed=3), kind)()
    result = await twilio.post(sender, form)
    assert result is not None
    assert (result.status, result.tries, result.delivered) == (200, 1, True)
    [posted] = endpoint.posts
    assert posted.form == form
    assert posted.headers["i-twilio-idempotency-token"]
    signature = posted.headers["x-twilio-signature"]
    assert RequestValidator(sender.auth_token).validate(posted.url, posted.fields, signature)
    assert not RequestValidator("other").validate(posted.url, posted.fields, signature)
    provider = provider_of(sender)
    provider.verify(hook_of(posted))
    [event] = provider.parse(hook_of(posted))
    assert provider.owns(event)
    assert event.message is not None
    assert event.message.provider_message_id == posted.fields["MessageSid"]
    if kind != "mixed":
        assert event.message.content.__struct_config__.tag == READ_AS.get(kind, kind)
    with pytest.raises(Unverified):
        provider.verify(msgspec.structs.replace(hook_of(posted), body=posted.body + b"&a=b"))
    assert (twilio.alerts, twilio.spoken) == ([], [])


async def test_the_same_seed_makes_the_same_people(twilio: TwilioSimulator, sender: TwilioSender) -> None:
    assert [twilio.inbound(sender, seed=1).text() for _ in range(2)].count(twilio.inbound(sender, seed=1).text()) == 2
    assert twilio.inbound(sender).text() != twilio.inbound(sender).text()


async def test_a_shared_key_signs_instead_of_the_token(twilio: TwilioSimulator, endpoint: Endpoint) -> None:
    sender = msgspec.structs.replace(
        example_sender(3, endpoint.url), shared_key_id="webhooks_sharedkey_1", shared_key_secret="shk_secret"
    )
    await twilio.add_number(sender)
    await twilio.post(sender, twilio.inbound(sender).text())
    [posted] = endpoint.posts
    settings = posted.headers["x-twilio-webhooks-signature-settings"]
    assert settings == "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
    assert RequestValidator("shk_secret").validate(
        posted.url, posted.fields, posted.headers["x-twilio-signature"], get_signature_algorithm(settings)
    )
    provider_of(sender).verify(hook_of(posted))


async def statuses_of(
    twilio: TwilioSimulator, client: Client, endpoint: Endpoint, policy: TwilioStatusPolicy
) -> list[dict[str, str]]:
    """Those of one send, once all are there."""
    twilio.set_statuses(client.sender, policy)
    sent = await client.send(StatusCallback=f"{endpoint.url}&ref=gw1:M1:1#rc=5&rp=all")
    assert sent.status == 201
    await twilio.settled()
    return [posted.fields for posted in endpoint.posts]


async def test_statuses_follow_to_the_message_s_own_address(
    twilio: TwilioSimulator, client: Client, endpoint: Endpoint
) -> None:
    """Signed over the address with its reference, which the adapter gives back; the resource goes along."""
    fields = await statuses_of(twilio, client, endpoint, TwilioStatusPolicy())
    assert [one["MessageStatus"] for one in fields] == ["queued", "sent", "delivered", "read"]
    [message] = twilio.accepted
    provider = provider_of(client.sender)
    for posted in endpoint.posts:
        assert posted.url.endswith("&ref=gw1:M1:1")
        assert RequestValidator(client.sender.auth_token).validate(
            posted.url, posted.fields, posted.headers["x-twilio-signature"]
        )
        provider.verify(hook_of(posted))
        [event] = provider.parse(hook_of(posted))
        assert event.correlation_id == "gw1:M1:1"
        assert event.status is not None
        assert event.status.provider_message_id == message.sid
    assert fields[2]["EventType"] == "DELIVERED"
    assert fields[2]["ChannelToAddress"] == "+551198765XXXX"
    _, resource = await client.json("GET", f"{client.account}/Messages/{message.sid}.json")
    assert resource["status"] == "read"
    assert resource["date_sent"] is not None


async def test_a_failure_has_its_code(twilio: TwilioSimulator, client: Client, endpoint: Endpoint) -> None:
    policy = TwilioStatusPolicy(statuses=("sent", "undelivered"), failed_code=63016)
    fields = await statuses_of(twilio, client, endpoint, policy)
    assert "ErrorCode" not in fields[0]
    assert (fields[1]["ErrorCode"], fields[1]["ErrorMessage"]) == ("63016", "Outside messaging window")
    [event] = provider_of(client.sender).parse(hook_of(endpoint.posts[1]))
    assert event.status is not None
    assert event.status.error is not None
    assert (event.status.value, event.status.error.class_) == ("failed", "Rejected")


async def test_statuses_are_repeated_reordered_and_early(
    twilio: TwilioSimulator, client: Client, endpoint: Endpoint
) -> None:
    """Copies are requests of their own; the resource keeps what it got to."""
    policy = TwilioStatusPolicy(
        statuses=("sent", "read"), duplicates=1, reorder=True, before_answer=True, delay_s=0.001, gap_s=0.001
    )
    fields = await statuses_of(twilio, client, endpoint, policy)
    assert [one["MessageStatus"] for one in fields] == ["read", "read", "sent", "sent"]
    assert len({posted.headers["i-twilio-idempotency-token"] for posted in endpoint.posts}) == 4
    assert twilio.messages[twilio.accepted[0].sid]["status"] == "read"


async def test_without_an_address_of_its_own_a_message_uses_the_sender_s(
    twilio: TwilioSimulator, client: Client, endpoint: Endpoint
) -> None:
    twilio.set_statuses(client.sender, TwilioStatusPolicy(statuses=("sent",)))
    await client.send()
    await twilio.settled()
    assert endpoint.posts == []
    path = f"/v2/Channels/Senders/{client.sender.sender_sid}"
    await client.json("POST", path, json={"webhook": {"status_callback_url": endpoint.url}})
    await client.send()
    await twilio.settled()
    assert [posted.fields["MessageStatus"] for posted in endpoint.posts] == ["sent"]
    assert twilio.accepted[1].tracker is None


# ---------------------------------------------------------------- how often

RETRIES: list[tuple[str, int, int]] = [
    ("", 503, 1),  # only a connection that could not be made is tried again
    ("#rc=5&rp=all", 503, 6),
    ("#rc=5&rp=all", 404, 6),
    ("#rc=2&rp=5xx", 503, 3),
    ("#rc=2&rp=4xx,ct", 503, 1),
    ("#rc=0&rp=all", 503, 1),
]


@pytest.mark.parametrize(("fragment", "status", "tries"), RETRIES, ids=str)
async def test_a_webhook_is_tried_as_its_address_asks(
    twilio: TwilioSimulator, sender: TwilioSender, endpoint: Endpoint, fragment: str, status: int, tries: int
) -> None:
    """All tries carry the same token; the fragment is neither sent nor signed."""
    await set_webhook(twilio, sender, f"{endpoint.url}{fragment}")
    endpoint.answer = (status, "text/plain", "no")
    result = await twilio.post(sender, twilio.inbound(sender).text())
    assert result is not None
    assert (result.status, result.tries, result.delivered) == (status, tries, False)
    assert len({posted.headers["i-twilio-idempotency-token"] for posted in endpoint.posts}) == 1
    assert {posted.url for posted in endpoint.posts} == {endpoint.url}
    assert [alert.code for alert in twilio.alerts] == [11200]
    assert twilio.spoken == []


async def test_a_webhook_is_taken_at_last(twilio: TwilioSimulator, sender: TwilioSender, endpoint: Endpoint) -> None:
    await set_webhook(twilio, sender, f"{endpoint.url}#rc=5&rp=all")
    endpoint.queue = [(503, "text/html", "")] * 5
    result = await twilio.post(sender, twilio.inbound(sender).text())
    assert result is not None
    assert (result.status, result.tries, result.delivered) == (200, 6, True)


@pytest.mark.parametrize(("fragment", "tries"), [("", 2), ("#rc=3", 4), ("#rc=3&rp=5xx", 1)], ids=str)
async def test_a_refused_connection_is_tried_again(
    twilio: TwilioSimulator, sender: TwilioSender, fragment: str, tries: int
) -> None:
    closed = Listener(twilio.answer)
    await closed.open()
    await closed.refuse()
    await set_webhook(twilio, sender, f"{closed.url}/x{fragment}")
    result = await twilio.post(sender, twilio.inbound(sender).text())
    await closed.close()
    assert result is not None
    assert (result.status, result.tries) == (None, tries)
    assert [alert.code for alert in twilio.alerts] == [11205]


async def test_all_tries_together_have_fifteen_seconds(sender: TwilioSender) -> None:
    """In fast motion: an answer that hangs is waited for no longer, however many tries are left."""
    release = Listener(_hang)
    await release.open()
    async with TwilioSimulator(pace=Pace(speed=25, backoff_s=0.001)) as twilio:
        known = msgspec.structs.replace(sender, webhook_url=f"{release.url}/x#rc=5&rp=all&rt=5000")
        await twilio.add_number(known)
        result = await twilio.post(known, twilio.inbound(known).text())
    await release.close()
    assert result is not None
    assert (result.status, result.delivered) == (None, False)
    assert 1 < result.tries <= 3
    assert 0.1 < result.duration_s < 10


async def _hang(request: Any) -> Any:
    from ingress.dev.sandbox.listener import vanish

    await vanish()


@pytest.mark.parametrize(
    "fragment", ["#rc=6", "#rc=x", "#rp=3xx", "#ct=50", "#tt=20000", "#sni=maybe", "#colour=red", "#rc", "#rp=all,"]
)
async def test_an_address_that_twilio_cannot_read_is_not_called(
    twilio: TwilioSimulator, sender: TwilioSender, endpoint: Endpoint, fragment: str
) -> None:
    await set_webhook(twilio, sender, f"{endpoint.url}{fragment}")
    assert await twilio.post(sender, twilio.inbound(sender).text()) is None
    assert twilio.alerts == [Alert(11243, f"{endpoint.url}{fragment}")]
    assert endpoint.posts == []


def test_the_defaults_are_twilio_s() -> None:
    policy = policy_of("https://gw.example.com/x", Pace(speed=1))
    assert (policy.tries, policy.causes, policy.total_s) == (2, {"ct"}, 15)
    assert (policy.connect_timeout_s, policy.timeout_s) == (5, 20)
    given = policy_of("https://gw.example.com/x#e=ashburn,dublin&sni=n&ct=100&rt=200&tt=300", Pace(speed=1))
    assert (given.connect_timeout_s, given.total_s) == (0.1, 0.3)


# ---------------------------------------------------------------- what the answer says

ANSWERS: list[tuple[tuple[int, str, str], list[int], list[str]]] = [
    ((200, "text/xml", TWIML), [], []),
    ((200, "application/xml", "<Response></Response>"), [], []),
    ((204, "text/xml", ""), [], []),
    ((200, "text/plain", "OK"), [], ["OK"]),
    ((200, "text/xml", "<Response><Message>Hi</Message></Response>"), [], ["Hi"]),
    ((200, "text/xml", "<Nonsense/>"), [12100], []),
    ((200, "application/json", "{}"), [12300], []),
]


@pytest.mark.parametrize(("answer", "alerts", "spoken"), ANSWERS, ids=str)
async def test_an_answer_other_than_the_empty_twiml_says_something(
    twilio: TwilioSimulator,
    sender: TwilioSender,
    endpoint: Endpoint,
    answer: tuple[int, str, str],
    alerts: list[int],
    spoken: list[str],
) -> None:
    """The person gets a plain text; other types are the debugger's business."""
    await set_webhook(twilio, sender, endpoint.url)
    endpoint.answer = answer
    await twilio.post(sender, twilio.inbound(sender).text(phone="+5511900000000"))
    assert [alert.code for alert in twilio.alerts] == alerts
    assert twilio.spoken == [Spoken(sender.phone_number, "+5511900000000", words) for words in spoken]
