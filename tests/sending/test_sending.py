"""Sends: one message to a person, whatever the network does; retries, fallback, idempotency, statuses."""

import asyncio
import itertools
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ingress import log
from ingress.calls.driver import Caller
from ingress.dev.sandbox import (
    Bare5xx,
    Bare5xxAfterAccept,
    EmptyAnswer,
    ErrorCode,
    HalfAnswer,
    Hang,
    HangAfterAccept,
    Refuse,
    ResetAfterAccept,
    ResetBeforeAccept,
    Slow,
    StatusPolicy,
    Throttle429,
)
from ingress.dev.sandbox.meta.bodies import metadata
from ingress.sending import breakers, lost_answers
from providers import Event, Flow, MessageData, MessageResult, Request, Webhook
from providers.meta_business import MetaBusiness

from ..gateway import Gateway, Organization, eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
NO_STATUSES = StatusPolicy(statuses=())


@pytest.fixture
async def pair(gateway: Gateway) -> Organization:
    """An organization with an active number and one to fall back to, each with a port of its own."""
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    second = await organization.configure(active=False, own_port=True)
    await organization.fall_back_to(second["config_id"])
    return organization


async def test_a_send_goes_out_through_the_active_provider(organization: Organization, gateway: Gateway) -> None:
    answer = await organization.send(
        {"to": "+5511987654321", "content": {"type": "text", "body": "Olá"}, "lead_id": "L1"}
    )
    assert answer.status == 200
    result = answer.json
    assert result["provider"] == "meta_business"
    assert (result["status"], result["attempts"], result["fallback_from"], result["cost"]) == ("sent", 1, None, None)
    accepted = gateway.meta.by_wamid(result["provider_message_id"])
    assert accepted is not None
    assert accepted.body["text"] == {"body": "Olá"}
    assert accepted.tracker == f"gw1:{result['id'].replace('-', '')}:1"


async def test_statuses_follow(organization: Organization) -> None:
    """The provider's statuses raise the message's, and are events that name our message."""
    result = (await organization.send()).json
    message = await organization.settled(result["id"], "read")
    assert message["attempts"][0]["class"] == "ok"
    statuses = [
        event["data"]["status"]["value"]
        for event in await organization.events(kind="message.status")
        if event["data"]["message"]["id"] == result["id"]
    ]
    assert {"sent", "delivered", "read"} <= set(statuses)


async def test_statuses_that_come_before_our_own_answer_is_stored(organization: Organization, gateway: Gateway) -> None:
    gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(before_answer=True, duplicates=2, reorder=True))
    result = (await organization.send()).json
    assert result["status"] == "sent"
    assert (await organization.message(result["id"]))["status"] == "read"


@pytest.mark.parametrize("order", list(itertools.permutations(["sent", "delivered", "read", "failed"])), ids="-".join)
async def test_statuses_merge_by_rank_in_any_order(
    organization: Organization, gateway: Gateway, order: tuple[str, ...]
) -> None:
    """24 orders, one final state; and again without our correlation id, by the provider's message id alone."""
    gateway.meta.set_statuses(organization.numbers[0], NO_STATUSES)
    for tracked in (True, False):
        result = (await organization.send()).json
        accepted = gateway.meta.by_wamid(result["provider_message_id"])
        assert accepted is not None
        for status in order:
            await organization.deliver(_status_body(organization, accepted, status, tracked))
        message = await organization.message(result["id"])
        assert message["status"] == "read"
        assert message["error"] is None


def _status_body(organization: Organization, accepted: Any, status: str, tracked: bool) -> Any:
    from ingress.dev.sandbox.meta.bodies import envelope, status_item

    item = status_item(accepted.wamid, status, accepted.body)
    if not tracked:
        item.pop("biz_opaque_callback_data")
    return envelope((organization.numbers[0], {"statuses": [item]}))


async def test_a_failure_after_acceptance_is_reported(organization: Organization, gateway: Gateway) -> None:
    policy = StatusPolicy(statuses=("failed",), failed_code=131026)
    gateway.meta.set_statuses(organization.numbers[0], policy)
    result = (await organization.send()).json
    message = await organization.settled(result["id"], "failed")
    assert (message["error"]["class"], message["error"]["code"]) == ("Rejected", "131026")


