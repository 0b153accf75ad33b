"""When an event that was not taken is tried again, and when it is given up."""

import random
from datetime import UTC, datetime, timedelta

from ..storage.statements.deliveries import ClaimedConversation, PendingDelivery, PostResult
from .standard_webhooks import PostAnswer

# After the n-th failure of an event; three days in all. Then it is parked.
SCHEDULE_S = (5, 30, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
JITTER = 0.2
# An event that is refused (4xx) this often while others are taken is parked, so that the ones behind it go on.
REFUSALS = 5


def left(event: PendingDelivery) -> timedelta:
    """What is left of an event's pause, where it was tried early, as its endpoint may be back.

    That it is not changes nothing of when the event is tried next, and when it is given up.
    """
    if not event.attempts:
        return timedelta(0)
    scheduled_s = SCHEDULE_S[min(event.attempts, len(SCHEDULE_S)) - 1] * (1 - JITTER)
    return event.waits_since + timedelta(seconds=scheduled_s) - datetime.now(UTC)


def after_failure(
    claim: ClaimedConversation, event: PendingDelivery, answer: PostAnswer, failing_since: datetime | None
) -> PostResult:
    """What becomes of the event: again, ever later, or parked; soon where the callback is another by now."""
    soon = timedelta(seconds=SCHEDULE_S[0])
    result = PostResult(*claim[:3], event.sequence, "pending", answer.status, answer.error, delay=soon)
    return _again_or_parked(result, event, answer, failing_since) if failing_since else result


def _again_or_parked(
    result: PostResult, event: PendingDelivery, answer: PostAnswer, failing_since: datetime
) -> PostResult:
    # Its own fault only if something else was taken since its last attempt: a bad deploy refuses everything.
    refused = answer.kind == "4xx" and failing_since > event.waits_since
    if event.attempts >= len(SCHEDULE_S) or (refused and event.refusals + 1 >= REFUSALS):
        return result._replace(state="parked")
    # Never earlier than scheduled: the CRM's wish would make days of retries hours.
    delay_s = max(answer.retry_after_s or 0, _jittered(SCHEDULE_S[event.attempts]))
    return result._replace(refused=refused, delay=timedelta(seconds=delay_s))


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (spreads load, protects nothing)
