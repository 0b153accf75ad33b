"""What a parent decides: how many workers, when the next one is started, which one hangs."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingress.cli.main import parser
from ingress.processes import cores, parent
from ingress.processes.parent import Parent, Place
from ingress.server import listen
from ingress.settings import Settings

from ..gateway import eventually, unused_port


class Ended:
    """A worker that has ended."""

    def __init__(self, age_s: float, *, has_started: bool = True) -> None:
        self.age_s = age_s
        self.has_started = has_started


def test_who_dies_at_once_is_started_later_each_time() -> None:
    """And at once again, when one has served for a while."""
    place = Place("127.0.0.1", 0)
    early: Any = Ended(0.1)
    assert [place.note_end(early) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    steady: Any = Ended(10)
    assert [place.note_end(one) for one in (steady, early, steady)] == [0, 0.5, 0]
    assert place.failed_starts == 0
    never: Any = Ended(60, has_started=False)
    assert [place.note_end(never) for _ in range(2)] == [0.5, 1]
    assert place.failed_starts == 2


@pytest.mark.parametrize(
    ("quotas", "wanted"),
    [
        ({}, 8),
        ({"a.slice/b.service": "max 100000"}, 8),
        ({"a.slice/b.service": "250000 100000"}, 2),
        ({"a.slice/b.service": "400000 100000", "a.slice": "300000 100000"}, 3),
        ({".": "50000 100000"}, 1),
    ],
    ids=["none", "no-limit", "own", "of-the-slice", "less-than-one"],
)
def test_auto_is_what_this_process_may_use(
    quotas: dict[str, str], wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("1:cpu:/other\n0::/a.slice/b.service\n")
    for path, quota in quotas.items():
        folder = tmp_path / "cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(quota + "\n")
    assert parser().parse_args(["serve", "--processes", "auto"]).processes == wanted


def test_without_an_option_there_is_one_process() -> None:
    assert parser().parse_args(["serve"]).processes == parser().parse_args(["run"]).processes == 1


async def test_a_worker_that_hangs_is_killed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and has its connections, and answers nobody."""
    monkeypatch.setattr(parent, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(parent, "SILENT_S", 1.0)
    monkeypatch.setattr(parent, "on_signals", lambda *_: None)
    made = Parent(msgspec.structs.replace(settings, port=unused_port()), 1)
    operations = listen("127.0.0.1", 0)
    running = asyncio.create_task(made.run(operations))
    try:
        former = await eventually(lambda: [one.pid for one in made._workers.values() if one.has_started])
        os.kill(*former, signal.SIGSTOP)
        await eventually(lambda: [one.pid for one in made._workers.values() if one.has_started] not in ([], former))
    finally:
        made._closing.set()
        assert await running == 0
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        operations.close()
