"""Group commit: when it flushes, whom it refuses, and that one bad row is its own problem."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from asyncpg.exceptions._base import DataError as Unwritable

from ingress import identifiers
from ingress.settings import Settings
from ingress.storage import group_commit
from ingress.storage.database import CONNECTION_ERRORS, Database, StoreUnavailable, store_errors
from ingress.storage.group_commit import (
    MAX_BATCH_ROWS,
    MAX_PENDING_BYTES,
    MAX_PENDING_ROWS,
    GroupCommit,
    Overloaded,
    RowRefused,
    Unconfirmed,
)
from ingress.storage.statements.events import EventRow
from ingress.storage.statements.receiving.inbound import KeyedEvent, QuarantineRow, Stored, WebhookRow, store

SHARE = int(MAX_PENDING_ROWS * group_commit.ORGANIZATION_SHARE)


class Connection:
    """What the database lends."""

    terminated = False


class Store:
    """A database that keeps what is written, and a write function that waits, refuses or breaks as it should."""

    def __init__(self) -> None:
        self.neighbours = 0
        self.connections: list[Connection] = []
        self.batches: list[list[Any]] = []
        self.kept: list[Any] = []
        self.bad: set[Any] = set()
        self.refusal: Exception = asyncpg.exceptions.InvalidTextRepresentationError(
            "invalid input syntax for type json"
        )
        self.connect_errors: list[BaseException] = []
        self.write_errors: list[BaseException] = []
        self.lost: list[Any] = []  # what the connection is lost over
        self.open = asyncio.Event()
        self.open.set()
        self.writing = asyncio.Event()

    @asynccontextmanager
    async def connection(self, use: str) -> AsyncIterator[Connection]:
        assert use == "ingest"
        with store_errors(use):
            if self.connect_errors:
                raise self.connect_errors.pop(0)
            if not self.connections or self.connections[-1].terminated:
                self.connections.append(Connection())
            try:
                yield self.connections[-1]
            except CONNECTION_ERRORS:
                self.connections[-1].terminated = True
                raise

    async def write(self, connection: Any, rows: Sequence[Any]) -> list[str]:
        assert connection is self.connections[-1]
        self.batches.append(list(rows))
        self.writing.set()
        await self.open.wait()
        if self.write_errors:
            raise self.write_errors.pop(0)
        if rows == self.lost:
            raise ConnectionResetError
        if self.bad & set(rows):
            raise self.refusal
        self.kept += rows
        return [f"stored {row}" for row in rows]


@pytest.fixture
def stored() -> Store:
    return Store()


@pytest.fixture
async def commit(stored: Store) -> AsyncIterator[GroupCommit[Any, str]]:
    async with GroupCommit("ingest", stored, stored.write) as running:  # type: ignore[arg-type]
        yield running
        stored.open.set()


async def held(stored: Store, commit: GroupCommit[Any, str]) -> "asyncio.Future[str]":
    """A write that does not end before `stored.open` is set: all that is submitted now has to wait."""
    stored.open.clear()
    stored.writing.clear()
    first = commit.submit("first", organization="somebody")
    await asyncio.wait_for(stored.writing.wait(), 10)
    return first


async def test_a_quiet_queue_is_flushed_at_once(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """No timer: a row that is alone is written alone, and the next one too."""
    for row in ("a", "b", "c"):
        assert await asyncio.wait_for(commit.submit(row, organization=1), 10) == f"stored {row}"
    assert stored.batches == [["a"], ["b"], ["c"]]
    assert len(stored.connections) == 1
    assert (commit.pending_rows, commit.pending_bytes, commit.oldest_s) == (0, 0, 0.0)


async def test_rows_that_come_during_a_flush_share_the_next(stored: Store, commit: GroupCommit[Any, str]) -> None:
    first = await held(stored, commit)
    futures = [commit.submit(row, organization=1, size_bytes=10) for row in range(50)]
    assert (commit.pending_rows, commit.pending_bytes) == (51, 500)
    assert commit.oldest_s > 0
    stored.open.set()
    assert await asyncio.gather(first, *futures) == ["stored first", *[f"stored {row}" for row in range(50)]]
    assert [len(batch) for batch in stored.batches] == [1, 50]


async def test_one_of_several_processes_lets_rows_gather(
    stored: Store, commit: GroupCommit[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a flush, for as long as it took: the others have the rows that would have come meanwhile."""
    monkeypatch.setattr(group_commit, "MOST_GATHER_S", 0.2)
    stored.neighbours = 1_000_000
    await commit.submit("first", organization=1)
    rows = []
    for row in ("second", "third"):
        rows.append(commit.submit(row, organization=1))
        for _ in range(20):  # in which it would have been written
            await asyncio.sleep(0)
    await asyncio.gather(*rows)
    assert stored.batches == [["first"], ["second", "third"]]


