"""What the simulator posts is signed and shaped as each engine's WAHA does: the adapter verifies and reads it."""

import json
from typing import Any, get_args

import aiohttp
import pytest

from ingress.dev.sandbox import AckPolicy, WahaSimulator, example_session, waha_signature
from ingress.dev.sandbox.waha.bodies import IN_BROWSER, Engine, News, lid_of
from providers import (
    Audio,
    ButtonReply,
    Contacts,
    Document,
    Image,
    ListReply,
    Location,
    Reaction,
    Recipient,
    Text,
    Unverified,
    Video,
    Webhook,
)

from .waha_kit import CHAT, PEER, Hooks, Phone

every_engine = pytest.mark.parametrize("phone", get_args(Engine), indirect=True)
GROUP = "120363000000000042@g.us"


def test_the_vendors_own_example() -> None:
    """Key and body from WAHA's documentation."""
    body = b'{"event":"message","session":"default","engine":"WEBJS"}'
    assert waha_signature("my-secret-key", body).startswith("208f8a55dde9e05519e898b10b89bf0d0b3b0fdf11fdbf09b6b9")


KINDS: list[tuple[str, dict[str, Any], type]] = [
    ("text", {"body": "Olá, tudo bem? 🙂 </b>\u2028"}, Text),
    ("image", {"caption": "foto"}, Image),
    ("voice", {}, Audio),
    ("video", {}, Video),
    ("document", {}, Document),
    ("location", {}, Location),
    ("contacts", {}, Contacts),
    ("button_reply", {}, ButtonReply),
    ("list_reply", {}, ListReply),
    ("reaction", {}, Reaction),
]


@every_engine
@pytest.mark.parametrize(("kind", "arguments", "content"), KINDS, ids=[kind for kind, _, _ in KINDS])
@pytest.mark.parametrize("group", [None, GROUP], ids=["person", "group"])
async def test_what_people_write_is_read(
    phone: Phone, waha_hooks: Hooks, kind: str, arguments: dict[str, Any], content: type, group: str | None
) -> None:
    """One event of each kind, from the person who wrote it, in the chat it was written in."""
    people = phone.waha.inbound(phone.session, seed=5)
    news = getattr(people, kind)(**arguments, phone=PEER, group=group)
    [result] = await phone.waha.post(phone.session, news)
    assert (result.status, result.tries, result.delivered) == (200, 1, True)
    [event] = waha_hooks.of("message.received")
    assert event.message is not None
    assert isinstance(event.message.content, content)
    assert event.message.provider_message_id == news.payload["id"]
    assert event.contact is not None
    assert (event.contact.phone, event.group_id) == (PEER, group)
    assert (event.sender, event.sender_id) == (phone.session.phone, phone.session.name)
    assert phone.adapter.owns(event)


@every_engine
async def test_hidden_people(phone: Phone, waha_hooks: Hooks) -> None:
    """The phone is given beside the hidden number, but for WEBJS."""
    await phone.waha.post(phone.session, phone.waha.inbound(phone.session).text("x", phone=PEER, hidden=True))
    [event] = waha_hooks.of("message.received")
    assert event.contact is not None
    assert event.contact.lid == lid_of(PEER)
    assert event.contact.phone == (None if phone.session.engine in IN_BROWSER else PEER)


@every_engine
async def test_what_the_owner_writes_edits_and_takes_back(phone: Phone, waha_hooks: Hooks) -> None:
    """By hand is an echo; edits and deletions name the first message; an answer quotes ours by its bare id."""
    people = phone.waha.inbound(phone.session, seed=2)
    await phone.waha.post(phone.session, people.own("typed", phone=PEER))
    first = people.text("frist", phone=PEER, reply_to="3EB0AAAA")
    for news in (first, people.edited(first.payload["id"].split("_")[2], "first", phone=PEER)):
        await phone.waha.post(phone.session, news)
    await phone.waha.post(phone.session, people.revoked(first.payload["id"].split("_")[2], phone=PEER))
    kinds = [event.type for event in waha_hooks.events]
    assert kinds == ["message.echo", "message.received", "message.edited", "message.deleted"]
    echo, received, edited, deleted = [event.message for event in waha_hooks.events]
    assert echo is not None
    assert echo.source == "app"
    assert received is not None
    assert received.reply_to is not None
    assert received.reply_to.id == "3EB0AAAA"
    for later in (edited, deleted):
        assert later is not None
        assert later.original_message_id == received.provider_message_id


