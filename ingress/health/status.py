"""How an organization's providers are doing, as people see it, and what changed of that."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers import ProviderStatus
from providers.messages import Quality, Trouble

from ..accounts.advice import WHAT_TO_DO, Reason
from ..accounts.unusable import UNUSABLE
from ..storage.statements.health import ConfigHealth, OrganizationHealth

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


class StatusShown(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's last word on the account. ``detail``, for people: what is wrong, and what to do."""

    is_connected: bool
    connection_quality: Quality
    last_activity: datetime | None
    session_info: dict[str, Any]
    detail: str | UnsetType = UNSET
    trouble: Trouble | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"StatusShown({self.connection_quality!r})"


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
    last_activity: datetime | None

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


def health_shown(config: ConfigHealth, *, with_time: bool = False) -> HealthShown:
    what_to_do = WHAT_TO_DO[cast("Reason", config.reason)] if config.reason else None
    checked_at = config.checked_at if with_time else None
    return HealthShown(config.health, config.since, config.reason, config.detail, what_to_do, checked_at)


def status_shown(status: ProviderStatus | None, last_activity: datetime | None) -> StatusShown:
    if status is None:
        detail = "Nothing is known of the account yet: its provider has not answered."
        status = ProviderStatus(is_connected=False, connection_quality="disconnected", detail=detail)
    return StatusShown(
        is_connected=status.is_connected,
        connection_quality=status.connection_quality,
        last_activity=last_activity,
        session_info=status.session_info,
        detail=status.detail or UNSET,
        trouble=status.trouble or UNSET,
    )


def status_of(stored: OrganizationHealth, breaker_of: BreakerOf) -> ProvidersStatus:
    """The status out of an organization's configs, as the database has them."""
    active = next((config for config in stored.configs if config.config_id == stored.active_config_id), None)
    return ProvidersStatus(
        version=stored.version,
        provider=active.provider if active else None,
        config_id=active.config_id if active else None,
        switching=_switching(stored.configs),
        configs=[_config(config, stored, breaker_of(config.config_id)) for config in stored.configs],
    )


def _config(config: ConfigHealth, stored: OrganizationHealth, breaker: str | None) -> ConfigShown:
    return ConfigShown(
        config_id=config.config_id,
        provider=config.provider,
        name=config.name,
        state="error" if config.reason in UNUSABLE else config.state,
        role=_role(config.config_id, stored),
        health=health_shown(config),
        pairing=config.pairing,
        breaker=breaker,
        last_activity=config.last_activity,
    )


def _role(config_id: UUID, stored: OrganizationHealth) -> str | None:
    if config_id == stored.active_config_id:
        return "active"
    if stored.automatic and msgspec.json.decode(stored.automatic)["primary"] == str(config_id):
        return "primary"
    return "fallback" if config_id in stored.fallback_config_ids else None


def _switching(configs: Sequence[ConfigHealth]) -> SwitchShown | None:
    # One may be tested while another waits for a phone: whatever comes of the one decides on the other.
    under_way = [config for config in configs if config.state == "switching"]
    config = min(under_way, key=lambda config: config.waits_until is not None, default=None)
    if config is None:
        return None
    phase = "waiting_for_pairing" if config.waits_until else "testing"
    return SwitchShown(config.config_id, phase, config.waits_until)


def changes(former: ProvidersStatus, now: ProvidersStatus) -> dict[str, Any]:
    """What is not as it was: fields by name; configs that changed, whole; `removed`, those that are gone.

    A message is no change: who looks at the configs learns when the last one was.
    """
    found: dict[str, Any] = {
        name: value
        for name in ("version", "provider", "config_id", "switching")
        if (value := getattr(now, name)) != getattr(former, name)
    }
    known = [_lasting(config) for config in former.configs]
    if configs := [config for config in now.configs if _lasting(config) not in known]:
        found["configs"] = configs
    here = {config.config_id for config in now.configs}
    if removed := [config.config_id for config in former.configs if config.config_id not in here]:
        found["removed"] = removed
    return found


def _lasting(config: ConfigShown) -> ConfigShown:
    return msgspec.structs.replace(config, last_activity=None)
