"""Who was refused: counted each time, and logged as often as a disk can bear."""

import asyncio
import logging
from typing import Literal

from .. import log, metrics
from .limits import Limiter

logger = logging.getLogger("ingress.web.refusals")

# Lines of one process. A flood of refusals is a number, not a line each.
LINES_PER_S = 10
SUMMED_UP_AFTER_S = 1.0

# The label of a metric, so nothing else may be one.
Reason = Literal[
    "missing_key",
    "malformed_key",
    "unknown_key",
    "expired_key",
    "revoked_key",
    "other_organization",
    "too_many_failures",
    "too_many_requests",
    "scope",
    "platform_only",
    "more_than_it_has",
]


class Refusals:
    """One a process."""

    def __init__(self) -> None:
        self._lines = Limiter(1 / LINES_PER_S, LINES_PER_S)
        self._unlogged = 0

    def note(self, reason: Reason, **fields: object) -> None:
        """Count a refusal, and log it with *fields*: ids, an address, never a key."""
        metrics.auth_failures.labels(reason).inc()
        if self._lines.take("line") == 0:
            log.wide("refused", reason=reason, **fields)
            return
        self._unlogged += 1
        if self._unlogged == 1:
            asyncio.get_running_loop().call_later(SUMMED_UP_AFTER_S, self._sum_up)

    def _sum_up(self) -> None:
        unlogged, self._unlogged = self._unlogged, 0
        log.wide("refused_more", count=unlogged)
        logger.error("%d more requests were refused within a second: somebody may be guessing keys", unlogged)
