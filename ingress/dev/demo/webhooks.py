"""People write: many at once, with duplicates, in order within each conversation; and again around a SIGKILL."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from ..sandbox import CrmSimulator, MetaInbound, message_ids
from ..sandbox.meta.bodies import Body
from .checks import CrashRecord, Posted, SeenEvent, WebhookRecord, seen
from .screen import Bar, Screen
from .service import Service
from .stage import Stage

# A lane is a group of people whose webhooks are posted one after the other, so that their order is defined.
LANES, PEOPLE_OF_A_LANE = 10, 5
MOST_IN_A_POST = 8
REPEATED = 0.1  # of the POSTs
# Nothing new for so long: it will not come, and the checks say what is missing.
STALLED_S = 15.0
LOOK_EVERY_S = 0.05
# Of the POSTs' messages, how many are in before the service is killed.
KILL_AFTER = 1 / 3

Took = Callable[[int], Awaitable[None]]  # called with the number of messages of each POST that was answered 200


async def play_webhooks(screen: Screen, stage: Stage, messages: int) -> WebhookRecord:
    """Scene 1: *messages* come in, some POSTs twice; wait until the CRM has them all."""
    screen.line(
        f"\n1. {messages:,} messages from {LANES * PEOPLE_OF_A_LANE} people arrive in batches, "
        f"{REPEATED:.0%} of the POSTs twice. Each message must reach the CRM once, and in order."
    )
    inbox = Inbox(stage.crm)
    with screen.progress() as progress:
        posted_bar, delivered_bar = progress.bar("posted", messages), progress.bar("with the CRM", messages)

        async def took(count: int) -> None:
            posted_bar.advance(count)

        async with asyncio.TaskGroup() as tasks:
            posting = tasks.create_task(post_all(stage, messages, seed=1, took=took))
            tasks.create_task(_show_inbox(inbox, posting, delivered_bar))
    return WebhookRecord(
        posted=posting.result(),
        stored=messages_of(await stage.api.events()),
        received=inbox.events,
        repeated=len(stage.crm.duplicates()),
        changed=len(stage.crm.changed_bytes()),
        unverified=len(stage.crm.unverified()),
        overlaps=len(stage.crm.overlaps()),
    )


async def play_crash(screen: Screen, stage: Stage, service: Service, messages: int) -> CrashRecord:
    """Scene 3: the service is killed in the middle of *messages*; what was answered 200 must be there once.

    Checked in `GET /events` and not at the CRM: conversations that were being delivered by the killed process
    wait for its lease to run out, which is longer than anybody wants to watch.
    """
    screen.line(
        f"\n3. {messages:,} more messages. While they arrive the service is killed (SIGKILL) and restarted; "
        "the provider repeats what was not answered."
    )
    before = await stage.api.events()
    after = before[-1].sequence if before else 0
    acked_before_kill = 0
    killed = asyncio.Event()
    with screen.progress() as progress:
        bar = progress.bar("posted", messages)

        async def took(count: int) -> None:
            nonlocal acked_before_kill
            bar.advance(count)
            if killed.is_set():
                return
            acked_before_kill += count
            if acked_before_kill >= messages * KILL_AFTER:
                killed.set()
                service.kill()
                bar.say("killed, restarting")
                service.start()
                await service.ready(stage.session)
                bar.say("posted")

        posted = await post_all(stage, messages, seed=2, took=took)
    return CrashRecord(
        posted=posted,
        stored=messages_of(await stage.api.events(after)),
        killed=killed.is_set(),
        acked_before_kill=acked_before_kill,
    )


async def post_all(stage: Stage, messages: int, *, seed: int, took: Took) -> Posted:
    """Post *messages* over all lanes; what was posted, and what of it was never answered 200."""
    posted = Posted(posts=0, repeated=0, by_person={}, unanswered=[])
    shares = [messages // LANES + (lane < messages % LANES) for lane in range(LANES)]
    async with asyncio.TaskGroup() as tasks:
        for lane, share in enumerate(shares):
            people = stage.meta.inbound(stage.active, seed=seed * 1_000 + lane, people=PEOPLE_OF_A_LANE)
            dice = random.Random(seed * 1_000 + lane)  # noqa: S311  (shuffles a scene, protects nothing)
            tasks.create_task(_post_lane(stage, _bodies(people, share, dice), dice, posted, took))
    return posted


def _bodies(people: MetaInbound, messages: int, dice: random.Random) -> Iterator[Body]:
    """Webhooks with *messages* of all kinds in all, in one or several entries each."""
    while messages > 0:
        size = min(messages, dice.randint(1, MOST_IN_A_POST))
        messages -= size
        yield people.batch(size, entries=dice.randint(1, min(2, size)))


async def _post_lane(stage: Stage, bodies: Iterator[Body], dice: random.Random, posted: Posted, took: Took) -> None:
    for body in bodies:
        ids = message_ids(body)
        copies = 2 if dice.random() < REPEATED else 1
        at_once = dice.random() < 0.5
        posted.posts += copies
        posted.repeated += copies - 1
        if copies > 1 and at_once:
            results = list(await asyncio.gather(*(stage.meta.post(stage.active, body) for _ in range(copies))))
        else:
            results = [await stage.meta.post(stage.active, body) for _ in range(copies)]
        if not any(result is not None and result.delivered for result in results):
            # The provider gave up; what its people wrote after that would be out of order anyway.
            posted.unanswered += [*ids, *(message_id for rest in bodies for message_id in message_ids(rest))]
            return
        for person, message_id in _by_person(body):
            posted.by_person.setdefault(person, []).append(message_id)
        await took(len(ids))


def _by_person(body: Body) -> Iterator[tuple[str, str]]:
    """(person, message id) of all messages of *body*, in its order."""
    for entry in body["entry"]:
        for change in entry["changes"]:
            for message in change["value"]["messages"]:
                yield message["from"], message["id"]


class Inbox:
    """The messages a CRM received, each at its first receipt, in that order."""

    def __init__(self, crm: CrmSimulator) -> None:
        self._crm = crm
        self._looked_at = 0
        self.events: list[SeenEvent] = []

    def look(self) -> int:
        """Read what is new; how many messages there are by now."""
        fresh = list(islice(self._crm.received.values(), self._looked_at, None))
        self._looked_at += len(fresh)
        self.events += messages_of([seen(attempt.body) for attempt in fresh if attempt.body is not None])
        return len(self.events)


async def _show_inbox(inbox: Inbox, posting: "asyncio.Task[Posted]", bar: Bar) -> None:
    """Follow *inbox* until it has whatever was posted, or nothing more comes."""
    changed_at, count = time.monotonic(), 0
    while True:
        looked = inbox.look()
        bar.at(looked)
        if looked != count or not posting.done():
            changed_at, count = time.monotonic(), looked
        complete = posting.done() and looked >= posting.result().count
        if complete or time.monotonic() - changed_at > STALLED_S:
            return
        await asyncio.sleep(LOOK_EVERY_S)


def messages_of(events: list[SeenEvent]) -> list[SeenEvent]:
    """What people wrote, of all *events*."""
    return [event for event in events if event.type == "message.received"]