async def test_a_batch_has_a_limit_of_rows_and_of_bytes(
    stored: Store, commit: GroupCommit[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await held(stored, commit)
    futures = [commit.submit(row, organization=1) for row in range(MAX_BATCH_ROWS + 1)]
    stored.open.set()
    await asyncio.gather(*futures)
    assert [len(batch) for batch in stored.batches] == [1, MAX_BATCH_ROWS, 1]

    stored.batches.clear()
    monkeypatch.setattr(group_commit, "MAX_BATCH_BYTES", 100)
    await held(stored, commit)
    futures = [commit.submit(row, organization=1, size_bytes=60) for row in range(4)]
    stored.open.set()
    await asyncio.gather(*futures)
    assert [len(batch) for batch in stored.batches] == [1, 2, 2]


@pytest.mark.parametrize(
    "refusal",
    [
        asyncpg.exceptions.InvalidTextRepresentationError("invalid input syntax for type json"),
        asyncpg.exceptions.UniqueViolationError("duplicate key"),
        Unwritable("invalid input for query argument $1"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_refused_row_fails_alone(stored: Store, commit: GroupCommit[Any, str], refusal: Exception) -> None:
    """Refused by the server, or by the client that could not write it down."""
    stored.refusal = refusal
    await held(stored, commit)
    stored.bad = {3, 17}
    futures = [commit.submit(row, organization=1) for row in range(20)]
    stored.open.set()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert {row for row, result in enumerate(results) if isinstance(result, RowRefused)} == {3, 17}
    assert [result for row, result in enumerate(results) if row not in (3, 17)] == [
        f"stored {row}" for row in range(20) if row not in (3, 17)
    ]
    # Each of the others once, in their order, over the connection that was there.
    assert stored.kept == ["first", *[row for row in range(20) if row not in (3, 17)]]
    assert len(stored.connections) == 1
    assert (commit.pending_rows, commit.pending_bytes) == (0, 0)
    assert await commit.submit("after", organization=1) == "stored after"


async def test_a_refused_row_that_is_alone(stored: Store, commit: GroupCommit[Any, str]) -> None:
    stored.bad = {"bad"}
    with pytest.raises(RowRefused):
        await commit.submit("bad", organization=1)
    assert stored.batches == [["bad"]]
    assert await commit.submit("good", organization=1) == "stored good"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"),
        asyncpg.InternalClientError("got result for unknown protocol state 3"),
        asyncpg.exceptions.AdminShutdownError("terminating connection"),
        asyncpg.exceptions.QueryCanceledError("canceling statement"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_lost_connection_fails_the_batch_and_the_next_one_has_another(
    stored: Store, commit: GroupCommit[Any, str], error: Exception
) -> None:
    """Whether the rows were committed nobody knows: the callers hear it, nothing is written again for them."""
    first = await held(stored, commit)
    stored.write_errors = [error]
    waiting = commit.submit("second", organization=1)
    stored.open.set()
    with pytest.raises(Unconfirmed):
        await first
    assert await asyncio.wait_for(waiting, 10) == "stored second"
    assert [connection.terminated for connection in stored.connections] == [True, False]
    assert stored.batches == [["first"], ["second"]]


async def test_behind_a_write_that_stalled_nobody_waits_as_long_again(
    stored: Store, commit: GroupCommit[Any, str]
) -> None:
    first = await held(stored, commit)
    stored.write_errors = [TimeoutError()]
    waiting = commit.submit("second", organization=1)
    stored.open.set()
    for refused in (first, waiting):
        with pytest.raises(StoreUnavailable):
            await refused
    assert commit.pending_rows == 0
    assert await asyncio.wait_for(commit.submit("third", organization=1), 10) == "stored third"


async def test_a_server_that_is_away_is_told_to_all_who_wait(stored: Store, commit: GroupCommit[Any, str]) -> None:
    stored.connect_errors = [ConnectionRefusedError(), TimeoutError(), asyncpg.CannotConnectNowError("starting up")]
    for row in range(3):
        with pytest.raises(StoreUnavailable) as refused:
            await asyncio.wait_for(commit.submit(row, organization=1), 10)
        assert not isinstance(refused.value, Unconfirmed)  # it was never given them
    assert stored.batches == []
    assert commit.pending_rows == 0
    assert await commit.submit("back", organization=1) == "stored back"


async def test_a_write_that_hangs_is_given_up(
    stored: Store, commit: GroupCommit[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "WRITE_TIMEOUT_S", 0.05)
    stored.open.clear()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(commit.submit("stuck", organization=1), 10)
    stored.open.set()
    assert await asyncio.wait_for(commit.submit("next", organization=1), 10) == "stored next"
    assert stored.connections[0].terminated


class Replies:
    """Keeps all that it is called with."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def __call__(self, result: Any) -> None:
        self.all.append(type(result) if isinstance(result, Exception) else result)


async def test_a_connection_lost_while_rows_go_one_by_one(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """What was written before the loss is answered as written, the rest as unknown, the refused one as refused."""
    await held(stored, commit)
    stored.bad = {1}
    replies = [Replies() for _ in range(4)]
    for row, reply in enumerate(replies):
        commit.enqueue(row, reply, organization=1)
    futures = [commit.submit(row, organization=1) for row in range(4, 6)]
    stored.lost = [2]
    stored.open.set()
    assert [type(result) for result in await asyncio.gather(*futures, return_exceptions=True)] == [Unconfirmed] * 2
    assert [reply.all for reply in replies] == [["stored 0"], [RowRefused], [Unconfirmed], [Unconfirmed]]
    assert await commit.submit("after", organization=1) == "stored after"


async def test_a_refused_row_that_comes_again_is_answered_once_more_and_no_more(
    stored: Store, commit: GroupCommit[Any, str]
) -> None:
    """What becomes of the batch that refused it is nothing to it: it is in the queue in another form."""

    class Again(Replies):
        def __call__(self, result: Any) -> None:
            super().__call__(result)
            if isinstance(result, RowRefused):
                commit.enqueue("in another form", self, organization=1)

    await held(stored, commit)
    stored.bad = {0}
    stored.lost = [1]
    again = Again()
    commit.enqueue(0, again, organization=1)
    lost = commit.submit(1, organization=1)
    stored.open.set()
    with pytest.raises(StoreUnavailable):
        await lost
    assert await commit.submit("after", organization=1) == "stored after"
    assert again.all == [RowRefused, "stored in another form"]
    assert (commit.pending_rows, commit.pending_bytes) == (0, 0)


@pytest.mark.parametrize("lost", [False, True], ids=["stored", "lost"])
async def test_a_reply_that_fails_is_nobody_elses_trouble(
    stored: Store, commit: GroupCommit[Any, str], lost: bool
) -> None:
    def broken(result: Any) -> None:
        raise asyncio.InvalidStateError

    first = await held(stored, commit)
    reply = Replies()
    commit.enqueue(0, broken, organization=1)
    commit.enqueue(1, reply, organization=1)
    stored.lost = [0, 1] if lost else []
    stored.open.set()
    assert await first == "stored first"
    for row in ("after", "and again"):
        assert await asyncio.wait_for(commit.submit(row, organization=1), 10) == f"stored {row}"
    assert reply.all == [Unconfirmed if lost else "stored 1"]


async def test_a_mistake_of_ours_does_not_end_the_flusher(stored: Store, commit: GroupCommit[Any, str]) -> None:
    stored.write_errors = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        await commit.submit("x", organization=1)
    assert await commit.submit("y", organization=1) == "stored y"


# ---------------------------------------------------------------- who is refused


async def test_too_many_rows(stored: Store, commit: GroupCommit[Any, str]) -> None:
    await held(stored, commit)
    futures = [commit.submit(row, organization=row) for row in range(MAX_PENDING_ROWS - 1)]
    with pytest.raises(Overloaded):
        commit.submit("one more", organization="x")
    stored.open.set()
    await asyncio.gather(*futures)
    assert await commit.submit("later", organization="x") == "stored later"


async def test_too_many_bytes(stored: Store, commit: GroupCommit[Any, str]) -> None:
    await held(stored, commit)
    futures = [commit.submit(part, organization=part, size_bytes=MAX_PENDING_BYTES // 4) for part in range(4)]
    with pytest.raises(Overloaded):
        commit.submit("one byte more", organization="x", size_bytes=1)
    stored.open.set()
    await asyncio.gather(*futures)


async def test_rows_that_wait_too_long(
    stored: Store, commit: GroupCommit[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = group_commit.monotonic()
    monkeypatch.setattr(group_commit, "monotonic", lambda: now)
    await held(stored, commit)
    waiting = commit.submit("waits", organization=1)
    now += group_commit.MAX_WAIT_S
    also = commit.submit("in time", organization=2)
    now += 0.001
    with pytest.raises(Overloaded):
        commit.submit("too late", organization=3)
    stored.open.set()
    await asyncio.gather(waiting, also)


async def test_one_organization_fills_its_share_and_no_more(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """A flood sheds itself: the others are admitted, and so is the flood again once it is written."""
    await held(stored, commit)
    futures = [commit.submit(row, organization="flood") for row in range(SHARE)]
    with pytest.raises(Overloaded):
        commit.submit("flood", organization="flood")
    quiet = [commit.submit(f"quiet {row}", organization="quiet") for row in range(100)]
    stored.open.set()
    await asyncio.gather(*futures, *quiet)
    assert await commit.submit("flood again", organization="flood") == "stored flood again"


async def test_an_organizations_share_is_of_bytes_too(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """Few large rows fill it as many small ones do, and leave room for the others'."""
    await held(stored, commit)
    quarter = int(MAX_PENDING_BYTES * group_commit.ORGANIZATION_SHARE)
    futures = [commit.submit(row, organization="flood", size_bytes=quarter // 4) for row in range(4)]
    with pytest.raises(Overloaded):
        commit.submit("flood", organization="flood", size_bytes=1)
    futures += [commit.submit("quiet", organization="quiet", size_bytes=quarter)]
    stored.open.set()
    await asyncio.gather(*futures)
    assert await commit.submit("flood again", organization="flood", size_bytes=1) == "stored flood again"


async def test_organizations_take_turns(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """Who has one row waits for one of each of the others', not for all that they have queued; each keeps its order."""
    await held(stored, commit)
    futures = [commit.submit(f"flood {row}", organization="flood") for row in range(200)]
    futures += [commit.submit(f"{name} {row}", organization=name) for name in "ab" for row in range(2)]
    stored.open.set()
    await asyncio.gather(*futures)
    assert stored.batches[1][:6] == ["flood 0", "a 0", "b 0", "flood 1", "a 1", "b 1"]
    assert [row for row in stored.kept if row.startswith("flood")] == [f"flood {row}" for row in range(200)]


async def test_what_was_too_much_for_one_write_goes_first_in_the_next(stored: Store) -> None:
    """The writer says how far it came. Who comes meanwhile has the next turn all the same."""
    futures: list[asyncio.Future[str]] = []

    async def two(connection: Any, rows: Sequence[Any]) -> list[str]:
        written = await stored.write(connection, rows[:2])
        if rows[0] == "flood 0":
            futures.append(commit.submit("quiet", organization="quiet"))
        return written

    async with GroupCommit[Any, str]("ingest", stored, two) as commit:  # type: ignore[arg-type]
        await held(stored, commit)
        futures += [commit.submit(f"flood {row}", organization="flood", size_bytes=1) for row in range(5)]
        stored.open.set()
        await asyncio.wait_for(futures[4], 10)
        await asyncio.gather(*futures)
        assert stored.kept == ["first", "flood 0", "flood 1", "flood 2", "quiet", "flood 3", "flood 4"]
        assert (commit.pending_rows, commit.pending_bytes, commit.oldest_s) == (0, 0, 0.0)


async def test_an_idle_queue_is_not_taken_for_one_that_stalls(
    stored: Store, commit: GroupCommit[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows after a long silence: the second is not refused for it."""
    now = group_commit.monotonic() - 120  # so that all of it is past when the queue ends, by the real clock
    monkeypatch.setattr(group_commit, "monotonic", lambda: now)
    assert await commit.submit("before", organization=1) == "stored before"
    now += 60
    assert await asyncio.gather(*[commit.submit(row, organization=1) for row in (1, 2)]) == ["stored 1", "stored 2"]


async def test_heavy_rows_share_no_batch(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """A batch ends with the row that makes its weight full: a statement has places for so many events only."""
    await held(stored, commit)
    weights = (1, MAX_BATCH_ROWS // 2, MAX_BATCH_ROWS // 2, 1, 300, 1)
    futures = [commit.submit(row, organization=row, weight=weight) for row, weight in enumerate(weights)]
    stored.open.set()
    await asyncio.gather(*futures)
    assert stored.batches == [["first"], [0, 1, 2], [3, 4], [5]]


async def test_the_weight_of_a_row_counts(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """A webhook of 1,000 events is taken though it exceeds the share by itself, but only as the first of its own."""
    await held(stored, commit)
    large = commit.submit("large", organization="o", weight=1000)
    assert commit.pending_rows == 1001
    with pytest.raises(Overloaded):
        commit.submit("small", organization="o")
    other = commit.submit("other", organization="p", weight=1)
    with pytest.raises(Overloaded):
        commit.submit("second large", organization="q", weight=1000)
    stored.open.set()
    await asyncio.gather(large, other)
    assert commit.pending_rows == 0


# ---------------------------------------------------------------- leaving


async def test_leaving_writes_what_waits(stored: Store) -> None:
    async with GroupCommit("ingest", stored, stored.write) as commit:  # type: ignore[arg-type]
        first = await held(stored, commit)
        futures = [commit.submit(row, organization=1) for row in range(MAX_BATCH_ROWS * 2)]
        leaving = asyncio.create_task(commit.__aexit__())
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            commit.submit("too late", organization=2)
        stored.open.set()
        await asyncio.wait_for(leaving, 10)
        assert all(future.done() for future in (first, *futures))
        assert stored.kept == ["first", *range(MAX_BATCH_ROWS * 2)]


async def test_leaving_ends_where_the_server_is_away(stored: Store) -> None:
    async with GroupCommit("ingest", stored, stored.write) as commit:  # type: ignore[arg-type]
        stored.connect_errors = [ConnectionRefusedError()]
        future = commit.submit(1, organization=1)
        await asyncio.wait_for(commit.__aexit__(), 10)
        with pytest.raises(StoreUnavailable):
            await future


async def test_who_gives_up_waiting_changes_nothing(stored: Store, commit: GroupCommit[Any, str]) -> None:
    """A client that hangs up cancels its own waiting; the statement goes on, for it and for its neighbours."""
    await held(stored, commit)

    async def wait(row: str) -> str:
        return await commit.submit(row, organization=1)

    waiters = {row: asyncio.create_task(wait(row)) for row in ("leaves", "stays", "leaves too")}
    await asyncio.sleep(0)
    waiters["leaves"].cancel()
    stored.open.set()
    assert await asyncio.wait_for(waiters["stays"], 10) == "stored stays"
    await asyncio.wait_for(waiters["leaves too"], 10)
    assert waiters["leaves"].cancelled()
    assert stored.kept == ["first", "leaves", "stays", "leaves too"]
    assert not stored.connections[0].terminated
    assert commit.pending_rows == 0


async def test_every_result_reaches_its_own_row(
    stored: Store, commit: GroupCommit[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of waiters, a third cancelled at random: no one ever gets another one's result."""
    monkeypatch.setattr(group_commit, "MAX_WAIT_S", 60.0)  # nobody is turned away on a busy machine
    dice = random.Random(5)
    mixed = 0

    async def one(row: int) -> None:
        nonlocal mixed
        if await commit.submit(row, organization=row % 50) != f"stored {row}":
            mixed += 1

    for wave in range(10):
        tasks = [asyncio.create_task(one(wave * 1000 + row)) for row in range(500)]
        await asyncio.sleep(0)
        for task in tasks:
            if dice.random() < 0.33:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert mixed == 0
    assert len(stored.kept) == 5000


# ---------------------------------------------------------------- the real store


def _webhook(organization: UUID, config: UUID, mark: str, *, poisoned: bool) -> WebhookRow:
    """A webhook with one event, whose data the json column refuses where it is *poisoned*."""
    data = b'{"cut off' if poisoned else b'{"config_id":"x"}'
    event = EventRow(organization, "message.received", config, identifiers.new_id(), data)
    keyed = KeyedEvent(identifiers.key_hash(mark, config), event, None)
    aside = [QuarantineRow(identifiers.new_id(), "malformed", mark.encode())]
    return WebhookRow(organization, config, b"{}", mark.encode(), [keyed], aside)


async def test_one_percent_of_poisoned_rows_through_the_real_store(settings: Settings) -> None:
    """PostgreSQL refuses them; all others are stored once, each with its event and its quarantined body."""
    organization, config = identifiers.new_id(), identifiers.new_id()
    poisoned = range(42, 1000, 100)  # and then a hundred that are stored together
    rows = [_webhook(organization, config, f"webhook {n}", poisoned=n in poisoned) for n in range(1100)]
    good = {row.body for n, row in enumerate(rows) if n not in poisoned}
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute("insert into organizations (id, name) values ($1, 'Poisoned')", organization)
        async with (
            Database(settings.database_url) as database,
            GroupCommit[WebhookRow, Stored]("ingest", database, store) as commit,
        ):
            written: dict[int, UUID] = {}
            for wave in (rows[:450], rows[450:900], rows[900:1000], rows[1000:]):  # 500 of one organization may wait
                outcomes = await asyncio.gather(
                    *[commit.submit(row, organization=organization) for row in wave], return_exceptions=True
                )
                for row, outcome in zip(wave, outcomes, strict=True):
                    if row.body in good:
                        [sequence] = outcome.sequences
                        written[sequence] = row.events[0].event.conversation_id
                        assert outcome.statuses == []
                    else:
                        assert isinstance(outcome, RowRefused), row.body
            again = _webhook(organization, config, "webhook 0", poisoned=False)
            assert await commit.submit(again, organization=organization) == Stored([], [])
        for table in ("inbound_webhooks", "quarantine"):
            bodies = await connection.fetch(f"select body from {table} where organization_id = $1", organization)
            assert {row["body"] for row in bodies} == good
        events = await connection.fetch(
            "select sequence, conversation_id from events where organization_id = $1", organization
        )
        assert {event["sequence"]: event["conversation_id"] for event in events} == written
        keys = await connection.fetchval("select count(*) from inbound_dedup where organization_id = $1", organization)
        assert (len(events), keys) == (1090, 1090)
    finally:
        await connection.close()
