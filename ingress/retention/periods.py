"""For how many days each kind of data is kept: by the service, and by an organization, which may have it shorter."""

from datetime import datetime, timedelta

import msgspec

from ..settings import Settings
from ..storage.statements.lifetime.retention import OwnPeriods
from ..storage.statements.receiving.inbound import KEYS_KEPT


class Periods(msgspec.Struct, frozen=True, kw_only=True):
    """Days."""

    bodies: int
    events: int
    statuses: int
    keys: int
    audit: int

    @property
    def facts(self) -> int:
        """Of keys of facts that say their time: those are taken that are not quite so old, and none of them twice."""
        return max(self.keys, KEYS_KEPT.days)

    def of(self, own: OwnPeriods) -> "Periods":
        """What is in force for who has set *own*: never longer than the service."""
        return msgspec.structs.replace(
            self,
            bodies=min(self.bodies, own.bodies_days or self.bodies),
            events=min(self.events, own.events_days or self.events),
            statuses=min(self.statuses, own.statuses_days or self.statuses),
        )

    def before(self, kind: str, now: datetime) -> datetime:
        """What is older is past its time."""
        return now - timedelta(days=getattr(self, kind))


def periods_of(settings: Settings) -> Periods:
    """As the service keeps it."""
    return Periods(
        bodies=settings.retention_bodies_days,
        events=settings.retention_events_days,
        statuses=settings.retention_statuses_days,
        keys=settings.retention_keys_days,
        audit=settings.retention_audit_days,
    )