@every_engine
async def test_media_are_downloaded_with_the_key_and_expire(phone: Phone, waha_hooks: Hooks) -> None:
    """From the address that the adapter makes of the one in the webhook, which names another host."""
    news = phone.waha.inbound(phone.session).image(phone=PEER, data=b"\xff\xd8picture")
    assert news.payload["media"]["url"].startswith("http://localhost:3000/api/files/")
    await phone.waha.post(phone.session, news)
    [event] = waha_hooks.of("message.received")
    assert event.message is not None
    assert isinstance(event.message.content, Image)
    assert event.message.content.id is not None
    medium = await phone.run(phone.adapter.media(event.message.content.id))
    async with phone.http.get(medium.url, headers=medium.headers) as answer:
        assert (answer.status, answer.content_type, await answer.read()) == (200, "image/jpeg", b"\xff\xd8picture")
    async with phone.http.get(medium.url) as answer:
        assert answer.status == 401
    phone.waha.files.expire()
    async with phone.http.get(medium.url, headers=medium.headers) as answer:
        assert (answer.status, (await answer.json())["error"]["key"]) == (404, "FILE_NOT_FOUND")


# ---------------------------------------------------------------- acks


@every_engine
async def test_acks_follow_a_send(phone: Phone, waha_hooks: Hooks) -> None:
    """The echo, then each ack in order; with GOWS the echo stands for SERVER."""
    phone.waha.set_acks(phone.session, AckPolicy(statuses=("SERVER", "DEVICE", "READ", "PLAYED")))
    result = await phone.run(phone.adapter.send_message(phone.message(Text(body="Oi"))))
    await phone.waha.settled()
    [echo] = waha_hooks.of("message.echo")
    assert echo.message is not None
    assert (echo.message.source, echo.message.provider_message_id) == ("api", result.provider_message_id)
    statuses = [event.status for event in waha_hooks.of("message.status")]
    values = [status.value for status in statuses if status]
    assert values == ["sent", "delivered", "read", "played"][phone.session.engine == "GOWS" :]
    assert {status.provider_message_id for status in statuses if status} == {result.provider_message_id}
    assert phone.waha.state_of(phone.session).messages[-1].ack == 4


async def test_acks_are_repeated_turned_around_and_early(phone: Phone, waha_hooks: Hooks) -> None:
    """Before the send is answered, the last one first, each twice and under an id of its own."""
    policy = AckPolicy(statuses=("DEVICE", "READ"), duplicates=1, reorder=True, before_answer=True, echo=False)
    phone.waha.set_acks(phone.session, policy)
    assert (await phone.post("sendText")).status == 201
    values = [event.status.value for event in waha_hooks.events if event.status]
    assert values == ["read", "read", "delivered", "delivered"]
    assert len({event.key for event in waha_hooks.events}) == 2
    assert len({headers["x-webhook-request-id"] for headers, _ in waha_hooks.raw}) == 4
    with pytest.raises(ValueError, match="no such ack"):
        phone.waha.set_acks(phone.session, AckPolicy(statuses=("SEEN",)))


@pytest.mark.parametrize("phone", ["NOWEB"], indirect=True)
async def test_an_ack_may_be_a_failure(phone: Phone, waha_hooks: Hooks) -> None:
    error = {"code": "463", "blocked": True, "reason": "account_restricted", "until": "2026-10-02T10:15:00.000Z"}
    phone.waha.set_acks(phone.session, AckPolicy(statuses=("ERROR",), echo=False, error=error))
    await phone.post("sendText")
    await phone.waha.settled()
    [event] = waha_hooks.of("message.status")
    assert event.status is not None
    assert event.status.error is not None
    assert (event.status.value, event.status.error.code, event.status.error.class_) == ("failed", "463", "Restricted")


async def test_acks_of_a_group_are_its_members(phone: Phone, waha_hooks: Hooks) -> None:
    phone.waha.set_acks(phone.session, AckPolicy(statuses=("READ",), echo=False, reader=PEER))
    await phone.run(phone.adapter.send_message(phone.message(Text(body="Oi"), to=Recipient(group_id=GROUP))))
    await phone.waha.settled()
    [event] = waha_hooks.of("message.status")
    assert event.status is not None
    assert event.status.participant is not None
    assert (event.status.participant.phone, event.group_id) == (PEER, GROUP)
    assert json.loads(waha_hooks.raw[0][1])["event"] == "message.ack.group"


async def test_a_reaction_is_posted_as_one(phone: Phone, waha_hooks: Hooks) -> None:
    target = f"false_{CHAT}_3EB0AA"
    await phone.run(phone.adapter.send_message(phone.message(Reaction(message_id=target, emoji="👍"))))
    await phone.waha.settled()
    [event] = waha_hooks.of("message.echo")
    assert event.message is not None
    assert event.message.content == Reaction(message_id=target, emoji="👍")


# ---------------------------------------------------------------- how it is delivered


