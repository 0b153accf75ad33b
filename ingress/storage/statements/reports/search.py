"""Looking for messages of both directions, newest first, in a few milliseconds however many there are.

Each way to look for some is a walk down an index in the order of the answer. What has no index (a status that most
messages have, an account beside something else) is looked for among a bounded number of rows: such a page may end before
it is full, and says where to go on.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from providers import SendError

from ....identifiers import FIRST_ID, LAST_ID, id_at
from ...columns import names
from ...keys import within_key
from ...pages import within
from ..contacts import conversations_with
from ..events import StoredEvent, of_conversation, of_type
from ..sending.messages import StoredMessage, state_of

# A few milliseconds of reading; of those that failed, which lie far from each other, fewer.
SCANNED, SCANNED_FAILED = 2_000, 300
LAST_SEQUENCE = 2**63 - 1
BEGIN, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
# By which one that failed is found without a look at the others.
TROUBLED = {"failed", "unknown"}
CLASSES = [kind.__name__ for kind in SendError.__subclasses__()]
Row = TypeVar("Row")


class MessageFilter(NamedTuple):
    """What to look for. Of the first seven one at most is given; the others hold for what it finds.

    ``error`` is a code or a class, of a message or of one of its attempts. ``keys`` are what a provider's id of a message
    may be known by, ``key_hashes`` of one that came in. Only what was sent has a lead, a request, an error and a status.
    """

    contact_id: UUID | None = None
    conversation_id: UUID | None = None
    lead_id: str | None = None
    request_id: str | None = None
    error: str | None = None
    keys: Sequence[str] = ()
    key_hashes: Sequence[bytes] = ()
    statuses: Sequence[str] = ()
    config_ids: Sequence[UUID] = ()
    since: datetime = BEGIN
    until: datetime = END

    @property
    def is_of_sends(self) -> bool:
        """What comes in has none of it."""
        return bool(
            self.lead_id or self.request_id or self.error or self.statuses or (self.keys and not self.key_hashes)
        )


class Found(NamedTuple, Generic[Row]):
    """A page of it. ``next``: below which to go on; None: that is all."""

    rows: list[Row]
    next: Any = None


# -- what was sent

# $1 the organization, $2 and $3 the ids below and from which, $4 so many rows are looked at, $5 so many taken, $6 of these
# statuses, $7 of these configs, $8 what the source looks for.


def _sent(source: str, order: str = "id desc") -> str:
    """The ids of the first in *source* that are of the statuses and configs, and the last that was looked at if it is full."""
    return f"""
