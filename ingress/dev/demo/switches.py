"""The active provider is switched, back and forth, while messages go out and come in."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from ..sandbox import message_id_of
from .checks import LiveSwitch, SendOutcome, SwitchRecord, TimedSend
from .screen import Bar, Screen
from .sends import CONCURRENCY
from .stage import ServiceApi, Stage
from .webhooks import messages_of, post_all

SWITCHES = 6
# Sends between two switches at least: enough that some are under way in each.
SENDS_BETWEEN = 3 * CONCURRENCY


async def play_switches(screen: Screen, stage: Stage, messages: int) -> SwitchRecord:
    """Scene 5: SWITCHES switches between two numbers, under load all the time."""
    screen.line(
        f"\n5. {SWITCHES} switches between two numbers, while {CONCURRENCY} sends at a time go out and {messages:,} "
        "messages come in. Nothing may be lost or doubled, and what is sent after a switch goes out the new way."
    )
    before, accepted_before = await stage.api.events(), len(stage.meta.accepted)
    load = _Load(stage.api)
    with screen.progress() as progress:
        posted_bar = progress.bar("posted", messages)

        async def took(count: int) -> None:
            posted_bar.advance(count)

        async with asyncio.TaskGroup() as tasks:
            switching = tasks.create_task(_switch_all(stage, load, progress.bar("switched", SWITCHES)))
            posting = tasks.create_task(post_all(stage, messages, seed=5, took=took))
            for _ in range(CONCURRENCY):
                tasks.create_task(load.send_while(lambda: not (switching.done() and posting.done())))
    accepted = stage.meta.accepted[accepted_before:]
    return SwitchRecord(
        outcomes=load.outcomes,
        times=load.times,
        switches=switching.result(),
        accepted=dict(Counter(message_id_of(message.tracker or "") for message in accepted)),
        numbers={message_id_of(message.tracker or ""): message.phone_number_id for message in accepted},
        posted=posting.result(),
        stored=messages_of(await stage.api.events(before[-1].sequence if before else 0)),
    )


class _Load:
    """Sends, one after the other by each who calls `send_while`."""

    def __init__(self, api: ServiceApi) -> None:
        self._api = api
        self._sent = asyncio.Condition()
        self.outcomes: list[SendOutcome] = []
        self.times: list[TimedSend] = []

    async def send_while(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            index = len(self.times)
            began = time.monotonic()
            self.times.append(TimedSend(began, began))
            body = {"to": f"+55116{index:08d}", "body": f"Your order {index} is on its way."}
            answer = await self._api.call("POST", "/send", body, {"idempotency-key": f"switching-{index}"})
            self.times[index] = TimedSend(began, time.monotonic())
            self.outcomes.append(SendOutcome(index=index, outage=False, status=answer.status, answer=answer.json))
            async with self._sent:
                self._sent.notify_all()

    async def go_on(self, sends: int) -> None:
        """Until so many more have ended."""
        wanted = len(self.outcomes) + sends
        async with self._sent:
            await self._sent.wait_for(lambda: len(self.outcomes) >= wanted)


async def _switch_all(stage: Stage, load: _Load, bar: Bar) -> list[LiveSwitch]:
    configs = (await stage.api.must("GET", "/integrations/whatsapp/provider/configs"))["configs"]
    number_of = {config["config_id"]: config["config_data"]["phone_number_id"] for config in configs}
    active, spare = sorted(configs, key=lambda config: config["state"] != "active")
    made = []
    for _ in range(SWITCHES):
        await load.go_on(SENDS_BETWEEN)
        active, spare = spare, active
        began = time.monotonic()
        body = {"config_id": active["config_id"], "reason": "the demo"}
        answer = await stage.api.call("POST", "/integrations/whatsapp/provider/switch", body)
        changed = answer.status == 200 and answer.json["changed"]
        made.append(LiveSwitch(began, time.monotonic(), changed, number_of[active["config_id"]]))
        bar.advance(1)
    await load.go_on(SENDS_BETWEEN)
    return made