async def test_headers_and_envelope(phone: Phone, waha_hooks: Hooks) -> None:
    """As WAHA documents them; one changed byte, or another key, and the adapter refuses."""
    await phone.waha.post(phone.session, phone.waha.inbound(phone.session).text("Olá"))
    [(headers, body)] = waha_hooks.raw
    assert headers["x-webhook-hmac"] == waha_signature(phone.session.hmac_key, body)
    assert headers["x-webhook-hmac-algorithm"] == "sha512"
    assert headers["user-agent"] == "WAHA/2026.8.2"
    assert headers["content-type"] == "application/json"
    assert len(headers["x-webhook-timestamp"]) == 13
    assert b"Ol\xc3\xa1" in body
    envelope = json.loads(body)
    assert (envelope["event"], envelope["session"], envelope["engine"]) == ("message.any", phone.session.name, "GOWS")
    assert envelope["me"]["id"] == f"{phone.session.phone[1:]}@c.us"
    with pytest.raises(Unverified):
        phone.adapter.verify(Webhook(method="POST", url=waha_hooks.url, headers=headers, body=body + b" "))


async def test_a_webhook_is_repeated_until_it_is_taken(phone: Phone, waha_hooks: Hooks) -> None:
    """With the same bytes and request id, after any answer but a 2xx; in the end it is given up."""
    before = phone.waha.webhooks.delivered
    waha_hooks.statuses = [401, 500]
    news = phone.waha.inbound(phone.session).text("x")
    [result] = await phone.waha.post(phone.session, news)
    assert (result.status, result.tries) == (200, 3)
    assert len({(headers["x-webhook-request-id"], body) for headers, body in waha_hooks.raw}) == 1
    waha_hooks.statuses = [204]
    [result] = await phone.waha.post(phone.session, news)
    assert (result.status, result.tries, result.delivered) == (204, 1, True)
    waha_hooks.statuses = [503] * 9
    [result] = await phone.waha.post(phone.session, news)
    assert (result.status, result.tries, result.delivered) == (503, 4, False)
    assert (phone.waha.webhooks.delivered - before, phone.waha.webhooks.failed) == (2, 1)


async def test_each_webhook_hears_what_it_asked_for(phone: Phone, waha: WahaSimulator) -> None:
    """`message` and `message.any` are one message, twice; no key, no signature; headers and tries as configured."""
    every, some = Hooks(phone.adapter), Hooks(phone.adapter)
    for hooks in (every, some):
        await hooks.listener.open()
    state = waha.state_of(phone.session)
    key = {"key": phone.session.hmac_key}
    custom = [{"name": "X-Tenant", "value": "a"}]
    state.config = {
        "metadata": {"tenant": "a"},
        "webhooks": [
            {"url": every.url, "events": ["*"], "hmac": key, "customHeaders": custom},
            {"url": some.url, "events": ["message.revoked"], "hmac": key, "retries": {"attempts": 0}},
            {"url": some.url, "events": ["call.received"]},
        ],
    }
    people = waha.inbound(phone.session)
    results = await waha.post(phone.session, people.text("x"))
    assert [result.delivered for result in results] == [True, True]
    assert [json.loads(body)["event"] for _, body in every.raw] == ["message", "message.any"]
    assert json.loads(every.raw[0][1])["metadata"] == {"tenant": "a"}
    assert every.raw[0][0]["x-tenant"] == "a"
    some.statuses = [500]
    gone, _ = sorted(await waha.post(phone.session, people.revoked("3EB0AA")), key=lambda result: result.delivered)
    assert (gone.status, gone.tries) == (500, 1)
    unsigned = News(("call.received",), {"id": "c1", "from": CHAT, "timestamp": 1790676900, "isVideo": False})
    some.statuses = [204]  # which it does not verify
    await waha.post(phone.session, unsigned)
    assert "x-webhook-hmac" not in some.raw[-1][0]
    for hooks in (every, some):
        await hooks.listener.close()


async def test_nobody_may_be_listening(waha: WahaSimulator, http: aiohttp.ClientSession) -> None:
    """Without a webhook it is counted as undeliverable; at a dead address the tries run out."""
    session = example_session(3)
    await waha.add_session(session)
    phone = Phone(waha, session, http)
    before = waha.undeliverable
    assert await waha.post(session, waha.inbound(session).text("x")) == []
    assert waha.undeliverable == before + 1
    closed = Hooks(phone.adapter)
    await closed.listener.open()
    waha.state_of(session).config = {"webhooks": [{"url": closed.url, "events": ["message"]}]}
    await closed.listener.close()
    [result] = await waha.post(session, waha.inbound(session).text("x"))
    assert (result.status, result.tries, result.delivered) == (None, 4, False)


async def test_the_same_seed_invents_the_same_people(waha: WahaSimulator, phone: Phone) -> None:
    first, second = [
        [people.mixed().payload["id"] for _ in range(20)]
        for people in (waha.inbound(phone.session, seed=9), waha.inbound(phone.session, seed=9))
    ]
    assert first == second
    assert waha.inbound(phone.session).text().payload["id"] not in first