with scanned as materialized (
    select id, status, config_id, row_number() over (order by {order}) as place from ({source}) source order by {order} limit $4
)
select array(
        select id from scanned
        where ($6::text[] is null or status = any($6)) and ($7::uuid[] is null or config_id = any($7)) order by place limit $5
    ) as found, (select id from scanned where place = $4) as last"""


def _by(columns: str, same: str, table: str = "messages", select: str = "*") -> str:
    """The last ones in an index of *columns*, which ends with the id."""
    id = columns.rpartition(", ")[2]
    return f"""select {select} from {table} where {within_key(columns, same, "$3", "$2")} and organization_id = $1
        order by {id} desc limit $4"""


def _each(value: str, columns: str, same: str) -> str:
    return f"select found.* from unnest({value}) as one cross join lateral ({_by(columns, same)}) found"


def _few(key: str, same: str) -> str:
    """Of what is alike there are a few, and their index does not say when they were: all are looked at."""
    return f"""select found.* from {same} as one cross join lateral (
        select * from messages where {key} = one and organization_id = $1 offset 0) found where id < $2 and id >= $3"""


SENT = _sent("select * from messages where organization_id = $1 and id < $2 and id >= $3")
SENT_BY = _sent(_each("$7::uuid[]", "config_id, id", "one"))
SENT_FAILED = _sent(_each("$8::text[]", "error_class, organization_id, id", "one, $1"))
SENT_FOR = _sent(_by("lead_id, organization_id, id", "$8, $1"))
SENT_AT = _sent(_few("request_id", "unnest(array[$8::text])"))
SENT_AS = _sent(_few("message_key", "unnest($8::text[])"))
_WITH = " union all ".join(
    f"({_by(f'{column}, organization_id, {id}', '$8, $1', table, id)})"
    for table, id, columns in (
        ("messages", "id", ("error_class", "error_code")),
        ("attempts", "message_id", ("failure", "code")),
    )
    for column in columns
)
SENT_WITH = _sent(f"select * from messages where organization_id = $1 and id = any(array({_WITH}))")
# In the order of its index; the place of a row is where the next page begins.
SENT_TO = _sent(
    f"""select found.* from ({conversations_with("$8::uuid", "$9::uuid")}) as one (id) cross join lateral (
        select * from messages
        where organization_id = $1 and conversation_id = one.id and id >= $3 and created_at >= $10 and created_at < $11
            and (created_at, id) < (
                (select coalesce((select b.created_at from messages b where b.organization_id = $1 and b.id = $2), $11)),
                (select $2::uuid))
        order by created_at desc, id desc limit $4) found""",
    "created_at desc, id desc",
)
SENT_ROWS = within(
    f"{names(StoredMessage)}, followed",
    f"""select {names(StoredMessage)}, array_position($2::uuid[], id) as place from messages
    where organization_id = $1 and id = any($2)""",
    size="octet_length(request::text)",
    order="place",
)


def _source(wanted: MessageFilter) -> tuple[str, list[Any]]:
    """The statement for what is *wanted*, and its own parameters."""
    if wanted.contact_id or wanted.conversation_id:
        return SENT_TO, [wanted.contact_id, wanted.conversation_id, wanted.since, wanted.until]
    if wanted.keys:
        return SENT_AS, [wanted.keys]
    given = {SENT_FOR: wanted.lead_id, SENT_AT: wanted.request_id, SENT_WITH: wanted.error}
    for statement, value in given.items():
        if value is not None:
            return statement, [value]
    if wanted.statuses and TROUBLED.issuperset(wanted.statuses):
        return SENT_FAILED, [CLASSES]
    return (SENT_BY if wanted.config_ids else SENT), []


async def sent(
    connection: asyncpg.Connection, organization_id: UUID, wanted: MessageFilter, before: UUID | None, limit: int
) -> Found[StoredMessage]:
    """Messages that were sent, below *before*, *limit* at most (organization)."""
    if before == FIRST_ID:  # a page of both directions goes on with the other one
        return Found([])
    statement, own = _source(wanted)
    is_filtered = bool(wanted.statuses) or (bool(wanted.config_ids) and statement != SENT_BY)
    below = before or (LAST_ID if wanted.until == END else id_at(wanted.until))
    scan = limit + 1 if not is_filtered else SCANNED_FAILED if statement == SENT_FAILED else SCANNED
    filters = list(wanted.statuses) or None, list(wanted.config_ids) or None
    arguments = below, id_at(wanted.since), scan, limit + 1, *filters, *own
    found, last = (await connection.fetch(statement, organization_id, *arguments))[0]
    rows = await connection.fetch(SENT_ROWS, organization_id, found[:limit])
    messages = [state_of(StoredMessage, row[:-1]) for row in rows]
    if len(found) > limit or (rows and rows[-1]["followed"]):
        return Found(messages, messages[-1].id)
    return Found(messages, last)


# -- what came in

# $1 the organization, $2 and $3 the sequences below and from which, $4 so many are looked at, $5 so many taken, $6 of these
# configs, $7 of these types, $8 what the source looks for.
_WITHIN = "organization_id = $1 and sequence < $2 and sequence >= $3"


def _received(source: str) -> str:
    """As `_sent`, of events."""
    return f"""
