"""Faults of the simulated WAHA server: what the caller sees, and what the adapter makes of it; the truth is kept."""

import errno

import aiohttp
import pytest

from ingress.dev.sandbox import (
    Accept,
    AnyFault,
    Bare5xx,
    Bare5xxAfterAccept,
    EmptyAnswer,
    ErrorCode,
    Refuse,
    ResetAfterAccept,
    Slow,
    Throttle429,
    WahaSimulator,
    example_session,
)
from providers import AccountBroken, Rejected, Restricted, SendError, Text, Throttled, Uncertain, Unsupported

from .test_sandbox_faults import BREAKS, patience_s
from .waha_kit import Phone

# The answer's status, and what the adapter takes it for; None: it is an acceptance.
ANSWERS: list[tuple[AnyFault, int, type[SendError] | None, bool]] = [
    (Accept(), 201, None, True),
    (Slow(seconds=0.001), 201, None, True),
    (EmptyAnswer(), 200, Uncertain, True),
    (EmptyAnswer(accepted=False), 200, Uncertain, False),
    (Bare5xx(), 502, Uncertain, False),
    (Bare5xxAfterAccept(status=504), 504, Uncertain, True),
    (Throttle429(retry_after=7), 429, Throttled, False),
    (Throttle429(body=False), 429, Throttled, False),
    (ErrorCode(code=401), 401, AccountBroken, False),
    (ErrorCode(code=404), 404, AccountBroken, False),
    (ErrorCode(code=413), 413, Unsupported, False),
    (ErrorCode(code=422, message="no"), 422, Rejected, False),
    (ErrorCode(code=463), 500, Restricted, False),
    (ErrorCode(code=479), 500, Uncertain, False),
    (ErrorCode(code=500), 500, Uncertain, False),
    (ErrorCode(code=500, message="rate-overlimit"), 500, Throttled, False),
    (ErrorCode(code=1, http_status=503), 503, Uncertain, False),
]


@pytest.mark.parametrize(("fault", "error", "accepted"), BREAKS, ids=str)
async def test_a_broken_answer(phone: Phone, fault: AnyFault, error: type[Exception], accepted: bool) -> None:
    """The exact exception; whether the message went out is in the ground truth alone. One send uses it up."""
    await phone.waha.script(phone.session, fault)
    with pytest.raises(error) as raised:
        await phone.post("sendText", timeout=patience_s(error))
    if isinstance(raised.value, aiohttp.ClientOSError):
        assert raised.value.errno == errno.ECONNRESET
    await phone.waha.settled()
    assert len(phone.waha.accepted) == accepted
    assert (phone.waha.sends[0].id is not None) is accepted
    assert phone.waha.sends[0].fault == fault.__struct_config__.tag
    assert (await phone.post("sendText", text="again")).status == 201


@pytest.mark.parametrize(("fault", "status", "meaning", "accepted"), ANSWERS, ids=str)
async def test_an_answer_is_as_scripted(
    phone: Phone, fault: AnyFault, status: int, meaning: type[SendError] | None, accepted: bool
) -> None:
    """Over the wire, and again through the adapter, which must take it for what it is."""
    await phone.waha.script(phone.session, fault, fault)
    answer = await phone.post("sendText")
    assert (answer.status, len(phone.waha.accepted)) == (status, accepted)
    sending = phone.adapter.send_message(phone.message(Text(body="x")))
    if meaning is None:
        await phone.run(sending)
        return
    with pytest.raises(meaning) as raised:
        await phone.run(sending)
    if fault == Throttle429(retry_after=7):
        assert raised.value.retry_after_s == 7
    assert phone.session.api_key not in str(raised.value.detail)


async def test_a_lost_answer_is_found_by_its_id(phone: Phone) -> None:
    """The message is asked for, and a second send with the id would be none."""
    await phone.waha.script(phone.session, ResetAfterAccept())
    message = phone.message(Text(body="Oi"))
    with pytest.raises(aiohttp.ClientOSError):
        await phone.run(phone.adapter.send_message(message))
    found = await phone.run(phone.adapter.find_message(message))
    assert found is not None
    assert phone.waha.by_id(found.provider_message_id) is not None
    await phone.run(phone.adapter.send_message(message))
    assert (len(phone.waha.accepted), phone.waha.sends[1].repeated) == (1, True)


async def test_what_is_refused_for_its_content_uses_up_no_fault(phone: Phone) -> None:
    await phone.waha.script(phone.session, Bare5xx())
    assert (await phone.post("sendText", text="")).status == 400
    assert (await phone.post("sendText")).status == 502


async def test_refusals_are_of_one_port(phone: Phone, waha: WahaSimulator, http: aiohttp.ClientSession) -> None:
    """Other sessions live; the port opens again, by itself or when cleared."""
    other = example_session(2)
    await waha.add_session(other)
    await waha.script(phone.session, Accept(), Refuse(seconds=0.05))
    assert (await phone.post("sendText")).status == 201
    with pytest.raises(aiohttp.ClientConnectorError):
        await phone.post("sendText")
    assert (await Phone(waha, other, http).post("sendText")).status == 201
    await waha.wait_for(lambda: waha.state_of(phone.session).listener.is_open)
    assert (await phone.post("sendText")).status == 201


async def test_a_standing_fault_meets_other_calls_too_where_it_is_to(phone: Phone) -> None:
    path = f"/api/sessions/{phone.session.name}"
    await phone.waha.set_default(phone.session, ErrorCode(code=500))
    assert (await phone.call("GET", path))[0] == 200
    await phone.waha.set_default(phone.session, ErrorCode(code=500), everything=True)
    assert (await phone.call("GET", path))[0] == 500
    assert (await phone.call("GET", "/api/sessions", key=phone.waha.api_key))[0] == 200
    await phone.waha.clear_faults(phone.session)
    assert (await phone.call("GET", path))[0] == 200
