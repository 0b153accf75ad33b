"""What each label of a metric may say: values of closed sets, and none names an organization (organizations.py does).

Whatever else comes, from a client, a provider, a plug-in or a library, is `other`: each new value is a line, or a dozen
of them, in every scrape until the process ends.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from time import time
from typing import Self, get_args

import prometheus_client
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Exemplar, Sample

from providers import SendError
from providers.messages import EventType, StatusValue, Trouble

from .. import __version__

OTHER = "other"
_CLASSES = {kind.__name__ for kind in SendError.__subclasses__() if kind.__module__ == SendError.__module__}
_UNUSABLE = {"plugin_missing", "cannot_be_opened"}
# Why a switch was not made.
_REFUSALS = {
    *("refused", "invalid_configuration", "test_failed", "test_timed_out", "provider_unreachable", "config_active"),
    *("secrets_needed", "account_in_use", "account_exists", "quota_reached", "webhooks_unread"),
    *("version_conflict", "no_former_config", "not_paired", "too_slow", "webhook_not_set", "lock_lost"),
}
# Why one was taken back.
ROLLBACKS = {*_REFUSALS, "asked", "error", "process_died", "pairing_timed_out", "superseded"}
VALUES: dict[str, set[str]] = {
    "version": {__version__},
    # Those of the table of routes, of which each adds its own (ingress/api/routes.py).
    "route": set(),
    "method": {"GET", "POST", "PUT", "PATCH", "DELETE"},
    "code_class": {"2xx", "3xx", "4xx", "5xx"},
    # Those that the registry knows (ingress/accounts/accounts.py).
    "provider": set(),
    "table": {
        *("inbound_webhooks", "inbound_dedup", "quarantine", "message_statuses", "idempotency_keys"),
        *("events", "deliveries", "messages", "attempts", "provider_audit_log"),
    },
    "class": {*_CLASSES, "ok", "busy", "3xx", "4xx", "5xx", "gone", "timeout", "connection"},
    "pool": {
        *("app", "worker", "lookup", "exclusive", "ingest"),
        *("large", "contacts", "claims", "outcomes", "listen", "migrate"),
    },
    "phase": {"lock", "test", "set_up", "commit", "propagate", "drain"},
    "source": {"here", "read", "redis", "notify", "fence"},
    "state": {
        *("closed", "open", "half_open", "unknown", "healthy", "degraded", "unhealthy"),
        *("discovered", "registered", "failed"),
        *("starting", "serving", "ending"),
        *("used", "idle"),
    },
    "kind": {
        *(*get_args(EventType), *get_args(StatusValue)),
        *("switch", "fallback", "rollback"),
        *("sending", "uncertain", "download", "upload"),
        *("read", "typing", "stop_typing", "find_phone", "find_contact"),
        *("readers", "sends"),
        *("deliveries", "quarantine", "large_webhooks", "statuses", "accounts", "audit_trails", "api_keys"),
    },
    "outcome": {
        *get_args(StatusValue),
        *_CLASSES,
        # webhooks and their events
        *("acked", "duplicate", "quarantined", "unauthorized", "shed", "error", "unknown", "encoded", "too_large"),
        *("challenge", "method", "stored", "applied", "stale", "orphan"),
        # POST /send, turns to send
        *("accepted", "replayed", "conflict", "mismatch", "invalid", "resting"),
        *("allowed", "delayed", "rejected", "degraded"),
        # switches
        *_REFUSALS,
        *("switched", "unchanged", "waiting", "busy", "unavailable", "not_found"),
        # looks at accounts
        *(*get_args(Trouble), *_UNUSABLE, "unknown", "unreachable", "sends_refused", "webhooks_refused", "silent"),
        *("healthy", "unhealthy"),
        # looks for plug-ins
        *("found", "unchanged", "failed"),
        # media
        *("ok", "unusable", "gone", "slow", "broken", "corrupt", "client_gone"),
    },
    "reason": {
        *_CLASSES,
        *_UNUSABLE,
        *("malformed", "parser_failed", "refused_by_store", "foreign", "stale"),
        *("missing_key", "malformed_key", "unknown_key", "expired_key", "revoked_key"),
        *("too_many_failures", "too_many_requests"),
        *("scope", "platform_only", "more_than_it_has", "other_organization", "webhook", "address"),
        *("account", "host", "claim", "attempt", "breaker_open"),
        *ROLLBACKS,
        # connections that are ended early
        *("evicted", "slow_reader", "slow_sender", "silent", "malformed_request", "host_missing", "upgrade_refused"),
        *("transfer_encoding", "too_large", "header_too_large", "version_not_supported", "unavailable", "internal"),
        # How PostgreSQL and Redis fail: names of exceptions.
        *("ConnectionDoesNotExistError", "ConnectionFailureError", "InternalClientError"),
        *("InterfaceError", "WrongRole", "ProtocolViolationError"),
        *("ConnectionError", "ConnectionResetError", "ConnectionRefusedError"),
        *("BrokenPipeError", "OSError", "EOFError"),
        *("TimeoutError", "QueryCanceledError", "LockNotAvailableError", "DeadlockDetectedError", "gaierror"),
        *("SerializationError", "IdleInTransactionSessionTimeoutError", "IdleSessionTimeoutError"),
        *("AdminShutdownError", "CrashShutdownError", "CannotConnectNowError", "TooManyConnectionsError"),
        *("InvalidPasswordError", "InvalidAuthorizationSpecificationError", "SSLError", "SSLCertVerificationError"),
        *("DiskFullError", "OutOfMemoryError", "ReadOnlySQLTransactionError", "FileNotFoundError"),
        *("ResponseError", "ReadOnlyError", "BusyLoadingError", "AuthenticationError", "MaxConnectionsError"),
        *("RedisClusterException", "ClusterError", "ClusterDownError", "SlotNotCoveredError", "TryAgainError"),
    },
}


def _known(names: Sequence[str], values: Sequence[object]) -> tuple[str, ...]:
    """*values* of the labels *names*, each of them one that is foreseen."""
    return tuple(str(value) if value in VALUES[name] else OTHER for name, value in zip(names, values, strict=True))


class Closed(MetricWrapperBase):
    def labels(self, *values: object, **_: object) -> Self:
        return super().labels(*_known(self._labelnames, values))


class Counter(Closed, prometheus_client.Counter): ...


class Gauge(Closed, prometheus_client.Gauge): ...


class Histogram(Closed, prometheus_client.Histogram):
    """Knows the last request in each bucket, for who wonders which one took so long (an exemplar of OpenMetrics)."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._requests: dict[
            int, tuple[str, float, float]
        ] = {}  # by bucket: its id, how long it took, and when that was

    def observe_request(self, amount: float, request_id: str) -> None:
        """`observe` with an exemplar would cost four times as much: here it is made when it is scraped."""
        self.observe(amount)
        self._requests[bisect_left(self._upper_bounds, amount)] = request_id, amount, time()

    def _child_samples(self) -> Iterable[Sample]:
        for bucket, (request_id, amount, at) in self._requests.items():
            self._buckets[bucket].set_exemplar(Exemplar({"request_id": request_id}, amount, at))
        return super()._child_samples()