# ---------------------------------------------------------------- what a provider may answer


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (ErrorCode(code=131026), 422, "rejected"),
        (ErrorCode(code=131031), 422, "restricted"),
        (ErrorCode(code=190), 502, "no_provider_left"),
    ],
    ids=["rejected", "restricted", "account-broken"],
)
async def test_refusals_are_told_by_class(
    organization: Organization, gateway: Gateway, fault: Any, status: int, code: str
) -> None:
    await gateway.meta.script(organization.numbers[0], fault)
    answer = await organization.send()
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["error"]["code"] == str(fault.code)
    message = await organization.message(answer.json["id"])
    assert (message["status"], len(message["attempts"])) == ("failed", 1)
    [event] = [
        event
        for event in await organization.events(kind="message.status")
        if event["data"]["message"]["id"] == answer.json["id"]
    ]
    assert event["data"]["status"]["error"]["class"] == message["error"]["class"]


async def test_throttling_is_waited_for(organization: Organization, gateway: Gateway) -> None:
    await gateway.meta.script(organization.numbers[0], Throttle429(retry_after=0), Throttle429(retry_after=0))
    answer = await organization.send()
    assert (answer.status, answer.json["attempts"]) == (200, 3)
    classes = [attempt["class"] for attempt in (await organization.message(answer.json["id"]))["attempts"]]
    assert classes == ["Throttled", "Throttled", "ok"]


async def test_fallback_when_the_active_provider_is_down(pair: Organization, gateway: Gateway) -> None:
    """Connections refused: the send goes out through the fallback, and says so everywhere."""
    await gateway.meta.set_default(pair.numbers[0], Refuse())
    answer = await pair.send()
    assert answer.status == 200
    result = answer.json
    assert result["fallback_from"] == pair.configs[0]["config_id"]
    assert result["config_id"] == pair.configs[1]["config_id"]
    accepted = gateway.meta.by_wamid(result["provider_message_id"])
    assert accepted is not None
    assert accepted.phone_number_id == pair.numbers[1].phone_number_id
    classes = [attempt["class"] for attempt in (await pair.message(result["id"]))["attempts"]]
    assert classes == ["Unavailable", "Unavailable", "ok"]
    events = [event["data"] for event in await pair.events(kind="message.status")]
    assert events[0]["status"]["value"] == "sent"
    for event in events:  # its provider's own statuses, too
        assert event["message"]["fallback_from"] == pair.configs[0]["config_id"]
        assert event["config_id"] == pair.configs[1]["config_id"]
    metrics = (await gateway.metrics()).raw.decode()
    assert 'whatsapp_ingress_fallback_total{provider="meta_business",reason="Unavailable"}' in metrics


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({}, None),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01\t, 00"}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, None),
        ({"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01"}, None),
    ],
    ids=["none", "valid", "more-behind", "no-trace", "no-parent", "upper-case"],
)
async def test_the_lines_of_a_send_name_its_request(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], trace: str | None
) -> None:
    """OBS-5: from the request to its attempts, and from an attempt to its request; the trace goes on."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "wide", lambda event, **fields: lines.append({"event": event, **fields}))
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    called: list[str | None] = []
    exchange = Caller._exchange

    async def seen(caller: Caller, request: Request, *more: Any) -> Any:
        if any(number.phone_number_id in request.url for number in pair.numbers):  # not others'
            called.append(request.headers.get("traceparent"))
        return await exchange(caller, request, *more)

    monkeypatch.setattr(Caller, "_exchange", seen)
    answer = await pair.send(**headers)
    result = [line for line in lines if str(line.get("message")) == answer.json["id"]]
    assert [line["event"] for line in result] == ["send_attempt", "send_fallback", "send_attempt"]
    assert {line["request"] for line in result} == {answer.headers["x-request-id"]}
    assert {line["trace_id"] for line in result} == {trace}
    assert called == [headers["traceparent"] if trace else None] * 2


@pytest.mark.parametrize("code", [190, 131042, 132001], ids=["token", "payment", "template"])
async def test_fallback_at_once_when_the_account_is_broken(pair: Organization, gateway: Gateway, code: int) -> None:
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=code))
    answer = await pair.send()
    assert (answer.status, answer.json["attempts"]) == (200, 2)
    assert answer.json["config_id"] == pair.configs[1]["config_id"]


async def test_no_fallback_where_it_was_not_wanted_or_cannot_be(pair: Organization, gateway: Gateway) -> None:
    """A sender may rule it out; an id of this business's scope means nothing to another; restriction spreads."""
    for body, code in (
        ({"to": "+5511987654321", "body": "x", "fallback": False}, 132001),
        ({"to": {"user_id": "BR.13491208655302741918"}, "body": "x"}, 132001),
        ({"to": "+5511987654321", "body": "x"}, 368),
    ):
        await gateway.meta.script(pair.numbers[0], ErrorCode(code=code))
        answer = await pair.send(body)
        assert answer.status in (422, 502)
        assert len((await pair.message(answer.json["id"]))["attempts"]) == 1


