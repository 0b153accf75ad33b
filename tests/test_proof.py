"""`make prove` in little: kills, switches and load for some seconds, held against the rules; the whole takes longer."""

from pathlib import Path

from prove.figures import measured, table
from prove.load import Plan

LITTLE = Plan(seconds=8, sends=320, webhooks=640, switches=48, kills=4)


async def test_switching_under_load_loses_nothing(tmp_path: Path) -> None:
    history, found = await measured(tmp_path, LITTLE, fallbacks=2)
    assert found["violations"] == []
    # That nothing was wrong says something only where something happened.
    assert found["sends"] > LITTLE.sends
    assert found["deliveries"] >= LITTLE.sends - found["sends_of_killed_processes"]
    assert found["switches"] > LITTLE.switches // 4
    assert (found["kills"], found["redis_troubles"]) == (4, 4)
    assert found["webhooks_acknowledged"] == LITTLE.webhooks
    assert found["propagations"] > 0
    assert {one.config for one in history.deliveries} == {config for _, config in history.trail}
    assert table(found).row_count > 10
