"""What a CRM saw of our deliveries, and the four questions it can be asked about them."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec


class Delivered(msgspec.Struct, kw_only=True):
    """One delivery attempt as it arrived. The last two fields are set when it is answered."""

    arrival: int  # position among all attempts, from 0
    endpoint: str
    event_id: str | None  # the header webhook-id
    type: str | None
    sequence: int | None
    conversation_id: str | None  # None: the event belongs to no conversation
    digest: str  # SHA-256 of the body
    body: bytes | None  # None where bodies are not kept
    time: float  # Unix seconds
    monotonic_s: float
    problem: str | None = None  # what is wrong with it; None: verified
    status: int | None = None  # what it was answered; None: nothing
    first: bool = False  # the first successful receipt of its event

    @property
    def verified(self) -> bool:
        return self.problem is None

    @property
    def received(self) -> bool:
        """Verified and answered 2xx: the sender may believe it is delivered."""
        return self.verified and self.status is not None and 200 <= self.status < 300


class Inversion(msgspec.Struct, frozen=True):
    """Within a conversation, *later* was received first."""

    conversation_id: str
    later: int
    earlier: int


class _Conversation(msgspec.Struct):
    id: str | None = None


class _DeliveredData(msgspec.Struct):
    conversation: _Conversation | None = None


class _DeliveredEvent(msgspec.Struct):
    id: str | None = None
    type: str | None = None
    sequence: int | None = None
    data: _DeliveredData | None = None


class DeliveryRecord:
    """Append-only. With *keep_bodies* off only digests stay, for runs of millions."""

    def __init__(self, *, keep_bodies: bool = True) -> None:
        self.keep_bodies = keep_bodies
        self.forget()

    def forget(self) -> None:
        self.attempts: list[Delivered] = []
        self.received: dict[str, Delivered] = {}  # event id -> its first successful receipt, in that order
        self._receipts: Counter[str] = Counter()
        self._digests: dict[str, set[str]] = {}
        self._in_flight: Counter[tuple[str, str]] = Counter()
        self._overlaps: list[tuple[str, str | None]] = []

    def arrived(self, endpoint: str, event_id: str | None, body: bytes, problem: str | None) -> Delivered:
        try:
            event = msgspec.json.decode(body, type=_DeliveredEvent)
        except msgspec.MsgspecError:
            event, problem = _DeliveredEvent(), problem or "the body is not our envelope"
        if problem is None and event.id not in (None, event_id):
            problem = "webhook-id is not the event's id"
        conversation = event.data.conversation if event.data else None
        attempt = Delivered(
            arrival=len(self.attempts),
            endpoint=endpoint,
            event_id=event_id,
            type=event.type,
            sequence=event.sequence,
            conversation_id=conversation.id if conversation else None,
            digest=hashlib.sha256(body).hexdigest(),
            body=body if self.keep_bodies else None,
            time=time.time(),
            monotonic_s=time.monotonic(),
            problem=problem,
        )
        self.attempts.append(attempt)
        if problem is None and event_id is not None:
            self._digests.setdefault(event_id, set()).add(attempt.digest)
        return attempt

    def begin(self, attempt: Delivered) -> None:
        """*attempt* is being worked on, until `end`."""
        if attempt.conversation_id is not None:
            key = (attempt.endpoint, attempt.conversation_id)
            if self._in_flight[key]:
                self._overlaps.append((attempt.conversation_id, attempt.event_id))
            self._in_flight[key] += 1

    def end(self, attempt: Delivered) -> None:
        if attempt.conversation_id is not None:
            self._in_flight[attempt.endpoint, attempt.conversation_id] -= 1

    def answered(self, attempt: Delivered, status: int) -> None:
        attempt.status = status
        if attempt.received and attempt.event_id is not None:
            self._receipts[attempt.event_id] += 1
            attempt.first = attempt.event_id not in self.received
            if attempt.first:
                self.received[attempt.event_id] = attempt

    # ---------------------------------------------------------------- checkers

    def duplicates(self) -> dict[str, int]:
        """Event ids received successfully more than once, and how often."""
        return {event_id: count for event_id, count in self._receipts.items() if count > 1}

    def changed_bytes(self) -> dict[str, int]:
        """Event ids of which different bytes arrived, and how many versions."""
        return {event_id: len(digests) for event_id, digests in self._digests.items() if len(digests) > 1}

    def inversions(self) -> list[Inversion]:
        """Conversations whose events were first received out of the order of their sequence."""
        highest: dict[tuple[str, str], int] = {}
        found = []
        for attempt in self.received.values():
            if attempt.conversation_id is None or attempt.sequence is None:
                continue
            key = (attempt.endpoint, attempt.conversation_id)
            seen = highest.get(key, attempt.sequence)
            if attempt.sequence < seen:
                found.append(Inversion(attempt.conversation_id, seen, attempt.sequence))
            highest[key] = max(seen, attempt.sequence)
        return found

    def events(self) -> list[dict[str, Any]]:
        """What was received, decoded, each event once and in the order of its first receipt."""
        return [msgspec.json.decode(attempt.body) for attempt in self.received.values() if attempt.body is not None]

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of *ids* that were never received successfully, in their order."""
        return [event_id for event_id in ids if event_id not in self.received]

    def overlaps(self) -> list[tuple[str, str | None]]:
        """(conversation, event id) of deliveries that began while another one was in flight."""
        return list(self._overlaps)

    def unverified(self) -> list[Delivered]:
        """Attempts whose signature, time or shape was wrong."""
        return [attempt for attempt in self.attempts if not attempt.verified]
