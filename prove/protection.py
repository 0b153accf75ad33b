"""What a provider in trouble costs its neighbours and itself; measured by the tests, and by `make prove`."""

import asyncio
import statistics
from time import monotonic
from typing import Any

from ingress.dev.sandbox import ErrorCode, Hang
from tests.gateway import Answer, Organization, eventually

DOWN = ErrorCode(code=131016, http_status=503)  # the provider says itself that it took nothing
SENDS, EVERY_S = 300, 0.01
# Of which a process calls its provider for 100 at once: the others wait.
FLOOD, WAITING = 150, 50
SAVED_UP = 15
PACED, PACE_S = 60, 0.025


async def calls_per_send(organization: Organization) -> tuple[float, set[int]]:
    """SENDS through a provider that answers 503 to everything, one each EVERY_S: calls for each, and their answers.

    SAVED_UP more come before, all at once, and are counted too: they spend the budget that quiet seconds have saved up,
    and open the breaker.
    """
    meta, [number, *_] = organization.gateway.meta, organization.numbers

    def calls() -> int:
        return meta.call_count("POST messages", number.phone_number_id)

    await meta.set_default(number, DOWN)
    before, sent = calls(), []
    await asyncio.gather(*(organization.send() for _ in range(SAVED_UP)))
    for place in range(SENDS):
        sent.append(asyncio.create_task(organization.send({"to": f"+55119{place:08d}", "body": "x"})))
        await asyncio.sleep(EVERY_S)
    answers = await asyncio.gather(*sent)
    return (calls() - before) / (SAVED_UP + SENDS), {answer.status for answer in answers}


async def flooded(flooding: Organization, steady: Organization) -> tuple[float, float, list[Answer]]:
    """p99 in seconds of *steady*'s sends, before and while *flooding* floods a provider that hangs; its answers.

    That provider hangs on.
    """
    alone = await paced(steady)
    await flooding.gateway.meta.set_default(flooding.numbers[0], Hang())
    flood = [
        await flooding.send({"to": f"+55119{place:08d}", "body": "x"}, prefer="respond-async") for place in range(FLOOD)
    ]
    await eventually(lambda: waiting(flooding), lambda found: found == WAITING)
    return alone, await paced(steady), flood


async def waiting(organization: Organization) -> Any:
    """How many sends wait for one of their provider's calls to end."""
    text = (await organization.gateway.metrics()).raw.decode()
    [line] = [line for line in text.splitlines() if line.startswith("whatsapp_ingress_bulkhead_waiting ")]
    return float(line.rpartition(" ")[2])


async def paced(organization: Organization) -> float:
    """p99 in seconds of PACED sends, one each PACE_S."""
    took: list[float] = []

    async def send(place: int) -> None:
        started = monotonic()
        answer = await organization.send({"to": f"+55118{place:08d}", "body": "x"})
        assert answer.status == 200
        took.append(monotonic() - started)

    sends = []
    for place in range(PACED):
        sends.append(asyncio.create_task(send(place)))
        await asyncio.sleep(PACE_S)
    await asyncio.gather(*sends)
    return statistics.quantiles(took, n=100)[98]
