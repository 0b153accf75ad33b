"""The CRM simulator verifies as Standard Webhooks has it, finds what was planted, and fails on demand."""

import asyncio
import base64
import hmac
import io
import json
import time
from typing import Any

import aiohttp
import pytest

from ingress.dev.sandbox import CrmFlood, CrmHang, CrmReset, CrmSimulator, CrmSlow, CrmStatus
from ingress.dev.sandbox.crm.records import Inversion
from ingress.dev.sandbox.standard_webhooks import problem

SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 24).decode()


def event(sequence: int, conversation: str | None = "c1", **more: Any) -> bytes:
    data = {"conversation": {"id": conversation}} if conversation else {}
    return json.dumps(
        {"type": "message.received", "id": f"evt_{sequence}", "sequence": sequence, "data": data, **more}
    ).encode()


def signed(event_id: str, body: bytes, *secrets: str, at: float | None = None) -> dict[str, str]:
    stamp = str(int(at or time.time()))
    signatures = [
        base64.b64encode(
            hmac.new(base64.b64decode(secret[6:]), f"{event_id}.{stamp}.".encode() + body, "sha256").digest()
        ).decode()
        for secret in secrets or (SECRET,)
    ]
    header = " ".join(f"v1,{signature}" for signature in signatures)
    return {"webhook-id": event_id, "webhook-timestamp": stamp, "webhook-signature": header}


class Sender:
    def __init__(self, crm: CrmSimulator, http: aiohttp.ClientSession) -> None:
        self.crm = crm
        self.http = http

    async def deliver(self, sequence: int, conversation: str | None = "c1", timeout: float = 5.0, **more: Any) -> int:
        """The status of one delivery of event *sequence*; its connection and body are not kept."""
        body = event(sequence, conversation, **more)
        headers, limit = signed(f"evt_{sequence}", body), aiohttp.ClientTimeout(sock_read=timeout)
        async with self.http.post(self.crm.url, data=io.BytesIO(body), headers=headers, timeout=limit) as answer:
            return answer.status


@pytest.fixture
def sender(crm: CrmSimulator, http: aiohttp.ClientSession) -> Sender:
    crm.set_secret(SECRET)
    return Sender(crm, http)


