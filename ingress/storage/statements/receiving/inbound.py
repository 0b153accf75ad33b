"""Webhooks: raw body, keys, events and statuses in one statement; the quarantine; and how old a fact may be."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from ....validation import Unlogged
from ..contacts import ARE_CURRENT, OUTDATED, ContactsOutdated
from ..events import EventRow, clock, insert_events
from .held_events import HOLD
from .statuses import MERGED, StatusRow, merge, merged

# The day of what has none, which PostgreSQL knows as -infinity.
UNTIMED = date.min
# What is received later after it happened has none either, so that its key is not let go earlier than others.
TIMED_FOR = timedelta(days=1)


class Held(NamedTuple):
    """What a held event is about, and the sends that may turn out to be that."""

    account_id: UUID
    provider_message_id: str
    message_key: str
    candidates: Sequence[UUID]


class FactDay(NamedTuple):
    """Of a fact: under which its key is kept, and which it is."""

    kept: date
    own: date


NO_DAY = FactDay(UNTIMED, UNTIMED)


def day_of(happened_at: datetime | None) -> FactDay:
    """The day of a fact. One that is far from now is kept as if it had none; that is asked for as well."""
    if happened_at is None:
        return NO_DAY
    day, today = happened_at.astimezone(UTC).date(), datetime.now(UTC).date()
    return FactDay(day if today - TIMED_FOR <= day <= today + timedelta(days=1) else UNTIMED, day)


class KeyedEvent(Unlogged, frozen=True):
    """An event with what makes it unique in its organization, and the status it reports, if it does.

    ``waiting``: it is not known yet whether it is about a message of ours, so it is held. ``day``: of the fact, the same
    whenever its provider repeats it.
    """

    key_hash: bytes
    event: EventRow
    status: StatusRow | None
    waiting: Held | None = None
    day: FactDay = NO_DAY


class QuarantineRow(Unlogged, frozen=True):
    """Something put aside: a body that cannot be read, or (``foreign_item``) an item of somebody else's account."""

    id: UUID
    reason: str
    body: bytes
    foreign_item: bool = False
    partly_taken: bool = False


class WebhookRow(Unlogged, frozen=True):
    """One verified webhook with everything it says."""

    organization_id: UUID
    config_id: UUID
    headers: bytes
    body: bytes
    events: Sequence[KeyedEvent]
    quarantine: Sequence[QuarantineRow]
    is_kept: bool = False  # its headers and body are stored already


# Most rows of a batch are alike in whose they are, so that is sent once for a run of them: an element of an array costs
# as much as a column of a row. A run's first place is what `width_bucket` finds it by.
_WEBHOOKS = """kept as (
    insert into inbound_webhooks (organization_id, config_id, headers, body)
    select ($2::uuid[])[run], ($3::uuid[])[run], headers, body
    from unnest($4::bytea[], $5::bytea[]) with ordinality as given(headers, body, place)
    cross join lateral width_bucket(place::integer, $1::integer[]) as run
)"""
# JSON arrives as bytes here and below: asyncpg passes those on in C, and calls Python for each value of a json array.
# Keys are taken in their order: two transactions that share some never wait for each other in a circle.
_EVENTS = """received as materialized (
    select place, ($7::uuid[])[run] as organization_id, ($8::uuid[])[run] as config_id, ($9::text[])[run] as type,
        key_hash, day, conversation_id, data, raw
    from unnest($10::bytea[], $11::date[], $12::uuid[], $13::bytea[], $14::bytea[])
        with ordinality as given(key_hash, day, conversation_id, data, raw, place)
    cross join lateral width_bucket(place::integer, $6::integer[]) as run
),
fresh as (
    insert into inbound_dedup (organization_id, key_hash, day, sequence)
    select organization_id, key_hash, day, case when type in ('message.received', 'message.echo') then clock.start + place end
    from received cross join clock
    -- It came before, late or from a clock that was wrong, or when nobody kept its day.
    where {current} and (day = '-infinity' or not {known_untimed}){not_late}
    order by 1, 2
    on conflict do nothing returning organization_id, key_hash
),
given as (
    select place, organization_id, type, config_id, conversation_id, convert_from(data, 'UTF8')::json as data, raw
    from received join fresh using (organization_id, key_hash)
)"""
_QUARANTINE = """aside as (
    insert into quarantine (organization_id, config_id, headers, id, reason, body, foreign_item, partly_taken)
    select * from unnest(${0}::uuid[], ${1}::uuid[], ${2}::json[], ${3}::uuid[], ${4}::text[], ${5}::bytea[], ${6}::boolean[],
        ${7}::boolean[])
)"""


def _is_known(day: str) -> str:
    """Whether the key of a row in `received` is there under that day."""
    return f"""exists (select from inbound_dedup known where known.organization_id = received.organization_id
        and known.key_hash = received.key_hash and known.day = {day})"""


class _Kinds(NamedTuple):
    """What there is among rows. ``late``: facts that are kept under another day than theirs."""

    statuses: bool
    by_key: bool
    quarantine: bool
    placed: bool
    held: bool
    late: bool
    remembered: bool