async def test_no_provider_left(pair: Organization, gateway: Gateway) -> None:
    for number in pair.numbers:
        await gateway.meta.set_default(number, ErrorCode(code=190))
    answer = await pair.send()
    assert (answer.status, answer.json["code"], answer.json["attempts"]) == (502, "no_provider_left", 2)


async def test_what_cannot_be_expressed_is_refused_before_any_call(
    organization: Organization, gateway: Gateway
) -> None:
    before = gateway.meta.call_count("POST messages", organization.numbers[0].phone_number_id)
    answer = await organization.send({"to": {"lid": "123456@lid"}, "body": "x"})
    assert (answer.status, answer.json["code"]) == (422, "unsupported")
    assert gateway.meta.call_count("POST messages", organization.numbers[0].phone_number_id) == before


async def test_an_organization_without_a_provider(gateway: Gateway) -> None:
    organization = await gateway.organization()
    answer = await organization.send()
    assert (answer.status, answer.json["code"]) == (409, "provider_not_configured")
    current = await organization.call("GET", "/integrations/whatsapp/provider/current")
    assert current.json == {"provider": None, "status": "not_configured"}


# ---------------------------------------------------------------- uncertain


@pytest.mark.parametrize(
    "fault",
    [ResetAfterAccept(), HalfAnswer(), Bare5xxAfterAccept(), EmptyAnswer(accepted=True)],
    ids=["reset", "half-answer", "bare-5xx", "empty"],
)
async def test_an_uncertain_send_is_settled_by_its_status(pair: Organization, gateway: Gateway, fault: Any) -> None:
    """The answer was lost, the message was not: nothing is repeated, and the status settles it."""
    await gateway.meta.script(pair.numbers[0], fault)
    answer = await pair.send()
    assert (answer.status, answer.json["status"]) == (200, "sent")
    message = await pair.settled(answer.json["id"], "sent", "delivered", "read")
    assert [attempt["class"] for attempt in message["attempts"]] == ["ok"]
    assert len(gateway.meta.by_message_id(answer.json["id"].replace("-", ""))) == 1


@pytest.mark.parametrize(
    "fault", [ResetBeforeAccept(), Bare5xx(), EmptyAnswer(accepted=False)], ids=["reset", "5xx", "empty"]
)
async def test_an_uncertain_send_that_nothing_settles(pair: Organization, gateway: Gateway, fault: Any) -> None:
    """504, held; nobody repeats it, no fallback takes it, and the same key gives the same answer."""
    await gateway.meta.script(pair.numbers[0], fault)
    answer = await pair.send(idempotency_key="held-1")
    assert (answer.status, answer.json["code"]) == (504, "uncertain")
    message = await pair.message(answer.json["id"])
    assert (message["state"], len(message["attempts"])) == ("uncertain", 1)
    again = await pair.send(idempotency_key="held-1")
    assert (again.status, again.headers["idempotency-replayed"]) == (504, "true")
    assert gateway.meta.by_message_id(answer.json["id"].replace("-", "")) == []


async def test_who_accepts_duplicates_may_ask_for_them(pair: Organization, gateway: Gateway) -> None:
    """A one-time password rather twice than never: `on_uncertain` retries here, or goes on to the fallback."""
    await gateway.meta.script(pair.numbers[0], ResetBeforeAccept())
    result = (await pair.send({"to": "+5511987654321", "body": "1234", "on_uncertain": "retry"})).json
    assert (result["attempts"], result["config_id"]) == (2, pair.configs[0]["config_id"])
    await gateway.meta.script(pair.numbers[0], ResetBeforeAccept())
    result = (await pair.send({"to": "+5511987654321", "body": "1234", "on_uncertain": "fallback"})).json
    assert (result["attempts"], result["config_id"]) == (2, pair.configs[1]["config_id"])


