"""What organizations do, each by its id, where it is asked for: the busiest ones, as each is a series of its own."""

from collections import Counter
from time import monotonic
from uuid import UUID

import prometheus_client

from .labels import OTHER

# Who is the busiest is looked at so often: each change begins series and ends others.
RANKED_EVERY_S = 3600.0


class OrganizationCounters:
    """Counts for *named* organizations by their ids, and for all others as `other`; 0: nothing is counted.

    The first ones of a process are named, and after each hour those that were the busiest in it.
    """

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self.named = 0
        self.events = prometheus_client.Counter(
            "whatsapp_ingress_organization_events_total",
            "New events out of webhooks, where INGRESS_ORGANIZATIONS_IN_METRICS is set",
            ["organization"],
            registry=registry,
        )
        self.sends = prometheus_client.Counter(
            "whatsapp_ingress_organization_sends_total",
            "Sends that were accepted, where INGRESS_ORGANIZATIONS_IN_METRICS is set",
            ["organization"],
            registry=registry,
        )
        unnamed = prometheus_client.Gauge(
            "whatsapp_ingress_organizations_unnamed",
            "Organizations that were counted as `other` since the busiest ones were last looked for",
            registry=registry,
        )
        unnamed.set_function(lambda: len(self._counts.keys() - self._names))
        self._names: set[UUID] = set()
        self._counts: Counter[UUID] = Counter()
        self._ranked_at = monotonic()

    def count(self, metric: prometheus_client.Counter, organization_id: UUID, many: int = 1) -> None:
        if not self.named:
            return
        if monotonic() - self._ranked_at >= RANKED_EVERY_S:
            self._rank()
        self._counts[organization_id] += many
        if len(self._names) < self.named:
            self._names.add(organization_id)
        metric.labels(str(organization_id) if organization_id in self._names else OTHER).inc(many)

    def _rank(self) -> None:
        busiest = {organization_id for organization_id, _ in self._counts.most_common(self.named)}
        for gone in self._names - busiest:
            self.events.remove(str(gone))
            self.sends.remove(str(gone))
        self._names = busiest
        self._counts.clear()
        self._ranked_at = monotonic()
