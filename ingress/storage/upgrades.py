"""Migrations: how the schema of a former release becomes this one's, in steps that can be broken off and begun again.

A file of migrations/ is `NNNN_pre_what.sql` or `NNNN_post_what.sql`, where NNNN is the schema it leads to. What is
`pre` is safe while the former release serves, `post` when that is gone for good. A comment begins each of its steps:

    -- step of TABLE, TABLE: what it does   one transaction, with the note of how far the migration is
    -- long of TABLE: what it does          the same, where it may take long: readers of events do not wait for it
    -- alone of TABLE: what it does         statements outside of a transaction, which may be begun again
    -- batches of TABLE: what it does       one statement of the service's, again and again: $1 is the text that it last
                                            returned, beside how many rows it had; at the end it returns none

The tables (`of` may be missing) are locked against vacuum first, which gives way, and never against those who read and
write: a lock that does wait for them is given up after LOCK_TIMEOUT, and asked for again later.
"""

import contextlib
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from enum import Enum
from operator import not_
from pathlib import Path
from typing import NamedTuple

import asyncpg
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
    wait_random_exponential,
)

from .connections import WORKER
from .database import SCHEMA_VERSION, SchemaError
from .statements import upgrades
from .statements.upgrades import Applied

logger = logging.getLogger("ingress.storage.upgrades")

# Any number, the same in every process: who holds it may change the schema.
_SCHEMA_LOCK = 0x77_68_61_74
LOCK_POLL_S = 0.2
# Others queue behind who waits for a lock: a webhook waits no longer than this for us.
LOCK_TIMEOUT = "50ms"
# A vacuum gives way to who waits for longer than `deadlock_timeout`, a second. Nobody else queues behind this one.
VACUUM_TIMEOUT = "20s"
RETRY_FOR_S = 600.0
REPORT_EVERY_S = 5.0

_FILE = re.compile(r"(\d{4})_(pre|post)_\w+")
_STEP = re.compile(r"^-- (step|long|alone|batches)(?: of ([\w, ]+))?: (.+)$", re.M)


class Post(Enum):
    """Whether migrations are applied that the former release cannot serve with."""

    NEVER = "never"
    WHEN_ALONE = "when_alone"  # if no process of it is connected
    REQUIRED = "required"  # refused if one is


class MigrationStep(NamedTuple):
    """A part of a migration. ``kind``: step, long, alone or batches."""

    kind: str
    tables: tuple[str, ...]
    title: str
    sql: str


class Migration(NamedTuple):
    """A file of migrations/. ``schema``: which one it leads to."""

    name: str
    schema: int
    is_post: bool
    steps: tuple[MigrationStep, ...]


class MigrationProgress(NamedTuple):
    """Where a migration is. ``percent``: of a step in batches. ``seconds``: of a step that is done."""

    migration: str
    number: int
    steps: int
    title: str
    percent: int | None = None
    seconds: float | None = None


Report = Callable[[MigrationProgress], None]


def log_progress(now: MigrationProgress) -> None:
    """For who follows a process by its log."""
    logger.info(
        "migration %s, step %d of %d (%s)%s%s",
        *(now.migration, now.number, now.steps, now.title),
        "" if now.percent is None else f": {now.percent} %",
        "" if now.seconds is None else f": done in {now.seconds:.1f} s",
    )


def folder() -> Path:
    """Of schema.sql and migrations/: beside the packages in a checkout, in share/ of an installation."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "schema.sql").exists() else Path(sys.prefix) / "share" / "whatsapp-ingress"


def migrations() -> list[Migration]:
    """All that lead to this release's schema, in their order."""
    found = [_read(path) for path in (folder() / "migrations").glob("*.sql")]
    return sorted(found, key=lambda migration: (migration.schema, migration.is_post))


def _read(path: Path) -> Migration:
    match = _FILE.fullmatch(path.stem)
    if match is None:
        raise ValueError(f"{path}: a migration is called NNNN_pre_what.sql or NNNN_post_what.sql")
    return Migration(path.stem, int(match[1]), match[2] == "post", tuple(_steps(path.read_text("utf-8"))))


def _steps(text: str) -> Iterator[MigrationStep]:
    _, *parts = _STEP.split(text)
    for kind, tables, title, sql in zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True):
        yield MigrationStep(kind, tuple(re.findall(r"\w+", tables or "")), title, sql)


async def take_schema_lock(connection: asyncpg.Connection) -> None:
    """Alone in changing the schema, until *connection* ends: who has it may be killed, and lets go by that."""
    retrying = AsyncRetrying(retry=retry_if_result(not_), wait=wait_fixed(LOCK_POLL_S), before_sleep=_log_waiting)
    await retrying(upgrades.lock, connection, _SCHEMA_LOCK)


def _log_waiting(state: RetryCallState) -> None:
    if state.attempt_number == 1:
        logger.info("another process changes the schema: waiting for it")


async def upgrade(connection: asyncpg.Connection, url: str, post: Post, report: Report = log_progress) -> None:
    """Apply what is missing, by who has the schema lock, where there is a schema. *url*: of another connection.

    What comes after a `post` that may not be applied waits with it. Raises `SchemaError` where *post* is REQUIRED and
    processes of the former release are connected, and where a lock is not to be had.
    """
    missing = await unapplied(connection)
    if missing:
        await upgrades.set_timeouts(connection)
        await upgrades.become_owner(connection)
    for migration in missing:
        begun = (await upgrades.applied(connection)).get(migration.name)
        # What is begun is ended: the former release is shut out by its first step.
        if migration.is_post and begun is None and not await _may_leave_behind(connection, migration, post):
            break
        await _apply(connection, url, migration, begun.step if begun else 0, report)
    await upgrades.become(connection, "none")