with scanned as materialized (
    select sequence, config_id, row_number() over (order by sequence desc) as place from ({source}) source
    order by sequence desc limit $4
)
select array(
        select sequence from scanned where $6::uuid[] is null or config_id = any($6) order by place limit $5
    ) as found, (select sequence from scanned where place = $4) as last"""


RECEIVED = _received(
    f"""select found.* from unnest($7::text[]) as kind cross join lateral (
        select * from events where organization_id = $1 and {of_type("kind", "$3 - 1", "$2")}
        order by type desc, sequence desc limit $4) found"""
)
RECEIVED_FROM = _received(
    f"""select found.* from unnest($7::text[]) as kind
    cross join ({conversations_with("$8::uuid", "$9::uuid")}) as one (id) cross join lateral (
        select * from events where organization_id = $1 and {of_conversation("one.id", "kind", "$3 - 1", "$2")}
        order by conversation_id desc, type desc, sequence desc limit $4) found"""
)
RECEIVED_AS = _received(
    f"""select * from events where {_WITHIN} and type = any($7::text[]) and sequence = any(array(
        select d.sequence from inbound_dedup d where d.organization_id = $1 and d.key_hash = any($8::bytea[])))"""
)
RECEIVED_ROWS = within(
    f"{names(StoredEvent)}, followed",
    f"""select {names(StoredEvent)}, data_bytes from events where organization_id = $1 and sequence = any($2::bigint[])""",
    size="data_bytes",
    order="sequence desc",
)


async def received(
    connection: asyncpg.Connection,
    organization_id: UUID,
    wanted: MessageFilter,
    below: int | None,
    limit: int,
    types: Sequence[str],
) -> Found[StoredEvent]:
    """Events of these *types*, below a sequence, *limit* at most; none where *wanted* is of sends alone (organization)."""
    if wanted.is_of_sends:
        return Found([])
    statement, own = RECEIVED, list[Any]()
    if wanted.contact_id or wanted.conversation_id:
        statement, own = RECEIVED_FROM, [wanted.contact_id, wanted.conversation_id]
    elif wanted.key_hashes:
        statement, own = RECEIVED_AS, [wanted.key_hashes]
    if below is None:
        below = LAST_SEQUENCE if wanted.until == END else await sequence_at(connection, organization_id, wanted.until)
    since = 0 if wanted.since == BEGIN else await sequence_at(connection, organization_id, wanted.since)
    scan = SCANNED if wanted.config_ids else limit + 1
    arguments = below, since, scan, limit + 1, list(wanted.config_ids) or None, types, *own
    found, last = (await connection.fetch(statement, organization_id, *arguments))[0]
    rows = await connection.fetch(RECEIVED_ROWS, organization_id, found[:limit])
    events = [StoredEvent(*row[:-1]) for row in rows]
    if len(found) > limit or (rows and rows[-1]["followed"]):
        return Found(events, events[-1].sequence)
    return Found(events, last)


# By halves: sequences rise with time, but for what a transaction takes, and no index has the two together. What a row of
# another table makes of its columns is kept from indexes by row-level security, hence the column `middle`.
AT_TIME = """
with recursive step (low, high, middle) as (
    select min(sequence), max(sequence) + 1, (min(sequence) + max(sequence)) / 2 from events where organization_id = $1
    union all
    select next.low, next.high, (next.low + next.high) / 2
    from step cross join lateral (
        select sequence, created_at from events where organization_id = $1 and sequence >= step.middle order by sequence limit 1
    ) found cross join lateral (
        select case when found.created_at < $2 then found.sequence + 1 else step.low end as low,
            case when found.created_at < $2 then step.high else step.middle end as high
    ) next
    where step.low < step.high
)
select coalesce(max(low), 0) from step"""


async def sequence_at(connection: asyncpg.Connection, organization_id: UUID, moment: datetime) -> int:
    """Where the organization's events of that *moment* begin (organization)."""
    sequence: int = await connection.fetchval(AT_TIME, organization_id, moment)
    return sequence
