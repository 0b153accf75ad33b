"""How an organization's providers are doing, as people see it, and what changed of that."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from ..accounts.advice import WHAT_TO_DO
from ..accounts.unusable import UNUSABLE

# The state of a config's circuit breaker in this process, None where nothing was sent through it yet.
BreakerOf = Callable[[UUID], str | None]


class HealthShown(msgspec.Struct, frozen=True, omit_defaults=True):
    """``detail`` is why, in the provider's words; ``what_to_do`` is ours. ``checked_at``: the last look."""

    state: str
    since: datetime | None = None
    reason: str | None = None
    detail: str | None = None
    what_to_do: str | None = None
    checked_at: datetime | None = None

    def __repr__(self) -> str:
        return f"HealthShown({self.state!r})"


class ConfigShown(msgspec.Struct, frozen=True, kw_only=True):
    """A config in the status. ``role``: active, fallback, primary (another one stands in for it), or None."""

    config_id: UUID
    provider: str
    name: str
    state: str
    role: str | None
    health: HealthShown
    pairing: str | None
    breaker: str | None

    def __repr__(self) -> str:
        return f"ConfigShown({self.config_id})"


class SwitchShown(msgspec.Struct, frozen=True):
    """The switch that is under way. ``phase``: testing, or waiting_for_pairing, which ends at ``until``."""

    config_id: UUID
    phase: str
    until: datetime | None


class ProvidersStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an organization's providers are doing."""

    version: int
    provider: str | None
    config_id: UUID | None
    switching: SwitchShown | None
    configs: list[ConfigShown]

    def __repr__(self) -> str:
        return f"ProvidersStatus({self.version})"


def health_shown(row: asyncpg.Record, *, with_time: bool = False) -> HealthShown:
    reason = row["reason"]
    return HealthShown(
        row["health"] or "unknown",
        row["since"],
        reason,
        row["detail"],
        WHAT_TO_DO[reason] if reason else None,
        row["checked_at"] if with_time else None,
    )


def health_by_config(rows: Sequence[asyncpg.Record]) -> dict[UUID, HealthShown]:
    """With the time of the last look."""
    return {row["config_id"]: health_shown(row, with_time=True) for row in rows if row["config_id"] is not None}


def status_of(rows: Sequence[asyncpg.Record], breaker_of: BreakerOf) -> ProvidersStatus:
    """The status out of an organization's configs, as the database has them: at least one row."""
    first = rows[0]
    rows = [row for row in rows if row["config_id"] is not None]
    active = next((row for row in rows if row["config_id"] == first["active_config_id"]), None)
    # One may be tested while another waits for a phone: whatever comes of the one decides on the other.
    moving = min(
        (row for row in rows if row["state"] == "switching"),
        key=lambda row: row["waiting_until"] is not None,
        default=None,
    )
    primary = msgspec.json.decode(first["automatic"])["primary"] if first["automatic"] else None

    def role(row: asyncpg.Record) -> str | None:
        if row is active:
            return "active"
        if str(row["config_id"]) == primary:
            return "primary"
        return "fallback" if row["config_id"] in first["fallback_config_ids"] else None

    return ProvidersStatus(
        version=first["version"],
        provider=active["provider"] if active else None,
        config_id=active["config_id"] if active else None,
        switching=None
        if moving is None
        else SwitchShown(
            moving["config_id"],
            "waiting_for_pairing" if moving["waiting_until"] else "testing",
            moving["waiting_until"],
        ),
        configs=[
            ConfigShown(
                config_id=row["config_id"],
                provider=row["provider"],
                name=row["name"],
                state="error" if row["reason"] in UNUSABLE else row["state"],
                role=role(row),
                health=health_shown(row),
                pairing=row["pairing"],
                breaker=breaker_of(row["config_id"]),
            )
            for row in rows
        ],
    )


def changes(former: ProvidersStatus, now: ProvidersStatus) -> dict[str, Any]:
    """What is not as it was: fields by name; configs that changed, whole; `removed`, those that are gone."""
    found: dict[str, Any] = {
        name: value
        for name in ("version", "provider", "config_id", "switching")
        if (value := getattr(now, name)) != getattr(former, name)
    }
    if configs := [config for config in now.configs if config not in former.configs]:
        found["configs"] = configs
    here = {config.config_id for config in now.configs}
    if removed := [config.config_id for config in former.configs if config.config_id not in here]:
        found["removed"] = removed
    return found
