"""What is kept for a while only: deduplication keys, and statuses nobody asked for."""

from datetime import timedelta

import asyncpg

BATCH_ROWS = 5_000
KEYS_KEPT = timedelta(days=30)
# A fact that is older when it is received may be a repetition whose key is let go already; one that claims to be of the
# future would pass for new when its key is. Providers repeat for a week; their clocks and ours are minutes apart at most.
MAX_AGE = KEYS_KEPT - timedelta(days=1)
MAX_AHEAD = timedelta(minutes=10)

# By primary key and in small batches, so that receiving never waits for it; what another process deletes is skipped.
DROP_KEYS = f"""
delete from inbound_dedup where (organization_id, key_hash) in (
    select organization_id, key_hash from inbound_dedup
    where first_seen < now() - interval '{KEYS_KEPT.days} days' limit {BATCH_ROWS} for update skip locked)"""
DROP_STATUSES = f"""
delete from message_statuses where (organization_id, account_id, message_key, value) in (
    select organization_id, account_id, message_key, value from message_statuses
    where received_at < now() - interval '30 days' limit {BATCH_ROWS} for update skip locked)"""


async def purge(connection: asyncpg.Connection) -> int:
    """Delete a batch of what is past its time; how many rows, 0 when nothing is left (worker)."""
    counts = [await connection.execute(statement) for statement in (DROP_KEYS, DROP_STATUSES)]
    return sum(int(count.rpartition(" ")[2]) for count in counts)
