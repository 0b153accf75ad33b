"""What happened to a message, in one sentence."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from ingress.api.history.what_happened import Narrator
from ingress.envelope import EventData
from ingress.storage.statements.events import StoredEvent
from ingress.storage.statements.reports.timelines import DeliveryState
from ingress.storage.statements.sending.messages import Attempt, StoredMessage
from providers.messages import ErrorInfo

AT = datetime(2026, 11, 30, 10, 12, tzinfo=UTC)
ONE, OTHER = UUID(int=1), UUID(int=2)
NARRATOR = Narrator({"one": "One", "other": "Other"}, {ONE: "one", OTHER: "other"})


def message(**more: Any) -> StoredMessage:
    fields: dict[str, Any] = dict.fromkeys(StoredMessage.__struct_fields__) | {
        "id": UUID(int=9), "state": "done", "status": "sent", "attempts": 1, "provider": "one", "config_id": ONE,
    }  # fmt: skip
    return StoredMessage(**fields | more)


def attempt(class_: str | None, code: str | None = None, detail: str | None = None, *, config: UUID = ONE) -> Attempt:
    provider = "one" if config == ONE else "other"
    return Attempt(1, config, provider, 1, AT, class_, code, detail, None, None)


OK = attempt("ok")
FAILED = ErrorInfo(class_="Rejected", code="131026", detail="not reachable")
SENT: list[tuple[StoredMessage, list[Attempt], str]] = [
    (message(), [OK], "Taken by One."),
    (message(status="delivered"), [OK], "Delivered by One."),
    (message(status="read"), [OK], "Read; delivered by One."),
    (message(status="played"), [OK], "Played; delivered by One."),
    (
        message(status="delivered", attempts=2),
        [attempt("Throttled", "130429", "too fast"), OK],
        "Delivered by One after One asked for fewer messages: 130429, too fast.",
    ),
    (
        message(status="delivered", fallback_from=OTHER, fallback_reason="Rejected"),
        [attempt("Rejected", "131056", "too many messages to this person", config=OTHER), OK],
        "Delivered by One after Other refused it: 131056, too many messages to this person.",
    ),
    (
        message(status="delivered", fallback_from=OTHER, fallback_reason="breaker_open"),
        [OK],
        "Delivered by One after Other failed so often that it was not called.",
    ),
    (message(status="failed", error=FAILED), [], "Not sent: One refused it: 131026, not reachable."),
    (
        message(status="failed", sent_at=AT, error=FAILED),
        [OK],
        "One took it, and could not deliver it: 131026, not reachable.",
    ),
    (message(status="failed", sent_at=AT), [OK], "One took it, and could not deliver it."),
    (
        message(state="uncertain", status="accepted", leased_until=AT),
        [attempt("Uncertain")],
        "One may have taken it; not repeated. Settled by a status, or reported as unknown at 10:12 UTC.",
    ),
    (
        message(status="unknown"),
        [attempt("Uncertain")],
        "One may have taken it. Nothing settled that, so it was reported as unknown.",
    ),
    (message(state="sending", status="accepted", attempts=2), [], "Under way: attempt 2, with One."),
    (
        message(state="sending", status="accepted", attempts=0, provider=None),
        [],
        "It waits for an earlier message of its conversation.",
    ),
]


@pytest.mark.parametrize(("stored", "attempts", "sentence"), SENT, ids=[sentence for *_, sentence in SENT])
def test_what_was_sent(stored: StoredMessage, attempts: list[Attempt], sentence: str) -> None:
    assert NARRATOR.of_message(stored, attempts) == sentence


def delivery(state: str, attempts: int = 1, answer: int | None = 200, error: str | None = None) -> DeliveryState:
    return DeliveryState(1, state, attempts, answer, error, None, None, AT if state == "pending" else None)


CAME: list[tuple[str, DeliveryState | None, str]] = [
    ("message.received", delivery("delivered"), "Received by One; the CRM took it (HTTP 200)."),
    ("message.received", delivery("delivered", 3, None), "Received by One; the CRM took it at attempt 3."),
    ("message.received", delivery("pending", 0, None), "Received by One; not posted to the CRM yet."),
    (
        "message.received",
        delivery("pending", 2, 503, "HTTP 503"),
        "Received by One; the CRM did not take it (HTTP 503), next try at 10:12 UTC.",
    ),
    ("message.echo", delivery("parked", 8, 400, "HTTP 400"),
     "Written on another device, reported by One; given up: HTTP 400."),
    ("provider.switched", None,
     "An event of One; not posted, as no callback was set: the CRM reads it among the events."),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "delivered", "sentence"), CAME, ids=[sentence for *_, sentence in CAME])
def test_what_came_in(type_: str, delivered: DeliveryState | None, sentence: str) -> None:
    event, data = StoredEvent(ONE, 1, type_, ONE, AT, b"{}"), EventData(ONE, "one", ONE)
    assert NARRATOR.of_event(event, data, delivered) == sentence


def test_a_provider_that_nobody_knows_any_more_has_its_own_name() -> None:
    assert [Narrator({}, {}).name(name) for name in ("gone", None)] == ["gone", "?"]
