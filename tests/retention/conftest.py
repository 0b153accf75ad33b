"""A database in which days pass."""

from collections.abc import AsyncIterator

import pytest

from ingress.settings import Settings
from ingress.storage import partitions

from .world import World, world


@pytest.fixture
async def simulated(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    # Some transactions a day are a week's block, as billions are in production.
    monkeypatch.setattr(partitions, "SMALLEST_BLOCK", 2**5 << 16)
    monkeypatch.setattr(partitions, "BLOCKS_AHEAD", 16)
    async with world(settings) as made:
        yield made