async def test_a_slow_provider_is_waited_for(organization: Organization, gateway: Gateway) -> None:
    await gateway.meta.script(organization.numbers[0], Slow(seconds=0.3))
    assert (await organization.send()).status == 200


async def test_asynchronous_sends(organization: Organization, gateway: Gateway) -> None:
    await gateway.meta.script(organization.numbers[0], Slow(seconds=0.2))
    answer = await organization.send(prefer="respond-async")
    assert answer.status == 202
    assert answer.headers["location"] == f"/messages/{answer.json['id']}"
    assert (await organization.message(answer.json["id"]))["state"] == "sending"
    await organization.settled(answer.json["id"], "sent", "delivered", "read")


async def test_no_sequence_of_faults_makes_two_messages_of_one_send(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 sends under scripted faults on both numbers: the simulator accepted each at most once."""
    import random

    monkeypatch.setattr(breakers, "OPEN_S", 0.5)  # or all would wait for as long as the dice have an account rest
    monkeypatch.setattr(breakers, "OPEN_AT_MOST_S", 1.0)
    faults = [
        ResetBeforeAccept(),
        ResetAfterAccept(),
        HalfAnswer(),
        EmptyAnswer(accepted=True),
        EmptyAnswer(accepted=False),
        Bare5xx(),
        Bare5xxAfterAccept(),
        Throttle429(retry_after=0),
        ErrorCode(code=190),
        ErrorCode(code=131016),
        ErrorCode(code=131000),
        ErrorCode(code=131026),
        ErrorCode(code=132001),
        Slow(seconds=0.01),
    ]
    dice = random.Random(7)
    for number in pair.numbers:
        await gateway.meta.script(number, *[dice.choice(faults) for _ in range(150)])
    # Who comes when both accounts rest is refused, and comes again.
    answers = await asyncio.gather(
        *[eventually(lambda: pair.send(prefer="respond-async"), lambda answer: answer.status != 503) for _ in range(60)]
    )
    assert {answer.status for answer in answers} == {202}
    ids = [answer.json["id"] for answer in answers]
    await eventually(
        lambda: asyncio.gather(*[pair.message(id) for id in ids]),
        lambda messages: all(message["state"] != "sending" for message in messages),
    )
    for id in ids:
        assert len(gateway.meta.by_message_id(id.replace("-", ""))) <= 1


# ---------------------------------------------------------------- idempotency


# IDEMPOTENCY_KEYS=200 for the figure; the suite has few, for its time.
KEYS = int(os.environ.get("IDEMPOTENCY_KEYS", "4"))


async def test_fifty_posts_of_one_key(organization: Organization, gateway: Gateway) -> None:
    """One message, one call; every answer is the result, or says that it is under way."""
    await gateway.meta.set_default(organization.numbers[0], Slow(seconds=0.05))
    number = organization.numbers[0].phone_number_id
    before = gateway.meta.call_count("POST messages", number)
    for round_ in range(KEYS):
        answers = await asyncio.gather(*[organization.send(idempotency_key=f"key-{round_}") for _ in range(50)])
        statuses = {answer.status for answer in answers}
        assert statuses <= {200, 409}
        assert 200 in statuses
        assert len({answer.json["id"] for answer in answers}) == 1
    assert gateway.meta.call_count("POST messages", number) == before + KEYS


async def test_the_stored_answer_is_given_again(organization: Organization) -> None:
    first = await organization.send(idempotency_key="k")
    again = await organization.send(idempotency_key="k")
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.json == first.json
    other = await organization.send({"to": "+5511987654321", "body": "other"}, idempotency_key="k")
    assert (other.status, other.json["code"]) == (422, "idempotency_mismatch")


async def test_keys_of_two_organizations_do_not_meet(organization: Organization, gateway: Gateway) -> None:
    other = await gateway.organization()
    await other.configure()
    first, second = await organization.send(idempotency_key="same"), await other.send(idempotency_key="same")
    assert (first.status, second.status) == (200, 200)
    assert first.json["id"] != second.json["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a b"], ids=["empty", "long", "control", "space"])
async def test_malformed_keys(organization: Organization, key: str) -> None:
    answer = await organization.send(idempotency_key=key)
    assert (answer.status, answer.json["code"]) == (400, "invalid_idempotency_key")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"body": "x"}, "to"),
        ({"to": "11987654321", "body": "x"}, "to"),
        ({"to": "+55 11 98765-4321", "body": "x"}, "to"),
        ({"to": "+5511987654321"}, "content"),
        ({"to": "+5511987654321", "body": 5}, "body"),
        ({"to": "+5511987654321", "body": "x", "content": {"type": "text", "body": "y"}}, "body"),
        ({"to": "+5511987654321", "content": {"type": "hologram"}}, "content.type"),
        ({"to": "+5511987654321", "content": {"type": "text", "body": "x", "bold": True}}, "content.bold"),
        ({"to": "+5511987654321", "content": {"type": "text"}}, "content.body"),
        ({"to": "+5511987654321", "body": "x", "colour": "red"}, "colour"),
        ({"to": {}, "body": "x"}, "to"),
        ({"to": {"phone": "x"}, "body": "x"}, "to.phone"),
        ({"to": "+5511987654321", "body": "x", "on_uncertain": "panic"}, "on_uncertain"),
        ({"to": "+5511987654321", "body": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"to": "+5511987654321", "body": "x", "expires_at": "2090-01-01T00:00:00Z"}, "expires_at"),
        ({"to": "+5511987654321", "body": "x", "expires_at": "tomorrow"}, "expires_at"),
        ({"to": "+5511987654321", "attachments": [{"url": "https://x.example/a"}] * 2}, "attachments"),
    ],
)
async def test_invalid_bodies_name_the_field(organization: Organization, body: Any, path: str) -> None:
    answer = await organization.send(body)
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in answer.json["errors"]] == [path]
    assert answer.json["request_id"].startswith("req_")


async def test_bodies_that_are_no_json(organization: Organization) -> None:
    for raw in (b"", b"{", b'{"to":' + b"[" * 100_000, b"\xff"):
        answer = await organization.call("POST", "/send", raw=raw, content_type="application/json")
        assert (answer.status, answer.json["code"].split("_")[0]) == (422, "invalid")
    too_large = await organization.call("POST", "/send", raw=b"x" * 300_000, content_type="application/json")
    assert too_large.status == 413
    assert (await organization.call("POST", "/send", raw=b"{}", content_type="text/xml")).status == 415


async def test_an_attachment_is_a_medium_with_the_body_as_caption(organization: Organization, gateway: Gateway) -> None:
    attachment = {"url": "https://files.example.org/a.jpg", "mime_type": "image/jpeg"}
    answer = await organization.send({"to": "+5511987654321", "body": "look", "attachments": [attachment]})
    accepted = gateway.meta.by_wamid(answer.json["provider_message_id"])
    assert accepted is not None
    assert accepted.body["image"] == {"link": "https://files.example.org/a.jpg", "caption": "look"}


async def test_a_reply_quotes_by_our_id_or_the_providers(organization: Organization, gateway: Gateway) -> None:
    first = (await organization.send()).json
    for reply_to in (first["id"], first["provider_message_id"]):
        result = (await organization.send({"to": "+5511987654321", "body": "re", "reply_to": reply_to})).json
        accepted = gateway.meta.by_wamid(result["provider_message_id"])
        assert accepted is not None
        assert accepted.body["context"] == {"message_id": first["provider_message_id"]}


async def test_nothing_is_sent_after_it_expired(pair: Organization, gateway: Gateway) -> None:
    """Both providers hang past the message's end: at most one call began, and the end is reported."""
    await gateway.meta.set_default(pair.numbers[0], Throttle429(retry_after=1))
    await gateway.meta.set_default(pair.numbers[1], Throttle429(retry_after=1))
    expires_at = (datetime.now(UTC) + timedelta(seconds=0.4)).isoformat()
    answer = await pair.send({"to": "+5511987654321", "body": "x", "expires_at": expires_at})
    assert (answer.status, answer.json["code"]) == (502, "no_provider_left")
    started = [attempt["started_at"] for attempt in (await pair.message(answer.json["id"]))["attempts"]]
    assert max(map(datetime.fromisoformat, started)) < datetime.fromisoformat(expires_at)


async def test_hang_is_uncertain_and_bounded_by_the_deadline(pair: Organization, gateway: Gateway) -> None:
    for fault in (Hang(), HangAfterAccept()):
        gateway.meta.set_statuses(pair.numbers[0], NO_STATUSES)
        await gateway.meta.script(pair.numbers[0], fault)
        expires_at = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        answer = await pair.send({"to": "+5511987654321", "body": "x", "expires_at": expires_at}, prefer="wait=2")
        assert (answer.status, answer.json["code"]) == (504, "uncertain")


async def test_history_by_conversation(organization: Organization) -> None:
    first = (await organization.send()).json
    second = (await organization.send()).json
    await organization.send({"to": "+5511900000001", "body": "somebody else"})
    conversation = (await organization.message(first["id"]))["conversation_id"]
    listed = (await organization.call("GET", f"/messages?conversation_id={conversation}&limit=1")).json
    assert [message["id"] for message in listed["messages"]] == [second["id"]]
    rest = (await organization.call("GET", f"/messages?conversation_id={conversation}&before={listed['next']}")).json
    assert [message["id"] for message in rest["messages"]] == [first["id"]]
    assert "next" not in rest


# ---------------------------------------------------------------- what came after, or in between


async def test_a_repetition_after_the_end_gets_the_stored_answer(organization: Organization) -> None:
    """What was sent in time is answered as it was, whatever the clock shows when it is asked again."""
    ends = datetime.now(UTC) + timedelta(seconds=0.3)
    body = {"to": "+5511987654321", "body": "x", "expires_at": ends.isoformat()}
    first = await organization.send(body, idempotency_key="in-time")
    assert first.status == 200
    await eventually(lambda: datetime.now(UTC) > ends)
    again = await organization.send(body, idempotency_key="in-time")
    assert (again.status, again.json) == (200, first.json)
    assert (await organization.send(body, idempotency_key="too-late")).status == 422


async def test_a_failure_afterwards_changes_the_message_not_the_answer(
    organization: Organization, gateway: Gateway
) -> None:
    gateway.meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=("failed",)))
    first = await organization.send(idempotency_key="then-failed")
    await organization.settled(first.json["id"], "failed")
    again = await organization.send(idempotency_key="then-failed")
    assert (again.status, again.json) == (first.status, first.json)


