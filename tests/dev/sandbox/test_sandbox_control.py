"""Another process can do and see over HTTP what a test in this one does over methods."""

import asyncio
import json
import signal
import sys
from typing import Any

import aiohttp
import msgspec
import pytest

from ingress.dev.sandbox import CrmSimulator, MetaNumber, MetaSimulator, example_number

from .conftest import Hooks, Send, bearer, text_body
from .test_sandbox_crm import SECRET, event, signed


class Control:
    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self.http = http
        self.base = base

    async def __call__(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        async with self.http.request(method, f"{self.base}/_control{path}", json=body) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()


async def test_numbers_faults_and_ground_truth(
    meta: MetaSimulator, number: MetaNumber, http: aiohttp.ClientSession, hooks: Hooks, send: Send
) -> None:
    """A whole scene: add a number, script it, send, look, wait, reset."""
    control = Control(http, meta.control_url)
    other = example_number(2, webhook_url=hooks.url)
    added = await control("POST", "/numbers", {**msgspec.to_builtins(other), "own_port": True})
    mine = f"/numbers/{other.phone_number_id}"
    await control("PUT", f"{mine}/statuses", {"statuses": ["sent"]})
    faults = {"queue": [{"fault": "error_code", "code": 131026}], "default": {"fault": "refuse"}}
    await control("POST", f"{mine}/faults", faults)
    scripted = await control("GET", f"{mine}/faults")
    assert [(one["fault"], one["code"]) for one in scripted["queue"]] == [("error_code", 131026)]
    assert scripted["default"] == {"fault": "refuse", "seconds": None}
    url = f"{added['url']}/v25.0/{other.phone_number_id}/messages"
    async with http.post(url, json=text_body(), headers=bearer(other)) as answer:
        assert (await answer.json())["error"]["code"] == 131026
    with pytest.raises(aiohttp.ClientConnectorError):
        await http.post(url, json=text_body(), headers=bearer(other))
    assert [one["open"] for one in await control("GET", "/numbers")] == [True, False]
    await control("DELETE", f"{mine}/faults")
    async with http.post(url, json=text_body("gw1:M9:2"), headers=bearer(other)) as answer:
        assert answer.status == 200
    counts = await control("GET", "/wait?accepted=1&delivered=1&settled=1")
    assert (counts["accepted"], counts["sends"], counts["webhooks_delivered"]) == (1, 2, 1)
    for query in ("message_id=M9", "tracker=gw1:M9:2", f"phone_number_id={other.phone_number_id}", "after=0"):
        found = await control("GET", f"/accepted?{query}")
        assert [one["tracker"] for one in found["accepted"]] == ["gw1:M9:2"]
    assert (await control("GET", "/accepted?after=1")) == {"accepted": [], "duplicates": {}}
    calls = await control("GET", f"/sends?phone_number_id={other.phone_number_id}")
    assert [(call["fault"], call["wamid"] is not None) for call in calls] == [
        ("error_code", False),
        (None, True),
    ]
    assert (await control("GET", "/calls")) == {f"{other.phone_number_id} POST messages": 2}
    await control("PUT", f"{mine}/fields", {"quality_rating": "RED"})
    assert meta.state_of(other).fields == {"quality_rating": "RED"}
    await control("PUT", f"{mine}/templates", [{"id": "1", "name": "promo"}])
    assert meta.templates[other.waba_id] == [{"id": "1", "name": "promo"}]
    await control("POST", "/reset")
    assert (await control("GET", ""))["numbers"] == {}


async def test_inbound_on_demand(meta: MetaSimulator, http: aiohttp.ClientSession, hooks: Hooks) -> None:
    """By kind, in batches, or any body; the ids are those of what must come out at the other end."""
    control = Control(http, meta.control_url)
    number = example_number(1, webhook_url=hooks.url)
    await meta.add_number(number)
    mine = f"/numbers/{number.phone_number_id}/inbound"
    posted = await control("POST", mine, {"kind": "text", "arguments": {"body": "Oi"}, "count": 3, "seed": 5})
    assert [(one["status"], one["tries"], len(one["message_ids"])) for one in posted] == [(200, 1, 1)] * 3
    [batch] = await control("POST", mine, {"kind": "batch", "arguments": {"messages": 9, "entries": 3}})
    assert len(set(batch["message_ids"])) == 9
    body = meta.inbound(number, seed=9).text()
    assert (await control("POST", mine, {"body": body}))[0]["status"] == 200
    assert json.loads(hooks.posts[-1][1]) == body
    assert len(hooks.posts) == 5


async def test_mistakes_are_answered_as_such(
    meta: MetaSimulator, number: MetaNumber, http: aiohttp.ClientSession
) -> None:
    """404 for what is unknown, 400 that names the field, 408 for a wait in vain."""
    control = Control(http, meta.control_url)
    await control("GET", "/nothing", status=404)
    assert "no number 1" in (await control("POST", "/numbers/1/faults", {}, status=404))["error"]
    mine = f"/numbers/{number.phone_number_id}"
    wrong = await control("POST", f"{mine}/faults", {"queue": [{"fault": "hang", "seconds": 1}]}, status=400)
    assert "seconds" in wrong["error"]
    assert "no webhook URL" in (await control("POST", f"{mine}/inbound", {}, status=400))["error"]
    await control("POST", f"{mine}/inbound", {"arguments": {"colour": "red"}}, status=400)
    await control("GET", "/wait?accepted=1&timeout_s=0.01", status=408)


async def test_the_crm_is_controlled_likewise(crm: CrmSimulator, http: aiohttp.ClientSession) -> None:
    """Secrets, answers, attempts, checks, refusal, reset."""
    control = Control(http, crm.control_url)
    url = (await control("PUT", "/secrets", {"secrets": [SECRET]}))["url"]
    assert url == crm.url

    async def deliver(sequence: int) -> int:
        body = event(sequence)
        async with http.post(url, data=body, headers=signed(f"evt_{sequence}", body)) as answer:
            return answer.status

    await control("POST", "/answers", {"queue": [{"answer": "crm_status", "status": 503}]})
    assert [await deliver(sequence) for sequence in (1, 2, 1, 2)] == [503, 200, 200, 200]
    counts = await control("GET", "/wait?received=2&attempts=4")
    assert counts["attempts"] == 4
    assert await control("GET", "/received") == ["evt_2", "evt_1"]
    assert [one["status"] for one in await control("GET", "/attempts?event_id=evt_1")] == [503, 200]
    assert len(await control("GET", "/attempts?after=3")) == 1
    assert await control("GET", "/bodies?event_id=evt_1") == [event(1).decode()] * 2
    assert await control("POST", "/check", {"ids": ["evt_1", "evt_7"]}) == {
        "duplicates": {"evt_2": 2},
        "changed_bytes": {},
        "inversions": [{"conversation_id": "c1", "later": 2, "earlier": 1}],
        "overlaps": [],
        "missing": ["evt_7"],
        "unverified": [],
    }
    await control("POST", "/answers", {"default": {"answer": "crm_status", "status": 410}, "conversation": "c1"})
    assert await deliver(3) == 410
    await control("DELETE", "/answers")
    assert await deliver(3) == 200
    await control("POST", "/refuse", {"refuse": True})
    with pytest.raises(aiohttp.ClientConnectorError):
        await deliver(4)
    await control("POST", "/refuse", {"refuse": False})
    await control("POST", "/reset")
    assert (await control("GET", ""))["attempts"] == 0


async def test_the_command_prints_its_urls_and_stops_on_sigterm(http: aiohttp.ClientSession) -> None:
    """One JSON line, six working addresses, exit status 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ingress.dev.sandbox", "--meta-port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        urls = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        for one in ("meta", "waha", "crm"):
            assert (await Control(http, urls[one]["control_url"])("GET", ""))["url"] == urls[one]["url"]
        assert (await http.get(urls["meta"]["url"] + "/v25.0/1")).status == 401
        assert (await http.get(urls["waha"]["url"] + "/api/sessions")).status == 401
        assert (await http.post(urls["crm"]["url"])).status == 401
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