async def unapplied(connection: asyncpg.Connection) -> list[Migration]:
    """What is missing in the database, if it is one of a release that migrations/ leads on from, or of this one."""
    known = migrations()
    if not known or not await upgrades.has_schema(connection):
        return []
    version, done = await upgrades.version(connection), await upgrades.applied(connection)
    if version < known[0].schema - 1:
        return []
    return [migration for migration in known if _is_missing(migration, version, done.get(migration.name))]


def _is_missing(migration: Migration, version: int, begun: Applied | None) -> bool:
    return migration.schema > version if begun is None else begun.applied_at is None


async def state(connection: asyncpg.Connection) -> tuple[dict[str, datetime], list[str], dict[str, int]]:
    """When each migration was applied, which were not, and the older releases that are connected."""
    times = [(each.applied_at, name) for name, each in (await upgrades.applied(connection)).items() if each.applied_at]
    applied = {name: at for at, name in sorted(times)}
    missing = [migration.name for migration in await unapplied(connection)]
    return applied, missing, await upgrades.older_processes(connection, SCHEMA_VERSION)


async def record_all(connection: asyncpg.Connection) -> None:
    """A new database has it all from schema.sql."""
    for migration in migrations():
        await upgrades.note(connection, Applied(migration.name, None), is_done=True)


async def _may_leave_behind(connection: asyncpg.Connection, migration: Migration, post: Post) -> bool:
    """Whether *migration* may be applied, as no process of a release before its schema is connected."""
    if post is Post.NEVER:
        return False
    if not (older := await upgrades.older_processes(connection, migration.schema)):
        return True
    who = ", ".join(f"{release} ({number} connections)" for release, number in older.items())
    what = f"{migration.name} waits until no process of an older release is connected; now there are those of {who}"
    if post is Post.REQUIRED:
        raise SchemaError(f"{what}. Stop them, then run `ingress migrate --post` again")
    logger.warning("%s", what)
    return False


async def _apply(connection: asyncpg.Connection, url: str, migration: Migration, done: int, report: Report) -> None:
    """Make the steps after the first *done* ones."""
    for number, step in enumerate(migration.steps[done:], done + 1):
        now = MigrationProgress(migration.name, number, len(migration.steps), step.title)
        report(now)
        since = time.monotonic()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)),
            wait=wait_random_exponential(0.1, max=2),
            stop=stop_after_delay(RETRY_FOR_S),
            reraise=True,
        )
        try:
            if step.kind == "alone":
                await retrying(_alone, connection, step, now)
            elif step.kind == "batches":
                await retrying(_batches, connection, step, now, report)
            else:
                await retrying(_transaction, connection, step, now, url if step.kind == "long" else None)
        except asyncpg.LockNotAvailableError:
            raise SchemaError(
                f"{migration.name} stopped before step {number} ({step.title}): others had locks on"
                f" {', '.join(step.tables)} for {RETRY_FOR_S:.0f} s. Look in pg_stat_activity for a transaction that"
                " began long ago, then run `ingress migrate` again: it goes on with this step"
            ) from None
        report(now._replace(seconds=time.monotonic() - since))


async def _transaction(
    connection: asyncpg.Connection, step: MigrationStep, now: MigrationProgress, url: str | None
) -> None:
    """With *url*, nobody who reads events waits for its end."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(connection.transaction())
        await upgrades.keep_vacuum_out(connection, step.tables, VACUUM_TIMEOUT)
        await upgrades.limit_wait(connection, LOCK_TIMEOUT)
        if url is not None:
            await stack.enter_async_context(_passed_over(url, await upgrades.number(connection)))
        await connection.execute(step.sql)
        await _note(connection, now)


@contextlib.asynccontextmanager
async def _passed_over(url: str, transaction: str) -> AsyncIterator[None]:
    """Who is killed here leaves the number of a transaction that has ended, which means nothing."""
    other = await asyncpg.connect(url, server_settings={"role": WORKER})
    try:
        await upgrades.pass_over(other, transaction)
        yield
        await upgrades.pass_over(other, None)
    finally:
        await other.close()


async def _alone(connection: asyncpg.Connection, step: MigrationStep, now: MigrationProgress) -> None:
    for statement in re.sub(r"--.*", "", step.sql).split(";"):
        if statement.strip():
            await connection.execute(statement)
    await _note(connection, now)


async def _batches(connection: asyncpg.Connection, step: MigrationStep, now: MigrationProgress, report: Report) -> None:
    """Each batch in a transaction with where the next one begins."""
    begun = (await upgrades.applied(connection)).get(now.migration)
    cursor, rows = (begun.cursor, begun.rows) if begun else (None, 0)
    expected = sum([await upgrades.estimate_rows(connection, table) for table in step.tables])
    percent = -1
    while True:
        async with connection.transaction():
            owner = await upgrades.become(connection, WORKER)  # who owns the tables sees no row
            batch = await connection.fetchrow(step.sql, *[cursor] * ("$1" in step.sql))
            await upgrades.become(connection, owner)
            if batch is None:
                return await _note(connection, now)
            cursor, rows = batch[0], rows + batch[1]
            await upgrades.note(connection, Applied(now.migration, None, now.number - 1, cursor, rows), is_done=False)
        if (reached := min(99, rows * 100 // max(1, expected))) > percent:
            percent = reached
            report(now._replace(percent=percent))


async def _note(connection: asyncpg.Connection, now: MigrationProgress) -> None:
    """That this step is done."""
    is_done = now.number == now.steps
    await upgrades.note(connection, Applied(now.migration, None, now.number), is_done=is_done)
