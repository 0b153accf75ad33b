"""What a run saw, and the rules it is held against. Pure: no clock, no network, nothing of the service.

Versions are unique and totally ordered, so linearizability comes down to bounds. What begins after a switch was
acknowledged is at its version or above (`Bounds.floor`); what ends before a switch was asked for is below its version
(`Bounds.ceiling`). All times are Unix seconds by the one clock of the machine.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, pairwise

import msgspec

# A process that no notification reaches reads the database by itself: what it answers is never older than this.
STALE_AT_MOST_S = 2.0
TAKEN = ("sent", "delivered", "read", "played")
# After these nobody knows whether it was done: no answer, and that the service was too busy or cut off.
OPEN = (None, 503)


class Switch(msgspec.Struct):
    """A request to switch or roll back. ``answered`` None: the answer was lost, and the switch made or not."""

    asked: float
    target: str | None = None  # config; None: a rollback
    expected: int | None = None
    answered: float | None = None
    status: int | None = None
    version: int | None = None  # as answered, also by a 409
    config: str | None = None
    changed: bool = False


class Send(msgspec.Struct):
    """A send under an idempotency key: each answer it got, None for one that was lost with its process."""

    key: str
    asked: float
    statuses: list[int | None] = []
    answered: float | None = None
    config: str | None = None  # as answered


class MessageRow(msgspec.Struct):
    """The row of a send, after all is over."""

    key: str
    id: str
    state: str
    status: str


class Attempt(msgspec.Struct):
    """The row of a call to a provider, ``begun`` by the database's clock."""

    message: str
    number: int
    version: int
    config: str
    begun: float


class DeliveredSend(msgspec.Struct):
    """The provider's own word that a person got a message, and from which config's number."""

    message: str
    config: str


class Call(msgspec.Struct):
    """One request to a process. ``status`` None: no answer."""

    kind: str  # webhook, send, switch or read
    process: str
    asked: float
    answered: float
    status: int | None


class Down(msgspec.Struct):
    """A process from its kill until it answers again."""

    process: str
    since: float
    until: float


class Read(msgspec.Struct):
    """What a process answered is active. ``process`` names one life of it."""

    process: str
    asked: float
    answered: float
    version: int
    config: str


class Sample(msgspec.Struct):
    """What the database had at one moment."""

    version: int
    active: str
    states: dict[str, str]  # by config


class History(msgspec.Struct):
    switches: list[Switch] = []
    sends: list[Send] = []
    messages: list[MessageRow] = []
    attempts: list[Attempt] = []
    deliveries: list[DeliveredSend] = []
    calls: list[Call] = []
    acknowledged: list[str] = []  # the facts in webhooks that were answered 200
    posted: list[str] = []  # those in any webhook
    received: list[str] = []  # those that are events
    down: list[Down] = []
    reads: list[Read] = []
    samples: list[Sample] = []
    trail: list[tuple[int, str]] = []  # (version, config) of each `activated` entry, in the trail's order
    announced: list[tuple[int, str]] = []  # the same of each `provider.switched` event
    version: int = 0  # of the organization, in the end
    broken: str | None = None  # what is wrong with the audit chain


def check(history: History) -> list[str]:
    """Every violation, in words; none is the proof."""
    bounds = Bounds(history)
    return [
        *_versions(history, bounds),
        *_trail(history),
        *_attempts(history, bounds),
        *_sends(history),
        *_deliveries(history, bounds),
        *_calls(history),
        *_webhooks(history),
        *_reads(history, bounds),
        *_samples(history, bounds),
    ]


class Bounds:
    """Between which versions something must be that happened at some time."""

    def __init__(self, history: History) -> None:
        self.config_of = dict(history.trail)
        last = max(self.config_of, default=0)
        made = {one.version: one for one in history.switches if one.changed}
        lost = [one for one in history.switches if one.status in OPEN]
        known = [one for one in history.switches if one.status == 200 and one.answered and one.version]
        self._acknowledged = _steps([(one.answered or 0.0, one.version or 0) for one in known])
        # A version whose answer was lost was asked for by one of those whose answer was: at the earliest by the first.
        self._asked = _steps(
            [
                (made[version].asked if version in made else _earliest(lost, config), version)
                for version, config in self.config_of.items()
            ]
        )
        self._last = last

    def floor(self, at: float) -> int:
        """The highest version that was acknowledged before *at*."""
        times, versions = self._acknowledged
        place = bisect_left(times, at)
        return versions[place - 1] if place else 0

    def ceiling(self, at: float | None) -> int:
        """The highest version that was asked for before *at*; None: at any time."""
        times, versions = self._asked
        place = len(times) if at is None else bisect_right(times, at)
        return versions[place - 1] if place else 0


