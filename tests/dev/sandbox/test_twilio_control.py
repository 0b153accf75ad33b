"""Another process can do and see over HTTP what a test in this one does with the Twilio simulator over methods."""

import aiohttp
import msgspec
import pytest

from ingress.dev.sandbox import TwilioSimulator, example_sender

from .test_sandbox_control import Control
from .test_twilio_api import CALLBACK, CONTENT
from .twilio_client import Client, Endpoint


async def test_senders_faults_and_ground_truth(
    twilio: TwilioSimulator, client: Client, http: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    """A whole scene: add a sender, script it, send, look, wait, reset."""
    control = Control(http, twilio.control_url)
    other = Client(twilio, example_sender(2, endpoint.url), http)
    number = other.sender.phone_number
    mine, of_mine = f"/numbers/{number}", f"phone_number={number.replace('+', '%2B')}"
    added = await control("POST", "/numbers", {**msgspec.to_builtins(other.sender), "own_port": True})
    assert added["url"] == twilio.url_for(other.sender)
    policy = await control("PUT", f"{mine}/statuses", {"statuses": ["sent"]})
    assert (policy["statuses"], policy["failed_code"]) == (["sent"], 63016)
    faults = {"queue": [{"fault": "error_code", "code": 21610}], "default": {"fault": "refuse"}}
    await control("POST", f"{mine}/faults", faults)
    assert [one["fault"] for one in (await control("GET", f"{mine}/faults"))["queue"]] == ["error_code"]
    assert (await other.send()).status == 400
    with pytest.raises(aiohttp.ClientConnectorError):
        await other.send()
    assert [one["open"] for one in await control("GET", "/numbers")] == [True, False]
    await control("DELETE", f"{mine}/faults")
    assert (await other.send(StatusCallback=f"{endpoint.url}&ref=gw1:M9:2")).status == 201
    counts = await control("GET", "/wait?accepted=1&delivered=1&settled=1")
    assert (counts["accepted"], counts["sends"], counts["webhooks_delivered"], counts["leaks"]) == (1, 2, 1, 0)
    for query in ("message_id=M9", "tracker=gw1:M9:2", of_mine, "after=0"):
        found = await control("GET", f"/accepted?{query}")
        assert [one["tracker"] for one in found["accepted"]] == ["gw1:M9:2"]
    assert await control("GET", "/accepted?after=1") == {"accepted": [], "duplicates": {}}
    calls = await control("GET", f"/sends?{of_mine}")
    assert [(call["fault"], call["sid"] is not None) for call in calls] == [("error_code", False), (None, True)]
    assert await control("GET", "/calls") == {f"{other.sender.account_sid} POST Messages": 2}
    await control("PUT", f"{mine}/fields", {"status": "OFFLINE"})
    assert twilio.state_of(number).fields == {"status": "OFFLINE"}
    await control("POST", "/reset")
    assert (await control("GET", ""))["numbers"] == {}
    assert twilio.messages == {}


async def test_accounts_and_contents(twilio: TwilioSimulator, client: Client, http: aiohttp.ClientSession) -> None:
    control = Control(http, twilio.control_url)
    account = f"/accounts/{client.sender.account_sid}"
    made = await control("POST", f"{account}/contents", CONTENT)
    assert (await client.send(Body=None, ContentSid=made["sid"])).status == 201
    assert "type" in (await control("POST", f"{account}/contents", {**CONTENT, "types": {}}, status=400))["error"]
    await control("PUT", account, {"status": "closed"})
    assert (await client.send(StatusCallback=CALLBACK)).status == 403


async def test_inbound_on_demand(
    twilio: TwilioSimulator, client: Client, http: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    """By kind, or any form; the SIDs are those of what must come out at the other end; trouble is listed."""
    control = Control(http, twilio.control_url)
    twilio.state_of(client.sender).webhook["callback_url"] = endpoint.url
    mine = f"/numbers/{client.sender.phone_number}/inbound"
    posted = await control("POST", mine, {"kind": "text", "arguments": {"body": "Oi"}, "count": 3, "seed": 5})
    assert [(one["status"], one["tries"]) for one in posted] == [(200, 1)] * 3
    assert [one["message_sid"] for one in posted] == [one.fields["MessageSid"] for one in endpoint.posts]
    form = twilio.inbound(client.sender).location()
    endpoint.answer = (200, "text/plain", "OK")
    assert (await control("POST", mine, {"form": form}))[0]["status"] == 200
    assert endpoint.posts[-1].form == form
    trouble = await control("GET", "/trouble")
    assert [one["body"] for one in trouble["spoken"]] == ["OK"]
    assert (trouble["leaks"], trouble["alerts"]) == ([], [])


async def test_mistakes_are_answered_as_such(
    twilio: TwilioSimulator, client: Client, http: aiohttp.ClientSession
) -> None:
    """404 for what is unknown, 400 that names the field, 408 for a wait in vain."""
    control = Control(http, twilio.control_url)
    await control("GET", "/nothing", status=404)
    assert "no number +1" in (await control("POST", "/numbers/+1/faults", {}, status=404))["error"]
    mine = f"/numbers/{client.sender.phone_number}"
    assert (
        "seconds"
        in (await control("POST", f"{mine}/faults", {"queue": [{"fault": "hang", "seconds": 1}]}, status=400))["error"]
    )
    assert "no webhook URL" in (await control("POST", f"{mine}/inbound", {}, status=400))["error"]
    await control("POST", f"{mine}/inbound", {"arguments": {"colour": "red"}}, status=400)
    await control("POST", f"{mine}/inbound", {"form": [["Body", "x"]]}, status=400)
    await control("GET", "/wait?accepted=1&timeout_s=0.01", status=408)
