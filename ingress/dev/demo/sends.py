"""Messages go out, twenty at a time, while the active number refuses connections for a while."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..sandbox import Refuse, message_id_of
from .checks import ReplayedSend, SendOutcome, SendRecord
from .screen import Bar, Screen
from .stage import Stage

CONCURRENCY = 20
REPLAYED = 20
STALLED_S = 15.0
LOOK_EVERY_S = 0.1


async def play_sends(screen: Screen, stage: Stage, sends: int) -> SendRecord:
    """Scene 2: *sends* messages; for the middle third the active number refuses connections."""
    screen.line(
        f"\n2. {sends:,} sends, {CONCURRENCY} at a time; during the second third the active provider refuses "
        "connections. The fallback must take over, and nobody may get a message twice."
    )
    first, second = sends // 3, 2 * sends // 3
    with screen.progress() as progress:
        bar = progress.bar("sent", sends)
        outcomes = await _send_all(stage, range(first), bar)
        # Between two sends and not during one: a call cut in its middle may have been taken by the provider, and
        # the service rightly holds it instead of sending it again. That is another scene.
        await stage.meta.set_default(stage.active, Refuse())
        bar.say("sent, provider down")
        outcomes += await _send_all(stage, range(first, second), bar, outage=True)
        await stage.meta.clear_faults(stage.active)
        bar.say("sent")
        outcomes += await _send_all(stage, range(second, sends), bar)
        statuses = await _settled(stage, outcomes, progress.bar("read by people", sends))
        calls = len(stage.meta.sends)
        replays = await _replay(stage, outcomes[:: max(1, sends // REPLAYED)][:REPLAYED])
    accepted = [message_id_of(message.tracker or "") for message in stage.meta.accepted]
    fallback = stage.fallback.phone_number_id
    return SendRecord(
        outcomes=outcomes,
        accepted=dict(Counter(accepted)),
        by_fallback={
            message_id_of(message.tracker or "")
            for message in stage.meta.accepted
            if message.phone_number_id == fallback
        },
        statuses=statuses,
        replays=replays,
        calls_of_replays=len(stage.meta.sends) - calls,
        repeated=len(stage.crm.duplicates()),
        unnamed=sum(
            event.type in ("message.status", "message.echo") and not event.names_ours
            for event in await stage.api.events()
        ),
    )


async def _send_all(stage: Stage, indexes: Sequence[int], bar: Bar, *, outage: bool = False) -> list[SendOutcome]:
    """Send the messages of *indexes*, CONCURRENCY at a time; their outcomes, in order."""
    free = asyncio.Semaphore(CONCURRENCY)

    async def one(index: int) -> SendOutcome:
        async with free:
            answer = await stage.api.call("POST", "/send", _body(index), _key(index))
            bar.advance(1)
            return SendOutcome(index=index, outage=outage, status=answer.status, answer=answer.json)

    return list(await asyncio.gather(*(one(index) for index in indexes)))


def _key(index: int) -> dict[str, str]:
    return {"idempotency-key": f"demo-{index}"}


def _body(index: int) -> dict[str, Any]:
    """A message to a person of its own: a text, a picture or a place."""
    to = f"+55118{index:08d}"
    contents: list[dict[str, Any]] = [
        {"type": "text", "body": f"Your order {index} is on its way."},
        {"type": "image", "url": "https://shop.example/parcel.jpg", "caption": "Your parcel"},
        {"type": "location", "latitude": -23.5614, "longitude": -46.6558, "name": "MASP"},
    ]
    return {"to": to, "content": contents[index % len(contents)]}


async def _settled(stage: Stage, outcomes: list[SendOutcome], bar: Bar) -> dict[str, str]:
    """Message id -> status, once all are delivered or read, or nothing changes any more."""
    wanted = {outcome.answer.get("id") for outcome in outcomes}
    changed_at, former = time.monotonic(), Counter[str]()
    while True:
        messages = await stage.api.messages()
        statuses = {message["id"]: message["status"] for message in messages if message["id"] in wanted}
        now = Counter(statuses.values())
        bar.at(now["read"] + now["played"])
        if now != former:
            changed_at, former = time.monotonic(), now
        if now["read"] + now["played"] >= len(wanted) or time.monotonic() - changed_at > STALLED_S:
            return statuses
        await asyncio.sleep(LOOK_EVERY_S)


async def _replay(stage: Stage, outcomes: list[SendOutcome]) -> list[ReplayedSend]:
    """POST the same sends again, under their old keys."""
    replays = []
    for outcome in outcomes:
        again = await stage.api.call("POST", "/send", _body(outcome.index), _key(outcome.index))
        marked = again.headers.get("idempotency-replayed") == "true"
        same = (again.status, again.json) == (outcome.status, outcome.answer)
        replays.append(ReplayedSend(index=outcome.index, marked=marked, same=same))
    return replays
