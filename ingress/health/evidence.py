"""What an account that is in use shows of itself: then its provider need not be asked. Pure.

Within the time between two looks its provider took a message, so the credentials are good and the account may send; and
a webhook came in that says something new and is signed as its own, so what people write arrives. Both, and nothing that
speaks against it: no attempt of the last minute failed, statuses of its messages come, no webhook was refused, nothing
is about to change. The next look is due when the older of the two is as old as that: whoever fails or falls silent is
asked as soon after as anybody. What else its provider may say of it, such as its quality, is asked for now and then.
"""

from datetime import datetime, timedelta

from ..storage.statements.health import Look
from .judgement import Traffic

ASKED_AT_LEAST_EVERY = timedelta(minutes=5)
# After a switch, or an edit, everything counts that is found.
SETTLED = timedelta(minutes=5)


def good_until(look: Look, traffic: Traffic, interval: timedelta, now: datetime) -> datetime | None:
    """Until when an account need not be asked how it is doing; None: it has to be now."""
    if look.health.state != "healthy" or look.health.reason or look.health.pending:
        return None
    if look.watched or look.waiting or look.stands_in or now - look.version_at < SETTLED:
        return None
    if traffic.failed or traffic.is_broken or traffic.is_silent or traffic.only_refused:
        return None
    if look.checked_at is None or look.webhook_at is None or look.sent_at is None:
        return None
    until = min(look.webhook_at, look.sent_at) + interval
    return until if now < until and now - look.checked_at < ASKED_AT_LEAST_EVERY else None
