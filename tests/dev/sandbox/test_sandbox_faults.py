"""Each fault does to a TCP client what its name says, and the ground truth knows what was accepted."""

import asyncio
import errno

import aiohttp
import pytest
import uvloop

from ingress.dev.sandbox import (
    Accept,
    AnyFault,
    Bare5xx,
    Bare5xxAfterAccept,
    EmptyAnswer,
    ErrorCode,
    HalfAnswer,
    Hang,
    HangAfterAccept,
    MetaNumber,
    MetaSimulator,
    Refuse,
    ResetAfterAccept,
    ResetBeforeAccept,
    Slow,
    StatusPolicy,
    Throttle429,
    example_number,
)

from .conftest import Send, bearer, text_body

RESET = aiohttp.ClientOSError
BREAKS: list[tuple[AnyFault, type[Exception], bool]] = [
    (Hang(), aiohttp.SocketTimeoutError, False),
    (HangAfterAccept(), aiohttp.SocketTimeoutError, True),
    (ResetBeforeAccept(), RESET, False),
    (ResetAfterAccept(), RESET, True),
    (HalfAnswer(), aiohttp.ClientPayloadError, True),
    (Slow(seconds=0.6), aiohttp.SocketTimeoutError, True),
]


def patience_s(error: type[Exception]) -> float:
    """Short where a timeout is what is waited for; else nothing that another program can make too short."""
    return 0.25 if error is aiohttp.SocketTimeoutError else 5.0


ANSWERS: list[tuple[AnyFault, int, str, bool]] = [
    (Accept(), 200, "application/json", True),
    (Slow(seconds=0.001), 200, "application/json", True),
    (EmptyAnswer(), 200, "application/json", True),
    (EmptyAnswer(accepted=False), 200, "application/json", False),
    (Bare5xx(), 502, "text/html", False),
    (Bare5xxAfterAccept(status=504), 504, "text/html", True),
    (Throttle429(retry_after=1.5), 429, "application/json", False),
    (Throttle429(body=False), 429, "application/octet-stream", False),
    (ErrorCode(code=131026), 400, "application/json", False),
    (ErrorCode(code=131000), 500, "application/json", False),
]


@pytest.mark.parametrize(("fault", "error", "accepted"), BREAKS, ids=str)
async def test_a_broken_answer_raises_as_aiohttp_documents(
    meta: MetaSimulator,
    number: MetaNumber,
    send: Send,
    fault: AnyFault,
    error: type[Exception],
    accepted: bool,
) -> None:
    """The caller sees the exact exception; whether the message went out is in the ground truth alone."""
    await meta.script(number, fault)
    with pytest.raises(error) as raised:
        await send(timeout=patience_s(error))
    assert not isinstance(raised.value, aiohttp.ClientConnectorError)  # that would mean: never arrived
    if isinstance(raised.value, aiohttp.ClientOSError):
        assert raised.value.errno == errno.ECONNRESET
    assert fault.accepts is accepted
    await meta.settled()
    assert len(meta.by_tracker("gw1:M1:1")) == accepted
    assert (meta.sends[0].wamid is not None) is accepted
    assert meta.sends[0].fault == fault.__struct_config__.tag
    assert (await send()).status == 200  # one send used it up


@pytest.mark.parametrize(("fault", "status", "content_type", "accepted"), ANSWERS, ids=str)
async def test_an_answer_is_as_scripted(
    meta: MetaSimulator,
    number: MetaNumber,
    send: Send,
    fault: AnyFault,
    status: int,
    content_type: str,
    accepted: bool,
) -> None:
    """Status, type and ground truth of every fault that still answers."""
    await meta.script(number, fault)
    answer = await send()
    assert (answer.status, answer.content_type, fault.accepts) == (status, content_type, accepted)
    assert len(meta.accepted) == accepted
    if isinstance(fault, Throttle429):
        assert answer.headers.get("Retry-After") == (None if fault.retry_after is None else "1.5")
    if isinstance(fault, ErrorCode):
        assert (await answer.json())["error"]["code"] == fault.code == meta.sends[0].error_code
    if isinstance(fault, EmptyAnswer):
        assert await answer.read() == b""


async def test_refused_numbers_have_refused_connections_and_others_live(
    meta: MetaSimulator, number: MetaNumber, send: Send, http: aiohttp.ClientSession
) -> None:
    """Refuse closes the number's own port, also for idle connections, and reopens it."""
    other = example_number(2)
    await meta.add_number(other)
    assert (await send()).status == 200  # leaves an idle connection in the pool
    await meta.set_default(number, Refuse())
    for _ in range(3):
        with pytest.raises(aiohttp.ClientConnectorError):
            await send()
    async with http.post(
        f"{meta.url_for(other)}/v25.0/{other.phone_number_id}/messages",
        json=text_body(),
        headers=bearer(other),
    ) as answer:
        assert answer.status == 200
    assert len(meta.sends) == 2
    before = meta.url_for(number)
    await meta.clear_faults(number)
    assert (await send()).status == 200
    assert meta.url_for(number) == before


