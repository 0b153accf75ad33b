"""The rules of the proof, each against a history that breaks it; one that is right breaks none."""

from collections.abc import Callable

import msgspec
import pytest

from prove.history import (
    Attempt,
    Call,
    DeliveredSend,
    Down,
    History,
    MessageRow,
    Read,
    Sample,
    Send,
    Switch,
    check,
)

A, B = "config-a", "config-b"


def right() -> History:
    """A active at 1 and 3, B at 2. Sends in each time, of a process that was killed, and one that a switch overtook."""
    return History(
        switches=[
            Switch(0.0, A, None, 1.0, 200, 1, A, True),
            Switch(10.0, B, 1, 11.0, 200, 2, B, True),
            Switch(15.0, B, None, 15.1, 200, 2, B, False),
            Switch(16.0, B, 1, 16.1, 409, 2),
            Switch(20.0),
        ],
        sends=[
            Send("first", 5.0, [200], 6.0, A),
            Send("overtaken", 9.9, [200], 11.5, A),
            Send("second", 12.0, [200], 13.0, B),
            Send("killed", 19.9, [None, 409]),
            Send("nobody knows", 19.9, [None, None, 504]),
            Send("third", 30.0, [202]),
        ],
        messages=[
            MessageRow("first", "m1", "done", "delivered"),
            MessageRow("overtaken", "m2", "done", "read"),
            MessageRow("second", "m3", "done", "sent"),
            MessageRow("killed", "m4", "done", "delivered"),
            MessageRow("nobody knows", "m5", "done", "unknown"),
            MessageRow("third", "m6", "done", "delivered"),
        ],
        attempts=[
            Attempt("m1", 1, 1, A, 5.1),
            Attempt("m2", 1, 1, A, 9.95),
            Attempt("m3", 1, 2, B, 12.1),
            Attempt("m4", 1, 2, B, 19.95),
            Attempt("m5", 1, 2, B, 19.95),
            Attempt("m6", 1, 3, A, 30.1),
        ],
        deliveries=[
            DeliveredSend("m1", A),
            DeliveredSend("m2", A),
            DeliveredSend("m3", B),
            DeliveredSend("m4", B),
            DeliveredSend("m6", A),
        ],
        calls=[
            Call("webhook", "one", 1.0, 1.1, 200),
            Call("webhook", "one", 19.99, 20.1, None),
            Call("switch", "one", 20.0, 20.1, None),
            Call("send", "one", 20.0, 20.1, 409),
        ],
        acknowledged=["w1"],
        posted=["w1", "w2"],
        received=["w1", "w2"],
        down=[Down("one", 20.05, 21.0)],
        reads=[
            Read("one, life 1", 9.0, 9.1, 1, A),
            Read("one, life 1", 12.0, 12.1, 1, A),
            Read("one, life 1", 12.9, 13.0, 2, B),
            Read("one, life 2", 30.0, 30.1, 3, A),
        ],
        samples=[
            Sample(1, A, {A: "active", B: "configured"}),
            Sample(1, A, {A: "active", B: "switching"}),
            Sample(2, B, {A: "inactive", B: "active"}),
            Sample(3, A, {A: "active", B: "inactive"}),
        ],
        trail=[(1, A), (2, B), (3, A)],
        announced=[(1, A), (2, B), (3, A)],
        version=3,
    )


def test_a_history_that_is_right() -> None:
    assert check(right()) == []


def test_an_empty_history() -> None:
    assert check(History()) == []


Doctor = Callable[[History], object]

