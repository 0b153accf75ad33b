"""A short form of `make attack`: what holds at any speed of the machine. The long one holds times, too."""

from collections.abc import AsyncIterator

import pytest

from prove.attacks.__main__ import AS_DELIVERED, RSS_LIMIT_MB, SERIES_LIMIT, attacked
from prove.cluster import Cluster, cluster

SECONDS = 1.5


@pytest.fixture(scope="module")
async def attackable(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path_factory.mktemp("attacked"), processes=1, limits=AS_DELIVERED) as playing:
        yield playing


@pytest.mark.parametrize("name", ["connections", "headers", "heavy", "refusals", "streams"])
async def test_a_quiet_tenant_is_served_meanwhile(attackable: Cluster, name: str) -> None:
    """Each webhook is taken, each question for health answered, in the memory that a container has.

    At once, or, where those before it have waited for two seconds, when it comes again. A process that is given no time
    by its machine may say that it is not ready.
    """
    seen = await attacked(attackable, name, SECONDS)
    assert seen.lost == []
    assert set(seen.unhealthy) | set(seen.refused) <= {"503"}
    assert len(seen.latencies_ms) > 10
    assert seen.rss_mb <= RSS_LIMIT_MB
    assert 0 < seen.series <= SERIES_LIMIT