async def test_a_queued_refusal_begins_after_the_sends_before_it_and_ends_by_itself(
    meta: MetaSimulator, number: MetaNumber, send: Send
) -> None:
    """[accept, refuse for 50 ms]: one send is answered, the next refused, later ones answered."""
    await meta.script(number, Accept(), Refuse(seconds=0.05))
    assert (await send()).status == 200
    with pytest.raises(aiohttp.ClientConnectorError):
        await send()
    await meta.wait_for(lambda: meta.state_of(number).listener.is_open)
    assert (await send()).status == 200


async def test_the_default_meets_every_send_until_cleared(
    meta: MetaSimulator, number: MetaNumber, send: Send, http: aiohttp.ClientSession
) -> None:
    """The queue goes first; `everything` makes other calls fail too, so that a health probe sees it."""
    await meta.script(number, Accept(message_status="held_for_quality_assessment"))
    await meta.set_default(number, ErrorCode(code=2))
    held = await send()
    assert (await held.json())["messages"][0]["message_status"] == "held_for_quality_assessment"
    assert [(await send()).status for _ in range(3)] == [503] * 3
    url = f"{meta.url_for(number)}/v25.0/{number.phone_number_id}"
    account = f"{meta.url_for(number)}/v25.0/{number.waba_id}/phone_numbers"
    assert (await http.get(url, headers=bearer(number))).status == 200
    await meta.set_default(number, ErrorCode(code=2), everything=True)
    assert (await http.get(url, headers=bearer(number))).status == 503
    assert (await http.get(account, headers=bearer(number))).status == 503
    await meta.clear_faults(number)
    assert (await http.get(url, headers=bearer(number))).status == 200
    assert meta.call_count("POST messages", number.phone_number_id) == 4


async def test_a_message_is_accepted_though_its_sender_hangs_up(
    meta: MetaSimulator, number: MetaNumber, send: Send
) -> None:
    """A cancelled client changes nothing about a slow acceptance."""
    await meta.script(number, Slow(seconds=0.05))
    task = asyncio.create_task(send())
    await meta.wait_for(lambda: meta.sends)
    task.cancel()
    message = await meta.wait_for(lambda: meta.accepted)
    assert message[0].tracker == "gw1:M1:1"


async def test_closing_ends_what_hangs() -> None:
    """A simulator closes at once while requests hang in it."""
    async with aiohttp.ClientSession() as http:
        async with MetaSimulator() as meta:
            number = example_number()
            await meta.add_number(number)
            await meta.set_default(number, Hang())
            url = f"{meta.url}/v25.0/{number.phone_number_id}/messages"
            task = asyncio.create_task(http.post(url, json=text_body(), headers=bearer(number)))
            await meta.wait_for(lambda: meta.sends)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(task, 60)


async def test_the_faults_are_the_same_on_uvloop() -> None:
    """The service runs on uvloop; refusals and resets depend on how a loop closes sockets."""

    async def check() -> list[str]:
        seen = []
        async with MetaSimulator() as meta, aiohttp.ClientSession() as http:
            number = example_number()
            await meta.add_number(number, own_port=True)
            meta.set_statuses(number, StatusPolicy(statuses=()))
            await meta.script(number, Accept(), ResetAfterAccept(), HalfAnswer(), Hang(), Refuse())
            url = f"{meta.url_for(number)}/v25.0/{number.phone_number_id}/messages"
            for _ in range(5):
                try:
                    timeout = aiohttp.ClientTimeout(sock_read=0.25)
                    async with http.post(url, json=text_body(), headers=bearer(number), timeout=timeout) as answer:
                        await answer.read()
                        seen.append(str(answer.status))
                except (aiohttp.ClientError, TimeoutError) as error:
                    seen.append(type(error).__name__)
            await meta.clear_faults(number)
            async with http.post(url, json=text_body(), headers=bearer(number)) as answer:
                seen.append(str(answer.status))
        return seen

    def on_uvloop() -> list[str]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(check())

    expected = [
        "200",
        "ClientOSError",
        "ClientPayloadError",
        "SocketTimeoutError",
        "ClientConnectorError",
        "200",
    ]
    assert await asyncio.to_thread(on_uvloop) == expected
