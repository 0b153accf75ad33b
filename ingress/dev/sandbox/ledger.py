"""What really happened at a provider: every call that arrived and every message that went out."""

from collections import Counter
from time import monotonic
from time import time as unix_time
from typing import Generic, TypeVar

import msgspec


class TakenMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a person got, whatever answer the caller got."""

    time: float = msgspec.field(default_factory=unix_time)  # Unix seconds
    monotonic_s: float = msgspec.field(default_factory=monotonic)  # comparable between a machine's processes


class ArrivedSend(msgspec.Struct, kw_only=True):
    """A send that arrived. What became of it is known a moment later than the rest."""

    time: float = msgspec.field(default_factory=unix_time)
    monotonic_s: float = msgspec.field(default_factory=monotonic)
    fault: str | None = None  # the tag of the fault it met
    error_code: int | None = None  # what it was refused with: the provider's own code


M = TypeVar("M", bound=TakenMessage)
C = TypeVar("C", bound=ArrivedSend)


def message_id_of(tracker: str) -> str:
    """The gateway's message id in ``gw1:<message id>:<attempt>``; any other tracker stands for itself."""
    parts = tracker.split(":")
    return parts[1] if len(parts) == 3 and parts[0] == "gw1" else tracker


class Ledger(Generic[M, C]):
    """Append-only. ``calls`` counts requests by (whose they were or "", operation), refused ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.accepted: list[M] = []
        self.sends: list[C] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        self._by_tracker: dict[str, list[M]] = {}
        self._by_message_id: dict[str, list[M]] = {}
        self._by_id: dict[str, M] = {}

    def keep(self, message: M, provider_id: str, tracker: str | None) -> None:
        """From here on *message* is found by each of its ids."""
        self.accepted.append(message)
        self._by_id[provider_id] = message
        if tracker is not None:
            self._by_tracker.setdefault(tracker, []).append(message)
            self._by_message_id.setdefault(message_id_of(tracker), []).append(message)

    def by_tracker(self, tracker: str) -> list[M]:
        return self._by_tracker.get(tracker, [])

    def by_message_id(self, message_id: str) -> list[M]:
        """Every time the message went out, over all its attempts. More than one bothers a person twice."""
        return self._by_message_id.get(message_id, [])

    def by_id(self, provider_id: str) -> M | None:
        """The message that the provider calls *provider_id*."""
        return self._by_id.get(provider_id)

    def duplicates(self) -> dict[str, int]:
        """Message ids that went out more than once, and how often."""
        return {key: len(messages) for key, messages in self._by_message_id.items() if len(messages) > 1}

    def call_count(self, operation: str | None = None, owner: str | None = None) -> int:
        """Requests that arrived; None counts over all."""
        return sum(
            count for (known, name), count in self.calls.items() if operation in (None, name) and owner in (None, known)
        )
