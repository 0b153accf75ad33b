"""What was seen against what is true. Pure: a record in, rows of the final table out.

True is what the simulators know: which messages they posted and had answered 200, what they accepted, what the CRM
got. What the service says of itself is only ever the other side of a comparison.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

REACHED = {"delivered", "read", "played"}  # statuses of messages that people have


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    what: str
    expected: str
    seen: str
    reason: str = ""  # what is wrong; empty: nothing

    @property
    def ok(self) -> bool:
        return not self.reason


# ---------------------------------------------------------------- events


class SeenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as somebody got it."""

    id: str
    sequence: int
    type: str
    provider_message_id: str | None
    body: bytes
    names_ours: bool = False  # a message that was sent here, by our id of it


class _EventMessage(msgspec.Struct):
    provider_message_id: str | None = None
    id: str | None = None


class _EventData(msgspec.Struct):
    message: _EventMessage | None = None


class _Event(msgspec.Struct):
    id: str
    sequence: int
    type: str
    data: _EventData


_decoder = msgspec.json.Decoder(_Event)


def seen(body: bytes) -> SeenEvent:
    """The event in *body*. Raises `msgspec.MsgspecError` where there is none."""
    event = _decoder.decode(body)
    message = event.data.message or _EventMessage()
    return SeenEvent(
        id=event.id,
        sequence=event.sequence,
        type=event.type,
        provider_message_id=message.provider_message_id,
        body=body,
        names_ours=message.id is not None,
    )


# ---------------------------------------------------------------- receiving


class Posted(msgspec.Struct, kw_only=True):
    """What the provider posted. Only what was answered 200 counts as the service's."""

    posts: int
    repeated: int
    by_person: dict[str, list[str]]  # ids of the messages answered 200, in the order they were posted
    unanswered: list[str]

    @property
    def ids(self) -> list[str]:
        return [message_id for ids in self.by_person.values() for message_id in ids]

    @property
    def count(self) -> int:
        return sum(len(ids) for ids in self.by_person.values())


class WebhookRecord(msgspec.Struct, kw_only=True):
    posted: Posted
    stored: list[SeenEvent]  # from GET /events, in its order
    received: list[SeenEvent]  # by the CRM, each at its first receipt
    repeated: int  # events the CRM received more than once
    changed: int  # events of which the CRM got different bytes
    unverified: int  # deliveries whose signature or time was wrong
    overlaps: int  # deliveries that began while another of their conversation was under way


class CrashRecord(msgspec.Struct, kw_only=True):
    posted: Posted
    stored: list[SeenEvent]
    killed: bool
    acked_before_kill: int


def check_webhooks(record: WebhookRecord) -> list[CheckResult]:
    posted = record.posted
    return [
        _answered(posted),
        _once("in GET /events", posted, record.stored),
        _rising(record.stored),
        _once("delivered to the CRM", posted, record.received),
        _same_bytes(record),
        _ordered("people whose messages arrived in order", posted, record.received),
        _none("events delivered to the CRM twice", record.repeated),
        _none("deliveries with a wrong signature", record.unverified),
        _none("deliveries begun before the last one of their conversation ended", record.overlaps),
    ]


def check_crash(record: CrashRecord) -> list[CheckResult]:
    posted = record.posted
    return [
        CheckResult(
            what="SIGKILL while POSTs arrive",
            expected="yes",
            seen=f"after {record.acked_before_kill:,} messages" if record.killed else "no",
            reason="" if record.killed else "all were answered before the kill",
        ),
        _answered(posted),
        _once("in GET /events", posted, record.stored),
        _ordered("people whose messages are stored in order", posted, record.stored),
    ]


def _answered(posted: Posted) -> CheckResult:
    return CheckResult(
        what=f"messages in {posted.posts:,} POSTs ({posted.repeated:,} of them repeats) answered 200",
        expected=f"{posted.count + len(posted.unanswered):,}",
        seen=f"{posted.count:,}",
        reason=_listed("never answered 200", posted.unanswered),
    )


def _once(what: str, posted: Posted, events: Sequence[SeenEvent]) -> CheckResult:
    """Whether each message answered 200 is among *events* exactly once, and nothing is that nobody posted."""
    counts = Counter(event.provider_message_id or "" for event in events)
    truth = posted.ids
    # A POST may be stored though its answer was lost: neither demanded nor wrong.
    known = {*truth, *posted.unanswered}
    reasons = (
        _listed("missing", [message_id for message_id in truth if not counts[message_id]]),
        _listed("more than once", [message_id for message_id, count in counts.items() if count > 1]),
        _listed("never posted", [message_id for message_id in counts if message_id not in known]),
    )
    return CheckResult(
        what=f"of these {what}, exactly once",
        expected=f"{len(truth):,}",
        seen=f"{sum(counts[message_id] == 1 for message_id in truth):,}",
        reason=_joined(reasons),
    )