@cache
def _store(kinds: _Kinds) -> str:
    statuses, by_key, quarantine, placed, held, late, remembered = kinds
    start, next_parameter = clock(), 15
    not_late = ""
    if late:
        not_late = f" and not {_is_known(f'(${next_parameter}::date[])[place]')}"
        next_parameter += 1
    events = _EVENTS.format(
        current=ARE_CURRENT if remembered else "true", known_untimed=_is_known("'-infinity'"), not_late=not_late
    )
    if placed:
        start = clock(f"select ${next_parameter}::bigint as start")
        next_parameter += 1
    parts = [_WEBHOOKS, start, events, insert_events("given")]
    answer = "select sequence from stored"
    if held:
        parts[2] = f"{events[:-2]} where place <> all(${next_parameter}::integer[])\n)"
        parts.append(HOLD.format(*range(next_parameter, next_parameter + 5)))
        next_parameter += 5
        answer = "select sequence from (select sequence from stored union all select sequence from held) stored"
    if statuses:
        new = "select place from received join fresh using (organization_id, key_hash)"
        is_new = f"(${next_parameter}::integer[])[place] in ({new})"
        parts.append(merge(next_parameter + 1, is_new, by_key=by_key))
        next_parameter += 1 + MERGED
    if quarantine:
        parts.append(_QUARANTINE.format(*range(next_parameter, next_parameter + 8)))
    if statuses:
        answer = f"""select sequence, null::uuid as config_id, null as value, null as outcome from ({answer}) stored
        union all select 0, best.config_id, best.value, 'applied' from merged join best using (id)
        union all select 0, config_id, value, 'orphan' from known where id is null"""
    return f"with {', '.join(parts)} {answer}"


class Stored(msgspec.Struct, frozen=True):
    """What became of one webhook: the sequences of its new events, and each status's value and what became of it.

    That is `applied`, `stale` where the message was further, or `orphan` where no message of ours is known by its id.
    """

    sequences: Sequence[int]
    statuses: Sequence[tuple[str, str]]


async def store(
    connection: asyncpg.Connection,
    rows: Sequence[WebhookRow],
    start: int = 0,
    *,
    remembered: bool = True,
) -> list[Stored]:
    """Store *rows* and what is new in them, in one statement (ingest, worker).

    Their events follow the sequence *start*; at 0, all that was stored before. Raises `ContactsOutdated` where their
    conversations are *remembered*, and one was merged into another.
    """
    seen: set[tuple[UUID, bytes]] = set()
    events: list[KeyedEvent] = []
    owners: list[int] = []  # of each event in `events`, the row it came in
    for index, row in enumerate(rows):
        for keyed in row.events:
            identity = (keyed.event.organization_id, keyed.key_hash)
            # Twice in one statement would insert the event for both of them.
            if identity not in seen:
                seen.add(identity)
                events.append(keyed)
                owners.append(index)
    event_rows = [keyed.event for keyed in events]
    statuses = [(place, keyed.status) for place, keyed in enumerate(events, 1) if keyed.status is not None]
    aside = [(row, item) for row in rows for item in row.quarantine]
    arrived = [row for row in rows if not row.is_kept]
    arguments: list[object] = [
        *_runs([(row.organization_id, row.config_id) for row in arrived], 2),
        [row.headers for row in arrived],
        [row.body for row in arrived],
        *_runs([(row.organization_id, row.config_id, row.type) for row in event_rows], 3),
        [keyed.key_hash for keyed in events],
        [keyed.day.kept for keyed in events],
        [row.conversation_id for row in event_rows],
        [row.data for row in event_rows],
        [row.raw for row in event_rows],
    ]
    if late := any(keyed.day.kept != keyed.day.own for keyed in events):
        arguments.append([keyed.day.own for keyed in events])
    if start:
        arguments.append(start)
    if waiting := [(place, keyed.waiting) for place, keyed in enumerate(events, 1) if keyed.waiting is not None]:
        arguments += [
            [place for place, _ in waiting],
            [each.account_id for _, each in waiting],
            [each.provider_message_id for _, each in waiting],
            [each.message_key for _, each in waiting],
            [f"{{{','.join(map(str, each.candidates))}}}" for _, each in waiting],
        ]
    by_key = False
    if statuses:
        by_key, columns = merged([status for _, status in statuses])
        arguments += [[place for place, _ in statuses], *columns]
    if aside:
        arguments += [
            [row.organization_id for row, _ in aside],
            [row.config_id for row, _ in aside],
            [row.headers for row, _ in aside],
            [item.id for _, item in aside],
            [item.reason for _, item in aside],
            [item.body for _, item in aside],
            [item.foreign_item for _, item in aside],
            [item.partly_taken for _, item in aside],
        ]
    sequences: list[list[int]] = [[] for _ in rows]
    outcomes: Counter[tuple[UUID, str, str]] = Counter()
    statement = _store(_Kinds(bool(statuses), by_key, bool(aside), bool(start), bool(waiting), late, remembered))
    for record in await _stored(connection, statement, arguments):
        if sequence := record[0]:
            sequences[owners[(sequence - start & 0xFFFF) - 1]].append(sequence)
        else:
            outcomes[record[1], record[2], record[3]] += 1
    statuses_of: list[list[tuple[str, str]]] = [[] for _ in rows]
    for keyed, owner in zip(events, owners, strict=True) if statuses else ():
        if (status := keyed.status) is not None:
            # Which of several alike in the batch was taken does not matter to who counts them.
            of_it = ((status.config_id, status.value, outcome) for outcome in ("applied", "orphan"))
            one = next((each for each in of_it if outcomes[each] > 0), (status.config_id, status.value, "stale"))
            outcomes[one] -= 1
            statuses_of[owner].append((status.value, one[2]))
    return [Stored(*each) for each in zip(sequences, statuses_of, strict=True)]


