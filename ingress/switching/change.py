"""What a change of an organization's active config is, and why one is refused."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from providers import Check, ProviderStatus

from ..accounts.accounts import ChangeRefused, Config
from ..audit import Actor

# What every process listens to.
CHANNEL = "ingress_provider"
NO_FORMER_CONFIG = "There is no former config to return to. Switch to one of provider/configs instead."


class VersionConflict(ChangeRefused):
    """The organization is not at the version that was expected; it is at ``version``, with ``active_config_id``."""

    code = "version_conflict"

    def __init__(self, version: int, active_config_id: UUID | None) -> None:
        super().__init__(f"The organization is at version {version}. Look at what is active now, and decide again.")
        self.version = version
        self.active_config_id = active_config_id


class NoFormerConfig(ChangeRefused):
    """There is none to return to."""

    code = "no_former_config"


class NotPaired(ChangeRefused):
    """No phone is linked to the account."""

    code = "not_paired"


class TooSlow(ChangeRefused):
    """The account was not tested and set up in time."""

    code = "too_slow"


class NotReceiving(ChangeRefused):
    """What people write to the account would not arrive here. ``checks`` say what to do."""

    code = "webhook_not_set"

    def __init__(self, failed: Check, checks: list[Check]) -> None:
        super().__init__(" ".join(filter(None, [f"{failed.detail}.", failed.fix])))
        self.checks = checks


class StandIn(msgspec.Struct, frozen=True):
    """That another config stands in for ``primary`` since ``at``, and the fallbacks of it then."""

    primary: UUID
    order: list[UUID]
    at: datetime


class Switched(msgspec.Struct, frozen=True):
    """What is in force now. ``changed`` False: it was before, or the switch waits for a phone until ``waits_until``."""

    config: Config
    version: int
    former_config_id: UUID | None
    checks: list[Check]
    changed: bool
    waits_until: datetime | None = None
    fallback_config_ids: list[UUID] = []  # once it is made


class Change(msgspec.Struct):
    """A change under way: what is known of it so far."""

    organization_id: UUID
    actor: Actor
    kind: str
    reason: str | None
    expected_version: int | None = None  # None: any
    version: int = 0
    active: UUID | None = None
    config: Config | None = None
    provider_type: str = ""
    state: str = ""  # of the config before; empty: it is not stored
    checks: list[Check] = []
    status: ProviderStatus | None = None
    order: list[UUID] | None = None  # the fallbacks from then on; None: as `order_after` has them
    stand_in: StandIn | None = None

    def check_version(self) -> None:
        """Raises `VersionConflict` where the organization is at another version than was expected."""
        if self.expected_version not in (None, self.version):
            raise VersionConflict(self.version, self.active)

    def ended(self, *, changed: bool = False, waits_until: datetime | None = None) -> Switched:
        assert self.config is not None
        return Switched(self.config, self.version, self.active, self.checks, changed, waits_until, self.order or [])

    def __repr__(self) -> str:
        return f"Change({self.organization_id}, {self.kind})"


def order_after(standing: asyncpg.Record, target: UUID | None, *, back: bool) -> list[UUID]:
    """The fallback order once *target* (None: a new one) is the active config, whose place the one that is left takes.

    *back*: it is a rollback, to the order of then, unless somebody has set another since.
    """
    former = standing["former_fallback_ids"] if back else None
    order = standing["fallback_config_ids"] if former is None else former
    order = [standing["active_config_id"] if config_id == target else config_id for config_id in order]
    return [config_id for config_id in order if config_id is not None]