def _rising(events: Sequence[SeenEvent]) -> CheckResult:
    """Whether a reader with a cursor saw each event once: sequences only go up."""
    falls = [later.id for former, later in pairwise(events) if later.sequence <= former.sequence]
    return CheckResult(
        what="events in GET /events that are out of sequence",
        expected="0",
        seen=f"{len(falls):,}",
        reason=_listed("not higher than the one before", falls),
    )


def _same_bytes(record: WebhookRecord) -> CheckResult:
    stored = {event.id: event.body for event in record.stored}
    other = [event.id for event in record.received if stored.get(event.id) != event.body]
    reasons = (
        _listed("unlike GET /events", other),
        f"{record.changed:,} with different bytes at each delivery" if record.changed else "",
    )
    return CheckResult(
        what="of these, byte for byte as in GET /events",
        expected=f"{len(record.received):,}",
        seen=f"{len(record.received) - len(other):,}",
        reason=_joined(reasons),
    )


def _ordered(what: str, posted: Posted, events: Sequence[SeenEvent]) -> CheckResult:
    """Whether the messages of each person came in the order they were posted. What is missing fails another check."""
    came: dict[str | None, int] = {}
    for place, event in enumerate(events):
        came.setdefault(event.provider_message_id, place)  # the first time counts
    wrong = []
    for person, ids in posted.by_person.items():
        places = [came[message_id] for message_id in ids if message_id in came]
        if places != sorted(places):
            wrong.append(person)
    people = len(posted.by_person)
    return CheckResult(
        what=what,
        expected=f"{people:,}",
        seen=f"{people - len(wrong):,}",
        reason=_listed("out of order", wrong),
    )


# ---------------------------------------------------------------- sending


class SendOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A send and its answer."""

    index: int
    outage: bool  # sent while the active provider refused connections
    status: int
    answer: dict[str, Any]

    @property
    def message_id(self) -> str:
        """As the provider's side knows it: hex without dashes."""
        return UUID(self.answer["id"]).hex if "id" in self.answer else f"none of send {self.index}"


class ReplayedSend(msgspec.Struct, frozen=True, kw_only=True):
    """A send that was asked for again under its key."""

    index: int
    marked: bool  # as a replay
    same: bool  # status and body as the first time


class SendRecord(msgspec.Struct, kw_only=True):
    outcomes: list[SendOutcome]
    accepted: dict[str, int]  # message id -> how often the provider accepted it
    by_fallback: set[str]  # ids of the messages that the fallback number accepted
    statuses: dict[str, str]  # id -> status, from GET /messages
    replays: list[ReplayedSend]
    calls_of_replays: int  # sends that reached the provider because of them
    repeated: int  # events the CRM received more than once
    unnamed: int  # statuses and echoes without our id of their message


def check_sends(record: SendRecord) -> list[CheckResult]:
    outcomes = record.outcomes
    outage = [outcome for outcome in outcomes if outcome.outage]
    return [
        _each("sends answered 200", outcomes, [o for o in outcomes if o.status == 200]),
        _accepted_once(record),
        _each(
            "sends that the fallback took over during the outage", outage, [o for o in outage if _carried(o, record)]
        ),
        _each("sends whose answer is right about the fallback", outcomes, [o for o in outcomes if _true(o, record)]),
        _each("messages delivered or read", outcomes, [o for o in outcomes if _reached(o, record)]),
        _replayed(record),
        _none("calls to the provider caused by these", record.calls_of_replays),
        _none("events delivered to the CRM twice", record.repeated),
        _none("events about these that do not name them", record.unnamed),
    ]


def _accepted_once(record: "SendRecord | SwitchRecord") -> CheckResult:
    asked = {outcome.message_id for outcome in record.outcomes}
    once = [message_id for message_id in asked if record.accepted.get(message_id) == 1]
    reasons = (
        _listed("lost", [message_id for message_id in asked if not record.accepted.get(message_id)]),
        _listed("doubled", [message_id for message_id, count in record.accepted.items() if count > 1]),
        _listed("never asked for", [message_id for message_id in record.accepted if message_id not in asked]),
    )
    return CheckResult(
        what="messages the provider accepted exactly once",
        expected=f"{len(record.outcomes):,}",
        seen=f"{len(once):,}",
        reason=_joined(reasons),
    )


def _carried(outcome: SendOutcome, record: SendRecord) -> bool:
    return outcome.answer.get("fallback_from") is not None and outcome.message_id in record.by_fallback


def _true(outcome: SendOutcome, record: SendRecord) -> bool:
    return (outcome.answer.get("fallback_from") is not None) == (outcome.message_id in record.by_fallback)


def _reached(outcome: SendOutcome, record: SendRecord) -> bool:
    return record.statuses.get(outcome.answer.get("id", "")) in REACHED


def _replayed(record: SendRecord) -> CheckResult:
    other = [f"send {replay.index}" for replay in record.replays if not (replay.marked and replay.same)]
    return CheckResult(
        what="repeated Idempotency-Keys answered as before, as a replay",
        expected=f"{len(record.replays):,}",
        seen=f"{len(record.replays) - len(other):,}",
        reason=_listed("answered differently", other),
    )


# ---------------------------------------------------------------- switching


