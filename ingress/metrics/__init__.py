"""Every metric of the service. What their labels may say: labels.py."""

from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from .. import __version__
from .labels import OTHER, ROLLBACKS, VALUES, Counter, Gauge, Histogram
from .organizations import OrganizationCounters

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=REGISTRY)


build_info = _gauge("whatsapp_ingress_build_info", "1, with the version as a label", "version")
build_info.labels(__version__).set(1)
http_seconds = _histogram(
    "whatsapp_ingress_http_request_duration_seconds",
    "Answer time of the API",
    ("route", "method", "code_class"),
    _LATENCY,
)
auth_failures = _counter("whatsapp_ingress_auth_failures_total", "Refused requests", "reason")
connections_ended = _counter(
    "whatsapp_ingress_connections_ended_total", "Connections that the service ended early", "reason"
)

# -- receiving
ack_seconds = _histogram(
    "whatsapp_ingress_ingest_ack_duration_seconds",
    "First byte of a webhook to its answer",
    ("provider", "outcome"),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
ingest_events = _counter(
    "whatsapp_ingress_ingest_events_total", "Events out of webhooks", "provider", "kind", "outcome"
)
provider_lag = _histogram(
    "whatsapp_ingress_ingest_provider_lag_seconds",
    "Age of an event by the provider's clock when it was stored",
    ("provider",),
    (1, 5, 30, 60, 300, 3600, 21600, 86400),
)
quarantined = _counter("whatsapp_ingress_quarantine_total", "Bodies or items put aside", "provider", "reason")
quarantine_open = _gauge(
    "whatsapp_ingress_quarantine_open",
    "Bodies or items that wait for somebody, counted up to 1,000",
    "provider",
    "reason",
)
unread = _gauge("whatsapp_ingress_ingest_unread", "Large webhooks that are stored and not read yet")
unread_oldest = _gauge("whatsapp_ingress_ingest_unread_oldest_seconds", "How long the first of them has waited")
status_updates = _counter(
    "whatsapp_ingress_status_updates_total", "Statuses of sent messages", "provider", "kind", "outcome"
)
status_orphans = _gauge(
    "whatsapp_ingress_status_orphans",
    "Statuses that no message of ours was found for in 24 hours, counted up to 10,000",
)

# -- group commit: `ingest` and `large` are the webhooks' queues, `contacts`, `claims` and `outcomes` the sends'
_batch_rows = _histogram(
    "whatsapp_ingress_ingest_batch_rows", "Rows written by one statement", ("pool",), (1, 2, 4, 8, 16, 32, 64, 128)
)
_flush_seconds = _histogram(
    "whatsapp_ingress_ingest_flush_duration_seconds",
    "One flush of a queue, commit included",
    ("pool",),
    (0.001, 0.0025, *_LATENCY),
)
_QUEUES = ("ingest", "large", "contacts", "claims", "outcomes")
batch_rows = {name: _batch_rows.labels(name) for name in _QUEUES}
flush_seconds = {name: _flush_seconds.labels(name) for name in _QUEUES}
_queue_events = _gauge("whatsapp_ingress_ingest_queue_events", "Rows waiting for a flush", "pool")
_queue_bytes = _gauge("whatsapp_ingress_ingest_queue_bytes", "Bytes waiting for a flush", "pool")
_queue_oldest = _gauge("whatsapp_ingress_ingest_queue_oldest_seconds", "How long the first row has waited", "pool")

# -- delivery to the CRM
delivery_attempts = _counter("whatsapp_ingress_delivery_attempts_total", "Posts to callbacks", "class")
delivery_seconds = _histogram(
    "whatsapp_ingress_delivery_duration_seconds",
    "One post to a callback",
    ("class",),
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
delivery_dwell = _histogram(
    "whatsapp_ingress_delivery_dwell_seconds",
    "Stored to first delivered, by how the callback has been since it was stored",
    ("state",),
    (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 30, 300, 3600, 86400),
)
delivery_pending = _gauge(
    "whatsapp_ingress_delivery_pending", "Events not yet delivered, but for disabled callbacks, up to 10,000"
)
delivery_oldest = _gauge("whatsapp_ingress_delivery_oldest_seconds", "Age of the oldest of them")
deliveries_parked = _gauge(
    "whatsapp_ingress_deliveries_parked", "Events that were given up and can be replayed, up to 10,000"
)
callback_unreadable = _counter(
    "whatsapp_ingress_callback_unreadable_total", "Deliveries put off, as the callback's secrets cannot be opened"
)

# -- sending
send_requests = _counter("whatsapp_ingress_send_requests_total", "POST /send", "outcome")
send_attempts = _counter("whatsapp_ingress_send_attempts_total", "Calls to providers", "provider", "class")
send_attempt_seconds = _histogram(
    "whatsapp_ingress_send_attempt_duration_seconds", "One call to a provider", ("provider", "class"), _LATENCY
)
send_terminal = _counter(
    "whatsapp_ingress_send_terminal_total",
    "Sends that came to an end, and how the last call ended",
    *("provider", "outcome", "class"),
)
send_seconds = _histogram(
    "whatsapp_ingress_send_end_to_end_seconds",
    "Accepted to the end of a send",
    ("provider", "outcome"),
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600),
)
send_pending = _gauge("whatsapp_ingress_send_pending", "Sends that are under way, counted up to 10,000")
send_oldest = _gauge("whatsapp_ingress_send_oldest_seconds", "Age of the oldest send under way")
send_lost = _gauge("whatsapp_ingress_sends_lost", "Sends that had no end five minutes after their time was over")
send_ambiguous_open = _gauge(
    "whatsapp_ingress_send_ambiguous_open", "Sends whose outcome nobody knows yet, counted up to 10,000"
)
fallbacks = _counter("whatsapp_ingress_fallback_total", "Sends moved to the next config", "provider", "reason")
retry_budget_exhausted = _counter(
    "whatsapp_ingress_retry_budget_exhausted_total", "Retries not made", "provider", "reason"
)
breakers = _gauge("whatsapp_ingress_breakers", "Accounts by the state of their circuit breaker", "provider", "state")
breaker_transitions = _counter("whatsapp_ingress_breaker_transitions_total", "Changes of breakers", "provider", "state")
bulkhead_waiting = _gauge("whatsapp_ingress_bulkhead_waiting", "Sends that wait for a slot to call their provider in")
bulkhead_wait = _histogram(
    "whatsapp_ingress_bulkhead_wait_seconds",
    "Wait for a slot to call a provider in",
    ("provider",),
    (0.01, 0.1, 0.5, 1, 5, 30, 600),
)
order_waiting = _gauge(
    "whatsapp_ingress_order_waiting", "Sends that wait for an earlier one of their conversation to end"
)
fence_rejections = _counter(
    "whatsapp_ingress_fence_rejections_total", "Attempts refused: the version had moved on", "reason"
)
rate_limits = _counter("whatsapp_ingress_rate_limit_total", "Turns to send, asked for", "provider", "outcome")
rate_limit_wait = _histogram(
    "whatsapp_ingress_rate_limit_wait_seconds",
    "Wait for a turn to send",
    ("provider",),
    (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600),
)
lease_reclaims = _counter("whatsapp_ingress_lease_reclaims_total", "Work taken over from a process that died", "kind")
switch_seconds = _histogram(
    "whatsapp_ingress_provider_switch_seconds",
    "Change of the active config, request to committed",
    ("kind", "outcome"),
    _LATENCY,
)
switch_phase_seconds = _histogram(
    "whatsapp_ingress_provider_switch_phase_seconds",
    "Parts of a change: lock, test, set_up, commit, propagate (to this process and Redis), drain (of its calls)",
    ("phase",),
    (0.001, *_LATENCY, 20),
)
propagation_seconds = _histogram(
    "whatsapp_ingress_provider_switch_propagation_seconds",
    "Change committed to used, in this process, by the clocks of both machines",
    ("source",),
    (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5),
)
switch_in_flight = _histogram(
    "whatsapp_ingress_provider_switch_in_flight",
    "Calls under way through the former config in this process when it took up the new one",
    (),
    (0, 1, 2, 5, 10, 20, 50, 100, 200),
)
switch_rollbacks = _counter(
    "whatsapp_ingress_rollbacks_total",
    "Changes that were undone before they were made, and returns to the former config",
    "reason",
)
# From 0, so that an alert sees the first one.
for _source in VALUES["source"]:
    propagation_seconds.labels(_source)
for _reason in (*ROLLBACKS, OTHER):
    switch_rollbacks.labels(_reason)

# -- plug-ins
plugins = _gauge("whatsapp_ingress_plugins", "Providers that are installed, by whether they can be used", "state")
plugin_discovery_seconds = _histogram(
    "whatsapp_ingress_plugin_discovery_seconds",
    "Looking for plug-ins that came or went, and what was found",
    ("outcome",),
    _LATENCY,
)

# -- health of accounts
troubled = _gauge("whatsapp_ingress_provider_troubled", "Configs that are degraded or unhealthy", "provider", "state")
health_changes = _counter(
    "whatsapp_ingress_provider_health_changes_total", "Configs that came into a state", "provider", "state"
)
probe_seconds = _histogram(
    "whatsapp_ingress_provider_probe_seconds",
    "Asking an account how it is doing, and what was found",
    ("provider", "outcome"),
    _LATENCY,
)

# -- the audit trail
audit_chain_valid = _gauge(
    "whatsapp_ingress_audit_chain_valid",
    "1 if every organization's audit trail was intact when it was last verified, hourly",
)
audit_chain_valid.set(float("nan"))  # until the database was asked
audit_overdue = _gauge(
    "whatsapp_ingress_audit_overdue_seconds", "How long the audit trail that waits longest is past its hour"
)

# -- what is past its time
retention_dropped = _counter(
    "whatsapp_ingress_retention_partitions_dropped_total",
    "Partitions dropped, as all in them was past its time",
    "table",
)
retention_deleted = _counter(
    "whatsapp_ingress_retention_rows_deleted_total", "Rows deleted that were past their time", "table"
)
retention_ran = _gauge(
    "whatsapp_ingress_retention_ran_timestamp_seconds",
    "When all that was past its time was last let go of, by whichever process",
)
retention_overdue = _gauge(
    "whatsapp_ingress_retention_overdue_rows",
    "Rows, by the database's statistics, of partitions that are past their time and still there",
    "table",
)

# -- media and receipts
media_transfers = _counter(
    "whatsapp_ingress_media_transfers_total", "Media passed on, and how that ended", "provider", "kind", "outcome"
)
media_bytes = _counter("whatsapp_ingress_media_bytes_total", "Bytes of media passed on", "kind")
receipts = _counter(
    "whatsapp_ingress_receipts_total", "What was shown or asked about messages of people", "provider", "kind", "class"
)

# -- parts we depend on
api_keys_expiring = _gauge(
    "whatsapp_ingress_api_keys_expiring", "API keys that are valid, and will not be in 14 days, up to 1,000"
)
gauges_read = _gauge(
    "whatsapp_ingress_gauges_read_timestamp_seconds", "When gauges were last read in the database, by what", "kind"
)
waiting = _gauge(
    "whatsapp_ingress_waiting_requests", "Requests that wait: readers of events, and sends for their result", "kind"
)
page_bytes = _gauge(
    "whatsapp_ingress_page_bytes", "Memory of pages that are read, or that their readers have not taken yet"
)
turned_away = _counter(
    "whatsapp_ingress_readers_turned_away_total", "Readers whose organization has too many waiting already"
)
db_errors = _counter(
    "whatsapp_ingress_db_errors_total", "Statements that the database did not confirm", "pool", "reason"
)
partitions_ahead = _gauge(
    "whatsapp_ingress_partitions_ahead_seconds", "How far ahead the partitions of all tables reach"
)
_pool_in_use = _gauge("whatsapp_ingress_db_pool_in_use", "Connections in use, by what they are for", "pool")
_db_connections = _gauge(
    "whatsapp_ingress_db_connections", "Connections to PostgreSQL that this process has open", "state"
)
_db_connections_limit = _gauge(
    "whatsapp_ingress_db_connections_limit", "Connections to PostgreSQL that this process may open"
)
pool_wait = _histogram("whatsapp_ingress_db_pool_wait_seconds", "Wait for a connection", ("pool",), (0.001, *_LATENCY))
redis_up = _gauge("whatsapp_ingress_redis_up", "1 while Redis answers")
redis_errors = _counter("whatsapp_ingress_redis_errors_total", "Redis commands that failed", "reason")
ssrf_blocked = _counter("whatsapp_ingress_ssrf_blocked_total", "Outgoing connections refused", "reason")
loop_lag = _histogram(
    "whatsapp_ingress_event_loop_lag_seconds", "How late a timer fires", (), (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1)
)

# What happens seldom is there from 0, as above.
for _kind in ("switch", "fallback", "rollback"):
    switch_seconds.labels(_kind, "switched")
for _metric, _values in {
    fence_rejections: {"claim", "attempt"},
    lease_reclaims: {"sending", "uncertain"},
    retention_deleted: VALUES["table"],
    retention_dropped: VALUES["table"],
    ssrf_blocked: {"address"},
}.items():
    for _value in _values:
        _metric.labels(_value)

# -- organizations, where it is asked for
by_organization = OrganizationCounters(REGISTRY)

# -- several processes: of their parent alone
OF_PARENT = CollectorRegistry()
ProcessCollector(registry=OF_PARENT)
processes = Gauge(
    "whatsapp_ingress_processes", "Workers of this parent, by what each is at", ("state",), registry=OF_PARENT
)
process_restarts = Counter(
    "whatsapp_ingress_process_restarts_total",
    "Workers that ended by themselves, or had to be ended, and had another one started for them",
    registry=OF_PARENT,
)

# -- `ingress canary`, a process of its own
OF_CANARY = CollectorRegistry()
ProcessCollector(registry=OF_CANARY)
canary_sent = Counter(
    "whatsapp_ingress_canary_sent_total", "Webhooks of the canary that were acknowledged", registry=OF_CANARY
)
canary_lost = Counter(
    "whatsapp_ingress_canary_lost_total",
    "Acknowledged webhooks of the canary that were not out after a minute",
    registry=OF_CANARY,
)
canary_refused = Counter(
    "whatsapp_ingress_canary_refused_total",
    "Webhooks of the canary that were not acknowledged",
    ("class",),
    registry=OF_CANARY,
)
canary_seconds = Histogram(
    "whatsapp_ingress_canary_seconds",
    "Acknowledged to read at /events",
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
    registry=OF_CANARY,
)


class _Queue(Protocol):
    @property
    def pending_rows(self) -> int: ...
    @property
    def pending_bytes(self) -> int: ...
    @property
    def oldest_s(self) -> float: ...


@lru_cache(4096)  # of labels as they come
def child(metric: Any, *labels: str) -> Any:
    """*metric* for these *labels*, kept at hand: finding it costs more than counting."""
    return metric.labels(*labels)


def observe(histogram: Histogram, value: float, *labels: str) -> None:
    child(histogram, *labels).observe(value)


def observe_request(histogram: Histogram, value: float, request_id: str | None, *labels: str) -> None:
    """None: its id is another process's."""
    one = child(histogram, *labels)
    if request_id is None:
        one.observe(value)
    else:
        one.observe_request(value, request_id)


def watch_queue(name: str, queue: _Queue) -> None:
    """Have the gauges of *name* read *queue* when they are scraped."""
    _queue_events.labels(name).set_function(lambda: queue.pending_rows)
    _queue_bytes.labels(name).set_function(lambda: queue.pending_bytes)
    _queue_oldest.labels(name).set_function(lambda: queue.oldest_s)


def watch_connections(connections: Any, uses: Iterable[str], most: int) -> None:
    for use in uses:
        _pool_in_use.labels(use).set_function(partial(connections.in_use, use))
    _db_connections.labels("idle").set_function(lambda: connections.idle)
    _db_connections.labels("used").set_function(lambda: connections.open - connections.idle)
    _db_connections_limit.set(most)