def _steps(found: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    """Times in order, and the highest version up to each."""
    found.sort()
    return [at for at, _ in found], list(accumulate((version for _, version in found), max))


def _earliest(lost: list[Switch], config: str) -> float:
    return min((one.asked for one in lost if one.target in (None, config)), default=float("inf"))


def _versions(history: History, bounds: Bounds) -> Iterator[str]:
    versions = [version for version, _ in history.trail]
    if versions != list(range(1, len(versions) + 1)):
        yield f"versions in the trail are not 1 to {len(versions)}, each once: {_odd(versions)}"
    if history.version != len(versions):
        yield f"the organization is at version {history.version}, its trail at {len(versions)}"
    made = [one for one in history.switches if one.changed]
    for version, times in Counter(one.version for one in made).items():
        if times > 1:
            yield f"version {version} was acknowledged {times} times"
    for one in history.switches:
        if one.answered is None:
            continue
        what = f"the switch to {one.target or 'the former config'} that was asked at {one.asked:.3f}"
        if one.status == 409:
            if one.expected is None or one.version == one.expected:
                yield f"{what} with expected version {one.expected} was refused at version {one.version}"
        elif one.status != 200:
            yield f"{what} was answered {one.status}"
        elif bounds.config_of.get(one.version or 0) != one.config:
            yield f"{what} was acknowledged as version {one.version} of {one.config}, which is not in the trail"
        elif one.changed and one.expected is not None and one.version != one.expected + 1:
            yield f"{what} with expected version {one.expected} made version {one.version}"
        elif (one.version or 0) < bounds.floor(one.asked):
            yield f"{what} got version {one.version} after {bounds.floor(one.asked)} was acknowledged"
    unknown = sorted(set(versions) - {one.version for one in made})
    lost = sum(one.status in OPEN for one in history.switches)
    if len(unknown) > lost:
        yield f"{len(unknown)} versions were made that no answer named, and {lost} answers lost: {unknown[:9]}"


def _trail(history: History) -> Iterator[str]:
    if history.broken:
        yield f"the audit chain is broken: {history.broken}"
    if missing := set(history.trail) ^ set(history.announced):
        yield f"events and trail differ in {sorted(missing)[:5]}"
    if len(history.announced) != len(set(history.announced)):
        yield "a switch was announced twice"


def _attempts(history: History, bounds: Bounds) -> Iterator[str]:
    key_of = {one.id: one.key for one in history.messages}
    ended = {one.key: one.answered for one in history.sends}
    for one in history.attempts:
        what = f"attempt {one.number} of {one.message} at version {one.version}, begun at {one.begun:.6f},"
        if bounds.config_of.get(one.version) != one.config:
            yield f"{what} went through {one.config}, which was not active then"
        if one.version < (floor := bounds.floor(one.begun)):
            yield f"{what} began after version {floor} was acknowledged"
        if one.version > (ceiling := bounds.ceiling(ended.get(key_of.get(one.message, "")))):
            yield f"{what} ended before anything above {ceiling} was asked for"


def _sends(history: History) -> Iterator[str]:
    messages = {one.key: one for one in history.messages}
    taken = Counter(one.message for one in history.deliveries)
    for one in history.sends:
        lost = any(status in OPEN for status in one.statuses)
        for place, status in enumerate(one.statuses):
            again = any(former in OPEN for former in one.statuses[:place])
            if status in (200, 202, None) or (status in (409, 504) and again):
                continue
            yield f"send {one.key} was answered {status}"
        message = messages.get(one.key)
        if message is None:
            yield f"send {one.key} is lost: answers {one.statuses}, and there is no message"
            continue
        times = taken[message.id]
        if times > 1:
            yield f"send {one.key} was delivered {times} times"
        if message.state != "done":
            yield f"send {one.key} has not ended: {message.state}"
        elif message.status in TAKEN:
            if not times:
                yield f"send {one.key} is {message.status}, and nobody got it"
        elif message.status != "unknown" or not lost:
            yield f"send {one.key} ended as {message.status}"
    if nobody := set(messages) - {one.key for one in history.sends}:
        yield f"messages that nobody sent: {sorted(nobody)[:5]}"


def _deliveries(history: History, bounds: Bounds) -> Iterator[str]:
    """By the provider's word alone: which config it was, against what clients saw."""
    key_of = {one.id: one.key for one in history.messages}
    sends = {one.key: one for one in history.sends}
    intents = {(one.message, one.config) for one in history.attempts}
    for one in history.deliveries:
        send = sends.get(key_of.get(one.message, ""))
        if send is None:
            yield f"a message was delivered that is none of ours: {one.message}"
            continue
        if (one.message, one.config) not in intents:
            yield f"send {send.key} was called through {one.config} without an attempt"
        first, last = bounds.floor(send.asked), bounds.ceiling(send.answered)
        if one.config not in {bounds.config_of.get(version) for version in range(max(first, 1), last + 1)}:
            yield f"send {send.key} went through {one.config}, which was not active in versions {first} to {last}"
        if send.config not in (None, one.config):
            yield f"send {send.key} was answered with {send.config}, and went through {one.config}"


def _calls(history: History) -> Iterator[str]:
    """Only a process that was killed may leave somebody without an answer, and no webhook is refused."""
    for one in history.calls:
        if one.status is None:
            if not any(
                down.process == one.process and down.since <= one.answered and one.asked <= down.until
                for down in history.down
            ):
                yield f"a {one.kind} from {one.asked:.3f} to {one.answered:.3f} got no answer from {one.process}, alive"
        elif one.kind == "webhook" and one.status != 200:
            yield f"a webhook at {one.asked:.3f} was refused by {one.process} with {one.status}"


def _webhooks(history: History) -> Iterator[str]:
    times = Counter(history.received)
    for fact in history.acknowledged:
        if times[fact] == 0:
            yield f"webhook {fact} was acknowledged, and is no event"
    for fact, count in times.items():
        if count > 1:
            yield f"webhook {fact} is {count} events"
    if nobody := set(times) - set(history.posted):
        yield f"events that nobody posted: {sorted(nobody)[:5]}"


def _reads(history: History, bounds: Bounds) -> Iterator[str]:
    seen: dict[str, int] = {}
    for one in history.reads:
        what = f"at {one.asked:.3f} {one.process} gave version {one.version}"
        if bounds.config_of.get(one.version) != one.config:
            yield f"{what} with {one.config}, which was not active then"
        if one.version < seen.get(one.process, 0):
            yield f"{what} after it had given {seen[one.process]}"
        if one.version < (floor := bounds.floor(one.asked - STALE_AT_MOST_S)):
            yield f"{what}, {STALE_AT_MOST_S:.0f} s after {floor} was acknowledged"
        if one.version > bounds.ceiling(one.answered):
            yield f"{what} before it was asked for"
        seen[one.process] = max(one.version, seen.get(one.process, 0))


def _samples(history: History, bounds: Bounds) -> Iterator[str]:
    for one in history.samples:
        active = [config for config, state in one.states.items() if state == "active"]
        if active != [one.active] or bounds.config_of.get(one.version) != one.active:
            yield f"mixed: version {one.version} with {one.active} active, and states {one.states}"
    for before, after in pairwise(history.samples):
        if after.version < before.version:
            yield f"the database went from version {before.version} to {after.version}"
    if history.samples and "switching" in history.samples[-1].states.values():
        yield f"a switch was left under way: {history.samples[-1].states}"


def _odd(versions: list[int]) -> str:
    """Where a sequence is not the next number."""
    found = [f"{after} after {before}" for before, after in pairwise([0, *versions]) if after != before + 1]
    return ", ".join(found[:5])