class TimedSend(NamedTuple):
    """When a send was asked for, and answered."""

    began: float
    ended: float


class LiveSwitch(NamedTuple):
    """A switch to a number: when it was asked for, and answered; and whether it was made."""

    began: float
    ended: float
    changed: bool
    phone_number_id: str


class SwitchRecord(msgspec.Struct, kw_only=True):
    outcomes: list[SendOutcome]
    times: list[TimedSend]  # by the index of the send
    switches: list[LiveSwitch]
    accepted: dict[str, int]  # message id -> how often a provider accepted it
    numbers: dict[str, str]  # message id -> the number that it went out from
    posted: Posted
    stored: list[SeenEvent]


def check_switches(record: SwitchRecord) -> list[CheckResult]:
    under_way = [
        any(sent.began < switch.ended and switch.began < sent.ended for sent in record.times)
        for switch in record.switches
    ]
    return [
        _all("switches made", [switch.changed for switch in record.switches]),
        _all("of these while sends were under way", under_way),
        _each("sends answered 200", record.outcomes, [o for o in record.outcomes if o.status == 200]),
        _accepted_once(record),
        _none("sends begun after a switch that went out the former way", len(_late(record))),
        _answered(record.posted),
        _once("in GET /events", record.posted, record.stored),
    ]


def _late(record: SwitchRecord) -> list[SendOutcome]:
    """Sends that began after a switch was answered, and ended before the next, from another number than that one's."""
    ends = [*(switch.began for switch in record.switches[1:]), float("inf")]
    return [
        outcome
        for switch, until in zip(record.switches, ends, strict=True)
        for outcome in record.outcomes
        if switch.ended <= record.times[outcome.index].began
        and record.times[outcome.index].ended <= until
        and record.numbers.get(outcome.message_id) != switch.phone_number_id
    ]


# ---------------------------------------------------------------- the other providers


class OtherRecord(msgspec.Struct, kw_only=True):
    """What was exchanged with people through one provider, by the provider's ids."""

    provider: str
    posted: list[str]  # inbound messages that were answered well
    stored: list[str]  # from GET /events
    sent: list[str]  # as POST /send answered them
    accepted: list[str]  # as the provider knows them
    statuses: list[str]  # of the messages that were sent, from GET /messages
    unnamed: int  # events about these without our id of it


def check_others(records: Iterable[OtherRecord]) -> list[CheckResult]:
    return [check for record in records for check in _check_other(record)]


def _check_other(record: OtherRecord) -> list[CheckResult]:
    reached = [status for status in record.statuses if status in REACHED]
    return [
        _same(f"{record.provider}: messages in GET /events, exactly once", record.posted, record.stored),
        _same(f"{record.provider}: messages that it accepted, exactly once", record.sent, record.accepted),
        CheckResult(
            what=f"{record.provider}: of these delivered or read",
            expected=f"{len(record.sent):,}",
            seen=f"{len(reached):,}",
            reason="" if len(reached) == len(record.sent) else f"statuses are {sorted(set(record.statuses))}",
        ),
        _none(f"{record.provider}: events about these that do not name them", record.unnamed),
    ]


def _same(what: str, expected: Sequence[str], found: Sequence[str]) -> CheckResult:
    counts = Counter(found)
    reasons = (
        _listed("missing", [one for one in expected if one not in counts]),
        _listed("doubled", [one for one, count in counts.items() if count > 1]),
        _listed("unknown", [one for one in counts if one not in set(expected)]),
    )
    right = sum(counts[one] == 1 for one in expected)
    return CheckResult(what=what, expected=f"{len(expected):,}", seen=f"{right:,}", reason=_joined(reasons))


# ---------------------------------------------------------------- rows


def _each(what: str, wanted: Sequence[SendOutcome], right: Sequence[SendOutcome]) -> CheckResult:
    fine = {outcome.index for outcome in right}
    wrong = [
        f"send {outcome.index}: {outcome.status} {outcome.answer.get('code', '')}".rstrip()
        for outcome in wanted
        if outcome.index not in fine
    ]
    return CheckResult(what=what, expected=f"{len(wanted):,}", seen=f"{len(right):,}", reason=_listed("wrong", wrong))


def _all(what: str, right: Sequence[bool]) -> CheckResult:
    wrong = [f"switch {place}" for place, is_right in enumerate(right) if not is_right]
    return CheckResult(what=what, expected=f"{len(right):,}", seen=f"{sum(right):,}", reason=_listed("not", wrong))


def _none(what: str, count: int) -> CheckResult:
    return CheckResult(what=what, expected="0", seen=f"{count:,}", reason=f"{count:,} too many" if count else "")


def _listed(what: str, items: Sequence[str]) -> str:
    """`2 missing (a, b)`, with three examples at most; empty where there are none."""
    if not items:
        return ""
    examples = ", ".join([*items[:3], *(["…"] if len(items) > 3 else [])])
    return f"{len(items):,} {what} ({examples})"


def _joined(reasons: Iterable[str]) -> str:
    return "; ".join(reason for reason in reasons if reason)
