"""What can go wrong between the gateway and a provider, as values that a test scripts per number.

fault                  what the caller sees                                       was it accepted
accept                 the normal answer; `message_status` as the provider has it  yes
slow                   the normal answer after `seconds`                           yes, even if nobody waits
slow_answer            the same                                                    yes, at once: statuses go before it
refuse                 connections refused (TCP) for `seconds`, or until cleared   no, it never arrives
hang                   no answer, ever                                             no
hang_after_accept      no answer, ever                                             yes
reset_before_accept    RST                                                         no
reset_after_accept     RST                                                         yes
throttle_429           HTTP 429 with Retry-After; `body` false: no JSON            no
error_code             the provider's error JSON with that code                   no
half_answer            headers and half of the JSON, then the end                  yes
empty_answer           200 without a body                                          as `accepted` says
bare_5xx               5xx with an HTML page                                       no
bare_5xx_after_accept  the same                                                    yes
"""

from collections import deque
from collections.abc import Iterable

import msgspec


class Fault(msgspec.Struct, frozen=True, kw_only=True, tag_field="fault", forbid_unknown_fields=True):
    """Base of all faults. ``accepts`` is the ground truth: does the message go out all the same?"""

    @property
    def accepts(self) -> bool:
        return False


class AcceptingFault(Fault, frozen=True, kw_only=True):
    @property
    def accepts(self) -> bool:
        return True


class Accept(AcceptingFault, frozen=True, kw_only=True, tag="accept"):
    message_status: str | None = None  # Meta's `held_for_quality_assessment`; None: as always


class Slow(AcceptingFault, frozen=True, kw_only=True, tag="slow"):
    seconds: float


class SlowAnswer(AcceptingFault, frozen=True, kw_only=True, tag="slow_answer"):
    """As a server that takes a file, passes it on, and answers once all of it is through."""

    seconds: float


class Refuse(Fault, frozen=True, kw_only=True, tag="refuse"):
    """Takes effect when it reaches the head of the queue: nothing arrives that could use it up.

    It refuses for the whole port, so give the number its own one where others must go on.
    """

    seconds: float | None = None  # None: until the script is changed or cleared


class Hang(Fault, frozen=True, kw_only=True, tag="hang"):
    pass


class HangAfterAccept(AcceptingFault, frozen=True, kw_only=True, tag="hang_after_accept"):
    pass


class ResetBeforeAccept(Fault, frozen=True, kw_only=True, tag="reset_before_accept"):
    pass


class ResetAfterAccept(AcceptingFault, frozen=True, kw_only=True, tag="reset_after_accept"):
    pass


class Throttle429(Fault, frozen=True, kw_only=True, tag="throttle_429"):
    retry_after: float | None = None  # seconds
    body: bool = True


class ErrorCode(Fault, frozen=True, kw_only=True, tag="error_code"):
    """What is None is as the provider documents it for *code*; a provider without such a field leaves it out."""

    code: int
    http_status: int | None = None
    subcode: int | None = None
    message: str | None = None
    details: str | None = None
    is_transient: bool | None = None
    headers: dict[str, str] = {}


class HalfAnswer(AcceptingFault, frozen=True, kw_only=True, tag="half_answer"):
    pass


class EmptyAnswer(Fault, frozen=True, kw_only=True, tag="empty_answer"):
    accepted: bool = True

    @property
    def accepts(self) -> bool:
        return self.accepted


class Bare5xx(Fault, frozen=True, kw_only=True, tag="bare_5xx"):
    status: int = 502


class Bare5xxAfterAccept(AcceptingFault, frozen=True, kw_only=True, tag="bare_5xx_after_accept"):
    status: int = 502


AnyFault = (
    Accept
    | Slow
    | SlowAnswer
    | Refuse
    | Hang
    | HangAfterAccept
    | ResetBeforeAccept
    | ResetAfterAccept
    | Throttle429
    | ErrorCode
    | HalfAnswer
    | EmptyAnswer
    | Bare5xx
    | Bare5xxAfterAccept
)


class FaultScript:
    """The faults of one number: a queue, used up one per send, and a default for when it is empty."""

    def __init__(self) -> None:
        self.queue: deque[AnyFault] = deque()
        self.default: AnyFault | None = None
        self.everything = False  # the default also meets calls that are not sends, as where a provider is down

    @property
    def head(self) -> AnyFault | None:
        return self.queue[0] if self.queue else self.default

    @property
    def standing(self) -> AnyFault | None:
        """What calls meet that are not sends: read receipts, and those about the number and its account."""
        return self.default if self.everything else None

    def extend(self, faults: Iterable[AnyFault]) -> None:
        self.queue.extend(faults)

    def take(self) -> AnyFault | None:
        """The fault of the next send. A `Refuse` is not used up: what still gets through is let through."""
        if isinstance(self.head, Refuse):
            return None
        return self.queue.popleft() if self.queue else self.default

    def lift(self, refusal: Refuse) -> None:
        """End *refusal*, if it is still the one in force."""
        if self.head is refusal:
            if self.queue:
                self.queue.popleft()
            else:
                self.default = None

    def clear(self) -> None:
        self.queue.clear()
        self.default = None
        self.everything = False
