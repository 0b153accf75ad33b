"""How many cores this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def cores() -> int:
    """Those of the machine, or fewer: of its affinity, and of the quotas of its cgroup (version 2) and those above."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, *_quotas(), allowed))


def _quotas() -> Iterator[int]:
    """Whole cores: two processes on one and a half would be held up in turn."""
    own = OWN_CGROUP.read_text().rpartition("0::/")[2].strip() if OWN_CGROUP.exists() else ""
    for place in ((folder := CGROUPS / own), *folder.parents):
        limit = place / "cpu.max"
        if limit.exists():
            quota, period = limit.read_text().split()
            if quota != "max":
                yield int(quota) // int(period)
