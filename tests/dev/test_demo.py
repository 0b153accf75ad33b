"""The demo: the scene plays, ends cleanly however it ends, and its checks can fail."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from rich.console import Console

from ingress.dev.demo.checks import (
    CheckResult,
    CrashRecord,
    LiveSwitch,
    OtherRecord,
    Posted,
    ReplayedSend,
    SeenEvent,
    SendOutcome,
    SendRecord,
    SwitchRecord,
    TimedSend,
    WebhookRecord,
    check_crash,
    check_others,
    check_sends,
    check_switches,
    check_webhooks,
    seen,
)
from ingress.dev.demo.screen import Screen

PLAY_S = 120


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`ingress demo` with its temporary files in *folder*, and settings that it must not look at."""
    return subprocess.Popen(
        [sys.executable, "-m", "ingress", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(folder), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# ---------------------------------------------------------------- the scene


def test_the_scene_plays_and_every_check_holds(tmp_path: Path) -> None:
    with start(tmp_path, "--webhooks", "120", "--sends", "30") as demo:
        output, _ = demo.communicate(timeout=PLAY_S)
    assert demo.returncode == 0, output
    assert "checks passed" in output
    assert "NO" not in output.split()
    assert list(tmp_path.iterdir()) == [], "the throw-away data is thrown away"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_scene_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, "--webhooks", "20000") as demo:
        assert demo.stdout is not None
        first = demo.stdout.readline()
        assert "are up" in first, first
        children = _descendants(demo.pid)
        assert len(children) >= 3  # PostgreSQL, Valkey, the service
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=PLAY_S)
    assert demo.returncode == 130, output
    assert list(tmp_path.iterdir()) == []
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def _descendants(pid: int) -> list[int]:
    """The children of a process, from Linux's own list."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


# ---------------------------------------------------------------- the checks


def event(number: int, person: str = "ana", body: bytes | None = None) -> SeenEvent:
    envelope = {
        "type": "message.received",
        "id": f"evt_{person}_{number}",
        "sequence": number,
        "data": {"message": {"provider_message_id": f"{person}-{number}"}},
    }
    return seen(msgspec.json.encode(envelope))


def events() -> list[SeenEvent]:
    """Two people taking turns."""
    return [event(number, "ana" if number % 2 else "bia") for number in range(1, 9)]


def posted() -> Posted:
    ids = {person: [f"{person}-{number}" for number in numbers] for person, numbers in _TURNS.items()}
    return Posted(posts=5, repeated=1, by_person=ids, unanswered=[])


_TURNS = {"ana": (1, 3, 5, 7), "bia": (2, 4, 6, 8)}


def webhook_record() -> WebhookRecord:
    return WebhookRecord(
        posted=posted(), stored=events(), received=events(), repeated=0, changed=0, unverified=0, overlaps=0
    )


def crash_record() -> CrashRecord:
    return CrashRecord(posted=posted(), stored=events(), killed=True, acked_before_kill=3)


def send_record() -> SendRecord:
    """Four sends, the second and third of them while the provider was down."""
    ids = [str(UUID(int=number)) for number in range(1, 5)]
    outcomes = [
        SendOutcome(
            index=index,
            outage=index in (1, 2),
            status=200,
            answer={"id": id, "fallback_from": "config-1" if index in (1, 2) else None},
        )
        for index, id in enumerate(ids)
    ]
    return SendRecord(
        outcomes=outcomes,
        accepted={UUID(id).hex: 1 for id in ids},
        by_fallback={outcomes[1].message_id, outcomes[2].message_id},
        statuses=dict.fromkeys(ids, "read"),
        replays=[ReplayedSend(index=0, marked=True, same=True)],
        calls_of_replays=0,
        repeated=0,
        unnamed=0,
    )


def failures(checks: list[CheckResult]) -> list[tuple[str, str]]:
    return [(check.what, check.reason) for check in checks if not check.ok]


def test_true_records_pass() -> None:
    checks = [*check_webhooks(webhook_record()), *check_sends(send_record()), *check_crash(crash_record())]
    assert failures(checks) == []


def swap(items: list[Any], one: int, other: int) -> None:
    items[one], items[other] = items[other], items[one]


STORED, DELIVERED = "of these in GET /events, exactly once", "of these delivered to the CRM, exactly once"
ORDER = "people whose messages arrived in order"
BYTES = "of these, byte for byte as in GET /events"


@pytest.mark.parametrize(
    ("tamper", "wrong"),
    [
        (lambda r: r.stored.pop(4), {STORED: "1 missing (ana-5)", BYTES: "evt_ana_5"}),
        (lambda r: r.stored.append(event(9, "eve")), {STORED: "1 never posted (eve-9)"}),
        (lambda r: r.stored.append(r.stored[-1]), {STORED: "1 more than once (bia-8)", "out of sequence": "evt_bia_8"}),
        (lambda r: r.received.pop(0), {DELIVERED: "1 missing (ana-1)"}),
        (lambda r: swap(r.received, 0, 2), {ORDER: "1 out of order (ana)"}),
        (lambda r: swap(r.stored, 0, 2), {"out of sequence": "evt_bia_2"}),
        (lambda r: swap(r.received, 0, 1), {}),  # two people: neither is before the other
        (
            lambda r: r.received.append(msgspec.structs.replace(r.received.pop(), body=b"{}")),
            {BYTES: "1 unlike GET /events (evt_bia_8)"},
        ),
        (lambda r: setattr(r, "changed", 1), {BYTES: "1 with different bytes"}),
        (lambda r: setattr(r, "repeated", 2), {"delivered to the CRM twice": "2 too many"}),
        (lambda r: setattr(r, "unverified", 1), {"wrong signature": "1 too many"}),
        (lambda r: setattr(r, "overlaps", 1), {"of their conversation": "1 too many"}),
        (lambda r: r.posted.unanswered.append("ana-9"), {"answered 200": "1 never answered 200 (ana-9)"}),
    ],
)
def test_tampered_webhooks_are_reported(tamper: Callable[[WebhookRecord], Any], wrong: dict[str, str]) -> None:
    record = webhook_record()
    tamper(record)
    assert_reported(check_webhooks(record), wrong)


def answer(record: SendRecord, index: int, status: int = 200, **changes: Any) -> None:
    former = record.outcomes[index]
    record.outcomes[index] = msgspec.structs.replace(former, status=status, answer={**former.answer, **changes})


@pytest.mark.parametrize(
    ("tamper", "wrong"),
    [
        (lambda r: r.accepted.pop(r.outcomes[0].message_id), {"accepted exactly once": "1 lost"}),
        (lambda r: r.accepted.update({r.outcomes[0].message_id: 2}), {"accepted exactly once": "1 doubled"}),
        (lambda r: r.accepted.update({"stray": 1}), {"accepted exactly once": "1 never asked for (stray)"}),
        (lambda r: answer(r, 3, 504, code="uncertain"), {"answered 200": "send 3: 504 uncertain"}),
        (
            lambda r: answer(r, 1, fallback_from=None),
            {"during the outage": "send 1", "right about the fallback": "send 1"},
        ),
        (lambda r: r.by_fallback.clear(), {"during the outage": "2 wrong", "right about the fallback": "2 wrong"}),
        (lambda r: r.by_fallback.add(r.outcomes[0].message_id), {"right about the fallback": "send 0"}),
        (lambda r: r.statuses.update({r.outcomes[0].answer["id"]: "sent"}), {"delivered or read": "send 0"}),
        (lambda r: r.replays.append(ReplayedSend(index=1, marked=False, same=True)), {"as a replay": "send 1"}),
        (lambda r: r.replays.append(ReplayedSend(index=1, marked=True, same=False)), {"as a replay": "send 1"}),
        (lambda r: setattr(r, "calls_of_replays", 1), {"calls to the provider": "1 too many"}),
        (lambda r: setattr(r, "repeated", 1), {"delivered to the CRM twice": "1 too many"}),
    ],
)
def test_tampered_sends_are_reported(tamper: Callable[[SendRecord], Any], wrong: dict[str, str]) -> None:
    record = send_record()
    tamper(record)
    assert_reported(check_sends(record), wrong)


@pytest.mark.parametrize(
    ("tamper", "wrong"),
    [
        (lambda r: r.stored.pop(), {STORED: "1 missing (bia-8)"}),
        (lambda r: swap(r.stored, 1, 3), {"stored in order": "bia"}),
        (lambda r: setattr(r, "killed", False), {"SIGKILL": "answered before the kill"}),
        # Stored, but the answer was lost with the process, and nobody repeated it.
        (lambda r: r.posted.unanswered.append(r.posted.by_person["bia"].pop()), {"answered 200": "bia-8"}),
    ],
)
def test_tampered_crashes_are_reported(tamper: Callable[[CrashRecord], Any], wrong: dict[str, str]) -> None:
    record = crash_record()
    tamper(record)
    assert_reported(check_crash(record), wrong)


def assert_reported(checks: list[CheckResult], wrong: dict[str, str]) -> None:
    """Just the rows that *wrong* names fail, each for its reason."""
    found = failures(checks)
    assert len(found) == len(wrong), found
    for what, reason in wrong.items():
        assert any(what in row and reason in cause for row, cause in found), found


def test_the_table_shows_what_is_wrong() -> None:
    record = webhook_record()
    record.stored.pop(4)
    out = io.StringIO()
    Screen(Console(file=out)).table([("Receiving", check_webhooks(record))], 1.5)
    assert "1 missing (ana-5)" in out.getvalue()
    assert "2 of 9 checks failed after 1.5 s." in out.getvalue()


# ---------------------------------------------------------------- switching


def switch_record() -> SwitchRecord:
    """One switch to number B at 2 s, with a send before it, one across it and one after it."""
    ids = [str(UUID(int=number)) for number in range(1, 4)]
    outcomes = [SendOutcome(index=index, outage=False, status=200, answer={"id": id}) for index, id in enumerate(ids)]
    return SwitchRecord(
        outcomes=outcomes,
        times=[TimedSend(0.0, 1.0), TimedSend(1.5, 2.5), TimedSend(3.0, 4.0)],
        switches=[LiveSwitch(2.0, 2.2, True, "B")],
        accepted={UUID(id).hex: 1 for id in ids},
        numbers={UUID(id).hex: number for id, number in zip(ids, "AAB", strict=True)},
        posted=posted(),
        stored=events(),
    )


def test_a_switch_that_was_made_under_load_is_right() -> None:
    assert failures(check_switches(switch_record())) == []


@pytest.mark.parametrize(
    ("tamper", "wrong"),
    [
        (lambda r: r.numbers.update({r.outcomes[2].message_id: "A"}), {"went out the former way": "1 too many"}),
        (lambda r: r.switches.append(LiveSwitch(5.0, 6.0, False, "A")), {"made": "switch 1", "under way": "switch 1"}),
        (lambda r: r.accepted.pop(r.outcomes[0].message_id), {"accepted exactly once": "1 lost"}),
        (lambda r: r.accepted.update({r.outcomes[1].message_id: 2}), {"accepted exactly once": "1 doubled"}),
        (
            lambda r: r.outcomes.append(msgspec.structs.replace(r.outcomes.pop(0), status=503)),
            {"sends answered 200": "send 0: 503"},
        ),
        (lambda r: r.stored.pop(4), {STORED: "1 missing (ana-5)"}),
    ],
)
def test_what_a_switch_lost_shows(tamper: Callable[[SwitchRecord], Any], wrong: dict[str, str]) -> None:
    record = switch_record()
    tamper(record)
    assert_reported(check_switches(record), wrong)


# ---------------------------------------------------------------- the other providers


def other(**changes: Any) -> list[CheckResult]:
    record = {
        "provider": "Twilio",
        "posted": ["SM1", "SM2"],
        "stored": ["SM2", "SM1"],
        "sent": ["SM3"],
        "accepted": ["SM3"],
        "statuses": ["read"],
        "unnamed": 0,
    }
    return check_others([OtherRecord(**record | changes)])


def test_what_another_provider_carried_is_right() -> None:
    assert all(check.ok for check in other())


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"stored": ["SM1"]}, 0),
        ({"stored": ["SM1", "SM2", "SM2"]}, 0),
        ({"stored": ["SM1", "SM2", "SM9"]}, 0),
        ({"accepted": []}, 1),
        ({"accepted": ["SM3", "SM3"]}, 1),
        ({"accepted": ["SM3", "SM4"]}, 1),
        ({"statuses": ["sent"]}, 2),
        ({"statuses": []}, 2),
        ({"unnamed": 1}, 3),
    ],
    ids=["lost", "doubled", "strange", "not-sent", "sent-twice", "sent-by-nobody", "on-its-way", "unknown", "unnamed"],
)
def test_what_another_provider_did_wrong_shows(changes: dict[str, Any], wrong: int) -> None:
    assert [number for number, check in enumerate(other(**changes)) if not check.ok] == [wrong]
