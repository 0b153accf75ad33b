"""How long a change took to be used in each process, from the processes' own metrics, over all their lives."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from .cluster import Cluster, ClusterMember

NAME = "whatsapp_ingress_provider_switch_propagation_seconds"
FENCE = "whatsapp_ingress_fence_rejections"

Buckets = Counter[float]  # upper bound in seconds -> observations at or below it


class Propagation:
    """Scrapes. A histogram knows a quantile by the upper bound of its bucket: that is reported."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.all: Buckets = Counter()
        self.calm: Buckets = Counter()  # while nothing else was broken
        self.redis_down: Buckets = Counter()
        self.fenced = 0

    async def before_end_of(self, member: ClusterMember) -> None:
        """Keep what *member* has counted: it is about to be killed."""
        buckets, fenced = await self._scrape(member)
        self.all.update(buckets)
        self.fenced += fenced

    async def at_the_end(self) -> None:
        for member in self._cluster.members:
            await self.before_end_of(member)

    @asynccontextmanager
    async def counted(self, buckets: Buckets) -> AsyncIterator[None]:
        """What processes count within the block, in which none is killed, goes to *buckets*, too."""
        before = {member.name: (await self._scrape(member))[0] for member in self._cluster.members}
        yield
        for member in self._cluster.members:
            buckets.update((await self._scrape(member))[0])
            buckets.subtract(before[member.name])

    async def _scrape(self, member: ClusterMember) -> tuple[Buckets, int]:
        async with self._cluster.session.get(f"{member.url.operations}/metrics") as answer:
            text = await answer.text()
        buckets: Buckets = Counter()
        fenced = 0.0
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                # What a process that made the change itself took is no propagation.
                if sample.name == f"{NAME}_bucket" and sample.labels["source"] != "here":
                    buckets[float(sample.labels["le"])] += int(sample.value)
                elif sample.name == f"{FENCE}_total":
                    fenced += sample.value
        return buckets, int(fenced)


def quantile_s(buckets: Buckets, share: float) -> float | None:
    """The bound of the bucket that holds it; None where nothing was observed."""
    total = max(buckets.values(), default=0)
    return min((bound for bound, count in buckets.items() if total and count >= share * total), default=None)


def shown(seconds: float | None) -> Any:
    return None if seconds is None else round(seconds * 1000, 1)
