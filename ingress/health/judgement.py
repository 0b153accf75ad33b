"""How an account is doing: what a look at it finds, and when that is a change. Pure.

    unknown ──one look──▶ healthy, degraded
    healthy ◀──two looks in a row──▶ degraded
    any of them ──three in a row, one where the traffic says the same──▶ unhealthy ──two in a row──▶ healthy, degraded

A look is what the provider says of the account, or that it says nothing, held against what became of the last sends.
A provider that does not answer is no reason to call credentials bad.
"""

from datetime import datetime
from typing import Literal, get_args

import msgspec

from providers import (
    AccountBroken,
    ProviderStatus,
    Rejected,
    Restricted,
    SendError,
    Throttled,
    Unsupported,
)
from providers.base import refused_status

from ..accounts.advice import Reason
from ..storage.statements.health import StoredHealth

State = Literal["unknown", "healthy", "degraded", "unhealthy"]
STATES: tuple[State, ...] = get_args(State)

LOOKS_TO_FAIL = 3
LOOKS_TO_CHANGE = 2
# Fewer sends than this prove nothing.
LEAST_SENDS = 5
FAILING_SHARE = 0.5


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the last sends through a config.

    Of the last ``attempts`` that ended, ``failed`` were surely or maybe not taken for the provider's fault, ``refused``
    of these because the account cannot send. Of ``sent`` messages some minutes old, ``acknowledged`` have a status.
    ``only_refused``: webhooks came lately, and none that is signed with the config's secret.
    ``is_broken``: the provider lately refused the account as such, and has taken nothing since.
    """

    attempts: int = 0
    failed: int = 0
    refused: int = 0
    sent: int = 0
    acknowledged: int = 0
    only_refused: bool = False
    is_broken: bool = False

    @property
    def fails(self) -> bool:
        return self.attempts >= LEAST_SENDS and self.failed >= FAILING_SHARE * self.attempts

    @property
    def flows(self) -> bool:
        return self.attempts >= LEAST_SENDS and not self.fails and not self.is_broken

    @property
    def is_silent(self) -> bool:
        return self.sent >= LEAST_SENDS and not self.acknowledged


class Finding(msgspec.Struct, frozen=True):
    """What one look finds. ``confirmed``: the provider and the traffic say the same."""

    state: State
    reason: Reason | None = None
    detail: str | None = None
    confirmed: bool = False

    def __repr__(self) -> str:
        return f"Finding({self.state!r}, {self.reason!r})"  # the detail is the provider's own words


class Health(StoredHealth, frozen=True):
    """How an account is doing since when, why, and what is about to change: ``looks`` in a row found ``pending``."""

    state: State = "unknown"
    since: datetime | None = None
    reason: Reason | None = None
    detail: str | None = None
    pending: State | None = None
    looks: int = 0

    def after(self, finding: Finding | None, now: datetime) -> "Health":
        """How it is doing with what a look at *now* found; None: it found nothing to go by."""
        if finding is None:
            return self
        if finding.state == self.state:
            return Health(self.state, self.since, finding.reason, finding.detail)
        # Who is unhealthy recovers by looks that find it usable, one way or the other.
        goes_on = finding.state == self.pending or (self.state == "unhealthy" and self.pending is not None)
        looks = self.looks + 1 if goes_on else 1
        if looks >= self._needed(finding):
            return Health(finding.state, now, finding.reason, finding.detail)
        return Health(self.state, self.since, self.reason, self.detail, finding.state, looks)

    def _needed(self, finding: Finding) -> int:
        if finding.state == "unhealthy":
            return 1 if finding.confirmed else LOOKS_TO_FAIL
        return 1 if self.state == "unknown" else LOOKS_TO_CHANGE


def judge(answer: ProviderStatus | SendError, traffic: Traffic) -> Finding | None:
    """What a look finds: the provider's status, or why there is none, held against the traffic."""
    finding = _of_provider(answer)
    if traffic.fails or traffic.is_broken:
        if finding is not None and finding.state == "unhealthy":
            return msgspec.structs.replace(finding, confirmed=True)
        return _of_traffic(traffic)
    return finding and _against(finding, traffic)


def _against(finding: Finding, traffic: Traffic) -> Finding:
    """What the provider says, where sends do not fail."""
    if finding.reason == "unreachable" and traffic.flows:
        return Finding("degraded", "unreachable", "It does not say how it is doing, but takes messages.")
    if finding.state == "healthy" and traffic.only_refused:
        return Finding("degraded", "webhooks_refused", "Each webhook lately was refused for its signature.")
    if finding.state == "healthy" and traffic.is_silent:
        detail = f"{traffic.sent} messages were taken, and no status of any of them came."
        return Finding("degraded", "silent", detail)
    return finding


def _of_traffic(traffic: Traffic) -> Finding:
    if traffic.is_broken or traffic.refused >= FAILING_SHARE * traffic.failed:
        return Finding("unhealthy", "sends_refused", "The provider refuses what is sent.", traffic.is_broken)
    return Finding("unhealthy", "unreachable", f"{traffic.failed} of the last {traffic.attempts} sends failed.")


def _of_provider(answer: ProviderStatus | SendError) -> Finding | None:
    match answer:
        case Throttled() | Unsupported():
            return None  # it answers, but not this
        case AccountBroken(code="plugin_missing" | "cannot_be_opened" as reason):
            return Finding("unhealthy", reason, answer.detail)
        case AccountBroken() | Restricted() | Rejected():
            return _of_provider(refused_status(answer))
        case SendError():
            return Finding("unhealthy", "unreachable", answer.detail or answer.code)
        case ProviderStatus(is_connected=False):
            return Finding("unhealthy", answer.trouble or "session_lost", answer.detail)
        case ProviderStatus(trouble=str() as trouble):
            return Finding("degraded", trouble, answer.detail)
        case ProviderStatus(connection_quality="poor" | "disconnected"):
            return Finding("degraded", "degraded", answer.detail)
    return Finding("healthy")
