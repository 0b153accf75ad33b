"""What `ingress migrate` prints: each step while it is made, then what is applied and what is not."""

import sys
from collections.abc import Mapping

from ..storage.migration import Migrated
from ..storage.upgrades import MigrationProgress


def show(now: MigrationProgress) -> None:
    """One line a step: a terminal sees it change, a log has it when it is done, and every tenth of it before."""
    text = _step(now)
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\x1b[K{text}" + "\n" * (now.seconds is not None))
    elif now.seconds is not None or (now.percent or 1) % 10 == 0:
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _step(now: MigrationProgress) -> str:
    text = f"{now.migration} {now.number}/{now.steps} {now.title}"
    if now.percent is not None:
        text += f" {now.percent} %"
    if now.seconds is not None:
        text += f" ({now.seconds:.1f} s)"
    return text


def summary(found: Migrated) -> str:
    """What is applied, what is not, and what that waits for."""
    if found.is_new:
        return "schema created\n"
    if not found.missing:
        return "schema is current\n"
    lines = [f"applied      {name}, {at:%Y-%m-%d %H:%M} UTC" for name, at in found.applied.items()]
    lines += [f"not applied  {name}" for name in found.missing]
    return "\n".join([*lines, _what_is_awaited(found.older), "`ingress migrate --post`.", ""])


def _what_is_awaited(older: Mapping[str, int]) -> str:
    if not older:
        return "No process of an older release is connected. If none will be started again, run"
    who = ", ".join(f"{release}: {connections}" for release, connections in older.items())
    return f"Processes of an older release are connected ({who}). When they are gone for good, run"
