"""Each fault does to a caller of the Twilio simulator what its name says, and the truth is in the record alone."""

import asyncio

import aiohttp
import pytest

from ingress.dev.sandbox import (
    TWILIO_DOCUMENTED,
    Accept,
    AnyFault,
    Bare5xx,
    EmptyAnswer,
    ErrorCode,
    Refuse,
    Slow,
    Throttle429,
    TwilioSimulator,
    example_sender,
)

from .test_sandbox_faults import ANSWERS, BREAKS, patience_s
from .twilio_client import Client

CALLBACK = "https://gw.example.com/x?ref=gw1:M1:1"


@pytest.mark.parametrize(("fault", "error", "accepted"), BREAKS, ids=str)
async def test_a_broken_answer_raises(
    twilio: TwilioSimulator, client: Client, fault: AnyFault, error: type[Exception], accepted: bool
) -> None:
    await twilio.script(client.sender, fault)
    with pytest.raises(error):
        await client.send(StatusCallback=CALLBACK, timeout=patience_s(error))
    await twilio.settled()
    assert len(twilio.by_tracker("gw1:M1:1")) == accepted
    assert (twilio.sends[0].sid is not None) is accepted
    assert twilio.sends[0].fault == fault.__struct_config__.tag
    assert (await client.send()).status == 201  # one send used it up


@pytest.mark.parametrize(("fault", "accepted"), [(fault, accepted) for fault, _, _, accepted in ANSWERS], ids=str)
async def test_an_answer_is_as_scripted(
    twilio: TwilioSimulator, client: Client, fault: AnyFault, accepted: bool
) -> None:
    await twilio.script(client.sender, fault)
    answer = await client.send()
    assert len(twilio.accepted) == accepted
    if isinstance(fault, Accept | Slow):
        assert (answer.status, answer.content_type) == (201, "application/json")
    if isinstance(fault, Throttle429):
        assert answer.status == 429
        assert answer.headers.get("Retry-After") == (None if fault.retry_after is None else "1.5")
        if fault.body:
            assert (await answer.json())["code"] == 20429
    if isinstance(fault, ErrorCode):
        assert (await answer.json())["code"] == fault.code == twilio.sends[0].error_code
    if isinstance(fault, EmptyAnswer):
        assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize("code", sorted(TWILIO_DOCUMENTED))
async def test_every_documented_code_can_be_scripted(twilio: TwilioSimulator, client: Client, code: int) -> None:
    await twilio.script(client.sender, ErrorCode(code=code, headers={"X-Edge": "1"}))
    answer = await client.send()
    body = await answer.json()
    assert (answer.status, body["message"]) == TWILIO_DOCUMENTED[code]
    assert (body["code"], answer.headers["X-Edge"]) == (code, "1")
    assert twilio.accepted == []


async def test_a_code_may_come_with_another_status_and_other_words(twilio: TwilioSimulator, client: Client) -> None:
    await twilio.script(client.sender, ErrorCode(code=21610, http_status=403, message="no"))
    answer = await client.send()
    assert (answer.status, (await answer.json())["message"]) == (403, "no")


async def test_a_message_may_fail_at_once(twilio: TwilioSimulator, client: Client) -> None:
    """A 201 all the same."""
    await twilio.script(client.sender, Accept(message_status="failed"))
    answer = await client.send()
    body = await answer.json()
    assert (answer.status, body["status"], body["error_code"]) == (201, "failed", 63016)


async def test_what_is_refused_for_its_content_uses_up_no_fault(twilio: TwilioSimulator, client: Client) -> None:
    await twilio.script(client.sender, Bare5xx())
    assert (await client.send(To="me")).status == 400
    assert (await client.send()).status == 502


async def test_a_sender_s_port_is_refused_while_others_live(
    twilio: TwilioSimulator, client: Client, http: aiohttp.ClientSession
) -> None:
    other = Client(twilio, example_sender(2), http)
    await twilio.add_number(other.sender)
    await twilio.script(client.sender, Accept(), Refuse(seconds=0.05))
    assert (await client.send()).status == 201
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.send()
    assert (await other.send()).status == 201
    await twilio.wait_for(lambda: twilio.state_of(client.sender).listener.is_open)
    assert (await client.send()).status == 201


async def test_a_default_may_meet_every_call(twilio: TwilioSimulator, client: Client) -> None:
    """As where Twilio is down, so that a probe sees it."""
    account, senders = f"{client.account}.json", "/v2/Channels/Senders?Channel=whatsapp"
    await twilio.set_default(client.sender, ErrorCode(code=20503))
    assert [(await client.send()).status for _ in range(2)] == [503] * 2
    assert (await client.call("GET", account)).status == 200
    await twilio.set_default(client.sender, ErrorCode(code=20503), everything=True)
    assert [(await client.call("GET", path)).status for path in (account, senders)] == [503] * 2
    await twilio.clear_faults(client.sender)
    assert (await client.call("GET", senders)).status == 200
    assert twilio.call_count("POST Messages", client.sender.account_sid) == 2


async def test_a_message_is_accepted_though_its_sender_hangs_up(twilio: TwilioSimulator, client: Client) -> None:
    await twilio.script(client.sender, Slow(seconds=0.05))
    task = asyncio.create_task(client.send(StatusCallback=CALLBACK))
    await twilio.wait_for(lambda: twilio.sends)
    task.cancel()
    [message] = await twilio.wait_for(lambda: twilio.accepted)
    assert message.tracker == "gw1:M1:1"