def test_the_specifications_own_vector_verifies() -> None:
    """The example of the Standard Webhooks libraries; any other byte, id, time or secret does not."""
    secret, event_id, stamp, body = (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        b'{"test": 2432232314}',
    )
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    now = float(stamp) + 299
    assert problem(headers, body, [secret], now=now) is None
    assert problem(headers, body + b" ", [secret], now=now) == "no signature matches"
    assert problem({**headers, "webhook-id": "msg_x"}, body, [secret], now=now) == "no signature matches"
    assert problem(headers, body, [OTHER], now=now) == "no signature matches"
    assert problem(headers, body, [OTHER, secret], now=now) is None
    assert problem(headers, body, [], now=now) == "no secret is known"
    assert problem(headers, body, [secret], now=now + 2) == "webhook-timestamp is too old or too new"
    for odd in ("v1", "v1,", "v1,%%%", "v1a," + "A" * 44, "", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="):
        assert problem({**headers, "webhook-signature": odd}, body, [secret], now=now) is not None
    several = f"v1,{'A' * 44} v1a,abc {headers['webhook-signature']}"
    assert problem({**headers, "webhook-signature": several}, body, [secret], now=now) is None
    assert problem({**headers, "webhook-timestamp": "soon"}, body, [secret], now=now) is not None


async def test_only_verified_deliveries_are_received(
    crm: CrmSimulator, sender: Sender, http: aiohttp.ClientSession
) -> None:
    """A wrong signature, secret or id is answered 401, recorded with its reason, and never received."""
    body = event(1)

    async def post(headers: dict[str, str], url: str = crm.url) -> int:
        async with http.post(url, data=body, headers=headers) as answer:
            return answer.status

    assert await post(signed("evt_1", body + b" ")) == 401
    assert await post(signed("evt_1", body, OTHER)) == 401
    assert await post(signed("evt_2", body)) == 401
    assert await post({}) == 401
    assert await post(signed("evt_1", body), crm.url_for("elsewhere")) == 401
    assert await post(signed("evt_1", body), crm.url + "/x/y") == 404
    assert len(crm.unverified()) == 5
    assert crm.missing(["evt_1"]) == ["evt_1"]
    assert await post(signed("evt_1", body, OTHER, SECRET)) == 200  # one of two signatures is enough
    crm.set_secret(OTHER, SECRET)
    assert await post(signed("evt_1", body, OTHER)) == 200
    assert crm.received["evt_1"].body == body
    with pytest.raises(ValueError, match="whsec_"):
        crm.set_secret("plain")


async def test_planted_faults_of_the_sender_are_found(crm: CrmSimulator, sender: Sender) -> None:
    """A duplicate, changed bytes, an inversion and a missing event, each by its own checker and no other."""
    for sequence in (1, 2, 4, 3, 5):
        await sender.deliver(sequence, "c1")
        await sender.deliver(sequence + 100, "c2" if sequence != 4 else None)
    assert crm.inversions() == [Inversion("c1", 4, 3)]
    assert crm.duplicates() == {}
    await sender.deliver(2, "c1")
    assert crm.duplicates() == {"evt_2": 2}
    assert crm.changed_bytes() == {}
    crm.script(CrmStatus(status=503))
    assert await sender.deliver(5, "c1", timestamp="later") == 503
    assert crm.changed_bytes() == {"evt_5": 2}
    assert crm.duplicates() == {"evt_2": 2}
    assert crm.inversions() == [Inversion("c1", 4, 3)]
    assert crm.missing(["evt_1", "evt_6"]) == ["evt_6"]
    assert [one["sequence"] for one in crm.events()][:3] == [1, 101, 2]
    assert list(crm.received)[:3] == ["evt_1", "evt_101", "evt_2"]
    assert crm.overlaps() == []


async def test_order_is_that_of_the_first_success(crm: CrmSimulator, sender: Sender) -> None:
    """A retry of an event that failed is in order; a later event that overtook it is not."""
    crm.script(CrmStatus(status=500), CrmStatus(), CrmStatus())
    assert [await sender.deliver(sequence) for sequence in (1, 1, 2)] == [500, 200, 200]
    assert crm.inversions() == []
    crm.script(CrmStatus(status=500))
    assert [await sender.deliver(sequence) for sequence in (3, 4, 3)] == [500, 200, 200]
    assert crm.inversions() == [Inversion("c1", 4, 3)]


async def test_two_in_flight_of_one_conversation_are_seen(crm: CrmSimulator, sender: Sender) -> None:
    """Only the same conversation counts."""
    crm.set_default(CrmSlow(seconds=0.1))
    await asyncio.gather(sender.deliver(1, "c1"), sender.deliver(2, "c2"))
    assert crm.overlaps() == []
    await asyncio.gather(sender.deliver(3, "c1"), sender.deliver(4, "c1"))
    assert [conversation for conversation, _ in crm.overlaps()] == ["c1"]


async def test_answers_are_as_scripted(crm: CrmSimulator, sender: Sender) -> None:
    """Status with Retry-After, 410, hang, reset, slow; none but 2xx in time is a receipt."""
    crm.script(CrmStatus(status=429, retry_after=2), CrmStatus(status=410), CrmHang(), CrmReset())
    crm.script(CrmSlow(seconds=1), CrmSlow(seconds=0.001, status=204))
    body = event(1)
    async with sender.http.post(crm.url, data=body, headers=signed("evt_1", body)) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
    assert await sender.deliver(1) == 410
    with pytest.raises(aiohttp.SocketTimeoutError):
        await sender.deliver(1, timeout=0.25)
    with pytest.raises(aiohttp.ClientOSError):
        await sender.deliver(1)
    with pytest.raises(aiohttp.SocketTimeoutError):
        await sender.deliver(1, timeout=0.25)
    assert crm.received == {}
    assert await sender.deliver(1) == 204
    assert [attempt.status for attempt in crm.attempts] == [429, 410, None, None, None, 204]
    assert crm.duplicates() == {}


async def test_a_conversation_may_fail_alone(crm: CrmSimulator, sender: Sender) -> None:
    """Its script goes before the endpoint's; clearing brings 200 back."""
    crm.set_default(CrmStatus(status=503), conversation="c2")
    assert [await sender.deliver(1, "c1"), await sender.deliver(2, "c2")] == [200, 503]
    crm.clear_answers()
    assert await sender.deliver(2, "c2") == 200


async def test_a_flood_is_streamed_as_far_as_it_is_read(crm: CrmSimulator, sender: Sender) -> None:
    """200 MB promised, 16 KiB read, the connection dropped: nobody holds the rest."""
    crm.script(CrmFlood())
    body = event(1)
    async with sender.http.post(crm.url, data=body, headers=signed("evt_1", body)) as answer:
        assert answer.content_length == 200 * 1024 * 1024
        assert len(await answer.content.readexactly(16384)) == 16384
        answer.close()
    assert crm.received["evt_1"].status == 200
    crm.script(CrmFlood(size_bytes=100_000, status=500))
    async with sender.http.post(crm.url, data=body, headers=signed("evt_1", body)) as answer:
        assert (answer.status, len(await answer.read())) == (500, 100_000)


async def test_a_crm_may_be_down_and_come_back(crm: CrmSimulator, sender: Sender) -> None:
    """Connections are refused in between; the URL stays."""
    await crm.refuse()
    with pytest.raises(aiohttp.ClientConnectorError):
        await sender.deliver(1)
    await crm.resume()
    assert await sender.deliver(1) == 200


async def test_waiting_is_for_events_and_ends_with_a_timeout(crm: CrmSimulator, sender: Sender) -> None:
    """wait_for returns as soon as it holds, and names the condition when it does not."""
    waiting = asyncio.create_task(crm.wait_received(1))
    await sender.deliver(1)
    await waiting
    assert (await crm.wait_for(lambda: crm.attempts))[0].first
    with pytest.raises(TimeoutError, match=r"not within 0.01 s; the condition is 0"):
        await crm.wait_for(lambda: len(crm.unverified()), timeout=0.01)


async def test_large_deliveries_are_taken_and_bodies_may_be_forgotten(http: aiohttp.ClientSession) -> None:
    """3 MB of raw is a real size; without bodies the checkers still compare digests."""
    async with CrmSimulator(keep_bodies=False) as crm:
        crm.set_secret(SECRET)
        sender = Sender(crm, http)
        assert await sender.deliver(1, raw="x" * 3_000_000) == 200
        assert await sender.deliver(1, raw="y") == 200
        assert crm.attempts[0].body is None
        assert crm.changed_bytes() == {"evt_1": 2}
        await crm.reset()
        assert (crm.attempts, crm.duplicates()) == ([], {})
        assert await sender.deliver(1) == 200  # the secret stays
