"""Which tables are kept for which period, and where rows have to be deleted as no partition goes with them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from ..storage.statements.lifetime.partitions import Partition

DAY, WEEK = timedelta(days=1), timedelta(days=7)


class Keeping(NamedTuple):
    """A partitioned table, which of the periods it is kept for, and how long a partition of it is to last."""

    table: str
    kind: str
    grid: timedelta


# In the order in which they go: what refers to a row before the row.
KEEPING = (
    Keeping("inbound_webhooks", "bodies", DAY),
    Keeping("quarantine", "bodies", WEEK),
    Keeping("inbound_dedup", "facts", DAY),
    Keeping("message_statuses", "statuses", WEEK),
    Keeping("attempts", "events", WEEK),
    Keeping("messages", "events", WEEK),
    Keeping("deliveries", "events", WEEK),
    Keeping("events", "events", WEEK),
)


class Edge(NamedTuple):
    """Where a period ends, and where something would be that lasts too long; as moments and as sequences."""

    before: datetime
    too_early: datetime
    sequence: int
    sequence_too_early: int


def lasts_long(parts: Sequence[Partition], table: str, edge: Edge, begin: datetime) -> bool:
    """Whether rows are past their time in a part of *table* that will stay for weeks. *begin*: nothing is older."""
    return begin < edge.too_early and any(_is_long(part, edge) for part in parts if part.table == table)


def _is_long(part: Partition, edge: Edge) -> bool:
    if part.until_sequence is not None:
        begin = part.from_sequence or 0
        return begin <= edge.sequence_too_early and edge.sequence < part.until_sequence
    if part.until_at is None:
        return False
    return (part.from_at is None or part.from_at < edge.too_early) and edge.before < part.until_at