async def _stored(connection: asyncpg.Connection, statement: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
    try:
        return await connection.fetch(statement, *arguments)
    except asyncpg.PostgresError as error:
        if error.sqlstate == OUTDATED:
            raise ContactsOutdated from None
        raise


def _runs(values: Sequence[tuple[object, ...]], width: int) -> list[list[Any]]:
    """Runs of equal *values* as columns: the place of each one's first from 1 on, then the *width* parts of its value."""
    firsts = [place for place, value in enumerate(values, 1) if place == 1 or value != values[place - 2]]
    return [firsts, *([values[first - 1][part] for first in firsts] for part in range(width))]


# ------------------------------------------------------------------ quarantine


class QuarantinedItem(Unlogged, frozen=True):
    """Something that was put aside, without its body."""

    id: UUID
    config_id: UUID
    received_at: datetime
    reason: str
    size_bytes: int
    state: str


class QuarantinedBody(QuarantinedItem, frozen=True):
    """The same with what came in, as far as it was asked for. ``partly_taken``: the rest of it was stored then."""

    headers: bytes
    body: bytes
    partly_taken: bool


_ITEM = "id, config_id, received_at, reason, length(body) as size_bytes, state"
LIST, LIST_FOREIGN = (
    f"""
select {_ITEM} from quarantine
where organization_id = $1 and state = $2 and id > $3 and {condition} order by id limit $4"""
    for condition in ("not foreign_item", "foreign_item")
)


async def quarantined(
    connection: asyncpg.Connection, organization_id: UUID, state: str, after: UUID | None, limit: int, *, foreign: bool
) -> list[QuarantinedItem]:
    """What was put aside, oldest first (organization; worker where *foreign*)."""
    statement = LIST_FOREIGN if foreign else LIST
    rows = await connection.fetch(statement, organization_id, state, after or UUID(int=0), limit)
    return [QuarantinedItem(**row) for row in rows]


GET = f"""
select {_ITEM}, headers, substring(body for $4) as body, partly_taken
from quarantine where organization_id = $1 and id = $2 and foreign_item = $3"""


async def quarantine_item(
    connection: asyncpg.Connection,
    organization_id: UUID,
    quarantine_id: UUID,
    *,
    foreign: bool,
    most_bytes: int = 2**31 - 1,
) -> QuarantinedBody | None:
    """One thing that was put aside, and the first bytes of it (organization; worker where *foreign*)."""
    row = await connection.fetchrow(GET, organization_id, quarantine_id, foreign, most_bytes)
    return QuarantinedBody(**row) if row else None


CLOSE = """
update quarantine set state = $3
where organization_id = $1 and id = (select $2::uuid) and state = 'open' and foreign_item = $4 returning id"""


async def close_quarantined(
    connection: asyncpg.Connection, organization_id: UUID, quarantine_id: UUID, state: str, *, foreign: bool
) -> bool:
    """open -> *state*; False if it was not open (organization; worker where *foreign*)."""
    return await connection.fetchval(CLOSE, organization_id, quarantine_id, state, foreign) is not None


# Across organizations: a gauge, up to a bound. What belongs to somebody else waits for nobody: any tenant of an app can
# cause it.
COUNT_OPEN = """
select coalesce((
        select provider_type from whatsapp_provider_configs c
        where c.organization_id = open.organization_id and c.id = open.config_id
    ), 'other') as provider, reason, sum(items)::integer as items
from (
    select organization_id, config_id, reason, count(*) as items from (
        select * from quarantine where state = 'open' and not foreign_item limit 1000
    ) bounded group by 1, 2, 3
) open group by 1, 2"""


class OpenItems(NamedTuple):
    provider: str
    reason: str
    items: int


async def count_quarantined(connection: asyncpg.Connection) -> list[OpenItems]:
    """Open ones of all organizations by provider and reason, without what belongs to somebody else (worker)."""
    return [OpenItems(*row) for row in await connection.fetch(COUNT_OPEN)]


KEYS_KEPT = timedelta(days=30)
# A fact that claims to be of the future would pass for new when its key is let go: clocks are minutes apart at most.
MAX_AHEAD = timedelta(minutes=10)


def max_age(keys_kept: timedelta) -> timedelta:
    """A fact that is older when it is received may be a repetition whose key is let go. Providers repeat for a week."""
    return keys_kept - timedelta(days=1)
