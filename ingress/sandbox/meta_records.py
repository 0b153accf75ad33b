"""What really happened at the provider: every call that arrived and every message that went out."""

import time
from collections import Counter
from typing import Any

import msgspec


class AcceptedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a person got, whatever the caller was told."""

    wamid: str
    phone_number_id: str
    tracker: str | None  # the send's biz_opaque_callback_data; None: it had none
    body: dict[str, Any]
    time: float  # Unix seconds
    monotonic_s: float  # comparable between the processes of one machine


class SendCall(msgspec.Struct, kw_only=True):
    """A send that arrived. What follows ``monotonic_s`` is known a moment later than the rest."""

    phone_number_id: str
    tracker: str | None
    time: float
    monotonic_s: float
    fault: str | None = None  # the tag of the fault it met
    error_code: int | None = None  # what it was refused with
    wamid: str | None = None  # None: not accepted


class Receipt(msgspec.Struct, frozen=True):
    """A message of a person that was marked as read."""

    phone_number_id: str
    message_id: str
    typing: bool = False


def message_id_of(tracker: str) -> str:
    """The gateway's message id in ``gw1:<message id>:<attempt>``; any other tracker stands for itself."""
    parts = tracker.split(":")
    return parts[1] if len(parts) == 3 and parts[0] == "gw1" else tracker


class GroundTruth:
    """Append-only. ``calls`` counts requests by (phone number id or "", operation), refused ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.accepted: list[AcceptedMessage] = []
        self.sends: list[SendCall] = []
        self.receipts: list[Receipt] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        self._by_tracker: dict[str, list[AcceptedMessage]] = {}
        self._by_message_id: dict[str, list[AcceptedMessage]] = {}
        self._by_wamid: dict[str, AcceptedMessage] = {}

    def arrived(self, phone_number_id: str, tracker: str | None) -> SendCall:
        call = SendCall(
            phone_number_id=phone_number_id, tracker=tracker, time=time.time(), monotonic_s=time.monotonic()
        )
        self.sends.append(call)
        return call

    def accept(self, call: SendCall, wamid: str, body: dict[str, Any]) -> AcceptedMessage:
        message = AcceptedMessage(
            wamid=wamid,
            phone_number_id=call.phone_number_id,
            tracker=call.tracker,
            body=body,
            time=time.time(),
            monotonic_s=time.monotonic(),
        )
        call.wamid = wamid
        self.accepted.append(message)
        self._by_wamid[wamid] = message
        if message.tracker is not None:
            self._by_tracker.setdefault(message.tracker, []).append(message)
            self._by_message_id.setdefault(message_id_of(message.tracker), []).append(message)
        return message

    def by_tracker(self, tracker: str) -> list[AcceptedMessage]:
        return self._by_tracker.get(tracker, [])

    def by_message_id(self, message_id: str) -> list[AcceptedMessage]:
        """Every time the message went out, over all its attempts. More than one bothers a person twice."""
        return self._by_message_id.get(message_id, [])

    def by_wamid(self, wamid: str) -> AcceptedMessage | None:
        return self._by_wamid.get(wamid)

    def duplicates(self) -> dict[str, int]:
        """Message ids that went out more than once, and how often."""
        return {key: len(messages) for key, messages in self._by_message_id.items() if len(messages) > 1}

    def call_count(self, operation: str | None = None, phone_number_id: str | None = None) -> int:
        """Requests that arrived; None counts over all."""
        return sum(
            count
            for (number, name), count in self.calls.items()
            if operation in (None, name) and phone_number_id in (None, number)
        )