async def test_a_refused_repetition_does_not_make_a_taken_message_failed(pair: Organization, gateway: Gateway) -> None:
    """The first attempt may have been taken, so nobody knows; that the second was refused says nothing of it."""
    gateway.meta.set_statuses(pair.numbers[0], NO_STATUSES)
    await gateway.meta.script(pair.numbers[0], ResetAfterAccept(), ErrorCode(code=131026))
    answer = await pair.send({"to": "+5511987654321", "body": "1234", "on_uncertain": "retry"})
    assert (answer.status, answer.json["code"]) == (504, "uncertain")
    [accepted] = gateway.meta.by_message_id(answer.json["id"].replace("-", ""))
    await pair.deliver(_status_body(pair, accepted, "delivered", tracked=True))
    assert (await pair.message(answer.json["id"]))["status"] == "delivered"


async def test_a_status_in_between_stops_the_repetition(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who accepts duplicates does not want them: the status says that the first attempt was taken."""
    monkeypatch.setattr("ingress.sending.attempts._wait", lambda state: 0.5)
    await gateway.meta.script(pair.numbers[0], ResetAfterAccept())
    answer = await pair.send({"to": "+5511987654321", "body": "1234", "on_uncertain": "retry"})
    assert (answer.status, answer.json["attempts"]) == (200, 1)
    assert len(gateway.meta.by_message_id(answer.json["id"].replace("-", ""))) == 1


async def test_a_failure_of_an_earlier_attempt_does_not_hide_the_last_one(pair: Organization, gateway: Gateway) -> None:
    """Both statuses in one webhook: `failed` of attempt 1 ranks above `sent` of attempt 3, and is beside the point."""
    from ingress.dev.sandbox.meta.bodies import envelope, status_item

    gateway.meta.set_statuses(pair.numbers[0], NO_STATUSES)
    await gateway.meta.script(pair.numbers[0], *[ResetBeforeAccept()] * 3)
    body = {"to": "+5511987654321", "body": "1234", "on_uncertain": "retry", "fallback": False}
    answer = await pair.send(body)
    assert (answer.status, answer.json["attempts"]) == (504, 3)
    items = []
    for number, status in ((1, "failed"), (3, "sent")):
        tracker = f"gw1:{answer.json['id'].replace('-', '')}:{number}"
        sent = {"to": "+5511987654321", "type": "text", "biz_opaque_callback_data": tracker}
        items.append(status_item(f"wamid.{tracker}", status, sent))
    await pair.deliver(envelope((pair.numbers[0], {"statuses": items})))
    assert (await pair.message(answer.json["id"]))["status"] == "sent"


async def test_an_accepted_send_is_never_answered_with_an_error_of_ours(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away after the claim: 202, for a 503 would have the client send it again."""
    from ingress.sending.outcomes import Outcomes
    from ingress.storage.database import StoreUnavailable

    async def away(*_: Any) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(Outcomes, "_begin", away)
    await gateway.meta.script(pair.numbers[0], Throttle429(retry_after=0))
    answer = await pair.send()
    assert answer.status == 202
    assert answer.headers["location"] == f"/messages/{answer.json['id']}"


async def test_a_medium_by_its_id_does_not_fall_back(pair: Organization, gateway: Gateway) -> None:
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    answer = await pair.send({"to": "+5511987654321", "content": {"type": "image", "id": "801000000000001"}})
    assert (answer.status, answer.json["attempts"]) == (502, 1)


async def test_an_event_after_a_fallback_is_of_the_number_that_sent(pair: Organization, gateway: Gateway) -> None:
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    result = (await pair.send()).json
    await pair.settled(result["id"], "read")
    conversations = {
        (event["data"]["conversation"]["id"], event["data"]["conversation"]["sender"])
        for event in await pair.events(kind="message.status")
        if event["data"]["message"]["id"] == result["id"]
    }
    assert {sender for _, sender in conversations} == {pair.numbers[1].display_phone_number}
    assert len(conversations) == 1


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "skipped"])
@pytest.mark.parametrize("before_answer", [True, False], ids=["early", "late"])
async def test_every_event_after_a_fallback_says_so(
    pair: Organization, gateway: Gateway, refused: bool, before_answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statuses that come before our own answer, too; and a reaction, of which the provider knows its own id alone."""
    gateway.meta.set_statuses(pair.numbers[1], StatusPolicy(before_answer=before_answer))
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    if not refused:
        assert (await pair.send({"to": "+5511900000001", "body": "the breaker opens"})).status == 200
    sent = (await pair.send({"to": "+5511987654321", "body": "x", "lead_id": "L1"})).json
    await pair.settled(sent["id"], "read")
    people = gateway.meta.inbound(pair.numbers[1])
    await pair.deliver(people.reaction(message_id=sent["provider_message_id"], phone="+5511987654321"), config=1)
    found = [event["data"] for event in await pair.events() if event["data"].get("message", {}).get("id") == sent["id"]]
    assert [data["message"]["content"]["type"] for data in found if "status" not in data] == ["reaction"]
    assert {data["status"]["value"] for data in found if "status" in data} == {"sent", "delivered", "read"}
    names = ("lead_id", "fallback_from", "fallback_reason")
    reason = "AccountBroken" if refused else "breaker_open"
    expected = {("L1", pair.configs[0]["config_id"], reason)}
    assert {tuple(data["message"].get(name) for name in names) for data in found} == expected


@pytest.mark.parametrize("forgets", [False, True], ids=["with-our-id", "without"])
async def test_every_event_about_a_send_names_it(
    organization: Organization, gateway: Gateway, forgets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statuses before our own answer, also where the provider names its id alone; and the message itself, come back."""
    if forgets:
        parse = MetaBusiness.parse

        def parsed(self: MetaBusiness, hook: Webhook) -> list[Event]:
            return [msgspec.structs.replace(event, correlation_id=None) for event in parse(self, hook)]

        monkeypatch.setattr(MetaBusiness, "parse", parsed)
    number = organization.numbers[0]
    gateway.meta.set_statuses(number, StatusPolicy(before_answer=True, duplicates=1))
    sent = (await organization.send({"to": "+5511987654321", "body": "x", "lead_id": "L1"})).json
    await organization.settled(sent["id"], "read")
    wamid, now = sent["provider_message_id"], str(int(time.time()))
    around = {"from": number.digits, "to": "5511987654321", "timestamp": now}
    echoes = [
        {**around, "id": wamid, "type": "text", "text": {"body": "x"}},
        {**around, "id": "wamid.E", "type": "revoke", "revoke": {"original_message_id": wamid}},
    ]
    change = {"field": "smb_message_echoes", "value": {**metadata(number), "message_echoes": echoes}}
    await organization.deliver(
        {"object": "whatsapp_business_account", "entry": [{"id": number.waba_id, "changes": [change]}]}
    )
    # They come behind what still waited for the send.
    events = await eventually(organization.events, lambda events: events[-1]["type"] == "message.deleted")
    events = [event for event in events if "message" in event["data"]]
    assert {(event["data"]["message"].get("id"), event["data"]["message"].get("lead_id")) for event in events} == {
        (sent["id"], "L1")
    }
    assert {event["type"] for event in events} == {"message.status", "message.deleted"}
    assert {_value(event) for event in events} == {"sent", "delivered", "read", None}


def _value(event: Any) -> str | None:
    return event["data"].get("status", {}).get("value")


def _finds(gateway: Gateway) -> Any:
    """What a provider does that can be asked for a message: here, in the books of the simulator."""

    def find_message(_: Any, message: MessageData) -> Flow[MessageResult | None]:
        for accepted in gateway.meta.by_message_id(message.correlation_id.split(":")[1]):
            return MessageResult(provider_message_id=accepted.wamid)
        return None
        yield

    return find_message


async def test_a_provider_that_can_be_asked_settles_a_lost_answer(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No status comes, the provider knows: sent once, by the one call there was."""
    monkeypatch.setattr(MetaBusiness, "find_message", _finds(gateway))
    monkeypatch.setattr(lost_answers, "ASK_AFTER_S", (0.01, 0.01))
    gateway.meta.set_statuses(pair.numbers[0], NO_STATUSES)
    await gateway.meta.script(pair.numbers[0], ResetAfterAccept())
    result = await pair.send()
    assert result.status == 200
    message = await pair.message(result.json["id"])
    assert (message["state"], message["status"], message["attempts"][0]["class"]) == ("done", "sent", "ok")
    assert message["provider_message_id"] == message["attempts"][0]["provider_message_id"]
    assert len(gateway.meta.by_message_id(result.json["id"].replace("-", ""))) == 1


async def test_a_provider_that_never_took_it_leaves_it_uncertain(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not found may still be on its way: nothing is repeated, nothing is reported."""
    monkeypatch.setattr(MetaBusiness, "find_message", _finds(gateway))
    monkeypatch.setattr(lost_answers, "ASK_AFTER_S", (0.01, 0.01))
    await gateway.meta.script(pair.numbers[0], ResetBeforeAccept())
    result = await pair.send(prefer="wait=1")
    assert (result.status, result.json["code"]) == (504, "uncertain")
    assert gateway.meta.by_message_id(result.json["id"].replace("-", "")) == []


async def test_a_plug_in_that_breaks_when_asked_changes_nothing(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(MetaBusiness, "find_message", broken)
    monkeypatch.setattr(lost_answers, "ASK_AFTER_S", (0.01, 0.01))
    gateway.meta.set_statuses(pair.numbers[0], NO_STATUSES)
    await gateway.meta.script(pair.numbers[0], ResetAfterAccept())
    assert (await pair.send(prefer="wait=1")).status == 504


async def test_a_message_is_told_where_its_statuses_go(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For providers that want it with each message: the config's own webhook, as configure answered it."""
    result: list[str | None] = []
    send_message = MetaBusiness.send_message

    def noted(self: MetaBusiness, message: MessageData) -> Flow[MessageResult]:
        result.append(message.callback_url)
        return send_message(self, message)

    monkeypatch.setattr(MetaBusiness, "send_message", noted)
    await organization.send()
    assert result == [organization.configs[0]["webhook_url"]]