DOCTORED: dict[str, tuple[Doctor, str]] = {
    "a gap": (lambda h: h.trail.__setitem__(2, (4, A)), "not 1 to 3"),
    "a version twice in the trail": (lambda h: h.trail.insert(2, (2, B)), "not 1 to 4"),
    "an end that is another": (lambda h: setattr(h, "version", 4), "is at version 4"),
    "a version acknowledged twice": (
        lambda h: h.switches.append(Switch(17.0, B, None, 18.0, 200, 2, B, True)),
        "acknowledged 2 times",
    ),
    "a switch that is not in the trail": (lambda h: setattr(h.switches[1], "config", A), "not in the trail"),
    "a switch that was not asked for": (lambda h: h.switches.pop(), "no answer named"),
    "a wrong expectation that won": (lambda h: setattr(h.switches[1], "expected", 0), "expected version 0 made"),
    "a right expectation that lost": (lambda h: setattr(h.switches[3], "expected", 2), "refused at version 2"),
    "a refusal without an expectation": (lambda h: setattr(h.switches[3], "expected", None), "refused at version 2"),
    "a switch that failed": (lambda h: setattr(h.switches[2], "status", 502), "answered 502"),
    "an answer of the past": (
        lambda h: h.switches.append(Switch(18.0, A, None, 18.1, 200, 1, A, False)),
        "got version 1 after 2",
    ),
    "a broken chain": (lambda h: setattr(h, "broken", "entry 3 was changed"), "chain is broken"),
    "a switch without an entry": (lambda h: h.announced.append((4, B)), "trail differ"),
    "a switch without an event": (lambda h: h.announced.pop(), "trail differ"),
    "a switch announced twice": (lambda h: h.announced.append((3, A)), "announced twice"),
    "an attempt the old way after the answer": (
        lambda h: h.attempts.__setitem__(2, Attempt("m3", 1, 1, A, 12.1)),
        "began after version 2 was acknowledged",
    ),
    "a later attempt the old way": (
        lambda h: h.attempts.append(Attempt("m3", 2, 1, A, 12.2)),
        "attempt 2 of m3",
    ),
    "an attempt ahead of its time": (
        lambda h: h.attempts.__setitem__(0, Attempt("m1", 1, 2, B, 5.1)),
        "ended before anything above 1",
    ),
    "a version with another's config": (
        lambda h: h.attempts.__setitem__(0, Attempt("m1", 1, 1, B, 5.1)),
        "not active then",
    ),
    "a lost send": (lambda h: h.messages.pop(), "is lost"),
    "a send that did not end": (lambda h: setattr(h.messages[5], "state", "sending"), "has not ended"),
    "a send that failed": (lambda h: setattr(h.messages[0], "status", "failed"), "ended as failed"),
    "an unknown end without a reason": (lambda h: setattr(h.messages[0], "status", "unknown"), "ended as unknown"),
    "a send that nobody got": (lambda h: h.deliveries.pop(), "nobody got it"),
    "a send that was refused": (lambda h: h.sends[0].statuses.insert(0, 503), "answered 503"),
    "a conflict out of nothing": (lambda h: h.sends[0].statuses.insert(0, 409), "answered 409"),
    "a send delivered twice": (lambda h: h.deliveries.append(DeliveredSend("m1", A)), "delivered 2 times"),
    "a send through both": (lambda h: h.deliveries.append(DeliveredSend("m3", A)), "not active in versions 2 to 2"),
    "a call without an intent": (lambda h: h.attempts.pop(0), "without an attempt"),
    "a delivery of nothing": (lambda h: h.deliveries.append(DeliveredSend("m9", A)), "none of ours"),
    "an answer that names another": (lambda h: setattr(h.sends[0], "config", B), "was answered with"),
    "a message of nobody": (lambda h: h.messages.append(MessageRow("?", "m9", "done", "sent")), "nobody sent"),
    "a webhook refused": (lambda h: setattr(h.calls[0], "status", 503), "refused by one with 503"),
    "a webhook without an answer": (lambda h: setattr(h.calls[0], "status", None), "from one, alive"),
    "a switch without an answer": (lambda h: h.down.clear(), "from one, alive"),
    "a webhook lost": (lambda h: h.received.remove("w1"), "is no event"),
    "a webhook doubled": (lambda h: h.received.append("w2"), "is 2 events"),
    "an event of nobody": (lambda h: h.received.append("w9"), "nobody posted"),
    "a process that goes back": (
        lambda h: h.reads.insert(3, Read("one, life 1", 13.1, 13.2, 1, A)),
        "after it had given 2",
    ),
    "a process that stays behind": (lambda h: setattr(h.reads[1], "asked", 13.5), "2 s after 2 was"),
    "a process ahead of its time": (lambda h: setattr(h.reads[0], "version", 2), "before it was asked for"),
    "a process that mixes": (lambda h: setattr(h.reads[3], "config", B), "which was not active then"),
    "two active": (lambda h: setattr(h.samples[2], "states", {A: "active", B: "active"}), "mixed"),
    "none active": (lambda h: setattr(h.samples[2], "states", {A: "inactive", B: "switching"}), "mixed"),
    "version and config of two times": (lambda h: setattr(h.samples[2], "version", 3), "mixed"),
    "a database that goes back": (lambda h: h.samples.reverse(), "went from version 3 to 2"),
    "a switch left under way": (
        lambda h: setattr(h.samples[-1], "states", {A: "active", B: "switching"}),
        "left under way",
    ),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_history_that_was_doctored(name: str) -> None:
    """Each rule sees what it is for, and says so."""
    doctor, words = DOCTORED[name]
    history = right()
    doctor(history)
    found = check(history)
    assert [line for line in found if words in line], found


def test_a_history_survives_its_file() -> None:
    """What a failed run leaves can be read and checked again."""
    assert msgspec.json.decode(msgspec.json.encode(right()), type=History) == right()
